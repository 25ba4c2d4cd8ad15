/* mlc_ending.h: what ends a step, as sweeps over f32 values on the stream of a rank: sums of gradients, their norm, what goes with an
 * update, statistics. Places are offsets in the arena. Each element is made by one thread from the numbers that a CPU makes it from. */
#ifndef MLC_ENDING_H
#define MLC_ENDING_H

#include "mlc_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From memory of the host that stays until the stream has got there; from one place to another. */
void mlc_ending_fetch(const mlc_env *env, uint64_t to, const void *from, uint64_t bytes);
void mlc_ending_copy(const mlc_env *env, uint64_t to, uint64_t from, int64_t count);

/* Begins the results of a pass: nothing found, nothing summed. `statistics` clear ones, of the host. */
void mlc_ending_begin(const mlc_env *env, const void *statistics, uint64_t bytes);

/* sum += x. */
void mlc_ending_add(const mlc_env *env, uint64_t sum, uint64_t x, int64_t count);

/* x *= factor, or the record's `scale` where factor is 0; then its squares into the exact sum (where `counts`), and the parameter into
 * `bad_parameter` where one is not finite. x begins at a block of 1024 of the parameter. */
void mlc_ending_finish(const mlc_env *env, uint64_t x, int64_t count, float factor, int parameter, int counts);

/* The norm of what was summed and the record's `clip`; holds the step where a gradient is not finite. clip: the greatest norm, 0: any. */
void mlc_ending_norm(const mlc_env *env, double clip);

/* Unless the step is held: x *= the record's `clip`; to = from; to = bf16 of from; the flaw noted where x is not finite, that of the copy
 * (UINT64_MAX: it has none) where only its bf16 is not. */
void mlc_ending_clip(const mlc_env *env, uint64_t x, int64_t count);
void mlc_ending_settle(const mlc_env *env, uint64_t to, uint64_t from, int64_t count);
void mlc_ending_round(const mlc_env *env, uint64_t to, uint64_t from, int64_t count);
void mlc_ending_check(const mlc_env *env, uint64_t x, int64_t count, uint64_t flaw, uint64_t flaw_of_copy);

#define MLC_TERMS 64

/* What microbatches left in a column, with the places of its numbers and weights (MLC_NONE: 1). */
typedef struct mlc_terms {
    int32_t count;
    int32_t column;
    int32_t losses; /* columns that are parts of the loss */
    int32_t reserved;
    double share;
    uint64_t number[MLC_TERMS]; /* of the microbatch: the place of an int64 */
    uint64_t value[MLC_TERMS];
    uint64_t weight[MLC_TERMS];
} mlc_terms;

/* Accounts for them. */
void mlc_ending_account(const mlc_env *env, const mlc_terms *terms);

/* The record's `scale`, 1 / the sum of weights, and `held`. trains: a sum of weights that has no inverse holds too. */
void mlc_ending_weigh(const mlc_env *env, int trains);

#ifdef __cplusplus
}
#endif

#endif
