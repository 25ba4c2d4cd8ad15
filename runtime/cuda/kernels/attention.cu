/* attention.cu: softmax attention and its gradients (mlc_kernel.h), without a buffer of time x keys.
 *
 * bf16 with heads of up to 128 elements goes on tensor cores (mlc_attention_tiles.h), the rest as follows. A warp takes a query (forward,
 * dq) or a key (dk, dv) and walks the other side in blocks of 32, a lane each: a lane makes one score, then the lanes share out the
 * elements of the sums and take the weights from each other. So sums over keys run in ascending order of keys, those over queries in
 * ascending order of heads of the group, then of queries. f32 throughout; bf16 is rounded once, when it is stored.
 *
 * Bytes moved: a query reads all keys and values that it sees, from the cache where they fit.
 */
#include "mlc_attention_tiles.h"

#define MOST_HEAD 256
#define PARTS (MOST_HEAD / MLC_WARP) /* elements of a head that a lane keeps */

MLC_DEVICE float element(const float *x, int64_t i)
{
    return x[i];
}

MLC_DEVICE float element(const uint16_t *x, int64_t i)
{
    return mlc_f32_of_bf16(x[i]);
}

MLC_DEVICE void put(float *x, int64_t i, float value)
{
    x[i] = value;
}

MLC_DEVICE void put(uint16_t *x, int64_t i, float value)
{
    x[i] = mlc_bf16_of_f32(value);
}

template <class T> MLC_DEVICE float inner(const T *a, const T *b, int64_t n)
{
    float sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum = __builtin_fmaf(element(a, i), element(b, i), sum);
    return sum;
}

/* sum[lane + 32 p] += the lanes' weights times rows `at`, `at + step`, ... of x, of n elements, in the order of lanes. */
template <class T> MLC_DEVICE void add_rows(float (&sum)[PARTS], float weight, const T *x, int64_t step, int count, int64_t n)
{
    for (int i = 0; i < count; i++) {
        const float w = __shfl_sync(MLC_FULL, weight, i);
        for (int p = 0; p < PARTS; p++) {
            const int64_t e = mlc_lane() + p * MLC_WARP;
            if (e < n)
                sum[p] = __builtin_fmaf(w, element(x, i * step + e), sum[p]);
        }
    }
}

template <class T> MLC_DEVICE void put_row(T *to, const float (&sum)[PARTS], float factor, int64_t n)
{
    for (int p = 0; p < PARTS; p++) {
        const int64_t e = mlc_lane() + p * MLC_WARP;
        if (e < n)
            put(to, e, sum[p] * factor);
    }
}

/* One query of one head. */
struct query {
    int64_t batch, head, group, time;
};

MLC_DEVICE query query_of(const mlc_attention &s, int64_t item)
{
    const int64_t head = item / s.time % s.heads;
    return {item / s.time / s.heads, head, head / (s.heads / s.groups), item % s.time};
}

template <class T> MLC_KERNEL_TEMPLATE void __launch_bounds__(256)
forward(const mlc_attention s, const T *q, const T *k, const T *v, const uint8_t *mask, T *y, float *lse)
{
    for (int64_t item = mlc_warp_item(); item < s.batch * s.heads * s.time; item += mlc_warp_items()) {
        const query at = query_of(s, item);
        const T *own = q + at.batch * s.q_batch + at.time * s.q_time + at.head * s.q_head;
        const T *keys = k + at.batch * s.k_batch + at.group * s.k_head, *values = v + at.batch * s.v_batch + at.group * s.v_head;
        const int64_t end = s.causal ? smaller(s.keys, at.time + 1) : s.keys;
        float most = -INFINITY, total = 0, sum[PARTS] = {};
        for (int64_t first = 0; first < end; first += MLC_WARP) {
            const int64_t key = first + mlc_lane();
            const bool seen = sees(s, mask, at.batch, at.time, key);
            const float score = seen ? inner(own, keys + key * s.k_time, s.head) * (float)s.scale : -INFINITY;
            const float greatest = mlc_combine_max(most, mlc_warp_fold_max(score));
            const float shrink = greatest == -INFINITY ? 1.0f : mlc_exp(most - greatest);
            const float weight = seen ? mlc_exp(score - greatest) : 0.0f;
            most = greatest;
            total = total * shrink + mlc_warp_fold_sum(weight);
            for (int p = 0; p < PARTS; p++)
                sum[p] *= shrink;
            add_rows(sum, weight, values + first * s.v_time, s.v_time, smaller(MLC_WARP, end - first), s.value);
        }
        put_row(y + at.batch * s.y_batch + at.time * s.y_time + at.head * s.y_head, sum, 1.0f / total, s.value);
        if (mlc_lane() == 0)
            lse[item] = most + mlc_log(total);
    }
}

