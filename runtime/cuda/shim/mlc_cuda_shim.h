/* mlc_cuda_shim.h: the names of mlc_cuda.h on a host compiler. Not included directly. Twin of mlc_cuda_device.h.
 *
 * What lies behind (block.cpp, memory.cpp, tensor.cpp, copy.cpp, host.cpp) is compiled without -fsanitize=thread and linked to the
 * kernels. Threads switch only in the calls declared here, so a kernel without races gives the same bits in every schedule. */
#ifndef MLC_CUDA_SHIM_H
#define MLC_CUDA_SHIM_H

#include <cmath>
#include <stddef.h>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"

#define MLC_KERNEL extern "C"
#define MLC_KERNEL_TEMPLATE
#define MLC_DEVICE static inline __attribute__((always_inline, unused))
#define MLC_DEVICE_MEMBER inline __attribute__((always_inline))
#define MLC_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                                                         \
    mlc_shim::launch(#kernel, kernel, grid, block, shared_bytes, stream, __VA_ARGS__)
#define MLC_SHARED(type, name, dims)                                                                                                       \
    typedef type mlc_shim_type_##name dims;                                                                                                \
    static mlc_shim::Site mlc_shim_site_##name = {#name, sizeof(mlc_shim_type_##name), -1};                                                \
    mlc_shim_type_##name &name = *(mlc_shim_type_##name *)mlc_shim::shared_array(&mlc_shim_site_##name)
#define MLC_SHARED_DYNAMIC(type, name) type *const name = (type *)mlc_shim::shared_dynamic()

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define MLC_HAS_WGMMA 1
#define MLC_HAS_TCGEN05 1

/* Its word says nothing: the state is the shim's. */
struct alignas(8) mlc_mbarrier {
    uint64_t word;
};

struct mlc_tensor_map {
    void *base;
    uint64_t batches, batch_bytes, rows, pitch_bytes, columns;
    uint32_t box_rows, box_columns;
    mlc_swizzle swizzle;
};

int mlc_tensor_map_make(mlc_tensor_map *map, const void *base, uint64_t batches, uint64_t batch_bytes, uint64_t rows, uint64_t pitch_bytes,
    uint64_t columns, uint32_t box_rows, uint32_t box_columns, mlc_swizzle swizzle);

struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(8) int2 {
    int x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(16) int4 {
    int x, y, z, w;
};
struct alignas(16) double2 {
    double x, y;
};

MLC_DEVICE float2 make_float2(float x, float y)
{
    return float2{x, y};
}

MLC_DEVICE float4 make_float4(float x, float y, float z, float w)
{
    return float4{x, y, z, w};
}

MLC_DEVICE uint2 make_uint2(unsigned x, unsigned y)
{
    return uint2{x, y};
}

MLC_DEVICE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w)
{
    return uint4{x, y, z, w};
}

namespace mlc_shim {

struct Where {
    uint3 thread, block;
    dim3 block_dim, grid_dim;
};

/* A shared array in the source of a kernel. */
struct Site {
    const char *name;
    size_t bytes;
    int number;
};

enum Shuffle { SHUFFLE_INDEX, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR };
enum Vote { VOTE_BALLOT, VOTE_ANY, VOTE_ALL };
enum Gather { GATHER_NONE, GATHER_OR, GATHER_AND, GATHER_COUNT };

/* The running thread's place. Constant as long as a function of its runs. */
const Where *here() noexcept __attribute__((const));
void *shared_array(Site *site);
void *shared_dynamic();
uint32_t shared_address(const void *p);

int barrier(int line, Gather gather, int predicate);
void barrier_named(int id, int threads, bool wait);
void warp_sync(unsigned mask);
uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int operand, int width);
unsigned vote(Vote kind, unsigned mask, int predicate);

void copy_async(void *shared, const void *global, int size, int bytes);
void copy_commit();
void copy_wait(int pending);

void ldmatrix(uint32_t *r, int matrices, bool trans, const void *row);
void mma_bf16(float *c, const uint32_t *a, const uint32_t *b);
void mma_tf32(float *c, const uint32_t *a, const uint32_t *b);

void mbarrier_init(mlc_mbarrier *b, int arrivals);
void mbarrier_arrive(mlc_mbarrier *b, int bytes);
void mbarrier_wait(mlc_mbarrier *b, int parity);
void fence_async();
void tensor_load(void *shared, const mlc_tensor_map *map, int batch, int row, int column, mlc_mbarrier *b);
void tensor_store(const mlc_tensor_map *map, int batch, int row, int column, const void *shared);
void tensor_store_commit();
void tensor_store_wait(int pending);
void registers_set(int registers);
void wgmma_fence();
void wgmma(float *d, int n, const uint32_t *registers_a, uint64_t a, uint64_t b, bool trans_a, bool trans_b, bool accumulate);
void wgmma_commit();
void wgmma_wait(int pending);
void tmem_alloc(uint32_t *address, int columns);
void tmem_free(uint32_t address, int columns);
void tmem_mma(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, bool accumulate);
void tmem_commit(mlc_mbarrier *b);
void tmem_fence();
void tmem_fence_before();
void tmem_load(float *v, int columns, uint32_t address);

enum Atomic { ATOMIC_ADD, ATOMIC_MIN, ATOMIC_MAX, ATOMIC_OR, ATOMIC_EXCHANGE, ATOMIC_CAS };
/* Notes an atomic access; the caller then carries it out, which nothing interrupts. */
void atomic(void *p, int bytes);

/* How a kernel is called: `arguments` are its parameters, one std::tuple, on the stack of the thread that calls. */
typedef void (*Invoke)(const void *kernel, const void *arguments);

/* A word of a kernel's arguments that may point to device memory; sure: it is a pointer, not a part of a structure. */
struct Word {
    const void *p;
    bool sure;
};

/* Queues a launch. */
void launch_kernel(const char *name, const void *kernel, Invoke invoke, dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream,
    const void *arguments, size_t bytes, const Word *words, size_t word_count);

template <class T> size_t add_words(Word *words, const T &value)
{
    if constexpr (std::is_pointer<T>::value) {
        words[0] = {(const void *)value, true};
        return 1;
    } else if constexpr (std::is_class<T>::value || std::is_union<T>::value) {
        for (size_t i = 0; i < sizeof(T) / sizeof(void *); i++) {
            __builtin_memcpy((void *)&words[i].p, (const char *)&value + i * sizeof(void *), sizeof(void *));
            words[i].sure = false;
        }
        return sizeof(T) / sizeof(void *);
    } else {
        return 0;
    }
}

template <class... P, class... A>
void launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t stream, A... arguments)
{
    static_assert((std::is_trivially_copyable<P>::value && ...), "a kernel takes plain values");
    typedef std::tuple<std::remove_cv_t<P>...> Values;
    const Values values(arguments...);
    Word words[sizeof(Values) / sizeof(void *) + 1];
    size_t count = 0;
    std::apply([&](const auto &...value) { ((count += add_words(words + count, value)), ...); }, values);
    launch_kernel(
        name, (const void *)kernel, [](const void *called, const void *with) { std::apply((void (*)(P...))called, *(const Values *)with); },
        grid, block, shared_bytes, stream, &values, sizeof values, words, count);
}

