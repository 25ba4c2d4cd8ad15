/* mlc_math.h: scalar functions that compilers vectorise.
 *
 * Every function is free of branches, tables and calls, so that a loop marked MLC_SIMD around it becomes vector code; fused
 * multiply-add is written out, so the bits do not depend on the compiler's choice (build with -ffp-contract=off).
 * Errors, over all floats: exp, log, log1p, tanh, sigmoid, erf, sin, cos, pow at most 2 ulp (tests/test_math.c measures them).
 * Infinities, NaNs, signed zeros and subnormals are those of IEEE 754 and C99 annex F; no function reads or sets the mode.
 */
#ifndef MLC_MATH_H
#define MLC_MATH_H

#include <stdint.h>

#ifndef MLC_INLINE /* mlc_cuda.h makes them device functions too */
#define MLC_INLINE static inline __attribute__((always_inline, unused))
#endif

MLC_INLINE uint32_t mlc_bits(float x)
{
    uint32_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

MLC_INLINE float mlc_float(uint32_t u)
{
    float x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

MLC_INLINE uint64_t mlc_bits64(double x)
{
    uint64_t u;
    __builtin_memcpy(&u, &x, sizeof u);
    return u;
}

MLC_INLINE double mlc_double(uint64_t u)
{
    double x;
    __builtin_memcpy(&x, &u, sizeof x);
    return x;
}

/* f32 <-> bf16 and f16, as bits. To the nearest, ties to even; overflow to infinity; NaN stays a quiet NaN. */

MLC_INLINE float mlc_f32_of_bf16(uint16_t h)
{
    return mlc_float((uint32_t)h << 16);
}

MLC_INLINE uint16_t mlc_bf16_of_f32(float x)
{
    const uint32_t u = mlc_bits(x);
    const uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return (uint16_t)(x != x ? (u >> 16) | 0x40u : rounded);
}

MLC_INLINE float mlc_f32_of_f16(uint16_t h)
{
    const uint32_t shifted = ((uint32_t)h & 0x7FFFu) << 13;
    const uint32_t exponent = shifted & 0x0F800000u;
    const uint32_t normal = shifted + (112u << 23);
    const uint32_t special = normal + (112u << 23);
    const float subnormal = mlc_float(normal + (1u << 23)) - 0x1p-14f;
    const uint32_t magnitude = exponent == 0x0F800000u ? special : exponent == 0 ? mlc_bits(subnormal) : normal;
    return mlc_float(magnitude | ((uint32_t)h & 0x8000u) << 16);
}

MLC_INLINE uint16_t mlc_f16_of_f32(float x)
{
    const uint32_t u = mlc_bits(x), sign = u & 0x80000000u, m = u ^ sign;
    const uint32_t special = m > 0x7F800000u ? 0x7E00u | ((m >> 13) & 0x3FFu) : 0x7C00u;
    const uint32_t small = m < 0x38800000u ? m : 0;
    const uint32_t subnormal = mlc_bits(mlc_float(small) + 0.5f) - 0x3F000000u;
    const uint32_t normal = (m - (112u << 23) + 0xFFFu + ((m >> 13) & 1u)) >> 13;
    const uint32_t magnitude = m >= 0x47800000u ? special : m < 0x38800000u ? subnormal : normal;
    return (uint16_t)(magnitude | sign >> 16);
}

MLC_INLINE float mlc_round_bf16(float x)
{
    return mlc_f32_of_bf16(mlc_bf16_of_f32(x));
}

MLC_INLINE float mlc_round_f16(float x)
{
    return mlc_f32_of_f16(mlc_f16_of_f32(x));
}

/* Simple ones. */

MLC_INLINE float mlc_abs(float x)
{
    return __builtin_fabsf(x);
}

MLC_INLINE float mlc_sqrt(float x)
{
    return __builtin_sqrtf(x);
}

MLC_INLINE float mlc_floor(float x)
{
    return __builtin_floorf(x);
}

/* -1, 0, 1; NaN of NaN. */
MLC_INLINE float mlc_sign(float x)
{
    return x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x == 0.0f ? 0.0f : x;
}

/* NaN when either is NaN. */
MLC_INLINE float mlc_minimum(float a, float b)
{
    const float least = a < b ? a : b; /* b when either is NaN */
    return a != a ? a : least;
}

MLC_INLINE float mlc_maximum(float a, float b)
{
    const float most = a > b ? a : b;
    return a != a ? a : most;
}

/* ---- integers wrap, as in NumPy: what C leaves undefined would let its compiler take checks of indices out ---- */

MLC_INLINE int32_t mlc_add_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a + (uint32_t)b);
}

