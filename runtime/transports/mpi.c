/* mpi.c: the transport `mpi`, a shared object of its own (libmlc_mpi.so), so that a program needs MPI only when it uses it.
 *
 * Each slot of a link has a persistent request, made before step 0: MPI_Ssend_init on the slots of an outbox, MPI_Recv_init on
 * those of an inbox. The tag is the number of the channel, on a communicator of our own; no request names any source.
 *
 *   receiver   receive n of a list is started when the list has begun and message n - slots been released, so in order; beyond the
 *              messages that the list brings none is, so the next list finds its message 0 in slot 0
 *   sender     send n is started when message n has been posted, in order; it is synchronous: complete only once receive n has
 *              been started, so a sender runs ahead of its receiver by outbox slots alone, as on every transport
 *
 * MPI matches messages of one sender, tag and communicator in order; so it is enough to test the oldest request of each link.
 */
#include "transports.h"

#include "mlc.h"

#include <mpi.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define UNIT_BYTES 64 /* slots are multiples of it; so counts fit an int up to 128 GiB */
#define SPINS_CROWDED 20
#define MEET_REST 200000 /* nanoseconds */
#define ABORT_SECONDS 5

/* A link's `own`: requests by slot, of which those of messages [link->sent or link->arrived, started_of) of the list are active. */
typedef struct route {
    MPI_Request *requests;
    int64_t started; /* over all lists */
} route;

typedef struct state {
    MPI_Comm ranks;
    MPI_Datatype unit;
    route *routes;        /* [link_count] */
    MPI_Request *slots;   /* of all links */
    MPI_Request *oldest;  /* [link_count], of the links that have an active one */
    int *owners;          /* [link_count]: their links */
    int *done;            /* [link_count] */
    MPI_Status *statuses; /* [link_count] */
    int lost;             /* rank, -1: none */
} state;

/* ---- starting and testing ---- */

static int slot_count(const mlc_link *link)
{
    return link->sends ? link->channel->outbox_slots : link->channel->slots;
}

static int64_t completed(const mlc_link *link)
{
    return link->sends ? link->sent : link->arrived;
}

/* How many messages of the list may have been started by now. */
static int64_t allowed(const mlc_link *link)
{
    return link->sends ? link->posted : mlc_link_allowed(link);
}

/* How many messages of the list have been. */
static int64_t started_of(const mlc_link *link)
{
    const route *way = link->own;
    return way->started - link->base;
}

static MPI_Request *request_of(const mlc_link *link, int64_t n)
{
    const route *way = link->own;
    return &way->requests[n % slot_count(link)];
}

static bool start_messages(state *own, mlc_link *link)
{
    route *way = link->own;
    int64_t before = way->started;
    for (; started_of(link) < allowed(link) && own->lost < 0; way->started++)
        if (MPI_Start(request_of(link, started_of(link))) != MPI_SUCCESS)
            own->lost = link->peer;
    return way->started != before;
}

/* Lists the oldest active request of each link; returns how many. */
static int list_oldest(const mlc_world *world, state *own)
{
    int count = 0;
    for (int i = 0; i < world->link_count; i++) {
        const mlc_link *link = &world->links[i];
        if (completed(link) == started_of(link))
            continue;
        own->oldest[count] = *request_of(link, completed(link));
        own->owners[count++] = i;
    }
    return count;
}

static void find_lost(mlc_world *world, state *own, int code, int done)
{
    own->lost = world->links[own->owners[0]].peer;
    for (int i = 0; code == MPI_ERR_IN_STATUS && i < done; i++)
        if (own->statuses[i].MPI_ERROR != MPI_SUCCESS) {
            own->lost = world->links[own->owners[own->done[i]]].peer;
            return;
        }
}

