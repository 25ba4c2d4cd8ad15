/* exact.c: see exact.h. */
#include "system/exact.h"

#include <math.h>

#define LOWEST (-1074)

/* Adds a 64-bit word at a bit position and lets the carry run up. */
static MLC_ANYWHERE void limbs_add(uint32_t *limbs, uint64_t word, int position)
{
    int limb = position / 32, shift = position % 32;
    uint64_t parts[3] = {(uint32_t)(word << shift), (uint32_t)(word >> (32 - shift)), shift ? word >> (64 - shift) : 0};
    uint64_t carry = 0;
    for (int i = 0; limb + i < MLC_EXACT_LIMBS && (i < 3 || carry); i++) {
        carry += (uint64_t)limbs[limb + i] + (i < 3 ? (uint32_t)parts[i] : 0);
        limbs[limb + i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static MLC_ANYWHERE void negate(mlc_exact *sum)
{
    uint64_t carry = 1;
    for (int i = 0; i < MLC_EXACT_LIMBS; i++) {
        carry += (uint32_t)~sum->limbs[i];
        sum->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

/* A positive number as an integer of 53 bits from a bit position on. */
static MLC_ANYWHERE uint64_t word_of(double x, int *position)
{
    int exponent;
    double fraction = frexp(x, &exponent); /* x = fraction * 2^exponent, fraction in [0.5, 1) */
    uint64_t word = (uint64_t)ldexp(fraction, 53);
    *position = exponent - 53 - LOWEST;
    if (*position < 0) {
        word = *position > -64 ? word >> -*position : 0;
        *position = 0;
    }
    return word;
}

static MLC_ANYWHERE void add_magnitude(mlc_exact *sum, double x)
{
    int position;
    uint64_t word = word_of(x, &position);
    limbs_add(sum->limbs, word, position);
}

MLC_ANYWHERE void mlc_exact_add(mlc_exact *sum, double x)
{
    if (x > 0)
        add_magnitude(sum, x);
    if (x >= 0)
        return;
    negate(sum);
    add_magnitude(sum, -x);
    negate(sum);
}

MLC_ANYWHERE void mlc_exact_merge(mlc_exact *sum, const mlc_exact *other)
{
    uint64_t carry = 0;
    for (int i = 0; i < MLC_EXACT_LIMBS; i++) {
        carry += (uint64_t)sum->limbs[i] + other->limbs[i];
        sum->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

/* Limb i, or 0 below the lowest. */
static MLC_ANYWHERE uint64_t limb_at(const mlc_exact *sum, int i)
{
    return i >= 0 ? sum->limbs[i] : 0;
}

/* Of a sum that is not negative. */
static MLC_ANYWHERE double magnitude(const mlc_exact *sum)
{
    int top = MLC_EXACT_LIMBS - 1;
    while (top >= 0 && !sum->limbs[top])
        top--;
    if (top < 0)
        return 0;
    int lead = __builtin_clz(sum->limbs[top]);
    uint64_t word = limb_at(sum, top) << 32 | limb_at(sum, top - 1);
    uint64_t rest = limb_at(sum, top - 2) << 32;
    if (lead) {
        word = word << lead | rest >> (64 - lead);
        rest <<= lead;
    }
    for (int i = top - 3; i >= 0; i--)
        rest |= sum->limbs[i];
    word |= rest != 0; /* sticky: the word's lowest bit is below half a unit of the f64 it rounds to */
    return ldexp((double)word, 32 * (top - 1) - lead + LOWEST);
}

MLC_ANYWHERE double mlc_exact_value(const mlc_exact *sum)
{
    if (!(sum->limbs[MLC_EXACT_LIMBS - 1] >> 31))
        return magnitude(sum);
    mlc_exact opposite = *sum;
    negate(&opposite);
    return -magnitude(&opposite);
}
