/* mlc_kernel.h: what emitted functions call. Included by emitted code and by the runtime's kernels.
 *
 *   work sharing      mlc_share, mlc_barrier
 *   scalar functions  mlc_exp ... (mlc_math.h), bf16 and f16 conversion, random numbers (mlc_random.h)
 *   contractions      mlc_contract
 *   attention         mlc_attention_forward, mlc_attention_vjp
 *   decoding          mlc_append, mlc_attention_next
 *   sweeps            mlc_add, mlc_copy, mlc_scale, mlc_squares, mlc_finite, mlc_round, mlc_inspect, mlc_inspect_copy
 */
#ifndef MLC_KERNEL_H
#define MLC_KERNEL_H

#include "mlc_abi.h"
#include "mlc_math.h"
#include "mlc_random.h"

#ifndef MLC_CUDA_H /* kernels of a device have others of these: mlc_device.h */

/* The loop that follows has independent iterations, or the named reduction only. */
#ifdef __clang__
#pragma clang diagnostic ignored "-Wpass-failed" /* MLC_SIMD permits, it does not demand */
#endif
#define MLC_PRAGMA(text) _Pragma(#text)
#define MLC_SIMD MLC_PRAGMA(omp simd)
#define MLC_SIMD_SUM(variable) MLC_PRAGMA(omp simd reduction(+ : variable))

typedef struct mlc_range {
    int64_t begin, end;
} mlc_range;

/* The contiguous share of `items` work items that belongs to this thread. */
static inline mlc_range mlc_share(const mlc_env *env, int64_t items)
{
    mlc_range range = {items * env->thread / env->threads, items * (env->thread + 1) / env->threads};
    return range;
}

/* Every thread of the rank waits here for the others; what they wrote before is visible after. */
void mlc_barrier(const mlc_env *env);

/* Here begins a kernel of a function: `kernel` says what it makes, and by which line of the model. It ends where the next one begins, or
 * with the function, its barrier included. flops: of dense work, else 0. */
static inline void mlc_begin(const mlc_env *env, const char *function, double flops, const char *kernel)
{
    if (__builtin_expect(env->listener != 0, 0))
        env->listener->begin(env->listener, function, kernel, flops);
}

/* An index that is out of range: noted, so that the step ends before anything is updated (index.h). */
void mlc_index_refuse(const mlc_env *env, int32_t value, int32_t extent, int64_t element, int64_t each, int32_t site, const char *where)
    __attribute__((cold, noinline));

/* The integer in [0, extent) nearest to the index `value`, its element number `element`, of which `each` belong to a record (0: not
 * known). `site` numbers the lookups of the model, `where` says which one it is. */
static inline int32_t mlc_checked(const mlc_env *env, int32_t value, int32_t extent, int64_t element, int64_t each, int32_t site,
    const char *where)
{
    if (__builtin_expect((uint32_t)value >= (uint32_t)extent, 0))
        mlc_index_refuse(env, value, extent, element, each, site, where);
    return mlc_clamp(value, extent);
}

/* One index of a contraction with its strides, in elements, in the two operands (0 where it does not occur). */
typedef struct mlc_index {
    int64_t extent, a, b;
} mlc_index;

#define MLC_INDICES 4

/* c[batch, m, n] = sum over k of a[batch, m, k] * b[batch, k, n], each of the four a row-major group of indices.
 * a and b are f32 or bf16 and sums f32; or all are f64. Sums run in ascending k by blocks chosen from the shape alone; those of two bf16
 * operands by pairs of k where the machine multiplies pairs faster (MLC_PAIRS in tile.h). */
typedef struct mlc_contraction {
    int32_t batch_rank, m_rank, n_rank, k_rank; /* 0 to MLC_INDICES; rank 0: extent 1 */
    mlc_index batch[MLC_INDICES], m[MLC_INDICES], n[MLC_INDICES], k[MLC_INDICES];
    int32_t a_dtype, b_dtype;
} mlc_contraction;

