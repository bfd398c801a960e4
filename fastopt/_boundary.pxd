cimport numpy as cnp

cdef str spoken(str hyper)
cdef double number(str name, object value) except? -1.0
cdef int thread_count(object threads) except -1
cdef double norm_bound(object max_norm) except? -1.0
cpdef tuple pair(str name, object value)
cdef int type_of(cnp.ndarray a) noexcept
cdef cnp.ndarray as_array(str name, object obj, bint writable, bint gradient)
cdef bint is_plain(object obj) noexcept
cdef cnp.ndarray as_gradient(
    str name, object obj, bint writable, bint allow_numbers, str name_of_like, cnp.ndarray like
)
cdef int same_kind(str name, cnp.ndarray a, str name_of_like, cnp.ndarray like) except -1
