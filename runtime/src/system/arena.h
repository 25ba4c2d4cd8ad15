/* arena.h: the memory of a rank, one range of addresses: the planned arena, then a scratch area for each thread. The part of the
 * arena that other ranks write to (its inbox) may lie in a file that they map too. */
#ifndef MLC_ARENA_H
#define MLC_ARENA_H

#include "system/error.h"

#include <stdint.h>

typedef struct mlc_arena {
    char *base;
    uint64_t arena_bytes;
    uint64_t scratch_bytes_per_thread;
    uint64_t bytes; /* arena_bytes + threads * scratch_bytes_per_thread: what is mapped */
    int threads;
} mlc_arena;

/* Maps zeroed memory of exactly the planned size; both sizes are multiples of 64. Returns a status. */
int mlc_arena_open(mlc_arena *arena, uint64_t arena_bytes, uint64_t scratch_bytes_per_thread, int threads, mlc_error *error);
void mlc_arena_close(mlc_arena *arena);

/* What a file needs to take the place of the first `inbox_bytes` of an arena: whole pages. */
uint64_t mlc_arena_file_bytes(uint64_t inbox_bytes);

/* Puts the file `fd`, of mlc_arena_file_bytes(inbox_bytes) zero bytes, in the place of the first pages. Right after opening: what
 * was written there is lost. Returns a status. */
int mlc_arena_map_inbox(mlc_arena *arena, uint64_t inbox_bytes, int fd, mlc_error *error);

/* The scratch area of a thread, 64-byte aligned. */
char *mlc_arena_scratch(const mlc_arena *arena, int thread);

#endif