template <class T> __attribute__((no_sanitize("thread"))) T atomic_apply(Atomic kind, T *p, T value, T other = T())
{
    static_assert(std::is_integral<T>::value, "atomics on integers only: the order of floating point atomics is not fixed");
    atomic(p, sizeof(T));
    const T before = *p;
    switch (kind) {
    case ATOMIC_ADD: *p = (T)(before + value); break;
    case ATOMIC_MIN: *p = before < value ? before : value; break;
    case ATOMIC_MAX: *p = before > value ? before : value; break;
    case ATOMIC_OR: *p = before | value; break;
    case ATOMIC_EXCHANGE: *p = value; break;
    case ATOMIC_CAS: *p = before == other ? value : before; break;
    }
    return before;
}

template <class T> T shuffle_value(Shuffle kind, unsigned mask, T value, int operand, int width)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = shuffle(kind, mask, bits, operand, width);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}

}

#define threadIdx (mlc_shim::here()->thread)
#define blockIdx (mlc_shim::here()->block)
#define blockDim (mlc_shim::here()->block_dim)
#define gridDim (mlc_shim::here()->grid_dim)
static const int warpSize = 32;

MLC_DEVICE uint32_t mlc_shared_address(const void *p)
{
    return mlc_shim::shared_address(p);
}

