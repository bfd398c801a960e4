/*
 * golden.c - what the core makes of generated inputs: a line a case, with hashes of the buffers and how many NaNs are in
 * them. golden.txt is what it must print on every machine; golden.py writes that from the NumPy reference and has the
 * same functions under the same names, in the same order.
 *
 * It is driven by the table of rules: every rule, type, set of optional buffers and options, on every kind of inputs.
 * Only integers decide on the inputs, and hyperparameters are an integer times a power of two, so that no rounding here
 * can differ.
 */
#include "internal.h" /* for EACH and the structures of the table; all else is the public interface */

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 20, MODEL_STEPS = 3, TENSORS = 3, LARGE = 150000, ROOM = 1 << 25 };

static const size_t sizes[] = {0, 1, 7, 64, 301}; /* 301: nine of the widest vectors and more, and a tail */

/* The kinds of numbers that a buffer draws from: see value(). */
static const struct kinds {
    const char *name, *letters;
} inputs[] = {{"plain", "n"}, {"wild", "nnnn0sth"}, {"nonfinite", "nnnn0sthix"}, {"tiny", "0sst"}};

enum { PLAIN, WILD, NONFINITE, TINY };

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
    int size, places; /* bytes of a number, bits of its fraction */
    uint64_t sign, top; /* the sign's bit, the exponent of infinity */
} format;

static const format formats[] = {[FASTOPT_F32] = {4, 23, (uint64_t)1 << 31, 255},
                                 [FASTOPT_F64] = {8, 52, (uint64_t)1 << 63, 2047}};

/* The bits of element i: its kind is the buffer's for all steps, so that what overflows stays in its place. */
static uint64_t value(const format *f, const struct kinds *kinds, uint64_t buffer, uint64_t step, uint64_t i)
{
    const uint64_t r = draw(buffer + step, i), little = r >> 1 & 15;
    uint64_t exponent, fraction = r >> (64 - f->places);

    switch (kinds->letters[draw(buffer, i) % strlen(kinds->letters)]) {
    case '0': exponent = fraction = 0; break;
    case 's': exponent = 0; break; /* subnormal */
    case 't': exponent = 1 + little; break;
    case 'h': exponent = f->top - 16 - little; break; /* its square overflows */
    case 'i': exponent = f->top, fraction = 0; break;
    case 'x': exponent = f->top, fraction |= (uint64_t)1 << (f->places - 1); break; /* NaN */
    default: exponent = f->top / 2 - 8 + little; break;
    }
    return (r & 1 ? f->sign : 0) | exponent << f->places | fraction;
}

static void store(const format *f, char *place, uint64_t bits)
{
    const uint32_t half = (uint32_t)bits;

    memcpy(place, f->size == 4 ? (const void *)&half : &bits, (size_t)f->size);
}

static uint64_t load(const format *f, const char *place)
{
    uint32_t half;
    uint64_t bits;

    memcpy(f->size == 4 ? (void *)&half : &bits, place, (size_t)f->size);
    return f->size == 4 ? half : bits;
}

static char *memory;
static size_t used;

/* Memory on which odd numbers of elements leave the next buffer with another alignment. */
static void *take(const format *f, size_t n)
{
    const size_t size = (size_t)f->size, begin = (used + size - 1) / size * size;

    used = begin + n * size;
    if (used > ROOM)
        exit(2);
    return memory + begin;
}

static void fill(const format *f, const struct kinds *kinds, uint64_t buffer, uint64_t step, uint64_t mask, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        store(f, out + i * (size_t)f->size, value(f, kinds, buffer, step, i) & mask);
}

/* The streams of a tensor's p, g and states: the first is that of the kinds, those of the steps follow. */
static uint64_t stream(size_t tensor, size_t buffer)
{
    return (tensor * 8 + buffer) * 32;
}

static void fill_gradient(const format *f, const struct kinds *kinds, fastopt_tensor *tensor, size_t number, uint64_t step)
{
    fill(f, kinds, stream(number, 1), step, ~(uint64_t)0, tensor->n, tensor->g);
}

