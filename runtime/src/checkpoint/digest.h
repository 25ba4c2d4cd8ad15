/* digest.h: one hash of all that a run computed. The definition is in mlc.h. */
#ifndef MLC_DIGEST_H
#define MLC_DIGEST_H

#include "model/rank.h"

/* Writes 64 hex digits and a 0 byte, the same on every rank. All ranks call it; each hashes what it owns, with all its threads.
 * Allocates nothing. Returns a status. */
int mlc_digest(mlc_rank *rank, char hex[65], mlc_error *error);

#endif
