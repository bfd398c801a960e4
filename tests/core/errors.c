/*
 * errors.c - every error of the core: its code, the place that model->error names, the sentence of fastopt_describe(),
 * and that nothing was written.
 *
 * Each case takes a model that a step accepts and breaks one thing in it.
 */
#include "each.h"
#include "fastopt.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("errors.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* ---- A good model: SGD on floats and Adam on doubles, two tensors each, one of them with a layout. ---- */

enum { ROWS = 3, COLUMNS = 5, N = ROWS * COLUMNS, GROUPS = 2, TENSORS = 2, BUFFERS = 6 };

static struct {
    ptrdiff_t shape[2], strides[2]; /* those of a transposed buffer */
    fastopt_layout layouts[GROUPS];
    fastopt_tensor tensors[GROUPS][TENSORS];
    fastopt_group groups[GROUPS];
    fastopt_model model;
} s; /* the model of the current case */

static float floats[TENSORS][BUFFERS][N];
static double doubles[TENSORS][BUFFERS][N];

static void set_numbers(void)
{
    for (int i = 0; i < TENSORS; i++)
        for (int k = 0; k < BUFFERS; k++)
            for (int e = 0; e < N; e++) {
                floats[i][k][e] = (float)(1 + i + k + e);
                doubles[i][k][e] = 1 + i + k + e;
            }
}

/* Whether all numbers are as they were set. */
static int untouched(void)
{
    for (int i = 0; i < TENSORS; i++)
        for (int k = 0; k < BUFFERS; k++)
            for (int e = 0; e < N; e++)
                if (floats[i][k][e] != (float)(1 + i + k + e) || doubles[i][k][e] != 1 + i + k + e)
                    return 0;
    return 1;
}

static void make(void)
{
    static const char *const rules[GROUPS] = {"sgd", "adam"};

    memset(&s, 0, sizeof s);
    set_numbers();
    MUST(fastopt_model_init(&s.model, sizeof s.model) == FASTOPT_OK);
    s.model.groups = s.groups;
    s.model.count = GROUPS;
    s.model.norm = 1234.0;
    s.shape[0] = ROWS, s.shape[1] = COLUMNS;
    s.strides[0] = sizeof(float), s.strides[1] = ROWS * (ptrdiff_t)sizeof(float);
    for (int k = 0; k < GROUPS; k++) {
        MUST(fastopt_group_init(&s.groups[k], sizeof *s.groups, rules[k], k ? FASTOPT_F64 : FASTOPT_F32) == FASTOPT_OK);
        s.groups[k].tensors = s.tensors[k];
        s.groups[k].count = TENSORS;
        s.layouts[k] = (fastopt_layout){.size = sizeof *s.layouts, .ndim = 2, .shape = s.shape};
        s.layouts[k].g_strides = k ? NULL : s.strides;
        for (int i = 0; i < TENSORS; i++) {
            fastopt_tensor *const tensor = &s.tensors[k][i];
            *tensor = (fastopt_tensor){.size = sizeof *tensor, .n = N, .layout = i ? &s.layouts[k] : NULL};
            tensor->p = k ? (void *)doubles[i][0] : floats[i][0];
            tensor->g = k ? (void *)doubles[i][1] : floats[i][1];
            for (int j = 0; j < 2 * k; j++)
                tensor->state[j] = doubles[i][2 + j];
        }
    }
    MUST(fastopt_set(&s.groups[1], "step", 1) == FASTOPT_OK);
}

/* ---- How errors are checked. ---- */

typedef int function(fastopt_model *model);

static void expect_from(function *call, int code, int group, int tensor, const char *name, const char *words)
{
    const fastopt_error *const error = &s.model.error;
    char text[300];
    const double norm = s.model.norm;
    const int found = call(&s.model);
    const size_t length = fastopt_describe(error, text, sizeof text);

    if (found != code || error->code != code || error->group != group || error->tensor != tensor ||
        (name ? !error->name || strcmp(error->name, name) : error->name != NULL) || strcmp(text, words) ||
        length != strlen(words) || s.model.norm != norm || !untouched()) {
        printf("expected %d, group %d, tensor %d, %s: %s\n", code, group, tensor, name ? name : "no name", words);
        printf("found %d (%d), group %td, tensor %td, %s: %s\n", found, error->code, error->group, error->tensor,
               error->name ? error->name : "no name", text);
        exit(1);
    }
}

/* Requires that a step and fastopt_check() fail with this error and write nothing. */
static void expect(int code, int group, int tensor, const char *name, const char *words)
{
    expect_from(fastopt_check, code, group, tensor, name, words);
    expect_from(fastopt_step, code, group, tensor, name, words);
}

/* Breaks a fresh model, then one after a good step, since the core remembers which checks have passed. */
#define CASE(breaking, code, group, tensor, name, words) \
    do { \
        make(); \
        breaking; \
        expect(code, group, tensor, name, words); \
        make(); \
        MUST(fastopt_step(&s.model) == FASTOPT_OK); \
        set_numbers(); \
        breaking; \
        expect(code, group, tensor, name, words); \
    } while (0)

/* ---- Errors of a step. ---- */

