/*
 * staging.c - walks over tensors whose buffers are not all contiguous and of the compute type.
 *
 * The loops work only on contiguous buffers of the compute type. So a tensor of any layout is cut into blocks. The part
 * of a buffer in a block is passed to the loop in place if it is contiguous and of the compute type; otherwise it is
 * unpacked into scratch memory on the stack and, if the loop writes it, packed back afterwards. A rule works element by
 * element, so its blocks may come in the order that suits memory best (fastopt_walk_tensor); a sum needs the elements
 * in the order of their indices (fastopt_walk_blocks).
 */
#include "walk.h"

enum {
    MAX_BLOCK = 4096, /* elements of a block with unpacked buffers, if there is scratch memory for so many */
    LONG_ROW = 256,   /* no block crosses the end of a row of so many elements, which may then need no unpacking */
    SLICE = 128       /* elements that are computed between two prefetches for the next block */
};

/*
 * A tile is fetched from memory across its rows. 64 rows are four cache lines of floats in each column, which memory
 * delivers one after the other; a tile has fewer where the scratch memory does not hold so many, but 16, one cache
 * line, if it is to be a single block.
 */
enum { TILE_ROWS = 64, MIN_TILE_ROWS = 16, MIN_TILE_COLUMNS = 64 };

/* ---- Transfers between memory of any strides and scratch memory. ---- */

/* Transfers rows times columns elements; rows in the scratch memory are `width` elements apart. */
typedef void transfer(const tensor_iterator *it, const buffer *b, size_t rows, size_t columns, char *memory,
                      ptrdiff_t row_stride, ptrdiff_t column_stride, char *scratch, size_t width);

static void unpack(const tensor_iterator *it, const buffer *b, size_t rows, size_t columns, char *memory,
                   ptrdiff_t row_stride, ptrdiff_t column_stride, char *scratch, size_t width)
{
    it->walk->loops->unpack[b->type](rows, columns, memory, row_stride, column_stride, scratch, width);
}

static void pack(const tensor_iterator *it, const buffer *b, size_t rows, size_t columns, char *memory,
                 ptrdiff_t row_stride, ptrdiff_t column_stride, char *scratch, size_t width)
{
    it->walk->loops->pack[b->type](rows, columns, memory, row_stride, column_stride, scratch, width);
}

/* Writes zeros to the memory, and uses no scratch memory. In every type, zero is a number of zero bytes. */
static void zero_elements(const tensor_iterator *it, const buffer *b, size_t rows, size_t columns, char *memory,
                          ptrdiff_t row_stride, ptrdiff_t column_stride, char *scratch, size_t width)
{
    const size_t item_size = (size_t)b->item_size;

    (void)it, (void)scratch, (void)width;
    for (size_t r = 0; r < rows; r++, memory += row_stride) {
        if (column_stride == b->item_size) {
            memset(memory, 0, columns * item_size);
            continue;
        }
        for (size_t c = 0; c < columns; c++)
            memset(memory + (ptrdiff_t)c * column_stride, 0, item_size);
    }
}

/* The address of the element with this index along each axis. */
static char *address(const tensor_iterator *it, const buffer *b, const size_t *index)
{
    char *memory = b->base;

    for (int d = 0; d < it->ndim; d++)
        memory += (ptrdiff_t)index[d] * b->stride[d];
    return memory;
}

/* Transfers n consecutive elements of the walk from index `from` on: parts of rows, and many whole rows at once. */
static void transfer_elements(const tensor_iterator *it, const buffer *b, transfer *task, const size_t *from, size_t n,
                              char *scratch)
{
    const int last = it->ndim - 1;
    const size_t row = it->size[last], item_size = fastopt_computed_size(it->type);
    size_t index[FASTOPT_MAX_DIMS];

    memcpy(index, from, (size_t)it->ndim * sizeof *index);
    while (n) {
        const size_t column = index[last];
        size_t rows = 1, columns = row - column < n ? row - column : n;
        int d = last - 1;

        if (last && columns == row) {
            rows = it->size[last - 1] - index[last - 1];
            rows = n / row < rows ? n / row : rows;
        }
        task(it, b, rows, columns, address(it, b, index), last ? b->stride[last - 1] : 0, b->stride[last], scratch,
             columns);
        if (scratch) /* NULL for zero_elements() */
            scratch += rows * columns * item_size;
        n -= rows * columns;
        index[last] = 0;
        for (size_t steps = rows; d >= 0; d--) { /* to the next row, also after a part of one */
            index[d] += steps;
            if (index[d] < it->size[d])
                break;
            index[d] = 0;
            steps = 1;
        }
    }
}

