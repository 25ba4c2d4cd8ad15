/* arena.c: see arena.h. The arena lies on a GPU; behind it, in the place of scratch, what a pass notes (mlc_found.h). Messages of the
 * host have memory of their own, of which what they do not use is never touched. */
#include "system/arena.h"

#include "mlc.h"
#include "mlc_gpu.h"
#include "mlc_found.h"
#include "system/near.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int mlc_arena_open(mlc_arena *arena, uint64_t arena_bytes, uint64_t scratch_bytes_per_thread, int threads, int number, const char *parts,
                   mlc_error *error)
{
    char text[MLC_GPU_TEXT_BYTES];
    if (scratch_bytes_per_thread < sizeof(mlc_found))
        return mlc_error_set(error, MLC_BAD_INPUT, "arena: %llu bytes do not hold what a pass notes",
                             (unsigned long long)scratch_bytes_per_thread);
    uint64_t bytes = arena_bytes + scratch_bytes_per_thread;
    char *base = NULL;
    void *mail = mmap(NULL, arena_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mail == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "arena: cannot map %llu bytes", (unsigned long long)arena_bytes);
    mlc_gpu *gpu = mlc_gpu_open(number, bytes, parts, &base, text);
    if (!gpu) {
        munmap(mail, arena_bytes);
        return mlc_error_set(error, MLC_FAILED, "%s", text);
    }
    char place[MLC_GPU_NAME_BYTES];
    mlc_gpu_name(gpu, place);
    mlc_near_bind(MLC_NEAR_DEVICES, place);
    *arena = (mlc_arena){base, mail, gpu, arena_bytes, scratch_bytes_per_thread, bytes, threads};
    return MLC_OK;
}

void mlc_arena_close(mlc_arena *arena)
{
    if (arena->mail)
        munmap(arena->mail, arena->arena_bytes);
    mlc_gpu_close(arena->gpu);
    arena->mail = NULL;
    arena->gpu = NULL;
    arena->base = NULL;
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
    if (mmap(arena->mail, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "arena: cannot map an inbox of %zu bytes", bytes);
    return MLC_OK;
}

char *mlc_arena_scratch(const mlc_arena *arena, int thread)
{
    (void)thread;
    return arena->base + arena->arena_bytes;
}

const void *mlc_memory_view(const mlc_arena *arena, uint64_t at, size_t bytes, void *room)
{
    mlc_gpu_read(arena->gpu, room, arena->base + at, bytes);
    return room;
}

void mlc_memory_read(const mlc_arena *arena, uint64_t at, void *to, size_t bytes)
{
    mlc_gpu_read(arena->gpu, to, arena->base + at, bytes);
}

void mlc_memory_write(const mlc_arena *arena, uint64_t at, const void *from, size_t bytes)
{
    mlc_gpu_write(arena->gpu, arena->base + at, from, bytes);
}

void mlc_memory_clear(const mlc_arena *arena, uint64_t at, size_t bytes)
{
    mlc_gpu_clear(arena->gpu, arena->base + at, bytes);
}

void *mlc_memory_stage(mlc_arena *arena, uint64_t at, size_t bytes)
{
    (void)at;
    return mlc_gpu_pinned(arena->gpu, bytes);
}
