/*
 * golden.c - steps the core on generated inputs and prints a line for each case, with hashes of the buffers and how
 * many NaNs are in them. It must print golden.txt on every machine; golden.py writes that file from the NumPy reference
 * and has the same functions under the same names, in the same order.
 *
 * The cases come from the table of rules: every rule, type, set of optional buffers and options, on every kind of
 * inputs. The inputs are computed with integers alone, and each hyperparameter is an integer times a power of two, so
 * that no rounding in this file can differ between machines.
 */
#include "each.h"
#include "fastopt.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20, MODEL_STEPS = 3, TENSORS = 3, LARGE = 150000, ROOM = 1 << 25, AXES = 3 };

static const size_t sizes[] = {0, 1, 7, 64, 301}; /* 301: nine of the widest vectors and more, and a tail */

/* The kinds of numbers that a buffer draws from: see value(). */
static const struct kinds {
    const char *name, *letters;
    size_t count; /* of the letters */
} inputs[] = {{"plain", "n", 1},
              {"wild", "nnnn0sth", 8},
              {"nonfinite", "nnnn0sthix", 10},
              {"tiny", "0sst", 4},
              {"edges", "nuuoomm", 7}};

enum { PLAIN, WILD, NONFINITE, TINY, EDGES };

/* The rules in the order of the table. */
enum {
#define FASTOPT_RULE(rule, required, states, hypers, options) RULE_##rule,
#include "rules.def"
#undef FASTOPT_RULE
    RULE_COUNT
};

/* ---- Inputs. ---- */

/* The scrambler of SplitMix64. */
static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* The i-th number of a stream. */
static uint64_t draw(uint64_t stream, uint64_t i)
{
    return mix(mix(stream + 1) + i * 0x9e3779b97f4a7c15u);
}

typedef struct {
    int size, places;   /* bytes of a number, bits of its fraction */
    uint64_t sign, top; /* the sign's bit, the exponent of infinity */
} format;

static const format formats[] = {[FASTOPT_F32] = {4, 23, (uint64_t)1 << 31, 255},
                                 [FASTOPT_F64] = {8, 52, (uint64_t)1 << 63, 2047},
                                 [FASTOPT_F16] = {2, 10, (uint64_t)1 << 15, 31},
                                 [FASTOPT_BF16] = {2, 7, (uint64_t)1 << 15, 255}};

static const char *const type_names[] = {"of the group", "f32", "f64", "f16", "bf16"};

/* The bits of element i. An element has the same kind at all steps, so that the same elements always overflow. */
static uint64_t value(const format *f, const struct kinds *kinds, uint64_t buffer, uint64_t step, uint64_t i)
{
    const uint64_t r = draw(buffer + step, i), little = r >> 1 & 15;
    uint64_t exponent, fraction = r >> (64 - f->places);

    switch (kinds->letters[kinds->count > 1 ? draw(buffer, i) % kinds->count : 0]) {
    case '0': exponent = fraction = 0; break;
    case 's': exponent = 0; break; /* subnormal */
    case 't': exponent = 1 + little; break;
    case 'h': exponent = f->top - 16 - little; break; /* its square overflows */
    case 'i': exponent = f->top, fraction = 0; break;
    case 'x': exponent = f->top, fraction |= (uint64_t)1 << (f->places - 1); break; /* NaN */
    case 'u': exponent = f->top == 2047 ? 1023 - 153 + 2 * little : little; break;  /* float is subnormal, or 0 */
    case 'o': exponent = f->top == 2047 ? 1023 + 120 + little : f->top - 1 - little; break; /* float overflows */
    case 'm': /* a double in the middle between two floats */
        exponent = f->top / 2 - 8 + little;
        if (f->places == 52)
            fraction = (fraction & ~(((uint64_t)1 << 29) - 1)) | (uint64_t)1 << 28;
        break;
    default: exponent = f->top / 2 - 8 + little; break;
    }
    return (r & 1 ? f->sign : 0) | exponent << f->places | fraction;
}

static void store(const format *f, char *place, uint64_t bits)
{
    const uint32_t half = (uint32_t)bits;
    const uint16_t quarter = (uint16_t)bits;

    memcpy(place, f->size == 2 ? (const void *)&quarter : f->size == 4 ? (const void *)&half : &bits, (size_t)f->size);
}

