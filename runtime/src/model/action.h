/* action.h: actions as plan.json, traces and messages write them. */
#ifndef MLC_ACTION_H
#define MLC_ACTION_H

#include "mlc_abi.h"

#include <stdbool.h>

#define MLC_ACTION_NAME_BYTES 80

/* Whether an action runs rows of a chunk; a rest does too. */
static inline bool mlc_action_computes(const mlc_action *action)
{
    return action->kind <= MLC_INPUT_GRADIENT_REST;
}

/* Whether an action is the second part of the one before it. */
static inline bool mlc_action_is_rest(const mlc_action *action)
{
    return action->kind >= MLC_FORWARD_REST && action->kind <= MLC_INPUT_GRADIENT_REST;
}

/* The kind of an action, whichever of its parts this is. */
static inline int mlc_action_whole(const mlc_action *action)
{
    return mlc_action_is_rest(action) ? action->kind - MLC_FORWARD_REST : action->kind;
}

/* The rows of a chunk that an action runs. */
mlc_rows mlc_action_rows(const mlc_chunk *chunk, const mlc_action *action);

/* Whether an action of a chunk has a second part, which is another action. */
bool mlc_action_is_halved(const mlc_chunk *chunk, const mlc_action *action);

/* Writes the name of an action in the lists of a place: "F 3" (microbatch 3), "F+ 3" (its rest), "F1 3" (of chunk 1, where a place has several),
 * "SEND act.train.0 3" (message 3 of that channel), "REDUCE 0 2" (chunk 0, turn 2), "GATHER 2", "SHARE 1 wte.weight" (use 1),
 * "SPREAD 3 wte.weight" (to place 3), "NORM". */
void mlc_action_name(char name[MLC_ACTION_NAME_BYTES], const mlc_model *model, int place, const mlc_action *action);

#endif
