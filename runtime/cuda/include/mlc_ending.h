/* mlc_ending.h: what the walk of a list puts on the stream of a rank beside rows and sweeps: copies, what a pass begins with, what
 * ranks combine. Places are offsets in the arena. */
#ifndef MLC_ENDING_H
#define MLC_ENDING_H

#include "mlc_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* From memory of the host that stays until the stream has got there. */
void mlc_ending_fetch(const mlc_env *env, uint64_t to, const void *from, uint64_t bytes);

/* Begins what a pass notes (mlc_found.h): nothing. */
void mlc_ending_begin(const mlc_env *env);

/* What all ranks combine: statistics, or squares (model/results.h). */
enum { MLC_SHARED_STATISTICS, MLC_SHARED_SQUARES };

/* Combines what another rank has with the own; addresses of the device. */
void mlc_ending_combine(const mlc_env *env, int kind, char *into, const char *from, uint64_t bytes);

/* Copies on the device; sums of f32. */
void mlc_ending_copy(const mlc_env *env, char *to, const char *from, uint64_t bytes);
void mlc_ending_add(const mlc_env *env, char *sum, const char *x, uint64_t bytes);

#ifdef __cplusplus
}
#endif

#endif