static uint64_t load(const format *f, const char *place)
{
    uint16_t quarter;
    uint32_t half;
    uint64_t bits;

    memcpy(f->size == 2 ? (void *)&quarter : f->size == 4 ? (void *)&half : &bits, place, (size_t)f->size);
    return f->size == 2 ? quarter : f->size == 4 ? half : bits;
}

static char *memory;
static size_t used;

/* Takes memory right after the last buffer, so that odd numbers of elements give buffers of any alignment. */
static void *take(const format *f, size_t n)
{
    const size_t size = (size_t)f->size, begin = (used + size - 1) / size * size;

    used = begin + n * size;
    if (used > ROOM)
        exit(2);
    return memory + begin;
}

static void fill(const format *f, const struct kinds *kinds, uint64_t buffer, uint64_t step, uint64_t mask, size_t n,
                 char *out)
{
    for (size_t i = 0; i < n; i++)
        store(f, out + i * (size_t)f->size, value(f, kinds, buffer, step, i) & mask);
}

/* The first stream of one of a tensor's buffers (p, g, states): it draws the kinds; those of the steps follow it. */
static uint64_t stream(size_t tensor, size_t buffer)
{
    return (tensor * 8 + buffer) * 32;
}

static void fill_gradient(const format *f, const struct kinds *kinds, fastopt_tensor *tensor, size_t number,
                          uint64_t step)
{
    fill(f, kinds, stream(number, 1), step, ~(uint64_t)0, tensor->n, (void *)(uintptr_t)tensor->g);
}

/* A tensor with these of its states, which start with numbers >= 0, since rules take roots of them. */
static fastopt_tensor tensor_of(const format *f, const struct kinds *kinds, size_t number, size_t n, unsigned states)
{
    fastopt_tensor tensor = {.size = sizeof tensor, .n = n, .p = take(f, n), .g = take(f, n)};

    fill(f, kinds, stream(number, 0), 1, ~(uint64_t)0, n, tensor.p);
    for (size_t j = 0; j < FASTOPT_MAX_STATES; j++) {
        if (states >> j & 1) {
            tensor.state[j] = take(f, n);
            fill(f, kinds, stream(number, 2 + j), 1, ~f->sign, n, tensor.state[j]);
        }
    }
    return tensor;
}

/* ---- The table of rules. ---- */

typedef int function(size_t n, void *p, const void *g, void *const *state, const double *hyper, unsigned options);
enum { COUNT, NON_NEGATIVE, BELOW_ONE, UP_TO_ONE, FINITE };

enum {
#define FASTOPT_HYPER(name, range) RANGE_OF_##name = range,
#include "rules.def"
#undef FASTOPT_HYPER
};

static const unsigned char ranges[RULE_COUNT][FASTOPT_MAX_HYPERS] = {
#define RANGE(name) RANGE_OF_##name,
#define FASTOPT_RULE(rule, required, states, hypers, options) {EACH(RANGE, hypers)},
#include "rules.def"
#undef FASTOPT_RULE
};

