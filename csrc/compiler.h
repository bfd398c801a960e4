/*
 * compiler.h - compiler settings on which the bits of the results and the vectorization of the loops depend.
 */
#ifndef FASTOPT_COMPILER_H
#define FASTOPT_COMPILER_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__FAST_MATH__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fastopt promises the same bits everywhere: compile it without -ffast-math and -ffinite-math-only"
#endif
#if defined(__s390__) && defined(__GNUC__) && !defined(__clang__) && FLT_EVAL_METHOD == 1
#define FASTOPT_EXCESS_PRECISION /* GCC under -std=c11 computes float in double here; see below */
#elif defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16 /* 16: only _Float16 differs */
#error "fastopt needs float arithmetic in float (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

/*
 * Embedders choose the compiler flags, so the settings that the loops rely on are made here. GCC contracts a*b + c to a
 * fused multiply-add unless it is told not to, and ignores the standard's pragma. A conditional vectorizes only if
 * floating-point exceptions do not trap, and a square root only if it need not set errno. A pragma cannot switch off
 * errno, because the attributes of the built-in function are fixed before it is read; declaring the roots const can.
 */
#if defined(__clang__)
#pragma clang fp contract(off) reassociate(off)
#elif defined(__GNUC__)
#pragma GCC optimize("O3", "fp-contract=off", "no-trapping-math", "no-math-errno")
#pragma GCC optimize("no-unsafe-math-optimizations", "no-associative-math", "no-reciprocal-math")
#pragma GCC optimize("signed-zeros")
#ifdef FASTOPT_EXCESS_PRECISION
#pragma GCC optimize("excess-precision=fast") /* FLT_EVAL_METHOD does not show it, so it is tested */
__extension__ _Static_assert(1.0f + FLT_EPSILON / 4 == 1.0f, "fastopt needs float arithmetic in float");
#endif
#endif
#if defined(__GNUC__)
float sqrtf(float) __attribute__((const));
double sqrt(double) __attribute__((const));
#endif

/*
 * FASTOPT_INTERNAL marks functions that the files of the core call in each other: hidden outside the library, and
 * static where all files are compiled as one. FASTOPT_INTERNAL_DATA declares data that one of the files defines.
 */
#ifdef FASTOPT_INTERNAL
#define FASTOPT_INTERNAL_DATA FASTOPT_INTERNAL
#else
#if defined(__GNUC__)
#define FASTOPT_INTERNAL __attribute__((visibility("hidden")))
#else
#define FASTOPT_INTERNAL
#endif
#define FASTOPT_INTERNAL_DATA FASTOPT_INTERNAL extern
#endif

/* The bits of a float, and the float with these bits. */
static inline uint32_t fastopt_bits_of(float x)
{
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float fastopt_float_of(uint32_t bits)
{
    float x;

    memcpy(&x, &bits, sizeof x);
    return x;
}

/* All ones if the condition holds, otherwise 0. A choice by mask is no branch, so a loop with it vectorizes. */
static inline uint32_t fastopt_mask(int condition)
{
    return (uint32_t)-condition;
}

#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Four floats, in a vector register where the machine has them, and four of the eight in a and b, by their indices. */
typedef float fastopt_four __attribute__((vector_size(16)));
#if defined(__clang__)
#define FASTOPT_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t fastopt_four_places __attribute__((vector_size(16)));
#define FASTOPT_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (fastopt_four_places){__VA_ARGS__})
#endif

/*
 * Copies four rows of four floats to four columns. Strides are in bytes. It is written with vectors because GCC does
 * not vectorize a plain loop for it.
 */
ALWAYS_INLINE void fastopt_transpose(const char *from, ptrdiff_t from_stride, char *to, ptrdiff_t to_stride)
{
    fastopt_four in[4];

    for (int i = 0; i < 4; i++)
        memcpy(&in[i], from + i * from_stride, sizeof in[i]);
    {
        const fastopt_four low[2] = {FASTOPT_SHUFFLE(in[0], in[1], 0, 4, 1, 5),
                                     FASTOPT_SHUFFLE(in[2], in[3], 0, 4, 1, 5)};
        const fastopt_four high[2] = {FASTOPT_SHUFFLE(in[0], in[1], 2, 6, 3, 7),
                                      FASTOPT_SHUFFLE(in[2], in[3], 2, 6, 3, 7)};
        const fastopt_four out[4] = {
            FASTOPT_SHUFFLE(low[0], low[1], 0, 1, 4, 5), FASTOPT_SHUFFLE(low[0], low[1], 2, 3, 6, 7),
            FASTOPT_SHUFFLE(high[0], high[1], 0, 1, 4, 5), FASTOPT_SHUFFLE(high[0], high[1], 2, 3, 6, 7)};
        for (int i = 0; i < 4; i++)
            memcpy(to + i * to_stride, &out[i], sizeof out[i]);
    }
}

#endif /* FASTOPT_COMPILER_H */
