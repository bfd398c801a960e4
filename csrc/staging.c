/*
 * staging.c - tensors whose buffers are not all stored as they are computed.
 *
 * The loops know contiguous buffers of the compute type alone. Here a tensor of any layout is cut into blocks; of each
 * block, a buffer that is stored that way is handed on as it lies, and any other is unpacked into scratch memory on the
 * stack and packed back after the loop if it was written. A rule works element by element, so the blocks may come in the
 * order that memory likes best; sums need the elements in their own order (fastopt_walk_blocks).
 */
#include "internal.h"

enum {
    SCRATCH = 1 << 16,    /* bytes for all unpacked buffers together: a tile of floats, in a second-level cache */
    MOST_UNPACKED = 4096, /* elements of a block with unpacked buffers, if there is scratch memory for so many */
    SLICE = 128,          /* elements of a block between which memory for the next one is fetched, */
    FETCHED = 1 << 19,    /* in tensors of so many elements or more: smaller ones are in a cache already */
    LONG_ROW = 256,   /* elements of a row from which on blocks end with it, so that its buffers need not be unpacked */
    TILE_ROWS = 64,   /* of a tile that is fetched across the rows: four cache lines of floats in each column, which */
    LEAST_ROWS = 16,  /* memory delivers in a row; one line at least; */
    TILE_COLUMNS = 64 /* and columns at least, or there are fewer rows */
};

/* ---- The layout of a tensor, made ready to be walked. ---- */

enum { P, G, STATE }; /* the places of the buffers; those that are not walked have no base */

typedef struct {
    char *base;
    int type;
    int scaled;     /* a gradient that is multiplied by the factor first */
    int dense;      /* contiguous in the order of the walk */
    char *unpacked; /* its scratch memory, if it may need some */
    ptrdiff_t item; /* bytes of an element */
    ptrdiff_t stride[FASTOPT_MAX_DIMS];
} buffer;

typedef struct {
    const fastopt_walk *how;
    int type;        /* what is computed in */
    int ndim;        /* at least 1 */
    int staged;      /* buffers that have scratch memory */
    size_t capacity; /* elements of each */
    int fetches;     /* whether memory is fetched ahead */
    size_t size[FASTOPT_MAX_DIMS];
    buffer buffers[FASTOPT_BUFFERS];
    _Alignas(FASTOPT_LINE) char scratch[SCRATCH];
} walker;

_Static_assert(SCRATCH / (FASTOPT_BUFFERS + 1) / sizeof(double) >= TILE_COLUMNS + FASTOPT_LANES,
               "there is a tile with all buffers unpacked");

static void add_buffer(walker *w, int place, const void *base, int type, const ptrdiff_t *strides,
                       const fastopt_layout *layout)
{
    buffer *b = &w->buffers[place];
    ptrdiff_t contiguous;
    int axis = w->ndim;

    b->base = (char *)(uintptr_t)base;
    b->type = type ? type : w->type;
    b->item = (ptrdiff_t)fastopt_size_of(b->type);
    b->scaled = place == G && w->how->factor != 1.0;
    if (!layout || !layout->ndim) {
        b->stride[0] = b->item;
        return;
    }
    contiguous = b->item;
    for (int d = layout->ndim - 1; d >= 0; d--) { /* dimensions of one element are left out */
        if (layout->shape[d] != 1)
            b->stride[--axis] = strides ? strides[d] : contiguous;
        contiguous *= layout->shape[d];
    }
    if (axis)
        b->stride[0] = b->item; /* all dimensions are of one element */
}

static buffer *first_buffer(walker *w)
{
    return w->buffers[P].base ? &w->buffers[P] : &w->buffers[G];
}

static void swap_axes(walker *w, int i, int j)
{
    const size_t size = w->size[i];

    w->size[i] = w->size[j], w->size[j] = size;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        if (w->buffers[k].base) {
            ptrdiff_t *const stride = w->buffers[k].stride, kept = stride[i];
            stride[i] = stride[j], stride[j] = kept;
        }
    }
}

