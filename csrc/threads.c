/*
 * threads.c - a small private pool of workers.
 *
 * Not OpenMP, whose workers spin after each region and take the cores from what the caller does next, and hang in
 * forked children. A worker here spins for some microseconds and then sleeps. One job runs at a time; who finds the
 * pool taken does not wait for it but works alone. All memory is static: nothing is allocated, and nothing is freed
 * under a thread.
 */
#if !defined(_POSIX_C_SOURCE) && !defined(_GNU_SOURCE) && !defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L
#endif
#include "internal.h"

#include <stdatomic.h>

#if !defined(FASTOPT_NO_THREADS) && (defined(__unix__) || defined(__APPLE__))
#include <unistd.h>
#if defined(_POSIX_THREADS) && _POSIX_THREADS > 0
#define FASTOPT_POSIX_THREADS
#endif
#endif

enum { MAX_THREADS = 256 };

static atomic_int num_threads = 1;

int fastopt_get_num_threads(void)
{
    return atomic_load_explicit(&num_threads, memory_order_relaxed);
}

void fastopt_set_num_threads(int threads)
{
    threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
    atomic_store_explicit(&num_threads, threads, memory_order_relaxed);
}

static void run_alone(fastopt_task *task, void *context, size_t pieces)
{
    for (size_t i = 0; i < pieces; i++)
        task(context, i);
}

#ifndef FASTOPT_POSIX_THREADS

FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads)
{
    (void)threads;
    run_alone(task, context, pieces);
}

#else

#include <pthread.h>
#include <signal.h>

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__) && defined(__GNUC__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

/*
 * How a thread's floating-point unit rounds and what it makes of subnormal numbers. Workers take over what their caller
 * has set, so that a step's bits do not depend on who does which piece; they would else keep what was set when they began.
 */
#if defined(__SSE2__)
static unsigned fp_mode(void)
{
    return __builtin_ia32_stmxcsr();
}

static void set_fp_mode(unsigned mode)
{
    __builtin_ia32_ldmxcsr(mode);
}
#elif defined(__aarch64__) && defined(__GNUC__)
static unsigned fp_mode(void)
{
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return (unsigned)mode;
}

static void set_fp_mode(unsigned mode)
{
    __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
}
#else
static unsigned fp_mode(void)
{
    return 0;
}

static void set_fp_mode(unsigned mode)
{
    (void)mode;
}
#endif

/* Looks before a thread goes to sleep: 3 to 10 microseconds. */
enum { LOOKS = 200 };

/* `state` of the pool: how many workers may still come to the job, and how many are at it. */
enum { PLACE = 1 << 16, INSIDE = PLACE - 1 };

static struct {
    /* The job. Written by the caller that has the pool, while no worker can be inside. */
    fastopt_task *task;
    void *context;
    size_t pieces;
    unsigned mode; /* of the caller's floating-point unit */
    /* Each in a cache line of its own: all threads write to them at once. */
    _Alignas(64) atomic_size_t next; /* piece */
    _Alignas(64) atomic_uint state;
    _Alignas(64) atomic_int taken; /* by a caller */
    atomic_int sleeping;           /* workers */
    atomic_int waiting;            /* whether the caller sleeps until the last worker leaves */
    atomic_int stopping;
    int workers; /* started; changed by the caller that has the pool */
    int prepared_for_fork;
    pthread_mutex_t lock; /* for sleeping and waking alone */
    pthread_cond_t wake, left;
    pthread_t threads[MAX_THREADS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .left = PTHREAD_COND_INITIALIZER};

static void work(void)
{
    for (;;) {
        const size_t piece = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (piece >= pool.pieces)
            return;
        pool.task(pool.context, piece);
    }
}

/* ---- What a worker does. ---- */

static int wanted(void)
{
    return atomic_load(&pool.state) >= PLACE || atomic_load(&pool.stopping);
}

static int enter(void)
{
    unsigned state = atomic_load(&pool.state);

    while (state >= PLACE)
        if (atomic_compare_exchange_weak(&pool.state, &state, state - PLACE + 1))
            return 1;
    return 0;
}

static void leave(void)
{
    if (atomic_fetch_sub(&pool.state, 1) == 1 && atomic_load(&pool.waiting)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.left);
        pthread_mutex_unlock(&pool.lock);
    }
}

static void sleep_until_wanted(void)
{
    for (int i = 0; i < LOOKS; i++) {
        if (wanted())
            return;
        RELAX();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1); /* before the last look: the caller looks here after it has published */
    while (!wanted())
        pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
}

static void *worker(void *unused)
{
    (void)unused;
    while (!atomic_load(&pool.stopping)) {
        if (enter()) {
            set_fp_mode(pool.mode);
            work();
            leave();
        } else {
            sleep_until_wanted();
        }
    }
    return NULL;
}

/* ---- Start, fork and end. ---- */

static void before_fork(void)
{
    pthread_mutex_lock(&pool.lock);
}

static void after_fork_in_parent(void)
{
    pthread_mutex_unlock(&pool.lock);
}

/* The child has none of the workers, and whoever had the pool is not there either. */
static void after_fork_in_child(void)
{
    static const pthread_cond_t nobody = PTHREAD_COND_INITIALIZER;

    pool.workers = 0;
    atomic_store(&pool.state, 0);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.waiting, 0);
    atomic_store(&pool.taken, 0);
    pool.wake = pool.left = nobody; /* they remember waiters that are gone */
    pthread_mutex_unlock(&pool.lock);
}

