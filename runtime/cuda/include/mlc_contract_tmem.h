/* mlc_contract_tmem.h: mlc_contract_tensor by tcgen05 (sm_103): the same sums, kept in tensor memory.
 *
 * A block a multiprocessor, which goes from tile to tile of 128 x COLUMNS. One thread asks for slices, as there; one thread multiplies: an
 * instruction takes all 128 rows, and what it commits arrives at the mbarrier of the buffer that it has read. Tensor memory has room for
 * the sums of two tiles: while one is multiplied, eight warps end the other, each 32 rows (those of its lanes) of half of the columns.
 *
 * Epilogue: as in mlc_contract_tensor.h; a lane has a row, of which it loads 32 columns at a time and turns them in shared memory.
 */
#ifndef MLC_CONTRACT_TMEM_H
#define MLC_CONTRACT_TMEM_H

#include "mlc_contract_tensor.h"

#define MLC_TMEM_THREADS 320
#define MLC_TMEM_TURNED (32 * 32) /* floats of a warp */

/* 229376, 196608 and 229376 bytes for 128, 192 and 256 columns. */
template <int TILE_COLUMNS> struct mlc_tmem_memory {
    static constexpr int COLUMNS = TILE_COLUMNS, TAKEN = COLUMNS == 128 ? 256 : 512; /* columns of tensor memory */
    static constexpr int STAGES = COLUMNS == 128 ? 6 : 4;
    static constexpr int A_BYTES = MLC_TENSOR_ROWS * MLC_TENSOR_SLICE * 2, B_BYTES = COLUMNS * MLC_TENSOR_SLICE * 2;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES, TURNED = STAGES * STAGE_BYTES;
    static constexpr int BYTES = TURNED + MLC_TENSOR_WARPS * MLC_TMEM_TURNED * 4;
};

/* done: of a tile whose sums are there; left: of one whose sums have been read. address: of the tensor memory. */
struct mlc_tmem_barriers {
    mlc_mbarrier full[6], empty[6], done[2], left[2];
    uint32_t address;
};

/* One side of a slice, 16 of k from k on, as mlc_wide_side describes it. */
template <bool ALONG_K> MLC_DEVICE uint64_t mlc_tmem_side(const uint8_t *slice, int k)
{
    return ALONG_K ? mlc_tmem_descriptor(slice + k * 2, 0, 1024, MLC_SWIZZLE_128)
                   : mlc_tmem_descriptor(slice + k * 128, MLC_TENSOR_BOX_BYTES, 1024, MLC_SWIZZLE_128);
}

/* One thread: the products of the tiles of this block. */
template <class room, int64_t TILES, int64_t STEPS, bool A_ALONG_K, bool B_ALONG_K, class Integer>
MLC_DEVICE void mlc_tmem_multiply(const uint8_t *memory, mlc_tmem_barriers &barriers, Integer stride)
{
    const uint32_t instruction = mlc_tmem_instruction(MLC_TENSOR_ROWS, room::COLUMNS, !A_ALONG_K, !B_ALONG_K);
    mlc_tensor_place<room::STAGES> place;
    mlc_tensor_place<2> half;
    for (Integer item = blockIdx.x; item < (Integer)TILES; item += stride, half.next()) {
        const uint32_t sums = barriers.address + (uint32_t)(half.stage * room::COLUMNS);
        mlc_mbarrier_wait(&barriers.left[half.stage], half.parity ^ 1);
        MLC_ROLLED
        for (Integer step = 0; step < (Integer)STEPS; step++, place.next()) {
            const uint8_t *const slice = memory + place.stage * room::STAGE_BYTES;
            mlc_mbarrier_wait(&barriers.full[place.stage], place.parity);
            mlc_tmem_fence();
            MLC_UNROLL
            for (int k = 0; k < MLC_TENSOR_SLICE; k += 16)
                mlc_tmem_mma(sums, mlc_tmem_side<A_ALONG_K>(slice, k), mlc_tmem_side<B_ALONG_K>(slice + room::A_BYTES, k), instruction,
                    step > 0 || k > 0);
            mlc_tmem_commit(&barriers.empty[place.stage]);
        }
        mlc_tmem_commit(&barriers.done[half.stage]);
    }
}

