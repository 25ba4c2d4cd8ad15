/* mlc_math_f64.h: the scalar functions of mlc_math.h for f64. Included by it.
 *
 * They are for telling rounding from error, so they are plain: polynomials of Taylor and fits of erf, no tables. The same rules hold:
 * free of branches and calls, fused multiply-add written out. Errors: exp, log, log1p, tanh, sigmoid, erf, sin, cos at most 3 ulp,
 * pow at most 8 (tests/test_math_f64.c measures them against long double).
 */
#ifndef MLC_MATH_F64_H
#define MLC_MATH_F64_H

MLC_INLINE double mlc_abs_f64(double x)
{
    return __builtin_fabs(x);
}

MLC_INLINE double mlc_sqrt_f64(double x)
{
    return __builtin_sqrt(x);
}

MLC_INLINE double mlc_floor_f64(double x)
{
    return __builtin_floor(x);
}

/* -1, 0, 1; NaN of NaN. */
MLC_INLINE double mlc_sign_f64(double x)
{
    return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : x == 0.0 ? 0.0 : x;
}

/* NaN when either is NaN. */
MLC_INLINE double mlc_minimum_f64(double a, double b)
{
    const double least = a < b ? a : b;
    return a != a ? a : least;
}

MLC_INLINE double mlc_maximum_f64(double a, double b)
{
    const double most = a > b ? a : b;
    return a != a ? a : most;
}

/* Toward zero; what has no i32, NaN too, is INT32_MIN. */
MLC_INLINE int32_t mlc_i32_of_f64(double x)
{
    const double held = x > -0x1.00000002p31 && x < 0x1p31 ? x : -0x1p31;
    return (int32_t)held;
}

#define MLC_LOG2E_F64 0x1.71547652b82fep+0
#define MLC_LN2_HIGH_F64 0x1.62e42fee00000p-1 /* 32 bits: times an exponent it is exact */
#define MLC_LN2_LOW_F64 0x1.a39ef35793c76p-33

/* 1 / i!, 0 <= i <= 13 */
#define MLC_EXP_F64(i)                                                                                                             \
    ((const double[]){1.0, 1.0, 1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720, 1.0 / 5040, 1.0 / 40320, 1.0 / 362880,           \
        1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800}[i])

/* 2^i for -1022 <= i <= 1023 */
MLC_INLINE double mlc_power_of_two_f64(int64_t i)
{
    return mlc_double((uint64_t)(i + 1023) << 52);
}

/* exp(r) - 1 for |r| <= 0.36 */
MLC_INLINE double mlc_expm1_near_f64(double r)
{
    double p = 1.0 / 6227020800;
    p = __builtin_fma(p, r, 1.0 / 479001600);
    p = __builtin_fma(p, r, 1.0 / 39916800);
    p = __builtin_fma(p, r, 1.0 / 3628800);
    p = __builtin_fma(p, r, 1.0 / 362880);
    p = __builtin_fma(p, r, 1.0 / 40320);
    p = __builtin_fma(p, r, 1.0 / 5040);
    p = __builtin_fma(p, r, 1.0 / 720);
    p = __builtin_fma(p, r, 1.0 / 120);
    p = __builtin_fma(p, r, 1.0 / 24);
    p = __builtin_fma(p, r, 1.0 / 6);
    p = __builtin_fma(p, r, 0.5);
    return __builtin_fma(p, r * r, r);
}

MLC_INLINE double mlc_exp_f64(double x)
{
    double y = x > 710.0 ? 710.0 : x;
    y = y < -746.0 ? -746.0 : y;
    const double shifted = __builtin_fma(y, MLC_LOG2E_F64, MLC_ROUNDER_DOUBLE), n = shifted - MLC_ROUNDER_DOUBLE;
    const int64_t i = (int64_t)(mlc_bits64(shifted) - mlc_bits64(MLC_ROUNDER_DOUBLE));
    const double r = __builtin_fma(n, -MLC_LN2_LOW_F64, __builtin_fma(n, -MLC_LN2_HIGH_F64, y));
    const double p = mlc_expm1_near_f64(r) + 1.0;
    const int64_t half = i >> 1; /* in two steps: a subnormal result is rounded once */
    return p * mlc_power_of_two_f64(half) * mlc_power_of_two_f64(i - half);
}

