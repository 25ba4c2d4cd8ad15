/* arena.h: the memory of a rank, one range of addresses: the planned arena, then a scratch area for each thread. The part of the
 * arena that other ranks write to (its inbox) may lie in a file that they map too.
 *
 * It lies where rows compute. What is not a row reads and writes it by mlc_memory_*, at offsets. */
#ifndef MLC_ARENA_H
#define MLC_ARENA_H

#include "system/error.h"

#include <stddef.h>
#include <stdint.h>

struct mlc_gpu;

typedef struct mlc_arena {
    char *base;         /* an address of the device where there is one */
    char *mail;         /* where the host has messages of its own, at the same offsets: `base`, but for a GPU */
    struct mlc_gpu *gpu; /* NULL: the memory of this process */
    uint64_t arena_bytes;
    uint64_t scratch_bytes_per_thread;
    uint64_t bytes; /* arena_bytes + threads * scratch_bytes_per_thread: what is mapped */
    int threads;
} mlc_arena;

/* Maps zeroed memory of exactly the planned size; both sizes are multiples of 64. number: which of the ranks
 * of this machine it is, for that has a GPU of its own. parts: what the memory is for, said where there is too little. Returns a status. */
int mlc_arena_open(mlc_arena *arena, uint64_t arena_bytes, uint64_t scratch_bytes_per_thread, int threads, int number, const char *parts,
                   mlc_error *error);
void mlc_arena_close(mlc_arena *arena);

/* What a file needs to take the place of the first `inbox_bytes` of an arena: whole pages. */
uint64_t mlc_arena_file_bytes(uint64_t inbox_bytes);

/* Puts the file `fd`, of mlc_arena_file_bytes(inbox_bytes) zero bytes, in the place of the first pages. Right after opening: what
 * was written there is lost. Returns a status. */
int mlc_arena_map_inbox(mlc_arena *arena, uint64_t inbox_bytes, int fd, mlc_error *error);

/* The scratch area of a thread, 64-byte aligned. */
char *mlc_arena_scratch(const mlc_arena *arena, int thread);

/* Bytes [at, at + bytes) of the arena, for as long as nothing is written there: in place, or copied into `room`, which has as many. */
const void *mlc_memory_view(const mlc_arena *arena, uint64_t at, size_t bytes, void *room);

void mlc_memory_read(const mlc_arena *arena, uint64_t at, void *to, size_t bytes);
void mlc_memory_write(const mlc_arena *arena, uint64_t at, const void *from, size_t bytes);
void mlc_memory_clear(const mlc_arena *arena, uint64_t at, size_t bytes);

/* Where the host makes the bytes [at, at + bytes), which rows read: in place, or in memory of its own that a pass takes over before its
 * rows run. NULL: out of memory. Once an arena. */
void *mlc_memory_stage(mlc_arena *arena, uint64_t at, size_t bytes);

#endif
