/* meeting.h: what the processes that a launcher started can say to each other before anything depends on the model: blocks whose size
 * is fixed, so that ranks of different programs understand one another.
 *
 * Every rank makes the same calls in the same order, each of which returns a status: MLC_HANG when a rank has not come within the time,
 * MLC_FAILED when one was lost. No call's work at a rank grows with the bytes that all ranks have together.
 */
#ifndef MLC_MEETING_H
#define MLC_MEETING_H

#include "system/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLC_MEETING_BYTES 2048 /* the most that a rank shares at once */

typedef struct mlc_meeting mlc_meeting;

struct mlc_meeting {
    int rank;
    int ranks;
    double seconds; /* the most that a call waits for other ranks */
    int round;      /* calls so far */
    void *own;      /* the transport's */

    /* The bytes of rank `root` at all. */
    int (*share)(mlc_meeting *meeting, int root, void *bytes, size_t size, mlc_error *error);

    /* The sum of the values of all ranks, or the least of them. */
    int (*fold)(mlc_meeting *meeting, int64_t *value, bool adds, mlc_error *error);
};

#endif
