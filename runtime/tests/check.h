/* check.h: what the C tests of the runtime share. A failed check prints its place and ends the program with 1. */
#ifndef MLC_CHECK_H
#define MLC_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                            \
    do {                                                                            \
        if (!(condition)) {                                                         \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            exit(1);                                                                \
        }                                                                           \
    } while (0)

/* Does `text` hold `part`? Prints both when it does not. */
#define CHECK_HOLDS(text, part)                                                                              \
    do {                                                                                                     \
        if (!strstr(text, part)) {                                                                           \
            fprintf(stderr, "%s:%d: \"%s\" does not hold \"%s\"\n", __FILE__, __LINE__, (text), (part)); \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

/* A fresh directory that the test works in. */
static inline void check_enter_directory(void)
{
    char path[] = "/tmp/mlc-test-XXXXXX";
    CHECK(mkdtemp(path));
    CHECK(!chdir(path));
}

static inline void check_leave_directory(void)
{
    char path[256], command[300];
    CHECK(getcwd(path, sizeof path) && !strncmp(path, "/tmp/mlc-test-", 14));
    CHECK(!chdir("/"));
    snprintf(command, sizeof command, "rm -rf %s", path);
    CHECK(!system(command));
}

static inline void check_write(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(data, 1, bytes, file) == bytes && !fclose(file));
}

/* A file's bytes and a 0 byte, allocated. */
static inline char *check_read(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    CHECK(file);
    CHECK(!fseek(file, 0, SEEK_END));
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(size + 1);
    CHECK(text && fread(text, 1, size, file) == size && !fclose(file));
    text[size] = 0;
    if (bytes)
        *bytes = size;
    return text;
}

#endif
