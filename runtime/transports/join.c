/* join.c: how ranks of one machine meet that have no common parent (torchrun, srun, mpirun): at a socket where rank 0 listens.
 *
 *   rank r -> rank 0   hello, with the read end of a pipe whose write end only rank r holds: its lifeline
 *   rank 0 -> rank r   when all have come: the control file, then the inbox file and the lifeline of each rank; or with which status
 *                      it ended the run
 *
 * The socket lies in a directory that the user alone can enter, and is removed when all have come. Nothing here depends on the model
 * but the sizes of inboxes, which rank 0 makes and nobody maps before the ranks have agreed on their terms.
 */
#include "local.h"

#include "mlc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define RETRY 20000000     /* nanoseconds between two tries to connect */
#define ANSWER_SECONDS 1.0 /* after its own time has passed, for rank 0 to say so to the others */
#define REFUSE_SECONDS 2.0 /* for ranks that come after rank 0 has found that it cannot go on */
#define LONGEST 2e6        /* seconds whose milliseconds an int holds: three weeks */
#define DIRECTORY_BYTES 80 /* with the name of a socket it fits sun_path */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* ---- messages ---- */

typedef struct hello {
    char magic[8];
    int32_t rank;   /* from rank 0: which rank's files these are */
    int32_t ranks;
    int32_t status;  /* with which the sender ends the run; 0: it goes on */
    char why[256];   /* to rank 0, which says it */
} hello;

static const char magic[8] = "mlcjoi2";

/* What a try to meet has left. */
typedef struct deadline {
    double at; /* 0: none */
    double seconds;
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
    return left > LONGEST ? (int)(LONGEST * 1e3) : left > 0 ? (int)(left * 1e3) + 1 : 0;
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

static hello own_hello(const mlc_local *local, int rank)
{
    hello greeting = {.rank = rank, .ranks = local->ranks};
    memcpy(greeting.magic, magic, sizeof magic);
    return greeting;
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

/* ---- the socket ---- */

/* A directory that this user alone can enter, so that nobody else can hold a socket in it: made if there is none. */
static bool is_private(const char *path)
{
    struct stat status;
    mkdir(path, 0700);
    return !lstat(path, &status) && S_ISDIR(status.st_mode) && status.st_uid == geteuid() && !(status.st_mode & 077);
}

/* All ranks of a machine choose alike. Another user may have taken the name in a directory that is open to all, not in the last. */
static int choose_directory(char path[DIRECTORY_BYTES], mlc_error *error)
{
    const char *bases[] = {"/tmp", "/dev/shm", getenv("XDG_RUNTIME_DIR")};
    for (int i = 0; i < 3; i++) {
        int length = snprintf(path, DIRECTORY_BYTES, "%s/mlc-%u", bases[i] ? bases[i] : "", (unsigned)geteuid());
        if (bases[i] && length < DIRECTORY_BYTES && is_private(path))
            return MLC_OK;
    }
    return mlc_error_set(error, MLC_FAILED, "transport local: the ranks cannot meet: neither /tmp/mlc-%u nor the same in /dev/shm or in "
                         "XDG_RUNTIME_DIR is a directory that this user alone can enter", (unsigned)geteuid());
}

/* Names are shared by all ranks of a run, and may be long. */
static uint64_t hash_text(const char *text)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
    return hash;
}

static int find_address(const char *name, struct sockaddr_un *address, mlc_error *error)
{
    char directory[DIRECTORY_BYTES];
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (choose_directory(directory, error))
        return error->status;
    snprintf(address->sun_path, sizeof address->sun_path, "%s/%016llx", directory, (unsigned long long)hash_text(name));
    return MLC_OK;
}

/* A rank 0 that was killed leaves its socket: one that refuses has no owner. */
static void remove_left_socket(const struct sockaddr_un *address)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (const struct sockaddr *)address, sizeof *address) && errno == ECONNREFUSED)
        unlink(address->sun_path);
    mlc_local_close_file(&fd);
}

/* One try to listen; returns 0, or errno: EADDRINUSE or EWOULDBLOCK while another run is there. Under the lock of the directory, so that
 * no socket seems left between bind and listen. */
static int try_listen(int fd, const struct sockaddr_un *address)
{
    char directory[sizeof address->sun_path];
    snprintf(directory, sizeof directory, "%s", address->sun_path);
    *strrchr(directory, '/') = 0;
    int lock = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), failed = 0;
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB))
        failed = errno;
    if (!failed)
        remove_left_socket(address);
    if (!failed && (bind(fd, (const struct sockaddr *)address, sizeof *address) || listen(fd, SOMAXCONN)))
        failed = errno;
    mlc_local_close_file(&lock);
    return failed;
}

