/*
 * faults.c - the core on processors that lack a feature, and on systems that refuse to start threads.
 *
 * The core is compiled into this file, with functions of this file in place of the system's.
 */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- A processor that lacks a feature, and a system that starts no more than `may_start` threads. ---- */

static const char *lacking = "";

static int supports(const char *feature)
{
    return strcmp(feature, lacking) != 0;
}
#define __builtin_cpu_supports(feature) supports(feature)

static int started;

#ifndef FASTOPT_NO_THREADS
static int may_start, may_prepare;

static int create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument)
{
    if (!may_start)
        return 11;
    may_start--;
    started++;
    return pthread_create(thread, attributes, function, argument);
}

static int atfork(void (*prepare)(void), void (*parent)(void), void (*child)(void))
{
    return may_prepare ? pthread_atfork(prepare, parent, child) : 12;
}
#define pthread_create create
#define pthread_atfork atfork
#endif

#define FASTOPT_INTERNAL static
#include "threads.c" /* first: it defines which POSIX it needs */

#include "rules.c"

#include "table.c"

#include "dispatch.c"

#include "row.c"

#include "layout.c"

#include "staging.c"

#include "norm.c"

#include "step.c"

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("faults.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* ---- Instruction sets. ---- */

static int available(void)
{
    int count = 0;

    while (fastopt_available_isa(count))
        count++;
    MUST(!fastopt_available_isa(-1));
    return count;
}

static void instruction_sets(void)
{
    float p[1] = {1}, g[1] = {1};
    fastopt_model model;

    fastopt_model_init(&model, sizeof model);
    setenv("FASTOPT_ISA", "none such", 1);
    MUST(!fastopt_isa());
    MUST(fastopt_sgd_f32(1, p, g, NULL, 1, 1, 0, 0, 0, 1, 0) == FASTOPT_ERR_ISA);
    MUST(fastopt_step(&model) == FASTOPT_ERR_ISA && model.error.code == FASTOPT_ERR_ISA);
    MUST(fastopt_global_norm(&model) == FASTOPT_ERR_ISA);
    MUST(fastopt_clip_grad_norm(&model) == FASTOPT_ERR_ISA);
    MUST(fastopt_check(&model) == FASTOPT_ERR_ISA);
    MUST(fastopt_use_isa(NULL) == FASTOPT_ERR_ISA);
    MUST(p[0] == 1.0f);
    MUST(fastopt_use_isa("baseline") == FASTOPT_OK && !strcmp(fastopt_isa(), "baseline"));
    setenv("FASTOPT_ISA", "", 1);
#ifdef FASTOPT_X86
    {
        static const char *const avx512[] = {"avx512f", "avx512dq", "avx512vl", "avx512bw"};
        MUST(available() == 3 && fastopt_use_isa("") == FASTOPT_OK && !strcmp(fastopt_isa(), "avx512"));
        for (int i = 0; i < 4; i++) {
            lacking = avx512[i];
            MUST(available() == 2 && fastopt_use_isa("avx512") == FASTOPT_ERR_ISA);
            MUST(fastopt_use_isa("") == FASTOPT_OK && !strcmp(fastopt_isa(), "avx2"));
        }
        lacking = "avx2";
        MUST(available() == 1 && fastopt_use_isa("avx2") == FASTOPT_ERR_ISA);
    }
#endif
    MUST(fastopt_use_isa(NULL) == FASTOPT_OK && !strcmp(fastopt_isa(), "baseline"));
}

/* ---- Threads. ---- */

enum { LARGE = 2000000 };

static float ones[LARGE], slopes[LARGE];

/*
 * Takes a step that is worth four threads. The whole step must be done, however many threads there are, and it must
 * have started `workers` of them. The first group has no tensors. `transposed`: the tensor has three dimensions and a
 * transposed gradient, so that the step goes by tiles.
 */
static void step(int workers, int transposed)
{
    static const ptrdiff_t shape[] = {40, 250, 200}, strides[] = {4, 40 * 4, 250 * 40 * 4};
    const fastopt_layout layout = {.size = sizeof layout, .ndim = 3, .shape = shape, .g_strides = strides};
    fastopt_tensor tensor = {.size = sizeof tensor, .n = LARGE, .p = ones, .g = slopes};
    fastopt_group groups[2];
    fastopt_model model;

    MUST(fastopt_model_init(&model, sizeof model) == FASTOPT_OK);
    model.groups = groups;
    model.count = 2;
    model.threads = 4;
    for (int k = 0; k < 2; k++) {
        MUST(fastopt_group_init(&groups[k], sizeof *groups, "sgd", FASTOPT_F32) == FASTOPT_OK);
        MUST(fastopt_set(&groups[k], "lr", 0.25) == FASTOPT_OK);
    }
    groups[1].tensors = &tensor;
    groups[1].count = 1;
    tensor.layout = transposed ? &layout : NULL;
    for (size_t i = 0; i < LARGE; i++) {
        ones[i] = 1;
        slopes[i] = (float)(i % 3);
    }
    started = 0;
    MUST(fastopt_step(&model) == FASTOPT_OK);
    MUST(started == workers);
    for (size_t i = 0; i < LARGE; i++) {
        const size_t place = transposed ? i / 50000 + i / 200 % 250 * 40 + i % 200 * 10000 : i; /* of the gradient */
        MUST(ones[i] == 1 - (float)(place % 3) / 4);
    }
}

int main(void)
{
    instruction_sets();
#ifdef FASTOPT_POSIX_THREADS
    may_start = 3;
    step(0, 0); /* no thread is started where pthread_atfork() fails */
    may_prepare = 1;
    may_start = 0;
    step(0, 0);
    may_start = 1;
    step(1, 0);
    step(0, 0);
    may_start = 10;
    step(2, 0); /* threads that were refused are asked for again */
    step(0, 0);
    step(0, 1);
    stop_workers();
    step(0, 0); /* no thread is started once the process ends */
#else
    step(0, 0);
    step(0, 1);
#endif
    printf("ok\n");
    return 0;
}
