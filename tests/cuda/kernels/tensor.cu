/* Kernels of the asynchronous units: c_MN = sum over k of a b, bf16 in, f32 out. `fault` plants what its name says; 0: none. */
#include "mlc_cuda.h"

/* Faults are planted where they are looked for; nvcc sees the kernels without them. */
#ifdef MLC_SHIM
#define PLANTED(name) (fault == name)
#else
#define PLANTED(name) ((void)fault, false)
#endif

enum Fault { NO_FAULT, NO_PROXY_FENCE, NO_WAIT, NO_WGMMA_FENCE, NO_TMEM_FENCE, FEW_BYTES, REFILL_TOO_EARLY, NO_BARRIER, FEW_WAITS, WRONG_PHASE, MANY_BYTES, NO_FENCE_BEFORE };

/* Element (i, k) of a tile for a descriptor, as mlc_cuda.h says; rows: extent of i. Tiles are K-major [rows / 8][W or T ...]. */
struct Tile {
    int leading, stride; /* bytes */
};

MLC_DEVICE int swizzled(int offset_bytes, int swizzle)
{
    const int bits = swizzle == MLC_SWIZZLE_128 ? 0x70 : swizzle == MLC_SWIZZLE_64 ? 0x30 : swizzle == MLC_SWIZZLE_32 ? 0x10 : 0;
    return offset_bytes ^ (offset_bytes >> 3 & bits);
}

/* Byte offset of element (i, k) of a tile of `rows` x 64 in the layout (swizzle, trans), without a padding; what the test fills by hand. */
MLC_DEVICE int place(int i, int k, int rows, int swizzle, int trans)
{
    const int w = swizzle == MLC_SWIZZLE_NONE ? 8 : swizzle == MLC_SWIZZLE_128 ? 64 : swizzle == MLC_SWIZZLE_64 ? 32 : 16;
    int element;
    if (!trans)
        element = k / w * rows * w + i * w + k % w;
    else
        element = i / w * 64 * w + k * w + i % w;
    return swizzled(element * 2, swizzle);
}

MLC_DEVICE uint64_t describe(const uint8_t *tile, int k, int rows, int swizzle, int trans)
{
    const int w = swizzle == MLC_SWIZZLE_NONE ? 8 : swizzle == MLC_SWIZZLE_128 ? 64 : swizzle == MLC_SWIZZLE_64 ? 32 : 16;
    if (!trans)
        return mlc_matrix_descriptor(tile + k / w * rows * w * 2 + k % w * 2, rows * w * 2, 16 * w, (mlc_swizzle)swizzle);
    if (swizzle == MLC_SWIZZLE_NONE)
        return mlc_matrix_descriptor(tile + k * w * 2, 16 * w, 64 * w * 2, (mlc_swizzle)swizzle);
    return mlc_matrix_descriptor(tile + k * w * 2, 64 * w * 2, 16 * w, (mlc_swizzle)swizzle);
}

MLC_DEVICE void put(uint8_t *tile, int offset, uint16_t value)
{
    *reinterpret_cast<uint16_t *>(tile + offset) = value;
}

