/* mlc_contract_wgmma for small extents: c[batch, m, n] = sum over k of a b, by strides that lie as `along` says, with rows
 * that begin at multiples of 8 elements. */
#include "mlc_contract_wgmma.h"

#define BATCH 2

template <int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
MLC_KERNEL_TEMPLATE void __launch_bounds__(256, 2) wide(const uint16_t *a, const uint16_t *b, float *c)
{
    typedef mlc_wide_side<A_ALONG_K> side_a;
    typedef mlc_wide_side<B_ALONG_K> side_b;
    constexpr int M_PITCH = (M + 7) / 8 * 8, N_PITCH = (N + 7) / 8 * 8, K_PITCH = (K + 7) / 8 * 8;
    MLC_SHARED_DYNAMIC(uint8_t, slices);
    const auto a_at = [=](int batch, int m, int k) { return &a[batch * (A_ALONG_K ? M * K_PITCH : K * M_PITCH) + (A_ALONG_K ? m * K_PITCH + k : k * M_PITCH + m)]; };
    const auto b_at = [=](int batch, int k, int n) { return &b[batch * (B_ALONG_K ? N * K_PITCH : K * N_PITCH) + (B_ALONG_K ? n * K_PITCH + k : k * N_PITCH + n)]; };
    const auto store = [=](int batch, int m, int n, float sum) { c[(batch * M + m) * N + n] = sum; };
    mlc_contract_wgmma<BATCH, M, N, K, side_a, side_b, int>(slices, a_at, b_at, store);
}

template <int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
static void run(const uint16_t *a, const uint16_t *b, float *c)
{
    constexpr int TILES = BATCH * ((M + 127) / 128) * ((N + 127) / 128);
    mlc_allow_shared((const void *)wide<M, N, K, A_ALONG_K, B_ALONG_K>, MLC_WIDE_BYTES);
    MLC_LAUNCH((wide<M, N, K, A_ALONG_K, B_ALONG_K>), TILES, 256, MLC_WIDE_BYTES, (cudaStream_t)0, a, b, c);
}

template <int M, int N, int K> static void run_along(int a_along, int b_along, const uint16_t *a, const uint16_t *b, float *c)
{
    if (a_along && b_along)
        run<M, N, K, true, true>(a, b, c);
    else if (a_along)
        run<M, N, K, true, false>(a, b, c);
    else if (b_along)
        run<M, N, K, false, true>(a, b, c);
    else
        run<M, N, K, false, false>(a, b, c);
}

/* 130 x 67 by 201. */
extern "C" void run_contract(int a_along, int b_along, const uint16_t *a, const uint16_t *b, float *c)
{
    run_along<130, 67, 201>(a_along, b_along, a, b, c);
}

/* 256 x 128 by 64: no edge. */
extern "C" void run_even(int a_along, int b_along, const uint16_t *a, const uint16_t *b, float *c)
{
    run_along<256, 128, 64>(a_along, b_along, a, b, c);
}
