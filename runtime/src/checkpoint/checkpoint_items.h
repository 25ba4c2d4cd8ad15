/* checkpoint_items.h: what a run and a checkpoint must have in common to be one run, item by item.
 *
 *   items       of the model: its description, "item=value" a line                     refused where they differ, --allow lets pass
 *   terms       of the run: "data.INPUT=identity" a line, order, number of examples    the same
 *   settings    --steps and the model's run-time constants                             may change; said
 *
 * A checkpoint that was written before there were runs has no terms, and no items for layers, rules and curves: these are not
 * compared then, which is said. */
#ifndef MLC_CHECKPOINT_ITEMS_H
#define MLC_CHECKPOINT_ITEMS_H

#include "checkpoint/checkpoint.h"
#include "system/json.h"

/* Writes the members terms, settings and rate of a state. */
void mlc_items_put(mlc_writer *state, const mlc_rank *rank);

/* Compares a state with the rank. Changes nothing, says nothing. Returns a status. */
int mlc_items_match(const mlc_rank *rank, const mlc_json *state, const char *path, mlc_allowed allowed, mlc_error *error);

/* Says what differs and was let pass, one line each, and a jump of the rate. The rank is at the step of the state. */
void mlc_items_say(const mlc_rank *rank, const mlc_json *state, const char *path, mlc_allowed allowed);

/* Refuses a pattern of --allow that names no item of the state or the rank. Returns a status. */
int mlc_items_check_allowed(const mlc_rank *rank, const mlc_json *state, mlc_allowed allowed, mlc_error *error);

#endif
