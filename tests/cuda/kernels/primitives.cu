/* Every primitive of mlc_cuda.h once, so that NumPy can say what it should do. One block, one warp unless said otherwise. */
#include "mlc_cuda.h"

/* out[test * 32 + lane]: shuffles of 100 + lane and of pairs, by width. */
MLC_KERNEL void shuffles(const int *operand, int width, int *out, double *wide)
{
    const int lane = (int)mlc_lane(), value = 100 + lane;
    out[0 * 32 + lane] = __shfl_sync(MLC_FULL, value, operand[lane], width);
    out[1 * 32 + lane] = __shfl_up_sync(MLC_FULL, value, (unsigned)operand[0], width);
    out[2 * 32 + lane] = __shfl_down_sync(MLC_FULL, value, (unsigned)operand[0], width);
    out[3 * 32 + lane] = __shfl_xor_sync(MLC_FULL, value, operand[0], width);
    wide[lane] = __shfl_xor_sync(MLC_FULL, 0.5 + lane, 1);
}

/* Two halves of the warp on their own ways. */
MLC_KERNEL void votes(const int *truth, unsigned *out)
{
    const int lane = (int)mlc_lane();
    out[lane] = __ballot_sync(MLC_FULL, truth[lane]);
    const unsigned mask = lane < 16 ? 0x0000FFFFu : 0xFFFF0000u;
    if (lane < 16) {
        out[32 + lane] = (unsigned)__any_sync(mask, truth[lane]);
    } else {
        out[32 + lane] = (unsigned)__all_sync(mask, truth[lane]);
    }
    out[64 + lane] = __shfl_xor_sync(mask, (unsigned)lane, 3);
}

/* Any block: what the gathering barriers say, twice in a row. */
MLC_KERNEL void gathers(const int *truth, int *out)
{
    const int thread = (int)mlc_thread(), threads = (int)blockDim.x;
    for (int turn = 0; turn < 2; turn++) {
        const int mine = truth[turn * threads + thread];
        out[(turn * 3 + 0) * threads + thread] = __syncthreads_or(mine);
        out[(turn * 3 + 1) * threads + thread] = __syncthreads_and(mine);
        out[(turn * 3 + 2) * threads + thread] = __syncthreads_count(mine);
    }
}

MLC_KERNEL void indices(unsigned *out)
{
    const unsigned number = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
    const unsigned threads = blockDim.x * blockDim.y * blockDim.z;
    unsigned *own = out + (number * threads + mlc_thread()) * 8;
    const unsigned values[8] = {threadIdx.x, threadIdx.y, threadIdx.z, blockIdx.x, blockIdx.y, blockIdx.z, mlc_lane(), mlc_warp()};
    for (int i = 0; i < 8; i++)
        own[i] = values[i];
}

MLC_KERNEL void atomics(int *counters, unsigned long long *wide)
{
    const int number = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    atomicAdd(&counters[0], number);
    atomicMin(&counters[1], -number);
    atomicMax(&counters[2], number);
    atomicOr((unsigned *)&counters[3], 1u << number % 32);
    atomicCAS(&counters[4], 0, 7);
    atomicExch(&counters[5], 9);
    atomicAdd(wide, 1ull << 40);
}

/* 64 threads: chunks of 4, 8 and 16 bytes, the last of each filled up with zeros. */
MLC_KERNEL void async_copies(const uint8_t *in, uint8_t *out, int bytes)
{
    MLC_SHARED(uint8_t, four, [64 * 4]);
    MLC_SHARED(uint8_t, eight, [64 * 8]);
    MLC_SHARED(uint8_t, sixteen, [64 * 16]);
    const int thread = (int)threadIdx.x, last = thread == 63;
    mlc_copy_async_4(&four[thread * 4], &in[thread * 4], last ? bytes % 5 : 4);
    mlc_copy_commit();
    mlc_copy_async_8(&eight[thread * 8], &in[thread * 8], last ? bytes % 9 : 8);
    mlc_copy_commit();
    mlc_copy_async_16(&sixteen[thread * 16], &in[thread * 16], last ? bytes : 16);
    mlc_copy_commit();
    mlc_copy_wait<2>();
    __syncthreads();
    const int other = 63 - thread;
    for (int i = 0; i < 4; i++)
        out[other * 4 + i] = four[other * 4 + i];
    mlc_copy_wait<0>();
    __syncthreads();
    for (int i = 0; i < 8; i++)
        out[256 + other * 8 + i] = eight[other * 8 + i];
    mlc_store16(&out[768 + other * 16], mlc_load16(&sixteen[other * 16]));
}

