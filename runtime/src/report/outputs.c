/* outputs.c: see outputs.h. */
#include "report/outputs.h"

#include "mlc.h"
#include "system/file.h"
#include "system/voice.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_NUMBER 100000
#define NO_REPLACE 1 /* RENAME_NOREPLACE, which older libraries do not name */

/* ---- standard descriptors ---- */

/* To read from what can only be written, and the other way round, is an error. */
void mlc_outputs_guard(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
            open("/dev/null", fd ? O_RDONLY : O_WRONLY); /* gets the lowest number: this one */
}

/* ---- outputs that are inputs ---- */

/* An output and what is known of the file behind it. */
typedef struct output {
    const char *option;
    const char *path;
    bool exists;
    struct stat status;
} output;

static output output_of(const char *option, const char *path)
{
    output it = {.option = option, .path = path};
    it.exists = path && !stat(path, &it.status);
    return it;
}

static bool is_same(const struct stat *a, const struct stat *b)
{
    return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static int refuse(const output *it, const char *what, const char *other, mlc_error *error)
{
    return mlc_error_set(error, MLC_USAGE, "%s %s: is %s %s: nothing was written", it->option, it->path, what, other);
}

static int check_input(const output *it, const char *path, mlc_error *error)
{
    struct stat status;
    bool same = path && !stat(path, &status) && S_ISREG(status.st_mode) && is_same(&status, &it->status);
    return same ? refuse(it, "also read as", path, error) : MLC_OK;
}

static int check_data(const output *it, const mlc_data *data, mlc_error *error)
{
    for (int i = 0; data->model && i < data->model->input_count; i++) {
        for (int f = 0; f < data->streams[i].count; f++)
            if (check_input(it, data->streams[i].files[f].path, error))
                return error->status;
        if (check_input(it, data->array_paths[i], error))
            return error->status;
    }
    return MLC_OK;
}

/* The directory that a file lies in, and its name there. */
static const char *split(const char *path, char directory[MLC_PATH_BYTES])
{
    const char *slash = strrchr(path, '/');
    size_t length = slash ? (size_t)(slash - path) : 0;
    snprintf(directory, MLC_PATH_BYTES, "%.*s", (int)length, path);
    if (!length)
        snprintf(directory, MLC_PATH_BYTES, "%s", slash ? "/" : ".");
    return slash ? slash + 1 : path;
}

static bool lies_in(const char *directory, const char *other)
{
    struct stat a, b;
    return !stat(directory, &a) && !stat(other, &b) && is_same(&a, &b);
}

static int check_checkpoint(const output *it, const char *checkpoint, mlc_error *error)
{
    char directory[MLC_PATH_BYTES];
    const char *name = split(it->path, directory);
    bool ours = !strcmp(name, "latest") || !strcmp(name, "best") || !strncmp(name, "step-", 5) || *name == '.';
    bool there = !strcmp(directory, checkpoint) || lies_in(directory, checkpoint);
    return ours && there ? refuse(it, "a name that checkpoints use in", checkpoint, error) : MLC_OK;
}

/* Standard output and error where they go into a file. */
static int check_standard(const output *it, mlc_error *error)
{
    static const char *const NAMES[] = {[STDOUT_FILENO] = "output", [STDERR_FILENO] = "error"};
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++) {
        struct stat status;
        if (!fstat(fd, &status) && S_ISREG(status.st_mode) && is_same(&status, &it->status))
            return refuse(it, "also standard", NAMES[fd], error);
    }
    return MLC_OK;
}

static int check_output(const output *it, const mlc_options *options, const mlc_data *data, const mlc_data *evaluation, mlc_error *error)
{
    if (it->path && options->checkpoint && check_checkpoint(it, options->checkpoint, error))
        return error->status;
    if (!it->exists || !S_ISREG(it->status.st_mode))
        return MLC_OK;
    if (check_data(it, data, error) || check_data(it, evaluation, error) || check_input(it, options->weights, error))
        return error->status;
    return check_standard(it, error);
}

/* Do both names mean one file, there or not? */
static bool is_one(const output *a, const output *b)
{
    char one[MLC_PATH_BYTES], other[MLC_PATH_BYTES];
    if (!a->path || !b->path)
        return false;
    if (a->exists || b->exists)
        return a->exists && b->exists && S_ISREG(a->status.st_mode) && is_same(&a->status, &b->status);
    return !strcmp(split(a->path, one), split(b->path, other)) && (!strcmp(one, other) || lies_in(one, other));
}

int mlc_outputs_check(const mlc_options *options, const mlc_data *data, const mlc_data *evaluation, mlc_error *error)
{
    enum { OUTPUTS = 3 };
    const output all[OUTPUTS] = {output_of("--log", options->log), output_of("--trace", options->trace),
                                 output_of("--profile-json", options->profile_json)};
    for (int i = 0; i < OUTPUTS; i++)
        if (check_output(&all[i], options, data, evaluation, error))
            return error->status;
    for (int i = 0; i < OUTPUTS; i++)
        for (int j = i + 1; j < OUTPUTS; j++)
            if (is_one(&all[i], &all[j]))
                return refuse(&all[i], "also", all[j].option, error);
    return MLC_OK;
}
/* ---- outputs that are there ---- */

/* Does a file begin so, as far as it goes? */
static bool begins(const char *path, const char *head)
{
    char text[64];
    mlc_error ignored = {0};
    int fd = mlc_file_open_regular(path, &ignored);
    ssize_t bytes = fd < 0 ? -1 : read(fd, text, strlen(head) < sizeof text ? strlen(head) : sizeof text);
    if (fd >= 0)
        close(fd);
    return bytes >= 0 && !memcmp(text, head, (size_t)bytes);
}

/* Renames, unless there is a file of the new name. */
static int rename_fresh(const char *from, const char *to)
{
    struct stat status;
    if (!syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, NO_REPLACE))
        return 0;
    if (errno != EINVAL && errno != ENOSYS)
        return -1;
    if (!lstat(to, &status)) {
        errno = EEXIST;
        return -1;
    }
    return rename(from, to);
}

static int set_aside(const char *path, mlc_error *error)
{
    char name[MLC_PATH_BYTES + 8];
    for (int number = 1; number < LAST_NUMBER; number++) {
        snprintf(name, sizeof name, "%s.%d", path, number);
        if (!rename_fresh(path, name)) {
            mlc_say("note: %s was there already: it is %s now\n", path, name);
            return MLC_OK;
        }
        if (errno == ENOENT) /* another run has */
            return MLC_OK;
        if (errno != EEXIST)
            break;
    }
    return mlc_error_system(error, MLC_BAD_INPUT, "%s: is there already, and cannot be renamed", path);
}

int mlc_output_clear(const char *path, const char *head, bool kept, mlc_error *error)
{
    struct stat status;
    if (stat(path, &status) || !S_ISREG(status.st_mode) || !status.st_size)
        return MLC_OK;
    if (!begins(path, head))
        return mlc_error_set(error, MLC_USAGE, "%s: is there already, and no output of an earlier run: give another name", path);
    return kept ? MLC_OK : set_aside(path, error);
}
