/* signals.c: see signals.h. */
#include "system/signals.h"

#include <stddef.h>
#include <time.h>

typedef struct stop {
    int signal;
    bool may_be_ignored; /* stays so if it is at the start */
} stop;

static const stop STOPS[] = {{SIGTERM, false}, {SIGINT, true}, {SIGHUP, true}, {SIGUSR1, false}};
static const int WRITES[] = {SIGPIPE, SIGXFSZ};

enum { STOP_COUNT = sizeof STOPS / sizeof *STOPS, WRITE_COUNT = sizeof WRITES / sizeof *WRITES };

/* What a handler can reach must be global, and signals belong to the process anyway. Any thread may take one while others look. */
static _Atomic uint64_t seen;
static _Atomic int64_t interrupted; /* when the first SIGINT came, in nanoseconds */
static volatile sig_atomic_t follows; /* another process counts SIGINTs */
static struct sigaction stops_before[STOP_COUNT], writes_before[WRITE_COUNT];

static int64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void take(int signal)
{
    int64_t now = nanoseconds();
    bool again = signal == SIGINT && seen >> SIGINT & 1;
    if (again && !follows && (double)(now - interrupted) > MLC_BLINK * 1e9) {
        struct sigaction standard = {.sa_handler = SIG_DFL};
        sigaction(SIGINT, &standard, NULL);
        raise(SIGINT); /* comes when this returns */
    }
    if (signal == SIGINT && !again)
        interrupted = now;
    seen |= 1 | UINT64_C(1) << signal;
}

static bool stays_ignored(int i)
{
    return STOPS[i].may_be_ignored && stops_before[i].sa_handler == SIG_IGN;
}

void mlc_signals_open(void)
{
    struct sigaction ignore = {.sa_handler = SIG_IGN};
    seen = follows = 0;
    for (int i = 0; i < WRITE_COUNT; i++)
        sigaction(WRITES[i], &ignore, &writes_before[i]);
    for (int i = 0; i < STOP_COUNT; i++)
        sigaction(STOPS[i].signal, NULL, &stops_before[i]);
}

void mlc_signals_hold(void)
{
    struct sigaction action = {.sa_handler = take, .sa_flags = SA_RESTART};
    for (int i = 0; i < STOP_COUNT; i++)
        if (!stays_ignored(i))
            sigaction(STOPS[i].signal, &action, NULL);
}

void mlc_signals_follow(void)
{
    follows = 1;
}

void mlc_signals_release(void)
{
    for (int i = 0; i < STOP_COUNT; i++)
        sigaction(STOPS[i].signal, &stops_before[i], NULL);
}

void mlc_signals_close(void)
{
    mlc_signals_release();
    for (int i = 0; i < WRITE_COUNT; i++)
        sigaction(WRITES[i], &writes_before[i], NULL);
}

const _Atomic uint64_t *mlc_signals_seen(void)
{
    return &seen;
}

int mlc_signals_first(uint64_t mask)
{
    for (int i = 0; i < STOP_COUNT; i++)
        if (mask >> STOPS[i].signal & 1)
            return STOPS[i].signal;
    return 0;
}

void mlc_signals_add_stops(sigset_t *set)
{
    for (int i = 0; i < STOP_COUNT; i++)
        if (!stays_ignored(i))
            sigaddset(set, STOPS[i].signal);
}
