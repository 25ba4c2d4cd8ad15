/* collective_plan.h: what collective_open.c makes when a rank opens, and collective.c runs in each step. */
#ifndef MLC_COLLECTIVE_PLAN_H
#define MLC_COLLECTIVE_PLAN_H

#include "step/collective.h"
#include "step/halving.h"
#include "step/stream.h"

/* What two ranks exchange; or what one does with the sums of its guest. */
typedef struct mlc_exchanged {
    int turn; /* of halving or doubling */
    const mlc_joining *joining; /* of REDUCE: how sums join; NULL: another action's */
    mlc_link *out;              /* NULL: nothing goes */
    mlc_link *in;               /* NULL: nothing comes */
    mlc_stream sent;
    mlc_stream kept;            /* what arrives */
} mlc_exchanged;

/* What happens to one parameter in a SHARE or SPREAD: something goes or comes, or a use stays that lies on the owner's place. */
typedef struct mlc_event {
    uint64_t action; /* its number in the train list */
    mlc_exchanged one; /* either way */
    bool stays;
} mlc_event;

/* In the order of the list. */
typedef struct mlc_events {
    mlc_event *items;
    int count;
    int capacity;
} mlc_events;

/* The exchanges of a rank turn by turn, each in their order. */
typedef struct mlc_exchanges {
    mlc_exchanged *items;
    int count;
    int capacity;
    uint64_t room;    /* bytes of a stream in a segment */
    uint64_t *guests; /* of REDUCE: addresses of the guest's sums, by use, then level */
} mlc_exchanges;

struct mlc_collective {
    mlc_halving halving;
    mlc_exchanges *reduces; /* by chunk */
    mlc_exchanges gather;
    mlc_events events;
};

#endif
