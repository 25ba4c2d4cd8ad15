/* mlc_device.h: what emitted kernels call, beside what mlc_cuda.h has for all kernels.
 *
 *   items         mlc_item, mlc_warp_item, mlc_block_item: the first that is this thread's, warp's, block's; _items: those of a launch
 *   folds         mlc_warp_fold_sum ...: over the lanes that share an item, in a fixed tree, the same bits in every lane
 *   lookups       mlc_checked
 *   contractions  mlc_contract
 *   launches      mlc_stream, mlc_blocks
 */
#ifndef MLC_DEVICE_H
#define MLC_DEVICE_H

#include "mlc_cuda.h"
#include "mlc_kernel.h"
#include "mlc_found.h"

#include <math.h>

/* A constant of C states the fields that are not 0. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* The loop that follows is written out: arrays that it indexes stay in registers. Or it is not: what comes of few iterations in a row would take more registers than there are. */
#ifdef __CUDACC__
#define MLC_UNROLL _Pragma("unroll")
#define MLC_ROLLED _Pragma("unroll 1")
#else
#define MLC_UNROLL
#define MLC_ROLLED
#endif

#ifdef __CUDACC__
#define MLC_DEVICE_METHOD __device__ __forceinline__
#else
#define MLC_DEVICE_METHOD inline __attribute__((always_inline))
#endif

/* ---- launches, by the host ---- */

/* Bytes of shared memory that a block may ask for on every architecture here ("Compute Capabilities", Technical Specifications). */
#define MLC_MOST_SHARED 232448