/* Rank 0: a listening socket; waits for the end of an earlier run that has it. -1: failed. */
static int listen_at(const struct sockaddr_un *address, deadline limit, mlc_error *error)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), failed = fd < 0 ? errno : 0;
    while (fd >= 0 && (failed = try_listen(fd, address)) && (failed == EADDRINUSE || failed == EWOULDBLOCK) && !is_over(limit))
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    if (!failed)
        return fd;
    errno = failed;
    mlc_error_system(error, MLC_FAILED, "transport local: cannot meet the other ranks at socket %s", address->sun_path);
    mlc_local_close_file(&fd);
    return -1;
}

/* ---- rank 0 ---- */

/* Rank 0: takes the hello of the next rank that comes; keeps its connection and lifeline. */
static int accept_rank(mlc_local *local, int listener, int *connections, deadline limit, mlc_error *error)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return mlc_error_system(error, MLC_FAILED, "transport local: cannot accept a rank");
    hello greeting = own_hello(local, 0), got;
    int line = -1;
    if (!is_same_user(fd) || !receive_message(fd, &got, sizeof got, &line, 1, limit) || memcmp(got.magic, magic, sizeof magic)) {
        close(fd); /* not one of ours */
        return MLC_OK;
    }
    int rank = got.rank;
    if (got.status) {
        if (rank > 0 && rank < local->ranks && connections[rank] < 0)
            connections[rank] = fd; /* it has come, if only to say so */
        else
            close(fd);
        close(line);
        return mlc_error_set(error, got.status, "rank %d: %.255s", rank, got.why);
    }
    if (got.ranks == local->ranks && rank > 0 && rank < local->ranks && connections[rank] < 0) {
        connections[rank] = fd;
        local->lines[rank] = line;
        return MLC_OK;
    }
    greeting.status = MLC_USAGE;
    send_message(fd, &greeting, sizeof greeting, &local->lines[0], 1);
    close(fd);
    close(line);
    if (got.ranks == local->ranks && rank > 0 && rank < local->ranks)
        return mlc_error_set(error, MLC_USAGE, "two processes are rank %d of %d: did two launchers start with the same address and port?",
                             rank, got.ranks);
    return mlc_error_set(error, MLC_USAGE, "rank %d of %d came to meet rank 0 of %d", rank, got.ranks, local->ranks);
}

static int missing_rank(const mlc_local *local, const int *connections)
{
    for (int i = 1; i < local->ranks; i++)
        if (connections[i] < 0)
            return i;
    return -1;
}

static int missing_ranks(const mlc_local *local, const int *connections)
{
    int count = 0;
    for (int i = 1; i < local->ranks; i++)
        count += connections[i] < 0;
    return count;
}

static int accept_ranks(mlc_local *local, int listener, int *connections, deadline limit, mlc_error *error)
{
    for (int missing; (missing = missing_rank(local, connections)) >= 0;) {
        if (!is_ready(listener, limit))
            return mlc_error_set(error, MLC_HANG, "rank %d of %d has not come to meet rank 0 within %g s", missing, local->ranks,
                                 limit.seconds);
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

/* Rank 0: those that come later end as it does too; `missing`: how many may. Each is heard first: to close on what is unread would be an
 * error for it. */
static void refuse_visitors(int listener, int missing, int ranks, int status, deadline limit)
{
    hello greeting = {.ranks = ranks, .status = status}, got;
    memcpy(greeting.magic, magic, sizeof magic);
    while (missing > 0 && is_ready(listener, limit)) {
        int line = -1, fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        missing -= fd >= 0 && receive_message(fd, &got, sizeof got, &line, 1, limit) && send_message(fd, &greeting, sizeof greeting, &line, 1);
        mlc_local_close_file(&line);
        mlc_local_close_file(&fd);
    }
}

/* Rank 0: those that have come end as it does. */
static void send_refusals(const mlc_local *local, const int *connections, int status)
{
    hello greeting = own_hello(local, 0);
    greeting.status = status;
    for (int i = 1; i < local->ranks; i++)
        if (connections[i] >= 0)
            send_message(connections[i], &greeting, sizeof greeting, &local->lines[0], 1);
}

static int serve(mlc_local *local, const char *name, deadline limit, mlc_error *error)
{
    int *connections = calloc((size_t)local->ranks, sizeof *connections);
    if (!connections)
        return mlc_error_set(error, MLC_FAILED, "transport local: out of memory");
    for (int i = 0; i < local->ranks; i++)
        connections[i] = -1;
    int listener = -1;
    struct sockaddr_un address;
    if (!find_address(name, &address, error) && !mlc_local_make_files(local, error) && !mlc_local_make_line(local, 0, error))
        listener = listen_at(&address, limit, error);
    if (listener >= 0)
        accept_ranks(local, listener, connections, limit, error);
    for (int i = 1; i < local->ranks && !error->status; i++)
        send_files(local, i, connections[i], error);
    if (error->status)
        send_refusals(local, connections, error->status);
    if (listener >= 0 && error->status && error->status != MLC_HANG)
        refuse_visitors(listener, missing_ranks(local, connections), local->ranks, error->status, (deadline){now() + REFUSE_SECONDS, 0});
    if (listener >= 0)
        unlink(address.sun_path);
    mlc_local_close_file(&listener);
    for (int i = 0; i < local->ranks; i++)
        mlc_local_close_file(&connections[i]);
    free(connections);
    return error->status;
}

/* ---- the others ---- */

/* A connection to rank 0, which may not be there yet. -1: failed. */
static int connect_to(const struct sockaddr_un *address, deadline limit, mlc_error *error)
{
    for (;;) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd < 0) {
            mlc_error_system(error, MLC_FAILED, "transport local: cannot make a socket to meet rank 0");
            return -1;
        }
        if (!connect(fd, (const struct sockaddr *)address, sizeof *address) && is_same_user(fd))
            return fd;
        mlc_local_close_file(&fd);
        if (is_over(limit)) {
            mlc_error_set(error, MLC_HANG, "rank 0 has not come to meet the other ranks at socket %s within %g s", address->sun_path,
                          limit.seconds);
            return -1;
        }
        nanosleep(&(struct timespec){.tv_nsec = RETRY}, NULL);
    }
}

