"""The PyTorch backend. All torch, transformers-model and peft imports live in this folder; none happens by importing this file."""

from __future__ import annotations

import os

# Before torch loads OpenMP: a thread that waits sleeps, as it does in every other program of a laptop. By default it spins, and
# with other programs busy a training step took four times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
