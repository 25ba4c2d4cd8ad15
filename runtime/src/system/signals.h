/* signals.h: what signals do to a program (mlc_main). The library leaves the signals of its process alone. */
#ifndef MLC_SIGNALS_H
#define MLC_SIGNALS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

/* From here on a write that cannot be done fails, and no signal ends the program: SIGPIPE and SIGXFSZ are ignored. */
void mlc_signals_open(void);

/* While there is something to save: SIGTERM, SIGINT, SIGHUP and SIGUSR1 ask for a stop at the end of the step. A second SIGINT ends
 * the process at once; what comes within a blink of the first is the same one, which a terminal, timeout(1) or a launcher sent both
 * to a process and to its group. SIGINT and SIGHUP stay ignored where the program was started so (nohup, a job in the background). */
void mlc_signals_hold(void);

/* In a rank whose supervisor passes signals on: that one counts SIGINTs, and kills this process at the second. A terminal sends the
 * first to both, and however late it is passed on it is no second one. */
void mlc_signals_follow(void);

/* There is nothing to save any more: they do what they did before, and end the program. Any thread, more than once. */
void mlc_signals_release(void);

/* As before mlc_signals_open. */
void mlc_signals_close(void);

/* Which came while they were held: bit 0, stop; bit n, signal n. */
const _Atomic uint64_t *mlc_signals_seen(void);

/* The first of those that stop a run in such a mask; 0: none. */
int mlc_signals_first(uint64_t seen);

/* The signals that a process between a user and the ranks passes on: those above that are not ignored. */
void mlc_signals_add_stops(sigset_t *set);

/* Seconds within which two SIGINT are one. */
#define MLC_BLINK 0.25

#endif