/* The weight of a query and a key, and the gradient of their score. */
struct pair {
    float weight, gradient;
};

template <class T> MLC_DEVICE pair pair_of(const mlc_attention &s, const operands<T> &of, const query &at, int64_t key)
{
    if (at.time >= s.time || !sees(s, of.mask, at.batch, at.time, key))
        return {0, 0};
    const T *q = of.q + at.batch * s.q_batch + at.time * s.q_time + at.head * s.q_head;
    const T *k = of.k + at.batch * s.k_batch + key * s.k_time + at.group * s.k_head;
    const T *v = of.v + at.batch * s.v_batch + key * s.v_time + at.group * s.v_head;
    const T *dy = of.dy + at.batch * s.dy_batch + at.time * s.dy_time + at.head * s.dy_head;
    const int64_t number = (at.batch * s.heads + at.head) * s.time + at.time;
    const float weight = mlc_exp(inner(q, k, s.head) * (float)s.scale - of.lse[number]);
    return {weight, weight * (inner(dy, v, s.value) - of.delta[number])};
}

/* A warp a query. */
template <class T> MLC_KERNEL_TEMPLATE void __launch_bounds__(256) deltas(const mlc_attention s, const operands<T> of)
{
    for (int64_t item = mlc_warp_item(); item < s.batch * s.heads * s.time; item += mlc_warp_items()) {
        const query at = query_of(s, item);
        const T *y = of.y + at.batch * s.y_batch + at.time * s.y_time + at.head * s.y_head;
        const T *dy = of.dy + at.batch * s.dy_batch + at.time * s.dy_time + at.head * s.dy_head;
        float sum = 0;
        for (int64_t e = mlc_lane(); e < s.value; e += MLC_WARP)
            sum = __builtin_fmaf(element(dy, e), element(y, e), sum);
        sum = mlc_warp_fold_sum(sum);
        if (mlc_lane() == 0)
            of.delta[item] = sum;
    }
}

template <class T> MLC_KERNEL_TEMPLATE void __launch_bounds__(256) queries(const mlc_attention s, const operands<T> of, T *dq)
{
    for (int64_t item = mlc_warp_item(); item < s.batch * s.heads * s.time; item += mlc_warp_items()) {
        const query at = query_of(s, item);
        const int64_t end = s.causal ? smaller(s.keys, at.time + 1) : s.keys;
        float sum[PARTS] = {};
        for (int64_t first = 0; first < end; first += MLC_WARP) {
            const pair found = pair_of(s, of, at, first + mlc_lane());
            const T *keys = of.k + at.batch * s.k_batch + first * s.k_time + at.group * s.k_head;
            add_rows(sum, found.gradient, keys, s.k_time, smaller(MLC_WARP, end - first), s.head);
        }
        put_row(dq + at.batch * s.dq_batch + at.time * s.dq_time + at.head * s.dq_head, sum, (float)s.scale, s.head);
    }
}

template <class T> MLC_KERNEL_TEMPLATE void __launch_bounds__(256) keys(const mlc_attention s, const operands<T> of, T *dk, T *dv)
{
    for (int64_t item = mlc_warp_item(); item < s.batch * s.groups * s.keys; item += mlc_warp_items()) {
        const int64_t batch = item / s.keys / s.groups, group = item / s.keys % s.groups, key = item % s.keys, heads = s.heads / s.groups;
        float to_k[PARTS] = {}, to_v[PARTS] = {};
        for (int64_t head = group * heads; head < (group + 1) * heads; head++)
            for (int64_t first = s.causal ? key / MLC_WARP * MLC_WARP : 0; first < s.time; first += MLC_WARP) {
                const pair found = pair_of(s, of, query{batch, head, group, first + mlc_lane()}, key);
                const int count = smaller(MLC_WARP, s.time - first);
                add_rows(to_k, found.gradient, of.q + batch * s.q_batch + first * s.q_time + head * s.q_head, s.q_time, count, s.head);
                add_rows(to_v, found.weight, of.dy + batch * s.dy_batch + first * s.dy_time + head * s.dy_head, s.dy_time, count, s.value);
            }
        put_row(dk + batch * s.dk_batch + key * s.dk_time + group * s.dk_head, to_k, (float)s.scale, s.head);
        put_row(dv + batch * s.dv_batch + key * s.dv_time + group * s.dv_head, to_v, 1.0f, s.value);
    }
}

template <class T>
static void forward_of(const mlc_env *env, const mlc_attention *s, const void *q, const void *k, const void *v, const uint8_t *mask,
                       void *y, float *lse)
{
    const int blocks = mlc_blocks(s->batch * s->heads * s->time * MLC_WARP);
    MLC_LAUNCH(forward<T>, blocks, MLC_BLOCK_THREADS, 0, mlc_stream(env), *s, (const T *)q, (const T *)k, (const T *)v, mask, (T *)y, lse);
}