#define FLOATS(name) float *name = state[s++];
#define DOUBLES(name) double *name = state[s++];
#define NUMBER(name) const double name = hyper[h++];
#define FASTOPT_RULE(rule, required, states, hypers, options) \
    static int rule##_f32(size_t n, void *p, const void *g, void *const *state, const double *hyper, unsigned bits) \
    { \
        int s = 0, h = 0; \
        EACH(FLOATS, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f32(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, bits); \
    } \
    static int rule##_f64(size_t n, void *p, const void *g, void *const *state, const double *hyper, unsigned bits) \
    { \
        int s = 0, h = 0; \
        EACH(DOUBLES, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f64(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, bits); \
    }
#include "rules.def"
#undef FASTOPT_RULE

static function *const functions[RULE_COUNT][FASTOPT_F64 + 1] = {
#define FASTOPT_RULE(rule, required, states, hypers, options) {NULL, rule##_f32, rule##_f64},
#include "rules.def"
#undef FASTOPT_RULE
};

static unsigned option_mask(int rule)
{
    const fastopt_rule_info *info = fastopt_rule(rule);
    unsigned mask = 0;

    for (int i = 0; i < info->option_count; i++)
        mask |= info->options[i].bit;
    return mask;
}

/* All states of a rule, as bits. */
static unsigned all_states(int rule)
{
    return (1u << fastopt_rule(rule)->state_count) - 1;
}

static double hyper_of(int range, uint64_t step, uint64_t index)
{
    const uint64_t r = draw(((uint64_t)1 << 40) + step, index);
    const double unit = (double)(r >> 11) * 0x1p-53;

    switch (range) {
    case COUNT: return (double)(step * (step + 1) / 2);
    case NON_NEGATIVE: return r >> 5 & 7 ? unit / (double)((uint64_t)1 << (r & 31)) : 0.0;
    case FINITE: return r & 1 ? -2.0 * unit : 2.0 * unit;
    default: return unit;
    }
}

/* A factor of the gradient that float holds exactly. */
static double exact_scale(uint64_t step)
{
    const uint64_t r = draw(((uint64_t)1 << 41) + step, 0);

    return (r & 1 ? -2.0 : 2.0) * ((double)(r >> 40) * 0x1p-24);
}

/*
 * The hyperparameters of a step; `exact`: float holds the factor of the gradient. Hyperparameters that the rule would
 * refuse are 0: momentum without its buffer, and dampening together with NESTEROV.
 */
static void hypers_of(int rule, unsigned states, unsigned options, uint64_t step, int exact, double *hyper)
{
    const fastopt_rule_info *info = fastopt_rule(rule);
    unsigned buffer = 0;

    for (int j = 0; j < info->state_count; j++)
        if (!strcmp(info->states[j].name, "momentum_buffer"))
            buffer = 1u << j;
    for (int i = 0; i < info->hyper_count; i++) {
        hyper[i] = hyper_of(ranges[rule][i], step, (uint64_t)i);
        if (!strcmp(info->hypers[i].name, "momentum") && !(states & buffer))
            hyper[i] = 0.0;
        if (!strcmp(info->hypers[i].name, "dampening") && (options & FASTOPT_NESTEROV))
            hyper[i] = 0.0;
        if (!strcmp(info->hypers[i].name, "grad_scale") && exact)
            hyper[i] = exact_scale(step);
    }
}

/* ---- Outputs. ---- */

typedef struct {
    uint64_t hash;
    size_t count, nans;
} digest;

/* Adds elements to the hash; every NaN is hashed as the same bits. */
static void add(digest *all, const format *f, size_t n, const char *buffer)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t bits = load(f, buffer + i * (size_t)f->size);
        if ((bits & ~f->sign) > f->top << f->places) {
            bits = (f->top << f->places) + 1;
            all->nans++;
        }
        all->hash += draw(all->count++, bits);
    }
}

static void print(const digest *all)
{
    printf(" %016" PRIx64 "/%zu", all->hash, all->nans);
}

static void print_double(double x)
{
    digest one = {0};

    add(&one, &formats[FASTOPT_F64], 1, (const char *)&x);
    print(&one);
}

static void must(int error)
{
    if (error)
        printf(" error %d", error);
}

/* ---- Cases. ---- */

/* Several steps on one tensor of each size, by the rule's own function. */
static void rule_case(int rule, int type, unsigned states, unsigned options, const struct kinds *kinds, int exact)
{
    const format *f = &formats[type];
    const fastopt_rule_info *info = fastopt_rule(rule);
    digest digests[1 + FASTOPT_MAX_STATES] = {0};

    printf("%s_%s states %u options %u %s%s", info->name, type_names[type], states, options, kinds->name,
           exact ? " exact" : "");
    used = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        fastopt_tensor tensor = tensor_of(f, kinds, 0, sizes[k], states);
        for (uint64_t step = 1; step <= STEPS; step++) {
            double hyper[FASTOPT_MAX_HYPERS];
            fill_gradient(f, kinds, &tensor, 0, step);
            hypers_of(rule, states, options, step, exact, hyper);
            must(functions[rule][type](tensor.n, tensor.p, tensor.g, tensor.state, hyper, options));
        }
        add(&digests[0], f, tensor.n, tensor.p);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensor.state[j])
                add(&digests[1 + j], f, tensor.n, tensor.state[j]);
    }
    print(&digests[0]);
    for (int j = 0; j < info->state_count; j++)
        if (states >> j & 1)
            print(&digests[1 + j]);
    puts("");
}

