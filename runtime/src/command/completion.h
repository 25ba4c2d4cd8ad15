/* completion.h: scripts that complete a program's options in a shell. */
#ifndef MLC_COMPLETION_H
#define MLC_COMPLETION_H

#include "command/options.h"

/* Writes the script for bash, zsh or fish: option names, choices, files and directories. */
void mlc_completion_print(const mlc_model *model, const char *shell, FILE *out);

#endif