/* Walks every axis in the direction of growing addresses of the first buffer, and the axis of its smallest steps last. */
static void sort_axes(walker *w)
{
    const ptrdiff_t *const stride = first_buffer(w)->stride;

    for (int d = 0; d < w->ndim; d++)
        if (stride[d] < 0)
            for (int k = 0; k < FASTOPT_BUFFERS; k++) {
                buffer *const b = &w->buffers[k];
                if (b->base) {
                    b->base += (ptrdiff_t)(w->size[d] - 1) * b->stride[d];
                    b->stride[d] = -b->stride[d];
                }
            }
    for (int i = 1; i < w->ndim; i++)
        for (int j = i; j > 0 && stride[j - 1] < stride[j]; j--)
            swap_axes(w, j - 1, j);
}

/* Whether an axis and the one after it are one axis for every buffer. */
static int can_merge(const walker *w, int d)
{
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        if (w->buffers[k].base && w->buffers[k].stride[d] != (ptrdiff_t)w->size[d + 1] * w->buffers[k].stride[d + 1])
            return 0;
    return 1;
}

static void merge_axes(walker *w)
{
    int last = 0;

    for (int d = 1; d < w->ndim; d++) { /* `last` is the axis that d is merged into, or that d follows */
        w->size[last + 1] = w->size[d];
        for (int k = 0; k < FASTOPT_BUFFERS; k++)
            if (w->buffers[k].base)
                w->buffers[k].stride[last + 1] = w->buffers[k].stride[d];
        if (can_merge(w, last)) {
            w->size[last] *= w->size[last + 1];
            for (int k = 0; k < FASTOPT_BUFFERS; k++)
                if (w->buffers[k].base)
                    w->buffers[k].stride[last] = w->buffers[k].stride[last + 1];
        } else {
            last++;
        }
    }
    w->ndim = last + 1;
}

static int is_dense(const walker *w, const buffer *b)
{
    if (b->stride[w->ndim - 1] != b->item)
        return 0;
    for (int d = 0; d < w->ndim - 1; d++)
        if (b->stride[d] != (ptrdiff_t)w->size[d + 1] * b->stride[d + 1])
            return 0;
    return 1;
}

/* Whether the loop cannot work on what lies in memory, however it is cut. */
static int must_unpack(const walker *w, const buffer *b)
{
    return b->type != w->type || b->scaled;
}

/* Divides the scratch memory among the buffers that need some, and the task's own. */
static char *divide_scratch(walker *w)
{
    const size_t item = fastopt_computed_size(w->type);
    char *next = w->scratch;
    int parts = w->how->scratch;

    w->staged = 0;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &w->buffers[k];
        if (b->base) {
            b->dense = is_dense(w, b);
            w->staged += !b->dense || must_unpack(w, b);
        }
    }
    parts += w->staged;
    w->capacity = (size_t)SCRATCH / (size_t)(parts ? parts : 1) / item / FASTOPT_LANES * FASTOPT_LANES;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &w->buffers[k];
        if (b->base && (!b->dense || must_unpack(w, b))) {
            b->unpacked = next;
            next += w->capacity * item;
        }
    }
    return next;
}

/* Makes a tensor ready; `ordered`: its elements are to come in their own order. Returns the task's scratch memory. */
static char *start(walker *w, const fastopt_walk *how, const fastopt_group *group, const fastopt_tensor *tensor,
                   int ordered)
{
    const fastopt_layout *layout = tensor->layout;

    w->how = how;
    w->type = group->type;
    w->fetches = tensor->n >= FETCHED;
    w->ndim = 0;
    for (int d = 0; layout && d < layout->ndim; d++)
        if (layout->shape[d] != 1)
            w->size[w->ndim++] = (size_t)layout->shape[d];
    if (!w->ndim)
        w->size[w->ndim++] = tensor->n;
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        w->buffers[k].base = NULL;
    if (how->reads_g)
        add_buffer(w, G, tensor->g, layout ? layout->g_type : 0, layout ? layout->g_strides : NULL, layout);
    if (how->reads_p) {
        add_buffer(w, P, tensor->p, 0, layout ? layout->p_strides : NULL, layout);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensor->state[j])
                add_buffer(w, STATE + j, tensor->state[j], 0, layout ? layout->state_strides[j] : NULL, layout);
    }
    if (!ordered)
        sort_axes(w);
    merge_axes(w);
    return divide_scratch(w);
}

