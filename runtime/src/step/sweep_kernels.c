/* sweep_kernels.c: the kernels of sweeps (mlc_kernel.h), on arrays of the wide dtype (dtype.h). */
#include "mlc_kernel.h"

#include "model/finite.h"
#include "model/results.h"
#include "step/gradient.h"
#include "step/sweep_kernels.h"
#include "system/dtype.h"
#include "system/numbers.h"
#include "system/threads.h"

#include <math.h>
#include <string.h>

static void *element(const mlc_env *env, uint64_t at, int64_t begin, int64_t bytes)
{
    return env->arena + at + (uint64_t)(begin * bytes);
}

/* ---- the walk ---- */

void mlc_sweep_next(const mlc_env *env)
{
    (void)env;
}

void mlc_sweep_meet(const mlc_env *env)
{
    mlc_barrier(env);
}

/* ---- gradients ---- */

static void note_gradient(const mlc_env *env)
{
    mlc_worker *worker = mlc_worker_of(env);
    int64_t parameter = env->subject / MLC_FLAWS;
    if (worker->bad_parameter < 0 || parameter < worker->bad_parameter)
        worker->bad_parameter = parameter;
}

/* Squares of at most eight blocks: into the worker's exact sum where they count. One that is not finite is noted. */
static void add_squares(const mlc_env *env, const mlc_dtype_row *dtype, const char *x, int64_t count, bool counts)
{
    double sums[8];
    int blocks = (int)((count + MLC_BLOCK - 1) / MLC_BLOCK);
    if (count == 8 * MLC_BLOCK)
        dtype->wide->squares_eight(x, sums);
    else
        for (int64_t at = 0; at < count; at += MLC_BLOCK)
            sums[at / MLC_BLOCK] = dtype->wide->squares(x + at * dtype->bytes, smaller(MLC_BLOCK, count - at));
    for (int b = 0; b < blocks; b++) {
        if (!isfinite(sums[b]))
            note_gradient(env);
        else if (counts)
            mlc_exact_add(&mlc_worker_of(env)->squares, sums[b]);
    }
}

static void squares(const mlc_env *env, const mlc_dtype_row *dtype, uint64_t at, int64_t begin, int64_t end, bool counts)
{
    for (int64_t i = begin; i < end; i += 8 * MLC_BLOCK)
        add_squares(env, dtype, element(env, at, i, dtype->bytes), smaller(8 * MLC_BLOCK, end - i), counts);
}

/* A scalar of 1 leaves everything as it is. */
static void scale(const mlc_env *env, const mlc_dtype_row *dtype, const uint64_t *at, int64_t begin, int64_t end)
{
    double factor = dtype->load(env->arena + at[1], 0);
    if (factor != 1)
        dtype->wide->scale(element(env, at[0], begin, dtype->bytes), factor, end - begin);
}

/* ---- what an update leaves ---- */

static void note_flaw(const mlc_env *env)
{
    mlc_worker *worker = mlc_worker_of(env);
    worker->flaw = mlc_flaw_first(worker->flaw, env->subject);
}

static void inspect(const mlc_env *env, const mlc_dtype_row *dtype, uint64_t at, int64_t begin, int64_t end)
{
    if (!dtype->wide->finite(element(env, at, begin, dtype->bytes), end - begin))
        note_flaw(env);
}

/* An exponent of all ones: infinite, or no number. */
static void inspect_copy(const mlc_env *env, uint64_t at, int64_t begin, int64_t end)
{
    const uint16_t *x = element(env, at, begin, sizeof *x);
    uint16_t highest = 0;
    for (int64_t i = 0; i < end - begin; i++) {
        uint16_t bits = x[i] & 0x7fff;
        highest = bits > highest ? bits : highest;
    }
    if (highest >= 0x7f80)
        note_flaw(env);
}

/* ---- the rank ---- */

static void *slot(const mlc_env *env, uint64_t at)
{
    return env->arena + at;
}

static void refusals(const mlc_env *env, const uint64_t *at)
{
    mlc_notes *notes = mlc_statistics_notes(slot(env, at[0]));
    for (int i = 0; i < env->threads; i++) {
        notes->failed |= env->team->workers[i].error.status != 0;
        notes->refused |= env->team->workers[i].refused.site >= 0;
    }
}

/* statistics, value, weight, number, share */
static void account(const mlc_env *env, const mlc_dtype_row *dtype, const uint64_t *at)
{
    const int64_t *number = slot(env, at[3]);
    const double *share = slot(env, at[4]);
    double value = dtype->load(slot(env, at[1]), 0), weight = *share * dtype->load(slot(env, at[2]), 0);
    mlc_statistics_account(slot(env, at[0]), env->subject, *number, weight, value);
}

