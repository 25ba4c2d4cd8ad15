/* supervisor.h: the process that forks the ranks of a program, and sees to how they end. */
#ifndef MLC_SUPERVISOR_H
#define MLC_SUPERVISOR_H

#include "launch/launcher.h"

/* Forks one process a rank and waits for all; see mlc_launch_run. In a rank it does not return. */
int mlc_supervise(mlc_launch *launch, mlc_rank_main run, void *context, mlc_error *error);

#endif
