/* mlc_attention_tiles.h: softmax attention of bf16 and its gradients on tensor cores (part of attention.cu).
 *
 * A block of warpgroups, each of 4 warps, takes 64 queries (forward, dq) or 64 keys (dk, dv) a group, a warp 16 of them, and walks the
 * other side in tiles that two buffers of shared memory take in turns: while one is multiplied the other is filled. Scores and weights
 * stay in registers, where the sums of one product lie as the next one wants its left side. Gradients of queries and of keys have a kernel
 * each, which make the weights again: no sum is shared between blocks, so all orders are fixed, at 7 products in place of 5.
 *
 * Products are made by warpgroups (tile_groups: wgmma, sm_90), after Shah et al. 2024, "FlashAttention-3": both sides of a score come from
 * shared memory, weights from registers, and while a group is at its softmax the tensor cores are at the products of the others of the
 * multiprocessor. Elsewhere by warps (tile_warps: mma.sync), after Dao 2023, "FlashAttention-2". What holds a product is the same in both.
 *
 * Orders: products of 16 elements ascending, whose own order is the hardware's; keys ascending by tiles; queries of a key ascending by
 * heads of the group, then by tiles. Weights and gradients of scores are rounded to bf16 when they are multiplied, sums are f32. Weights
 * are powers of two (mlc_exp2_near) of scores whose scale has the logarithm in it. Only tiles with something unseen look at what is seen.
 *
 * A head of up to D elements is filled up with zeros. Where 8 neighbours always lie in 16 aligned bytes (VECTORS) they are copied by one
 * cp.async; else element by element.
 *
 * Bytes moved by a block: its own rows once, those of the other side once each, from L2 but for the first time.
 */
#ifndef MLC_ATTENTION_TILES_H
#define MLC_ATTENTION_TILES_H

#include "mlc_device.h"

#define TILE_SIDE 64 /* rows of a warpgroup, and of a tile of the other side where nothing else is said */
#define TILE_GROUP 128 /* its threads */
#define TILE_MOST_HEAD 128
#if !defined(MLC_SM) || MLC_SM == 90
#define TILE_BY_GROUPS 1
#else
#define TILE_BY_GROUPS 0
#endif
#define TILE_LOG2_E 1.44269504f
#define TILE_LN_2 0.693147181f

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