/* All rules. `exact`: only in float, since in double it makes no difference whether float holds the factor. */
static void rule_cases(const struct kinds *kinds, int exact)
{
    for (int rule = 0; rule < RULE_COUNT; rule++) {
        const unsigned needed = (1u << fastopt_rule(rule)->required_states) - 1, mask = option_mask(rule);

        for (unsigned states = needed; states <= all_states(rule); states += needed + 1)
            for (unsigned options = 0; options <= mask; options++)
                if (!(options & ~mask) && (!(options & FASTOPT_NESTEROV) || states & 1))
                    for (int type = FASTOPT_F32; type <= (exact ? FASTOPT_F32 : FASTOPT_F64); type++)
                        rule_case(rule, type, states, options, kinds, exact);
    }
}

/* A group of a rule with these options; its hyperparameters are set before each step. */
static fastopt_group group_of(int rule, int type, unsigned options, size_t count, fastopt_tensor *tensors)
{
    fastopt_group group;

    must(fastopt_group_init(&group, sizeof group, fastopt_rule(rule)->name, type));
    group.options = options;
    group.count = count;
    group.tensors = tensors;
    return group;
}

static fastopt_model model_of(size_t count, fastopt_group *groups)
{
    static double sums[1 << 16]; /* for rules that need sums over a tensor */
    fastopt_model model;

    must(fastopt_model_init(&model, sizeof model));
    model.workspace = sums;
    model.workspace_size = sizeof sums;
    model.count = count;
    model.groups = groups;
    return model;
}

/* Every rule as a group of each type, with all its buffers; for double with all its options. */
static void model_case(const struct kinds *kinds, unsigned extras, int threads, size_t large)
{
    fastopt_tensor tensors[RULE_COUNT * 2][TENSORS];
    fastopt_group groups[RULE_COUNT * 2];
    fastopt_model model = model_of(RULE_COUNT * 2, groups);
    digest digests[3] = {0};

    model.grad_scale = -0.75;
    model.extras = extras;
    model.threads = threads;
    printf("model %zu extras %u threads %d %s", large, extras, threads, kinds->name);
    used = 0;
    for (int k = 0; k < RULE_COUNT * 2; k++) {
        const int rule = k / 2, type = FASTOPT_F32 + k % 2;
        const size_t counts[TENSORS] = {(size_t)k, k == RULE_COUNT * 2 - 1 ? large : 0, 67};

        groups[k] = group_of(rule, type, type == FASTOPT_F64 ? option_mask(rule) : 0, TENSORS, tensors[k]);
        for (int i = 0; i < TENSORS; i++)
            tensors[k][i] = tensor_of(&formats[type], kinds, (size_t)(TENSORS * k + i), counts[i], all_states(rule));
    }
    for (uint64_t step = 1; step <= MODEL_STEPS; step++) {
        for (int k = 0; k < RULE_COUNT * 2; k++) {
            hypers_of(groups[k].rule, ~0u, groups[k].options, step, 0, groups[k].hyper);
            for (int i = 0; i < TENSORS; i++)
                fill_gradient(&formats[groups[k].type], kinds, &tensors[k][i], (size_t)(TENSORS * k + i), step);
        }
        model.max_norm = step == 2 ? 1e9 : 1.5; /* larger than the norm of numbers of kind n */
        printf(" %d", fastopt_step(&model));
        print_double(model.norm);
    }
    for (int k = 0; k < RULE_COUNT * 2; k++) {
        for (int i = 0; i < TENSORS; i++) {
            const format *f = &formats[groups[k].type];
            const fastopt_tensor *tensor = &tensors[k][i];
            add(&digests[0], f, tensor->n, tensor->p);
            add(&digests[1], f, tensor->n, tensor->g);
            for (int j = 0; j < FASTOPT_MAX_STATES; j++)
                if (tensor->state[j])
                    add(&digests[2], f, tensor->n, tensor->state[j]);
        }
    }
    for (int i = 0; i < 3; i++)
        print(&digests[i]);
    puts("");
}

