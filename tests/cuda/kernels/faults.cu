/* Planted faults. Each kernel is right with fault = 0 and wrong with fault = 1, in the way that its name says.
 * One block of 64 threads unless said otherwise; in and out hold 64 ints. */
#include "mlc_cuda.h"

MLC_KERNEL void missing_barrier(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [64]);
    tile[threadIdx.x] = in[threadIdx.x];
    if (!fault)
        __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}

/* Read by all, then written by one: the write comes too early. */
MLC_KERNEL void missing_barrier_after_reads(const int *in, int *out, int fault)
{
    MLC_SHARED(int, value, [1]);
    if (threadIdx.x == 0)
        value[0] = in[0];
    __syncthreads();
    const int first = value[0];
    if (!fault)
        __syncthreads();
    if (threadIdx.x == 40)
        value[0] = in[1];
    __syncthreads();
    out[threadIdx.x] = first + value[0];
}

MLC_KERNEL void missing_syncwarp(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [64]);
    tile[threadIdx.x] = in[threadIdx.x];
    if (!fault)
        __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

/* Two lanes read; the later of them writes. */
MLC_KERNEL void written_after_two_lanes_read(const int *in, int *out, int fault)
{
    MLC_SHARED(int, value, [2]);
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    if (lane == 0)
        value[warp] = in[warp];
    __syncwarp();
    int sum = lane < 2 ? value[warp] : 0;
    if (!fault)
        __syncwarp();
    if (lane == 0 || lane == 1)
        sum += __shfl_xor_sync(3u, sum, 1); /* both have read; nothing is ordered */
    if (lane == 1)
        value[warp] = sum;
    __syncwarp();
    out[threadIdx.x] = value[warp];
}

/* A shuffle orders no memory. */
MLC_KERNEL void shuffle_as_barrier(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [64]);
    tile[threadIdx.x] = in[threadIdx.x];
    const int other = __shfl_xor_sync(MLC_FULL, in[threadIdx.x], 1);
    if (!fault)
        __syncwarp();
    out[threadIdx.x] = tile[threadIdx.x ^ 1] + other;
}

MLC_KERNEL void missing_named_barrier(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [32]);
    if (threadIdx.x < 32) {
        tile[threadIdx.x] = in[threadIdx.x];
        if (!fault)
            mlc_barrier_arrive(1, 64);
    } else {
        if (!fault)
            mlc_barrier_sync(1, 64);
        out[threadIdx.x] = tile[63 - threadIdx.x];
    }
}

MLC_KERNEL void missing_wait(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [256]);
    mlc_copy_async_16(&tile[threadIdx.x * 4], &in[threadIdx.x / 4 * 4]);
    mlc_copy_commit();
    if (!fault)
        mlc_copy_wait<0>();
    __syncthreads();
    out[threadIdx.x] = tile[threadIdx.x * 4 + threadIdx.x % 4];
    mlc_copy_wait<0>();
}

/* The wait is there, the barrier that makes it hold for others is not. */
MLC_KERNEL void missing_barrier_after_wait(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [256]);
    mlc_copy_async_16(&tile[threadIdx.x * 4], &in[threadIdx.x / 4 * 4]);
    mlc_copy_commit();
    mlc_copy_wait<0>();
    if (!fault)
        __syncthreads();
    out[threadIdx.x] = tile[(63 - threadIdx.x) * 4];
}

MLC_KERNEL void copy_never_waited_for(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [256]);
    mlc_copy_async_16(&tile[threadIdx.x * 4], &in[threadIdx.x / 4 * 4]);
    mlc_copy_commit();
    if (!fault)
        mlc_copy_wait<0>();
    out[threadIdx.x] = 1;
}

MLC_KERNEL void copy_over_a_copy(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [256]);
    for (int turn = 0; turn < 2; turn++) {
        mlc_copy_async_16(&tile[threadIdx.x * 4], &in[threadIdx.x / 4 * 4]);
        mlc_copy_commit();
        if (!fault || turn == 1)
            mlc_copy_wait<0>();
    }
    out[threadIdx.x] = tile[threadIdx.x * 4];
}

