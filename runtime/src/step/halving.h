/* halving.h: which sums of groups a replica has in each turn of REDUCE, and how those that arrive join them (mlc_mesh.h, tree.h).
 *
 * A point of the cohort of replicas has the roots of the groups of an aligned run of replicas: one where a replica has a power of two of
 * groups, else some. In a turn its run and that of its partner become one; roots that are siblings join:
 *
 *   G = 6, 2 replicas   point 0 has (01) (2)   point 1 has (3) (45)   together (0123) joined with (45)
 *
 * Roots lie in levels: accumulators of a use, or of a guest, the buffers that it has there. Pure arithmetic, no data.
 */
#ifndef MLC_HALVING_H
#define MLC_HALVING_H

#include "mlc_abi.h"
#include "model/tree.h"
#include "system/error.h"

/* One thing done to the elements of a part: level `to` gets, or has added to it, what lies in level `from`, or arrived as number `from`. */
typedef struct mlc_join {
    bool arrived;
    bool adds;
    int from;
    int to;
} mlc_join;

#define MLC_MOST_JOINS (2 * MLC_TREE_DEPTH)

/* A turn of a point. */
typedef struct mlc_joining {
    int turn;
    int point;
    int partner;   /* point */
    bool sends;    /* it has something for its partner */
    bool receives; /* the partner has something for it */
    int sent_count;
    int sent[MLC_TREE_DEPTH]; /* levels of the roots that go */
    int join_count;
    mlc_join joins[MLC_MOST_JOINS];
} mlc_joining;

/* The turns of a replica, and of its guest: in the order in which they come. Those in which nothing moves are left out. */
typedef struct mlc_halving {
    mlc_joining *items;
    int count;
    int most_roots; /* of any replica in any turn */
} mlc_halving;

/* levels: accumulators of a use. Returns a status. */
int mlc_halving_open(mlc_halving *halving, const mlc_model *model, int replica, int levels, mlc_error *error);
void mlc_halving_close(mlc_halving *halving);

#endif
