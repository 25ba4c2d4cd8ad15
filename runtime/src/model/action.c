/* action.c: see action.h. */
#include "model/action.h"

#include <stdio.h>

enum form { COMPUTE, TRANSFER, CHUNK, TURN, PARAMETER, PLAIN };

static const struct {
    const char *name;
    enum form form;
} KINDS[] = {
    [MLC_FORWARD] = {"F", COMPUTE},
    [MLC_BACKWARD] = {"B", COMPUTE},
    [MLC_INPUT_GRADIENT] = {"I", COMPUTE},
    [MLC_WEIGHT_GRADIENT] = {"W", COMPUTE},
    [MLC_FORWARD_REST] = {"F+", COMPUTE},
    [MLC_BACKWARD_REST] = {"B+", COMPUTE},
    [MLC_INPUT_GRADIENT_REST] = {"I+", COMPUTE},
    [MLC_RECEIVE] = {"RECEIVE", TRANSFER},
    [MLC_FREE] = {"FREE", TRANSFER},
    [MLC_SEND] = {"SEND", TRANSFER},
    [MLC_SENT] = {"SENT", TRANSFER},
    [MLC_FOLDF] = {"FOLDF", COMPUTE},
    [MLC_FOLDI] = {"FOLDI", COMPUTE},
    [MLC_FOLDW] = {"FOLDW", COMPUTE},
    [MLC_STATISTICS] = {"STATISTICS", PLAIN},
    [MLC_REDUCE] = {"REDUCE", CHUNK},
    [MLC_SHARE] = {"SHARE", PARAMETER},
    [MLC_NORM] = {"NORM", PLAIN},
    [MLC_UPDATE] = {"UPDATE", PLAIN},
    [MLC_SPREAD] = {"SPREAD", PARAMETER},
    [MLC_GATHER] = {"GATHER", TURN},
    [MLC_VERDICT] = {"VERDICT", PLAIN},
};

_Static_assert(MLC_BACKWARD_REST - MLC_FORWARD_REST == MLC_BACKWARD && MLC_INPUT_GRADIENT_REST - MLC_FORWARD_REST == MLC_INPUT_GRADIENT,
               "rests are in the order of what they are rests of");

static const mlc_rows *whole_rows(const mlc_chunk *chunk, const mlc_action *action)
{
    const mlc_rows *const rows[] = {[MLC_FORWARD] = &chunk->forward, [MLC_BACKWARD] = &chunk->backward,
                                    [MLC_INPUT_GRADIENT] = &chunk->input_gradient, [MLC_WEIGHT_GRADIENT] = &chunk->weight_gradient};
    return rows[mlc_action_whole(action)];
}

mlc_rows mlc_action_rows(const mlc_chunk *chunk, const mlc_action *action)
{
    mlc_rows rows = *whole_rows(chunk, action);
    if (mlc_action_is_rest(action))
        return (mlc_rows){rows.rows + rows.head, rows.count - rows.head, 0};
    return (mlc_rows){rows.rows, rows.head ? rows.head : rows.count, 0};
}

bool mlc_action_is_halved(const mlc_chunk *chunk, const mlc_action *action)
{
    return !mlc_action_is_rest(action) && whole_rows(chunk, action)->head > 0;
}

void mlc_action_name(char name[MLC_ACTION_NAME_BYTES], const mlc_model *model, int place, const mlc_action *action)
{
    const char *kind = KINDS[action->kind].name;
    int number = (int)action->microbatch;
    switch (KINDS[action->kind].form) {
    case COMPUTE:
        if (model->roles[place].chunk_count > 1)
            snprintf(name, MLC_ACTION_NAME_BYTES, "%s%d %d", kind, action->of, number);
        else
            snprintf(name, MLC_ACTION_NAME_BYTES, "%s %d", kind, number);
        break;
    case TRANSFER:
        snprintf(name, MLC_ACTION_NAME_BYTES, "%s %s %d", kind, model->schedule->channels[action->of].name, number);
        break;
    case CHUNK:
        snprintf(name, MLC_ACTION_NAME_BYTES, "%s %d %d", kind, action->of, number);
        break;
    case TURN:
        snprintf(name, MLC_ACTION_NAME_BYTES, "%s %d", kind, number);
        break;
    case PARAMETER:
        snprintf(name, MLC_ACTION_NAME_BYTES, "%s %d %s", kind, action->of, model->parameters[number].name);
        break;
    case PLAIN:
        snprintf(name, MLC_ACTION_NAME_BYTES, "%s", kind);
        break;
    }
}
