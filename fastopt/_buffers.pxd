cimport numpy as cnp

from fastopt._memory cimport Span
from fastopt._rules cimport Rule
from fastopt.structs cimport fastopt_layout, fastopt_tensor


cdef class Buffers:
    cdef Rule rule
    cdef object structure         # the Model in which the parameters were given and gradients are
    cdef list param_names         # the names of the parameters in errors; None before the first error
    cdef list grad_names          # the same for the gradients
    cdef size_t tensor_count, elements
    cdef fastopt_tensor *tensors
    cdef fastopt_layout *layouts  # one for each tensor, used where the tensor needs one
    cdef int *numpy_types         # NumPy's number for each parameter's type when it was bound
    cdef bint *strided            # whether a tensor always needs its layout, since its parameter or state has strides
    cdef tuple arrays             # the parameters as they were given; they keep the memory alive
    cdef list views               # views of the parameters, with the types and shapes that were bound
    cdef list exports             # memoryviews of the parameters: while they live, no array can be resized
    cdef list states              # for each tensor a list: its state buffers in the order of the rule's table, or None
    cdef Span *spans              # the memory of each parameter and state buffer that a step writes, sorted
    cdef size_t span_count
    cdef bint spans_disjoint      # whether each span ends before the next begins
    cdef bint at_bound            # whether the tensors point to the gradients of `bind`
    cdef bint busy                # whether a thread is using the buffers; read and written under the GIL
    cdef unsigned long busy_thread  # the thread that may still use them while `busy` is set, or 0
    cdef object busy_reason       # the message of the error for all other uses; None for the usual one

    cdef bind_params(self, list leaves, structure)
    cdef void point_tensor(self, size_t i, unsigned used) noexcept
    cdef void add_span(self, cnp.ndarray array, size_t i) noexcept
    cdef sort_spans(self, bint check)
    cdef str param_name(self, size_t i)
    cdef str grad_name(self, size_t i)
    cdef raise_busy(self)
    cdef check_idle(self)