static void of_the_model(void)
{

    make();
    MUST(fastopt_check(&s.model) == FASTOPT_OK && s.model.error.code == FASTOPT_OK && untouched());
    MUST(fastopt_step(&s.model) == FASTOPT_OK && !untouched());
    make();
    memset(&s.model, 0, sizeof s.model); /* a forgotten fastopt_model_init() */
    s.model.groups = s.groups, s.model.count = GROUPS;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_SIZE && fastopt_check(&s.model) == FASTOPT_ERR_SIZE);
    MUST(fastopt_global_norm(&s.model) == FASTOPT_ERR_SIZE && fastopt_clip_grad_norm(&s.model) == FASTOPT_ERR_SIZE);
    MUST(untouched());
    CASE(s.model.groups = NULL, FASTOPT_ERR_MODEL, -1, -1, "groups",
         "fastopt: groups must be an array of count groups, got 0");
    CASE(s.model.extras = 8, FASTOPT_ERR_MODEL, -1, -1, "extras",
         "fastopt: extras must be an OR of FASTOPT_CLIP_NORM, FASTOPT_SKIP_NONFINITE and FASTOPT_ZERO_GRAD, got 8");
    CASE(s.model.grad_scale = -INFINITY, FASTOPT_ERR_MODEL, -1, -1, "grad_scale",
         "fastopt: grad_scale must be a finite number, got -inf");
    CASE(s.model.grad_scale = 1e200;
         s.groups[1].hyper[FASTOPT_ADAM_GRAD_SCALE] = 1e200, FASTOPT_ERR_MODEL, 1, -1, "grad_scale",
         "adam: grad_scale of group 1 must be a finite number, also when multiplied by the group's own, got inf");
    CASE(s.model.extras = FASTOPT_CLIP_NORM, FASTOPT_ERR_MODEL, -1, -1, "max_norm", /* forgotten */
         "fastopt: max_norm must be a number >= 0, got -1");
    make();
    s.model.grad_scale = NAN;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_MODEL && isnan(s.model.error.value) && untouched());
    s.model.grad_scale = 1;
    s.model.extras = FASTOPT_CLIP_NORM;
    s.model.max_norm = NAN;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_MODEL && isnan(s.model.error.value) && untouched());
    s.model.extras = FASTOPT_SKIP_NONFINITE | FASTOPT_ZERO_GRAD; /* which ignore max_norm */
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
}

static void of_groups(void)
{
    /* A forgotten fastopt_group_init(). */
    CASE(memset(&s.groups[1], 0, sizeof *s.groups), FASTOPT_ERR_SIZE, 1, -1, "size",
         "fastopt: size of group 1 must be sizeof(fastopt_group)");
    CASE(s.groups[1].type = 0, FASTOPT_ERR_TYPE, 1, -1, "type",
         "adam: type of group 1 must be FASTOPT_F32 or FASTOPT_F64");
    CASE(s.groups[0].type = FASTOPT_F16, FASTOPT_ERR_TYPE, 0, -1, "type",
         "sgd: type of group 0 must be FASTOPT_F32 or FASTOPT_F64");
    CASE(s.groups[1].tensors = NULL, FASTOPT_ERR_BUFFER, 1, -1, "tensors",
         "adam: tensors of group 1 must be an array of count tensors");
    CASE(s.groups[1].rule = -1, FASTOPT_ERR_RULE, 1, -1, "rule",
         "fastopt: rule of group 1 must be the index of a rule");
    CASE(s.groups[1].rule = 1000, FASTOPT_ERR_RULE, 1, -1, "rule",
         "fastopt: rule of group 1 must be the index of a rule");
    CASE(s.groups[1].options = FASTOPT_NESTEROV, FASTOPT_ERR_OPTION, 1, -1, "options",
         "adam: options of group 1: the rule does not take an option, or its hyperparameters forbid it");
    CASE(s.groups[0].options = FASTOPT_NESTEROV, FASTOPT_ERR_OPTION, 0, -1, "nesterov",
         "sgd: nesterov of group 0 needs momentum > 0 and dampening = 0");
}

/* Every hyperparameter of every rule, in a group without tensors. */
static void of_hyperparameters(void)
{
    static const double never[] = {NAN, INFINITY, -INFINITY};
    const fastopt_rule_info *info;

    for (int rule = 0; (info = fastopt_rule(rule)); rule++)
        for (int i = 0; i < info->hyper_count; i++)
            for (size_t k = 0; k < sizeof never / sizeof *never; k++) {
                char words[300];
                make();
                MUST(fastopt_group_init(&s.groups[0], sizeof *s.groups, info->name, FASTOPT_F32) == FASTOPT_OK);
                MUST(fastopt_set(&s.groups[0], info->hypers[i].name, never[k]) == FASTOPT_OK);
                snprintf(words, sizeof words, "%s: %s of group 0 must be %s, got %g", info->name, info->hypers[i].name,
                         info->hypers[i].takes, never[k]);
                expect(FASTOPT_ERR_HYPER - i, 0, -1, info->hypers[i].name, words);
                MUST(s.model.error.takes == info->hypers[i].takes && !strcmp(s.model.error.rule, info->name));
                MUST(isnan(never[k]) || s.model.error.value == never[k]);
            }
}

/* What is wrong with a hyperparameter of Adagrad, in a group without tensors; 0: nothing. */
static int try_hyper(const char *rule, int type, const char *name, double value)
{
    fastopt_group group;
    fastopt_model model;

    MUST(fastopt_model_init(&model, sizeof model) == FASTOPT_OK);
    MUST(fastopt_group_init(&group, sizeof group, rule, type) == FASTOPT_OK);
    MUST(fastopt_set(&group, name, value) == FASTOPT_OK);
    model.groups = &group, model.count = 1;
    return fastopt_check(&model);
}

