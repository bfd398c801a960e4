/*
 * driver.c - many tensors in one call.
 *
 * The tensors of a model, laid end to end, are one row of elements. A step cuts it into even pieces without regard to
 * where tensors begin, so that one large tensor and a thousand small ones keep all threads equally busy; the norm
 * cuts it into strips. Rules work element by element and the norm's order is fixed, so the cuts change no bit.
 */
#include "internal.h"

#include <string.h>

enum {
    LINE = 64,                /* bytes of a cache line: pieces of a tensor begin on one */
    WORTH_A_THREAD = 1 << 21, /* bytes that pay for waking a thread that sleeps (measured: 14 to 50 microseconds) */
    PIECES_A_THREAD = 16,     /* so that a thread that comes late, or is disturbed, leaves the others its share */
    PIECE = 1 << 17,          /* bytes that a piece touches at least */
    BLOCK = 2048,             /* elements between whose step and whose zeroing the gradient stays in the cache */
    STRIP = 4096,             /* elements of a strip of the norm at least, */
    STRIPS = 1024             /* and strips at most */
};

/* What a model amounts to. */
typedef struct {
    size_t elements;
    size_t bytes; /* touched by a step: parameters, gradients and state */
    int doubles;  /* whether there are any */
} extent;

static size_t size_of(int dtype)
{
    return dtype == FASTOPT_F32 ? sizeof(float) : sizeof(double);
}

/* ---- Checks and coefficients. ---- */

/* The tensor whose buffers say which ones the group has: the first that has elements, or the first of all. */
static const fastopt_tensor *pattern_of(const fastopt_group *group)
{
    for (size_t i = 0; i < group->count; i++)
        if (group->tensors[i].n)
            return &group->tensors[i];
    return group->tensors;
}

/* Whether every tensor that has elements has the buffers that the pattern has, and those that the rule needs. */
static int check_states(const fastopt_group *group, const fastopt_tensor *pattern, int required)
{
    for (size_t i = 0; i < group->count; i++)
        for (int j = 0; group->tensors[i].n && j < FASTOPT_MAX_STATES; j++) {
            const int there = group->tensors[i].state[j] != NULL;
            if (there != (pattern->state[j] != NULL) || (!there && j < required))
                return FASTOPT_ERR_BUFFER;
        }
    return FASTOPT_OK;
}

/* Everything but g and p. Leaves the loop and the coefficients of a step with so many times the gradient in the plan. */
static int plan_group(const fastopt_set *set, fastopt_group *group, double factor, int check)
{
    const fastopt_rule_info *info = fastopt_rule(group->rule);
    const fastopt_entry *entry;
    const fastopt_tensor *pattern;
    double hyper[FASTOPT_MAX_HYPERS];
    int error;

    if (!info)
        return FASTOPT_ERR_RULE;
    memcpy(hyper, group->hyper, sizeof hyper);
    hyper[fastopt_scale_index(group->rule)] *= factor;
    error = check ? fastopt_check_hypers(group->rule, group->dtype, hyper, group->options) : FASTOPT_OK;
    if (error || !group->count)
        return error;
    pattern = pattern_of(group);
    error = check ? check_states(group, pattern, info->required_states) : FASTOPT_OK;
    if (error)
        return error;
    entry = &set->entries[group->dtype][group->rule];
    group->plan.run = (void (*)(void))entry->run;
    error = entry->prepare(hyper, group->options, pattern->state, group->plan.coefficients);
    return error == FASTOPT_ERR_BUFFER && !pattern->n ? FASTOPT_OK : error; /* where there is nothing to step */
}

int fastopt_check(fastopt_group *group)
{
    const fastopt_set *set = fastopt_active_set();
    return set ? plan_group(set, group, 1.0, 1) : FASTOPT_ERR_ISA;
}

/* Finds out where each tensor stands in the row; every gradient must be there. */
static int lay_out(fastopt_model *model, extent *all)
{
    memset(all, 0, sizeof *all);
    for (size_t k = 0; k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        if (group->dtype != FASTOPT_F32 && group->dtype != FASTOPT_F64)
            return FASTOPT_ERR_RULE;
        all->doubles |= group->dtype == FASTOPT_F64;
        for (size_t i = 0; i < group->count; i++) {
            if (group->tensors[i].n && !group->tensors[i].g)
                return FASTOPT_ERR_BUFFER;
            group->tensors[i].first = all->elements;
            all->elements += group->tensors[i].n;
        }
    }
    return FASTOPT_OK;
}

static int check_step(const fastopt_set *set, fastopt_model *model, extent *all)
{
    int error = lay_out(model, all);

    if (model->extras & ~(unsigned)(FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE | FASTOPT_ZERO_GRAD) ||
        !(model->grad_scale >= -DBL_MAX && model->grad_scale <= DBL_MAX) ||
        ((model->extras & FASTOPT_CLIP_NORM) && !(model->max_norm >= 0.0)))
        return FASTOPT_ERR_MODEL;
    for (size_t k = 0; !error && k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        size_t elements = 0, buffers = 2;

        error = plan_group(set, group, model->grad_scale, 1);
        for (size_t i = 0; !error && i < group->count; i++) {
            if (group->tensors[i].n && !group->tensors[i].p)
                error = FASTOPT_ERR_BUFFER;
            elements += group->tensors[i].n;
        }
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            buffers += elements && pattern_of(group)->state[j];
        all->bytes += elements * buffers * size_of(group->dtype);
    }
    return error;
}

