/*
 * fastopt.h - the update rules of gradient descent as in-place C loops.
 *
 * This header is the whole public contract of the C core. The core is plain C11: no Python, no
 * allocation, and no threads unless they are asked for (fastopt_set_num_threads, fastopt_model). Compiling
 * each .c file of this folder with `cc -O3 -c` builds it; no special flags are needed (before glibc 2.34,
 * link with -pthread). -ffast-math is refused; with clang, -ffp-contract=fast would change results and is to be left
 * out (GCC's, and other parts of -ffast-math, the sources switch off themselves).
 *
 * Every rule is one function for float (`_f32`) and one for double (`_f64`):
 *
 *     int fastopt_RULE_f32(size_t n, float *p, const float *g, <state buffers>,
 *                          <hyperparameters>, unsigned options);
 *
 * It updates the `n` parameters `p` and the state buffers in place from the gradients `g`, which it
 * only reads, and returns FASTOPT_OK, or a negative FASTOPT_ERR_ value, in which case nothing was
 * written.
 *
 * Buffers     Each holds `n` elements, aligned to their own size; no larger alignment is needed. They
 *             must not overlap (two of them overlapping is undefined behaviour: the loops are compiled
 *             under `restrict`). State buffers start at zero unless a rule says otherwise. Those marked
 *             "or NULL" belong to an option and may be NULL to leave it off. Where n is 0 all may be NULL.
 * Splitting   A rule works element by element, so a caller may cut one tensor into ranges and give each
 *             to a thread of its own, in any order. Ranges and alignment never change a result.
 * Numerics    Hyperparameters are double. The coefficients of a step are computed from them in double,
 *             each is rounded once to the type of the buffers, and the loops run + - * / and sqrt alone,
 *             without contraction. So the same inputs give the same output bits on every instruction
 *             set and architecture (the payload and sign of a NaN excepted), as long as the caller runs
 *             with IEEE 754's default rounding and without flush-to-zero. Under another mode, workers
 *             take over the caller's, so that threads still change nothing; the mode is left as it was.
 *             Nothing is done about 0/0: eps = 0 where all gradients have been zero gives NaN.
 * Gradients   Every rule first forms  g' = s*g + weight_decay*p  with s = grad_scale, or -grad_scale
 *             under FASTOPT_MAXIMIZE, and writes g for this g' in its formula. (AdamW keeps its weight
 *             decay out of g'.) grad_scale = 1 leaves the gradient as it is.
 * Steps       `step` counts from 1. It is a double so that it can count to 2^53; it must be whole.
 * Threads     All functions may be called from several threads at once on distinct buffers, models and groups
 *             (in whose structures the library keeps what it needs during a call).
 * Symbols     All names begin with fastopt_. -DFASTOPT_NAMESPACE=mine_, for the library and for its callers, makes that
 *             mine_fastopt_ in the objects, so that two copies fit into one program; the source stays as it is.
 *             -DFASTOPT_API= with -fvisibility=hidden makes nothing visible outside a shared library.
 * Lasting     Names, prototypes, values and structures stay as they are from version to version; what must change
 *             gets a new name. Make structures zero before you fill them in: what a rule does not use must be
 *             (that is not checked; later versions may give it a meaning).
 *
 * Copyright (c) 2026, the fastopt developers. SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stddef.h>

#define FASTOPT_VERSION_MAJOR 0
#define FASTOPT_VERSION_MINOR 1
#define FASTOPT_VERSION_PATCH 0
/* For #if, and as text. */
#define FASTOPT_VERSION_NUMBER (FASTOPT_VERSION_MAJOR * 10000 + FASTOPT_VERSION_MINOR * 100 + FASTOPT_VERSION_PATCH)
#define FASTOPT_VERSION FASTOPT_DOTTED(FASTOPT_VERSION_MAJOR, FASTOPT_VERSION_MINOR, FASTOPT_VERSION_PATCH)
#define FASTOPT_DOTTED(major, minor, patch) FASTOPT_DOTTED_NOW(major, minor, patch)
#define FASTOPT_DOTTED_NOW(major, minor, patch) #major "." #minor "." #patch

/* In a shared library the functions below are visible from outside, and nothing else is, whatever the flags. */
#ifndef FASTOPT_API
#if defined(__GNUC__)
#define FASTOPT_API __attribute__((visibility("default")))
#else
#define FASTOPT_API
#endif
#endif

