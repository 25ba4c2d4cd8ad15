/* watchdog.c: see watchdog.h. */
#include "watchdog.h"

#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static unsigned long long barriers_of(const mlc_session *session, int thread)
{
    return atomic_load_explicit(&session->team->workers[thread].barriers, memory_order_relaxed);
}

static unsigned long long progress(const mlc_session *session)
{
    unsigned long long sum = 0;
    for (int i = 0; i < session->team->threads; i++)
        sum += barriers_of(session, i);
    return sum;
}

void mlc_watchdog_report(const mlc_session *session, double seconds, int fd)
{
    unsigned long long most = 0;
    for (int i = 0; i < session->team->threads; i++)
        most = barriers_of(session, i) > most ? barriers_of(session, i) : most;
    dprintf(fd, "%s: error: no progress for %g s after step %lld\n", session->model->name, seconds, (long long)session->step);
    for (int i = 0; i < session->team->threads; i++) {
        const char *row = atomic_load_explicit(&session->team->workers[i].row, memory_order_relaxed);
        bool waits = barriers_of(session, i) == most && session->team->threads > 1;
        dprintf(fd, "  thread %d %s %s\n", i, waits ? "waits for the others at a barrier of" : "has not finished", row);
    }
}

/* Sleeps up to a tenth of the limit; true when the program is done. */
static bool rest(mlc_watchdog *watchdog)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    int64_t wait = (int64_t)(watchdog->seconds * 1e8) + 1000000;
    until.tv_sec += (until.tv_nsec + wait) / 1000000000;
    until.tv_nsec = (until.tv_nsec + wait) % 1000000000;
    pthread_mutex_lock(&watchdog->mutex);
    while (!watchdog->done && pthread_cond_timedwait(&watchdog->ended, &watchdog->mutex, &until) != ETIMEDOUT)
        ;
    bool done = watchdog->done;
    pthread_mutex_unlock(&watchdog->mutex);
    return done;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *watch(void *argument)
{
    mlc_watchdog *watchdog = argument;
    unsigned long long seen = 0;
    double moved = now();
    while (!rest(watchdog)) {
        unsigned long long reached = progress(watchdog->session);
        if (reached != seen || !atomic_load(&watchdog->session->team->running))
            moved = now();
        seen = reached;
        if (now() - moved < watchdog->seconds)
            continue;
        mlc_watchdog_report(watchdog->session, watchdog->seconds, STDERR_FILENO);
        _exit(MLC_HANG);
    }
    return NULL;
}

int mlc_watchdog_open(mlc_watchdog *watchdog, const mlc_session *session, double seconds, mlc_error *error)
{
    *watchdog = (mlc_watchdog){.session = session, .seconds = seconds};
    if (seconds == 0)
        return MLC_OK;
    pthread_mutex_init(&watchdog->mutex, NULL);
    pthread_cond_init(&watchdog->ended, NULL);
    if (pthread_create(&watchdog->handle, NULL, watch, watchdog))
        return mlc_error_set(error, MLC_FAILED, "--timeout: cannot start a thread");
    watchdog->running = true;
    return MLC_OK;
}

void mlc_watchdog_close(mlc_watchdog *watchdog)
{
    if (!watchdog->running)
        return;
    pthread_mutex_lock(&watchdog->mutex);
    watchdog->done = true;
    pthread_cond_signal(&watchdog->ended);
    pthread_mutex_unlock(&watchdog->mutex);
    pthread_join(watchdog->handle, NULL);
    watchdog->running = false;
}
