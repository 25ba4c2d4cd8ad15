/* collective_plan.h: what collective_open.c makes when a rank opens, and collective.c runs in each step. */
#ifndef MLC_COLLECTIVE_PLAN_H
#define MLC_COLLECTIVE_PLAN_H

#include "step/collective.h"
#include "step/halving.h"
#include "step/stream.h"

/* Something that happens to one parameter in SHARE or in the first half of SPREAD. */
enum mlc_event_kind { MLC_EVENT_JOIN, MLC_EVENT_SEND, MLC_EVENT_RECEIVE };

typedef struct mlc_event {
    enum mlc_event_kind kind;
    int use;                /* MLC_EVENT_JOIN: in chain order */
    const uint64_t *levels; /* MLC_EVENT_JOIN: accumulators of the use; `stream` is that of use 0 */
    mlc_link *link;
    mlc_stream stream;
} mlc_event;

typedef struct mlc_events {
    mlc_event *items;
    int count;
    int capacity;
} mlc_events;

/* What two replicas exchange in a turn; or what one does with the sums of its guest. */
typedef struct mlc_exchanged {
    const mlc_joining *joining; /* of REDUCE: how sums join; NULL: values */
    mlc_link *out;              /* NULL: nothing goes */
    mlc_link *in;               /* NULL: nothing comes */
    mlc_stream sent;
    mlc_stream kept;            /* what arrives */
} mlc_exchanged;

/* The exchanges of a rank in their order. */
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
    mlc_events shares;
    mlc_events spreads;
};

#endif
