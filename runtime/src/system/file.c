/* file.c: see file.h. */
#include "system/file.h"

#include "mlc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE_BYTES 4096  /* the smallest there are; larger ones end as their last part does */
#define WRITE_SECONDS 10 /* for the reader of a pipe to make room */

#ifndef F_OFD_SETLK /* of Linux 3.15; the C library may be older */
#define F_OFD_SETLK 37
#endif

/* ---- opening ---- */

static const char *kind_of(mode_t mode)
{
    return S_ISDIR(mode) ? "a directory" : S_ISFIFO(mode) ? "a FIFO" : S_ISSOCK(mode) ? "a socket" : S_ISCHR(mode) || S_ISBLK(mode)
         ? "a device" : "a special file";
}

static int refuse_special(const char *path, mode_t mode, mlc_error *error)
{
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: %s, not a regular file", path, kind_of(mode));
}

/* Looks before it opens, since to open a FIFO or a device may wait for ever or act; and once more afterwards, since the name may mean
 * another file by then: therefore the open does not wait. */
int mlc_file_open_regular(const char *path, mlc_error *error)
{
    struct stat status;
    if (stat(path, &status))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", path), -1;
    if (!S_ISREG(status.st_mode))
        return refuse_special(path, status.st_mode, error), -1;
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", path), -1;
    if (!fstat(fd, &status) && S_ISREG(status.st_mode))
        return fd;
    close(fd);
    return refuse_special(path, status.st_mode, error), -1;
}

/* Is it a name of a file that is open already, like /dev/stdout? */
static bool is_own_descriptor(const char *path)
{
    static const char *const STARTS[] = {"/dev/std", "/dev/fd/", "/proc/self/fd/"};
    for (size_t i = 0; i < sizeof STARTS / sizeof *STARTS; i++)
        if (!strncmp(path, STARTS[i], strlen(STARTS[i])))
            return true;
    return false;
}

static bool takes_output(const char *path, mode_t mode)
{
    return S_ISREG(mode) || S_ISCHR(mode) || (S_ISFIFO(mode) && is_own_descriptor(path));
}

int mlc_file_open_output(const char *path, int flags, mlc_error *error)
{
    struct stat status;
    if (!stat(path, &status) && !takes_output(path, status.st_mode))
        return refuse_special(path, status.st_mode, error), -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_NONBLOCK | O_NOCTTY | O_CLOEXEC | flags, 0666);
    if (fd < 0)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", path), -1;
    if (!fstat(fd, &status) && takes_output(path, status.st_mode))
        return fd;
    close(fd);
    return refuse_special(path, status.st_mode, error), -1;
}

int mlc_file_lock(int fd)
{
    struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    if (!fcntl(fd, F_OFD_SETLK, &whole))
        return 0;
    if (errno == EINVAL && !flock(fd, LOCK_EX | LOCK_NB)) /* a kernel without them */
        return 0;
    return errno == EAGAIN || errno == EACCES || errno == EWOULDBLOCK ? 1 : -1;
}

/* ---- reading ---- */

