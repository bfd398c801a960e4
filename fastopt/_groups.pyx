# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Groups of parameters: their hyperparameters, which state buffers these call for, and how many steps were taken."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free
from cpython.object cimport PyObject_GenericSetAttr
from cpython.pythread cimport PyThread_get_thread_ident
from libc.string cimport memcpy, memset

from fastopt cimport capi
from fastopt._boundary cimport as_array, same_kind, thread_count, type_of
from fastopt._buffers cimport Buffers
from fastopt._memory cimport copy_elements, view_of, zeroed
from fastopt.structs cimport FASTOPT_F32, FASTOPT_MAXIMIZE, fastopt_group, fastopt_model, fastopt_tensor

import weakref

import numpy as np

from fastopt._memory import zeros_like
from fastopt._structure import shown

cnp.import_array()

__all__ = ["Group", "Groups", "Plan"]


@cython.auto_pickle(False)
cdef class Groups(Buffers):
    """Parameters in groups that have hyperparameters of their own."""

    def __dealloc__(self):
        PyMem_Free(self.model.groups)
        PyMem_Free(self.first_run)
        PyMem_Free(self.first_tensor)
        PyMem_Free(self.steps)
        PyMem_Free(self.used)
        PyMem_Free(self.workspace)

    cdef make_groups(self, list sizes):
        """Divides the bound parameters into groups of these sizes."""
        cdef size_t k, count = len(sizes), runs = count + self.tensor_count
        cdef fastopt_group *groups = NULL
        cdef double *steps = NULL
        self.model.groups = <fastopt_group *>zeroed(runs, sizeof(fastopt_group))
        self.steps = <double *>zeroed(runs, sizeof(double))
        self.first_run = <size_t *>zeroed(count + 1, sizeof(size_t))
        self.first_tensor = <size_t *>zeroed(count + 1, sizeof(size_t))
        self.used = <unsigned *>zeroed(count, sizeof(unsigned))
        self.kept = [{}] * count  # such a dict is replaced and never changed
        try:
            groups = <fastopt_group *>zeroed(count, sizeof(fastopt_group))
            steps = <double *>zeroed(self.tensor_count, sizeof(double))
            for k in range(count):
                self.first_tensor[k + 1] = self.first_tensor[k] + <size_t>sizes[k]
                self.rule.begin(&groups[k], 0)
            self.group_count = count
            self.place_all(True)
            self.regroup(groups, steps)
        finally:
            PyMem_Free(groups)
            PyMem_Free(steps)
        self.model.size = sizeof(fastopt_model)
        self.model.workspace_size = capi.workspace(&self.model)
        self.model.workspace = self.workspace = zeroed(self.model.workspace_size, 1)

    cdef place_all(self, bint check):
        """Points the tensors to their state buffers, and sorts what a step writes by its place in memory."""
        cdef size_t k, i
        self.span_count = 0
        for k in range(self.group_count):
            for i in range(self.first_tensor[k], self.first_tensor[k + 1]):
                self.place(i, self.used[k])
        self.sort_spans(check)

    @property
    def threads(self):
        """How many threads a step may use; None: `fastopt.get_num_threads()`."""
        return self.model.threads or None

    @threads.setter
    def threads(self, threads):
        cdef int count = thread_count(threads)
        self.guard()
        self.model.threads = count

    # ---- Hyperparameters. ----

    cdef object hyper(self, size_t k, object name):
        """A hyperparameter of a group by its name."""
        cdef fastopt_group *group = &self.model.groups[self.first_run[k]]
        column = self.rule.columns.get(name)
        if column is not None and name == "betas":
            return group.hyper[<Py_ssize_t>column], group.hyper[<Py_ssize_t>column + 1]
        if column is not None:
            return group.hyper[<Py_ssize_t>column]
        bit = self.rule.options.get(name)
        if bit is not None:
            return bool(group.options & <unsigned>bit)
        return (<dict>self.kept[k])[name]

    cdef bint set_number(self, size_t first, size_t stop, object name, object value) except -1:
        """Sets a number in these groups, if nothing else changes with it and it may be set; otherwise False."""
        cdef size_t k, c
        cdef int i
        cdef double number
        cdef object column
        if not (type(value) is float or type(value) is int) or self.rule is None:
            return False
        column = self.rule.numbers.get(name)
        if column is None or (self.busy and self.owner != PyThread_get_thread_ident()):
            return False
        try:
            number = value
        except OverflowError:
            return False
        i = column
        for k in range(first, stop):
            for c in range(self.first_run[k], self.first_run[k + 1]):
                if not self.allows(k, c, i, number):
                    return False
        for c in range(self.first_run[first], self.first_run[stop]):
            self.model.groups[c].hyper[i] = number
        return True

    cdef bint allows(self, size_t k, size_t c, int column, double number) noexcept:
        """Whether a hyperparameter of a run of group `k`, by its place in the table, can become this number."""
        cdef fastopt_group *run = &self.model.groups[c]
        cdef fastopt_group group
        cdef fastopt_model model
        if capi.check_hyper(run.rule, run.type, column, number):
            return False
        if not run.options & ~FASTOPT_MAXIMIZE:
            return True
        group = run[0]
        group.hyper[column] = number  # an option may ask something of it
        return self.check_run(&model, group, c, self.used[k]) == 0

    cdef int check_run(self, fastopt_model *model, fastopt_group group, size_t c, unsigned used) noexcept:
        """What the core says of the hyperparameters of `group` for a run with these state buffers."""
        cdef const fastopt_group *run = &self.model.groups[c]
        cdef fastopt_tensor tensor
        cdef double somewhere[8]  # the buffers are only looked at
        cdef int slot
        memset(model, 0, sizeof(fastopt_model))
        memset(&tensor, 0, sizeof(tensor))
        tensor.size, tensor.p, tensor.g = sizeof(tensor), somewhere, somewhere  # one tensor stands for all of the run
        tensor.n = run.count > 0 and run.tensors[0].n > 0
        for slot in range(len(self.rule.states)):
            if used & (1U << slot):
                tensor.state[slot] = somewhere
        group.type, group.count, group.tensors = run.type, 1, &tensor
        model.size, model.count, model.groups, model.grad_scale = sizeof(fastopt_model), 1, &group, 1.0
        model.workspace, model.workspace_size = somewhere, sizeof(somewhere)
        return capi.check(model)

    def __setattr__(self, str name not None, value):
        if self.set_number(0, self.group_count, name, value):  # the short way of `opt.lr = x`
            return
        if name[0] != "_":
            self._refuse_unknown(name)
        PyObject_GenericSetAttr(self, name, value)

    # ---- Step numbers and state. ----

    cdef void copy_groups(self, fastopt_group *groups) noexcept:
        """The first run of each group, which has the group's hyperparameters."""
        cdef size_t k
        for k in range(self.group_count):
            groups[k] = self.model.groups[self.first_run[k]]

    cdef void regroup(self, const fastopt_group *groups, const double *steps) noexcept:
        """Divides the groups, which have these hyperparameters, into runs of tensors that have taken these steps."""
        cdef size_t k, i, stop, c = 0
        cdef fastopt_group *run
        for k in range(self.group_count):
            self.first_run[k], i, stop = c, self.first_tensor[k], self.first_tensor[k + 1]
            while i < stop or c == self.first_run[k]:
                run = &self.model.groups[c]
                run[0] = groups[k]
                run.type, run.count, run.tensors, self.steps[c] = FASTOPT_F32, 0, &self.tensors[i], 0
                if i < stop:
                    run.type, self.steps[c] = type_of(self.views[i]), steps[i]
                while i < stop and type_of(self.views[i]) == run.type and steps[i] == self.steps[c]:
                    run.count += 1
                    i += 1
                c += 1
        self.first_run[self.group_count] = self.model.count = c

    def _steps(self):
        """How many steps each tensor has taken."""
        cdef size_t c, i = 0
        cdef list steps = [None] * self.tensor_count
        for c in range(self.model.count):
            taken = int(self.steps[c])
            for _ in range(self.model.groups[c].count):
                steps[i] = taken
                i += 1
        return steps

    def _group_of(self, size_t i):
        """The index of the group of a tensor."""
        cdef size_t k = 0
        while self.first_tensor[k + 1] <= i:
            k += 1
        return k

    def _buffers(self):
        """For each tensor the list of its state buffers, in the table's order; None where it has none."""
        return list(self.states)

    def _state(self, bint copied):
        """For each tensor what `state` has of it: the steps taken, and views or copies of what its buffers hold."""
        cdef list found = [None] * self.tensor_count
        cdef list buffers, steps = self._steps()
        cdef tuple names = self.rule.states
        cdef cnp.ndarray buffer
        cdef dict state
        cdef size_t i
        cdef Py_ssize_t slot, special = self.special()
        for i in range(self.tensor_count):
            state = {"step": steps[i]}
            buffers = self.states[i]
            for slot in range(len(names)):
                # The special buffer holds nothing before its first step.
                if buffers[slot] is not None and not (slot == special and steps[i] == 0):
                    buffer = buffers[slot]
                    state[names[slot]] = cnp.PyArray_NewCopy(buffer, cnp.NPY_CORDER) if copied else view_of(buffer)
            found[i] = state
        return found

    cdef Py_ssize_t special(self):
        """The slot of the state buffer whose first step is unlike the others, or -1."""
        slot = type(self)._special
        return -1 if slot is None else slot

    # ---- Changes. ----

    def _plan(self):
        """A plan that changes nothing yet."""
        cdef Plan plan = Plan.__new__(Plan)
        plan.begin(self)
        return plan

    def _adopt(self, Plan plan not None):
        """Becomes what was planned, or raises an error and stays as it is."""
        cdef Py_ssize_t j
        cdef list targets = plan.targets, sources = plan.sources
        self.guard()
        plan.complete(self)
        # From here on nothing can fail, and no bytecode runs into which an interrupt could fall. What was there before
        # goes into the plan, and lives until all is done.
        for j in range(len(targets)):
            copy_elements(targets[j], sources[j])
        self.states, plan.states = plan.states, self.states
        self.kept, plan.kept = plan.kept, self.kept
        self.used, plan.used = plan.used, self.used
        if plan.moved:
            self.place_all(False)
        self.regroup(plan.groups, plan.steps)


