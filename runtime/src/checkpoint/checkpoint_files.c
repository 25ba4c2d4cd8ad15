/* checkpoint_files.c: see checkpoint_files.h. */
#include "checkpoint/checkpoint_files.h"

#include "model/accord.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* Files being hashed by the threads of a rank. */
typedef struct hashing {
    mlc_hashed_files *files;
    mlc_rank *rank;
} hashing;

static void hash_bytes(mlc_sha256 *hash, int fd, const hashing *work, const char *name, mlc_error *error)
{
    _Alignas(64) uint8_t buffer[1 << 16];
    for (ssize_t bytes = 1; bytes;) {
        bytes = read(fd, buffer, sizeof buffer);
        if (bytes < 0 && errno != EINTR) {
            mlc_error_system(error, MLC_BAD_INPUT, "%s/%s: cannot be read", work->files->path, name);
            return;
        }
        if (bytes > 0)
            mlc_sha256_add(hash, buffer, (size_t)bytes);
        mlc_accord_work(work->rank);
    }
}

static void hash_file(const hashing *work, int64_t number, mlc_error *error)
{
    char name[MLC_NAME_BYTES];
    mlc_sha256 hash;
    work->files->name_of(work->files, number, name);
    int fd = mlc_folder_read(work->files->folder, name, work->files->path, error);
    if (fd < 0)
        return;
    mlc_sha256_begin(&hash);
    hash_bytes(&hash, fd, work, name, error);
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
