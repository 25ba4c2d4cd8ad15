/* outputs.h: what a run writes beside checkpoints: standard output, --log, --trace and --profile-json. None of it may cost what is there already. */
#ifndef MLC_OUTPUTS_H
#define MLC_OUTPUTS_H

#include "command/options.h"
#include "data/data.h"

/* Descriptors 0 to 2 that were closed at the start become ones that cannot be used, so that no file of the run gets their number and
 * what is printed. */
void mlc_outputs_guard(void);

/* Refuses an output that is also a file that the run reads (by whatever name: a link too), a part of the checkpoint directory, or
 * another output. Opens nothing. Returns a status: MLC_USAGE. */
int mlc_outputs_check(const mlc_options *options, const mlc_data *data, const mlc_data *evaluation, mlc_error *error);

/* Makes room for an output that begins with `head`. A file that is there and does too is an earlier one: `kept` leaves it, else it is
 * renamed to PATH.1, or the first number that is free, which is said on standard error. Any other file that is not empty is refused.
 * Returns a status: MLC_USAGE when refused. */
int mlc_output_clear(const char *path, const char *head, bool kept, mlc_error *error);

#endif
