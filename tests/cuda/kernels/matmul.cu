/* c_MN = sum over k of a_MK b_NK, bf16 in, f32 out: tiles of 64 x 64 x 32, four warps of 32 x 32, two stages by cp.async, ldmatrix and
 * mma.sync.
 * PLANT_BARRIER leaves out the barrier before a stage is filled again, PLANT_WAIT the wait for the copies. */
#include "mlc_cuda.h"

constexpr int TILE_M = 64, TILE_N = 64, TILE_K = 32;
constexpr int PITCH = TILE_K + 8; /* 80 bytes: the eight rows of an ldmatrix fall into different banks */

MLC_DEVICE void load_tile(uint16_t *tile, const uint16_t *from, int64_t pitch)
{
    for (int chunk = (int)threadIdx.x; chunk < TILE_M * TILE_K / 8; chunk += 128)
        mlc_copy_async_16(&tile[chunk / 4 * PITCH + chunk % 4 * 8], &from[chunk / 4 * pitch + chunk % 4 * 8]);
}

MLC_KERNEL void __launch_bounds__(128) matmul_tn(const uint16_t *a, const uint16_t *b, float *c, int n, int k)
{
    MLC_SHARED(uint16_t, tile_a, [2][TILE_M * PITCH]);
    MLC_SHARED(uint16_t, tile_b, [2][TILE_N * PITCH]);
    const int lane = (int)mlc_lane(), warp = (int)mlc_warp(), warp_m = warp / 2 * 32, warp_n = warp % 2 * 32;
    const int64_t m0 = (int64_t)blockIdx.y * TILE_M, n0 = (int64_t)blockIdx.x * TILE_N;
    float sum[2][4][4] = {};
    load_tile(tile_a[0], &a[m0 * k], k);
    load_tile(tile_b[0], &b[n0 * k], k);
    mlc_copy_commit();
    for (int k0 = 0, stage = 0; k0 < k; k0 += TILE_K, stage ^= 1) {
        if (k0 + TILE_K < k) {
            load_tile(tile_a[stage ^ 1], &a[m0 * k + k0 + TILE_K], k);
            load_tile(tile_b[stage ^ 1], &b[n0 * k + k0 + TILE_K], k);
        }
        mlc_copy_commit();
#ifdef PLANT_WAIT
        mlc_copy_wait<2>();
#else
        mlc_copy_wait<1>();
#endif
        __syncthreads();
        for (int kk = 0; kk < TILE_K; kk += 16) {
            uint32_t fragment_a[2][4], fragment_b[4][2];
            for (int i = 0; i < 2; i++)
                mlc_ldmatrix_x4(fragment_a[i], &tile_a[stage][(warp_m + i * 16 + lane % 16) * PITCH + kk + lane / 16 * 8]);
            for (int j = 0; j < 4; j++)
                mlc_ldmatrix_x2(fragment_b[j], &tile_b[stage][(warp_n + j * 8 + lane % 8) * PITCH + kk + lane / 8 % 2 * 8]);
            for (int i = 0; i < 2; i++)
                for (int j = 0; j < 4; j++)
                    mlc_mma_bf16(sum[i][j], fragment_a[i], fragment_b[j]);
        }
#ifndef PLANT_BARRIER
        __syncthreads();
#endif
    }
    mlc_copy_wait<0>();
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 4; j++)
            for (int e = 0; e < 4; e++)
                c[(m0 + warp_m + i * 16 + lane / 4 + e / 2 * 8) * n + n0 + warp_n + j * 8 + lane % 4 * 2 + e % 2] = sum[i][j][e];
}

extern "C" void run_matmul(int m, int n, int k, const uint16_t *a, const uint16_t *b, float *c)
{
    MLC_LAUNCH(matmul_tn, dim3((unsigned)n / TILE_N, (unsigned)m / TILE_M), dim3(128), 0, (cudaStream_t)0, a, b, c, n, k);
}
