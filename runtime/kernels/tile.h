/* tile.h: the register block that contractions and attention are built of, and the vectors below it.
 *
 * A tile is up to MLC_TILE_ROWS rows by MLC_TILE_COLUMNS (two vectors) columns of c, held in registers while k runs.
 * AVX-512: 14 x 32 of 32 registers. AVX2: 6 x 16 of 16. NEON: 12 x 8 of 32. Elsewhere: 4 x 8.
 */
#ifndef MLC_TILE_H
#define MLC_TILE_H

#include "mlc_kernel.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#define MLC_LANES 16
#define MLC_TILE_ROWS 14
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define MLC_LANES 8
#define MLC_TILE_ROWS 6
#elif defined(__aarch64__)
#include <arm_neon.h>
#define MLC_LANES 4
#define MLC_TILE_ROWS 12
#else
#define MLC_LANES 4
#define MLC_TILE_ROWS 4
#endif
#define MLC_TILE_COLUMNS (2 * MLC_LANES)

typedef float mlc_vector __attribute__((vector_size(4 * MLC_LANES)));
typedef float mlc_vector_unaligned __attribute__((vector_size(4 * MLC_LANES), aligned(4), may_alias));

typedef int32_t mlc_vector_int __attribute__((vector_size(4 * MLC_LANES))); /* what comparisons give: 0 or -1 */
typedef int32_t mlc_vector_int_unaligned __attribute__((vector_size(4 * MLC_LANES), aligned(4), may_alias));

MLC_INLINE mlc_vector mlc_vector_load(const float *x)
{
    return *(const mlc_vector_unaligned *)x;
}

MLC_INLINE mlc_vector_int mlc_vector_load_int(const int32_t *x)
{
    return *(const mlc_vector_int_unaligned *)x;
}

MLC_INLINE void mlc_vector_store(float *x, mlc_vector v)
{
    *(mlc_vector_unaligned *)x = v;
}

MLC_INLINE mlc_vector mlc_vector_of(float x)
{
    return x - (mlc_vector){0};
}

/* a * b + c, rounded once where the target has such an instruction */
MLC_INLINE mlc_vector mlc_vector_fma(mlc_vector a, mlc_vector b, mlc_vector c)
{
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__) && defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

/* mask ? a : b */
MLC_INLINE mlc_vector mlc_vector_select(mlc_vector_int mask, mlc_vector a, mlc_vector b)
{
    return (mlc_vector)((mask & (mlc_vector_int)a) | (~mask & (mlc_vector_int)b));
}

/* begin, begin + 1, ... */
MLC_INLINE mlc_vector_int mlc_vector_count(int32_t begin)
{
    mlc_vector_int v;
    for (int i = 0; i < MLC_LANES; i++)
        v[i] = i;
    return v + begin;
}

/* mlc_exp for x <= 80; 0 below -87, so that no result is subnormal. NaN of NaN. */
MLC_INLINE mlc_vector mlc_vector_exp(mlc_vector x)
{
    const mlc_vector rounder = mlc_vector_of(MLC_ROUNDER);
    const mlc_vector shifted = mlc_vector_fma(x, mlc_vector_of(0x1.715476p0f), rounder), n = shifted - rounder;
    const mlc_vector_int power = ((mlc_vector_int)shifted - (mlc_vector_int)rounder + 127) << 23;
    mlc_vector r = mlc_vector_fma(n, mlc_vector_of(-0x1.62e4p-1f), x);
    r = mlc_vector_fma(n, mlc_vector_of(-0x1.7f7d1cp-20f), r);
    mlc_vector p = mlc_vector_of(0.000198527617612853646278381f);
    p = mlc_vector_fma(p, r, mlc_vector_of(0.00139304355252534151077271f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.00833336077630519866943359f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.0416664853692054748535156f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.166666671633720397949219f));
    p = mlc_vector_fma(p, r, mlc_vector_of(0.5f));
    p = mlc_vector_fma(p, r * r, r) + 1.0f;
    return mlc_vector_select(x < -87.0f, mlc_vector_of(0), p * (mlc_vector)power);
}

/* Memory that is packed soon: runs of cache lines, run i from x + offsets[i] * size on. Tiles fetch it into the second cache line by
 * line while they multiply; fetched at once it would hold up what they read themselves. */
typedef struct mlc_ahead {
    const char *x;
    const int64_t *offsets; /* of the runs that are left */
    int64_t runs, lines;    /* runs that are left; lines of each run */
    int64_t line;           /* the next one, of the first run that is left */
    int64_t size;           /* bytes of an element */
} mlc_ahead;

/* c[i * c_pitch + j] = sum of a[k * a_pitch + i] * b[k * b_pitch + j] over 0 <= k < depth, in ascending k from 0;
 * with `add`, that sum is added to c. i < rows, j < vectors * MLC_LANES; 1 <= rows <= MLC_TILE_ROWS, vectors is 1 or 2.
 * No alignment is needed. c overlaps neither a nor b. `ahead`: what to fetch meanwhile, brought up to date; or NULL. */
void mlc_tile(int rows, int vectors, int64_t depth, const float *a, int64_t a_pitch, const float *b, int64_t b_pitch, float *c,
    int64_t c_pitch, int add, mlc_ahead *ahead);

#endif
