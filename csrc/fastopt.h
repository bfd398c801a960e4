/*
 * fastopt.h - the update rules of gradient descent as in-place C loops.
 *
 * This header is the public contract of the C core; fastopt_rules.h, which it includes, has the part that repeats the
 * table of rules. The core is plain C11: no Python, no allocation, and no threads unless they are asked for
 * (fastopt_set_num_threads, fastopt_model). Compiling each .c file of this folder with `cc -O3 -c` builds it; no special
 * flags are needed (before glibc 2.34, link with -pthread). -ffast-math is refused; with clang, -ffp-contract=fast
 * would change results and is to be left out (GCC's, and other parts of -ffast-math, the sources switch off themselves).
 *
 * Every rule is one function for float (`_f32`) and one for double (`_f64`), for one tensor:
 *
 *     int fastopt_RULE_f32(size_t n, float *p, const float *g, <state buffers>,
 *                          <hyperparameters>, unsigned options);
 *
 * It updates the `n` parameters `p` and the state buffers in place from the gradients `g`, which it only reads, and
 * returns FASTOPT_OK, or a negative FASTOPT_ERR_ value, in which case nothing was written. fastopt_step() does the same
 * for the many tensors of a model, and takes gradients of other types and all buffers in other layouts.
 *
 * Buffers     Each holds `n` elements, aligned to their own size; no larger alignment is needed. They must not overlap
 *             (two of them overlapping is undefined behaviour: the loops are compiled under `restrict`). State buffers
 *             start with the values that the table gives, zeros if it gives none. Those marked "or NULL" belong to an
 *             option and may be NULL to leave it off. Where n is 0 all may be NULL.
 * Splitting   A rule without sums (fastopt_rule_info) works element by element, so a caller may cut one tensor into
 *             ranges and give each to a thread of its own, in any order. Ranges, layout and alignment never change a
 *             result. A rule with sums has coefficients that depend on the whole tensor.
 * Numerics    Hyperparameters are double. The coefficients of a step are computed from them in double, each is rounded
 *             once to the type of the buffers, and the loops run + - * / and sqrt alone, without contraction. So the
 *             same inputs give the same output bits on every instruction set and architecture (the payload and sign of a
 *             NaN excepted), as long as the caller runs with IEEE 754's default rounding and without flush-to-zero.
 *             Under another mode, workers take over the caller's, so that threads still change nothing; the mode is left
 *             as it was. Nothing is done about 0/0: eps = 0 where all gradients have been zero gives NaN.
 * Gradients   Every rule first forms  g' = s*g + weight_decay*p  with s = grad_scale, or -grad_scale under
 *             FASTOPT_MAXIMIZE, and writes g for this g' in its formula. (Rules with decoupled weight decay keep it out
 *             of g'.) The product s*g is formed in double and rounded once to the type of the parameters, so s may lie
 *             outside the range of float. grad_scale = 1 leaves the gradient as it is.
 * Steps       `step` counts from 1. It is a double so that it can count to 2^53; it must be whole.
 * Threads     All functions may be called from several threads at once on distinct buffers, models and groups (in whose
 *             structures the library keeps what it needs during a call, and which settings it has found to be right).
 * Symbols     All names begin with fastopt_. -DFASTOPT_NAMESPACE=mine_, for the library and for its callers, makes that
 *             mine_fastopt_ in the objects, so that two copies fit into one program; the source stays as it is.
 *             -DFASTOPT_API= with -fvisibility=hidden makes nothing visible outside a shared library.
 * Lasting     Until version 1.0.0 names, prototypes, values and structures may change from version to version. From then
 *             on they stay as they are: what must change gets a new name, and structures, which begin with their size,
 *             only grow at their end.
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

#ifdef FASTOPT_NAMESPACE
#define FASTOPT_NAME(name) FASTOPT_JOIN(FASTOPT_NAMESPACE, name)
#define FASTOPT_JOIN(space, name) FASTOPT_JOIN_NOW(space, name)
#define FASTOPT_JOIN_NOW(space, name) space##fastopt_##name
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The functions of the rules, the constants that name hyperparameters, states and options, and the list of functions. */
#include "fastopt_rules.h"

