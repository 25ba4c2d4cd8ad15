/* test_terms.c: ranks that were given different things find it out, whatever their programs are; and the words that nobody reads. */
#include "check.h"
#include "command/terms.h"
#include "system/voice.h"
#include "transports.h"

#include "mlc.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>

enum { RANKS = 5, ODD = 3 };

static const mlc_role ROLES[RANKS] = {{.inbox_bytes = 4096}, {.inbox_bytes = 4096}, {.inbox_bytes = 4096}, {.inbox_bytes = 4096},
                                      {.inbox_bytes = 4096}};
static const mlc_model MESH = {.name = "mesh", .hash = "", .description = "", .mesh = MLC_MESH(RANKS, 1), .roles = ROLES};

/* What each rank got. */
typedef struct outcome {
    int status;
    bool common;
    mlc_error error;
} outcome;

/* The terms of a rank, and what went wrong in it before. */
typedef void (*rank_terms)(int rank, mlc_terms *terms, mlc_error *error);

/* Every rank is a process, as under a launcher. A rank without terms does not come. */
static void compare(rank_terms make, outcome *outcomes)
{
    mlc_error error = {0};
    mlc_local *local;
    CHECK(!mlc_local_create(&local, &MESH, &error));
    pid_t children[RANKS];
    for (int r = 0; r < RANKS; r++) {
        children[r] = fork();
        CHECK(children[r] >= 0);
        if (children[r])
            continue;
        mlc_terms *terms = calloc(1, sizeof *terms);
        mlc_local_settle(local, r);
        mlc_meeting meeting = mlc_local_meet(local, r, 2);
        make(r, terms, &outcomes[r].error);
        if (terms->count || outcomes[r].error.status)
            outcomes[r].status = mlc_terms_compare(terms, &meeting, &outcomes[r].common, &outcomes[r].error);
        exit(0);
    }
    mlc_local_settle(local, -1);
    for (int r = 0; r < RANKS; r++)
        CHECK(waitpid(children[r], NULL, 0) == children[r]);
    mlc_local_destroy(local);
}

