/*
 * internal.h - what the files of the core share and embedders never see.
 */
#ifndef FASTOPT_INTERNAL_H
#define FASTOPT_INTERNAL_H

#include "fastopt.h"

#include <float.h>
#include <math.h>
#include <stdint.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fastopt promises the same bits everywhere: compile it without -ffast-math and -ffinite-math-only"
#endif
#if defined(__s390__) && defined(__GNUC__) && !defined(__clang__) && FLT_EVAL_METHOD == 1
#define FASTOPT_EXCESS_PRECISION /* GCC under -std=c11: float in double, though the machine has both; see below */
#elif defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* 16: _Float16 alone differs */
#error "fastopt needs float arithmetic in float (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

/*
 * Embedders choose the flags, so what the loops rely on is set here. GCC contracts a*b + c to a fused
 * multiply-add unless told not to, and ignores the standard's pragma; a conditional vectorizes only when no
 * floating-point exception can trap, a square root only when it need not set errno. The last cannot be had by
 * pragma (the built-in's attributes are fixed before it is read); declaring the roots const does it.
 */
#if defined(__clang__)
#pragma clang fp contract(off) reassociate(off)
#elif defined(__GNUC__)
#pragma GCC optimize("O3", "fp-contract=off", "no-trapping-math", "no-math-errno")
#pragma GCC optimize("no-unsafe-math-optimizations", "no-associative-math", "no-reciprocal-math")
#pragma GCC optimize("signed-zeros")
#ifdef FASTOPT_EXCESS_PRECISION
#pragma GCC optimize("excess-precision=fast") /* leaves FLT_EVAL_METHOD as it was, so the effect is looked at */
__extension__ _Static_assert(1.0f + FLT_EPSILON / 4 == 1.0f, "fastopt needs float arithmetic in float");
#endif
#endif
#if defined(__GNUC__)
float sqrtf(float) __attribute__((const));
double sqrt(double) __attribute__((const));
#endif

/* EACH(M, (a, b, c)) is M(a) M(b) M(c), for lists of one to eight names. */
#define EACH(M, list) EACH_LIST(M, EACH_UNWRAP list)
#define EACH_UNWRAP(...) __VA_ARGS__
#define EACH_LIST(M, ...) EACH_PICK(__VA_ARGS__, EACH_8, EACH_7, EACH_6, EACH_5, EACH_4, EACH_3, \
                                    EACH_2, EACH_1, )(M, __VA_ARGS__)
#define EACH_PICK(a, b, c, d, e, f, g, h, each, ...) each
#define EACH_1(M, a) M(a)
#define EACH_2(M, a, ...) M(a) EACH_1(M, __VA_ARGS__)
#define EACH_3(M, a, ...) M(a) EACH_2(M, __VA_ARGS__)
#define EACH_4(M, a, ...) M(a) EACH_3(M, __VA_ARGS__)
#define EACH_5(M, a, ...) M(a) EACH_4(M, __VA_ARGS__)
#define EACH_6(M, a, ...) M(a) EACH_5(M, __VA_ARGS__)
#define EACH_7(M, a, ...) M(a) EACH_6(M, __VA_ARGS__)
#define EACH_8(M, a, ...) M(a) EACH_7(M, __VA_ARGS__)
#define FASTOPT_TEXT(list) FASTOPT_TEXT_OF(EACH_UNWRAP list)
#define FASTOPT_TEXT_OF(...) FASTOPT_STRING(__VA_ARGS__)
#define FASTOPT_STRING(...) #__VA_ARGS__

/* What the files of the core call in each other, hidden from everyone else (static where they are one file). */
#ifndef FASTOPT_INTERNAL
#if defined(__GNUC__)
#define FASTOPT_INTERNAL __attribute__((visibility("hidden")))
#else
#define FASTOPT_INTERNAL
#endif
#endif
#ifdef FASTOPT_NAMESPACE
#define fastopt_active_set FASTOPT_NAME(active_set)
#define fastopt_check_hypers FASTOPT_NAME(check_hypers)
#define fastopt_scale_index FASTOPT_NAME(scale_index)
#define fastopt_run_pieces FASTOPT_NAME(run_pieces)
#endif

