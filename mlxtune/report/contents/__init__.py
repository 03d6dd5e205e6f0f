"""A run's files as values."""
