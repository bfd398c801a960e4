/*
 * fastopt.h - the update rules of gradient descent as in-place C loops.
 *
 * This header documents the C core; fastopt_rules.h, which it includes, is generated and has one prototype a rule. The
 * core is plain C11: it uses no Python, allocates nothing, and starts no threads unless it is asked to
 * (fastopt_set_num_threads, fastopt_model). To build it, compile each .c file of this folder with `cc -O3 -c`; no
 * special flags are needed (before glibc 2.34, link with -pthread). -ffast-math is an error. With clang, leave out
 * -ffp-contract=fast, which would change results; with GCC the sources themselves switch off contraction and the parts
 * of -ffast-math.
 *
 * Every rule is one function for float (`_f32`) and one for double (`_f64`), which steps one tensor:
 *
 *     int fastopt_RULE_f32(size_t n, float *p, const float *g, <state buffers>,
 *                          <hyperparameters>, unsigned options);
 *
 * It updates the `n` parameters `p` and the state buffers in place from the gradients `g`, which it only reads. It
 * returns FASTOPT_OK, or a negative FASTOPT_ERR_ value and writes nothing. fastopt_step() does the same for the many
 * tensors of a model, and takes gradients of other types and buffers in any layout.
 *
 * Buffers     Each holds `n` elements and is aligned to the size of an element; no larger alignment is needed. Buffers
 *             must not overlap: the loops are compiled under `restrict`, so an overlap is undefined behaviour. State
 *             buffers start with the values that the table gives, or zeros. Those marked "or NULL" belong to an option
 *             and may be NULL to leave it off. If n is 0, all may be NULL.
 * Splitting   A rule without sums (fastopt_rule_info) works element by element, so a caller may cut a tensor into
 *             ranges and step each in a thread of its own, in any order. Ranges, layout and alignment never change a
 *             result. The coefficients of a rule with sums depend on the whole tensor.
 * Numerics    Hyperparameters are double. The coefficients of a step are computed from them in double, each is rounded
 *             once to the type of the buffers, and the loops use only + - * / and sqrt, without contraction. So the
 *             same inputs give the same output bits on every instruction set and architecture (except the payload and
 *             the sign of a NaN), as long as the caller has set IEEE 754's default rounding and no flush-to-zero. Under
 *             another mode, worker threads take over the mode of the caller, so that the number of threads still does
 *             not change results; the library does not change the caller's mode. 0/0 is not avoided: eps = 0 where all
 *             gradients so far were zero gives NaN.
 * Gradients   Every rule first forms  g' = s*g + weight_decay*p  with s = grad_scale, or -grad_scale under
 *             FASTOPT_MAXIMIZE. The formulas of the rules (rules/NAME.h) write g for this g'. (With decoupled weight
 *             decay g' = s*g.)
 *             The product s*g is formed in double and rounded once to the type of the parameters, so s may be outside
 *             the range of float. grad_scale = 1 leaves the gradient as it is.
 * Steps       `step` counts from 1. It is a double that must be a whole number, up to 2^53.
 * Threads     All functions may be called from several threads at once on distinct buffers, models and groups. (A call
 *             writes to the scratch fields of groups and tensors.)
 * Symbols     All names begin with fastopt_. -DFASTOPT_NAMESPACE=mine_, given when the library and its callers are
 *             compiled, turns that into mine_fastopt_ in the objects, so that two copies fit into one program; the
 *             source code stays as it is. -DFASTOPT_API= with -fvisibility=hidden makes nothing visible outside a
 *             shared library.
 * Stability   Until version 1.0.0, names, prototypes, values and structures may change with every version. From then on
 *             they stay: a changed function gets a new name, and structures, which begin with their size, only grow at
 *             their end.
 *
 * Copyright (c) 2026, the fastopt developers. SPDX-License-Identifier: BSD-3-Clause
 */
#ifndef FASTOPT_H
#define FASTOPT_H

#include <stddef.h>