MLC_DEVICE void __syncthreads(int line = __builtin_LINE())
{
    mlc_shim::barrier(line, mlc_shim::GATHER_NONE, 0);
}

MLC_DEVICE int __syncthreads_or(int predicate, int line = __builtin_LINE())
{
    return mlc_shim::barrier(line, mlc_shim::GATHER_OR, predicate);
}

MLC_DEVICE int __syncthreads_and(int predicate, int line = __builtin_LINE())
{
    return mlc_shim::barrier(line, mlc_shim::GATHER_AND, predicate);
}

MLC_DEVICE int __syncthreads_count(int predicate, int line = __builtin_LINE())
{
    return mlc_shim::barrier(line, mlc_shim::GATHER_COUNT, predicate);
}

MLC_DEVICE void mlc_barrier_sync(int id, int threads)
{
    mlc_shim::barrier_named(id, threads, true);
}

MLC_DEVICE void mlc_barrier_arrive(int id, int threads)
{
    mlc_shim::barrier_named(id, threads, false);
}

MLC_DEVICE void __syncwarp(unsigned mask = 0xFFFFFFFFu)
{
    mlc_shim::warp_sync(mask);
}

template <class T> MLC_DEVICE T __shfl_sync(unsigned mask, T value, int lane, int width = 32)
{
    return mlc_shim::shuffle_value(mlc_shim::SHUFFLE_INDEX, mask, value, lane, width);
}

template <class T> MLC_DEVICE T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return mlc_shim::shuffle_value(mlc_shim::SHUFFLE_UP, mask, value, (int)delta, width);
}

template <class T> MLC_DEVICE T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    return mlc_shim::shuffle_value(mlc_shim::SHUFFLE_DOWN, mask, value, (int)delta, width);
}

template <class T> MLC_DEVICE T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32)
{
    return mlc_shim::shuffle_value(mlc_shim::SHUFFLE_XOR, mask, value, lanes, width);
}

MLC_DEVICE unsigned __ballot_sync(unsigned mask, int predicate)
{
    return mlc_shim::vote(mlc_shim::VOTE_BALLOT, mask, predicate);
}

MLC_DEVICE int __any_sync(unsigned mask, int predicate)
{
    return (int)mlc_shim::vote(mlc_shim::VOTE_ANY, mask, predicate);
}

MLC_DEVICE int __all_sync(unsigned mask, int predicate)
{
    return (int)mlc_shim::vote(mlc_shim::VOTE_ALL, mask, predicate);
}

MLC_DEVICE bool mlc_elected()
{
    const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    return mlc_shim::vote(mlc_shim::VOTE_ANY, 0xFFFFFFFFu, 1) && thread % 32 == 0;
}

template <class T> MLC_DEVICE T __ldg(const T *p)
{
    return *p;
}

template <class T> MLC_DEVICE T __ldcs(const T *p)
{
    return *p;
}

template <class T> MLC_DEVICE void __stcs(T *p, T value)
{
    *p = value;
}

template <class T> MLC_DEVICE T atomicAdd(T *p, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_ADD, p, value);
}

template <class T> MLC_DEVICE T atomicMin(T *p, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_MIN, p, value);
}

