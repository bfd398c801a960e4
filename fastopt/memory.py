"""State memory: zeroed, each buffer on a cache line of its own, all that are made together in one arena."""

from __future__ import annotations

import contextlib
import itertools
import mmap
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastopt._core import part_of

__all__ = ["zeros_like"]

Array = np.ndarray[Any, np.dtype[Any]]

LINE = 64
PAGE = 2 * 2**20  # the larger page of x86-64 and of arm64 with 4 KiB pages
MAPPED = 2**16  # bytes from which memory is asked for by pages, which are zero and cost nothing before they are written
PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def zeros_like(arrays: Sequence[Array]) -> list[Array]:
    """Arrays of zeros with the shapes and dtypes of these, their elements in the same order, in one piece of memory."""
    starts = [*itertools.accumulate([-(-array.nbytes // LINE) * LINE for array in arrays], initial=0)]
    arena = _zeros(starts[-1])
    return [_ordered(part_of(arena, start, array), array) for start, array in zip(starts, arrays, strict=False)]


def _ordered(memory: Array, like: Array) -> Array:
    """Contiguous memory of the shape of `like`, along each axis in the direction and order of its strides."""
    if like.flags.c_contiguous:
        return memory
    axes = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
    array = memory.reshape([like.shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return array[tuple(slice(None, None, -1 if step < 0 else 1) for step in like.strides)]


def _zeros(size: int) -> Array:
    """Zeroed bytes, from a cache line on; large ones from a large page on, in large pages where the system has them."""
    if size < MAPPED:
        memory = np.zeros(size + LINE, np.uint8)
        first = -memory.ctypes.data % LINE
    elif size < PAGE:
        memory, first = np.frombuffer(mmap.mmap(-1, size, **PRIVATE), np.uint8), 0
    else:
        mapped = mmap.mmap(-1, size + PAGE, **PRIVATE)
        memory = np.frombuffer(mapped, np.uint8)
        first = -memory.ctypes.data % PAGE
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a kernel without them
                mapped.madvise(mmap.MADV_HUGEPAGE, first, size // PAGE * PAGE)  # whole ones: the rest stays small
    return memory[first : first + size]
