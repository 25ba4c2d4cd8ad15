/* ending.cu: see mlc_ending.h; and the kernels of sweeps (mlc_kernel.h), in f32, from which each element is made by one thread out of the
 * numbers that a CPU makes it from. What they find in values goes into the results of the pass (mlc_results.h). */
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

void mlc_ending_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes)
{
    if (bytes)
        (void)cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, mlc_stream(env));
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
    for (int i = 0; i < MLC_EDGES; i++)
        results->come[i] = results->moved[i] = 0;
}

void mlc_ending_begin(const mlc_env *env, const void *statistics, uint64_t bytes)
{
    ONE(mlc_begin_results, results_of(env));
    (void)cudaMemcpyAsync(results_of(env)->statistics, statistics, bytes, cudaMemcpyHostToDevice, mlc_stream(env));
}

/* ---- sweeps ----
 *
 * A gate is the record whose `held` makes a kernel do nothing; NULL: it has none. */

static const mlc_record *gate_of(const mlc_env *env)
{
    return env->gated ? env->record : NULL;
}

MLC_DEVICE bool is_shut(const mlc_record *gate)
{
    return gate && gate->held;
}

/* Elements of an operand from `begin` on. */
template <class T> static T *operand(const mlc_env *env, uint64_t at, int64_t begin)
{
    return (T *)(env->arena + at) + begin;
}

MLC_KERNEL void __launch_bounds__(256) mlc_sweep_add(float *x, const float *y, int64_t count, const mlc_record *gate)
{
    if (is_shut(gate))
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] += y[i];
}

void mlc_add_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_add, end - begin, operand<float>(env, at[0], begin), operand<const float>(env, at[1], begin), end - begin, gate_of(env));
}

MLC_KERNEL void __launch_bounds__(256) mlc_sweep_copy(float *x, const float *y, int64_t count, const mlc_record *gate)
{
    if (is_shut(gate))
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] = y[i];
}

void mlc_copy_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_copy, end - begin, operand<float>(env, at[0], begin), operand<const float>(env, at[1], begin), end - begin, gate_of(env));
}

void mlc_ending_add(const mlc_env *env, char *sum, const char *x, uint64_t bytes)
{
    const int64_t count = (int64_t)(bytes / sizeof(float));
    if (count)
        SWEEP(mlc_sweep_add, count, (float *)sum, (const float *)x, count, (const mlc_record *)NULL);
}

/* A scalar of 1 leaves everything as it is. */
MLC_KERNEL void __launch_bounds__(256) mlc_sweep_scale(float *x, const float *scalar, int64_t count, const mlc_record *gate)
{
    const float factor = *scalar;
    if (is_shut(gate) || factor == 1)
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] *= factor;
}

void mlc_scale_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_scale, end - begin, operand<float>(env, at[0], begin), operand<const float>(env, at[1], 0), end - begin, gate_of(env));
}

MLC_KERNEL void __launch_bounds__(256) mlc_sweep_round(uint16_t *x, const float *y, int64_t count, const mlc_record *gate)
{
    if (is_shut(gate))
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] = mlc_bf16_of_f32(y[i]);
}

void mlc_round_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_round, end - begin, operand<uint16_t>(env, at[0], begin), operand<const float>(env, at[1], begin), end - begin, gate_of(env));
}

/* ---- what sweeps find in values ---- */

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

/* A warp a block of 1024 elements: its lanes fetch, then lane 0 adds the squares in f64 in the order of elements. */
MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_squares(const float *x, int64_t count, int64_t parameter, int64_t counts, const mlc_record *gate, mlc_results *results)
{
    MLC_SHARED(float, staged, [8][MLC_BLOCK]);
    float *const block = staged[mlc_warp()];
    if (is_shut(gate))
        return;
    for (int64_t b = mlc_warp_item(); b * MLC_BLOCK < count; b += mlc_warp_items()) {
        const int elements = count - b * MLC_BLOCK < MLC_BLOCK ? (int)(count - b * MLC_BLOCK) : MLC_BLOCK;
        for (int i = mlc_lane(); i < elements; i += MLC_WARP)
            block[i] = x[b * MLC_BLOCK + i];
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

static void square(const mlc_env *env, uint64_t at, int64_t begin, int64_t end, bool counts)
{
    const int64_t threads = (end - begin + MLC_BLOCK - 1) / MLC_BLOCK * MLC_WARP;
    SWEEP(mlc_sweep_squares, threads, operand<const float>(env, at, begin), end - begin, env->subject / MLC_FLAWS, (int64_t)counts, gate_of(env),
          results_of(env));
}

void mlc_squares_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    square(env, at[0], begin, end, true);
}

void mlc_finite_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    square(env, at[0], begin, end, false);
}

