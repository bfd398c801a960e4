/*
 * step.c - a step of a model: its checks, the coefficients of its groups, and the passes over its tensors.
 */
#include "one.h"

/* ---- Checks. ---- */

static int fail(fastopt_model *model, int code, size_t group, ptrdiff_t tensor, const char *name, const char *takes)
{
    return fastopt_fail(model, code, (ptrdiff_t)group, tensor, name, 0.0, takes);
}

static int fail_model(fastopt_model *model, const char *name, double value, const char *takes)
{
    return fastopt_fail(model, FASTOPT_ERR_MODEL, -1, -1, name, value, takes);
}

static int check_model(fastopt_model *model)
{
    if (model->extras & ~(unsigned)(FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE | FASTOPT_ZERO_GRAD))
        return fail_model(model, "extras", model->extras,
                          "an OR of FASTOPT_CLIP_NORM, FASTOPT_SKIP_NONFINITE and FASTOPT_ZERO_GRAD");
    if (!(model->grad_scale >= -DBL_MAX && model->grad_scale <= DBL_MAX))
        return fail_model(model, "grad_scale", model->grad_scale, "a finite number");
    if ((model->extras & FASTOPT_CLIP_NORM) && !(model->max_norm >= 0.0))
        return fail_model(model, "max_norm", model->max_norm, "a number >= 0");
    return FASTOPT_OK;
}

/* The first tensor of the group that has elements, or NULL. The others must have the same state buffers. */
static const fastopt_tensor *first_nonempty(const fastopt_group *group)
{
    for (size_t i = 0; i < group->count; i++)
        if (group->tensors[i].n)
            return &group->tensors[i];
    return NULL;
}

/* A bit for each state buffer that a tensor has. */
static unsigned states_of(const fastopt_tensor *tensor)
{
    unsigned states = 0;

    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        states |= (unsigned)(tensor->state[j] != NULL) << j;
    return states;
}

/* A bit for each state buffer that the rule needs with these hyperparameters. */
static unsigned needed_states(const fastopt_group *group)
{
    const fastopt_rule_row *row = &fastopt_rules[group->rule];
    unsigned needed = (1u << row->info.required_states) - 1;

    for (int j = row->info.required_states; j < row->info.state_count; j++)
        if (row->needed_by[j] >= 0 && group->hyper[row->needed_by[j]] != 0.0)
            needed |= 1u << j;
    return needed;
}

/*
 * Reports the state buffer of tensor i in group k that is wrong: there must be those of `expected`, and all of
 * `needed`.
 */
static int fail_states(fastopt_model *model, size_t k, size_t i, unsigned expected, unsigned needed)
{
    const fastopt_rule_info *info = &fastopt_rules[model->groups[k].rule].info;
    const unsigned states = states_of(&model->groups[k].tensors[i]);

    for (int j = 0; j < info->state_count; j++) {
        if ((needed & ~states) >> j & 1)
            return fail(model, FASTOPT_ERR_BUFFER, k, (ptrdiff_t)i, info->states[j].name, "a buffer, not NULL");
        if ((expected ^ states) >> j & 1)
            return fail(model, FASTOPT_ERR_BUFFER, k, (ptrdiff_t)i, info->states[j].name,
                        "present in all tensors of the group or in none");
    }
    return fail(model, FASTOPT_ERR_UNUSED, k, (ptrdiff_t)i, "state", "NULL past the rule's last state");
}

/*
 * Checks the buffers and the layouts of a group's tensors. All must have the same state buffers as `first`, those of
 * `states`; the rule needs those of `needed`.
 */
static int check_tensors(fastopt_model *model, size_t k, const fastopt_tensor *first, unsigned states, unsigned needed)
{
    const fastopt_group *group = &model->groups[k];
    const int wrong = (needed & ~states) || states >> fastopt_rules[group->rule].info.state_count;

    for (size_t i = 0; i < group->count; i++) {
        const fastopt_tensor *tensor = &group->tensors[i];
        fastopt_bad_field bad_field;
        int error;

        if (!tensor->n)
            continue;
        if (!tensor->p)
            return fail(model, FASTOPT_ERR_BUFFER, k, (ptrdiff_t)i, "p", "a buffer, not NULL");
        if (wrong || (tensor != first && states_of(tensor) != states))
            return fail_states(model, k, i, states, needed);
        if (!tensor->layout)
            continue;
        error = fastopt_check_layout(group, tensor, 0, (model->extras & FASTOPT_ZERO_GRAD) != 0, &bad_field);
        if (error)
            return fail(model, error, k, (ptrdiff_t)i, bad_field.name, bad_field.takes);
    }
    return FASTOPT_OK;
}

