# What the other compiled modules share. Private: embedders use capi.pxd and csrc/fastopt.h.
cimport numpy as cnp
from cpython.ref cimport PyObject

from fastopt.structs cimport fastopt_error, fastopt_group, fastopt_layout, fastopt_model


# A step of so few elements is over before another thread could have taken the GIL and given it back.
cdef enum:
    KEEP_GIL = 4096


# One buffer's place in memory, and which one it is. The array is borrowed.
ctypedef struct Span:
    const char *start
    const char *end
    Py_ssize_t owner
    PyObject *array


cdef class Rule:
    cdef readonly str name
    cdef readonly int index
    cdef readonly tuple states
    cdef readonly int required_states
    cdef readonly int sums
    cdef readonly tuple hypers
    cdef readonly dict options
    cdef readonly dict needed_by
    cdef readonly dict columns
    cdef readonly dict numbers

    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options)
    cdef fail(self, const fastopt_error *error, str where=*)


cdef int type_of(cnp.ndarray a) noexcept
cdef cnp.ndarray as_array(str name, object obj, bint writable, bint gradient)
cdef cnp.ndarray as_gradient(str name, object obj, bint writable, bint numbers, str name_of_like, cnp.ndarray like)
cdef int same_kind(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1
cdef bint lay_gradient(fastopt_layout *layout, cnp.ndarray grad, int type) noexcept
cdef const Py_ssize_t *strides_of(cnp.ndarray a) noexcept
cdef void copy_elements(cnp.ndarray target, cnp.ndarray source) noexcept
cdef Span span_of(cnp.ndarray a, Py_ssize_t owner) noexcept
cdef int sort_apart(Span *spans, size_t count, list names, str what) except -1
cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count, bint disjoint) except -2
cdef double number(str name, object value) except? -1.0
cdef int thread_count(object threads) except -1
cdef double norm_bound(object max_norm) except? -1.0
cdef void *zeroed(size_t count, size_t size) except NULL
cdef int step(fastopt_model *model) noexcept nogil
cdef int check(fastopt_model *model) noexcept nogil
cdef int check_hyper(int rule, int type, int index, double value) noexcept nogil
cdef size_t workspace(const fastopt_model *model) noexcept nogil
cdef int global_norm(fastopt_model *model) noexcept nogil
cdef int clip_grad_norm(fastopt_model *model) noexcept nogil
cdef list views_of(list buffers)
cpdef tuple pair(str name, object value)
cdef update(Rule rule, p, g, tuple states, tuple hyper, unsigned options)
