/* local.c: the transport `local`: ranks are processes of one machine that map each other's inboxes.
 *
 *   control file   the hub: boards, doorbells, the end of the run       mapped by all
 *   inbox files    one a rank                                           mapped by it and by those that send to it
 *
 * All are memfds: they have no name and vanish with their last user, however it ends. A launcher makes them and forks the ranks.
 * Ranks without a common parent meet at an abstract socket (it vanishes too) where rank 0 listens:
 *
 *   rank r -> rank 0   hello, with the read end of a pipe whose write end only rank r holds: its lifeline
 *   rank 0 -> rank r   when all have come: the control file, then the inbox file and the lifeline of each rank
 *
 * The write end of a lifeline closes when its rank ends, so each rank sees the death of every other one, in any pid namespace.
 */
#include "hub.h"

#include "mlc.h"
#include "system.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LOOK_SECONDS 0.02 /* between two looks at the lifelines */
#define RETRY 20000000    /* nanoseconds between two tries to connect */

struct mlc_local {
    const mlc_model *model;
    int ranks;
    mlc_hub *hub;
    int control;     /* files; -1: closed */
    int *inboxes;    /* [ranks] */
    int *lines;      /* [ranks], read ends; -1: none */
    int own_line;    /* write end */
    char **maps;     /* [ranks]: inboxes of the ranks that this one sends to, NULL: none */
    double looked;
};

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static uint64_t inbox_file_bytes(const mlc_local *local, int rank)
{
    return mlc_arena_file_bytes(local->model->roles[rank % local->model->pp].inbox_bytes);
}

