/* ending.cu: see mlc_ending.h. */
#include "mlc_ending.h"

#include "mlc_device.h"

#define MLC_ANYWHERE __host__ __device__
#include "system/exact.c"

#include "model/statistics.c"

static_assert(MLC_SQUARES == MLC_EXACT_LIMBS, "an exact sum in the results of a pass");

template <class T> static T *place(const mlc_env *env, uint64_t at)
{
    return (T *)(env->arena + at);
}

static mlc_results *results_of(const mlc_env *env)
{
    return (mlc_results *)env->scratch;
}

static mlc_record *record_of(const mlc_env *env)
{
    return (mlc_record *)(uintptr_t)env->record;
}

#define SWEEP(kernel, count, ...) MLC_LAUNCH(kernel, mlc_blocks(count), MLC_BLOCK_THREADS, 0, mlc_stream(env), __VA_ARGS__)
#define ONE(kernel, ...) MLC_LAUNCH(kernel, 1, 1, 0, mlc_stream(env), __VA_ARGS__)

/* ---- copies ---- */

void mlc_ending_fetch(const mlc_env *env, uint64_t to, const void *from, uint64_t bytes)
{
    if (bytes)
        (void)cudaMemcpyAsync(env->arena + to, from, bytes, cudaMemcpyHostToDevice, mlc_stream(env));
}

void mlc_ending_copy(const mlc_env *env, uint64_t to, uint64_t from, int64_t count)
{
    if (count)
        (void)cudaMemcpyAsync(env->arena + to, env->arena + from, (size_t)count * 4, cudaMemcpyDeviceToDevice, mlc_stream(env));
}

/* ---- results ---- */

MLC_KERNEL void mlc_begin_results(mlc_results *results)
{
    results->refused = results->bad_parameter = results->flaw = UINT64_MAX;
    results->norm = results->weight = 0;
    results->clip = 1;
    results->refusals = 0;
    for (int i = 0; i < MLC_SQUARES; i++)
        results->squares[i] = 0;
}

void mlc_ending_begin(const mlc_env *env, const void *statistics, uint64_t bytes)
{
    ONE(mlc_begin_results, results_of(env));
    (void)cudaMemcpyAsync(results_of(env)->statistics, statistics, bytes, cudaMemcpyHostToDevice, mlc_stream(env));
}

/* ---- gradients ---- */

MLC_KERNEL void __launch_bounds__(256) mlc_add(float *sum, const float *x, int64_t count)
{
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        sum[i] += x[i];
}

void mlc_ending_add(const mlc_env *env, uint64_t sum, uint64_t x, int64_t count)
{
    SWEEP(mlc_add, count, place<float>(env, sum), place<const float>(env, x), count);
}

/* Adds a sum of squares to the exact one, limb by limb: the order of additions does not matter. */
MLC_DEVICE void add_exactly(mlc_results *results, double x)
{
    int position;
    if (!(x > 0))
        return;
    const uint64_t word = word_of(x, &position);
    const int limb = position / 32, shift = position % 32;
    const uint64_t parts[3] = {(uint32_t)(word << shift), (uint32_t)(word >> (32 - shift)), shift ? word >> (64 - shift) : 0};
    for (int i = 0; i < 3; i++)
        if (parts[i])
            atomicAdd((unsigned long long *)&results->squares[limb + i], (unsigned long long)parts[i]);
}

/* A warp a block of 1024 elements: its lanes scale and fetch, then lane 0 adds the squares in f64 in the order of elements. */
MLC_KERNEL void __launch_bounds__(256)
mlc_finish(float *x, int64_t count, float factor, int parameter, const mlc_record *record, int64_t counts, mlc_results *results)
{
    MLC_SHARED(float, staged, [8][MLC_BLOCK]);
    float *const block = staged[mlc_warp()];
    const float scale = factor != 0 ? factor : *(const float *)record->scale;
    for (int64_t b = mlc_warp_item(); b * MLC_BLOCK < count; b += mlc_warp_items()) {
        const int elements = count - b * MLC_BLOCK < MLC_BLOCK ? (int)(count - b * MLC_BLOCK) : MLC_BLOCK;
        for (int i = mlc_lane(); i < elements; i += MLC_WARP) {
            const float scaled = x[b * MLC_BLOCK + i] * scale;
            x[b * MLC_BLOCK + i] = scaled;
            block[i] = scaled;
        }
        __syncwarp();
        if (mlc_lane() == 0) {
            double sum = 0;
            for (int i = 0; i < elements; i++)
                sum += (double)block[i] * (double)block[i];
            if (!isfinite(sum))
                atomicMin((unsigned long long *)&results->bad_parameter, (unsigned long long)parameter);
            else if (counts)
                add_exactly(results, sum);
        }
        __syncwarp();
    }
}

