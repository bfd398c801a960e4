from fastopt._groups cimport Groups
from fastopt._memory cimport Span

cimport numpy as cnp


cdef class Engine(Groups):
    cdef bint is_list             # whether gradients come in one sequence of arrays
    cdef bint takes_step          # whether the rule takes the number of the step
    cdef double *saved_rates      # for each run its own learning rate, during a step with the argument `lr`
    cdef Span *grad_spans         # scratch of `check_disjoint`
    cdef list grads               # the gradients of the step that is running
    cdef list given               # the bound gradients as the caller has them, or None: their flags may change
    cdef list bound               # the same; a view of our own where the core needs a layout
    cdef list bound_exports       # memoryviews of these: while they live, no array can be resized
    cdef str unzeroable           # why the bound gradients cannot be zeroed, or None
    cdef bint grads_disjoint      # whether the tensors' gradients are known to share no memory

    cdef list flatten(self, grads)
    cdef int use_grads(self, list grads, bint writable, bint allow_numbers, bint own_views=*) except -1
    cdef bint lies_apart(self, const char *start, size_t size) noexcept
    cdef void lay_out(self, size_t i, cnp.ndarray grad) noexcept
    cdef release_grads(self)
    cdef check_disjoint(self)
    cdef check_zeroable(self)
