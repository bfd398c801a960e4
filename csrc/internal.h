/*
 * internal.h - what the files of the core share and embedders never see.
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
#define fastopt_walk_tensor FASTOPT_NAME(walk_tensor)
#define fastopt_walk_blocks FASTOPT_NAME(walk_blocks)
#define fastopt_norm_of FASTOPT_NAME(norm_of)
#define fastopt_strip_of FASTOPT_NAME(strip_of)
#define fastopt_add_lanes FASTOPT_NAME(add_lanes)
#define fastopt_clip_factor FASTOPT_NAME(clip_factor)
#define fastopt_one_tensor FASTOPT_NAME(one_tensor)
#endif

enum {
    FASTOPT_MAX_COEFFICIENTS = 16,
    FASTOPT_MAX_SUMS = 2,
    FASTOPT_LANES = 16,    /* of a sum of squares */
    FASTOPT_LINE = 64,     /* bytes of a cache line */
    FASTOPT_ZEROED = 2048, /* elements between whose step and whose zeroing the gradient stays in the cache */
    FASTOPT_TYPES = 5,     /* FASTOPT_F32 ... FASTOPT_BF16, and 0 */
    FASTOPT_BUFFERS = 2 + FASTOPT_MAX_STATES
};

/* What a rule with sums adds up the squares of. */
enum { FASTOPT_SUM_P, FASTOPT_SUM_UPDATE };

/* ---- A rule. ---- */

/*
 * From hyperparameters to the coefficients of a step, computed in double and rounded once to the type of the loop;
 * FASTOPT_ERR_OPTION if an option forbids them.
 */
typedef int fastopt_prepare(const double *hyper, void *const *state, unsigned options, void *coefficients);

/* The same for the second pass over a tensor whose first pass has left these sums. */
typedef void fastopt_settle(const double *hyper, void *const *state, unsigned options, const double *sums,
                            void *coefficients);

/*
 * The loop of a rule, or one of its passes, on contiguous buffers of the compute type. The coefficients are those of
 * prepare() for that type. state[FASTOPT_MAX_STATES] is the scratch buffer of a first pass.
 */
typedef void fastopt_run(size_t n, void *p, const void *g, void *const *state, const void *coefficients,
                         unsigned options);

/* A row of the table. */
typedef struct {
    fastopt_rule_info info;
    fastopt_prepare *prepare[2]; /* for float and double */
    fastopt_settle *settle[2];
    unsigned option_mask;
    const char *const *needs;                  /* for each option what it asks of hyperparameters, in words, or NULL */
    unsigned char range[FASTOPT_MAX_HYPERS];   /* of each hyperparameter */
    signed char needed_by[FASTOPT_MAX_STATES]; /* the hyperparameter that calls for a state, or -1 */
    unsigned char sums[FASTOPT_MAX_SUMS];
} fastopt_rule_row;

FASTOPT_INTERNAL_DATA const fastopt_rule_row fastopt_rules[RULE_COUNT];

/* ---- Everything on one instruction set. ---- */

typedef void fastopt_sum_squares(size_t n, const void *g, size_t phase, double scale, double *lanes);
typedef void fastopt_multiply(size_t n, void *g, double factor);
typedef void fastopt_unpack(size_t rows, size_t columns, const char *from, ptrdiff_t row_stride,
                            ptrdiff_t column_stride, void *to, size_t width);
typedef void fastopt_pack(size_t rows, size_t columns, char *to, ptrdiff_t row_stride, ptrdiff_t column_stride,
                          const void *from, size_t width);

typedef struct {
    fastopt_run *run[2]; /* the second: of a rule with sums */
} fastopt_entry;

typedef struct {
    const fastopt_entry *entries; /* by rule */
    fastopt_sum_squares *sum_squares;
    fastopt_multiply *multiply;
    fastopt_unpack *unpack[FASTOPT_TYPES]; /* by stored type */
    fastopt_pack *pack[FASTOPT_TYPES];
} fastopt_loops;

typedef struct {
    const char *name;
    fastopt_loops loops[2]; /* for float and double */
} fastopt_loop_set;

/* The set in use, or NULL when FASTOPT_ISA names none that can run here. */
FASTOPT_INTERNAL const fastopt_loop_set *fastopt_active_set(void);

static inline const fastopt_loops *fastopt_loops_of(const fastopt_loop_set *set, int type)
{
    return &set->loops[type - FASTOPT_F32];
}

/* Bytes of an element of a stored type. */
static inline size_t fastopt_size_of(int type)
{
    return type == FASTOPT_F64 ? 8 : type == FASTOPT_F32 ? 4 : 2;
}

/* The same for a type that is computed in, float or double, without a question. */
static inline size_t fastopt_computed_size(int type)
{
    return (size_t)type * 4;
}

_Static_assert(sizeof(float) == 4 * FASTOPT_F32 && sizeof(double) == 4 * FASTOPT_F64,
               "as fastopt_computed_size() has it");

/* ---- What is in the public structures' scratch. ---- */

/* Of a group: one step of it. */
typedef struct {
    double coefficients[FASTOPT_MAX_COEFFICIENTS]; /* as float or double, the type of the group */
    double factor; /* what gradients are multiplied by before they reach the loop: 1, unless float cannot hold it */
    fastopt_run *run;
    int staged; /* whether the loop cannot have the tensors' memory itself: factor is not 1 */
    int sums;   /* whether there is a second pass */
    /* What was found to be right at an earlier step: most of it stays as it is from step to step. */
    double hyper[FASTOPT_MAX_HYPERS];
    int rule, type;
    unsigned options;
    unsigned needed;  /* a bit for each state buffer that the hyperparameters call for */
    unsigned checked; /* FASTOPT_CHECKED, or there was no such step */
} fastopt_plan;

