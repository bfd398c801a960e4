/*
 * double, which is rounded where the compute type is float.
 */
CONVERSION real T(f64_load)(double x)
{
    return (real)x;
}

CONVERSION double T(f64_store)(real x)
{
    return (double)x;
}

#define STORED double
#define LOAD T(f64_load)
#define STORE T(f64_store)
#define MOVES 0
#define UNPACK T(unpack_f64)
#define PACK T(pack_f64)
#include "../storage_template.h"
