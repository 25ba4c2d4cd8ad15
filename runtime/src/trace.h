/* trace.h: times of rows, for --trace (Chrome trace events) and --profile (a table by row name). */
#ifndef MLC_TRACE_H
#define MLC_TRACE_H

#include "session.h"

#include <stdio.h>

typedef struct mlc_trace mlc_trace;

/* Makes a trace of a session. `path` NULL: no file; `profile`: keep totals. Buffers for one step are made here.
 * Returns NULL on failure, with the error set. */
mlc_trace *mlc_trace_open(const mlc_session *session, const char *path, bool profile, mlc_error *error);

/* Ends the file. Returns a status. */
int mlc_trace_close(mlc_trace *trace, mlc_error *error);

/* One call of a row by the thread of `env`: started, done, and past the barrier, in nanoseconds. Called by every thread. */
void mlc_trace_row(mlc_trace *trace, const mlc_env *env, const char *name, double flops, int64_t started, int64_t done, int64_t passed);

/* Writes out what was gathered since the last call. Called between steps. Returns a status. */
int mlc_trace_flush(mlc_trace *trace, mlc_error *error);

/* Writes the table of totals of thread 0, the longest first. The trace was opened with `profile`, and records no more. */
void mlc_trace_print_profile(mlc_trace *trace, FILE *out);

/* Nanoseconds of a clock that never goes back. */
int64_t mlc_clock(void);

#endif