/* What a function returns. The values never change their meaning. */
enum {
    FASTOPT_OK = 0,
    FASTOPT_SKIPPED = 1,     /* fastopt_step() alone: nothing was written, as asked for */
    FASTOPT_ERR_ISA = -1,    /* FASTOPT_ISA, or the name given, is no instruction set of this machine */
    FASTOPT_ERR_RULE = -2,   /* no such rule */
    FASTOPT_ERR_OPTION = -3, /* an option this rule does not take, or one that its hyperparameters forbid */
    FASTOPT_ERR_BUFFER = -4, /* a buffer that the rule or its hyperparameters need is NULL, one that another tensor
                                   of the group has is missing, or one that the rule does not know is there */
    FASTOPT_ERR_MODEL = -5,  /* a field of the model: grad_scale, max_norm, extras */
    FASTOPT_ERR_SIZE = -6,   /* a structure does not begin with its size */
    FASTOPT_ERR_TYPE = -7,   /* no such element type, or one that the buffer cannot have */
    FASTOPT_ERR_LAYOUT = -8, /* the sizes of a layout do not multiply to n, strides are no multiples of the element's
                                   size, or one of them is 0 where elements are written */
    FASTOPT_ERR_UNUSED = -9, /* something that has no meaning is not zero: a hyperparameter past the rule's last */
    FASTOPT_ERR_WORKSPACE = -10, /* the model's workspace is smaller than fastopt_workspace() */
    FASTOPT_ERR_HYPER = -16      /* FASTOPT_ERR_HYPER - i: the i-th hyperparameter (from 0, in the order of the
                                   prototype) is out of its range, or leaves it when rounded to the compute type */
};

/* Types of elements. A tensor is computed in float or double; FASTOPT_F16 and FASTOPT_BF16 are only stored. */
enum {
    FASTOPT_F32 = 1,
    FASTOPT_F64 = 2,
    FASTOPT_F16 = 3, /* IEEE 754 binary16 */
    FASTOPT_BF16 = 4 /* bfloat16: the upper half of a float */
};

enum {
    FASTOPT_MAX_STATES = 4,  /* more than there are, */
    FASTOPT_MAX_HYPERS = 12, /* for rules to come */
    FASTOPT_MAX_DIMS = 64    /* of a layout */
};

/* ---- The table of rules: what the functions of the rules are made of, for bindings and tools. ---- */

typedef struct {
    const char *name;  /* "lr" */
    const char *takes; /* what it may be, in words: "a finite number >= 0" */
    double value;      /* its default */
} fastopt_hyper_info;

typedef struct {
    const char *name;      /* "max_exp_avg_sq" */
    const char *needed_by; /* NULL: always needed. The name of a hyperparameter: needed when that is not 0. Else the
                              name of the variant ("amsgrad") that the buffer switches on by being there. */
    double start;          /* what its elements start with */
} fastopt_state_info;

typedef struct {
    const char *name; /* "maximize" */
    unsigned bit;     /* FASTOPT_MAXIMIZE */
} fastopt_option_info;

typedef struct {
    size_t size;      /* of this structure */
    const char *name; /* "adam" */
    const char *paper;
    int state_count;     /* the lists are in the order of the prototype */
    int required_states; /* the first so many are always needed */
    int hyper_count;
    int option_count;
    int sums; /* how many sums a step needs of each tensor; 0: the rule works element by element */
    const fastopt_state_info *states;
    const fastopt_hyper_info *hypers;
    const fastopt_option_info *options;
} fastopt_rule_info;

/* The rule with this index, or NULL past the last one. */
FASTOPT_API const fastopt_rule_info *fastopt_rule(int rule);

/* The index of the rule with this name ("adam"), or FASTOPT_ERR_RULE. It may differ between versions. */
FASTOPT_API int fastopt_find_rule(const char *name);

/* ---- Many tensors, one call. ---- */

/*
 * How the buffers of one tensor are stored, where that is not contiguous, or not in the type of the group. What is stored
 * as computed and contiguous goes to the loop directly; everything else is unpacked by blocks into scratch memory on
 * the stack, run through the same loop, and packed back, which changes no bit of the result. A gradient of another type is
 * converted as it is read, rounded to nearest even. Elements that are written must not overlap; of that only strides of 0
 * are noticed. Of a tensor without elements the layout is not looked at.
 */
