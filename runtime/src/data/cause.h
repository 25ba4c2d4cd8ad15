/* cause.h: why a loss or gradient is not finite, where the data says so. */
#ifndef MLC_CAUSE_H
#define MLC_CAUSE_H

#include "model/rank.h"

#define MLC_CAUSE_BYTES 256

/* "; input x is nan in record 7 (element 3)" for the first value of a microbatch that is not a number, else for the first infinite one,
 * in order of input, row and element; "" where every value is finite. Reads the data anew and allocates; for a step that has failed. */
void mlc_cause_of(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, char text[MLC_CAUSE_BYTES]);

/* What a message calls a row of a microbatch: the number of its record in the data, or in the arrays of the caller. */
int64_t mlc_cause_record(const mlc_rank *rank, const mlc_feed *feed, int64_t microbatch, int64_t row);

#endif