/* Runs when the library is unloaded or the process exits: no thread is left in code that goes away. */
__attribute__((destructor)) static void stop_workers(void)
{
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.stopping, 1);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
    for (int i = 0; i < pool.workers; i++)
        pthread_join(pool.threads[i], NULL);
    pool.workers = 0;
}

/* As many workers as wanted, or as there can be. */
static int start_workers(int count)
{
    sigset_t all, before;

    if (count <= pool.workers || atomic_load(&pool.stopping))
        return count <= pool.workers ? count : pool.workers;
    if (!pool.prepared_for_fork) {
        if (pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child))
            return 0;
        pool.prepared_for_fork = 1;
    }
    sigfillset(&all); /* signals are for the program's own threads, but for those that tell of a fault */
    sigdelset(&all, SIGSEGV);
    sigdelset(&all, SIGBUS);
    sigdelset(&all, SIGILL);
    sigdelset(&all, SIGFPE);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (pool.workers < count && !pthread_create(&pool.threads[pool.workers], NULL, worker, NULL))
        pool.workers++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return count < pool.workers ? count : pool.workers;
}

/* ---- What the caller does. ---- */

static void wake_workers(int count)
{
    if (!atomic_load(&pool.sleeping))
        return;
    pthread_mutex_lock(&pool.lock);
    for (int i = 0; i < count; i++)
        pthread_cond_signal(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
}

static void wait_for_workers(void)
{
    for (int i = 0; i < LOOKS; i++) {
        if (!atomic_load(&pool.state))
            return;
        RELAX();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waiting, 1);
    while (atomic_load(&pool.state))
        pthread_cond_wait(&pool.left, &pool.lock);
    atomic_store(&pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
}

FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads)
{
    int helpers = threads < MAX_THREADS ? threads - 1 : MAX_THREADS - 1;

    helpers = (size_t)helpers < pieces ? helpers : (int)pieces - 1;
    if (threads < 2 || pieces < 2 || atomic_exchange(&pool.taken, 1)) {
        run_alone(task, context, pieces);
        return;
    }
    helpers = start_workers(helpers);
    pool.task = task;
    pool.context = context;
    pool.pieces = pieces;
    pool.mode = fp_mode();
    atomic_store(&pool.next, 0);
    atomic_store(&pool.state, (unsigned)helpers * PLACE);
    wake_workers(helpers);
    work();
    atomic_fetch_and(&pool.state, INSIDE); /* who has not come yet need not */
    wait_for_workers();
    atomic_store(&pool.taken, 0);
}

#endif