static void of_ranges(void)
{
    static const struct {
        const char *name;
        int place;
        double value;
        int in_float, in_double; /* whether each type accepts it */
    } cases[] = {
        /* clang-format off */
        {"step", 0, 1.0, 1, 1}, {"step", 0, 0.0, 0, 0}, {"step", 0, 1.5, 0, 0}, {"step", 0, -1.0, 0, 0},
        {"step", 0, 16777217.0, 1, 1}, {"step", 0, 0x1p53, 1, 1}, {"step", 0, 0x1p53 + 2, 0, 0},
        {"step", 0, 1e300, 0, 0},
        {"lr", 1, 0.0, 1, 1}, {"lr", 1, -0.0, 1, 1}, {"lr", 1, -DBL_MIN, 0, 0}, {"lr", 1, FLT_MAX, 1, 1},
        {"lr", 1, 1e39, 0, 1}, {"lr", 1, 0x1.fffffefffffffp127, 1, 1}, {"lr", 1, 0x1.ffffffp127, 0, 1},
        {"lr", 1, DBL_MAX, 0, 1}, {"lr", 1, 0x1p-149, 1, 1}, {"lr", 1, 0x1p-150, 0, 1},
        {"lr", 1, 0x1.0000000000001p-150, 1, 1}, {"lr", 1, 1e-300, 0, 1}, {"lr", 1, 5e-324, 0, 1},
        {"beta1", 2, 0.0, 1, 1}, {"beta1", 2, 1.0, 0, 0}, {"beta1", 2, 0.99999996, 1, 1},
        {"beta1", 2, 0.999999999, 0, 1}, {"beta1", 2, 1e-50, 0, 1}, {"beta1", 2, -1e-50, 0, 0}, {"eps", 4, 1e-50, 0, 1},
        {"grad_scale", 6, 1e300, 1, 1},
        {"grad_scale", 6, -1e-300, 1, 1}, {"grad_scale", 6, 0.0, 1, 1}, {"grad_scale", 6, -DBL_MAX, 1, 1},
        /* clang-format on */
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++) {
            const int taken = type == FASTOPT_F32 ? cases[i].in_float : cases[i].in_double;
            const int found = try_hyper("adam", type, cases[i].name, cases[i].value);
            if (found != (taken ? FASTOPT_OK : FASTOPT_ERR_HYPER - cases[i].place))
                printf("%s = %.17g in type %d: %d\n", cases[i].name, cases[i].value, type, found);
            MUST(found == (taken ? FASTOPT_OK : FASTOPT_ERR_HYPER - cases[i].place));
        }
    CASE(s.groups[0].hyper[FASTOPT_SGD_LR] = 0x1p-160, FASTOPT_ERR_HYPER - FASTOPT_SGD_LR, 0, -1, "lr",
         "sgd: lr of group 0 must be a finite number >= 0, also as float, got 6.8422776578360209e-49 (0 as float)");
    CASE(s.groups[0].hyper[FASTOPT_SGD_LR] = 1e39, FASTOPT_ERR_HYPER - FASTOPT_SGD_LR, 0, -1, "lr",
         "sgd: lr of group 0 must be a finite number >= 0, also as float, got 9.9999999999999994e+38 (inf as float)");
    CASE(s.groups[0].hyper[FASTOPT_SGD_LR] = -0.1, FASTOPT_ERR_HYPER - FASTOPT_SGD_LR, 0, -1, "lr",
         "sgd: lr of group 0 must be a finite number >= 0, got -0.10000000000000001");
    CASE(s.groups[0].hyper[FASTOPT_SGD_LR] = NAN, FASTOPT_ERR_HYPER - FASTOPT_SGD_LR, 0, -1, "lr",
         "sgd: lr of group 0 must be a finite number >= 0, got nan");
    MUST(try_hyper("sgd", FASTOPT_F32, "dampening", 1.0) == FASTOPT_OK);
    MUST(try_hyper("sgd", FASTOPT_F64, "dampening", nextafter(1.0, 2.0)) == FASTOPT_ERR_HYPER - FASTOPT_SGD_DAMPENING);
}

/* Passed checks are remembered with the rule, type and options they were made for: a change repeats them. */
static void of_what_was_right_for_others(void)
{
    static double many[N];
    float few[N] = {0};

    make();
    s.groups[1].tensors[0].n = s.groups[1].tensors[1].n = 0;
    MUST(fastopt_set(&s.groups[1], "eps", 1e-60) == FASTOPT_OK); /* which float rounds to 0 */
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    s.groups[1].type = FASTOPT_F32;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_HYPER - FASTOPT_ADAM_EPS);
    s.groups[1].type = FASTOPT_F64;
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    s.groups[1].options = 1u << 20;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_OPTION);
    s.groups[1].options = FASTOPT_MAXIMIZE;
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    for (int i = 0; i < 3; i++) {
        static const double counts[] = {1.5, 0.0, NAN};
        MUST(fastopt_set(&s.groups[1], "step", counts[i]) == FASTOPT_OK);
        MUST(fastopt_step(&s.model) == FASTOPT_ERR_HYPER - FASTOPT_ADAM_STEP);
    }
    make();
    s.groups[0].count = 1;
    s.tensors[0][0].state[0] = many; /* and the buffers that the hyperparameters need */
    MUST(fastopt_set(&s.groups[0], "momentum", 0.5) == FASTOPT_OK && fastopt_step(&s.model) == FASTOPT_OK);
    s.tensors[0][0].state[0] = NULL;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_BUFFER);
    MUST(fastopt_set(&s.groups[0], "momentum", 0.0) == FASTOPT_OK && fastopt_step(&s.model) == FASTOPT_OK);
    MUST(fastopt_set(&s.groups[0], "momentum", 0.5) == FASTOPT_OK && fastopt_step(&s.model) == FASTOPT_ERR_BUFFER);
    s.tensors[0][0].state[0] = few;
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    s.tensors[1][0].state[1] = s.tensors[1][1].state[1] = NULL; /* each group needs its own buffers */
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_BUFFER && s.model.error.group == 1);
}

