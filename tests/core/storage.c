/*
 * storage.c - the conversions between stored types and computed ones. Loading is tried on every 16-bit number; storing
 * on each of them, on the middle between it and the next, and on the neighbours of that middle; both on every
 * instruction set and with any strides.
 *
 * The expected results need no rounding: numbers are made with ldexp(), and which of two numbers is nearer is known.
 */
#include "dispatch.c"

#include <stdio.h>

#define MUST(condition) \
    do { \
        if (!(condition)) { \
            printf("storage.c:%d: %s of %s on %s\n", __LINE__, #condition, now, sets[set_now].name); \
            exit(1); \
        } \
    } while (0)

enum { ALL = 1 << 15 }; /* without the sign */

static const struct short_type {
    const char *name;
    int type, places, bias;
} types[] = {{"f16", FASTOPT_F16, 10, 15}, {"bf16", FASTOPT_BF16, 7, 127}};

static const char *now;
static int set_now;

/* The number that these bits stand for, without a sign; for infinity's bits, the number after the largest one. */
static double number_of(const struct short_type *t, int bits)
{
    const int exponent = bits >> t->places, fraction = bits & ((1 << t->places) - 1);

    return exponent ? ldexp((1 << t->places) + fraction, exponent - t->bias - t->places)
                    : ldexp(fraction, 1 - t->bias - t->places);
}

static int infinity_of(const struct short_type *t)
{
    return ((1 << (15 - t->places)) - 1) << t->places;
}

static int is_nan(const struct short_type *t, int bits)
{
    return (bits & 0x7fff) > infinity_of(t);
}

/* ---- Loading. ---- */

static uint16_t stored[2 * ALL];
static float floats[2 * ALL];
static double doubles[2 * ALL];

static void loading(const struct short_type *t)
{
    for (int i = 0; i < 2 * ALL; i++)
        stored[i] = (uint16_t)i;
    sets[set_now].loops[0].unpack[t->type](1, 2 * ALL, (const char *)stored, 0, 2, floats, 2 * ALL);
    sets[set_now].loops[1].unpack[t->type](1, 2 * ALL, (const char *)stored, 0, 2, doubles, 2 * ALL);
    for (int i = 0; i < 2 * ALL; i++) {
        const int bits = i & 0x7fff;
        const double number = bits == infinity_of(t) ? INFINITY : number_of(t, bits), sign = i & 0x8000 ? -1.0 : 1.0;
        if (is_nan(t, i)) {
            MUST(isnan(floats[i]) && isnan(doubles[i]));
        } else {
            MUST(floats[i] == (float)(sign * number) && doubles[i] == sign * number);
            MUST(!signbit(floats[i]) == !(i & 0x8000) && !signbit(doubles[i]) == !(i & 0x8000));
        }
    }
}

/* ---- Storing. ---- */

static void store_all(const struct short_type *t, int type, const void *numbers, uint16_t *out)
{
    sets[set_now].loops[type - FASTOPT_F32].pack[t->type](1, ALL, (char *)out, 0, 2, numbers, ALL);
}

/* Stores x[i] and -x[i] from float and from double: the result must be wanted[i] with the sign, or NaN for a NaN. */
static void storing(const struct short_type *t, const double *x, const uint16_t *wanted)
{
    static uint16_t out[ALL];

    for (int sign = 0; sign < 2; sign++)
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++) {
            for (int i = 0; i < ALL; i++) {
                doubles[i] = sign ? -x[i] : x[i];
                floats[i] = (float)doubles[i];
            }
            store_all(t, type, type == FASTOPT_F32 ? (const void *)floats : doubles, out);
            for (int i = 0; i < ALL; i++)
                MUST(isnan(x[i]) ? is_nan(t, out[i]) : out[i] == (wanted[i] | sign << 15));
        }
}