MLC_INLINE int32_t mlc_sub_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a - (uint32_t)b);
}

MLC_INLINE int32_t mlc_mul_i32(int32_t a, int32_t b)
{
    return (int32_t)((uint32_t)a * (uint32_t)b);
}

MLC_INLINE int32_t mlc_neg_i32(int32_t a)
{
    return (int32_t)(0u - (uint32_t)a);
}

MLC_INLINE int32_t mlc_abs_i32(int32_t a)
{
    return a < 0 ? mlc_neg_i32(a) : a;
}

/* Toward zero; what has no i32, NaN too, is INT32_MIN. */
MLC_INLINE int32_t mlc_i32_of_f32(float x)
{
    const float held = x >= -0x1p31f && x < 0x1p31f ? x : -0x1p31f;
    return (int32_t)held;
}

/* Round to minus infinity; x // 0 = x mod 0 = 0, and INT32_MIN // -1 wraps, as in NumPy. */
MLC_INLINE int32_t mlc_floordiv(int32_t a, int32_t b)
{
    const int32_t d = b == 0 || b == -1 ? 1 : b;
    const int32_t q = a / d - (a % d != 0 && (a ^ d) < 0);
    return b == 0 ? 0 : b == -1 ? (int32_t)(0u - (uint32_t)a) : q;
}

/* The integer nearest to i in [0, n), n > 0. */
MLC_INLINE int32_t mlc_clamp(int32_t i, int32_t n)
{
    return i < 0 ? 0 : i < n ? i : n - 1;
}

MLC_INLINE int32_t mlc_mod(int32_t a, int32_t b)
{
    const int32_t d = b == 0 || b == -1 ? 1 : b;
    const int32_t r = a % d;
    return r != 0 && (r ^ d) < 0 ? r + d : r;
}

/* Adding and subtracting it rounds to an integer; the low bits of the sum hold that integer. */
#define MLC_ROUNDER 0x1.8p23f
#define MLC_ROUNDER_DOUBLE 0x1.8p52

/* 2^i for -126 <= i <= 127 */
MLC_INLINE float mlc_power_of_two(int32_t i)
{
    return mlc_float((uint32_t)(i + 127) << 23);
}

/* e^x = p 2^i with p near 1, for -104 <= x <= 89 */
MLC_INLINE float mlc_exp_parts(float x, int32_t *i)
{
    const float shifted = __builtin_fmaf(x, 0x1.715476p0f, MLC_ROUNDER);
    const float n = shifted - MLC_ROUNDER;
    *i = (int32_t)(mlc_bits(shifted) - mlc_bits(MLC_ROUNDER));
    float r = __builtin_fmaf(n, -0x1.62e4p-1f, x);
    r = __builtin_fmaf(n, -0x1.7f7d1cp-20f, r);
    float p = 0.000198527617612853646278381f;
    p = __builtin_fmaf(p, r, 0.00139304355252534151077271f);
    p = __builtin_fmaf(p, r, 0.00833336077630519866943359f);
    p = __builtin_fmaf(p, r, 0.0416664853692054748535156f);
    p = __builtin_fmaf(p, r, 0.166666671633720397949219f);
    p = __builtin_fmaf(p, r, 0.5f);
    return __builtin_fmaf(p, r * r, r) + 1.0f;
}

