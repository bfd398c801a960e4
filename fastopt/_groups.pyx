# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""Groups of parameters: their hyperparameters, the state buffers that these call for, and the steps taken."""

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
    """A model's parameters in groups, each with hyperparameters of its own."""

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
        self.extra_hypers = [{}] * count  # shared by the groups: replaced, never changed
        try:
            groups = <fastopt_group *>zeroed(count, sizeof(fastopt_group))
            steps = <double *>zeroed(self.tensor_count, sizeof(double))
            for k in range(count):
                self.first_tensor[k + 1] = self.first_tensor[k] + <size_t>sizes[k]
                self.rule.begin(&groups[k], 0)
            self.group_count = count
            self.point_all(True)
            self.regroup(groups, steps)
        finally:
            PyMem_Free(groups)
            PyMem_Free(steps)
        self.model.size = sizeof(fastopt_model)
        self.model.workspace_size = capi.workspace(&self.model)
        self.model.workspace = self.workspace = zeroed(self.model.workspace_size, 1)

    cdef point_all(self, bint check):
        """Points all tensors to their state buffers, and sorts the memory that a step writes by address."""
        cdef size_t k, i
        self.span_count = 0
        for k in range(self.group_count):
            for i in range(self.first_tensor[k], self.first_tensor[k + 1]):
                self.point_tensor(i, self.used[k])
        self.sort_spans(check)

    @property
    def threads(self):
        """How many threads a step may use; None: `fastopt.get_num_threads()`."""
        return self.model.threads or None

    @threads.setter
    def threads(self, threads):
        cdef int count = thread_count(threads)
        self.check_idle()
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
        return (<dict>self.extra_hypers[k])[name]

    cdef bint set_number(self, size_t first, size_t stop, object name, object value) except -1:
        """Sets one number in groups first..stop-1 if it is allowed and changes nothing else; otherwise False."""
        cdef size_t k, c
        cdef int i
        cdef double number
        cdef object column
        if not (type(value) is float or type(value) is int) or self.rule is None:
            return False
        column = self.rule.numbers.get(name)
        if column is None or (self.busy and self.busy_thread != PyThread_get_thread_ident()):
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
        """Whether the hyperparameter at index `column` of the table may become `number` in run `c` of group `k`."""
        cdef fastopt_group *run = &self.model.groups[c]
        cdef fastopt_group group
        cdef fastopt_model model
        if capi.check_hyper(run.rule, run.type, column, number):
            return False
        if not run.options & ~FASTOPT_MAXIMIZE:
            return True
        group = run[0]
        group.hyper[column] = number  # the rule may need a certain value for an option that is on
        return self.check_run(&model, group, c, self.used[k]) == 0

    cdef int check_run(self, fastopt_model *model, fastopt_group group, size_t c, unsigned used) noexcept:
        """The core's return value for the hyperparameters of `group` in run `c` with these state buffers."""
        cdef const fastopt_group *run = &self.model.groups[c]
        cdef fastopt_tensor tensor
        cdef double dummy[8]  # the core checks that buffers are given, and reads none of them
        cdef int slot
        memset(model, 0, sizeof(fastopt_model))
        memset(&tensor, 0, sizeof(tensor))
        tensor.size, tensor.p, tensor.g = sizeof(tensor), dummy, dummy  # one tensor stands for the whole run
        tensor.n = run.count > 0 and run.tensors[0].n > 0
        for slot in range(len(self.rule.states)):
            if used & (1U << slot):
                tensor.state[slot] = dummy
        group.type, group.count, group.tensors = run.type, 1, &tensor
        model.size, model.count, model.groups, model.grad_scale = sizeof(fastopt_model), 1, &group, 1.0
        model.workspace, model.workspace_size = dummy, sizeof(dummy)
        return capi.check(model)

    def __setattr__(self, str name not None, value):
        if self.set_number(0, self.group_count, name, value):  # the fast path of `opt.lr = x`
            return
        if name[0] != "_":
            self._refuse_unknown(name)
        PyObject_GenericSetAttr(self, name, value)

    # ---- Step numbers and state. ----

    cdef void copy_groups(self, fastopt_group *groups) noexcept:
        """Copies the first run of each group, which has the group's hyperparameters, to `groups`."""
        cdef size_t k
        for k in range(self.group_count):
            groups[k] = self.model.groups[self.first_run[k]]

    cdef void regroup(self, const fastopt_group *groups, const double *steps) noexcept:
        """Divides the groups into runs, given each group's hyperparameters and the steps that each tensor has taken."""
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
        """The index of the group to which tensor `i` belongs."""
        cdef size_t k = 0
        while self.first_tensor[k + 1] <= i:
            k += 1
        return k

    def _buffers(self):
        """For each tensor the list of its state buffers, in the table's order; None for each buffer that it lacks."""
        return list(self.states)

    def _state(self, bint copied):
        """For each tensor its entry in `Optimizer.state`: the steps taken, and views or copies of its state buffers."""
        cdef list found = [None] * self.tensor_count
        cdef list buffers, steps = self._steps()
        cdef tuple names = self.rule.states
        cdef cnp.ndarray buffer
        cdef dict state
        cdef size_t i
        cdef Py_ssize_t slot, lazy = self.lazy_slot()
        for i in range(self.tensor_count):
            state = {"step": steps[i]}
            buffers = self.states[i]
            for slot in range(len(names)):
                # The lazy buffer holds nothing before the first step.
                if buffers[slot] is not None and not (slot == lazy and steps[i] == 0):
                    buffer = buffers[slot]
                    state[names[slot]] = cnp.PyArray_NewCopy(buffer, cnp.NPY_CORDER) if copied else view_of(buffer)
            found[i] = state
        return found

    cdef Py_ssize_t lazy_slot(self):
        """The slot of the state buffer that holds nothing until the first step fills it, or -1 if the rule has none."""
        slot = type(self)._lazy_slot
        return -1 if slot is None else slot

    # ---- Changes. ----

    def _plan(self):
        """A new plan, which starts as a copy of what the optimizer is now."""
        cdef Plan plan = Plan.__new__(Plan)
        plan.begin(self)
        return plan

    def _adopt(self, Plan plan not None):
        """Carries out a whole plan, or raises an error and changes nothing."""
        cdef Py_ssize_t j
        cdef list targets = plan.targets, sources = plan.sources
        self.check_idle()
        plan.complete(self)
        # From here on nothing can fail, and no bytecode runs in which an interrupt could be raised. The old lists go
        # into the plan, so that nothing is freed before all is done.
        for j in range(len(targets)):
            copy_elements(targets[j], sources[j])
        self.states, plan.states = plan.states, self.states
        self.extra_hypers, plan.extra_hypers = plan.extra_hypers, self.extra_hypers
        self.used, plan.used = plan.used, self.used
        if plan.moved:
            self.point_all(False)
        self.regroup(plan.groups, plan.steps)


