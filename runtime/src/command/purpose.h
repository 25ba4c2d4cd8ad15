/* purpose.h: what the options of a program want of one another. An option that would be parsed and then ignored is an error. */
#ifndef MLC_PURPOSE_H
#define MLC_PURPOSE_H

#include "command/options.h"

/* Checks options that were read. Returns a status: MLC_USAGE with what to add or to leave out. */
int mlc_purpose_check(const mlc_options *options, const mlc_model *model, mlc_error *error);

#endif