/* ---- Memory that is not contiguous. ---- */

typedef void move(const walker *w, const buffer *b, size_t rows, size_t columns, char *memory, ptrdiff_t row_stride,
                  ptrdiff_t column_stride, char *scratch, size_t width);

static void unpack(const walker *w, const buffer *b, size_t rows, size_t columns, char *memory, ptrdiff_t row_stride,
                   ptrdiff_t column_stride, char *scratch, size_t width)
{
    w->how->loops->unpack[b->type](rows, columns, memory, row_stride, column_stride, scratch, width);
}

static void pack(const walker *w, const buffer *b, size_t rows, size_t columns, char *memory, ptrdiff_t row_stride,
                 ptrdiff_t column_stride, char *scratch, size_t width)
{
    w->how->loops->pack[b->type](rows, columns, memory, row_stride, column_stride, scratch, width);
}

/* The zero of every type is a number of zero bytes. */
static void zero(const walker *w, const buffer *b, size_t rows, size_t columns, char *memory, ptrdiff_t row_stride,
                 ptrdiff_t column_stride, char *scratch, size_t width)
{
    const size_t item = (size_t)b->item;

    (void)w, (void)scratch, (void)width;
    for (size_t r = 0; r < rows; r++, memory += row_stride) {
        if (column_stride == b->item) {
            memset(memory, 0, columns * item);
            continue;
        }
        for (size_t c = 0; c < columns; c++)
            memset(memory + (ptrdiff_t)c * column_stride, 0, item);
    }
}

/* Where an element lies whose place along each axis is given. */
static char *address(const walker *w, const buffer *b, const size_t *index)
{
    char *memory = b->base;

    for (int d = 0; d < w->ndim; d++)
        memory += (ptrdiff_t)index[d] * b->stride[d];
    return memory;
}

/* Moves n consecutive elements of the walk from this place on: parts of rows, and many whole rows at once. */
static void move_elements(const walker *w, const buffer *b, move *task, const size_t *from, size_t n, char *scratch)
{
    const int last = w->ndim - 1;
    const size_t row = w->size[last], item = fastopt_computed_size(w->type);
    size_t index[FASTOPT_MAX_DIMS];

    memcpy(index, from, (size_t)w->ndim * sizeof *index);
    while (n) {
        const size_t column = index[last];
        size_t rows = 1, columns = row - column < n ? row - column : n;
        int d = last - 1;

        if (last && columns == row) {
            rows = w->size[last - 1] - index[last - 1];
            rows = n / row < rows ? n / row : rows;
        }
        task(w, b, rows, columns, address(w, b, index), last ? b->stride[last - 1] : 0, b->stride[last], scratch,
             columns);
        if (scratch) /* zeroing has none */
            scratch += rows * columns * item;
        n -= rows * columns;
        index[last] = 0;
        for (size_t steps = rows; d >= 0; d--) { /* to the next row: after a part of one, too */
            index[d] += steps;
            if (index[d] < w->size[d])
                break;
            index[d] = 0;
            steps = 1;
        }
    }
}

static void multiply(const walker *w, size_t n, void *memory)
{
    w->how->loops->multiply(n, memory, w->how->factor);
}

/* Whether a buffer is written by the task. */
static int is_written(const walker *w, int place)
{
    return place == P ? w->how->writes_p : place == G ? w->how->writes_g : w->how->writes_states;
}

/* ---- Memory that is fetched ahead. ---- */

/*
 * What is unpacked for the next block, while this one is computed. The loops use memory as fast as it comes; if they had to
 * wait for each block to be unpacked, memory would have nothing to do meanwhile.
 */
typedef struct {
    const char *memory;
    ptrdiff_t stride;      /* from a column to the next */
    size_t columns, bytes; /* of a column */
} ahead;

typedef struct {
    int count;
    ahead buffers[FASTOPT_BUFFERS];
} fetch;

static void add_fetch(fetch *f, const char *memory, size_t columns, ptrdiff_t stride, size_t bytes)
{
    f->buffers[f->count++] = (ahead){memory, stride, columns, bytes};
}

