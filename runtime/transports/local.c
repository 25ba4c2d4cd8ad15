/* local.c: the transport `local`: ranks are processes of one machine that map each other's inboxes.
 *
 *   control file   the hub: boards, doorbells, the end of the run       mapped by all
 *   inbox files    one a rank                                           mapped by it and by those that send to it
 *
 * All are memfds: they have no name and vanish with their last user, however it ends. A launcher makes them and forks the ranks;
 * ranks without a common parent meet at a socket (join.c). Each rank has a lifeline, a pipe whose write end it alone holds: that end
 * closes when the rank ends, so each one sees the death of every other, in any pid namespace, whatever supervises them.
 */
#include "local.h"

#include "mlc.h"
#include "system/system.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define OWN_FILES 16      /* that a process opens at least besides */
#define SPARE_FILES 256   /* that it may */
#define LOOK_SECONDS 0.02 /* between two looks at the lifelines */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static uint64_t inbox_file_bytes(const mlc_local *local, int rank)
{
    return mlc_arena_file_bytes(local->model->roles[mlc_mesh_place(&local->model->mesh, rank)].inbox_bytes);
}

void mlc_local_close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- memory ---- */

/* Each rank has three files while all start. Takes as many as it may; an error is a limit that is not even enough for those. */
static int allow_files(int ranks, mlc_error *error)
{
    struct rlimit limit;
    rlim_t files = 3 * (rlim_t)ranks, least = files + OWN_FILES, wanted = files + SPARE_FILES;
    if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur >= wanted)
        return MLC_OK;
    if (limit.rlim_max < least)
        return mlc_error_set(error, MLC_FAILED, "transport local: %d ranks of one machine want %llu open files each, and the limit is %llu: "
                             "raise it with ulimit -n", ranks, (unsigned long long)least, (unsigned long long)limit.rlim_max);
    limit.rlim_cur = wanted < limit.rlim_max ? wanted : limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot raise the limit of open files");
    return MLC_OK;
}

mlc_local *mlc_local_allocate(const mlc_model *model, mlc_error *error)
{
    int ranks = mlc_mesh_ranks(&model->mesh);
    if (allow_files(ranks, error))
        return NULL;
    mlc_local *local = calloc(1, sizeof *local);
    if (local)
        *local = (mlc_local){.model = model, .ranks = ranks, .control = -1,
                             .inboxes = calloc((size_t)ranks, sizeof *local->inboxes),
                             .lines = calloc((size_t)ranks, sizeof *local->lines), .maps = calloc((size_t)ranks, sizeof *local->maps),
                             .ends = calloc((size_t)ranks, sizeof *local->ends), .polls = calloc((size_t)ranks, sizeof *local->polls)};
    if (!local || !local->inboxes || !local->lines || !local->maps || !local->ends || !local->polls) {
        mlc_error_set(error, MLC_FAILED, "transport local: out of memory");
        mlc_local_destroy(local);
        return NULL;
    }
    for (int i = 0; i < ranks; i++)
        local->inboxes[i] = local->lines[i] = local->ends[i] = -1;
    return local;
}

static int make_file(int *fd, uint64_t bytes, mlc_error *error)
{
    *fd = mlc_system_memory();
    if (*fd < 0 || ftruncate(*fd, (off_t)bytes))
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot make shared memory of %llu bytes", (unsigned long long)bytes);
    return MLC_OK;
}

