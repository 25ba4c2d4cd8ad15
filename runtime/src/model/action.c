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
    [MLC_RECEIVE] = {"RECEIVE", TRANSFER},
    [MLC_FREE] = {"FREE", TRANSFER},
    [MLC_SEND] = {"SEND", TRANSFER},
    [MLC_SENT] = {"SENT", TRANSFER},
    [MLC_STATISTICS] = {"STATISTICS", PLAIN},
    [MLC_REDUCE] = {"REDUCE", CHUNK},
    [MLC_SHARE] = {"SHARE", PARAMETER},
    [MLC_NORM] = {"NORM", PLAIN},
    [MLC_UPDATE] = {"UPDATE", PLAIN},
    [MLC_SPREAD] = {"SPREAD", PARAMETER},
    [MLC_GATHER] = {"GATHER", TURN},
    [MLC_VERDICT] = {"VERDICT", PLAIN},
};

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
