/* sweep.cu: see mlc_calls.h; and the kernels of sweeps on tensors (mlc_kernel.h), in f32, as jobs of batches (mlc_batch.h). Each element is
 * made by one thread out of the numbers that a CPU makes it from. */
#include "mlc_batch.h"
#include "mlc_ending.h"

#include "step/sweep_kernels.h"

#include <stdlib.h>
#include <string.h>

/* ---- launches ---- */

MLC_KERNEL void __launch_bounds__(256) mlc_run_jobs(const mlc_env env, MLC_GIVEN mlc_batch batch)
{
    if (mlc_batch_is_shut(&env))
        return;
    for (int block = blockIdx.x; block < batch.first[batch.items]; block += gridDim.x) {
        const mlc_batch_place place = mlc_batch_find(batch, block, threadIdx.x);
        if (place.some)
            mlc_batch_jobs(batch, &env, place, 0, batch.jobs);
    }
}

static void launch_jobs(const mlc_env *env, const mlc_batch *batch)
{
    MLC_LAUNCH(mlc_run_jobs, mlc_batch_blocks(batch), MLC_BLOCK_THREADS, 0, mlc_stream(env), *env, *batch);
}

/* ---- batches that grow ---- */

#define MOST_OPEN 8 /* batches at a time: as many kinds of parameters are told apart by a sweep, or nearly */

/* A batch, and what launches it. */
typedef struct grown {
    mlc_batch_launch launch;
    mlc_batch batch;
} grown;

/* item: the one whose calls are made, alone; no jobs: there are none yet. */
struct mlc_calls {
    mlc_calls_refused refused;
    grown item;
    grown open[MOST_OPEN];
    int count;
    mlc_accounts accounts;
};

mlc_calls *mlc_calls_open(void)
{
    return (mlc_calls *)calloc(1, sizeof(mlc_calls));
}

void mlc_calls_close(mlc_calls *calls)
{
    free(calls);
}

static void launch_all(const mlc_env *env)
{
    mlc_calls *calls = env->calls;
    for (int i = 0; i < calls->count; i++)
        calls->open[i].launch(env, &calls->open[i].batch);
    calls->count = 0;
}

/* Do they do the same, but to other elements? */
static bool is_alike(const grown *a, const grown *b)
{
    return a->launch == b->launch && a->batch.jobs == b->batch.jobs && a->batch.width == b->batch.width &&
           !memcmp(a->batch.job, b->batch.job, (size_t)a->batch.jobs * sizeof *a->batch.job);
}

/* Has it room for one item more? A word stays free: the place of the second operand of the last job, which may have none. */
static bool has_room(const mlc_batch *batch)
{
    return batch->items < MLC_BATCH_ITEMS && (batch->items + 1) * batch->width < MLC_BATCH_WORDS;
}

static void append(mlc_batch *batch, const mlc_batch *item)
{
    memcpy(batch->words + batch->items * batch->width, item->words, (size_t)batch->width * sizeof *batch->words);
    batch->first[batch->items + 1] = batch->first[batch->items] + item->first[1];
    batch->items++;
}

/* The item has all its calls. */
static void close_item(const mlc_env *env)
{
    mlc_calls *calls = env->calls;
    grown *item = &calls->item;
    int i = 0;
    if (!item->batch.jobs)
        return;
    while (i < calls->count && !(is_alike(&calls->open[i], item) && has_room(&calls->open[i].batch)))
        i++;
    if (i == MOST_OPEN)
        launch_all(env), i = 0;
    if (i == calls->count)
        calls->open[calls->count++] = *item;
    else
        append(&calls->open[i].batch, &item->batch);
    item->batch.jobs = 0;
}

void mlc_sweep_next(const mlc_env *env)
{
    close_item(env);
}

void mlc_sweep_meet(const mlc_env *env)
{
    close_item(env);
    launch_all(env);
    mlc_accounts_launch(env, &env->calls->accounts);
}

