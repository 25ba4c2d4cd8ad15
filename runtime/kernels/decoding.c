/* decoding.c: what a text that is made one time after the other needs: keeping what is new, attention of one query to what is kept.
 *
 * Attention takes the steps of attention.c for its one query, in the same order, so that bits are the same: blocks of keys, sums over a
 * head from 0 on, over keys of a block from 0 on, and blocks joined by the largest score so far.
 */
#include <string.h>

#include "pack.h"

#if MLC_ELEMENT_BYTES == 4

void mlc_append(const mlc_env *env, const mlc_appending *s, const void *kept, const void *added, const int32_t *time, void *to)
{
    if (to != kept) {
        const mlc_range range = mlc_share(env, s->outer * s->times);
        for (int64_t i = range.begin; i < range.end; i++)
            if (i % s->times != *time)
                memcpy((char *)to + i * s->bytes, (const char *)kept + i * s->bytes, (size_t)s->bytes);
    }
    const mlc_range range = mlc_share(env, s->outer);
    for (int64_t i = range.begin; i < range.end; i++)
        memcpy((char *)to + (i * s->times + *time) * s->bytes, (const char *)added + i * s->bytes, (size_t)s->bytes);
}

#endif

enum { KEYS = MLC_KEY_BLOCK, KEY_PITCH = MLC_PITCH(KEYS), VECTORS = KEYS / MLC_LANES, BESIDE = VECTORS < 4 ? VECTORS : 4 };

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static const void *at(const void *x, int dtype, int64_t elements)
{
    return (const char *)x + elements * mlc_element_bytes(dtype);
}

/* One query of one head. Buffers are elements in scratch. */
typedef struct query {
    const mlc_attention *shape;
    mlc_element *q_d;       /* [head] */
    mlc_element *keys_dk;   /* k^T [head][KEY_PITCH] */
    mlc_element *values_ke; /* v [KEYS][MLC_PITCH(value)] */
    mlc_element *p_k;       /* scores, then probabilities times `sum` */
    mlc_element *y_e;       /* y times `sum` [MLC_PITCH(value)] */
    mlc_element most, sum;  /* over the keys so far: largest scaled score; sum of exp(scaled score - most) */
} query;

/* Scaled scores of a block of keys. */
static void take_scores(query *x, const void *k, int64_t keys)
{
    const mlc_attention *s = x->shape;
    const mlc_vector scale = mlc_vector_of((mlc_element)s->scale);
    MLC_OF_ELEMENT(mlc_pack_transposed)(x->keys_dk, KEY_PITCH, k, s->dtype, s->k_time, keys, s->head);
    for (int64_t j = 0; j < keys; j += BESIDE * MLC_LANES) {
        mlc_vector sum[BESIDE] = {{0}};
        for (int64_t d = 0; d < s->head; d++)
            for (int v = 0; v < BESIDE; v++)
                sum[v] = mlc_vector_fma(mlc_vector_load(x->keys_dk + d * KEY_PITCH + j + v * MLC_LANES), mlc_vector_of(x->q_d[d]), sum[v]);
        for (int v = 0; v < BESIDE; v++)
            mlc_vector_store(x->p_k + j + v * MLC_LANES, sum[v] * scale);
    }
}

/* Scores become probabilities. Returns what y so far shrinks by. */
static mlc_element take_softmax(query *x, int64_t keys)
{
    mlc_element most = x->most;
    for (int64_t k = 0; k < keys; k++)
        most = x->p_k[k] > most ? x->p_k[k] : most;
    const mlc_element shift = most == -(mlc_element)__builtin_inff() ? 0 : most;
    const mlc_element shrink = mlc_vector_exp(mlc_vector_of(x->most) - mlc_vector_of(shift))[0];
    for (int64_t k = 0; k < keys; k += MLC_LANES)
        mlc_vector_store(x->p_k + k, mlc_vector_exp(mlc_vector_load(x->p_k + k) - mlc_vector_of(shift)));
    x->sum *= shrink;
    for (int64_t k = 0; k < keys; k++)
        x->sum += x->p_k[k];
    x->most = most;
    return shrink;
}

/* y = shrink y + p v */
static void take_values(query *x, const void *v, int64_t keys, mlc_element shrink, int first)
{
    const mlc_attention *s = x->shape;
    const int64_t pitch = MLC_PITCH(s->value);
    MLC_OF_ELEMENT(mlc_pack_rows)(x->values_ke, pitch, v, s->dtype, s->v_time, keys, s->value);
    for (int64_t e = 0; e < s->value; e += MLC_LANES) {
        mlc_vector sum = {0};
        for (int64_t k = 0; k < keys; k++)
            sum = mlc_vector_fma(mlc_vector_of(x->p_k[k]), mlc_vector_load(x->values_ke + k * pitch + e), sum);
        mlc_vector y = mlc_vector_load(x->y_e + e);
        if (shrink != 1)
            y = y * mlc_vector_of(shrink);
        mlc_vector_store(x->y_e + e, first ? sum : y + sum);
    }
}

/* y divided by its sum, in the dtype of the result */
static void store(const query *x, void *y)
{
    for (int64_t e = 0; e < x->shape->value; e++) {
        const mlc_element value = x->y_e[e] / x->sum;
        if (x->shape->dtype == MLC_BF16)
            ((uint16_t *)y)[e] = mlc_bf16_of_f32((float)value);
        else
            ((mlc_element *)y)[e] = value;
    }
}

static mlc_element *take(mlc_element **scratch, int64_t elements)
{
    mlc_element *taken = *scratch;
    *scratch += elements;
    return taken;
}

void MLC_OF_ELEMENT(mlc_attention_next)(const mlc_env *env, const mlc_attention *s, const void *q, const void *k, const void *v,
    const int32_t *time, void *y)
{
    mlc_element *scratch = (mlc_element *)env->scratch;
    query x = {.shape = s};
    x.q_d = take(&scratch, MLC_PITCH(s->head));
    x.keys_dk = take(&scratch, MLC_PITCH(s->head) * KEY_PITCH);
    x.values_ke = take(&scratch, KEYS * MLC_PITCH(s->value));
    x.p_k = take(&scratch, KEY_PITCH);
    x.y_e = take(&scratch, MLC_PITCH(s->value));
    const int64_t seen = least(*time + 1, s->keys);
    const mlc_range range = mlc_share(env, s->batch * s->heads);
    for (int64_t item = range.begin; item < range.end; item++) {
        const int64_t b = item / s->heads, h = item % s->heads, g = h / (s->heads / s->groups);
        MLC_OF_ELEMENT(mlc_pack_rows)(x.q_d, MLC_PITCH(s->head), at(q, s->dtype, b * s->q_batch + h * s->q_head), s->dtype, s->head, 1, s->head);
        x.most = -(mlc_element)__builtin_inff();
        x.sum = 0;
        for (int64_t key = 0; key < seen; key += KEYS) {
            const int64_t keys = least(KEYS, seen - key);
            take_scores(&x, at(k, s->dtype, b * s->k_batch + g * s->k_head + key * s->k_time), keys);
            const mlc_element shrink = take_softmax(&x, keys);
            take_values(&x, at(v, s->dtype, b * s->v_batch + g * s->v_head + key * s->v_time), keys, shrink, key == 0);
        }
        store(&x, (void *)at(y, s->dtype, b * s->y_batch + h * s->y_head));
    }
}