/* Products by mma.sync. Rows have 8 elements more, so that the rows that ldmatrix reads at once lie in different banks. */
template <int HEAD> struct tile_warps {
    static constexpr int D = HEAD, GROUPS = 1, PITCH = D + 8;

    /* Where element e of a row lies in a tile of ROWS rows, in elements; and how many it has. */
    template <int ROWS> static MLC_DEVICE_METHOD int place(int row, int e)
    {
        return row * PITCH + e;
    }

    static constexpr MLC_DEVICE_MEMBER int elements(int rows)
    {
        return rows * PITCH;
    }

    /* Four 8 x 8 matrices as mlc_mma_bf16 wants them: the left side, rows from `row` on by columns from `column` on; */
    static MLC_DEVICE_METHOD void left(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
    {
        const int lane = mlc_lane(), matrix = lane / 8;
        mlc_ldmatrix_x4(r, tile + (row + matrix % 2 * 8 + lane % 8) * PITCH + column + matrix / 2 * 8);
    }

    /* the right side for 16 columns of the product that are rows of the tile: r[0], r[1] for the first 8, r[2], r[3] for the others; */
    static MLC_DEVICE_METHOD void right(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
    {
        const int lane = mlc_lane(), matrix = lane / 8;
        mlc_ldmatrix_x4(r, tile + (row + matrix / 2 * 8 + lane % 8) * PITCH + column + matrix % 2 * 8);
    }

    /* and for 16 columns of the product that are columns of the tile, summed over its rows. */
    static MLC_DEVICE_METHOD void right_across(uint32_t (&r)[4], const uint16_t *tile, int row, int column)
    {
        const int lane = mlc_lane(), matrix = lane / 8;
        mlc_ldmatrix_x4_trans(r, tile + (row + matrix % 2 * 8 + lane % 8) * PITCH + column + matrix / 2 * 8);
    }

    /* Two products with one left side. */
    static MLC_DEVICE_METHOD void multiply(float (&first)[4], float (&second)[4], const uint32_t (&l)[4], const uint32_t (&r)[4])
    {
        const uint32_t low[2] = {r[0], r[1]}, high[2] = {r[2], r[3]};
        mlc_mma_bf16(first, l, low);
        mlc_mma_bf16(second, l, high);
    }

    /* sum += rows of this warp of a tile of ROWS times the rows of another, over all D elements. Products stand between begin() and
     * commit(); their sums are there, and their sides free, after finish(). */
    template <int ROWS, int COLUMNS>
    static MLC_DEVICE_METHOD void scores(float (&sum)[COLUMNS / 8][4], const uint16_t *tile, const uint16_t *other)
    {
        const int row = mlc_warp() * 16;
        MLC_UNROLL
        for (int d = 0; d < D; d += 16) {
            uint32_t l[4], r[4];
            left(l, tile, row, d);
            MLC_UNROLL
            for (int j = 0; j < COLUMNS / 16; j++) {
                right(r, other, j * 16, d);
                multiply(sum[2 * j], sum[2 * j + 1], l, r);
            }
        }
    }

    /* sum += weights times the rows of a tile. */
    template <int COLUMNS>
    static MLC_DEVICE_METHOD void add(float (&sum)[D / 8][4], const uint32_t (&weight)[COLUMNS / 16][4], const uint16_t *tile)
    {
        MLC_UNROLL
        for (int i = 0; i < COLUMNS / 16; i++)
            MLC_UNROLL
            for (int d = 0; d < D / 16; d++) {
                uint32_t r[4];
                right_across(r, tile, i * 16, d * 16);
                multiply(sum[2 * d], sum[2 * d + 1], weight[i], r);
            }
    }

    /* Before the barrier behind which products read what this thread has filled. */
    static MLC_DEVICE_METHOD void filled()
    {
    }

    template <int N> static MLC_DEVICE_METHOD void hold(float (&)[N][4])
    {
    }

    static MLC_DEVICE_METHOD void begin()
    {
    }

    static MLC_DEVICE_METHOD void commit()
    {
    }

    static MLC_DEVICE_METHOD void finish()
    {
    }
};

/* Products by wgmma, of COUNT warpgroups. Tiles lie in panels of 64 columns whose rows' 16-byte pieces are permuted (MLC_SWIZZLE_128). */
template <int HEAD, int COUNT> struct tile_groups {
    static constexpr int D = HEAD, GROUPS = COUNT;

    template <int ROWS> static MLC_DEVICE_METHOD int place(int row, int e)
    {
        return e / 64 * (ROWS * 64) + row * 64 + (e % 64 / 8 ^ row % 8) * 8 + e % 8;
    }

    static constexpr MLC_DEVICE_MEMBER int elements(int rows)
    {
        return rows * D;
    }

    template <int ROWS, int COLUMNS>
    static MLC_DEVICE_METHOD void scores(float (&sum)[COLUMNS / 8][4], const uint16_t *tile, const uint16_t *other)
    {
        const uint16_t *const own = tile + mlc_warp() / 4 * (TILE_SIDE * 64);
        MLC_UNROLL
        for (int d = 0; d < D; d += 16)
            mlc_wgmma_bf16<COLUMNS>(reinterpret_cast<float(&)[COLUMNS / 2]>(sum),
                mlc_matrix_descriptor(own + d / 64 * (ROWS * 64) + d % 64, 0, 1024, MLC_SWIZZLE_128),
                mlc_matrix_descriptor(other + d / 64 * (COLUMNS * 64) + d % 64, 0, 1024, MLC_SWIZZLE_128), true);
    }

    template <int COLUMNS>
    static MLC_DEVICE_METHOD void add(float (&sum)[D / 8][4], const uint32_t (&weight)[COLUMNS / 16][4], const uint16_t *tile)
    {
        MLC_UNROLL
        for (int i = 0; i < COLUMNS / 16; i++)
            mlc_wgmma_bf16_registers<D, 1>(reinterpret_cast<float(&)[D / 2]>(sum), weight[i],
                mlc_matrix_descriptor(tile + i * (16 * 64), COLUMNS * 128, 1024, MLC_SWIZZLE_128), true);
    }

    static MLC_DEVICE_METHOD void filled()
    {
        mlc_fence_async();
    }

    /* What is in sums is there before, what others do with them comes behind: the compiler knows nothing of products under way. */
    template <int N> static MLC_DEVICE_METHOD void hold(float (&sum)[N][4])
    {
#ifdef __CUDA_ARCH__
        MLC_UNROLL
        for (int i = 0; i < N; i++)
            MLC_UNROLL
            for (int e = 0; e < 4; e++)
                asm volatile("" : "+f"(sum[i][e])::"memory");
#else
        (void)sum;
#endif
    }

    static MLC_DEVICE_METHOD void begin()
    {
        mlc_wgmma_fence();
    }

    static MLC_DEVICE_METHOD void commit()
    {
        mlc_wgmma_commit();
    }

    static MLC_DEVICE_METHOD void finish()
    {
        mlc_wgmma_wait<0>();
    }
};

template <class By> struct tile_of {
    static constexpr int ROWS = TILE_SIDE * By::GROUPS, THREADS = TILE_GROUP * By::GROUPS;
};

/* Rows [first, first + ROWS) of x, `step` apart, of n elements; zeros where there are none. */
template <class By, int ROWS, bool VECTORS>
MLC_DEVICE void tile_fill(uint16_t *tile, const uint16_t *x, int64_t step, int64_t first, int64_t rows, int64_t n)
{
    constexpr int EACH = VECTORS ? 8 : 1, D = By::D;
    MLC_ROLLED
    for (int i = threadIdx.x; i < ROWS * D / EACH; i += tile_of<By>::THREADS) {
        const int row = i / (D / EACH), e = i % (D / EACH) * EACH;
        const bool there = first + row < rows && e < n;
        const uint16_t *const from = there ? x + (first + row) * step + e : x;
        uint16_t *const to = tile + By::template place<ROWS>(row, e);
        if (VECTORS)
            mlc_copy_async_16(to, from, there ? 16 : 0);
        else
            *to = there ? *from : (uint16_t)0;
    }
}

/* What this thread asked for is there; then all threads are so far. */
template <class By> MLC_DEVICE void tile_turn()
{
    mlc_copy_wait<0>();
    By::filled();
    __syncthreads();
}

/* Weights as the left side of a product, rounded to bf16. */
template <int COLUMNS> MLC_DEVICE void tile_round(uint32_t (&to)[COLUMNS / 16][4], const float (&weight)[COLUMNS / 8][4])
{
    MLC_UNROLL
    for (int i = 0; i < COLUMNS / 16; i++) {
        const float(&a)[4] = weight[2 * i], (&b)[4] = weight[2 * i + 1];
        to[i][0] = mlc_bf16_pair(a[0], a[1]), to[i][1] = mlc_bf16_pair(a[2], a[3]);
        to[i][2] = mlc_bf16_pair(b[0], b[1]), to[i][3] = mlc_bf16_pair(b[2], b[3]);
    }
}

/* Sums of a warp's 16 rows, times a factor each, to rows that are below `rows`, of n elements. PAIRS: two are stored at a time. */
template <int D, bool PAIRS>
MLC_DEVICE void tile_put(
    uint16_t *to, int64_t step, int64_t first, int64_t rows, int64_t n, const float (&sum)[D / 8][4], const float (&factor)[2])
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

template <int ROWS> MLC_DEVICE tile_queries tile_queries_of(const mlc_attention &s)
{
    const int64_t all = s.batch * s.heads, tiles = (s.time + ROWS - 1) / ROWS, item = blockIdx.x;
    const int64_t first = (tiles - 1 - item / all) * ROWS, head = item % all % s.heads;
    return {item % all / s.heads, head, head / (s.heads / s.groups), first, s.causal ? smaller(s.keys, first + ROWS) : s.keys};
}

/* Whether all queries [time, time + times) see all keys [key, key + keys). */
MLC_DEVICE bool tile_is_seen(const mlc_attention &s, const uint8_t *mask, int64_t time, int times, int64_t key, int keys)
{
    return !mask && key + keys <= s.keys && time + times <= s.time && (!s.causal || key + keys <= time + 1);
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

/* Bytes of shared memory of the kernels below: a block's own tiles, and two turns of two of the other side. */
template <class By> static constexpr int tile_bytes(int own, int others)
{
    return 2 * (own * By::elements(tile_of<By>::ROWS) + 4 * By::elements(others));
}

template <class By, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(tile_of<By>::THREADS)
tile_forward(const mlc_attention s, const uint16_t *q, const uint16_t *k, const uint16_t *v, const uint8_t *mask, uint16_t *y, float *lse)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA || !TILE_BY_GROUPS
    MLC_SHARED_DYNAMIC(uint16_t, own);
    constexpr int D = By::D, ROWS = tile_of<By>::ROWS, KEYS = TILE_SIDE, OWN = By::elements(ROWS), TILE = By::elements(KEYS);
    const tile_queries at = tile_queries_of<ROWS>(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    const uint16_t *const keys = k + at.batch * s.k_batch + at.group * s.k_head;
    const uint16_t *const values = v + at.batch * s.v_batch + at.group * s.v_head;
    uint16_t *const other = own + OWN;
    const float scale = (float)s.scale * TILE_LOG2_E;
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, sum[D / 8][4] = {};
    uint32_t weight[KEYS / 16][4];

    tile_fill<By, ROWS, VECTORS>(own, q + at.batch * s.q_batch + at.head * s.q_head, s.q_time, at.first, s.time, s.head);
    tile_fill<By, KEYS, VECTORS>(other, keys, s.k_time, 0, s.keys, s.head);
    tile_fill<By, KEYS, VECTORS>(other + TILE, values, s.v_time, 0, s.keys, s.value);
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t first = 0; first < at.end; first += KEYS) {
        uint16_t *const now = other + first / KEYS % 2 * 2 * TILE, *const next = other + (first / KEYS + 1) % 2 * 2 * TILE;
        tile_turn<By>(); /* these tiles are there, and all have left the others */
        float score[KEYS / 8][4] = {};
        By::hold(score);
        By::begin();
        By::template scores<ROWS, KEYS>(score, own, now);
        By::commit();
        if (first + KEYS < at.end) {
            tile_fill<By, KEYS, VECTORS>(next, keys, s.k_time, first + KEYS, s.keys, s.head);
            tile_fill<By, KEYS, VECTORS>(next + TILE, values, s.v_time, first + KEYS, s.keys, s.value);
        }
        mlc_copy_commit();
        By::finish();
        By::hold(score);
        if (!tile_is_seen(s, mask, at.first + row, 16, first, KEYS))
            MLC_UNROLL
            for (int i = 0; i < KEYS / 2; i++) {
                const int64_t time = at.first + row + lane / 4 + i / 2 % 2 * 8;
                if (!sees(s, mask, at.batch, time, first + i / 4 * 8 + lane % 4 * 2 + i % 2))
                    score[i / 4][i % 4] = -INFINITY;
            }
        MLC_UNROLL
        for (int half = 0; half < 2; half++) {
            float greatest = -INFINITY;
            MLC_UNROLL
            for (int i = 0; i < KEYS / 4; i++)
                greatest = mlc_combine_max(greatest, score[i / 2][2 * half + i % 2]);
            greatest = mlc_combine_max(most[half], tile_row_max(greatest) * scale);
            const float from = greatest == -INFINITY ? 0.0f : greatest, shrink = mlc_exp2_near(most[half] - from);
            float part = 0;
            MLC_UNROLL
            for (int i = 0; i < KEYS / 4; i++) {
                float &of = score[i / 2][2 * half + i % 2];
                of = mlc_exp2_near(__builtin_fmaf(of, scale, -from));
                part += of;
            }
            most[half] = greatest;
            total[half] = total[half] * shrink + part;
            MLC_UNROLL
            for (int i = 0; i < D / 4; i++)
                sum[i / 2][2 * half + i % 2] *= shrink;
        }
        tile_round<KEYS>(weight, score);
        By::hold(sum);
        By::begin();
        By::template add<KEYS>(sum, weight, now + TILE);
        By::commit();
        By::finish();
        By::hold(sum);
    }
    mlc_copy_wait<0>();
    float factor[2];
    MLC_UNROLL
    for (int half = 0; half < 2; half++) {
        const int64_t time = at.first + row + lane / 4 + half * 8;
        total[half] = tile_row_sum(total[half]);
        factor[half] = 1.0f / total[half];
        if (lane % 4 == 0 && time < s.time)
            lse[(at.batch * s.heads + at.head) * s.time + time] = most[half] * TILE_LN_2 + mlc_log(total[half]);
    }
    tile_put<D, VECTORS>(y + at.batch * s.y_batch + at.head * s.y_head, s.y_time, at.first + row, s.time, s.value, sum, factor);
#else
    (void)s, (void)q, (void)k, (void)v, (void)mask, (void)y, (void)lse;
#endif
}

/* score: the weight of each pair of a query and a key, gradient: of its weight, and then of its score. of(half, column, shift, delta) says
 * whether the pair is seen, and its query's numbers: lse times the logarithm, delta. */
template <int COLUMNS, class Of>
MLC_DEVICE void tile_gradients(float (&score)[COLUMNS / 8][4], float (&gradient)[COLUMNS / 8][4], float scale, bool all, const Of &of)
{
    MLC_UNROLL
    for (int j = 0; j < COLUMNS / 8; j++)
        MLC_UNROLL
        for (int e = 0; e < 4; e++) {
            float shift, delta;
            const bool seen = of(e / 2, j * 8 + mlc_lane() % 4 * 2 + e % 2, all, shift, delta);
            score[j][e] = seen ? mlc_exp2_near(__builtin_fmaf(score[j][e], scale, -shift)) : 0.0f;
            gradient[j][e] = seen ? score[j][e] * (gradient[j][e] - delta) : 0.0f;
        }
}

/* KEYS: of a tile of the other side. */
template <class By, int KEYS, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(tile_of<By>::THREADS)
tile_query_gradients(const mlc_attention s, const operands<uint16_t> of, uint16_t *dq)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA || !TILE_BY_GROUPS
    MLC_SHARED_DYNAMIC(uint16_t, own);
    constexpr int D = By::D, ROWS = tile_of<By>::ROWS, OWN = By::elements(ROWS), OTHER = By::elements(KEYS);
    const tile_queries at = tile_queries_of<ROWS>(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    const uint16_t *const keys = of.k + at.batch * s.k_batch + at.group * s.k_head;
    const uint16_t *const values = of.v + at.batch * s.v_batch + at.group * s.v_head;
    uint16_t *const other = own + 2 * OWN;
    float shift[2] = {}, delta[2] = {}, sum[D / 8][4] = {};
    uint32_t weight[KEYS / 16][4];
    int64_t time[2];
    MLC_UNROLL
    for (int half = 0; half < 2; half++) {
        time[half] = at.first + row + lane / 4 + half * 8;
        const int64_t number = (at.batch * s.heads + at.head) * s.time + time[half];
        if (time[half] < s.time)
            shift[half] = of.lse[number] * TILE_LOG2_E, delta[half] = of.delta[number];
    }

    tile_fill<By, ROWS, VECTORS>(own, of.q + at.batch * s.q_batch + at.head * s.q_head, s.q_time, at.first, s.time, s.head);
    tile_fill<By, ROWS, VECTORS>(own + OWN, of.dy + at.batch * s.dy_batch + at.head * s.dy_head, s.dy_time, at.first, s.time, s.value);
    tile_fill<By, KEYS, VECTORS>(other, keys, s.k_time, 0, s.keys, s.head);
    tile_fill<By, KEYS, VECTORS>(other + OTHER, values, s.v_time, 0, s.keys, s.value);
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t first = 0; first < at.end; first += KEYS) {
        uint16_t *const now = other + first / KEYS % 2 * 2 * OTHER, *const next = other + (first / KEYS + 1) % 2 * 2 * OTHER;
        tile_turn<By>();
        float score[KEYS / 8][4] = {}, gradient[KEYS / 8][4] = {};
        By::hold(score);
        By::hold(gradient);
        By::begin();
        By::template scores<ROWS, KEYS>(score, own, now);
        By::template scores<ROWS, KEYS>(gradient, own + OWN, now + OTHER);
        By::commit();
        if (first + KEYS < at.end) {
            tile_fill<By, KEYS, VECTORS>(next, keys, s.k_time, first + KEYS, s.keys, s.head);
            tile_fill<By, KEYS, VECTORS>(next + OTHER, values, s.v_time, first + KEYS, s.keys, s.value);
        }
        mlc_copy_commit();
        By::finish();
        By::hold(score);
        By::hold(gradient);
        const bool whole = tile_is_seen(s, of.mask, at.first + row, 16, first, KEYS);
        tile_gradients<KEYS>(score, gradient, (float)s.scale * TILE_LOG2_E, whole,
            [&](int half, int column, bool all, float &of_shift, float &of_delta) {
                of_shift = shift[half], of_delta = delta[half];
                return all || (time[half] < s.time && sees(s, of.mask, at.batch, time[half], first + column));
            });
        tile_round<KEYS>(weight, gradient);
        By::hold(sum);
        By::begin();
        By::template add<KEYS>(sum, weight, now);
        By::commit();
        By::finish();
        By::hold(sum);
    }
    mlc_copy_wait<0>();
    const float factor[2] = {(float)s.scale, (float)s.scale};
    tile_put<D, VECTORS>(dq + at.batch * s.dq_batch + at.head * s.dq_head, s.dq_time, at.first + row, s.time, s.head, sum, factor);
#else
    (void)s, (void)of, (void)dq;
#endif
}

/* The queries of a block of keys, by tiles of QUERIES: tile i of all heads of the group. */
template <int QUERIES> struct tile_walk {
    int64_t batch, group, key, head, tiles, begin, count; /* first head of the group; tiles of a head, the first of them that is seen */

    MLC_DEVICE_MEMBER int64_t head_of(int64_t i) const { return head + i / tiles; }
    MLC_DEVICE_MEMBER int64_t time_of(int64_t i) const { return (begin + i % tiles) * QUERIES; }
};

template <int QUERIES, int ROWS> MLC_DEVICE tile_walk<QUERIES> tile_walk_of(const mlc_attention &s)
{
    const int64_t all = s.batch * s.groups, item = blockIdx.x, key = item / all * ROWS, heads = s.heads / s.groups;
    const int64_t begin = s.causal ? key / QUERIES : 0, tiles = (s.time + QUERIES - 1) / QUERIES - begin, group = item % all % s.groups;
    return {item % all / s.groups, group, key, group * heads, tiles > 0 ? tiles : 1, begin, tiles > 0 ? tiles * heads : 0};
}

/* lse times the logarithm, then delta, of the queries of a tile; zeros where there are none. */
template <class By, int QUERIES>
MLC_DEVICE void tile_fill_numbers(
    float *to, const mlc_attention &s, const operands<uint16_t> &of, const tile_walk<QUERIES> &walk, int64_t i)
{
    MLC_ROLLED
    for (int n = threadIdx.x; n < 2 * QUERIES; n += tile_of<By>::THREADS) {
        const int64_t time = walk.time_of(i) + n % QUERIES, number = (walk.batch * s.heads + walk.head_of(i)) * s.time + time;
        to[n] = time >= s.time ? 0.0f : n < QUERIES ? of.lse[number] * TILE_LOG2_E : of.delta[number];
    }
}

template <class By, int QUERIES, bool VECTORS>
MLC_DEVICE void tile_fill_queries(
    uint16_t *to, const mlc_attention &s, const operands<uint16_t> &of, const tile_walk<QUERIES> &walk, int64_t i)
{
    const uint16_t *const q = of.q + walk.batch * s.q_batch + walk.head_of(i) * s.q_head;
    const uint16_t *const dy = of.dy + walk.batch * s.dy_batch + walk.head_of(i) * s.dy_head;
    tile_fill<By, QUERIES, VECTORS>(to, q, s.q_time, walk.time_of(i), s.time, s.head);
    tile_fill<By, QUERIES, VECTORS>(to + By::elements(QUERIES), dy, s.dy_time, walk.time_of(i), s.time, s.value);
}

template <class By, int QUERIES, bool VECTORS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(tile_of<By>::THREADS)
tile_key_gradients(const mlc_attention s, const operands<uint16_t> of, uint16_t *dk, uint16_t *dv)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA || !TILE_BY_GROUPS
    MLC_SHARED_DYNAMIC(uint16_t, own);
    MLC_SHARED(float, numbers, [2][2 * QUERIES]);
    constexpr int D = By::D, ROWS = tile_of<By>::ROWS, OWN = By::elements(ROWS), OTHER = By::elements(QUERIES);
    const tile_walk<QUERIES> walk = tile_walk_of<QUERIES, ROWS>(s);
    const int lane = mlc_lane(), row = mlc_warp() * 16;
    uint16_t *const other = own + 2 * OWN;
    float to_k[D / 8][4] = {}, to_v[D / 8][4] = {};
    uint32_t weight[QUERIES / 16][4], change[QUERIES / 16][4];

    tile_fill<By, ROWS, VECTORS>(own, of.k + walk.batch * s.k_batch + walk.group * s.k_head, s.k_time, walk.key, s.keys, s.head);
    tile_fill<By, ROWS, VECTORS>(own + OWN, of.v + walk.batch * s.v_batch + walk.group * s.v_head, s.v_time, walk.key, s.keys, s.value);
    if (walk.count) {
        tile_fill_queries<By, QUERIES, VECTORS>(other, s, of, walk, 0);
        tile_fill_numbers<By, QUERIES>(numbers[0], s, of, walk, 0);
    }
    mlc_copy_commit();
    MLC_ROLLED
    for (int64_t i = 0; i < walk.count; i++) {
        uint16_t *const now = other + i % 2 * 2 * OTHER, *const next = other + (i + 1) % 2 * 2 * OTHER;
        const float *const own_numbers = numbers[i % 2];
        tile_turn<By>();
        float score[QUERIES / 8][4] = {}, gradient[QUERIES / 8][4] = {};
        By::hold(score);
        By::hold(gradient);
        By::begin();
        By::template scores<ROWS, QUERIES>(score, own, now);
        By::template scores<ROWS, QUERIES>(gradient, own + OWN, now + OTHER);
        By::commit();
        if (i + 1 < walk.count) {
            tile_fill_queries<By, QUERIES, VECTORS>(next, s, of, walk, i + 1);
            tile_fill_numbers<By, QUERIES>(numbers[(i + 1) % 2], s, of, walk, i + 1);
        }
        mlc_copy_commit();
        By::finish();
        By::hold(score);
        By::hold(gradient);
        const int64_t first = walk.time_of(i), key = walk.key + row + lane / 4;
        const bool whole = tile_is_seen(s, of.mask, first, QUERIES, walk.key + row, 16);
        tile_gradients<QUERIES>(score, gradient, (float)s.scale * TILE_LOG2_E, whole,
            [&](int half, int column, bool all, float &shift, float &delta) {
                shift = own_numbers[column], delta = own_numbers[QUERIES + column];
                return all || (first + column < s.time && sees(s, of.mask, walk.batch, first + column, key + half * 8));
            });
        tile_round<QUERIES>(weight, score);
        tile_round<QUERIES>(change, gradient);
        By::hold(to_v);
        By::hold(to_k);
        By::begin();
        By::template add<QUERIES>(to_v, weight, now + OTHER);
        By::template add<QUERIES>(to_k, change, now);
        By::commit();
        By::finish();
        By::hold(to_v);
        By::hold(to_k);
    }
    mlc_copy_wait<0>();
    const float plain[2] = {1, 1}, factor[2] = {(float)s.scale, (float)s.scale};
    tile_put<D, VECTORS>(dk + walk.batch * s.dk_batch + walk.group * s.dk_head, s.dk_time, walk.key + row, s.keys, s.head, to_k, factor);
    tile_put<D, VECTORS>(dv + walk.batch * s.dv_batch + walk.group * s.dv_head, s.dv_time, walk.key + row, s.keys, s.value, to_v, plain);
#else
    (void)s, (void)of, (void)dk, (void)dv;
#endif
}

