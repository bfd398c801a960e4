from fastopt.structs cimport fastopt_error, fastopt_group


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

    cdef void begin(self, fastopt_group *group, unsigned options) noexcept
    cdef fill(self, fastopt_group *group, tuple hyper, unsigned options)
    cdef set_by_name(self, fastopt_group *group, dict values)
    cdef unsigned buffers_in_use(self, dict values) except? 0
    cdef fail(self, const fastopt_error *error, str where=*)