/* One warpgroup; a_MK (64 x K), b_NK (N x K), K a multiple of 64. */
template <int N, int TRANS_A, int TRANS_B>
MLC_KERNEL_TEMPLATE void __launch_bounds__(128)
    wgmma(const uint16_t *a, const uint16_t *b, float *c, int k, int swizzle_a, int swizzle_b, int fault)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA
    MLC_SHARED_DYNAMIC(uint8_t, tiles);
    uint8_t *const tile_a = tiles, *const tile_b = tiles + 64 * 64 * 2;
    const int thread = (int)threadIdx.x;
    float d[N / 2];
    for (int i = 0; i < N / 2; i++)
        d[i] = 0.0f;
    for (int k0 = 0; k0 < k; k0 += 64) {
        for (int i = thread; i < 64 * 64; i += 128)
            put(tile_a, place(i / 64, i % 64, 64, swizzle_a, TRANS_A), a[i / 64 * k + k0 + i % 64]);
        for (int i = thread; i < N * 64; i += 128)
            put(tile_b, place(i / 64, i % 64, N, swizzle_b, TRANS_B), b[i / 64 * k + k0 + i % 64]);
        if (!PLANTED(NO_PROXY_FENCE))
            mlc_fence_async();
        if (!PLANTED(NO_BARRIER))
            __syncthreads();
        if (!PLANTED(NO_WGMMA_FENCE))
            mlc_wgmma_fence();
        for (int kk = 0; kk < 64; kk += 16)
            mlc_wgmma_bf16<N, TRANS_A, TRANS_B>(
                d, describe(tile_a, kk, 64, swizzle_a, TRANS_A), describe(tile_b, kk, N, swizzle_b, TRANS_B), true);
        mlc_wgmma_commit();
        if (!PLANTED(NO_WAIT) && !PLANTED(REFILL_TOO_EARLY))
            mlc_wgmma_wait<0>();
        if (PLANTED(REFILL_TOO_EARLY) && k0 + 64 >= k)
            mlc_wgmma_wait<0>();
        __syncthreads();
    }
    for (int i = 0; i < N / 2; i++)
        c[(thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8) * N + i / 4 * 8 + thread % 4 * 2 + i % 2] = d[i];
    mlc_wgmma_wait<0>();
#endif
}

/* The same with a in registers and b filled by a tensor copy, two stages, one producer warp and one warpgroup. */
MLC_KERNEL void __launch_bounds__(160) wgmma_tensor(
    const uint16_t *a, const __grid_constant__ mlc_tensor_map map_b, const __grid_constant__ mlc_tensor_map map_c, int k, int fault)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA
    MLC_SHARED_DYNAMIC(uint8_t, tiles); /* two stages of b, 128 x 64, then c as bf16, 64 x 64 twice */
    MLC_SHARED(mlc_mbarrier, full, [2]);
    MLC_SHARED(mlc_mbarrier, empty, [2]);
    const int thread = (int)threadIdx.x, bytes = 128 * 64 * 2;
    if (thread == 0) {
        for (int stage = 0; stage < 2; stage++) {
            mlc_mbarrier_init(&full[stage], 1);
            mlc_mbarrier_init(&empty[stage], 128);
        }
        mlc_fence_async();
    }
    __syncthreads();
    if (thread >= 128) {
        if (thread == 128)
            for (int step = 0; step < k / 64; step++) {
                const int stage = step % 2;
                if (step >= 2 && !PLANTED(REFILL_TOO_EARLY))
                    mlc_mbarrier_wait(&empty[stage], step / 2 % 2 ^ 1);
                mlc_mbarrier_arrive_expect(&full[stage], PLANTED(FEW_BYTES) ? bytes / 2 : PLANTED(MANY_BYTES) ? bytes * 2 : bytes);
                mlc_tensor_load(tiles + stage * bytes, &map_b, 0, 0, step * 64, &full[stage]);
            }
        return;
    }
    float d[64];
    for (int i = 0; i < 64; i++)
        d[i] = 0.0f;
    for (int step = 0; step < k / 64; step++) {
        const int stage = step % 2, row = thread / 32 * 16 + thread % 32 / 4, column = step * 64 + thread % 4 * 2;
        if (!PLANTED(NO_WAIT))
            mlc_mbarrier_wait(&full[stage], step / 2 % 2 ^ (PLANTED(WRONG_PHASE) ? 1 : 0));
        uint32_t fragment[4][4]; /* loaded before the fence: after it, ptxas would wait before every wgmma */
        for (int kk = 0; kk < 4; kk++)
            for (int i = 0; i < 4; i++)
                fragment[kk][i] = *reinterpret_cast<const uint32_t *>(&a[(row + i % 2 * 8) * k + column + kk * 16 + i / 2 * 8]);
        mlc_wgmma_fence();
        for (int kk = 0; kk < 4; kk++)
            mlc_wgmma_bf16_registers<128>(
                d, fragment[kk], mlc_matrix_descriptor(tiles + stage * bytes + kk * 32, 0, 1024, MLC_SWIZZLE_128), true);
        mlc_wgmma_commit();
        if (PLANTED(FEW_WAITS) && step + 1 < k / 64)
            mlc_wgmma_wait<1>(); /* and what is under way still reads this stage */
        else
            mlc_wgmma_wait<0>();
        mlc_mbarrier_arrive(&empty[stage]);
    }
    uint8_t *const tile_c = tiles + 2 * bytes;
    for (int i = 0; i < 64; i++) {
        const int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
        put(tile_c + column / 64 * 8192, swizzled((row * 64 + column % 64) * 2, MLC_SWIZZLE_128), mlc_bf16_of_f32(d[i]));
    }
    if (!PLANTED(NO_PROXY_FENCE))
        mlc_fence_async();
    mlc_barrier_sync(1, 128);
    if (thread == 0) {
        for (int half = 0; half < 2; half++)
            mlc_tensor_store(&map_c, 0, 0, half * 64, tile_c + half * 8192);
        mlc_tensor_store_commit();
        mlc_tensor_store_wait<0>();
    }
