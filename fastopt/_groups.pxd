from fastopt._buffers cimport Buffers
from fastopt.structs cimport fastopt_group, fastopt_model


cdef class Groups(Buffers):
    # The core's groups are runs: consecutive tensors of one group that share type and step number. A group has at least
    # one run. Its hyperparameters stand in its runs and nowhere else.
    cdef fastopt_model model
    cdef size_t group_count
    cdef size_t *first_run        # the index of each group's first run; one more entry ends the last group
    cdef size_t *first_tensor     # the same for tensors
    cdef double *steps            # for each run, the steps that its tensors have taken
    cdef unsigned *used           # for each group the state buffers in use: bit `slot` for `rule.states[slot]`
    cdef list extra_hypers        # for each group a dict: the hyperparameters that the core does not know
    cdef void *workspace          # the core's, for a rule with sums

    cdef make_groups(self, list sizes)
    cdef object hyper(self, size_t k, object name)
    cdef bint set_number(self, size_t first, size_t stop, object name, object value) except -1
    cdef bint allows(self, size_t k, size_t c, int column, double number) noexcept
    cdef int check_run(self, fastopt_model *model, fastopt_group group, size_t c, unsigned used) noexcept
    cdef void copy_groups(self, fastopt_group *groups) noexcept
    cdef void regroup(self, const fastopt_group *groups, const double *steps) noexcept
    cdef point_all(self, bint check)
    cdef Py_ssize_t lazy_slot(self)
