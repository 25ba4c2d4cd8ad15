/* mlc_random.h: keyed random numbers, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
 *
 * No state: element n of a draw is a function of (seed, path, ordinal, step, microbatch, n).
 *   key      the two words of splitmix64(seed ^ path), low word first
 *   counter  (n >> 2, ordinal, step, microbatch), each 32 bits; element n is made from word n & 3 of the result
 *   uniform  (word >> 8) * 2^-24: [0, 1)
 *   normal   words (w0, w1) make elements 4i and 4i + 1, (w2, w3) make 4i + 2 and 4i + 3, by Box and Muller:
 *            u = ((w0 >> 8) + 1) * 2^-24, v = (w1 >> 8) * 2^-24, r = sqrt(-2 log u): r cos 2 pi v, r sin 2 pi v
 */
#ifndef MLC_RANDOM_H
#define MLC_RANDOM_H

#include "mlc_abi.h"
#include "mlc_math.h"

typedef struct mlc_random_words {
    uint32_t w[4];
} mlc_random_words;

MLC_INLINE uint64_t mlc_splitmix64(uint64_t x)
{
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

MLC_INLINE mlc_random_words mlc_philox(uint64_t key, uint32_t c0, uint32_t c1, uint32_t c2, uint32_t c3)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    const mlc_random_words words = {{c0, c1, c2, c3}};
    return words;
}

/* The four words behind elements 4 * block to 4 * block + 3. */
MLC_INLINE mlc_random_words mlc_random_block(const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t block)
{
    const mlc_record *record = env->record;
    const uint64_t key = mlc_splitmix64(record->seed ^ path);
    return mlc_philox(key, (uint32_t)block, ordinal, (uint32_t)record->step, (uint32_t)*env->microbatch);
}

MLC_INLINE float mlc_uniform_of_word(uint32_t word)
{
    return (float)(int32_t)(word >> 8) * 0x1p-24f;
}

/* r cos 2 pi v (turn 1) or r sin 2 pi v (turn 0). The angle is reduced before it is rounded. */
MLC_INLINE float mlc_normal_of_words(uint32_t w0, uint32_t w1, uint32_t turn)
{
    const float r = __builtin_sqrtf(-2.0f * mlc_log((float)(int32_t)((w0 >> 8) + 1u) * 0x1p-24f));
    const uint32_t v = w1 >> 8, quadrant = (v + 0x200000u) >> 22;
    const float angle = (float)((int32_t)v - (int32_t)(quadrant << 22)) * (0x1.921fb6p2f * 0x1p-24f);
    return r * mlc_sin_quadrant(angle, quadrant + turn);
}

/* The same in f64. */
MLC_INLINE double mlc_normal_of_words_f64(uint32_t w0, uint32_t w1, uint32_t turn)
{
    const double r = __builtin_sqrt(-2.0 * mlc_log_f64((double)((w0 >> 8) + 1u) * 0x1p-24));
    const uint32_t v = w1 >> 8, quadrant = (v + 0x200000u) >> 22;
    const double angle = (double)((int32_t)v - (int32_t)(quadrant << 22)) * (0x1.921fb54442d18p2 * 0x1p-24);
    return r * mlc_sin_quadrant_f64(angle, quadrant + turn);
}

MLC_INLINE float mlc_random_uniform(const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t n)
{
    const mlc_random_words x = mlc_random_block(env, path, ordinal, n >> 2);
    const uint32_t low = n & 1 ? x.w[1] : x.w[0], high = n & 1 ? x.w[3] : x.w[2];
    return mlc_uniform_of_word(n & 2 ? high : low);
}

MLC_INLINE float mlc_random_normal(const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t n)
{
    const mlc_random_words x = mlc_random_block(env, path, ordinal, n >> 2);
    return mlc_normal_of_words(n & 2 ? x.w[2] : x.w[0], n & 2 ? x.w[3] : x.w[1], n & 1 ? 0 : 1);
}

/* In f64 a draw has the same uniform numbers, and the normal ones that those of f32 are near. */
MLC_INLINE double mlc_random_uniform_f64(const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t n)
{
    return (double)mlc_random_uniform(env, path, ordinal, n);
}

MLC_INLINE double mlc_random_normal_f64(const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t n)
{
    const mlc_random_words x = mlc_random_block(env, path, ordinal, n >> 2);
    return mlc_normal_of_words_f64(n & 2 ? x.w[2] : x.w[0], n & 2 ? x.w[3] : x.w[1], n & 1 ? 0 : 1);
}

/* out[i] = element first + i, i < count; `out` needs no alignment. Same bits as the functions of one element. */
void mlc_random_fill_uniform(float *out, const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t first, int64_t count);
void mlc_random_fill_normal(float *out, const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t first, int64_t count);

#endif
