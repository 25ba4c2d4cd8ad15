/* about.h: what a program is: --version. */
#ifndef MLC_ABOUT_H
#define MLC_ABOUT_H

#include "mlc_abi.h"

#include <stdbool.h>
#include <stdio.h>

/* Is the first input tokens, so that work is counted in tokens? Else it is counted in records. */
bool mlc_counts_tokens(const mlc_model *model);

/* "tokens" or "records": what mlc_model.tokens counts. */
const char *mlc_unit(const mlc_model *model);

/* Writes compiler, model, layout and target, one a line. */
void mlc_about_print(const mlc_model *model, FILE *out);

#endif
