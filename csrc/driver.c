/*
 * driver.c - many tensors in one call.
 */
#include "internal.h"

#include <string.h>

/* Whether b can be stepped by the plan that was made for a: what prepare() may look at is the same. */
static int same_plan(const fastopt_tensor *a, const fastopt_tensor *b)
{
    if (a->dtype != b->dtype || a->step != b->step)
        return 0;
    for (int i = 0; i < FASTOPT_MAX_STATES; i++)
        if (!a->state[i] != !b->state[i])
            return 0;
    return 1;
}

static int plan_tensor(const fastopt_group *group, const fastopt_tensor *tensor, fastopt_plan *plan)
{
    const fastopt_rule_info *info = fastopt_rule(group->rule);
    double hyper[FASTOPT_MAX_HYPERS];

    memcpy(hyper, group->hyper, sizeof hyper);
    if (info && !strncmp(info->hypers, "step", 4)) /* where a rule has a step, it comes first */
        hyper[0] = tensor->step;
    return fastopt_make_plan(group->rule, tensor->dtype, hyper, group->options, tensor->state, plan);
}

int fastopt_check(const fastopt_group *group, const fastopt_tensor *tensor)
{
    fastopt_plan plan;
    return plan_tensor(group, tensor, &plan);
}

/* Walks all tensors: with write == 0 it only checks. */
static int walk(size_t count, const fastopt_group *groups, int write)
{
    for (size_t k = 0; k < count; k++) {
        const fastopt_tensor *tensors = groups[k].tensors;
        fastopt_plan plan;
        for (size_t i = 0; i < groups[k].count; i++) {
            if (i == 0 || !same_plan(&tensors[i - 1], &tensors[i])) {
                const int error = plan_tensor(&groups[k], &tensors[i], &plan);
                if (error)
                    return error;
            }
            if (!write && tensors[i].n && (!tensors[i].p || !tensors[i].g))
                return FASTOPT_ERR_BUFFER;
            if (write)
                plan.run(tensors[i].n, tensors[i].p, tensors[i].g, tensors[i].state,
                         &plan.coefficients, plan.options);
        }
    }
    return FASTOPT_OK;
}

int fastopt_step(size_t count, const fastopt_group *groups)
{
    const int error = walk(count, groups, 0);
    return error ? error : walk(count, groups, 1);
}
