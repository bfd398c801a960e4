/*
 * one.h - a step of one tensor: the checks of hyperparameters, and the call of one loop.
 *
 * rules.c inlines these functions with a constant rule and a constant type, which leaves little of them: a call on few
 * elements costs little more than the loop.
 */
#ifndef FASTOPT_ONE_H
#define FASTOPT_ONE_H

#include "internal.h"

/*
 * A range of numbers: those greater than `above` and not greater than `high`, and the number `zero`, which is 0 where
 * the range has it and otherwise NaN, which equals nothing.
 */
typedef struct {
    double above, high, zero;
} fastopt_bounds;

#ifdef FASTOPT_NAMESPACE
#define fastopt_range_bounds FASTOPT_NAME(range_bounds)
#endif
FASTOPT_INTERNAL_DATA const fastopt_bounds fastopt_range_bounds[RANGE_COUNT][2];

#define FLATTEN __attribute__((flatten))

/* Whether a number is in a range. NaN is in none: every comparison with it is false. */
ALWAYS_INLINE int in_bounds(fastopt_bounds bounds, double x)
{
    return (x > bounds.above && x <= bounds.high) || x == bounds.zero;
}

/* Whether a count within its bounds is not a whole number. Outside the bounds the conversion would be undefined. */
ALWAYS_INLINE int is_fractional(double x)
{
    return x >= 1.0 && x <= 0x1p53 && x != (double)(int64_t)x;
}

/* The index of the first hyperparameter that is out of its range, or -1. Only the first one can be a count. */
ALWAYS_INLINE int find_bad_hyper(int rule, int type, const double *hyper)
{
    const fastopt_rule_row *const row = &fastopt_rules[rule];

    if (row->range[0] == RANGE_count && is_fractional(hyper[0]))
        return 0;
    for (int i = 0; i < row->info.hyper_count; i++)
        if (!in_bounds(fastopt_range_bounds[row->range[i]][type - FASTOPT_F32], hyper[i]))
            return i;
    return -1;
}

/*
 * Whether the loop can apply the factor s of  g' = s*g + weight_decay*p  itself, which it does in the compute type. If
 * float cannot hold s exactly, the product s*g must be formed in double before the loop.
 */
ALWAYS_INLINE int fits_loop(int type, double factor)
{
    return type == FASTOPT_F64 || (double)(float)factor == factor;
}

/* Checks the arguments of one tensor's step and runs the loop. Changes `hyper`. */
ALWAYS_INLINE
int run_one(fastopt_prepare *prepare, int rule, int type, size_t n, void *p, const void *g, void *const *state,
            double *hyper, unsigned options)
{
    const fastopt_rule_row *const row = &fastopt_rules[rule];
    const int last = row->info.hyper_count - 1;
    const fastopt_loop_set *set = fastopt_active_set();
    double coefficients[FASTOPT_MAX_COEFFICIENTS];
    int error;

    if (!set)
        return FASTOPT_ERR_ISA;
    if (options & ~row->option_mask)
        return FASTOPT_ERR_OPTION;
    error = find_bad_hyper(rule, type, hyper);
    if (error >= 0)
        return FASTOPT_ERR_HYPER - error;
    if (n && (!p || !g))
        return FASTOPT_ERR_BUFFER;
    for (int i = 0; i < row->info.state_count; i++)
        if (n && !state[i] &&
            (i < row->info.required_states || (row->needed_by[i] >= 0 && hyper[row->needed_by[i]] != 0.0)))
            return FASTOPT_ERR_BUFFER;
    if (row->info.sums || !fits_loop(type, hyper[last]))
        return fastopt_step_one(rule, type, n, p, g, state, hyper, options);
    if (options & FASTOPT_MAXIMIZE)
        hyper[last] = -hyper[last];
    error = prepare(hyper, state, options, coefficients);
    if (error)
        return error;
    fastopt_loops_of(set, type)->entries[rule].run[0](n, p, g, state, coefficients, options);
    return FASTOPT_OK;
}

#endif /* FASTOPT_ONE_H */
