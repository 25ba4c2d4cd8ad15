/* folder.c: see folder.h. */
#include "system/folder.h"

#include "mlc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int mlc_folder_open(const char *path, mlc_error *error)
{
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder < 0)
        mlc_error_system(error, MLC_BAD_INPUT, "%s", path);
    return folder;
}

int mlc_folder_enter(int folder, const char *name)
{
    return openat(folder, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* As the kernel writes it, where the C library has no 64-bit dirent of its own. */
typedef struct kernel_entry {
    uint64_t inode;
    int64_t offset;
    uint16_t bytes;
    uint8_t kind;
    char name[];
} kernel_entry;

void mlc_folder_each(int folder, bool (*visit)(void *context, const char *name), void *context)
{
    _Alignas(8) char buffer[8192];
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* with a position of its own */
    bool more = fd >= 0;
    for (long bytes; more && (bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;) {
        const kernel_entry *entry;
        for (long at = 0; more && at < bytes; at += entry->bytes) {
            entry = (const kernel_entry *)(buffer + at);
            more = !strcmp(entry->name, ".") || !strcmp(entry->name, "..") || visit(context, entry->name);
        }
    }
    if (fd >= 0)
        close(fd);
}

static const char *kind_of(mode_t mode)
{
    return S_ISLNK(mode) ? "a link" : S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : "a device";
}

/* Looks before it opens, since to open a FIFO or a device may wait or act, and again afterwards. */
int mlc_folder_read(int folder, const char *name, const char *path, mlc_error *error)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s/%s", path, name), -1;
    int fd = S_ISREG(status.st_mode) ? openat(folder, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
    if (fd < 0 && S_ISREG(status.st_mode))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s/%s", path, name), -1;
    if (fd >= 0 && !fstat(fd, &status) && S_ISREG(status.st_mode))
        return fd;
    if (fd >= 0)
        close(fd);
    return mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: %s, not a regular file", path, name, kind_of(status.st_mode)), -1;
}

/* Reads until the file or the buffer ends; -1: failed. */
static ssize_t read_all(int fd, char *text, size_t bytes)
{
    size_t have = 0;
    for (ssize_t done = 1; done && have < bytes;) {
        done = read(fd, text + have, bytes - have);
        if (done < 0 && errno != EINTR)
            return -1;
        have += done > 0 ? (size_t)done : 0;
        done = done < 0 ? 1 : done;
    }
    return (ssize_t)have;
}

char *mlc_folder_text(int folder, const char *name, const char *path, size_t limit, size_t *bytes, mlc_error *error)
{
    struct stat status;
    char *text = NULL;
    int fd = mlc_folder_read(folder, name, path, error);
    if (fd < 0)
        return NULL;
    if (!fstat(fd, &status) && (uint64_t)status.st_size <= limit)
        text = malloc((size_t)status.st_size + 1);
    if (!text)
        mlc_error_set(error, MLC_BAD_INPUT, "%s/%s: too large to be what it is named", path, name);
    ssize_t have = text ? read_all(fd, text, (size_t)status.st_size) : 0;
    if (have < 0)
        mlc_error_system(error, MLC_BAD_INPUT, "%s/%s: cannot be read", path, name);
    close(fd);
    if (!text || have < 0)
        return free(text), NULL;
    text[have] = 0;
    *bytes = (size_t)have;
    return text;
}

int mlc_folder_create(mlc_writer *writer, int folder, const char *name, const char *path, mlc_error *error)
{
    mlc_writer_open_counting(writer, error);
    if (mlc_path_join(writer->path, path, name, error))
        return error->status;
    writer->fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    return writer->fd < 0 ? mlc_error_system(error, MLC_FAILED, "%s: cannot be written", writer->path) : MLC_OK;
}

int mlc_folder_write(int folder, const char *name)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
        return -1;
    errno = EINVAL;
    return S_ISREG(status.st_mode) ? openat(folder, name, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC) : -1;
}

bool mlc_folder_may_replace(int folder, const char *name, int64_t limit)
{
    struct stat status;
    if (fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW))
        return errno == ENOENT;
    return S_ISREG(status.st_mode) && status.st_size <= limit;
}
