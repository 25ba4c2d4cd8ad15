/* mlc_cuda_device.h: the instructions behind mlc_cuda.h under nvcc. Not included directly.
 * Section names are those of NVIDIA's "Parallel Thread Execution ISA". Twin of mlc_cuda_shim.h: same names, same contracts. */
#ifndef MLC_CUDA_DEVICE_H
#define MLC_CUDA_DEVICE_H

#include <cuda.h>

#define MLC_KERNEL extern "C" __global__
#define MLC_KERNEL_TEMPLATE __global__
#define MLC_DEVICE static inline __device__ __attribute__((always_inline, unused))
#define MLC_DEVICE_MEMBER __host__ __device__ __forceinline__
#define MLC_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define MLC_SHARED(type, name, dims) __shared__ alignas(128) type name dims
#define MLC_SHARED_DYNAMIC(type, name) type *const name = reinterpret_cast<type *>(mlc_shared_bytes)

extern __shared__ __align__(1024) unsigned char mlc_shared_bytes[];

/* Address in the shared state space, for instructions that take one. */
MLC_DEVICE uint32_t mlc_shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* bar.sync, bar.arrive ("Parallel Synchronization and Communication Instructions: bar"). id 1 to 15, threads a multiple of 32. */
MLC_DEVICE void mlc_barrier_sync(int id, int threads)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

MLC_DEVICE void mlc_barrier_arrive(int id, int threads)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* True in one lane of a warp, all of whose lanes are here ("elect.sync"). What that lane gives to tensor cores and tensor copies to do
 * stands there as it is; under any other condition ptxas puts a loop over the lanes around each such instruction. */
MLC_DEVICE bool mlc_elected()
{
    uint32_t elected;
    asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
    return elected != 0;
}

/* cp.async ("Data Movement and Conversion Instructions: cp.async"): N bytes, of which the first `bytes` are read and the rest zero. */
MLC_DEVICE void mlc_copy_async_4(void *shared, const void *global, int bytes = 4)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(mlc_shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

MLC_DEVICE void mlc_copy_async_8(void *shared, const void *global, int bytes = 8)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(mlc_shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

MLC_DEVICE void mlc_copy_async_16(void *shared, const void *global, int bytes = 16)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(mlc_shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

MLC_DEVICE void mlc_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most PENDING of this thread's groups are under way. What other threads copied is visible after a barrier besides. */
template <int PENDING> MLC_DEVICE void mlc_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

/* ldmatrix .b16 ("Warp-level matrix load instruction: ldmatrix"): 8x8 matrices, lane l gives row l % 8 of matrix l / 8. */
MLC_DEVICE void mlc_ldmatrix_x1(uint32_t &r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(mlc_shared_address(row)) : "memory");
}

MLC_DEVICE void mlc_ldmatrix_x2(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(mlc_shared_address(row))
                 : "memory");
}

MLC_DEVICE void mlc_ldmatrix_x4(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(mlc_shared_address(row))
                 : "memory");
}

MLC_DEVICE void mlc_ldmatrix_x1_trans(uint32_t &r, const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];" : "=r"(r) : "r"(mlc_shared_address(row)) : "memory");
}

MLC_DEVICE void mlc_ldmatrix_x2_trans(uint32_t (&r)[2], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(mlc_shared_address(row))
                 : "memory");
}

MLC_DEVICE void mlc_ldmatrix_x4_trans(uint32_t (&r)[4], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(mlc_shared_address(row))
                 : "memory");
}

/* Two bf16, to nearest, ties to even, the first in the low half ("cvt"). */
MLC_DEVICE uint32_t mlc_bf16_pair(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

/* 2^x to 2 ulp, results below the smallest normal number zero ("ex2.approx.ftz.f32"). */
MLC_DEVICE float mlc_exp2_near(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* c += a b ("Matrix Fragments for mma.m16n8k16 with floating point type"), a 16x16 by rows, b 16x8 by columns, bf16; c f32. */
MLC_DEVICE void mlc_mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* The same with a 16x8 and b 8x8 in tf32 ("Matrix Fragments for mma.m16n8k8"). */
MLC_DEVICE void mlc_mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2])
{
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* f32 rounded to tf32, to nearest, ties away from zero, as bits of an f32 ("cvt.rna.tf32.f32"). */
MLC_DEVICE uint32_t mlc_tf32_of_f32(float x)
{
    uint32_t y;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
    return y;
}

/* ---- mbarriers ("Parallel Synchronization and Communication Instructions: mbarrier") ---- */

/* In shared memory. A phase is over when `arrivals` threads have arrived and the bytes that they announced have landed. */
struct alignas(8) mlc_mbarrier {
    uint64_t word;
};

/* One thread; then mlc_fence_async, then a barrier of the block before others use it. */
MLC_DEVICE void mlc_mbarrier_init(mlc_mbarrier *b, int arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(mlc_shared_address(b)), "r"(arrivals) : "memory");
}

