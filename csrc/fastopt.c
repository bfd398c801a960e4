/*
 * fastopt.c - the instruction sets, the choice among them at run time, the table of rules, and the public
 * function of each rule.
 */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- Every rule on every instruction set. ---- */

#define FASTOPT_SET baseline
#define FASTOPT_TARGET
#include "instantiate.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define FASTOPT_X86

#define FASTOPT_SET avx2
#define FASTOPT_TARGET __attribute__((target("avx2")))
#include "instantiate.h"

/* Some tunings of GCC prefer 256 bits even here; clang's way of writing this is not an attribute. */
#if defined(__clang__)
#define FASTOPT_WIDE ""
#else
#define FASTOPT_WIDE ",prefer-vector-width=512"
#endif
#define FASTOPT_SET avx512
#define FASTOPT_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw" FASTOPT_WIDE)))
#include "instantiate.h"
#endif

/* Narrowest first: each needs what those before it need. */
#define FASTOPT_ALL(set) \
    {#set, {entries_f32_##set, entries_f64_##set}, {&norm_f32_##set, &norm_f64_##set}}
static const fastopt_set sets[] = {
    FASTOPT_ALL(baseline),
#ifdef FASTOPT_X86
    FASTOPT_ALL(avx2),
    FASTOPT_ALL(avx512),
#endif
};

/* ---- The choice at run time. ---- */

static int count_available(void)
{
#ifdef FASTOPT_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

/*
 * NULL until the first use, and after it only if FASTOPT_ISA is wrong. Threads that come first together all
 * find the same answer, so the race between them is harmless.
 */
static _Atomic(const fastopt_set *) active;

static const fastopt_set *find_set(const char *name)
{
    const int available = count_available();

    if (!name || !*name)
        return &sets[available - 1];
    for (int i = 0; i < available; i++)
        if (!strcmp(sets[i].name, name))
            return &sets[i];
    return NULL;
}

static __attribute__((noinline)) const fastopt_set *choose_set(void) /* once: not to be inlined into every call */
{
    const fastopt_set *set = find_set(getenv("FASTOPT_ISA"));

    atomic_store_explicit(&active, set, memory_order_relaxed);
    return set;
}

FASTOPT_INTERNAL const fastopt_set *fastopt_active_set(void)
{
    const fastopt_set *set = atomic_load_explicit(&active, memory_order_relaxed);
    return set ? set : choose_set();
}

const char *fastopt_isa(void)
{
    const fastopt_set *set = fastopt_active_set();
    return set ? set->name : NULL;
}

int fastopt_use_isa(const char *name)
{
    const fastopt_set *set = find_set(name && *name ? name : getenv("FASTOPT_ISA"));

    if (!set)
        return FASTOPT_ERR_ISA;
    atomic_store_explicit(&active, set, memory_order_relaxed);
    return FASTOPT_OK;
}

const char *fastopt_available_isa(int index)
{
    return index >= 0 && index < count_available() ? sets[index].name : NULL;
}

/* ---- The table of rules. ---- */

#define FASTOPT_BIT(option) | FASTOPT_##option

static const fastopt_rule_info rules[RULE_COUNT] = {
#define FASTOPT_RULE(name, required, states, hypers, options) \
    {#name, FASTOPT_TEXT(states), required, FASTOPT_TEXT(hypers), FASTOPT_TEXT(options), \
     0u EACH(FASTOPT_BIT, options)},
#include "rules.def"
#undef FASTOPT_RULE
};

static const int hyper_counts[RULE_COUNT] = {
#define FASTOPT_ONE(hyper) + 1
#define FASTOPT_RULE(name, required, states, hypers, options) 0 EACH(FASTOPT_ONE, hypers),
#include "rules.def"
#undef FASTOPT_RULE
};

const fastopt_rule_info *fastopt_rule(int rule)
{
    return rule >= 0 && rule < RULE_COUNT ? &rules[rule] : NULL;
}

int fastopt_find_rule(const char *name)
{
    for (int i = 0; name && i < RULE_COUNT; i++)
        if (!strcmp(rules[i].name, name))
            return i;
    return FASTOPT_ERR_RULE;
}

FASTOPT_INTERNAL int fastopt_scale_index(int rule)
{
    return hyper_counts[rule] - 1;
}

/* ---- What hyperparameters may be. ---- */

typedef enum { COUNT, NON_NEGATIVE, BELOW_ONE, UP_TO_ONE, FINITE } fastopt_range;

static const char *const range_words[] = {
    [COUNT] = "a whole number from 1 to 2**53",
    [NON_NEGATIVE] = "a finite number >= 0",
    [BELOW_ONE] = "a number in [0, 1)",
    [UP_TO_ONE] = "a number in [0, 1]",
    [FINITE] = "a finite number",
};

/*
 * Both ends included. For float a number has to stay in its range when it is rounded; so the largest ones are those just
 * below the middle between the largest float in the range and the next, from where on rounding goes up.
 */
static const struct {
    double low, high;
} bounds[][2] = {
    [COUNT] = {[FASTOPT_F32] = {1.0, 0x1p53}, [FASTOPT_F64] = {1.0, 0x1p53}},
    [NON_NEGATIVE] = {[FASTOPT_F32] = {0.0, 0x1.fffffefffffffp127}, [FASTOPT_F64] = {0.0, DBL_MAX}},
    [BELOW_ONE] = {[FASTOPT_F32] = {0.0, 0x1.fffffefffffffp-1}, [FASTOPT_F64] = {0.0, 0x1.fffffffffffffp-1}},
    [UP_TO_ONE] = {[FASTOPT_F32] = {0.0, 1.0}, [FASTOPT_F64] = {0.0, 1.0}},
    [FINITE] = {[FASTOPT_F32] = {-0x1.fffffefffffffp127, 0x1.fffffefffffffp127}, [FASTOPT_F64] = {-DBL_MAX, DBL_MAX}},
};

/* The range of each hyperparameter: by its name, and for each rule in the order of its table. */
static const struct {
    const char *name;
    fastopt_range range;
} hypers[] = {
#define FASTOPT_HYPER(name, range) {#name, range},
#include "rules.def"
#undef FASTOPT_HYPER
};

enum {
#define FASTOPT_HYPER(name, range) RANGE_OF_##name = range,
#include "rules.def"
#undef FASTOPT_HYPER
};

static const unsigned char ranges_of[RULE_COUNT][FASTOPT_MAX_HYPERS] = {
#define FASTOPT_RANGE(name) RANGE_OF_##name,
#define FASTOPT_RULE(name, required, states, hypers, options) {EACH(FASTOPT_RANGE, hypers)},
#include "rules.def"
#undef FASTOPT_RULE
};

const char *fastopt_hyper_range(const char *name)
{
    for (int i = 0; name && i < (int)(sizeof hypers / sizeof *hypers); i++)
        if (!strcmp(hypers[i].name, name))
            return range_words[hypers[i].range];
    return NULL;
}

/* Inlined where rule and type are constants, so that little is left of it. Every comparison with NaN is false. */
static inline __attribute__((always_inline))
int check_hypers(int rule, int dtype, const double *hyper, unsigned options)
{
    if (options & ~rules[rule].option_mask)
        return FASTOPT_ERR_OPTION;
    for (int i = 0; i < hyper_counts[rule]; i++) {
        const int range = ranges_of[rule][i];
        const double x = hyper[i];

        if (!(x >= bounds[range][dtype].low && x <= bounds[range][dtype].high) ||
            (range == COUNT && x != (double)(int64_t)x))
            return FASTOPT_ERR_HYPER - i;
    }
    return FASTOPT_OK;
}

FASTOPT_INTERNAL int fastopt_check_hypers(int rule, int dtype, const double *hyper, unsigned options)
{
    if (rule < 0 || rule >= RULE_COUNT || (dtype != FASTOPT_F32 && dtype != FASTOPT_F64))
        return FASTOPT_ERR_RULE;
    return check_hypers(rule, dtype, hyper, options);
}

/* ---- One tensor. ---- */

/*
 * Inlined into every public function, and prepare() with it (flatten), which is the same on all instruction sets: a call
 * on few elements costs little more than the loop.
 */
static inline __attribute__((always_inline))
int run_one(fastopt_prepare *prepare, int rule, int dtype, size_t n, void *p, const void *g, void *const *state,
            const double *hyper, unsigned options)
{
    const fastopt_set *set = fastopt_active_set();
    double coefficients[sizeof(((fastopt_plan *)0)->coefficients) / sizeof(double)];
    int error;

    if (!set)
        return FASTOPT_ERR_ISA;
    error = check_hypers(rule, dtype, hyper, options);
    if (error)
        return error;
    if (n && (!p || !g))
        return FASTOPT_ERR_BUFFER;
    for (int i = 0; i < rules[rule].required_states; i++)
        if (n && !state[i])
            return FASTOPT_ERR_BUFFER;
    error = prepare(hyper, options, state, coefficients);
    if (error == FASTOPT_ERR_BUFFER && !n)
        return FASTOPT_OK;
    if (!error)
        set->entries[dtype][rule].run(n, p, g, state, coefficients, options);
    return error;
}

/* The public functions: fastopt_adam_f32() and so on, as fastopt.h declares them. */
#define FASTOPT_FLOAT_BUFFER(name) float *name,
#define FASTOPT_DOUBLE_BUFFER(name) double *name,
#define FASTOPT_DOUBLE(name) double name,
#define FASTOPT_ITEM(name) name,
#define FASTOPT_RULE(rule, required, states, hypers, options_taken) \
    __attribute__((flatten)) \
    int fastopt_##rule##_f32(size_t n, float *p, const float *g, EACH(FASTOPT_FLOAT_BUFFER, states) \
                             EACH(FASTOPT_DOUBLE, hypers) unsigned options) \
    { \
        void *const state[FASTOPT_MAX_STATES] = {EACH(FASTOPT_ITEM, states)}; \
        const double hyper[] = {EACH(FASTOPT_ITEM, hypers)}; \
        return run_one(rule##_prepare_f32_baseline, RULE_##rule, FASTOPT_F32, n, p, g, state, hyper, options); \
    } \
    __attribute__((flatten)) \
    int fastopt_##rule##_f64(size_t n, double *p, const double *g, EACH(FASTOPT_DOUBLE_BUFFER, states) \
                             EACH(FASTOPT_DOUBLE, hypers) unsigned options) \
    { \
        void *const state[FASTOPT_MAX_STATES] = {EACH(FASTOPT_ITEM, states)}; \
        const double hyper[] = {EACH(FASTOPT_ITEM, hypers)}; \
        return run_one(rule##_prepare_f64_baseline, RULE_##rule, FASTOPT_F64, n, p, g, state, hyper, options); \
    }
#include "rules.def"
#undef FASTOPT_RULE

/* ---- What was built. ---- */

#ifndef FASTOPT_CFLAGS
#define FASTOPT_CFLAGS "unknown"
#endif
#if defined(__clang__)
#define FASTOPT_COMPILER "clang " __clang_version__
#elif defined(__GNUC__)
#define FASTOPT_COMPILER "gcc " __VERSION__
#else
#define FASTOPT_COMPILER "unknown"
#endif

const char *fastopt_version(void)
{
    return FASTOPT_VERSION;
}

const char *fastopt_compiler(void)
{
    return FASTOPT_COMPILER;
}

const char *fastopt_cflags(void)
{
    return FASTOPT_CFLAGS;
}

const char *fastopt_strerror(int error)
{
    switch (error) {
    case FASTOPT_OK: return "no error";
    case FASTOPT_SKIPPED: return "the step was skipped: the norm of the gradients is not finite";
    case FASTOPT_ERR_ISA: return "this machine has no instruction set of that name";
    case FASTOPT_ERR_RULE: return "no such rule or element type";
    case FASTOPT_ERR_OPTION: return "an option that the rule or its hyperparameters do not allow";
    case FASTOPT_ERR_BUFFER: return "a buffer that the rule or its hyperparameters need is NULL";
    case FASTOPT_ERR_MODEL: return "grad_scale must be a finite number, max_norm a number >= 0, extras an OR of its values";
    }
    return error <= FASTOPT_ERR_HYPER && error > FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS
               ? "a hyperparameter is out of its range"
               : "unknown error";
}
