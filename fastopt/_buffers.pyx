# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The parameters of a model and their state buffers: checked and bound once, and used by one thread at a time."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free
from cpython.pythread cimport PyThread_get_thread_ident

from fastopt._boundary cimport as_array, is_plain
from fastopt._memory cimport Span, copy_elements, sort_apart, span_of, strides_of, view_of, zeroed
from fastopt.structs cimport FASTOPT_MAX_STATES, fastopt_layout, fastopt_tensor

import operator

from fastopt._rules import RULES

cnp.import_array()

__all__ = ["Buffers"]


# ---- Context managers. Entering and leaving runs no bytecode, so Ctrl-C cannot interrupt either halfway. ----

@cython.final
cdef class Exclusive:
    """A block in which only this thread may change the buffers, and no thread may step them."""

    cdef Buffers buffers
    cdef object reason
    cdef bint nested, entered

    def __enter__(self):
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self.nested and self.buffers.busy and self.buffers.busy_thread == thread:
            return
        if self.buffers.busy:
            self.buffers.raise_busy()
        self.buffers.busy, self.buffers.busy_thread, self.buffers.busy_reason = True, thread, self.reason
        self.entered = True

    def __exit__(self, kind, value, trace):
        if self.entered:
            self.buffers.busy, self.buffers.busy_thread, self.buffers.busy_reason = False, 0, None


@cython.final
cdef class Restored:
    """A block at whose end the parameters get back the bits that they had at its start."""

    cdef Buffers buffers
    cdef list saved

    def __enter__(self):
        self.saved = list(map(operator.methodcaller("copy"), self.buffers.views))

    def __exit__(self, kind, value, trace):
        cdef size_t i
        for i in range(self.buffers.tensor_count):  # writes even if the arrays have become read-only
            copy_elements(self.buffers.views[i], self.saved[i])


