/* launch.h: a rank whose rows are launched on a GPU: the environment that its rows are called with. */
#ifndef MLC_LAUNCH_H
#define MLC_LAUNCH_H

#include "model/rank.h"

/* Of no microbatch, path or group yet; its addresses are the device's. */
mlc_env mlc_launch_env(const mlc_rank *rank);

/* Takes the host's record over to the device, behind what lies on the stream. */
void mlc_launch_record(const mlc_rank *rank, const mlc_env *env);

#endif
