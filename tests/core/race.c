/*
 * race.c - everything that several threads may do at once, to be run under ThreadSanitizer.
 *
 * All threads wait for one another and then use the library for the first time together. Some step models of their own,
 * which contend for the pool; at the same time one thread changes the instruction set, one the number of threads, and
 * one forks children that step a model too. Every model must end with the bits that a run on one thread gives it.
 */
#define _POSIX_C_SOURCE 200809L
#include "fastopt.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    MODELS = 8,
    TENSORS = 4,
    STEPS = 3,
    FORKS = 3,
    QUIET = 50,
    LARGE = 180001, /* elements; a norm of three times as many runs on two threads, a step on up to four */
    BUFFERS = FASTOPT_MAX_STATES + 2
};

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("race.c:%d: %s\n", __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* ---- A model, made from its number: equal numbers make equal models. ---- */

typedef struct {
    int number, threads;
    ptrdiff_t shape[2], strides[2];
    fastopt_layout layouts[2]; /* a transposed gradient; one of bfloat16 */
    fastopt_tensor tensors[TENSORS];
    fastopt_group groups[2]; /* the first two tensors in float, the others in double */
    fastopt_model model;
} job;

static const size_t sizes[TENSORS] = {2 * LARGE, 7, 65, LARGE};

static int type_of(int tensor)
{
    return tensor < 2 ? FASTOPT_F32 : FASTOPT_F64;
}

static size_t bytes_of(int tensor)
{
    return sizes[tensor] * (type_of(tensor) == FASTOPT_F32 ? sizeof(float) : sizeof(double));
}

static void fill(void *memory, int tensor, int seed)
{
    for (size_t i = 0; i < sizes[tensor]; i++) {
        const double x = (double)((i * 7919 + (size_t)seed * 104729) % 2001) / 1000.0 - 1.0; /* from -1 to 1 */
        if (type_of(tensor) == FASTOPT_F32)
            ((float *)memory)[i] = (float)x;
        else
            ((double *)memory)[i] = x;
    }
}

/* Fills a gradient. In bfloat16, each element is the upper half of the float that fill() would write. */
static void fill_gradient(const job *j, int tensor, int seed)
{
    const fastopt_tensor *t = &j->tensors[tensor];
    void *const memory = (void *)(uintptr_t)t->g;

    if (!t->layout || !t->layout->g_type) {
        fill(memory, tensor, seed);
        return;
    }
    for (size_t i = 0; i < sizes[tensor]; i++) {
        const float x = (float)((i * 7919 + (size_t)seed * 104729) % 2001) / 1000.0f - 1.0f;
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        ((uint16_t *)memory)[i] = (uint16_t)(bits >> 16);
    }
}

/*
 * Makes a model of one rule with all its buffers; successive numbers take the rules in turn. In every other model the
 * gradient of the first tensor is transposed, and that of the last tensor is of bfloat16.
 */
static void make(job *j, int number, int threads)
{
    static const unsigned extras[] = {0, FASTOPT_CLIP_NORM, FASTOPT_ZERO_GRAD, FASTOPT_SKIP_NONFINITE,
                                      FASTOPT_CLIP_NORM | FASTOPT_ZERO_GRAD};
    const fastopt_rule_info *info;
    int rules = 0, rule;

    while (fastopt_rule(rules))
        rules++;
    rule = number % rules;
    info = fastopt_rule(rule);
    memset(j, 0, sizeof *j);
    j->number = number;
    j->shape[0] = 2, j->shape[1] = LARGE;
    j->strides[0] = sizeof(float), j->strides[1] = 2 * sizeof(float);
    j->layouts[0] = (fastopt_layout){.size = sizeof *j->layouts, .ndim = 2, .shape = j->shape, .g_strides = j->strides};
    j->layouts[1] = (fastopt_layout){.size = sizeof *j->layouts, .g_type = FASTOPT_BF16};
    for (int i = 0; i < TENSORS; i++) {
        fastopt_tensor *tensor = &j->tensors[i];
        tensor->size = sizeof *tensor;
        tensor->n = sizes[i];
        MUST(tensor->p = malloc(bytes_of(i)));
        MUST(tensor->g = calloc(bytes_of(i), 1)); /* zeros, since a gradient of bfloat16 does not fill it */
        fill(tensor->p, i, number + 1);
        for (int k = 0; k < info->state_count; k++)
            MUST(tensor->state[k] = calloc(bytes_of(i), 1));
        if (number % 2)
            tensor->layout = i == 0 ? &j->layouts[0] : i == TENSORS - 1 ? &j->layouts[1] : NULL;
    }
    for (int k = 0; k < 2; k++) {
        MUST(fastopt_group_init(&j->groups[k], sizeof *j->groups, info->name, FASTOPT_F32 + k) == FASTOPT_OK);
        j->groups[k].count = 2;
        j->groups[k].tensors = j->tensors + 2 * k;
        for (int h = 0; h < info->hyper_count; h++) {
            const char *name = info->hypers[h].name, *takes = info->hypers[h].takes;
            const int below_one = strstr(takes, "1)") != NULL, count = strstr(takes, "whole") != NULL;
            j->groups[k].hyper[h] = !strcmp(name, "grad_scale") ? 1.0 : count ? 2.0 : below_one ? 0.9 : 0.01;
        }
    }
    MUST(fastopt_model_init(&j->model, sizeof j->model) == FASTOPT_OK);
    j->model.groups = j->groups;
    j->model.count = 2;
    j->model.grad_scale = 0.5;
    j->model.max_norm = 20.0;
    j->model.extras = extras[number % 5];
    j->model.threads = threads;
    j->model.workspace_size = fastopt_workspace(&j->model);
    MUST(j->model.workspace = malloc(j->model.workspace_size + 1));
}

static void run(job *j)
{
    for (int step = 0; step < STEPS; step++) {
        for (int i = 0; i < TENSORS; i++)
            fill_gradient(j, i, 100 * j->number + step);
        MUST(fastopt_step(&j->model) == FASTOPT_OK);
        MUST(fastopt_clip_grad_norm(&j->model) == FASTOPT_OK);
    }
}

static int same(const job *a, const job *b)
{
    for (int i = 0; i < TENSORS; i++) {
        const fastopt_tensor *x = &a->tensors[i], *y = &b->tensors[i];
        if (memcmp(x->p, y->p, bytes_of(i)) || memcmp(x->g, y->g, bytes_of(i)))
            return 0;
        for (int k = 0; k < FASTOPT_MAX_STATES; k++)
            if (x->state[k] && memcmp(x->state[k], y->state[k], bytes_of(i)))
                return 0;
    }
    return !memcmp(&a->model.norm, &b->model.norm, sizeof(double));
}

static void forget(job *j)
{
    for (int i = 0; i < TENSORS; i++) {
        free(j->tensors[i].p);
        free((void *)(uintptr_t)j->tensors[i].g);
        for (int k = 0; k < FASTOPT_MAX_STATES; k++)
            free(j->tensors[i].state[k]);
    }
    free(j->model.workspace);
}

/* ---- What the threads do. ---- */

static atomic_int ready, running = MODELS;

/* Returns when `all` threads have called it, so that all of them first use the library at once. */
static void meet(int all)
{
    atomic_fetch_add(&ready, 1);
    while (atomic_load(&ready) < all)
        ;
}

static int all_threads;

static void *stepping(void *argument)
{
    meet(all_threads);
    run(argument);
    atomic_fetch_sub(&running, 1);
    return NULL;
}

static void *choosing(void *unused)
{
    meet(all_threads);
    do {
        for (int i = 0; fastopt_available_isa(i); i++) {
            MUST(fastopt_use_isa(fastopt_available_isa(i)) == FASTOPT_OK);
            MUST(fastopt_isa());
            MUST(fastopt_use_isa("none such") == FASTOPT_ERR_ISA);
        }
        MUST(fastopt_use_isa(NULL) == FASTOPT_OK);
    } while (atomic_load(&running));
    return unused;
}

static void *counting(void *unused)
{
    meet(all_threads);
    for (int i = 0; atomic_load(&running); i++) {
        fastopt_set_num_threads(1 + i % 4);
        MUST(fastopt_get_num_threads() == 1 + i % 4);
    }
    return unused;
}

/* The models are made before the fork: after it, a child of a process of several threads may not call malloc(). */
static void *forking(void *argument)
{
    job *many = argument, *serial = many + 1;

    meet(all_threads);
    for (int i = 0; i < FORKS; i++) {
        const pid_t child = fork();
        int status;
        MUST(child >= 0);
        if (!child) {
            run(many);
            run(serial);
            _exit(!same(many, serial));
        }
        MUST(waitpid(child, &status, 0) == child);
        MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    return NULL;
}

int main(void)
{
    static job jobs[MODELS], alone[2];
    pthread_t threads[MODELS + 3];
    int started = 0;

    all_threads = MODELS + 3;
    for (int i = 0; i < MODELS; i++)
        make(&jobs[i], i, i % 5); /* 0: what fastopt_set_num_threads() says */
    make(&alone[0], MODELS - 1, 3);
    for (int i = 0; i < TENSORS; i++)
        fill_gradient(&alone[0], i, 1);
    make(&alone[1], MODELS - 1, 1);
    for (int i = 0; i < MODELS; i++)
        MUST(!pthread_create(&threads[started++], NULL, stepping, &jobs[i]));
    MUST(!pthread_create(&threads[started++], NULL, choosing, NULL));
    MUST(!pthread_create(&threads[started++], NULL, counting, NULL));
    MUST(!pthread_create(&threads[started++], NULL, forking, alone));
    for (int i = 0; i < started; i++)
        MUST(!pthread_join(threads[i], NULL));
    for (int i = 0; i < QUIET; i++) /* the next call comes while the workers still spin, before they sleep */
        MUST(fastopt_global_norm(&alone[0].model) == FASTOPT_OK);
    for (int i = 0; i < MODELS; i++) {
        job serial;
        make(&serial, i, 1);
        run(&serial);
        MUST(same(&jobs[i], &serial));
        forget(&serial);
        forget(&jobs[i]);
    }
    forget(&alone[0]);
    forget(&alone[1]);
    printf("%d threads: ok\n", all_threads);
    return 0;
}
