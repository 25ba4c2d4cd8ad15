/* mlc_contract_tensor.h: contractions of bf16 whose operands are matrices that tensor copies can take, for results of many tiles.
 *
 *   result[batch, m, n] = sum over k of a[batch, m, k] * b[batch, k, n], summed in f32
 *
 * One warp asks for slices, 64 of k, of a tile of 128 x COLUMNS; the copies bring them into buffers in turn, and an mbarrier a buffer tells
 * when its bytes are there, another when it may be filled again. Two warpgroups, 64 rows each, multiply from shared memory by wgmma and
 * keep the sums in registers; the products of a slice are under way while those of the next are asked for. Each sum starts from 0 and takes
 * its products in ascending k, 16 at a time, whose own order is the hardware's.
 *
 * COLUMNS 128: a block a tile, and two share a multiprocessor, so that one's epilogue runs beside the other's products. COLUMNS 192 and
 * 256, for long sums: a block alone, fewer bytes a product; it goes from tile to tile, and the slices of the next one come while it ends
 * the one before. Warps that do not multiply give their registers to those that do.
 *
 * Tiles are taken in stripes of MLC_TENSOR_STRIPE rows of tiles, column by column, so that those under way at once share operands in L2.
 *
 * Epilogue: each warp turns its 16 rows in shared memory, 32 columns at a time (all at once where no slices come any more, so that sums
 * leave the registers before it), and a thread has 8 neighbours of a row, which are loaded and stored by 16 bytes. A row there is 8 pieces
 * of 16 bytes, permuted by mlc_tensor_turn: neither way of touching them has a conflict of banks.
 *
 * Beside: gradients of biases are sums over rows of what is a here. A warp or two (mlc_tensor_sums) add the rows of slices in blocks of 64,
 * for the first tile of each row of tiles, while these are multiplied; a buffer is empty when they have left it too.
 *
 * Bytes moved: a and b once for each tile of the other side, from L2 but for the first time.
 */
#ifndef MLC_CONTRACT_TENSOR_H
#define MLC_CONTRACT_TENSOR_H

#include "mlc_calls.h"
#include "mlc_contract_wgmma.h"

#include <stdio.h>

#define MLC_TENSOR_ROWS 128
#define MLC_TENSOR_SLICE 64 /* of k; and the elements of a row of a copy, as many as the swizzle has */
#define MLC_TENSOR_BOX_BYTES (MLC_TENSOR_SLICE * MLC_TENSOR_SLICE * 2)
#define MLC_TENSOR_STRIPE 16
#define MLC_TENSOR_WARPS 8 /* that multiply; one thread behind them asks for slices */
#define MLC_TENSOR_BLOCK 64 /* rows that are summed into one number */
#define MLC_TENSOR_TURNED (16 * 32) /* floats */

/* Buffers of slices, one behind the other, then what warps turn, where a block STAYS: 98304, 180224 and 212992 bytes for 128, 192 and 256
 * columns. The threads of a block that stays are three warpgroups, of which two take over registers of the third: 168 at first, then
 * REGISTERS and OTHERS. */
template <int TILE_COLUMNS> struct mlc_tensor_memory {
    static constexpr int COLUMNS = TILE_COLUMNS;
    static constexpr bool STAYS = COLUMNS != 128;
    static constexpr int STAGES = STAYS ? 4 : 3, THREADS = STAYS ? 384 : 288, REGISTERS = 232, OTHERS = 40;
    static constexpr int A_BYTES = MLC_TENSOR_ROWS * MLC_TENSOR_SLICE * 2, B_BYTES = COLUMNS * MLC_TENSOR_SLICE * 2;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES, TURNED = STAYS ? STAGES * STAGE_BYTES : 0;
    static constexpr int AT_ONCE = STAYS ? 1 : COLUMNS / 32; /* parts of 32 columns that are turned */
    static constexpr int BYTES = STAGES * STAGE_BYTES + (STAYS ? MLC_TENSOR_WARPS * MLC_TENSOR_TURNED * 4 : 0);
};

/* What a contraction does beside: nothing; or, by so many warps, to[m / 64][k] = sum of a[m][k] over 64 rows, ascending. */
struct mlc_tensor_alone {
    static constexpr int WARPS = 0;
};

template <int COUNT> struct mlc_tensor_sums {
    static constexpr int WARPS = COUNT;
    float *to;

    MLC_DEVICE_METHOD explicit mlc_tensor_sums(float *sums) : to(sums)
    {
    }
};

