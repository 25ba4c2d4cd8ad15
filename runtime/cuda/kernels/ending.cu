/* ending.cu: see mlc_ending.h; and the kernels of sweeps (mlc_kernel.h) that put together what values are: squares of gradients, and those
 * of the rank. What kernels find in values is noted beside the arena (mlc_found.h). */
#include "mlc_ending.h"

#include "mlc_batch.h"
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

/* ---- sums ---- */

MLC_KERNEL void __launch_bounds__(256) mlc_sum(float *x, const float *y, int64_t count)
{
    for (int64_t i = mlc_item(); i < count; i += mlc_items())
        x[i] += y[i];
}

void mlc_ending_add(const mlc_env *env, char *sum, const char *x, uint64_t bytes)
{
    const int64_t count = (int64_t)(bytes / sizeof(float));
    if (count)
        MLC_LAUNCH(mlc_sum, mlc_blocks(count), MLC_BLOCK_THREADS, 0, mlc_stream(env), (float *)sum, (const float *)x, count);
}

/* ---- squares ----
 *
 * The squares of a block of 1024 are added in f64 in the order of elements, by one lane; a warp takes 32 blocks, of which it fetches 32
 * elements at a time. The sums of blocks are added exactly, so their order does not matter. */

#define SQUARES_WARPS 4 /* of a block of threads */

static_assert(MLC_BATCH_BLOCK == MLC_BLOCK, "blocks of batches are those whose squares are added");

/* A block of 1024 that a lane has: of an item whose words begin at `word`, elements [i, i + some). some 0: none. */
typedef struct row {
    int word;
    int some;
    int64_t i;
} row;

MLC_DEVICE row row_of(const mlc_batch &batch, int block)
{
    if (block >= batch.first[batch.items])
        return {0, 0, 0};
    const int item = mlc_batch_item(batch, block), word = item * batch.width;
    const int64_t i = (int64_t)(block - batch.first[item]) * MLC_BLOCK, left = (int64_t)batch.words[word] - i;
    return {word, left < MLC_BLOCK ? (int)left : MLC_BLOCK, i};
}

#define SLICES (MLC_WARP / 4) /* turns in which a warp gets through 32 elements of 32 blocks: 8 lanes a block */

/* What a lane has in a turn, of elements [from, from + 32) of the warp's blocks. */
MLC_DEVICE mlc_batch_place place_in(const row &own, int from, int turn)
{
    const int lane = 4 * turn + mlc_lane() / 8, at = from + mlc_lane() % 8 * 4;
    const int word = __shfl_sync(MLC_FULL, own.word, lane), left = __shfl_sync(MLC_FULL, own.some, lane) - at;
    return {word, left < 4 ? left < 0 ? 0 : left : 4, __shfl_sync(MLC_FULL, own.i, lane) + at};
}

/* Jobs before the last. */
MLC_DEVICE void run_before(const mlc_batch &batch, const mlc_env *env, const row &own, int from)
{
    MLC_ROLLED
    for (int turn = 0; turn < SLICES; turn++) {
        const mlc_batch_place place = place_in(own, from, turn);
        if (place.some)
            mlc_batch_jobs(batch, env, place, 0, batch.jobs - 1);
    }
    __syncwarp();
}

/* What the last job looks at, a row a block. */
MLC_DEVICE void fetch(const mlc_batch &batch, const mlc_env *env, const row &own, int from, float (*staged)[MLC_WARP + 1])
{
    float x[SLICES][4] = {};
    MLC_UNROLL
    for (int turn = 0; turn < SLICES; turn++) {
        const mlc_batch_place place = place_in(own, from, turn);
        const float *elements = mlc_batch_operand<const float>(batch, env, place.word, batch.jobs - 1, 0);
        if (place.some)
            __builtin_memcpy(x[turn], mlc_quad<float>(elements, place.i, place.some).v, sizeof x[turn]);
    }
    MLC_UNROLL
    for (int turn = 0; turn < SLICES; turn++)
        MLC_UNROLL
        for (int i = 0; i < 4; i++)
            staged[4 * turn + mlc_lane() / 8][mlc_lane() % 8 * 4 + i] = x[turn][i];
    __syncwarp();
}

