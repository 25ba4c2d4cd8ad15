/* Layer norm, a block a row: y_RC = (x_RC - mean_R) rstd_R weight_C + bias_C. PLANT_BARRIER leaves out the barrier that frees `part`. */
#include "mlc_cuda.h"

template <int THREADS> MLC_DEVICE float row_sum(float x, float *part)
{
#ifdef PLANT_BARRIER
    x = mlc_warp_sum(x);
    if (mlc_lane() == 0)
        part[mlc_warp()] = x;
    __syncthreads();
    float sum = part[0];
    for (int warp = 1; warp < THREADS / MLC_WARP; warp++)
        sum += part[warp];
    return sum;
#else
    return mlc_block_sum<THREADS>(x, part);
#endif
}

template <int THREADS, int WIDTH>
MLC_DEVICE void normalize_row(const float *x, const float *weight, const float *bias, float *mean, float *rstd, float *y)
{
    MLC_SHARED(float, part, [THREADS / MLC_WARP]);
    constexpr int N = WIDTH / THREADS;
    const int64_t row = blockIdx.x;
    float own[N], sum = 0.0f, squares = 0.0f;
    for (int n = 0; n < N; n++) {
        own[n] = x[row * WIDTH + threadIdx.x + n * THREADS];
        sum += own[n];
    }
    const float center = row_sum<THREADS>(sum, part) * (1.0f / WIDTH);
    for (int n = 0; n < N; n++)
        squares += (own[n] - center) * (own[n] - center);
    const float scale = 1.0f / sqrtf(row_sum<THREADS>(squares, part) * (1.0f / WIDTH) + 1e-5f);
    if (threadIdx.x == 0) {
        mean[row] = center;
        rstd[row] = scale;
    }
    for (int n = 0; n < N; n++) {
        const int column = (int)threadIdx.x + n * THREADS;
        y[row * WIDTH + column] = (own[n] - center) * scale * weight[column] + bias[column];
    }
}

MLC_KERNEL void __launch_bounds__(256)
    layer_norm_768(const float *x, const float *weight, const float *bias, float *mean, float *rstd, float *y)
{
    normalize_row<256, 768>(x, weight, bias, mean, rstd, y);
}

extern "C" void run_layer_norm(int rows, const float *x, const float *weight, const float *bias, float *mean, float *rstd, float *y)
{
    MLC_LAUNCH(layer_norm_768, dim3((unsigned)rows), dim3(256), 0, (cudaStream_t)0, x, weight, bias, mean, rstd, y);
}