template <class T> MLC_DEVICE T atomicMax(T *p, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_MAX, p, value);
}

template <class T> MLC_DEVICE T atomicOr(T *p, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_OR, p, value);
}

template <class T> MLC_DEVICE T atomicExch(T *p, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_EXCHANGE, p, value);
}

template <class T> MLC_DEVICE T atomicCAS(T *p, std::common_type_t<T> expected, std::common_type_t<T> value)
{
    return mlc_shim::atomic_apply(mlc_shim::ATOMIC_CAS, p, value, expected);
}

/* Order between blocks of a launch is not modelled: what one block wrote, another may not read. */
MLC_DEVICE void __threadfence() {}

MLC_DEVICE void __threadfence_block() {}

MLC_DEVICE float __uint_as_float(unsigned x)
{
    return mlc_float(x);
}

MLC_DEVICE unsigned __float_as_uint(float x)
{
    return mlc_bits(x);
}

MLC_DEVICE void mlc_copy_async_4(void *shared, const void *global, int bytes = 4)
{
    mlc_shim::copy_async(shared, global, 4, bytes);
}

MLC_DEVICE void mlc_copy_async_8(void *shared, const void *global, int bytes = 8)
{
    mlc_shim::copy_async(shared, global, 8, bytes);
}

MLC_DEVICE void mlc_copy_async_16(void *shared, const void *global, int bytes = 16)
{
    mlc_shim::copy_async(shared, global, 16, bytes);
}

MLC_DEVICE void mlc_copy_commit()
{
    mlc_shim::copy_commit();
}

template <int PENDING> MLC_DEVICE void mlc_copy_wait()
{
    mlc_shim::copy_wait(PENDING);
}

MLC_DEVICE void mlc_ldmatrix_x1(uint32_t &r, const void *row)
{
    mlc_shim::ldmatrix(&r, 1, false, row);
}

MLC_DEVICE void mlc_ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    mlc_shim::ldmatrix(r, 2, false, row);
}

MLC_DEVICE void mlc_ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    mlc_shim::ldmatrix(r, 4, false, row);
}

MLC_DEVICE void mlc_ldmatrix_x1_trans(uint32_t &r, const void *row)
{
    mlc_shim::ldmatrix(&r, 1, true, row);
}

MLC_DEVICE void mlc_ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    mlc_shim::ldmatrix(r, 2, true, row);
}

MLC_DEVICE void mlc_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    mlc_shim::ldmatrix(r, 4, true, row);
}

MLC_DEVICE uint32_t mlc_bf16_pair(float low, float high)
{
    return mlc_bf16_of_f32(low) | (uint32_t)mlc_bf16_of_f32(high) << 16;
}

MLC_DEVICE float mlc_exp2_near(float x)
{
    const float y = __builtin_exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;
}

MLC_DEVICE void mlc_mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    mlc_shim::mma_bf16(c, a, b);
}

MLC_DEVICE void mlc_mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    mlc_shim::mma_tf32(c, a, b);
}

MLC_DEVICE uint32_t mlc_tf32_of_f32(float x)
{
    const uint32_t u = mlc_bits(x);
    return (u & 0x7F800000u) == 0x7F800000u ? u : (u + 0x1000u) & 0xFFFFE000u;
}

MLC_DEVICE void mlc_mbarrier_init(mlc_mbarrier *b, int arrivals)
{
    mlc_shim::mbarrier_init(b, arrivals);
}

MLC_DEVICE void mlc_mbarrier_arrive(mlc_mbarrier *b)
{
    mlc_shim::mbarrier_arrive(b, 0);
}

MLC_DEVICE void mlc_mbarrier_arrive_expect(mlc_mbarrier *b, int bytes)
{
    mlc_shim::mbarrier_arrive(b, bytes);
}

MLC_DEVICE void mlc_mbarrier_wait(mlc_mbarrier *b, int parity)
{
    mlc_shim::mbarrier_wait(b, parity);
}