MLC_DEVICE unsigned long long sum_of_lanes(unsigned long long x)
{
    for (int distance = MLC_WARP / 2; distance > 0; distance /= 2)
        x += __shfl_xor_sync(MLC_FULL, x, distance);
    return x;
}

/* Adds a number of each lane to the exact sum, limb by limb, those of equal limbs together. */
MLC_DEVICE void add_exactly(mlc_found *found, double x)
{
    int position = 0;
    const uint64_t word = x > 0 ? word_of(x, &position) : 0;
    const int shift = position % 32;
    const uint64_t parts[3] = {(uint32_t)(word << shift), (uint32_t)(word >> (32 - shift)), shift ? word >> (64 - shift) : 0};
    int limb = word ? position / 32 : -1, most;
    while ((most = mlc_warp_fold_max(limb)) >= 0) {
        for (int i = 0; i < 3; i++) {
            const unsigned long long part = sum_of_lanes(limb == most ? parts[i] : 0);
            if (part && mlc_lane() == 0)
                atomicAdd((unsigned long long *)&found->squares[most + i], part);
        }
        limb = limb == most ? -1 : limb;
    }
}

MLC_KERNEL void __launch_bounds__(32 * SQUARES_WARPS) mlc_sweep_squares(const mlc_env env, MLC_GIVEN mlc_batch batch)
{
    MLC_SHARED(float, buffer, [SQUARES_WARPS][MLC_WARP][MLC_WARP + 1]);
    float (*const staged)[MLC_WARP + 1] = buffer[mlc_warp()];
    mlc_found *found = (mlc_found *)env.scratch;
    if (mlc_batch_is_shut(&env))
        return;
    for (int first = mlc_warp_item() * MLC_WARP; first < batch.first[batch.items]; first += mlc_warp_items() * MLC_WARP) {
        const row own = row_of(batch, first + mlc_lane());
        double sum = 0;
        MLC_ROLLED
        for (int from = 0; __any_sync(MLC_FULL, from < own.some); from += MLC_WARP) {
            if (batch.jobs > 1)
                run_before(batch, &env, own, from);
            fetch(batch, &env, own, from, staged);
            MLC_UNROLL
            for (int i = 0; i < MLC_WARP; i++)
                sum += (double)staged[mlc_lane()][i] * (double)staged[mlc_lane()][i];
            __syncwarp();
        }
        if (!isfinite(sum))
            atomicMin((unsigned long long *)&found->bad_parameter, (unsigned long long)(batch.words[own.word + 1] / MLC_FLAWS));
        if (batch.job[batch.jobs - 1].kind == MLC_JOB_SQUARES)
            add_exactly(found, isfinite(sum) ? sum : 0);
    }
}

void mlc_squares_launch(const mlc_env *env, const mlc_batch *batch)
{
    const int blocks = (batch->first[batch->items] + MLC_WARP * SQUARES_WARPS - 1) / (MLC_WARP * SQUARES_WARPS);
    MLC_LAUNCH(mlc_sweep_squares, blocks < MLC_MOST_BLOCKS ? blocks : MLC_MOST_BLOCKS, MLC_WARP * SQUARES_WARPS, 0, mlc_stream(env), *env,
               *batch);
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

/* All that microbatches left, in one order. */
MLC_KERNEL void mlc_account(char *arena, MLC_GIVEN mlc_accounts accounts)
{
    mlc_statistic *statistics = (mlc_statistic *)(arena + accounts.statistics);
    const double share = *(const double *)(arena + accounts.share);
    for (int64_t i = 0; i < accounts.count; i++) {
        const float value = *(const float *)(arena + accounts.of[i].value), weight = *(const float *)(arena + accounts.of[i].weight);
        const int64_t number = *(const int64_t *)(arena + accounts.of[i].number);
        mlc_statistics_account(statistics, accounts.of[i].column, number, share * (double)weight, (double)value);
    }
}

void mlc_accounts_launch(const mlc_env *env, mlc_accounts *accounts)
{
    if (accounts->count)
        ONE(mlc_account, env->arena, *accounts);
    accounts->count = 0;
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
