/*
 * bfloat16: the upper half of a float. Storing rounds to nearest even, and a NaN stays a NaN. A double is first rounded
 * to float.
 */
CONVERSION real T(bf16_load)(uint16_t x)
{
    return (real)fastopt_float_of((uint32_t)x << 16);
}

CONVERSION uint16_t T(bf16_store)(real x)
{
    const uint32_t bits = fastopt_bits_of((float)x);
    const uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, nan = bits >> 16 | 0x40u;
    const uint32_t is_nan = fastopt_mask((bits & 0x7fffffffu) > 0x7f800000u);

    return (uint16_t)((nan & is_nan) | (rounded & ~is_nan));
}

#define STORED uint16_t
#define LOAD T(bf16_load)
#define STORE T(bf16_store)
#define MOVES 0
#define UNPACK T(unpack_bf16)
#define PACK T(pack_bf16)
#include "../storage_template.h"
