/* test_math.c: the scalar functions against double precision libm, in units of the last place, over all floats with a stride.
 *
 *   test_math [STRIDE]    default 509; 1 tries every float
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "mlc_kernel.h"

enum { CHUNK = 4096 };

static int failures;

static void check(int claim, const char *what, double x, double got, double wanted)
{
    if (claim)
        return;
    failures++;
    if (failures < 50)
        printf("FAIL %s: x = %a (%g), got %a, wanted %a\n", what, x, x, got, wanted);
}

/* |got - wanted| in ulps of f32 at `wanted`; infinite where they differ in kind. */
static double ulps(float got, double wanted)
{
    const float rounded = (float)wanted;
    if (isnan(wanted) || isnan(got))
        return isnan(wanted) && isnan(got) ? 0 : INFINITY;
    if (isinf(rounded) || isinf(got))
        return got == rounded ? 0 : fabs(wanted) > 0x1.fffffcp127 && fabs(got) > 0x1.fffffcp127f ? 1 : INFINITY;
    int exponent;
    frexp(wanted, &exponent);
    const double ulp = ldexp(1, exponent - 24 < -149 || wanted == 0 ? -149 : exponent - 24);
    return fabs(got - wanted) / ulp;
}

#define UNARY(name)                                                                                                                \
    static void loop_##name(const float *x, float *y)                                                                              \
    {                                                                                                                              \
        MLC_SIMD for (int i = 0; i < CHUNK; i++) y[i] = mlc_##name(x[i]);                                                          \
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

static double sigmoid_double(double x)
{
    return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x));
}

static const struct unary {
    const char *name;
    void (*loop)(const float *, float *);
    double (*meaning)(double);
    double limit;   /* ulps */
    float largest; /* |x| up to which it holds */
} unaries[] = {
    {"exp", loop_exp, exp, 1.1, INFINITY},       {"log", loop_log, log, 1, INFINITY},       {"log1p", loop_log1p, log1p, 1.5, INFINITY},
    {"tanh", loop_tanh, tanh, 2, INFINITY},      {"erf", loop_erf, erf, 1.5, INFINITY},
        {"sigmoid", loop_sigmoid, sigmoid_double, 2, INFINITY},
    {"sin", loop_sin, sin, 1.5, 0x1p30f},        {"cos", loop_cos, cos, 1.5, 0x1p30f},      {"floor", loop_floor, floor, 0, INFINITY},
    {"sqrt", loop_sqrt, sqrt, 0.5, INFINITY},
};

static void test_unary(const struct unary *function, uint32_t stride)
{
    static float x[CHUNK], y[CHUNK];
    double worst = 0, worst_x = 0;
    uint64_t next = 0;
    while (next < 1ull << 32) {
        for (int i = 0; i < CHUNK; i++, next += stride)
            x[i] = mlc_float((uint32_t)next);
        function->loop(x, y);
        for (int i = 0; i < CHUNK; i++) {
            if (fabsf(x[i]) > function->largest)
                continue;
            const double error = ulps(y[i], function->meaning(x[i]));
            check(error <= function->limit, function->name, x[i], y[i], function->meaning(x[i]));
            if (error > worst)
                worst = error, worst_x = x[i];
        }
    }
    printf("%-8s at most %.3f ulp, at %a\n", function->name, worst, worst_x);
}

static const float corners[] = {0.0f,      -0.0f,     1.0f,      -1.0f,      0.5f,       -0.5f,    2.0f,     -2.0f,   3.0f,        -3.0f,
    0.1f,
                                1.5f,      -1.5f,     1e-20f,    -1e-20f,    1e20f,      -1e20f,   0x1p-149f, -0x1p-149f, 0x1p24f,
                                    -0x1p24f, 16777215.0f,
                                0x1.fffffep127f, -0x1.fffffep127f, 88.0f,   89.0f,      -104.0f,  0x1p-126f, INFINITY, -INFINITY, NAN,
                                    0x1.000002p0f};
