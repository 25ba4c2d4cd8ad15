/* collective_plan.h: what collective_open.c makes when a rank opens, and collective.c runs in each step. */
#ifndef MLC_COLLECTIVE_PLAN_H
#define MLC_COLLECTIVE_PLAN_H

#include "step/collective.h"
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

/* One root of all replicas' in ascending order of groups, and with how many before it it joins. */
typedef struct mlc_root {
    int replica;
    int number; /* among the replica's */
    int merges;
} mlc_root;

/* An exchange between all replicas of a place. */
typedef struct mlc_swap {
    mlc_stream *streams; /* by replica that owns the elements */
    bool gathers;        /* the owner sends; else it receives */
    mlc_link **in;       /* by replica */
    mlc_link **out;
    uint64_t room;       /* bytes of the stream in a segment */
} mlc_swap;

struct mlc_collective {
    mlc_swap *reduces; /* by chunk */
    mlc_swap gather;
    mlc_events shares;
    mlc_events spreads;
    mlc_root *roots;
    int root_count;
    mlc_link **links;  /* behind the swaps: [reduction, parameter][in, out][replica] */
};

#endif
