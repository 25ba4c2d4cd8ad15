/* arranged.h: elements of a tensor in canonical order, out of and into where they lie.
 *
 * Shards, messages between ranks, norms, checkpoints, digests and views number the elements of a tensor in canonical (row-major) order.
 * A target may have arranged it otherwise (mlc_arrangement); then what reads or writes elements of it goes through here, a strip at a time.
 * What is canonical may lie in the memory of a device; what is arranged does not.
 */
#ifndef MLC_ARRANGED_H
#define MLC_ARRANGED_H

#include "mlc_abi.h"
#include "system/arena.h"

#include <stdbool.h>

#define MLC_STRIP 2048 /* elements that are taken out at a time: a multiple of MLC_BLOCK. compiler/parallel/planned.py counts scratch by it */
#define MLC_STRIPS 2   /* that a thread has in its scratch */

/* A tensor of `bytes` bytes an element in the arena. */
typedef struct mlc_lying {
    uint64_t at;                     /* of element 0, which may not be there; of one that is arranged, of its buffer */
    int64_t bytes;
    const mlc_arrangement *arranged; /* NULL: canonical */
} mlc_lying;

/* Elements that are held for a while. */
typedef struct mlc_strip {
    char elements[MLC_STRIP * sizeof(double)];
} mlc_strip;

/* How the master and the gradients of a parameter, its copy, and a state of it lie; NULL: canonical. */
const mlc_arrangement *mlc_arranged_master(const mlc_model *model, int parameter);
const mlc_arrangement *mlc_arranged_copy(const mlc_model *model, int parameter);
const mlc_arrangement *mlc_arranged_state(const mlc_model *model, int parameter, int state);

/* Elements of the buffer of a tensor that has so many. */
static inline int64_t mlc_arranged_elements(const mlc_arrangement *arranged, int64_t elements)
{
    return arranged ? arranged->elements : elements;
}

/* Elements [begin, end) to and from memory where they lie one after the other. */
void mlc_lying_read(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, void *to);
void mlc_lying_write(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, const void *from);

/* Elements from `begin` on, one after the other: as many of those before `end` as lie so, or fit the strip, that is MLC_STRIP at least but
 * at the end; how many, into `count`. */
const char *mlc_lying_look(const mlc_arena *arena, const mlc_lying *of, int64_t begin, int64_t end, int64_t *count, mlc_strip *strip);

/* What is wrong with how the model's parameters lie; NULL: nothing. By `parameter`, the first one. */
const char *mlc_arranged_fault(const mlc_model *model, int *parameter);

#endif
