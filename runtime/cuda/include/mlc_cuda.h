/* mlc_cuda.h: what CUDA kernels and the host program around them are written against.
 *
 * One source, two meanings. Under nvcc (sm_90a, sm_103a) the names below are CUDA's own or PTX instructions (mlc_cuda_device.h).
 * Under a host C++17 compiler with -DMLC_SHIM they run on the execution shim (runtime/cuda/shim/mlc_cuda_shim.h): threads are fibers,
 * the schedule is chosen, copies land at the latest legal moment, and a checked build reports what is wrong with a kernel.
 *
 *   nvcc -std=c++17 -O3 -fmad=false -Iruntime/include -Iruntime/cuda/include -gencode arch=compute_90a,code=sm_90a ...
 *   g++  -std=c++17 -O1 -ffp-contract=off -DMLC_SHIM -Iruntime/include -Iruntime/cuda/include -Iruntime/cuda/shim -x c++ ...
 *        -fsanitize=thread at compile time, not at link time, makes it the checked build
 *
 * Contents
 *   kernels       MLC_KERNEL, MLC_DEVICE, MLC_LAUNCH, __launch_bounds__; threadIdx, blockIdx, blockDim, gridDim, mlc_lane, mlc_warp
 *   shared memory MLC_SHARED, MLC_SHARED_DYNAMIC
 *   barriers      __syncthreads, __syncthreads_or, __syncthreads_and, __syncthreads_count, mlc_barrier_sync, mlc_barrier_arrive,
 *                 __syncwarp
 *   warps         __shfl_sync, __shfl_up_sync, __shfl_down_sync, __shfl_xor_sync, __ballot_sync, __any_sync, __all_sync,
 *                 mlc_elected
 *   memory        mlc_x16, mlc_load16, mlc_load16_once, mlc_store16, mlc_store16_once, __ldg
 *   atomics       atomicAdd, atomicMin, atomicMax, atomicOr, atomicExch, atomicCAS on integers, __threadfence, __threadfence_block
 *   async copies  mlc_copy_async_4, _8, _16, mlc_copy_commit, mlc_copy_wait
 *   tensor cores  mlc_ldmatrix_x1, _x2, _x4, with _trans; mlc_mma_bf16, mlc_mma_tf32, mlc_bf16_pair, mlc_tf32_of_f32
 *   mbarriers     mlc_mbarrier, mlc_mbarrier_init, _arrive, _arrive_expect, _wait; mlc_fence_async
 *   tensor copies mlc_tensor_map, mlc_tensor_map_make (host), mlc_tensor_load, mlc_tensor_store, _commit, _wait
 *   warpgroups    mlc_matrix_descriptor, mlc_wgmma_bf16, mlc_wgmma_bf16_registers, mlc_wgmma_fence, _commit, _wait;
 *                 mlc_registers_give, _take (sm_90a)
 *   tensor memory mlc_tmem_alloc, _free, _descriptor, _instruction, _mma, _commit, _fence, _fence_before, _load_x32 (sm_103a)
 *   sums          mlc_warp_sum, mlc_warp_max, mlc_block_sum, mlc_block_max: fixed trees, the same bits in every thread
 *   numbers       mlc_exp ... (mlc_math.h), bf16 and f16 as bits
 *   host          the runtime API by its own names (cuda_runtime_api.h): memory, copies, streams, events, capture, graphs
 *
 * What kernels may not do, here or there: floating point atomics (their order is not fixed), waiting for another block of the same
 * launch, __activemask, memcpy on device memory, recursion.
 */
#ifndef MLC_CUDA_H
#define MLC_CUDA_H

#include <stdint.h>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
/* The scalar functions of the runtime, for the device as for the host. */
#define MLC_INLINE static inline __host__ __device__ __attribute__((always_inline, unused))
#elif !defined(MLC_SHIM)
#error "mlc_cuda.h: compile with nvcc, or with a host compiler and -DMLC_SHIM"
#endif

#include "mlc_math.h"

/* How 16-byte pieces of a tile in shared memory are permuted: bits 4 to 6 of the address (128 bytes; 4 to 5: 64; 4: 32) by exclusive or
 * with bits 7 to 9 (7 to 8, 7). A pattern begins at a multiple of 1024 (512, 256) bytes. Numbers: of the matrix descriptor of wgmma.
 *
 * Matrix descriptors, for bf16; T: 8 elements, 16 bytes. W: elements in the bytes of the swizzle (64, 32, 16). Element (i, k), i a row of
 * a or a column of b, lies at ("Canonical Layouts" of wgmma and of tcgen05), offsets in elements before the swizzle:
 *   K-major, none      T (i % 8) + stride (i / 8) + k % 8 + leading (k / 8)
 *   K-major, swizzled  W (i % 8) + stride (i / 8) + k
 *   other,   none      i % 8 + stride (i / 8) + T (k % 8) + leading (k / 8)
 *   other,   swizzled  i % W + leading (i / W) + W (k % 8) + stride (k / 8)                                                        */
typedef enum mlc_swizzle { MLC_SWIZZLE_NONE, MLC_SWIZZLE_128, MLC_SWIZZLE_64, MLC_SWIZZLE_32 } mlc_swizzle;

#if defined(__CUDACC__)
#include "mlc_cuda_device.h"
#else
#include "mlc_cuda_shim.h"
#endif

