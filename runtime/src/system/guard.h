/* guard.h: files that become shorter while they are mapped. To read what is not there any more raises SIGBUS, which ends a program
 * without a word. Under a guard it reads as zeros, and the guard remembers: who has read looks afterwards. The handler is there while
 * some guard is open; addresses that no guard knows go to whoever had the signal before. */
#ifndef MLC_GUARD_H
#define MLC_GUARD_H

#include <stdbool.h>
#include <stdint.h>

typedef struct mlc_guard mlc_guard;

/* Guards `bytes` that are mapped at `base`. Any thread. NULL: out of memory. */
mlc_guard *mlc_guard_open(const void *base, uint64_t bytes);

/* Called before they are unmapped. NULL is allowed. Any thread. */
void mlc_guard_close(mlc_guard *guard);

/* Was something read that was not there? NULL: no. Any thread. */
bool mlc_guard_is_broken(const mlc_guard *guard);

#endif