@cython.final
@cython.auto_pickle(False)
cdef class Plan:
    """A change of an optimizer: put together and checked as a whole, then adopted as a whole or not at all."""

    cdef Groups model
    cdef fastopt_group *groups    # for each group its hyperparameters
    cdef unsigned *used           # for each group the state buffers in use
    cdef double *steps            # for each tensor the steps taken
    cdef list extra_hypers, states  # as in `Groups`
    cdef list starts              # for each group the initial values of the rule's state buffers; None if all are 0
    cdef list loaded              # (tensor, slot, array): arrays to copy to state buffers
    cdef list params              # (tensor, array): arrays to copy to parameters
    cdef list targets, sources    # views of the arrays that are written, and of the arrays copied to them
    cdef bint moved               # whether the set of state buffers in use changes

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
        self.extra_hypers, self.states = list(model.extra_hypers), list(model.states)
        self.starts = [None] * model.group_count
        self.loaded, self.params, self.targets, self.sources = [], [], [], []

    def set_group(self, size_t k, dict values not None, starts, bint whole):
        """Plans all hyperparameters of a group, and the state buffers that they call for.

        `starts` has the initial value of each of the rule's state buffers; None if all are 0. `whole` says that the
        optimizer is being created or loaded: then the buffers are set up even if the same ones were in use before.
        """
        cdef Groups model = self.model
        cdef fastopt_model answer
        cdef size_t c, i
        cdef Py_ssize_t lazy = model.lazy_slot()
        cdef unsigned used = model.rule.buffers_in_use(values)
        cdef list states
        model.rule.set_by_name(&self.groups[k], values)
        for c in range(model.first_run[k], model.first_run[k + 1]):
            if model.check_run(&answer, self.groups[k], c, used):
                model.rule.fail(&answer.error, f" of group {k}" if model.group_count > 1 else "")
        self.extra_hypers[k] = {
            name: value for name, value in values.items()
            if name not in model.rule.columns and name not in model.rule.options
        }
        if used == self.used[k] and not whole:
            return
        self.used[k], self.starts[k], self.moved = used, starts, True
        if lazy < 0:
            return
        for i in range(model.first_tensor[k], model.first_tensor[k + 1]):
            states = self.states[i]
            if used & (1U << lazy):
                if states[lazy] is None:
                    self.steps[i] = 0
            elif states[lazy] is not None and self.steps[i] == 0:
                states = list(states)  # drop it: the first step, which would fill it, has not been taken
                states[lazy] = None
                self.states[i] = states

    def load_state(self, size_t i, double steps, list arrays not None):
        """Plans a tensor's step count and the contents of its state buffers; None for a buffer's initial value.

        No other code may hold the arrays. The array of a buffer that is not in use is kept, since a later change of
        hyperparameters may call for that buffer again.
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
        """Plans the elements of a parameter: those of this array, which no other code may hold."""
        self.params.append((i, array))

    cdef complete(self, Groups model):
        """Makes the state buffers that are in use and missing, and checks the arrays that are to be copied."""
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
        """Adds a copy to the plan; the array must have the type and shape of the parameter `like`."""
        cdef cnp.ndarray source = as_array(f"the new {name}", array, False, False)
        same_kind(f"the new {name}", source, name, like)
        self.targets.append(target)
        self.sources.append(view_of(source))


@cython.auto_pickle(False)
cdef class Group:
    """One group's hyperparameters, by their names. A subclass has `_set` for every change that `set_number` declines.

    A group has a weak reference to its optimizer, so that the pair is no cycle: the memory of an optimizer is freed as
    soon as no other code refers to it.
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
