/* test_layouts.c: checkpoints, weights and digests do not depend on the layout of the ranks; failures of one rank are those of all. */
#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "checkpoint/weights.h"
#include "stored.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>

enum { SALT = 5, OTHER_SALT = 6, KINDS = 7 };

static const int64_t EMBEDDING[] = {300, 1024}, SQUARE[] = {64, 64}, ODD[] = {1001}, EXPERTS[] = {3, 300, 400}, WHOLE[] = {512, 600},
                     FROZEN[] = {77}, FIVE[] = {5};

/* Tensors above and below a block of the digest and a block of a shard; one whose rule is not elementwise; one without state. */
static const stored_kind KIND[KINDS] = {
    {"wte", 2, EMBEDDING, {{"m", MLC_F32, 2, EMBEDDING, MLC_NONE}, {"v", MLC_F32, 2, EMBEDDING, MLC_NONE}}, 2, false},
    {"h.0.w", 2, SQUARE, {{"m", MLC_F32, 2, SQUARE, MLC_NONE}}, 1, false},
    {"h.1.w", 1, ODD, {{"m", MLC_F32, 1, ODD, MLC_NONE}}, 1, false},
    {"experts.*.up", 3, EXPERTS, {{"m", MLC_F32, 3, EXPERTS, MLC_NONE}}, 1, false},
    {"muon", 2, WHOLE, {{"row", MLC_F32, 1, WHOLE, MLC_NONE}, {"scale", MLC_F32, 0, NULL, MLC_NONE}}, 2, true},
    {"frozen", 1, FROZEN, {{0}}, 0, false},
    {"ln.b", 1, FIVE, {{"m", MLC_F32, 1, FIVE, MLC_NONE}}, 1, false},
};

static void run_layout(int pp, int dp, bool bf16, int threads, void (*run)(mlc_rank *rank, void *context), void *context)
{
    stored_run(stored_make(KIND, KINDS, pp, dp, bf16), threads, run, context);
}

static char expected[65]; /* the digest with one rank */

static void expect_digest(mlc_rank *rank, const char *hex)
{
    char own[65];
    mlc_error error = {0};
    CHECK(!mlc_digest(rank, own, &error) && !strcmp(own, hex));
}

static void set_values(mlc_rank *rank, uint64_t salt, int64_t step)
{
    stored_set(rank, salt);
    rank->step = step;
    rank->cursor = 3 * step;
    rank->seed = salt;
}

/* ---- the same bytes ---- */

static void save_first(mlc_rank *rank, void *directory)
{
    mlc_error error = {0};
    set_values(rank, SALT, 7);
    CHECK(!mlc_digest(rank, expected, &error));
    CHECK(!mlc_checkpoint_save(rank, directory, &error));
}

static void save_again(mlc_rank *rank, void *directory)
{
    mlc_error error = {0};
    set_values(rank, SALT, 7);
    expect_digest(rank, expected);
    CHECK(!mlc_checkpoint_save(rank, directory, &error));
}

static void load_all(mlc_rank *rank, void *directory)
{
    mlc_error error = {0};
    set_values(rank, OTHER_SALT, 1);
    CHECK(!mlc_checkpoint_load(rank, directory, (mlc_allowed){0}, &error));
    stored_expect(rank, SALT);
    CHECK(rank->step == 7 && rank->cursor == 21 && rank->seed == SALT);
    expect_digest(rank, expected);
    stored_set(rank, OTHER_SALT);
    CHECK(!mlc_weights_load(rank, directory, (mlc_weights_terms){0}, &error));
    stored_expect_masters(rank, SALT);
}

static void expect_same_files(const char *one, const char *other)
{
    char command[256];
    snprintf(command, sizeof command, "diff -r -x .mlc-lock %s %s", one, other);
    CHECK(!system(command));
}

static void check_layouts(void)
{
    static const int LAYOUTS[][2] = {{1, 1}, {2, 1}, {1, 2}, {2, 2}, {3, 1}, {1, 3}, {3, 2}, {7, 1}, {1, 5}, {3, 4}};
    run_layout(1, 1, false, 1, save_first, "one");
    for (size_t i = 0; i < sizeof LAYOUTS / sizeof *LAYOUTS; i++) {
        int pp = LAYOUTS[i][0], dp = LAYOUTS[i][1], threads = 1 + (int)i % 2;
        for (int bf16 = 0; bf16 < 2; bf16++) {
            run_layout(pp, dp, bf16, threads, save_again, "other");
            expect_same_files("one", "other");
            CHECK(!system("rm -r other"));
        }
        run_layout(pp, dp, i % 2, threads, load_all, "one");
    }
}

/* ---- refusals ---- */

static int skipped_count;

static void note_skipped(void *listener, const char *text)
{
    (void)listener;
    skipped_count += !strncmp(text, "checkpoint passed over: ", 24);
}