/* ---- Pieces of the row. ---- */

/* The last tensor of the group that begins at or before this place in the row, or the first one. */
static size_t find(const fastopt_group *group, size_t place)
{
    size_t low = 0, high = group->count;

    while (high - low > 1) {
        const size_t middle = low + (high - low) / 2;
        if (group->tensors[middle].first <= place)
            low = middle;
        else
            high = middle;
    }
    return low;
}

typedef void part_task(void *context, const fastopt_group *group, const fastopt_tensor *tensor, size_t begin,
                       size_t end);

/* The next multiple of a power of two. */
static size_t round_up(size_t x, size_t unit)
{
    return (x + unit - 1) & ~(unit - 1);
}

/*
 * Calls the task with every part of a tensor between two places in the row. Cuts within a tensor move on to the next
 * multiple of so many bytes (a power of two) from the tensor's start, from both sides alike.
 */
static void for_parts(const fastopt_model *model, size_t begin, size_t end, size_t bytes, part_task *task,
                      void *context)
{
    for (size_t k = 0; k < model->count; k++) {
        const fastopt_group *group = &model->groups[k];
        const fastopt_tensor *last;
        size_t unit;

        if (!group->count)
            continue;
        last = &group->tensors[group->count - 1];
        if (last->first + last->n <= begin)
            continue;
        unit = group->dtype == FASTOPT_F32 ? bytes / sizeof(float) : bytes / sizeof(double);
        unit = unit ? unit : 1;
        for (size_t i = find(group, begin); i < group->count && group->tensors[i].first < end; i++) {
            const fastopt_tensor *tensor = &group->tensors[i];
            size_t from = begin > tensor->first ? begin - tensor->first : 0, to = end - tensor->first;

            from = round_up(from, unit);
            to = to < tensor->n ? round_up(to, unit) : tensor->n;
            to = to < tensor->n ? to : tensor->n;
            if (from < to)
                task(context, group, tensor, from, to);
        }
    }
}

/* How many threads a model may have for work that touches so many bytes. */
static int threads_for(const fastopt_model *model, size_t bytes)
{
    const int limit = model->threads > 0 ? model->threads : fastopt_get_num_threads();
    const size_t worth = bytes / WORTH_A_THREAD;

    return worth < (size_t)limit ? (int)worth : limit;
}

/* ---- The global norm. ---- */

typedef struct {
    const fastopt_model *model;
    const fastopt_set *set;
    size_t elements, strip;
    double scale;
    double sums[STRIPS];
} norm_job;

typedef struct {
    const norm_job *job;
    size_t begin; /* of the strip, in the row */
    double lanes[FASTOPT_LANES];
} strip_sum;

static void sum_part(void *context, const fastopt_group *group, const fastopt_tensor *tensor, size_t begin, size_t end)
{
    strip_sum *sum = context;
    const size_t phase = (tensor->first + begin - sum->begin) % FASTOPT_LANES;
    const char *g = tensor->g;

    sum->job->set->norm[group->dtype]->sum_squares(end - begin, g + begin * size_of(group->dtype), phase,
                                                   sum->job->scale, sum->lanes);
}

static void sum_strip(void *context, size_t index)
{
    norm_job *job = context;
    strip_sum sum = {job, index * job->strip, {0.0}};
    size_t end = sum.begin + job->strip;

    end = end < job->elements ? end : job->elements;
    for_parts(job->model, sum.begin, end, 1, sum_part, &sum);
    for (int width = FASTOPT_LANES / 2; width; width /= 2)
        for (int j = 0; j < width; j++)
            sum.lanes[j] += sum.lanes[j + width];
    job->sums[index] = sum.lanes[0];
}

static double sum_squares(norm_job *job, double scale, int threads)
{
    const size_t strips = (job->elements + job->strip - 1) / job->strip;
    double sum = 0.0;

    job->scale = scale;
    fastopt_run_pieces(sum_strip, job, strips, threads);
    for (size_t i = 0; i < strips; i++)
        sum += job->sums[i];
    return sum;
}

static double global_norm(const fastopt_model *model, const fastopt_set *set, const extent *all)
{
    const size_t sixteenths = (all->elements + FASTOPT_LANES * STRIPS - 1) / (FASTOPT_LANES * STRIPS);
    const int threads = threads_for(model, all->elements * (all->doubles ? sizeof(double) : sizeof(float)));
    norm_job job;
    double sum;

    job.model = model;
    job.set = set;
    job.elements = all->elements;
    job.strip = sixteenths * FASTOPT_LANES > STRIP ? sixteenths * FASTOPT_LANES : STRIP;
    sum = sum_squares(&job, 1.0, threads);
    if (all->doubles && sum > DBL_MAX) /* squares of floats neither overflow nor vanish */
        return sqrt(sum_squares(&job, 0x1p-600, threads)) * 0x1p600;
    if (all->doubles && sum < 0x1p-900)
        return sqrt(sum_squares(&job, 0x1p600, threads)) * 0x1p-600;
    return sqrt(sum);
}