/* Before a launch of a kernel with so much dynamic shared memory: beyond 48 KiB it has to be asked for. */
static inline void mlc_allow_shared(const void *kernel, int bytes)
{
    if (bytes > 48 << 10)
        (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

static inline cudaStream_t mlc_stream(const mlc_env *env)
{
    return (cudaStream_t)env->stream;
}

#define MLC_BLOCK_THREADS 256
#define MLC_MOST_BLOCKS 4096

/* Blocks of MLC_BLOCK_THREADS threads for so many items of a thread each. */
static inline int mlc_blocks(int64_t items)
{
    const int64_t blocks = (items + MLC_BLOCK_THREADS - 1) / MLC_BLOCK_THREADS;
    return blocks < 1 ? 1 : blocks > MLC_MOST_BLOCKS ? MLC_MOST_BLOCKS : (int)blocks;
}

/* ---- library kernels, launched by the host (kernels/) ---- */

/* As mlc_attention_vjp of mlc_kernel.h. workspace: an f32 for each query and head. */
extern "C" void mlc_attention_vjp_by(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, const void *y, const float *lse, const void *dy, void *dq, void *dk, void *dv, void *workspace);

/* ---- items ---- */

MLC_DEVICE int64_t mlc_item()
{
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}

MLC_DEVICE int64_t mlc_items()
{
    return (int64_t)gridDim.x * blockDim.x;
}

MLC_DEVICE int64_t mlc_warp_item()
{
    return mlc_item() / MLC_WARP;
}

MLC_DEVICE int64_t mlc_warp_items()
{
    return mlc_items() / MLC_WARP;
}

MLC_DEVICE int64_t mlc_block_item()
{
    return blockIdx.x;
}

MLC_DEVICE int64_t mlc_block_items()
{
    return gridDim.x;
}

/* What lanes have written is there for all of them. */
MLC_DEVICE void mlc_warp_sync()
{
    __syncwarp();
}

MLC_DEVICE void mlc_block_sync()
{
    __syncthreads();
}

/* ---- packs ---- */

/* The largest word that a pack of so many bytes is made of. */
template <int BYTES> struct mlc_word { typedef uint4 type; };
template <> struct mlc_word<8> { typedef uint64_t type; };
template <> struct mlc_word<4> { typedef uint32_t type; };

/* N neighbours in registers. In memory they begin at a multiple of their bytes, or of 16; there are `some` of them, the others are 0. */
template <class T, int N> struct mlc_pack {
    typedef typename mlc_word<N * sizeof(T)>::type word;
    T v[N];

    MLC_DEVICE_METHOD mlc_pack() : v{} {}

    MLC_DEVICE_METHOD mlc_pack(const T *from, int64_t some)
    {
        word words[sizeof v / sizeof(word)];
        if (some >= N) {
            MLC_UNROLL
            for (int i = 0; i < (int)(sizeof v / sizeof(word)); i++)
                words[i] = reinterpret_cast<const word *>(from)[i];
            __builtin_memcpy(v, words, sizeof v);
        } else {
            MLC_UNROLL
            for (int i = 0; i < N; i++)
                v[i] = i < some ? from[i] : T(0);
        }
    }

    MLC_DEVICE_METHOD void put(T *to, int64_t some) const
    {
        word words[sizeof v / sizeof(word)];
        if (some >= N) {
            __builtin_memcpy(words, v, sizeof v);
            MLC_UNROLL
            for (int i = 0; i < (int)(sizeof v / sizeof(word)); i++)
                reinterpret_cast<word *>(to)[i] = words[i];
        } else {
            MLC_UNROLL
            for (int i = 0; i < N; i++)
                if (i < some)
                    to[i] = v[i];
        }
    }
};

/* ---- folds ---- */

MLC_DEVICE float mlc_combine_sum(float a, float b)
{
    return a + b;
}

MLC_DEVICE int32_t mlc_combine_sum(int32_t a, int32_t b)
{
    return mlc_add_i32(a, b);
}

/* As a fold has it: the first of equal ones, and a NaN is passed over. */
template <class T> MLC_DEVICE T mlc_combine_max(T a, T b)
{
    return b > a ? b : a;
}

/* Lanes are paired at distance 16, 8, 4, 2, 1. */
template <class T> MLC_DEVICE T mlc_warp_fold_sum(T x)
{
    for (int distance = MLC_WARP / 2; distance > 0; distance /= 2)
        x = mlc_combine_sum(x, __shfl_xor_sync(MLC_FULL, x, distance));
    return x;
}

template <class T> MLC_DEVICE T mlc_warp_fold_max(T x)
{
    for (int distance = MLC_WARP / 2; distance > 0; distance /= 2)
        x = mlc_combine_max(x, __shfl_xor_sync(MLC_FULL, x, distance));
    return x;
}

/* The warps' values in the order of warps. part: of the block, 8 bytes a warp, free again on return. */
template <class T> MLC_DEVICE T mlc_block_fold_sum(T x, uint64_t *part)
{
    T *parts = reinterpret_cast<T *>(part);
    x = mlc_warp_fold_sum(x);
    if (mlc_lane() == 0)
        parts[mlc_warp()] = x;
    __syncthreads();
    x = parts[0];
    for (unsigned warp = 1; warp < blockDim.x / MLC_WARP; warp++)
        x = mlc_combine_sum(x, parts[warp]);
    __syncthreads();
    return x;
}

template <class T> MLC_DEVICE T mlc_block_fold_max(T x, uint64_t *part)
{
    T *parts = reinterpret_cast<T *>(part);
    x = mlc_warp_fold_max(x);
    if (mlc_lane() == 0)
        parts[mlc_warp()] = x;
    __syncthreads();
    x = parts[0];
    for (unsigned warp = 1; warp < blockDim.x / MLC_WARP; warp++)
        x = mlc_combine_max(x, parts[warp]);
    __syncthreads();
    return x;
}

/* ---- lookups ---- */

/* See mlc_kernel.h. What is out of range is noted (mlc_found.h); the first of them counts. */
MLC_DEVICE int32_t mlc_checked(const mlc_env *env, int32_t value, int32_t extent, int64_t element, int64_t each, int32_t site,
    const char *where)
{
    if ((uint32_t)value < (uint32_t)extent)
        return value;
    mlc_found *found = (mlc_found *)env->scratch;
    const unsigned long long key = mlc_refusal_key(*env->microbatch, site, element);
    if (atomicMin((unsigned long long *)&found->refused, key) > key) {
        const unsigned n = atomicAdd(&found->refusals, 1u);
        if (n < MLC_REFUSALS) {
            mlc_noted_refusal *noted = &found->noted[n];
            noted->key = key, noted->element = element, noted->each = each, noted->value = value, noted->extent = extent;
            int i = 0;
            for (; where[i] && i + 1 < MLC_REFUSAL_TEXT; i++)
                noted->where[i] = where[i];
            noted->where[i] = 0;
        }
    }
    return mlc_clamp(value, extent);
}

/* ---- contractions ---- */

/* Up to 8 elements of 16 bits into 16 bytes of shared memory, zeros where there are no more. */
MLC_DEVICE void mlc_copy_some(void *to, const uint16_t *from, int64_t elements)
{
    mlc_copy_async_16(to, from, elements >= 8 ? 16 : (int)elements * 2);
}

#define MLC_TILE 64  /* rows and columns of a block's tile */
#define MLC_TILE_K 16

/* Slices of both operands, k by k; a row more than a bank, so that either way of filling them is free of conflicts. */
struct mlc_contract_tile {
    float a[MLC_TILE_K][MLC_TILE + 1];
    float b[MLC_TILE_K][MLC_TILE + 1];
};

/* result[batch, m, n] = sum over k of a(batch, m, k) * b(batch, k, n), each given to store(batch, m, n, sum). Every sum starts from 0 and
 * adds its products in ascending k, each by one fused multiply-add, whatever the tile.
 *
 * 256 threads take a tile of 64 x 64, each 4 x 4 of it. A_ALONG_K: neighbours in k lie side by side in a (else those in m); the same of b. */
template <int64_t BATCH, int64_t M, int64_t N, int64_t K, bool A_ALONG_K, bool B_ALONG_K, class Integer, class A, class B, class Store>
MLC_DEVICE void mlc_contract(mlc_contract_tile &tile, const A &a, const B &b, const Store &store)
{
    constexpr Integer ROWS = (M + MLC_TILE - 1) / MLC_TILE, COLUMNS = (N + MLC_TILE - 1) / MLC_TILE;
    const Integer item = (Integer)blockIdx.x, batch = item / (ROWS * COLUMNS);
    const Integer m0 = item / COLUMNS % ROWS * MLC_TILE, n0 = item % COLUMNS * MLC_TILE;
    const int thread = threadIdx.x, row = thread / 16 * 4, column = thread % 16 * 4;
    float sum[4][4] = {};
    MLC_ROLLED
    for (Integer k0 = 0; k0 < (Integer)K; k0 += MLC_TILE_K) {
        for (int i = thread; i < MLC_TILE * MLC_TILE_K; i += MLC_BLOCK_THREADS) {
            const int k = A_ALONG_K ? i % MLC_TILE_K : i / MLC_TILE, m = A_ALONG_K ? i / MLC_TILE_K : i % MLC_TILE;
            tile.a[k][m] = m0 + m < (Integer)M && k0 + k < (Integer)K ? a(batch, m0 + m, k0 + k) : 0.0f;
        }
        for (int i = thread; i < MLC_TILE * MLC_TILE_K; i += MLC_BLOCK_THREADS) {
            const int k = B_ALONG_K ? i % MLC_TILE_K : i / MLC_TILE, n = B_ALONG_K ? i / MLC_TILE_K : i % MLC_TILE;
            tile.b[k][n] = n0 + n < (Integer)N && k0 + k < (Integer)K ? b(batch, k0 + k, n0 + n) : 0.0f;
        }
        __syncthreads();
        MLC_UNROLL
        for (int k = 0; k < MLC_TILE_K; k++)
            MLC_UNROLL
            for (int i = 0; i < 4; i++)
                MLC_UNROLL
                for (int j = 0; j < 4; j++)
                    sum[i][j] = __builtin_fmaf(tile.a[k][row + i], tile.b[k][column + j], sum[i][j]);
        __syncthreads();
    }
    MLC_UNROLL
    for (int i = 0; i < 4; i++)
        MLC_UNROLL
        for (int j = 0; j < 4; j++)
            if (m0 + row + i < (Integer)M && n0 + column + j < (Integer)N)
                store(batch, m0 + row + i, n0 + column + j, sum[i][j]);
}

#endif