/* Every rank refuses in the same words (others may say whose they are), and nothing has changed. */
static void expect_refusal(mlc_rank *rank, void *expected_text)
{
    const char *part = expected_text;
    char path[MLC_PATH_BYTES];
    mlc_error error = {0};
    set_values(rank, OTHER_SALT, 1);
    CHECK(mlc_checkpoint_load(rank, "one/step-00000007", (mlc_allowed){0}, &error) == MLC_BAD_INPUT);
    const char *text = rank->rank && !strncmp(error.text, "rank 0: ", 8) ? error.text + 8 : error.text;
    CHECK_HOLDS(text, part);
    CHECK(strlen(text) == strlen(part) && rank->step == 1);
    error = (mlc_error){0};
    rank->note = note_skipped;
    CHECK(mlc_checkpoint_newest(rank, "one", path, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, "one: no checkpoint there is whole");
}

static void check_refusals(void)
{
    static const char *const FILES[] = {"optimizer-00001-of-00001.safetensors", "model-00001-of-00001.safetensors",
                                        "optimizer.safetensors.index.json"};
    for (size_t f = 0; f < sizeof FILES / sizeof *FILES; f++) {
        char path[256], part[512];
        size_t size;
        snprintf(path, sizeof path, "one/step-00000007/%s", FILES[f]);
        char *text = check_read(path, &size);
        text[size / 2] ^= 16;
        check_write(path, text, size);
        snprintf(part, sizeof part, "%s: damaged: its checksum does not match", path);
        run_layout(2, 2, false, 1, expect_refusal, part);
        text[size / 2] ^= 16;
        CHECK(!unlink(path));
        snprintf(part, sizeof part, "%s: No such file or directory", path);
        run_layout(3, 1, false, 1, expect_refusal, part);
        check_write(path, text, size);
        free(text);
    }
    CHECK(skipped_count == 6);
}

static void find_newest(mlc_rank *rank, void *context)
{
    char path[MLC_PATH_BYTES];
    mlc_error error = {0};
    CHECK(!mlc_checkpoint_prepare(rank, "one", (mlc_allowed){0}, &error));
    CHECK(!mlc_checkpoint_newest(rank, "one", path, &error) && !strcmp(path, context));
    CHECK(mlc_checkpoint_load(rank, "none", (mlc_allowed){0}, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, "none: no such directory");
}

/* ---- one rank that fails ---- */

static bool is_absent(const char *path)
{
    return access(path, F_OK) != 0;
}

/* Is nothing left of a save that failed? */
static bool is_clean(void)
{
    return !system("! ls -d one/.mlc-?????????* > listed 2>&1");
}

/* The last rank cannot read what it should write, as if its disk were full. */
static void save_broken(mlc_rank *rank, void *context)
{
    (void)context;
    mlc_error error = {0};
    int last = rank->world.ranks - 1;
    char name[32];
    snprintf(name, sizeof name, "rank %d: ", last);
    uint64_t begin = (rank->role->inbox_bytes + 4095) / 4096 * 4096, bytes = (rank->arena.arena_bytes - begin) / 4096 * 4096;
    set_values(rank, SALT, 8);
    if (rank->rank == last)
        CHECK(!mprotect(rank->arena.base + begin, bytes, PROT_NONE));
    CHECK(mlc_checkpoint_save(rank, "one", &error) == MLC_FAILED);
    CHECK_HOLDS(error.text, "safetensors: cannot be written: Bad address");
    CHECK(!strncmp(error.text, name, strlen(name)) == (rank->rank != last));
    CHECK(is_absent("one/step-00000008") && (rank->rank || is_clean()));
    if (rank->rank == last)
        CHECK(!mprotect(rank->arena.base + begin, bytes, PROT_READ | PROT_WRITE));
    error = (mlc_error){0};
    CHECK(!mlc_checkpoint_save(rank, "one", &error) && !is_absent("one/step-00000008"));
}

/* The last rank is gone before it writes. */
static void save_lost(mlc_rank *rank, void *context)
{
    mlc_error error = {0};
    set_values(rank, SALT, 9);
    if (rank->rank == rank->world.ranks - 1) {
        rank->world.transport->abandon(&rank->world, MLC_FAILED);
        return;
    }
    CHECK(mlc_checkpoint_save(rank, context, &error) == MLC_FAILED);
    CHECK_HOLDS(error.text, "ended the run with code 3");
    CHECK(is_absent("one/step-00000009"));
}

static void check_faults(void)
{
    run_layout(2, 1, false, 1, save_broken, "one");
    CHECK(!system("rm -r one/step-00000008"));
    run_layout(2, 2, true, 2, save_broken, "one");
    run_layout(3, 1, false, 1, save_lost, "one");
    run_layout(2, 2, false, 1, save_lost, "one");
    run_layout(2, 1, false, 1, find_newest, "one/step-00000008");
    CHECK(is_clean());
}

/* ---- kills ---- */

static void save_on(mlc_rank *rank, void *context)
{
    int *ready = context;
    stored_set(rank, SALT);
    for (int64_t step = 10;; step++) {
        mlc_error error = {0};
        rank->step = step % 4;
        if (mlc_checkpoint_save(rank, "kill", &error))
            _exit(1);
        if (rank->rank == 0 && write(ready[1], "", 1) != 1)
            _exit(1);
    }
}

static void load_newest(mlc_rank *rank, void *context)
{
    (void)context;
    char path[MLC_PATH_BYTES];
    mlc_error error = {0};
    rank->note = note_skipped;
    CHECK(!mlc_checkpoint_newest(rank, "kill", path, &error) && *path);
    CHECK(!mlc_checkpoint_load(rank, "kill", (mlc_allowed){0}, &error));
    stored_expect(rank, SALT);
}

static void check_kills(void)
{
    skipped_count = 0;
    for (int round = 0; round < 8; round++) {
        int ready[2];
        char byte;
        CHECK(!pipe(ready));
        pid_t child = fork();
        if (!child)
            run_layout(2, 2, round % 2, 1, save_on, ready);
        CHECK(read(ready[0], &byte, 1) == 1);
        usleep((useconds_t)(round * 7919 % 50000));
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        close(ready[0]);
        close(ready[1]);
        run_layout(1 + round % 3, 1 + round % 2, false, 1, load_newest, NULL);
        CHECK(!skipped_count);
    }
}

int main(void)
{
    check_enter_directory();
    check_layouts();
    check_refusals();
    check_faults();
    check_kills();
    check_leave_directory();
    printf("test_layouts: ok\n");
    return 0;
}
