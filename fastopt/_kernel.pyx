# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
"""One rule on one tensor: the common code of all functions in `kernels`."""

cimport numpy as cnp
from libc.string cimport memset

from fastopt cimport capi
from fastopt._boundary cimport as_array, as_gradient, same_kind, type_of
from fastopt._memory cimport Span, lay_gradient, lie_apart, sort_apart, span_of, strides_of, view_of, views_of
from fastopt._rules cimport Rule
from fastopt._runtime cimport KEEP_GIL
from fastopt.structs cimport FASTOPT_MAX_STATES, fastopt_group, fastopt_layout, fastopt_model, fastopt_tensor

cnp.import_array()

__all__ = []

ctypedef fused real:
    float
    double


cdef void point_to(real[::1] p, const real[::1] g, list states, fastopt_tensor *tensor):
    """Points a tensor to contiguous buffers of one type."""
    cdef real[::1] buffer
    cdef Py_ssize_t i
    tensor.n = p.shape[0]
    if tensor.n == 0:
        return
    tensor.p = &p[0]
    tensor.g = &g[0]
    for i in range(len(states)):
        if states[i] is not None:
            buffer = flat(states[i])
            tensor.state[i] = &buffer[0]


cdef void point_to_strided(cnp.ndarray p, cnp.ndarray g, list states, fastopt_tensor *tensor, fastopt_layout *layout):
    """Points a tensor to buffers of other layouts, and writes these into `layout`."""
    cdef Py_ssize_t i
    tensor.n = cnp.PyArray_SIZE(p)
    tensor.p = cnp.PyArray_DATA(p)
    tensor.g = cnp.PyArray_DATA(g)
    lay_gradient(layout, g, type_of(p))
    layout.ndim = cnp.PyArray_NDIM(p)
    layout.shape = <const Py_ssize_t *>cnp.PyArray_DIMS(p)
    layout.p_strides = strides_of(p)
    for i in range(len(states)):
        if states[i] is not None:
            tensor.state[i] = cnp.PyArray_DATA(states[i])
            layout.state_strides[i] = strides_of(states[i])
    tensor.layout = layout


cdef cnp.ndarray flat(cnp.ndarray a):
    return a if cnp.PyArray_NDIM(a) == 1 else a.reshape(-1)


cdef update(Rule rule, p, g, tuple states, tuple hyper, unsigned options):
    """One rule on one tensor: all checks, then the step. The order of the tuples is that of the rule's table."""
    cdef fastopt_model model
    cdef fastopt_group group
    cdef fastopt_tensor tensor
    cdef fastopt_layout layout
    cdef Span spans[2 + FASTOPT_MAX_STATES]
    cdef list buffers = [None] * len(states)
    cdef cnp.ndarray array, params = as_array("p", p, True, False), grad = as_gradient("g", g, False, True, "p", params)
    cdef Py_ssize_t i
    cdef size_t count = 2
    cdef int error
    cdef bint contiguous = (cnp.PyArray_TYPE(grad) == cnp.PyArray_TYPE(params) and cnp.PyArray_IS_C_CONTIGUOUS(grad)
                            and cnp.PyArray_IS_C_CONTIGUOUS(params))

    spans[0] = span_of(params, 0)
    spans[1] = span_of(grad, 1)
    for i in range(len(states)):
        if states[i] is None and i >= rule.required_states:
            continue
        array = as_array(<str>rule.states[i], states[i], True, False)
        same_kind(<str>rule.states[i], array, "p", params)
        contiguous = contiguous and cnp.PyArray_IS_C_CONTIGUOUS(array)
        buffers[i] = array
        spans[count] = span_of(array, 2 + i)
        count += 1
    if cnp.PyArray_SIZE(params) > 0 and not lie_apart(spans, count):
        sort_apart(spans, count, ["p", "g", *rule.states], "buffer")

    memset(&model, 0, sizeof(model))
    memset(&group, 0, sizeof(group))
    memset(&tensor, 0, sizeof(tensor))
    tensor.size = sizeof(tensor)
    if not contiguous:
        memset(&layout, 0, sizeof(layout))
        # New views, since other code could change the shapes and strides of the originals while the GIL is released.
        params, grad, buffers = view_of(params), view_of(grad), views_of(buffers)
        point_to_strided(params, grad, buffers, &tensor, &layout)
    elif cnp.PyArray_TYPE(params) == cnp.NPY_FLOAT:
        point_to[float](flat(params), flat(grad), buffers, &tensor)
    else:
        point_to[double](flat(params), flat(grad), buffers, &tensor)
    rule.fill(&group, hyper, options)
    group.type, group.count, group.tensors = type_of(params), 1, &tensor
    model.size, model.count, model.groups, model.grad_scale, model.threads = sizeof(model), 1, &group, 1.0, 1
    if rule.sums:
        memory = bytearray(capi.workspace(&model))
        model.workspace, model.workspace_size = <char *>memory, len(memory)
    if tensor.n <= KEEP_GIL:
        error = capi.step(&model)
    else:
        with nogil:
            error = capi.step(&model)
    if error:
        rule.fail(&model.error)
