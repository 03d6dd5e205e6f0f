"""What glibc's heap is told shows in the pages that a process gets anew, and in those that it gives back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the heap of glibc alone is told anything")

PROGRAM = """
import resource, sys
import numpy as np
from mlxtune.backends import heap

if sys.argv[1] != "as it comes":
    getattr(heap, sys.argv[1])()

def resident_mb():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024

def step():
    return [np.ones(int(float(sys.argv[2]) * 2**20 / 8)) for _ in range(12)]  # freed together when the next one is made

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, resident_mb())
"""


def faults_and_mb(told: str, array_mb: float) -> tuple[int, float]:
    """Pages that steps got from the kernel after the first one, and the process's memory after the last."""
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, told, str(array_mb)], check=True, capture_output=True, text=True
    )
    faults, resident = found.stdout.split()
    return int(faults), float(resident)


def test_freed_memory_is_kept_for_later_arrays() -> None:
    assert faults_and_mb("as it comes", 16)[0] > 10_000  # 5 steps of 12 arrays of 4,096 pages
    assert faults_and_mb("keep_freed", 16)[0] < 1_000


def test_freed_memory_goes_back_at_once() -> None:
    _, kept = faults_and_mb("keep_freed", 16)
    _, given_back = faults_and_mb("free_at_once", 16)
    assert kept - given_back > 150  # of 192 MB