void mlc_ending_finish(const mlc_env *env, uint64_t x, int64_t count, float factor, int parameter, int counts)
{
    const int64_t threads = (count + MLC_BLOCK - 1) / MLC_BLOCK * MLC_WARP;
    SWEEP(mlc_finish, threads, place<float>(env, x), count, factor, parameter, env->record, (int64_t)counts, results_of(env));
}

MLC_KERNEL void mlc_norm(mlc_results *results, mlc_record *record, double clip)
{
    mlc_exact sum;
    uint64_t carry = 0;
    for (int i = 0; i < MLC_SQUARES; i++) {
        carry += results->squares[i];
        sum.limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    const double norm = sqrt(mlc_exact_value(&sum));
    const float factor = clip > 0 && norm > clip ? (float)(clip / norm) : 1.0f;
    results->norm = norm;
    results->clip = factor;
    *(float *)record->clip = factor;
    if (results->bad_parameter != UINT64_MAX)
        record->held = 1;
}

void mlc_ending_norm(const mlc_env *env, double clip)
{
    ONE(mlc_norm, results_of(env), record_of(env), clip);
}

/* ---- updates ---- */

MLC_KERNEL void __launch_bounds__(256) mlc_clip(float *x, int64_t count, const mlc_record *record)
{
    if (record->held)
        return;
    const float factor = *(const float *)record->clip;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] *= factor;
}

void mlc_ending_clip(const mlc_env *env, uint64_t x, int64_t count)
{
    SWEEP(mlc_clip, count, place<float>(env, x), count, env->record);
}

MLC_KERNEL void __launch_bounds__(256) mlc_settle(float *to, const float *from, int64_t count, const mlc_record *record)
{
    if (record->held)
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        to[i] = from[i];
}

void mlc_ending_settle(const mlc_env *env, uint64_t to, uint64_t from, int64_t count)
{
    SWEEP(mlc_settle, count, place<float>(env, to), place<const float>(env, from), count, env->record);
}

MLC_KERNEL void __launch_bounds__(256) mlc_round(uint16_t *to, const float *from, int64_t count, const mlc_record *record)
{
    if (record->held)
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        to[i] = mlc_bf16_of_f32(from[i]);
}

void mlc_ending_round(const mlc_env *env, uint64_t to, uint64_t from, int64_t count)
{
    SWEEP(mlc_round, count, place<uint16_t>(env, to), place<const float>(env, from), count, env->record);
}

MLC_KERNEL void __launch_bounds__(256)
mlc_check(const float *x, int64_t count, uint64_t flaw, uint64_t flaw_of_copy, const mlc_record *record, mlc_results *results)
{
    if (record->held)
        return;
    uint32_t most = 0;
    for (int64_t i = mlc_item(); i < count; i += mlc_items()) {
        const uint32_t bits = mlc_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    const uint64_t found = most >= 0x7f800000u ? flaw : most >= 0x7f7f8000u ? flaw_of_copy : UINT64_MAX;
    if (found != UINT64_MAX)
        atomicMin((unsigned long long *)&results->flaw, (unsigned long long)found);
}

void mlc_ending_check(const mlc_env *env, uint64_t x, int64_t count, uint64_t flaw, uint64_t flaw_of_copy)
{
    SWEEP(mlc_check, count, place<const float>(env, x), count, flaw, flaw_of_copy, env->record, results_of(env));
}

/* ---- statistics ---- */

MLC_KERNEL void mlc_account(const mlc_terms terms, const char *arena, mlc_results *results)
{
    mlc_chain chain = {};
    chain.losses = terms.losses;
    for (int i = 0; i < terms.count; i++) {
        const double weight = terms.share * (terms.weight[i] == MLC_NONE ? 1.0 : (double)*(const float *)(arena + terms.weight[i]));
        const double value = (double)*(const float *)(arena + terms.value[i]);
        const int64_t microbatch = *(const int64_t *)(arena + terms.number[i]);
        mlc_statistics_account((mlc_statistic *)results->statistics, &chain, terms.column, microbatch, weight, value);
    }
}

void mlc_ending_account(const mlc_env *env, const mlc_terms *terms)
{
    if (terms->count)
        ONE(mlc_account, *terms, (const char *)env->arena, results_of(env));
}

MLC_KERNEL void mlc_weigh(mlc_results *results, mlc_record *record, int64_t trains)
{
    mlc_statistic *statistics = (mlc_statistic *)results->statistics;
    const double weight = mlc_tally_value(mlc_statistics_tally(statistics, MLC_TALLY_WEIGHT));
    results->weight = weight;
    *(float *)record->scale = (float)(1.0 / weight);
    const bool flawed = mlc_statistics_notes(statistics)->flawed.microbatch < INT64_MAX;
    if (results->refused != UINT64_MAX || flawed || (trains && !isfinite(1.0 / weight)))
        record->held = 1;
}

void mlc_ending_weigh(const mlc_env *env, int trains)
{
    ONE(mlc_weigh, results_of(env), record_of(env), (int64_t)trains);
}