/* One of so many equal shares. */
static void fetch_share(const fetch *f, size_t share, size_t shares)
{
#if defined(__GNUC__)
    for (int k = 0; k < f->count; k++) {
        const ahead *const a = &f->buffers[k];
        for (size_t c = share * a->columns / shares; c < (share + 1) * a->columns / shares; c++)
            for (size_t i = 0; i < a->bytes; i += FASTOPT_LINE)
                __builtin_prefetch(a->memory + (ptrdiff_t)c * a->stride + i, 0, 2);
    }
#else
    (void)f, (void)share, (void)shares;
#endif
}

/* ---- Blocks of consecutive elements. ---- */

static void **place_in_block(fastopt_block *block, int place)
{
    return place == P ? &block->p : &block->state[place - STATE];
}

static void set_place(fastopt_block *block, int place, void *memory)
{
    if (place == G)
        block->g = memory;
    else
        *place_in_block(block, place) = memory;
}

static void *advanced(const void *memory, size_t bytes)
{
    return memory ? (char *)(uintptr_t)memory + bytes : NULL;
}

/* Hands a block on: whole, or in slices if there is something to fetch between them. */
static void compute(const walker *w, const fastopt_block *block, const fetch *f)
{
    const size_t item = fastopt_computed_size(w->type), slices = (block->n + SLICE - 1) / SLICE;
    fastopt_block slice = *block;

    if (!f->count) {
        w->how->task(w->how->context, block);
        return;
    }
    for (size_t i = 0; i < slices; i++) {
        slice.n = i + 1 < slices ? SLICE : block->n - i * SLICE;
        fetch_share(f, i, slices);
        w->how->task(w->how->context, &slice);
        slice.p = advanced(slice.p, slice.n * item);
        slice.g = advanced(slice.g, slice.n * item);
        for (int j = 0; j <= FASTOPT_MAX_STATES; j++)
            slice.state[j] = advanced(slice.state[j], slice.n * item);
    }
}

/* `following`: how many elements come after this block. */
static void run_block(walker *w, fastopt_block *block, const size_t *index, size_t n, size_t following)
{
    const int last = w->ndim - 1;
    const int in_row = index[last] + n <= w->size[last];
    int unpacked[FASTOPT_BUFFERS] = {0};
    fetch f = {.count = 0};

    block->n = n;
    following = following < n ? following : n;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &w->buffers[k];
        if (!b->base)
            continue;
        unpacked[k] = b->type != w->type || !(b->dense || (in_row && b->stride[last] == b->item)) ||
                      (b->scaled && !w->how->writes_g);
        if (unpacked[k])
            move_elements(w, b, unpack, index, n, b->unpacked);
        if (unpacked[k] && b->dense && following && w->fetches)
            add_fetch(&f, address(w, b, index) + (ptrdiff_t)n * b->item,
                      (following * (size_t)b->item + FASTOPT_LINE - 1) / FASTOPT_LINE, FASTOPT_LINE, FASTOPT_LINE);
        set_place(block, k, unpacked[k] ? b->unpacked : address(w, b, index));
    }
    if (w->buffers[G].base && w->buffers[G].scaled)
        multiply(w, n, (void *)(uintptr_t)block->g);
    compute(w, block, &f);
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        if (unpacked[k] && is_written(w, k))
            move_elements(w, &w->buffers[k], pack, index, n, w->buffers[k].unpacked);
    if (w->how->zeroes_g)
        move_elements(w, &w->buffers[G], zero, index, n, NULL);
}

static void find_index(const walker *w, size_t element, size_t *index)
{
    for (int d = w->ndim - 1; d > 0; d--) {
        index[d] = element % w->size[d];
        element /= w->size[d];
    }
    index[0] = element;
}

static void run_blocks(walker *w, fastopt_block *block, size_t begin, size_t end)
{
    const size_t row = w->size[w->ndim - 1], room = w->capacity < MOST_UNPACKED ? w->capacity : MOST_UNPACKED;
    const size_t most = w->staged || w->how->scratch ? room : SIZE_MAX;
    size_t index[FASTOPT_MAX_DIMS];

    for (size_t i = begin, n; i < end; i += n) {
        n = end - i;
        if (n > most)
            n = most;
        if (w->how->zeroes_g && n > FASTOPT_ZEROED)
            n = FASTOPT_ZEROED;
        find_index(w, i, index);
        if (w->ndim > 1 && row >= LONG_ROW && n > row - index[w->ndim - 1])
            n = row - index[w->ndim - 1];
        run_block(w, block, index, n, end - i - n);
    }
}