/* ---- launches, by the host ---- */

static inline bool tile_fits(const mlc_attention *s)
{
    return s->dtype == MLC_BF16 && s->head <= TILE_MOST_HEAD && s->value <= TILE_MOST_HEAD && s->scale > 0;
}

/* Whether rows of n elements begin at multiples of 16 bytes and end with one. */
static inline bool tile_is_aligned(const void *x, int64_t n, int64_t batch, int64_t time, int64_t head)
{
    return (uintptr_t)x % 16 == 0 && (n | batch | time | head) % 8 == 0;
}

/* By what a head of D elements is multiplied, and how high the other side's tiles are for its gradients: half as high by warps where a long
 * head's sums take twice the registers. */
template <int D> struct tile_by {
#if TILE_BY_GROUPS
    typedef tile_groups<D, 2> forward;
    typedef tile_groups<D, 1> backward;
    static constexpr int OTHER = TILE_SIDE;
#else
    typedef tile_warps<D> forward;
    typedef tile_warps<D> backward;
    static constexpr int OTHER = D > 64 ? TILE_SIDE / 2 : TILE_SIDE;
#endif
};

static inline int tile_blocks(int64_t rows, int64_t heads, int each)
{
    return (int)((rows + each - 1) / each * heads);
}

template <int D, bool VECTORS>
static void tile_forward_of(const mlc_env *env, const mlc_attention *s, const uint16_t *q, const uint16_t *k, const uint16_t *v,
                            const uint8_t *mask, uint16_t *y, float *lse)
{
    typedef typename tile_by<D>::forward by;
    const int bytes = tile_bytes<by>(1, TILE_SIDE), blocks = tile_blocks(s->time, s->batch * s->heads, tile_of<by>::ROWS);
    mlc_allow_shared((const void *)tile_forward<by, VECTORS>, bytes);
    MLC_LAUNCH((tile_forward<by, VECTORS>), blocks, tile_of<by>::THREADS, bytes, mlc_stream(env), *s, q, k, v, mask, y, lse);
}

template <int D, bool VECTORS>
static void tile_gradients_of(
    const mlc_env *env, const mlc_attention *s, const operands<uint16_t> &of, uint16_t *dq, uint16_t *dk, uint16_t *dv)
{
    typedef typename tile_by<D>::backward by;
    constexpr int OTHER = tile_by<D>::OTHER, THREADS = tile_of<by>::THREADS;
    const int bytes = tile_bytes<by>(2, OTHER);
    const int queries = tile_blocks(s->time, s->batch * s->heads, tile_of<by>::ROWS);
    const int keys = tile_blocks(s->keys, s->batch * s->groups, tile_of<by>::ROWS);
    mlc_allow_shared((const void *)tile_query_gradients<by, OTHER, VECTORS>, bytes);
    mlc_allow_shared((const void *)tile_key_gradients<by, OTHER, VECTORS>, bytes);
    MLC_LAUNCH((tile_query_gradients<by, OTHER, VECTORS>), queries, THREADS, bytes, mlc_stream(env), *s, of, dq);
    MLC_LAUNCH((tile_key_gradients<by, OTHER, VECTORS>), keys, THREADS, bytes, mlc_stream(env), *s, of, dk, dv);
}

#endif