/* A warp of the eight: its part of the tiles of this block. */
template <class room, int64_t M, int64_t N, int64_t TILES, class Integer, class Store, class Stores>
MLC_DEVICE void mlc_tmem_end(float *turned, mlc_tmem_barriers &barriers, Integer stride, const Store &store, const Stores &stores)
{
    constexpr int WIDTH = room::COLUMNS / 2;
    const int warp = mlc_warp(), lane = mlc_lane(), row = warp % 4 * 32, column = warp / 4 * WIDTH;
    mlc_tensor_place<2> half;
    for (Integer item = blockIdx.x; item < (Integer)TILES; item += stride, half.next()) {
        const mlc_tensor_tile<Integer> tile = mlc_tensor_tile_of<room::COLUMNS, M, N, Integer>(item);
        const uint32_t sums = barriers.address + (uint32_t)(half.stage * room::COLUMNS + column) + ((uint32_t)row << 16);
        mlc_mbarrier_wait(&barriers.done[half.stage], half.parity);
        mlc_tmem_fence();
        MLC_ROLLED
        for (int part = 0; part < WIDTH; part += 32) {
            float v[32];
            mlc_tmem_load_x32(v, sums + (uint32_t)part);
            MLC_UNROLL
            for (int i = 0; i < 32; i += 4)
                mlc_store16(turned + mlc_tensor_turn(lane, i / 4), mlc_x16<float>{{v[i], v[i + 1], v[i + 2], v[i + 3]}});
            if (part + 32 == WIDTH) {
                mlc_tmem_fence_before();
                mlc_tensor_leave(&barriers.left[half.stage]);
            } else {
                __syncwarp();
            }
            mlc_tensor_end<32, M, N>(turned, tile.batch, tile.m0 + row, tile.n0 + column + part, store, stores);
            __syncwarp();
        }
    }
}

/* As mlc_contract_tensor. MLC_TMEM_THREADS threads and the warps that sum beside, tiles a grid apart. memory: of mlc_tmem_memory<COLUMNS>, aligned to 1024. */
template <int COLUMNS, int64_t BATCH, int64_t M, int64_t N, int64_t K, bool A_ALONG_K, bool B_ALONG_K, class Integer, class Store,
          class Stores, class Beside>
MLC_DEVICE void mlc_contract_tmem(uint8_t *memory, mlc_tmem_barriers &barriers, const mlc_tensor_map *a, const mlc_tensor_map *b,
    const Store &store, const Stores &stores, const Beside &beside)
{
    static_assert(!Beside::WARPS || (A_ALONG_K && BATCH == 1), "what is summed beside is one matrix of rows along k");
#if !defined(__CUDA_ARCH__) || MLC_HAS_TCGEN05
    typedef mlc_tmem_memory<COLUMNS> room;
    constexpr Integer TILES = BATCH * ((M + MLC_TENSOR_ROWS - 1) / MLC_TENSOR_ROWS) * ((N + COLUMNS - 1) / COLUMNS);
    constexpr Integer STEPS = (K + MLC_TENSOR_SLICE - 1) / MLC_TENSOR_SLICE;
    const int warp = mlc_warp();
    const Integer stride = (Integer)gridDim.x;
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < room::STAGES; stage++) {
            mlc_mbarrier_init(&barriers.full[stage], 1);
            mlc_mbarrier_init(&barriers.empty[stage], 1 + Beside::WARPS);
        }
        for (int half = 0; half < 2; half++) {
            mlc_mbarrier_init(&barriers.done[half], 1);
            mlc_mbarrier_init(&barriers.left[half], MLC_TENSOR_WARPS);
        }
        mlc_fence_async();
    }
    if (warp == MLC_TENSOR_WARPS + 1) {
        mlc_tmem_alloc<room::TAKEN>(&barriers.address);
        mlc_tmem_fence_before();
    }
    __syncthreads();
    mlc_tmem_fence();

    if (warp < MLC_TENSOR_WARPS)
        mlc_tmem_end<room, M, N, TILES>(
            reinterpret_cast<float *>(memory + room::TURNED) + warp * MLC_TMEM_TURNED, barriers, stride, store, stores);
    else if (warp == MLC_TENSOR_WARPS && mlc_elected())
        mlc_tensor_ask<room, M, N, TILES, STEPS, A_ALONG_K, B_ALONG_K>(memory, barriers.full, barriers.empty, a, b, stride);
    else if (warp == MLC_TENSOR_WARPS + 1 && mlc_elected())
        mlc_tmem_multiply<room, TILES, STEPS, A_ALONG_K, B_ALONG_K>(memory, barriers, stride);
    if constexpr (Beside::WARPS > 0)
        if (warp > MLC_TENSOR_WARPS + 1)
            mlc_tensor_sum<room, Beside::WARPS, M, N, K, TILES>(
                memory, barriers.full, barriers.empty, warp - MLC_TENSOR_WARPS - 2, beside.to, stride);
    __syncwarp();
    mlc_tmem_fence_before();
    __syncthreads();
    if (warp == MLC_TENSOR_WARPS + 1) {
        mlc_tmem_fence();
        mlc_tmem_free<room::TAKEN>(barriers.address);
    }
#else
    (void)memory, (void)barriers, (void)a, (void)b, (void)store, (void)stores, (void)beside;
#endif
}

#endif
