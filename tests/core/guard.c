/*
 * guard.c - no loop touches an element outside its buffers.
 *
 * Every buffer of a step lies in pages of its own between two pages that must not be touched: at the end of its pages,
 * at their start, or some elements from the start. The rest of the pages holds canaries, which under AddressSanitizer
 * and valgrind must not be read either. Each case checks the canaries and every bit of the result: a rule without sums
 * works element by element, so its step on n elements gives the first n results of a step on more, wherever the buffers
 * lie. The gaps between elements of a strided buffer hold canaries, too.
 *
 *     guard [K]     runs every K-th case (a prime, so that the cases that run still take all values of every loop)
 *
 * Prints how many variants of the rules and how many cases there were, and "ok"; or the first case that failed.
 */
#define _DEFAULT_SOURCE /* mmap's MAP_ANONYMOUS */
#define _DARWIN_C_SOURCE
#include "each.h"
#include "fastopt.h"

#include <math.h>
#include <signal.h>
#include <stdint.h>
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
    MOST = 200,                       /* elements of a small tensor */
    LARGE = 700001,                   /* elements that are worth several threads */
    OFFSETS = 16,                     /* elements from the start of the pages */
    CANARY = 4096,                    /* bytes on either side, or fewer where the pages end */
    BUFFERS = FASTOPT_MAX_STATES + 2, /* p, g and the state */
    VARIANTS = 256
};

/* ---- The rules. ---- */

enum { COUNT, NON_NEGATIVE, BELOW_ONE, UP_TO_ONE, FINITE };

/* For each range of hyperparameters a value that every rule accepts: Nesterov's momentum allows no dampening. */
static const double values[] = {
    [COUNT] = 3, [NON_NEGATIVE] = 0.01, [BELOW_ONE] = 0.9, [UP_TO_ONE] = 0, [FINITE] = 0.75};

enum {
#define FASTOPT_HYPER(name, range) RANGE_OF_##name = range,
#include "rules.def"
#undef FASTOPT_HYPER
};

#include "functions.h"