struct mlc_tensor_barriers {
    mlc_mbarrier full[4], empty[4];
};

/* 8 neighbours of a row, in 16 aligned bytes or, of 32-bit elements, in 32. */
template <class T> struct mlc_x8 {
    T v[8];
};

template <class T> MLC_DEVICE mlc_x8<T> mlc_load8(const T *from)
{
    mlc_x8<T> x;
    MLC_UNROLL
    for (int i = 0; i < 8; i += mlc_x16<T>::N) {
        const mlc_x16<T> part = mlc_load16(from + i);
        MLC_UNROLL
        for (int j = 0; j < mlc_x16<T>::N; j++)
            x.v[i + j] = part[j];
    }
    return x;
}

template <class T> MLC_DEVICE void mlc_store8(T *to, const mlc_x8<T> &x)
{
    MLC_UNROLL
    for (int i = 0; i < 8; i += mlc_x16<T>::N) {
        mlc_x16<T> part;
        MLC_UNROLL
        for (int j = 0; j < mlc_x16<T>::N; j++)
            part[j] = x.v[i + j];
        mlc_store16(to + i, part);
    }
}

/* A matrix as copies take it: `along` elements side by side, a row every `pitch`, a matrix every `batch_pitch`; boxes of 64 in a row. Where
 * there can be no such copies the launch that follows is refused, and calls, if any, hear why. of: the kernel and its operand. */
static inline mlc_tensor_map mlc_tensor_map_of(const uint16_t *base, int64_t batches, int64_t batch_pitch, int64_t rows, int64_t pitch,
    int64_t along, int box_rows, mlc_calls *calls = nullptr, const char *of = "")
{
    mlc_tensor_map map = {};
    const int status = mlc_tensor_map_make(&map, base, (uint64_t)batches, (uint64_t)batch_pitch * 2, (uint64_t)rows, (uint64_t)pitch * 2,
        (uint64_t)along, (uint32_t)box_rows, MLC_TENSOR_SLICE, MLC_SWIZZLE_128);
    if (status && calls && !mlc_calls_why(calls)[0])
        snprintf(mlc_calls_why(calls), sizeof(mlc_calls_refused), "%s: the driver takes no tensor map (%s, %d): address %p, %lld matrices every %lld bytes, %lld rows every %lld "
            "bytes, %lld elements a row, %d rows a box", of, status < 0 ? "it has no cuTensorMapEncodeTiled" : "CUresult", status, (const void *)base,
            (long long)batches, (long long)batch_pitch * 2, (long long)rows, (long long)pitch * 2, (long long)along, box_rows);
    if (status && !calls)
        (void)cudaFuncSetAttribute(nullptr, cudaFuncAttributeMaxDynamicSharedMemorySize, -1); /* an error that stays until it is read */
    return map;
}

/* Blocks for so many tiles, a multiprocessor each: as few as are done as soon, so that those that messages hold keep none waiting. */
static inline int mlc_tensor_blocks(int64_t tiles)
{
    int device = 0, processors = 1;
    if (cudaGetDevice(&device) == cudaSuccess)
        (void)cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
    const int64_t turns = (tiles + processors - 1) / processors;
    return (int)((tiles + turns - 1) / turns);
}

/* One side of a tile. ALONG_K: neighbours in k lie side by side, and the box has SIDE rows; else a box for each 64 of the side. */
template <int SIDE, bool ALONG_K> struct mlc_tensor_side {
    static MLC_DEVICE_METHOD void load(uint8_t *slice, const mlc_tensor_map *map, int batch, int s, int k, mlc_mbarrier *full)
    {
        if (ALONG_K)
            mlc_tensor_load(slice, map, batch, s, k, full);
        else
            for (int i = 0; i < SIDE; i += 64)
                mlc_tensor_load(slice + i / 64 * MLC_TENSOR_BOX_BYTES, map, batch, k, s + i, full);
    }
};

/* A buffer, and the parity of the turn that it is in. */
template <int STAGES> struct mlc_tensor_place {
    int stage = 0, parity = 0;

    MLC_DEVICE_METHOD void next()
    {
        stage = stage + 1 == STAGES ? 0 : stage + 1;
        parity ^= stage == 0;
    }
};

template <class Integer> struct mlc_tensor_tile {
    Integer batch, m0, n0;
};

