/* hub_config.h: what the config.json beside a file of weights says of the model that they are for, compared with this model. */
#ifndef MLC_HUB_CONFIG_H
#define MLC_HUB_CONFIG_H

#include "mlc_abi.h"
#include "system/error.h"

#include <stdbool.h>

/* What the comparison asks and tells. */
typedef struct mlc_hub {
    bool (*allows)(const void *context, const char *name); /* may a difference of this name pass? */
    void (*note)(const void *context, const char *text);
    const void *context;
} mlc_hub;

/* Compares the numbers that shapes do not show or would show late: heads, theta, eps, activation, tied, sizes. Where the model has no
 * constant of a meaning, a note says so. No file: nothing. Returns a status: MLC_BAD_INPUT with all differences in one sentence. */
int mlc_hub_compare(const mlc_model *model, const char *path, mlc_hub hub, mlc_error *error);

#endif