/* Reports an option that the hyperparameters forbid. */
static int fail_option(fastopt_model *model, size_t k, unsigned options)
{
    const fastopt_rule_row *row = &fastopt_rules[model->groups[k].rule];

    for (int i = 0; i < row->info.option_count; i++)
        if (row->needs[i] && (options & row->info.options[i].bit))
            return fail(model, FASTOPT_ERR_OPTION, k, -1, row->info.options[i].name, row->needs[i]);
    return fail(model, FASTOPT_ERR_OPTION, k, -1, "options", NULL);
}

/*
 * Whether the settings of a group, except for the step number, are still those that an earlier step found to be valid.
 */
static int is_checked(const fastopt_group *group)
{
    const fastopt_plan *plan = (const fastopt_plan *)(const void *)group->scratch;
    const double *hyper = group->hyper;
    int changed = 0;

    if (plan->checked != FASTOPT_CHECKED || plan->rule != group->rule || plan->type != group->type ||
        plan->options != group->options)
        return 0;
    for (int i = 1; i < FASTOPT_MAX_HYPERS; i++)
        changed |= plan->hyper[i] != hyper[i]; /* 0 and -0 compare equal, but are in the same ranges */
    if (fastopt_rules[group->rule].range[0] == RANGE_count)
        return !changed && in_bounds(fastopt_range_bounds[RANGE_count][0], hyper[0]) && !is_fractional(hyper[0]);
    return !changed && plan->hyper[0] == hyper[0];
}

/* Checks rule, options and hyperparameters of a group, and remembers in its plan that they are valid. */
static int check_settings(fastopt_model *model, size_t k)
{
    fastopt_group *group = &model->groups[k];
    fastopt_plan *plan = fastopt_plan_of(group);
    const fastopt_rule_row *row;
    int bad_hyper, nonzero = 0;

    if (group->rule < 0 || group->rule >= RULE_COUNT)
        return fail(model, FASTOPT_ERR_RULE, k, -1, "rule", "the index of a rule");
    row = &fastopt_rules[group->rule];
    if (group->options & ~row->option_mask)
        return fail(model, FASTOPT_ERR_OPTION, k, -1, "options", NULL);
    bad_hyper = find_bad_hyper(group->rule, group->type, group->hyper);
    if (bad_hyper >= 0) {
        const fastopt_hyper_info *info = &row->info.hypers[bad_hyper];
        return fastopt_fail(model, FASTOPT_ERR_HYPER - bad_hyper, (ptrdiff_t)k, -1, info->name, group->hyper[bad_hyper],
                            info->takes);
    }
    for (int i = row->info.hyper_count; i < FASTOPT_MAX_HYPERS; i++)
        nonzero |= group->hyper[i] != 0.0;
    if (nonzero)
        return fail(model, FASTOPT_ERR_UNUSED, k, -1, "hyper", "0 past the rule's last hyperparameter");
    memcpy(plan->hyper, group->hyper, sizeof plan->hyper);
    plan->rule = group->rule;
    plan->type = group->type;
    plan->options = group->options;
    plan->needed = needed_states(group);
    plan->checked = FASTOPT_CHECKED;
    return FASTOPT_OK;
}

static int check_group(fastopt_model *model, size_t k)
{
    const fastopt_group *group = &model->groups[k];
    const int error = is_checked(group) ? FASTOPT_OK : check_settings(model, k);
    double factor;

    if (error)
        return error;
    factor = model->grad_scale * group->hyper[fastopt_rules[group->rule].info.hyper_count - 1];
    if (!(fabs(factor) <= DBL_MAX))
        return fastopt_fail(model, FASTOPT_ERR_MODEL, (ptrdiff_t)k, -1, "grad_scale", factor,
                            "a finite number, also when multiplied by the group's own");
    return FASTOPT_OK;
}

/* ---- Coefficients. ---- */

