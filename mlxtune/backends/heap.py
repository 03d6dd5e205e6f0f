"""What glibc's heap does with the memory of freed arrays, for libraries that allocate every array anew. Nothing elsewhere."""

from __future__ import annotations

import ctypes
import platform

MMAP_THRESHOLD = -3  # of mallopt: a larger block has pages of its own, which go back to the kernel when it is freed
TRIM_THRESHOLD = -1  # of mallopt: free memory beyond this at the end of the heap goes back to the kernel
OWN_PAGES_BYTES = 1 << 20
LARGEST_THRESHOLD = 32 << 20  # that glibc takes
NEVER = -1


def free_at_once() -> None:
    """Give the memory of arrays of 1 MiB or more back when they are freed, for weights that are gathered and let go of many times.

    The heap does not find freed aligned memory again: gathered blocks of 135M parameters left gaps of 2 GB in it.
    """
    _set({MMAP_THRESHOLD: OWN_PAGES_BYTES})


def keep_freed() -> None:
    """Keep the memory of freed arrays of up to 32 MiB for later ones, where a step frees and allocates the same sizes again and again.

    Otherwise the kernel has to clear it each time, an eighth of the CPU time of a step of `tools/bench/delta_net.py`. The process keeps its
    largest size until it ends.
    """
    _set({MMAP_THRESHOLD: LARGEST_THRESHOLD, TRIM_THRESHOLD: NEVER})


def _set(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in options.items():
            library.mallopt(option, value)
