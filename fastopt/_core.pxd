# The C core as the other compiled modules see it. Private: embedders use csrc/fastopt.h.
cimport numpy as cnp

cdef extern from "fastopt.h":
    int FASTOPT_OK
    int FASTOPT_ERR_ISA
    int FASTOPT_ERR_OPTION
    int FASTOPT_ERR_BUFFER
    int FASTOPT_ERR_HYPER
    int FASTOPT_F32
    int FASTOPT_F64
    enum:
        FASTOPT_MAX_STATES
        FASTOPT_MAX_HYPERS

    ctypedef struct fastopt_rule_info:
        const char *name
        const char *states
        int required_states
        const char *hypers
        const char *options
        unsigned option_mask

    ctypedef struct fastopt_tensor:
        size_t n
        int dtype
        void *p
        const void *g
        void *state[FASTOPT_MAX_STATES]
        double step

    ctypedef struct fastopt_group:
        int rule
        unsigned options
        double hyper[FASTOPT_MAX_HYPERS]
        size_t count
        const fastopt_tensor *tensors


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
    cdef fail(self, int error, const fastopt_group *group, const fastopt_tensor *tensor)


cdef cnp.ndarray as_array(str name, object obj, bint writable)
cdef int same_shape(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1
cdef Span span_of(cnp.ndarray a, Py_ssize_t owner) noexcept
cdef void sort_spans(Span *spans, size_t count) noexcept nogil
cdef Py_ssize_t first_overlap(const Span *spans, size_t count) noexcept nogil
cdef Py_ssize_t find_overlap(Span span, const Span *spans, size_t count) noexcept nogil
cdef int step(size_t count, const fastopt_group *groups) noexcept nogil
cdef int check(const fastopt_group *group, const fastopt_tensor *tensor) noexcept nogil