@cython.final
@cython.auto_pickle(False)
cdef class Plan:
    """What an optimizer is to become: put together and checked here, then adopted as a whole or not at all."""

    cdef Groups model
    cdef fastopt_group *groups    # for each group its hyperparameters
    cdef unsigned *used           # and which state buffers are in use
    cdef double *steps            # for each tensor the steps taken
    cdef list kept, states        # as in `Groups`
    cdef list starts              # for each group what new buffers start with: None, or a number for each of the rule's
    cdef list loaded              # (tensor, slot, array): what is copied to a state buffer
    cdef list params              # (tensor, array): what is copied to a parameter
    cdef list targets, sources    # views of what is written, and of what is copied there
    cdef bint moved               # whether other state buffers are in use

    def __dealloc__(self):
        PyMem_Free(self.groups)
        PyMem_Free(self.used)
        PyMem_Free(self.steps)

    cdef begin(self, Groups model):
        cdef size_t c, i = 0
        self.model = model
        self.groups = <fastopt_group *>zeroed(model.group_count, sizeof(fastopt_group))
        self.used = <unsigned *>zeroed(model.group_count, sizeof(unsigned))
        self.steps = <double *>zeroed(model.tensor_count, sizeof(double))
        model.copy_groups(self.groups)
        memcpy(self.used, model.used, model.group_count * sizeof(unsigned))
        for c in range(model.model.count):
            for _ in range(model.model.groups[c].count):
                self.steps[i] = model.steps[c]
                i += 1
        self.kept, self.states, self.starts = list(model.kept), list(model.states), [None] * model.group_count
        self.loaded, self.params, self.targets, self.sources = [], [], [], []

    def set_group(self, size_t k, dict values not None, starts, bint whole):
        """Gives a group these hyperparameters, all of them, and the state buffers that they call for.

        `starts` has for each of the rule's state buffers the number with which its elements begin; None: 0. `whole`:
        the optimizer is being made or loaded, so that its state is not compared with what it was.
        """
        cdef Groups model = self.model
        cdef fastopt_model answer
        cdef size_t c, i
        cdef Py_ssize_t special = model.special()
        cdef unsigned used = model.rule.buffers_in_use(values)
        cdef list states
        model.rule.set_by_name(&self.groups[k], values)
        for c in range(model.first_run[k], model.first_run[k + 1]):
            if model.check_run(&answer, self.groups[k], c, used):
                model.rule.fail(&answer.error, f" of group {k}" if model.group_count > 1 else "")
        self.kept[k] = {
            name: value for name, value in values.items()
            if name not in model.rule.columns and name not in model.rule.options
        }
        if used == self.used[k] and not whole:
            return
        self.used[k], self.starts[k], self.moved = used, starts, True
        if special < 0:
            return
        for i in range(model.first_tensor[k], model.first_tensor[k + 1]):
            states = self.states[i]
            if used & (1U << special):
                if states[special] is None:
                    self.steps[i] = 0
            elif states[special] is not None and self.steps[i] == 0:
                states = list(states)  # it holds nothing yet, and its first step is still to come
                states[special] = None
                self.states[i] = states

    def load_state(self, size_t i, double steps, list arrays not None):
        """Gives a tensor a step count and the contents of its state buffers; None: what a new buffer starts with.

        The arrays must be nobody else's. One for a buffer that is not in use is kept, for it may be called for again.
        """
        cdef Groups model = self.model
        cdef size_t k = model._group_of(i)
        cdef Py_ssize_t slot
        cdef list states = list(self.states[i]), starts = self.starts[k]
        for slot in range(len(states)):
            array = arrays[slot]
            if not self.used[k] & (1U << slot):
                states[slot] = None if array is None else zeros_like([model.views[i]])[0]
            if array is None and states[slot] is not None:
                array = np.full_like(states[slot], starts[slot] if starts else 0)
            if array is not None:
                self.loaded.append((i, slot, array))
        self.steps[i], self.states[i] = steps, states

    def load_param(self, size_t i, array):
        """Gives a parameter the elements of this array, which must be nobody else's."""
        self.params.append((i, array))

    cdef complete(self, Groups model):
        """Makes the state buffers that are called for and missing, and checks what is copied."""
        cdef size_t k, i
        cdef Py_ssize_t slot, slots = len(model.rule.states)
        cdef list missing = [], likes = [], made
        if self.moved:
            for k in range(model.group_count):
                for i in range(model.first_tensor[k], model.first_tensor[k + 1]):
                    states = self.states[i]
                    for slot in range(slots):
                        if self.used[k] & (1U << slot) and (<list>states)[slot] is None:
                            if states is self.states[i]:
                                states = list(states)
                            (<list>states)[slot] = len(likes)
                            likes.append(model.views[i])
                    if states is not self.states[i]:
                        missing.append((k, i, states))
            made = zeros_like(likes) if likes else likes
            for k, i, states in missing:
                for slot in range(slots):
                    if type((<list>states)[slot]) is int:
                        (<list>states)[slot] = made[(<list>states)[slot]]
                        if self.starts[k] is not None and (<list>self.starts[k])[slot]:
                            (<list>states)[slot].fill((<list>self.starts[k])[slot])
                self.states[i] = states
        for i, slot, array in self.loaded:
            self.copy((<list>self.states[i])[slot], array, <str>model.rule.states[slot], model.views[i])
        for i, array in self.params:
            as_array(model.param_name(i), model.arrays[i], True, False)
            self.copy(model.views[i], array, model.param_name(i), model.views[i])

    cdef copy(self, cnp.ndarray target, array, str name, cnp.ndarray like):
        """Has an array copied, which must have the type and shape of the parameter `like`."""
        cdef cnp.ndarray source = as_array(f"what {name} is to be", array, False, False)
        same_kind(f"what {name} is to be", source, name, like)
        self.targets.append(target)
        self.sources.append(view_of(source))


