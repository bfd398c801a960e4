/*
 * float, which is copied where it is the compute type, too.
 */
CONVERSION real T(f32_load)(float x)
{
    return (real)x;
}

CONVERSION float T(f32_store)(real x)
{
    return (float)x;
}

#define STORED float
#define LOAD T(f32_load)
#define STORE T(f32_store)
#define MOVES (sizeof(real) == sizeof(float))
#define UNPACK T(unpack_f32)
#define PACK T(pack_f32)
#include "../storage_template.h"