static void rounding(const struct short_type *t)
{
    static double exact[ALL], middle[ALL], below[ALL], above[ALL], after[ALL];
    static uint16_t same[ALL], next[ALL], even[ALL];
    const int infinite = infinity_of(t);

    for (int i = 0; i < ALL; i++) {
        const int number = i < infinite ? i : 0;
        same[i] = (uint16_t)number;
        next[i] = (uint16_t)(number + 1);
        even[i] = (uint16_t)(number + (number & 1));
        exact[i] = number_of(t, number);
        middle[i] = (exact[i] + number_of(t, number + 1)) / 2; /* no float or double rounds here */
        below[i] = nextafterf((float)middle[i], 0.0f);
        above[i] = nextafterf((float)middle[i], INFINITY);
        after[i] = nextafterf((float)exact[i], INFINITY);
    }
    storing(t, exact, same);
    storing(t, after, same);
    storing(t, below, same);
    storing(t, middle, even);
    storing(t, above, next);
    for (int i = 0; i < ALL; i++) { /* past the largest number, in every binade, and NaN of any kind */
        const uint32_t nan = 0x7f800001u | (uint32_t)i << 8 | (uint32_t)(i & 1);
        exact[i] = i % 128 ? ldexp(1.0 + i / (double)ALL, t->type == FASTOPT_F16 ? 16 + i % 112 : 128) : INFINITY;
        middle[i] = fastopt_float_of(i & 1 ? nan : nan & 0x7f80ffffu);
        same[i] = (uint16_t)infinite;
    }
    storing(t, exact, same);
    storing(t, middle, same);
    for (int i = 0; i < ALL; i++) { /* numbers that are too small for float, too */
        exact[i] = ldexp(1.0 + i / (double)ALL, -160 - i % 900);
        same[i] = 0;
    }
    storing(t, exact, same);
}

/* ---- Strides. ---- */

/* Packs a block into memory with these strides, in elements, and unpacks it; the bytes between must not change. */
static void strides(int type, int stored_type, ptrdiff_t row_stride, ptrdiff_t column_stride)
{
    enum { ROWS = 5, COLUMNS = 19, WIDTH = 23, ROOM = 1 << 14 };
    const fastopt_loops *loops = &sets[set_now].loops[type - FASTOPT_F32];
    static _Alignas(8) char memory[ROOM], marked[ROOM];
    const size_t item = stored_type == FASTOPT_F64 ? 8 : stored_type == FASTOPT_F32 ? 4 : 2;
    const size_t computed = type == FASTOPT_F64 ? 8 : 4;
    const char *const numbers = type == FASTOPT_F64 ? (const char *)doubles : (const char *)floats;
    char *const origin = memory + ROOM / 2;
    double back[ROWS * WIDTH] = {0};

    for (int i = 0; i < ROWS * WIDTH; i++) {
        floats[i] = (float)(i + 1);
        doubles[i] = i + 1;
    }
    memset(memory, 0xA5, sizeof memory);
    row_stride *= (ptrdiff_t)item;
    column_stride *= (ptrdiff_t)item;
    loops->pack[stored_type](ROWS, COLUMNS, origin, row_stride, column_stride, numbers, WIDTH);
    loops->unpack[stored_type](ROWS, COLUMNS, origin, row_stride, column_stride, back, WIDTH);
    memset(marked, 0xA5, sizeof marked);
    for (int r = 0; r < ROWS; r++)
        for (int c = 0; c < COLUMNS; c++) {
            const ptrdiff_t place = r * row_stride + c * column_stride;
            const size_t same = (size_t)(r * WIDTH + c) * computed;
            memcpy(marked + ROOM / 2 + place, origin + place, item);
            MUST(!memcmp((char *)back + same, numbers + same, computed));
        }
    MUST(!memcmp(memory, marked, sizeof memory));
    for (int r = 0; r < ROWS; r++)
        for (size_t k = COLUMNS * computed; r < ROWS - 1 && k < WIDTH * computed; k++)
            MUST(((char *)back)[(size_t)r * WIDTH * computed + k] == 0);
}

int main(void)
{
    static const ptrdiff_t all[][2] = {{19, 1},  {40, 1}, {-40, 1},  {1, 5},  {1, 7},
                                       {-1, -7}, {40, 2}, {-40, -2}, {1, -5}, {60, -3}};

    for (set_now = 0; fastopt_available_isa(set_now); set_now++) {
        for (size_t k = 0; k < sizeof types / sizeof *types; k++) {
            now = types[k].name;
            loading(&types[k]);
            rounding(&types[k]);
        }
        now = "strides";
        for (int type = FASTOPT_F32; type <= FASTOPT_F64; type++)
            for (int stored_type = FASTOPT_F32; stored_type <= FASTOPT_BF16; stored_type++)
                for (size_t k = 0; k < sizeof all / sizeof *all; k++)
                    strides(type, stored_type, all[k][0], all[k][1]);
    }
    printf("ok\n");
    return 0;
}
