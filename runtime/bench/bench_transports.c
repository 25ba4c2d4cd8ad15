/* bench_transports.c: two ranks send a message to and fro over each transport: microseconds one way, and bytes per second.
 *
 *   bench_transports            threads, then local
 *   mpirun -np 2 bench_transports mpi
 */
#include "../tests/mesh.h"
#include "mlc.h"
#include "transports.h"

#include <pthread.h>
#include <time.h>

enum { ROUNDS = 2000, REPETITIONS = 5 };

typedef struct player {
    mesh *ranks;
    int rank;
    mlc_hub *hub;
    mlc_local *local;
    const mlc_mpi *mpi;
    double best; /* seconds a message */
} player;

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void send_next(mlc_world *world, mlc_link *link)
{
    CHECK(!mlc_link_wait_sent(world, link, link->posted - link->channel->outbox_slots));
    mlc_link_post(world, link);
}

static void receive_next(mlc_world *world, mlc_link *link)
{
    CHECK(!mlc_link_wait_arrived(world, link, link->released));
    mlc_link_release(world, link);
}

static double play(mlc_world *world)
{
    mlc_link *out = mlc_world_link(world, 1 + world->rank, 1 - world->rank, true);
    mlc_link *in = mlc_world_link(world, 2 - world->rank, 1 - world->rank, false);
    CHECK(!mlc_link_begin(world, out, ROUNDS) && !mlc_link_begin(world, in, ROUNDS));
    double start = now();
    for (int round = 0; round < ROUNDS; round++) {
        if (world->rank == 0)
            send_next(world, out);
        receive_next(world, in);
        if (world->rank == 1)
            send_next(world, out);
    }
    CHECK(!mlc_link_wait_sent(world, out, out->posted - 1));
    return (now() - start) / (2.0 * ROUNDS);
}

static void run(player *self)
{
    mlc_arena arena;
    mlc_world world;
    mlc_error error = {0};
    const mlc_role *role = &self->ranks->roles[self->rank];
    CHECK(!mlc_arena_open(&arena, role->arena_bytes, 64, 1, 0, "", &error));
    if (self->local)
        CHECK(!mlc_arena_map_inbox(&arena, role->inbox_bytes, mlc_local_inbox(self->local, self->rank), &error));
    CHECK(!mlc_world_open(&world, &self->ranks->model, self->rank, &arena, &error));
    if (self->hub)
        mlc_hub_attach(self->hub, &world);
    else if (self->local)
        mlc_local_attach(self->local, &world);
    else
        self->mpi->attach(&world);
    CHECK(!world.transport->open(&world, &error));
    self->best = play(&world);
    for (int i = 1; i < REPETITIONS; i++) {
        double seconds = play(&world);
        self->best = seconds < self->best ? seconds : self->best;
    }
    CHECK(!mlc_exchange(&world, &(char){0}, 1, 1, mlc_combine_or));
    world.transport->close(&world);
    mlc_world_close(&world);
    if (!self->hub)
        mlc_arena_close(&arena);
}

static void *run_thread(void *argument)
{
    run(argument);
    return NULL;
}

static void print(const char *name, uint64_t bytes, double seconds)
{
    printf("%-8s %8llu bytes %9.2f us %8.2f GB/s\n", name, (unsigned long long)bytes, 1e6 * seconds, 1e-9 * (double)bytes / seconds);
}

static void play_threads(mesh *ranks, uint64_t bytes)
{
    pthread_t other;
    mlc_error error = {0};
    player players[2] = {{.ranks = ranks, .rank = 0}, {.ranks = ranks, .rank = 1}};
    CHECK(!mlc_hub_open(&players[0].hub, 2, &error));
    players[1].hub = players[0].hub;
    CHECK(!pthread_create(&other, NULL, run_thread, &players[1]));
    run(&players[0]);
    pthread_join(other, NULL);
    mlc_hub_close(players[0].hub);
    print("threads", bytes, players[0].best);
}

static void play_local(mesh *ranks, uint64_t bytes)
{
    mlc_error error = {0};
    player self = {.ranks = ranks};
    CHECK(!mlc_local_create(&self.local, &ranks->model, &error));
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    self.rank = child == 0;
    run(&self);
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
    mlc_local_destroy(self.local);
    print("local", bytes, self.best);
}

static void play_mpi(const mlc_mpi *mpi, mesh *ranks, uint64_t bytes)
{
    player self = {.ranks = ranks, .rank = mpi->rank(), .mpi = mpi};
    CHECK(mpi->ranks() == 2);
    run(&self);
    if (self.rank == 0)
        print("mpi", bytes, self.best);
}

int main(int argc, char **argv)
{
    static mesh ranks;
    mlc_error error = {0};
    const mlc_mpi *mpi = NULL;
    if (argc > 1 && !strcmp(argv[1], "mpi"))
        CHECK(!mlc_mpi_load(&mpi, &error) && !mpi->init(&error));
    static const uint64_t sizes[] = {64, 1 << 14, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t bytes = sizes[i];
        mesh_begin(&ranks, 2, 1, 64, 1);
        mesh_add(&ranks, MLC_ACTIVATION, 0, 1, bytes, 2, 2);
        mesh_add(&ranks, MLC_GRADIENT, 1, 0, bytes, 2, 2);
        mesh_end(&ranks);
        if (mpi) {
            play_mpi(mpi, &ranks, bytes);
            continue;
        }
        play_threads(&ranks, bytes);
        play_local(&ranks, bytes);
    }
    if (mpi)
        mpi->finalize();
    return 0;
}
