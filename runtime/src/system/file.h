/* file.h: files as bytes: mapped for reading, written through a fixed buffer. */
#ifndef MLC_FILE_H
#define MLC_FILE_H

#include "system/error.h"
#include "system/guard.h"
#include "system/sha256.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLC_PATH_BYTES 4096

/* Opens a regular file for reading. A directory, FIFO, device or socket is refused by its kind before it is opened: nothing waits, and
 * nothing acts. Returns the descriptor, -1: failed (MLC_BAD_INPUT). */
int mlc_file_open_regular(const char *path, mlc_error *error);

/* Opens a file for writing, creating it if there is none; `flags`: O_TRUNC, O_APPEND, O_EXCL and the like. Regular files, character
 * devices (/dev/null, a terminal) and pipes that are open already (/dev/stdout) are taken; what else there is is refused as above.
 * The descriptor does not block: a write to a pipe that is full gives EAGAIN. Returns it, -1: failed (MLC_BAD_INPUT). */
int mlc_file_open_output(const char *path, int flags, mlc_error *error);

/* Locks a file that is open for writing, for this description of it, not the process: closing another descriptor does not unlock, and
 * sessions of one process exclude each other. 0: done, 1: somebody else has it, -1: there are no locks here. */
int mlc_file_lock(int fd);

/* A file mapped for reading. An empty file has bytes 0 and base NULL. */
typedef struct mlc_mapping {
    const uint8_t *base;
    uint64_t bytes;
    uint64_t device, inode;
    mlc_guard *guard; /* NULL where nothing is mapped */
} mlc_mapping;

/* Returns a status: MLC_BAD_INPUT when the file cannot be read. */
int mlc_mapping_open(mlc_mapping *mapping, const char *path, mlc_error *error);

/* The same of a regular file that is open, and may be closed afterwards; `path` is its name for messages. */
int mlc_mapping_map(mlc_mapping *mapping, int fd, const char *path, mlc_error *error);

void mlc_mapping_close(mlc_mapping *mapping);

/* Is the file that was mapped from `path` still as long as then? What was read of one that is not is zeros, here and there. Returns a
 * status. */
int mlc_mapping_check(const mlc_mapping *mapping, const char *path, mlc_error *error);

/* The same after bytes [begin, end) were read, and of those alone: asks the file system only where they end in zeros as the end of a
 * shorter file would, so that reading costs no calls. */
int mlc_mapping_check_range(const mlc_mapping *mapping, const char *path, uint64_t begin, uint64_t end, mlc_error *error);

/* A file being written. Allocates nothing; counts and hashes what it writes. */
typedef struct mlc_writer {
    int fd; /* -1: closed, or only counting */
    char path[MLC_PATH_BYTES];
    uint64_t bytes;
    size_t used;
    mlc_sha256 hash;
    mlc_error *error; /* the first failure; later writes do nothing */
    char buffer[1 << 16];
} mlc_writer;

/* Creates a file; one that exists is truncated, or appended to. Returns a status. */
int mlc_writer_open(mlc_writer *writer, const char *path, bool append, mlc_error *error);

/* A writer that only counts and hashes. */
void mlc_writer_open_counting(mlc_writer *writer, mlc_error *error);

/* The SHA-256 of what was written so far, as 64 hex digits and a 0 byte. */
void mlc_writer_hex(const mlc_writer *writer, char hex[65]);

void mlc_writer_put(mlc_writer *writer, const void *data, size_t bytes);
void mlc_writer_print(mlc_writer *writer, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Writes text as a JSON string, quotes included. */
void mlc_writer_quote(mlc_writer *writer, const char *text);

/* Hands the buffer to the kernel. Returns a status. */
int mlc_writer_flush(mlc_writer *writer);

/* Flushes, syncs to disk if asked, closes. Returns a status. */
int mlc_writer_close(mlc_writer *writer, bool sync);

/* Joins directory and name. Returns a status: MLC_USAGE when the path is too long. */
int mlc_path_join(char path[MLC_PATH_BYTES], const char *directory, const char *name, mlc_error *error);

/* Is there a directory, a regular file, of this name? */
bool mlc_path_is_directory(const char *path);
bool mlc_path_is_file(const char *path);

/* Does the name end so? */
bool mlc_path_ends(const char *path, const char *end);

#endif