#define ONE(name) + 1
#define RANGE(name) RANGE_OF_##name,
static const struct {
    rule_function *functions[FASTOPT_F64 + 1];
    int states, hypers;
    int ranges[FASTOPT_MAX_HYPERS];
    const char *names[FASTOPT_MAX_HYPERS];
} table[] = {
#define NAME(name) #name,
#define FASTOPT_RULE(rule, required, states, hypers, taken) \
    {{NULL, call_##rule##_f32, call_##rule##_f64}, 0 EACH(ONE, states), 0 EACH(ONE, hypers), {EACH(RANGE, hypers)}, \
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

/* A model of one group that has one tensor. */
typedef struct {
    fastopt_tensor tensor;
    fastopt_group group;
    fastopt_model model;
} single;

static double sums[4096];

static int make_single(single *s, int rule, int type)
{
    int error = fastopt_group_init(&s->group, sizeof s->group, fastopt_rule(rule)->name, type);

    error = error ? error : fastopt_model_init(&s->model, sizeof s->model);
    s->tensor = (fastopt_tensor){.size = sizeof s->tensor};
    s->group.tensors = &s->tensor;
    s->group.count = 1;
    s->model.groups = &s->group;
    s->model.count = 1;
    s->model.workspace = sums; /* for a rule with sums; more than one tensor needs */
    s->model.workspace_size = sizeof sums;
    return error;
}

static unsigned option_mask(const fastopt_rule_info *info)
{
    unsigned mask = 0;

    for (int i = 0; i < info->option_count; i++)
        mask |= info->options[i].bit;
    return mask;
}

/* Whether the rule accepts the variant, with this momentum if the rule has one. */
static int takes(variant *v, double momentum)
{
    double nothing[1] = {0};
    single s;

    if (make_single(&s, v->rule, FASTOPT_F64))
        return 0;
    s.tensor.n = 1; /* a tensor without elements would need no buffers */
    s.tensor.p = nothing;
    s.tensor.g = nothing;
    for (int i = 0; i < table[v->rule].hypers; i++)
        v->hyper[i] = strcmp(table[v->rule].names[i], "momentum") ? values[table[v->rule].ranges[i]] : momentum;
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        s.tensor.state[j] = v->has[j] ? nothing : NULL;
    s.group.options = v->options;
    memcpy(s.group.hyper, v->hyper, sizeof v->hyper);
    return fastopt_check(&s.model) == FASTOPT_OK;
}

static void find_variants(void)
{
    const fastopt_rule_info *info;

    for (int rule = 0; (info = fastopt_rule(rule)); rule++) {
        const int optional = table[rule].states - info->required_states;
        for (int keep = 0; keep < 1 << optional; keep++) {
            for (unsigned options = 0; options <= option_mask(info); options++) {
                variant *v = &variants[variant_count];
                if (options & ~option_mask(info))
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

/* ---- The current case, and its description in an error. ---- */

static struct {
    const variant *v;
    const char *isa, *what, *place;
    int type, offset;
    size_t n;
    const char *lies[3]; /* the layouts of parameter, gradient and states, if there are any */
    ptrdiff_t rows, columns;
    int g_type;
} now;

static void tell(void)
{
    char text[600], layout[200] = "", states[FASTOPT_MAX_STATES + 1] = "";
    int length;

    for (int j = 0; now.v && j < table[now.v->rule].states; j++)
        states[j] = now.v->has[j] ? '1' : '0';
    if (now.lies[0])
        snprintf(layout, sizeof layout, ", %td rows and %td columns, %s, %s of type %d and %s", now.rows, now.columns,
                 now.lies[0], now.lies[1], now.g_type, now.lies[2]);
    length =
        snprintf(text, sizeof text, "broken case: %s of %s_%s on %s, n = %zu, states %s, options %u, buffers %s %d%s\n",
                 now.what ? now.what : "nothing", now.v ? fastopt_rule(now.v->rule)->name : "no rule",
                 now.type == FASTOPT_F32 ? "f32" : "f64", now.isa ? now.isa : "no set", now.n, states,
                 now.v ? now.v->options : 0, now.place ? now.place : "nowhere", now.offset, layout);
    if (write(STDOUT_FILENO, text, (size_t)length) != length)
        _exit(2);
}

static struct sigaction before[2];

/* Prints the case. The fault then happens again and reaches the former handler: the system's, or a sanitizer's. */
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

/* Until reveal(), AddressSanitizer and valgrind report any read of the canaries. */
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

/* Places all buffers. Those that lie neither at the end nor at the start have different offsets. */
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

/* ---- The numbers in the buffers. ---- */

typedef struct {
    void *before[BUFFERS], *after[BUFFERS]; /* p, g, the state */
} numbers;

/* Numbers from -1 to 1. Those of gradients are exact in every type, those of states are not negative. */
static double number(size_t i, int buffer)
{
    const double x = (double)((i * 7919 + (size_t)buffer * 104729) % 2001) / 1000.0 - 1.0;
    return buffer == 1 ? ((double)(i * 7919 % 255) - 127.0) / 128.0 : buffer ? x * x : x;
}

static void put(void *memory, size_t n, int type, int buffer)
{
    for (size_t i = 0; i < n; i++) {
        if (type == FASTOPT_F32)
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

static size_t size_of(int type)
{
    return type == FASTOPT_F32 ? sizeof(float) : sizeof(double);
}

/* The bits of a step on ordinary memory. */
static numbers step_of(const variant *v, int type, size_t n)
{
    numbers x;
    void *state[FASTOPT_MAX_STATES];

    for (int k = 0; k < BUFFERS; k++) {
        x.before[k] = allocated(n * size_of(type));
        x.after[k] = allocated(n * size_of(type));
        put(x.before[k], n, type, k);
        put(x.after[k], n, type, k);
    }
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        state[j] = v->has[j] ? x.after[2 + j] : NULL;
    now.what = "a step on ordinary memory";
    MUST(table[v->rule].functions[type](n, x.after[0], x.after[1], state, v->hyper, v->options) == FASTOPT_OK);
    MUST(!VALGRIND_COUNT_ERRORS);
    for (int k = 0; k < BUFFERS; k++)
        if (k < 2 || v->has[k - 2])
            MUST((k == 1) == !memcmp(x.before[k], x.after[k], n * size_of(type)));
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
    fastopt_tensor tensor = {.size = sizeof tensor, .n = now.n, .p = arenas[0].at, .g = arenas[1].at};

    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        tensor.state[j] = v && v->has[j] ? arenas[2 + j].at : NULL;
    return tensor;
}

/* A step with these extras; with extras < 0, a call of the rule's own function. */
static void step(arena *arenas, const variant *v, const numbers *x, int extras, int threads)
{
    const fastopt_tensor tensor = tensor_of(arenas, v);
    single s;
    const size_t bytes = now.n * size_of(now.type);
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
        error = table[v->rule].functions[now.type](now.n, tensor.p, tensor.g, tensor.state, v->hyper, v->options);
    } else {
        MUST(!make_single(&s, v->rule, now.type));
        s.tensor = tensor;
        s.group.options = v->options;
        memcpy(s.group.hyper, v->hyper, sizeof v->hyper);
        s.model.extras = (unsigned)extras;
        s.model.max_norm = INFINITY;
        s.model.threads = threads;
        error = fastopt_step(&s.model);
    }
    check_canaries(arenas);
    MUST(error == FASTOPT_OK);
    if (fastopt_rule(v->rule)->sums && now.n) { /* the sums depend on n, so the step is taken on n elements alone */
        numbers alone = step_of(v, now.type, now.n);
        MUST(!memcmp(arenas[0].at, alone.after[0], bytes));
        forget(&alone);
    } else {
        MUST(!memcmp(arenas[0].at, x->after[0], bytes));
    }
    for (int j = 0; j < FASTOPT_MAX_STATES; j++)
        if (v->has[j])
            MUST(!memcmp(arenas[2 + j].at, x->after[2 + j], bytes));
    for (size_t i = 0; zeroed && i < bytes; i++)
        MUST(arenas[1].at[i] == 0);
}

static void gradients(arena *arenas, single *s, int threads)
{
    MUST(!make_single(s, 0, now.type));
    s->tensor = tensor_of(arenas, NULL);
    s->model.max_norm = 0.5;
    s->model.threads = threads;
    use(arenas, NULL);
}

static void norm(arena *arenas, int threads)
{
    single s;

    now.what = "fastopt_global_norm()";
    gradients(arenas, &s, threads);
    MUST(fastopt_global_norm(&s.model) == FASTOPT_OK);
    check_canaries(arenas);
    MUST(now.n ? s.model.norm > 0 : s.model.norm == 0);
}

static void clip(arena *arenas, const numbers *x, int threads)
{
    single s;
    double factor;

    now.what = "fastopt_clip_grad_norm()";
    gradients(arenas, &s, threads);
    memcpy(arenas[1].at, x->before[1], arenas[1].bytes);
    MUST(fastopt_clip_grad_norm(&s.model) == FASTOPT_OK);
    check_canaries(arenas);
    factor = s.model.norm + 1e-6 <= 0.5 ? 1.0 : 0.5 / (s.model.norm + 1e-6);
    for (size_t i = 0; i < now.n; i++) {
        if (now.type == FASTOPT_F32)
            MUST(((float *)(void *)arenas[1].at)[i] == (float)(factor * (double)((float *)x->before[1])[i]));
        else
            MUST(((double *)(void *)arenas[1].at)[i] == factor * ((double *)x->before[1])[i]);
    }
}

/* ---- A case with layouts. ---- */

/* How a buffer of rows and columns lies: the distances, in elements, from row to row and from column to column. */
enum { PLAIN, TRANSPOSED, BACKWARD, TRANSPOSED_BACKWARD, SPARSE, SPARSE_BACKWARD, ONE_ROW, ONE_COLUMN };

static const char *const ways[] = {"plain",  "transposed",      "backward",        "transposed backward",
                                   "sparse", "sparse backward", "one row for all", "one column for all"};

static void strides_of(int way, ptrdiff_t rows, ptrdiff_t columns, ptrdiff_t *strides)
{
    const ptrdiff_t row[] = {columns, 1, -columns, -1, 2 * columns + 3, 3 - 2 * columns - 6, 0, 1},
                    column[] = {1, rows, -1, -rows, 2, 2, 1, 0};

    strides[0] = row[way];
    strides[1] = column[way];
}

static ptrdiff_t size_in(int type)
{
    return type == FASTOPT_F64 ? 8 : type == FASTOPT_F32 ? 4 : 2;
}

/* Writes a number that the type can hold. */
static void write_number(char *place, int type, double x)
{
    const float y = (float)x;
    uint32_t bits;
    uint16_t half;

    memcpy(&bits, &y, sizeof bits);
    half = (uint16_t)(bits >> 16); /* bfloat16 */
    if (type == FASTOPT_F16)
        half =
            (uint16_t)((bits >> 16 & 0x8000) | (bits & 0x7fffffff ? (bits >> 13 & 0x3ffff) - ((127 - 15) << 10) : 0));
    memcpy(place,
           type == FASTOPT_F64   ? (const void *)&x
           : type == FASTOPT_F32 ? (const void *)&y
                                 : &half,
           (size_t)size_in(type));
}

/* A strided buffer in an arena; the rest of the arena holds canaries. */
typedef struct {
    arena *a;
    int type;
    ptrdiff_t strides[2]; /* in bytes */
    char *first;
} view;

static view lay(arena *a, int type, int way, int at_the_end)
{
    const ptrdiff_t item = size_in(type);
    ptrdiff_t low = 0, high = 0;
    view v = {.a = a, .type = type};

    strides_of(way, now.rows, now.columns, v.strides);
    for (int d = 0; d < 2; d++) {
        const ptrdiff_t length = (d ? now.columns : now.rows) - 1;
        v.strides[d] *= item;
        *(v.strides[d] < 0 ? &low : &high) += v.strides[d] * length;
    }
    a->bytes = now.n ? (size_t)(high - low + item) : 0;
    a->at = a->start + (at_the_end ? a->size - a->bytes : 0);
    v.first = (char *)a->at - (now.n ? low : 0);
    memset(a->at - open_before(a), canary[0], open_before(a) + a->bytes + open_after(a));
    return v;
}

static char *element(const view *v, size_t i)
{
    return v->first + (ptrdiff_t)i / now.columns * v->strides[0] + (ptrdiff_t)i % now.columns * v->strides[1];
}

/* Overwrites all elements with canaries; if nothing else was written, the arena then holds canaries alone. */
static void clear(const view *v)
{
    const arena *a = v->a;

    for (size_t i = 0; i < now.n; i++)
        memset(element(v, i), canary[0], (size_t)size_in(v->type));
    for (size_t i = 0; i < a->bytes; i++)
        MUST(a->at[i] == canary[0]);
}

/* How parameters, gradients and states lie, and the factor of the gradients, which float holds exactly or not. */
static const struct {
    int ways[3];
    double factor;
} layouts[] = {
    {{PLAIN, PLAIN, PLAIN}, 0.75},
    {{PLAIN, PLAIN, PLAIN}, 0.7},
    {{PLAIN, TRANSPOSED, PLAIN}, 0.75},
    {{TRANSPOSED, PLAIN, TRANSPOSED}, 0.7},
    {{TRANSPOSED, TRANSPOSED, PLAIN}, 0.75},
    {{BACKWARD, PLAIN, TRANSPOSED_BACKWARD}, 0.75},
    {{TRANSPOSED_BACKWARD, BACKWARD, TRANSPOSED}, 0.7},
    {{PLAIN, ONE_ROW, PLAIN}, 0.75},
    {{TRANSPOSED, ONE_COLUMN, BACKWARD}, 0.7},
    {{SPARSE, PLAIN, PLAIN}, 0.75}, /* the last three take more room */
    {{PLAIN, SPARSE_BACKWARD, SPARSE}, 0.75},
    {{SPARSE_BACKWARD, TRANSPOSED_BACKWARD, SPARSE}, 0.7},
};

enum { LAYOUTS = sizeof layouts / sizeof *layouts, DENSE_LAYOUTS = LAYOUTS - 3 };

/* Numbers of the current type in the order of the elements: before a step, and after it. */
static struct {
    char *before[BUFFERS], *after[BUFFERS];
} plain;

static void make_plain(size_t elements)
{
    for (int k = 0; k < BUFFERS; k++) {
        plain.before[k] = allocated(elements * sizeof(double));
        plain.after[k] = allocated(elements * sizeof(double));
    }
}

static void forget_plain(void)
{
    for (int k = 0; k < BUFFERS; k++) {
        free(plain.before[k]);
        free(plain.after[k]);
    }
}

/* A step of a tensor with layouts, then the norm and the clipping of its gradient, all within the buffers. */
static void laid_step(arena *arenas, const variant *v, int layout, int g_type, unsigned extras, int at_the_end,
                      int threads)
{
    const size_t item = size_of(now.type);
    const int *const way = layouts[layout].ways, shared = way[1] == ONE_ROW || way[1] == ONE_COLUMN;
    const int zeroed = !shared && (extras & FASTOPT_ZERO_GRAD);
    const ptrdiff_t shape[2] = {now.rows, now.columns};
    fastopt_layout described = {.size = sizeof described, .g_type = g_type, .ndim = 2, .shape = shape};
    const int stored = g_type ? g_type : now.type;
    view views[BUFFERS];
    void *state[FASTOPT_MAX_STATES] = {NULL};
    double hyper[FASTOPT_MAX_HYPERS];
    single s;

    now.v = v;
    now.what = "fastopt_step() with layouts";
    now.place = at_the_end ? "at the end" : "at the start";
    now.offset = 0;
    now.g_type = g_type;
    for (int k = 0; k < 3; k++)
        now.lies[k] = ways[way[k]];
    memcpy(hyper, v->hyper, sizeof hyper);
    hyper[table[v->rule].hypers - 1] = layouts[layout].factor;
    MUST(!make_single(&s, v->rule, now.type));
    for (int k = 0; k < BUFFERS; k++) {
        if (k >= 2 && !v->has[k - 2])
            continue;
        views[k] = lay(&arenas[k], k == 1 ? stored : now.type, way[k < 2 ? k : 2], at_the_end);
        for (size_t i = 0; i < now.n; i++) {
            const size_t same = way[1] == ONE_ROW ? i % (size_t)now.columns : i - i % (size_t)now.columns;
            const double x = number(k == 1 && shared ? same : i, k);
            write_number(plain.before[k] + i * item, now.type, x);
            write_number(element(&views[k], i), views[k].type, x);
        }
        memcpy(plain.after[k], plain.before[k], now.n * item);
        if (k >= 2) {
            state[k - 2] = plain.after[k];
            s.tensor.state[k - 2] = views[k].first;
            described.state_strides[k - 2] = views[k].strides;
        }
    }
    MUST(table[v->rule].functions[now.type](now.n, plain.after[0], plain.after[1], state, hyper, v->options) ==
         FASTOPT_OK);
    s.tensor.n = now.n;
    s.tensor.p = views[0].first;
    s.tensor.g = views[1].first;
    s.tensor.layout = &described;
    described.p_strides = views[0].strides;
    described.g_strides = views[1].strides;
    s.group.options = v->options;
    memcpy(s.group.hyper, hyper, sizeof hyper);
    s.model.extras = zeroed ? extras : extras & ~(unsigned)FASTOPT_ZERO_GRAD;
    s.model.max_norm = INFINITY;
    s.model.threads = threads;
    MUST(zeroed || !mprotect(arenas[1].start, arenas[1].size, PROT_READ));
    use(arenas, v);
    MUST(fastopt_step(&s.model) == FASTOPT_OK);
    MUST(zeroed || !mprotect(arenas[1].start, arenas[1].size, PROT_READ | PROT_WRITE));
    check_canaries(arenas);
    for (int k = 0; k < BUFFERS; k++) {
        if (k >= 2 && !v->has[k - 2])
            continue;
        for (size_t i = 0; i < now.n; i++) {
            const char *const found = element(&views[k], i);
            const char zeros[8] = {0};
            if (k == 1 && zeroed)
                MUST(!memcmp(found, zeros, (size_t)size_in(stored)));
            else if (k != 1)
                MUST(!memcmp(found, plain.after[k] + i * item, item));
        }
        if (k != 1)
            clear(&views[k]);
    }
    if (!shared) {
        now.what = "fastopt_clip_grad_norm() with layouts";
        for (size_t i = 0; i < now.n; i++)
            write_number(element(&views[1], i), stored, number(i, 1));
        s.model.max_norm = 0.25;
        use(arenas, NULL);
        MUST(fastopt_clip_grad_norm(&s.model) == FASTOPT_OK);
        check_canaries(arenas);
        MUST(fastopt_global_norm(&s.model) == FASTOPT_OK);
        MUST(now.n < 2 || fabs(s.model.norm - 0.25) < 0.01);
    }
    clear(&views[1]);
    memset(now.lies, 0, sizeof now.lies);
}

/* ---- All cases. ---- */

static const int only_read[] = {-1, 0, FASTOPT_CLIP_NORM, FASTOPT_SKIP_NONFINITE};
static const int written[] = {FASTOPT_ZERO_GRAD, FASTOPT_ZERO_GRAD | FASTOPT_CLIP_NORM};

#define LENGTH(array) (sizeof(array) / sizeof *(array))

/* Every kind of step on buffers in their current places; gradients that are only read lie in read-only pages. */
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
    for (now.type = FASTOPT_F32; now.type <= FASTOPT_F64; now.type++) {
        for (int i = 0; i < variant_count; i++) {
            now.v = &variants[i];
            x[i] = step_of(now.v, now.type, MOST);
        }
        for (size_t n = 0; n <= MOST; n++) {
            for (int offset = -1; offset < OFFSETS; offset++) {
                place(arenas, n, size_of(now.type), offset);
                all_steps(arenas, x, 1);
            }
        }
        for (int i = 0; i < variant_count; i++)
            forget(&x[i]);
    }
}

/* Tensors that a step cuts: into blocks, after each of which the gradient is zeroed, and into pieces for threads. */
static void large_tensors(void)
{
    static const size_t sizes[] = {2047, 2048, 2049, 4096, 4097, LARGE - 1, LARGE};
    arena arenas[BUFFERS] = {0};

    for (int k = 0; k < BUFFERS; k++)
        make_arena(&arenas[k], (LARGE + OFFSETS) * sizeof(double));
    for (now.type = FASTOPT_F32; now.type <= FASTOPT_F64; now.type++) {
        for (int i = 0; i < variant_count; i++) {
            numbers x;
            if (skipped())
                continue;
            now.v = &variants[i];
            x = step_of(now.v, now.type, LARGE);
            for (size_t s = 0; s < LENGTH(sizes); s++) {
                for (int offset = -1; offset < 2; offset++) {
                    place(arenas, sizes[s], size_of(now.type), offset);
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

/* Strided tensors, which are unpacked by blocks and by tiles, some of them partial. */
static void laid_tensors(void)
{
    static const ptrdiff_t shapes[][2] = {{1, 1},  {1, 7},  {7, 1},   {3, 5},   {9, 16},  {16, 9}, {12, 16},
                                          {8, 25}, {33, 6}, {2, 100}, {200, 1}, {1, 200}, {0, 3},  {4, 0}};
    arena arenas[BUFFERS] = {0};
    int turn = 0;

    for (int k = 0; k < BUFFERS; k++)
        make_arena(&arenas[k], 6 * MOST * sizeof(double));
    make_plain(MOST);
    for (int set = 0; (now.isa = fastopt_available_isa(set)); set++) {
        MUST(fastopt_use_isa(now.isa) == FASTOPT_OK);
        for (now.type = FASTOPT_F32; now.type <= FASTOPT_F64; now.type++)
            for (size_t k = 0; k < LENGTH(shapes); k++)
                for (int layout = 0; layout < LAYOUTS; layout++)
                    for (int i = 0; i < variant_count; i++, turn++) {
                        if (skipped())
                            continue;
                        now.rows = shapes[k][0], now.columns = shapes[k][1];
                        now.n = (size_t)(now.rows * now.columns);
                        laid_step(arenas, &variants[i], layout, turn % 5, turn % 3 ? FASTOPT_ZERO_GRAD : 0, turn % 2,
                                  1);
                    }
    }
    forget_plain();
}

/* Larger strided tensors: of several blocks, and of pieces for several threads. */
static void large_laid_tensors(void)
{
    static const ptrdiff_t shapes[][2] = {{33, 300}, {300, 33}, {3, 3001}, {331, 2111}};
    arena arenas[BUFFERS] = {0};
    int turn = 0;

    for (int k = 0; k < BUFFERS; k++)
        make_arena(&arenas[k], (LARGE + OFFSETS) * sizeof(double));
    make_plain(LARGE);
    now.isa = fastopt_isa();
    for (now.type = FASTOPT_F32; now.type <= FASTOPT_F64; now.type++)
        for (int i = 0; i < variant_count; i++)
            for (size_t k = 0; k < LENGTH(shapes); k++, turn++) {
                if (skipped() || (k == LENGTH(shapes) - 1 && i % 8)) /* the largest shape in few cases */
                    continue;
                now.rows = shapes[k][0], now.columns = shapes[k][1];
                now.n = (size_t)(now.rows * now.columns);
                laid_step(arenas, &variants[i], turn % DENSE_LAYOUTS, turn % 5, FASTOPT_CLIP_NORM | FASTOPT_ZERO_GRAD,
                          turn % 2, 3);
            }
    forget_plain();
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
    laid_tensors();
    MUST(fastopt_use_isa(NULL) == FASTOPT_OK);
    large_laid_tensors();
    printf("%d variants, %zu cases: ok\n", variant_count, cases);
    return 0;
}