MLC_INLINE float mlc_exp(float x)
{
    float y = x > 89.0f ? 89.0f : x;
    y = y < -104.0f ? -104.0f : y;
    int32_t i;
    const float p = mlc_exp_parts(y, &i);
    const int32_t half = i >> 1; /* in two steps: a subnormal result is rounded once */
    return p * mlc_power_of_two(half) * mlc_power_of_two(i - half);
}

/* mlc_exp for -87 <= x <= 88, where no result is subnormal; NaN of NaN */
MLC_INLINE float mlc_exp_normal(float x)
{
    int32_t i;
    const float p = mlc_exp_parts(x, &i);
    return p * mlc_power_of_two(i);
}

/* log(1 + f) for -1/3 <= f <= 1/3 */
MLC_INLINE float mlc_log1p_polynomial(float f)
{
    const float s = f * f;
    float r = -0x1.0aep-3f;
    float t = 0x1.208p-3f;
    r = __builtin_fmaf(r, s, -0x1.f198b2p-4f);
    t = __builtin_fmaf(t, s, 0x1.1e574p-3f);
    r = __builtin_fmaf(r, s, -0x1.55b36cp-3f);
    t = __builtin_fmaf(t, s, 0x1.99d8b2p-3f);
    r = __builtin_fmaf(r, s, -0x1.fffe02p-3f);
    r = __builtin_fmaf(t, f, r);
    r = __builtin_fmaf(r, f, 0x1.5554fap-2f);
    r = __builtin_fmaf(r, f, -0.5f);
    return __builtin_fmaf(r, s, f);
}

MLC_INLINE float mlc_log(float x)
{
    const int subnormal = x < 0x1p-126f;
    const float a = subnormal ? x * 0x1p23f : x;
    const uint32_t exponent = (mlc_bits(a) - 0x3F2AAAABu) & 0xFF800000u;
    const float f = mlc_float(mlc_bits(a) - exponent) - 1.0f; /* a = (1 + f) 2^n, 2/3 <= 1 + f < 4/3 */
    const float n = __builtin_fmaf((float)(int32_t)exponent, 0x1p-23f, subnormal ? -23.0f : 0.0f);
    const float r = __builtin_fmaf(n, 0x1.62e43p-1f, mlc_log1p_polynomial(f));
    const float special = x == 0.0f ? -__builtin_inff() : x < 0.0f ? __builtin_nanf("") : x;
    return x > 0.0f && x < __builtin_inff() ? r : special;
}

MLC_INLINE float mlc_log1p(float x)
{
    const uint32_t exponent = (mlc_bits(1.0f + x) - 0x3F2AAAABu) & 0xFF800000u;
    const float scale = mlc_float(0x40800000u - exponent);                                 /* 4 * 2^-n */
    const float f = __builtin_fmaf(0.25f, x * scale, __builtin_fmaf(0.25f, scale, -1.0f)); /* 1 + x = (1 + f) 2^n */
    const float n = (float)(int32_t)exponent * 0x1p-23f;
    const float r = __builtin_fmaf(n, 0x1.62e43p-1f, mlc_log1p_polynomial(f));
    const float special = x == -1.0f ? -__builtin_inff() : x < -1.0f ? __builtin_nanf("") : x;
    return x > -1.0f && x < __builtin_inff() && x != 0.0f ? r : special;
}