/* Tests the oldest requests once. True: some were complete. */
static bool test_oldest(mlc_world *world, state *own)
{
    int done = 0, count = list_oldest(world, own);
    if (!count)
        return false;
    int code = MPI_Testsome(count, own->oldest, &done, own->done, own->statuses);
    if (code != MPI_SUCCESS) {
        find_lost(world, own, code, done);
        return false;
    }
    for (int i = 0; i < done; i++) {
        mlc_link *link = &world->links[own->owners[own->done[i]]];
        *(link->sends ? &link->sent : &link->arrived) += 1;
    }
    return done > 0 && done != MPI_UNDEFINED;
}

static bool mpi_progress(mlc_world *world)
{
    state *own = world->own;
    if (own->lost >= 0)
        return false;
    bool moved = false;
    for (int i = 0; i < world->link_count; i++)
        moved |= start_messages(own, &world->links[i]);
    while (own->lost < 0 && test_oldest(world, own))
        moved = true;
    return moved;
}

static void mpi_allow(mlc_world *world, mlc_link *link)
{
    start_messages(world->own, link);
}

static void mpi_rest(mlc_world *world, int64_t nanoseconds)
{
    (void)world;
    nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
}

static int mpi_lost(mlc_world *world)
{
    const state *own = world->own;
    return own->lost;
}

static const mlc_status_board *mpi_board(const mlc_world *world, int rank)
{
    return rank == world->rank ? world->status : NULL;
}

/* What a signal handler needs: the status with which this process ends. */
static volatile sig_atomic_t last_status;

static void end_process(int signal)
{
    (void)signal;
    _exit(last_status);
}

/* MPI_Abort waits for the launcher, which may answer by a signal, or be out of reach. */
static void mpi_abort(int status)
{
    struct sigaction end = {.sa_handler = end_process};
    last_status = status;
    sigaction(SIGTERM, &end, NULL);
    sigaction(SIGALRM, &end, NULL);
    alarm(ABORT_SECONDS);
    MPI_Abort(MPI_COMM_WORLD, status);
    _exit(status);
}

static void mpi_abandon(mlc_world *world, int status)
{
    (void)world;
    mpi_abort(status);
}

static int mpi_abandoned(mlc_world *world, int *rank)
{
    (void)world;
    (void)rank;
    return MLC_OK;
}

/* ---- opening and closing ---- */

static int fail(mlc_error *error, int code, const char *what)
{
    char text[MPI_MAX_ERROR_STRING];
    int length = 0;
    MPI_Error_string(code, text, &length);
    return mlc_error_set(error, MLC_FAILED, "MPI: %s: %.*s", what, length, text);
}

static int total_slots(const mlc_world *world)
{
    int total = 0;
    for (int i = 0; i < world->link_count; i++)
        total += slot_count(&world->links[i]);
    return total;
}

static int allocate(mlc_world *world, mlc_error *error)
{
    state *own = calloc(1, sizeof *own);
    if (!own)
        return mlc_error_set(error, MLC_FAILED, "MPI: out of memory");
    size_t links = (size_t)world->link_count + 1, slots = (size_t)total_slots(world) + 1;
    *own = (state){.ranks = MPI_COMM_NULL, .unit = MPI_DATATYPE_NULL, .lost = -1, .routes = calloc(links, sizeof *own->routes),
                   .slots = calloc(slots, sizeof *own->slots), .oldest = calloc(links, sizeof *own->oldest),
                   .owners = calloc(links, sizeof *own->owners), .done = calloc(links, sizeof *own->done),
                   .statuses = calloc(links, sizeof *own->statuses)};
    world->own = own;
    if (!own->routes || !own->slots || !own->oldest || !own->owners || !own->done || !own->statuses)
        return mlc_error_set(error, MLC_FAILED, "MPI: out of memory");
    return MLC_OK;
}

static int make_request(const state *own, const mlc_link *link, int slot, MPI_Request *request)
{
    int count = (int)(link->channel->slot_bytes / UNIT_BYTES);
    if (link->sends)
        return MPI_Ssend_init(mlc_link_outgoing(link, slot), count, own->unit, link->peer, link->number, own->ranks, request);
    return MPI_Recv_init(mlc_link_incoming(link, slot), count, own->unit, link->peer, link->number, own->ranks, request);
}