MLC_KERNEL void caller_not_in_mask(const int *in, int *out, int fault)
{
    out[threadIdx.x] = __shfl_xor_sync(fault ? 0xFFFFFFFEu : MLC_FULL, in[threadIdx.x], 1);
}

MLC_KERNEL void source_not_in_mask(const int *in, int *out, int fault)
{
    if (threadIdx.x % 32 < 16)
        out[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, in[threadIdx.x], fault ? 16 : 8);
}

MLC_KERNEL void masks_differ(const int *in, int *out, int fault)
{
    const unsigned mask = fault && threadIdx.x % 32 >= 16 ? 0xFFFF0001u : MLC_FULL;
    out[threadIdx.x] = __shfl_xor_sync(mask | 1u << threadIdx.x % 32, in[threadIdx.x], 1);
}

MLC_KERNEL void divergent_warp(const int *in, int *out, int fault)
{
    if (fault && threadIdx.x % 32 >= 16)
        out[threadIdx.x] = (int)__ballot_sync(MLC_FULL, in[threadIdx.x]);
    else
        out[threadIdx.x] = __shfl_xor_sync(MLC_FULL, in[threadIdx.x], 1);
}

MLC_KERNEL void lane_left(const int *in, int *out, int fault)
{
    if (fault && threadIdx.x % 32 == 31)
        return;
    out[threadIdx.x] = __shfl_xor_sync(MLC_FULL, in[threadIdx.x], 1);
}

MLC_KERNEL void divergent_barrier(const int *in, int *out, int fault)
{
    if (!fault) {
        __syncthreads();
    } else if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
    out[threadIdx.x] = in[threadIdx.x];
}

MLC_KERNEL void left_before_barrier(const int *in, int *out, int fault)
{
    out[threadIdx.x] = in[threadIdx.x];
    if (fault && threadIdx.x == 63)
        return;
    __syncthreads();
}

MLC_KERNEL void deadlock(const int *in, int *out, int fault)
{
    if (threadIdx.x < 32)
        mlc_barrier_sync(1, fault ? 64 : 32);
    __syncthreads();
    out[threadIdx.x] = in[threadIdx.x];
}

MLC_KERNEL void named_barrier_counts(const int *in, int *out, int fault)
{
    mlc_barrier_sync(3, fault && threadIdx.x >= 32 ? 32 : 64);
    out[threadIdx.x] = in[threadIdx.x];
}

MLC_KERNEL void named_barrier_of_half_a_warp(const int *in, int *out, int fault)
{
    if (!fault || threadIdx.x % 32 < 16)
        mlc_barrier_sync(3, fault ? 32 : 64);
    out[threadIdx.x] = in[threadIdx.x];
}

/* Two blocks. */
MLC_KERNEL void race_between_blocks(const int *in, int *out, int fault)
{
    const int mine = (int)(blockIdx.x * 32 + threadIdx.x);
    out[fault && mine == 32 ? 31 : mine] = in[mine];
}

/* Two blocks; the second reads what the first writes. */
MLC_KERNEL void reads_another_block(const int *in, int *out, int fault)
{
    const int mine = (int)(blockIdx.x * 32 + threadIdx.x);
    out[mine] = in[mine];
    if (fault && mine == 40)
        out[mine] = out[3];
}

/* Two blocks. */
MLC_KERNEL void atomic_and_plain(const int *in, int *out, int fault)
{
    const int mine = (int)(blockIdx.x * 32 + threadIdx.x);
    if (fault && mine == 40)
        out[0] = 5;
    else
        atomicAdd(&out[0], in[mine]);
}

MLC_KERNEL void out_of_bounds(const int *in, int *out, int fault)
{
    out[threadIdx.x + (unsigned)fault] = in[threadIdx.x];
}

MLC_KERNEL void out_of_bounds_read(const int *in, int *out, int fault)
{
    out[threadIdx.x] = in[threadIdx.x + (unsigned)fault];
}

MLC_KERNEL void out_of_bounds_before(const int *in, int *out, int fault)
{
    out[threadIdx.x] = in[(int)threadIdx.x - fault];
}

MLC_KERNEL void out_of_bounds_shared(const int *in, int *out, int fault)
{
    MLC_SHARED(int, first, [64]);
    MLC_SHARED(int, second, [64]);
    second[threadIdx.x] = in[threadIdx.x];
    first[threadIdx.x + (unsigned)fault] = in[threadIdx.x];
    out[threadIdx.x] = first[threadIdx.x + (unsigned)fault] + second[threadIdx.x];
}