/* The norm of gradients of one type or of both, and the gradients after clipping. */
static void norm_case(const struct kinds *kinds, int first, int last)
{
    static const size_t counts[TENSORS] = {9001, 1, 777}; /* several strips and lanes of the norm */
    fastopt_tensor tensors[2][TENSORS];
    fastopt_group groups[2];
    fastopt_model model = model_of((size_t)(last - first + 1), groups + first);
    digest clipped = {0};

    model.max_norm = 0.5;
    used = 0;
    for (int k = first; k <= last; k++) {
        const format *f = &formats[FASTOPT_F32 + k];
        groups[k] = group_of(0, FASTOPT_F32 + k, 0, TENSORS, tensors[k]);
        for (int i = 0; i < TENSORS; i++) {
            tensors[k][i] = (fastopt_tensor){.size = sizeof *tensors[k], .n = counts[i], .g = take(f, counts[i])};
            fill_gradient(f, kinds, &tensors[k][i], (size_t)(TENSORS * k + i), 1);
        }
    }
    printf("norm types %d to %d %s", first, last, kinds->name);
    must(fastopt_global_norm(&model));
    print_double(model.norm);
    must(fastopt_clip_grad_norm(&model));
    for (int k = first; k <= last; k++)
        for (int i = 0; i < TENSORS; i++)
            add(&clipped, &formats[FASTOPT_F32 + k], tensors[k][i].n, tensors[k][i].g);
    print(&clipped);
    puts("");
}

/* ---- Gradients of other types. ---- */

/* One rule on gradients of one type, in tensors of each size. At every other step float holds the factor exactly. */
static void type_case(int rule, int type, int g_type, const struct kinds *kinds)
{
    enum { COUNT_OF_SIZES = sizeof sizes / sizeof *sizes };
    const fastopt_layout layout = {.size = sizeof layout, .g_type = g_type};
    fastopt_tensor tensors[COUNT_OF_SIZES];
    fastopt_group group = group_of(rule, type, 0, COUNT_OF_SIZES, tensors);
    fastopt_model model = model_of(1, &group);
    digest digests[2] = {0};

    printf("%s_%s gradients %s %s", fastopt_rule(rule)->name, type_names[type], type_names[g_type], kinds->name);
    used = 0;
    for (int i = 0; i < COUNT_OF_SIZES; i++) {
        tensors[i] = tensor_of(&formats[type], kinds, 0, sizes[i], all_states(rule));
        tensors[i].g = take(&formats[g_type], sizes[i]);
        tensors[i].layout = &layout;
    }
    for (uint64_t step = 1; step <= MODEL_STEPS; step++) {
        hypers_of(rule, ~0u, 0, step, step % 2 == 0, group.hyper);
        for (int i = 0; i < COUNT_OF_SIZES; i++)
            fill_gradient(&formats[g_type], kinds, &tensors[i], 0, step);
        must(fastopt_step(&model));
    }
    for (int i = 0; i < COUNT_OF_SIZES; i++) {
        add(&digests[0], &formats[type], tensors[i].n, tensors[i].p);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensors[i].state[j])
                add(&digests[1], &formats[type], tensors[i].n, tensors[i].state[j]);
    }
    print(&digests[0]);
    print(&digests[1]);
    puts("");
}

/*
 * All 16-bit numbers of a type: as gradients of a step of SGD that starts at zeros; then the finite ones are clipped,
 * which scales and rounds them.
 */
static void short_case(int type, int g_type, double max_norm)
{
    enum { ALL = 1 << 16 };
    const format *f = &formats[type], *g = &formats[g_type];
    const fastopt_layout layout = {.size = sizeof layout, .g_type = g_type};
    fastopt_tensor tensor = {.size = sizeof tensor, .n = ALL, .layout = &layout};
    fastopt_group group = group_of(RULE_sgd, type, 0, 1, &tensor);
    fastopt_model model = model_of(1, &group);
    digest stepped = {0}, clipped = {0};
    char *numbers;

    used = 0;
    tensor.p = take(f, ALL);
    tensor.g = numbers = take(g, ALL);
    for (size_t i = 0; i < ALL; i++) {
        store(f, (char *)tensor.p + i * (size_t)f->size, 0);
        store(g, numbers + i * (size_t)g->size, i);
    }
    must(fastopt_set(&group, "lr", 1.0));
    must(fastopt_step(&model));
    add(&stepped, f, ALL, tensor.p);
    for (size_t i = 0; i < ALL; i++)
        if ((i >> g->places & g->top) == g->top)
            store(g, numbers + i * (size_t)g->size, 0);
    model.max_norm = max_norm;
    must(fastopt_clip_grad_norm(&model));
    add(&clipped, g, ALL, numbers);
    printf("all of %s as %s", type_names[g_type], type_names[type]);
    print(&stepped);
    print_double(model.norm);
    print(&clipped);
    puts("");
}