/* Values past a rule's last hyperparameter or state, as after a change of the rule; an error in the last group. */
static void of_what_has_no_meaning(void)
{

    make();
    s.groups[1].rule = fastopt_find_rule("adagrad"); /* with Adam's seven hyperparameters instead of its own six */
    for (int i = 0; i < TENSORS; i++)
        s.tensors[1][i].state[1] = NULL;
    expect(FASTOPT_ERR_UNUSED, 1, -1, "hyper",
           "adagrad: hyper of group 1 must be 0 past the rule's last hyperparameter");
    CASE(s.groups[1].hyper[FASTOPT_MAX_HYPERS - 1] = NAN, FASTOPT_ERR_UNUSED, 1, -1, "hyper",
         "adam: hyper of group 1 must be 0 past the rule's last hyperparameter");
    CASE((s.tensors[1][0].state[3] = s.tensors[1][1].state[3] = doubles[0][5]), FASTOPT_ERR_UNUSED, 1, 0, "state",
         "adam: state of tensor 0 in group 1 must be NULL past the rule's last state");
    CASE(s.tensors[1][1].state[3] = doubles[0][5], FASTOPT_ERR_UNUSED, 1, 1, "state",
         "adam: state of tensor 1 in group 1 must be NULL past the rule's last state");
}

static void of_tensors(void)
{

    CASE(s.tensors[1][1].size = 0, FASTOPT_ERR_SIZE, 1, 1, "size",
         "adam: size of tensor 1 in group 1 must be sizeof(fastopt_tensor)");
    CASE(s.tensors[0][1].g = NULL, FASTOPT_ERR_BUFFER, 0, 1, "g",
         "sgd: g of tensor 1 in group 0 must be a buffer, not NULL");
    CASE(s.tensors[1][1].p = NULL, FASTOPT_ERR_BUFFER, 1, 1, "p",
         "adam: p of tensor 1 in group 1 must be a buffer, not NULL");
    CASE(s.tensors[1][0].state[0] = NULL, FASTOPT_ERR_BUFFER, 1, 0, "exp_avg",
         "adam: exp_avg of tensor 0 in group 1 must be a buffer, not NULL");
    CASE(s.tensors[1][1].state[1] = NULL, FASTOPT_ERR_BUFFER, 1, 1, "exp_avg_sq",
         "adam: exp_avg_sq of tensor 1 in group 1 must be a buffer, not NULL");
    CASE(s.tensors[1][1].state[2] = doubles[1][4], FASTOPT_ERR_BUFFER, 1, 1, "max_exp_avg_sq",
         "adam: max_exp_avg_sq of tensor 1 in group 1 must be present in all tensors of the group or in none");
    CASE(s.tensors[1][0].state[2] = doubles[0][4], FASTOPT_ERR_BUFFER, 1, 1, "max_exp_avg_sq",
         "adam: max_exp_avg_sq of tensor 1 in group 1 must be present in all tensors of the group or in none");
    CASE(s.groups[0].hyper[FASTOPT_SGD_MOMENTUM] = 0.5, FASTOPT_ERR_BUFFER, 0, 0, "momentum_buffer",
         "sgd: momentum_buffer of tensor 0 in group 0 must be a buffer, not NULL");
    make();
    for (int i = 0; i < TENSORS; i++) { /* of a tensor without elements nothing is checked */
        s.tensors[1][i].n = 0;
        s.tensors[1][i].p = NULL, s.tensors[1][i].g = NULL, s.tensors[1][i].state[0] = NULL;
    }
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    make();
    s.groups[0].count = s.groups[1].count = 0;
    s.groups[0].tensors = s.groups[1].tensors = NULL;
    MUST(fastopt_step(&s.model) == FASTOPT_OK && untouched());
    s.model.count = 0;
    s.model.groups = NULL;
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
}

#define OF_LAYOUT(field) "adam: layout." field " of tensor 1 in group 1 must be "
#define FIELD_CASE(breaking, code, field, takes) \
    CASE(breaking, code, 1, 1, "layout." field, OF_LAYOUT(field) takes)