MLC_KERNEL void uninitialised_shared(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [64]);
    if (!fault || threadIdx.x != 17)
        tile[threadIdx.x] = in[threadIdx.x];
    __syncthreads();
    out[threadIdx.x] = tile[63 - threadIdx.x];
}

/* Two blocks: what the first left in shared memory is nothing to the second. */
MLC_KERNEL void shared_of_the_block_before(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [32]);
    if (!fault || blockIdx.x == 0)
        tile[threadIdx.x] = in[threadIdx.x];
    out[blockIdx.x * 32 + threadIdx.x] = tile[threadIdx.x];
}

/* out is fresh memory. */
MLC_KERNEL void uninitialised_global(const int *in, int *out, int fault)
{
    if (fault)
        out[threadIdx.x] += in[threadIdx.x];
    else
        out[threadIdx.x] = in[threadIdx.x];
}

MLC_KERNEL void misaligned(const int *in, int *out, int fault)
{
    if (threadIdx.x < 15)
        mlc_store16(&out[threadIdx.x * 4 + (unsigned)fault], mlc_load16(&in[threadIdx.x * 4]));
}

MLC_KERNEL void misaligned_copy(const int *in, int *out, int fault)
{
    MLC_SHARED(int, tile, [64 * 8]);
    mlc_copy_async_16(&tile[threadIdx.x * 8 + (unsigned)fault], &in[threadIdx.x / 4 * 4]);
    mlc_copy_commit();
    mlc_copy_wait<0>();
    out[threadIdx.x] = tile[threadIdx.x * 8 + (unsigned)fault];
}

static int of_the_host[64];

MLC_KERNEL void memory_of_the_host(const int *in, int *out, int fault)
{
    const int *from = fault ? of_the_host : in;
    out[threadIdx.x] = from[threadIdx.x];
    if (fault)
        of_the_host[threadIdx.x] = 1;
}

MLC_KERNEL void local_of_another_thread(const int *in, int *out, int fault)
{
    MLC_SHARED(const volatile int *, place, [64]);
    const volatile int own[1] = {in[threadIdx.x]};
    place[threadIdx.x] = own;
    __syncthreads();
    out[threadIdx.x] = *place[fault ? 63 - threadIdx.x : threadIdx.x];
    __syncthreads();
}

MLC_KERNEL void multiply_in_half_a_warp(const int *in, int *out, int fault)
{
    float c[4] = {};
    const uint32_t a[4] = {}, b[2] = {};
    if (!fault || threadIdx.x % 32 < 16)
        mlc_mma_bf16(c, a, b);
    out[threadIdx.x] = in[threadIdx.x] + (int)c[0];
}

/* Halves of one word by two threads, twice the lanes of a row by two warps: no fault either way. */
MLC_KERNEL void no_fault(const int *in, int *out, int fault)
{
    MLC_SHARED(uint16_t, halves, [64]);
    halves[threadIdx.x] = (uint16_t)in[threadIdx.x];
    if (fault)
        __syncthreads();
    uint16_t *bytes = (uint16_t *)out;
    bytes[threadIdx.x] = halves[threadIdx.x];
    ((unsigned char *)out)[128 + threadIdx.x] = 1;
}

struct Planted {
    const char *name;
    void (*kernel)(const int *, int *, int);
    unsigned blocks;
};

#define PLANTED(name, blocks) {#name, name, blocks}