MLC_DEVICE void mlc_fence_async()
{
    mlc_shim::fence_async();
}

MLC_DEVICE void mlc_tensor_load(void *shared, const mlc_tensor_map *map, int batch, int row, int column, mlc_mbarrier *b)
{
    mlc_shim::tensor_load(shared, map, batch, row, column, b);
}

MLC_DEVICE void mlc_tensor_store(const mlc_tensor_map *map, int batch, int row, int column, const void *shared)
{
    mlc_shim::tensor_store(map, batch, row, column, shared);
}

MLC_DEVICE void mlc_tensor_store_commit()
{
    mlc_shim::tensor_store_commit();
}

template <int PENDING> MLC_DEVICE void mlc_tensor_store_wait()
{
    mlc_shim::tensor_store_wait(PENDING);
}

template <int REGISTERS> MLC_DEVICE void mlc_registers_give()
{
    mlc_shim::registers_set(REGISTERS);
}

template <int REGISTERS> MLC_DEVICE void mlc_registers_take()
{
    mlc_shim::registers_set(REGISTERS);
}

MLC_DEVICE uint64_t mlc_matrix_descriptor(const void *shared, int leading_bytes, int stride_bytes, mlc_swizzle swizzle)
{
    return (uint64_t)((mlc_shared_address(shared) & 0x3FFFF) >> 4) | (uint64_t)((leading_bytes & 0x3FFFF) >> 4) << 16 |
           (uint64_t)((stride_bytes & 0x3FFFF) >> 4) << 32 | (uint64_t)swizzle << 62;
}

MLC_DEVICE uint64_t mlc_tmem_descriptor(const void *shared, int leading_bytes, int stride_bytes, mlc_swizzle swizzle)
{
    return mlc_matrix_descriptor(shared, leading_bytes, stride_bytes, MLC_SWIZZLE_NONE) | 1ull << 46 | (uint64_t)(swizzle * 2) << 61;
}

MLC_DEVICE void mlc_wgmma_fence()
{
    mlc_shim::wgmma_fence();
}

MLC_DEVICE void mlc_wgmma_commit()
{
    mlc_shim::wgmma_commit();
}

template <int PENDING> MLC_DEVICE void mlc_wgmma_wait()
{
    mlc_shim::wgmma_wait(PENDING);
}

template <int N, int TRANS_A = 0, int TRANS_B = 0>
MLC_DEVICE void mlc_wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate)
{
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "columns of an mlc_wgmma_bf16");
    mlc_shim::wgmma(d, N, nullptr, a, b, TRANS_A, TRANS_B, accumulate);
}

template <int N, int TRANS_B = 0>
MLC_DEVICE void mlc_wgmma_bf16_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate)
{
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "columns of an mlc_wgmma_bf16");
    mlc_shim::wgmma(d, N, a, 0, b, false, TRANS_B, accumulate);
}

template <int COLUMNS> MLC_DEVICE void mlc_tmem_alloc(uint32_t *address)
{
    mlc_shim::tmem_alloc(address, COLUMNS);
}

template <int COLUMNS> MLC_DEVICE void mlc_tmem_free(uint32_t address)
{
    mlc_shim::tmem_free(address, COLUMNS);
}

MLC_DEVICE void mlc_tmem_mma(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, bool accumulate)
{
    mlc_shim::tmem_mma(d, a, b, instruction, accumulate);
}

MLC_DEVICE void mlc_tmem_commit(mlc_mbarrier *b)
{
    mlc_shim::tmem_commit(b);
}

MLC_DEVICE void mlc_tmem_fence()
{
    mlc_shim::tmem_fence();
}

MLC_DEVICE void mlc_tmem_fence_before()
{
    mlc_shim::tmem_fence_before();
}

MLC_DEVICE void mlc_tmem_load_x32(float (&v)[32], uint32_t address)
{
    mlc_shim::tmem_load(v, 32, address);
}

#endif
