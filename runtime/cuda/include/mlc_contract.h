/* mlc_contract.h: contractions of bf16 on tensor cores by mma.sync, for operands of any strides and any epilogue.
 *
 *   result[batch, m, n] = sum over k of a[batch, m, k] * b[batch, k, n], summed in f32
 *
 * 256 threads, 8 warps as 2 x 4, take a tile of ROWS x COLUMNS; a warp ROWS / 2 x COLUMNS / 4 of it. K goes by slices of 32 through two
 * buffers of shared memory: while one is multiplied the other is filled. Each sum starts from 0 and takes its products in ascending k, 16
 * at a time, whose own order is the hardware's; it depends on the shape alone.
 *
 * A slice lies as its operand does: [m][k] where neighbours in k lie side by side, else [k][m], which ldmatrix transposes. Rows have 8
 * elements more, so that the eight rows that ldmatrix reads at once lie in different banks (80 and 272 bytes apart, or 144).
 *
 * Where 8 neighbours always lie in 16 aligned bytes they are copied by one cp.async, as far as there are any; else element by element.
 *
 * Bytes moved: a and b once for each tile of the other side, from L2 but for the first time.
 */
#ifndef MLC_CONTRACT_H
#define MLC_CONTRACT_H

#include "mlc_device.h"

#define MLC_SLICE 32 /* of k */
#define MLC_GAP 8

/* One side of a tile: SIDE rows of a, or columns of b. ALONG_K: where neighbours in k lie side by side. VECTORS: by 16 bytes. */
template <int SIDE, bool ALONG_K, bool VECTORS> struct mlc_side {
    static constexpr int OUTER = ALONG_K ? SIDE : MLC_SLICE, INNER = ALONG_K ? MLC_SLICE : SIDE, PITCH = INNER + MLC_GAP;
    static constexpr int ELEMENTS = OUTER * PITCH;

    /* Fills a slice: element (s, k) from at(s0 + s, k0 + k), 0 where one is not below its extent. */
    template <class Integer, class At>
    static MLC_DEVICE_METHOD void fill(uint16_t *slice, const At &at, Integer s0, Integer sides, Integer k0, Integer ks)
    {
        constexpr int STEP = VECTORS ? 8 : 1;
        for (int i = threadIdx.x; i < OUTER * INNER / STEP; i += MLC_BLOCK_THREADS) {
            const int outer = i / (INNER / STEP), inner = i % (INNER / STEP) * STEP;
            const Integer s = s0 + (ALONG_K ? outer : inner), k = k0 + (ALONG_K ? inner : outer);
            const bool there = s < sides && k < ks;
            uint16_t *const to = slice + outer * PITCH + inner;
            if (VECTORS)
                mlc_copy_some(to, there ? at(s, k) : at((Integer)0, (Integer)0), there ? ALONG_K ? ks - k : sides - s : 0);
            else
                *to = there ? *at(s, k) : (uint16_t)0;
        }
    }

    /* Four 8 x 8 matrices: two along this side from s on, two along k from k on. SIDE_FIRST: the first two go along the side. */
    template <bool SIDE_FIRST> static MLC_DEVICE_METHOD void load(uint32_t (&r)[4], const uint16_t *slice, int s, int k)
    {
        const int lane = mlc_lane(), matrix = lane / 8, row = lane % 8;
        const int at_s = s + (SIDE_FIRST ? matrix % 2 : matrix / 2) * 8, at_k = k + (SIDE_FIRST ? matrix / 2 : matrix % 2) * 8;
        if (ALONG_K)
            mlc_ldmatrix_x4(r, slice + (at_s + row) * PITCH + at_k);
        else
            mlc_ldmatrix_x4_trans(r, slice + (at_k + row) * PITCH + at_s);
    }
};

/* Two buffers of both sides. */
template <class A, class B> struct mlc_slices {
    uint16_t a[2][A::ELEMENTS];
    uint16_t b[2][B::ELEMENTS];
};

/* a(batch, m, k) and b(batch, k, n) are the addresses of elements; store(batch, m, n, sum) takes each sum. */
template <int ROWS, int COLUMNS, int64_t BATCH, int64_t M, int64_t N, int64_t K, class SideA, class SideB, class Integer, class A, class B,
          class Store>
MLC_DEVICE void mlc_contract_bf16(mlc_slices<SideA, SideB> &slices, const A &a, const B &b, const Store &store)
{
    constexpr Integer TILES_M = (M + ROWS - 1) / ROWS, TILES_N = (N + COLUMNS - 1) / COLUMNS, STEPS = (K + MLC_SLICE - 1) / MLC_SLICE;
    constexpr int WARP_M = ROWS / 2 / 16, WARP_N = COLUMNS / 4 / 8;
    const Integer item = (Integer)blockIdx.x, batch = item / (TILES_M * TILES_N);
    const Integer m0 = item / TILES_N % TILES_M * ROWS, n0 = item % TILES_N * COLUMNS;
    const int warp = mlc_warp(), lane = mlc_lane(), row = warp / 4 * (ROWS / 2), column = warp % 4 * (COLUMNS / 4);
    const auto a_at = [=](Integer m, Integer k) { return a(batch, m, k); };
    const auto b_at = [=](Integer n, Integer k) { return b(batch, k, n); };
    float sum[WARP_M][WARP_N][4] = {};

    SideA::fill(slices.a[0], a_at, m0, (Integer)M, (Integer)0, (Integer)K);
    SideB::fill(slices.b[0], b_at, n0, (Integer)N, (Integer)0, (Integer)K);
    mlc_copy_commit();
    MLC_ROLLED
    for (Integer step = 0; step < STEPS; step++) {
        const int own = step % 2;
        mlc_copy_wait<0>();
        __syncthreads(); /* this slice is there, and all have left the other one */
        if (step + 1 < STEPS) {
            SideA::fill(slices.a[1 - own], a_at, m0, (Integer)M, (step + 1) * MLC_SLICE, (Integer)K);
            SideB::fill(slices.b[1 - own], b_at, n0, (Integer)N, (step + 1) * MLC_SLICE, (Integer)K);
        }
        mlc_copy_commit();
        MLC_UNROLL
        for (int k = 0; k < MLC_SLICE; k += 16) {
            uint32_t left[WARP_M][4], right[WARP_N / 2][4];
            MLC_UNROLL
            for (int i = 0; i < WARP_M; i++)
                SideA::template load<true>(left[i], slices.a[own], row + i * 16, k);
            MLC_UNROLL
            for (int j = 0; j < WARP_N / 2; j++)
                SideB::template load<false>(right[j], slices.b[own], column + j * 16, k);
            MLC_UNROLL
            for (int i = 0; i < WARP_M; i++)
                MLC_UNROLL
                for (int j = 0; j < WARP_N; j++) {
                    const uint32_t pair[2] = {right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]};
                    mlc_mma_bf16(sum[i][j], left[i], pair);
                }
        }
    }
    MLC_UNROLL
    for (int i = 0; i < WARP_M; i++)
        MLC_UNROLL
        for (int j = 0; j < WARP_N; j++)
            MLC_UNROLL
            for (int e = 0; e < 4; e++) {
                const Integer m = m0 + row + i * 16 + lane / 4 + e / 2 * 8, n = n0 + column + j * 8 + lane % 4 * 2 + e % 2;
                if (m < (Integer)M && n < (Integer)N)
                    store(batch, m, n, sum[i][j][e]);
            }
}

#endif