@cython.auto_pickle(False)
cdef class Group:
    """One group's hyperparameters, by their names. A subclass sets in `_set` what is more than one number.

    The optimizer has its groups, and they do not keep it alive: its memory is free as soon as nobody uses it any more.
    """

    cdef object reference
    cdef readonly size_t _index

    def __init__(self, Groups optimizer not None, size_t index):
        if index >= optimizer.group_count:
            raise ValueError(f"this optimizer has {optimizer.group_count} groups, so there is none with index {index}; "
                             "its groups are in param_groups")
        self.reference, self._index = weakref.ref(optimizer), index

    cdef Groups groups(self):
        groups = self.reference()
        if groups is None:
            raise ReferenceError(
                "the optimizer of this group no longer exists; keep it for as long as its groups are used")
        return groups

    @property
    def _optimizer(self):
        return self.groups()

    @property
    def _tensors(self):
        """The indices of the group's tensors."""
        cdef Groups groups = self.groups()
        return range(groups.first_tensor[self._index], groups.first_tensor[self._index + 1])

    def __getitem__(self, key):
        cdef Groups groups = self.groups()
        if key == "params":
            return groups.arrays[groups.first_tensor[self._index]:groups.first_tensor[self._index + 1]]
        return groups.hyper(self._index, key)

    def __setitem__(self, key, value):
        if not self.groups().set_number(self._index, self._index + 1, key, value):
            self._set(key, value)

    def __delitem__(self, key):
        raise TypeError(f"{shown(key)} cannot be removed from a group")
