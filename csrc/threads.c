/*
 * threads.c - a small private pool of worker threads.
 *
 * It is not OpenMP because OpenMP's workers spin after each parallel region, which takes the cores from what the caller
 * does next, and because they hang in forked children. A worker of this pool spins for some microseconds and then
 * sleeps. The pool runs one job at a time; a caller that finds it busy runs its job on its own thread. All memory is
 * static, so nothing is allocated, and nothing can be freed while a thread uses it.
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
 * The mode of a thread's floating-point unit: how it rounds, and whether it flushes subnormal numbers to zero. A thread
 * keeps the mode that was set when it was created; so workers take over the mode of their caller for each job, or the
 * bits of a step would depend on which thread runs which piece.
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

/* How often a thread checks the pool before it goes to sleep: for 3 to 10 microseconds. */
enum { SPINS = 200 };

/*
 * `state` of the pool: the upper 16 bits count the workers that may still join the job, the lower ones those working.
 */
enum { ONE_INVITED = 1 << 16, WORKING = ONE_INVITED - 1 };

static struct {
    /* The job. Written by the caller that has made the pool busy, while no worker is working. */
    fastopt_task *task;
    void *context;
    size_t pieces;
    unsigned mode; /* of the caller's floating-point unit */
    /* These have a cache line each, because all threads write to them at once. */
    _Alignas(64) atomic_size_t next; /* the next piece to run */
    _Alignas(64) atomic_uint state;
    _Alignas(64) atomic_int busy; /* whether a caller is using the pool */
    atomic_int sleeping;          /* how many workers sleep */
    atomic_int waiting;           /* whether the caller sleeps until the last worker leaves the job */
    atomic_int stopping;          /* whether the workers are to end */
    int workers;                  /* how many were started; changed only by the caller that uses the pool */
    int prepared_for_fork;
    pthread_mutex_t lock; /* only for sleeping and waking */
    pthread_cond_t wake, finished;
    pthread_t threads[MAX_THREADS];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER, .finished = PTHREAD_COND_INITIALIZER};

/* Runs pieces of the job until none is left. */
static void run_job(void)
{
    for (;;) {
        const size_t piece = atomic_fetch_add_explicit(&pool.next, 1, memory_order_relaxed);
        if (piece >= pool.pieces)
            return;
        pool.task(pool.context, piece);
    }
}

/* ---- What a worker does. ---- */

/* Whether a sleeping worker has to wake up. */
static int must_wake(void)
{
    return atomic_load(&pool.state) >= ONE_INVITED || atomic_load(&pool.stopping);
}

/* Joins the job if more workers are invited to it. */
static int join_job(void)
{
    unsigned state = atomic_load(&pool.state);

    while (state >= ONE_INVITED)
        if (atomic_compare_exchange_weak(&pool.state, &state, state - ONE_INVITED + 1))
            return 1;
    return 0;
}

static void leave_job(void)
{
    if (atomic_fetch_sub(&pool.state, 1) == 1 && atomic_load(&pool.waiting)) {
        pthread_mutex_lock(&pool.lock);
        pthread_cond_signal(&pool.finished);
        pthread_mutex_unlock(&pool.lock);
    }
}

static void sleep_until_woken(void)
{
    for (int i = 0; i < SPINS; i++) {
        if (must_wake())
            return;
        RELAX();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_fetch_add(&pool.sleeping, 1); /* before the last check: the caller reads it after it has posted the job */
    while (!must_wake())
        pthread_cond_wait(&pool.wake, &pool.lock);
    atomic_fetch_sub(&pool.sleeping, 1);
    pthread_mutex_unlock(&pool.lock);
}

static void *worker(void *unused)
{
    (void)unused;
    while (!atomic_load(&pool.stopping)) {
        if (join_job()) {
            set_fp_mode(pool.mode);
            run_job();
            leave_job();
        } else {
            sleep_until_woken();
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

/* In the child there are no workers, and no caller that uses the pool. */
static void after_fork_in_child(void)
{
    static const pthread_cond_t no_waiters = PTHREAD_COND_INITIALIZER;

    pool.workers = 0;
    atomic_store(&pool.state, 0);
    atomic_store(&pool.sleeping, 0);
    atomic_store(&pool.waiting, 0);
    atomic_store(&pool.busy, 0);
    pool.wake = pool.finished = no_waiters; /* the old ones still count waiters that the child does not have */
    pthread_mutex_unlock(&pool.lock);
}

/* Runs when the library is unloaded or the process exits, so that no thread runs code that is no longer there. */
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

/*
 * Starts workers until there are `count`, or as many as the system allows, and returns how many of `count` there are.
 */
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
    sigfillset(&all); /* signals are for the program's own threads, except those that report a fault */
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
    for (int i = 0; i < SPINS; i++) {
        if (!atomic_load(&pool.state))
            return;
        RELAX();
    }
    pthread_mutex_lock(&pool.lock);
    atomic_store(&pool.waiting, 1);
    while (atomic_load(&pool.state))
        pthread_cond_wait(&pool.finished, &pool.lock);
    atomic_store(&pool.waiting, 0);
    pthread_mutex_unlock(&pool.lock);
}

FASTOPT_INTERNAL void fastopt_run_pieces(fastopt_task *task, void *context, size_t pieces, int threads)
{
    int workers = threads < MAX_THREADS ? threads - 1 : MAX_THREADS - 1;

    workers = (size_t)workers < pieces ? workers : (int)pieces - 1;
    if (threads < 2 || pieces < 2 || atomic_exchange(&pool.busy, 1)) {
        run_alone(task, context, pieces);
        return;
    }
    workers = start_workers(workers);
    pool.task = task;
    pool.context = context;
    pool.pieces = pieces;
    pool.mode = fp_mode();
    atomic_store(&pool.next, 0);
    atomic_store(&pool.state, (unsigned)workers * ONE_INVITED);
    wake_workers(workers);
    run_job();
    atomic_fetch_and(&pool.state, WORKING); /* invites no further worker */
    wait_for_workers();
    atomic_store(&pool.busy, 0);
}

#endif