#define TYPE_CASE(breaking, field) FIELD_CASE(breaking, FASTOPT_ERR_TYPE, field, "0 or the type of the group")
#define G_TYPE "0 or a type from FASTOPT_F32 to FASTOPT_BF16"
#define NDIM_CASE(breaking) FIELD_CASE(breaking, FASTOPT_ERR_LAYOUT, "ndim", "from 0 to FASTOPT_MAX_DIMS")
#define SHAPE "sizes that multiply to n"
#define SHAPE_CASE(breaking) FIELD_CASE(breaking, FASTOPT_ERR_LAYOUT, "shape", SHAPE)
#define OWN_PLACE "other than 0: each element that is written needs its own place"
#define STILL_CASE(breaking, field) FIELD_CASE(breaking, FASTOPT_ERR_LAYOUT, field, OWN_PLACE)
#define ODD_CASE(breaking, field) FIELD_CASE(breaking, FASTOPT_ERR_LAYOUT, field, "multiples of the size of an element")
#define UNUSED_CASE(breaking, field, takes) FIELD_CASE(breaking, FASTOPT_ERR_UNUSED, field, takes)

static void of_layouts(void)
{
    static const ptrdiff_t small[2] = {3, 4}, large[2] = {3, 6}, minus[2] = {-3, -5}, none[2] = {0, 5},
                           wraps[2] = {PTRDIFF_MAX, 3}, more[3] = {3, 5, 2};
    static const ptrdiff_t many[FASTOPT_MAX_DIMS + 1] = {0};
    static const ptrdiff_t still[2] = {0, sizeof(double)}, column[2] = {sizeof(double), 0};
    static const ptrdiff_t odd[2] = {5 * sizeof(double) + 1, sizeof(double)}, half[2] = {-20, 4};

    FIELD_CASE(s.layouts[1].size = 0, FASTOPT_ERR_SIZE, "size", "sizeof(fastopt_layout)");
    FIELD_CASE(s.layouts[1].g_type = 5, FASTOPT_ERR_TYPE, "g_type", G_TYPE);
    FIELD_CASE(s.layouts[1].g_type = -1, FASTOPT_ERR_TYPE, "g_type", G_TYPE);
    TYPE_CASE(s.layouts[1].p_type = FASTOPT_F32, "p_type");
    TYPE_CASE(s.layouts[1].p_type = FASTOPT_BF16, "p_type");
    TYPE_CASE(s.layouts[1].p_type = -1, "p_type");
    TYPE_CASE(s.layouts[1].state_type[1] = FASTOPT_F32, "state_type");
    NDIM_CASE(s.layouts[1].ndim = -1);
    NDIM_CASE((s.layouts[1].ndim = FASTOPT_MAX_DIMS + 1, s.layouts[1].shape = many));
    SHAPE_CASE(s.layouts[1].ndim = 1);
    SHAPE_CASE(s.layouts[1].shape = NULL);
    SHAPE_CASE(s.layouts[1].shape = small);
    SHAPE_CASE(s.layouts[1].shape = large);
    SHAPE_CASE(s.layouts[1].shape = minus);
    SHAPE_CASE(s.layouts[1].shape = none);
    SHAPE_CASE(s.layouts[1].shape = wraps);
    SHAPE_CASE((s.layouts[1].ndim = 3, s.layouts[1].shape = more));
    STILL_CASE(s.layouts[1].p_strides = still, "p_strides");
    STILL_CASE(s.layouts[1].p_strides = column, "p_strides");
    STILL_CASE(s.layouts[1].state_strides[1] = column, "state_strides");
    STILL_CASE((s.layouts[1].g_strides = column, s.model.extras = FASTOPT_ZERO_GRAD), "g_strides");
    ODD_CASE(s.layouts[1].p_strides = odd, "p_strides");
    ODD_CASE(s.layouts[1].p_strides = half, "p_strides");
    ODD_CASE(s.layouts[1].g_strides = odd, "g_strides");
    ODD_CASE(s.layouts[1].state_strides[0] = half, "state_strides");
    UNUSED_CASE(s.layouts[1].state_type[3] = 77, "state_type", "0 for a state that the tensor does not have");
    UNUSED_CASE(s.layouts[1].state_strides[2] = odd, "state_strides", "0 for a state that the tensor does not have");
    UNUSED_CASE((s.layouts[1].ndim = 0, s.layouts[1].p_strides = odd), "p_strides", "NULL where ndim is 0");
    UNUSED_CASE((s.layouts[1].ndim = 0, s.layouts[1].g_strides = odd), "g_strides", "NULL where ndim is 0");
    make();
    s.layouts[1].g_strides = column; /* a stride of 0 is allowed for a gradient that is only read */
    s.layouts[1].p_type = s.layouts[1].g_type = s.layouts[1].state_type[0] = FASTOPT_F64;
    MUST(fastopt_step(&s.model) == FASTOPT_OK && fastopt_global_norm(&s.model) == FASTOPT_OK);
    make();
    s.layouts[1].g_type = FASTOPT_F32; /* whose elements may lie closer together than the parameter's */
    s.layouts[1].g_strides = half;
    s.tensors[1][1].g = &floats[1][1][10];
    MUST(fastopt_step(&s.model) == FASTOPT_OK && fastopt_global_norm(&s.model) == FASTOPT_OK);
    make();
    s.layouts[1].g_strides = still;
    s.tensors[1][1].n = 0; /* of a tensor without elements nothing is checked */
    s.layouts[1].shape = none;
    s.layouts[1].size = 0;
    s.model.extras = FASTOPT_ZERO_GRAD;
    s.model.max_norm = 1;
    MUST(fastopt_step(&s.model) == FASTOPT_OK && fastopt_clip_grad_norm(&s.model) == FASTOPT_OK);
}