#define FASTOPT_VERSION_MAJOR 0
#define FASTOPT_VERSION_MINOR 1
#define FASTOPT_VERSION_PATCH 0
/* The version as one number, for #if, and as text. */
#define FASTOPT_VERSION_NUMBER (FASTOPT_VERSION_MAJOR * 10000 + FASTOPT_VERSION_MINOR * 100 + FASTOPT_VERSION_PATCH)
#define FASTOPT_VERSION FASTOPT_DOTTED(FASTOPT_VERSION_MAJOR, FASTOPT_VERSION_MINOR, FASTOPT_VERSION_PATCH)
#define FASTOPT_DOTTED(major, minor, patch) FASTOPT_DOTTED_NOW(major, minor, patch)
#define FASTOPT_DOTTED_NOW(major, minor, patch) #major "." #minor "." #patch

/* In a shared library exactly the functions below are visible from outside, whatever the compiler flags are. */
#ifndef FASTOPT_API
#if defined(__GNUC__)
#define FASTOPT_API __attribute__((visibility("default")))
#else
#define FASTOPT_API
#endif
#endif

#ifdef FASTOPT_NAMESPACE
#define FASTOPT_NAME(name) FASTOPT_JOIN(FASTOPT_NAMESPACE, name)
#define FASTOPT_JOIN(space, name) FASTOPT_JOIN_NOW(space, name)
#define FASTOPT_JOIN_NOW(space, name) space##fastopt_##name
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Generated: the functions of the rules, constants for hyperparameters and options, and a list of all functions. */
#include "fastopt_rules.h"

/*
 * Return values. No value ever changes its meaning. If a hyperparameter is wrong, the value is FASTOPT_ERR_HYPER - i,
 * where i is the index of the hyperparameter, from 0 in the order of the prototype.
 */
enum {
    FASTOPT_OK = 0,
    FASTOPT_SKIPPED = 1,     /* only of fastopt_step(): FASTOPT_SKIP_NONFINITE has skipped the step */
    FASTOPT_ERR_ISA = -1,    /* FASTOPT_ISA or the caller names an instruction set that this machine does not have */
    FASTOPT_ERR_RULE = -2,   /* no rule has this index or name */
    FASTOPT_ERR_OPTION = -3, /* an option that the rule does not take, or that its hyperparameters forbid */
    FASTOPT_ERR_BUFFER = -4, /* a needed buffer is NULL, or tensors of a group differ in their optional buffers */
    FASTOPT_ERR_MODEL = -5,  /* a field of the model is wrong: grad_scale, max_norm, extras or groups */
    FASTOPT_ERR_SIZE = -6,   /* the size field of a structure is not its sizeof */
    FASTOPT_ERR_TYPE = -7,   /* an element type is unknown, or its buffer cannot have it */
    FASTOPT_ERR_LAYOUT = -8, /* a layout with a shape or strides that its tensor cannot have */
    FASTOPT_ERR_UNUSED = -9, /* a field that is not used is not zero, as a hyperparameter past the rule's last */
    FASTOPT_ERR_WORKSPACE = -10, /* the model's workspace is smaller than fastopt_workspace() */
    FASTOPT_ERR_HYPER = -16      /* a hyperparameter is out of its range, also if only when rounded to float */
};

/* Element types. Groups compute in float or double; FASTOPT_F16 and FASTOPT_BF16 are only for stored gradients. */
enum {
    FASTOPT_F32 = 1,
    FASTOPT_F64 = 2,
    FASTOPT_F16 = 3, /* IEEE 754 binary16 */
    FASTOPT_BF16 = 4 /* bfloat16: the upper half of a float */
};

enum {
    FASTOPT_MAX_STATES = 4,  /* state buffers of a rule; no rule has so many yet */
    FASTOPT_MAX_HYPERS = 12, /* hyperparameters of a rule; no rule has so many yet */
    FASTOPT_MAX_DIMS = 64    /* dimensions of a layout */
};

/* ---- The table of rules, for bindings and tools. ---- */

typedef struct {
    const char *name;  /* "lr" */
    const char *takes; /* what it may be, in words: "a finite number >= 0" */
    double value;      /* its default */
} fastopt_hyper_info;

typedef struct {
    const char *name; /* "max_exp_avg_sq" */
    /* NULL if it is always needed; the name of a hyperparameter, if it is needed when that is not 0; otherwise the name
     * of the variant ("amsgrad") that is in use when the buffer is not NULL. */
    const char *needed_by;
    double start; /* the value of its elements before the first step */
} fastopt_state_info;

