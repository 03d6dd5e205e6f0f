"""The training loop, its schedule, checkpoints, validation and plan."""
