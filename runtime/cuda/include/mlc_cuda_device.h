/* mlc_cuda_device.h: the instructions behind mlc_cuda.h under nvcc. Not included directly.
 * Section names are those of NVIDIA's "Parallel Thread Execution ISA". Twin of mlc_cuda_shim.h: same names, same contracts. */
#ifndef MLC_CUDA_DEVICE_H
#define MLC_CUDA_DEVICE_H

#define MLC_KERNEL extern "C" __global__
#define MLC_KERNEL_TEMPLATE __global__
#define MLC_DEVICE static inline __device__ __attribute__((always_inline, unused))
#define MLC_DEVICE_MEMBER __host__ __device__ __forceinline__
#define MLC_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)
#define MLC_SHARED(type, name, dims) __shared__ alignas(128) type name dims
#define MLC_SHARED_DYNAMIC(type, name)                                                                                                \
    extern __shared__ __align__(1024) unsigned char mlc_shared_bytes[];                                                               \
    type *const name = reinterpret_cast<type *>(mlc_shared_bytes)

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

#endif