typedef struct {
    const char *name; /* "maximize" */
    unsigned bit;     /* FASTOPT_MAXIMIZE */
} fastopt_option_info;

typedef struct {
    size_t size;      /* sizeof(fastopt_rule_info) in the library */
    const char *name; /* "adam" */
    int state_count;
    int required_states; /* how many states are always needed; they come first */
    int hyper_count;
    int option_count;
    int sums; /* how many sums over each tensor a step needs; 0: the rule works element by element */
    /* In the order of the prototype. */
    const fastopt_state_info *states;
    const fastopt_hyper_info *hypers;
    const fastopt_option_info *options;
} fastopt_rule_info;

/* The rule with this index, or NULL past the last one. */
FASTOPT_API const fastopt_rule_info *fastopt_rule(int rule);

/* The index of the rule with this name ("adam"), or FASTOPT_ERR_RULE. Versions may have other indices. */
FASTOPT_API int fastopt_find_rule(const char *name);

/* ---- A step of many tensors in one call. ---- */

/*
 * How the buffers of a tensor are stored, if they are not all contiguous and of the group's type. A buffer that is goes
 * to the loop directly. Others are unpacked block by block into scratch memory on the stack, run through the same loop,
 * and packed back, which changes no bit of the result. A gradient of another type is converted as it is read, rounded
 * to nearest even. Elements that are written must not overlap; the library notices only strides of 0. It ignores the
 * layout of a tensor without elements.
 */
typedef struct {
    size_t size; /* sizeof(fastopt_layout) */
    /* Element types, or 0 for the group's. Parameters and state must have the group's so far. */
    int g_type;
    int p_type;
    int state_type[FASTOPT_MAX_STATES];
    int ndim;               /* the number of dimensions, up to FASTOPT_MAX_DIMS; 0: all buffers are contiguous */
    const ptrdiff_t *shape; /* the ndim sizes, whose product is n */
    /* Strides: bytes from an element to the next along each dimension, multiples of its size, also negative. Only those
     * of the gradient may be 0: one element stands for many. NULL: contiguous, the last dimension fastest. */
    const ptrdiff_t *p_strides;
    const ptrdiff_t *g_strides;
    const ptrdiff_t *state_strides[FASTOPT_MAX_STATES];
} fastopt_layout;

typedef struct {
    size_t size;   /* sizeof(fastopt_tensor) */
    size_t n;      /* the number of elements */
    void *p;       /* the parameters: the address of the element with index 0, as for g and state */
    const void *g; /* only read, except by FASTOPT_ZERO_GRAD and fastopt_clip_grad_norm(), which write to it */
    void *state[FASTOPT_MAX_STATES]; /* in the order of the table; NULL for an optional one that is not used */
    const fastopt_layout *layout;    /* NULL: every buffer is contiguous and has the group's type */
    size_t scratch[2];               /* for the library */
} fastopt_tensor;

/* Tensors with the same rule, type, options, hyperparameters and optional state buffers. */
typedef struct {
    size_t size; /* sizeof(fastopt_group) */
    int rule;    /* index in the table of rules */
    int type;    /* FASTOPT_F32 or FASTOPT_F64: the compute type, and the type of parameters and state */
    unsigned options;
    double hyper[FASTOPT_MAX_HYPERS]; /* set by constants of fastopt_rules.h (FASTOPT_ADAM_LR) or fastopt_set() */
    size_t count;
    fastopt_tensor *tensors;
    double scratch[36]; /* for the library; must be zero before the first call */
} fastopt_group;

/* An error and where it is. */
typedef struct {
    int code;          /* the return value of the call; the other fields have a meaning only if it is negative */
    ptrdiff_t group;   /* the index of the group, or -1 */
    ptrdiff_t tensor;  /* the index of the tensor in its group, or -1 */
    const char *rule;  /* the name of the group's rule, or NULL */
    const char *name;  /* the name of the hyperparameter, option, buffer or field, or NULL */
    double value;      /* of the hyperparameter or field */
    const char *takes; /* what it may be, in words, or NULL */
    int type;          /* of the group, or 0; some doubles are out of range only in float */
} fastopt_error;