#endif
}

/* Two warpgroups: one gives registers to the other. NO_BARRIER: a warp gives fewer than the rest of its warpgroup. */
template <int GIVEN, int TAKEN> MLC_KERNEL_TEMPLATE void __launch_bounds__(256, 2) registers(float *c, int fault)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_WGMMA
    if (threadIdx.x < 128) {
        if (PLANTED(NO_BARRIER) && threadIdx.x < 32)
            mlc_registers_give<32>();
        else
            mlc_registers_give<GIVEN>();
        return;
    }
    mlc_registers_take<TAKEN>();
    c[threadIdx.x - 128] = 1;
#endif
}

/* 128 threads; a_MK (128 x K), b_NK (64 x K), K a multiple of 64, 128-byte swizzle, sums in tensor memory. */
MLC_KERNEL void __launch_bounds__(128) tensor_memory(const uint16_t *a, const uint16_t *b, float *c, int k, int fault)
{
#if !defined(__CUDA_ARCH__) || MLC_HAS_TCGEN05
    MLC_SHARED_DYNAMIC(uint8_t, tiles);
    MLC_SHARED(mlc_mbarrier, done, [1]);
    MLC_SHARED(mlc_mbarrier, left, [1]);
    MLC_SHARED(uint32_t, address, [1]);
    uint8_t *const tile_a = tiles, *const tile_b = tiles + 128 * 64 * 2;
    const int thread = (int)threadIdx.x;
    if (thread == 0) {
        mlc_mbarrier_init(done, 1);
        mlc_mbarrier_init(left, 128);
        mlc_fence_async();
    }
    if (thread < 32)
        mlc_tmem_alloc<64>(address);
    __syncthreads();
    const uint32_t d = *address;
    for (int step = 0; step < k / 64; step++) {
        for (int i = thread; i < 128 * 64; i += 128)
            put(tile_a, place(i / 64, i % 64, 128, MLC_SWIZZLE_128, 0), a[i / 64 * k + step * 64 + i % 64]);
        for (int i = thread; i < 64 * 64; i += 128)
            put(tile_b, place(i / 64, i % 64, 64, MLC_SWIZZLE_128, 0), b[i / 64 * k + step * 64 + i % 64]);
        if (!PLANTED(NO_PROXY_FENCE))
            mlc_fence_async();
        __syncthreads();
        if (thread == 0) {
            mlc_tmem_fence();
            for (int kk = 0; kk < 64; kk += 16)
                mlc_tmem_mma(d, mlc_tmem_descriptor(tile_a + kk * 2, 0, 1024, MLC_SWIZZLE_128),
                    mlc_tmem_descriptor(tile_b + kk * 2, 0, 1024, MLC_SWIZZLE_128), mlc_tmem_instruction(128, 64, 0, 0), step + kk > 0);
            mlc_tmem_commit(done);
        }
        if (!PLANTED(NO_WAIT))
            mlc_mbarrier_wait(done, step % 2);
        __syncthreads();
    }
    if (!PLANTED(NO_TMEM_FENCE))
        mlc_tmem_fence();
    for (int column = 0; column < 64; column += 32) {
        float v[32];
        mlc_tmem_load_x32(v, d + ((uint32_t)thread / 32 * 32 << 16) + (uint32_t)column);
        for (int i = 0; i < 32; i++)
            c[thread * 64 + column + i] = v[i];
    }
    /* The last slice once more, into what all have read. */
    if (!PLANTED(NO_FENCE_BEFORE))
        mlc_tmem_fence_before();
    mlc_mbarrier_arrive(left);
    if (thread == 0) {
        if (!PLANTED(REFILL_TOO_EARLY))
            mlc_mbarrier_wait(left, 0);
        mlc_tmem_fence();
        mlc_tmem_mma(d, mlc_tmem_descriptor(tile_a, 0, 1024, MLC_SWIZZLE_128), mlc_tmem_descriptor(tile_b, 0, 1024, MLC_SWIZZLE_128),
            mlc_tmem_instruction(128, 64, 0, 0), false);
        mlc_tmem_commit(done);
        mlc_mbarrier_wait(done, k / 64 % 2);
    }
    __syncthreads();
    if (thread < 32)
        mlc_tmem_free<64>(d);
#endif
}

