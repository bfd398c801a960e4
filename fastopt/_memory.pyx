# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The memory of arrays: overlap, strides for the core, views and copies, and the allocation of state buffers."""

cimport numpy as cnp
from cpython.mem cimport PyMem_Calloc
from cpython.ref cimport PyObject
from libc.stdint cimport uintptr_t
from libc.stdlib cimport qsort
from libc.string cimport memcpy, memset

from fastopt._boundary cimport type_of
from fastopt.structs cimport fastopt_layout

import contextlib
import mmap

import numpy as np

cnp.import_array()

__all__ = ["zeros_like"]

cdef extern from "numpy/arrayobject.h":
    object new_view "PyArray_View"(cnp.ndarray a, void *dtype, void *type)  # NULL: the dtype and class of `a`

# ---- Allocation for C structures. ----

cdef void *zeroed(size_t count, size_t size) except NULL:
    """Zeroed memory, which the caller frees with PyMem_Free; or MemoryError."""
    cdef void *memory = PyMem_Calloc(count or 1, size)
    if memory == NULL:
        raise MemoryError
    return memory


# ---- Overlap. ----

cdef Span span_of(cnp.ndarray a, size_t owner) noexcept:
    """The span of an array's elements; gaps between them are part of it."""
    cdef Span span
    cdef Py_ssize_t step
    cdef int d
    span.start = <const char *>cnp.PyArray_DATA(a)
    span.owner = owner
    span.array = <PyObject *>a
    if cnp.PyArray_IS_C_CONTIGUOUS(a):
        span.end = span.start + cnp.PyArray_NBYTES(a)
        return span
    span.end = span.start + cnp.PyArray_ITEMSIZE(a)
    for d in range(cnp.PyArray_NDIM(a)):
        step = (cnp.PyArray_DIMS(a)[d] - 1) * cnp.PyArray_STRIDES(a)[d]
        if step < 0:
            span.start += step
        else:
            span.end += step
    return span


cdef bint share_memory(Span one, Span other) except -1:
    """Whether two arrays whose spans overlap share memory."""
    if cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>one.array) and cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray>other.array):
        return True
    try:
        return np.shares_memory(<object>one.array, <object>other.array, max_work=1_000_000)
    except np.exceptions.TooHardError:
        return True  # too costly to decide: assume the worse


cdef int by_start(const void *a, const void *b) noexcept nogil:
    cdef const Span *x = <const Span *>a
    cdef const Span *y = <const Span *>b
    return (x.start > y.start) - (x.start < y.start)


cdef bint sort_apart(Span *spans, size_t count, object names, str what) except -1:
    """Sorts the spans of non-empty buffers; a ValueError names the owners if two buffers share memory.

    `names` is the list of the owners' names, or a function that returns it. It is None if the buffers are known to
    share no memory: then nothing here runs Python, and nothing fails. Returns whether the spans are disjoint; those of
    buffers with gaps may overlap although the buffers share no memory.
    """
    cdef size_t i, j, first = 0  # spans before `first` end before span i begins
    cdef const char *reach = NULL
    cdef bint disjoint = True
    qsort(spans, count, sizeof(Span), by_start)
    for i in range(count):
        if spans[i].start >= reach:
            first = i
        for j in range(first, i):
            if spans[j].end > spans[i].start:
                disjoint = False
                if names is not None and share_memory(spans[j], spans[i]):
                    one, other = sorted((spans[j].owner, spans[i].owner))
                    names = names() if callable(names) else names
                    raise ValueError(f"{names[other]} shares memory with {names[one]}; every {what} needs its own")
        if spans[i].end > reach:
            reach = spans[i].end
    return disjoint


cdef bint lie_apart(const Span *spans, size_t count) noexcept:
    """Whether a few spans are disjoint, compared pair by pair."""
    cdef size_t i, j
    for i in range(count):
        for j in range(i):
            if spans[i].start < spans[j].end and spans[j].start < spans[i].end:
                return False
    return True


cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count, bint disjoint) except -2:
    """The index of one of these sorted, non-empty spans that shares memory with `span`, or -1."""
    cdef size_t low = 0, high = count, middle
    if span.start == span.end:
        return -1
    if disjoint:  # then the ends are sorted too
        while low < high:
            middle = (low + high) // 2
            if spans[middle].end <= span.start:
                low = middle + 1
            else:
                high = middle
    while low < count and spans[low].start < span.end:
        if spans[low].end > span.start and share_memory(span, spans[low]):
            return low
        low += 1
    return -1


# ---- Strides for the core. ----

cdef bint lay_gradient(fastopt_layout *layout, cnp.ndarray grad, int type) noexcept:
    """Writes type and strides of a gradient into a layout; returns False if the core needs no layout for it.

    The layout points into the array, whose shape and strides must not change: give a view that no other code has.
    """
    cdef int kind = type_of(grad)
    cdef bint contiguous = cnp.PyArray_IS_C_CONTIGUOUS(grad)
    layout.size = sizeof(fastopt_layout)
    layout.g_type = kind
    layout.g_strides = NULL if contiguous else <const Py_ssize_t *>cnp.PyArray_STRIDES(grad)
    if not contiguous:
        layout.ndim = cnp.PyArray_NDIM(grad)
        layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(grad)
    return kind != type or not contiguous