enum { FASTOPT_CHECKED = 0x66617374 };

_Static_assert(sizeof(fastopt_plan) <= sizeof(((fastopt_group *)0)->scratch), "a plan fits into a group's scratch");

static inline fastopt_plan *fastopt_plan_of(fastopt_group *group)
{
    return (fastopt_plan *)(void *)group->scratch;
}

/* Of a tensor: how many elements of the model stand before it, and where its sums begin in the workspace. */
enum { FASTOPT_FIRST, FASTOPT_SUMS };

/* ---- row.c: the tensors of a model as one row of elements. ---- */

/* What a model amounts to. */
typedef struct {
    size_t elements;
    size_t sums; /* doubles of workspace */
    int doubles; /* whether there are any */
} fastopt_extent;

typedef void fastopt_part(void *context, fastopt_group *group, fastopt_tensor *tensor, size_t begin, size_t end);

/* Stores what was wrong in the model, and returns the code. */
FASTOPT_INTERNAL int fastopt_fail(fastopt_model *model, int code, ptrdiff_t group, ptrdiff_t tensor, const char *name,
                                  double value, const char *takes);

/* Finds where each tensor stands in the row; checks sizes, types, gradients and their layouts. */
FASTOPT_INTERNAL int fastopt_lay_out(fastopt_model *model, const fastopt_loop_set *set, fastopt_extent *all);

/* How many threads a model may have for work that touches so many bytes. */
enum { FASTOPT_WORTH_A_THREAD = 1 << 21 }; /* that pay for waking one that sleeps (measured: 14 to 50 microseconds) */

static inline int fastopt_threads_for(const fastopt_model *model, size_t bytes)
{
    const size_t worth = bytes / FASTOPT_WORTH_A_THREAD;
    int limit;

    if (worth < 2)
        return 1;
    limit = model->threads > 0 ? model->threads : fastopt_get_num_threads();
    return worth < (size_t)limit ? (int)worth : limit;
}

/* Calls `part` for all elements once, in parts of tensors, on several threads. */
FASTOPT_INTERNAL void fastopt_share_row(fastopt_model *model, size_t elements, size_t bytes, int threads,
                                        fastopt_part *part, void *context);

/* The same on as many threads as `bytes` justifies. Inlined, so that a step of few elements is few calls. */
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

/* Calls `part` for the elements from `begin` to `end` of the row, with cuts at multiples of `bytes` in a tensor. */
FASTOPT_INTERNAL void fastopt_for_parts(fastopt_model *model, size_t begin, size_t end, size_t bytes,
                                        fastopt_part *part, void *context);

/* ---- staging.c: buffers that are not stored as computed. ---- */

/* What a block of elements is handed on as: contiguous, in the compute type. */
typedef struct {
    size_t n;
    void *p;
    const void *g;
    void *state[FASTOPT_MAX_STATES + 1]; /* the last: scratch, if it was asked for */
} fastopt_block;

typedef void fastopt_block_task(void *context, const fastopt_block *block);

/* What is to be done with the blocks of a tensor. */
typedef struct {
    const fastopt_loops *loops;
    double factor;     /* of the gradients, before they are handed on */
    int reads_g;       /* whether gradients are handed on */
    int reads_p;       /* whether parameters and state are */
    int writes_p;      /* whether they are written: parameters, */
    int writes_states; /* and state */
    int writes_g;      /* whether gradients are written as they were handed on, */
    int zeroes_g;      /* or become zero */
    int scratch;       /* whether the task needs a scratch buffer */
    fastopt_block_task *task;
    void *context;
} fastopt_walk;

/* A field that is wrong, and what it may be, in words. */
typedef struct {
    const char *name, *takes;
} fastopt_wrong;

/*
 * FASTOPT_OK, or what is wrong with the layout of a tensor's gradient, or unless `gradient` of all its buffers. `zeroed`:
 * the gradient is written. Of a tensor without elements nothing is looked at.
 */
FASTOPT_INTERNAL int fastopt_check_layout(const fastopt_group *group, const fastopt_tensor *tensor, int gradient,
                                          int zeroed, fastopt_wrong *what);

/* Part of a tensor, in the order that memory likes best. */
FASTOPT_INTERNAL void fastopt_walk_tensor(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end);

/* The elements from `begin` to `end` in their order, the last dimension fastest; blocks are multiples of FASTOPT_LANES. */
FASTOPT_INTERNAL void fastopt_walk_blocks(const fastopt_walk *walk, const fastopt_group *group,
                                          const fastopt_tensor *tensor, size_t begin, size_t end);

/* ---- norm.c ---- */

/* The global norm of a model that was laid out. */
FASTOPT_INTERNAL double fastopt_norm_of(fastopt_model *model, const fastopt_loop_set *set, const fastopt_extent *all);

/* How many elements a strip has of a row of so many. */
FASTOPT_INTERNAL size_t fastopt_strip_of(size_t elements);

/* The sum of all lanes, pairwise. */
FASTOPT_INTERNAL double fastopt_add_lanes(double *lanes);

FASTOPT_INTERNAL double fastopt_clip_factor(double norm, double max_norm);

/* ---- threads.c ---- */

/* task(context, i) for every i < pieces, in any order, on the caller and at most threads - 1 workers. */
typedef void fastopt_task(void *context, size_t piece);
FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads);

/* ---- step.c ---- */

/* A step of one tensor by way of a model: for what run_one() (one.h) cannot do by itself. */
FASTOPT_INTERNAL int fastopt_one_tensor(int rule, int type, size_t n, void *p, const void *g, void *const *state,
                                        const double *hyper, unsigned options);

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
