/* Contractions by warpgroups for small extents: c[batch, m, n] = sum over k of a b, by strides that lie as `along` says, with rows
 * that begin at multiples of 8 elements. `columns`: of a tile of mlc_contract_tensor; 0: mlc_contract_wgmma; less: of mlc_contract_tmem. */
#include "mlc_contract_tmem.h"

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

template <int M, int N> struct ends {
    float *c;
    MLC_DEVICE_METHOD void operator()(int batch, int m, int n, float sum) const { c[(batch * M + m) * N + n] = sum; }
    MLC_DEVICE_METHOD void operator()(int batch, int m, int n, const mlc_x8<float> &sums) const
    {
        if (N % 8 == 0)
            mlc_store8(&c[(batch * M + m) * N + n], sums);
        else
            for (int e = 0; e < 8; e++)
                (*this)(batch, m, n + e, sums.v[e]);
    }
};

template <int COLUMNS, int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
MLC_KERNEL_TEMPLATE void __launch_bounds__(mlc_tensor_memory<COLUMNS>::THREADS, COLUMNS == 128 ? 2 : 1)
    tensor(const __grid_constant__ mlc_tensor_map a, const __grid_constant__ mlc_tensor_map b, float *c)
{
    MLC_SHARED_DYNAMIC(uint8_t, memory);
    MLC_SHARED(mlc_tensor_barriers, barriers, );
    const ends<M, N> end = {c};
    mlc_contract_tensor<COLUMNS, BATCH, M, N, K, A_ALONG_K, B_ALONG_K, int>(memory, barriers, &a, &b, end, end, mlc_tensor_alone());
}

template <int COLUMNS, int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
MLC_KERNEL_TEMPLATE void __launch_bounds__(MLC_TMEM_THREADS, 1)
    tmem(const __grid_constant__ mlc_tensor_map a, const __grid_constant__ mlc_tensor_map b, float *c)
{
    MLC_SHARED_DYNAMIC(uint8_t, memory);
    MLC_SHARED(mlc_tmem_barriers, barriers, );
    const ends<M, N> end = {c};
    mlc_contract_tmem<COLUMNS, BATCH, M, N, K, A_ALONG_K, B_ALONG_K, int>(memory, barriers, &a, &b, end, end, mlc_tensor_alone());
}

/* Both sides along k, and the sums of rows of a beside. */
template <int COLUMNS, int M, int N, int K, int THREADS, int WARPS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(THREADS, COLUMNS == 128 ? 2 : 1)
    tensor_sums(const __grid_constant__ mlc_tensor_map a, const __grid_constant__ mlc_tensor_map b, float *c, float *sums)
{
    MLC_SHARED_DYNAMIC(uint8_t, memory);
    MLC_SHARED(mlc_tensor_barriers, barriers, );
    const ends<M, N> end = {c};
    mlc_contract_tensor<COLUMNS, 1, M, N, K, true, true, int>(memory, barriers, &a, &b, end, end, mlc_tensor_sums<WARPS>(sums));
}

template <int COLUMNS, int M, int N, int K, int THREADS, int WARPS>
MLC_KERNEL_TEMPLATE void __launch_bounds__(THREADS, 1)
    tmem_sums(const __grid_constant__ mlc_tensor_map a, const __grid_constant__ mlc_tensor_map b, float *c, float *sums)
{
    MLC_SHARED_DYNAMIC(uint8_t, memory);
    MLC_SHARED(mlc_tmem_barriers, barriers, );
    const ends<M, N> end = {c};
    mlc_contract_tmem<COLUMNS, 1, M, N, K, true, true, int>(memory, barriers, &a, &b, end, end, mlc_tensor_sums<WARPS>(sums));
}

template <int COLUMNS, int M, int N, int K, class Kernel>
static void run_kernel_sums(Kernel kernel, int blocks, int threads, int bytes, const uint16_t *a, const uint16_t *b, float *c, float *sums)
{
    constexpr int PITCH = (K + 7) / 8 * 8;
    mlc_allow_shared((const void *)kernel, bytes);
    const mlc_tensor_map map_a = mlc_tensor_map_of(a, 1, M * PITCH, M, PITCH, K, MLC_TENSOR_ROWS);
    const mlc_tensor_map map_b = mlc_tensor_map_of(b, 1, N * PITCH, N, PITCH, K, COLUMNS);
    MLC_LAUNCH(kernel, blocks, threads, bytes, (cudaStream_t)0, map_a, map_b, c, sums);
}

template <int COLUMNS, int M, int N, int K> static void run_columns_sums(bool tmem, const uint16_t *a, const uint16_t *b, float *c, float *sums)
{
    typedef mlc_tensor_memory<COLUMNS> room;
    constexpr int THREADS = room::STAYS ? room::THREADS : room::THREADS + 32, BLOCKS = room::STAYS ? 2 : (M + 127) / 128 * ((N + 127) / 128);
    if (tmem)
        run_kernel_sums<COLUMNS, M, N, K>(tmem_sums<COLUMNS, M, N, K, MLC_TMEM_THREADS + 64, 2>, 2, MLC_TMEM_THREADS + 64,
            mlc_tmem_memory<COLUMNS>::BYTES, a, b, c, sums);
    else
        run_kernel_sums<COLUMNS, M, N, K>(
            tensor_sums<COLUMNS, M, N, K, THREADS, room::STAYS ? 2 : 1>, BLOCKS, THREADS, room::BYTES, a, b, c, sums);
}

