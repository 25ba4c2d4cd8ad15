/* tile.h: the register block that contractions and attention are built of, and the vectors below it.
 *
 * A tile is up to MLC_TILE_ROWS rows by MLC_TILE_COLUMNS (two vectors) columns of c, held in registers while k runs. Of f32:
 * AVX-512: 14 x 32 of 32 registers. AVX2: 6 x 16 of 16. NEON: 12 x 8 of 32. Elsewhere: 4 x 8. Of f64: half the columns.
 *
 * The kernels compute in mlc_element, which is f32; the files *_f64.c make f64 of the same text, under names of their own.
 *
 * Where MLC_PAIRS is defined, products of bf16 by bf16 are not widened: one instruction multiplies pairs of neighbours in k and adds both
 * products to an f32. mlc_tile_bf16 is the same text over pairs, words of 32 bits.
 */
#ifndef MLC_TILE_H
#define MLC_TILE_H

#include "mlc_kernel.h"

#ifndef MLC_ELEMENT_BYTES
#define MLC_ELEMENT_BYTES 4
#endif

#if MLC_ELEMENT_BYTES == 8
typedef double mlc_element;
typedef int64_t mlc_element_int;
#define MLC_ELEMENT MLC_F64
#define MLC_OF_ELEMENT(name) name##_f64
#else
typedef float mlc_element;
typedef int32_t mlc_element_int;
#define MLC_ELEMENT MLC_F32
#define MLC_OF_ELEMENT(name) name
#endif

#if defined(__AVX512F__)
#include <immintrin.h>
#define MLC_VECTOR_BYTES 64
#define MLC_TILE_ROWS 14
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define MLC_VECTOR_BYTES 32
#define MLC_TILE_ROWS 6
#elif defined(__aarch64__)
#include <arm_neon.h>
#define MLC_VECTOR_BYTES 16
#define MLC_TILE_ROWS 12
#else
#define MLC_VECTOR_BYTES 16
#define MLC_TILE_ROWS 4
#endif
#define MLC_LANES (MLC_VECTOR_BYTES / MLC_ELEMENT_BYTES)
#define MLC_TILE_COLUMNS (2 * MLC_LANES)

/* Zen 4 and 5 multiply pairs at the rate of single f32 products, so twice as fast; the cores that have tiles (AMX) at half that rate, which
 * is no gain. */
#if MLC_ELEMENT_BYTES == 4 && defined(__AVX512BF16__) && !defined(__AMX_TILE__)
#define MLC_PAIRS
#endif

typedef uint32_t mlc_pair __attribute__((may_alias)); /* bf16 of k, an even number, in the low half; of k + 1 in the high one */

typedef mlc_element mlc_vector __attribute__((vector_size(MLC_VECTOR_BYTES)));
typedef mlc_element mlc_vector_unaligned __attribute__((vector_size(MLC_VECTOR_BYTES), aligned(MLC_ELEMENT_BYTES), may_alias));

typedef mlc_element_int mlc_vector_int __attribute__((vector_size(MLC_VECTOR_BYTES))); /* what comparisons give: 0 or -1 */
typedef mlc_element_int mlc_vector_int_unaligned __attribute__((vector_size(MLC_VECTOR_BYTES), aligned(MLC_ELEMENT_BYTES), may_alias));

/* Bytes of an element in memory; of what the kernels do not read, 0. */
MLC_INLINE int64_t mlc_element_bytes(int dtype)
{
    switch (dtype) {
    case MLC_F64:
        return 8;
    case MLC_F32:
        return 4;
    case MLC_BF16:
        return 2;
    default:
        return 0;
    }
}

/* Whether lines so many elements apart share few sets of a cache, so that a panel of them is not kept. */
MLC_INLINE int mlc_collides(int64_t stride)
{
    enum { WAY = 4096, NEAR = 256 };
    const int64_t bytes = stride * MLC_ELEMENT_BYTES, apart = bytes % WAY;
    return bytes >= WAY / 4 && (apart < NEAR || apart > WAY - NEAR);
}

MLC_INLINE mlc_vector mlc_vector_load(const mlc_element *x)
{
    return *(const mlc_vector_unaligned *)x;
}

MLC_INLINE mlc_vector_int mlc_vector_load_int(const mlc_element_int *x)
{
    return *(const mlc_vector_int_unaligned *)x;
}

MLC_INLINE void mlc_vector_store(mlc_element *x, mlc_vector v)
{
    *(mlc_vector_unaligned *)x = v;
}

MLC_INLINE mlc_vector mlc_vector_of(mlc_element x)
{
    return x - (mlc_vector){0};
}

/* a * b + c, rounded once where the target has such an instruction */
MLC_INLINE mlc_vector mlc_vector_fma(mlc_vector a, mlc_vector b, mlc_vector c)
{
#if defined(__AVX512F__) && MLC_ELEMENT_BYTES == 8
    return _mm512_fmadd_pd(a, b, c);
#elif defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__) && MLC_ELEMENT_BYTES == 8
    return _mm256_fmadd_pd(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__) && MLC_ELEMENT_BYTES == 8
    return vfmaq_f64(c, a, b);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

/* mask ? a : b */
MLC_INLINE mlc_vector mlc_vector_select(mlc_vector_int mask, mlc_vector a, mlc_vector b)
{
#if defined(__AVX512F__) && MLC_ELEMENT_BYTES == 8
    return _mm512_mask_mov_pd(b, _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask), a);
#elif defined(__AVX512F__)
    return _mm512_mask_mov_ps(b, _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask), a);
#else
    return (mlc_vector)((mask & (mlc_vector_int)a) | (~mask & (mlc_vector_int)b));
#endif
}