static void close_file(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* ---- memory ---- */

static mlc_local *allocate(const mlc_model *model, mlc_error *error)
{
    int ranks = model->pp * model->dp;
    mlc_local *local = calloc(1, sizeof *local);
    if (local)
        *local = (mlc_local){.model = model, .ranks = ranks, .control = -1, .own_line = -1,
                             .inboxes = calloc((size_t)ranks, sizeof *local->inboxes),
                             .lines = calloc((size_t)ranks, sizeof *local->lines), .maps = calloc((size_t)ranks, sizeof *local->maps)};
    if (!local || !local->inboxes || !local->lines || !local->maps) {
        mlc_error_set(error, MLC_FAILED, "transport local: out of memory");
        mlc_local_destroy(local);
        return NULL;
    }
    for (int i = 0; i < ranks; i++)
        local->inboxes[i] = local->lines[i] = -1;
    return local;
}

static int make_file(int *fd, uint64_t bytes, mlc_error *error)
{
    *fd = mlc_system_memory();
    if (*fd < 0 || ftruncate(*fd, (off_t)bytes))
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot make shared memory of %llu bytes", (unsigned long long)bytes);
    return MLC_OK;
}

static int map_hub(mlc_local *local, mlc_error *error)
{
    void *hub = mmap(NULL, mlc_hub_bytes(local->ranks), PROT_READ | PROT_WRITE, MAP_SHARED, local->control, 0);
    if (hub == MAP_FAILED)
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot map %zu bytes", mlc_hub_bytes(local->ranks));
    local->hub = hub;
    return MLC_OK;
}

static int make_files(mlc_local *local, mlc_error *error)
{
    if (make_file(&local->control, mlc_hub_bytes(local->ranks), error) || map_hub(local, error))
        return error->status;
    mlc_hub_initialize(local->hub, local->ranks);
    for (int i = 0; i < local->ranks; i++)
        if (make_file(&local->inboxes[i], inbox_file_bytes(local, i), error))
            return error->status;
    return MLC_OK;
}

int mlc_local_create(mlc_local **out, const mlc_model *model, mlc_error *error)
{
    *out = NULL;
    mlc_local *local = allocate(model, error);
    if (!local)
        return error->status;
    if (make_files(local, error)) {
        mlc_local_destroy(local);
        return error->status;
    }
    *out = local;
    return MLC_OK;
}

void mlc_local_destroy(mlc_local *local)
{
    if (!local)
        return;
    for (int i = 0; i < local->ranks && local->inboxes && local->lines; i++) {
        close_file(&local->inboxes[i]);
        close_file(&local->lines[i]);
    }
    close_file(&local->control);
    close_file(&local->own_line);
    if (local->hub)
        munmap(local->hub, mlc_hub_bytes(local->ranks));
    free(local->inboxes);
    free(local->lines);
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

/* ---- meeting at a socket ---- */

typedef struct hello {
    char magic[8];
    int32_t rank;
    int32_t ranks;
    uint64_t plan; /* hash of what both sides must have in common */
} hello;

static const char magic[8] = "mlcjoin";

/* What a try to meet has left. */
typedef struct deadline {
    double at; /* 0: none */
} deadline;

static bool is_over(deadline limit)
{
    return limit.at > 0 && now() > limit.at;
}

static int milliseconds_left(deadline limit)
{
    if (limit.at <= 0)
        return -1;
    double left = limit.at - now();
    return left > 0 ? (int)(left * 1e3) + 1 : 0;
}

/* True: fd is ready to be read; false: the time is over. */
static bool is_ready(int fd, deadline limit)
{
    struct pollfd ready = {.fd = fd, .events = POLLIN};
    int count;
    while ((count = poll(&ready, 1, milliseconds_left(limit))) < 0 && errno == EINTR)
        ;
    return count == 1;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t bytes)
{
    const unsigned char *from = data;
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ from[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static const uint64_t hash_start = UINT64_C(0xcbf29ce484222325);

static uint64_t hash_plan(const mlc_model *model)
{
    uint64_t hash = hash_bytes(hash_start, model->hash, strlen(model->hash));
    hash = hash_bytes(hash, &model->pp, sizeof model->pp);
    hash = hash_bytes(hash, &model->dp, sizeof model->dp);
    for (int i = 0; i < model->pp; i++)
        hash = hash_bytes(hash, &model->roles[i].inbox_bytes, sizeof model->roles[i].inbox_bytes);
    return hash;
}

static hello own_hello(const mlc_local *local, int rank)
{
    hello greeting = {.rank = rank, .ranks = local->ranks, .plan = hash_plan(local->model)};
    memcpy(greeting.magic, magic, sizeof magic);
    return greeting;
}

static socklen_t address_of(const char *name, struct sockaddr_un *address)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int length = snprintf(address->sun_path + 1, sizeof address->sun_path - 1, "mlc-%016llx",
                          (unsigned long long)hash_bytes(hash_start, name, strlen(name)));
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

enum { MOST_FILES = 2 };

typedef union room {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(MOST_FILES * sizeof(int))];
} room;

static bool send_message(int fd, void *data, size_t bytes, const int *files, int count)
{
    room space = {0};
    struct iovec part = {data, bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &space};
    message.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    *header = (struct cmsghdr){.cmsg_len = CMSG_LEN((size_t)count * sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
    memcpy(CMSG_DATA(header), files, (size_t)count * sizeof(int));
    return sendmsg(fd, &message, MSG_NOSIGNAL) == (ssize_t)bytes;
}

/* Waits for a message of exactly so many bytes and files. */
static bool receive_message(int fd, void *data, size_t bytes, int *files, int count, deadline limit)
{
    if (!is_ready(fd, limit))
        return false;
    room space = {0};
    struct iovec part = {data, bytes};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &space, .msg_controllen = sizeof space};
    ssize_t got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    struct cmsghdr *header = got < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (!header || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
        return false;
    int came = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    int held[MOST_FILES];
    memcpy(held, CMSG_DATA(header), (size_t)came * sizeof(int));
    if (got == (ssize_t)bytes && came == count) {
        memcpy(files, held, (size_t)count * sizeof(int));
        return true;
    }
    for (int i = 0; i < came; i++)
        close(held[i]);
    return false;
}

static bool is_same_user(int fd)
{
    struct ucred peer;
    socklen_t bytes = sizeof peer;
    return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &bytes) && peer.uid == geteuid();
}

static int make_line(mlc_local *local, int *line, mlc_error *error)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC))
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot make a pipe");
    *line = ends[0];
    local->own_line = ends[1];
    return MLC_OK;
}

/* Rank 0: a listening socket of that name; waits for the end of an earlier run that has it. -1: failed. */
static int listen_at(const char *name, deadline limit, mlc_error *error)
{
    struct sockaddr_un address;
    socklen_t bytes = address_of(name, &address);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    while (fd >= 0 && bind(fd, (struct sockaddr *)&address, bytes)) {
        if (errno != EADDRINUSE || is_over(limit)) {
            mlc_error_system(error, MLC_FAILED, "transport local: cannot meet the other ranks at socket @%s", address.sun_path + 1);
            close_file(&fd);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    }
    if (fd < 0 || listen(fd, SOMAXCONN)) {
        mlc_error_system(error, MLC_FAILED, "transport local: cannot listen");
        close_file(&fd);
    }
    return fd;
}

/* Rank 0: takes the hello of the next rank that comes; keeps its connection and lifeline. */
static int accept_rank(mlc_local *local, int listener, int *connections, deadline limit, mlc_error *error)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot accept a rank");
    hello expected = own_hello(local, 0), got;
    int line = -1;
    if (!is_same_user(fd) || !receive_message(fd, &got, sizeof got, &line, 1, limit) || memcmp(got.magic, magic, sizeof magic)) {
        close(fd); /* not one of ours */
        return MLC_OK;
    }
    int rank = got.rank;
    if (got.plan == expected.plan && got.ranks == local->ranks && rank > 0 && rank < local->ranks && connections[rank] < 0) {
        connections[rank] = fd;
        local->lines[rank] = line;
        return MLC_OK;
    }
    close(fd);
    close(line);
    return mlc_error_set(error, MLC_USAGE, "rank %d of %d came with another plan than rank 0 of %d has, or came twice", rank, got.ranks,
                         local->ranks);
}

static int missing_rank(const mlc_local *local, const int *connections)
{
    for (int i = 1; i < local->ranks; i++)
        if (connections[i] < 0)
            return i;
    return -1;
}

static int accept_ranks(mlc_local *local, int listener, int *connections, deadline limit, mlc_error *error)
{
    for (int missing; (missing = missing_rank(local, connections)) >= 0;) {
        if (!is_ready(listener, limit))
            return mlc_error_set(error, MLC_HANG, "rank %d of %d has not come to meet rank 0 in time", missing, local->ranks);
        if (accept_rank(local, listener, connections, limit, error))
            return error->status;
    }
    return MLC_OK;
}

/* Rank 0: what a rank needs. */
static int send_files(const mlc_local *local, int rank, int connection, mlc_error *error)
{
    hello greeting = own_hello(local, rank);
    bool sent = send_message(connection, &greeting, sizeof greeting, &local->control, 1);
    for (int i = 0; i < local->ranks && sent; i++) {
        greeting.rank = i;
        sent = send_message(connection, &greeting, sizeof greeting, (int[]){local->inboxes[i], local->lines[i]}, 2);
    }
    return sent ? MLC_OK : mlc_error_system(error, MLC_FAILED, "rank %d is lost; the run had not begun", rank);
}

static int serve(mlc_local *local, const char *name, deadline limit, mlc_error *error)
{
    int *connections = calloc((size_t)local->ranks, sizeof *connections);
    if (!connections)
        return mlc_error_set(error, MLC_FAILED, "transport local: out of memory");
    for (int i = 0; i < local->ranks; i++)
        connections[i] = -1;
    int listener = -1;
    if (!make_files(local, error) && !make_line(local, &local->lines[0], error))
        listener = listen_at(name, limit, error);
    if (listener >= 0)
        accept_ranks(local, listener, connections, limit, error);
    for (int i = 1; i < local->ranks && !error->status; i++)
        send_files(local, i, connections[i], error);
    close_file(&listener);
    for (int i = 0; i < local->ranks; i++)
        close_file(&connections[i]);
    free(connections);
    return error->status;
}

/* A connection to rank 0, which may not be there yet. -1: failed. */
static int connect_to(const char *name, deadline limit, mlc_error *error)
{
    struct sockaddr_un address;
    socklen_t bytes = address_of(name, &address);
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd >= 0 && !connect(fd, (struct sockaddr *)&address, bytes) && is_same_user(fd))
            return fd;
        close_file(&fd);
        if (is_over(limit)) {
            mlc_error_set(error, MLC_HANG, "rank 0 has not come to meet the other ranks at socket @%s in time", address.sun_path + 1);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    }
}

