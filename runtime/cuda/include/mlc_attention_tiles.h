/* mlc_attention_tiles.h: softmax attention of bf16 and its gradients on tensor cores, by mma.sync (part of attention.cu).
 *
 * After Dao 2023, "FlashAttention-2": a block of 4 warps takes 64 queries (forward, dq) or 64 keys (dk, dv), a warp 16 of them, and walks the
 * other side in tiles that two buffers of shared memory take in turns: while one is multiplied the other is filled. Scores and weights
 * stay in registers, where the sums of one product lie as the next one wants its left side. Gradients of queries and of keys have a kernel
 * each, which make the weights again: no sum is shared between blocks, so all orders are fixed, at 7 products in place of 5.
 *
 * Orders: products of 16 elements ascending, whose own order is the hardware's; keys ascending by tiles; queries of a key ascending by heads
 * of the group, then by tiles. Weights and gradients of scores are rounded to bf16 when they are multiplied, sums are f32.
 *
 * A head of up to D elements is filled up with zeros. Where 8 neighbours always lie in 16 aligned bytes (VECTORS) they are copied by one
 * cp.async; else element by element. Rows in shared memory have 8 elements more, so that the rows that ldmatrix reads at once lie in
 * different banks.
 *
 * Bytes moved by a block: its own rows once, those of the other side once each, from L2 but for the first time.
 */
#ifndef MLC_ATTENTION_TILES_H
#define MLC_ATTENTION_TILES_H

#include "mlc_device.h"

#define TILE_SIDE 64 /* rows of a block */
#define TILE_THREADS 128
#define TILE_MOST_HEAD 128

MLC_DEVICE int smaller(int64_t a, int64_t b)
{
    return (int)(a < b ? a : b);
}

MLC_DEVICE bool sees(const mlc_attention &s, const uint8_t *mask, int64_t batch, int64_t time, int64_t key)
{
    return key < s.keys && (!s.causal || key <= time) && (!mask || mask[batch * s.keys + key]);
}

/* delta: of each query the sum of dy * y, which the gradients of its scores have in common; [batch, heads, time]. */
template <class T> struct operands {
    const T *q, *k, *v, *y, *dy;
    const uint8_t *mask;
    const float *lse;
    float *delta;
};

template <int D> struct tile_row {
    static constexpr int PITCH = D + 8;
};

/* Rows [first, first + ROWS) of x, `step` apart, of n elements; zeros where there are none. */
template <int ROWS, int D, bool VECTORS>
MLC_DEVICE void tile_fill(uint16_t *tile, const uint16_t *x, int64_t step, int64_t first, int64_t rows, int64_t n)
{
    constexpr int EACH = VECTORS ? 8 : 1;
    MLC_ROLLED
    for (int i = threadIdx.x; i < ROWS * D / EACH; i += TILE_THREADS) {
        const int row = i / (D / EACH), e = i % (D / EACH) * EACH;
        const bool there = first + row < rows && e < n;
        const uint16_t *const from = there ? x + (first + row) * step + e : x;
        uint16_t *const to = tile + row * tile_row<D>::PITCH + e;
        if (VECTORS)
            mlc_copy_async_16(to, from, there ? 16 : 0);
        else
            *to = there ? *from : (uint16_t)0;
    }
}

