/* system.c: see system.h. */
#include "system/system.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Of <linux/futex.h> and <linux/memfd.h>. */
#define WAIT 0
#define WAKE 1
#define PRIVATE 128
#define CLOSE_ON_EXEC 1

#define NAMES_TRIED 100

void mlc_futex_wait(atomic_uint *word, unsigned value, const struct timespec *limit, bool shared)
{
    syscall(SYS_futex, word, shared ? WAIT : WAIT | PRIVATE, value, limit, NULL, 0);
}

void mlc_futex_wake(atomic_uint *word, bool shared)
{
    syscall(SYS_futex, word, shared ? WAKE : WAKE | PRIVATE, INT_MAX, NULL, NULL, 0);
}

/* Where the kernel is older than 3.17: a file of a random name, which is gone at once. */
static int named_memory(void)
{
    char path[64];
    for (int i = 0; i < NAMES_TRIED; i++) {
        uint64_t name[2];
        if (!mlc_system_random(name, sizeof name))
            return -1;
        snprintf(path, sizeof path, "/dev/shm/mlc-%016llx%016llx", (unsigned long long)name[0], (unsigned long long)name[1]);
        int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd >= 0)
            unlink(path);
        if (fd >= 0 || errno != EEXIST)
            return fd;
    }
    return -1;
}

int mlc_system_memory(void)
{
#ifdef SYS_memfd_create
    int fd = (int)syscall(SYS_memfd_create, "mlc", CLOSE_ON_EXEC);
    if (fd >= 0 || errno != ENOSYS)
        return fd;
#endif
    return named_memory();
}

/* Where the kernel is older than 3.17. */
static bool device_random(void *bytes, size_t count)
{
    int fd = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t done = read(fd, bytes, count);
    int code = done < 0 ? errno : EIO;
    close(fd);
    errno = code;
    return done == (ssize_t)count;
}

bool mlc_system_random(void *bytes, size_t count)
{
#ifdef SYS_getrandom
    if (syscall(SYS_getrandom, bytes, count, 0) == (long)count)
        return true;
    if (errno != ENOSYS)
        return false;
#endif
    return device_random(bytes, count);
}
