/* mlc_results.h: what a pass leaves on the device for the host, beside the arena: read when it has ended. */
#ifndef MLC_RESULTS_H
#define MLC_RESULTS_H

#include "mlc_abi.h"

#define MLC_SQUARES 69      /* limbs of an exact sum (exact.h) */
#define MLC_REFUSALS 32
#define MLC_EDGES 64         /* directions in which a rank has messages (mlc_edge.h), at most */
#define MLC_REFUSAL_TEXT 160
#define MLC_TALLIES_BYTES 65536 /* statistics of a chain (statistics.h) */

/* An index that is out of range. */
typedef struct mlc_noted_refusal {
    uint64_t key;
    int64_t element;
    int64_t each;
    int32_t value;
    int32_t extent;
    char where[MLC_REFUSAL_TEXT];
} mlc_noted_refusal;

/* A unit of NORM: an exact sum (exact.h), and the first parameter with a gradient that is not finite, or UINT64_MAX. */
typedef struct mlc_shared_squares {
    uint32_t limbs[MLC_SQUARES];
    uint32_t reserved;
    uint64_t bad;
} mlc_shared_squares;

/* Numbers for which the least counts are UINT64_MAX where there is none. */
typedef struct mlc_results {
    uint64_t refused;       /* key of the first refusal */
    uint64_t bad_parameter; /* the first with a gradient that is not finite */
    uint64_t flaw;          /* the first that the update left (finite.h) */
    double norm;
    double clip;
    double weight;
    uint64_t squares[MLC_SQUARES]; /* sums of the limbs, whose carries have not run up */
    uint64_t shared[36];    /* what NORM shares with other ranks: mlc_shared_squares */
    uint64_t come[MLC_EDGES];  /* messages of the pass that this rank has come to, of those that it sends */
    uint64_t moved[MLC_EDGES]; /* that are over */
    uint32_t refusals;      /* noted, or more */
    uint32_t reserved;
    mlc_noted_refusal noted[MLC_REFUSALS];
    uint64_t statistics[MLC_TALLIES_BYTES / 8]; /* mlc_statistic */
} mlc_results;

/* Orders refusals: by microbatch, lookup of the model, element. */
#define mlc_refusal_key(microbatch, site, element) \
    ((uint64_t)(microbatch) << 44 | (uint64_t)(uint32_t)(site) << 32 | ((uint64_t)(element) < 0xFFFFFFFFu ? (uint64_t)(element) : 0xFFFFFFFFu))

#define mlc_refusal_microbatch(key) ((int64_t)((key) >> 44))
#define mlc_refusal_site(key) ((int64_t)((key) >> 32 & 0xFFF))

#endif
