/* mlc_batch.h: kernels of sweeps over the elements of many parameters in one launch.
 *
 * A batch is items, that is elements of parameters, and jobs, that is calls of kernels (mlc_kernel.h), the same ones for all items; where
 * their operands lie is the item's. It is a parameter of its launch. A thread does all jobs on its elements, one after the other, so what a
 * job leaves is there for the next one, and memory is read once. An emitted kernel does one job itself: the routine of the parameter.
 *
 * Elements are taken 4 to a thread, 1024 to a block: element i of an item is thread i / 4 % 256 of block i / 1024.
 */
#ifndef MLC_BATCH_H
#define MLC_BATCH_H

#include "mlc_calls.h"
#include "mlc_device.h"

enum mlc_job_kind {
    MLC_JOB_ADD,
    MLC_JOB_COPY,
    MLC_JOB_SCALE,
    MLC_JOB_ROUND,
    MLC_JOB_INSPECT,
    MLC_JOB_INSPECT_COPY,
    MLC_JOB_SQUARES, /* this one and the next by mlc_batch_squares, behind all others */
    MLC_JOB_FINITE,
    MLC_JOB_OWN, /* by the kernel of a routine */
};

#define MLC_BATCH_BYTES 4000 /* of the parameters of a launch: CUDA allows 4096 where nothing else is asked for */
#define MLC_BATCH_BLOCK (4 * MLC_BLOCK_THREADS) /* elements of a block */
#define MLC_BATCH_ITEMS 80
#define MLC_BATCH_JOBS 24
#define MLC_BATCH_WORDS 404
#define MLC_BATCH_HEAD 3 /* words of an item before its operands: elements, parameter * MLC_FLAWS, path (mlc_env) */

typedef struct mlc_job {
    uint8_t kind;
    uint8_t subject; /* what of the parameter is looked through (model/finite.h) */
    uint16_t at;     /* of its operands among the words of the item */
} mlc_job;

typedef struct mlc_batch {
    int32_t items, jobs;
    int32_t width; /* words of an item */
    int32_t own;   /* number of the job that the kernel does itself; -1: none */
    int32_t first[MLC_BATCH_ITEMS + 1]; /* block of each item, blocks of all */
    mlc_job job[MLC_BATCH_JOBS];
    uint64_t words[MLC_BATCH_WORDS];
} mlc_batch;

static_assert(sizeof(mlc_batch) <= MLC_BATCH_BYTES - sizeof(mlc_env), "what a launch may be given");

#ifdef __CUDACC__
#define MLC_GIVEN const __grid_constant__
#else
#define MLC_GIVEN const
#endif

typedef void (*mlc_batch_launch)(const mlc_env *env, const mlc_batch *batch);

/* Calls the routine of a parameter, with so many operands, on elements [begin, end), by a kernel of its own. */
extern "C" void mlc_calls_own(const mlc_env *env, mlc_batch_launch launch, const uint64_t *at, int count, int64_t begin, int64_t end);

/* Launches jobs the last of which is `squares` or `finite` (ending.cu). */
extern "C" void mlc_squares_launch(const mlc_env *env, const mlc_batch *batch);

/* What microbatches left in columns: where values, weights and numbers of microbatches lie. */
#define MLC_ACCOUNTS 96

typedef struct mlc_accounts {
    uint64_t statistics, share;
    int64_t count;
    struct {
        uint64_t value, weight, number;
        int64_t column;
    } of[MLC_ACCOUNTS];
} mlc_accounts;

/* Accounts for them, and there are none (ending.cu). */
extern "C" void mlc_accounts_launch(const mlc_env *env, mlc_accounts *accounts);

/* Blocks of a launch. */
static inline int mlc_batch_blocks(const mlc_batch *batch)
{
    const int blocks = batch->first[batch->items];
    return blocks < MLC_MOST_BLOCKS ? blocks : MLC_MOST_BLOCKS;
}

/* ---- some elements ---- */

/* Four neighbours, in registers; as many of them as there are are those of memory, the others 0. [i]: by number in the item.
 *
 * They are read at once even where fewer are there: what lies in the arena begins at a multiple of 64 bytes, and elements of an item at a
 * multiple of 1024 of them, so what is read beyond is nobody's. */
template <class T> struct mlc_quad {
    typedef typename mlc_word<4 * sizeof(T)>::type word;
    T v[4];
    int64_t first;

    MLC_DEVICE_METHOD explicit mlc_quad(int64_t at) : v{}, first(at) {}

    MLC_DEVICE_METHOD mlc_quad(const T *from, int64_t at, int some) : first(at)
    {
        const word all = *reinterpret_cast<const word *>(from + at);
        __builtin_memcpy(v, &all, sizeof all);
        MLC_UNROLL
        for (int i = 0; i < 4; i++)
            v[i] = i < some ? v[i] : T(0);
    }

    MLC_DEVICE_METHOD void put(T *to, int some) const
    {
        if (some == 4) {
            word all;
            __builtin_memcpy(&all, v, sizeof all);
            *reinterpret_cast<word *>(to + first) = all;
        } else {
            MLC_UNROLL
            for (int i = 0; i < 4; i++)
                if (i < some)
                    to[first + i] = v[i];
        }
    }

    MLC_DEVICE_METHOD T &operator[](int64_t i) { return v[i - first]; }
    MLC_DEVICE_METHOD const T &operator[](int64_t i) const { return v[i - first]; }
};