enum { CORNERS = sizeof corners / sizeof *corners };

static void test_pow(void)
{
    double worst = 0;
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            const float got = mlc_pow(corners[i], corners[j]);
            const double wanted = pow(corners[i], corners[j]);
            check(ulps(got, wanted) <= 1 && (isnan(got) || !signbit(got) == !signbit(wanted)), "pow", corners[i], got, wanted);
        }
    uint64_t state = 1;
    for (int i = 0; i < 4000000; i++) {
        state = mlc_splitmix64(state);
        const float x = mlc_float((uint32_t)state & 0x7FFFFFFFu), y = ldexpf((float)(int32_t)(state >> 32), (int)(state % 40) - 55);
        const double error = ulps(mlc_pow(x, y), pow(x, y));
        check(error <= 1, "pow", x, mlc_pow(x, y), pow(x, y));
        worst = fmax(worst, error);
    }
    printf("pow      at most %.3f ulp\n", worst);
}

static void test_pairs(void)
{
    for (int i = 0; i < CORNERS; i++)
        for (int j = 0; j < CORNERS; j++) {
            const float a = corners[i], b = corners[j], least = mlc_minimum(a, b), most = mlc_maximum(a, b);
            if (isnan(a) || isnan(b)) {
                check(isnan(least) && isnan(most), "minimum, maximum", a, least, NAN);
                continue;
            }
            check(least == fminf(a, b), "minimum", a, least, fminf(a, b));
            check(most == fmaxf(a, b), "maximum", a, most, fmaxf(a, b));
        }
    check(mlc_sign(-3.0f) == -1 && mlc_sign(2.0f) == 1 && mlc_sign(-0.0f) == 0 && isnan(mlc_sign(NAN)), "sign", 0, 0, 0);
    const int32_t integers[] = {0, 1, -1, 2, -2, 7, -7, 3, -3, 100, -100, INT32_MAX, INT32_MIN, INT32_MIN + 1};
    for (unsigned i = 0; i < sizeof integers / 4; i++)
        for (unsigned j = 0; j < sizeof integers / 4; j++) {
            const int32_t a = integers[i], b = integers[j];
            const double quotient = b == 0 ? 0 : floor((double)a / b), remainder = b == 0 ? 0 : a - quotient * b;
            check(mlc_floordiv(a, b) == (quotient == 0x1p31 ? INT32_MIN : quotient), "floordiv", a, mlc_floordiv(a, b), quotient);
            check(mlc_mod(a, b) == remainder, "mod", a, mlc_mod(a, b), remainder);
        }
}

/* Rounding by search: the nearest of the small format's values, ties to the even code. */
static void test_narrow(const char *name, uint16_t (*narrow)(float), float (*widen)(uint16_t), uint32_t infinity)
{
    for (uint32_t code = 0; code < 0x10000; code++) {
        const float x = widen((uint16_t)code);
        const int is_nan = (code & 0x7FFF) > infinity;
        check(isnan(x) == is_nan, name, x, code, 0);
        check(is_nan ? isnan(widen(narrow(x))) : narrow(x) == code, name, x, narrow(x), code);
        if ((code & 0x7FFF) >= infinity - 1)
            continue;
        const double next = widen((uint16_t)(code + 1)), middle = (x + next) / 2;
        const float below = nextafterf((float)middle, x), above = nextafterf((float)middle, (float)next);
        check((float)middle != middle || narrow((float)middle) == code + (code & 1), name, middle, narrow((float)middle),
            code + (code & 1));
        check(narrow(below) == code && narrow(above) == code + 1, name, below, narrow(below), code);
    }
    const float largest = widen((uint16_t)(infinity - 1)), step = largest - widen((uint16_t)(infinity - 2));
    const float tie = largest + step / 2; /* not finite in bf16's case: there nextafter of the largest float */
    check(narrow(tie) == infinity, name, tie, narrow(tie), infinity);
    check(narrow(nextafterf(tie, 0)) == (isinf(tie) ? infinity : infinity - 1), name, tie, narrow(nextafterf(tie, 0)), infinity - 1);
    check(narrow(-INFINITY) == (infinity | 0x8000), name, -INFINITY, narrow(-INFINITY), infinity | 0x8000);
    check(isnan(widen(narrow(mlc_float(0x7F800001u)))) && isnan(widen(narrow(mlc_float(0xFFFFFFFFu)))), name, NAN, 0, 0);
}