/* a > b ? a : b */
MLC_INLINE mlc_vector mlc_vector_larger(mlc_vector a, mlc_vector b)
{
#if defined(__AVX512F__) && MLC_ELEMENT_BYTES == 8
    return _mm512_max_pd(a, b);
#elif defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#else
    return mlc_vector_select(a > b, a, b);
#endif
}

/* x < least ? 0 : p * 2^n, for integers n; where x is not less, no bit of the result is lost. */
MLC_INLINE mlc_vector mlc_vector_times_power(mlc_vector p, mlc_vector n, mlc_vector x, mlc_element least)
{
#if defined(__AVX512F__) && MLC_ELEMENT_BYTES == 8
    return _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(x, mlc_vector_of(least), _CMP_NLT_UQ), p, n);
#elif defined(__AVX512F__)
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, mlc_vector_of(least), _CMP_NLT_UQ), p, n);
#elif MLC_ELEMENT_BYTES == 8
    const mlc_vector_int power = ((mlc_vector_int)(n + MLC_ROUNDER_DOUBLE) - (mlc_vector_int)mlc_vector_of(MLC_ROUNDER_DOUBLE) + 1023) << 52;
    return mlc_vector_select(x < least, mlc_vector_of(0), p * (mlc_vector)power);
#else
    const mlc_vector_int power = ((mlc_vector_int)(n + MLC_ROUNDER) - (mlc_vector_int)mlc_vector_of(MLC_ROUNDER) + 127) << 23;
    return mlc_vector_select(x < least, mlc_vector_of(0), p * (mlc_vector)power);
#endif
}

/* begin, begin + 1, ... */
MLC_INLINE mlc_vector_int mlc_vector_count(int32_t begin)
{
    mlc_vector_int v;
    for (int i = 0; i < MLC_LANES; i++)
        v[i] = i;
    return v + begin;
}

#if MLC_ELEMENT_BYTES == 8

/* mlc_exp_f64 for x <= 700; 0 below -708, so that no result is subnormal. NaN of NaN. */
MLC_INLINE mlc_vector mlc_vector_exp(mlc_vector x)
{
    const mlc_vector rounder = mlc_vector_of(MLC_ROUNDER_DOUBLE);
    const mlc_vector shifted = mlc_vector_fma(x, mlc_vector_of(MLC_LOG2E_F64), rounder), n = shifted - rounder;
    mlc_vector r = mlc_vector_fma(n, mlc_vector_of(-MLC_LN2_HIGH_F64), x);
    r = mlc_vector_fma(n, mlc_vector_of(-MLC_LN2_LOW_F64), r);
    mlc_vector p = mlc_vector_of(MLC_EXP_F64(13));
    for (int i = 12; i >= 2; i--)
        p = mlc_vector_fma(p, r, mlc_vector_of(MLC_EXP_F64(i)));
    p = mlc_vector_fma(p, r * r, r) + 1.0;
    return mlc_vector_times_power(p, n, x, -708.0);
}

#else

/* mlc_exp for x <= 80; 0 below -87, so that no result is subnormal. NaN of NaN. */
MLC_INLINE mlc_vector mlc_vector_exp(mlc_vector x)
{
    const mlc_vector rounder = mlc_vector_of(MLC_ROUNDER);
    const mlc_vector shifted = mlc_vector_fma(x, mlc_vector_of(0x1.715476p0f), rounder), n = shifted - rounder;
    mlc_vector r = mlc_vector_fma(n, mlc_vector_of(-0x1.62e4p-1f), x);
    r = mlc_vector_fma(n, mlc_vector_of(-0x1.7f7d1cp-20f), r);
    mlc_vector p = mlc_vector_of(0.000198527617612853646278381f);
    p = mlc_vector_fma(p, r, mlc_vector_of(0.00139304355252534151077271f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.00833336077630519866943359f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.0416664853692054748535156f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.166666671633720397949219f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.5f));
    p = mlc_vector_fma(p, r * r, r) + 1.0f;
    return mlc_vector_times_power(p, n, x, -87.0f);
}

#endif

/* Memory that is packed soon: runs of cache lines, run i from x + offsets[i] * size on. Tiles fetch it into the second cache line by
 * line while they multiply; fetched at once it would hold up what they read themselves. */
typedef struct mlc_ahead {
    const char *x;
    const int64_t *offsets; /* of the runs that are left */
    int64_t runs, lines;    /* runs that are left; lines of each run */
    int64_t line;           /* the next one, of the first run that is left */
    int64_t size;           /* bytes of an element */
} mlc_ahead;

/* c[i * c_pitch + j] = sum of a[i * a_row + k * a_pitch] * b[k * b_pitch + j] over 0 <= k < depth, in ascending k from 0;
 * with `add`, that sum is added to c. i < rows, j < vectors * MLC_LANES; 1 <= rows <= MLC_TILE_ROWS, vectors is 1 or 2.
 * No alignment is needed. c overlaps neither a nor b. `ahead`: what to fetch meanwhile, brought up to date; or NULL. */
void MLC_OF_ELEMENT(mlc_tile)(int rows, int vectors, int64_t depth, const mlc_element *a, int64_t a_row, int64_t a_pitch,
    const mlc_element *b, int64_t b_pitch, mlc_element *c, int64_t c_pitch, int add, mlc_ahead *ahead);

#ifdef MLC_PAIRS
/* The same of pairs: strides and depth count these. Subnormal numbers are taken and given for 0. */
void mlc_tile_bf16(int rows, int vectors, int64_t depth, const mlc_pair *a, int64_t a_row, int64_t a_pitch, const mlc_pair *b,
    int64_t b_pitch, float *c, int64_t c_pitch, int add, mlc_ahead *ahead);
#endif

#endif
