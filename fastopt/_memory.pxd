cimport numpy as cnp
from cpython.ref cimport PyObject

from fastopt.structs cimport fastopt_layout


# The memory of one buffer, from its first byte to the byte after its last, and the index of its owner's name in errors.
# The reference to the array is borrowed.
ctypedef struct Span:
    const char *start
    const char *end
    size_t owner
    PyObject *array


cdef void *zeroed(size_t count, size_t size) except NULL
cdef Span span_of(cnp.ndarray a, size_t owner) noexcept
cdef bint sort_apart(Span *spans, size_t count, object names, str what) except -1
cdef bint lie_apart(const Span *spans, size_t count) noexcept
cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count, bint disjoint) except -2
cdef bint lay_gradient(fastopt_layout *layout, cnp.ndarray grad, int type) noexcept
cdef const Py_ssize_t *strides_of(cnp.ndarray a) noexcept
cdef cnp.ndarray view_of(cnp.ndarray a)
cdef list views_of(list buffers)
cdef void copy_elements(cnp.ndarray target, cnp.ndarray source) noexcept