template <int N, int TRANS_A, int TRANS_B>
static void run(const uint16_t *a, const uint16_t *b, float *c, int k, int swizzle_a, int swizzle_b, int fault)
{
    MLC_LAUNCH(
        (wgmma<N, TRANS_A, TRANS_B>), dim3(1), dim3(128), (64 + N) * 64 * 2, (cudaStream_t)0, a, b, c, k, swizzle_a, swizzle_b, fault);
}

extern "C" void run_wgmma(
    int n, int trans_a, int trans_b, const uint16_t *a, const uint16_t *b, float *c, int k, int swizzle_a, int swizzle_b, int fault)
{
    if (n == 256)
        run<256, 0, 0>(a, b, c, k, swizzle_a, swizzle_b, fault);
    else if (trans_a && trans_b)
        run<64, 1, 1>(a, b, c, k, swizzle_a, swizzle_b, fault);
    else if (trans_a)
        run<64, 1, 0>(a, b, c, k, swizzle_a, swizzle_b, fault);
    else if (trans_b)
        run<64, 0, 1>(a, b, c, k, swizzle_a, swizzle_b, fault);
    else
        run<64, 0, 0>(a, b, c, k, swizzle_a, swizzle_b, fault);
}

extern "C" void run_registers(float *c, int many, int fault)
{
#ifdef MLC_SHIM
    if (many) {
        MLC_LAUNCH((registers<256, 264>), dim3(1), dim3(256), 0, (cudaStream_t)0, c, fault);
        return;
    }
#endif
    (void)many;
    MLC_LAUNCH((registers<24, 232>), dim3(1), dim3(256), 0, (cudaStream_t)0, c, fault);
}

/* c: 64 x 128 bf16; rows, columns: of the maps, so that a smaller matrix is filled up with zeros and clipped. */
extern "C" int run_wgmma_tensor(const uint16_t *a, uint16_t *b, uint16_t *c, int k, int rows_b, int rows_c, int columns_c, int fault)
{
    mlc_tensor_map map_b, map_c;
    if (mlc_tensor_map_make(&map_b, b, 1, (uint64_t)rows_b * k * 2, (uint64_t)rows_b, (uint64_t)k * 2, (uint64_t)k, 128, 64, MLC_SWIZZLE_128) ||
        mlc_tensor_map_make(&map_c, c, 1, 256 * 64, (uint64_t)rows_c, 256, (uint64_t)columns_c, 64, 64, MLC_SWIZZLE_128))
        return 1;
    cudaFuncSetAttribute(wgmma_tensor, cudaFuncAttributeMaxDynamicSharedMemorySize, 2 * 16384 + 16384);
    MLC_LAUNCH(wgmma_tensor, dim3(1), dim3(160), 2 * 16384 + 16384, (cudaStream_t)0, a, map_b, map_c, k, fault);
    return 0;
}

extern "C" void run_tensor_memory(const uint16_t *a, const uint16_t *b, float *c, int k, int fault)
{
    MLC_LAUNCH(tensor_memory, dim3(1), dim3(128), (128 + 64) * 64 * 2, (cudaStream_t)0, a, b, c, k, fault);
}