/* `extras` of a model is 0 or an OR of these. */
enum {
    FASTOPT_CLIP_NORM = 1,      /* clips gradients to max_norm: an extra pass reads them before the step */
    FASTOPT_SKIP_NONFINITE = 2, /* skips the step if the norm is not finite: needs the same extra pass */
    FASTOPT_ZERO_GRAD = 4       /* zeroes the gradients after the step, without an extra pass */
};

typedef struct {
    size_t size; /* sizeof(fastopt_model) */
    size_t count;
    fastopt_group *groups;
    double grad_scale; /* multiplies all gradients together with each group's own; the products must be finite, too */
    double max_norm;   /* for FASTOPT_CLIP_NORM: a number >= 0 */
    unsigned extras;
    int threads;     /* the largest number of threads; 0 or less: fastopt_get_num_threads() */
    void *workspace; /* fastopt_workspace() bytes, aligned as by malloc(); may be NULL if that is 0 */
    size_t workspace_size;
    double norm;         /* output of FASTOPT_CLIP_NORM and FASTOPT_SKIP_NONFINITE */
    fastopt_error error; /* output: the error of the last call */
} fastopt_model;

/*
 * These functions fill in a structure with zeros, its size, and the defaults of the table; `size` is the sizeof of the
 * structure. A structure whose size field is not its sizeof is an error, and so are hyperparameters, states and parts
 * of a layout that are not used and not zero.
 *
 *     fastopt_tensor tensor = {.size = sizeof tensor, .n = n, .p = p, .g = g, .state = {m, v}};
 *     fastopt_group_init(&group, sizeof group, "adam", FASTOPT_F32);
 *     fastopt_set(&group, "lr", 1e-2);          or: group.hyper[FASTOPT_ADAM_LR] = 1e-2
 *     group.tensors = &tensor, group.count = 1;
 *     fastopt_model_init(&model, sizeof model);
 *     model.groups = &group, model.count = 1;
 *     fastopt_set(&group, "step", 1);           before each step
 *     fastopt_step(&model);
 *
 * fastopt_group_init() returns FASTOPT_OK, or FASTOPT_ERR_RULE, FASTOPT_ERR_TYPE or FASTOPT_ERR_SIZE and leaves the
 * group all zeros. A model starts with grad_scale 1 and with max_norm -1, which is an error under FASTOPT_CLIP_NORM.
 */
FASTOPT_API int fastopt_group_init(fastopt_group *group, size_t size, const char *rule, int type);
FASTOPT_API int fastopt_model_init(fastopt_model *model, size_t size);

/*
 * Sets a hyperparameter of a group, or switches an option on, or with a value of 0 off, by its name in the table.
 * Returns FASTOPT_ERR_OPTION if the rule has neither of that name. fastopt_step() checks whether the value is in its
 * range.
 */
FASTOPT_API int fastopt_set(fastopt_group *group, const char *name, double value);

/*
 * Whether the hyperparameter with this index may have this value if the compute type is `type`. Returns FASTOPT_OK or
 * FASTOPT_ERR_HYPER - index; FASTOPT_ERR_RULE or FASTOPT_ERR_TYPE for another rule or type than there is; and
 * FASTOPT_ERR_UNUSED for an index past the rule's last hyperparameter.
 */
FASTOPT_API int fastopt_check_hyper(int rule, int type, int index, double value);

/*
 * Steps every tensor of every group. Everything is checked before the first element is written, and the coefficients
 * are computed once a group. Several tensors may have the same memory for their gradients as long as it is not written.
 *
 * Under FASTOPT_CLIP_NORM the gradients are scaled so that their global norm is at most max_norm. As in PyTorch the
 * factor is  c = min(1, max_norm / (norm + 1e-6))  with  norm = |grad_scale| * fastopt_global_norm();  the step is the
 * one with grad_scale*c for grad_scale. If the norm is NaN, so is c.
 *
 * The sums of a rule with sums are formed for each tensor separately, in the order of fastopt_global_norm() over it.
 *
 * Returns FASTOPT_OK; or FASTOPT_SKIPPED under FASTOPT_SKIP_NONFINITE if the norm is NaN or infinite (because a
 * gradient is, or because the norm exceeds the largest double); or an error, which model->error describes. In the last
 * two cases no parameter, gradient or state was written. If the model's own size field is wrong, FASTOPT_ERR_SIZE is
 * returned and model->error is not written either.
 */
