/*
 * norm.c - the global norm of a model's gradients, and clipping to it.
 *
 * The elements of all gradients are cut into strips, whose sums of squares are formed in parallel and added in order.
 */
#include "internal.h"

enum {
    STRIP = 4096, /* elements of a strip, or more */
    STRIPS = 1024 /* the largest number of strips */
};

FASTOPT_INTERNAL size_t fastopt_strip_size(size_t elements)
{
    const size_t sixteenths = (elements + FASTOPT_LANES * STRIPS - 1) / (FASTOPT_LANES * STRIPS);

    return sixteenths * FASTOPT_LANES > STRIP ? sixteenths * FASTOPT_LANES : STRIP;
}

FASTOPT_INTERNAL double fastopt_add_lanes(double *lanes)
{
    for (int width = FASTOPT_LANES / 2; width; width /= 2)
        for (int j = 0; j < width; j++)
            lanes[j] += lanes[j + width];
    return lanes[0];
}

typedef struct {
    fastopt_model *model;
    const fastopt_loop_set *set;
    size_t elements, strip;
    double scale;
    double sums[STRIPS];
} norm_job;

typedef struct {
    const norm_job *job;
    const fastopt_loops *loops;
    size_t begin; /* where in the row the strip begins */
    size_t phase; /* the lane of the next element */
    double lanes[FASTOPT_LANES];
} strip_sum;

static void sum_block(void *context, const fastopt_block *block)
{
    strip_sum *sum = context;

    sum->loops->sum_squares(block->n, block->g, sum->phase, sum->job->scale, sum->lanes);
    sum->phase = (sum->phase + block->n) % FASTOPT_LANES;
}

static void sum_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    strip_sum *sum = context;

    sum->loops = fastopt_loops_of(sum->job->set, group->type);
    sum->phase = (tensor->scratch[FASTOPT_FIRST] + begin - sum->begin) % FASTOPT_LANES;
    if (tensor->layout) {
        const fastopt_walk walk = {.loops = sum->loops, .factor = 1.0, .reads_g = 1, .task = sum_block, .context = sum};
        fastopt_walk_blocks(&walk, group, tensor, begin, end);
    } else {
        const char *g = tensor->g;
        sum->loops->sum_squares(end - begin, g + begin * fastopt_computed_size(group->type), sum->phase,
                                sum->job->scale, sum->lanes);
    }
}

static void sum_strip(void *context, size_t index)
{
    norm_job *job = context;
    strip_sum sum = {.job = job, .begin = index * job->strip};
    size_t end = sum.begin + job->strip;

    end = end < job->elements ? end : job->elements;
    fastopt_for_parts(job->model, sum.begin, end, 1, sum_part, &sum);
    job->sums[index] = fastopt_add_lanes(sum.lanes);
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

FASTOPT_INTERNAL double fastopt_model_norm(fastopt_model *model, const fastopt_loop_set *set,
                                           const fastopt_extent *extent)
{
    const int threads =
        fastopt_threads_for(model, extent->elements * (extent->has_doubles ? sizeof(double) : sizeof(float)));
    norm_job job;
    double sum;

    job.model = model;
    job.set = set;
    job.elements = extent->elements;
    job.strip = fastopt_strip_size(extent->elements);
    sum = sum_squares(&job, 1.0, threads);
    if (extent->has_doubles && sum > DBL_MAX) /* in double, squares of floats neither overflow nor vanish */
        return sqrt(sum_squares(&job, 0x1p-600, threads)) * 0x1p600;
    if (extent->has_doubles && sum < 0x1p-900)
        return sqrt(sum_squares(&job, 0x1p600, threads)) * 0x1p-600;
    return sqrt(sum);
}

FASTOPT_INTERNAL double fastopt_clip_factor(double norm, double max_norm)
{
    return norm + 1e-6 <= max_norm ? 1.0 : max_norm / (norm + 1e-6); /* NaN for a norm that is NaN */
}

/* ---- The public functions. ---- */

/* Lays out the row and checks the layout of each gradient; `written`: gradients will be written, too. */
static int check_gradients(fastopt_model *model, const fastopt_loop_set *set, int written, fastopt_extent *extent)
{
    int error = fastopt_lay_out(model, set, extent);

    for (size_t k = 0; !error && k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        for (size_t i = 0; !error && i < group->count; i++) {
            fastopt_bad_field what;
            error = fastopt_check_layout(group, &group->tensors[i], 1, written, &what);
            if (error)
                fastopt_fail(model, error, (ptrdiff_t)k, (ptrdiff_t)i, what.name, 0.0, what.takes);
        }
    }
    return error;
}

int fastopt_global_norm(fastopt_model *model)
{
    const fastopt_loop_set *set = fastopt_active_set();
    fastopt_extent extent;
    int error = check_gradients(model, set, 0, &extent);

    if (!error)
        model->norm = fastopt_model_norm(model, set, &extent);
    return error;
}

typedef struct {
    const fastopt_loop_set *set;
    double factor;
} multiply_job;

/* The walk itself has multiplied the gradients and writes them back. */
static void ignore_block(void *context, const fastopt_block *block)
{
    (void)context;
    (void)block;
}

static void multiply_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    const multiply_job *job = context;
    const fastopt_loops *loops = fastopt_loops_of(job->set, group->type);

    if (tensor->layout) {
        const fastopt_walk walk = {
            .loops = loops, .factor = job->factor, .reads_g = 1, .writes_g = 1, .task = ignore_block};
        fastopt_walk_tensor(&walk, group, tensor, begin, end);
    } else {
        loops->multiply(end - begin, (char *)(uintptr_t)tensor->g + begin * fastopt_computed_size(group->type),
                        job->factor);
    }
}

int fastopt_clip_grad_norm(fastopt_model *model)
{
    const fastopt_loop_set *set = fastopt_active_set();
    fastopt_extent extent;
    multiply_job job = {.set = set};
    int error = check_gradients(model, set, 1, &extent);

    if (!error && !(model->max_norm >= 0.0))
        error = fastopt_fail(model, FASTOPT_ERR_MODEL, -1, -1, "max_norm", model->max_norm, "a number >= 0");
    if (error)
        return error;
    model->norm = fastopt_model_norm(model, set, &extent);
    job.factor = fastopt_clip_factor(model->norm, model->max_norm);
    if (job.factor != 1.0)
        fastopt_run_row(model, extent.elements, extent.elements * (extent.has_doubles ? sizeof(double) : sizeof(float)),
                        multiply_part, &job);
    return FASTOPT_OK;
}