/* A step that is skipped is no error, and writes nothing but the norm. */
static void of_numbers(void)
{
    static const double bad[] = {NAN, INFINITY};

    for (int i = 0; i < 2; i++) {
        make();
        doubles[1][1][N - 1] = bad[i];
        s.model.extras = FASTOPT_SKIP_NONFINITE | FASTOPT_ZERO_GRAD;
        MUST(fastopt_step(&s.model) == FASTOPT_SKIPPED && s.model.error.code == FASTOPT_SKIPPED);
        MUST(i ? s.model.norm == bad[i] : isnan(s.model.norm));
        doubles[1][1][N - 1] = 1 + 1 + 1 + N - 1;
        MUST(untouched());
    }
}

/* ---- Errors of the norm and of clipping, which check only what they use: the gradients. ---- */

#define GRADIENT_CASE(breaking, code, group, tensor, name, words) \
    do { \
        make(); \
        s.model.max_norm = 1.0; \
        breaking; \
        expect_from(fastopt_clip_grad_norm, code, group, tensor, name, words); \
        if (code != FASTOPT_ERR_MODEL) \
            expect_from(fastopt_global_norm, code, group, tensor, name, words); \
    } while (0)

static void of_gradients(void)
{
    static const ptrdiff_t column[2] = {sizeof(double), 0}, small[2] = {3, 4};

    GRADIENT_CASE(s.model.max_norm = -1, FASTOPT_ERR_MODEL, -1, -1, "max_norm",
                  "fastopt: max_norm must be a number >= 0, got -1");
    GRADIENT_CASE(s.groups[1].size = 7, FASTOPT_ERR_SIZE, 1, -1, "size",
                  "fastopt: size of group 1 must be sizeof(fastopt_group)");
    GRADIENT_CASE(s.tensors[1][1].g = NULL, FASTOPT_ERR_BUFFER, 1, 1, "g",
                  "adam: g of tensor 1 in group 1 must be a buffer, not NULL");
    GRADIENT_CASE(s.layouts[1].shape = small, FASTOPT_ERR_LAYOUT, 1, 1, "layout.shape", OF_LAYOUT("shape") SHAPE);
    GRADIENT_CASE(s.layouts[1].g_type = 5, FASTOPT_ERR_TYPE, 1, 1, "layout.g_type", OF_LAYOUT("g_type") G_TYPE);
    make();
    s.model.max_norm = 1.0;
    s.layouts[1].g_strides = column;
    expect_from(fastopt_clip_grad_norm, FASTOPT_ERR_LAYOUT, 1, 1, "layout.g_strides", OF_LAYOUT("g_strides") OWN_PLACE);
    MUST(fastopt_global_norm(&s.model) == FASTOPT_OK);
    make();
    s.model.max_norm = 1.0;
    s.model.extras = 8;
    s.model.grad_scale = NAN;
    s.groups[0].options = 8;
    s.groups[0].hyper[0] = -1;
    s.groups[1].rule = -1;
    s.layouts[1].p_type = 9;
    s.tensors[0][0].p = s.tensors[1][0].state[0] = NULL;
    MUST(fastopt_clip_grad_norm(&s.model) == FASTOPT_OK && fastopt_global_norm(&s.model) == FASTOPT_OK);
    MUST(fabs(s.model.norm - 1.0) < 1e-5);
}

/* ---- An unknown instruction set. ---- */

static void of_the_machine(void)
{
    static const char words[] = "FASTOPT_ISA or the caller names an instruction set that this machine does not have";

    make();
    MUST(!fastopt_isa() && fastopt_use_isa("none such") == FASTOPT_ERR_ISA);
    expect_from(fastopt_step, FASTOPT_ERR_ISA, -1, -1, NULL, words);
    expect_from(fastopt_check, FASTOPT_ERR_ISA, -1, -1, NULL, words);
    expect_from(fastopt_global_norm, FASTOPT_ERR_ISA, -1, -1, NULL, words);
    expect_from(fastopt_clip_grad_norm, FASTOPT_ERR_ISA, -1, -1, NULL, words);
}

/* ---- The functions that fill in structures. ---- */

/* Whether all bytes of the memory have this value. */
static int all_bytes(const void *memory, size_t size, int byte)
{
    const unsigned char *const bytes = memory;

    for (size_t i = 0; i < size; i++)
        if (bytes[i] != byte)
            return 0;
    return 1;
}

