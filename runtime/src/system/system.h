/* system.h: what the kernel has and a C library may not: musl has no <linux/futex.h>, glibc 2.17 no memfd_create and no getrandom.
 * Asked of the kernel by number; a kernel that is too old for it has something that does the same. */
#ifndef MLC_SYSTEM_H
#define MLC_SYSTEM_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <time.h>

/* Sleeps while *word is `value`, until woken, or for `limit` (NULL: without end). It may return for no reason.
 * shared: the word lies in memory that other processes map too. */
void mlc_futex_wait(atomic_uint *word, unsigned value, const struct timespec *limit, bool shared);

/* Wakes all that sleep on the word. */
void mlc_futex_wake(atomic_uint *word, bool shared);

/* A file of 0 bytes in memory that has no name, closed on exec. Returns a descriptor, -1: failed; errno says why. */
int mlc_system_memory(void);

/* Fills bytes[count], at most 256, with random numbers that nobody can guess. Returns false where there are none; errno says why. */
bool mlc_system_random(void *bytes, size_t count);

#endif
