/*
 * walk.h - a tensor made ready for a walk over its elements: layout.c prepares it, staging.c walks it.
 */
#ifndef FASTOPT_WALK_H
#define FASTOPT_WALK_H

#include "internal.h"

enum {
    SCRATCH = 1 << 16,      /* bytes for all unpacked buffers together: they stay in a second-level cache */
    PREFETCH_FROM = 1 << 19 /* elements of a tensor from which on memory is fetched ahead: smaller ones are cached */
};

/* Indices of a tensor's buffers. */
enum { P, G, STATE };

/* One buffer, with its strides along the axes of the walk. */
typedef struct {
    char *base;          /* the first element of the walk; NULL: the walk does not visit this buffer */
    int type;            /* the stored type */
    int scaled;          /* whether these are gradients that must be multiplied by the factor of the walk */
    int dense;           /* whether the elements are contiguous in the order of the walk */
    char *unpacked;      /* its part of the scratch memory; set only for a buffer that may have to be unpacked */
    ptrdiff_t item_size; /* bytes of a stored element */
    ptrdiff_t stride[FASTOPT_MAX_DIMS];
} buffer;

/* A tensor whose axes are in the order of the walk, the last one innermost. */
typedef struct {
    const fastopt_walk *walk;
    int type;           /* the compute type */
    int ndim;           /* at least 1 */
    int unpacked_count; /* how many buffers may have to be unpacked */
    size_t capacity;    /* elements of scratch memory for each of them */
    int prefetches;     /* whether memory is fetched ahead */
    size_t size[FASTOPT_MAX_DIMS];
    buffer buffers[FASTOPT_BUFFERS];
    _Alignas(FASTOPT_LINE) char scratch[SCRATCH];
} tensor_iterator;

/* Whether the loop cannot work on this buffer in place, however it is cut: its type or its scale is another. */
static inline int must_unpack(const tensor_iterator *it, const buffer *b)
{
    return b->type != it->type || b->scaled;
}

/*
 * Prepares a tensor for a walk. If `ordered` is not 0, the walk visits the elements in the order of their indices, the
 * last dimension fastest; otherwise in the order in which they lie in memory. Returns the scratch buffer of the walk's
 * task.
 */
FASTOPT_INTERNAL char *fastopt_prepare_iterator(tensor_iterator *it, const fastopt_walk *walk,
                                                const fastopt_group *group, const fastopt_tensor *tensor, int ordered);

#endif /* FASTOPT_WALK_H */