/* Multiplies gradients by the factor of the walk. */
static void multiply(const tensor_iterator *it, size_t n, void *memory)
{
    it->walk->loops->multiply(n, memory, it->walk->factor);
}

/* Whether the task writes to this buffer. */
static int is_written(const tensor_iterator *it, int slot)
{
    return slot == P ? it->walk->writes_p : slot == G ? it->walk->writes_g : it->walk->writes_states;
}

/* ---- Prefetching. ---- */

/*
 * While a block is computed, the memory that will be unpacked for the next one is fetched into the cache. Without that,
 * memory would be idle during the computation, and the computation would wait for memory during the unpacking.
 */
typedef struct {
    const char *memory;
    ptrdiff_t stride; /* bytes from a column to the next */
    size_t columns;
    size_t bytes; /* of a column */
} prefetch_range;

typedef struct {
    int count;
    prefetch_range ranges[FASTOPT_BUFFERS];
} prefetch_list;

static void add_prefetch(prefetch_list *f, const char *memory, size_t columns, ptrdiff_t stride, size_t bytes)
{
    f->ranges[f->count++] = (prefetch_range){memory, stride, columns, bytes};
}

/* Prefetches one of `shares` equal parts of everything in the list. */
static void prefetch_share(const prefetch_list *f, size_t share, size_t shares)
{
#if defined(__GNUC__)
    for (int k = 0; k < f->count; k++) {
        const prefetch_range *const r = &f->ranges[k];
        for (size_t c = share * r->columns / shares; c < (share + 1) * r->columns / shares; c++)
            for (size_t i = 0; i < r->bytes; i += FASTOPT_LINE)
                __builtin_prefetch(r->memory + (ptrdiff_t)c * r->stride + i, 0, 2);
    }
#else
    (void)f, (void)share, (void)shares;
#endif
}

/* ---- Blocks of consecutive elements. ---- */

/* Where a block has its pointer to this buffer, which is not the gradient. */
static void **slot_in_block(fastopt_block *block, int slot)
{
    return slot == P ? &block->p : &block->state[slot - STATE];
}

static void set_slot(fastopt_block *block, int slot, void *memory)
{
    if (slot == G)
        block->g = memory;
    else
        *slot_in_block(block, slot) = memory;
}

static void *advance(const void *memory, size_t bytes)
{
    return memory ? (char *)(uintptr_t)memory + bytes : NULL;
}

/* Runs the walk's task on a block: at once, or in slices if there is something to prefetch between them. */
static void run_task(const tensor_iterator *it, const fastopt_block *block, const prefetch_list *f)
{
    const size_t item_size = fastopt_computed_size(it->type), slices = (block->n + SLICE - 1) / SLICE;
    fastopt_block slice = *block;

    if (!f->count) {
        it->walk->task(it->walk->context, block);
        return;
    }
    for (size_t i = 0; i < slices; i++) {
        slice.n = i + 1 < slices ? SLICE : block->n - i * SLICE;
        prefetch_share(f, i, slices);
        it->walk->task(it->walk->context, &slice);
        slice.p = advance(slice.p, slice.n * item_size);
        slice.g = advance(slice.g, slice.n * item_size);
        for (int j = 0; j <= FASTOPT_MAX_STATES; j++)
            slice.state[j] = advance(slice.state[j], slice.n * item_size);
    }
}