int mlc_mapping_map(mlc_mapping *mapping, int fd, const char *path, mlc_error *error)
{
    struct stat status;
    if (fstat(fd, &status))
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", path);
    *mapping = (mlc_mapping){.bytes = (uint64_t)status.st_size, .device = status.st_dev, .inode = status.st_ino};
    if (!status.st_size)
        return MLC_OK;
    void *base = mmap(NULL, mapping->bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (base == MAP_FAILED)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s: cannot be mapped", path);
    mapping->base = base;
    mapping->guard = mlc_guard_open(base, mapping->bytes);
    if (mapping->guard)
        return MLC_OK;
    mlc_mapping_close(mapping);
    return mlc_error_set(error, MLC_FAILED, "%s: out of memory", path);
}

int mlc_mapping_open(mlc_mapping *mapping, const char *path, mlc_error *error)
{
    *mapping = (mlc_mapping){0};
    int fd = mlc_file_open_regular(path, error);
    if (fd < 0)
        return error->status;
    int status = mlc_mapping_map(mapping, fd, path, error);
    close(fd);
    return status;
}

void mlc_mapping_close(mlc_mapping *mapping)
{
    mlc_guard_close(mapping->guard);
    if (mapping->base)
        munmap((void *)(uintptr_t)mapping->base, mapping->bytes);
    *mapping = (mlc_mapping){0};
}

/* A file of another inode under the same name says nothing of the one that is mapped. */
int mlc_mapping_check(const mlc_mapping *mapping, const char *path, mlc_error *error)
{
    struct stat status;
    bool same = !stat(path, &status) && status.st_dev == mapping->device && status.st_ino == mapping->inode;
    if (same && (uint64_t)status.st_size < mapping->bytes)
        return mlc_error_set(error, MLC_BAD_INPUT, "%s: became shorter while it was read: %lld bytes, %llu at the start", path,
                             (long long)status.st_size, (unsigned long long)mapping->bytes);
    if (!mlc_guard_is_broken(mapping->guard))
        return MLC_OK;
    return mlc_error_set(error, MLC_BAD_INPUT, "%s: cannot be read any more: it became shorter meanwhile, or its disk failed", path);
}

/* A file that ends within a page reads as zeros to the end of that page, and behind it raises SIGBUS (guard.h). Does one of the pages of
 * these bytes end so, from the last of them on? */
static bool ends_in_zeros(const mlc_mapping *mapping, uint64_t begin, uint64_t end)
{
    for (uint64_t at = begin; at < end;) {
        uint64_t page = at - at % PAGE_BYTES + PAGE_BYTES, stop = page < mapping->bytes ? page : mapping->bytes;
        at = (end < stop ? end : stop) - 1;
        while (at < stop && !mapping->base[at])
            at++;
        if (at == stop)
            return true;
        at = stop;
    }
    return false;
}

int mlc_mapping_check_range(const mlc_mapping *mapping, const char *path, uint64_t begin, uint64_t end, mlc_error *error)
{
    bool doubtful = mlc_guard_is_broken(mapping->guard) || ends_in_zeros(mapping, begin, end);
    return doubtful ? mlc_mapping_check(mapping, path, error) : MLC_OK;
}

/* ---- writing ---- */

int mlc_writer_open(mlc_writer *writer, const char *path, bool append, mlc_error *error)
{
    writer->error = error;
    writer->bytes = writer->used = 0;
    mlc_sha256_begin(&writer->hash);
    snprintf(writer->path, sizeof writer->path, "%s", path);
    writer->fd = mlc_file_open_output(path, append ? O_APPEND : O_TRUNC, error);
    return writer->fd < 0 ? error->status : MLC_OK;
}

void mlc_writer_open_counting(mlc_writer *writer, mlc_error *error)
{
    writer->error = error;
    writer->bytes = writer->used = 0;
    writer->path[0] = 0;
    writer->fd = -1;
    mlc_sha256_begin(&writer->hash);
}

void mlc_writer_hex(const mlc_writer *writer, char hex[65])
{
    uint8_t digest[32];
    mlc_sha256 hash = writer->hash;
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
}

/* A pipe or terminal whose reader stands still: has it room again within WRITE_SECONDS? */
static bool has_room(int fd)
{
    struct pollfd room = {.fd = fd, .events = POLLOUT};
    return poll(&room, 1, WRITE_SECONDS * 1000) != 0;
}

/* Writes all bytes; a short write is not an error of the disk. */
static void write_all(mlc_writer *writer, const char *data, size_t bytes)
{
    while (bytes && writer->fd >= 0 && !writer->error->status) {
        ssize_t done = write(writer->fd, data, bytes);
        if (done < 0 && errno == EAGAIN && has_room(writer->fd))
            continue;
        if (done < 0 && errno != EINTR)
            mlc_error_system(writer->error, MLC_FAILED, "%s: cannot be written", writer->path);
        if (done > 0) {
            data += done;
            bytes -= (size_t)done;
        }
    }
}

int mlc_writer_flush(mlc_writer *writer)
{
    write_all(writer, writer->buffer, writer->used);
    writer->used = 0;
    return writer->error->status;
}

void mlc_writer_put(mlc_writer *writer, const void *data, size_t bytes)
{
    if (writer->error->status)
        return;
    mlc_sha256_add(&writer->hash, data, bytes);
    writer->bytes += bytes;
    if (writer->used + bytes > sizeof writer->buffer)
        mlc_writer_flush(writer);
    if (bytes > sizeof writer->buffer) {
        write_all(writer, data, bytes);
        return;
    }
    memcpy(writer->buffer + writer->used, data, bytes);
    writer->used += bytes;
}

void mlc_writer_print(mlc_writer *writer, const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= sizeof text)
        mlc_error_set(writer->error, MLC_FAILED, "%s: a line is too long", writer->path);
    else
        mlc_writer_put(writer, text, (size_t)length);
}

void mlc_writer_quote(mlc_writer *writer, const char *text)
{
    mlc_writer_put(writer, "\"", 1);
    for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
        if (*c == '"' || *c == '\\')
            mlc_writer_print(writer, "\\%c", *c);
        else if (*c < 0x20)
            mlc_writer_print(writer, "\\u%04x", *c);
        else
            mlc_writer_put(writer, c, 1);
    }
    mlc_writer_put(writer, "\"", 1);
}

int mlc_writer_close(mlc_writer *writer, bool sync)
{
    if (writer->fd < 0)
        return writer->error->status;
    mlc_writer_flush(writer);
    if (sync && !writer->error->status && fsync(writer->fd))
        mlc_error_system(writer->error, MLC_FAILED, "%s: cannot be synced", writer->path);
    if (close(writer->fd) && !writer->error->status)
        mlc_error_system(writer->error, MLC_FAILED, "%s: cannot be closed", writer->path);
    writer->fd = -1;
    return writer->error->status;
}

/* ---- names ---- */

int mlc_path_join(char path[MLC_PATH_BYTES], const char *directory, const char *name, mlc_error *error)
{
    int length = snprintf(path, MLC_PATH_BYTES, "%s/%s", directory, name);
    if (length < 0 || length >= MLC_PATH_BYTES)
        return mlc_error_set(error, MLC_USAGE, "%.200s...: the path is too long", directory);
    return MLC_OK;
}

bool mlc_path_is_directory(const char *path)
{
    struct stat status;
    return !stat(path, &status) && S_ISDIR(status.st_mode);
}

bool mlc_path_is_file(const char *path)
{
    struct stat status;
    return !stat(path, &status) && S_ISREG(status.st_mode);
}

bool mlc_path_ends(const char *path, const char *end)
{
    size_t length = strlen(path), tail = strlen(end);
    return length >= tail && !strcmp(path + length - tail, end);
}
