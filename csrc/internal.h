/*
 * internal.h - types and functions that the files of the core share; embedders do not include it.
 */
#ifndef FASTOPT_INTERNAL_H
#define FASTOPT_INTERNAL_H

#include "compiler.h"
#include "fastopt.h"
#include "rules.h" /* generated: RULE_adam, struct adam_hypers, struct adam_states, ... */

#ifdef FASTOPT_NAMESPACE
#define fastopt_rules FASTOPT_NAME(rules)
#define fastopt_active_set FASTOPT_NAME(active_set)
#define fastopt_run_pieces FASTOPT_NAME(run_pieces)
#define fastopt_fail FASTOPT_NAME(fail)
#define fastopt_lay_out FASTOPT_NAME(lay_out)
#define fastopt_share_row FASTOPT_NAME(share_row)
#define fastopt_for_parts FASTOPT_NAME(for_parts)
#define fastopt_check_layout FASTOPT_NAME(check_layout)
#define fastopt_prepare_iterator FASTOPT_NAME(prepare_iterator)
#define fastopt_walk_tensor FASTOPT_NAME(walk_tensor)
#define fastopt_walk_blocks FASTOPT_NAME(walk_blocks)
#define fastopt_model_norm FASTOPT_NAME(model_norm)
#define fastopt_strip_size FASTOPT_NAME(strip_size)
#define fastopt_add_lanes FASTOPT_NAME(add_lanes)
#define fastopt_clip_factor FASTOPT_NAME(clip_factor)
#define fastopt_step_one FASTOPT_NAME(step_one)
#endif

enum {
    FASTOPT_MAX_COEFFICIENTS = 16,
    FASTOPT_MAX_SUMS = 2,
    FASTOPT_LANES = 16,    /* partial sums of a sum of squares */
    FASTOPT_LINE = 64,     /* bytes of a cache line */
    FASTOPT_ZEROED = 2048, /* elements that are stepped before their gradient, still in the cache, is zeroed */
    FASTOPT_TYPES = 5,     /* one more than the last type, FASTOPT_BF16 */
    FASTOPT_BUFFERS = 2 + FASTOPT_MAX_STATES
};

/* The squares that a rule sums: of the parameters, or of what the first pass leaves in its scratch buffer. */
enum { FASTOPT_SUM_P, FASTOPT_SUM_UPDATE };

/* ---- A rule. ---- */

/*
 * Computes the coefficients of a step from the hyperparameters, in double, and rounds each once to the type of the
 * loop. Returns FASTOPT_OK, or FASTOPT_ERR_OPTION if an option does not allow these hyperparameters.
 */
typedef int fastopt_prepare(const double *hyper, void *const *state, unsigned options, void *coefficients);

/*
 * Computes the coefficients of the second pass over a tensor from the hyperparameters and the sums of the first pass.
 */
typedef void fastopt_settle(const double *hyper, void *const *state, unsigned options, const double *sums,
                            void *coefficients);

/*
 * The loop of a rule, or of one of its passes, on contiguous buffers of the compute type, with coefficients in that
 * type. state[FASTOPT_MAX_STATES] is the scratch buffer of a first pass.
 */
typedef void fastopt_run(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                         unsigned options);

/* A row of the table. */
typedef struct {
    fastopt_rule_info info;
    fastopt_prepare *prepare[2]; /* for float and double */
    fastopt_settle *settle[2];
    unsigned option_mask;
    const char *const *needs;                  /* what each option needs of hyperparameters, in words, or NULL */
    unsigned char range[FASTOPT_MAX_HYPERS];   /* of each hyperparameter: RANGE_finite, ... */
    signed char needed_by[FASTOPT_MAX_STATES]; /* for each state the hyperparameter that requires it, or -1 */
    unsigned char sums[FASTOPT_MAX_SUMS];      /* FASTOPT_SUM_P, ... */
} fastopt_rule_row;

FASTOPT_INTERNAL_DATA const fastopt_rule_row fastopt_rules[RULE_COUNT];

/* ---- The loops of one instruction set. ---- */

/* Adds the squares of scale*g to the lanes; the first element belongs to lane `phase`. */
typedef void fastopt_sum_squares(size_t n, const void *g, size_t phase, double scale, double *lanes);

/* Multiplies g by the factor. */
typedef void fastopt_multiply(size_t n, void *g, double factor);

/* Convert and copy between stored elements, with strides in bytes, and scratch memory; see storage_template.h. */
typedef void fastopt_unpack(size_t rows, size_t columns, const char *from, ptrdiff_t row_stride,
                            ptrdiff_t column_stride, void *to, size_t width);
typedef void fastopt_pack(size_t rows, size_t columns, char *to, ptrdiff_t row_stride, ptrdiff_t column_stride,
                          const void *from, size_t width);

typedef struct {
    fastopt_run *run[2]; /* the passes of a rule; only a rule with sums has a second one */
} fastopt_entry;

