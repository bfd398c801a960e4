# The C core as the other compiled modules see it. Private: embedders use csrc/fastopt.h.
cimport numpy as cnp

cdef extern from "fastopt.h":
    int FASTOPT_OK
    int FASTOPT_SKIPPED
    int FASTOPT_ERR_ISA
    int FASTOPT_ERR_OPTION
    int FASTOPT_ERR_BUFFER
    int FASTOPT_ERR_HYPER
    int FASTOPT_F32
    int FASTOPT_F64
    unsigned FASTOPT_CLIP_NORM
    unsigned FASTOPT_SKIP_NONFINITE
    unsigned FASTOPT_ZERO_GRAD
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
        void *p
        void *g
        void *state[FASTOPT_MAX_STATES]

    ctypedef struct fastopt_group:
        int rule
        int dtype
        unsigned options
        double hyper[FASTOPT_MAX_HYPERS]
        size_t count
        fastopt_tensor *tensors

    ctypedef struct fastopt_model:
        size_t count
        fastopt_group *groups
        double grad_scale
        double max_norm
        unsigned extras
        int threads
        double norm


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
cdef int step(fastopt_model *model) noexcept nogil
cdef int check(fastopt_group *group) noexcept nogil
cdef int global_norm(fastopt_model *model) noexcept nogil
cdef int clip_grad_norm(fastopt_model *model) noexcept nogil
