/* action.h: actions as plan.json, traces and messages write them. */
#ifndef MLC_ACTION_H
#define MLC_ACTION_H

#include "mlc_abi.h"

#define MLC_ACTION_NAME_BYTES 80

/* Writes the name of an action in the lists of a place: "F 3" (microbatch 3), "F1 3" (of chunk 1, where a place has several),
 * "SEND act.train.0 3" (message 3 of that channel), "REDUCE 0 2" (chunk 0, turn 2), "GATHER 2", "SHARE 1 wte.weight" (use 1),
 * "SPREAD 3 wte.weight" (to place 3), "NORM". */
void mlc_action_name(char name[MLC_ACTION_NAME_BYTES], const mlc_model *model, int place, const mlc_action *action);

#endif
