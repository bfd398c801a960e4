# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The engine: a model's buffers, checked and bound once, stepped with one C call.

`Engine` is the compiled half of every optimizer. It knows buffers, hyperparameters in the order of the rule's table,
and step numbers; it knows no names of hyperparameters and no structure of a model beyond groups of consecutive tensors.
"""

cimport cython
from cpython.mem cimport PyMem_Free
from cpython.pythread cimport PyThread_get_thread_ident
from libc.float cimport DBL_MAX
from libc.string cimport memcpy, memset

from fastopt._core cimport (
    KEEP_GIL, Rule, Span, as_array, as_gradient, check, check_hyper, copy_elements, find_overlap, norm_bound, number,
    same_kind, sort_apart, span_of, step as step_model, strides_of, thread_count, type_of, views_of, workspace, zeroed,
)
from fastopt.structs cimport (
    FASTOPT_BF16, FASTOPT_CLIP_NORM, FASTOPT_F32, FASTOPT_MAX_STATES, FASTOPT_MAXIMIZE, FASTOPT_SKIP_NONFINITE,
    FASTOPT_SKIPPED, FASTOPT_ZERO_GRAD, fastopt_group,
    fastopt_layout, fastopt_model, fastopt_tensor,
)

cimport numpy as cnp

import operator

import numpy as np

from fastopt._core import RULES
from fastopt.structure import shown

cnp.import_array()

__all__ = ["Engine", "Group"]

# ---- Blocks. No bytecode runs while one is entered or left: Ctrl-C falls before it, into it or after it. ----

@cython.final
cdef class Held:
    """A block in which only this thread may change an engine, and nobody steps it."""

    cdef Engine engine
    cdef object reason
    cdef bint nested, entered

    def __enter__(self):
        cdef unsigned long thread = PyThread_get_thread_ident()
        if self.nested and self.engine.busy and self.engine.owner == thread:
            return
        if self.engine.busy:
            self.engine.refuse()
        self.engine.busy, self.engine.owner, self.engine.reason = True, thread, self.reason
        self.entered = True

    def __exit__(self, kind, value, trace):
        if self.entered:
            self.engine.busy, self.engine.owner, self.engine.reason = False, 0, None


@cython.final
cdef class Restored:
    """A block after which the parameters have the bits again that they had before it."""

    cdef Engine engine
    cdef list saved

    def __enter__(self):
        self.saved = list(map(operator.methodcaller("copy"), self.engine.views))

    def __exit__(self, kind, value, trace):
        cdef size_t i
        for i in range(self.engine.tensor_count):  # also if they have become read-only
            copy_elements(self.engine.views[i], self.saved[i])


# ---- The engine. ----

cdef void point(fastopt_tensor *tensor, list buffers) noexcept:
    """Points a tensor to its state buffers, of which some may be None."""
    cdef Py_ssize_t slot
    for slot in range(len(buffers)):
        tensor.state[slot] = NULL if buffers[slot] is None else cnp.PyArray_DATA(buffers[slot])


cdef bint lay_params(fastopt_layout *layout, cnp.ndarray param, list buffers) noexcept:
    """Writes how a parameter and its state are stored into a layout; False if the core needs none for them.

    The layout points into the arrays, which must be views that nobody else has.
    """
    cdef Py_ssize_t slot
    cdef bint needed = not cnp.PyArray_IS_C_CONTIGUOUS(param)
    layout.size = sizeof(fastopt_layout)
    layout.ndim = cnp.PyArray_NDIM(param)
    layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(param)
    layout.p_strides = strides_of(param)
    for slot in range(len(buffers)):
        layout.state_strides[slot] = NULL if buffers[slot] is None else strides_of(buffers[slot])
        needed = needed or layout.state_strides[slot] != NULL
    return needed


def _exported(cnp.ndarray array):
    """What keeps an array from being resized while it lives. NumPy exports no buffer of bfloat16."""
    return memoryview(array.view(np.uint16) if type_of(array) == FASTOPT_BF16 else array)


@cython.auto_pickle(False)
cdef class Engine:
    """The parameters of a model, its state buffers and perhaps its gradients, bound; and their step."""

    cdef Rule rule
    # The core's groups are runs: tensors of a group that follow each other and share type and step number. A group has one
    # run at least, and its hyperparameters stand in its runs and nowhere else.
    cdef fastopt_model model
    cdef size_t *first_run        # of each group; one more says where the last group ends
    cdef size_t *first_tensor
    cdef fastopt_tensor *tensors
    cdef fastopt_layout *layouts  # of each tensor, for when it needs one
    cdef int *kinds               # NumPy's number of each parameter's type, as it was bound
    cdef bint *strided            # whether parameter and state need it, whatever the gradient is
    cdef void *workspace          # of a rule with sums
    cdef Span *spans              # what a step writes, sorted
    cdef Span *grad_spans
    cdef double *taken            # for each run, the steps taken
    cdef double *own_rates        # and its learning rate, during a step with another one
    cdef size_t group_count, tensor_count, span_count, elements
    cdef bint has_step            # whether the rule counts
    cdef bint plain               # whether gradients come in a sequence of arrays
    cdef object structure         # in which parameters and gradients are given
    cdef list names, grad_names   # of the tensors, in errors
    cdef tuple arrays             # the parameters, which also keep the memory alive
    cdef list views               # of their memory: these keep the types and sizes that were bound
    cdef list states              # for each tensor a list of arrays or None, in the order of the rule's table
    cdef list state_views         # views of their memory
    cdef list exports             # memoryviews: while they live, no array can be resized
    cdef list held                # the gradients of the step under way
    cdef list bound               # the gradients that are fixed, or None
    cdef list bound_exports
    cdef object unzeroable        # what keeps the fixed gradients from being zeroed, or None
    cdef bint elsewhere           # whether the tensors' gradients are not the fixed ones
    cdef bint disjoint            # whether the tensors' gradients are known to share no memory
    cdef bint spans_disjoint      # whether what a step writes lies one after the other, without interleaving
    cdef bint busy                # read and written under the GIL
    cdef unsigned long owner      # the thread that may go on while it is busy, or 0
    cdef object reason            # what others are told meanwhile
    cdef object record            # what the subclass keeps of the present settings

    def __dealloc__(self):
        PyMem_Free(self.model.groups)
        PyMem_Free(self.first_run)
        PyMem_Free(self.first_tensor)
        PyMem_Free(self.tensors)
        PyMem_Free(self.layouts)
        PyMem_Free(self.kinds)
        PyMem_Free(self.strided)
        PyMem_Free(self.workspace)
        PyMem_Free(self.spans)
        PyMem_Free(self.grad_spans)
        PyMem_Free(self.taken)
        PyMem_Free(self.own_rates)

    def _bind_params(self, list groups, structure, record):
        """Binds the parameters, a list of arrays for each group.

        `structure` knows what errors call them and the gradients, and brings gradients into this order; `record` is the
        first `_record`.
        """
        cdef size_t count = sum(map(len, groups))
        cdef size_t k, i = 0
        cdef cnp.ndarray array
        cdef fastopt_group *first
        cdef double *steps
        if self.tensors:
            raise RuntimeError("this optimizer has its parameters already; make another one for others")
        self.rule = RULES[type(self).rule]
        self.has_step, self.plain, self.structure = self.rule.hypers[0] == "step", structure.plain, structure
        self.model.groups = <fastopt_group *>zeroed(len(groups) + count, sizeof(fastopt_group))
        self.taken = <double *>zeroed(len(groups) + count, sizeof(double))
        self.own_rates = <double *>zeroed(len(groups) + count, sizeof(double))
        self.first_run = <size_t *>zeroed(len(groups) + 1, sizeof(size_t))
        self.first_tensor = <size_t *>zeroed(len(groups) + 1, sizeof(size_t))
        self.spans = <Span *>zeroed((1 + FASTOPT_MAX_STATES) * count, sizeof(Span))
        self.grad_spans = <Span *>zeroed(count, sizeof(Span))
        self.tensors = <fastopt_tensor *>zeroed(count, sizeof(fastopt_tensor))
        self.layouts = <fastopt_layout *>zeroed(count, sizeof(fastopt_layout))
        self.kinds = <int *>zeroed(count, sizeof(int))
        self.strided = <bint *>zeroed(count, sizeof(bint))
        self.names, self.grad_names, self.exports = structure.names("params"), structure.names("grads"), []
        self.views, self.held = [None] * count, [None] * count
        self.states = [[None] * len(self.rule.states)] * count  # such a list is replaced and never changed
        self.state_views = list(self.states)
        arrays = []
        for k, group in enumerate(groups):
            for param in group:
                array = as_array(self.names[i], param, True, False)
                self.tensors[i].size = sizeof(fastopt_tensor)
                self.tensors[i].n = cnp.PyArray_SIZE(array)
                self.tensors[i].p = cnp.PyArray_DATA(array)
                self.kinds[i] = cnp.PyArray_TYPE(array)
                self.elements += self.tensors[i].n
                self.exports.append(memoryview(array))
                self.views[i] = array[...]
                arrays.append(array)
                i += 1
            self.first_tensor[k + 1] = i
            self.first_run[k + 1] = k + 1
            self.model.groups[k].size = sizeof(fastopt_group)
            self.model.groups[k].rule = self.rule.index
        self.arrays = tuple(arrays)
        self.group_count, self.tensor_count, self.record = len(groups), count, record
        self.find_spans(self.names)
        first = self.copied_groups()
        steps = <double *>zeroed(count, sizeof(double))
        self.regroup(first, steps)
        PyMem_Free(first)
        PyMem_Free(steps)
        self.model.size = sizeof(fastopt_model)
        self.model.workspace_size = workspace(&self.model)
        self.model.workspace = self.workspace = zeroed(self.model.workspace_size, 1)

    cdef find_spans(self, list names):
        """Points the tensors to their state and sorts what is written in a step by its place in memory.

        ValueError where two places overlap, unless `names` is None: then they are known not to.
        """
        cdef size_t i
        cdef Py_ssize_t slot
        cdef list buffers
        self.span_count = 0
        for i in range(self.tensor_count):
            buffers = self.state_views[i]
            self.add_span(self.views[i], i)
            for slot in range(len(buffers)):
                if buffers[slot] is not None:
                    self.add_span(buffers[slot], i)
            point(&self.tensors[i], buffers)
            self.strided[i] = lay_params(&self.layouts[i], self.views[i], self.state_views[i])
            self.tensors[i].g = NULL  # whatever it was, it has not been held against these places
        self.elsewhere = True
        self.spans_disjoint = sort_apart(self.spans, self.span_count, names, "parameter")

    cdef add_span(self, cnp.ndarray array, size_t i):
        if cnp.PyArray_SIZE(array):
            self.spans[self.span_count] = span_of(array, i)
            self.span_count += 1

    # ---- Who may use it. ----

    cdef refuse(self):
        raise RuntimeError(self.reason or "this optimizer is busy in another thread, or further up in this one; "
                                          "nothing was written")

    cdef guard(self):
        """RuntimeError if the engine is in use, unless this thread holds it."""
        if self.busy and self.owner != PyThread_get_thread_ident():
            self.refuse()

    def _held(self, reason=None, *, nested=False):
        """A block in which only this thread may change the engine and nobody steps; `reason` is what others hear.

        `nested`: or a block within such a block of the same thread. No loops in it, but calls of functions that have them:
        CPython 3.13.0 takes a loop's jump back for outside the block, and an interrupt there would not leave it.
        """
        cdef Held block = Held.__new__(Held)
        block.engine, block.reason, block.nested = self, reason, nested
        return block

    def _restored(self):
        """A block after which the parameters have the bits again that they had before it."""
        cdef Restored block = Restored.__new__(Restored)
        block.engine = self
        return block

    # ---- Hyperparameters, state and step numbers. ----

    @property
    def params(self):
        """The arrays that a step updates, in order."""
        return self.arrays

    @property
    def threads(self):
        """How many threads a step may use; None: `fastopt.get_num_threads()`."""
        return self.model.threads or None

    @threads.setter
    def threads(self, threads):
        cdef int count = thread_count(threads)
        self.guard()
        self.model.threads = count

    def _steps(self):
        """How many steps each tensor has taken."""
        cdef size_t c, i = 0
        cdef list steps = [None] * self.tensor_count
        for c in range(self.model.count):
            taken = int(self.taken[c])
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
        return self.record.kept[k][name]

    cdef bint set_number(self, size_t first, size_t stop, object name, object value) except -1:
        """Sets a number in these groups, if nothing else changes with it and it may be set; otherwise False."""
        cdef size_t c
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
        for c in range(self.first_run[first], self.first_run[stop]):
            if not self.allows(c, i, number):
                return False
        for c in range(self.first_run[first], self.first_run[stop]):
            self.model.groups[c].hyper[i] = number
        return True

    cdef bint allows(self, size_t c, int i, double number) noexcept:
        """Whether a hyperparameter of a run, by its place in the table, can become this number."""
        cdef fastopt_group *run = &self.model.groups[c]
        cdef fastopt_group group
        cdef fastopt_model model
        if check_hyper(run.rule, run.type, i, number):
            return False
        if not run.options & ~FASTOPT_MAXIMIZE:
            return True
        group = run[0]
        group.hyper[i] = number  # an option may ask something of it
        return self.check_run(&model, group, c, self.state_views) == 0

    def _set_number(self, name, value):
        """Sets a number in all groups, if nothing else changes with it and it may be set; otherwise False."""
        return self.set_number(0, self.group_count, name, value)

    @property
    def _record(self):
        """What the subclass last gave to `_configure`."""
        return self.record

    cdef fastopt_group *copied_groups(self) except NULL:
        """The first run of each group in memory of its own, for PyMem_Free."""
        cdef fastopt_group *groups = <fastopt_group *>zeroed(self.group_count, sizeof(fastopt_group))
        cdef size_t k
        for k in range(self.group_count):
            groups[k] = self.model.groups[self.first_run[k]]
        return groups

    cdef void regroup(self, const fastopt_group *groups, const double *steps) noexcept:
        """Divides the groups, which have these hyperparameters, into runs of tensors that have taken these steps."""
        cdef size_t k, i, stop, c = 0
        cdef fastopt_group *run
        for k in range(self.group_count):
            self.first_run[k], i, stop = c, self.first_tensor[k], self.first_tensor[k + 1]
            while i < stop or c == self.first_run[k]:
                run = &self.model.groups[c]
                run[0] = groups[k]
                run.type, run.count, run.tensors, self.taken[c] = FASTOPT_F32, 0, &self.tensors[i], 0
                if i < stop:
                    run.type, self.taken[c] = type_of(self.views[i]), steps[i]
                while i < stop and type_of(self.views[i]) == run.type and steps[i] == self.taken[c]:
                    run.count += 1
                    i += 1
                c += 1
        self.first_run[self.group_count] = self.model.count = c

    def _configure(self, list settings, list steps, record, list copies):
        """Changes all that a subclass may change, or raises an error and changes nothing.

        Parameters
        ----------
        settings
            For each group whose hyperparameters change a tuple: its index; hyperparameters in the order of the rule's
            table; option bits; and for each of its tensors a list of the state buffers in use, in the table's order,
            None for those that are not (or None instead of it all, if they are the same as before).
        steps
            How many steps each tensor has taken; the next one has the number after it.
        record
            The new `_record`.
        copies
            What is written to state buffers and parameters: the name in errors, the buffer, and an array like it.
        """
        cdef fastopt_group *groups = NULL
        cdef double *taken = NULL
        cdef fastopt_model model
        cdef size_t k, i, c
        cdef Py_ssize_t slot
        cdef list states, state_views, before = self.states, views_before = self.state_views
        cdef cnp.ndarray target, source
        cdef bint moved = False
        self.guard()
        try:
            groups = self.copied_groups()
            taken = <double *>zeroed(self.tensor_count, sizeof(double))
            for i in range(self.tensor_count):
                taken[i] = steps[i]
            states, state_views = list(before), list(views_before)
            for k, hyper, options, buffers in settings:
                self.rule.fill(&groups[k], hyper, options)
                for i, of_tensor in enumerate(buffers or (), start=self.first_tensor[k]):
                    for slot in range(len(<list>of_tensor)):
                        if (<list>of_tensor)[slot] is not None:
                            name = <str>self.rule.states[slot]
                            same_kind(name, as_array(name, (<list>of_tensor)[slot], True, False), <str>self.names[i],
                                      <cnp.ndarray>self.arrays[i])
                    states[i] = of_tensor
                    state_views[i] = views_of(of_tensor)
                    moved = True
                for c in range(self.first_run[k], self.first_run[k + 1]):
                    if self.check_run(&model, groups[k], c, states):
                        self.rule.fail(&model.error, f" of group {k}" if self.group_count > 1 else "")
            for name, target, source in copies:
                same_kind(f"what {name} is to be", as_array(f"what {name} is to be", source, False, False), name,
                          as_array(name, target, True, False))
            # From here on nothing can fail, and no bytecode runs into which an interrupt could fall.
            for _, target, source in copies:
                copy_elements(target, source)
            self.states, record, self.record = states, self.record, record  # what was there lives until all is done
            self.state_views = state_views
            if moved:
                self.find_spans(None)
            self.regroup(groups, taken)
        finally:
            PyMem_Free(groups)
            PyMem_Free(taken)

    cdef int check_run(self, fastopt_model *model, fastopt_group group, size_t c, list states) noexcept:
        """What the core says of the hyperparameters of `group` for a run whose tensors have these state buffers."""
        cdef const fastopt_group *run = &self.model.groups[c]
        cdef fastopt_tensor tensor
        cdef double sums[8]
        memset(model, 0, sizeof(fastopt_model))
        memset(&tensor, 0, sizeof(tensor))
        tensor.size, tensor.p, tensor.g = sizeof(tensor), sums, sums  # one of them stands for all; only looked at
        if run.count:
            tensor.n = run.tensors[0].n != 0
            point(&tensor, states[run.tensors - self.tensors])
        group.type, group.count, group.tensors = run.type, 1, &tensor
        model.size, model.count, model.groups, model.grad_scale = sizeof(fastopt_model), 1, &group, 1.0
        model.workspace, model.workspace_size = sums, sizeof(sums)
        return check(model)

    # ---- Gradients. ----

    cdef list flat(self, grads):
        """The gradients in the order of the parameters."""
        if self.plain and type(grads) is list and len(<list>grads) == <Py_ssize_t>self.tensor_count:
            return grads
        return self.structure.flatten("grads", grads)

    cdef int take(self, list grads, bint writable, bint numbers, bint ours=False) except -1:
        """Checks gradients and points the tensors to them; they stay in `held`.

        `numbers`: a tensor without dimensions may have one. `ours`: the gradients are views of our own.
        """
        cdef size_t i
        cdef Py_ssize_t other
        cdef cnp.ndarray grad, param
        cdef void *data
        cdef bint staged
        cdef int kind
        self.elsewhere = True
        for i in range(self.tensor_count):
            if i >= <size_t>len(grads):  # what a gradient does when it is asked for its memory may shorten the list
                raise ValueError(f"{self.grad_names[i]} was taken out of its list while that was read")
            param, kind = self.arrays[i], self.kinds[i]
            if type(grads[i]) is cnp.ndarray:
                grad = grads[i]
                staged = (self.strided[i] or cnp.PyArray_TYPE(grad) != kind or not cnp.PyArray_ISCARRAY_RO(grad)
                          or not cnp.PyArray_SAMESHAPE(grad, param) or (writable and not cnp.PyArray_ISWRITEABLE(grad)))
            else:
                staged = True
            if staged:
                grad = as_gradient(<str>self.grad_names[i], grads[i], writable, numbers, <str>self.names[i], param)
                staged = (self.strided[i] or cnp.PyArray_TYPE(grad) != kind or not cnp.PyArray_IS_C_CONTIGUOUS(grad))
            # Strides are read by the shape that was bound. Where there are none, another one of that size will do.
            if (cnp.PyArray_TYPE(param) != kind or <size_t>cnp.PyArray_SIZE(grad) != self.tensors[i].n
                    or (staged and not cnp.PyArray_SAMESHAPE(grad, <cnp.ndarray>self.views[i])
                        and (self.strided[i] or not cnp.PyArray_IS_C_CONTIGUOUS(grad)))):
                raise ValueError(f"{self.names[i]} has become {param.dtype} of shape {(<object>param).shape} since it "
                                 "was bound")
            data = cnp.PyArray_DATA(grad)
            # One that lies where the last one lay, and as that did, was checked at an earlier step.
            if staged or self.tensors[i].layout != NULL or data != self.tensors[i].g:
                other = -1
                if staged or not self.lies_apart(<const char *>data, cnp.PyArray_NBYTES(grad)):
                    other = find_overlap(span_of(grad, 0), self.spans, self.span_count, self.spans_disjoint)
                if other >= 0:
                    raise ValueError(f"{self.grad_names[i]} shares memory with {self.names[self.spans[other].owner]} "
                                     "or its state; a gradient needs its own")
                self.disjoint = False
                self.tensors[i].g = data
                self.tensors[i].layout = NULL
            if staged:
                if not ours:
                    grad = grad[...]
                self.stage(i, grad)
            self.held[i] = grad
        return 0

    cdef bint lies_apart(self, const char *start, size_t size) noexcept:
        """Whether so many bytes are known to touch nothing that a step writes: the short way to `find_overlap`."""
        cdef size_t low = 0, high = self.span_count, middle
        if not self.spans_disjoint:
            return False
        while low < high:
            middle = (low + high) // 2
            if self.spans[middle].end <= start:
                low = middle + 1
            else:
                high = middle
        return low == self.span_count or self.spans[low].start >= start + size

    cdef void stage(self, size_t i, cnp.ndarray grad) noexcept:
        """Describes to the core a tensor that is not stored as it is computed."""
        cdef fastopt_layout *layout = &self.layouts[i]
        cdef cnp.ndarray view = self.views[i]
        layout.ndim, layout.shape = cnp.PyArray_NDIM(view), <const Py_ssize_t *>cnp.PyArray_DIMS(view)
        layout.g_type, layout.g_strides = type_of(grad), strides_of(grad)
        if layout.g_strides == NULL and not self.strided[i]:
            layout.ndim = 0
        self.tensors[i].layout = layout

    cdef drop(self):
        """Lets go of the gradients of a step, so that their memory is the caller's again."""
        cdef size_t i
        for i in range(self.tensor_count):
            self.held[i] = None

    cdef check_disjoint(self):
        """ValueError if two of the gradients in `held` share memory."""
        cdef size_t i, count = 0
        for i in range(self.tensor_count):
            if self.tensors[i].n:
                self.grad_spans[count] = span_of(self.held[i], i)
                count += 1
        sort_apart(self.grad_spans, count, self.grad_names, "gradient that is to be zeroed")
        self.disjoint = True

    def bind(self, grads):
        """Fix the gradient arrays, so that `step()` needs no argument and looks at no tensor in Python.

        Parameters
        ----------
        grads : array, sequence of arrays, mapping of arrays, sequence of groups, or None
            As in `step`; whoever computes gradients then writes them into these arrays. None lets go of them.

        Raises
        ------
        TypeError, ValueError
            If a gradient will not do; the message names it, and what was bound before stays bound.
        RuntimeError
            If another thread is in `step` of this optimizer.

        Notes
        -----
        The arrays are kept and cannot be resized while they are bound. A tensor of another library takes part with the
        memory that it has now: do not let it be moved elsewhere (`tensor.data = ...`, `set_to_none=True`).
        `step(grads)` with other gradients is still possible. Copies and pickles of the optimizer are not bound.

        Examples
        --------
        >>> w, grad = np.array([1.0, -2.0]), np.empty(2)
        >>> opt = fastopt.SGD(w, lr=0.1)
        >>> opt.bind(grad)
        >>> for _ in range(3):
        ...     grad[:] = 2 * w
        ...     opt.step()
        >>> w
        array([ 0.512, -1.024])
        """
        cdef list leaves = None if grads is None else self.flat(grads)
        cdef list exports
        if self.busy:
            self.refuse()
        self.busy = True
        try:
            if leaves is None:
                self.bound = self.bound_exports = None
                return
            self.take(leaves, False, False)
            exports, unzeroable = list(map(_exported, self.held)), None
            try:
                for name, array in zip(self.grad_names, self.held):
                    as_array(name, array, True, True)
                self.check_disjoint()
            except ValueError as error:
                unzeroable = str(error)
            leaves = list(self.held)
            self.bound, self.bound_exports, self.unzeroable, self.elsewhere = leaves, exports, unzeroable, False
        finally:
            self.drop()
            self.busy = False

    # ---- The step. ----

    def step(self, grads=None, *, lr=None, grad_scale=1.0, max_norm=None, zero_grad=False, skip_nonfinite=False):
        """Update every parameter in place from its gradient.

        Parameters
        ----------
        grads : array, sequence of arrays, mapping of arrays, or sequence of groups
            The gradients in the structure of `params`, each with the shape of its parameter: float16, bfloat16
            (`ml_dtypes`), float32 or float64, of any strides. One of another dtype than its parameter is converted as
            it is read, as `np.asarray(grad, param.dtype)` would; nothing is copied. Objects with the buffer protocol
            or DLPack (CPU tensors) will do in place of arrays, and a number for a parameter without dimensions. A
            group's entry is `{"params": gradients}`. May be left out after `bind`.
        lr : float, optional
            The learning rate of all groups in this step alone; what `opt.lr` says stays.
        grad_scale : float
            Every gradient is multiplied by it, in float64 and rounded once to its parameter's dtype: to undo a loss
            scale, or to average over accumulated batches. Finite.
        max_norm : float, optional
            Clip: scale all gradients so that their global norm, after `grad_scale`, is at most this, >= 0. The
            factor is that of `fastopt.clip_grad_norm`, which has the equation; the gradients themselves stay as they
            are.
        zero_grad : bool
            Leave the gradients at zero after the step. They must be writable and share no memory.
        skip_nonfinite : bool
            Write nothing and count no step if a gradient is NaN or infinite: if the norm that is returned is.

        Returns
        -------
        float or None
            With `max_norm` or `skip_nonfinite` the global norm of the gradients after `grad_scale` and before
            clipping; otherwise None.

        Raises
        ------
        TypeError, ValueError
            If a gradient or an argument will not do; the message names it, and no parameter has been touched.
        RuntimeError
            If another thread is in `step` of this optimizer; nothing was written.

        Notes
        -----
        Each extra costs no more than the pass over memory that it needs (one that reads the gradients for the norm),
        and gives the bits of doing it separately: `step(grads, max_norm=c)` those of `clip_grad_norm(grads, c)` and
        `step(grads)` where the gradients have their parameters' dtype, `step(grads, grad_scale=s)` those of multiplying the gradients by `s` before. Where both are
        given, the gradients are multiplied once, by the product of the two factors. A norm beyond the largest float64
        counts as infinite.

        Examples
        --------
        >>> w = np.array([1.0, -2.0])
        >>> opt = fastopt.SGD(w, lr=1.0)
        >>> opt.step(np.array([3.0, 4.0]), max_norm=0.5)
        5.0
        >>> w.round(6)
        array([ 0.7, -2.4])
        >>> opt.step(np.array([np.inf, 4.0]), skip_nonfinite=True)
        inf
        >>> w.round(6)
        array([ 0.7, -2.4])
        """
        cdef list leaves = None
        cdef unsigned extras = 0
        cdef double scale = 1.0, bound = 0.0, rate = 0.0
        cdef int error
        cdef Py_ssize_t column = -1
        cdef size_t c, i
        if grads is not None:
            leaves = self.flat(grads)
        if grad_scale is not 1.0:
            scale = number("grad_scale", grad_scale)
            if not -DBL_MAX <= scale <= DBL_MAX:
                raise ValueError(f"grad_scale must be a finite number, got {shown(grad_scale)}")
        if lr is not None:
            column, rate = self.rule.columns["lr"], number("lr", lr)
        if max_norm is not None:
            bound = norm_bound(max_norm)
            extras |= FASTOPT_CLIP_NORM
        if zero_grad:
            extras |= FASTOPT_ZERO_GRAD
        if skip_nonfinite:
            extras |= FASTOPT_SKIP_NONFINITE
        if self.busy:
            self.refuse()
        # From here on no code of the arguments runs but that of gradients, and nobody binds others.
        if leaves is None and self.bound is None:
            raise TypeError("grads is None, and no gradients are bound; give them, or bind() them once")
        self.busy = True
        try:
            for i in range(self.tensor_count):
                if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self.arrays[i]):
                    raise ValueError(f"{self.names[i]} has become read-only since it was bound, but is to be written")
            if leaves is not None:
                self.take(leaves, extras & FASTOPT_ZERO_GRAD, not extras & FASTOPT_ZERO_GRAD)
                if extras & FASTOPT_ZERO_GRAD and not self.disjoint:
                    self.check_disjoint()
            else:
                if self.elsewhere:
                    self.take(self.bound, False, False, True)
                    self.elsewhere = False
                if extras & FASTOPT_ZERO_GRAD and self.unzeroable is not None:
                    raise ValueError(self.unzeroable)
            self.model.grad_scale, self.model.max_norm, self.model.extras = scale, bound, extras
            if self.has_step:
                for c in range(self.model.count):
                    self.model.groups[c].hyper[0] = self.taken[c] + 1
            if column >= 0:
                for c in range(self.model.count):
                    self.own_rates[c], self.model.groups[c].hyper[column] = self.model.groups[c].hyper[column], rate
            if self.elements <= KEEP_GIL:
                error = step_model(&self.model)
            else:
                with nogil:
                    error = step_model(&self.model)
            if column >= 0:
                for c in range(self.model.count):
                    self.model.groups[c].hyper[column] = self.own_rates[c]
            if error < 0:
                self.rule.fail(&self.model.error)
            if error != FASTOPT_SKIPPED:
                for c in range(self.model.count):
                    self.taken[c] += 1
            if extras & (FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE):
                return self.model.norm
        finally:
            if leaves is not None:
                self.drop()
            self.busy = False


cdef class Group:
    """One group's hyperparameters, by their names. A subclass sets in `_set` what is more than one number."""

    cdef readonly Engine _optimizer
    cdef readonly size_t _index

    def __init__(self, Engine optimizer, size_t index):
        self._optimizer, self._index = optimizer, index

    @property
    def _tensors(self):
        """The indices of the group's tensors."""
        return range(self._optimizer.first_tensor[self._index], self._optimizer.first_tensor[self._index + 1])

    def __getitem__(self, key):
        cdef Engine engine = self._optimizer
        if key == "params":
            return engine.arrays[engine.first_tensor[self._index]:engine.first_tensor[self._index + 1]]
        return engine.hyper(self._index, key)

    def __setitem__(self, key, value):
        if not self._optimizer.set_number(self._index, self._index + 1, key, value):
            self._set(key, value)

    def __delitem__(self, key):
        raise TypeError(f"{shown(key)} cannot be removed from a group")
