/*
 * guard.c - no loop touches an element outside its buffers.
 *
 * Every buffer of a step lies in pages of its own between two that must not be touched: at their end, at their start,
 * or some elements from it. What is left of the pages holds canaries, which under AddressSanitizer and valgrind must
 * not be read either. Each case checks the canaries and every bit of the result: rules work element by element, so a step
 * on n elements is the beginning of one on more, wherever the buffers lie.
 *
 *     guard [K]     takes every K-th case (a prime, so that all loops below still take all their turns)
 *
 * Prints how many variants of the rules and how many cases there were, and "ok"; or the first case that is broken.
 */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */
#define _DARWIN_C_SOURCE
#include "internal.h" /* EACH, for the lists in rules.def */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define __asan_poison_memory_region(start, size) ((void)0)
#define __asan_unpoison_memory_region(start, size) ((void)0)
#define __sanitizer_set_death_callback(callback) ((void)0)
#endif
#if defined(__has_include)
#if __has_include(<valgrind/memcheck.h>)
#include <valgrind/memcheck.h>
#endif
#endif
#ifndef VALGRIND_MAKE_MEM_NOACCESS
#define VALGRIND_MAKE_MEM_NOACCESS(start, size) ((void)0)
#define VALGRIND_MAKE_MEM_DEFINED(start, size) ((void)0)
#define VALGRIND_COUNT_ERRORS 0
#endif

enum {
    MOST = 200,      /* elements of a small tensor */
    LARGE = 700001,  /* elements that are worth several threads */
    OFFSETS = 16,    /* elements from the start of the pages */
    CANARY = 4096,   /* bytes on either side, or fewer where the pages end */
    BUFFERS = FASTOPT_MAX_STATES + 2, /* p, g and the state */
    VARIANTS = 256
};

/* ---- The rules. ---- */

enum { COUNT, NON_NEGATIVE, BELOW_ONE, UP_TO_ONE, FINITE };

/* For each range of hyperparameters one that every rule takes: Nesterov's momentum allows no dampening. */
static const double values[] = {[COUNT] = 3, [NON_NEGATIVE] = 0.01, [BELOW_ONE] = 0.9, [UP_TO_ONE] = 0, [FINITE] = 0.75};

enum {
#define FASTOPT_HYPER(name, range) RANGE_OF_##name = range,
#include "rules.def"
#undef FASTOPT_HYPER
};

typedef int rule_function(size_t n, void *p, const void *g, void *const *state, const double *hyper, unsigned options);

#define FLOATS(name) float *name = state[s++];
#define DOUBLES(name) double *name = state[s++];
#define NUMBER(name) const double name = hyper[h++];
#define FASTOPT_RULE(rule, required, states, hypers, taken) \
    static int call_##rule##_f32(size_t n, void *p, const void *g, void *const *state, const double *hyper, \
                                 unsigned options) \
    { \
        int s = 0, h = 0; \
        EACH(FLOATS, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f32(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, options); \
    } \
    static int call_##rule##_f64(size_t n, void *p, const void *g, void *const *state, const double *hyper, \
                                 unsigned options) \
    { \
        int s = 0, h = 0; \
        EACH(DOUBLES, states) \
        EACH(NUMBER, hypers) \
        return fastopt_##rule##_f64(n, p, g, EACH_UNWRAP states, EACH_UNWRAP hypers, options); \
    }
#include "rules.def"
#undef FASTOPT_RULE