static int make_requests(mlc_world *world, state *own, mlc_error *error)
{
    MPI_Request *next = own->slots;
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        own->routes[i].requests = next;
        link->own = &own->routes[i];
        for (int slot = 0; slot < slot_count(link); slot++, next++) {
            int code = make_request(own, link, slot, next);
            if (code != MPI_SUCCESS)
                return fail(error, code, link->channel->name);
        }
    }
    return MLC_OK;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* A barrier that gives up. */
static int meet(const mlc_world *world, const state *own, mlc_error *error)
{
    MPI_Request request;
    int come = 0, code = MPI_Ibarrier(own->ranks, &request);
    for (double start = now(); code == MPI_SUCCESS && !come;) {
        code = MPI_Test(&request, &come, MPI_STATUS_IGNORE);
        if (!come && world->timeout > 0 && now() - start > world->timeout)
            return mlc_error_set(error, MLC_HANG, "MPI: not all of %d ranks have started after %g s", world->ranks, world->timeout);
        if (!come)
            nanosleep(&(struct timespec){.tv_nsec = MEET_REST}, NULL);
    }
    return code == MPI_SUCCESS ? MLC_OK : fail(error, code, "cannot meet the other ranks");
}

/* Do ranks of this machine have to share CPUs? Ranks may be bound to different ones, so what counts is the union. */
static bool is_crowded(const mlc_world *world, const state *own)
{
    MPI_Comm machine;
    int ranks = 1;
    cpu_set_t set, all;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof set, &set);
    all = set;
    if (MPI_Comm_split_type(own->ranks, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine) != MPI_SUCCESS)
        return true;
    MPI_Comm_size(machine, &ranks);
    MPI_Allreduce(&set, &all, sizeof set, MPI_BYTE, MPI_BOR, machine);
    MPI_Comm_free(&machine);
    return ranks * world->arena->threads > CPU_COUNT(&all);
}

static int make_channels(mlc_world *world, state *own, mlc_error *error)
{
    int size = 0, code = MPI_Comm_dup(MPI_COMM_WORLD, &own->ranks);
    if (code != MPI_SUCCESS)
        return fail(error, code, "cannot make a communicator");
    MPI_Comm_set_errhandler(own->ranks, MPI_ERRORS_RETURN);
    MPI_Comm_size(own->ranks, &size);
    if (size != world->ranks)
        return mlc_error_set(error, MLC_USAGE, "MPI: the plan has %d ranks, %d were started", world->ranks, size);
    MPI_Type_contiguous(UNIT_BYTES, MPI_BYTE, &own->unit);
    MPI_Type_commit(&own->unit);
    if (is_crowded(world, own))
        world->spins = SPINS_CROWDED;
    return make_requests(world, own, error);
}

static int mpi_open(mlc_world *world, mlc_error *error)
{
    if (allocate(world, error) || make_channels(world, world->own, error))
        return error->status;
    for (int i = 0; i < world->link_count; i++)
        start_messages(world->own, &world->links[i]);
    return meet(world, world->own, error);
}

/* Takes back receives that no message came for. */
static void cancel_receives(mlc_world *world)
{
    for (int i = 0; i < world->link_count; i++) {
        mlc_link *link = &world->links[i];
        for (int64_t n = link->arrived; !link->sends && link->own && n < started_of(link); n++) {
            MPI_Cancel(request_of(link, n));
            MPI_Wait(request_of(link, n), MPI_STATUS_IGNORE);
        }
    }
}

static void free_requests(state *own, int count)
{
    for (int i = 0; i < count; i++)
        MPI_Request_free(&own->slots[i]);
    MPI_Type_free(&own->unit);
    MPI_Comm_free(&own->ranks);
}