/* One line a function. */
#ifdef FASTOPT_NAMESPACE
#define FASTOPT_NAME(name) FASTOPT_JOIN(FASTOPT_NAMESPACE, name)
#define FASTOPT_JOIN(space, name) FASTOPT_JOIN_NOW(space, name)
#define FASTOPT_JOIN_NOW(space, name) space##fastopt_##name
#define fastopt_sgd_f32 FASTOPT_NAME(sgd_f32)
#define fastopt_sgd_f64 FASTOPT_NAME(sgd_f64)
#define fastopt_momentum_f32 FASTOPT_NAME(momentum_f32)
#define fastopt_momentum_f64 FASTOPT_NAME(momentum_f64)
#define fastopt_nag_f32 FASTOPT_NAME(nag_f32)
#define fastopt_nag_f64 FASTOPT_NAME(nag_f64)
#define fastopt_adagrad_f32 FASTOPT_NAME(adagrad_f32)
#define fastopt_adagrad_f64 FASTOPT_NAME(adagrad_f64)
#define fastopt_adadelta_f32 FASTOPT_NAME(adadelta_f32)
#define fastopt_adadelta_f64 FASTOPT_NAME(adadelta_f64)
#define fastopt_rmsprop_f32 FASTOPT_NAME(rmsprop_f32)
#define fastopt_rmsprop_f64 FASTOPT_NAME(rmsprop_f64)
#define fastopt_adam_f32 FASTOPT_NAME(adam_f32)
#define fastopt_adam_f64 FASTOPT_NAME(adam_f64)
#define fastopt_adamw_f32 FASTOPT_NAME(adamw_f32)
#define fastopt_adamw_f64 FASTOPT_NAME(adamw_f64)
#define fastopt_rule FASTOPT_NAME(rule)
#define fastopt_find_rule FASTOPT_NAME(find_rule)
#define fastopt_hyper_range FASTOPT_NAME(hyper_range)
#define fastopt_step FASTOPT_NAME(step)
#define fastopt_global_norm FASTOPT_NAME(global_norm)
#define fastopt_clip_grad_norm FASTOPT_NAME(clip_grad_norm)
#define fastopt_check FASTOPT_NAME(check)
#define fastopt_get_num_threads FASTOPT_NAME(get_num_threads)
#define fastopt_set_num_threads FASTOPT_NAME(set_num_threads)
#define fastopt_isa FASTOPT_NAME(isa)
#define fastopt_use_isa FASTOPT_NAME(use_isa)
#define fastopt_available_isa FASTOPT_NAME(available_isa)
#define fastopt_version FASTOPT_NAME(version)
#define fastopt_compiler FASTOPT_NAME(compiler)
#define fastopt_cflags FASTOPT_NAME(cflags)
#define fastopt_strerror FASTOPT_NAME(strerror)
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. The values never change their meaning. */
enum {
    FASTOPT_OK = 0,
    FASTOPT_SKIPPED = 1,     /* fastopt_step() alone: nothing was written, as asked for */
    FASTOPT_ERR_ISA = -1,    /* FASTOPT_ISA, or the name given, is no instruction set of this machine */
    FASTOPT_ERR_RULE = -2,   /* no such rule, or no such element type */
    FASTOPT_ERR_OPTION = -3, /* an option this rule does not take, or one that its hyperparameters forbid */
    FASTOPT_ERR_BUFFER = -4, /* a buffer that the rule or its hyperparameters need is NULL, or one that
                                another tensor of the group has is missing, or the reverse */
    FASTOPT_ERR_MODEL = -5,  /* grad_scale or max_norm of a model is out of its range, or extras has other bits */
    FASTOPT_ERR_HYPER = -16  /* FASTOPT_ERR_HYPER - i: the i-th hyperparameter (from 0, in the order of
                                the prototype) is out of its range, or leaves it when rounded to float */
};

/* `options` is 0 or an OR of the ones that the rule's comment names. */
enum {
    FASTOPT_MAXIMIZE = 1,        /* every rule: climb instead of descend */
    FASTOPT_NESTEROV = 2,        /* sgd */
    FASTOPT_AT_LOOKAHEAD = 4,    /* nag */
    FASTOPT_EPS_INSIDE_SQRT = 8  /* adagrad, rmsprop */
};

