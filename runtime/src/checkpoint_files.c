/* checkpoint_files.c: see checkpoint_files.h. */
#include "checkpoint_files.h"

#include "accord.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* ---- directories ---- */

void mlc_directory_each(const char *directory, bool (*visit)(void *context, const char *name), void *context)
{
    _Alignas(8) char buffer[8192];
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return;
    bool more = true;
    for (long bytes; more && (bytes = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;) {
        struct dirent64 *entry;
        for (long at = 0; more && at < bytes; at += entry->d_reclen) {
            entry = (struct dirent64 *)(buffer + at);
            more = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") || visit(context, entry->d_name);
        }
    }
    close(fd);
}

static bool remove_name(void *directory, const char *name)
{
    char path[MLC_PATH_BYTES];
    mlc_error ignored = {0};
    if (!mlc_path_join(path, directory, name, &ignored))
        unlink(path);
    return true;
}

void mlc_directory_remove(char *directory)
{
    mlc_directory_each(directory, remove_name, directory);
    rmdir(directory);
}

int mlc_directory_sync(const char *directory, mlc_error *error)
{
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        mlc_error_system(error, MLC_FAILED, "%s: cannot be synced", directory);
    if (fd >= 0)
        close(fd);
    return error->status;
}

int mlc_directory_make(const char *directory, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    snprintf(path, sizeof path, "%s", directory);
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        mkdir(path, 0777);
        *slash = '/';
    }
    if (mkdir(path, 0777) && errno != EEXIST)
        return mlc_error_system(error, MLC_BAD_INPUT, "%s", directory);
    return mlc_path_is_directory(path) ? MLC_OK : mlc_error_set(error, MLC_BAD_INPUT, "%s: not a directory", directory);
}

/* ---- hashes ---- */

/* Files being hashed by the threads of a rank. */
typedef struct hashing {
    mlc_hashed_files *files;
    mlc_rank *rank;
} hashing;

static void hash_bytes(mlc_sha256 *hash, int fd, const char *path, mlc_rank *rank, mlc_error *error)
{
    _Alignas(64) uint8_t buffer[1 << 16];
    for (ssize_t bytes = 1; bytes;) {
        bytes = read(fd, buffer, sizeof buffer);
        if (bytes < 0 && errno != EINTR) {
            mlc_error_system(error, MLC_BAD_INPUT, "%s: cannot be read", path);
            return;
        }
        if (bytes > 0)
            mlc_sha256_add(hash, buffer, (size_t)bytes);
        mlc_accord_work(rank);
    }
}

static void hash_file(const hashing *work, int64_t number, mlc_error *error)
{
    char path[MLC_PATH_BYTES];
    mlc_sha256 hash;
    if (work->files->path_of(work->files, number, path, error))
        return;
    int fd = mlc_file_open_regular(path, error);
    if (fd < 0)
        return;
    mlc_sha256_begin(&hash);
    hash_bytes(&hash, fd, path, work->rank, error);
    close(fd);
    mlc_sha256_end(&hash, work->files->digests[number - work->files->first]);
}

/* Rank r reads files r, r + ranks, ...; its threads take turns. */
static void hash_share(mlc_env *env, void *context)
{
    const hashing *work = context;
    const mlc_hashed_files *files = work->files;
    int ranks = work->rank->world.ranks, turn = 0;
    mlc_error *error = &mlc_worker_of(env)->error;
    for (int64_t i = files->first; i < files->first + files->count; i++)
        if (i % ranks == work->rank->rank && turn++ % env->threads == env->thread && !error->status)
            hash_file(work, i, error);
}

int mlc_hashed_files_read(mlc_hashed_files *files, mlc_rank *rank, mlc_error *error)
{
    hashing work = {files, rank};
    memset(files->digests, 0, sizeof files->digests);
    for (int i = 0; i < rank->team->threads; i++)
        rank->team->workers[i].error.status = MLC_OK;
    if (!error->status)
        mlc_team_run(rank->team, hash_share, &work);
    for (int i = 0; i < rank->team->threads; i++) {
        const mlc_error *failed = &rank->team->workers[i].error;
        if (failed->status)
            mlc_error_set(error, failed->status, "%s", failed->text);
    }
    if (mlc_accord(rank, error))
        return error->status;
    return mlc_accord_block(rank, files->digests, sizeof files->digests, error);
}
