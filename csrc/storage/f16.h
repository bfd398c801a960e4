/*
 * IEEE 754 binary16. Storing rounds to nearest even, and a NaN stays a NaN. A double is first rounded to float.
 *
 * Loading shifts exponent and fraction to their places in a float and multiplies by 2^112, for the difference of the
 * two exponent biases; this is exact, also for subnormal numbers. Storing a number below 2^-14, the smallest normal
 * one, adds 0.5: the last bit of that sum is worth 2^-24, as the last bit of a subnormal binary16 is, so the addition
 * rounds.
 */
CONVERSION real T(f16_load)(uint16_t x)
{
    const uint32_t sign = (uint32_t)(x & 0x8000u) << 16, rest = (uint32_t)(x & 0x7fffu) << 13;
    const uint32_t finite = fastopt_bits_of(fastopt_float_of(rest) * 0x1p112f);

    /* Infinity and NaN keep their fraction and get the exponent of all ones. */
    return (real)fastopt_float_of(sign | finite | (fastopt_mask(rest >= 0x0f800000u) & 0x7f800000u));
}

CONVERSION uint16_t T(f16_store)(real x)
{
    const uint32_t bits = fastopt_bits_of((float)x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    /* Adding 0x4000 subtracts 112 << 10, the difference of the biases, modulo 2^15. */
    const uint32_t normal = (((rest + 0xfffu + (rest >> 13 & 1u)) >> 13) + 0x4000u) & 0x7fffu;
    const uint32_t small = fastopt_bits_of(fastopt_float_of(rest) + 0.5f) - 0x3f000000u;
    const uint32_t is_small = fastopt_mask(rest < 0x38800000u), is_finite = fastopt_mask(rest < 0x47800000u);
    const uint32_t finite = (small & is_small) | (normal & ~is_small);
    /* Infinity, to which 65520 and more round, or NaN. */
    const uint32_t large = 0x7c00u | (fastopt_mask(rest > 0x7f800000u) & 0x0200u);

    return (uint16_t)(sign | (finite & is_finite) | (large & ~is_finite));
}

#define STORED uint16_t
#define LOAD T(f16_load)
#define STORE T(f16_store)
#define MOVES 0
#define UNPACK T(unpack_f16)
#define PACK T(pack_f16)
#include "../storage_template.h"