template <class T>
static void gradients_of(const mlc_env *env, const mlc_attention *s, const operands<T> &of, void *dq, void *dk, void *dv)
{
    const int query_blocks = mlc_blocks(s->batch * s->heads * s->time * MLC_WARP);
    const int key_blocks = mlc_blocks(s->batch * s->groups * s->keys * MLC_WARP);
    MLC_LAUNCH(deltas<T>, query_blocks, MLC_BLOCK_THREADS, 0, mlc_stream(env), *s, of);
    MLC_LAUNCH(queries<T>, query_blocks, MLC_BLOCK_THREADS, 0, mlc_stream(env), *s, of, (T *)dq);
    MLC_LAUNCH(keys<T>, key_blocks, MLC_BLOCK_THREADS, 0, mlc_stream(env), *s, of, (T *)dk, (T *)dv);
}

/* As many elements as a head is filled up to. */
#define FOR_HEAD(s, function, vectors, ...) \
    ((s)->head <= 64 && (s)->value <= 64 ? function<64, vectors>(__VA_ARGS__) : function<128, vectors>(__VA_ARGS__))

static void forward_by_tiles(const mlc_env *env, const mlc_attention *s, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                             const uint8_t *mask, uint16_t *y, float *lse)
{
    if (tile_is_aligned(q, s->head, s->q_batch, s->q_time, s->q_head) && tile_is_aligned(k, s->head, s->k_batch, s->k_time, s->k_head) &&
        tile_is_aligned(v, s->value, s->v_batch, s->v_time, s->v_head) && tile_is_aligned(y, s->value, s->y_batch, s->y_time, s->y_head))
        FOR_HEAD(s, tile_forward_of, true, env, s, q, k, v, mask, y, lse);
    else
        FOR_HEAD(s, tile_forward_of, false, env, s, q, k, v, mask, y, lse);
}

static void gradients_by_tiles(
    const mlc_env *env, const mlc_attention *s, const operands<uint16_t> &of, uint16_t *dq, uint16_t *dk, uint16_t *dv)
{
    const bool read = tile_is_aligned(of.q, s->head, s->q_batch, s->q_time, s->q_head) &&
        tile_is_aligned(of.k, s->head, s->k_batch, s->k_time, s->k_head) &&
        tile_is_aligned(of.v, s->value, s->v_batch, s->v_time, s->v_head) &&
        tile_is_aligned(of.dy, s->value, s->dy_batch, s->dy_time, s->dy_head);
    const bool written = tile_is_aligned(dq, s->head, s->dq_batch, s->dq_time, s->dq_head) &&
        tile_is_aligned(dk, s->head, s->dk_batch, s->dk_time, s->dk_head) &&
        tile_is_aligned(dv, s->value, s->dv_batch, s->dv_time, s->dv_head);
    const int blocks = mlc_blocks(s->batch * s->heads * s->time * MLC_WARP);
    MLC_LAUNCH(deltas<uint16_t>, blocks, MLC_BLOCK_THREADS, 0, mlc_stream(env), *s, of);
    if (read && written)
        FOR_HEAD(s, tile_gradients_of, true, env, s, of, dq, dk, dv);
    else
        FOR_HEAD(s, tile_gradients_of, false, env, s, of, dq, dk, dv);
}

void mlc_attention_forward(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, void *y, float *lse)
{
    if (shape->dtype == MLC_F32)
        forward_of<float>(env, shape, q, k, v, mask, y, lse);
    else if (tile_fits(shape))
        forward_by_tiles(env, shape, (const uint16_t *)q, (const uint16_t *)k, (const uint16_t *)v, mask, (uint16_t *)y, lse);
    else
        forward_of<uint16_t>(env, shape, q, k, v, mask, y, lse);
}

template <class T>
static operands<T> operands_of(const void *q, const void *k, const void *v, const uint8_t *mask, const void *y, const float *lse,
                               const void *dy, void *workspace)
{
    return {(const T *)q, (const T *)k, (const T *)v, (const T *)y, (const T *)dy, mask, lse, (float *)workspace};
}

extern "C" void mlc_attention_vjp_by(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, const void *y, const float *lse, const void *dy, void *dq, void *dk, void *dv, void *workspace)
{
    const operands<uint16_t> halves = operands_of<uint16_t>(q, k, v, mask, y, lse, dy, workspace);
    if (shape->dtype == MLC_F32)
        gradients_of(env, shape, operands_of<float>(q, k, v, mask, y, lse, dy, workspace), dq, dk, dv);
    else if (tile_fits(shape))
        gradients_by_tiles(env, shape, halves, (uint16_t *)dq, (uint16_t *)dk, (uint16_t *)dv);
    else
        gradients_of(env, shape, halves, dq, dk, dv);
}
