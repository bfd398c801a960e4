/*
 * instantiate.h - all loops for float and double on one instruction set.
 *
 * Included once for each instruction set by fastopt.c, which defines FASTOPT_SET (its name) and
 * FASTOPT_TARGET (the attribute that lets the compiler use it). It includes loops.h for each type. Inside a
 * rule's file these names stand for what changes from one instantiation to the next:
 *
 *     real           float or double
 *     real_sqrt(x)   the square root of a real
 *     T(name)        name, made unique: adam becomes adam_f32_avx2
 *     LOOP, ENTRY    how a loop and the function that chooses among its variants are declared
 */
#define T(name) FASTOPT_PASTE(name, FASTOPT_TYPE, FASTOPT_SET)
#define FASTOPT_PASTE(name, type, set) FASTOPT_PASTE_NOW(name, type, set)
#define FASTOPT_PASTE_NOW(name, type, set) name##_##type##_##set
#define LOOP static inline __attribute__((always_inline)) FASTOPT_TARGET void
#define ENTRY static FASTOPT_TARGET void

#define real float
#define real_sqrt sqrtf
#define FASTOPT_TYPE f32
#include "loops.h"
#undef real
#undef real_sqrt
#undef FASTOPT_TYPE

#define real double
#define real_sqrt sqrt
#define FASTOPT_TYPE f64
#include "loops.h"
#undef real
#undef real_sqrt
#undef FASTOPT_TYPE

#undef T
#undef FASTOPT_PASTE
#undef FASTOPT_PASTE_NOW
#undef LOOP
#undef ENTRY
#undef FASTOPT_SET
#undef FASTOPT_TARGET