static void *const no_states[FASTOPT_MAX_STATES];

/* How many buffers a tensor has, with parameters and gradients, by the bits of its states. */
static const unsigned char buffers_of[1 << FASTOPT_MAX_STATES] = {2, 3, 3, 4, 3, 4, 4, 5, 3, 4, 4, 5, 4, 5, 5, 6};

/*
 * Stores in the group's plan the loop to run and the coefficients for gradients scaled by `factor` and by the group's
 * own grad_scale. If float cannot hold their product exactly, the loop's scale is 1 and the gradients are multiplied by
 * the product in double before.
 */
static int plan_group(const fastopt_loop_set *set, fastopt_group *group, const fastopt_tensor *first, double factor)
{
    const fastopt_rule_row *row = &fastopt_rules[group->rule];
    fastopt_plan *plan = fastopt_plan_of(group);
    double hyper[FASTOPT_MAX_HYPERS];

    memcpy(hyper, group->hyper, sizeof hyper);
    factor *= hyper[row->info.hyper_count - 1];
    if (group->options & FASTOPT_MAXIMIZE)
        factor = -factor;
    plan->staged = group->type == FASTOPT_F32 && (double)(float)factor != factor;
    plan->sums = row->info.sums;
    plan->factor = plan->staged ? factor : 1.0;
    plan->run = fastopt_loops_of(set, group->type)->entries[group->rule].run[0];
    hyper[row->info.hyper_count - 1] = plan->staged ? 1.0 : factor;
    return row->prepare[group->type - FASTOPT_F32](hyper, first ? first->state : no_states, group->options,
                                                   plan->coefficients);
}

/* Whether two groups have the same settings and state buffers, so that the plan of one is that of the other. */
static int same_settings(const fastopt_group *a, unsigned states_of_a, const fastopt_group *b, unsigned states_of_b)
{
    return a->rule == b->rule && a->type == b->type && a->options == b->options && states_of_a == states_of_b &&
           !memcmp(a->hyper, b->hyper, sizeof a->hyper);
}

/* Checks the whole model, and plans a step whose gradients are not clipped. Stores how many bytes it will touch. */
static int check_step(const fastopt_loop_set *set, fastopt_model *model, fastopt_extent *extent, size_t *bytes)
{
    int error = fastopt_lay_out(model, set, extent);
    unsigned previous_states = 0, needed = 0; /* of the group before this one */

    error = error ? error : check_model(model);
    *bytes = 0;
    for (size_t k = 0; !error && k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        const fastopt_tensor *first = first_nonempty(group);
        const unsigned states = first ? states_of(first) : 0;
        const int repeated = k && same_settings(group - 1, previous_states, group, states);

        error = repeated ? FASTOPT_OK : check_group(model, k);
        if (!error && !repeated)
            needed = fastopt_plan_of(group)->needed;
        if (!error && first)
            error = check_tensors(model, k, first, states, needed);
        if (error)
            break;
        if (repeated)
            memcpy(group->scratch, (group - 1)->scratch, offsetof(fastopt_plan, hyper));
        else if (plan_group(set, group, first, model->grad_scale) == FASTOPT_ERR_OPTION)
            return fail_option(model, k, group->options);
        previous_states = states;
        if (first) {
            const fastopt_tensor *last = &group->tensors[group->count - 1];
            const size_t elements = last->scratch[FASTOPT_FIRST] + last->n - group->tensors[0].scratch[FASTOPT_FIRST];
            *bytes += elements * buffers_of[states] * fastopt_computed_size(group->type);
        }
    }
    if (!error && extent->sums && (!model->workspace || model->workspace_size < extent->sums * sizeof(double)))
        return fastopt_fail(model, FASTOPT_ERR_WORKSPACE, -1, -1, "workspace_size", (double)model->workspace_size,
                            NULL);
    return error;
}

/* ---- The passes. ---- */

typedef struct {
    fastopt_model *model;
    const fastopt_loop_set *set;
    int zero; /* whether the gradients are zeroed after the step */
} step_job;

/* How to run a loop on a block of a walk. */
typedef struct {
    fastopt_run *run;
    const void *coefficients;
    unsigned options;
} block_job;

static void step_block(void *context, const fastopt_block *block)
{
    const block_job *job = context;

    job->run(block->n, block->p, block->g, block->state, job->coefficients, job->options);
}

