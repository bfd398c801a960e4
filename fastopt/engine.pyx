# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The engine: a model's buffers, checked and bound once, stepped with one C call.

Private to the optimizers. The engine knows buffers, hyperparameters in the order of the rule's table, and step
numbers; it knows no names of hyperparameters and no structure of a model beyond groups of consecutive tensors.
"""

from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.pythread cimport PyThread_get_thread_ident

from fastopt._core cimport (
    FASTOPT_F32, FASTOPT_F64, FASTOPT_MAX_STATES, Rule, Span, as_array, check, fastopt_group,
    fastopt_tensor, find_overlap, first_overlap, same_shape, sort_spans, span_of, step as step_groups,
)

cimport numpy as cnp

from fastopt._core import RULES

cnp.import_array()

__all__ = ["Engine"]


cdef class Engine:
    """Binds the parameters of a model, then its state buffers, and steps them.

    Parameters
    ----------
    rule : str
        Its name in the table of rules.
    groups : list of list of (str, object)
        For each group its parameters, each with the name that errors call it by.
    """

    cdef Rule rule
    cdef fastopt_group *groups
    cdef fastopt_tensor *tensors
    cdef Span *spans
    cdef size_t group_count, tensor_count, span_count
    cdef list names       # of the tensors
    cdef list params      # the arrays, which also keep the memory alive
    cdef list states      # for each tensor a list of arrays or None, in the order of the rule's table
    cdef list exports     # memoryviews: while they live, no array can be resized
    cdef bint busy        # read and written under the GIL
    cdef unsigned long owner

    def __cinit__(self, str rule, list groups):
        cdef size_t count = sum(len(group) for group in groups)
        self.rule = RULES[rule]
        self.groups = <fastopt_group *>PyMem_Calloc(len(groups) or 1, sizeof(fastopt_group))
        self.tensors = <fastopt_tensor *>PyMem_Calloc(count or 1, sizeof(fastopt_tensor))
        self.spans = <Span *>PyMem_Calloc((1 + FASTOPT_MAX_STATES) * count or 1, sizeof(Span))
        if not self.groups or not self.tensors or not self.spans:
            raise MemoryError
        self.group_count, self.tensor_count = len(groups), count

    def __dealloc__(self):
        PyMem_Free(self.groups)
        PyMem_Free(self.tensors)
        PyMem_Free(self.spans)

    def __init__(self, str rule, list groups):
        cdef size_t k, i = 0
        cdef cnp.ndarray array
        self.names, self.params, self.states, self.exports = [], [], [], []
        for k, group in enumerate(groups):
            self.groups[k].rule = self.rule.index
            self.groups[k].count = len(group)
            self.groups[k].tensors = &self.tensors[i]
            for name, param in group:
                array = as_array(name, param, True)
                self.tensors[i].n = cnp.PyArray_SIZE(array)
                self.tensors[i].dtype = (FASTOPT_F32 if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT
                                         else FASTOPT_F64)
                self.tensors[i].p = cnp.PyArray_DATA(array)
                self.names.append(name)
                self.params.append(array)
                self.states.append([None] * len(self.rule.states))
                self.exports.append(memoryview(array))
                i += 1
        self.find_spans()

    cdef find_spans(self):
        """Sorts what is written in a step by its place in memory; ValueError where two places overlap."""
        cdef size_t i
        cdef Py_ssize_t where
        self.span_count = 0
        for i in range(self.tensor_count):
            for array in (self.params[i], *self.states[i]):
                if array is not None and array.size:
                    self.spans[self.span_count] = span_of(array, i)
                    self.span_count += 1
        sort_spans(self.spans, self.span_count)
        where = first_overlap(self.spans, self.span_count)
        if where > 0:
            first, second = sorted((self.spans[where - 1].owner, self.spans[where].owner))
            raise ValueError(f"{self.names[second]} shares memory with {self.names[first]}; "
                             "every parameter needs its own")

    cdef guard(self):
        """RuntimeError if another thread steps or loads; the one that holds the engine may go on."""
        if self.busy and self.owner != PyThread_get_thread_ident():
            raise RuntimeError("this optimizer is busy in another thread; nothing was written")

    def hold(self):
        """Makes this thread the only one that may use the engine, until `release`."""
        if self.busy:
            raise RuntimeError("this optimizer is busy in another thread; nothing was written")
        self.busy, self.owner = True, PyThread_get_thread_ident()

    def release(self):
        self.busy = False

    @property
    def arrays(self):
        """The parameters as arrays, in order."""
        return tuple(self.params)

    def get_step(self, Py_ssize_t i):
        """How many steps tensor `i` has taken."""
        return int(self.tensors[i].step)

    def set_step(self, Py_ssize_t i, double steps):
        """Says how many steps tensor `i` has taken; the next one has the number after it."""
        self.guard()
        self.tensors[i].step = steps

    def configure(self, list settings):
        """Sets hyperparameters, options and state buffers of some groups: of all of them, or an error.

        For each group a tuple: its index; hyperparameters in the order of the rule's table; option bits; and for each
        of its tensors a list of the state buffers in use, in the table's order, None for those that are not.
        """
        cdef fastopt_group group
        cdef fastopt_tensor tensor
        cdef size_t k, i
        cdef Py_ssize_t slot
        cdef int error
        self.guard()
        for k, hyper, options, buffers in settings:
            group = self.groups[k]
            self.rule.fill(&group, hyper, options)
            for i, of_tensor in enumerate(buffers, start=self.first(k)):
                tensor = self.tensors[i]
                tensor.step = 1
                for slot, buffer in enumerate(of_tensor):
                    tensor.state[slot] = NULL
                    if buffer is not None:
                        array = as_array(self.rule.states[slot], buffer, True)
                        same_shape(self.rule.states[slot], array, self.names[i], self.params[i])
                        tensor.state[slot] = cnp.PyArray_DATA(array)
                error = check(&group, &tensor)
                if error:
                    self.rule.fail(error, &group, &tensor)
        for k, hyper, options, buffers in settings:
            self.rule.fill(&self.groups[k], hyper, options)
            for i, of_tensor in enumerate(buffers, start=self.first(k)):
                for slot, buffer in enumerate(of_tensor):
                    self.tensors[i].state[slot] = NULL if buffer is None else cnp.PyArray_DATA(buffer)
                self.states[i] = list(of_tensor)
        self.find_spans()

    cdef size_t first(self, size_t k) noexcept:
        """The index of a group's first tensor."""
        return self.groups[k].tensors - self.tensors

    def step(self, list grads, list names):
        """Checks the gradients of all tensors, then steps them all; `names` is what errors call them."""
        cdef size_t i
        cdef Py_ssize_t other
        cdef int error
        cdef cnp.ndarray grad
        cdef list held = []
        self.hold()
        try:
            for i in range(self.tensor_count):
                grad = as_array(names[i], grads[i], False)
                same_shape(names[i], grad, self.names[i], self.params[i])
                other = find_overlap(span_of(grad, 0), self.spans, self.span_count)
                if other >= 0:
                    raise ValueError(f"{names[i]} shares memory with {self.names[self.spans[other].owner]} "
                                     "or its state; a gradient needs its own")
                self.tensors[i].g = cnp.PyArray_DATA(grad)
                held.append(grad)
            for i in range(self.tensor_count):
                self.tensors[i].step += 1
            with nogil:
                error = step_groups(self.group_count, self.groups)
            if error:
                for i in range(self.tensor_count):
                    self.tensors[i].step -= 1
                self.rule.fail(error, &self.groups[0], &self.tensors[0])
        finally:
            self.release()