FASTOPT_API int fastopt_step(fastopt_model *model);

/* Makes all checks of fastopt_step() without a step: returns the same errors and writes the same model->error. */
FASTOPT_API int fastopt_check(fastopt_model *model);

/* How many bytes of workspace fastopt_step() needs for this model: 0 if none of its rules has sums. */
FASTOPT_API size_t fastopt_workspace(const fastopt_model *model);

/*
 * Stores the Euclidean norm of all gradients together in model->norm. It uses n, g and the gradient's layout of each
 * tensor, the type, count and tensors of each group, and count, groups and threads of the model.
 *
 * Its bits depend on the elements alone. The elements, converted to their group's type and then to double, form one
 * array of N elements, tensor by tensor, in each the last dimension fastest. The array is cut into strips of max(4096,
 * 16*ceil(N/16384)) elements. In a strip element i adds its square to lane i mod 16; then lane j + 8 is added to lane
 * j, then j + 4, j + 2 and j + 1. The sums of the strips are added in order, and the norm is the root of the total. If
 * the total is infinite or below 2^-900, it is formed again with all elements multiplied by 2^-600 or 2^600, and the
 * root is divided by that.
 */
FASTOPT_API int fastopt_global_norm(fastopt_model *model);

/*
 * Calls fastopt_global_norm(), then multiplies every gradient by  c = min(1, max_norm / (norm + 1e-6))  unless c is 1.
 * The product is formed in double and rounded to the group's type and then to the gradient's own. It uses max_norm
 * whatever the extras are, and ignores grad_scale.
 */
FASTOPT_API int fastopt_clip_grad_norm(fastopt_model *model);

/*
 * Writes a sentence for model->error: "adam: lr of group 2 must be a finite number >= 0, got -1". Writes at most `size`
 * characters, including the closing zero, and returns the length of the whole sentence without it.
 */
FASTOPT_API size_t fastopt_describe(const fastopt_error *error, char *text, size_t size);

/* ---- Threads. ---- */

/*
 * The number of threads of a model whose field `threads` is 0. It is 1 at first, so that the library starts no thread
 * before it is asked to. fastopt_set_num_threads() clamps its argument to 1..256.
 *
 * A large step is cut into pieces, which run on the calling thread and on at most threads - 1 workers of one small
 * pool. Workers are started when they are first needed, sleep while there is nothing to do, and end when the library is
 * unloaded or the process exits. A step that finds the pool busy with another one runs on its own thread. The bits are
 * the same in all cases. After fork() the child starts its own workers. Without POSIX threads, or under
 * -DFASTOPT_NO_THREADS, everything runs on the calling thread.
 */
FASTOPT_API int fastopt_get_num_threads(void);
FASTOPT_API void fastopt_set_num_threads(int threads);

/* ---- Instruction sets. ---- */

/*
 * The instruction set in use, "baseline", "avx2" or "avx512": the widest that the machine has, unless the environment
 * variable FASTOPT_ISA or fastopt_use_isa() names another. NULL if FASTOPT_ISA names none that the machine has; then
 * every step returns FASTOPT_ERR_ISA until fastopt_use_isa() succeeds.
 */
FASTOPT_API const char *fastopt_isa(void);

/*
 * Uses the instruction set with this name from the next call on, in all threads; for NULL or "" the one of FASTOPT_ISA
 * or, without it, the widest. Returns FASTOPT_OK or FASTOPT_ERR_ISA.
 */
FASTOPT_API int fastopt_use_isa(const char *name);

/* The instruction sets that the machine has, narrowest first; NULL past the last one. */
FASTOPT_API const char *fastopt_available_isa(int index);

/* FASTOPT_VERSION of the library, its compiler, and the compiler flags that its build passed as FASTOPT_CFLAGS. */
FASTOPT_API const char *fastopt_version(void);
FASTOPT_API const char *fastopt_compiler(void);
FASTOPT_API const char *fastopt_cflags(void);

/* A sentence for a return value. */
FASTOPT_API const char *fastopt_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif /* FASTOPT_H */
