/* finite.h: values that are not finite, of what a rank updates: parameters, their optimizer states and bf16 copies.
 *
 * A flaw is a number, the lower the earlier: by parameter, then the parameter itself, its states in order, its copy. -1: none. */
#ifndef MLC_FINITE_H
#define MLC_FINITE_H

#include "model/rank.h"

#define MLC_FLAW_COPY (MLC_FLAWS - 1)
#define MLC_FLAW_BYTES 400 /* of its name */

static inline int64_t mlc_flaw_of(int64_t parameter, int64_t what)
{
    return parameter * MLC_FLAWS + what;
}

static inline int64_t mlc_flaw_first(int64_t a, int64_t b)
{
    return a < 0 || (b >= 0 && b < a) ? b : a;
}

/* The first flaw after another one (-1: of all) in what this rank owns of parameters that are updated. */
int64_t mlc_finite_search(const mlc_rank *rank, int64_t after);

/* "parameter w", "state momentum of parameter w", "the bf16 copy of parameter w". Returns `text`. */
char *mlc_flaw_name(char text[MLC_FLAW_BYTES], const mlc_model *model, int64_t flaw);

#endif