static uint16_t narrow_bf16(float x)
{
    return mlc_bf16_of_f32(x);
}

static float widen_bf16(uint16_t h)
{
    return mlc_f32_of_bf16(h);
}

static uint16_t narrow_f16(float x)
{
    return mlc_f16_of_f32(x);
}

static float widen_f16(uint16_t h)
{
    return mlc_f32_of_f16(h);
}

static void test_random(void)
{
    /* Known answers of Random123: philox4x32-10 with zero and with all-ones input. */
    const mlc_random_words zeros = mlc_philox(0, 0, 0, 0, 0), ones = mlc_philox(UINT64_MAX, ~0u, ~0u, ~0u, ~0u);
    check(zeros.w[0] == 0x6627E8D5 && zeros.w[1] == 0xE169C58D && zeros.w[2] == 0xBC57AC4C && zeros.w[3] == 0x9B00DBD8, "philox", 0,
        zeros.w[0], 0x6627E8D5);
    check(ones.w[0] == 0x408F276D && ones.w[1] == 0x41C83B0E && ones.w[2] == 0xA20BC7C6 && ones.w[3] == 0x6D5451FD, "philox", 1,
        ones.w[0], 0x408F276D);
    const mlc_record record = {.seed = 42, .step = 3, .microbatch = 5};
    const mlc_env env = {.record = &record, .microbatch = &record.microbatch, .threads = 1};
    enum { COUNT = 200003 };
    static float x[COUNT];
    mlc_random_fill_normal(x, &env, 7, 2, 1, COUNT);
    double sum = 0, squares = 0;
    for (int i = 0; i < COUNT; i++) {
        const float one = mlc_random_normal(&env, 7, 2, i + 1);
        check(x[i] == one, "fill_normal", i, x[i], one);
        const mlc_random_words w = mlc_random_block(&env, 7, 2, (i + 1) / 4);
        const int pair = ((i + 1) & 2);
        const double r = sqrt(-2 * log(((w.w[pair] >> 8) + 1) * 0x1p-24)), angle = 8 * atan(1) * ((w.w[pair + 1] >> 8) * 0x1p-24);
        const double wanted = r * ((i + 1) & 1 ? sin(angle) : cos(angle));
        check(fabs(x[i] - wanted) <= 4e-7 * (fabs(wanted) + 1e-7), "normal", i, x[i], wanted);
        sum += x[i], squares += (double)x[i] * x[i];
    }
    check(fabs(sum / COUNT) < 0.01 && fabs(squares / COUNT - 1) < 0.01, "normal moments", 0, sum / COUNT, squares / COUNT);
    for (int first = 0; first < 9; first++)
        for (int count = 0; count < 40; count++) {
            mlc_random_fill_uniform(x, &env, 9, 1, first, count);
            for (int i = 0; i < count; i++)
                check(x[i] == mlc_random_uniform(&env, 9, 1, first + i), "fill_uniform", i, x[i], 0);
        }
}

int main(int argc, char **argv)
{
    const uint32_t stride = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 509;
    for (unsigned i = 0; i < sizeof unaries / sizeof *unaries; i++)
        test_unary(unaries + i, stride);
    test_pow();
    test_pairs();
    test_narrow("bf16", narrow_bf16, widen_bf16, 0x7F80);
    test_narrow("f16", narrow_f16, widen_f16, 0x7C00);
    test_random();
    printf(failures ? "%d failures\n" : "math: ok\n", failures);
    return failures != 0;
}