/*
 * Stochastic gradient descent:  p -= lr*g.
 * With a momentum_buffer b (needed when momentum is not 0):
 *     b = momentum*b + (1 - dampening)*g     (at step 1: b = g)
 *     p -= lr*b,   or under FASTOPT_NESTEROV   p -= lr*(g + momentum*b)
 * FASTOPT_NESTEROV needs momentum > 0 and dampening == 0. momentum_buffer: or NULL.
 */
FASTOPT_API int fastopt_sgd_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double step, double lr, double momentum, double dampening, double weight_decay,
    double grad_scale, unsigned options);
FASTOPT_API int fastopt_sgd_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double step, double lr, double momentum, double dampening, double weight_decay,
    double grad_scale, unsigned options);

/*
 * Classical momentum, the learning rate inside the velocity v = momentum_buffer:
 *     v = momentum*v + lr*g;   p -= v
 */
FASTOPT_API int fastopt_momentum_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options);
FASTOPT_API int fastopt_momentum_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options);

/*
 * Nesterov's accelerated gradient with the velocity v = momentum_buffer; the caller takes the gradient
 * at the look-ahead point q = p - momentum*v, and weight decay acts there too:
 *     v = momentum*v + lr*g;   p -= v
 * Under FASTOPT_AT_LOOKAHEAD the buffer p holds q throughout:
 *     v = momentum*v + lr*g;   q -= momentum*v + lr*g
 */
FASTOPT_API int fastopt_nag_f32(
    size_t n, float *p, const float *g, float *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options);
FASTOPT_API int fastopt_nag_f64(
    size_t n, double *p, const double *g, double *momentum_buffer,
    double lr, double momentum, double weight_decay, double grad_scale, unsigned options);

/*
 * Adagrad:
 *     sum += g*g;   p -= lr/(1 + (step-1)*lr_decay) * g / (sqrt(sum) + eps)
 * or g / sqrt(sum + eps) under FASTOPT_EPS_INSIDE_SQRT. The initial value of sum is the caller's.
 */
FASTOPT_API int fastopt_adagrad_f32(
    size_t n, float *p, const float *g, float *sum,
    double step, double lr, double lr_decay, double eps, double weight_decay, double grad_scale,
    unsigned options);
FASTOPT_API int fastopt_adagrad_f64(
    size_t n, double *p, const double *g, double *sum,
    double step, double lr, double lr_decay, double eps, double weight_decay, double grad_scale,
    unsigned options);

/*
 * Adadelta, with E = square_avg and X = acc_delta:
 *     E = rho*E + (1-rho)*g*g;   d = sqrt((X + eps)/(E + eps)) * g
 *     X = rho*X + (1-rho)*d*d;   p -= lr*d
 */
FASTOPT_API int fastopt_adadelta_f32(
    size_t n, float *p, const float *g, float *square_avg, float *acc_delta,
    double lr, double rho, double eps, double weight_decay, double grad_scale, unsigned options);
FASTOPT_API int fastopt_adadelta_f64(
    size_t n, double *p, const double *g, double *square_avg, double *acc_delta,
    double lr, double rho, double eps, double weight_decay, double grad_scale, unsigned options);

/*
 * RMSprop, with v = square_avg:
 *     v = alpha*v + (1-alpha)*g*g;   d = sqrt(v) + eps    (sqrt(v + eps) under FASTOPT_EPS_INSIDE_SQRT)
 *     p -= lr * g/d
 * With grad_avg m (or NULL), centered:
 *     m = alpha*m + (1-alpha)*g;     max(v - m*m, 0) stands for v in d
 * With momentum_buffer b (or NULL; needed when momentum is not 0):
 *     b = momentum*b + g/d;          p -= lr*b
 */
FASTOPT_API int fastopt_rmsprop_f32(
    size_t n, float *p, const float *g, float *square_avg, float *momentum_buffer, float *grad_avg,
    double lr, double alpha, double eps, double momentum, double weight_decay, double grad_scale,
    unsigned options);
FASTOPT_API int fastopt_rmsprop_f64(
    size_t n, double *p, const double *g, double *square_avg, double *momentum_buffer, double *grad_avg,
    double lr, double alpha, double eps, double momentum, double weight_decay, double grad_scale,
    unsigned options);

