/* mlc_contract_wgmma.h: mlc_contract_bf16 by warpgroups (sm_90): the same sums, for results of many tiles.
 *
 * Two warpgroups take a tile of 128 x 128, 64 rows each, whose sums stay in their registers. K goes by slices of 64 through three buffers of
 * shared memory: all threads copy the slice after the next one while the tensor cores, which read both sides from shared memory, are at
 * this one. Two blocks share a multiprocessor, so that one's epilogue runs beside the other's sums. Each sum starts from 0 and takes its
 * products in ascending k, 16 at a time, whose own order is the hardware's.
 *
 * A slice lies as its operand does, by rows of 64 elements whose 16-byte pieces are permuted (MLC_SWIZZLE_128): [side][k] where neighbours
 * in k lie side by side, else [side / 64][k][64 of side].
 *
 * Bytes moved: a and b once for each tile of the other side, from L2 but for the first time.
 */
#ifndef MLC_CONTRACT_WGMMA_H
#define MLC_CONTRACT_WGMMA_H

#include "mlc_device.h"

#define MLC_WIDE_TILE 128
#define MLC_WIDE_SLICE 64 /* of k */
#define MLC_WIDE_STAGES 3
#define MLC_WIDE_SIDE_BYTES (MLC_WIDE_TILE * MLC_WIDE_SLICE * 2)
#define MLC_WIDE_BYTES (MLC_WIDE_STAGES * 2 * MLC_WIDE_SIDE_BYTES)

/* One side of a tile, as mlc_side whose 8 neighbours always lie in 16 aligned bytes. */
template <bool ALONG_K> struct mlc_wide_side {
    static constexpr int ROWS = ALONG_K ? MLC_WIDE_TILE : MLC_WIDE_SLICE, COLUMNS = ALONG_K ? MLC_WIDE_SLICE : MLC_WIDE_TILE;
    static constexpr int TRANS = !ALONG_K;

    /* Where 8 elements of the slice lie, in bytes; column: a multiple of 8. */
    static MLC_DEVICE_METHOD int place(int row, int column)
    {
        return column / 64 * (ROWS * 128) + row * 128 + (column % 64 / 8 ^ row % 8) * 16;
    }

    template <class Integer, class At>
    static MLC_DEVICE_METHOD void fill(uint8_t *slice, const At &at, Integer s0, Integer sides, Integer k0, Integer ks)
    {
        MLC_UNROLL
        for (int turn = 0; turn < ROWS * COLUMNS / 8 / MLC_BLOCK_THREADS; turn++) {
            const int i = turn * MLC_BLOCK_THREADS + threadIdx.x, row = i / (COLUMNS / 8), column = i % (COLUMNS / 8) * 8;
            const Integer s = s0 + (ALONG_K ? row : column), k = k0 + (ALONG_K ? column : row);
            const bool there = s < sides && k < ks;
            mlc_copy_some(slice + place(row, column), there ? at(s, k) : at((Integer)0, (Integer)0), there ? ALONG_K ? ks - k : sides - s : 0);
        }
    }

    /* Sides from s on, a multiple of 64, by 16 of k from k on. */
    static MLC_DEVICE_METHOD uint64_t describe(const uint8_t *slice, int s, int k)
    {
        return ALONG_K ? mlc_matrix_descriptor(slice + s * 128 + k * 2, 0, 1024, MLC_SWIZZLE_128)
                       : mlc_matrix_descriptor(slice + s / 64 * (ROWS * 128) + k * 128, ROWS * 128, 1024, MLC_SWIZZLE_128);
    }
};

/* As mlc_contract_bf16. slices: MLC_WIDE_BYTES. */
template <int64_t BATCH, int64_t M, int64_t N, int64_t K, class SideA, class SideB, class Integer, class A, class B, class Store>
MLC_DEVICE void mlc_contract_wgmma(uint8_t *slices, const A &a, const B &b, const Store &store)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA
    constexpr Integer TILES_M = (M + MLC_WIDE_TILE - 1) / MLC_WIDE_TILE, TILES_N = (N + MLC_WIDE_TILE - 1) / MLC_WIDE_TILE;
    constexpr Integer STEPS = (K + MLC_WIDE_SLICE - 1) / MLC_WIDE_SLICE;
    const Integer item = (Integer)blockIdx.x, batch = item / (TILES_M * TILES_N);
    const Integer m0 = item / TILES_N % TILES_M * MLC_WIDE_TILE, n0 = item % TILES_N * MLC_WIDE_TILE;
    const int thread = threadIdx.x % 128, row = (int)threadIdx.x / 128 * 64;
    const auto a_at = [=](Integer m, Integer k) { return a(batch, m, k); };
    const auto b_at = [=](Integer n, Integer k) { return b(batch, k, n); };
    const auto fill = [=](Integer step) {
        uint8_t *const slice = slices + step % MLC_WIDE_STAGES * (2 * MLC_WIDE_SIDE_BYTES);
        if (step < STEPS) {
            SideA::fill(slice, a_at, m0, (Integer)M, step * MLC_WIDE_SLICE, (Integer)K);
            SideB::fill(slice + MLC_WIDE_SIDE_BYTES, b_at, n0, (Integer)N, step * MLC_WIDE_SLICE, (Integer)K);
        }
        mlc_copy_commit();
    };
    float sum[MLC_WIDE_TILE / 2];
    MLC_UNROLL
    for (int i = 0; i < MLC_WIDE_TILE / 2; i++)
        sum[i] = 0;

    for (int stage = 0; stage + 1 < MLC_WIDE_STAGES; stage++)
        fill((Integer)stage);
    MLC_ROLLED
    for (Integer step = 0; step < STEPS; step++) {
        const uint8_t *const slice = slices + step % MLC_WIDE_STAGES * (2 * MLC_WIDE_SIDE_BYTES);
        mlc_copy_wait<MLC_WIDE_STAGES - 2>();
        mlc_fence_async();
        mlc_wgmma_wait<0>();
        __syncthreads(); /* this slice is there for the tensor cores, and they have left the one before */
        mlc_wgmma_fence();
        MLC_UNROLL
        for (int k = 0; k < MLC_WIDE_SLICE; k += 16)
            mlc_wgmma_bf16<MLC_WIDE_TILE, SideA::TRANS, SideB::TRANS>(
                sum, SideA::describe(slice, row, k), SideB::describe(slice + MLC_WIDE_SIDE_BYTES, 0, k), true);
        mlc_wgmma_commit();
        fill(step + MLC_WIDE_STAGES - 1);
    }
    mlc_wgmma_wait<0>();
    mlc_copy_wait<0>();
    MLC_UNROLL
    for (int i = 0; i < MLC_WIDE_TILE / 2; i++) {
        const Integer m = m0 + row + thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, n = n0 + i / 4 * 8 + thread % 4 * 2 + i % 2;
        if (m < (Integer)M && n < (Integer)N)
            store(batch, m, n, sum[i]);
    }
#else
    (void)slices, (void)a, (void)b, (void)store;
#endif
}

#endif