typedef struct {
    const fastopt_entry *entries; /* by rule */
    fastopt_sum_squares *sum_squares;
    fastopt_multiply *multiply;
    fastopt_unpack *unpack[FASTOPT_TYPES]; /* by stored type */
    fastopt_pack *pack[FASTOPT_TYPES];     /* by stored type */
} fastopt_loops;

typedef struct {
    const char *name;
    fastopt_loops loops[2]; /* for float and double */
} fastopt_loop_set;

/* The loops of the instruction set in use, or NULL if FASTOPT_ISA names one that this machine does not have. */
FASTOPT_INTERNAL const fastopt_loop_set *fastopt_active_set(void);

static inline const fastopt_loops *fastopt_loops_of(const fastopt_loop_set *set, int type)
{
    return &set->loops[type - FASTOPT_F32];
}

/* Bytes of an element of any type. */
static inline size_t fastopt_size_of(int type)
{
    return type == FASTOPT_F64 ? 8 : type == FASTOPT_F32 ? 4 : 2;
}

/* Bytes of an element of a compute type, float or double, without a branch. */
static inline size_t fastopt_computed_size(int type)
{
    return (size_t)type * 4;
}

_Static_assert(sizeof(float) == 4 * FASTOPT_F32 && sizeof(double) == 4 * FASTOPT_F64,
               "the sizes of fastopt_computed_size()");

/* ---- The contents of `scratch` in the public structures. ---- */

/* In a group: how to run the current step, and which settings were found to be valid. */
typedef struct {
    double coefficients[FASTOPT_MAX_COEFFICIENTS]; /* as float or double, the type of the group */
    double factor; /* by which gradients are multiplied before the loop: 1, unless the loop's float cannot hold it */
    fastopt_run *run;
    int staged; /* whether gradients must be unpacked because factor is not 1 */
    int sums;   /* whether there is a second pass */
    /* The settings of the last step that were found to be valid: they are checked again only when they change. */
    double hyper[FASTOPT_MAX_HYPERS];
    int rule, type;
    unsigned options;
    unsigned needed;  /* a bit for each state buffer that the rule needs with these hyperparameters */
    unsigned checked; /* FASTOPT_CHECKED if the settings above have been filled in */
} fastopt_plan;

enum { FASTOPT_CHECKED = 0x66617374 };

_Static_assert(sizeof(fastopt_plan) <= sizeof(((fastopt_group *)0)->scratch), "a plan fits into a group's scratch");

static inline fastopt_plan *fastopt_plan_of(fastopt_group *group)
{
    return (fastopt_plan *)(void *)group->scratch;
}

/* In a tensor: how many elements of the model come before it, and where its sums begin in the workspace. */
enum { FASTOPT_FIRST, FASTOPT_SUMS };

/* ---- row.c: the tensors of a model as one row of elements. ---- */

typedef struct {
    size_t elements; /* of all tensors */
    size_t sums;     /* doubles of workspace that the rules with sums need */
    int has_doubles; /* whether a group computes in double */
} fastopt_extent;

/* Works on the elements from `begin` to `end` of a tensor. */
typedef void fastopt_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end);

/* Stores the error in model->error and returns its code. */
FASTOPT_INTERNAL int fastopt_fail(fastopt_model *model, int code, ptrdiff_t group, ptrdiff_t tensor, const char *name,
                                  double value, const char *takes);

/*
 * Finds the position of each tensor in the row. On the way it checks the sizes of the structures, the types of the
 * groups, and that there are groups, tensors and gradients.
 */
FASTOPT_INTERNAL int fastopt_lay_out(fastopt_model *model, const fastopt_loop_set *set, fastopt_extent *all);

/* Bytes of work that pay for waking a sleeping thread (which takes 14 to 50 microseconds, as measured). */
enum { FASTOPT_WORTH_A_THREAD = 1 << 21 };

/* How many threads to use for work that touches so many bytes. */
static inline int fastopt_threads_for(const fastopt_model *model, size_t bytes)
{
    const size_t worth = bytes / FASTOPT_WORTH_A_THREAD;
    int limit;

    if (worth < 2)
        return 1;
    limit = model->threads > 0 ? model->threads : fastopt_get_num_threads();
    return worth < (size_t)limit ? (int)worth : limit;
}

/* Cuts the row into pieces and calls `part` for the parts of tensors in each, on several threads. */
FASTOPT_INTERNAL void fastopt_share_row(fastopt_model *model, size_t elements, size_t bytes, int threads,
                                        fastopt_part *part, void *context);