/* Unpacks, computes and packs the n elements from `index` on; `following` elements of the walk come after them. */
static void run_block(tensor_iterator *it, fastopt_block *block, const size_t *index, size_t n, size_t following)
{
    const int last = it->ndim - 1;
    const int in_row = index[last] + n <= it->size[last];
    int unpacked[FASTOPT_BUFFERS] = {0};
    prefetch_list f = {.count = 0};

    block->n = n;
    following = following < n ? following : n;
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &it->buffers[k];
        if (!b->base)
            continue;
        unpacked[k] = b->type != it->type || !(b->dense || (in_row && b->stride[last] == b->item_size)) ||
                      (b->scaled && !it->walk->writes_g);
        if (unpacked[k])
            transfer_elements(it, b, unpack, index, n, b->unpacked);
        if (unpacked[k] && b->dense && following && it->prefetches)
            add_prefetch(&f, address(it, b, index) + (ptrdiff_t)n * b->item_size,
                         (following * (size_t)b->item_size + FASTOPT_LINE - 1) / FASTOPT_LINE, FASTOPT_LINE,
                         FASTOPT_LINE);
        set_slot(block, k, unpacked[k] ? b->unpacked : address(it, b, index));
    }
    if (it->buffers[G].base && it->buffers[G].scaled)
        multiply(it, n, (void *)(uintptr_t)block->g);
    run_task(it, block, &f);
    for (int k = 0; k < FASTOPT_BUFFERS; k++)
        if (unpacked[k] && is_written(it, k))
            transfer_elements(it, &it->buffers[k], pack, index, n, it->buffers[k].unpacked);
    if (it->walk->zeroes_g)
        transfer_elements(it, &it->buffers[G], zero_elements, index, n, NULL);
}

/* The index along each axis of the element with this number in the order of the walk. */
static void find_index(const tensor_iterator *it, size_t element, size_t *index)
{
    for (int d = it->ndim - 1; d > 0; d--) {
        index[d] = element % it->size[d];
        element /= it->size[d];
    }
    index[0] = element;
}

/* Walks the elements from number `begin` to number `end`. */
static void run_blocks(tensor_iterator *it, fastopt_block *block, size_t begin, size_t end)
{
    const size_t row = it->size[it->ndim - 1], staged = it->capacity < MAX_BLOCK ? it->capacity : MAX_BLOCK;
    const size_t most = it->unpacked_count || it->walk->scratch ? staged : SIZE_MAX;
    size_t index[FASTOPT_MAX_DIMS];

    for (size_t i = begin, n; i < end; i += n) {
        n = end - i;
        if (n > most)
            n = most;
        if (it->walk->zeroes_g && n > FASTOPT_ZEROED)
            n = FASTOPT_ZEROED;
        find_index(it, i, index);
        if (it->ndim > 1 && row >= LONG_ROW && n > row - index[it->ndim - 1])
            n = row - index[it->ndim - 1];
        run_block(it, block, index, n, end - i - n);
    }
}

/* ---- Tiles, for transposed buffers: the rows of one buffer are the columns of another. ---- */

/* Whether a step with this stride can stay in the same cache line. */
static int within_a_line(ptrdiff_t stride)
{
    return stride < FASTOPT_LINE && stride > -FASTOPT_LINE;
}

/*
 * The axis along which some buffer has steps within a cache line, if along the last axis its steps are larger: a tile
 * that extends along both axes uses whole cache lines of that buffer and of the first one, whose steps are smallest
 * along the last axis. -1 if there is no such axis.
 */
static int crossing_axis(const tensor_iterator *it)
{
    const int last = it->ndim - 1;

    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        const buffer *const b = &it->buffers[k];
        if (!b->base || within_a_line(b->stride[last]))
            continue;
        for (int d = last - 1; d >= 0; d--)
            if (b->stride[d] && within_a_line(b->stride[d]) && it->size[d] >= 8 && it->size[last] >= 16)
                return d;
    }
    return -1;
}

