/*
 * row.c - all tensors of a model as one row of elements, which is cut into pieces for threads and strips for the norm.
 *
 * In the row the tensors lie end to end. A step cuts it into even pieces without regard to where tensors begin, so that
 * one large tensor and a thousand small ones keep all threads equally busy. Rules work element by element and the order
 * of every sum is fixed, so the cuts change no bit.
 */
#include "internal.h"

enum {
    PIECES_A_THREAD = 16, /* when a thread starts late or is interrupted, the others can run most of its pieces */
    PIECE = 1 << 17       /* bytes that a piece touches, or more */
};

FASTOPT_INTERNAL int fastopt_fail(fastopt_model *model, int code, ptrdiff_t group, ptrdiff_t tensor, const char *name,
                                  double value, const char *takes)
{
    const int rule = group >= 0 && model->groups[group].size == sizeof(fastopt_group) ? model->groups[group].rule : -1;

    model->error = (fastopt_error){code, group, tensor, NULL, name, value, takes, 0};
    if (rule >= 0)
        model->error.type = model->groups[group].type;
    if (rule >= 0 && rule < RULE_COUNT)
        model->error.rule = fastopt_rules[rule].info.name;
    return code;
}

FASTOPT_INTERNAL int fastopt_lay_out(fastopt_model *model, const fastopt_loop_set *set, fastopt_extent *extent)
{
    memset(extent, 0, sizeof *extent);
    if (model->size != sizeof *model)
        return FASTOPT_ERR_SIZE; /* model->error may not be where this library expects it */
    model->error.code = FASTOPT_OK;
    if (!set)
        return fastopt_fail(model, FASTOPT_ERR_ISA, -1, -1, NULL, 0.0, NULL);
    if (model->count && !model->groups)
        return fastopt_fail(model, FASTOPT_ERR_MODEL, -1, -1, "groups", 0.0, "an array of count groups");
    for (size_t k = 0; k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        int sums;

        if (group->size != sizeof *group)
            return fastopt_fail(model, FASTOPT_ERR_SIZE, (ptrdiff_t)k, -1, "size", 0.0, "sizeof(fastopt_group)");
        if (group->type != FASTOPT_F32 && group->type != FASTOPT_F64)
            return fastopt_fail(model, FASTOPT_ERR_TYPE, (ptrdiff_t)k, -1, "type", 0.0, "FASTOPT_F32 or FASTOPT_F64");
        if (group->count && !group->tensors)
            return fastopt_fail(model, FASTOPT_ERR_BUFFER, (ptrdiff_t)k, -1, "tensors", 0.0,
                                "an array of count tensors");
        extent->has_doubles |= group->type == FASTOPT_F64;
        sums = group->rule >= 0 && group->rule < RULE_COUNT ? fastopt_rules[group->rule].info.sums : 0;
        for (size_t i = 0; i < group->count; i++) {
            fastopt_tensor *tensor = &group->tensors[i];

            if (tensor->size != sizeof *tensor)
                return fastopt_fail(model, FASTOPT_ERR_SIZE, (ptrdiff_t)k, (ptrdiff_t)i, "size", 0.0,
                                    "sizeof(fastopt_tensor)");
            if (tensor->n && !tensor->g)
                return fastopt_fail(model, FASTOPT_ERR_BUFFER, (ptrdiff_t)k, (ptrdiff_t)i, "g", 0.0,
                                    "a buffer, not NULL");
            tensor->scratch[FASTOPT_FIRST] = extent->elements;
            extent->elements += tensor->n;
            if (sums && tensor->n) {
                const size_t strip = fastopt_strip_size(tensor->n);
                tensor->scratch[FASTOPT_SUMS] = extent->sums;
                extent->sums += (tensor->n + strip - 1) / strip * (size_t)sums;
            }
        }
    }
    return FASTOPT_OK;
}

/* ---- Pieces of the row. ---- */

/* The index of the last tensor of the group that begins at or before this place in the row, or 0 if none does. */
static size_t find_tensor(const fastopt_group *group, size_t place)
{
    size_t low = 0, high = group->count;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (group->tensors[middle].scratch[FASTOPT_FIRST] <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* The smallest multiple of `granule`, a power of two, that is not below x. */
static size_t round_up(size_t x, size_t granule)
{
    return (x + granule - 1) & ~(granule - 1);
}

/*
 * A cut in a tensor moves up to the next multiple of `bytes`, a power of two, from the tensor's start. The part before
 * the cut and the part after it move it in the same way, so that each element belongs to one part.
 */
FASTOPT_INTERNAL void fastopt_for_parts(fastopt_model *model, size_t begin, size_t end, size_t bytes,
                                        fastopt_part *part, void *context)
{
    for (size_t k = 0; k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        const fastopt_tensor *last;
        size_t granule;

        if (!group->count)
            continue;
        last = &group->tensors[group->count - 1];
        if (last->scratch[FASTOPT_FIRST] + last->n <= begin)
            continue;
        granule = bytes / fastopt_computed_size(group->type);
        granule = granule ? granule : 1;
        for (size_t i = find_tensor(group, begin); i < group->count && group->tensors[i].scratch[FASTOPT_FIRST] < end;
             i++) {
            fastopt_tensor *tensor = &group->tensors[i];
            const size_t first = tensor->scratch[FASTOPT_FIRST];
            size_t from = begin > first ? begin - first : 0, to = end - first;

            from = round_up(from, granule);
            to = to < tensor->n ? round_up(to, granule) : tensor->n;
            to = to < tensor->n ? to : tensor->n;
            if (from < to)
                part(context, group, tensor, from, to);
        }
    }
}

/* ---- The whole row. ---- */

typedef struct {
    fastopt_model *model;
    fastopt_part *part;
    void *context;
    size_t even, rest; /* elements of a piece, and how many pieces have one more */
} row_job;

static void run_piece(void *context, size_t piece)
{
    const row_job *job = context;
    const size_t begin = piece * job->even + (piece < job->rest ? piece : job->rest);

    fastopt_for_parts(job->model, begin, begin + job->even + (piece < job->rest), FASTOPT_LINE, job->part,
                      job->context);
}

FASTOPT_INTERNAL void fastopt_share_row(fastopt_model *model, size_t elements, size_t bytes, int threads,
                                        fastopt_part *part, void *context)
{
    row_job job = {model, part, context, 0, 0};
    size_t pieces = bytes / PIECE + 1;

    if (pieces > (size_t)threads * PIECES_A_THREAD)
        pieces = (size_t)threads * PIECES_A_THREAD;
    job.even = elements / pieces;
    job.rest = elements % pieces;
    fastopt_run_pieces(run_piece, &job, pieces, threads);
}