/* With f = m - 1, 2/3 <= m < 4/3, and s = f / (2 + f): log(m) = f - (f^2/2 - s (f^2/2 + this)), s^2 = z. */
MLC_INLINE double mlc_log_series_f64(double z)
{
    double p = 2.0 / 23;
    p = __builtin_fma(p, z, 2.0 / 21);
    p = __builtin_fma(p, z, 2.0 / 19);
    p = __builtin_fma(p, z, 2.0 / 17);
    p = __builtin_fma(p, z, 2.0 / 15);
    p = __builtin_fma(p, z, 2.0 / 13);
    p = __builtin_fma(p, z, 2.0 / 11);
    p = __builtin_fma(p, z, 2.0 / 9);
    p = __builtin_fma(p, z, 2.0 / 7);
    p = __builtin_fma(p, z, 2.0 / 5);
    p = __builtin_fma(p, z, 2.0 / 3);
    return p * z;
}

/* n log 2 + log(1 + f) + c, for a c far below 1 + f */
MLC_INLINE double mlc_log_sum_f64(double n, double f, double c)
{
    const double s = f / (2.0 + f), half = 0.5 * f * f;
    const double rest = __builtin_fma(s, half + mlc_log_series_f64(s * s), __builtin_fma(n, MLC_LN2_LOW_F64, c));
    return __builtin_fma(n, MLC_LN2_HIGH_F64, f - (half - rest));
}

/* The bits of 2^n, above those of 1, of x = m 2^n, 2/3 <= m < 4/3. */
MLC_INLINE uint64_t mlc_exponent_f64(double x)
{
    return (mlc_bits64(x) - 0x3FE5555555555555u) & 0xFFF0000000000000u;
}

MLC_INLINE double mlc_log_f64(double x)
{
    const int subnormal = x < 0x1p-1022;
    const double a = subnormal ? x * 0x1p54 : x;
    const uint64_t exponent = mlc_exponent_f64(a);
    const double f = mlc_double(mlc_bits64(a) - exponent) - 1.0;
    const double n = (double)((int32_t)(exponent >> 32) >> 20) - (subnormal ? 54.0 : 0.0);
    const double special = x == 0.0 ? -__builtin_inf() : x < 0.0 ? __builtin_nan("") : x;
    return x > 0.0 && x < __builtin_inf() ? mlc_log_sum_f64(n, f, 0.0) : special;
}

MLC_INLINE double mlc_log1p_f64(double x)
{
    const double u = 1.0 + x;
    const uint64_t exponent = mlc_exponent_f64(u);
    const double n = (double)((int32_t)(exponent >> 32) >> 20);
    const double lost = x > 1.0 ? 1.0 - (u - x) : x - (u - 1.0); /* 1 + x = u + lost */
    const double f = exponent == 0 ? x : mlc_double(mlc_bits64(u) - exponent) - 1.0;
    const double r = mlc_log_sum_f64(n, f, exponent == 0 ? 0.0 : lost / u);
    const double special = x == -1.0 ? -__builtin_inf() : x < -1.0 ? __builtin_nan("") : x;
    return x > -1.0 && x < __builtin_inf() && x != 0.0 ? r : special;
}

/* e / (e + 2) with e = exp(2 |x|) - 1 */
MLC_INLINE double mlc_tanh_f64(double x)
{
    const double a = __builtin_fabs(x), y = a > 22.0 ? 44.0 : 2.0 * a;
    const double shifted = __builtin_fma(y, MLC_LOG2E_F64, MLC_ROUNDER_DOUBLE), n = shifted - MLC_ROUNDER_DOUBLE;
    const double r = __builtin_fma(n, -MLC_LN2_LOW_F64, __builtin_fma(n, -MLC_LN2_HIGH_F64, y));
    const double power = mlc_power_of_two_f64((int64_t)(mlc_bits64(shifted) - mlc_bits64(MLC_ROUNDER_DOUBLE)));
    const double e = __builtin_fma(mlc_expm1_near_f64(r), power, power - 1.0);
    return x != x ? x : __builtin_copysign(e / (e + 2.0), x);
}

MLC_INLINE double mlc_sigmoid_f64(double x)
{
    const double z = mlc_exp_f64(-__builtin_fabs(x)), d = 1.0 + z, lost = z - (d - 1.0);
    const double q = (x < 0.0 ? z : 1.0) / d;
    const double inverse = x < 0.0 ? 1.0 - q : q;
    return __builtin_fma(-q * lost, inverse, q);
}