/* rows: 32 rows of 8 halves. out: what lanes get, x1, x2, x4, then with .trans: 14 words a lane. */
MLC_KERNEL void load_matrices(const uint16_t *rows, uint32_t *out)
{
    MLC_SHARED(uint16_t, tile, [32 * 8]);
    const int lane = (int)mlc_lane();
    for (int i = 0; i < 8; i++)
        tile[lane * 8 + i] = rows[lane * 8 + i];
    __syncwarp();
    uint32_t one, two[2], four[4], *own = out + lane * 14;
    mlc_ldmatrix_x1(one, &tile[lane % 8 * 8]);
    mlc_ldmatrix_x2(two, &tile[lane % 16 * 8]);
    mlc_ldmatrix_x4(four, &tile[lane * 8]);
    own[0] = one, own[1] = two[0], own[2] = two[1];
    for (int i = 0; i < 4; i++)
        own[3 + i] = four[i];
    mlc_ldmatrix_x1_trans(one, &tile[lane % 8 * 8]);
    mlc_ldmatrix_x2_trans(two, &tile[lane % 16 * 8]);
    mlc_ldmatrix_x4_trans(four, &tile[lane * 8]);
    own[7] = one, own[8] = two[0], own[9] = two[1];
    for (int i = 0; i < 4; i++)
        own[10 + i] = four[i];
}

/* Fragments as they come: a 4 words, b 2, c 4 a lane. */
MLC_KERNEL void multiply_bf16(const uint32_t *a, const uint32_t *b, float *c)
{
    const int lane = (int)mlc_lane();
    const uint32_t fragment_a[4] = {a[lane * 4], a[lane * 4 + 1], a[lane * 4 + 2], a[lane * 4 + 3]};
    const uint32_t fragment_b[2] = {b[lane * 2], b[lane * 2 + 1]};
    float sum[4] = {c[lane * 4], c[lane * 4 + 1], c[lane * 4 + 2], c[lane * 4 + 3]};
    mlc_mma_bf16(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++)
        c[lane * 4 + i] = sum[i];
}

MLC_KERNEL void multiply_tf32(const float *a, const float *b, float *c)
{
    const int lane = (int)mlc_lane();
    uint32_t fragment_a[4], fragment_b[2];
    for (int i = 0; i < 4; i++)
        fragment_a[i] = mlc_tf32_of_f32(a[lane * 4 + i]);
    for (int i = 0; i < 2; i++)
        fragment_b[i] = mlc_tf32_of_f32(b[lane * 2 + i]);
    float sum[4] = {c[lane * 4], c[lane * 4 + 1], c[lane * 4 + 2], c[lane * 4 + 3]};
    mlc_mma_tf32(sum, fragment_a, fragment_b);
    for (int i = 0; i < 4; i++)
        c[lane * 4 + i] = sum[i];
}

MLC_KERNEL void round_tf32(const float *x, uint32_t *y, int n)
{
    for (int i = (int)mlc_thread(); i < n; i += (int)blockDim.x)
        y[i] = mlc_tf32_of_f32(x[i]);
}

/* Two halves of a block pass work on by named barriers, without a barrier of the block. 128 threads. */
MLC_KERNEL void named_barriers(const int *in, int *out, int rounds)
{
    MLC_SHARED(int, box, [64]);
    const int thread = (int)threadIdx.x;
    for (int round = 0; round < rounds; round++) {
        if (thread < 64) {
            if (round > 0)
                mlc_barrier_sync(2, 128); /* the box is empty */
            box[thread] = in[round * 64 + thread] + 1;
            mlc_barrier_arrive(1, 128); /* the box is full */
        } else {
            mlc_barrier_sync(1, 128);
            out[round * 64 + thread - 64] = box[127 - thread];
            if (round + 1 < rounds)
                mlc_barrier_arrive(2, 128);
        }
    }
}

