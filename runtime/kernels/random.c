/* random.c: rows of keyed random numbers, four elements to a Philox block. */
#include "mlc_kernel.h"

/* Calls element(n) outside whole blocks, and fills blocks four at a time between them. */
#define MLC_RANDOM_FILL(element, e0, e1, e2, e3)                                                                                   \
    const int64_t end = first + count;                                                                                             \
    const int64_t head = (first + 3) / 4 * 4 < end ? (first + 3) / 4 * 4 : end;                                                    \
    const int64_t tail = head + (end - head) / 4 * 4;                                                                              \
    const mlc_record *record = env->record;                                                                                        \
    const uint64_t key = mlc_splitmix64(record->seed ^ path);                                                                      \
    const uint32_t step = (uint32_t)record->step, microbatch = (uint32_t)*env->microbatch;                                         \
    for (int64_t n = first; n < head; n++)                                                                                         \
        out[n - first] = element(env, path, ordinal, n);                                                                           \
    float *blocks = out + (head - first);                                                                                          \
    const uint32_t block = (uint32_t)(head / 4);                                                                                   \
    MLC_SIMD for (int64_t i = 0; i < (tail - head) / 4; i++)                                                                       \
    {                                                                                                                              \
        const mlc_random_words x = mlc_philox(key, block + (uint32_t)i, ordinal, step, microbatch);                                \
        blocks[4 * i] = e0;                                                                                                        \
        blocks[4 * i + 1] = e1;                                                                                                    \
        blocks[4 * i + 2] = e2;                                                                                                    \
        blocks[4 * i + 3] = e3;                                                                                                    \
    }                                                                                                                              \
    for (int64_t n = tail; n < end; n++)                                                                                           \
        out[n - first] = element(env, path, ordinal, n);

void mlc_random_fill_uniform(float *out, const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t first, int64_t count)
{
    MLC_RANDOM_FILL(mlc_random_uniform, mlc_uniform_of_word(x.w[0]), mlc_uniform_of_word(x.w[1]), mlc_uniform_of_word(x.w[2]),
                    mlc_uniform_of_word(x.w[3]))
}

void mlc_random_fill_normal(float *out, const mlc_env *env, uint64_t path, uint32_t ordinal, int64_t first, int64_t count)
{
    MLC_RANDOM_FILL(mlc_random_normal, mlc_normal_of_words(x.w[0], x.w[1], 1), mlc_normal_of_words(x.w[0], x.w[1], 0),
                    mlc_normal_of_words(x.w[2], x.w[3], 1), mlc_normal_of_words(x.w[2], x.w[3], 0))
}