static double clip_factor(double norm, double max_norm)
{
    return norm + 1e-6 <= max_norm ? 1.0 : max_norm / (norm + 1e-6); /* NaN stays */
}

int fastopt_global_norm(fastopt_model *model)
{
    const fastopt_set *set = fastopt_active_set();
    extent all;
    int error = set ? lay_out(model, &all) : FASTOPT_ERR_ISA;

    if (!error)
        model->norm = global_norm(model, set, &all);
    return error;
}

/* Work on the whole row, element by element: what is done with a part of a tensor, and the cuts. */
typedef struct {
    part_task *part; /* its context is this */
    const fastopt_model *model;
    const fastopt_set *set;
    double factor;
    size_t even, rest; /* elements of a piece, and how many pieces have one more */
} row_job;

static void run_piece(void *context, size_t piece)
{
    row_job *job = context;
    const size_t begin = piece * job->even + (piece < job->rest ? piece : job->rest);

    for_parts(job->model, begin, begin + job->even + (piece < job->rest), LINE, job->part, job);
}

/* The whole row, which has so many elements and touches so many bytes, on as many threads as that is worth. */
static void run_row(row_job *job, size_t elements, size_t bytes)
{
    const int threads = threads_for(job->model, bytes);
    size_t pieces;

    if (threads < 2) {
        for (size_t k = 0; k < job->model->count; k++) {
            const fastopt_group *group = &job->model->groups[k];
            for (size_t i = 0; i < group->count; i++)
                job->part(job, group, &group->tensors[i], 0, group->tensors[i].n);
        }
        return;
    }
    pieces = bytes / PIECE + 1;
    if (pieces > (size_t)threads * PIECES_A_THREAD)
        pieces = (size_t)threads * PIECES_A_THREAD;
    job->even = elements / pieces;
    job->rest = elements % pieces;
    fastopt_run_pieces(run_piece, job, pieces, threads);
}

static void multiply_part(void *context, const fastopt_group *group, const fastopt_tensor *tensor, size_t begin,
                          size_t end)
{
    const row_job *job = context;
    char *g = tensor->g;

    job->set->norm[group->dtype]->multiply(end - begin, g + begin * size_of(group->dtype), job->factor);
}

int fastopt_clip_grad_norm(fastopt_model *model)
{
    const fastopt_set *set = fastopt_active_set();
    row_job job;
    extent all;
    int error = set ? lay_out(model, &all) : FASTOPT_ERR_ISA;

    if (!error && !(model->max_norm >= 0.0))
        error = FASTOPT_ERR_MODEL;
    if (error)
        return error;
    model->norm = global_norm(model, set, &all);
    job = (row_job){multiply_part, model, set, clip_factor(model->norm, model->max_norm), 0, 0};
    if (job.factor != 1.0)
        run_row(&job, all.elements, all.elements * (all.doubles ? sizeof(double) : sizeof(float)));
    return FASTOPT_OK;
}

/* ---- The step. ---- */

static void step_part(void *context, const fastopt_group *group, const fastopt_tensor *tensor, size_t begin, size_t end)
{
    const row_job *job = context;
    const size_t size = size_of(group->dtype);
    const int zero = (job->model->extras & FASTOPT_ZERO_GRAD) != 0;
    const size_t most = zero ? BLOCK : end - begin;

    for (size_t i = begin, n; i < end; i += n) {
        char *p = tensor->p, *g = tensor->g;
        void *state[FASTOPT_MAX_STATES];

        n = end - i < most ? end - i : most;
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            state[j] = tensor->state[j] ? (char *)tensor->state[j] + i * size : NULL;
        fastopt_call(&group->plan, n, p + i * size, g + i * size, state, group->options);
        if (zero)
            memset(g + i * size, 0, n * size);
    }
}

int fastopt_step(fastopt_model *model)
{
    const fastopt_set *set = fastopt_active_set();
    row_job job;
    extent all;
    int error = set ? check_step(set, model, &all) : FASTOPT_ERR_ISA;

    if (error)
        return error;
    if (model->extras & (FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE)) {
        model->norm = fabs(model->grad_scale) * global_norm(model, set, &all);
        if ((model->extras & FASTOPT_SKIP_NONFINITE) && !(model->norm <= DBL_MAX))
            return FASTOPT_SKIPPED;
        if (model->extras & FASTOPT_CLIP_NORM)
            for (size_t k = 0; k < model->count; k++) /* unchecked: a norm that is NaN makes the factor NaN */
                plan_group(set, &model->groups[k], model->grad_scale * clip_factor(model->norm, model->max_norm), 0);
    }
    job = (row_job){step_part, model, set, 1.0, 0, 0};
    run_row(&job, all.elements, all.bytes);
    return FASTOPT_OK;
}
