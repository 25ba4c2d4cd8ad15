/* sweep.h: the walk over a model's sweeps (mlc_abi.h): what is done to gradients, masters, states and copies on one rank, and what the rank
 * finds in doing so. What crosses ranks is in collective.h and pass.c.
 *
 * Work is shared out in blocks of 1024 elements; a block belongs to one thread, so the bits do not depend on how many there are.
 *
 * Accumulator 0 of a use takes the microbatches of a group; finished sums that cannot join yet wait in accumulators 1, 2, ...
 * (tree.h). FOLD joins the sum of a group with its siblings and lets it wait; that of a replica's last group stays in accumulator 0.
 */
#ifndef MLC_SWEEP_H
#define MLC_SWEEP_H

#include "model/rank.h"

#define MLC_UPDATE_WORDS 1024 /* operands of the update of a parameter that is arranged, at most */

/* What runs sweeps: an action, or what stands in place of one. */
typedef struct mlc_moment {
    int at;           /* enum mlc_sweep_at */
    int chunk;        /* of FOLD, REDUCE and SEARCH: of the train chain */
    unsigned phases;  /* of uses of the chunk, as bits: 1 << enum mlc_action_kind of a use's phase */
    int group;        /* of FOLD: of the replica's, not the last */
    int parameter;    /* of SHARE */
    int use;
    int chain;        /* of STATISTICS: enum mlc_chain_kind, */
    int64_t count;    /* and microbatches of the list */
} mlc_moment;

#define MLC_ALL_PHASES (1U << MLC_FORWARD | 1U << MLC_INPUT_GRADIENT | 1U << MLC_WEIGHT_GRADIENT)

/* The phases of what a compute action adds to. A backward action is both gradients. */
unsigned mlc_moment_phases(int action_kind);

/* Called by every thread of a team with equal arguments. Runs the sweeps of a moment in their order; ends with a barrier. What threads
 * note of values (gradient.h) they note anew. With the stream of a device: called by one thread, which puts them there. */
void mlc_sweep_run(const mlc_rank *rank, const mlc_env *env, mlc_moment moment);

/* The first use of a sweep that the executor could not follow; NULL: it can follow all of them. */
const char *mlc_sweep_fault(const mlc_sweep *sweep);

#endif