template <int COLUMNS, int64_t M, int64_t N, class Integer> MLC_DEVICE mlc_tensor_tile<Integer> mlc_tensor_tile_of(Integer item)
{
    constexpr Integer DOWN = (M + MLC_TENSOR_ROWS - 1) / MLC_TENSOR_ROWS, ACROSS = (N + COLUMNS - 1) / COLUMNS;
    const Integer batch = item / (DOWN * ACROSS), tile = item % (DOWN * ACROSS), stripe = tile / (MLC_TENSOR_STRIPE * ACROSS);
    const Integer first = stripe * MLC_TENSOR_STRIPE, rows = DOWN - first < MLC_TENSOR_STRIPE ? DOWN - first : (Integer)MLC_TENSOR_STRIPE;
    const Integer within = tile - first * ACROSS;
    return {batch, (first + within % rows) * MLC_TENSOR_ROWS, within / rows * COLUMNS};
}

/* One thread: asks for the slices of the tiles of this block, each when its buffer is empty. `room` says what buffers there are. */
template <class room, int64_t M, int64_t N, int64_t TILES, int64_t STEPS, bool A_ALONG_K, bool B_ALONG_K, class Integer>
MLC_DEVICE void mlc_tensor_ask(uint8_t *memory, mlc_mbarrier *full, mlc_mbarrier *empty, const mlc_tensor_map *a, const mlc_tensor_map *b,
    Integer stride)
{
    mlc_tensor_place<room::STAGES> place;
    for (Integer item = blockIdx.x; item < (Integer)TILES; item += stride) {
        const mlc_tensor_tile<Integer> tile = mlc_tensor_tile_of<room::COLUMNS, M, N, Integer>(item);
        MLC_ROLLED
        for (Integer step = 0; step < (Integer)STEPS; step++, place.next()) {
            uint8_t *const slice = memory + place.stage * room::STAGE_BYTES;
            mlc_mbarrier *const there = &full[place.stage];
            const int k = (int)(step * MLC_TENSOR_SLICE);
            mlc_mbarrier_wait(&empty[place.stage], place.parity ^ 1);
            mlc_mbarrier_arrive_expect(there, room::STAGE_BYTES);
            mlc_tensor_side<MLC_TENSOR_ROWS, A_ALONG_K>::load(slice, a, (int)tile.batch, (int)tile.m0, k, there);
            mlc_tensor_side<room::COLUMNS, B_ALONG_K>::load(slice + room::A_BYTES, b, (int)tile.batch, (int)tile.n0, k, there);
        }
    }
}

/* Where a piece of a row lies: the halves of eight rows, and pieces 0, 2, 4, 6 of two rows, are in different banks. */
MLC_DEVICE int mlc_tensor_turn(int row, int piece)
{
    return row * 32 + (piece ^ ((row & 3) << 1 | ((row ^ row >> 2) & 1))) * 4;
}

/* The epilogue of ROWS x 32 sums that a warp has in `turned`: from (m0, n0) on. */
template <int ROWS, int64_t M, int64_t N, class Integer, class Store, class Stores>
MLC_DEVICE void mlc_tensor_end(const float *turned, Integer batch, Integer m0, Integer n0, const Store &store, const Stores &stores)
{
    const int lane = mlc_lane();
    MLC_ROLLED
    for (int row = lane / 4; row < ROWS; row += 8) {
        const Integer m = m0 + row, n = n0 + lane % 4 * 8;
        mlc_x8<float> sums;
        MLC_UNROLL
        for (int half = 0; half < 2; half++) {
            const mlc_x16<float> part = mlc_load16(turned + mlc_tensor_turn(row, lane % 4 * 2 + half));
            MLC_UNROLL
            for (int i = 0; i < 4; i++)
                sums.v[half * 4 + i] = part[i];
        }
        if (m >= (Integer)M)
            continue;
        if (N % 8 == 0 ? n < (Integer)N : n + 8 <= (Integer)N)
            stores(batch, m, n, sums);
        else if (N % 8)
            MLC_UNROLL
            for (int i = 0; i < 8; i++)
                if (n + i < (Integer)N)
                    store(batch, m, n + i, sums.v[i]);
    }
}

/* All lanes of this warp have waited for what read the buffer of that barrier, if there is one. */
MLC_DEVICE void mlc_tensor_leave(mlc_mbarrier *empty)
{
    __syncwarp();
    if (empty && mlc_lane() == 0)
        mlc_mbarrier_arrive(empty);
}