MLC_DEVICE void mlc_mbarrier_arrive(mlc_mbarrier *b)
{
    asm volatile("{\n.reg .b64 state;\nmbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(mlc_shared_address(b)) : "memory");
}

/* Arrives, and announces bytes that asynchronous copies will bring. */
MLC_DEVICE void mlc_mbarrier_arrive_expect(mlc_mbarrier *b, int bytes)
{
    asm volatile(
        "{\n.reg .b64 state;\nmbarrier.arrive.expect_tx.shared::cta.b64 state, [%0], %1;\n}" ::"r"(mlc_shared_address(b)), "r"(bytes)
        : "memory");
}

/* Until the phase of that parity is over: 0 for the first, 1 for the second, 0 for the third. */
MLC_DEVICE void mlc_mbarrier_wait(mlc_mbarrier *b, int parity)
{
    uint32_t over;
    do
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                     : "=r"(over)
                     : "r"(mlc_shared_address(b)), "r"(parity)
                     : "memory");
    while (!over);
}

/* What this thread wrote to shared memory by ordinary stores may be read by the asynchronous proxy (tensor copies, wgmma, tcgen05), once
 * a barrier lies between too ("membar / fence": fence.proxy.async). */
MLC_DEVICE void mlc_fence_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- tensor copies ("Data Movement and Conversion Instructions: cp.async.bulk.tensor") ---- */

/* Matrices in global memory and the box of one that a copy moves; a kernel takes it as `const __grid_constant__ mlc_tensor_map`. */
typedef CUtensorMap mlc_tensor_map;

/* `batches` matrices, one every `batch_bytes`, of rows x columns of 16-bit elements, a row every `pitch_bytes` (both multiples of 16), base
 * aligned to 16; boxes of box_rows x box_columns, a row of a box at most 256 elements and, swizzled, as many bytes as the swizzle at most.
 * What lies outside of a matrix reads as zero. 0, or a CUresult; -1: the driver has no such function. */
static inline int mlc_tensor_map_make(mlc_tensor_map *map, const void *base, uint64_t batches, uint64_t batch_bytes, uint64_t rows,
    uint64_t pitch_bytes, uint64_t columns, uint32_t box_rows, uint32_t box_columns, mlc_swizzle swizzle)
{
    void *entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found) != cudaSuccess || !entry)
        return -1;
    typedef CUresult (*Encode)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *,
        const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);
    const cuuint64_t sizes[3] = {columns, rows, batches}, strides[2] = {pitch_bytes, batch_bytes};
    const cuuint32_t box[3] = {box_columns, box_rows, 1}, steps[3] = {1, 1, 1};
    const CUtensorMapSwizzle swizzles[4] = {
        CU_TENSOR_MAP_SWIZZLE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_SWIZZLE_64B, CU_TENSOR_MAP_SWIZZLE_32B};
    return (int)((Encode)entry)(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3, const_cast<void *>(base), sizes, strides, box, steps,
        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzles[swizzle], CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
}

/* One thread. The box at (batch, row, column) to shared memory (aligned to 128, swizzled: to the pattern); its bytes, of what lies outside
 * too, count on `b`. */
MLC_DEVICE void mlc_tensor_load(void *shared, const mlc_tensor_map *map, int batch, int row, int column, mlc_mbarrier *b)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cta.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4}], [%5];" ::"r"(
                     mlc_shared_address(shared)),
                 "l"(map), "r"(column), "r"(row), "r"(batch), "r"(mlc_shared_address(b))
                 : "memory");
}