/*
 * Adam, with m = exp_avg, v = exp_avg_sq:
 *     m = beta1*m + (1-beta1)*g;   v = beta2*v + (1-beta2)*g*g
 *     p -= lr/(1-beta1^step) * m / (sqrt(v)/sqrt(1-beta2^step) + eps)
 * With max_exp_avg_sq (or NULL), AMSGrad: its running maximum of v stands for v in the last line.
 */
FASTOPT_API int fastopt_adam_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay,
    double grad_scale, unsigned options);
FASTOPT_API int fastopt_adam_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay,
    double grad_scale, unsigned options);

/*
 * AdamW: Adam with weight decay taken out of the gradient (g = s*g alone):
 *     p *= 1 - lr*weight_decay,   then Adam.
 */
FASTOPT_API int fastopt_adamw_f32(
    size_t n, float *p, const float *g, float *exp_avg, float *exp_avg_sq, float *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay,
    double grad_scale, unsigned options);
FASTOPT_API int fastopt_adamw_f64(
    size_t n, double *p, const double *g, double *exp_avg, double *exp_avg_sq, double *max_exp_avg_sq,
    double step, double lr, double beta1, double beta2, double eps, double weight_decay,
    double grad_scale, unsigned options);

/* ---- The table of rules: what the functions above are made of, for bindings and tools. ---- */

enum { FASTOPT_F32 = 0, FASTOPT_F64 = 1 };
enum { FASTOPT_MAX_STATES = 4, FASTOPT_MAX_HYPERS = 12 }; /* more than there are, for rules to come */

typedef struct {
    const char *name;    /* "adam" */
    const char *states;  /* "exp_avg, exp_avg_sq, max_exp_avg_sq": in the order of the prototype */
    int required_states; /* 2: the first so many are always needed, the others may be NULL */
    const char *hypers;  /* "step, lr, beta1, ...": in the order of the prototype */
    const char *options; /* "MAXIMIZE, ..." */
    unsigned option_mask;
} fastopt_rule_info;

/* The rule with this index, or NULL past the last one. */
FASTOPT_API const fastopt_rule_info *fastopt_rule(int rule);

/* The index of the rule with this name ("adam"), or FASTOPT_ERR_RULE. It may differ between versions. */
FASTOPT_API int fastopt_find_rule(const char *name);

/* What may be given for a hyperparameter, in words ("a number in [0, 1)"); NULL for an unknown name. */
FASTOPT_API const char *fastopt_hyper_range(const char *name);

/* ---- Many tensors, one call. ---- */

typedef struct {
    size_t n;
    void *p;
    void *g;                         /* only read, but for FASTOPT_ZERO_GRAD and fastopt_clip_grad_norm() */
    void *state[FASTOPT_MAX_STATES]; /* in the order of the rule's table; NULL: left off */
    size_t first;                    /* the library's own: how many elements stand before this tensor */
} fastopt_tensor;

/* The library's own: the loop and the coefficients of one step of a group. */
typedef struct {
    void (*run)(void);
    double coefficients[15];
} fastopt_plan;

/* Tensors that share everything but their memory: also which of the optional buffers there are. */
typedef struct {
    int rule;  /* index in the table of rules */
    int dtype; /* FASTOPT_F32 or FASTOPT_F64: the type of all buffers */
    unsigned options;
    double hyper[FASTOPT_MAX_HYPERS]; /* in the order of the rule's table */
    size_t count;
    fastopt_tensor *tensors;
    fastopt_plan plan;
} fastopt_group;

/* `extras` of a model is 0 or an OR of these; each costs what the pass over memory costs that it needs. */
enum {
    FASTOPT_CLIP_NORM = 1,      /* max_norm counts: one pass that reads the gradients, before the step */
    FASTOPT_SKIP_NONFINITE = 2, /* no step if the norm is not finite: the same pass */
    FASTOPT_ZERO_GRAD = 4       /* the gradients are zero after the step: in the step's own pass */
};