static void begin_item(const mlc_env *env, int64_t elements)
{
    mlc_batch *batch = &env->calls->item.batch;
    env->calls->item.launch = launch_jobs;
    batch->items = 1;
    batch->width = MLC_BATCH_HEAD;
    batch->own = -1;
    batch->first[0] = 0;
    batch->first[1] = (int32_t)((elements + MLC_BATCH_BLOCK - 1) / MLC_BATCH_BLOCK);
    batch->words[0] = (uint64_t)elements;
    batch->words[1] = batch->words[2] = 0;
}

/* Can the item have one call more, of so many operands, launched so (NULL: by any launch)? */
static bool takes(const grown *item, mlc_batch_launch launch, int64_t elements, int operands)
{
    const mlc_batch *batch = &item->batch;
    bool ends = batch->job[batch->jobs - 1].kind == MLC_JOB_SQUARES || batch->job[batch->jobs - 1].kind == MLC_JOB_FINITE;
    bool launched = !launch || item->launch == launch_jobs;
    return !ends && launched && batch->words[0] == (uint64_t)elements && batch->jobs < MLC_BATCH_JOBS &&
           batch->width + operands < MLC_BATCH_WORDS;
}

/* A call on elements [0, elements) of operands that begin at `at`. What does not go with the calls before comes behind them. */
static void call(const mlc_env *env, mlc_batch_launch launch, int kind, const uint64_t *at, int operands, int64_t elements)
{
    grown *item = &env->calls->item;
    if (item->batch.jobs && !takes(item, launch, elements, operands)) {
        close_item(env);
        launch_all(env);
    }
    mlc_batch *batch = &item->batch;
    if (!batch->jobs)
        begin_item(env, elements);
    if (launch)
        item->launch = launch;
    /* The own job looks through nothing, and nobody has said what it is of. */
    const uint64_t subject = kind == MLC_JOB_OWN ? batch->words[1] : (uint64_t)env->subject;
    if (kind == MLC_JOB_OWN)
        batch->own = batch->jobs, batch->words[2] = env->path;
    batch->words[1] = subject / MLC_FLAWS * MLC_FLAWS;
    batch->job[batch->jobs++] = {(uint8_t)kind, (uint8_t)(subject % MLC_FLAWS), (uint16_t)batch->width};
    for (int i = 0; i < operands; i++)
        batch->words[batch->width++] = at[i];
}

void mlc_calls_own(const mlc_env *env, mlc_batch_launch launch, const uint64_t *at, int count, int64_t, int64_t end)
{
    call(env, launch, MLC_JOB_OWN, at, count, end);
}

/* ---- kernels ---- */

/* Of x alone, or of x and y, of which each element has so many bytes; 0: a scalar. */
static void job(const mlc_env *env, mlc_batch_launch launch, int kind, const uint64_t *at, int x, int y, bool both, int64_t begin,
    int64_t end)
{
    const uint64_t moved[] = {at[0] + (uint64_t)(begin * x), both ? at[1] + (uint64_t)(begin * y) : 0};
    call(env, launch, kind, moved, both ? 2 : 1, end - begin);
}

void mlc_add_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_ADD, at, 4, 4, true, begin, end);
}

void mlc_copy_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_COPY, at, 4, 4, true, begin, end);
}

void mlc_scale_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_SCALE, at, 4, 0, true, begin, end);
}

void mlc_round_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_ROUND, at, 2, 4, true, begin, end);
}

void mlc_inspect_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_INSPECT, at, 4, 0, false, begin, end);
}

void mlc_inspect_copy_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, NULL, MLC_JOB_INSPECT_COPY, at, 2, 0, false, begin, end);
}

void mlc_squares_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, mlc_squares_launch, MLC_JOB_SQUARES, at, 4, 0, false, begin, end);
}

void mlc_finite_f32(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)
{
    job(env, mlc_squares_launch, MLC_JOB_FINITE, at, 4, 0, false, begin, end);
}

/* ---- of the rank ---- */

void mlc_account_f32(const mlc_env *env, const uint64_t *at, int64_t, int64_t)
{
    mlc_accounts *accounts = &env->calls->accounts;
    if (accounts->count == MLC_ACCOUNTS)
        mlc_accounts_launch(env, accounts);
    accounts->statistics = at[0], accounts->share = at[4];
    accounts->of[accounts->count++] = {at[1], at[2], at[3], env->subject};
}
