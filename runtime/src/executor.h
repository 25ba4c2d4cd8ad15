/* executor.h: the walk over a model's tables. Every thread of the team walks the same rows. */
#ifndef MLC_EXECUTOR_H
#define MLC_EXECUTOR_H

#include "session.h"

/* Is this model one that the executor can walk (actions, groups, levels)? Returns a status. */
int mlc_executor_check(const mlc_model *model, mlc_error *error);

/* Makes the record of the session's current step: seed, step, scalars. */
void mlc_executor_record(mlc_session *session);

/* Rounds the bf16 copies from the masters. */
void mlc_executor_refresh(mlc_session *session);

/* Initial values of all parameters. */
void mlc_executor_initialize(mlc_session *session);

/* One step over the microbatches of `feed`. With `update` false, stops when gradients are whole and scaled.
 * On success session->result and session->metrics are set; step and cursor are the caller's to advance.
 * MLC_NOT_FINITE: nothing was updated; the message names step, microbatch and what is not finite. */
int mlc_executor_step(mlc_session *session, const mlc_feed *feed, bool update);

/* Forward passes of a chain over microbatches [0, count) of `feed`; each one's weight is multiplied by `share`. Adds to *loss
 * and *weight the sums of weight * loss and of weights. */
int mlc_executor_forward(mlc_session *session, const mlc_chain *chain, const mlc_feed *feed, int64_t count, double share, double *loss,
                         double *weight);

#endif