/* ---- Tiles, where one buffer's rows are another's columns. ---- */

static int within_a_line(ptrdiff_t stride)
{
    return stride < FASTOPT_LINE && stride > -FASTOPT_LINE;
}

/*
 * The axis along which some buffer has steps within a cache line, while it jumps along the last axis, the first buffer's:
 * a tile that is long along both uses the cache lines of both. -1: there is none.
 */
static int crossing_axis(const walker *w)
{
    const int last = w->ndim - 1;

    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        const buffer *const b = &w->buffers[k];
        if (!b->base || within_a_line(b->stride[last]))
            continue;
        for (int d = last - 1; d >= 0; d--)
            if (b->stride[d] && within_a_line(b->stride[d]) && w->size[d] >= 8 && w->size[last] >= 16)
                return d;
    }
    return -1;
}

typedef struct {
    int across;           /* the axis of the rows of a tile; its columns are along the last */
    int whole;            /* whether a tile is consecutive elements, in memory and unpacked: one block */
    size_t rows, columns; /* of a tile */
    size_t width;         /* elements from one unpacked row to the next */
    size_t down, along;   /* tiles along both axes */
    size_t tiles;
} tiling;

static int is_unpacked_in_tiles(const walker *w, const buffer *b)
{
    return must_unpack(w, b) || b->stride[w->ndim - 1] != b->item;
}

/* Whether whole rows along the last axis follow each other in every buffer that tiles do not unpack. */
static int rows_follow(const walker *w, int across)
{
    const int last = w->ndim - 1;

    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        const buffer *const b = &w->buffers[k];
        if (b->base && !is_unpacked_in_tiles(w, b) && b->stride[across] != (ptrdiff_t)w->size[last] * b->item)
            return 0;
    }
    return 1;
}

/* Shares a row among the fewest tiles that have scratch memory for so many columns, evenly, by whole vectors. */
static size_t even_columns(size_t columns, size_t room)
{
    const size_t most = room / FASTOPT_LANES * FASTOPT_LANES;
    const size_t tiles = (columns + most - 1) / most, even = (columns + tiles - 1) / tiles;

    return tiles > 1 ? (even + FASTOPT_LANES - 1) / FASTOPT_LANES * FASTOPT_LANES : columns;
}

static tiling tiles_of(const walker *w, int across)
{
    const int last = w->ndim - 1;
    const size_t row = w->size[last] * fastopt_computed_size(w->type);
    tiling t = {.across = across, .rows = TILE_ROWS, .tiles = 1};

    /* Rows that lie a power of two apart would compete for the same few places of the cache. */
    t.whole = row % 512 != 0 && w->size[last] * LEAST_ROWS <= w->capacity && rows_follow(w, across);
    while (t.whole ? w->capacity / t.rows < w->size[last] : w->capacity / t.rows < TILE_COLUMNS + FASTOPT_LANES)
        t.rows /= 2;
    if (t.rows > w->size[across])
        t.rows = w->size[across];
    t.columns = t.whole ? w->size[last] : even_columns(w->size[last], w->capacity / t.rows - FASTOPT_LANES);
    t.width = t.whole ? t.columns : t.columns + FASTOPT_LANES;
    t.down = (w->size[across] + t.rows - 1) / t.rows;
    t.along = (w->size[last] + t.columns - 1) / t.columns;
    for (int d = 0; d < w->ndim; d++)
        t.tiles *= d == across ? t.down : d == last ? t.along : w->size[d];
    return t;
}

/* The first element of a tile. Tiles come along the last axis first, then across, then along all others. */
static void find_tile(const walker *w, const tiling *t, size_t tile, size_t *index)
{
    const int last = w->ndim - 1;

    index[last] = tile % t->along * t->columns;
    tile /= t->along;
    index[t->across] = tile % t->down * t->rows;
    tile /= t->down;
    for (int d = last - 1; d >= 0; d--) {
        if (d == t->across)
            continue;
        index[d] = tile % w->size[d];
        tile /= w->size[d];
    }
}