/* ---- Layouts. ---- */

/* How a buffer lies in memory. */
enum { C_ORDER, FORTRAN, REVERSED, SLICE, SKIPPING, SAME_ROWS, SAME_COLUMNS, ROTATED };

/* The shapes of tensors, and how their buffers lie in memory. */
static const struct arrangement {
    int ndim;
    ptrdiff_t shape[AXES];
    int p, g, state;
} arrangements[] = {
    /* clang-format off */
    {2, {37, 300}, C_ORDER, FORTRAN, C_ORDER},
    {2, {300, 37}, C_ORDER, FORTRAN, C_ORDER},
    {2, {20, 37}, FORTRAN, FORTRAN, C_ORDER},
    {2, {40, 37}, FORTRAN, C_ORDER, C_ORDER},
    {2, {33, 47}, FORTRAN, FORTRAN, FORTRAN},
    {2, {18, 40}, C_ORDER, C_ORDER, FORTRAN},
    {1, {1100}, C_ORDER, REVERSED, C_ORDER},
    {2, {21, 60}, REVERSED, SLICE, C_ORDER},
    {2, {21, 60}, SLICE, SKIPPING, REVERSED},
    {2, {3, 601}, C_ORDER, SLICE, SLICE},
    {2, {19, 33}, C_ORDER, SAME_ROWS, C_ORDER},
    {2, {33, 19}, FORTRAN, SAME_COLUMNS, C_ORDER},
    {3, {4, 9, 35}, C_ORDER, ROTATED, C_ORDER},
    {3, {4, 9, 35}, ROTATED, FORTRAN, SLICE},
    {3, {1, 50, 1}, C_ORDER, FORTRAN, REVERSED},
    {2, {1, 1}, C_ORDER, FORTRAN, REVERSED},
    {2, {0, 5}, C_ORDER, FORTRAN, C_ORDER},
    {1, {55}, SKIPPING, C_ORDER, SKIPPING},
    {0, {77}, C_ORDER, C_ORDER, C_ORDER}, /* without a shape: contiguous, perhaps with a gradient of another type */
    /* clang-format on */
};

enum { ARRANGEMENTS = sizeof arrangements / sizeof *arrangements };

static const struct arrangement large_arrangements[] = {
    {2, {331, 453}, C_ORDER, FORTRAN, C_ORDER},
    {2, {91, 131}, FORTRAN, SLICE, REVERSED},
};

/* A buffer in memory, with its strides. */
typedef struct {
    const format *f;
    int ndim;
    ptrdiff_t shape[AXES], strides[AXES];
    char *first;
} view;

/* Takes memory for a buffer and computes its strides. */
static view lay(const format *f, const struct arrangement *a, int how)
{
    const int last = a->ndim - 1;
    ptrdiff_t step = how == SKIPPING ? 2 * f->size : f->size;
    view v = {.f = f, .ndim = a->ndim, .shape = {a->shape[0], a->shape[1], a->shape[2]}};

    if (!v.ndim) { /* treated as one dimension in this file */
        v.ndim = 1;
        v.strides[0] = f->size;
        v.first = take(f, (size_t)a->shape[0]);
        return v;
    }
    for (int k = 0; k <= last; k++) { /* from the fastest axis to the slowest */
        const int axis = how == FORTRAN ? k : how == ROTATED ? (last + 1 - k) % (last + 1) : last - k;
        if (axis == (how == SAME_ROWS ? 0 : how == SAME_COLUMNS ? last : -1))
            continue;
        v.strides[axis] = step;
        step *= a->shape[axis];
        if (how == SLICE && k == 0)
            step += 11 * f->size;
    }
    v.first = take(f, (size_t)(step / f->size));
    v.first += how == SLICE && step ? 5 * f->size : how == REVERSED && step ? step - f->size : 0;
    for (int d = 0; how == REVERSED && d <= last; d++)
        v.strides[d] = -v.strides[d];
    return v;
}

/* Element i, the last dimension fastest. */
static char *element(const view *v, size_t i)
{
    char *place = v->first;

    for (int d = v->ndim - 1; d >= 0; d--) {
        place += (ptrdiff_t)(i % (size_t)v->shape[d]) * v->strides[d];
        i /= (size_t)v->shape[d];
    }
    return place;
}

