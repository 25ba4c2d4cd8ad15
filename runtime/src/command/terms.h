/* terms.h: what all ranks of a run must have in common: the program, the plan and the options. Ranks that a launcher started may have been
 * given others each, so they compare them before anything depends on the model; ranks of one process have the same anyway.
 *
 *   1. does every rank speak this version?                      fold
 *   2. has one an error of its own (a wrong option)?            fold, share: it is the error of all
 *   3. the digests of rank 0's terms, in order                  share
 *   4. the first that differs somewhere, and the lowest rank    fold
 *   5. how many ranks differ in it; what that rank has          fold, share: rank 0 says it
 */
#ifndef MLC_TERMS_H
#define MLC_TERMS_H

#include "command/options.h"
#include "meeting.h"
#include "system/error.h"

#define MLC_TERMS 128
#define MLC_TERM_BYTES 240

typedef struct mlc_term {
    char name[64];
    char value[MLC_TERM_BYTES]; /* its beginning, for people */
} mlc_term;

typedef struct mlc_terms {
    int count;
    uint64_t digests[MLC_TERMS]; /* of name and whole value */
    mlc_term terms[MLC_TERMS];
} mlc_terms;

/* The terms of this process. What there is no room for is folded into the last. Never fails: what cannot be read is "unknown". */
void mlc_terms_gather(mlc_terms *terms, const mlc_model *model, const mlc_options *options);

/* One more term. */
void mlc_terms_add(mlc_terms *terms, const char *name, const char *value);

/* Compares the terms of all ranks. `error` says what went wrong in this rank before, and is every rank's afterwards; `own` is not looked
 * at where there is one, and may be NULL then. Where the ranks differ all get MLC_USAGE with the same sentence. Returns a status;
 * *common: all ranks have it, and the same error. Else the ranks could not meet. */
int mlc_terms_compare(const mlc_terms *own, mlc_meeting *meeting, bool *common, mlc_error *error);

#endif
