"""What glibc's heap does with the memory of freed arrays, for libraries that allocate every array anew. Nothing elsewhere."""

from __future__ import annotations

import ctypes
import platform

MMAP_THRESHOLD, TRIM_THRESHOLD = (
    -3,
    -1,
)  # of mallopt: what is larger has pages of its own; what is free at the end goes back past it
OWN_PAGES_BYTES = 1 << 20
LARGEST_THRESHOLD = 32 << 20  # that glibc takes
NEVER = -1


def free_at_once() -> None:
    """Give the memory of arrays back when they are freed, for weights that are gathered and let go of many times.

    The heap does not find freed aligned memory again: gathered blocks of 135M parameters left gaps of 2 GB in it.
    """
    _set({MMAP_THRESHOLD: OWN_PAGES_BYTES})


def keep_freed() -> None:
    """Keep the memory of freed arrays for later ones, where a step frees and allocates the same sizes again and again.

    Otherwise the kernel has to clear it each time: 0.9 of the 7.6 s of CPU time that a step of `tools/bench/delta_net.py` took.
    """
    _set({MMAP_THRESHOLD: LARGEST_THRESHOLD, TRIM_THRESHOLD: NEVER})


def _set(options: dict[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for option, value in options.items():
            library.mallopt(option, value)
