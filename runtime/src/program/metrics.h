/* metrics.h: what a run says while it trains: JSON lines in a file, a progress line on a terminal. Rank 0 says it, the others are
 * silent. Allocates nothing. */
#ifndef MLC_METRICS_H
#define MLC_METRICS_H

#include "model/rank.h"
#include "report/progress.h"
#include "step/evaluate.h"
#include "system/file.h"

typedef struct mlc_metrics {
    mlc_writer log;     /* fd -1: none */
    mlc_error error;    /* of the log */
    int64_t whole;      /* bytes of whole lines; -1: it is no regular file */
    mlc_progress progress;
    double step_seconds; /* smoothed */
} mlc_metrics;

/* `log` NULL: no file. A run that is resumed appends; if it trains, the lines of rank->step and later are cut, for it writes them again.
 * At step 0 the log starts anew, and an earlier one is renamed (mlc_output_clear). A log that a
 * live run writes is refused to another that trains. Returns a status. */
int mlc_metrics_open(mlc_metrics *metrics, const mlc_rank *rank, const char *log, bool trains, mlc_error *error);

/* A step was done: rank->result is its result, rank->step counts it. Returns a status; after a failure there is no log any more, and
 * no second failure. */
int mlc_metrics_step(mlc_metrics *metrics, const mlc_rank *rank, int64_t nanoseconds, mlc_error *error);

/* An evaluation was done. Returns a status. */
int mlc_metrics_evaluation(mlc_metrics *metrics, const mlc_rank *rank, const mlc_evaluation *evaluation, mlc_error *error);

/* Ends the progress line, so that other text may follow. */
void mlc_metrics_settle(mlc_metrics *metrics);

/* Closes the log. Returns a status. */
int mlc_metrics_close(mlc_metrics *metrics, mlc_error *error);

#endif
