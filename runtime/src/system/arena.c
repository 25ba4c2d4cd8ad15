/* arena.c: see arena.h. */
#include "system/arena.h"

#include "mlc.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int mlc_arena_open(mlc_arena *arena, uint64_t arena_bytes, uint64_t scratch_bytes_per_thread, int threads, int number, const char *parts,
                   mlc_error *error)
{
    (void)number, (void)parts;
    if (arena_bytes % 64 || scratch_bytes_per_thread % 64)
        return mlc_error_set(error, MLC_BAD_INPUT, "arena: sizes %llu and %llu are not multiples of 64", (unsigned long long)arena_bytes,
                             (unsigned long long)scratch_bytes_per_thread);
    uint64_t bytes = arena_bytes + (uint64_t)threads * scratch_bytes_per_thread;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (base == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "arena: cannot map %llu bytes", (unsigned long long)bytes);
    madvise(base, bytes, MADV_HUGEPAGE);
    *arena = (mlc_arena){base, base, NULL, arena_bytes, scratch_bytes_per_thread, bytes, threads};
    return MLC_OK;
}

uint64_t mlc_arena_file_bytes(uint64_t inbox_bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (inbox_bytes + page - 1) / page * page;
}

int mlc_arena_map_inbox(mlc_arena *arena, uint64_t inbox_bytes, int fd, mlc_error *error)
{
    if (!inbox_bytes)
        return MLC_OK;
    size_t bytes = mlc_arena_file_bytes(inbox_bytes);
    if (mmap(arena->base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "arena: cannot map an inbox of %zu bytes", bytes);
    return MLC_OK;
}

void mlc_arena_close(mlc_arena *arena)
{
    if (arena->base)
        munmap(arena->base, arena->bytes);
    arena->base = NULL;
}

char *mlc_arena_scratch(const mlc_arena *arena, int thread)
{
    return arena->base + arena->arena_bytes + (uint64_t)thread * arena->scratch_bytes_per_thread;
}

const void *mlc_memory_view(const mlc_arena *arena, uint64_t at, size_t bytes, void *room)
{
    (void)bytes, (void)room;
    return arena->base + at;
}

void mlc_memory_read(const mlc_arena *arena, uint64_t at, void *to, size_t bytes)
{
    memcpy(to, arena->base + at, bytes);
}

void mlc_memory_write(const mlc_arena *arena, uint64_t at, const void *from, size_t bytes)
{
    memcpy(arena->base + at, from, bytes);
}

void mlc_memory_clear(const mlc_arena *arena, uint64_t at, size_t bytes)
{
    memset(arena->base + at, 0, bytes);
}

void *mlc_memory_stage(mlc_arena *arena, uint64_t at, size_t bytes)
{
    (void)bytes;
    return arena->base + at;
}