typedef struct {
    size_t count;
    fastopt_group *groups;
    double grad_scale; /* multiplies every gradient, on top of each group's own grad_scale */
    double max_norm;   /* under FASTOPT_CLIP_NORM, a number >= 0 */
    unsigned extras;
    int threads; /* at most so many; 0 or less: fastopt_get_num_threads() */
    double norm; /* out, under FASTOPT_CLIP_NORM and FASTOPT_SKIP_NONFINITE */
} fastopt_model;

/*
 * Steps every tensor of every group. Everything is checked before the first element is written, and the
 * coefficients are computed once a group. Gradients of several tensors may be the same memory as long as
 * nothing writes to them.
 *
 * Under FASTOPT_CLIP_NORM all gradients are scaled so that their global norm is at most max_norm: the factor
 * is  c = min(1, max_norm / (norm + 1e-6))  with  norm = |grad_scale| * fastopt_global_norm(),  as in PyTorch,
 * and the step is that of grad_scale*c. A norm that is NaN makes c NaN.
 *
 * Returns FASTOPT_OK, or FASTOPT_SKIPPED under FASTOPT_SKIP_NONFINITE when the norm is NaN or infinite (a
 * gradient is, or the norm exceeds the largest double), or an error; in the last two cases no parameter, gradient or
 * state was written.
 */
FASTOPT_API int fastopt_step(fastopt_model *model);

/*
 * Leaves the Euclidean norm of all gradients together in model->norm; of each tensor only n and g are looked
 * at, of a group the type, count and tensors, of the model also threads. The elements count as doubles, in the
 * order of the tensors, as if they were one array of N elements. It is cut into strips of
 * max(4096, 16*ceil(N/16384)) elements; in each, element i adds its square to lane i mod 16; lane j and lane
 * j + 8 are added, then j and j + 4, + 2, + 1; the strips' sums are added in order; the root of that is the
 * norm. If the sum is infinite or below 2^-900 it is formed again with all elements multiplied by 2^-600 or
 * 2^600, which are taken out of the root. So the bits depend on the elements alone.
 */
FASTOPT_API int fastopt_global_norm(fastopt_model *model);

/*
 * fastopt_global_norm(), then multiplies every gradient by  c = min(1, max_norm / (norm + 1e-6)),  rounded to its type,
 * unless c is 1. max_norm counts whatever the extras are; grad_scale does not.
 */
FASTOPT_API int fastopt_clip_grad_norm(fastopt_model *model);

/* The checks of fastopt_step() for one group, without a step: p and g are not looked at. */
FASTOPT_API int fastopt_check(fastopt_group *group);

/* ---- Threads. ---- */

/*
 * What `threads = 0` in a model stands for. It is 1 until somebody sets it: then the library starts no thread.
 * fastopt_set_num_threads() takes 1 to 256, and what is less or more for these.
 *
 * A step that is worth it is cut into pieces; the caller works on them beside at most threads - 1 workers of one
 * small pool, which are started when first needed, sleep when there is nothing to do, and end when the library is
 * unloaded or the process exits. When another thread's step has the pool, a step runs on its caller alone. The bits
 * are the same in all cases. After fork() the child starts workers of its own. Where there are no POSIX threads,
 * or under -DFASTOPT_NO_THREADS, everything runs on the caller.
 */
FASTOPT_API int fastopt_get_num_threads(void);
FASTOPT_API void fastopt_set_num_threads(int threads);

/* ---- Instruction sets. ---- */

/*
 * The one in use: "baseline", "avx2" or "avx512"; the widest that the machine has, unless the
 * environment variable FASTOPT_ISA or fastopt_use_isa() says otherwise. NULL when FASTOPT_ISA names
 * none that can run here: then every step returns FASTOPT_ERR_ISA until fastopt_use_isa() mends it.
 */
FASTOPT_API const char *fastopt_isa(void);

/* Uses the named one from the next call on, in all threads. NULL or "" chooses as at the start. */
FASTOPT_API int fastopt_use_isa(const char *name);

/* The names that can run here, narrowest first; NULL past the last one. */
FASTOPT_API const char *fastopt_available_isa(int index);

/* FASTOPT_VERSION as compiled, the compiler, and the flags that the build said it used. */
FASTOPT_API const char *fastopt_version(void);
FASTOPT_API const char *fastopt_compiler(void);
FASTOPT_API const char *fastopt_cflags(void);

/* A sentence for a value that a function returned. */
FASTOPT_API const char *fastopt_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif /* FASTOPT_H */
