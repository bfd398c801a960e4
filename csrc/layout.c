/*
 * layout.c - how the buffers of a tensor are stored: the check of the caller's fastopt_layout, and the preparation of a
 * tensor for a walk over its elements.
 */
#include "walk.h"

/* ---- The check of a layout. ---- */

/* Stores which field is wrong and what it may be, and returns the code. */
static int refuse(fastopt_bad_field *bad, int code, const char *name, const char *takes)
{
    *bad = (fastopt_bad_field){name, takes};
    return code;
}

/* Checks the strides of one buffer. If it is `written`, no two elements may have the same address. */
static int check_strides(const fastopt_layout *layout, const ptrdiff_t *strides, int type, int written,
                         const char *name, fastopt_bad_field *bad)
{
    if (!layout->ndim)
        return strides ? refuse(bad, FASTOPT_ERR_UNUSED, name, "NULL where ndim is 0") : FASTOPT_OK;
    for (int d = 0; strides && d < layout->ndim; d++) {
        if (layout->shape[d] < 2)
            continue;
        if (strides[d] % (ptrdiff_t)fastopt_size_of(type))
            return refuse(bad, FASTOPT_ERR_LAYOUT, name, "multiples of the size of an element");
        if (written && !strides[d])
            return refuse(bad, FASTOPT_ERR_LAYOUT, name,
                          "other than 0: each element that is written needs its own place");
    }
    return FASTOPT_OK;
}

/* Checks the type and the strides of a buffer that is written; `names` are those of the two fields. */
static int check_stored(const fastopt_layout *layout, int type, const ptrdiff_t *strides, int computed,
                        const char *names[2], fastopt_bad_field *bad)
{
    if (type && type != computed)
        return refuse(bad, FASTOPT_ERR_TYPE, names[0], "0 or the type of the group");
    return check_strides(layout, strides, computed, 1, names[1], bad);
}

/* Checks the parameters and the state. */
static int check_written(const fastopt_group *group, const fastopt_tensor *tensor, const fastopt_layout *layout,
                         fastopt_bad_field *bad)
{
    static const char *of_p[] = {"layout.p_type", "layout.p_strides"};
    static const char *of_state[] = {"layout.state_type", "layout.state_strides"};
    int error = check_stored(layout, layout->p_type, layout->p_strides, group->type, of_p, bad);

    for (int j = 0; !error && j < FASTOPT_MAX_STATES; j++) {
        if (tensor->state[j])
            error = check_stored(layout, layout->state_type[j], layout->state_strides[j], group->type, of_state, bad);
        else if (layout->state_type[j] || layout->state_strides[j])
            error = refuse(bad, FASTOPT_ERR_UNUSED, of_state[layout->state_type[j] == 0],
                           "0 for a state that the tensor does not have");
    }
    return error;
}

static int check_shape(const fastopt_layout *layout, size_t n, fastopt_bad_field *bad)
{
    if (layout->ndim < 0 || layout->ndim > FASTOPT_MAX_DIMS)
        return refuse(bad, FASTOPT_ERR_LAYOUT, "layout.ndim", "from 0 to FASTOPT_MAX_DIMS");
    for (int d = 0; layout->shape && d < layout->ndim; d++) {
        const ptrdiff_t size = layout->shape[d];
        if (size < 1 || n % (size_t)size)
            return refuse(bad, FASTOPT_ERR_LAYOUT, "layout.shape", "sizes that multiply to n");
        n /= (size_t)size;
    }
    if (layout->ndim && (!layout->shape || n != 1))
        return refuse(bad, FASTOPT_ERR_LAYOUT, "layout.shape", "sizes that multiply to n");
    return FASTOPT_OK;
}

FASTOPT_INTERNAL int fastopt_check_layout(const fastopt_group *group, const fastopt_tensor *tensor, int gradient,
                                          int zeroed, fastopt_bad_field *bad)
{
    const fastopt_layout *layout = tensor->layout;
    int error;

    if (!layout || !tensor->n)
        return FASTOPT_OK;
    if (layout->size != sizeof *layout)
        return refuse(bad, FASTOPT_ERR_SIZE, "layout.size", "sizeof(fastopt_layout)");
    if (layout->g_type < 0 || layout->g_type >= FASTOPT_TYPES)
        return refuse(bad, FASTOPT_ERR_TYPE, "layout.g_type", "0 or a type from FASTOPT_F32 to FASTOPT_BF16");
    error = check_shape(layout, tensor->n, bad);
    if (!error)
        error = check_strides(layout, layout->g_strides, layout->g_type ? layout->g_type : group->type, zeroed,
                              "layout.g_strides", bad);
    return error || gradient ? error : check_written(group, tensor, layout, bad);
}

/* ---- The axes in the order of a walk. ---- */

/* Adds a buffer with its strides. Axes of one element are left out, as in it->size. */
static void add_buffer(tensor_iterator *it, int slot, const void *base, int type, const ptrdiff_t *strides,
                       const fastopt_layout *layout)
{
    buffer *b = &it->buffers[slot];
    ptrdiff_t contiguous;
    int axis = it->ndim;

    b->base = (char *)(uintptr_t)base;
    b->type = type ? type : it->type;
    b->item_size = (ptrdiff_t)fastopt_size_of(b->type);
    b->scaled = slot == G && it->walk->factor != 1.0;
    if (!layout || !layout->ndim) {
        b->stride[0] = b->item_size;
        return;
    }
    contiguous = b->item_size;
    for (int d = layout->ndim - 1; d >= 0; d--) {
        if (layout->shape[d] != 1)
            b->stride[--axis] = strides ? strides[d] : contiguous;
        contiguous *= layout->shape[d];
    }
    if (axis)
        b->stride[0] = b->item_size; /* all dimensions are of one element */
}

