/*
 * dispatch.c - the loops on each instruction set, and the choice of one set at run time.
 */
#include "internal.h"

#include <stdatomic.h>
#include <stdlib.h>

/* ---- Every loop on every instruction set. ---- */

#define FASTOPT_TARGET_BASELINE
#if defined(__x86_64__) && defined(__GNUC__)
#define FASTOPT_X86
#define FASTOPT_TARGET_AVX2 __attribute__((target("avx2")))
/* Some tunings of GCC prefer 256 bits even for AVX-512. Clang has no such attribute. */
#if defined(__clang__)
#define FASTOPT_WIDE ""
#else
#define FASTOPT_WIDE ",prefer-vector-width=512"
#endif
#define FASTOPT_TARGET_AVX512 __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw" FASTOPT_WIDE)))
#endif

#include "loops.h"

/* Narrowest first: a machine that has one of them has those before it. */
#define FASTOPT_LOOPS_OF(type, set) \
    {entries_##type##_##set, sum_squares_##type##_##set, multiply_##type##_##set, \
     {NULL, unpack_f32_##type##_##set, unpack_f64_##type##_##set, unpack_f16_##type##_##set, \
      unpack_bf16_##type##_##set}, \
     {NULL, pack_f32_##type##_##set, pack_f64_##type##_##set, pack_f16_##type##_##set, pack_bf16_##type##_##set}}
#define FASTOPT_ALL(set) {#set, {FASTOPT_LOOPS_OF(f32, set), FASTOPT_LOOPS_OF(f64, set)}}
static const fastopt_loop_set sets[] = {
    FASTOPT_ALL(baseline),
#ifdef FASTOPT_X86
    FASTOPT_ALL(avx2),
    FASTOPT_ALL(avx512),
#endif
};

_Static_assert(FASTOPT_F32 == 1 && FASTOPT_F64 == 2 && FASTOPT_F16 == 3 && FASTOPT_BF16 == 4 && FASTOPT_TYPES == 5,
               "the lists of unpack and pack functions are in the order of the types");

/* ---- The choice at run time. ---- */

static int count_available(void)
{
#ifdef FASTOPT_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2"))
        return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512bw"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

/*
 * The set in use: NULL until the first use, and afterwards only if FASTOPT_ISA names none. Threads that choose it at
 * the same time all choose the same one, so the race between them is harmless.
 */
static _Atomic(const fastopt_loop_set *) active;

static const fastopt_loop_set *find_set(const char *name)
{
    const int available = count_available();

    if (!name || !*name)
        return &sets[available - 1];
    for (int i = 0; i < available; i++)
        if (!strcmp(sets[i].name, name))
            return &sets[i];
    return NULL;
}

static __attribute__((noinline)) const fastopt_loop_set *choose_set(void) /* runs once, so it stays out of line */
{
    const fastopt_loop_set *set = find_set(getenv("FASTOPT_ISA"));

    atomic_store_explicit(&active, set, memory_order_relaxed);
    return set;
}

FASTOPT_INTERNAL const fastopt_loop_set *fastopt_active_set(void)
{
    const fastopt_loop_set *set = atomic_load_explicit(&active, memory_order_relaxed);
    return set ? set : choose_set();
}

const char *fastopt_isa(void)
{
    const fastopt_loop_set *set = fastopt_active_set();
    return set ? set->name : NULL;
}

int fastopt_use_isa(const char *name)
{
    const fastopt_loop_set *set = find_set(name && *name ? name : getenv("FASTOPT_ISA"));

    if (!set)
        return FASTOPT_ERR_ISA;
    atomic_store_explicit(&active, set, memory_order_relaxed);
    return FASTOPT_OK;
}

const char *fastopt_available_isa(int index)
{
    return index >= 0 && index < count_available() ? sets[index].name : NULL;
}