/* Where several elements share one place (a stride of 0), the last one is what stays. */
static void fill_view(const view *v, const struct kinds *kinds, uint64_t buffer, uint64_t step, uint64_t mask, size_t n)
{
    for (size_t i = 0; i < n; i++)
        store(v->f, element(v, i), value(v->f, kinds, buffer, step, i) & mask);
}

static void add_view(digest *all, const view *v, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add(all, v->f, 1, element(v, i));
}

typedef struct {
    view p, g, state[FASTOPT_MAX_STATES];
    fastopt_layout layout;
} laid_tensor;

/* A tensor in an arrangement, with all states of the rule, filled if `kinds` is given; `laid` holds its layout. */
static fastopt_tensor lay_tensor(laid_tensor *laid, const struct arrangement *a, int rule, int type, int g_type,
                                 int g_lies, const struct kinds *kinds, size_t number)
{
    const format *f = &formats[type];
    fastopt_tensor tensor = {.size = sizeof tensor, .n = 1, .layout = &laid->layout};

    for (int d = 0; d < a->ndim || d < 1; d++)
        tensor.n *= (size_t)a->shape[d];
    laid->p = lay(f, a, a->p);
    laid->g = lay(&formats[g_type ? g_type : type], a, g_lies);
    laid->layout = (fastopt_layout){.size = sizeof laid->layout,
                                    .ndim = a->ndim,
                                    .g_type = g_type,
                                    .shape = a->shape,
                                    .g_strides = a->ndim ? laid->g.strides : NULL};
    laid->layout.p_strides = a->p == C_ORDER || !a->ndim ? NULL : laid->p.strides;
    tensor.p = laid->p.first;
    tensor.g = laid->g.first;
    if (kinds)
        fill_view(&laid->p, kinds, stream(number, 0), 1, ~(uint64_t)0, tensor.n);
    for (size_t j = 0; j < (size_t)fastopt_rule(rule)->state_count; j++) {
        laid->state[j] = lay(f, a, a->state);
        laid->layout.state_strides[j] = a->ndim ? laid->state[j].strides : NULL;
        tensor.state[j] = laid->state[j].first;
        if (kinds)
            fill_view(&laid->state[j], kinds, stream(number, 2 + j), 1, ~f->sign, tensor.n);
    }
    return tensor;
}

/* What a layout case does besides stepping. */
static const struct config {
    int kinds;
    unsigned extras;
    int exact; /* whether float holds the factor exactly */
} configs[] = {
    {WILD, 0, 1},
    {PLAIN, FASTOPT_ZERO_GRAD, 1},
    {NONFINITE, 0, 0},
    {PLAIN, FASTOPT_CLIP_NORM | FASTOPT_ZERO_GRAD, 0},
    {WILD, FASTOPT_CLIP_NORM, 0},
};

enum { CONFIGS = sizeof configs / sizeof *configs };

/* Tensors of all layouts as one group. Gradients take turns in their types; gradients to be zeroed have no stride 0. */
static void layout_case(int rule, int type, int config, const struct arrangement *list, size_t count, int threads)
{
    const struct config *c = &configs[config];
    const struct kinds *kinds = &inputs[c->kinds];
    laid_tensor laid[ARRANGEMENTS];
    fastopt_tensor tensors[ARRANGEMENTS];
    fastopt_group group = group_of(rule, type, type == FASTOPT_F64 ? option_mask(rule) : 0, count, tensors);
    fastopt_model model = model_of(1, &group);
    digest digests[3] = {0};

    model.grad_scale = -0.75;
    model.extras = c->extras;
    model.threads = threads;
    printf("layouts %zu %s_%s extras %u threads %d %s%s", count, fastopt_rule(rule)->name, type_names[type], c->extras,
           threads, kinds->name, c->exact ? " exact" : "");
    used = 0;
    for (size_t i = 0; i < count; i++) {
        const int shared = list[i].g == SAME_ROWS || list[i].g == SAME_COLUMNS;
        tensors[i] = lay_tensor(&laid[i], &list[i], rule, type, (int)(i + (size_t)config) % 5,
                                shared && (c->extras & FASTOPT_ZERO_GRAD) ? C_ORDER : list[i].g, kinds, i);
    }
    for (uint64_t step = 1; step <= MODEL_STEPS; step++) {
        hypers_of(rule, ~0u, group.options, step, c->exact, group.hyper);
        for (size_t i = 0; i < count; i++)
            fill_view(&laid[i].g, kinds, stream(i, 1), step, ~(uint64_t)0, tensors[i].n);
        model.max_norm = step == 2 ? 1e9 : 1.5;
        printf(" %d", fastopt_step(&model));
        print_double(model.norm);
    }
    for (size_t i = 0; i < count; i++) {
        add_view(&digests[0], &laid[i].p, tensors[i].n);
        add_view(&digests[1], &laid[i].g, tensors[i].n);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensors[i].state[j])
                add_view(&digests[2], &laid[i].state[j], tensors[i].n);
    }
    for (int i = 0; i < 3; i++)
        print(&digests[i]);
    puts("");
}

