/* test_transports.c: random meshes, channels and orders of messages over every transport, and what becomes of ranks whose peers
 * fail, die or stop. `test_transports mpi CASE SEED` is one rank of a case under mpirun. */
#include "mesh.h"
#include "mlc.h"
#include "transports.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

/* ---- what the ranks do ---- */

enum trouble { NONE, ABANDONS, AGREES, DIES, STOPS, SLOW };

enum { EVENTS = 150, LIST = 40, MOST_RANKS = 32, BLOCK = 96, OWN = 0x5a };

/* A run: the same on all ranks. */
typedef struct plan {
    mesh ranks;
    uint64_t seed;
    int events;
    enum trouble trouble;
    int troubled;   /* rank */
    int when;       /* event */
    double timeout;
} plan;

/* A rank in a run. */
typedef struct rank_run {
    const plan *plan;
    int rank;
    mlc_hub *hub;
    mlc_local *local;
    const mlc_mpi *mpi;
    mlc_arena arena;
    mlc_world world;
    mlc_error error;
    int status;
    const atomic_bool *released; /* threads: a stopped rank goes on when it is set */
} rank_run;

static uint64_t mix(uint64_t x)
{
    x += UINT64_C(0x9E3779B97F4A7C15);
    x = (x ^ (x >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94D049BB133111EB);
    return x ^ (x >> 31);
}

static uint64_t next(uint64_t *state)
{
    return *state = mix(*state);
}

static int below(uint64_t *state, int limit)
{
    return (int)(next(state) % (uint64_t)limit);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void make_plan(plan *run, uint64_t seed, int pp, int dp)
{
    uint64_t state = mix(seed);
    *run = (plan){.seed = seed, .events = EVENTS, .troubled = -1, .timeout = 60};
    mesh_begin(&run->ranks, pp, dp, 64u << below(&state, 6), 1 + below(&state, 3));
    for (int place = 0; place < pp; place++)
        for (int to = 0; to < pp; to++)
            if ((place == to && dp > 1) || (place != to && below(&state, 2)))
                mesh_add(&run->ranks, place == to ? MLC_REPLICAS : MLC_ACTIVATION, place, to, 64u * (1u + (unsigned)below(&state, 300)),
                         1 + below(&state, 4), 1 + below(&state, 4));
    mesh_end(&run->ranks);
}

/* One rank, at some event, gets into trouble. */
static void trouble_plan(plan *run, enum trouble trouble)
{
    uint64_t state = mix(run->seed + 2);
    if (trouble == NONE)
        return;
    run->trouble = trouble;
    run->troubled = below(&state, mlc_mesh_ranks(&run->ranks.model.mesh));
    run->when = below(&state, run->events);
    if (trouble == STOPS || trouble == SLOW)
        run->timeout = 0.4;
}

static uint64_t word_of(const plan *run, int channel, int from, int to, int64_t n, uint64_t i)
{
    return mix(run->seed ^ mix((uint64_t)channel << 40 ^ (uint64_t)from << 20 ^ (uint64_t)to ^ mix((uint64_t)n)) ^ i);
}

static int send_one(rank_run *self, int number, int to)
{
    mlc_link *link = mlc_world_link(&self->world, number, to, true);
    CHECK(link);
    int status = mlc_link_wait_sent(&self->world, link, link->posted - link->channel->outbox_slots);
    if (status)
        return status;
    uint64_t *slot = (uint64_t *)mlc_link_outgoing(link, link->posted);
    for (uint64_t i = 0; i < link->channel->slot_bytes / 8; i++)
        slot[i] = word_of(self->plan, number, self->rank, to, link->base + link->posted, i);
    mlc_link_post(&self->world, link);
    return MLC_OK;
}

/* Takes the next message and frees an earlier one, `held` of them later. */
static int receive_one(rank_run *self, int number, int from, int64_t n, int held)
{
    mlc_link *link = mlc_world_link(&self->world, number, from, false);
    CHECK(link);
    int status = mlc_link_wait_arrived(&self->world, link, n);
    if (status)
        return status;
    CHECK(link->arrived <= link->released + link->channel->slots);
    const uint64_t *slot = (const uint64_t *)mlc_link_incoming(link, n);
    CHECK((const char *)slot == link->inbox + (uint64_t)(n % link->channel->slots) * link->channel->slot_bytes);
    for (uint64_t i = 0; i < link->channel->slot_bytes / 8; i++)
        CHECK(slot[i] == word_of(self->plan, number, from, self->rank, link->base + n, i));
    while (link->released <= n - held)
        mlc_link_release(&self->world, link);
    return MLC_OK;
}

typedef struct triple {
    uint64_t sum;
    uint64_t all;
    int64_t most;
} triple;

static void combine_triples(void *into, const void *from, size_t bytes)
{
    triple *own = into;
    const triple *other = from;
    for (size_t i = 0; i < bytes / sizeof *own; i++) {
        own[i].sum += other[i].sum;
        own[i].all ^= other[i].all;
        own[i].most = other[i].most > own[i].most ? other[i].most : own[i].most;
    }
}

static triple triple_of(const plan *run, int event, int rank, int i)
{
    uint64_t word = mix(run->seed ^ mix((uint64_t)event << 32 ^ (uint64_t)rank << 16 ^ (uint64_t)i));
    return (triple){word, mix(word), (int64_t)mix(~word)};
}

static int exchange_triples(rank_run *self, int event, int count)
{
    triple block[BLOCK];
    for (int i = 0; i < count; i++)
        block[i] = triple_of(self->plan, event, self->rank, i);
    int status = mlc_exchange(&self->world, block, (size_t)count * sizeof *block, sizeof *block, combine_triples);
    if (status)
        return status;
    for (int i = 0; i < count; i++) {
        triple whole = triple_of(self->plan, event, 0, i);
        for (int rank = 1; rank < self->world.ranks; rank++) {
            triple other = triple_of(self->plan, event, rank, i);
            combine_triples(&whole, &other, sizeof whole);
        }
        CHECK(!memcmp(&whole, &block[i], sizeof whole));
    }
    return MLC_OK;
}

/* Every rank fills its bytes of a table. */
static int exchange_table(rank_run *self, int event, int share)
{
    unsigned char table[MOST_RANKS * 64] = {0};
    int ranks = self->world.ranks;
    for (int i = 0; i < share; i++)
        table[self->rank * share + i] = (unsigned char)mix((uint64_t)(event + self->rank * 100 + i));
    int status = mlc_exchange(&self->world, table, (size_t)(ranks * share), 1, mlc_combine_or);
    for (int i = 0; i < ranks * share && !status; i++)
        CHECK(table[i] == (unsigned char)mix((uint64_t)(event + i / share * 100 + i % share)));
    return status;
}

/* What all ranks draw alike: an exchange of some kind and size, or a message of a link. */
typedef struct event {
    int kind, size;
    int number; /* of the channel; -1: no message */
    int from, to;
    int held;
} event;

static event draw_event(const plan *run, uint64_t *state)
{
    const mlc_model *model = &run->ranks.model;
    event it = {.kind = below(state, 100), .size = 1 + below(state, BLOCK), .number = -1};
    if (it.kind < 8)
        return it;
    int number = below(state, model->schedule->channel_count);
    int replicas = model->mesh.size[MLC_DP], replica = below(state, replicas), held = below(state, 100);
    int block = replicas > 1 ? below(state, mlc_cohort_blocks(replicas)) : 0;
    const mlc_channel *channel = &model->schedule->channels[number];
    int other = channel->kind == MLC_REPLICAS ? mlc_cohort_neighbour(replicas, replica, block) : replica;
    it.held = held % channel->slots;
    if (channel->kind == MLC_TREE || other < 0)
        return it;
    it.number = number;
    it.from = mlc_mesh_rank(&model->mesh, &(mlc_coordinate){.at = {[MLC_PP] = channel->from, [MLC_DP] = replica}});
    it.to = mlc_mesh_rank(&model->mesh, &(mlc_coordinate){.at = {[MLC_PP] = channel->to, [MLC_DP] = other}});
    return it;
}

/* Messages of each link, as every rank counts them for itself. */
typedef struct counts {
    int64_t of[MESH_CHANNELS][MOST_RANKS][MOST_RANKS];
} counts;

static void count_event(counts *counts, const event *it)
{
    if (it->number >= 0)
        counts->of[it->number][it->from][it->to]++;
}

/* A receiver frees after at most slots - 1 more messages: events in one global order then cannot deadlock, with however few slots. */
static int move_one(rank_run *self, const counts *sofar, const event *it)
{
    if (it->number < 0)
        return MLC_OK;
    if (it->from == self->rank)
        return send_one(self, it->number, it->to);
    return it->to == self->rank ? receive_one(self, it->number, it->from, sofar->of[it->number][it->from][it->to], it->held) : MLC_OK;
}

/* The messages of a list are gone, or released. */
static int settle(rank_run *self)
{
    int status = MLC_OK;
    for (int i = 0; i < self->world.link_count && !status; i++) {
        mlc_link *link = &self->world.links[i];
        if (link->number == self->world.tree)
            continue;
        if (link->sends)
            status = mlc_link_wait_sent(&self->world, link, link->posted - 1);
        while (!link->sends && link->released < link->arrived)
            mlc_link_release(&self->world, link);
    }
    return status;
}

/* Between two lists the slots of an inbox are the receiver's own: it writes there, now and then for longer, and finds it again. */
static void use_inboxes(rank_run *self, int event)
{
    for (int i = 0; i < self->world.link_count; i++) {
        const mlc_link *link = &self->world.links[i];
        if (!link->sends && link->number != self->world.tree)
            memset(link->inbox, OWN, (size_t)link->channel->slots * link->channel->slot_bytes);
    }
    if (mix(self->plan->seed ^ (uint64_t)event ^ (uint64_t)self->rank << 16) % 4 == 0)
        usleep(500);
}

static void find_inbox(const mlc_link *link)
{
    for (uint64_t i = 0; !link->sends && i < (uint64_t)link->channel->slots * link->channel->slot_bytes; i++)
        CHECK(link->inbox[i] == OWN);
}

/* The next LIST events are a list: every rank knows what it will send and get. */
static int begin_list(rank_run *self, uint64_t state, int events)
{
    counts *whole = calloc(1, sizeof *whole);
    int status = MLC_OK;
    for (int i = 0; i < events; i++) {
        event it = draw_event(self->plan, &state);
        count_event(whole, &it);
    }
    for (int i = 0; i < self->world.link_count && !status; i++) {
        mlc_link *link = &self->world.links[i];
        int from = link->sends ? self->rank : link->peer, to = link->sends ? link->peer : self->rank;
        if (link->number == self->world.tree)
            continue;
        find_inbox(link);
        status = mlc_link_begin(&self->world, link, whole->of[link->number][from][to]);
    }
    free(whole);
    return status;
}

static void be_slow(rank_run *self)
{
    for (int i = 0; i < 8; i++) {
        usleep((useconds_t)(self->plan->timeout * 5e5));
        atomic_fetch_add(&self->world.status->progress, 1);
    }
}

/* What the troubled rank does instead of the event. Returns a status. */
static int be_troubled(rank_run *self)
{
    switch (self->plan->trouble) {
    case ABANDONS:
        self->world.transport->abandon(&self->world, MLC_NOT_FINITE);
        return MLC_NOT_FINITE;
    case AGREES:
        return mlc_error_set(&self->error, MLC_BAD_INPUT, "the weather is bad");
    case DIES:
        raise(SIGKILL);
        return MLC_FAILED;
    case STOPS:
        if (!self->hub)
            raise(SIGSTOP);
        while (self->hub && !atomic_load(self->released))
            usleep(1000);
        return MLC_OK;
    case SLOW:
        be_slow(self);
        return MLC_OK;
    case NONE:
        break;
    }
    return MLC_OK;
}

static int one_event(rank_run *self, const counts *sofar, int event, const struct event *it)
{
    atomic_store(&self->world.status->action, event);
    if (mix((uint64_t)(self->rank + event * 131)) % 16 == 0)
        usleep((useconds_t)(mix((uint64_t)event) % 300));
    if (mix((uint64_t)(self->rank + event * 131)) % 7 == 0)
        mlc_world_progress(&self->world);
    if (it->kind < 3 && self->plan->ranks.channels[0].slot_bytes >= sizeof(triple))
        return exchange_triples(self, event, it->size);
    if (it->kind < 6)
        return exchange_table(self, event, 1 + it->size % 64);
    return it->kind < 8 ? mlc_agree(&self->world, &self->error) : move_one(self, sofar, it);
}

static int walk(rank_run *self)
{
    counts *sofar = calloc(1, sizeof *sofar);
    uint64_t state = mix(self->plan->seed + 1);
    int status = MLC_OK;
    for (int event = 0; event < self->plan->events && !status; event++) {
        int left = self->plan->events - event;
        if (event % LIST == 0) {
            memset(sofar, 0, sizeof *sofar);
            status = settle(self);
            if (!status)
                use_inboxes(self, event);
            status = status ? status : begin_list(self, state, left < LIST ? left : LIST);
        }
        if (!status && event == self->plan->when && self->rank == self->plan->troubled)
            status = be_troubled(self);
        if (event == self->plan->when && self->plan->trouble == AGREES)
            status = mlc_agree(&self->world, &self->error);
        struct event it = draw_event(self->plan, &state);
        if (!status)
            status = one_event(self, sofar, event, &it);
        count_event(sofar, &it);
    }
    free(sofar);
    status = status ? status : settle(self);
    return status ? status : mlc_agree(&self->world, &self->error);
}

static int run_connected(rank_run *self)
{
    mlc_world *world = &self->world;
    atomic_store(&world->status->state, MLC_RANK_COMPUTES);
    int status = world->transport->open(world, &self->error);
    status = status ? status : walk(self);
    if (self->mpi && status && self->plan->trouble != AGREES) {
        printf("%s\n", self->error.text);
        fflush(stdout);
        world->transport->abandon(world, status);
    }
    world->transport->close(world);
    return status;
}

static int run_rank(rank_run *self)
{
    const mlc_model *model = &self->plan->ranks.model;
    const mlc_role *role = &model->roles[mlc_mesh_place(&model->mesh, self->rank)];
    CHECK(!mlc_arena_open(&self->arena, role->arena_bytes, 64, 1, 0, "", &self->error));
    if (self->local)
        CHECK(!mlc_arena_map_inbox(&self->arena, role->inbox_bytes, mlc_local_inbox(self->local, self->rank), &self->error));
    CHECK(!mlc_world_open(&self->world, model, self->rank, &self->arena, &self->error));
    self->world.timeout = self->plan->timeout;
    if (self->hub)
        mlc_hub_attach(self->hub, &self->world);
    else if (self->local)
        mlc_local_attach(self->local, &self->world);
    else
        self->mpi->attach(&self->world);
    return run_connected(self);
}

static void end_rank(rank_run *self)
{
    mlc_world_close(&self->world);
    mlc_arena_close(&self->arena);
}

/* What every rank but the troubled one must have come to. */
static void check_outcome(const rank_run *self)
{
    char name[64];
    const plan *run = self->plan;
    static const int statuses[] = {MLC_OK, MLC_NOT_FINITE, MLC_BAD_INPUT, MLC_FAILED, MLC_HANG, MLC_OK};
    if (self->rank == run->troubled)
        return;
    if (self->status != statuses[run->trouble])
        fprintf(stderr, "seed %llu: rank %d: status %d: %s\n", (unsigned long long)run->seed, self->rank, self->status, self->error.text);
    CHECK(self->status == statuses[run->trouble]);
    snprintf(name, sizeof name, run->trouble == AGREES ? "rank %d: the weather is bad" : "rank %d (", run->troubled);
    if (self->status)
        CHECK_HOLDS(self->error.text, name);
    if (run->trouble == DIES)
        CHECK_HOLDS(self->error.text, "is lost");
    if (run->trouble == STOPS)
        CHECK_HOLDS(self->error.text, "nothing has moved for");
}

/* ---- threads ---- */

static void *thread_main(void *argument)
{
    rank_run *self = argument;
    self->status = run_rank(self);
    return NULL;
}

static void run_threads(const plan *run)
{
    static rank_run ranks[MOST_RANKS];
    pthread_t handles[MOST_RANKS];
    mlc_error error = {0};
    atomic_bool released = false;
    mlc_hub *hub;
    int count = mlc_mesh_ranks(&run->ranks.model.mesh);
    CHECK(!mlc_hub_open(&hub, count, &error));
    for (int i = 0; i < count; i++) {
        ranks[i] = (rank_run){.plan = run, .rank = i, .hub = hub, .released = &released};
        CHECK(!pthread_create(&handles[i], NULL, thread_main, &ranks[i]));
    }
    for (int i = 0; i < count; i++)
        if (i != run->troubled)
            pthread_join(handles[i], NULL);
    atomic_store(&released, true);
    if (run->troubled >= 0) {
        mlc_hub_abandon(hub, 0, MLC_HANG);
        pthread_join(handles[run->troubled], NULL);
    }
    for (int i = 0; i < count; i++) {
        check_outcome(&ranks[i]);
        end_rank(&ranks[i]);
    }
    mlc_hub_close(hub);
}

/* ---- local ---- */

static int file_count(void)
{
    int count = 0;
    DIR *directory = opendir("/proc/self/fd");
    CHECK(directory);
    while (readdir(directory))
        count++;
    closedir(directory);
    return count;
}

/* A child: inherits `local`, or joins by name. */
static _Noreturn void child_main(const plan *run, int rank, mlc_local *local, const char *name)
{
    static rank_run self;
    int files = file_count();
    self = (rank_run){.plan = run, .rank = rank, .local = local};
    if (name)
        CHECK(!mlc_local_join(&self.local, &run->ranks.model, rank, name, 30, &self.error));
    self.status = run_rank(&self);
    check_outcome(&self);
    end_rank(&self);
    mlc_local_destroy(self.local);
    CHECK(!name || file_count() == files);
    exit(0);
}

/* Waits for all children but a stopped one, as a launcher does. */
static void reap(const plan *run, const pid_t *children, int count, mlc_local *local)
{
    double start = now();
    for (int left = run->trouble == STOPS ? count - 1 : count; left > 0; left--) {
        int status, rank = 0;
        pid_t child = wait(&status);
        while (children[rank] != child)
            CHECK(++rank < count);
        if (rank != run->troubled)
            CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        if (run->trouble == DIES && rank == run->troubled) {
            start = now();
            if (local)
                mlc_hub_lost(mlc_local_hub(local), rank);
        }
    }
    if (run->trouble == DIES)
        CHECK(now() - start < 5);
    if (run->trouble == STOPS) {
        kill(children[run->troubled], SIGKILL);
        waitpid(children[run->troubled], NULL, 0);
    }
}

static void run_local(const plan *run, const char *name)
{
    pid_t children[MOST_RANKS];
    mlc_error error = {0};
    mlc_local *local = NULL;
    int count = mlc_mesh_ranks(&run->ranks.model.mesh), files = file_count();
    if (!name)
        CHECK(!mlc_local_create(&local, &run->ranks.model, &error));
    for (int i = 0; i < count; i++) {
        children[i] = fork();
        CHECK(children[i] >= 0);
        if (!children[i])
            child_main(run, i, local, name);
    }
    reap(run, children, count, local);
    mlc_local_destroy(local);
    CHECK(file_count() == files);
}

/* Joining that cannot succeed says why. */
static void check_join_failures(void)
{
    static plan run, other;
    mlc_error error = {0};
    mlc_local *local;
    make_plan(&run, 1, 2, 1);
    make_plan(&other, 1, 3, 1);
    CHECK(mlc_local_join(&local, &run.ranks.model, 0, "mlc-test-alone", 0.2, &error) == MLC_HANG && !local);
    CHECK_HOLDS(error.text, "rank 1 of 2 has not come");
    error = (mlc_error){0};
    CHECK(mlc_local_join(&local, &run.ranks.model, 1, "mlc-test-alone", 0.2, &error) == MLC_HANG && !local);
    CHECK_HOLDS(error.text, "rank 0 has not come");
    pid_t child = fork();
    if (!child) {
        error = (mlc_error){0};
        CHECK(mlc_local_join(&local, &other.ranks.model, 1, "mlc-test-other", 10, &error) == MLC_USAGE);
        CHECK(!error.status); /* rank 0 says it */
        exit(0);
    }
    error = (mlc_error){0};
    CHECK(mlc_local_join(&local, &run.ranks.model, 0, "mlc-test-other", 10, &error) == MLC_USAGE);
    CHECK_HOLDS(error.text, "rank 1 of 3 came to meet rank 0 of 2");
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* ---- mpi ---- */

/* One rank, started by mpirun: mpi TROUBLE SEED PLACES REPLICAS. */
static int mpi_main(char **arguments)
{
    static plan run;
    static rank_run self;
    make_plan(&run, (uint64_t)atoi(arguments[1]), atoi(arguments[2]), atoi(arguments[3]));
    trouble_plan(&run, (enum trouble)atoi(arguments[0]));
    self = (rank_run){.plan = &run};
    CHECK(!mlc_mpi_load(&self.mpi, &self.error));
    CHECK(!self.mpi->init(&self.error));
    CHECK(self.mpi->ranks() == mlc_mesh_ranks(&run.ranks.model.mesh));
    self.rank = self.mpi->rank();
    self.status = run_rank(&self);
    check_outcome(&self);
    end_rank(&self);
    self.mpi->finalize();
    return 0;
}

/* Runs a mesh under mpirun; returns its exit code and, allocated, what it printed. */
static int run_mpi(const char *self, enum trouble trouble, int seed, int pp, int dp, char *output, size_t bytes)
{
    char command[600];
    snprintf(command, sizeof command,
             "ASAN_OPTIONS=detect_leaks=0 timeout -k 5 100 mpirun --allow-run-as-root --oversubscribe -np %d %s mpi %d %d %d %d 2>&1",
             pp * dp, self, (int)trouble, seed, pp, dp);
    FILE *pipe = popen(command, "r");
    CHECK(pipe);
    size_t got = fread(output, 1, bytes - 1, pipe);
    output[got] = 0;
    while (fgetc(pipe) != EOF)
        ;
    int status = pclose(pipe);
    CHECK(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_mpi(const char *self)
{
    char output[8192];
    double start;
    for (int seed = 0; seed < 4; seed++) {
        int code = run_mpi(self, NONE, seed, 1 + seed % 3, 1 + seed % 2, output, sizeof output);
        if (code)
            fputs(output, stderr);
        CHECK(code == 0);
    }
    CHECK(run_mpi(self, AGREES, 5, 2, 2, output, sizeof output) == 0);
    start = now();
    CHECK(run_mpi(self, DIES, 6, 2, 2, output, sizeof output) != 0);
    CHECK(now() - start < 20);
    CHECK(run_mpi(self, STOPS, 7, 3, 1, output, sizeof output) == MLC_HANG);
    CHECK_HOLDS(output, "nothing has moved for");
    CHECK(run_mpi(self, ABANDONS, 8, 3, 1, output, sizeof output) == MLC_NOT_FINITE);
    CHECK(run_mpi(self, NONE, 9, 8, 4, output, sizeof output) == 0);
}

static bool has_mpi(void)
{
    mlc_error error = {0};
    const mlc_mpi *mpi;
    if (mlc_mpi_load(&mpi, &error)) {
        CHECK(error.status == MLC_FAILED);
        CHECK_HOLDS(error.text, "libmlc_mpi.so");
        return false;
    }
    return system("mpirun --version > /dev/null 2>&1") == 0;
}

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#elif defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#endif

/* ---- all of them ---- */

static void check_meshes(enum trouble trouble, int seeds)
{
    static plan run;
    char name[64];
    for (int seed = 0; seed < seeds; seed++) {
        uint64_t state = mix((uint64_t)seed + 77);
        int pp = 1 + below(&state, 4), dp = 1 + below(&state, 3);
        make_plan(&run, (uint64_t)(seed + 1000 * (int)trouble), pp, pp * dp > 1 ? dp : 2);
        trouble_plan(&run, trouble);
        if (trouble != DIES)
            run_threads(&run);
        run_local(&run, NULL);
        snprintf(name, sizeof name, "mlc-test-%d", (int)getpid());
        run_local(&run, name);
    }
}

int main(int argc, char **argv)
{
    if (argc == 6 && !strcmp(argv[1], "mpi"))
        return mpi_main(argv + 2);
    check_join_failures();
    check_meshes(NONE, 12);
    for (int trouble = ABANDONS; trouble <= SLOW; trouble++)
        check_meshes((enum trouble)trouble, 3);
#ifndef UNDER_TSAN
    if (has_mpi())
        check_mpi(argv[0]);
    else
        puts("test_transports: no mpirun or libmlc_mpi.so: transport mpi skipped");
#else
    (void)argc;
    (void)argv;
    (void)check_mpi;
    (void)has_mpi;
#endif
    puts("test_transports: ok");
    return 0;
}