typedef struct {
    size_t size; /* sizeof(fastopt_layout) */
    int g_type;  /* of the gradient; 0: the group's, as in all types below */
    int p_type;  /* so far, parameters and state have the group's type */
    int state_type[FASTOPT_MAX_STATES];
    int ndim;               /* the number of dimensions, up to FASTOPT_MAX_DIMS; 0: all buffers are contiguous */
    const ptrdiff_t *shape; /* ndim sizes, which multiply to n */
    /* Strides are bytes from an element to the next along each dimension, and may be negative. NULL: contiguous, the
     * last dimension fastest. Those of a gradient may be 0: one element stands for many. */
    const ptrdiff_t *p_strides;
    const ptrdiff_t *g_strides;
    const ptrdiff_t *state_strides[FASTOPT_MAX_STATES];
} fastopt_layout;

typedef struct {
    size_t size;   /* sizeof(fastopt_tensor) */
    size_t n;      /* elements */
    void *p;       /* where the first element lies */
    const void *g; /* only read, except by FASTOPT_ZERO_GRAD and fastopt_clip_grad_norm(), which write to it */
    void *state[FASTOPT_MAX_STATES]; /* in the order of the rule's table; NULL: left off */
    const fastopt_layout *layout;    /* NULL: every buffer is contiguous and has the group's type */
    size_t scratch[2];               /* the library's own */
} fastopt_tensor;

/* Tensors that share everything but their memory and layout: also which of the optional buffers there are. */
typedef struct {
    size_t size; /* sizeof(fastopt_group) */
    int rule;    /* index in the table of rules */
    int type;    /* FASTOPT_F32 or FASTOPT_F64: what is computed in, and the type of parameters and state */
    unsigned options;
    double hyper[FASTOPT_MAX_HYPERS]; /* by the constants of fastopt_rules.h (FASTOPT_ADAM_LR), or fastopt_set() */
    size_t count;
    fastopt_tensor *tensors;
    double scratch[36]; /* the library's own; zero at first */
} fastopt_group;

/* What was wrong, and where. */
typedef struct {
    int code;        /* what the call returned; if it is not negative the rest says nothing */
    ptrdiff_t group; /* indices; -1: of none in particular */
    ptrdiff_t tensor;
    const char *rule;  /* of the group, or NULL */
    const char *name;  /* of the hyperparameter, option, buffer or field; NULL: the code says it all */
    double value;      /* of the hyperparameter or field */
    const char *takes; /* what it may be, in words, or NULL */
    int type;          /* of the group, or 0: float cannot hold every number that double can */
} fastopt_error;

/* `extras` of a model is 0 or an OR of these; each costs what the pass over memory costs that it needs. */
enum {
    FASTOPT_CLIP_NORM = 1,      /* max_norm counts: one pass that reads the gradients, before the step */
    FASTOPT_SKIP_NONFINITE = 2, /* no step if the norm is not finite: the same pass */
    FASTOPT_ZERO_GRAD = 4       /* the gradients are zero after the step: in the step's own pass */
};

typedef struct {
    size_t size; /* sizeof(fastopt_model) */
    size_t count;
    fastopt_group *groups;
    double grad_scale; /* multiplies every gradient, on top of each group's own; the product must be finite, too */
    double max_norm;   /* under FASTOPT_CLIP_NORM, a number >= 0 */
    unsigned extras;
    int threads;     /* at most so many; 0 or less: fastopt_get_num_threads() */
    void *workspace; /* fastopt_workspace() bytes, aligned as malloc() does; NULL will do where that is 0 */
    size_t workspace_size;
    double norm;         /* out, under FASTOPT_CLIP_NORM and FASTOPT_SKIP_NONFINITE */
    fastopt_error error; /* out: what the last call was about, if it failed */
} fastopt_model;

/*
 * Structures are filled in from here: zeros, the size, and the defaults of the table; a structure that does not begin
 * with its size is refused, and so are hyperparameters, states and parts of a layout that have no meaning and are not zero.
 * The last argument of each is its sizeof.
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
 * fastopt_group_init() returns FASTOPT_OK, FASTOPT_ERR_RULE, FASTOPT_ERR_TYPE or FASTOPT_ERR_SIZE, and then leaves the
 * group zero. A model starts with grad_scale 1 and max_norm -1, which FASTOPT_CLIP_NORM refuses.
 */
