/* limit.c: see limit.h. */
#include "system/limit.h"

#include "mlc.h"
#include "system/threads.h"
#include "system/voice.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

#define LONGEST 1e9 /* seconds, which every clock holds: thirty years */

static void *wait_for_end(void *argument)
{
    mlc_limit *limit = argument;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    double seconds = limit->seconds < LONGEST ? limit->seconds + limit->later : LONGEST;
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_mutex_lock(&limit->mutex);
    while (!limit->done && pthread_cond_timedwait(&limit->ended, &limit->mutex, &until) != ETIMEDOUT)
        ;
    bool done = limit->done;
    pthread_mutex_unlock(&limit->mutex);
    if (done)
        return NULL;
    if (limit->program)
        mlc_say("%s: error: %s within %g s\n", limit->program, limit->text, limit->seconds);
    _exit(MLC_HANG);
}

void mlc_limit_begin(mlc_limit *limit, double seconds, double later, const char *program, const char *text)
{
    *limit = (mlc_limit){.seconds = seconds, .later = later, .program = program, .text = text};
    if (seconds <= 0)
        return;
    pthread_mutex_init(&limit->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&limit->ended, &monotonic);
    pthread_condattr_destroy(&monotonic);
    limit->running = !mlc_thread_start(&limit->handle, wait_for_end, limit, true);
}

void mlc_limit_end(mlc_limit *limit)
{
    if (!limit->running)
        return;
    pthread_mutex_lock(&limit->mutex);
    limit->done = true;
    pthread_cond_signal(&limit->ended);
    pthread_mutex_unlock(&limit->mutex);
    pthread_join(limit->handle, NULL);
    limit->running = false;
}