/* Takes a finished block: c[i * pitch + j] is the result at batch index `batch`, row m0 + i, column n0 + j, i < rows, j < columns.
 * `closure` is the one given to mlc_contract. Called by the thread that owns the block; blocks do not overlap and cover the result.
 * Which blocks a thread gets depends on the shape and the number of threads; the values in c depend on the shape alone.
 * c lies in env->scratch and may be overwritten; nothing else in scratch may be touched. */
typedef void (*mlc_epilogue)(const mlc_env *env, const void *closure, const float *c, int64_t pitch, int64_t batch, int64_t m0,
    int64_t rows, int64_t n0, int64_t columns);
typedef void (*mlc_epilogue_f64)(const mlc_env *env, const void *closure, const double *c, int64_t pitch, int64_t batch, int64_t m0,
    int64_t rows, int64_t n0, int64_t columns);

/* Bytes of env->scratch that mlc_contract uses, whatever the shape; mlc_contract_f64 uses twice as many. */
#define MLC_CONTRACT_SCRATCH_BYTES 1572864

/* All threads call it. No barrier before or after: the caller places them. a and b need the alignment of their dtype only. */
void mlc_contract(const mlc_env *env, const mlc_contraction *contraction, const void *a, const void *b, mlc_epilogue epilogue,
    const void *closure);
void mlc_contract_f64(const mlc_env *env, const mlc_contraction *contraction, const void *a, const void *b, mlc_epilogue_f64 epilogue,
    const void *closure);

#endif /* MLC_CUDA_H */