static void of_structures(void)
{
    fastopt_group group[2];
    fastopt_model model[2];
    const fastopt_rule_info *info;

    static const struct {
        size_t size;
        const char *rule;
        int type, error;
    } wrong[] = {{0, "adam", FASTOPT_F32, FASTOPT_ERR_SIZE},
                 {sizeof *group - 8, "adam", FASTOPT_F32, FASTOPT_ERR_SIZE},
                 {sizeof *group + 8, "adam", FASTOPT_F32, FASTOPT_ERR_SIZE},
                 {sizeof *group, "Adam", FASTOPT_F32, FASTOPT_ERR_RULE},
                 {sizeof *group, "", FASTOPT_F32, FASTOPT_ERR_RULE},
                 {sizeof *group, NULL, FASTOPT_F32, FASTOPT_ERR_RULE},
                 {sizeof *group, "adam", 0, FASTOPT_ERR_TYPE},
                 {sizeof *group, "adam", -1, FASTOPT_ERR_TYPE},
                 {sizeof *group, "adam", FASTOPT_F16, FASTOPT_ERR_TYPE},
                 {sizeof *group, "adam", FASTOPT_BF16, FASTOPT_ERR_TYPE}};

    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const size_t inside = wrong[i].size < sizeof *group ? wrong[i].size : sizeof *group;
        memset(group, 0xA5, sizeof group);
        MUST(fastopt_group_init(group, wrong[i].size, wrong[i].rule, wrong[i].type) == wrong[i].error);
        MUST(all_bytes(group, inside, 0));
        MUST(all_bytes((const char *)group + inside, sizeof group - inside, 0xA5));
    }
    for (int rule = 0; (info = fastopt_rule(rule)); rule++)
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++) {
            memset(group, 0xA5, sizeof group);
            MUST(fastopt_group_init(group, sizeof *group, info->name, type) == FASTOPT_OK);
            MUST(group->size == sizeof *group && group->rule == rule && group->type == type && !group->options);
            MUST(!group->count && !group->tensors && info->size == sizeof *info);
            for (int i = 0; i < FASTOPT_MAX_HYPERS; i++)
                MUST(group->hyper[i] == (i < info->hyper_count ? info->hypers[i].value : 0.0));
            MUST(all_bytes(&group[1], sizeof *group, 0xA5));
        }
    for (size_t size = 0; size <= sizeof *model + 8; size += 4) {
        memset(model, 0xA5, sizeof model);
        MUST(fastopt_model_init(model, size) == (size == sizeof *model ? FASTOPT_OK : FASTOPT_ERR_SIZE));
        MUST(model->size == (size == sizeof *model ? size : 0) || size < sizeof model->size);
        MUST(size != sizeof *model || (model->grad_scale == 1.0 && model->max_norm == -1.0 && !model->workspace));
        MUST(all_bytes((const char *)model + (size < sizeof *model ? size : sizeof *model), 8, 0xA5));
    }
}

static void of_setting(void)
{
    const fastopt_rule_info *info;
    fastopt_group group, before;

    for (int rule = 0; (info = fastopt_rule(rule)); rule++) {
        MUST(fastopt_group_init(&group, sizeof group, info->name, FASTOPT_F32) == FASTOPT_OK);
        for (int i = 0; i < info->hyper_count; i++)
            MUST(fastopt_set(&group, info->hypers[i].name, 100 + i) == FASTOPT_OK && group.hyper[i] == 100 + i);
        for (int i = 0; i < info->option_count; i++) {
            MUST(fastopt_set(&group, info->options[i].name, 1) == FASTOPT_OK);
            MUST(group.options == info->options[i].bit);
            MUST(fastopt_set(&group, info->options[i].name, -0.0) == FASTOPT_OK && !group.options);
        }
        before = group;
        MUST(fastopt_set(&group, "none such", 1) == FASTOPT_ERR_OPTION);
        MUST(fastopt_set(&group, "", 1) == FASTOPT_ERR_OPTION);
        MUST(fastopt_set(&group, NULL, 1) == FASTOPT_ERR_OPTION);
        MUST(!memcmp(&group, &before, sizeof group));
    }
    group.rule = -1;
    MUST(fastopt_set(&group, "lr", 1) == FASTOPT_ERR_RULE);
    group.rule = 1000;
    MUST(fastopt_set(&group, "lr", 1) == FASTOPT_ERR_RULE);
    memset(&group, 0, sizeof group);
    MUST(fastopt_set(&group, "lr", 1) == FASTOPT_ERR_SIZE);
    MUST(fastopt_find_rule("none such") == FASTOPT_ERR_RULE && fastopt_find_rule(NULL) == FASTOPT_ERR_RULE);
    MUST(!fastopt_rule(-1) && !fastopt_rule(1000));
}

/* ---- The functions of the rules. ---- */

#include "functions.h"

static rule_function *const functions[][2] = {
#define FASTOPT_RULE(rule, required, states, hypers, taken) {call_##rule##_f32, call_##rule##_f64},
#include "rules.def"
#undef FASTOPT_RULE
};