/* `stop`: where the part ends that walks this tile. */
static void run_tile(walker *w, const tiling *t, fastopt_block *block, size_t tile, size_t stop)
{
    const int last = w->ndim - 1;
    const size_t item = fastopt_computed_size(w->type);
    size_t index[FASTOPT_MAX_DIMS], next[FASTOPT_MAX_DIMS], rows, columns, runs;
    fetch f = {.count = 0};
    char *memory[FASTOPT_BUFFERS];
    int unpacked[FASTOPT_BUFFERS] = {0};

    find_tile(w, t, tile, index);
    rows = w->size[t->across] - index[t->across];
    rows = rows < t->rows ? rows : t->rows;
    columns = w->size[last] - index[last];
    columns = columns < t->columns ? columns : t->columns;
    if (tile + 1 < stop)
        find_tile(w, t, tile + 1, next);
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &w->buffers[k];
        if (!b->base)
            continue;
        memory[k] = address(w, b, index);
        unpacked[k] = is_unpacked_in_tiles(w, b);
        if (!unpacked[k])
            continue;
        unpack(w, b, rows, columns, memory[k], b->stride[t->across], b->stride[last], b->unpacked, t->width);
        if (tile + 1 < stop && b->stride[t->across] == b->item && w->fetches) {
            const size_t down = w->size[t->across] - next[t->across], along = w->size[last] - next[last];
            add_fetch(&f, address(w, b, next), along < t->columns ? along : t->columns, b->stride[last],
                      (down < t->rows ? down : t->rows) * (size_t)b->item);
        }
    }
    runs = t->whole ? 1 : rows;
    block->n = rows * columns / runs;
    for (size_t r = 0; r < runs; r++) {
        for (int k = 0; k < FASTOPT_BUFFERS; k++) {
            const buffer *const b = &w->buffers[k];
            if (b->base)
                set_place(block, k,
                          unpacked[k] ? b->unpacked + r * t->width * item
                                      : memory[k] + (ptrdiff_t)r * b->stride[t->across]);
        }
        if (w->buffers[G].base && w->buffers[G].scaled)
            multiply(w, block->n, (void *)(uintptr_t)block->g);
        if (t->whole) {
            compute(w, block, &f);
        } else {
            fetch_share(&f, r, rows);
            w->how->task(w->how->context, block);
        }
    }
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &w->buffers[k];
        if (unpacked[k] && is_written(w, k))
            pack(w, b, rows, columns, memory[k], b->stride[t->across], b->stride[last], b->unpacked, t->width);
    }
    if (w->how->zeroes_g)
        zero(w, &w->buffers[G], rows, columns, memory[G], w->buffers[G].stride[t->across], w->buffers[G].stride[last],
             NULL, 0);
}

/* Tiles stand in for the elements from `begin` to `end`, each for its share: every tile is walked by one part alone. */
static size_t tile_at(const tiling *t, size_t element, size_t n)
{
    const size_t tile = element / (t->rows * t->columns);

    return element >= n || tile > t->tiles ? t->tiles : tile;
}

/* ---- The two ways to walk. ---- */

FASTOPT_INTERNAL void fastopt_walk_tensor(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end)
{
    walker w;
    fastopt_block block = {0};
    int across;

    block.state[FASTOPT_MAX_STATES] = start(&w, walk, group, tensor, 0);
    across = crossing_axis(&w);
    if (across < 0) {
        run_blocks(&w, &block, begin, end);
    } else {
        const tiling t = tiles_of(&w, across);
        const size_t stop = tile_at(&t, end, tensor->n);
        for (size_t tile = tile_at(&t, begin, tensor->n); tile < stop; tile++)
            run_tile(&w, &t, &block, tile, stop);
    }
}

FASTOPT_INTERNAL void fastopt_walk_blocks(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end)
{
    walker w;
    fastopt_block block = {0};

    block.state[FASTOPT_MAX_STATES] = start(&w, walk, group, tensor, 1);
    run_blocks(&w, &block, begin, end);
}