/* The bits of an f32, or of the f32 that a bf16 is. */
MLC_DEVICE uint32_t bits_of(uint32_t x)
{
    return x;
}

MLC_DEVICE uint32_t bits_of(uint16_t x)
{
    return (uint32_t)x << 16;
}

/* An exponent of all ones: infinite, or no number. */
template <class T> MLC_DEVICE void inspect(const T *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_results *results)
{
    uint32_t most = 0;
    if (is_shut(gate))
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items()) {
        const uint32_t bits = bits_of(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    if (most >= 0x7f800000u)
        atomicMin((unsigned long long *)&results->flaw, (unsigned long long)flaw);
}

MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_inspect(const uint32_t *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_results *results)
{
    inspect(x, count, flaw, gate, results);
}

void mlc_inspect_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_inspect, end - begin, operand<const uint32_t>(env, at[0], begin), end - begin, env->subject, gate_of(env), results_of(env));
}

MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_inspect_copy(const uint16_t *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_results *results)
{
    inspect(x, count, flaw, gate, results);
}

void mlc_inspect_copy_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_inspect_copy, end - begin, operand<const uint16_t>(env, at[0], begin), end - begin, env->subject, gate_of(env),
          results_of(env));
}

/* ---- what ranks share ---- */

static_assert(sizeof(mlc_shared_squares) == MLC_STATISTIC_BYTES && sizeof(((mlc_results *)0)->shared) == MLC_STATISTIC_BYTES, "a unit of NORM");

/* Carries run up, so that limbs of many ranks can be added. */
MLC_KERNEL void mlc_share_squares(mlc_results *results)
{
    mlc_shared_squares *shared = (mlc_shared_squares *)results->shared;
    uint64_t carry = 0;
    for (int i = 0; i < MLC_SQUARES; i++) {
        carry += results->squares[i];
        shared->limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    shared->reserved = 0;
    shared->bad = results->bad_parameter;
}

MLC_KERNEL void mlc_share_statistics(mlc_results *results)
{
    mlc_statistics_notes((mlc_statistic *)results->statistics)->refused = results->refused != UINT64_MAX;
}

char *mlc_ending_share(const mlc_env *env, int kind)
{
    mlc_results *results = results_of(env);
    if (kind == MLC_SHARED_SQUARES) {
        ONE(mlc_share_squares, results);
        return (char *)results->shared;
    }
    ONE(mlc_share_statistics, results);
    return (char *)results->statistics;
}

MLC_KERNEL void mlc_combine_squares(mlc_shared_squares *own, const mlc_shared_squares *other)
{
    mlc_exact_merge((mlc_exact *)own->limbs, (const mlc_exact *)other->limbs);
    own->bad = other->bad < own->bad ? other->bad : own->bad;
}

MLC_KERNEL void mlc_combine_statistics(char *own, const char *other, int64_t bytes)
{
    mlc_statistics_combine(own, other, (size_t)bytes);
}

void mlc_ending_combine(const mlc_env *env, int kind, char *into, const char *from, uint64_t bytes)
{
    if (kind == MLC_SHARED_SQUARES)
        ONE(mlc_combine_squares, (mlc_shared_squares *)into, (const mlc_shared_squares *)from);
    else
        ONE(mlc_combine_statistics, into, from, (int64_t)bytes);
}

/* ---- the norm ---- */

MLC_KERNEL void mlc_norm(mlc_results *results, mlc_record *record, double clip)
{
    const mlc_shared_squares *shared = (const mlc_shared_squares *)results->shared;
    const double norm = sqrt(mlc_exact_value((const mlc_exact *)shared->limbs));
    const float factor = clip > 0 && norm > clip ? (float)(clip / norm) : 1.0f;
    results->norm = norm;
    results->clip = factor;
    results->bad_parameter = shared->bad;
    *(float *)record->clip = factor;
    if (shared->bad != UINT64_MAX)
        record->held = 1;
}

void mlc_ending_norm(const mlc_env *env, double clip)
{
    ONE(mlc_norm, results_of(env), record_of(env), clip);
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
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    const bool flawed = notes->flawed.microbatch < INT64_MAX;
    if (notes->failed || notes->refused || flawed || (trains && !isfinite(1.0 / weight)))
        record->held = 1;
}

void mlc_ending_weigh(const mlc_env *env, int trains)
{
    ONE(mlc_weigh, results_of(env), record_of(env), (int64_t)trains);
}