MLC_KERNEL void reductions(const float *x, float *out)
{
    MLC_SHARED(float, part, [8]);
    const float sum = mlc_block_sum<256>(x[threadIdx.x], part), most = mlc_block_max<256>(x[threadIdx.x], part);
    const float warp_sum = mlc_warp_sum(x[threadIdx.x]), warp_most = mlc_warp_max(x[threadIdx.x]);
    out[threadIdx.x] = sum;
    out[256 + threadIdx.x] = most;
    out[512 + threadIdx.x] = warp_sum;
    out[768 + threadIdx.x] = warp_most;
}

/* Rows kept by 16 bytes of dynamic shared memory a thread. */
MLC_KERNEL void vectors(const float *x, const uint16_t *h, float *y, uint16_t *g)
{
    MLC_SHARED_DYNAMIC(float, room);
    const int thread = (int)threadIdx.x;
    mlc_x16<float> v = mlc_load16_once(&x[thread * 4]);
    for (int i = 0; i < v.N; i++)
        v[i] = 2.0f * v[i];
    mlc_store16(&room[thread * 4], v);
    __syncthreads();
    mlc_store16_once(&y[thread * 4], mlc_load16(&room[(blockDim.x - 1 - thread) * 4]));
    mlc_x16<uint16_t> w = mlc_load16(&h[thread * 8]);
    for (int i = 0; i < w.N; i++)
        w[i] = mlc_bf16_of_f32(mlc_f32_of_bf16(w[i]) + 1.0f);
    mlc_store16(&g[thread * 8], w);
}

template <class T, int N> MLC_KERNEL_TEMPLATE void add_to(const T *x, T *y)
{
    for (int i = 0; i < N; i++)
        y[threadIdx.x * N + i] += x[threadIdx.x * N + i];
}

#define RUN(name, parameters, grid, block, shared_bytes, ...)                                                                              \
    extern "C" void run_##name parameters                                                                                                  \
    {                                                                                                                                      \
        MLC_LAUNCH(name, grid, block, shared_bytes, (cudaStream_t)0, __VA_ARGS__);                                                         \
    }

RUN(shuffles, (const int *operand, int width, int *out, double *wide), dim3(1), dim3(32), 0, operand, width, out, wide)
RUN(votes, (const int *truth, unsigned *out), dim3(1), dim3(32), 0, truth, out)
RUN(gathers, (int threads, const int *truth, int *out), dim3(1), dim3((unsigned)threads), 0, truth, out)
RUN(indices, (unsigned *out), dim3(3, 2, 2), dim3(4, 3, 5), 0, out)
RUN(atomics, (int *counters, unsigned long long *wide), dim3(5), dim3(96), 0, counters, wide)
RUN(async_copies, (const uint8_t *in, uint8_t *out, int bytes), dim3(1), dim3(64), 0, in, out, bytes)
RUN(load_matrices, (const uint16_t *rows, uint32_t *out), dim3(1), dim3(32), 0, rows, out)
RUN(multiply_bf16, (const uint32_t *a, const uint32_t *b, float *c), dim3(1), dim3(32), 0, a, b, c)
RUN(multiply_tf32, (const float *a, const float *b, float *c), dim3(1), dim3(32), 0, a, b, c)
RUN(round_tf32, (const float *x, uint32_t *y, int n), dim3(1), dim3(64), 0, x, y, n)
RUN(named_barriers, (const int *in, int *out, int rounds), dim3(1), dim3(128), 0, in, out, rounds)
RUN(reductions, (const float *x, float *out), dim3(1), dim3(256), 0, x, out)
RUN(vectors, (int threads, const float *x, const uint16_t *h, float *y, uint16_t *g), dim3(1), dim3((unsigned)threads),
    (size_t)threads * 16, x, h, y, g)

extern "C" void run_add_to(const float *x, float *y)
{
    MLC_LAUNCH((add_to<float, 3>), dim3(1), dim3(40), 0, (cudaStream_t)0, x, y);
}

MLC_KERNEL void powers(const float *x, float *y)
{
    y[threadIdx.x] = mlc_exp2_near(x[threadIdx.x]);
}