/* One thread. A box from shared to global memory, clipped; done with the shared memory after mlc_tensor_store_wait. */
MLC_DEVICE void mlc_tensor_store(const mlc_tensor_map *map, int batch, int row, int column, const void *shared)
{
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%1, %2, %3}], [%4];" ::"l"(map), "r"(column), "r"(row),
                 "r"(batch), "r"(mlc_shared_address(shared))
                 : "memory");
}

MLC_DEVICE void mlc_tensor_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* At most PENDING of this thread's groups still read shared memory. */
template <int PENDING> MLC_DEVICE void mlc_tensor_store_wait()
{
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}

/* ---- wgmma, sm_90a ("Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions") ---- */

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define MLC_HAS_WGMMA 1
#define MLC_WGMMA_ASM(...) asm volatile(__VA_ARGS__)
#else
#define MLC_HAS_WGMMA 0
#define MLC_WGMMA_ASM(...) __trap()
#endif

/* All warps of a warpgroup ("Miscellaneous Instructions: setmaxnreg"): its threads have so many registers from here on, a multiple of 8
 * from 24 to 256; who asks for more waits until others of the block have given theirs back. */
template <int REGISTERS> MLC_DEVICE void mlc_registers_give()
{
    MLC_WGMMA_ASM("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

template <int REGISTERS> MLC_DEVICE void mlc_registers_take()
{
    MLC_WGMMA_ASM("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
}

/* "Matrix Descriptor Format", "Strides". What `leading` and `stride` mean: mlc_cuda.h. */
MLC_DEVICE uint64_t mlc_matrix_descriptor(const void *shared, int leading_bytes, int stride_bytes, mlc_swizzle swizzle)
{
    return (uint64_t)((mlc_shared_address(shared) & 0x3FFFF) >> 4) | (uint64_t)((leading_bytes & 0x3FFFF) >> 4) << 16 |
           (uint64_t)((stride_bytes & 0x3FFFF) >> 4) << 32 | (uint64_t)swizzle << 62;
}

MLC_DEVICE void mlc_wgmma_fence()
{
    MLC_WGMMA_ASM("wgmma.fence.sync.aligned;" ::: "memory");
}

MLC_DEVICE void mlc_wgmma_commit()
{
    MLC_WGMMA_ASM("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> MLC_DEVICE void mlc_wgmma_wait()
{
    MLC_WGMMA_ASM("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

#define MLC_WGMMA_LIST_64                                                                                                                  \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "                  \
    "%25, %26, %27, %28, %29, %30, %31"
#define MLC_WGMMA_SUMS_64                                                                                                                  \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),   \
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),  \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),  \
        "+f"(d[31])
#define MLC_WGMMA_LIST_128                                                                                                                 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "                  \
    "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define MLC_WGMMA_SUMS_128                                                                                                                 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),   \
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),  \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),  \
        "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),  \
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),  \
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]),  \
        "+f"(d[61]), "+f"(d[62]), "+f"(d[63])
#define MLC_WGMMA_LIST_192                                                                                                                 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "                  \
    "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, "                  \
    "%71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "                  \
    "%94, %95"
#define MLC_WGMMA_SUMS_192                                                                                                                 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),   \
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),  \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),  \
        "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),  \
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),  \
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]),  \
        "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),  \
        "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),  \
        "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]),  \
        "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95])
#define MLC_WGMMA_LIST_256                                                                                                                 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, "                  \
    "%25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                  \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, "                  \
    "%71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, "                  \
    "%94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, %113, "                   \
    "%114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define MLC_WGMMA_SUMS_256                                                                                                                 \
    "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]),   \
        "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]),  \
        "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]),  \
        "+f"(d[31]), "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), "+f"(d[40]),  \
        "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), "+f"(d[48]), "+f"(d[49]), "+f"(d[50]),  \
        "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]),  \
        "+f"(d[61]), "+f"(d[62]), "+f"(d[63]), "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]), "+f"(d[68]), "+f"(d[69]), "+f"(d[70]),  \
        "+f"(d[71]), "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]), "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]), "+f"(d[80]),  \
        "+f"(d[81]), "+f"(d[82]), "+f"(d[83]), "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]), "+f"(d[88]), "+f"(d[89]), "+f"(d[90]),  \
        "+f"(d[91]), "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]), "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]), "+f"(d[100]), \
        "+f"(d[101]), "+f"(d[102]), "+f"(d[103]), "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]), "+f"(d[108]), "+f"(d[109]),      \
        "+f"(d[110]), "+f"(d[111]), "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]), "+f"(d[116]), "+f"(d[117]), "+f"(d[118]),      \
        "+f"(d[119]), "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]), "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])

