/* ending.cu: see mlc_ending.h; and the kernels of sweeps (mlc_kernel.h), in f32, from which each element is made by one thread out of the
 * numbers that a CPU makes it from. What they find in values is noted beside the arena (mlc_found.h). */
#include "mlc_ending.h"

#include "mlc_device.h"

#define MLC_ANYWHERE __host__ __device__
#include "system/exact.c"

#include "model/statistics.c"

#include "model/results.h"

static_assert(MLC_SQUARES == MLC_EXACT_LIMBS, "an exact sum of what is noted");

template <class T> static T *place(const mlc_env *env, uint64_t at)
{
    return (T *)(env->arena + at);
}

static mlc_found *found_of(const mlc_env *env)
{
    return (mlc_found *)env->scratch;
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

/* ---- what is noted ---- */

MLC_KERNEL void mlc_begin_found(mlc_found *found)
{
    found->refused = found->bad_parameter = found->flaw = UINT64_MAX;
    found->refusals = 0;
    for (int i = 0; i < MLC_SQUARES; i++)
        found->squares[i] = 0;
    for (int i = 0; i < MLC_EDGES; i++)
        found->come[i] = found->moved[i] = 0;
}

void mlc_ending_begin(const mlc_env *env)
{
    ONE(mlc_begin_found, found_of(env));
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
MLC_DEVICE void add_exactly(mlc_found *found, double x)
{
    int position;
    if (!(x > 0))
        return;
    const uint64_t word = word_of(x, &position);
    const int limb = position / 32, shift = position % 32;
    const uint64_t parts[3] = {(uint32_t)(word << shift), (uint32_t)(word >> (32 - shift)), shift ? word >> (64 - shift) : 0};
    for (int i = 0; i < 3; i++)
        if (parts[i])
            atomicAdd((unsigned long long *)&found->squares[limb + i], (unsigned long long)parts[i]);
}

/* A warp a block of 1024 elements: its lanes fetch, then lane 0 adds the squares in f64 in the order of elements. */
MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_squares(const float *x, int64_t count, int64_t parameter, int64_t counts, const mlc_record *gate, mlc_found *found)
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
                atomicMin((unsigned long long *)&found->bad_parameter, (unsigned long long)parameter);
            else if (counts)
                add_exactly(found, sum);
        }
        __syncwarp();
    }
}

static void square(const mlc_env *env, uint64_t at, int64_t begin, int64_t end, bool counts)
{
    const int64_t threads = (end - begin + MLC_BLOCK - 1) / MLC_BLOCK * MLC_WARP;
    SWEEP(mlc_sweep_squares, threads, operand<const float>(env, at, begin), end - begin, env->subject / MLC_FLAWS, (int64_t)counts, gate_of(env),
          found_of(env));
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
template <class T> MLC_DEVICE void inspect(const T *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_found *found)
{
    uint32_t most = 0;
    if (is_shut(gate))
        return;
    for (int64_t i = mlc_item(); i < count; i += mlc_items()) {
        const uint32_t bits = bits_of(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    if (most >= 0x7f800000u)
        atomicMin((unsigned long long *)&found->flaw, (unsigned long long)flaw);
}

MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_inspect(const uint32_t *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_found *found)
{
    inspect(x, count, flaw, gate, found);
}

void mlc_inspect_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_inspect, end - begin, operand<const uint32_t>(env, at[0], begin), end - begin, env->subject, gate_of(env), found_of(env));
}

MLC_KERNEL void __launch_bounds__(256)
mlc_sweep_inspect_copy(const uint16_t *x, int64_t count, int64_t flaw, const mlc_record *gate, mlc_found *found)
{
    inspect(x, count, flaw, gate, found);
}

void mlc_inspect_copy_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    SWEEP(mlc_sweep_inspect_copy, end - begin, operand<const uint16_t>(env, at[0], begin), end - begin, env->subject, gate_of(env),
          found_of(env));
}