/* Steps a part of a tensor that the loop cannot work on in place. */
static void step_staged(const step_job *job, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    const fastopt_plan *plan = fastopt_plan_of(group);
    block_job blocks = {plan->run, plan->coefficients, group->options};
    const fastopt_walk walk = {.loops = fastopt_loops_of(job->set, group->type),
                               .factor = plan->factor,
                               .reads_g = 1,
                               .reads_p = 1,
                               .writes_p = 1,
                               .writes_states = 1,
                               .zeroes_g = job->zero,
                               .task = step_block,
                               .context = &blocks};

    fastopt_walk_tensor(&walk, group, tensor, begin, end);
}

/* ---- Rules with sums: the first pass forms the sums, the second steps the parameters. ---- */

typedef struct {
    block_job run;
    const fastopt_loops *loops;
    const fastopt_rule_row *row;
    size_t phase;
    double lanes[FASTOPT_MAX_SUMS][FASTOPT_LANES];
} measure_job;

/* Runs the loop of the first pass on a block and adds its squares to the lanes. */
static void measure_block(void *context, const fastopt_block *block)
{
    measure_job *job = context;

    step_block(&job->run, block);
    for (int k = 0; k < job->row->info.sums; k++)
        job->loops->sum_squares(block->n,
                                job->row->sums[k] == FASTOPT_SUM_P ? block->p : block->state[FASTOPT_MAX_STATES],
                                job->phase, 1.0, job->lanes[k]);
    job->phase = (job->phase + block->n) % FASTOPT_LANES;
}

/* The first pass over the strips that begin in a part of a tensor: each strip belongs to one part. */
static void measure_part(const step_job *job, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    const fastopt_plan *plan = fastopt_plan_of(group);
    const fastopt_rule_row *row = &fastopt_rules[group->rule];
    const size_t strip = fastopt_strip_size(tensor->n);
    double *const sums = (double *)job->model->workspace + tensor->scratch[FASTOPT_SUMS];
    measure_job measure = {.run = {plan->run, plan->coefficients, group->options},
                           .loops = fastopt_loops_of(job->set, group->type),
                           .row = row};
    const fastopt_walk walk = {.loops = measure.loops,
                               .factor = plan->factor,
                               .reads_g = 1,
                               .reads_p = 1,
                               .writes_states = 1,
                               .zeroes_g = job->zero,
                               .scratch = 1,
                               .task = measure_block,
                               .context = &measure};

    for (size_t i = (begin + strip - 1) / strip; i * strip < end; i++) {
        const size_t stop = tensor->n - i * strip < strip ? tensor->n : (i + 1) * strip;
        memset(measure.lanes, 0, sizeof measure.lanes);
        measure.phase = 0;
        fastopt_walk_blocks(&walk, group, tensor, i * strip, stop);
        for (int k = 0; k < row->info.sums; k++)
            sums[i * (size_t)row->info.sums + (size_t)k] = fastopt_add_lanes(measure.lanes[k]);
    }
}

/* The second pass over a part of a tensor, with coefficients that depend on the tensor's sums. It reads no gradient. */
static void apply_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    const step_job *job = context;
    const fastopt_rule_row *row = &fastopt_rules[group->rule];
    const size_t strip = fastopt_strip_size(tensor->n), strips = (tensor->n + strip - 1) / strip;
    const double *const sums = (const double *)job->model->workspace + tensor->scratch[FASTOPT_SUMS];
    double coefficients[FASTOPT_MAX_COEFFICIENTS], totals[FASTOPT_MAX_SUMS] = {0};
    const block_job blocks = {fastopt_loops_of(job->set, group->type)->entries[group->rule].run[1], coefficients,
                              group->options};
    const fastopt_walk walk = {.loops = fastopt_loops_of(job->set, group->type),
                               .factor = 1.0,
                               .reads_p = 1,
                               .writes_p = 1,
                               .task = step_block,
                               .context = (void *)(uintptr_t)&blocks};

    if (!row->info.sums)
        return;
    for (size_t i = 0; i < strips * (size_t)row->info.sums; i++)
        totals[i % (size_t)row->info.sums] += sums[i];
    row->settle[group->type - FASTOPT_F32](group->hyper, tensor->state, group->options, totals, coefficients);
    fastopt_walk_tensor(&walk, group, tensor, begin, end);
}

