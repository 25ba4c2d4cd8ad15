/* executor.h: the walk over a place's action lists. Every thread of the team walks the same list and runs the same rows; the lead
 * thread alone moves messages. */
#ifndef MLC_EXECUTOR_H
#define MLC_EXECUTOR_H

#include "model/rank.h"

/* Is this model one that the executor can walk, in what all ranks share (mesh, groups, dtypes, channels, owners)? Catches tables that would
 * make it crash; that the lists are right is the compiler's proof. Returns a status. */
int mlc_executor_check_model(const mlc_model *model, mlc_error *error);

/* The same of what a place has (levels, regions, rows, lists): each rank looks at its own. */
int mlc_executor_check_place(const mlc_model *model, int place, mlc_error *error);

/* Makes the record of the rank's current step: seed, step, scalars. */
void mlc_executor_record(mlc_rank *rank);

/* Rounds all bf16 copies from the masters, which must be whole and current; of this rank alone. */
void mlc_executor_refresh(mlc_rank *rank);

/* Initial values of all parameters that the rank holds, and their copies. */
void mlc_executor_initialize(mlc_rank *rank);

/* One step over the microbatches of `feed`, numbered from 0 over all replicas. Every rank calls it with equal arguments. With
 * `update` false, stops when gradients are whole and scaled in the pieces of their owners (mlc_gradient_of).
 * On success rank->result and rank->metrics are set, alike on every rank; step and cursor are the caller's to advance. A failure is
 * one status and one sentence on every rank that still runs. Nothing was updated when it is MLC_BAD_INPUT, or MLC_NOT_FINITE for a
 * loss or a gradient; where the update itself left something that is not finite, parameters are as it left them. */
int mlc_executor_step(mlc_rank *rank, const mlc_feed *feed, bool update);

/* Forward passes of a chain over microbatches [first, first + count) of `feed`, over all replicas, in as many rounds of the chain's
 * list as they take (mlc.h, EVALUATION). Every rank calls it with equal arguments. Each microbatch's weight is multiplied by
 * `share`. Weights, losses and metrics are added to those since mlc_executor_clear, alike on every rank; what a stage left for the last
 * round's microbatches then lies in their slots, of local microbatch n of each replica (mlc_rank_resolve): with count 1 in that of
 * microbatch 0 of replica 0. */
int mlc_executor_forward(mlc_rank *rank, int chain, const mlc_feed *feed, int64_t first, int64_t count, double share);

/* Forgets all sums of weights, losses and metrics. */
void mlc_executor_clear(mlc_rank *rank);

/* Weighted means since then: into *loss, and metrics into rank->metrics. Returns the sum of weights. */
double mlc_executor_means(mlc_rank *rank, int chain, double *loss);

#endif