/* Below 1: a polynomial of x^2 times x. Above: 1 - exp(-x^2) times a polynomial of (x - 2.5) / (x + 2.5); from 6 on, 1. */
MLC_INLINE double mlc_erf_f64(double x)
{
    const double a = __builtin_fabs(x), t = a > 6.0 ? 6.0 : a, s = t * t, u = (t - 2.5) / (t + 2.5);
    double q = -0x1.aa2d5ed17d342p-20;
    q = __builtin_fma(q, u, -0x1.2bb032d568ee0p-19);
    q = __builtin_fma(q, u, 0x1.f74c7792ffaecp-18);
    q = __builtin_fma(q, u, 0x1.38006c5e8491ep-16);
    q = __builtin_fma(q, u, -0x1.1eafcc284801bp-15);
    q = __builtin_fma(q, u, -0x1.0e4525f30bfc3p-13);
    q = __builtin_fma(q, u, 0x1.def28f2749997p-13);
    q = __builtin_fma(q, u, 0x1.cb3b5c1d1aec7p-11);
    q = __builtin_fma(q, u, -0x1.5a5716b1b771fp-9);
    q = __builtin_fma(q, u, -0x1.05bb2fdf6af31p-8);
    q = __builtin_fma(q, u, 0x1.470ba1f67a1a9p-5);
    q = __builtin_fma(q, u, -0x1.0011543717910p-3);
    q = __builtin_fma(q, u, 0x1.01c11a735cd90p-2);
    q = __builtin_fma(q, u, -0x1.7ca88dec2179fp-2);
    q = __builtin_fma(q, u, 0x1.afbb3f3b7343bp-3);
    const double large = __builtin_copysign(__builtin_fma(-mlc_exp_f64(-s), q, 1.0), x);
    double p = -0x1.ac9585a44fe29p-31;
    p = __builtin_fma(p, s, 0x1.d76af6ca49787p-27);
    p = __builtin_fma(p, s, -0x1.5c131500d3f88p-23);
    p = __builtin_fma(p, s, 0x1.b981d78881a5dp-20);
    p = __builtin_fma(p, s, -0x1.f4ca838adb73bp-17);
    p = __builtin_fma(p, s, 0x1.f9a2be4f731a1p-14);
    p = __builtin_fma(p, s, -0x1.c02db0665e53dp-11);
    p = __builtin_fma(p, s, 0x1.565bccfa44156p-8);
    p = __builtin_fma(p, s, -0x1.b82ce31203772p-6);
    p = __builtin_fma(p, s, 0x1.ce2f21a040f66p-4);
    p = __builtin_fma(p, s, -0x1.812746b0379c1p-2);
    p = __builtin_fma(p, s, 0x1.20dd750429b6dp+0);
    return a > 1.0 ? large : x * p;
}

/* sin and cos of r + quadrant * pi/2, |r| <= pi/4 */
MLC_INLINE double mlc_sin_quadrant_f64(double r, uint64_t quadrant)
{
    const double s = r * r;
    double p = 1.0 / 355687428096000;
    p = __builtin_fma(p, s, -1.0 / 1307674368000);
    p = __builtin_fma(p, s, 1.0 / 6227020800);
    p = __builtin_fma(p, s, -1.0 / 39916800);
    p = __builtin_fma(p, s, 1.0 / 362880);
    p = __builtin_fma(p, s, -1.0 / 5040);
    p = __builtin_fma(p, s, 1.0 / 120);
    p = __builtin_fma(p, s, -1.0 / 6);
    const double sine = __builtin_fma(p, r * s, r);
    double q = -1.0 / 6402373705728000;
    q = __builtin_fma(q, s, 1.0 / 20922789888000);
    q = __builtin_fma(q, s, -1.0 / 87178291200);
    q = __builtin_fma(q, s, 1.0 / 479001600);
    q = __builtin_fma(q, s, -1.0 / 3628800);
    q = __builtin_fma(q, s, 1.0 / 40320);
    q = __builtin_fma(q, s, -1.0 / 720);
    q = __builtin_fma(q, s, 1.0 / 24);
    const double cosine = __builtin_fma(q, s * s, __builtin_fma(-0.5, s, 1.0));
    const double magnitude = quadrant & 1u ? cosine : sine;
    return mlc_double(mlc_bits64(magnitude) ^ (quadrant & 2u) << 62);
}

/* The argument is reduced by pi/2 in three parts: to an ulp of 1 for |x| < 2^50. Beyond it 0 takes its place. */
MLC_INLINE double mlc_sin_shifted_f64(double x, uint64_t quadrant)
{
    const double y = __builtin_fabs(x) < 0x1p50 ? x : x - x;
    const double shifted = __builtin_fma(y, 0x1.45f306dc9c883p-1, MLC_ROUNDER_DOUBLE), n = shifted - MLC_ROUNDER_DOUBLE;
    double r = __builtin_fma(n, -0x1.921fb54442d18p0, y);
    r = __builtin_fma(n, -0x1.1a62633145c07p-54, r);
    r = __builtin_fma(n, 0x1.f1976b7ed8fbcp-110, r);
    return mlc_sin_quadrant_f64(r, mlc_bits64(shifted) + quadrant);
}