#ifdef __cplusplus
extern "C" {
#endif

/* Softmax attention without a T x T buffer (FlashAttention, Dao et al. 2022). Strides in elements; the last dim has stride 1.
 * q [batch, time, heads, head], k [batch, keys, groups, head], v [batch, keys, groups, value], heads a multiple of groups. */
typedef struct mlc_attention {
    int64_t batch, time, keys, heads, groups, head, value;
    int64_t q_batch, q_time, q_head;
    int64_t k_batch, k_time, k_head;
    int64_t v_batch, v_time, v_head;
    int64_t y_batch, y_time, y_head;      /* y and dy: [batch, time, heads, value] */
    int64_t dy_batch, dy_time, dy_head;
    int64_t dq_batch, dq_time, dq_head;
    int64_t dk_batch, dk_time, dk_head;
    int64_t dv_batch, dv_time, dv_head;
    double scale;
    int32_t causal;                       /* key s is seen by query t when s <= t */
    int32_t dtype;                        /* of q k v y and their gradients: MLC_F32 or MLC_BF16; MLC_F64 */
} mlc_attention;

/* Bytes of env->scratch that attention uses; that of f64 uses twice as many. Every pitch is an odd number of 64-byte lines:
 * MLC_PITCH(n) = 16 * (ceil(n / 16) | 1).
 * The blocks are MLC_QUERY_BLOCK queries by MLC_KEY_BLOCK keys. With h = MLC_PITCH(head), e = MLC_PITCH(value), in elements:
 *   forward  224 head + 128 e + 64 e + 64 * 144 + 4 * 144
 *   vjp      224 (head + value) + 128 (2 h + e) + 64 h + 2 * 128 * 80 + 4 * 144 + 64 ceil(keys / 64) (h + e) */
#define MLC_QUERY_BLOCK 128
#define MLC_KEY_BLOCK 64
#define MLC_PITCH(n) (16 * ((((int64_t)(n) + 15) / 16) | 1))
#define MLC_ATTENTION_FORWARD_SCRATCH_BYTES(head, value) (4 * (224 * (int64_t)(head) + 192 * MLC_PITCH(value) + 68 * 144))
#define MLC_ATTENTION_VJP_SCRATCH_BYTES(keys, head, value)                                                                         \
    (4 * (224 * ((int64_t)(head) + (value)) + 128 * (2 * MLC_PITCH(head) + MLC_PITCH(value)) + 64 * MLC_PITCH(head) + 20480 + 4 * 144 +   \
          64 * (((int64_t)(keys) + 63) / 64) * (MLC_PITCH(head) + MLC_PITCH(value))))

/* y, and lse [batch, heads, time]. mask: [batch, keys] bool, true where a key may be seen, or NULL.
 * A query that sees no key gets y = NaN, as softmax of all -inf. All threads call it; no barrier before or after. */
void mlc_attention_forward(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, void *y, float *lse);
void mlc_attention_forward_f64(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, void *y, double *lse);

/* dq, dk, dv from dy. All threads call it; no barrier before or after. */
void mlc_attention_vjp(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v, const uint8_t *mask,
    const void *y, const float *lse, const void *dy, void *dq, void *dk, void *dv);
void mlc_attention_vjp_f64(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const uint8_t *mask, const void *y, const double *lse, const void *dy, void *dq, void *dk, void *dv);

/* What is kept of other times, with what is new at one: [outer, times, bytes] each. */
typedef struct mlc_appending {
    int64_t outer, times;
    int64_t bytes; /* of what is kept of one time */
} mlc_appending;

/* to = kept, but for `added` [outer, bytes] at *time, which is in [0, times). `to` may be `kept`, else they lie apart. All threads call it;
 * no barrier before or after. */
void mlc_append(const mlc_env *env, const mlc_appending *shape, const void *kept, const void *added, const int32_t *time, void *to);

/* Bytes of env->scratch that attention of one time uses; that of f64 uses twice as many. With h = MLC_PITCH(head), e = MLC_PITCH(value),
 * in elements: 81 h + 65 e + 80 */
#define MLC_ATTENTION_NEXT_SCRATCH_BYTES(head, value) (4 * (81 * MLC_PITCH(head) + 65 * MLC_PITCH(value) + 80))

/* y [batch, 1, heads, value] of the query of *time, which sees the keys of times up to it: the bits that mlc_attention_forward gives that
 * query with a causal mask. shape->time is 1. All threads call it; no barrier before or after. */
void mlc_attention_next(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v, const int32_t *time,
    void *y);
void mlc_attention_next_f64(const mlc_env *env, const mlc_attention *shape, const void *q, const void *k, const void *v,
    const int32_t *time, void *y);

/* A loop that reaches what multiplies and adds are possible, for some milliseconds at most: leaves a vector in env->scratch and returns its
 * floating-point operations. Each thread is timed on its own. */
double mlc_peak(const mlc_env *env);
double mlc_peak_f64(const mlc_env *env);

/* The kernels of sweeps (mlc_abi.h), of elements [begin, end) of what lies at at[0], at[1]; of the wide dtype where nothing else is said.
 * What they find in values goes into the thread's worker: env->subject says what it is of. Those of the rank are called once, by one
 * thread, when all have met: `refusals`, `total` and `first` put together what threads have found. */
#define MLC_SWEEP_KERNELS(dtype)                                                                                                   \
    void mlc_add_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);          /* at[0] += at[1] */             \
    void mlc_copy_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);         /* at[0] = at[1] */              \
    void mlc_scale_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);        /* at[0] *= the scalar at[1] */  \
    void mlc_squares_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);      /* exact sum; a gradient */      \
    void mlc_finite_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);       /* the same without the sum */   \
    void mlc_round_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);        /* bf16 at[0] = at[1] */         \
    void mlc_inspect_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);      /* what an update left */        \
    void mlc_inspect_copy_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end); /* the same, of bf16 */         \
    void mlc_refusals_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);     /* statistics at[0] */          \
    void mlc_account_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);      /* statistics at[0] */          \
    void mlc_weigh_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);        /* scale at[0], held at[1] */   \
    void mlc_total_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);        /* squares at[0] */             \
    void mlc_norm_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end);         /* norm at[0], clip, held */    \
    void mlc_first_##dtype(const mlc_env *env, const uint64_t *at, int64_t begin, int64_t end)         /* flaw at[0] */
MLC_SWEEP_KERNELS(f32);
MLC_SWEEP_KERNELS(f64);

#ifdef __cplusplus
}
#endif

#endif
