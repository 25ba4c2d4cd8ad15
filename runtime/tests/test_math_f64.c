/* test_math_f64.c: the scalar functions of f64 against libm in long double, in units of the last place, over random bits and corners. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "mlc_kernel.h"

enum { CHUNK = 1024, CHUNKS = 400 };

static int failures;

static void check(int claim, const char *what, double x, double got, double wanted)
{
    if (claim)
        return;
    failures++;
    if (failures < 50)
        printf("FAIL %s: x = %a (%g), got %a, wanted %a\n", what, x, x, got, wanted);
}

/* |got - wanted| in ulps of f64 at `wanted`; infinite where they differ in kind. */
static double ulps(double got, long double wanted)
{
    const double rounded = (double)wanted;
    if (isnan(wanted) || isnan(got))
        return isnan(wanted) && isnan(got) ? 0 : INFINITY;
    if (isinf(rounded) || isinf(got))
        return got == rounded || (fabsl(wanted) > DBL_MAX * (1 - 0x1p-50L) && fabs(got) > DBL_MAX * (1 - 0x1p-50)) ? 0 : INFINITY;
    int exponent;
    frexpl(wanted, &exponent);
    const long double ulp = ldexpl(1, exponent - 53 < -1074 || wanted == 0 ? -1074 : exponent - 53);
    return (double)(fabsl(got - wanted) / ulp);
}

#define UNARY(name)                                                                                                                \
    static void loop_##name(const double *x, double *y)                                                                            \
    {                                                                                                                              \
        MLC_SIMD for (int i = 0; i < CHUNK; i++) y[i] = mlc_##name##_f64(x[i]);                                                    \
    }
UNARY(exp)
UNARY(log)
UNARY(log1p)
UNARY(tanh)
UNARY(sigmoid)
UNARY(erf)
UNARY(sin)
UNARY(cos)
UNARY(floor)
UNARY(sqrt)

static long double sigmoid_long(long double x)
{
    return x < 0 ? expl(x) / (1 + expl(x)) : 1 / (1 + expl(-x));
}

static const struct unary {
    const char *name;
    void (*loop)(const double *, double *);
    long double (*meaning)(long double);
    double limit;   /* ulps */
    double largest; /* |x| up to which it holds */
} unaries[] = {
    {"exp", loop_exp, expl, 3, INFINITY},     {"log", loop_log, logl, 3, INFINITY},
    {"log1p", loop_log1p, log1pl, 3, INFINITY}, {"tanh", loop_tanh, tanhl, 3, INFINITY},
    {"erf", loop_erf, erfl, 3, INFINITY},     {"sigmoid", loop_sigmoid, sigmoid_long, 3, INFINITY},
    {"sin", loop_sin, sinl, 3, 0x1p30},       {"cos", loop_cos, cosl, 3, 0x1p30},
    {"floor", loop_floor, floorl, 0, INFINITY}, {"sqrt", loop_sqrt, sqrtl, 0.51, INFINITY},
};

static const double corners[] = {0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 0.1, 1.5, -1.5, 1e-20, -1e-20, 1e20, -1e20,
    0x1p-1074, -0x1p-1074, 0x1p53, -0x1p53, 4503599627370497.0, DBL_MAX, -DBL_MAX, 708.0, 709.5, 710.0, -708.0, -745.0, -746.0, 0x1p-1022,
    INFINITY, -INFINITY, NAN, 0x1.0000000000001p0, 0x1.fffffffffffffp-1, 0.6666666666666666, 1.3333333333333335};
enum { CORNERS = sizeof corners / sizeof *corners };

static uint64_t state = 1;

/* Any bits; or, to see much of the range where something happens, magnitudes near 1. */
static double draw(int any)
{
    state = mlc_splitmix64(state);
    return any ? mlc_double(state) : ldexp((double)(int64_t)state * 0x1p-63, (int)(state >> 7 & 15) - 6);
}