/* ---- places ---- */

/* Elements [i, i + some) of an item, whose words begin at `word`. some < 1: there are none. */
typedef struct mlc_batch_place {
    int word;
    int some;
    int64_t i;
} mlc_batch_place;

MLC_DEVICE bool mlc_batch_is_shut(const mlc_env *env)
{
    return env->gated && env->record->held;
}

/* The item of a block. */
MLC_DEVICE int mlc_batch_item(const mlc_batch &batch, int block)
{
    int low = 0, high = batch.items;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (batch.first[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* What a thread has of a block. */
MLC_DEVICE mlc_batch_place mlc_batch_find(const mlc_batch &batch, int block, int thread)
{
    const int item = mlc_batch_item(batch, block), word = item * batch.width;
    const int64_t i = (int64_t)(block - batch.first[item]) * MLC_BATCH_BLOCK + 4 * thread, left = (int64_t)batch.words[word] - i;
    return {word, left < 4 ? (int)(left < 0 ? 0 : left) : 4, i};
}

/* Operand number n of a job. */
template <class T> MLC_DEVICE T *mlc_batch_operand(const mlc_batch &batch, const mlc_env *env, int word, int job, int n)
{
    return reinterpret_cast<T *>(env->arena + batch.words[word + batch.job[job].at + n]);
}

/* ---- jobs ---- */

MLC_DEVICE void mlc_batch_note(const mlc_batch &batch, const mlc_env *env, int word, int job)
{
    mlc_found *found = (mlc_found *)env->scratch;
    atomicMin((unsigned long long *)&found->flaw, (unsigned long long)(batch.words[word + 1] + batch.job[job].subject));
}

/* An exponent of all ones: infinite, or no number. T: the bits of an f32 or of a bf16. */
template <class T> MLC_DEVICE bool mlc_batch_is_flawed(const mlc_quad<T> &x)
{
    constexpr uint32_t infinite = sizeof(T) == 4 ? 0x7f800000u : 0x7f80u, magnitude = (uint32_t)(T)~(T)0 >> 1;
    uint32_t most = 0;
    MLC_UNROLL
    for (int i = 0; i < 4; i++) {
        const uint32_t bits = (uint32_t)x.v[i] & magnitude;
        most = bits > most ? bits : most;
    }
    return most >= infinite;
}

template <class T>
MLC_DEVICE void mlc_batch_inspect(const mlc_batch &batch, const mlc_env *env, const mlc_batch_place &place, int job)
{
    if (mlc_batch_is_flawed(mlc_quad<T>(mlc_batch_operand<T>(batch, env, place.word, job, 0), place.i, place.some)))
        mlc_batch_note(batch, env, place.word, job);
}

/* A scalar of 1 leaves everything as it is. */
MLC_DEVICE void mlc_batch_scale(float *x, float factor, const mlc_batch_place &place)
{
    if (factor == 1)
        return;
    mlc_quad<float> quad(x, place.i, place.some);
    MLC_UNROLL
    for (int i = 0; i < 4; i++)
        quad.v[i] *= factor;
    quad.put(x, place.some);
}

MLC_DEVICE void mlc_batch_add(float *x, const float *y, const mlc_batch_place &place)
{
    mlc_quad<float> sum(x, place.i, place.some);
    const mlc_quad<float> term(y, place.i, place.some);
    MLC_UNROLL
    for (int i = 0; i < 4; i++)
        sum.v[i] += term.v[i];
    sum.put(x, place.some);
}

MLC_DEVICE void mlc_batch_round(uint16_t *x, const float *y, const mlc_batch_place &place)
{
    const mlc_quad<float> from(y, place.i, place.some);
    mlc_quad<uint16_t> to(place.i);
    MLC_UNROLL
    for (int i = 0; i < 4; i++)
        to.v[i] = mlc_bf16_of_f32(from.v[i]);
    to.put(x, place.some);
}

/* A job that is no batch's own. */
MLC_DEVICE void mlc_batch_job(const mlc_batch &batch, const mlc_env *env, const mlc_batch_place &place, int job)
{
    float *const x = mlc_batch_operand<float>(batch, env, place.word, job, 0);
    const float *const y = mlc_batch_operand<const float>(batch, env, place.word, job, 1);
    switch (batch.job[job].kind) {
    case MLC_JOB_ADD:
        mlc_batch_add(x, y, place);
        break;
    case MLC_JOB_COPY:
        mlc_quad<float>(y, place.i, place.some).put(x, place.some);
        break;
    case MLC_JOB_SCALE:
        mlc_batch_scale(x, *y, place);
        break;
    case MLC_JOB_ROUND:
        mlc_batch_round((uint16_t *)x, y, place);
        break;
    case MLC_JOB_INSPECT:
        mlc_batch_inspect<uint32_t>(batch, env, place, job);
        break;
    default:
        mlc_batch_inspect<uint16_t>(batch, env, place, job);
    }
}

/* Jobs [from, to). */
MLC_DEVICE void mlc_batch_jobs(const mlc_batch &batch, const mlc_env *env, const mlc_batch_place &place, int from, int to)
{
    MLC_ROLLED
    for (int job = from; job < to; job++)
        mlc_batch_job(batch, env, place, job);
}

#endif
