/* profile.h: where the time of a rank goes, for --profile: by kernel, over all layers that are alike and all steps; of what has no kernels
 * by row, and by part of the runtime.
 *
 * Time is that of the lead thread, from where a kernel begins to where the next one does: its barrier, and waiting for slower threads
 * there, are its own.
 */
#ifndef MLC_PROFILE_H
#define MLC_PROFILE_H

#include "model/rank.h"

#include <stdio.h>

#define MLC_PROFILE_HEAD "{\"peak_gflops\": " /* what the file begins with */

typedef struct mlc_profile mlc_profile;

/* Makes the profile of a rank, and has its kernels tell when they begin. NULL: no memory. */
mlc_profile *mlc_profile_open(mlc_rank *rank);

/* The kernels tell nothing any more. NULL is allowed. */
void mlc_profile_close(mlc_profile *profile);

/* A row, or a part of the runtime, has ended, past its barrier; where kernels began within, the time is theirs. In nanoseconds; by the
 * lead thread. */
void mlc_profile_row(mlc_profile *profile, const char *name, double flops, int64_t started, int64_t passed);

/* What the rank's threads can do together: FLOP/s of fused multiply-adds on registers. 0: not known. */
double mlc_profile_peak(const mlc_rank *rank);

/* Measures the peak of the rank's threads, and writes the table, the longest first. */
void mlc_profile_print(mlc_profile *profile, FILE *out);

/* The same as JSON, behind mlc_profile_print. Returns a status. */
int mlc_profile_write(const mlc_profile *profile, const char *path, mlc_error *error);

#endif
