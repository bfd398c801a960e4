"""State memory: zeroed, each buffer on a cache line of its own, all that are made together in one arena."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["zeros_like"]

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64
PAGE = 2 * 2**20  # the larger page of x86-64 and of arm64 with 4 KiB pages


def zeros_like(arrays: Sequence[Array]) -> list[Array]:
    """Arrays of zeros with the shapes and dtypes of these, views of one piece of memory."""
    starts = np.cumsum([0, *(-(-array.nbytes // LINE) * LINE for array in arrays)])
    arena = _zeros(int(starts[-1]))
    return [
        arena[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
        for start, array in zip(starts.tolist(), arrays, strict=False)
    ]


def _zeros(size: int) -> Array:
    """Zeroed bytes, from a cache line on; large ones from a large page on, in large pages where the system has them."""
    align = PAGE if size >= PAGE else LINE
    memory: Any = np.zeros(size + align, np.uint8) if size < PAGE else _mapped(size + align)
    first = -memory.ctypes.data % align
    arena: Array = memory[first : first + size]
    return arena


def _mapped(size: int) -> Array:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)