MLC_INLINE double mlc_sin_f64(double x)
{
    return x == 0.0 ? x : mlc_sin_shifted_f64(x, 0);
}

MLC_INLINE double mlc_cos_f64(double x)
{
    return mlc_sin_shifted_f64(x, 1);
}

/* |x|^y: log2 of x in two parts, times y in two parts, then 2^ of it. */
MLC_INLINE double mlc_power_f64(double a, double y)
{
    const int subnormal = a < 0x1p-1022;
    const double x = subnormal ? a * 0x1p54 : a;
    const uint64_t exponent = mlc_exponent_f64(x);
    const double f = mlc_double(mlc_bits64(x) - exponent) - 1.0, d = 2.0 + f, d_low = f - (d - 2.0);
    const double s = f / d, s_low = __builtin_fma(-s, d_low, __builtin_fma(-s, d, f)) / d;
    const double z = s * s;
    double p = 2.0 / 23;
    p = __builtin_fma(p, z, 2.0 / 21);
    p = __builtin_fma(p, z, 2.0 / 19);
    p = __builtin_fma(p, z, 2.0 / 17);
    p = __builtin_fma(p, z, 2.0 / 15);
    p = __builtin_fma(p, z, 2.0 / 13);
    p = __builtin_fma(p, z, 2.0 / 11);
    p = __builtin_fma(p, z, 2.0 / 9);
    p = __builtin_fma(p, z, 2.0 / 7);
    p = __builtin_fma(p, z, 2.0 / 5);
    p = __builtin_fma(p, z, 2.0 / 3);
    const double low = __builtin_fma(s * z, p, 2.0 * s_low), high = 2.0 * s; /* log(1 + f) = high + low */
    const double l_high = high * MLC_LOG2E_F64;
    const double l_low = __builtin_fma(high, MLC_LOG2E_F64, -l_high) + __builtin_fma(high, 0x1.777d0ffda0d24p-56, low * MLC_LOG2E_F64);
    const double n = (double)((int32_t)(exponent >> 32) >> 20) - (subnormal ? 54.0 : 0.0);
    const double l = l_high + l_low, rest = l_low - (l - l_high);
    const double sum = n + l, sum_low = (l - (sum - n)) + rest;
    double t = y * sum;
    t = t > 1100.0 ? 1100.0 : t;
    t = t < -1100.0 ? -1100.0 : t;
    const double t_low = __builtin_fabs(t) < 1100.0 ? __builtin_fma(y, sum_low, __builtin_fma(y, sum, -t)) : 0.0;
    const double shifted = t + MLC_ROUNDER_DOUBLE;
    const double r = (t - (shifted - MLC_ROUNDER_DOUBLE)) + t_low;
    const int64_t i = (int64_t)(mlc_bits64(shifted) - mlc_bits64(MLC_ROUNDER_DOUBLE)), half = i >> 1;
    const double e = mlc_expm1_near_f64(r * 0x1.62e42fefa39efp-1) + 1.0;
    return e * mlc_power_of_two_f64(half) * mlc_power_of_two_f64(i - half);
}

MLC_INLINE double mlc_pow_f64(double x, double y)
{
    const double a = __builtin_fabs(x);
    const double zero = y > 0.0 ? 0.0 : __builtin_inf();
    const double infinite = y > 0.0 ? __builtin_inf() : 0.0;
    const double tall = a < 1.0 ? zero : infinite; /* of an infinite y */
    double r = mlc_power_f64(a, y);
    r = __builtin_fabs(y) == __builtin_inf() ? tall : r;
    r = a == 0.0 ? zero : r;
    r = a == __builtin_inf() ? infinite : r;
    r = a == 1.0 ? 1.0 : r;
    const int integer = __builtin_floor(y) == y;
    const int odd = integer & (__builtin_floor(0.5 * y) != 0.5 * y);
    r = ((x < 0.0) & !integer & (a != __builtin_inf())) ? __builtin_nan("") : r;
    r = odd ? __builtin_copysign(r, x) : r;
    r = ((x != x) | (y != y)) ? __builtin_nan("") : r;
    return ((x == 1.0) | (y == 0.0)) ? 1.0 : r;
}

#endif