static int receive_files(mlc_local *local, int connection, deadline limit, mlc_error *error)
{
    hello got;
    bool came = receive_message(connection, &got, sizeof got, &local->control, 1, limit);
    for (int i = 0; i < local->ranks && came; i++) {
        int files[2];
        came = receive_message(connection, &got, sizeof got, files, 2, limit);
        if (came) {
            local->inboxes[i] = files[0];
            local->lines[i] = files[1];
        }
    }
    if (!came)
        return mlc_error_set(error, MLC_FAILED, "rank 0 ended, or did not answer in time; the run had not begun");
    return map_hub(local, error);
}

static int visit(mlc_local *local, int rank, const char *name, deadline limit, mlc_error *error)
{
    int line = -1;
    if (make_line(local, &line, error))
        return error->status;
    int connection = connect_to(name, limit, error);
    hello greeting = own_hello(local, rank);
    if (connection >= 0 && !send_message(connection, &greeting, sizeof greeting, &line, 1))
        mlc_error_system(error, MLC_FAILED, "transport local: cannot reach rank 0");
    close(line);
    if (!error->status)
        receive_files(local, connection, limit, error);
    close_file(&connection);
    return error->status;
}

int mlc_local_join(mlc_local **out, const mlc_model *model, int rank, const char *name, double seconds, mlc_error *error)
{
    *out = NULL;
    mlc_local *local = allocate(model, error);
    if (!local)
        return error->status;
    deadline limit = {seconds > 0 ? now() + seconds : 0};
    if (rank == 0 ? serve(local, name, limit, error) : visit(local, rank, name, limit, error)) {
        mlc_local_destroy(local);
        return error->status;
    }
    close_file(&local->lines[rank]);
    *out = local;
    return MLC_OK;
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
        close_file(&local->inboxes[i]);
    close_file(&local->control);
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

/* Looks at the lifelines, if there are any and the last look was some time ago. Only the lead thread. */
static void look_at_lines(mlc_local *local, int own)
{
    if (now() - local->looked < LOOK_SECONDS)
        return;
    local->looked = now();
    for (int i = 0; i < local->ranks; i++) {
        struct pollfd line = {.fd = local->lines[i]};
        if (i == own || local->lines[i] < 0 || poll(&line, 1, 0) != 1)
            continue;
        close_file(&local->lines[i]);
        if (!atomic_load(&local->hub->seats[i].left))
            mlc_hub_lost(local->hub, i);
    }
}

static int local_lost(mlc_world *world)
{
    mlc_local *local = world->own;
    look_at_lines(local, world->rank);
    return atomic_load(&local->hub->lost) - 1;
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

static void local_released(mlc_world *world, mlc_link *link)
{
    const mlc_local *local = world->own;
    mlc_hub_released(local->hub, link);
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
    .released = local_released,
    .lost = local_lost,
    .board = local_board,
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