typedef struct {
    int across;           /* the axis along which the rows of a tile are numbered; a row lies along the last axis */
    int one_block;        /* whether a tile is one block: its elements are consecutive in memory and unpacked */
    size_t rows, columns; /* of a tile */
    size_t width;         /* elements from one unpacked row to the next */
    size_t tiles_down;    /* along the axis `across` */
    size_t tiles_in_row;  /* along the last axis */
    size_t tiles;         /* of the whole tensor */
} tiling;

/* Whether a walk by tiles unpacks this buffer. */
static int is_unpacked_in_tiles(const tensor_iterator *it, const buffer *b)
{
    return must_unpack(it, b) || b->stride[it->ndim - 1] != b->item_size;
}

/* Whether in every buffer that tiles do not unpack each row begins where the one before it ends. */
static int rows_follow(const tensor_iterator *it, int across)
{
    const int last = it->ndim - 1;

    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        const buffer *const b = &it->buffers[k];
        if (b->base && !is_unpacked_in_tiles(it, b) && b->stride[across] != (ptrdiff_t)it->size[last] * b->item_size)
            return 0;
    }
    return 1;
}

/*
 * How many columns a tile has if the scratch memory holds `room`: the row is cut into as few tiles as possible, of
 * equal width but for the last, in whole vectors.
 */
static size_t even_columns(size_t columns, size_t room)
{
    const size_t most = room / FASTOPT_LANES * FASTOPT_LANES;
    const size_t tiles = (columns + most - 1) / most, even = (columns + tiles - 1) / tiles;

    return tiles > 1 ? (even + FASTOPT_LANES - 1) / FASTOPT_LANES * FASTOPT_LANES : columns;
}

/* How a tensor is cut into tiles. */
static tiling tiles_of(const tensor_iterator *it, int across)
{
    const int last = it->ndim - 1;
    const size_t row = it->size[last] * fastopt_computed_size(it->type);
    tiling t = {.across = across, .rows = TILE_ROWS, .tiles = 1};

    /* Unpacked rows whose distance is a large power of two would compete for the same few lines of the cache. */
    t.one_block = row % 512 != 0 && it->size[last] * MIN_TILE_ROWS <= it->capacity && rows_follow(it, across);
    while (t.one_block ? it->capacity / t.rows < it->size[last]
                       : it->capacity / t.rows < MIN_TILE_COLUMNS + FASTOPT_LANES)
        t.rows /= 2;
    if (t.rows > it->size[across])
        t.rows = it->size[across];
    t.columns = t.one_block ? it->size[last] : even_columns(it->size[last], it->capacity / t.rows - FASTOPT_LANES);
    t.width = t.one_block ? t.columns : t.columns + FASTOPT_LANES;
    t.tiles_down = (it->size[across] + t.rows - 1) / t.rows;
    t.tiles_in_row = (it->size[last] + t.columns - 1) / t.columns;
    for (int d = 0; d < it->ndim; d++)
        t.tiles *= d == across ? t.tiles_down : d == last ? t.tiles_in_row : it->size[d];
    return t;
}

/* The index of a tile's first element. Tiles are numbered along the last axis, then across, then along the others. */
static void find_tile(const tensor_iterator *it, const tiling *t, size_t tile, size_t *index)
{
    const int last = it->ndim - 1;

    index[last] = tile % t->tiles_in_row * t->columns;
    tile /= t->tiles_in_row;
    index[t->across] = tile % t->tiles_down * t->rows;
    tile /= t->tiles_down;
    for (int d = last - 1; d >= 0; d--) {
        if (d == t->across)
            continue;
        index[d] = tile % it->size[d];
        tile /= it->size[d];
    }
}