/* After a failure MPI's things stay: freeing them might wait for ranks that are gone. */
static void mpi_close(mlc_world *world)
{
    state *own = world->own;
    if (!own)
        return;
    if (own->lost < 0 && world->error->status != MLC_FAILED && world->error->status != MLC_HANG) {
        cancel_receives(world);
        free_requests(own, total_slots(world));
    }
    free(own->routes);
    free(own->slots);
    free(own->oldest);
    free(own->owners);
    free(own->done);
    free(own->statuses);
    free(own);
    world->own = NULL;
}

static const mlc_transport mpi_transport = {
    .name = "mpi",
    .open = mpi_open,
    .progress = mpi_progress,
    .rest = mpi_rest,
    .allow = mpi_allow,
    .lost = mpi_lost,
    .board = mpi_board,
    .abandon = mpi_abandon,
    .abandoned = mpi_abandoned,
    .close = mpi_close,
};

/* ---- the meeting ---- */

/* Waits for a request of all ranks; gives up after the meeting's time. */
static int complete(const mlc_meeting *meeting, int code, MPI_Request *request, mlc_error *error)
{
    int come = 0;
    for (double start = now(); code == MPI_SUCCESS && !come;) {
        code = MPI_Test(request, &come, MPI_STATUS_IGNORE);
        if (!come && meeting->seconds > 0 && now() - start > meeting->seconds)
            return mlc_error_set(error, MLC_HANG, "MPI: not all of %d ranks have come to agree within %g s", meeting->ranks, meeting->seconds);
        if (!come && code == MPI_SUCCESS)
            nanosleep(&(struct timespec){.tv_nsec = MEET_REST}, NULL);
    }
    return code == MPI_SUCCESS ? MLC_OK : fail(error, code, "cannot meet the other ranks");
}

static int share(mlc_meeting *meeting, int root, void *bytes, size_t size, mlc_error *error)
{
    MPI_Request request;
    int code = MPI_Ibcast(bytes, (int)size, MPI_BYTE, root, MPI_COMM_WORLD, &request);
    return complete(meeting, code, &request, error);
}

static int fold(mlc_meeting *meeting, int64_t *value, bool adds, mlc_error *error)
{
    MPI_Request request;
    int64_t own = *value;
    int code = MPI_Iallreduce(&own, value, 1, MPI_INT64_T, adds ? MPI_SUM : MPI_MIN, MPI_COMM_WORLD, &request);
    return complete(meeting, code, &request, error);
}

static mlc_meeting mpi_meet(double seconds)
{
    mlc_meeting meeting = {.seconds = seconds, .share = share, .fold = fold};
    MPI_Comm_rank(MPI_COMM_WORLD, &meeting.rank);
    MPI_Comm_size(MPI_COMM_WORLD, &meeting.ranks);
    return meeting;
}

/* ---- the table ---- */

static int mpi_init(mlc_error *error)
{
    int level = MPI_THREAD_SINGLE;
    int code = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
    if (code != MPI_SUCCESS)
        return fail(error, code, "cannot start");
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    if (level < MPI_THREAD_FUNNELED)
        return mlc_error_set(error, MLC_FAILED, "MPI: this library allows no threads (MPI_THREAD_FUNNELED)");
    return MLC_OK;
}

static int mpi_rank(void)
{
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return rank;
}

static int mpi_ranks(void)
{
    int ranks = 1;
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    return ranks;
}

static void mpi_attach(mlc_world *world)
{
    world->transport = &mpi_transport;
    world->own = NULL;
    atomic_store(&world->status->pid, (int)getpid());
}

static void mpi_finalize(void)
{
    MPI_Finalize();
}

__attribute__((visibility("default"))) extern const mlc_mpi mlc_mpi_table;

const mlc_mpi mlc_mpi_table = {
    .abi_version = MLC_ABI_VERSION,
    .world_bytes = sizeof(mlc_world),
    .init = mpi_init,
    .rank = mpi_rank,
    .ranks = mpi_ranks,
    .meet = mpi_meet,
    .attach = mpi_attach,
    .finalize = mpi_finalize,
    .abort = mpi_abort,
};