/* ---- what ranks share, and what follows from that of all ----
 *
 * Kernels of one thread. Results lie in the arena (model/results.h). */

MLC_KERNEL void mlc_sum_up_refusals(mlc_statistic *statistics, const mlc_found *found)
{
    mlc_statistics_notes(statistics)->refused = found->refused != UINT64_MAX;
}

void mlc_refusals_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_sum_up_refusals, place<mlc_statistic>(env, at[0]), (const mlc_found *)found_of(env));
}

MLC_KERNEL void mlc_account(mlc_statistic *statistics, const float *value, const float *weight, const int64_t *number, const double *share,
    int64_t column)
{
    mlc_statistics_account(statistics, column, *number, *share * (double)*weight, (double)*value);
}

void mlc_account_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_account, place<mlc_statistic>(env, at[0]), place<const float>(env, at[1]), place<const float>(env, at[2]),
        place<const int64_t>(env, at[3]), place<const double>(env, at[4]), env->subject);
}

MLC_KERNEL void mlc_weigh(float *scale, int32_t *held, mlc_statistic *statistics)
{
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    const double inverse = 1.0 / mlc_tally_value(mlc_statistics_tally(statistics, MLC_TALLY_WEIGHT));
    *scale = (float)inverse;
    *held = notes->failed || notes->refused || notes->flawed.microbatch < INT64_MAX || !isfinite(inverse);
}

void mlc_weigh_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_weigh, place<float>(env, at[0]), place<int32_t>(env, at[1]), place<mlc_statistic>(env, at[2]));
}

/* What counts from 0 in found is -1 in results where there is none. */
MLC_KERNEL void mlc_total(mlc_squares *squares, const mlc_found *found)
{
    uint64_t carry = 0;
    for (int i = 0; i < MLC_SQUARES; i++) {
        carry += found->squares[i];
        squares->sum.limbs[i] = (uint32_t)carry;
        carry >>= 32;
    }
    squares->bad = (int64_t)found->bad_parameter;
}

void mlc_total_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_total, place<mlc_squares>(env, at[0]), (const mlc_found *)found_of(env));
}

MLC_KERNEL void mlc_norm(double *norm, float *clip, int32_t *held, const mlc_squares *squares, const float *limit)
{
    const double value = sqrt(mlc_exact_value(&squares->sum)), most = (double)*limit;
    *norm = value;
    *clip = most > 0 && value > most ? (float)(most / value) : 1.0f;
    if (squares->bad >= 0)
        *held = 1;
}

void mlc_norm_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_norm, place<double>(env, at[0]), place<float>(env, at[1]), place<int32_t>(env, at[2]), place<const mlc_squares>(env, at[3]),
        place<const float>(env, at[4]));
}

MLC_KERNEL void mlc_first(int64_t *flaw, const mlc_found *found)
{
    *flaw = (int64_t)found->flaw;
}

void mlc_first_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    ONE(mlc_first, place<int64_t>(env, at[0]), (const mlc_found *)found_of(env));
}

/* ---- what another rank has ---- */

MLC_KERNEL void mlc_combine_squares(mlc_squares *own, const mlc_squares *other)
{
    mlc_exact_merge(&own->sum, &other->sum);
    if (other->bad >= 0 && (own->bad < 0 || other->bad < own->bad))
        own->bad = other->bad;
}

MLC_KERNEL void mlc_combine_statistics(char *own, const char *other, int64_t bytes)
{
    mlc_statistics_combine(own, other, (size_t)bytes);
}

void mlc_ending_combine(const mlc_env *env, int kind, char *into, const char *from, uint64_t bytes)
{
    if (kind == MLC_SHARED_SQUARES)
        ONE(mlc_combine_squares, (mlc_squares *)into, (const mlc_squares *)from);
    else
        ONE(mlc_combine_statistics, into, from, (int64_t)bytes);
}