int mlc_local_map_hub(mlc_local *local, mlc_error *error)
{
    void *hub = mmap(NULL, mlc_hub_bytes(local->ranks), PROT_READ | PROT_WRITE, MAP_SHARED, local->control, 0);
    if (hub == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot map %zu bytes", mlc_hub_bytes(local->ranks));
    local->hub = hub;
    return MLC_OK;
}

int mlc_local_make_files(mlc_local *local, mlc_error *error)
{
    if (make_file(&local->control, mlc_hub_bytes(local->ranks), error) || mlc_local_map_hub(local, error))
        return error->status;
    mlc_hub_initialize(local->hub, local->ranks);
    for (int i = 0; i < local->ranks; i++)
        if (make_file(&local->inboxes[i], inbox_file_bytes(local, i), error))
            return error->status;
    return MLC_OK;
}

int mlc_local_make_line(mlc_local *local, int rank, mlc_error *error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot make a pipe");
    local->lines[rank] = ends[0];
    local->ends[rank] = ends[1];
    return MLC_OK;
}

int mlc_local_create(mlc_local **out, const mlc_model *model, mlc_error *error)
{
    *out = NULL;
    mlc_local *local = mlc_local_allocate(model, error);
    if (!local)
        return error->status;
    mlc_local_make_files(local, error);
    for (int i = 0; i < local->ranks && !error->status; i++)
        mlc_local_make_line(local, i, error);
    if (error->status) {
        mlc_local_destroy(local);
        return error->status;
    }
    *out = local;
    return MLC_OK;
}

void mlc_local_settle(mlc_local *local, int rank)
{
    for (int i = 0; i < local->ranks; i++)
        if (i != rank)
            mlc_local_close_file(&local->ends[i]);
    if (rank >= 0)
        mlc_local_close_file(&local->lines[rank]);
}

void mlc_local_destroy(mlc_local *local)
{
    if (!local)
        return;
    for (int i = 0; i < local->ranks && local->inboxes && local->lines && local->ends; i++) {
        mlc_local_close_file(&local->inboxes[i]);
        mlc_local_close_file(&local->lines[i]);
        mlc_local_close_file(&local->ends[i]);
    }
    mlc_local_close_file(&local->control);
    if (local->hub)
        munmap(local->hub, mlc_hub_bytes(local->ranks));
    free(local->inboxes);
    free(local->lines);
    free(local->ends);
    free(local->polls);
    free(local->maps);
    free(local);
}

int mlc_local_inbox(const mlc_local *local, int rank)
{
    return local->inboxes[rank];
}

mlc_hub *mlc_local_hub(mlc_local *local)
{
    return local->hub;
}

/* ---- the transport ---- */

static int map_peer(mlc_local *local, int peer, mlc_error *error)
{
    if (local->maps[peer])
        return MLC_OK;
    void *map = mmap(NULL, inbox_file_bytes(local, peer), PROT_READ | PROT_WRITE, MAP_SHARED, local->inboxes[peer], 0);
    if (map == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot map the inbox of rank %d", peer);
    local->maps[peer] = map;
    return MLC_OK;
}

static int local_open(mlc_world *world, mlc_error *error)
{
    mlc_local *local = world->own;
    for (int i = 0; i < world->link_count; i++)
        if (world->links[i].sends && map_peer(local, world->links[i].peer, error))
            return error->status;
    if (mlc_hub_connect(local->hub, world, local->maps, error))
        return error->status;
    for (int i = 0; i < local->ranks; i++)
        mlc_local_close_file(&local->inboxes[i]);
    mlc_local_close_file(&local->control);
    return mlc_hub_meet(local->hub, world, error);
}

static void local_close(mlc_world *world)
{
    mlc_local *local = world->own;
    atomic_store(&local->hub->seats[world->rank].left, 1);
    mlc_hub_disconnect(world);
    for (int i = 0; i < local->ranks; i++)
        if (local->maps[i])
            munmap(local->maps[i], inbox_file_bytes(local, i));
    memset(local->maps, 0, (size_t)local->ranks * sizeof *local->maps);
}

static void look_at_lines(mlc_local *local, int own)
{
    local->looked = now();
    for (int i = 0; i < local->ranks; i++)
        local->polls[i] = (struct pollfd){.fd = i == own ? -1 : local->lines[i]}; /* negative ones are passed over */
    if (poll(local->polls, (nfds_t)local->ranks, 0) <= 0)
        return;
    for (int i = 0; i < local->ranks; i++) {
        if (!local->polls[i].revents)
            continue;
        mlc_local_close_file(&local->lines[i]);
        if (!atomic_load(&local->hub->seats[i].left))
            mlc_hub_lost(local->hub, i);
    }
}

int mlc_local_look(mlc_local *local, int own)
{
    if (now() - local->looked >= LOOK_SECONDS)
        look_at_lines(local, own);
    return atomic_load(&local->hub->lost) - 1;
}

static int local_lost(mlc_world *world)
{
    return mlc_local_look(world->own, world->rank);
}

static bool local_progress(mlc_world *world)
{
    const mlc_local *local = world->own;
    return mlc_hub_progress(local->hub, world);
}

static void local_rest(mlc_world *world, int64_t nanoseconds)
{
    const mlc_local *local = world->own;
    mlc_hub_rest(local->hub, world, nanoseconds);
}

static void local_allow(mlc_world *world, mlc_link *link)
{
    const mlc_local *local = world->own;
    mlc_hub_allow(local->hub, link);
}

static const mlc_status_board *local_board(const mlc_world *world, int rank)
{
    const mlc_local *local = world->own;
    return mlc_hub_board(local->hub, rank);
}

static void local_abandon(mlc_world *world, int status)
{
    const mlc_local *local = world->own;
    mlc_hub_abandon(local->hub, world->rank, status);
}

static int local_abandoned(mlc_world *world, int *rank)
{
    const mlc_local *local = world->own;
    return mlc_hub_abandoned(local->hub, rank);
}

static const mlc_transport local_transport = {
    .name = "local",
    .open = local_open,
    .progress = local_progress,
    .rest = local_rest,
    .allow = local_allow,
    .lost = local_lost,
    .board = local_board,
    .sees_all = true,
    .abandon = local_abandon,
    .abandoned = local_abandoned,
    .close = local_close,
};

void mlc_local_attach(mlc_local *local, mlc_world *world)
{
    world->transport = &local_transport;
    world->own = local;
    world->status = &local->hub->seats[world->rank].board;
    atomic_store(&world->status->pid, (int)getpid());
}
