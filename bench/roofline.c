/*
 * The roofline: what an update rule moves through memory, without its arithmetic. For each element it reads
 * the gradient and reads and writes the parameter and each state buffer, in one pass like the rules' loops.
 *
 * Something must be computed, or the compiler leaves the traffic out: the lowest bit of each value is combined with
 * the gradient's lowest bit by exclusive or. That is integer arithmetic on whole vectors, which takes no time beside
 * the memory traffic, and normal numbers stay normal.
 */
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_STATES = 4, MAX_THREADS = 256, LINE = 16 }; /* LINE: 32-bit words in a cache line */

typedef struct {
    size_t n;
    uint32_t *buffer[2 + MAX_STATES]; /* parameter, gradient, states */
} tensor;

typedef struct {
    const tensor *tensors;
    size_t count, states, part, parts, repeats;
} share;

/* `states` is a constant where this is inlined, so that each number of buffers has a vector loop of its own. */
static inline __attribute__((always_inline)) void pass(size_t n, uint32_t *restrict p, const uint32_t *restrict g,
                                                       uint32_t *restrict a, uint32_t *restrict b, uint32_t *restrict c,
                                                       uint32_t *restrict d, const size_t states)
{
    for (size_t i = 0; i < n; i++) {
        const uint32_t bit = g[i] & 1u;
        p[i] ^= bit;
        if (states > 0)
            a[i] ^= bit;
        if (states > 1)
            b[i] ^= bit;
        if (states > 2)
            c[i] ^= bit;
        if (states > 3)
            d[i] ^= bit;
    }
}

/* The end of piece `part` when `n` elements are cut into `parts` even pieces that begin on cache lines. */
static size_t cut(size_t n, size_t part, size_t parts)
{
    return part == parts ? n : n / LINE * part / parts * LINE;
}

static void *work(void *argument)
{
    const share *s = argument;
    for (size_t r = 0; r < s->repeats; r++)
        for (size_t t = 0; t < s->count; t++) {
            const tensor *x = &s->tensors[t];
            const size_t from = cut(x->n, s->part, s->parts), n = cut(x->n, s->part + 1, s->parts) - from;
            uint32_t *at[2 + MAX_STATES];
            for (size_t k = 0; k < 2 + MAX_STATES; k++)
                at[k] = k < 2 + s->states ? x->buffer[k] + from : NULL;
            switch (s->states) {
            case 0: pass(n, at[0], at[1], at[2], at[3], at[4], at[5], 0); break;
            case 1: pass(n, at[0], at[1], at[2], at[3], at[4], at[5], 1); break;
            case 2: pass(n, at[0], at[1], at[2], at[3], at[4], at[5], 2); break;
            case 3: pass(n, at[0], at[1], at[2], at[3], at[4], at[5], 3); break;
            default: pass(n, at[0], at[1], at[2], at[3], at[4], at[5], 4); break;
            }
            __asm__ volatile("" ::: "memory"); /* keeps the compiler from cancelling two repeats */
        }
    return NULL;
}

/*
 * `repeats` passes over all tensors on `threads` threads, each with its own part of every tensor. The threads are
 * started and joined in the call and do not wait for one another in between: a bound, not a scheme to use.
 * Returns 0, or 1 if the arguments are out of range or a thread does not start.
 */
int roofline(size_t count, const tensor *tensors, size_t states, size_t threads, size_t repeats)
{
    pthread_t thread[MAX_THREADS];
    share shares[MAX_THREADS];
    size_t made = 1;
    int error = 0;
    if (states > MAX_STATES || threads < 1 || threads > MAX_THREADS)
        return 1;
    for (size_t i = 0; i < threads; i++)
        shares[i] = (share){tensors, count, states, i, threads, repeats};
    for (; made < threads && !error; made++)
        error = pthread_create(&thread[made], NULL, work, &shares[made]) != 0;
    if (error)
        made--;
    work(&shares[0]);
    for (size_t i = 1; i < made; i++)
        pthread_join(thread[i], NULL);
    return error;
}