static const Planted planted[] = {
    PLANTED(missing_barrier, 1),
    PLANTED(missing_barrier_after_reads, 1),
    PLANTED(missing_syncwarp, 1),
    PLANTED(shuffle_as_barrier, 1), PLANTED(written_after_two_lanes_read, 1),
    PLANTED(missing_named_barrier, 1),
    PLANTED(missing_wait, 1),
    PLANTED(missing_barrier_after_wait, 1),
    PLANTED(copy_never_waited_for, 1),
    PLANTED(copy_over_a_copy, 1),
    PLANTED(caller_not_in_mask, 1),
    PLANTED(source_not_in_mask, 1),
    PLANTED(masks_differ, 1),
    PLANTED(divergent_warp, 1),
    PLANTED(lane_left, 1),
    PLANTED(divergent_barrier, 1),
    PLANTED(left_before_barrier, 1),
    PLANTED(deadlock, 1),
    PLANTED(named_barrier_counts, 1),
    PLANTED(named_barrier_of_half_a_warp, 1),
    PLANTED(race_between_blocks, 2),
    PLANTED(reads_another_block, 2),
    PLANTED(atomic_and_plain, 2),
    PLANTED(out_of_bounds, 1),
    PLANTED(out_of_bounds_read, 1),
    PLANTED(out_of_bounds_before, 1),
    PLANTED(out_of_bounds_shared, 1),
    PLANTED(uninitialised_shared, 1),
    PLANTED(shared_of_the_block_before, 2),
    PLANTED(uninitialised_global, 1),
    PLANTED(misaligned, 1),
    PLANTED(misaligned_copy, 1),
    PLANTED(memory_of_the_host, 1),
    PLANTED(local_of_another_thread, 1),
    PLANTED(multiply_in_half_a_warp, 1),
    PLANTED(no_fault, 1),
};

/* -1: no such kernel */
extern "C" int run_planted(const char *name, const int *in, int *out, int fault, cudaStream_t stream)
{
    for (const Planted &each : planted)
        if (__builtin_strcmp(each.name, name) == 0) {
            mlc_shim::launch(each.name, each.kernel, dim3(each.blocks), dim3(64 / each.blocks), 0, stream, in, out, fault);
            return 0;
        }
    return -1;
}

/* For the host's faults: out = in + 1 over 64 ints; `shared_bytes` of dynamic shared memory it does not use. */
MLC_KERNEL void step(const int *in, int *out)
{
    out[threadIdx.x] = in[threadIdx.x] + 1;
}

extern "C" int run_step(const int *in, int *out, int threads, size_t shared_bytes, cudaStream_t stream)
{
    MLC_LAUNCH(step, dim3(1), dim3((unsigned)threads), shared_bytes, stream, in, out);
    return (int)cudaGetLastError();
}

extern "C" int allow_shared(int bytes)
{
    return (int)cudaFuncSetAttribute(step, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

/* Any program of reads, writes and barriers: program[step * 128 + thread] is what a thread does at a step, 16 * code + place. Slots lie in
 * shared memory (where = 0) or in `slots`. */
enum Code { NOTHING, READ_SLOT, WRITE_SLOT, BLOCK_BARRIER, WARP_BARRIER, PAIR_BARRIER };

MLC_KERNEL void interpreter(const int *program, int steps, int *slots, int where, int *out)
{
    MLC_SHARED(int, shared_slots, [16]);
    int *const used = where ? slots : shared_slots;
    const int thread = (int)threadIdx.x;
    int sum = 0;
    if (thread < 16)
        used[thread] = thread;
    __syncthreads();
    for (int step = 0; step < steps; step++) {
        const int code = program[step * 128 + thread] / 16, place = program[step * 128 + thread] % 16;
        switch (code) {
        case READ_SLOT: sum += used[place]; break;
        case WRITE_SLOT: used[place] = sum; break;
        case BLOCK_BARRIER: __syncthreads(); break;
        case WARP_BARRIER: __syncwarp(); break;
        case PAIR_BARRIER: mlc_barrier_sync(1 + thread / 64, 64); break;
        }
    }
    out[thread] = sum;
}

extern "C" void run_interpreter(const int *program, int steps, int *slots, int where, int *out)
{
    MLC_LAUNCH(interpreter, dim3(1), dim3(128), 0, (cudaStream_t)0, program, steps, slots, where, out);
}

struct Record {
    int values[12];
};

/* A structure moved whole. */
MLC_KERNEL void structure(const Record *in, Record *out, int fault)
{
    if (threadIdx.x < 5)
        out[threadIdx.x] = in[threadIdx.x + (unsigned)fault];
}

extern "C" void run_structure(const Record *in, Record *out, int fault)
{
    MLC_LAUNCH(structure, dim3(1), dim3(32), 0, (cudaStream_t)0, in, out, fault);
}
