/* advice.h: what is said to who types an option that a program does not have. */
#ifndef MLC_ADVICE_H
#define MLC_ADVICE_H

#include "mlc_abi.h"

#include <stddef.h>

#define MLC_ADVICE_BYTES 300

/* What `name` (without dashes, `length` letters) is called here, where other programs for training have it; else the option whose name
 * is so near that it is surely meant; else where all stand. One line without a full stop, cut to `bytes`. */
void mlc_advice_of_option(const mlc_model *model, const char *name, size_t length, char *text, size_t bytes);

#endif