MLC_INLINE float mlc_tanh(float x)
{
    const float t = __builtin_fabsf(x), s = x * x;
    const float near = t > 20.0f ? 20.0f : t; /* from 9.1 on the result is 1 */
    const float large = __builtin_copysignf(1.0f - 2.0f / (mlc_exp_normal(2.0f * near) + 1.0f), x);
    float p = -0x1.96cf62p-8f;
    p = __builtin_fmaf(p, s, 0x1.58828cp-6f);
    p = __builtin_fmaf(p, s, -0x1.b91370p-5f);
    p = __builtin_fmaf(p, s, 0x1.110cb2p-3f);
    p = __builtin_fmaf(p, s, -0x1.55554ap-2f);
    const float small = __builtin_fmaf(p * s, x, x);
    return t > 0.55f ? large : small;
}

MLC_INLINE float mlc_sigmoid(float x)
{
    const float z = mlc_exp(-__builtin_fabsf(x)), d = 1.0f + z, lost = z - (d - 1.0f);
    const float q = (x < 0.0f ? z : 1.0f) / d;
    const float inverse = x < 0.0f ? 1.0f - q : q; /* about 1 / d: takes back the rounding of d */
    return __builtin_fmaf(-q * lost, inverse, q);
}

MLC_INLINE float mlc_erf(float x)
{
    const float a = __builtin_fabsf(x), t = a > 4.0f ? 4.0f : a, s = t * t;
    float r = __builtin_fmaf(-0x1.22p-16f, t, 0x1.91cfb2p-12f);
    const float u = __builtin_fmaf(-0x1.fd1438p-9f, t, 0x1.8d6342p-6f);
    r = __builtin_fmaf(r, s, u);
    r = __builtin_fmaf(r, t, -0x1.b55cb8p-4f);
    r = __builtin_fmaf(r, t, -0x1.450aap-1f);
    r = __builtin_fmaf(r, t, -0x1.079d0cp-3f);
    r = __builtin_fmaf(r, t, -t);
    const float large = __builtin_copysignf(1.0f - mlc_exp_normal(r), x); /* -17 < r <= 0 */
    float p = -0x1.38ep-11f;
    p = __builtin_fmaf(p, s, 0x1.471a58p-8f);
    p = __builtin_fmaf(p, s, -0x1.b691b2p-6f);
    p = __builtin_fmaf(p, s, 0x1.ce1c44p-4f);
    p = __builtin_fmaf(p, s, -0x1.8127p-2f);
    p = __builtin_fmaf(p, s, 0x1.06eba8p-3f);
    const float small = __builtin_fmaf(p, x, x);
    return a > 0.927734375f ? large : small;
}

/* sin and cos of r + quadrant * pi/2, |r| <= pi/4; the result is clamped to [-1, 1]. */
MLC_INLINE float mlc_sin_quadrant(float r, uint32_t quadrant)
{
    const float s = r * r;
    float p = 2.86567956e-6f;
    p = __builtin_fmaf(p, s, -1.98559923e-4f);
    p = __builtin_fmaf(p, s, 8.33338592e-3f);
    p = __builtin_fmaf(p, s, -1.66666672e-1f);
    const float sine = __builtin_fmaf(p, r * s, r);
    float q = 2.44677067e-5f;
    q = __builtin_fmaf(q, s, -1.38877297e-3f);
    q = __builtin_fmaf(q, s, 4.16666567e-2f);
    q = __builtin_fmaf(q, s, -0.5f);
    const float cosine = __builtin_fmaf(q, s, 1.0f);
    const float magnitude = quadrant & 1u ? cosine : sine;
    return mlc_float(mlc_bits(magnitude) ^ (quadrant & 2u) << 30);
}

/* The argument is reduced in double precision by pi/2 in two parts: exact to an ulp of f32 for |x| < 2^50.
 * Beyond it the angle is not reduced: 0 takes its place, so results stay in [-1, 1]. */
MLC_INLINE float mlc_sin_shifted(float x, uint32_t quadrant)
{
    const float y = __builtin_fabsf(x) < 0x1p50f ? x : x - x;
    const double shifted = __builtin_fma((double)y, 0x1.45f306dc9c883p-1, MLC_ROUNDER_DOUBLE);
    const double n = shifted - MLC_ROUNDER_DOUBLE;
    const double r = __builtin_fma(n, -0x1.1a62633145c07p-54, __builtin_fma(n, -0x1.921fb54442d18p0, (double)y));
    return mlc_sin_quadrant((float)r, (uint32_t)mlc_bits64(shifted) + quadrant);
}

