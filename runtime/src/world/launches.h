/* launches.h: the functions, operands and messages of a step, as they are launched: for --print-launches.
 *
 * One line each, in the order of the rank's list. Addresses are offsets: of functions in the image of the program (as `nm` shows them),
 * of operands and slots in the arena. Every step has the same lines: what differs from step to step lies in memory.
 *
 *   F 0 3                                                                  an action, by the words of plan.json
 *     0x4a10 h.3 forward: 4096 8192 77824                                  a row
 *   UPDATE
 *     0x6b30 scale wte.weight: 409600 192, elements 0 to 8192              a kernel of a sweep, over a parameter or a piece of it
 *   SEND act.train.0 3
 *     act.train.0 3 to rank 1: 81920 -> 12288, 4096 bytes                  a message leaves its slot for one of the peer's
 */
#ifndef MLC_LAUNCHES_H
#define MLC_LAUNCHES_H

#include "mlc_abi.h"

#include <stdbool.h>
#include <stdio.h>

struct mlc_link;
typedef struct mlc_launches mlc_launches;

/* Begins an empty list. NULL without memory. All functions take NULL, and do nothing then; they are called by the lead thread. */
mlc_launches *mlc_launches_open(void);
void mlc_launches_close(mlc_launches *launches);

/* The next action of the list, in words. */
void mlc_launches_action(mlc_launches *launches, const char *name);

/* A function with `count` operands, resolved; `name` is the row's. */
void mlc_launches_row(mlc_launches *launches, mlc_function function, const char *name, const uint64_t *operands, int count);

/* What is swept. */
typedef struct mlc_sweep_name {
    const char *kernel;
    const char *parameter;
} mlc_sweep_name;

/* A function that goes over elements [begin, end) of a parameter; MLC_NONE among the operands: it is given none there. */
void mlc_launches_sweep(mlc_launches *launches, void (*function)(void), mlc_sweep_name name, const uint64_t *operands, int count,
                        int64_t begin, int64_t end);

/* Message link->posted is about to go, or message link->released has been read; `base`: of the arena. */
void mlc_launches_message(mlc_launches *launches, const struct mlc_link *link, const char *base);

/* Writes the list. False: there was no memory for all of it. */
bool mlc_launches_print(mlc_launches *launches, FILE *out);

#endif
