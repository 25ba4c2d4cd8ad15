/* limit.h: an end to a call that waits in ways of its own: a thread that ends the process when the call has not returned in time. */
#ifndef MLC_LIMIT_H
#define MLC_LIMIT_H

#include <pthread.h>
#include <stdbool.h>

typedef struct mlc_limit {
    pthread_t handle;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool done;
    bool running;
    double seconds;
    double later;
    const char *program;
    const char *text;
} mlc_limit;

/* After `seconds` (0: never) the process says "PROGRAM: error: TEXT within SECONDS s" and ends with MLC_HANG; `later` seconds after that
 * where others may say it first. `program` NULL: it ends without a word. */
void mlc_limit_begin(mlc_limit *limit, double seconds, double later, const char *program, const char *text);

/* The call has returned. */
void mlc_limit_end(mlc_limit *limit);

#endif
