/* count_calls.c: preloaded into a program, counts its calls of the allocator and the anonymous memory it maps.
 *
 *   cc -O2 -shared -fPIC -o count_calls.so count_calls.c
 *   MLC_COUNTS=counts.txt LD_PRELOAD=./count_calls.so program ...
 *
 * writes "calls N mapped B" when the program exits, where B is the sum of its anonymous mappings. What libc maps for itself (thread
 * stacks, its heap) does not pass through here. A library opened by a harness can be counted too: count_calls() is the count so far.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern void *__libc_malloc(size_t bytes);
extern void *__libc_calloc(size_t count, size_t bytes);
extern void *__libc_realloc(void *block, size_t bytes);
extern void *__libc_memalign(size_t alignment, size_t bytes);
extern void __libc_free(void *block);

static atomic_long calls;
static atomic_long mapped;

long count_calls(void)
{
    return atomic_load(&calls);
}

void *malloc(size_t bytes)
{
    atomic_fetch_add(&calls, 1);
    return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
    atomic_fetch_add(&calls, 1);
    return __libc_calloc(count, bytes);
}

void *realloc(void *block, size_t bytes)
{
    atomic_fetch_add(&calls, 1);
    return __libc_realloc(block, bytes);
}

void free(void *block)
{
    if (block)
        atomic_fetch_add(&calls, 1);
    __libc_free(block);
}

void *aligned_alloc(size_t alignment, size_t bytes)
{
    atomic_fetch_add(&calls, 1);
    return __libc_memalign(alignment, bytes);
}

int posix_memalign(void **block, size_t alignment, size_t bytes)
{
    atomic_fetch_add(&calls, 1);
    *block = __libc_memalign(alignment, bytes);
    return *block ? 0 : ENOMEM;
}

void *mmap(void *address, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    if (flags & MAP_ANONYMOUS)
        atomic_fetch_add(&mapped, (long)bytes);
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, fd, offset);
}

__attribute__((destructor)) static void report(void)
{
    long counted = count_calls();
    const char *path = getenv("MLC_COUNTS");
    FILE *file = path ? fopen(path, "w") : NULL;
    if (!file)
        return;
    fprintf(file, "calls %ld mapped %ld\n", counted, atomic_load(&mapped));
    fclose(file);
}