FASTOPT_API int fastopt_group_init(fastopt_group *group, size_t size, const char *rule, int type);
FASTOPT_API int fastopt_model_init(fastopt_model *model, size_t size);

/*
 * Sets a hyperparameter of a group, or switches an option on or off (a value of 0 is off), by its name in the table.
 * FASTOPT_ERR_OPTION if the rule has neither of that name. Whether the value is in its range is checked by the step.
 */
FASTOPT_API int fastopt_set(fastopt_group *group, const char *name, double value);

/*
 * Whether a hyperparameter, by its index, may have this value where the compute type is `type`: FASTOPT_OK or
 * FASTOPT_ERR_HYPER - index. (FASTOPT_ERR_RULE, FASTOPT_ERR_TYPE, and FASTOPT_ERR_UNUSED for an index past the rule's last.)
 */
FASTOPT_API int fastopt_check_hyper(int rule, int type, int index, double value);

/*
 * Steps every tensor of every group. Everything is checked before the first element is written, and the coefficients
 * are computed once a group. Gradients of several tensors may be the same memory as long as nothing writes to them.
 *
 * Under FASTOPT_CLIP_NORM all gradients are scaled so that their global norm is at most max_norm: the factor is
 * c = min(1, max_norm / (norm + 1e-6))  with  norm = |grad_scale| * fastopt_global_norm(),  as in PyTorch, and the step is
 * that of grad_scale*c. A norm that is NaN makes c NaN.
 *
 * A rule with sums adds them up for each tensor by itself, in the order of fastopt_global_norm() over the tensor alone.
 *
 * Returns FASTOPT_OK, or FASTOPT_SKIPPED under FASTOPT_SKIP_NONFINITE when the norm is NaN or infinite (a gradient is, or
 * the norm exceeds the largest double), or an error, which model->error describes; in the last two cases no
 * parameter, gradient or state was written. FASTOPT_ERR_SIZE is also what a model gets that does not begin with its own size:
 * then nothing is written to model->error either.
 */
FASTOPT_API int fastopt_step(fastopt_model *model);

/* All checks of fastopt_step() without a step: what it returns, and what is in model->error. */
FASTOPT_API int fastopt_check(fastopt_model *model);

/* How many bytes of workspace fastopt_step() needs for this model: 0 if no rule in it has sums. */
FASTOPT_API size_t fastopt_workspace(const fastopt_model *model);

/*
 * Leaves the Euclidean norm of all gradients together in model->norm; of each tensor only n, g and the gradient's layout
 * are looked at, of a group the type, count and tensors, of the model also threads. The elements, converted to their
 * group's type, count as doubles, in the order of the tensors and of the last dimension fastest, as if they were one array
 * of N elements. It is cut into strips of max(4096, 16*ceil(N/16384)) elements; in each, element i adds its square to
 * lane i mod 16; lane j and lane j + 8 are added, then j and j + 4, + 2, + 1; the strips' sums are added in order; the
 * root of that is the norm. If the sum is infinite or below 2^-900 it is formed again with all elements multiplied by
 * 2^-600 or 2^600, which are taken out of the root. So the bits depend on the elements alone.
 */
FASTOPT_API int fastopt_global_norm(fastopt_model *model);

/*
 * fastopt_global_norm(), then multiplies every gradient by  c = min(1, max_norm / (norm + 1e-6))  unless c is 1: in
 * double, rounded to the group's type and then to the gradient's own. max_norm counts whatever the extras are;
 * grad_scale does not.
 */
FASTOPT_API int fastopt_clip_grad_norm(fastopt_model *model);

/*
 * A sentence for model->error: "adam: lr of group 2 must be a finite number >= 0, got -1". Writes at most `size`
 * characters with the closing zero, and returns how long the sentence is without it.
 */
FASTOPT_API size_t fastopt_describe(const fastopt_error *error, char *text, size_t size);

/* ---- Threads. ---- */

/*
 * What `threads = 0` in a model stands for. It is 1 until somebody sets it: then the library starts no thread.
 * fastopt_set_num_threads() clamps its argument to 1..256.
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
