/* arena.h: the memory of a rank, one mapping: the planned arena, then a scratch area for each thread. */
#ifndef MLC_ARENA_H
#define MLC_ARENA_H

#include "error.h"

#include <stdint.h>

typedef struct mlc_arena {
    char *base;
    uint64_t arena_bytes;
    uint64_t scratch_bytes_per_thread;
    uint64_t bytes; /* arena_bytes + threads * scratch_bytes_per_thread: what is mapped */
} mlc_arena;

/* Maps zeroed memory of exactly the planned size; both sizes are multiples of 64. Returns a status. */
int mlc_arena_open(mlc_arena *arena, uint64_t arena_bytes, uint64_t scratch_bytes_per_thread, int threads, mlc_error *error);
void mlc_arena_close(mlc_arena *arena);

/* The scratch area of a thread, 64-byte aligned. */
char *mlc_arena_scratch(const mlc_arena *arena, int thread);

#endif
