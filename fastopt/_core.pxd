# What the other compiled modules share. Private: embedders use capi.pxd and csrc/fastopt.h.
cimport numpy as cnp

from fastopt.structs cimport fastopt_group, fastopt_model


# One buffer's place in memory, and which one it is.
ctypedef struct Span:
    const char *start
    const char *end
    Py_ssize_t owner


cdef class Rule:
    cdef readonly str name
    cdef readonly int index
    cdef readonly tuple states
    cdef readonly int required_states
    cdef readonly tuple hypers
    cdef readonly dict options

    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options)
    cdef fail(self, int error, const fastopt_group *group)


cdef cnp.ndarray as_array(str name, object obj, bint writable)
cdef int same_shape(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1
cdef Span span_of(cnp.ndarray a, Py_ssize_t owner) noexcept
cdef int sort_apart(Span *spans, size_t count, list names, str what) except -1
cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count) noexcept nogil
cdef double number(str name, object value) except? -1.0
cdef int thread_count(object threads) except -1
cdef double norm_bound(object max_norm) except? -1.0
cdef int type_of(cnp.ndarray a) noexcept
cdef void *zeroed(size_t count, size_t size) except NULL
cdef int step(fastopt_model *model) noexcept nogil
cdef int check(fastopt_group *group) noexcept nogil
cdef int global_norm(fastopt_model *model) noexcept nogil
cdef int clip_grad_norm(fastopt_model *model) noexcept nogil