MLC_INLINE float mlc_sin(float x)
{
    return x == 0.0f ? x : mlc_sin_shifted(x, 0);
}

MLC_INLINE float mlc_cos(float x)
{
    return mlc_sin_shifted(x, 1);
}

/* log2 of a positive finite double */
MLC_INLINE double mlc_log2_double(double x)
{
    const uint64_t u = mlc_bits64(x);
    const uint64_t exponent = (u - 0x3FE5555555555555u) & 0xFFF0000000000000u;
    const double m = mlc_double(u - exponent); /* 2/3 <= m < 4/3 */
    const double s = (m - 1.0) / (m + 1.0), z = s * s;
    double p = 1.0 / 17;
    p = __builtin_fma(p, z, 1.0 / 15);
    p = __builtin_fma(p, z, 1.0 / 13);
    p = __builtin_fma(p, z, 1.0 / 11);
    p = __builtin_fma(p, z, 1.0 / 9);
    p = __builtin_fma(p, z, 1.0 / 7);
    p = __builtin_fma(p, z, 1.0 / 5);
    p = __builtin_fma(p, z, 1.0 / 3);
    p = __builtin_fma(p, z, 1.0);
    return __builtin_fma(s * p, 0x1.71547652b82fep1, (double)((int32_t)(exponent >> 32) >> 20));
}

/* 2^x for |x| <= 200 */
MLC_INLINE double mlc_exp2_double(double x)
{
    const double shifted = x + MLC_ROUNDER_DOUBLE;
    const double r = (x - (shifted - MLC_ROUNDER_DOUBLE)) * 0x1.62e42fefa39efp-1;
    double p = 1.0 / 3628800;
    p = __builtin_fma(p, r, 1.0 / 362880);
    p = __builtin_fma(p, r, 1.0 / 40320);
    p = __builtin_fma(p, r, 1.0 / 5040);
    p = __builtin_fma(p, r, 1.0 / 720);
    p = __builtin_fma(p, r, 1.0 / 120);
    p = __builtin_fma(p, r, 1.0 / 24);
    p = __builtin_fma(p, r, 1.0 / 6);
    p = __builtin_fma(p, r, 0.5);
    p = __builtin_fma(p, r, 1.0);
    p = __builtin_fma(p, r, 1.0);
    return mlc_double(mlc_bits64(p) + (mlc_bits64(shifted) << 52));
}

MLC_INLINE float mlc_pow(float x, float y)
{
    const float a = __builtin_fabsf(x);
    double t = (double)y * mlc_log2_double((double)a);
    t = t > 160.0 ? 160.0 : t;
    t = t < -160.0 ? -160.0 : t;
    float r = (float)mlc_exp2_double(t);
    const float zero = y > 0.0f ? 0.0f : __builtin_inff();
    const float infinite = y > 0.0f ? __builtin_inff() : 0.0f;
    r = a == 0.0f ? zero : r;
    r = a == __builtin_inff() ? infinite : r;
    r = a == 1.0f ? 1.0f : r;
    const int integer = __builtin_floorf(y) == y;
    const int odd = integer & (__builtin_floorf(0.5f * y) != 0.5f * y);
    r = ((x < 0.0f) & !integer & (a != __builtin_inff())) ? __builtin_nanf("") : r;
    r = odd ? __builtin_copysignf(r, x) : r;
    r = ((x != x) | (y != y)) ? __builtin_nanf("") : r;
    return ((x == 1.0f) | (y == 0.0f)) ? 1.0f : r;
}

#include "mlc_math_f64.h"

#endif