/* A lane has two neighbours in k, whose sums over BLOCKS blocks of a slice's rows it returns, block by block. */
template <int BLOCKS> MLC_DEVICE void mlc_tensor_add_rows(float (&sum)[2 * BLOCKS], const uint8_t *rows)
{
    const int lane = mlc_lane();
    MLC_UNROLL
    for (int i = 0; i < 2 * BLOCKS; i++)
        sum[i] = 0;
    MLC_ROLLED
    for (int row = 0; row < MLC_TENSOR_BLOCK; row += 8)
        MLC_UNROLL
        for (int i = 0; i < 8; i++)
            MLC_UNROLL
            for (int block = 0; block < BLOCKS; block++) {
                const uint8_t *const from = rows + (block * MLC_TENSOR_BLOCK + row + i) * 128 + (lane / 4 ^ i) * 16 + lane % 4 * 4;
                const uint32_t pair = *reinterpret_cast<const uint32_t *>(from);
                sum[2 * block] += mlc_f32_of_bf16((uint16_t)pair);
                sum[2 * block + 1] += mlc_f32_of_bf16((uint16_t)(pair >> 16));
            }
}

/* A warp, the one of that number among those of mlc_tensor_sums: its blocks of rows of the tiles of this block. */
template <class room, int WARPS, int64_t M, int64_t N, int64_t K, int64_t TILES, class Integer>
MLC_DEVICE void mlc_tensor_sum(
    const uint8_t *memory, mlc_mbarrier *full, mlc_mbarrier *empty, int number, float *to, Integer stride)
{
    constexpr int BLOCKS = MLC_TENSOR_ROWS / MLC_TENSOR_BLOCK / WARPS;
    mlc_tensor_place<room::STAGES> place;
    for (Integer item = blockIdx.x; item < (Integer)TILES; item += stride) {
        const mlc_tensor_tile<Integer> tile = mlc_tensor_tile_of<room::COLUMNS, M, N, Integer>(item);
        const Integer first = tile.m0 / MLC_TENSOR_BLOCK + number * BLOCKS;
        MLC_ROLLED
        for (Integer k = mlc_lane() * 2; k < (Integer)((K + MLC_TENSOR_SLICE - 1) / MLC_TENSOR_SLICE * MLC_TENSOR_SLICE);
             k += MLC_TENSOR_SLICE, place.next()) {
            mlc_mbarrier_wait(&full[place.stage], place.parity);
            if (tile.n0 == 0) {
                float sum[2 * BLOCKS];
                mlc_tensor_add_rows<BLOCKS>(sum, memory + place.stage * room::STAGE_BYTES + number * BLOCKS * MLC_TENSOR_BLOCK * 128);
                MLC_UNROLL
                for (int i = 0; i < 2 * BLOCKS; i++)
                    if ((first + i / 2) * MLC_TENSOR_BLOCK < (Integer)M && k + i % 2 < (Integer)K)
                        to[(first + i / 2) * (Integer)K + k + i % 2] = sum[i];
            }
            mlc_tensor_leave(&empty[place.stage]);
        }
    }
}

/* THREADS of mlc_tensor_memory<COLUMNS>, a warp more where a block does not stay and sums beside; its BYTES of memory, aligned to 1024; a
 * block a tile, or, where blocks stay, tiles a grid apart. store(batch, m, n, sum) takes a sum, stores(batch, m, n, sums) 8 from a
 * multiple of 8 on. */
template <int COLUMNS, int64_t BATCH, int64_t M, int64_t N, int64_t K, bool A_ALONG_K, bool B_ALONG_K, class Integer, class Store,
          class Stores, class Beside>
