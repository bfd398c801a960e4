# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""The global norm of gradients, and clipping by it."""

from cpython.mem cimport PyMem_Free
from libc.string cimport memset

from fastopt cimport capi
from fastopt._boundary cimport as_array, norm_bound, thread_count, type_of
from fastopt._memory cimport Span, lay_gradient, sort_apart, span_of, view_of, zeroed
from fastopt.structs cimport FASTOPT_F32, FASTOPT_F64, fastopt_group, fastopt_layout, fastopt_model, fastopt_tensor

cimport numpy as cnp

from fastopt._structure import Structure

cnp.import_array()

__all__ = ["clip_grad_norm", "global_norm"]


cdef double run(str name, object values, object threads, bint clip, double max_norm) except? -1.0:
    """Checks the arrays and calls the core, which computes their norm and, with `clip`, scales them."""
    structure = Structure(name, values)
    cdef list names = structure.names(name)
    cdef list arrays = []
    cdef size_t i, spans = 0, count = len(names)
    cdef cnp.ndarray array
    cdef fastopt_model model
    cdef fastopt_group *groups = NULL
    cdef fastopt_tensor *tensors = NULL
    cdef fastopt_layout *layouts = NULL
    cdef Span *places = NULL
    cdef int error
    memset(&model, 0, sizeof(model))
    try:
        groups = <fastopt_group *>zeroed(count, sizeof(fastopt_group))
        tensors = <fastopt_tensor *>zeroed(count, sizeof(fastopt_tensor))
        layouts = <fastopt_layout *>zeroed(count, sizeof(fastopt_layout))
        places = <Span *>zeroed(count, sizeof(Span))
        for i in range(count):
            array = view_of(as_array(names[i], structure.leaves[i], clip, True))
            arrays.append(array)
            tensors[i].size = sizeof(fastopt_tensor)
            tensors[i].n = cnp.PyArray_SIZE(array)
            tensors[i].g = cnp.PyArray_DATA(array)
            groups[i].size, groups[i].count, groups[i].tensors = sizeof(fastopt_group), 1, &tensors[i]
            groups[i].type = FASTOPT_F64 if type_of(array) == FASTOPT_F64 else FASTOPT_F32
            if lay_gradient(&layouts[i], array, groups[i].type):
                tensors[i].layout = &layouts[i]
            if tensors[i].n:
                places[spans] = span_of(array, i)
                spans += 1
        if clip:
            sort_apart(places, spans, names, "gradient that is to be scaled")
        model.size, model.count, model.groups = sizeof(model), count, groups
        model.max_norm, model.threads = max_norm, thread_count(threads)
        with nogil:
            error = capi.clip_grad_norm(&model) if clip else capi.global_norm(&model)
        if error:
            raise RuntimeError(f"the core refuses these arrays with error {error}")
        return model.norm
    finally:
        PyMem_Free(groups)
        PyMem_Free(tensors)
        PyMem_Free(layouts)
        PyMem_Free(places)


def global_norm(arrays, *, threads=None):
    """The Euclidean norm of all arrays together: `sqrt(sum of x*x over all elements x of all arrays)`.

    Parameters
    ----------
    arrays : array, sequence of arrays, or mapping of arrays
        float16, bfloat16 (`ml_dtypes`), float32 or float64, also mixed, of any shapes and strides; only read.
    threads : int, optional
        How many threads may work on it; None: `fastopt.get_num_threads()`.

    Returns
    -------
    float
        NaN or infinite exactly if an element is, or if the norm exceeds the largest float64.

    Raises
    ------
    TypeError, ValueError
        If an array is invalid; the message names it.

    Notes
    -----
    Squares are added in float64, in a fixed order that depends on the number of elements alone: the bits are the same
    on every instruction set and with any number of threads, and the same for one array and for its parts given in
    order. `csrc/fastopt.h` has the order, `fastopt.reference.global_norm` does the same in NumPy. PyTorch takes the
    norm of the norms of the tensors, in the gradients' dtype, in an order that depends on the machine. Values
    whose squares would overflow or vanish are scaled first.

    Examples
    --------
    >>> fastopt.global_norm([np.array([3.0]), np.array([4.0], np.float32)])
    5.0
    """
    return run("arrays", arrays, threads, False, 0.0)


def clip_grad_norm(grads, max_norm, *, threads=None):
    """Scale gradients in place so that their global norm is at most `max_norm`; return the norm before.

    Every gradient is multiplied by `min(1, max_norm/(norm + 1e-6))`, in float64 and rounded to its dtype (by way of
    float32 if that is narrower).

    Parameters
    ----------
    grads : array, sequence of arrays, or mapping of arrays
        float16, bfloat16 (`ml_dtypes`), float32 or float64, also mixed, of any shapes and strides, writable, no
        two elements of which share memory.
    max_norm : float
        At least 0; infinity leaves the gradients as they are.
    threads : int, optional
        How many threads may work on it; None: `fastopt.get_num_threads()`.

    Returns
    -------
    float
        `fastopt.global_norm(grads)` before the scaling.

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid; the message names it, and nothing was written.

    Notes
    -----
    Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, with PyTorch's 1e-6
    (`torch.nn.utils.clip_grad_norm_`); optax's `clip_by_global_norm` has none. A norm that is not finite makes the
    gradients NaN or zero, as in PyTorch: check the returned norm, or use `opt.step(..., skip_nonfinite=True)`.
    `opt.step(grads, max_norm=...)` gives the bits of this call and a step, with one pass less over the gradients.

    Examples
    --------
    >>> grads = [np.array([3.0]), np.array([4.0])]
    >>> fastopt.clip_grad_norm(grads, 1.0)
    5.0
    >>> [grad.round(6) for grad in grads]
    [array([0.6]), array([0.8])]
    """
    return run("grads", grads, threads, True, norm_bound(max_norm))