/* The norm of gradients of all layouts and one type, and the gradients after clipping. */
static void layout_norm_case(int type, int g_type, const struct kinds *kinds)
{
    laid_tensor laid[ARRANGEMENTS];
    fastopt_tensor tensors[ARRANGEMENTS];
    fastopt_group group = group_of(RULE_sgd, type, 0, ARRANGEMENTS, tensors);
    fastopt_model model = model_of(1, &group);
    digest clipped = {0};

    model.max_norm = 0.5;
    used = 0;
    for (size_t i = 0; i < ARRANGEMENTS; i++) {
        const int how = arrangements[i].g;
        tensors[i] = lay_tensor(&laid[i], &arrangements[i], RULE_sgd, type, g_type,
                                how == SAME_ROWS || how == SAME_COLUMNS ? REVERSED : how, NULL, i);
        fill_view(&laid[i].g, kinds, stream(i, 1), 1, ~(uint64_t)0, tensors[i].n);
    }
    printf("norm layouts %s as %s %s", type_names[g_type], type_names[type], kinds->name);
    must(fastopt_global_norm(&model));
    print_double(model.norm);
    must(fastopt_clip_grad_norm(&model));
    for (size_t i = 0; i < ARRANGEMENTS; i++)
        add_view(&clipped, &laid[i].g, tensors[i].n);
    print(&clipped);
    puts("");
}

int main(void)
{
    memory = malloc(ROOM);
    if (!memory)
        return 2;
    for (int k = PLAIN; k <= NONFINITE; k++)
        rule_cases(&inputs[k], 0);
    for (int k = PLAIN; k <= NONFINITE; k++)
        for (unsigned extras = 0; extras < 8; extras++)
            model_case(&inputs[k], extras, 1, 0);
    for (int threads = 1; threads <= 3; threads++)
        model_case(&inputs[PLAIN], 7, threads, LARGE);
    for (int k = PLAIN; k <= TINY; k++)
        for (int first = 0; first < 2; first++)
            for (int last = first; last < 2; last++)
                norm_case(&inputs[k], first, last);
    rule_cases(&inputs[WILD], 1);
    for (int rule = 0; rule < RULE_COUNT; rule++)
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++)
            for (int g_type = FASTOPT_F32; g_type <= FASTOPT_BF16; g_type++)
                for (int k = PLAIN; k <= EDGES; k++)
                    if (k != TINY)
                        type_case(rule, type, g_type, &inputs[k]);
    for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++) {
        short_case(type, FASTOPT_F16, 1e5);
        short_case(type, FASTOPT_BF16, 1e38);
    }
    for (int rule = 0; rule < RULE_COUNT; rule++)
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++)
            for (int config = 0; config < CONFIGS; config += type == FASTOPT_F32 ? 1 : 3) /* fewer for double */
                layout_case(rule, type, config, arrangements, ARRANGEMENTS, 1);
    for (int config = 3; config < CONFIGS; config++)
        for (int threads = 1; threads <= 3; threads++)
            layout_case(RULE_COUNT - 1, FASTOPT_F64, config, large_arrangements, 2, threads);
    for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++)
        for (int g_type = FASTOPT_F32; g_type <= FASTOPT_BF16; g_type++)
            for (int k = PLAIN; k <= TINY; k++)
                layout_norm_case(type, g_type, &inputs[k]);
    return 0;
}
