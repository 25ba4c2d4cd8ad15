/* mlc_ending.h: what the walk of a list puts on the stream of a rank beside rows and sweeps: copies, what a pass begins with, the norm,
 * statistics. Places are offsets in the arena. */
#ifndef MLC_ENDING_H
#define MLC_ENDING_H

#include "mlc_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From memory of the host that stays until the stream has got there. */
void mlc_ending_fetch(const mlc_env *env, uint64_t to, const void *from, uint64_t bytes);

/* Begins the results of a pass: nothing found, nothing summed. `statistics` clear ones, of the host. */
void mlc_ending_begin(const mlc_env *env, const void *statistics, uint64_t bytes);

/* What all ranks combine: statistics, or squares. */
enum { MLC_SHARED_STATISTICS, MLC_SHARED_SQUARES, MLC_SHARED_KINDS };

/* Makes ready what all ranks combine; addresses of the device. */
char *mlc_ending_share(const mlc_env *env, int kind);

/* Combines units of what another rank has with the own. */
void mlc_ending_combine(const mlc_env *env, int kind, char *into, const char *from, uint64_t bytes);

/* Copies on the device; sums of f32. */
void mlc_ending_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes);
void mlc_ending_add(const mlc_env *env, char *sum, const char *x, uint64_t bytes);

/* The norm of what was shared and the record's `clip`; holds the step where a gradient is not finite. clip: the greatest norm, 0: any. */
void mlc_ending_norm(const mlc_env *env, double clip);

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
