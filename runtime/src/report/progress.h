/* progress.h: the line of a run on stderr: on a terminal one that is written over and fits its width whatever that becomes, elsewhere
 * a plain line now and then. Never waits for who reads it. Allocates nothing. */
#ifndef MLC_PROGRESS_H
#define MLC_PROGRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct mlc_progress {
    int fd;          /* -1: nothing is ever written */
    bool terminal;   /* stderr is one that can write over a line */
    int drawn;       /* columns of the line that stands there, 0: none */
    int64_t said_at; /* clock of the last line, or of the start */
} mlc_progress;

/* What a line says. */
typedef struct mlc_progress_state {
    int64_t step, steps;
    double loss;
    double per_second; /* of `unit` */
    const char *unit;
    double seconds;    /* that the steps left will take */
} mlc_progress_state;

/* `silent`: nothing is ever written. `now`: a clock in nanoseconds. */
void mlc_progress_open(mlc_progress *progress, bool silent, int64_t now);
void mlc_progress_close(mlc_progress *progress);

/* Is it time for a line? */
bool mlc_progress_is_due(const mlc_progress *progress, const mlc_progress_state *state, int64_t now);

/* The line in fewer than `width` columns: the less important is left out first. Returns its length; 1 <= width < size. */
int mlc_progress_text(char *text, size_t size, int width, const mlc_progress_state *state);

/* Writes the line. */
void mlc_progress_show(mlc_progress *progress, const mlc_progress_state *state, int64_t now);

/* Ends the line that stands on a terminal, so that other text may follow. */
void mlc_progress_settle(mlc_progress *progress);

#endif
