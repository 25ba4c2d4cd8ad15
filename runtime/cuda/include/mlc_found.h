/* mlc_found.h: what threads of the device note in a pass, beside the arena, in the place of scratch: for the kernels that put it together, and
 * for the host, which reads it when the pass has ended. */
#ifndef MLC_FOUND_H
#define MLC_FOUND_H

#include "mlc_abi.h"

#define MLC_SQUARES 69      /* limbs of an exact sum (exact.h) */
#define MLC_REFUSALS 32
#define MLC_EDGES 64         /* directions in which a rank has messages (mlc_edge.h), at most */
#define MLC_REFUSAL_TEXT 160

/* An index that is out of range. */
typedef struct mlc_noted_refusal {
    uint64_t key;
    int64_t element;
    int64_t each;
    int32_t value;
    int32_t extent;
    char where[MLC_REFUSAL_TEXT];
} mlc_noted_refusal;

/* Numbers for which the least counts are UINT64_MAX where there is none. */
typedef struct mlc_found {
    uint64_t refused;       /* key of the first refusal */
    uint64_t bad_parameter; /* the first with a gradient that is not finite */
    uint64_t flaw;          /* the first that the update left (finite.h) */
    uint64_t squares[MLC_SQUARES]; /* sums of the limbs, whose carries have not run up */
    uint64_t come[MLC_EDGES];  /* messages of the pass that this rank has come to, of those that it sends */
    uint64_t moved[MLC_EDGES]; /* that are over */
    uint32_t refusals;      /* noted, or more */
    uint32_t reserved;
    mlc_noted_refusal noted[MLC_REFUSALS];
} mlc_found;

/* Orders refusals: by microbatch, lookup of the model, element. */
#define mlc_refusal_key(microbatch, site, element) \
    ((uint64_t)(microbatch) << 44 | (uint64_t)(uint32_t)(site) << 32 | ((uint64_t)(element) < 0xFFFFFFFFu ? (uint64_t)(element) : 0xFFFFFFFFu))

#define mlc_refusal_microbatch(key) ((int64_t)((key) >> 44))
#define mlc_refusal_site(key) ((int64_t)((key) >> 32 & 0xFFF))

#endif