#define ONE(name) + 1
#define RANGE(name) RANGE_OF_##name,
static const struct {
    rule_function *functions[2];
    int states, hypers;
    int ranges[FASTOPT_MAX_HYPERS];
    const char *names[FASTOPT_MAX_HYPERS];
} table[] = {
#define NAME(name) #name,
#define FASTOPT_RULE(rule, required, states, hypers, taken) \
    {{call_##rule##_f32, call_##rule##_f64}, 0 EACH(ONE, states), 0 EACH(ONE, hypers), {EACH(RANGE, hypers)}, \
     {EACH(NAME, hypers)}},
#include "rules.def"
#undef FASTOPT_RULE
};

/* A rule with some of its optional buffers and options. */
typedef struct {
    int rule, has[FASTOPT_MAX_STATES];
    unsigned options;
    double hyper[FASTOPT_MAX_HYPERS];
} variant;

static variant variants[VARIANTS];
static int variant_count;

/* Whether the rule takes it, with this momentum if it has any. */
static int takes(variant *v, double momentum)
{
    double nothing[1] = {0};
    fastopt_tensor tensor = {0};
    fastopt_group group = {0};

    tensor.n = 1; /* where there is nothing to step, nothing is needed */
    for (int i = 0; i < table[v->rule].hypers; i++)
        v->hyper[i] = strcmp(table[v->rule].names[i], "momentum") ? values[table[v->rule].ranges[i]] : momentum;
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        tensor.state[j] = v->has[j] ? nothing : NULL;
    group.rule = v->rule;
    group.options = v->options;
    memcpy(group.hyper, v->hyper, sizeof v->hyper);
    group.count = 1;
    group.tensors = &tensor;
    return fastopt_check(&group) == FASTOPT_OK;
}

static void find_variants(void)
{
    const fastopt_rule_info *info;

    for (int rule = 0; (info = fastopt_rule(rule)); rule++) {
        const int optional = table[rule].states - info->required_states;
        for (int keep = 0; keep < 1 << optional; keep++) {
            for (unsigned options = 0; options <= info->option_mask; options++) {
                variant *v = &variants[variant_count];
                if (options & ~info->option_mask)
                    continue;
                v->rule = rule;
                v->options = options;
                for (int j = 0; j < table[rule].states; j++)
                    v->has[j] = j < info->required_states || (keep >> (j - info->required_states) & 1);
                variant_count += takes(v, values[BELOW_ONE]) || takes(v, 0.0);
            }
        }
    }
}

/* ---- The case at hand, and how it is told. ---- */

static struct {
    const variant *v;
    const char *isa, *what, *place;
    int dtype, offset;
    size_t n;
} now;

static void tell(void)
{
    char text[400], states[FASTOPT_MAX_STATES + 1] = "";
    int length;

    for (int j = 0; now.v && j < table[now.v->rule].states; j++)
        states[j] = now.v->has[j] ? '1' : '0';
    length = snprintf(text, sizeof text, "broken case: %s of %s_%s on %s, n = %zu, states %s, options %u, buffers %s %d\n",
                      now.what ? now.what : "nothing", now.v ? fastopt_rule(now.v->rule)->name : "no rule",
                      now.dtype == FASTOPT_F32 ? "f32" : "f64", now.isa ? now.isa : "no set", now.n, states,
                      now.v ? now.v->options : 0, now.place ? now.place : "nowhere", now.offset);
    if (write(STDOUT_FILENO, text, (size_t)length) != length)
        _exit(2);
}

static struct sigaction before[2];

/* Tells the case; then the fault comes again, for whoever was to have it: the system, or a sanitizer with its report. */
static void fault(int signal)
{
    tell();
    sigaction(SIGSEGV, &before[0], NULL);
    sigaction(SIGBUS, &before[1], NULL);
    (void)signal;
}

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            tell(); \
            printf("guard.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* ---- Buffers between pages. ---- */

typedef struct {
    unsigned char *start; /* of the pages */
    size_t size;
    unsigned char *at; /* the buffer */
    size_t bytes;
    int used;
} arena;

static unsigned char canary[CANARY];
static size_t page;

static void make_arena(arena *a, size_t bytes)
{
    a->size = (bytes + page - 1) / page * page;
    a->start = mmap(NULL, a->size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(a->start != MAP_FAILED);
    a->start += page;
    MUST(!mprotect(a->start, a->size, PROT_READ | PROT_WRITE));
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t open_before(const arena *a)
{
    return least((size_t)(a->at - a->start), CANARY);
}

static size_t open_after(const arena *a)
{
    return least((size_t)(a->start + a->size - a->at) - a->bytes, CANARY);
}

/* From now until reveal() the canaries may not be read, where a tool watches. */
static void hide(const arena *a)
{
    VALGRIND_MAKE_MEM_NOACCESS(a->at - open_before(a), open_before(a));
    VALGRIND_MAKE_MEM_NOACCESS(a->at + a->bytes, open_after(a));
    __asan_poison_memory_region(a->at - open_before(a), open_before(a));
    __asan_poison_memory_region(a->at + a->bytes, open_after(a));
}

static void reveal(const arena *a)
{
    VALGRIND_MAKE_MEM_DEFINED(a->at - open_before(a), open_before(a));
    VALGRIND_MAKE_MEM_DEFINED(a->at + a->bytes, open_after(a));
    __asan_unpoison_memory_region(a->at - open_before(a), open_before(a));
    __asan_unpoison_memory_region(a->at + a->bytes, open_after(a));
}

/* The offset of a buffer that lies neither at the end nor at the start differs from that of the others. */
static void place(arena *arenas, size_t n, size_t size, int offset)
{
    for (int k = 0; k < BUFFERS; k++) {
        arena *a = &arenas[k];
        a->bytes = n * size;
        if (offset < 0)
            a->at = a->start + a->size - a->bytes;
        else
            a->at = a->start + (offset ? (size_t)(offset + 5 * k) % OFFSETS * size : 0);
        memcpy(a->at - open_before(a), canary, open_before(a));
        memcpy(a->at + a->bytes, canary, open_after(a));
    }
    now.n = n;
    now.place = offset < 0 ? "at the end" : "from the start by";
    now.offset = offset < 0 ? 0 : offset;
}

/* ---- The numbers in them. ---- */

typedef struct {
    void *before[BUFFERS], *after[BUFFERS]; /* p, g, the state */
} numbers;

static double number(size_t i, int buffer)
{
    const double x = (double)((i * 7919 + (size_t)buffer * 104729) % 2001) / 1000.0 - 1.0; /* from -1 to 1 */
    return buffer < 2 ? x : x * x;
}

static void put(void *memory, size_t n, int dtype, int buffer)
{
    for (size_t i = 0; i < n; i++) {
        if (dtype == FASTOPT_F32)
            ((float *)memory)[i] = (float)number(i, buffer);
        else
            ((double *)memory)[i] = number(i, buffer);
    }
}

static void *allocated(size_t bytes)
{
    void *memory = calloc(bytes + 1, 1);
    MUST(memory);
    return memory;
}

static size_t size_of(int dtype)
{
    return dtype == FASTOPT_F32 ? sizeof(float) : sizeof(double);
}

/* The bits of a step on ordinary memory. */
static numbers step_of(const variant *v, int dtype, size_t n)
{
    numbers x;
    void *state[FASTOPT_MAX_STATES];

    for (int k = 0; k < BUFFERS; k++) {
        x.before[k] = allocated(n * size_of(dtype));
        x.after[k] = allocated(n * size_of(dtype));
        put(x.before[k], n, dtype, k);
        put(x.after[k], n, dtype, k);
    }
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        state[j] = v->has[j] ? x.after[2 + j] : NULL;
    now.what = "a step on ordinary memory";
    MUST(table[v->rule].functions[dtype](n, x.after[0], x.after[1], state, v->hyper, v->options) == FASTOPT_OK);
    MUST(!VALGRIND_COUNT_ERRORS);
    for (int k = 0; k < BUFFERS; k++)
        if (k < 2 || v->has[k - 2])
            MUST((k == 1) == !memcmp(x.before[k], x.after[k], n * size_of(dtype)));
    return x;
}

static void forget(numbers *x)
{
    for (int k = 0; k < BUFFERS; k++) {
        free(x->before[k]);
        free(x->after[k]);
    }
}

/* ---- One case. ---- */

static size_t cases, turns, every = 1;

static int skipped(void)
{
    return turns++ % every != 0;
}

static void use(arena *arenas, const variant *v)
{
    now.v = v;
    for (int k = 0; k < BUFFERS; k++)
        arenas[k].used = k < 2 || (v && v->has[k - 2]);
    for (int k = 0; k < BUFFERS; k++)
        if (arenas[k].used)
            hide(&arenas[k]);
}

static void check_canaries(arena *arenas)
{
    for (int k = 0; k < BUFFERS; k++) {
        const arena *a = &arenas[k];
        if (!a->used)
            continue;
        reveal(a);
        MUST(!memcmp(a->at - open_before(a), canary, open_before(a)));
        MUST(!memcmp(a->at + a->bytes, canary, open_after(a)));
    }
    MUST(!VALGRIND_COUNT_ERRORS);
    cases++;
}

static fastopt_tensor tensor_of(const arena *arenas, const variant *v)
{
    fastopt_tensor tensor = {.n = now.n, .p = arenas[0].at, .g = arenas[1].at};

    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        tensor.state[j] = v && v->has[j] ? arenas[2 + j].at : NULL;
    return tensor;
}

/* With extras < 0: the function of the rule. */
static void step(arena *arenas, const variant *v, const numbers *x, int extras, int threads)
{
    fastopt_tensor tensor = tensor_of(arenas, v);
    fastopt_group group = {.rule = v->rule, .dtype = now.dtype, .options = v->options, .count = 1, .tensors = &tensor};
    fastopt_model model = {.count = 1, .groups = &group, .grad_scale = 1, .max_norm = INFINITY, .threads = threads};
    const size_t bytes = now.n * size_of(now.dtype);
    const int zeroed = extras > 0 && extras & FASTOPT_ZERO_GRAD;
    int error;

    now.what = extras < 0 ? "the function" : extras ? "fastopt_step() with extras" : "fastopt_step()";
    memcpy(arenas[0].at, x->before[0], bytes);
    if (zeroed)
        memcpy(arenas[1].at, x->before[1], bytes);
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        if (v->has[j])
            memcpy(arenas[2 + j].at, x->before[2 + j], bytes);
    use(arenas, v);
    if (extras < 0) {
        error = table[v->rule].functions[now.dtype](now.n, tensor.p, tensor.g, tensor.state, v->hyper, v->options);
    } else {
        memcpy(group.hyper, v->hyper, sizeof v->hyper);
        model.extras = (unsigned)extras;
        error = fastopt_step(&model);
    }
    check_canaries(arenas);
    MUST(error == FASTOPT_OK);
    MUST(!memcmp(arenas[0].at, x->after[0], bytes));
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        if (v->has[j])
            MUST(!memcmp(arenas[2 + j].at, x->after[2 + j], bytes));
    for (size_t i = 0; zeroed && i < bytes; i++)
        MUST(arenas[1].at[i] == 0);
}

static fastopt_model gradients(arena *arenas, fastopt_group *group, fastopt_tensor *tensor, int threads)
{
    fastopt_model model = {.count = 1, .groups = group, .max_norm = 0.5, .threads = threads};

    *tensor = tensor_of(arenas, NULL);
    *group = (fastopt_group){.dtype = now.dtype, .count = 1, .tensors = tensor};
    use(arenas, NULL);
    return model;
}

static void norm(arena *arenas, int threads)
{
    fastopt_tensor tensor;
    fastopt_group group;
    fastopt_model model = gradients(arenas, &group, &tensor, threads);

    now.what = "fastopt_global_norm()";
    MUST(fastopt_global_norm(&model) == FASTOPT_OK);
    check_canaries(arenas);
    MUST(now.n ? model.norm > 0 : model.norm == 0);
}

static void clip(arena *arenas, const numbers *x, int threads)
{
    fastopt_tensor tensor;
    fastopt_group group;
    fastopt_model model = gradients(arenas, &group, &tensor, threads);
    double factor;

    now.what = "fastopt_clip_grad_norm()";
    memcpy(arenas[1].at, x->before[1], arenas[1].bytes);
    MUST(fastopt_clip_grad_norm(&model) == FASTOPT_OK);
    check_canaries(arenas);
    factor = model.norm + 1e-6 <= 0.5 ? 1.0 : 0.5 / (model.norm + 1e-6);
    for (size_t i = 0; i < now.n; i++) {
        if (now.dtype == FASTOPT_F32)
            MUST(((float *)(void *)arenas[1].at)[i] == (float)factor * ((float *)x->before[1])[i]);
        else
            MUST(((double *)(void *)arenas[1].at)[i] == factor * ((double *)x->before[1])[i]);
    }
}

/* ---- All cases. ---- */

static const int only_read[] = {-1, 0, FASTOPT_CLIP_NORM, FASTOPT_SKIP_NONFINITE};
static const int written[] = {FASTOPT_ZERO_GRAD, FASTOPT_ZERO_GRAD | FASTOPT_CLIP_NORM};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Everything with buffers that lie as they do now; the gradients are in pages that can only be read as long as can be. */
static void all_steps(arena *arenas, const numbers *x, int threads)
{
    memcpy(arenas[1].at, x->before[1], arenas[1].bytes);
    MUST(!mprotect(arenas[1].start, arenas[1].size, PROT_READ));
    for (int set = 0; (now.isa = fastopt_available_isa(set)); set++) {
        MUST(fastopt_use_isa(now.isa) == FASTOPT_OK);
        for (int i = 0; i < variant_count; i++)
            for (size_t j = 0; j < LENGTH(only_read); j++)
                if (!skipped())
                    step(arenas, &variants[i], &x[i], only_read[j], threads);
        if (!skipped())
            norm(arenas, threads);
    }
    MUST(!mprotect(arenas[1].start, arenas[1].size, PROT_READ | PROT_WRITE));
    for (int set = 0; (now.isa = fastopt_available_isa(set)); set++) {
        MUST(fastopt_use_isa(now.isa) == FASTOPT_OK);
        for (int i = 0; i < variant_count; i++)
            for (size_t j = 0; j < LENGTH(written); j++)
                if (!skipped())
                    step(arenas, &variants[i], &x[i], written[j], threads);
        if (!skipped())
            clip(arenas, x, threads);
    }
}

static void small_tensors(void)
{
    static numbers x[VARIANTS];
    arena arenas[BUFFERS] = {0};

    for (int k = 0; k < BUFFERS; k++)
        make_arena(&arenas[k], MOST * sizeof(double) + OFFSETS * sizeof(double));
    for (now.dtype = FASTOPT_F32; now.dtype <= FASTOPT_F64; now.dtype++) {
        for (int i = 0; i < variant_count; i++) {
            now.v = &variants[i];
            x[i] = step_of(now.v, now.dtype, MOST);
        }
        for (size_t n = 0; n <= MOST; n++) {
            for (int offset = -1; offset < OFFSETS; offset++) {
                place(arenas, n, size_of(now.dtype), offset);
                all_steps(arenas, x, 1);
            }
        }
        for (int i = 0; i < variant_count; i++)
            forget(&x[i]);
    }
}

/* Tensors that the driver cuts: where a gradient is zeroed in blocks, and where several threads have a piece each. */
static void large_tensors(void)
{
    static const size_t sizes[] = {2047, 2048, 2049, 4096, 4097, LARGE - 1, LARGE};
    arena arenas[BUFFERS] = {0};

    for (int k = 0; k < BUFFERS; k++)
        make_arena(&arenas[k], (LARGE + OFFSETS) * sizeof(double));
    for (now.dtype = FASTOPT_F32; now.dtype <= FASTOPT_F64; now.dtype++) {
        for (int i = 0; i < variant_count; i++) {
            numbers x;
            if (skipped())
                continue;
            now.v = &variants[i];
            x = step_of(now.v, now.dtype, LARGE);
            for (size_t s = 0; s < LENGTH(sizes); s++) {
                for (int offset = -1; offset < 2; offset++) {
                    place(arenas, sizes[s], size_of(now.dtype), offset);
                    now.isa = fastopt_isa();
                    step(arenas, now.v, &x, FASTOPT_ZERO_GRAD | FASTOPT_CLIP_NORM, 3);
                    if (i == 0)
                        clip(arenas, &x, 3);
                    now.v = &variants[i];
                }
            }
            forget(&x);
        }
    }
}

int main(int argc, char **argv)
{
    const struct sigaction action = {.sa_handler = fault};

    every = argc > 1 ? (size_t)atoi(argv[1]) : 1;
    page = (size_t)sysconf(_SC_PAGESIZE);
    memset(canary, 0xA5, sizeof canary);
    sigaction(SIGSEGV, &action, &before[0]);
    sigaction(SIGBUS, &action, &before[1]);
    __sanitizer_set_death_callback(tell);
    find_variants();
    small_tensors();
    MUST(fastopt_use_isa(NULL) == FASTOPT_OK);
    large_tensors();
    printf("%d variants, %zu cases: ok\n", variant_count, cases);
    return 0;
}