/* ---- The check. ---- */

static int wrong(fastopt_wrong *what, int code, const char *name, const char *takes)
{
    *what = (fastopt_wrong){name, takes};
    return code;
}

/* The strides of one buffer; `written`: each element needs a place of its own. */
static int check_strides(const fastopt_layout *layout, const ptrdiff_t *strides, int type, int written,
                         const char *name, fastopt_wrong *what)
{
    if (!layout->ndim)
        return strides ? wrong(what, FASTOPT_ERR_UNUSED, name, "NULL where ndim is 0") : FASTOPT_OK;
    for (int d = 0; strides && d < layout->ndim; d++) {
        if (layout->shape[d] < 2)
            continue;
        if (strides[d] % (ptrdiff_t)fastopt_size_of(type))
            return wrong(what, FASTOPT_ERR_LAYOUT, name, "multiples of the size of an element");
        if (written && !strides[d])
            return wrong(what, FASTOPT_ERR_LAYOUT, name,
                         "other than 0: each element that is written needs its own place");
    }
    return FASTOPT_OK;
}

static int check_stored(const fastopt_layout *layout, int type, const ptrdiff_t *strides, int computed,
                        const char *names[2], fastopt_wrong *what)
{
    if (type && type != computed)
        return wrong(what, FASTOPT_ERR_TYPE, names[0], "0 or the type of the group");
    return check_strides(layout, strides, computed, 1, names[1], what);
}

static int check_written(const fastopt_group *group, const fastopt_tensor *tensor, const fastopt_layout *layout,
                         fastopt_wrong *what)
{
    static const char *of_p[] = {"layout.p_type", "layout.p_strides"};
    static const char *of_state[] = {"layout.state_type", "layout.state_strides"};
    int error = check_stored(layout, layout->p_type, layout->p_strides, group->type, of_p, what);

    for (int j = 0; !error && j < FASTOPT_MAX_STATES; j++) {
        if (tensor->state[j])
            error = check_stored(layout, layout->state_type[j], layout->state_strides[j], group->type, of_state, what);
        else if (layout->state_type[j] || layout->state_strides[j])
            error = wrong(what, FASTOPT_ERR_UNUSED, of_state[layout->state_type[j] == 0],
                          "0 for a state that the tensor does not have");
    }
    return error;
}

static int check_shape(const fastopt_layout *layout, size_t n, fastopt_wrong *what)
{
    if (layout->ndim < 0 || layout->ndim > FASTOPT_MAX_DIMS)
        return wrong(what, FASTOPT_ERR_LAYOUT, "layout.ndim", "from 0 to FASTOPT_MAX_DIMS");
    for (int d = 0; layout->shape && d < layout->ndim; d++) {
        const ptrdiff_t size = layout->shape[d];
        if (size < 1 || n % (size_t)size)
            return wrong(what, FASTOPT_ERR_LAYOUT, "layout.shape", "sizes that multiply to n");
        n /= (size_t)size;
    }
    if (layout->ndim && (!layout->shape || n != 1))
        return wrong(what, FASTOPT_ERR_LAYOUT, "layout.shape", "sizes that multiply to n");
    return FASTOPT_OK;
}

FASTOPT_INTERNAL int fastopt_check_layout(const fastopt_group *group, const fastopt_tensor *tensor, int gradient,
                                          int zeroed, fastopt_wrong *what)
{
    const fastopt_layout *layout = tensor->layout;
    int error;

    if (!layout || !tensor->n)
        return FASTOPT_OK;
    if (layout->size != sizeof *layout)
        return wrong(what, FASTOPT_ERR_SIZE, "layout.size", "sizeof(fastopt_layout)");
    if (layout->g_type < 0 || layout->g_type >= FASTOPT_TYPES)
        return wrong(what, FASTOPT_ERR_TYPE, "layout.g_type", "0 or a type from FASTOPT_F32 to FASTOPT_BF16");
    error = check_shape(layout, tensor->n, what);
    if (!error)
        error = check_strides(layout, layout->g_strides, layout->g_type ? layout->g_type : group->type, zeroed,
                              "layout.g_strides", what);
    return error || gradient ? error : check_written(group, tensor, layout, what);
}