/* scale, held, statistics */
static void weigh(const mlc_env *env, const mlc_dtype_row *dtype, const uint64_t *at)
{
    mlc_statistic *statistics = slot(env, at[2]);
    const mlc_notes *notes = mlc_statistics_notes(statistics);
    double scale = 1.0 / mlc_tally_value(mlc_statistics_tally(statistics, MLC_TALLY_WEIGHT));
    int32_t *held = slot(env, at[1]);
    dtype->store(slot(env, at[0]), 0, scale);
    *held = notes->failed || notes->refused || notes->flawed.microbatch < INT64_MAX || !isfinite(scale);
}

static void total(const mlc_env *env, const uint64_t *at)
{
    mlc_squares *squares = slot(env, at[0]);
    *squares = (mlc_squares){.bad = mlc_gradient_bad(env->team)};
    for (int i = 0; i < env->threads; i++)
        mlc_exact_merge(&squares->sum, &env->team->workers[i].squares);
}

/* norm, clip, held, squares, limit */
static void norm(const mlc_env *env, const mlc_dtype_row *dtype, const uint64_t *at)
{
    const mlc_squares *squares = slot(env, at[3]);
    double value = sqrt(mlc_exact_value(&squares->sum)), limit = dtype->load(slot(env, at[4]), 0);
    int32_t *held = slot(env, at[2]);
    *(double *)slot(env, at[0]) = value;
    dtype->store(slot(env, at[1]), 0, limit > 0 && value > limit ? limit / value : 1);
    *held |= squares->bad >= 0;
}

static void first(const mlc_env *env, const uint64_t *at)
{
    int64_t *flaw = slot(env, at[0]);
    *flaw = -1;
    for (int i = 0; i < env->threads; i++)
        *flaw = mlc_flaw_first(*flaw, env->team->workers[i].flaw);
}

/* ---- by dtype ---- */

#define ONCE(name, number, does, ...)                                                                                              \
    void mlc_##does##_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                   \
    {                                                                                                                              \
        (void)begin, (void)end;                                                                                                    \
        does(env, __VA_ARGS__);                                                                                                    \
    }

#define KERNELS(name, number)                                                                                                      \
    void mlc_add_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                        \
    {                                                                                                                              \
        const mlc_dtype_row *dtype = mlc_dtype_of(number);                                                                         \
        dtype->wide->add(element(env, at[0], begin, dtype->bytes), element(env, at[1], begin, dtype->bytes), end - begin);          \
    }                                                                                                                              \
    void mlc_copy_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                       \
    {                                                                                                                              \
        int64_t bytes = mlc_dtype_of(number)->bytes;                                                                               \
        memcpy(element(env, at[0], begin, bytes), element(env, at[1], begin, bytes), (size_t)((end - begin) * bytes));             \
    }                                                                                                                              \
    void mlc_scale_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                      \
    {                                                                                                                              \
        scale(env, mlc_dtype_of(number), at, begin, end);                                                                          \
    }                                                                                                                              \
    void mlc_squares_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                    \
    {                                                                                                                              \
        squares(env, mlc_dtype_of(number), at[0], begin, end, true);                                                               \
    }                                                                                                                              \
    void mlc_finite_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                     \
    {                                                                                                                              \
        squares(env, mlc_dtype_of(number), at[0], begin, end, false);                                                              \
    }                                                                                                                              \
    void mlc_round_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                      \
    {                                                                                                                              \
        const mlc_dtype_row *dtype = mlc_dtype_of(number);                                                                         \
        uint16_t *to = element(env, at[0], begin, sizeof *to);                                                                     \
        dtype->wide->to_bf16(to, element(env, at[1], begin, dtype->bytes), end - begin);                                           \
    }                                                                                                                              \
    void mlc_inspect_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                                    \
    {                                                                                                                              \
        inspect(env, mlc_dtype_of(number), at[0], begin, end);                                                                     \
    }                                                                                                                              \
    void mlc_inspect_copy_##name(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)                               \
    {                                                                                                                              \
        inspect_copy(env, at[0], begin, end);                                                                                      \
    }                                                                                                                              \
    ONCE(name, number, refusals, at)                                                                                               \
    ONCE(name, number, account, mlc_dtype_of(number), at)                                                                          \
    ONCE(name, number, weigh, mlc_dtype_of(number), at)                                                                            \
    ONCE(name, number, total, at)                                                                                                  \
    ONCE(name, number, norm, mlc_dtype_of(number), at)                                                                             \
    ONCE(name, number, first, at)
KERNELS(f32, MLC_F32)
KERNELS(f64, MLC_F64)