@cython.auto_pickle(False)
cdef class Buffers:
    """The parameters of a model and their state buffers."""

    def __dealloc__(self):
        PyMem_Free(self.tensors)
        PyMem_Free(self.layouts)
        PyMem_Free(self.numpy_types)
        PyMem_Free(self.strided)
        PyMem_Free(self.spans)

    cdef bind_params(self, list leaves, structure):
        """Binds the parameters. `structure` names them in errors, and puts gradients in their order."""
        cdef size_t i, count = len(leaves)
        cdef cnp.ndarray array
        cdef list arrays = [None] * count
        if self.tensors:
            raise RuntimeError("this optimizer has its parameters already; create another one for other parameters")
        self.rule, self.structure = RULES[type(self).rule], structure
        self.tensors = <fastopt_tensor *>zeroed(count, sizeof(fastopt_tensor))
        self.layouts = <fastopt_layout *>zeroed(count, sizeof(fastopt_layout))
        self.numpy_types = <int *>zeroed(count, sizeof(int))
        self.strided = <bint *>zeroed(count, sizeof(bint))
        self.spans = <Span *>zeroed((1 + FASTOPT_MAX_STATES) * count, sizeof(Span))
        self.views, self.exports = [None] * count, [None] * count
        self.states = [[None] * len(self.rule.states)] * count  # shared by the tensors: replaced, never changed
        for i in range(count):
            array = leaves[i] if is_plain(leaves[i]) else as_array(self.param_name(i), leaves[i], True, False)
            self.tensors[i].size = sizeof(fastopt_tensor)
            self.tensors[i].n = cnp.PyArray_SIZE(array)
            self.tensors[i].p = cnp.PyArray_DATA(array)
            self.numpy_types[i] = cnp.PyArray_TYPE(array)
            self.elements += self.tensors[i].n
            self.exports[i] = memoryview(array)
            self.views[i] = view_of(array)
            arrays[i] = array
        self.arrays, self.tensor_count = tuple(arrays), count

    # Errors are rare, so the names of the tensors are put together for the first error that needs them.

    def _param_names(self):
        """The names of the parameters in errors."""
        if self.param_names is None:
            self.param_names = self.structure.names("params")
        return self.param_names

    def _grad_names(self):
        """The names of the gradients in errors."""
        if self.grad_names is None:
            self.grad_names = self.structure.names("grads")
        return self.grad_names

    cdef str param_name(self, size_t i):
        return self._param_names()[i]

    cdef str grad_name(self, size_t i):
        return self._grad_names()[i]

    # ---- The memory that a step writes. ----

    cdef void point_tensor(self, size_t i, unsigned used) noexcept:
        """Points a tensor to its state buffers in use, and adds the spans of its parameter and of these buffers."""
        cdef fastopt_tensor *tensor = &self.tensors[i]
        cdef fastopt_layout *layout = &self.layouts[i]
        cdef cnp.ndarray view = self.views[i], buffer
        cdef list states = self.states[i]
        cdef Py_ssize_t slot
        # The layout points into views that no other code has, so its shapes and strides cannot change.
        layout.size = sizeof(fastopt_layout)
        layout.ndim = cnp.PyArray_NDIM(view)
        layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(view)
        layout.p_strides = strides_of(view)
        self.strided[i] = layout.p_strides != NULL
        self.add_span(view, i)
        for slot in range(len(states)):
            tensor.state[slot], layout.state_strides[slot] = NULL, NULL
            if used & (1U << slot) and states[slot] is not None:
                buffer = states[slot]
                tensor.state[slot] = cnp.PyArray_DATA(buffer)
                layout.state_strides[slot] = strides_of(buffer)
                self.strided[i] = self.strided[i] or layout.state_strides[slot] != NULL
                self.add_span(buffer, i)
        tensor.g = NULL  # the last gradient was not compared with these spans: the next one must be

    cdef void add_span(self, cnp.ndarray array, size_t i) noexcept:
        if cnp.PyArray_SIZE(array):
            self.spans[self.span_count] = span_of(array, i)
            self.span_count += 1

    cdef sort_spans(self, bint check):
        """Sorts the spans. With `check`, ValueError if two buffers share memory; without, they are known not to."""
        self.at_bound = False
        self.spans_disjoint = sort_apart(
            self.spans, self.span_count, self._param_names if check else None, "parameter")

    # ---- One thread at a time. ----

    cdef raise_busy(self):
        raise RuntimeError(self.busy_reason or "this optimizer is already in use, by another thread or by a call that "
                                               "is still running in this one; nothing was written")

    cdef check_idle(self):
        """RuntimeError if the buffers are in use, unless this thread is inside its own `_exclusive` block."""
        if self.busy and self.busy_thread != PyThread_get_thread_ident():
            self.raise_busy()

    def _exclusive(self, reason=None, *, nested=False):
        """A block in which only this thread may change the buffers, and no thread may step them.

        Any other use meanwhile is a RuntimeError with the message `reason`. With `nested` the thread may be inside such
        a block already. Do not write a loop directly inside the block, but
        call a function instead: on CPython 3.13.0 an interrupt at a loop's jump back skips `__exit__`.
        """
        cdef Exclusive block = Exclusive.__new__(Exclusive)
        block.buffers, block.reason, block.nested = self, reason, nested
        return block

    def _restored(self):
        """A block at whose end the parameters get back the bits that they had at its start."""
        cdef Restored block = Restored.__new__(Restored)
        block.buffers = self
        return block

    def _bound_params(self):
        """The parameters with the shapes and types with which they were bound: views where these have changed."""
        cdef list bound = list(self.arrays)
        cdef cnp.ndarray array, view
        cdef size_t i
        for i in range(self.tensor_count):
            array, view = self.arrays[i], self.views[i]
            if not (cnp.PyArray_SAMESHAPE(array, view) and cnp.PyArray_TYPE(array) == self.numpy_types[i]
                    and cnp.PyArray_ISNOTSWAPPED(array)):
                bound[i] = view_of(view)
        return bound

    @property
    def params(self):
        """The arrays that a step updates, in order."""
        return self.arrays