static int receive_files(mlc_local *local, int connection, deadline limit, mlc_error *error)
{
    hello got;
    bool came = receive_message(connection, &got, sizeof got, &local->control, 1, limit);
    if (came && got.status)
        return got.status; /* rank 0 says why */
    for (int i = 0; i < local->ranks && came; i++) {
        int files[2];
        came = receive_message(connection, &got, sizeof got, files, 2, limit);
        if (came) {
            local->inboxes[i] = files[0];
            local->lines[i] = files[1];
        }
    }
    if (came)
        return mlc_local_map_hub(local, error);
    bool late = is_over(limit);
    return mlc_error_set(error, late ? MLC_HANG : MLC_FAILED, late ? "rank 0 has not answered within %g s; the run had not begun"
                         : "rank 0 is lost; the run had not begun", limit.seconds);
}

static int visit(mlc_local *local, int rank, const char *name, deadline limit, mlc_error *error)
{
    struct sockaddr_un address;
    if (find_address(name, &address, error) || mlc_local_make_line(local, rank, error))
        return error->status;
    int connection = connect_to(&address, limit, error);
    hello greeting = own_hello(local, rank);
    if (connection >= 0 && !send_message(connection, &greeting, sizeof greeting, &local->lines[rank], 1))
        mlc_error_system(error, MLC_FAILED, "transport local: cannot reach rank 0");
    mlc_local_close_file(&local->lines[rank]);
    limit.at += limit.at > 0 ? ANSWER_SECONDS : 0;
    int status = error->status ? error->status : receive_files(local, connection, limit, error);
    mlc_local_close_file(&connection);
    return status;
}

int mlc_local_join(mlc_local **out, const mlc_model *model, int rank, const char *name, double seconds, mlc_error *error)
{
    *out = NULL;
    mlc_local *local = mlc_local_allocate(model, error);
    if (!local)
        return error->status;
    deadline limit = {seconds > 0 ? now() + seconds : 0, seconds};
    int status = rank == 0 ? serve(local, name, limit, error) : visit(local, rank, name, limit, error);
    if (status) {
        mlc_local_destroy(local);
        return status;
    }
    mlc_local_close_file(&local->lines[rank]);
    *out = local;
    return MLC_OK;
}

/* ---- a rank that cannot be one of them ---- */

bool mlc_local_refuse(int rank, int ranks, const char *name, const mlc_error *why, double seconds)
{
    deadline limit = {now() + seconds, seconds};
    struct sockaddr_un address;
    mlc_error ignored = {0};
    int line[2];
    if (find_address(name, &address, &ignored) || pipe2(line, O_CLOEXEC))
        return false;
    int listener = rank ? -1 : listen_at(&address, limit, &ignored);
    if (listener >= 0) {
        refuse_visitors(listener, ranks - 1, ranks, why->status, limit);
        unlink(address.sun_path);
    }
    if (rank == 0)
        return true;
    hello greeting = {.rank = rank, .ranks = ranks, .status = why->status};
    memcpy(greeting.magic, magic, sizeof magic);
    snprintf(greeting.why, sizeof greeting.why, "%.255s", why->text);
    int connection = connect_to(&address, limit, &ignored);
    return connection >= 0 && send_message(connection, &greeting, sizeof greeting, line, 1);
}