cdef const Py_ssize_t *strides_of(cnp.ndarray a) noexcept:
    """The strides of an array, for a layout; NULL if it is contiguous."""
    return NULL if cnp.PyArray_IS_C_CONTIGUOUS(a) else <const Py_ssize_t *>cnp.PyArray_STRIDES(a)


# ---- Views and copies. ----

cdef cnp.ndarray view_of(cnp.ndarray a):
    """A new array on the same memory, whose shape, strides and type no other code can change."""
    return new_view(a, NULL, NULL)


cdef list views_of(list buffers):
    """Views of arrays, of which some may be None."""
    cdef list views = [None] * len(buffers)  # not a comprehension: if its list cannot grow, Cython frees an item twice
    cdef Py_ssize_t slot
    for slot in range(len(buffers)):
        if buffers[slot] is not None:
            views[slot] = view_of(buffers[slot])
    return views


cdef void copy_elements(cnp.ndarray target, cnp.ndarray source) noexcept:
    """Copies an array's elements into another of its shape and dtype. Allocates nothing and runs no Python."""
    cdef Py_ssize_t index[64]
    cdef int ndim = cnp.PyArray_NDIM(target), d
    cdef size_t item = cnp.PyArray_ITEMSIZE(target)
    cdef char *to = <char *>cnp.PyArray_DATA(target)
    cdef const char *of = <const char *>cnp.PyArray_DATA(source)
    cdef Py_ssize_t _
    if cnp.PyArray_IS_C_CONTIGUOUS(target) and cnp.PyArray_IS_C_CONTIGUOUS(source):
        memcpy(to, of, cnp.PyArray_NBYTES(target))
        return
    memset(index, 0, sizeof(index))
    for _ in range(cnp.PyArray_SIZE(target)):
        memcpy(to, of, item)
        for d in range(ndim - 1, -1, -1):
            index[d] += 1
            to += cnp.PyArray_STRIDES(target)[d]
            of += cnp.PyArray_STRIDES(source)[d]
            if index[d] < cnp.PyArray_DIMS(target)[d]:
                break
            to -= index[d] * cnp.PyArray_STRIDES(target)[d]
            of -= index[d] * cnp.PyArray_STRIDES(source)[d]
            index[d] = 0


# ---- State buffers: those that are made together share one allocation, and each begins on a cache line. ----

cdef enum:
    LINE = 64
    PAGE = 1 << 21  # bytes of a large page on x86-64, and on arm64 with pages of 4 KiB

PRIVATE = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}


def zeros_like(list arrays):
    """Arrays of zeros with the shapes, dtypes and memory order of `arrays`, in one allocation."""
    cdef list made = [None] * len(arrays)
    cdef Py_ssize_t i, start = 0
    cdef cnp.ndarray arena, like, part
    for i in range(len(arrays)):
        start += lines(arrays[i])
    arena = zeroed_bytes(start)
    start = 0
    for i in range(len(arrays)):
        like = arrays[i]
        part = cnp.PyArray_SimpleNewFromData(
            cnp.PyArray_NDIM(like), cnp.PyArray_DIMS(like), cnp.PyArray_TYPE(like), cnp.PyArray_BYTES(arena) + start)
        cnp.set_array_base(part, arena)
        made[i] = part if cnp.PyArray_IS_C_CONTIGUOUS(like) else ordered(part, like)
        start += lines(like)
    return made


cdef Py_ssize_t lines(cnp.ndarray array) noexcept:
    """The bytes of an array, rounded up to whole cache lines."""
    return (cnp.PyArray_NBYTES(array) + LINE - 1) // LINE * LINE


cdef cnp.ndarray ordered(cnp.ndarray memory, cnp.ndarray like):
    """A view of contiguous memory with the shape of `like`, and with its order and direction of axes."""
    axes = sorted(range(like.ndim), key=lambda axis: -abs(like.strides[axis]))
    array = memory.reshape([like.shape[axis] for axis in axes]).transpose(np.argsort(axes))
    return array[tuple([slice(None, None, -1 if like.strides[axis] < 0 else 1) for axis in range(like.ndim)])]


cdef cnp.ndarray zeroed_bytes(Py_ssize_t size):
    """Zeroed bytes that begin on a cache line; from the size of a large page on, in large pages if the system can."""
    cdef cnp.ndarray memory
    cdef Py_ssize_t first
    if size < PAGE:
        memory = np.zeros(size + LINE, np.uint8)
        first = -<uintptr_t>cnp.PyArray_DATA(memory) % LINE
        return memory[first:first + size]
    mapped = mmap.mmap(-1, size + PAGE, **PRIVATE)
    memory = np.frombuffer(mapped, np.uint8)
    first = -<uintptr_t>cnp.PyArray_DATA(memory) % PAGE
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages
            mapped.madvise(mmap.MADV_HUGEPAGE, first, size // PAGE * PAGE)  # whole large pages only
    return memory[first:first + size]
