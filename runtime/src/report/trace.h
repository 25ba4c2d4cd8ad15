/* trace.h: times of actions and rows, for --trace (Chrome trace events); rows are told to the profile too (profile.h).
 *
 * All ranks write one file, on the clock of rank 0: a JSON array of complete events, one a line.
 *   pid   the rank, named "rank 3: place 1, replica 1"
 *   tid   the thread; thread 0 leads: its rows lie inside the actions of the list, named as in plan.json
 * A rank appends whole lines at once. Clocks of one machine are one clock; those of others are placed by a few exchanges, to about
 * the time of a message. The file must lie where all ranks see it. That of a run that fails lacks the closing bracket.
 */
#ifndef MLC_TRACE_H
#define MLC_TRACE_H

#include "report/profile.h"

#include <stdio.h>

typedef struct mlc_trace mlc_trace;

/* Makes the trace of a rank; every rank calls it. `path` NULL: no file; `profile`: the first rank has one. An earlier trace at `path` is renamed
 * (mlc_output_clear). Buffers for one step are made here.
 * Returns NULL on failure, with the error set on all ranks, and where a rank has nothing to record. */
mlc_trace *mlc_trace_open(mlc_rank *rank, const char *path, bool profile, mlc_error *error);

/* Writes what is left; then, when every rank has, ends the file. Every rank calls it. Returns the common status. */
int mlc_trace_finish(mlc_trace *trace, mlc_rank *rank, mlc_error *error);

/* Frees it, and the file as it stands. NULL is allowed. */
void mlc_trace_close(mlc_trace *trace);

/* One call of a row by the thread of `env`: started, done, and past the barrier, in nanoseconds. Called by every thread. */
void mlc_trace_row(mlc_trace *trace, const mlc_env *env, const char *name, double flops, int64_t started, int64_t done, int64_t passed);

/* One action of the list, in nanoseconds. Called by the lead thread. */
void mlc_trace_action(mlc_trace *trace, const mlc_env *env, const mlc_action *action, int64_t started, int64_t done);

/* Writes out what was gathered since the last call. Called between steps. Returns a status: a file that cannot be written is said once,
 * and nothing is written to it any more. */
int mlc_trace_flush(mlc_trace *trace, mlc_error *error);

/* Could it not be written here? `trace` may be NULL. */
bool mlc_trace_failed(const mlc_trace *trace);

/* What it was opened with `profile` for; NULL: it was not, or the rank is not the first. `trace` may be NULL. */
mlc_profile *mlc_trace_profile(const mlc_trace *trace);

/* Nanoseconds of a clock that never goes back. */
int64_t mlc_clock(void);

#endif