/* struct hyper_adam { double step, lr, beta1, ...; } and so on: the hyperparameters by name. */
#define FASTOPT_MEMBER(name) double name;
#define FASTOPT_RULE(name, required, states, hypers, options) \
    struct hyper_##name { \
        EACH(FASTOPT_MEMBER, hypers) \
    };
#include "rules.def"
#undef FASTOPT_RULE

/* RULE_adam and so on: the index of each rule in every table. */
enum {
#define FASTOPT_RULE(name, required, states, hypers, options) RULE_##name,
#include "rules.def"
#undef FASTOPT_RULE
    RULE_COUNT
};

/*
 * The two halves of a rule. prepare() turns hyperparameters into coefficients, or says why it cannot;
 * run() is the loop. `state` tells both which optional buffers there are.
 */
typedef int fastopt_prepare(const void *hyper, unsigned options, void *const *state, void *coefficients);
typedef void fastopt_run(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                         unsigned options);

typedef struct {
    fastopt_prepare *prepare;
    fastopt_run *run;
} fastopt_entry;

/* The loops that belong to no rule (norm.h). */
typedef void fastopt_sum_squares(size_t n, const void *g, size_t phase, double scale, double *lanes);
typedef void fastopt_multiply(size_t n, void *g, double factor);

typedef struct {
    fastopt_sum_squares *sum_squares;
    fastopt_multiply *multiply;
} fastopt_norm_entry;

enum { FASTOPT_LANES = 16 };

/* Everything on one instruction set, [FASTOPT_F32] and [FASTOPT_F64]. */
typedef struct {
    const char *name;
    const fastopt_entry *entries[2];
    const fastopt_norm_entry *norm[2];
} fastopt_set;

/* The set in use, or NULL when FASTOPT_ISA names none that can run here. */
FASTOPT_INTERNAL const fastopt_set *fastopt_active_set(void);

/* Whether these hyperparameters and options will do for the rule and type. */
FASTOPT_INTERNAL int fastopt_check_hypers(int rule, int dtype, const double *hyper, unsigned options);

/* The index of the last hyperparameter of the rule, which is grad_scale. */
FASTOPT_INTERNAL int fastopt_scale_index(int rule);

/* How a loop is kept in a plan and taken out of it: the header does not know its type. */
static inline void fastopt_call(const fastopt_plan *plan, size_t n, void *p, const void *g, void *const *state,
                                unsigned options)
{
    ((fastopt_run *)plan->run)(n, p, g, state, plan->coefficients, options);
}

/* task(context, i) for every i < pieces, in any order, on the caller and at most threads - 1 workers. */
typedef void fastopt_task(void *context, size_t piece);
FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads);

/* The coefficient s of  g' = s*g + weight_decay*p. */
static inline double fastopt_signed_scale(double grad_scale, unsigned options)
{
    return options & FASTOPT_MAXIMIZE ? -grad_scale : grad_scale;
}

/* Two doubles in one vector register, where there are any. */
typedef double fastopt_pair __attribute__((vector_size(16)));
typedef int64_t fastopt_pair_mask __attribute__((vector_size(16)));

/*
 * 1 - base^n for two bases, 0 <= base < 1, and a whole n >= 0, by squaring: multiplications alone, so that every machine
 * gets the same bits (libm's pow differs between machines). Where a bit of n is 0 the power is multiplied by 1, which
 * changes nothing; a branch there would be mispredicted at every other step. Once a factor is below 2^-60 while bits are
 * left, the power will be below it too, and the result is 1; so it may as well be 0, which keeps subnormal numbers, which
 * are slow, from appearing: four squarings further on, where it is looked at again, nothing is below 2^-960.
 */
static inline fastopt_pair fastopt_one_minus_powers(double base1, double base2, double n)
{
    const fastopt_pair one = {1.0, 1.0};
    fastopt_pair base = {base1, base2}, power = one;

    for (int64_t bits = (int64_t)n; bits; bits >>= 4) {
        base = (fastopt_pair)((fastopt_pair_mask)base & (base >= 0x1p-60));
        for (int i = 0; i < 4; i++) {
            const fastopt_pair factors[] = {one, base};
            power *= factors[bits >> i & 1];
            base *= base;
        }
    }
    return one - power;
}

#endif /* FASTOPT_INTERNAL_H */