static void test_unary(const struct unary *function)
{
    static double x[CHUNK], y[CHUNK];
    double worst = 0, worst_x = 0;
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        for (int i = 0; i < CHUNK; i++)
            x[i] = chunk == 0 && i < CORNERS ? corners[i] : draw(chunk % 2);
        function->loop(x, y);
        for (int i = 0; i < CHUNK; i++) {
            if (fabs(x[i]) > function->largest)
                continue;
            const long double wanted = function->meaning(x[i]);
            const double error = ulps(y[i], wanted);
            check(error <= function->limit, function->name, x[i], y[i], (double)wanted);
            check(isnan(y[i]) || y[i] != 0 || !signbit(y[i]) == !signbit(wanted), function->name, x[i], y[i], (double)wanted);
            if (error > worst)
                worst = error, worst_x = x[i];
        }
    }
    printf("%-8s at most %.3f ulp, at %a\n", function->name, worst, worst_x);
}

static void test_pow(void)
{
    double worst = 0;
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            const double got = mlc_pow_f64(corners[i], corners[j]);
            const long double wanted = powl(corners[i], corners[j]);
            check(ulps(got, wanted) <= 8 && (isnan(got) || !signbit(got) == !signbit(wanted)), "pow", corners[i], got, (double)wanted);
        }
    for (int i = 0; i < 400000; i++) {
        const double x = fabs(draw(1)), y = draw(0);
        const double error = ulps(mlc_pow_f64(x, y), powl(x, y));
        check(error <= 8, "pow", x, mlc_pow_f64(x, y), y);
        worst = fmax(worst, error);
    }
    printf("pow      at most %.3f ulp\n", worst);
}

static void test_pairs(void)
{
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            const double a = corners[i], b = corners[j], least = mlc_minimum_f64(a, b), most = mlc_maximum_f64(a, b);
            if (isnan(a) || isnan(b)) {
                check(isnan(least) && isnan(most), "minimum, maximum", a, least, NAN);
                continue;
            }
            check(least == fmin(a, b), "minimum", a, least, fmin(a, b));
            check(most == fmax(a, b), "maximum", a, most, fmax(a, b));
        }
    check(mlc_sign_f64(-3.0) == -1 && mlc_sign_f64(2.0) == 1 && mlc_sign_f64(-0.0) == 0 && isnan(mlc_sign_f64(NAN)), "sign", 0, 0, 0);
    const double whole[] = {0.9, -0.9, 2147483647.9, -2147483648.9, 2147483648.0, -2147483649.0, 1e300, NAN, INFINITY};
    const int32_t integers[] = {0, 0, INT32_MAX, INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN, INT32_MIN};
    for (unsigned i = 0; i < sizeof integers / 4; i++)
        check(mlc_i32_of_f64(whole[i]) == integers[i], "i32_of_f64", whole[i], mlc_i32_of_f64(whole[i]), integers[i]);
}

static void test_random(void)
{
    const mlc_record record = {.seed = 42, .step = 3, .microbatch = 5};
    const mlc_env env = {.record = &record, .microbatch = &record.microbatch, .threads = 1};
    for (int i = 0; i < 100003; i++) {
        const mlc_random_words w = mlc_random_block(&env, 7, 2, i / 4);
        const int pair = i & 2;
        const long double r = sqrtl(-2 * logl(((w.w[pair] >> 8) + 1) * 0x1p-24L)), angle = 8 * atanl(1) * ((w.w[pair + 1] >> 8) * 0x1p-24L);
        const long double wanted = r * (i & 1 ? sinl(angle) : cosl(angle));
        const double got = mlc_random_normal_f64(&env, 7, 2, i);
        check(fabsl(got - wanted) <= 1e-15L * (fabsl(wanted) + 1e-3L), "normal", i, got, (double)wanted);
        check(fabs(got - mlc_random_normal(&env, 7, 2, i)) <= 4e-7 * (fabs(got) + 1e-7), "normal", i, got, (double)wanted);
        check(mlc_random_uniform_f64(&env, 9, 1, i) == mlc_random_uniform(&env, 9, 1, i), "uniform", i, 0, 0);
    }
}

int main(void)
{
    for (unsigned i = 0; i < sizeof unaries / sizeof *unaries; i++)
        test_unary(unaries + i);
    test_pow();
    test_pairs();
    test_random();
    printf(failures ? "%d failures\n" : "math_f64: ok\n", failures);
    return failures != 0;
}
