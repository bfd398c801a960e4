cimport numpy as cnp

from fastopt._memory cimport Span
from fastopt._rules cimport Rule
from fastopt.structs cimport fastopt_layout, fastopt_tensor


cdef class Buffers:
    cdef Rule rule
    cdef object structure         # in which parameters and gradients are given
    cdef list param_names         # what errors call the parameters; None before the first error
    cdef list grad_names          # and the gradients
    cdef size_t tensor_count, elements
    cdef fastopt_tensor *tensors
    cdef fastopt_layout *layouts  # of each tensor, for when it needs one
    cdef int *kinds               # NumPy's number of each parameter's type, as it was bound
    cdef bint *strided            # whether the parameter or its state needs a layout, whatever the gradient is
    cdef tuple arrays             # the parameters as they were given, which also keep the memory alive
    cdef list views               # views of them, which keep the types and sizes that were bound
    cdef list exports             # memoryviews of them: while they live, no array can be resized
    cdef list states              # for each tensor a list: its state buffers in the order of the rule's table, or None
    cdef Span *spans              # the places of all that a step writes, sorted
    cdef size_t span_count
    cdef bint spans_disjoint      # whether each of them ends before the next begins
    cdef bint at_bound            # whether the tensors point to the bound gradients
    cdef bint busy                # whether a thread uses it; read and written under the GIL
    cdef unsigned long owner      # the thread that may go on while it is busy, or 0
    cdef object reason            # what the error says to the others, or None

    cdef bind_params(self, list leaves, structure)
    cdef void place(self, size_t i, unsigned used) noexcept
    cdef void add_span(self, cnp.ndarray array, size_t i) noexcept
    cdef sort_spans(self, bint check)
    cdef str param_name(self, size_t i)
    cdef str grad_name(self, size_t i)
    cdef refuse(self)
    cdef guard(self)