/* The buffer whose addresses decide on the order of the walk. */
static buffer *first_buffer(tensor_iterator *it)
{
    return it->buffers[P].base ? &it->buffers[P] : &it->buffers[G];
}

static void swap_axes(tensor_iterator *it, int i, int j)
{
    const size_t size = it->size[i];

    it->size[i] = it->size[j], it->size[j] = size;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        if (it->buffers[k].base) {
            ptrdiff_t *const stride = it->buffers[k].stride, kept = stride[i];
            stride[i] = stride[j], stride[j] = kept;
        }
    }
}

/*
 * Orders the axes by the first buffer: along each its addresses grow, and the axis of its smallest stride is the last
 * one.
 */
static void sort_axes(tensor_iterator *it)
{
    const ptrdiff_t *const stride = first_buffer(it)->stride;

    for (int d = 0; d < it->ndim; d++)
        if (stride[d] < 0)
            for (int k = 0; k < FASTOPT_BUFFERS; k++) {
                buffer *const b = &it->buffers[k];
                if (b->base) {
                    b->base += (ptrdiff_t)(it->size[d] - 1) * b->stride[d];
                    b->stride[d] = -b->stride[d];
                }
            }
    for (int i = 1; i < it->ndim; i++)
        for (int j = i; j > 0 && stride[j - 1] < stride[j]; j--)
            swap_axes(it, j - 1, j);
}

/* Whether axes d and d + 1 can be walked as one axis, in every buffer. */
static int can_merge(const tensor_iterator *it, int d)
{
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        if (it->buffers[k].base &&
            it->buffers[k].stride[d] != (ptrdiff_t)it->size[d + 1] * it->buffers[k].stride[d + 1])
            return 0;
    return 1;
}

/* Merges adjacent axes where that is possible, so that rows become as long as they can be. */
static void merge_axes(tensor_iterator *it)
{
    int last = 0;

    for (int d = 1; d < it->ndim; d++) { /* `last` is the axis that d is merged into, or that d follows */
        it->size[last + 1] = it->size[d];
        for (int k = 0; k < FASTOPT_BUFFERS; k++)
            if (it->buffers[k].base)
                it->buffers[k].stride[last + 1] = it->buffers[k].stride[d];
        if (can_merge(it, last)) {
            it->size[last] *= it->size[last + 1];
            for (int k = 0; k < FASTOPT_BUFFERS; k++)
                if (it->buffers[k].base)
                    it->buffers[k].stride[last] = it->buffers[k].stride[last + 1];
        } else {
            last++;
        }
    }
    it->ndim = last + 1;
}

/* Whether the elements of a buffer are contiguous in the order of the walk. */
static int is_dense(const tensor_iterator *it, const buffer *b)
{
    if (b->stride[it->ndim - 1] != b->item_size)
        return 0;
    for (int d = 0; d < it->ndim - 1; d++)
        if (b->stride[d] != (ptrdiff_t)it->size[d + 1] * b->stride[d + 1])
            return 0;
    return 1;
}

/*
 * Divides the scratch memory among the buffers that may have to be unpacked and the walk's task, whose part is
 * returned.
 */
static char *divide_scratch(tensor_iterator *it)
{
    const size_t item_size = fastopt_computed_size(it->type);
    char *next = it->scratch;
    int parts = it->walk->scratch;

    it->unpacked_count = 0;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &it->buffers[k];
        if (b->base) {
            b->dense = is_dense(it, b);
            it->unpacked_count += !b->dense || must_unpack(it, b);
        }
    }
    parts += it->unpacked_count;
    it->capacity = (size_t)SCRATCH / (size_t)(parts ? parts : 1) / item_size / FASTOPT_LANES * FASTOPT_LANES;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &it->buffers[k];
        if (b->base && (!b->dense || must_unpack(it, b))) {
            b->unpacked = next;
            next += it->capacity * item_size;
        }
    }
    return next;
}

FASTOPT_INTERNAL char *fastopt_prepare_iterator(tensor_iterator *it, const fastopt_walk *walk,
                                                const fastopt_group *group, const fastopt_tensor *tensor, int ordered)
{
    const fastopt_layout *layout = tensor->layout;

    it->walk = walk;
    it->type = group->type;
    it->prefetches = tensor->n >= PREFETCH_FROM;
    it->ndim = 0;
    for (int d = 0; layout && d < layout->ndim; d++)
        if (layout->shape[d] != 1)
            it->size[it->ndim++] = (size_t)layout->shape[d];
    if (!it->ndim)
        it->size[it->ndim++] = tensor->n;
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        it->buffers[k].base = NULL;
    if (walk->reads_g)
        add_buffer(it, G, tensor->g, layout ? layout->g_type : 0, layout ? layout->g_strides : NULL, layout);
    if (walk->reads_p) {
        add_buffer(it, P, tensor->p, 0, layout ? layout->p_strides : NULL, layout);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensor->state[j])
                add_buffer(it, STATE + j, tensor->state[j], 0, layout ? layout->state_strides[j] : NULL, layout);
    }
    if (!ordered)
        sort_axes(it);
    merge_axes(it);
    return divide_scratch(it);
}