static void check_all(rank_terms make, int status, const char *sentence)
{
    outcome *outcomes = mmap(NULL, RANKS * sizeof *outcomes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(outcomes != MAP_FAILED);
    compare(make, outcomes);
    for (int r = 0; r < RANKS; r++) {
        CHECK(outcomes[r].status == status && outcomes[r].common == (status != MLC_OK));
        CHECK(!strcmp(outcomes[r].error.text, sentence));
    }
    munmap(outcomes, RANKS * sizeof *outcomes);
}

static void same(int rank, mlc_terms *terms, mlc_error *error)
{
    (void)rank;
    (void)error;
    mlc_terms_add(terms, "batch", "4");
    mlc_terms_add(terms, "--rate", "0.5");
}

static void other_value(int rank, mlc_terms *terms, mlc_error *error)
{
    (void)error;
    mlc_terms_add(terms, "batch", "4");
    mlc_terms_add(terms, "--rate", rank >= ODD ? "0.25" : "0.5");
    mlc_terms_add(terms, "--steps", rank == 1 ? "1" : "2");
}

/* Another program: other terms, in another order, and more of them. */
static void other_program(int rank, mlc_terms *terms, mlc_error *error)
{
    (void)error;
    if (rank == ODD)
        mlc_terms_add(terms, "layout", "pp 1");
    same(rank, terms, error);
}

static void fewer(int rank, mlc_terms *terms, mlc_error *error)
{
    same(rank, terms, error);
    if (rank != ODD)
        mlc_terms_add(terms, "--new", "1");
}

/* More than there is room for: the last one that differs is found all the same. */
static void many(int rank, mlc_terms *terms, mlc_error *error)
{
    char name[32];
    (void)error;
    for (int i = 0; i < 3 * MLC_TERMS; i++) {
        snprintf(name, sizeof name, "term %d", i);
        mlc_terms_add(terms, name, rank == ODD && i == 3 * MLC_TERMS - 1 ? "a" : "b");
    }
}

/* Values that are alike as far as they are kept for people. */
static void long_values(int rank, mlc_terms *terms, mlc_error *error)
{
    char value[2 * MLC_TERM_BYTES];
    memset(value, 'x', sizeof value - 1);
    value[sizeof value - 1] = 0;
    value[sizeof value - 2] = rank == ODD ? 'y' : 'x';
    (void)error;
    mlc_terms_add(terms, "--data", value);
}

static void failed(int rank, mlc_terms *terms, mlc_error *error)
{
    same(rank, terms, error);
    if (rank >= ODD)
        mlc_error_set(error, MLC_USAGE, "unknown option --what");
}

static void check_programs(void)
{
    char text[MLC_TERM_BYTES], sentence[2 * MLC_TERM_BYTES + 100];
    check_all(same, MLC_OK, "");
    check_all(other_value, MLC_USAGE, "the ranks differ in --rate: 0.5 at rank 0, 0.25 at rank 3 (2 ranks differ from rank 0)");
    check_all(other_program, MLC_USAGE, "the ranks differ: batch 4 at rank 0, layout pp 1 at rank 3");
    check_all(fewer, MLC_USAGE, "the ranks differ: --new 1 at rank 0, the end of the options  at rank 3");
    check_all(many, MLC_USAGE, "the ranks differ in other options: others at rank 0, others at rank 3");
    check_all(failed, MLC_USAGE, "rank 3: unknown option --what");
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    snprintf(sentence, sizeof sentence, "the ranks differ in --data: %s at rank 0, %s at rank 3", text, text);
    check_all(long_values, MLC_USAGE, sentence);
}

static void dies(int rank, mlc_terms *terms, mlc_error *error)
{
    if (rank == ODD)
        raise(SIGKILL);
    same(rank, terms, error);
}

static void stays_away(int rank, mlc_terms *terms, mlc_error *error)
{
    if (rank == ODD)
        sleep(4);
    else
        same(rank, terms, error);
}

/* A rank that does not come is named, and nobody waits longer than was said. */
static void check_missing(void)
{
    outcome *outcomes = mmap(NULL, RANKS * sizeof *outcomes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(outcomes != MAP_FAILED);
    compare(dies, outcomes);
    for (int r = 0; r < RANKS; r++)
        CHECK(r == ODD || (outcomes[r].status == MLC_FAILED && !outcomes[r].common && strstr(outcomes[r].error.text, "rank 3 is lost")));
    memset(outcomes, 0, RANKS * sizeof *outcomes);
    compare(stays_away, outcomes);
    for (int r = 0; r < RANKS; r++)
        CHECK(r == ODD || (outcomes[r].status == MLC_HANG && !outcomes[r].common));
    CHECK_HOLDS(outcomes[0].error.text, "rank 3 of 5 has not come to agree with the others within 2 s");
    munmap(outcomes, RANKS * sizeof *outcomes);
}

/* Words go to whoever reads, and are dropped where nobody does: in a pipe that is full, a socket that is full, one that is closed. */
static void check_voice(void)
{
    char text[8] = "";
    int kept = dup(STDERR_FILENO), ends[2];
    CHECK(!pipe(ends) && dup2(ends[1], STDERR_FILENO) == STDERR_FILENO);
    mlc_say("%s %d\n", "word", 1);
    CHECK(read(ends[0], text, sizeof text) == 7 && !memcmp(text, "word 1\n", 7));
    CHECK(!fcntl(ends[1], F_SETFL, O_NONBLOCK));
    while (write(ends[1], "full", 1) == 1)
        ;
    CHECK(!fcntl(ends[1], F_SETFL, 0));
    mlc_say("never heard\n");
    CHECK(!(fcntl(STDERR_FILENO, F_GETFL) & O_NONBLOCK)); /* the flag is not that of others */
    close(STDERR_FILENO);
    mlc_say("nowhere\n");
    CHECK(dup2(kept, STDERR_FILENO) == STDERR_FILENO && !close(kept) && !close(ends[0]) && !close(ends[1]));
}

int main(void)
{
    check_programs();
    check_missing();
    check_voice();
    puts("test_terms: ok");
    return 0;
}
