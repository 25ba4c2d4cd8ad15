/* dtype.c: see dtype.h. */
#include "system/dtype.h"

#include "system/exact.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- formats of 16 bits ---- */

float mlc_convert_from_bf16(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

float mlc_convert_from_f16(uint16_t bits)
{
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float magnitude = exponent == 31 ? (fraction ? NAN : INFINITY)
                      : exponent     ? ldexpf((float)(fraction + 1024), exponent - 25)
                                     : ldexpf((float)fraction, -24);
    return bits >> 15 ? -magnitude : magnitude;
}

/* Rounds to a format of `fraction` stored bits and smallest normal exponent `lowest`, whose infinity is `infinity`. */
static uint16_t round_to(double value, int fraction, int lowest, uint16_t infinity)
{
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    if (isnan(value))
        return (uint16_t)(sign | infinity | 1U << (fraction - 1));
    if (value == 0 || isinf(value))
        return (uint16_t)(sign | (value == 0 ? 0 : infinity));
    int exponent = ilogb(value) < lowest ? lowest : ilogb(value);
    uint32_t steps = (uint32_t)nearbyint(ldexp(fabs(value), fraction - exponent)); /* multiples of one unit in the last place */
    uint32_t bits = steps + ((uint32_t)(exponent - lowest) << fraction);           /* a carry runs into the exponent by itself */
    return (uint16_t)(sign | (bits > infinity ? infinity : bits));
}

uint16_t mlc_convert_to_f16(double value)
{
    return round_to(value, 10, -14, 0x7c00);
}

uint16_t mlc_convert_to_bf16(double value)
{
    return round_to(value, 7, -126, 0x7f80);
}

/* ---- elements ---- */

/* load and store of a dtype whose elements are of a C type, through `in` and `out`. */
#define ELEMENTS(dtype, type, in, out)                                                                                             \
    static double load_##dtype(const void *elements, int64_t i)                                                                    \
    {                                                                                                                              \
        type element;                                                                                                              \
        memcpy(&element, (const char *)elements + i * (int64_t)sizeof element, sizeof element);                                    \
        return (double)in(element);                                                                                                \
    }                                                                                                                              \
    static void store_##dtype(void *elements, int64_t i, double value)                                                             \
    {                                                                                                                              \
        type element = (type)out(value);                                                                                           \
        memcpy((char *)elements + i * (int64_t)sizeof element, &element, sizeof element);                                          \
    }
ELEMENTS(f32, float, , )
ELEMENTS(f64, double, , )
ELEMENTS(i32, int32_t, , )
ELEMENTS(bool, uint8_t, , )
ELEMENTS(bf16, uint16_t, mlc_convert_from_bf16, mlc_convert_to_bf16)
ELEMENTS(f16, uint16_t, mlc_convert_from_f16, mlc_convert_to_f16)

/* ---- arrays of wide dtypes ---- */

#define LANES 64

/* The largest of |x| as its bits: those of infinities and NaN are the largest. */
#define ARRAYS(dtype, type, word, infinite)                                                                                        \
    static void add_##dtype(void *restrict sum_, const void *restrict x_, int64_t count)                                           \
    {                                                                                                                              \
        type *restrict sum = sum_;                                                                                                 \
        const type *restrict x = x_;                                                                                               \
        for (int64_t i = 0; i < count; i++)                                                                                        \
            sum[i] += x[i];                                                                                                        \
    }                                                                                                                              \
    static void scale_##dtype(void *x_, double factor_, int64_t count)                                                             \
    {                                                                                                                              \
        type *x = x_;                                                                                                              \
        const type factor = (type)factor_;                                                                                         \
        for (int64_t i = 0; i < count; i++)                                                                                        \
            x[i] *= factor;                                                                                                        \
    }                                                                                                                              \
    static double squares_##dtype(const void *x_, int64_t count)                                                                   \
    {                                                                                                                              \
        const type *x = x_;                                                                                                        \
        double sum = 0;                                                                                                            \
        for (int64_t i = 0; i < count; i++)                                                                                        \
            sum += (double)x[i] * (double)x[i];                                                                                    \
        return sum;                                                                                                                \
    }                                                                                                                              \
    /* Side by side: eight independent chains of additions hide the latency of one. */                                             \
    static void squares_eight_##dtype(const void *x_, double *sums)                                                                \
    {                                                                                                                              \
        const type *x = x_;                                                                                                        \
        double s[8] = {0};                                                                                                         \
        for (int i = 0; i < MLC_BLOCK; i++)                                                                                        \
            for (int b = 0; b < 8; b++) {                                                                                          \
                double v = (double)x[b * MLC_BLOCK + i];                                                                           \
                s[b] += v * v;                                                                                                     \
            }                                                                                                                      \
        memcpy(sums, s, sizeof s);                                                                                                 \
    }                                                                                                                              \
    static word magnitude_##dtype(const char *from, int64_t i)                                                                     \
    {                                                                                                                              \
        word bits;                                                                                                                 \
        memcpy(&bits, from + i * (int64_t)sizeof bits, sizeof bits);                                                               \
        return bits & (word)-1 >> 1;                                                                                               \
    }                                                                                                                              \
    /* Side by side, as many as some registers hold: one chain of comparisons would be as slow as its latency. */                  \
    static bool finite_##dtype(const void *x, int64_t count)                                                                       \
    {                                                                                                                              \
        word highest[LANES] = {0}, bits;                                                                                           \
        int64_t i = 0;                                                                                                             \
        for (; i + LANES <= count; i += LANES)                                                                                     \
            for (int lane = 0; lane < LANES; lane++) {                                                                             \
                bits = magnitude_##dtype(x, i + lane);                                                                             \
                highest[lane] = bits > highest[lane] ? bits : highest[lane];                                                       \
            }                                                                                                                      \
        for (; i < count; i++) {                                                                                                   \
            bits = magnitude_##dtype(x, i);                                                                                        \
            highest[0] = bits > highest[0] ? bits : highest[0];                                                                    \
        }                                                                                                                          \
        for (int lane = 1; lane < LANES; lane++)                                                                                   \
            highest[0] = highest[lane] > highest[0] ? highest[lane] : highest[0];                                                  \
        return highest[0] < (infinite);                                                                                            \
    }
ARRAYS(f32, float, uint32_t, UINT32_C(0x7f800000))
ARRAYS(f64, double, uint64_t, UINT64_C(0x7ff0000000000000))

static void to_bf16_f32(uint16_t *restrict to, const void *restrict x, int64_t count)
{
    const uint32_t *restrict from = x;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits = from[i];
        uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        to[i] = (uint16_t)((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
    }
}

static void to_bf16_f64(uint16_t *restrict to, const void *restrict x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        to[i] = mlc_convert_to_bf16(load_f64(x, i));
}

static const mlc_wide WIDE_F32 = {add_f32, scale_f32, squares_f32, squares_eight_f32, finite_f32, to_bf16_f32, 6, 9};
static const mlc_wide WIDE_F64 = {add_f64, scale_f64, squares_f64, squares_eight_f64, finite_f64, to_bf16_f64, 15, 17};

/* ---- the table ---- */

static const mlc_dtype_row ROWS[MLC_DTYPES] = {
    [MLC_F32] = {"f32", "F32", 4, MLC_KIND_FLOAT, load_f32, store_f32, &WIDE_F32},
    [MLC_BF16] = {"bf16", "BF16", 2, MLC_KIND_FLOAT, load_bf16, store_bf16, NULL},
    [MLC_F16] = {"f16", "F16", 2, MLC_KIND_FLOAT, load_f16, store_f16, NULL},
    [MLC_I32] = {"i32", "I32", 4, MLC_KIND_INTEGER, load_i32, store_i32, NULL},
    [MLC_BOOL] = {"bool", "BOOL", 1, MLC_KIND_BOOL, load_bool, store_bool, NULL},
    [MLC_F64] = {"f64", "F64", 8, MLC_KIND_FLOAT, load_f64, store_f64, &WIDE_F64},
};

const mlc_dtype_row *mlc_dtype_of(int32_t dtype)
{
    return dtype >= 0 && dtype < MLC_DTYPES && ROWS[dtype].name ? &ROWS[dtype] : NULL;
}

const mlc_dtype_row *mlc_dtype_stored(const char *name)
{
    for (int i = 0; i < MLC_DTYPES; i++)
        if (ROWS[i].stored && !strcmp(ROWS[i].stored, name))
            return &ROWS[i];
    return NULL;
}

double mlc_dtype_round(const mlc_dtype_row *dtype, double value)
{
    char element[8];
    dtype->store(element, 0, value);
    return dtype->load(element, 0);
}

void mlc_dtype_print(const mlc_dtype_row *wide, char text[32], double value)
{
    if (!isfinite(value)) {
        snprintf(text, 32, "null");
        return;
    }
    for (int digits = wide->wide->least_digits; digits <= wide->wide->most_digits; digits++) {
        snprintf(text, 32, "%.*g", digits, value);
        if (mlc_dtype_round(wide, strtod(text, NULL)) == value)
            return;
    }
}