/* d = a b (+ d where accumulate): a 64 x 16 and b 16 x N in shared memory, by descriptors, bf16; d f32, "Register Fragments": thread t of
 * the warpgroup holds in d[i] row 16 (t / 32) + t % 32 / 4 + 8 (i / 2 % 2), column 8 (i / 4) + 2 (t % 4) + i % 2. TRANS: not K-major. */
template <int N, int TRANS_A = 0, int TRANS_B = 0>
MLC_DEVICE void mlc_wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate);

/* The same with a in registers, for each warp 16 rows as mlc_mma_bf16 has them. */
template <int N, int TRANS_B = 0>
MLC_DEVICE void mlc_wgmma_bf16_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate);

#define MLC_WGMMA_DEFINE(N, A, B, P, TA, TB, A3, B3, P3, TB3)                                                                              \
    template <int TRANS_A, int TRANS_B> MLC_DEVICE void mlc_wgmma_##N(float(&d)[N / 2], uint64_t a, uint64_t b, bool accumulate)           \
    {                                                                                                                                      \
        MLC_WGMMA_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, " P ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N                                   \
                      "k16.f32.bf16.bf16 {" MLC_WGMMA_LIST_##N "}, " A ", " B ", p, 1, 1, " TA ", " TB ";\n}"                              \
                      : MLC_WGMMA_SUMS_##N                                                                                                 \
                      : "l"(a), "l"(b), "r"((int)accumulate), "n"(TRANS_A), "n"(TRANS_B));                                                 \
    }                                                                                                                                      \
    template <int TRANS_B> MLC_DEVICE void mlc_wgmma_registers_##N(float(&d)[N / 2], const uint32_t(&a)[4], uint64_t b, bool accumulate)   \
    {                                                                                                                                      \
        MLC_WGMMA_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, " P3 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N                                  \
                      "k16.f32.bf16.bf16 {" MLC_WGMMA_LIST_##N "}, {" A3 "}, " B3 ", p, 1, 1, " TB3 ";\n}"                                 \
                      : MLC_WGMMA_SUMS_##N                                                                                                 \
                      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)accumulate), "n"(TRANS_B));                           \
    }
MLC_WGMMA_DEFINE(64, "%32", "%33", "%34", "%35", "%36", "%32, %33, %34, %35", "%36", "%37", "%38")
MLC_WGMMA_DEFINE(128, "%64", "%65", "%66", "%67", "%68", "%64, %65, %66, %67", "%68", "%69", "%70")
MLC_WGMMA_DEFINE(192, "%96", "%97", "%98", "%99", "%100", "%96, %97, %98, %99", "%100", "%101", "%102")
MLC_WGMMA_DEFINE(256, "%128", "%129", "%130", "%131", "%132", "%128, %129, %130, %131", "%132", "%133", "%134")

template <int N, int TRANS_A, int TRANS_B> MLC_DEVICE void mlc_wgmma_bf16(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate)
{
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "columns of an mlc_wgmma_bf16");
    if constexpr (N == 64)
        mlc_wgmma_64<TRANS_A, TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 128)
        mlc_wgmma_128<TRANS_A, TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 192)
        mlc_wgmma_192<TRANS_A, TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 256)
        mlc_wgmma_256<TRANS_A, TRANS_B>(d, a, b, accumulate);
}

template <int N, int TRANS_B>
MLC_DEVICE void mlc_wgmma_bf16_registers(float (&d)[N / 2], const uint32_t (&a)[4], uint64_t b, bool accumulate)
{
    static_assert(N == 64 || N == 128 || N == 192 || N == 256, "columns of an mlc_wgmma_bf16");
    if constexpr (N == 64)
        mlc_wgmma_registers_64<TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 128)
        mlc_wgmma_registers_128<TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 192)
        mlc_wgmma_registers_192<TRANS_B>(d, a, b, accumulate);
    if constexpr (N == 256)
        mlc_wgmma_registers_256<TRANS_B>(d, a, b, accumulate);
}

/* ---- tcgen05, sm_103a ("Tensor Core 5th Generation Family Instructions") ---- */