/* Calls each with one wrong argument and with none; with a factor that float holds exactly, and with another. */
static void of_functions(void)
{
    static const double factors[] = {0.5, 0.1};
    const fastopt_rule_info *info;

    for (int rule = 0; (info = fastopt_rule(rule)); rule++)
        for (int t = 0; t < 2; t++)
            for (int f = 0; f < 2; f++) {
                rule_function *const call = functions[rule][t];
                void *p = t ? (void *)doubles[0][0] : floats[0][0], *g = t ? (void *)doubles[0][1] : floats[0][1];
                void *state[FASTOPT_MAX_STATES], *none[FASTOPT_MAX_STATES] = {NULL};
                double hyper[FASTOPT_MAX_HYPERS] = {0};
                unsigned options = 0;
                int grown = 0;

                set_numbers();
                for (int j = 0; j < FASTOPT_MAX_STATES; j++)
                    state[j] = t ? (void *)doubles[0][2 + j] : floats[0][2 + j];
                for (int i = 0; i < info->hyper_count; i++)
                    hyper[i] = info->hypers[i].value;
                for (int i = 0; i < info->option_count; i++)
                    options |= info->options[i].bit;
                hyper[info->hyper_count - 1] = factors[f];
                for (unsigned bit = 1; bit && bit < 1u << 16; bit <<= 1)
                    if (!(options & bit))
                        MUST(call(N, p, g, state, hyper, bit) == FASTOPT_ERR_OPTION);
                MUST(call(N, NULL, g, state, hyper, 0) == FASTOPT_ERR_BUFFER);
                MUST(call(N, p, NULL, state, hyper, 0) == FASTOPT_ERR_BUFFER);
                for (int j = 0; j < info->required_states; j++) {
                    void *const kept = state[j];
                    state[j] = NULL;
                    MUST(call(N, p, g, state, hyper, 0) == FASTOPT_ERR_BUFFER);
                    state[j] = kept;
                }
                for (int j = info->required_states; j < info->state_count; j++)
                    for (int i = 0; i < info->hyper_count; i++)
                        if (!strcmp(info->hypers[i].name, info->states[j].needed_by)) {
                            void *const kept = state[j];
                            state[j] = NULL;
                            hyper[i] = 0.5;
                            MUST(call(N, p, g, state, hyper, 0) == FASTOPT_ERR_BUFFER);
                            hyper[i] = info->hypers[i].value;
                            state[j] = kept;
                        }
                for (int i = 0; i < info->hyper_count; i++) {
                    const double kept = hyper[i];
                    hyper[i] = NAN;
                    MUST(call(N, p, g, state, hyper, 0) == FASTOPT_ERR_HYPER - i);
                    MUST(call(0, NULL, NULL, none, hyper, 0) == FASTOPT_ERR_HYPER - i);
                    hyper[i] = kept;
                }
                if (options & FASTOPT_NESTEROV)
                    MUST(call(N, p, g, state, hyper, FASTOPT_NESTEROV) == FASTOPT_ERR_OPTION);
                MUST(call(0, NULL, NULL, none, hyper, 0) == FASTOPT_OK && untouched());
                MUST(call(N, p, g, state, hyper, FASTOPT_MAXIMIZE) == FASTOPT_OK);
                for (int e = 0; e < N; e++)
                    grown += t ? doubles[0][0][e] != 1 + e : floats[0][0][e] != (float)(1 + e);
                MUST(grown == N);
            }
}

/* ---- Sentences: fastopt_strerror() and fastopt_describe(). ---- */

static void of_words(void)
{
    static const int all[] = {
        FASTOPT_OK,         FASTOPT_SKIPPED,
        FASTOPT_ERR_ISA,    FASTOPT_ERR_RULE,
        FASTOPT_ERR_OPTION, FASTOPT_ERR_BUFFER,
        FASTOPT_ERR_MODEL,  FASTOPT_ERR_SIZE,
        FASTOPT_ERR_TYPE,   FASTOPT_ERR_LAYOUT,
        FASTOPT_ERR_UNUSED, FASTOPT_ERR_WORKSPACE,
        FASTOPT_ERR_HYPER,  2,
    };
    const int count = (int)(sizeof all / sizeof *all);
    char whole[200], part[200];
    size_t length;

    for (int i = 0; i < count; i++) {
        const fastopt_error error = {.code = all[i], .group = 1, .tensor = 2};
        for (int j = 0; j < i; j++)
            MUST(strcmp(fastopt_strerror(all[i]), fastopt_strerror(all[j])));
        MUST(fastopt_describe(&error, whole, sizeof whole) == strlen(fastopt_strerror(all[i])));
        MUST(!strcmp(whole, fastopt_strerror(all[i])));
    }
    MUST(fastopt_strerror(FASTOPT_ERR_HYPER) == fastopt_strerror(FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS + 1));
    MUST(fastopt_strerror(FASTOPT_ERR_HYPER - FASTOPT_MAX_HYPERS) == fastopt_strerror(2));
    make();
    s.groups[1].hyper[FASTOPT_ADAM_LR] = -1;
    MUST(fastopt_step(&s.model) == FASTOPT_ERR_HYPER - FASTOPT_ADAM_LR);
    length = fastopt_describe(&s.model.error, whole, sizeof whole);
    MUST(!strcmp(whole, "adam: lr of group 1 must be a finite number >= 0, got -1") && length == strlen(whole));
    for (size_t size = 0; size <= length + 2; size++) {
        memset(part, 'x', sizeof part);
        MUST(fastopt_describe(&s.model.error, part, size) == length);
        MUST(part[size] == 'x');
        if (size)
            MUST(strlen(part) == (size <= length ? size - 1 : length) && !strncmp(part, whole, strlen(part)));
    }
    MUST(fastopt_describe(&s.model.error, NULL, 0) == length);
    MUST(fastopt_workspace(&s.model) == 0);
    s.groups[1].rule = fastopt_find_rule("lamb");
    MUST(fastopt_workspace(&s.model) == TENSORS * 2 * sizeof(double));
    s.groups[1].tensors = NULL; /* forgotten: an error of the step, and 0 here */
    MUST(fastopt_workspace(&s.model) == 0);
    s.groups[1].size = 0;
    MUST(fastopt_workspace(&s.model) == 0);
    s.model.groups = NULL;
    MUST(fastopt_workspace(&s.model) == 0);
    memset(&s.model, 0, sizeof s.model);
    s.model.count = GROUPS;
    MUST(fastopt_workspace(&s.model) == 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) { /* under FASTOPT_ISA=none such */
        of_the_machine();
        printf("ok\n");
        return 0;
    }
    of_the_model();
    of_groups();
    of_hyperparameters();
    of_ranges();
    of_what_was_right_for_others();
    of_what_has_no_meaning();
    of_tensors();
    of_layouts();
    of_numbers();
    of_gradients();
    of_structures();
    of_setting();
    of_functions();
    of_words();
    printf("ok\n");
    return 0;
}
