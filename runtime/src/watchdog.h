/* watchdog.h: --timeout: a thread that ends the program when the team reaches no barrier for too long. */
#ifndef MLC_WATCHDOG_H
#define MLC_WATCHDOG_H

#include "session.h"

typedef struct mlc_watchdog {
    pthread_t handle;
    pthread_mutex_t mutex;
    pthread_cond_t ended;
    bool done;
    bool running;
    double seconds;
    const mlc_session *session;
} mlc_watchdog;

/* Starts to watch; `seconds` 0: never ends anything, no thread is made. Returns a status. */
int mlc_watchdog_open(mlc_watchdog *watchdog, const mlc_session *session, double seconds, mlc_error *error);
void mlc_watchdog_close(mlc_watchdog *watchdog);

/* Writes who waits for whom, at which row. Only threads that have not reached the last barrier are waited for. */
void mlc_watchdog_report(const mlc_session *session, double seconds, int fd);

#endif