/* A tensor with these of its states. They start with numbers >= 0, of which there are roots. */
static fastopt_tensor tensor_of(const format *f, const struct kinds *kinds, size_t number, size_t n, unsigned states)
{
    fastopt_tensor tensor = {.n = n, .p = take(f, n), .g = take(f, n)};

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

typedef int function(size_t n, void *p, const void *g, const void *states, const void *hypers, unsigned options);
enum { COUNT, NON_NEGATIVE, BELOW_ONE, UP_TO_ONE, FINITE };

enum {
#define FASTOPT_HYPER(name, range) RANGE_OF_##name = range,
#include "rules.def"
#undef FASTOPT_HYPER
};

static const unsigned state_counts[RULE_COUNT] = {
#define ONE(name) + 1
#define FASTOPT_RULE(rule, required, states, hypers, options) 0 EACH(ONE, states),
#include "rules.def"
#undef FASTOPT_RULE
};

static const unsigned char ranges[RULE_COUNT][FASTOPT_MAX_HYPERS] = {
#define RANGE(name) RANGE_OF_##name,
#define FASTOPT_RULE(rule, required, states, hypers, options) {EACH(RANGE, hypers)},
#include "rules.def"
#undef FASTOPT_RULE
};

#define MEMBER(name) void *name;
#define STATE(name) s->name,
#define HYPER(name) h->name,
#define FASTOPT_RULE(rule, required, states, hypers, options) \
    struct states_##rule { EACH(MEMBER, states) }; \
    static int rule##_f32(size_t n, void *p, const void *g, const void *state, const void *hyper, unsigned bits) \
    { \
        const struct states_##rule *s = state; \
        const struct hyper_##rule *h = hyper; \
        return fastopt_##rule##_f32(n, p, g, EACH(STATE, states) EACH(HYPER, hypers) bits); \
    } \
    static int rule##_f64(size_t n, void *p, const void *g, const void *state, const void *hyper, unsigned bits) \
    { \
        const struct states_##rule *s = state; \
        const struct hyper_##rule *h = hyper; \
        return fastopt_##rule##_f64(n, p, g, EACH(STATE, states) EACH(HYPER, hypers) bits); \
    }
#include "rules.def"
#undef FASTOPT_RULE

static function *const functions[RULE_COUNT][2] = {
#define FASTOPT_RULE(rule, required, states, hypers, options) {rule##_f32, rule##_f64},
#include "rules.def"
#undef FASTOPT_RULE
};

/* Where a name stands in a list of the table; -1: nowhere. */
static int find(const char *list, const char *name)
{
    const char *place = strstr(list, name);
    int index = 0;

    for (; place && list < place; list++)
        index += *list == ',';
    return place ? index : -1;
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

/* The hyperparameters of a step. What a rule refuses is 0: momentum without its buffer, dampening beside NESTEROV. */
static void hypers_of(int rule, unsigned states, unsigned options, uint64_t step, double *hyper)
{
    const fastopt_rule_info *info = fastopt_rule(rule);
    const int buffer = find(info->states, "momentum_buffer"), momentum = find(info->hypers, "momentum"),
              dampening = find(info->hypers, "dampening");

    for (int i = 0; i < FASTOPT_MAX_HYPERS; i++)
        hyper[i] = hyper_of(ranges[rule][i], step, (uint64_t)i);
    if (momentum >= 0 && !(states >> buffer & 1))
        hyper[momentum] = 0.0;
    if (options & FASTOPT_NESTEROV)
        hyper[dampening] = 0.0;
}

/* ---- Outputs. ---- */

typedef struct {
    uint64_t hash;
    size_t count, nans;
} digest;

/* Every NaN counts as one and the same. */
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
static void rule_case(int rule, int dtype, unsigned states, unsigned options, const struct kinds *kinds)
{
    const format *f = &formats[dtype];
    digest digests[1 + FASTOPT_MAX_STATES] = {0};

    printf("%s_f%d states %u options %u %s", fastopt_rule(rule)->name, 8 * f->size, states, options, kinds->name);
    used = 0;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        fastopt_tensor tensor = tensor_of(f, kinds, 0, sizes[k], states);
        for (uint64_t step = 1; step <= STEPS; step++) {
            double hyper[FASTOPT_MAX_HYPERS];
            fill_gradient(f, kinds, &tensor, 0, step);
            hypers_of(rule, states, options, step, hyper);
            must(functions[rule][dtype](tensor.n, tensor.p, tensor.g, tensor.state, hyper, options));
        }
        add(&digests[0], f, tensor.n, tensor.p);
        for (int j = 0; j < FASTOPT_MAX_STATES; j++)
            if (tensor.state[j])
                add(&digests[1 + j], f, tensor.n, tensor.state[j]);
    }
    print(&digests[0]);
    for (unsigned j = 0; j < state_counts[rule]; j++)
        if (states >> j & 1)
            print(&digests[1 + j]);
    puts("");
}

static void rule_cases(const struct kinds *kinds)
{
    for (int rule = 0; rule < RULE_COUNT; rule++) {
        const fastopt_rule_info *info = fastopt_rule(rule);
        const unsigned all = (1u << state_counts[rule]) - 1, needed = (1u << info->required_states) - 1;

        for (unsigned states = needed; states <= all; states += needed + 1)
            for (unsigned options = 0; options <= info->option_mask; options++)
                if (!(options & ~info->option_mask) && (!(options & FASTOPT_NESTEROV) || states & 1))
                    for (int dtype = 0; dtype < 2; dtype++)
                        rule_case(rule, dtype, states, options, kinds);
    }
}

/* Every rule as a group of each type, with all its buffers; for double with all its options. */
static void model_case(const struct kinds *kinds, unsigned extras, int threads, size_t large)
{
    fastopt_tensor tensors[RULE_COUNT * 2][TENSORS];
    fastopt_group groups[RULE_COUNT * 2];
    fastopt_model model = {.count = RULE_COUNT * 2, .groups = groups, .grad_scale = -0.75, .extras = extras,
                           .threads = threads};
    digest digests[3] = {0};

    printf("model %zu extras %u threads %d %s", large, extras, threads, kinds->name);
    used = 0;
    for (int k = 0; k < RULE_COUNT * 2; k++) {
        const fastopt_rule_info *info = fastopt_rule(k / 2);
        const size_t counts[TENSORS] = {(size_t)k, k == RULE_COUNT * 2 - 1 ? large : 0, 67};

        groups[k] = (fastopt_group){.rule = k / 2, .dtype = k % 2, .options = k % 2 ? info->option_mask : 0,
                                    .count = TENSORS, .tensors = tensors[k]};
        for (int i = 0; i < TENSORS; i++)
            tensors[k][i] = tensor_of(&formats[k % 2], kinds, (size_t)(TENSORS * k + i), counts[i],
                                      (1u << state_counts[k / 2]) - 1);
    }
    for (uint64_t step = 1; step <= MODEL_STEPS; step++) {
        for (int k = 0; k < RULE_COUNT * 2; k++) {
            hypers_of(groups[k].rule, ~0u, groups[k].options, step, groups[k].hyper);
            for (int i = 0; i < TENSORS; i++)
                fill_gradient(&formats[k % 2], kinds, &tensors[k][i], (size_t)(TENSORS * k + i), step);
        }
        model.max_norm = step == 2 ? 1e9 : 1.5; /* larger than the norm of numbers of kind n */
        printf(" %d", fastopt_step(&model));
        print_double(model.norm);
    }
    for (int k = 0; k < RULE_COUNT * 2; k++) {
        for (int i = 0; i < TENSORS; i++) {
            const format *f = &formats[k % 2];
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

/* The norm of tensors of one type or of both, and what clipping makes of them. */
static void norm_case(const struct kinds *kinds, int first, int last)
{
    static const size_t counts[TENSORS] = {9001, 1, 777}; /* several strips and lanes */
    fastopt_tensor tensors[2][TENSORS];
    fastopt_group groups[2];
    fastopt_model model = {.count = (size_t)(last - first + 1), .groups = groups + first, .max_norm = 0.5};
    digest clipped = {0};

    used = 0;
    for (int k = first; k <= last; k++) {
        groups[k] = (fastopt_group){.dtype = k, .count = TENSORS, .tensors = tensors[k]};
        for (int i = 0; i < TENSORS; i++) {
            tensors[k][i] = (fastopt_tensor){.n = counts[i], .g = take(&formats[k], counts[i])};
            fill_gradient(&formats[k], kinds, &tensors[k][i], (size_t)(TENSORS * k + i), 1);
        }
    }
    printf("norm types %d to %d %s", first, last, kinds->name);
    must(fastopt_global_norm(&model));
    print_double(model.norm);
    must(fastopt_clip_grad_norm(&model));
    for (int k = first; k <= last; k++)
        for (int i = 0; i < TENSORS; i++)
            add(&clipped, &formats[k], tensors[k][i].n, tensors[k][i].g);
    print(&clipped);
    puts("");
}

int main(void)
{
    memory = malloc(ROOM);
    if (!memory)
        return 2;
    for (int k = PLAIN; k <= NONFINITE; k++)
        rule_cases(&inputs[k]);
    for (int k = PLAIN; k <= NONFINITE; k++)
        for (unsigned extras = 0; extras < 8; extras++)
            model_case(&inputs[k], extras, 1, 0);
    for (int threads = 1; threads <= 3; threads++)
        model_case(&inputs[PLAIN], 7, threads, LARGE);
    for (int k = PLAIN; k <= TINY; k++)
        for (int first = 0; first < 2; first++)
            for (int last = first; last < 2; last++)
                norm_case(&inputs[k], first, last);
    return 0;
}
