"""Claims about mlxtune. Each of several processes that share the tests computes with one thread."""

from __future__ import annotations

import os

# Read by OpenBLAS (MLX's and NumPy's) and PyTorch when they are loaded. With a thread for each core in each process, OpenBLAS's
# threads spin while another process holds the core that they wait for, and two processes are no faster than one.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