/* Calls `part` for every element of the row once, on as many threads as `bytes` of work justify. */
ALWAYS_INLINE void fastopt_run_row(fastopt_model *model, size_t elements, size_t bytes, fastopt_part *part,
                                   void *context)
{
    const int threads = fastopt_threads_for(model, bytes);

    if (threads > 1) {
        fastopt_share_row(model, elements, bytes, threads, part, context);
        return;
    }
    for (size_t k = 0; k < model->count; k++) {
        fastopt_group *group = &model->groups[k];
        for (size_t i = 0; i < group->count; i++)
            if (group->tensors[i].n)
                part(context, group, &group->tensors[i], 0, group->tensors[i].n);
    }
}

/*
 * Calls `part` for the elements from `begin` to `end` of the row; cuts in a tensor are moved to multiples of `bytes`.
 */
FASTOPT_INTERNAL void fastopt_for_parts(fastopt_model *model, size_t begin, size_t end, size_t bytes,
                                        fastopt_part *part, void *context);

/* ---- layout.c and staging.c: buffers that are not contiguous or not of the compute type. ---- */

/* A block of elements as the loops need it: contiguous, in the compute type. */
typedef struct {
    size_t n;
    void *p;
    const void *g;
    void *state[FASTOPT_MAX_STATES + 1]; /* the last one is a scratch buffer, if the walk has one */
} fastopt_block;

typedef void fastopt_block_task(void *context, const fastopt_block *block);

/* How to walk a tensor: which buffers are read and written, and the task that is run on each block. */
typedef struct {
    const fastopt_loops *loops;
    double factor;     /* by which gradients are multiplied before the task */
    int reads_g;       /* whether blocks contain the gradients */
    int reads_p;       /* whether blocks contain the parameters and the state */
    int writes_p;      /* whether the parameters in a block are written back */
    int writes_states; /* whether the state is */
    int writes_g;      /* whether the gradients are, multiplied by the factor */
    int zeroes_g;      /* whether the gradients become zero after the task */
    int scratch;       /* whether the task needs a scratch buffer: 0 or 1 */
    fastopt_block_task *task;
    void *context;
} fastopt_walk;

/* The name of a field with a wrong value, and what it may be, in words. */
typedef struct {
    const char *name, *takes;
} fastopt_bad_field;

/*
 * Checks the layout of a tensor: of its gradient alone if `gradient`, otherwise of all its buffers; `zeroed` says that
 * the gradient will be written. Returns FASTOPT_OK, or the error, whose field it stores in *bad. A tensor without
 * elements is not checked.
 */
FASTOPT_INTERNAL int fastopt_check_layout(const fastopt_group *group, const fastopt_tensor *tensor, int gradient,
                                          int zeroed, fastopt_bad_field *bad);

/* Walks a part of a tensor in the order in which its elements lie in memory. */
FASTOPT_INTERNAL void fastopt_walk_tensor(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end);

/* Walks the elements from `begin` to `end` in the order of their indices, the last dimension fastest. */
FASTOPT_INTERNAL void fastopt_walk_blocks(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end);

/* ---- norm.c ---- */

/* The global norm of a model after fastopt_lay_out(). */
FASTOPT_INTERNAL double fastopt_model_norm(fastopt_model *model, const fastopt_loop_set *set,
                                           const fastopt_extent *all);

/* How many elements a strip has if a row of so many elements is cut into strips. */
FASTOPT_INTERNAL size_t fastopt_strip_size(size_t elements);

/* The sum of all lanes, pairwise. */
FASTOPT_INTERNAL double fastopt_add_lanes(double *lanes);

/* The factor by which clipping to max_norm multiplies gradients of this norm. */
FASTOPT_INTERNAL double fastopt_clip_factor(double norm, double max_norm);

/* ---- threads.c ---- */

/* Runs task(context, i) for every i < pieces, in any order, on the calling thread and at most threads - 1 workers. */
typedef void fastopt_task(void *context, size_t piece);
FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads);

/* ---- step.c ---- */

/* A step of one tensor as a model of its own, for the cases that run_one() of one.h leaves to it. */
FASTOPT_INTERNAL int fastopt_step_one(int rule, int type, size_t n, void *p, const void *g, void *const *state,
                                      const double *hyper, unsigned options);

/* ---- Bias corrections. ---- */

/* Two doubles, in a vector register where the machine has them. */
typedef double fastopt_pair __attribute__((vector_size(16)));
typedef int64_t fastopt_pair_mask __attribute__((vector_size(16)));

/*
 * 1 - base^n for two bases, 0 <= base < 1, and a whole n >= 0, by repeated squaring: with multiplications alone every
 * machine gets the same bits, whereas libm's pow differs between machines. Where a bit of n is 0, the power is
 * multiplied by 1, which changes nothing; a branch there would be mispredicted at every other step.
 *
 * Subnormal numbers, which are slow, never appear. When a squared base is below 2^-60 while bits of n are left, the
 * power will be below 2^-60 too and the result is 1, so the base is replaced by 0. This is checked before every four
 * squarings, which take a base of 2^-60 to no less than 2^-960.
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
