"""What this process asks of the C library's allocator.

torch takes the memory of its tensors from there. By default glibc gives every block of some 32 MB
back to the kernel as soon as it is freed, and the kernel zeroes each one that it hands out, page by
page: a third of a training step on a CPU, a tenth to a quarter of an evaluation.
"""

from __future__ import annotations

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Tell glibc's allocator to keep large blocks that were freed, for the rest of the process.

    For what frees and allocates the same few hundred megabytes over and over. No effect on results;
    where there is no glibc (macOS, musl), nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        M_TRIM_THRESHOLD = -1  # as in malloc.h
        M_MMAP_THRESHOLD = -3
        libc.mallopt(M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