/* Unpacks, computes and packs one tile; tiles from number `stop` on belong to another part of the tensor. */
static void run_tile(tensor_iterator *it, const tiling *t, fastopt_block *block, size_t tile, size_t stop)
{
    const int last = it->ndim - 1;
    const size_t item_size = fastopt_computed_size(it->type);
    size_t index[FASTOPT_MAX_DIMS], next[FASTOPT_MAX_DIMS], rows, columns, runs;
    prefetch_list f = {.count = 0};
    char *memory[FASTOPT_BUFFERS];
    int unpacked[FASTOPT_BUFFERS] = {0};

    find_tile(it, t, tile, index);
    rows = it->size[t->across] - index[t->across];
    rows = rows < t->rows ? rows : t->rows;
    columns = it->size[last] - index[last];
    columns = columns < t->columns ? columns : t->columns;
    if (tile + 1 < stop)
        find_tile(it, t, tile + 1, next);
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &it->buffers[k];
        if (!b->base)
            continue;
        memory[k] = address(it, b, index);
        unpacked[k] = is_unpacked_in_tiles(it, b);
        if (!unpacked[k])
            continue;
        unpack(it, b, rows, columns, memory[k], b->stride[t->across], b->stride[last], b->unpacked, t->width);
        if (tile + 1 < stop && b->stride[t->across] == b->item_size && it->prefetches) {
            const size_t rows_left = it->size[t->across] - next[t->across], columns_left = it->size[last] - next[last];
            add_prefetch(&f, address(it, b, next), columns_left < t->columns ? columns_left : t->columns,
                         b->stride[last], (rows_left < t->rows ? rows_left : t->rows) * (size_t)b->item_size);
        }
    }
    runs = t->one_block ? 1 : rows;
    block->n = rows * columns / runs;
    for (size_t r = 0; r < runs; r++) {
        for (int k = 0; k < FASTOPT_BUFFERS; k++) {
            const buffer *const b = &it->buffers[k];
            if (b->base)
                set_slot(block, k,
                         unpacked[k] ? b->unpacked + r * t->width * item_size
                                     : memory[k] + (ptrdiff_t)r * b->stride[t->across]);
        }
        if (it->buffers[G].base && it->buffers[G].scaled)
            multiply(it, block->n, (void *)(uintptr_t)block->g);
        if (t->one_block) {
            run_task(it, block, &f);
        } else {
            prefetch_share(&f, r, rows);
            it->walk->task(it->walk->context, block);
        }
    }
    for (int k = 0; k < FASTOPT_BUFFERS; k++) {
        buffer *const b = &it->buffers[k];
        if (unpacked[k] && is_written(it, k))
            pack(it, b, rows, columns, memory[k], b->stride[t->across], b->stride[last], b->unpacked, t->width);
    }
    if (it->walk->zeroes_g)
        zero_elements(it, &it->buffers[G], rows, columns, memory[G], it->buffers[G].stride[t->across],
                      it->buffers[G].stride[last], NULL, 0);
}

/*
 * The number of the tile at which a part of the tensor begins that would begin at this element: parts are given in
 * elements, and every tile must belong to exactly one of them.
 */
static size_t tile_at(const tiling *t, size_t element, size_t n)
{
    const size_t tile = element / (t->rows * t->columns);

    return element >= n || tile > t->tiles ? t->tiles : tile;
}

/* ---- The two walks. ---- */

FASTOPT_INTERNAL void fastopt_walk_tensor(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end)
{
    tensor_iterator it;
    fastopt_block block = {0};
    int across;

    block.state[FASTOPT_MAX_STATES] = fastopt_prepare_iterator(&it, walk, group, tensor, 0);
    across = crossing_axis(&it);
    if (across < 0) {
        run_blocks(&it, &block, begin, end);
    } else {
        const tiling t = tiles_of(&it, across);
        const size_t stop = tile_at(&t, end, tensor->n);
        for (size_t tile = tile_at(&t, begin, tensor->n); tile < stop; tile++)
            run_tile(&it, &t, &block, tile, stop);
    }
}

FASTOPT_INTERNAL void fastopt_walk_blocks(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end)
{
    tensor_iterator it;
    fastopt_block block = {0};

    block.state[FASTOPT_MAX_STATES] = fastopt_prepare_iterator(&it, walk, group, tensor, 1);
    run_blocks(&it, &block, begin, end);
}
