/* file.h: files as bytes: mapped for reading, written through a fixed buffer. */
#ifndef MLC_FILE_H
#define MLC_FILE_H

#include "error.h"
#include "sha256.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MLC_PATH_BYTES 4096

/* A file mapped for reading. An empty file has bytes 0 and base NULL. */
typedef struct mlc_mapping {
    const uint8_t *base;
    uint64_t bytes;
} mlc_mapping;

/* Returns a status: MLC_BAD_INPUT when the file cannot be read. */
int mlc_mapping_open(mlc_mapping *mapping, const char *path, mlc_error *error);
void mlc_mapping_close(mlc_mapping *mapping);

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