#if defined(__CUDA_ARCH_FEAT_SM103_ALL) || defined(__CUDA_ARCH_FEAT_SM100_ALL)
#define MLC_HAS_TCGEN05 1
#define MLC_TCGEN05_ASM(...) asm volatile(__VA_ARGS__)
#else
#define MLC_HAS_TCGEN05 0
#define MLC_TCGEN05_ASM(...) __trap()
#endif

/* One warp. *address (shared memory): of COLUMNS columns (32, 64, ... 512) of 128 lanes. Freed by a warp of the block before it ends. */
template <int COLUMNS> MLC_DEVICE void mlc_tmem_alloc(uint32_t *address)
{
    MLC_TCGEN05_ASM("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;\n"
                    "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;" ::"r"(mlc_shared_address(address)),
                    "n"(COLUMNS)
                    : "memory");
}

template <int COLUMNS> MLC_DEVICE void mlc_tmem_free(uint32_t address)
{
    MLC_TCGEN05_ASM("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" ::"r"(address), "n"(COLUMNS));
}

/* As mlc_matrix_descriptor, in the format of tcgen05 ("Shared memory descriptor"): version 1, three bits of swizzle. */
MLC_DEVICE uint64_t mlc_tmem_descriptor(const void *shared, int leading_bytes, int stride_bytes, mlc_swizzle swizzle)
{
    return (mlc_matrix_descriptor(shared, leading_bytes, stride_bytes, MLC_SWIZZLE_NONE)) | 1ull << 46 | (uint64_t)(swizzle * 2) << 61;
}

/* One thread. d = a b (+ d where accumulate) in tensor memory, row m in lane m; instruction: mlc_tmem_instruction. */
MLC_DEVICE void mlc_tmem_mma(uint32_t d, uint64_t a, uint64_t b, uint32_t instruction, bool accumulate)
{
    MLC_TCGEN05_ASM("{\n.reg .pred p;\nsetp.ne.b32 p, %4, 0;\ntcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p;\n}" ::"r"(d), "l"(a),
                    "l"(b), "r"(instruction), "r"((int)accumulate)
                    : "memory");
}

/* The thread that issued them: `b` is arrived at when its mmas so far are over. */
MLC_DEVICE void mlc_tmem_commit(mlc_mbarrier *b)
{
    MLC_TCGEN05_ASM("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];" ::"r"(mlc_shared_address(b)) : "memory");
}

/* After a barrier or mbarrier, before tensor memory is read or given to an mma ("tcgen05.fence"). */
MLC_DEVICE void mlc_tmem_fence()
{
    MLC_TCGEN05_ASM("tcgen05.fence::after_thread_sync;" ::: "memory");
}

/* After tensor memory was read or allocated, before others are told so by a barrier or mbarrier ("tcgen05.fence"). */
MLC_DEVICE void mlc_tmem_fence_before()
{
    MLC_TCGEN05_ASM("tcgen05.fence::before_thread_sync;" ::: "memory");
}

/* A warp, lanes 32 (warp % 4) and following: thirty-two columns from `address` (its lane in the upper half: 32 (warp % 4) << 16). */
MLC_DEVICE void mlc_tmem_load_x32(float (&v)[32], uint32_t address)
{
#if MLC_HAS_TCGEN05
    uint32_t r[32];
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x32.b32 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, [%32];\n"
                 "tcgen05.wait::ld.sync.aligned;"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]), "=r"(r[4]), "=r"(r[5]), "=r"(r[6]), "=r"(r[7]),
                   "=r"(r[8]), "=r"(r[9]), "=r"(r[10]), "=r"(r[11]), "=r"(r[12]), "=r"(r[13]), "=r"(r[14]), "=r"(r[15]),
                   "=r"(r[16]), "=r"(r[17]), "=r"(r[18]), "=r"(r[19]), "=r"(r[20]), "=r"(r[21]), "=r"(r[22]), "=r"(r[23]),
                   "=r"(r[24]), "=r"(r[25]), "=r"(r[26]), "=r"(r[27]), "=r"(r[28]), "=r"(r[29]), "=r"(r[30]), "=r"(r[31])
                 : "r"(address)
                 : "memory");
    _Pragma("unroll")
    for (int i = 0; i < 32; i++)
        v[i] = __uint_as_float(r[i]);
#else
    (void)v, (void)address;
    __trap();
#endif
}

#endif
