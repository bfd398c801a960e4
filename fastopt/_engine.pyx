# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The step: checks the gradients, points the tensors to them, and calls the core once."""

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_Free
from libc.float cimport DBL_MAX

from fastopt cimport capi
from fastopt._boundary cimport as_array, as_gradient, norm_bound, number, type_of
from fastopt._groups cimport Groups
from fastopt._memory cimport Span, find_overlap, sort_apart, span_of, strides_of, view_of, zeroed
from fastopt._runtime cimport KEEP_GIL
from fastopt.structs cimport (
    FASTOPT_BF16, FASTOPT_CLIP_NORM, FASTOPT_SKIP_NONFINITE, FASTOPT_SKIPPED, FASTOPT_ZERO_GRAD, fastopt_layout,
)

import numpy as np

from fastopt._structure import shown

cnp.import_array()

__all__ = ["Engine"]


def _exported(cnp.ndarray array):
    """A memoryview, which keeps an array from being resized. NumPy exports no buffer of bfloat16, so that is cast."""
    return memoryview(array.view(np.uint16) if type_of(array) == FASTOPT_BF16 else array)


@cython.auto_pickle(False)
cdef class Engine(Groups):
    """The compiled half of every optimizer: parameters, state and hyperparameters in groups, and their step."""

    def __dealloc__(self):
        PyMem_Free(self.saved_rates)
        PyMem_Free(self.grad_spans)

    def _bind(self, list groups not None, structure):
        """Binds the parameters, a list of arrays for each group.

        `structure` names parameters and gradients in errors, and puts gradients in the order of the parameters.
        """
        cdef list params = groups[0] if len(groups) == 1 else [param for group in groups for param in group]
        self.bind_params(params, structure)
        self.make_groups(list(map(len, groups)))
        self.is_list, self.takes_step = structure.is_list, self.rule.hypers[0] == "step"
        self.saved_rates = <double *>zeroed(self.group_count + self.tensor_count, sizeof(double))
        self.grad_spans = <Span *>zeroed(self.tensor_count, sizeof(Span))
        self.grads = [None] * self.tensor_count

    # ---- Gradients. ----

    cdef list flatten(self, grads):
        """The gradients in the order of the parameters."""
        if self.is_list and type(grads) is list and len(<list>grads) == <Py_ssize_t>self.tensor_count:
            return grads
        return self.structure.flatten("grads", grads)

    cdef int use_grads(self, list grads, bint writable, bint allow_numbers, bint own_views=False) except -1:
        """Checks gradients, points the tensors to them and keeps them in `self.grads` until `release_grads`.

        With `allow_numbers` the gradient of a tensor without dimensions may be a number. With `own_views` the gradients
        are views that no other code has.
        """
        cdef size_t i
        cdef Py_ssize_t other
        cdef cnp.ndarray grad, param
        cdef void *data
        cdef bint staged
        cdef int kind
        self.at_bound = False
        for i in range(self.tensor_count):
            if i >= <size_t>len(grads):  # a gradient's own code may have shortened the list
                raise ValueError(f"{self.grad_name(i)} was taken out of its list while the list was being read")
            param, kind = self.arrays[i], self.numpy_types[i]
            if type(grads[i]) is cnp.ndarray:
                grad = grads[i]
                staged = (self.strided[i] or cnp.PyArray_TYPE(grad) != kind or not cnp.PyArray_ISCARRAY_RO(grad)
                          or not cnp.PyArray_SAMESHAPE(grad, param) or (writable and not cnp.PyArray_ISWRITEABLE(grad)))
            else:
                staged = True
            if staged:
                grad = as_gradient(self.grad_name(i), grads[i], writable, allow_numbers, self.param_name(i), param)
                staged = (self.strided[i] or cnp.PyArray_TYPE(grad) != kind or not cnp.PyArray_IS_C_CONTIGUOUS(grad))
            # The core reads strides with the shape that was bound. Where it needs none, an equal size is enough.
            if (cnp.PyArray_TYPE(param) != kind or not cnp.PyArray_ISNOTSWAPPED(param)
                    or <size_t>cnp.PyArray_SIZE(grad) != self.tensors[i].n
                    or (staged and not cnp.PyArray_SAMESHAPE(grad, <cnp.ndarray>self.views[i])
                        and (self.strided[i] or not cnp.PyArray_IS_C_CONTIGUOUS(grad)))):
                raise ValueError(f"{self.param_name(i)} has become {param.dtype} of shape {(<object>param).shape} "
                                 "since it was bound")
            data = cnp.PyArray_DATA(grad)
            # A contiguous gradient at the address of the last one was compared with the spans at an earlier step.
            if staged or self.tensors[i].layout != NULL or data != self.tensors[i].g:
                other = -1
                if staged or not self.lies_apart(<const char *>data, cnp.PyArray_NBYTES(grad)):
                    other = find_overlap(span_of(grad, 0), self.spans, self.span_count, self.spans_disjoint)
                if other >= 0:
                    raise ValueError(f"{self.grad_name(i)} shares memory with "
                                     f"{self.param_name(self.spans[other].owner)} or its state; a gradient needs its "
                                     "own")
                self.grads_disjoint = False
                self.tensors[i].g = data
                self.tensors[i].layout = NULL
            if staged:
                if not own_views:
                    grad = view_of(grad)
                self.lay_out(i, grad)
            self.grads[i] = grad
        return 0

    cdef bint lies_apart(self, const char *start, size_t size) noexcept:
        """Whether these bytes are known to touch nothing that a step writes: the fast path before `find_overlap`."""
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

    cdef void lay_out(self, size_t i, cnp.ndarray grad) noexcept:
        """Gives a tensor the layout that tells the core about its strides and the gradient's type."""
        cdef fastopt_layout *layout = &self.layouts[i]
        cdef cnp.ndarray view = self.views[i]
        layout.ndim, layout.shape = cnp.PyArray_NDIM(view), <const Py_ssize_t *>cnp.PyArray_DIMS(view)
        layout.g_type, layout.g_strides = type_of(grad), strides_of(grad)
        if layout.g_strides == NULL and not self.strided[i]:
            layout.ndim = 0
        self.tensors[i].layout = layout

    cdef release_grads(self):
        """Drops the references to the gradients of a step, so that the caller can free or resize them."""
        cdef size_t i
        for i in range(self.tensor_count):
            self.grads[i] = None

    cdef check_disjoint(self):
        """ValueError if two of the gradients in `grads` share memory."""
        cdef size_t i, count = 0
        for i in range(self.tensor_count):
            if self.tensors[i].n:
                self.grad_spans[count] = span_of(self.grads[i], i)
                count += 1
        sort_apart(self.grad_spans, count, self._grad_names, "gradient that is to be zeroed")
        self.grads_disjoint = True

    def bind(self, grads):
        """Bind the gradient arrays, so that `step()` needs no argument.

        Parameters
        ----------
        grads : array, sequence of arrays, mapping of arrays, sequence of groups, or None
            As in `step`. Write the gradients of each step into these arrays. None releases them.

        Raises
        ------
        TypeError, ValueError
            If a gradient is invalid; the message names it, and what was bound before stays bound.
        RuntimeError
            If another thread is in `step` of this optimizer.

        Notes
        -----
        The arrays are kept and cannot be resized while they are bound. A tensor of another library is bound by the
        memory that it has now: do not give it other memory (`tensor.data = ...`, `set_to_none=True`).
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
        cdef list flat = None if grads is None else self.flatten(grads)
        cdef list exports
        if self.busy:
            self.raise_busy()
        self.busy = True
        try:
            if flat is None:
                self.bound = self.given = self.bound_exports = None
                return
            self.use_grads(flat, False, False)
            exports, unzeroable = list(map(_exported, self.grads)), None
            try:
                for name, array in zip(self._grad_names(), self.grads):
                    as_array(name, array, True, True)
                self.check_disjoint()
            except ValueError as error:
                unzeroable = str(error)
            self.bound, self.given, self.bound_exports = list(self.grads), list(flat), exports
            self.unzeroable, self.at_bound = unzeroable, True
        finally:
            self.release_grads()
            self.busy = False

    cdef check_zeroable(self):
        """ValueError if the bound gradients cannot be zeroed, or no longer."""
        cdef size_t i
        if self.unzeroable is not None:
            raise ValueError(self.unzeroable)
        for i in range(self.tensor_count):
            if type(self.given[i]) is cnp.ndarray and not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self.given[i]):
                raise ValueError(f"{self.grad_name(i)} is no longer writable, but is to be zeroed")

    # ---- The step. ----

    def step(self, grads=None, *, lr=None, grad_scale=1.0, max_norm=None, zero_grad=False, skip_nonfinite=False):
        """Update every parameter in place from its gradient.

        Parameters
        ----------
        grads : array, sequence of arrays, mapping of arrays, or sequence of groups
            The gradients in the structure of `params`, each with the shape of its parameter: float16, bfloat16
            (`ml_dtypes`), float32 or float64, of any strides. One of another dtype than its parameter is converted as
            it is read, as `np.asarray(grad, param.dtype)` would; nothing is copied. Objects with the buffer protocol
            or DLPack (CPU tensors) may be given instead, and a number for a parameter without dimensions. A
            group's entry is `{"params": gradients}`. May be left out after `bind`.
        lr : float, optional
            The learning rate of all groups in this step alone; `opt.lr` does not change.
        grad_scale : float
            Factor of every gradient, finite: the product is formed in float64 and rounded once to the parameter's
            dtype. It can undo a loss scale, or average over accumulated batches.
        max_norm : float, optional
            Clip: use all gradients scaled so that their global norm, after `grad_scale`, is at most `max_norm`, which
            must be >= 0. `fastopt.clip_grad_norm` has the equation of the factor. The scaled values are not
            written to the gradients.
        zero_grad : bool
            Leave the gradients at zero after the step. They must be writable and share no memory.
        skip_nonfinite : bool
            Write nothing and count no step if the norm that is returned is NaN or infinite, as it is if an element of a
            gradient is.

        Returns
        -------
        float or None
            With `max_norm` or `skip_nonfinite` the global norm of the gradients after `grad_scale` and before
            clipping; otherwise None.

        Raises
        ------
        TypeError, ValueError
            If a gradient or an argument is invalid; the message names it, and nothing was written.
        RuntimeError
            If another thread is in `step` of this optimizer; nothing was written.

        Notes
        -----
        Each option adds at most one pass over the gradients, and gives the bits of separate calls:
        `step(grads, grad_scale=s)` gives those of multiplying the gradients by `s` first, and, where the gradients have
        their parameters' dtype, `step(grads, max_norm=c)` those of `clip_grad_norm(grads, c)` and then `step(grads)`.
        With both, the gradients are multiplied once, by the product of the two factors. A norm beyond the largest
        float64 counts as infinite.

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
        cdef list flat = None
        cdef unsigned extras = 0
        cdef double scale = 1.0, bound = 0.0, rate = 0.0
        cdef int error
        cdef Py_ssize_t column = -1
        cdef size_t c, i
        if grads is not None:
            flat = self.flatten(grads)
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
            self.raise_busy()
        # From here on the arguments run no code of their own, except gradients in `use_grads`, and `bound` stays.
        if flat is None and self.bound is None:
            raise TypeError("grads is None, and no gradients are bound; give them, or bind() them once")
        self.busy = True
        try:
            for i in range(self.tensor_count):
                if not cnp.PyArray_ISWRITEABLE(<cnp.ndarray>self.arrays[i]):
                    raise ValueError(f"{self.param_name(i)} is no longer writable; a parameter must stay writable "
                                     "while it is bound")
            if flat is not None:
                self.use_grads(flat, extras & FASTOPT_ZERO_GRAD, not extras & FASTOPT_ZERO_GRAD)
                if extras & FASTOPT_ZERO_GRAD and not self.grads_disjoint:
                    self.check_disjoint()
            else:
                if not self.at_bound:
                    self.use_grads(self.bound, False, False, True)
                    self.at_bound = True
                if extras & FASTOPT_ZERO_GRAD:
                    self.check_zeroable()
            self.model.grad_scale, self.model.max_norm, self.model.extras = scale, bound, extras
            if self.takes_step:
                for c in range(self.model.count):
                    self.model.groups[c].hyper[0] = self.steps[c] + 1
            if column >= 0:
                for c in range(self.model.count):
                    self.saved_rates[c], self.model.groups[c].hyper[column] = self.model.groups[c].hyper[column], rate
            if self.elements <= KEEP_GIL:
                error = capi.step(&self.model)
            else:
                with nogil:
                    error = capi.step(&self.model)
            if column >= 0:
                for c in range(self.model.count):
                    self.model.groups[c].hyper[column] = self.saved_rates[c]
            if error < 0:
                self.rule.fail(&self.model.error)
            if error != FASTOPT_SKIPPED:
                for c in range(self.model.count):
                    self.steps[c] += 1
            if extras & (FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE):
                return self.model.norm
        finally:
            if flat is not None:
                self.release_grads()
            self.busy = False