/* Four 8 x 8 matrices of a tile as mlc_mma_bf16 wants them: the left side, rows from `row` on by columns from `column` on; */
template <int D> MLC_DEVICE void tile_left(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
{
    const int lane = mlc_lane(), matrix = lane / 8;
    mlc_ldmatrix_x4(r, tile + (row + matrix % 2 * 8 + lane % 8) * tile_row<D>::PITCH + column + matrix / 2 * 8);
}

/* the right side for 16 columns of the product that are rows of the tile: r[0], r[1] for the first 8, r[2], r[3] for the others; */
template <int D> MLC_DEVICE void tile_right(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
{
    const int lane = mlc_lane(), matrix = lane / 8;
    mlc_ldmatrix_x4(r, tile + (row + matrix / 2 * 8 + lane % 8) * tile_row<D>::PITCH + column + matrix % 2 * 8);
}

/* and for 16 columns of the product that are columns of the tile, summed over its rows. */
template <int D> MLC_DEVICE void tile_right_across(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
{
    const int lane = mlc_lane(), matrix = lane / 8;
    mlc_ldmatrix_x4_trans(r, tile + (row + matrix % 2 * 8 + lane % 8) * tile_row<D>::PITCH + column + matrix / 2 * 8);
}

/* Two products with one left side. */
MLC_DEVICE void tile_multiply(float (&first)[4], float (&second)[4], const uint32_t (&left)[4], const uint32_t (&right)[4])
{
    const uint32_t low[2] = {right[0], right[1]}, high[2] = {right[2], right[3]};
    mlc_mma_bf16(first, left, low);
    mlc_mma_bf16(second, left, high);
}

/* sum = rows [row, row + 16) of a tile times the rows of another, over all D elements. */
template <int D, int COLUMNS> MLC_DEVICE void tile_scores(float (&sum)[COLUMNS / 8][4], const uint16_t *tile, int row, const uint16_t *other)
{
    MLC_UNROLL
    for (int j = 0; j < COLUMNS / 8; j++)
        MLC_UNROLL
        for (int e = 0; e < 4; e++)
            sum[j][e] = 0;
    MLC_UNROLL
    for (int d = 0; d < D; d += 16) {
        uint32_t left[4], right[4];
        tile_left<D>(left, tile, row, d);
        MLC_UNROLL
        for (int j = 0; j < COLUMNS / 16; j++) {
            tile_right<D>(right, other, j * 16, d);
            tile_multiply(sum[2 * j], sum[2 * j + 1], left, right);
        }
    }
}

/* sum += weights, rounded to bf16, times the rows of a tile. */
template <int D, int COLUMNS> MLC_DEVICE void tile_add(float (&sum)[D / 8][4], const float (&weight)[COLUMNS / 8][4], const uint16_t *tile)
{
    MLC_UNROLL
    for (int i = 0; i < COLUMNS / 16; i++) {
        const float(&a)[4] = weight[2 * i], (&b)[4] = weight[2 * i + 1];
        const uint32_t left[4] = {mlc_bf16_pair(a[0], a[1]), mlc_bf16_pair(a[2], a[3]), mlc_bf16_pair(b[0], b[1]), mlc_bf16_pair(b[2], b[3])};
        MLC_UNROLL
        for (int d = 0; d < D / 16; d++) {
            uint32_t right[4];
            tile_right_across<D>(right, tile, i * 16, d * 16);
            tile_multiply(sum[2 * d], sum[2 * d + 1], left, right);
        }
    }
}

/* Sums of a warp's 16 rows, times a factor each, to rows that are below `rows`, of n elements. PAIRS: two are stored at a time. */
template <int D, bool PAIRS>
MLC_DEVICE void tile_put(uint16_t *to, int64_t step, int64_t first, int64_t rows, int64_t n, const float (&sum)[D / 8][4], const float (&factor)[2])
{
    const int lane = mlc_lane();
    MLC_UNROLL
    for (int half = 0; half < 2; half++) {
        const int64_t row = first + lane / 4 + half * 8;
        if (row >= rows)
            continue;
        MLC_UNROLL
        for (int d = 0; d < D / 8; d++) {
            const int e = d * 8 + lane % 4 * 2;
            const float low = sum[d][2 * half] * factor[half], high = sum[d][2 * half + 1] * factor[half];
            uint16_t *const at = to + row * step + e;
            if (PAIRS) {
                if (e < n)
                    *(uint32_t *)at = mlc_bf16_pair(low, high);
                continue;
            }
            if (e < n)
                at[0] = mlc_bf16_of_f32(low);
            if (e + 1 < n)
                at[1] = mlc_bf16_of_f32(high);
        }
    }
}

/* What a block of queries works on. Blocks with most keys come first. */
struct tile_queries {
    int64_t batch, head, group, first, end; /* first query; keys that some query sees are below `end` */
};

MLC_DEVICE tile_queries tile_queries_of(const mlc_attention &s)
{
    const int64_t all = s.batch * s.heads, tiles = (s.time + TILE_SIDE - 1) / TILE_SIDE, item = blockIdx.x;
    const int64_t first = (tiles - 1 - item / all) * TILE_SIDE, head = item % all % s.heads;
    return {item % all / s.heads, head, head / (s.heads / s.groups), first, s.causal ? smaller(s.keys, first + TILE_SIDE) : s.keys};
}

/* The four lanes that have a row between them. */
MLC_DEVICE float tile_row_max(float x)
{
    x = mlc_combine_max(x, __shfl_xor_sync(MLC_FULL, x, 1));
    return mlc_combine_max(x, __shfl_xor_sync(MLC_FULL, x, 2));
}

MLC_DEVICE float tile_row_sum(float x)
{
    x += __shfl_xor_sync(MLC_FULL, x, 1);
    return x + __shfl_xor_sync(MLC_FULL, x, 2);
}

/* Elements of shared memory that the kernels below take. */
template <int D> constexpr int tile_elements(int rows, int others)
{
    return (rows + 2 * others) * tile_row<D>::PITCH;
}

template <int D, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(TILE_THREADS)
tile_forward(const mlc_attention s, const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint8_t *mask, uint16_t *y, float *lse)
{
    MLC_SHARED_DYNAMIC(uint16_t, own);
    constexpr int TILE = TILE_SIDE * tile_row<D>::PITCH;
    const tile_queries at = tile_queries_of(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    const uint16_t *const keys = k + at.batch * s.k_batch + at.group * s.k_head, *const values = v + at.batch * s.v_batch + at.group * s.v_head;
    uint16_t *const other = own + TILE;
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, sum[D / 8][4] = {};

    tile_fill<TILE_SIDE, D, VECTORS>(own, q + at.batch * s.q_batch + at.head * s.q_head, s.q_time, at.first, s.time, s.head);
    tile_fill<TILE_SIDE, D, VECTORS>(other, keys, s.k_time, 0, s.keys, s.head);
    tile_fill<TILE_SIDE, D, VECTORS>(other + TILE, values, s.v_time, 0, s.keys, s.value);
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t first = 0; first < at.end; first += TILE_SIDE) {
        uint16_t *const now = other + first / TILE_SIDE % 2 * 2 * TILE, *const next = other + (first / TILE_SIDE + 1) % 2 * 2 * TILE;
        mlc_copy_wait<0>();
        __syncthreads(); /* these tiles are there, and all have left the others */
        if (first + TILE_SIDE < at.end) {
            tile_fill<TILE_SIDE, D, VECTORS>(next, keys, s.k_time, first + TILE_SIDE, s.keys, s.head);
            tile_fill<TILE_SIDE, D, VECTORS>(next + TILE, values, s.v_time, first + TILE_SIDE, s.keys, s.value);
        }
        mlc_copy_commit();
        float score[TILE_SIDE / 8][4];
        tile_scores<D, TILE_SIDE>(score, own, row, now);
        MLC_UNROLL
        for (int half = 0; half < 2; half++) {
            const int64_t time = at.first + row + lane / 4 + half * 8;
            float greatest = most[half];
            MLC_UNROLL
            for (int i = 0; i < TILE_SIDE / 4; i++) {
                float &of = score[i / 2][2 * half + i % 2];
                of = sees(s, mask, at.batch, time, first + i / 2 * 8 + lane % 4 * 2 + i % 2) ? of * (float)s.scale : -INFINITY;
                greatest = mlc_combine_max(greatest, of);
            }
            greatest = tile_row_max(greatest);
            const float shrink = greatest == -INFINITY ? 1.0f : mlc_exp(most[half] - greatest);
            float part = 0;
            MLC_UNROLL
            for (int i = 0; i < TILE_SIDE / 4; i++) {
                float &of = score[i / 2][2 * half + i % 2];
                of = of == -INFINITY ? 0.0f : mlc_exp(of - greatest);
                part += of;
            }
            most[half] = greatest;
            total[half] = total[half] * shrink + part;
            MLC_UNROLL
            for (int i = 0; i < D / 4; i++)
                sum[i / 2][2 * half + i % 2] *= shrink;
        }
        tile_add<D, TILE_SIDE>(sum, score, now + TILE);
    }
    mlc_copy_wait<0>();
    float factor[2];
    MLC_UNROLL
    for (int half = 0; half < 2; half++) {
        const int64_t time = at.first + row + lane / 4 + half * 8;
        total[half] = tile_row_sum(total[half]);
        factor[half] = 1.0f / total[half];
        if (lane % 4 == 0 && time < s.time)
            lse[(at.batch * s.heads + at.head) * s.time + time] = most[half] + mlc_log(total[half]);
    }
    tile_put<D, VECTORS>(y + at.batch * s.y_batch + at.head * s.y_head, s.y_time, at.first + row, s.time, s.value, sum, factor);
}

/* score: the weight of each pair of a query and a key, gradient: of its weight, and then of its score. seen(column) and the lse and delta
 * of a query come from `of`. */
template <int COLUMNS, class Of> MLC_DEVICE void tile_gradients(float (&score)[COLUMNS / 8][4], float (&gradient)[COLUMNS / 8][4], float scale, const Of &of)
{
    MLC_UNROLL
    for (int j = 0; j < COLUMNS / 8; j++)
        MLC_UNROLL
        for (int e = 0; e < 4; e++) {
            float lse, delta;
            const bool seen = of(e / 2, j * 8 + mlc_lane() % 4 * 2 + e % 2, lse, delta);
            score[j][e] = seen ? mlc_exp(score[j][e] * scale - lse) : 0.0f;
            gradient[j][e] = seen ? score[j][e] * (gradient[j][e] - delta) : 0.0f;
        }
}

/* KEYS: of a tile of the other side. */
template <int D, int KEYS, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(TILE_THREADS) tile_query_gradients(const mlc_attention s, const operands<uint16_t> of, uint16_t *dq)
{
    MLC_SHARED_DYNAMIC(uint16_t, own);
    constexpr int TILE = TILE_SIDE * tile_row<D>::PITCH, OTHER = KEYS * tile_row<D>::PITCH;
    const tile_queries at = tile_queries_of(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    const uint16_t *const keys = of.k + at.batch * s.k_batch + at.group * s.k_head;
    const uint16_t *const values = of.v + at.batch * s.v_batch + at.group * s.v_head;
    uint16_t *const other = own + 2 * TILE;
    float lse[2] = {}, delta[2] = {}, sum[D / 8][4] = {};
    int64_t time[2];
    MLC_UNROLL
    for (int half = 0; half < 2; half++) {
        time[half] = at.first + row + lane / 4 + half * 8;
        const int64_t number = (at.batch * s.heads + at.head) * s.time + time[half];
        if (time[half] < s.time)
            lse[half] = of.lse[number], delta[half] = of.delta[number];
    }

    tile_fill<TILE_SIDE, D, VECTORS>(own, of.q + at.batch * s.q_batch + at.head * s.q_head, s.q_time, at.first, s.time, s.head);
    tile_fill<TILE_SIDE, D, VECTORS>(own + TILE, of.dy + at.batch * s.dy_batch + at.head * s.dy_head, s.dy_time, at.first, s.time, s.value);
    tile_fill<KEYS, D, VECTORS>(other, keys, s.k_time, 0, s.keys, s.head);
    tile_fill<KEYS, D, VECTORS>(other + OTHER, values, s.v_time, 0, s.keys, s.value);
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t first = 0; first < at.end; first += KEYS) {
        uint16_t *const now = other + first / KEYS % 2 * 2 * OTHER, *const next = other + (first / KEYS + 1) % 2 * 2 * OTHER;
        mlc_copy_wait<0>();
        __syncthreads();
        if (first + KEYS < at.end) {
            tile_fill<KEYS, D, VECTORS>(next, keys, s.k_time, first + KEYS, s.keys, s.head);
            tile_fill<KEYS, D, VECTORS>(next + OTHER, values, s.v_time, first + KEYS, s.keys, s.value);
        }
        mlc_copy_commit();
        float score[KEYS / 8][4], gradient[KEYS / 8][4];
        tile_scores<D, KEYS>(score, own, row, now);
        tile_scores<D, KEYS>(gradient, own + TILE, row, now + OTHER);
        tile_gradients<KEYS>(score, gradient, (float)s.scale, [&](int half, int column, float &of_lse, float &of_delta) {
            of_lse = lse[half], of_delta = delta[half];
            return time[half] < s.time && sees(s, of.mask, at.batch, time[half], first + column);
        });
        tile_add<D, KEYS>(sum, gradient, now);
    }
    mlc_copy_wait<0>();
    const float factor[2] = {(float)s.scale, (float)s.scale};
    tile_put<D, VECTORS>(dq + at.batch * s.dq_batch + at.head * s.dq_head, s.dq_time, at.first + row, s.time, s.head, sum, factor);
}

/* The queries of a block of keys, by tiles of QUERIES: tile i of all heads of the group. */
template <int QUERIES> struct tile_walk {
    int64_t batch, group, key, head, tiles, begin, count; /* first head of the group; tiles of a head, the first of them that is seen */

    MLC_DEVICE_MEMBER int64_t head_of(int64_t i) const { return head + i / tiles; }
    MLC_DEVICE_MEMBER int64_t time_of(int64_t i) const { return (begin + i % tiles) * QUERIES; }
};

template <int QUERIES> MLC_DEVICE tile_walk<QUERIES> tile_walk_of(const mlc_attention &s)
{
    const int64_t all = s.batch * s.groups, item = blockIdx.x, key = item / all * TILE_SIDE, heads = s.heads / s.groups;
    const int64_t begin = s.causal ? key / QUERIES : 0, tiles = (s.time + QUERIES - 1) / QUERIES - begin, group = item % all % s.groups;
    return {item % all / s.groups, group, key, group * heads, tiles > 0 ? tiles : 1, begin, tiles > 0 ? tiles * heads : 0};
}

/* lse, then delta, of the queries of a tile; zeros where there are none. */
template <int QUERIES> MLC_DEVICE void tile_fill_numbers(float *to, const mlc_attention &s, const operands<uint16_t> &of, const tile_walk<QUERIES> &walk, int64_t i)
{
    MLC_ROLLED
    for (int n = threadIdx.x; n < 2 * QUERIES; n += TILE_THREADS) {
        const int64_t time = walk.time_of(i) + n % QUERIES, number = (walk.batch * s.heads + walk.head_of(i)) * s.time + time;
        to[n] = time < s.time ? (n < QUERIES ? of.lse : of.delta)[number] : 0.0f;
    }
}

template <int D, int QUERIES, bool VECTORS>
MLC_DEVICE void tile_fill_queries(uint16_t *to, const mlc_attention &s, const operands<uint16_t> &of, const tile_walk<QUERIES> &walk, int64_t i)
{
    const uint16_t *const q = of.q + walk.batch * s.q_batch + walk.head_of(i) * s.q_head;
    const uint16_t *const dy = of.dy + walk.batch * s.dy_batch + walk.head_of(i) * s.dy_head;
    tile_fill<QUERIES, D, VECTORS>(to, q, s.q_time, walk.time_of(i), s.time, s.head);
    tile_fill<QUERIES, D, VECTORS>(to + QUERIES * tile_row<D>::PITCH, dy, s.dy_time, walk.time_of(i), s.time, s.value);
}

template <int D, int QUERIES, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(TILE_THREADS)
tile_key_gradients(const mlc_attention s, const operands<uint16_t> of, uint16_t *dk, uint16_t *dv)
{
    MLC_SHARED_DYNAMIC(uint16_t, own);
    MLC_SHARED(float, numbers, [2][2 * QUERIES]);
    constexpr int TILE = TILE_SIDE * tile_row<D>::PITCH, OTHER = QUERIES * tile_row<D>::PITCH;
    const tile_walk<QUERIES> walk = tile_walk_of<QUERIES>(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    uint16_t *const other = own + 2 * TILE;
    float to_k[D / 8][4] = {}, to_v[D / 8][4] = {};

    tile_fill<TILE_SIDE, D, VECTORS>(own, of.k + walk.batch * s.k_batch + walk.group * s.k_head, s.k_time, walk.key, s.keys, s.head);
    tile_fill<TILE_SIDE, D, VECTORS>(own + TILE, of.v + walk.batch * s.v_batch + walk.group * s.v_head, s.v_time, walk.key, s.keys, s.value);
    if (walk.count) {
        tile_fill_queries<D, QUERIES, VECTORS>(other, s, of, walk, 0);
        tile_fill_numbers<QUERIES>(numbers[0], s, of, walk, 0);
    }
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t i = 0; i < walk.count; i++) {
        uint16_t *const now = other + i % 2 * 2 * OTHER, *const next = other + (i + 1) % 2 * 2 * OTHER;
        const float *const own_numbers = numbers[i % 2];
        mlc_copy_wait<0>();
        __syncthreads();
        if (i + 1 < walk.count) {
            tile_fill_queries<D, QUERIES, VECTORS>(next, s, of, walk, i + 1);
            tile_fill_numbers<QUERIES>(numbers[(i + 1) % 2], s, of, walk, i + 1);
        }
        mlc_copy_commit();
        float score[QUERIES / 8][4], gradient[QUERIES / 8][4];
        tile_scores<D, QUERIES>(score, own, row, now);
        tile_scores<D, QUERIES>(gradient, own + TILE, row, now + OTHER);
        tile_gradients<QUERIES>(score, gradient, (float)s.scale, [&](int half, int column, float &lse, float &delta) {
            const int64_t time = walk.time_of(i) + column, key = walk.key + row + lane / 4 + half * 8;
            lse = own_numbers[column], delta = own_numbers[QUERIES + column];
            return time < s.time && sees(s, of.mask, walk.batch, time, key);
        });
        tile_add<D, QUERIES>(to_v, score, now + OTHER);
        tile_add<D, QUERIES>(to_k, gradient, now);
    }
    mlc_copy_wait<0>();
    const float plain[2] = {1, 1}, factor[2] = {(float)s.scale, (float)s.scale};
    tile_put<D, VECTORS>(dk + walk.batch * s.dk_batch + walk.group * s.dk_head, s.dk_time, walk.key + row, s.keys, s.head, to_k, factor);
    tile_put<D, VECTORS>(dv + walk.batch * s.dv_batch + walk.group * s.dv_head, s.dv_time, walk.key + row, s.keys, s.value, to_v, plain);
}

/* ---- launches, by the host ---- */

static inline bool tile_fits(const mlc_attention *s)
{
    return s->dtype == MLC_BF16 && s->head <= TILE_MOST_HEAD && s->value <= TILE_MOST_HEAD;
}

/* Whether rows of n elements begin at multiples of 16 bytes and end with one. */
static inline bool tile_is_aligned(const void *x, int64_t n, int64_t batch, int64_t time, int64_t head)
{
    return (uintptr_t)x % 16 == 0 && (n | batch | time | head) % 8 == 0;
}

template <int D, bool VECTORS>
static void tile_forward_of(const mlc_env *env, const mlc_attention *s, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                            const uint8_t *mask, uint16_t *y, float *lse)
{
    const int bytes = 2 * (tile_elements<D>(TILE_SIDE, 2 * TILE_SIDE));
    const int blocks = (int)((s->time + TILE_SIDE - 1) / TILE_SIDE * s->batch * s->heads);
    mlc_allow_shared((const void *)tile_forward<D, VECTORS>, bytes);
    MLC_LAUNCH((tile_forward<D, VECTORS>), blocks, TILE_THREADS, bytes, mlc_stream(env), *s, q, k, v, mask, y, lse);
}

/* Tiles of the other side are half as high for long heads, whose sums take twice the registers. */
template <int D, bool VECTORS>
static void tile_gradients_of(const mlc_env *env, const mlc_attention *s, const operands<uint16_t> &of, uint16_t *dq, uint16_t *dk, uint16_t *dv)
{
    constexpr int OTHER = D > 64 ? TILE_SIDE / 2 : TILE_SIDE;
    const int bytes = 2 * tile_elements<D>(2 * TILE_SIDE, 2 * OTHER);
    const int queries = (int)((s->time + TILE_SIDE - 1) / TILE_SIDE * s->batch * s->heads);
    const int keys = (int)((s->keys + TILE_SIDE - 1) / TILE_SIDE * s->batch * s->groups);
    mlc_allow_shared((const void *)tile_query_gradients<D, OTHER, VECTORS>, bytes);
    mlc_allow_shared((const void *)tile_key_gradients<D, OTHER, VECTORS>, bytes);
    MLC_LAUNCH((tile_query_gradients<D, OTHER, VECTORS>), queries, TILE_THREADS, bytes, mlc_stream(env), *s, of, dq);
    MLC_LAUNCH((tile_key_gradients<D, OTHER, VECTORS>), keys, TILE_THREADS, bytes, mlc_stream(env), *s, of, dk, dv);
}

#endif