/* MLC_KERNEL void name(...): a kernel with C linkage, its parameters values and device pointers. A template is declared with
 *   template <...> MLC_KERNEL_TEMPLATE void name(...).
 * MLC_DEVICE: a function of kernels, always inlined.
 * MLC_LAUNCH(kernel, grid, block, dynamic_shared_bytes, stream, arguments...): kernel<<<...>>>(...). Needs at least one argument.
 *
 * MLC_SHARED(type, name, dims): an array or object of the block, as MLC_SHARED(float, tile, [2][64]) or MLC_SHARED(Part, part, );
 *   alignment 128, contents undefined at first. At the top of a function, before any branch.
 * MLC_SHARED_DYNAMIC(type, name): `type *name`, the bytes asked for at launch, alignment 1024. One a kernel. Above 48 KiB the host
 *   first raises cudaFuncAttributeMaxDynamicSharedMemorySize. */

#define MLC_FULL 0xFFFFFFFFu
#define MLC_WARP 32

/* Thread number in the block, x fastest. */
MLC_DEVICE unsigned mlc_thread()
{
    return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

MLC_DEVICE unsigned mlc_lane()
{
    return mlc_thread() % MLC_WARP;
}

MLC_DEVICE unsigned mlc_warp()
{
    return mlc_thread() / MLC_WARP;
}

/* 16 bytes of T, moved by one instruction. Pointers are aligned to 16. */
template <class T> struct alignas(16) mlc_x16 {
    static constexpr int N = 16 / sizeof(T);
    T v[N];
    MLC_DEVICE_MEMBER T &operator[](int i) { return v[i]; }
    MLC_DEVICE_MEMBER const T &operator[](int i) const { return v[i]; }
};

template <class T> MLC_DEVICE mlc_x16<T> mlc_x16_of(uint4 word)
{
    mlc_x16<T> x;
    __builtin_memcpy(&x, &word, sizeof x);
    return x;
}

template <class T> MLC_DEVICE uint4 mlc_x16_word(const mlc_x16<T> &x)
{
    uint4 word;
    __builtin_memcpy(&word, &x, sizeof word);
    return word;
}

template <class T> MLC_DEVICE mlc_x16<T> mlc_load16(const T *from)
{
    return mlc_x16_of<T>(*reinterpret_cast<const uint4 *>(from));
}

template <class T> MLC_DEVICE void mlc_store16(T *to, const mlc_x16<T> &x)
{
    *reinterpret_cast<uint4 *>(to) = mlc_x16_word(x);
}

/* The same for global memory that is touched once: caches let it go first. */
template <class T> MLC_DEVICE mlc_x16<T> mlc_load16_once(const T *from)
{
    return mlc_x16_of<T>(__ldcs(reinterpret_cast<const uint4 *>(from)));
}

template <class T> MLC_DEVICE void mlc_store16_once(T *to, const mlc_x16<T> &x)
{
    __stcs(reinterpret_cast<uint4 *>(to), mlc_x16_word(x));
}

/* "Instruction descriptor" of tcgen05.mma.kind::f16: bf16 times bf16 to f32, M 128, N a multiple of 16 up to 256; TRANS: not K-major. */
MLC_INLINE uint32_t mlc_tmem_instruction(uint32_t m, uint32_t n, uint32_t trans_a, uint32_t trans_b)
{
    return 1u << 4 | 1u << 7 | 1u << 10 | trans_a << 15 | trans_b << 16 | n >> 3 << 17 | m >> 4 << 24;
}

/* Sum over the warp, lanes paired at distance 16, 8, 4, 2, 1: the same bits in every lane. All 32 lanes call it. */
MLC_DEVICE float mlc_warp_sum(float x)
{
    for (int distance = MLC_WARP / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(MLC_FULL, x, distance);
    return x;
}

/* Maximum over the warp; NaN if any lane has one. */
MLC_DEVICE float mlc_warp_max(float x)
{
    for (int distance = MLC_WARP / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(MLC_FULL, x, distance);
        x = x > other || x != x ? x : other;
    }
    return x;
}

/* Sum over a block of THREADS (a multiple of 32), the warps' sums added in order of warps: the same bits in every thread.
 * part: THREADS / 32 floats of shared memory, free for reuse on return. All threads call it. Two barriers. */
template <int THREADS> MLC_DEVICE float mlc_block_sum(float x, float *part)
{
    static_assert(THREADS % MLC_WARP == 0 && THREADS <= 1024, "a block of whole warps");
    x = mlc_warp_sum(x);
    if (mlc_lane() == 0)
        part[mlc_warp()] = x;
    __syncthreads();
    float sum = part[0];
    for (int warp = 1; warp < THREADS / MLC_WARP; warp++)
        sum += part[warp];
    __syncthreads();
    return sum;
}

template <int THREADS> MLC_DEVICE float mlc_block_max(float x, float *part)
{
    static_assert(THREADS % MLC_WARP == 0 && THREADS <= 1024, "a block of whole warps");
    x = mlc_warp_max(x);
    if (mlc_lane() == 0)
        part[mlc_warp()] = x;
    __syncthreads();
    float most = part[0];
    for (int warp = 1; warp < THREADS / MLC_WARP; warp++)
        most = most > part[warp] || most != most ? most : part[warp];
    __syncthreads();
    return most;
}

#endif