/* 300 x 264 by 333. */
extern "C" void run_sums(int columns, const uint16_t *a, const uint16_t *b, float *c, float *sums)
{
    if (columns == 128 || columns == -128)
        run_columns_sums<128, 300, 264, 333>(columns < 0, a, b, c, sums);
    else if (columns == 192 || columns == -192)
        run_columns_sums<192, 300, 264, 333>(columns < 0, a, b, c, sums);
    else
        run_columns_sums<256, 300, 264, 333>(columns < 0, a, b, c, sums);
}

template <int COLUMNS, int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K, class Kernel>
static void run_copies(Kernel kernel, int blocks, int threads, int bytes, const uint16_t *a, const uint16_t *b, float *c)
{
    constexpr int M_PITCH = (M + 7) / 8 * 8, N_PITCH = (N + 7) / 8 * 8, K_PITCH = (K + 7) / 8 * 8;
    mlc_allow_shared((const void *)kernel, bytes);
    const mlc_tensor_map map_a = A_ALONG_K ? mlc_tensor_map_of(a, BATCH, M * K_PITCH, M, K_PITCH, K, MLC_TENSOR_ROWS)
                                           : mlc_tensor_map_of(a, BATCH, K * M_PITCH, K, M_PITCH, M, MLC_TENSOR_SLICE);
    const mlc_tensor_map map_b = B_ALONG_K ? mlc_tensor_map_of(b, BATCH, N * K_PITCH, N, K_PITCH, K, COLUMNS)
                                           : mlc_tensor_map_of(b, BATCH, K * N_PITCH, K, N_PITCH, N, MLC_TENSOR_SLICE);
    MLC_LAUNCH(kernel, blocks, threads, bytes, (cudaStream_t)0, map_a, map_b, c);
}

template <int COLUMNS, int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
static void run_tensor(int blocks, const uint16_t *a, const uint16_t *b, float *c)
{
    typedef mlc_tensor_memory<COLUMNS> room;
    run_copies<COLUMNS, M, N, K, A_ALONG_K, B_ALONG_K>(
        tensor<COLUMNS, M, N, K, A_ALONG_K, B_ALONG_K>, blocks, room::THREADS, room::BYTES, a, b, c);
}

template <int COLUMNS, int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
static void run_tmem(int blocks, const uint16_t *a, const uint16_t *b, float *c)
{
    run_copies<COLUMNS, M, N, K, A_ALONG_K, B_ALONG_K>(
        tmem<COLUMNS, M, N, K, A_ALONG_K, B_ALONG_K>, blocks, MLC_TMEM_THREADS, mlc_tmem_memory<COLUMNS>::BYTES, a, b, c);
}

/* Tiles of 192 and 256 columns, by blocks that take several, only where operands lie as those of a layer do. */
template <int M, int N, int K, bool A_ALONG_K, bool B_ALONG_K>
static void run_columns(int columns, const uint16_t *a, const uint16_t *b, float *c)
{
    if (columns == 0)
        run<M, N, K, A_ALONG_K, B_ALONG_K>(a, b, c);
    else if (columns == -128)
        run_tmem<128, M, N, K, A_ALONG_K, B_ALONG_K>(2, a, b, c);
    else if (columns == 128)
        run_tensor<128, M, N, K, A_ALONG_K, B_ALONG_K>(BATCH * ((M + 127) / 128) * ((N + 127) / 128), a, b, c);
    else if constexpr (A_ALONG_K && !B_ALONG_K)
        columns < 0 ? run_tmem<192, M, N, K, true, false>(1, a, b, c) : run_tensor<192, M, N, K, true, false>(1, a, b, c);
    else if constexpr (!A_ALONG_K && B_ALONG_K)
        columns < 0 ? run_tmem<256, M, N, K, false, true>(3, a, b, c) : run_tensor<256, M, N, K, false, true>(3, a, b, c);
}

/* 130 x 67 by 201. */
extern "C" void run_contract(int columns, int a_along, int b_along, const uint16_t *a, const uint16_t *b, float *c)
{
    if (a_along && b_along)
        run_columns<130, 67, 201, true, true>(columns, a, b, c);
    else if (a_along)
        run_columns<130, 67, 201, true, false>(columns, a, b, c);
    else if (b_along)
        run_columns<130, 67, 201, false, true>(columns, a, b, c);
    else
        run_columns<130, 67, 201, false, false>(columns, a, b, c);
}

/* 256 x 128 by 64: no edge. */
extern "C" void run_even(int columns, int a_along, int b_along, const uint16_t *a, const uint16_t *b, float *c)
{
    if (a_along && b_along)
        run_columns<256, 128, 64, true, true>(columns, a, b, c);
    else
        run_columns<256, 128, 64, false, false>(columns, a, b, c);
}

/* 130 x 456 by 72: several tiles across. */
extern "C" void run_across(int columns, int a_along, int, const uint16_t *a, const uint16_t *b, float *c)
{
    if (a_along)
        run_columns<130, 456, 72, true, false>(columns, a, b, c);
    else
        run_columns<130, 456, 72, false, true>(columns, a, b, c);
}

extern "C" int run_blocks(int64_t tiles)
{
    return mlc_tensor_blocks(tiles);
}

/* What became of a map whose rows do not begin at multiples of 16 bytes. */
extern "C" int run_refused(const uint16_t *a)
{
    (void)mlc_tensor_map_of(a, 1, 64 * 67, 64, 67, 67, 64);
    return (int)cudaGetLastError();
}