MLC_DEVICE void mlc_contract_tensor(uint8_t *memory, mlc_tensor_barriers &barriers, const mlc_tensor_map *a, const mlc_tensor_map *b,
    const Store &store, const Stores &stores, const Beside &beside)
{
    static_assert(!Beside::WARPS || (A_ALONG_K && BATCH == 1), "what is summed beside is one matrix of rows along k");
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA
    typedef mlc_tensor_memory<COLUMNS> room;
    constexpr Integer TILES = BATCH * ((M + MLC_TENSOR_ROWS - 1) / MLC_TENSOR_ROWS) * ((N + COLUMNS - 1) / COLUMNS);
    constexpr Integer STEPS = (K + MLC_TENSOR_SLICE - 1) / MLC_TENSOR_SLICE;
    const int warp = mlc_warp(), lane = mlc_lane();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < room::STAGES; stage++) {
            mlc_mbarrier_init(&barriers.full[stage], 1);
            mlc_mbarrier_init(&barriers.empty[stage], MLC_TENSOR_WARPS + Beside::WARPS);
        }
        mlc_fence_async();
    }
    __syncthreads();
    mlc_tensor_place<room::STAGES> place;

    if (warp >= MLC_TENSOR_WARPS) {
        const Integer stride = room::STAYS ? (Integer)gridDim.x : TILES;
        if (room::STAYS)
            mlc_registers_give<room::OTHERS>();
        if (warp == MLC_TENSOR_WARPS && mlc_elected())
            mlc_tensor_ask<room, M, N, TILES, STEPS, A_ALONG_K, B_ALONG_K>(memory, barriers.full, barriers.empty, a, b, stride);
        if constexpr (Beside::WARPS > 0)
            if (warp > MLC_TENSOR_WARPS && warp <= MLC_TENSOR_WARPS + Beside::WARPS) {
                mlc_tensor_sum<room, Beside::WARPS, M, N, K, TILES>(
                    memory, barriers.full, barriers.empty, warp - MLC_TENSOR_WARPS - 1, beside.to, stride);
                if (!room::STAYS)
                    mlc_barrier_arrive(1, (MLC_TENSOR_WARPS + Beside::WARPS) * MLC_WARP);
            }
        return;
    }

    if (room::STAYS)
        mlc_registers_take<room::REGISTERS>();
    const int row = warp / 4 * 64;
    float *const turned = reinterpret_cast<float *>(memory + room::TURNED) + warp * (room::AT_ONCE * MLC_TENSOR_TURNED);
    for (Integer item = blockIdx.x; item < TILES; item += room::STAYS ? (Integer)gridDim.x : TILES) {
        const mlc_tensor_tile<Integer> tile = mlc_tensor_tile_of<COLUMNS, M, N, Integer>(item);
        float sum[COLUMNS / 2];
        MLC_UNROLL
        for (int i = 0; i < COLUMNS / 2; i++)
            sum[i] = 0;
        mlc_mbarrier *before = nullptr;
        MLC_ROLLED
        for (Integer step = 0; step < STEPS; step++, place.next()) {
            const uint8_t *const slice = memory + place.stage * room::STAGE_BYTES;
            mlc_mbarrier_wait(&barriers.full[place.stage], place.parity);
            mlc_wgmma_fence();
            MLC_UNROLL
            for (int k = 0; k < MLC_TENSOR_SLICE; k += 16)
                mlc_wgmma_bf16<COLUMNS, !A_ALONG_K, !B_ALONG_K>(sum, mlc_wide_side<A_ALONG_K>::describe(slice, row, k),
                    mlc_wide_side<B_ALONG_K>::describe(slice + room::A_BYTES, 0, k), true);
            mlc_wgmma_commit();
            mlc_wgmma_wait<1>(); /* the tensor cores have left the slice before this one */
            mlc_tensor_leave(before);
            before = &barriers.empty[place.stage];
        }
        mlc_wgmma_wait<0>();
        mlc_tensor_leave(before);
        if (!room::STAYS)
            mlc_barrier_sync(1, (MLC_TENSOR_WARPS + Beside::WARPS) * MLC_WARP); /* all have left the slices: what is turned lies there */
        const Integer m0 = tile.m0 + row + warp % 4 * 16;
        MLC_UNROLL
        for (int first = 0; first < COLUMNS / 32; first += room::AT_ONCE) {
            MLC_UNROLL
            for (int i = 0; i < room::AT_ONCE * 16; i += 2) {
                const int at = mlc_tensor_turn(lane / 4 + i / 2 % 2 * 8, i % 16 / 4 * 2 + lane % 4 / 2) + lane % 2 * 2;
                *reinterpret_cast<float2 *>(turned + i / 16 * MLC_TENSOR_TURNED + at) =
                    make_float2(sum[first * 16 + i], sum[first * 16 + i + 1]);
            }
            __syncwarp();
            MLC_ROLLED
            for (int part = 0; part < room::AT_ONCE; part++)
                mlc_tensor_end<16, M, N>(
                    turned + part * MLC_TENSOR_TURNED, tile.batch, m0, tile.n0 + (first + part) * 32, store, stores);
            __syncwarp();
        }
    }
#else
    (void)memory, (void)barriers, (void)a, (void)b, (void)store, (void)stores, (void)beside;
#endif
}

#endif