/* ---- The step. ---- */

static void step_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end)
{
    const step_job *job = context;
    const fastopt_plan *plan = fastopt_plan_of(group);
    const size_t size = fastopt_computed_size(group->type), most = job->zero ? (size_t)FASTOPT_ZEROED : end - begin;

    if (plan->sums) {
        measure_part(job, group, tensor, begin, end);
        return;
    }
    if (tensor->layout || plan->staged) {
        step_staged(job, group, tensor, begin, end);
        return;
    }
    for (size_t i = begin, n; i < end; i += n) {
        char *const p = tensor->p, *const g = (char *)(uintptr_t)tensor->g;
        void *state[FASTOPT_MAX_STATES];

        n = end - i < most ? end - i : most;
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            state[j] = tensor->state[j] ? (char *)tensor->state[j] + i * size : NULL;
        plan->run(n, p + i * size, g + i * size, state, plan->coefficients, group->options);
        if (job->zero)
            memset(g + i * size, 0, n * size);
    }
}

int fastopt_step(fastopt_model *model)
{
    const fastopt_loop_set *set = fastopt_active_set();
    step_job job = {model, set, (model->extras & FASTOPT_ZERO_GRAD) != 0};
    fastopt_extent extent;
    size_t bytes;
    int error = check_step(set, model, &extent, &bytes);

    if (error)
        return error;
    if (model->extras & (FASTOPT_CLIP_NORM | FASTOPT_SKIP_NONFINITE)) {
        model->norm = fabs(model->grad_scale) * fastopt_model_norm(model, set, &extent);
        if ((model->extras & FASTOPT_SKIP_NONFINITE) && !(model->norm <= DBL_MAX))
            return model->error.code = FASTOPT_SKIPPED;
        if (model->extras & FASTOPT_CLIP_NORM)
            for (size_t k = 0; k < model->count; k++)
                plan_group(set, &model->groups[k], first_nonempty(&model->groups[k]),
                           model->grad_scale * fastopt_clip_factor(model->norm, model->max_norm));
    }
    fastopt_run_row(model, extent.elements, bytes, step_part, &job);
    if (extent.sums)
        fastopt_run_row(model, extent.elements, bytes, apply_part, &job);
    return FASTOPT_OK;
}

int fastopt_check(fastopt_model *model)
{
    const fastopt_loop_set *set = fastopt_active_set();
    fastopt_extent extent;
    size_t bytes;

    return check_step(set, model, &extent, &bytes);
}

size_t fastopt_workspace(const fastopt_model *model)
{
    size_t doubles = 0;

    if (model->size != sizeof *model || !model->groups)
        return 0; /* fastopt_step() reports the error */
    for (size_t k = 0; k < model->count; k++) {
        const fastopt_group *group = &model->groups[k];
        const fastopt_rule_info *info =
            group->size == sizeof *group && group->tensors ? fastopt_rule(group->rule) : NULL;
        for (size_t i = 0; info && info->sums && i < group->count; i++) {
            const size_t n = group->tensors[i].n, strip = fastopt_strip_size(n);
            doubles += (n + strip - 1) / strip * (size_t)info->sums;
        }
    }
    return doubles * sizeof(double);
}

FASTOPT_INTERNAL int fastopt_step_one(int rule, int type, size_t n, void *p, const void *g, void *const *state,
                                      const double *hyper, unsigned options)
{
    double sums[1024 * FASTOPT_MAX_SUMS]; /* a tensor has at most 1024 strips */
    fastopt_tensor tensor = {.size = sizeof tensor, .n = n, .p = p, .g = g};
    fastopt_group group = {
        .size = sizeof group, .rule = rule, .type = type, .options = options, .count = 1, .tensors = &tensor};
    fastopt_model model = {.size = sizeof model,
                           .count = 1,
                           .groups = &group,
                           .grad_scale = 1.0,
                           .threads = 1,
                           .workspace = sums,
                           .workspace_size = sizeof sums};

    memcpy(tensor.state, state, sizeof tensor.state);
    memcpy(group.hyper, hyper, sizeof group.hyper);
    return fastopt_step(&model);
}
