/* test_files.c: hashes, JSON, safetensors, weights of others, checkpoints and what is refused of them, the digest. */
#include "checkpoint/bundle.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/digest.h"
#include "checkpoint/weights.h"
#include "stored.h"
#include "system/json.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* ---- SHA-256: vectors of FIPS 180-4 ---- */

static void check_hash(const char *text, size_t times, const char *expected)
{
    uint8_t digest[32];
    char hex[65];
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    for (size_t i = 0; i < times; i++)
        mlc_sha256_add(&hash, text, strlen(text));
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    CHECK(!strcmp(hex, expected));
}

static void check_hashes(void)
{
    check_hash("", 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_hash("abc", 1, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_hash("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 1,
               "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_hash("a", 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* ---- special files ---- */

static void refuse_file(const char *path, const char *kind, bool output)
{
    mlc_error error = {0};
    int fd = output ? mlc_file_open_output(path, O_APPEND, &error) : mlc_file_open_regular(path, &error);
    CHECK(fd < 0 && error.status == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, kind);
}

/* Nothing here may wait: the FIFO has no other end, until it has one whose reader reads nothing. */
static void check_special_files(void)
{
    mlc_error error = {0};
    CHECK(!mkfifo("fifo", 0600) && !symlink("fifo", "link"));
    refuse_file("fifo", "fifo: a FIFO, not a regular file", false);
    refuse_file("link", "a FIFO", false);
    refuse_file(".", "a directory", false);
    refuse_file("/dev/zero", "a device", false);
    refuse_file("nothing", "No such file", false);
    refuse_file("fifo", "a FIFO", true);
    refuse_file(".", "a directory", true);
    int null = mlc_file_open_output("/dev/null", O_TRUNC, &error);
    CHECK(null >= 0 && !close(null));
    int ends[2];
    char name[64];
    CHECK(!pipe(ends));
    snprintf(name, sizeof name, "/dev/fd/%d", ends[1]);
    int fd = mlc_file_open_output(name, O_APPEND, &error);
    CHECK(fd >= 0 && write(fd, name, 1) == 1);
    for (ssize_t done = 1; done > 0;)
        done = write(fd, "full", 4);
    CHECK(errno == EAGAIN && !close(fd) && !close(ends[0]) && !close(ends[1]));
}

/* ---- JSON ---- */

static bool reads(const char *text)
{
    mlc_json json;
    mlc_error error = {0};
    if (mlc_json_parse(&json, text, strlen(text), "text", &error))
        return false;
    mlc_json_free(&json);
    return true;
}

static void check_json(void)
{
    mlc_json json;
    mlc_error error = {0};
    uint64_t number;
    const char *text = " {\"a\": [1, 18446744073709551615, -2.5e3, true, null], \"b\\u00e9\\ud83d\\ude00\\n\": \"x\\\"y\"} ";
    CHECK(!mlc_json_parse(&json, text, strlen(text), "text", &error));
    const mlc_json_node *list = mlc_json_member(&json, &json.nodes[0], "a"), *first = mlc_json_first(&json, list);
    CHECK(list->count == 5 && mlc_json_whole(first, &number) && number == 1);
    CHECK(mlc_json_whole(mlc_json_next(&json, first), &number) && number == UINT64_MAX);
    CHECK(!mlc_json_whole(mlc_json_next(&json, mlc_json_next(&json, first)), &number));
    CHECK(!strcmp(mlc_json_string(mlc_json_member(&json, &json.nodes[0], "b\xc3\xa9\xf0\x9f\x98\x80\n")), "x\"y"));
    CHECK(!mlc_json_member(&json, &json.nodes[0], "c") && !mlc_json_string(NULL));
    mlc_json_free(&json);
    static const char *const WRONG[] = {"",       "{",     "[1,]",   "{\"a\"}",     "{\"a\":}", "01x",     "\"\\x\"",     "\"\\u00\"",
                                        "[1] 2",  "tru",   "\"a",    "\"\\ud800\"", "-",        "1.",      "{\"a\":1,}",  "\"\\u0000\"",
                                        "1e",     "nul",   "[1 2]",  "{1:2}",       "\"\n\""};
    for (size_t i = 0; i < sizeof WRONG / sizeof *WRONG; i++)
        CHECK(!reads(WRONG[i]));
    char deep[200];
    memset(deep, '[', 100);
    memset(deep + 100, ']', 99);
    deep[199] = 0;
    CHECK(!reads(deep));
}

/* ---- one rank that stores a table ---- */

enum { SIZE = 256, TABLE = SIZE * SIZE };

static const int64_t TABLE_SHAPE[] = {SIZE, SIZE};
static const stored_kind KIND = {"table", 2, TABLE_SHAPE, {{"momentum", MLC_F32, 2, TABLE_SHAPE, MLC_NONE}}, 1, false};

static stored *make_model(void)
{
    stored *all = stored_make(&KIND, 1, 1, 1, false);
    all->model.description = "parameter table=f32[256, 256]\nbatch=4\nmicrobatches=4\ngroups=2\n";
    return all;
}

/* As after so many steps. */
static void set_step(mlc_rank *rank, int64_t step)
{
    stored_set(rank, (uint64_t)step);
    rank->step = step;
    rank->cursor = 16 * step;
}

static mlc_rank *open_rank(int threads, int64_t step)
{
    mlc_rank *rank = stored_open(make_model(), 0, threads);
    set_step(rank, step);
    return rank;
}

static int save(mlc_rank *rank)
{
    mlc_error error = {0};
    return mlc_checkpoint_save(rank, "run/of/ours", &error);
}

static int load(mlc_rank *rank, const char *path)
{
    mlc_error error = {0};
    return mlc_checkpoint_load(rank, path, (mlc_allowed){0}, &error);
}

static void take_digest(mlc_rank *rank, char hex[65])
{
    mlc_error error = {0};
    CHECK(!mlc_digest(rank, hex, &error));
}

static void expect_digest(mlc_rank *rank, const char *expected)
{
    char hex[65];
    take_digest(rank, hex);
    CHECK(!strcmp(hex, expected));
}

static void check_round_trip(void)
{
    char at_2[65], at_4[65];
    mlc_rank *rank = open_rank(2, 2), *other = open_rank(3, 0);
    CHECK(!save(rank));
    take_digest(rank, at_2);
    set_step(rank, 4);
    take_digest(rank, at_4);
    CHECK(strcmp(at_2, at_4) && !load(other, "run/of/ours") && other->step == 2 && other->cursor == 32);
    expect_digest(other, at_2);
    CHECK(!save(rank) && !load(rank, "run/of/ours/step-00000002"));
    expect_digest(rank, at_2);
    CHECK(!load(rank, "run/of/ours"));
    expect_digest(rank, at_4);
    CHECK(!save(rank) && !load(rank, "run/of/ours")); /* the same step again */
    expect_digest(rank, at_4);
    stored_close(rank);
    stored_close(other);
}

/* The digest as its definition reads, computed here. */
static void check_digest(void)
{
    mlc_rank *rank = open_rank(1, 1);
    mlc_sha256 hash, part;
    uint8_t digest[32];
    char hex[65], names[2][16] = {"table", "table/momentum"};
    uint64_t at[] = {rank->role->held[0].master, rank->shard.pieces[0].states[0]};
    mlc_sha256_begin(&hash);
    for (int t = 0; t < 2; t++) {
        uint64_t sizes[] = {2, SIZE, SIZE};
        mlc_sha256_add(&hash, names[t], strlen(names[t]) + 1);
        mlc_sha256_add(&hash, "F32", 4);
        mlc_sha256_add(&hash, sizes, sizeof sizes);
        mlc_sha256_begin(&part);
        mlc_sha256_add(&part, mlc_rank_at(rank, at[t]), TABLE * 4); /* less than one block of 1 MiB */
        mlc_sha256_end(&part, digest);
        mlc_sha256_add(&hash, digest, 32);
    }
    uint64_t end[] = {1, 16};
    mlc_sha256_add(&hash, end, sizeof end);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    expect_digest(rank, hex);
    stored_close(rank);
}

/* ---- damaged checkpoints ---- */

static void expect_load(mlc_rank *rank, const char *path, const char *part)
{
    char before[65];
    mlc_error error = {0};
    take_digest(rank, before);
    CHECK(mlc_checkpoint_load(rank, path, (mlc_allowed){0}, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, part);
    expect_digest(rank, before);
}

/* Changes a file, expects a refusal, puts it back. `flip` -1: cut to half. */
static void expect_damage(mlc_rank *rank, const char *name, long flip, const char *part)
{
    char path[256];
    size_t size;
    snprintf(path, sizeof path, "run/of/ours/step-00000002/%s", name);
    char *text = check_read(path, &size), *changed = malloc(size + 1);
    memcpy(changed, text, size);
    if (flip >= 0)
        changed[(size_t)flip % size] ^= 16;
    check_write(path, changed, flip >= 0 ? size : size / 2);
    expect_load(rank, "run/of/ours/step-00000002", part);
    check_write(path, text, size);
    free(text);
    free(changed);
}

static void check_damage(void)
{
    static const char *const FILES[] = {"state.json", "model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors",
                                        "model.safetensors.index.json", "optimizer.safetensors.index.json"};
    mlc_rank *rank = open_rank(1, 0);
    for (size_t f = 0; f < sizeof FILES / sizeof *FILES; f++) {
        char part[128];
        snprintf(part, sizeof part, "%s: damaged: its checksum does not match", FILES[f]);
        expect_damage(rank, FILES[f], -1, part);
        for (long at = 0; at < 400; at += 37)
            expect_damage(rank, FILES[f], at, part);
        expect_damage(rank, FILES[f], 200000, part);
        char from[256], to[256];
        snprintf(from, sizeof from, "run/of/ours/step-00000002/%s", FILES[f]);
        snprintf(to, sizeof to, "run/of/ours/aside");
        CHECK(!rename(from, to));
        expect_load(rank, "run/of/ours/step-00000002", "No such file or directory");
        CHECK(!rename(to, from));
    }
    CHECK(!load(rank, "run/of/ours/step-00000002"));
    expect_load(rank, "run/of", "run/of/state.json: No such file or directory");
    expect_load(rank, "run/none", "run/none: no such directory");
    stored_close(rank);
}

static int skipped_count;

static void note_skipped(void *listener, const char *text)
{
    (void)listener;
    skipped_count += !strncmp(text, "checkpoint passed over: ", 24);
}

static void check_newest(void)
{
    char path[MLC_PATH_BYTES];
    mlc_error error = {0};
    mlc_rank *rank = open_rank(1, 0);
    rank->note = note_skipped;
    CHECK(!mlc_checkpoint_newest(rank, "run/of/ours", path, &error) && strstr(path, "step-00000004") && !skipped_count);
    size_t size;
    char *text = check_read("run/of/ours/step-00000004/state.json", &size);
    check_write("run/of/ours/step-00000004/state.json", text, size - 1);
    CHECK(!mkdir("run/of/ours/step-00000007", 0777) && !mkdir("run/of/ours/.step-00000009.tmp", 0777));
    check_write("run/of/ours/.step-00000009.tmp/state.json", text, 10);
    CHECK(!mlc_checkpoint_newest(rank, "run/of/ours", path, &error) && strstr(path, "step-00000002") && skipped_count == 2);
    CHECK(!mlc_checkpoint_newest(rank, "run/none", path, &error) && !*path);
    check_write("run/of/ours/step-00000004/state.json", text, size);
    free(text);
    CHECK(!mlc_checkpoint_prepare(rank, "run/of/ours", (mlc_allowed){0}, &error));
    CHECK(!access("run/of/ours/.step-00000009.tmp/state.json", F_OK) && !access("run/of/ours/step-00000004", F_OK)); /* not of our making */
    stored_close(rank);
}

/* ---- another model ---- */

/* A model with another description; with another hash, unless it is the same. */
static void expect_mismatch(const char *description, const char *item, const char *part)
{
    mlc_error error = {0};
    char *items[] = {(char *)(uintptr_t)item};
    stored *all = make_model();
    all->model.hash = "0000";
    all->model.description = description;
    mlc_rank *rank = stored_open(all, 0, 1);
    CHECK(mlc_checkpoint_load(rank, "run/of/ours", (mlc_allowed){0}, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, part);
    error = (mlc_error){0};
    if (item)
        CHECK(!mlc_checkpoint_load(rank, "run/of/ours", (mlc_allowed){items, 1}, &error));
    stored_close(rank);
}

/* The same hash, but other tensors. */
static void expect_other_tensors(stored_kind kind, const char *part)
{
    mlc_error error = {0};
    mlc_rank *rank = stored_alone(&kind, 1, 1);
    CHECK(mlc_checkpoint_load(rank, "run/of/ours", (mlc_allowed){0}, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, part);
    stored_close(rank);
}

static void check_mismatch(void)
{
    static const int64_t SHAPE[] = {128, 512};
    expect_mismatch("parameter table=f32[256, 256]\nbatch=8\nmicrobatches=4\ngroups=2\n", "batch",
                    "batch: the checkpoint has 4, this program 8 (--allow batch lets it pass)");
    expect_mismatch("parameter table=f32[256, 256]\nbatch=4\nclip=1.0\nmicrobatches=4\ngroups=2\n", "clip",
                    "clip: the checkpoint has (nothing), this program 1.0");
    expect_mismatch("parameter table=f32[256, 256]\nbatch=4\nmicrobatches=4\n", "groups",
                    "groups: the checkpoint has 2, this program (nothing)");
    expect_mismatch("parameter.table=128x512\nbatch=4\nmicrobatches=4\ngroups=2\n", NULL,
                    "parameter.table: the checkpoint has (nothing), this program 128x512");
    expect_mismatch(NULL, "hash", "hash: the checkpoint has 57, this program 0000");
    stored_kind kind = KIND;
    kind.shape = SHAPE;
    expect_other_tensors(kind, "tensor table: the checkpoint has F32[256, 256], this program F32[128, 512]");
    kind = KIND;
    kind.name = "other";
    expect_other_tensors(kind, "tensor other is missing");
}

/* ---- full disks and kills ---- */

/* Saves in a child that may write at most `limit` bytes to a file. Returns its exit code. */
static int save_limited(mlc_rank *rank, size_t limit)
{
    pid_t child = fork();
    if (!child) {
        struct rlimit size = {limit, limit};
        mlc_error error = {0};
        signal(SIGXFSZ, SIG_IGN);
        setrlimit(RLIMIT_FSIZE, &size);
        _exit(mlc_checkpoint_save(rank, "run/of/ours", &error) && strstr(error.text, "cannot be written") ? error.status : 77);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void check_full_disk(void)
{
    char path[MLC_PATH_BYTES];
    mlc_error error = {0};
    mlc_rank *rank = open_rank(1, 6);
    for (size_t limit = 0; limit < TABLE * 4; limit = 3 * limit + 50)
        CHECK(save_limited(rank, limit) == MLC_FAILED);
    CHECK(!mlc_checkpoint_newest(rank, "run/of/ours", path, &error) && strstr(path, "step-00000004"));
    CHECK(!system("! ls -d run/of/ours/.mlc-?????????* 2> err") && access("run/of/ours/step-00000006", F_OK));
    CHECK(!load(rank, "run/of/ours") && rank->step == 4);
    stored_close(rank);
}

/* Kills a child that saves again and again at any moment: what is there is whole, and newer than what was. */
static void check_kills(void)
{
    for (int round = 0; round < 20; round++) {
        int pipes[2];
        CHECK(!pipe(pipes));
        pid_t child = fork();
        if (!child) {
            mlc_error error = {0};
            mlc_rank *rank = open_rank(1, 10);
            for (;; rank->step += 1 + (rank->step % 3 == 0)) {
                if (mlc_checkpoint_save(rank, "kill", &error) || write(pipes[1], "", 1) != 1)
                    _exit(1);
                if (rank->step > 40)
                    rank->step = 10;
            }
        }
        char byte;
        CHECK(read(pipes[0], &byte, 1) == 1);
        usleep((useconds_t)(round * 1733 % 20000));
        kill(child, SIGKILL);
        CHECK(waitpid(child, NULL, 0) == child);
        close(pipes[0]);
        close(pipes[1]);
        char path[MLC_PATH_BYTES];
        mlc_error error = {0};
        skipped_count = 0;
        mlc_rank *rank = open_rank(1, 0);
        rank->note = note_skipped;
        CHECK(!mlc_checkpoint_newest(rank, "kill", path, &error) && *path && !skipped_count);
        CHECK(!load(rank, "kill"));
        stored_expect(rank, 10);
        stored_close(rank);
    }
}

/* ---- weights of others ---- */

/* Writes a safetensors file of given header and zeros, with one marked element. */
static void write_tensors(const char *path, const char *header, size_t data_bytes, const void *head, size_t head_bytes)
{
    uint64_t length = strlen(header);
    char *data = calloc(1, data_bytes + 1);
    memcpy(data, head, head_bytes);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(&length, 8, 1, file) == 1 && fwrite(header, 1, length, file) == length);
    CHECK(fwrite(data, 1, data_bytes, file) == data_bytes && !fclose(file));
    free(data);
}

static void expect_weights(const char *path, char *allow, const char *part, float first)
{
    mlc_error error = {0};
    mlc_rank *rank = open_rank(1, 0);
    mlc_weights_load(rank, path, (mlc_weights_terms){.allowed = {&allow, allow != NULL}}, &error);
    CHECK(!error.status == !part);
    if (part)
        CHECK_HOLDS(error.text, part);
    else
        CHECK(*stored_floats(rank, rank->role->held[0].master) == first);
    stored_close(rank);
}

#define TENSOR(name, dtype, from, to) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":[256,256],\"data_offsets\":[" #from "," #to "]}"

static void check_weights(void)
{
    float one = 1.5F;
    double wide = 2.5;
    uint16_t brain = 0x4060, half = 0x4700;
    write_tensors("f32.safetensors", "{" TENSOR("table", "F32", 0, 262144) "}", 262144, &one, 4);
    write_tensors("prefix.safetensors", "{" TENSOR("transformer.table", "F64", 0, 524288) ",\"__metadata__\":{\"format\":\"pt\"}}", 524288,
                  &wide, 8);
    write_tensors("bf16.safetensors",
                  "{" TENSOR("table", "BF16", 0,
                             131072) ",\"h.0.attn.bias\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[131072,131074]}}",
                  131074, &brain, 2);
    write_tensors("f16.safetensors", "{" TENSOR("table", "F16", 0, 131072) "}", 131072, &half, 2);
    write_tensors("tied.safetensors", "{" TENSOR("table", "F32", 0, 262144) "," TENSOR("head", "F32", 262144, 524288) "}", 524288, "", 0);
    write_tensors("extra.safetensors", "{" TENSOR("table", "F32", 0, 262144) "," TENSOR("head", "F32", 262144, 524288) "}", 524288, &one,
                  4);
    write_tensors("integer.safetensors", "{" TENSOR("table", "I32", 0, 262144) "}", 262144, &one, 4);
    write_tensors("shape.safetensors", "{\"table\":{\"dtype\":\"F32\",\"shape\":[65536],\"data_offsets\":[0,262144]}}", 262144, &one, 4);
    write_tensors("other.safetensors", "{" TENSOR("wte", "F32", 0, 262144) "}", 262144, &one, 4);
    write_tensors("short.safetensors", "{" TENSOR("table", "F32", 0, 262144) "}", 262143, &one, 4);
    write_tensors("dtype.safetensors", "{" TENSOR("table", "F99", 0, 262144) "}", 262144, &one, 4);
    write_tensors("twice.safetensors", "{" TENSOR("table", "F32", 0, 262144) "," TENSOR("table", "F32", 0, 262144) "}", 262144, &one, 4);
    check_write("empty.safetensors", "", 0);
    expect_weights("f32.safetensors", NULL, NULL, 1.5F);
    expect_weights("prefix.safetensors", NULL, NULL, 2.5F);
    expect_weights("bf16.safetensors", NULL, NULL, 3.5F);
    expect_weights("f16.safetensors", NULL, NULL, 7);
    expect_weights("tied.safetensors", NULL, NULL, 0);
    expect_weights("extra.safetensors", NULL, "the model has no parameter for tensor head (--allow head ignores it)", 0);
    expect_weights("extra.safetensors", "head", NULL, 1.5F);
    expect_weights("integer.safetensors", NULL, "dtype I32 is not F32, F16, BF16 or F64", 0);
    expect_weights("shape.safetensors", NULL, "tensor table has shape [65536], parameter table has [256, 256]", 0);
    expect_weights("other.safetensors", NULL, "parameter table is missing (--allow table keeps its initial value)", 0);
    expect_weights("short.safetensors", NULL, "damaged or truncated: shape and offsets of tensor table do not fit the file", 0);
    expect_weights("dtype.safetensors", NULL, "tensor table: unknown dtype F99", 0);
    expect_weights("twice.safetensors", NULL, "tensor table is there twice", 0);
    expect_weights("empty.safetensors", NULL, "truncated: 0 bytes are no safetensors file", 0);
    expect_weights("none.safetensors", NULL, "No such file or directory", 0);
    CHECK(!mkdir("hf", 0777) && !rename("f32.safetensors", "hf/model.safetensors"));
    expect_weights("hf", NULL, NULL, 1.5F);
    expect_weights("run/of/ours", NULL, NULL, stored_value(0, -1, 0, 4));
    expect_weights("run/of/ours/step-00000002", NULL, NULL, stored_value(0, -1, 0, 2));
}

/* ---- names with a star ---- */

static void check_stars(void)
{
    static const int64_t SHAPE[] = {4, 8};
    const mlc_tensor m = {"m", MLC_F32, 2, SHAPE, MLC_NONE}, scale = {"scale", MLC_F32, 0, NULL, MLC_NONE};
    const stored_kind kind = {"experts.*.up", 2, SHAPE, {m, scale}, 2, true};
    mlc_rank *rank = stored_alone(&kind, 1, 1);
    const mlc_catalog *catalog = &rank->catalog;
    CHECK(catalog->parameters.count == 4 && catalog->states.count == 5 && catalog->whole.count == 3);
    const mlc_entry *last = &catalog->parameters.items[3];
    CHECK(!strcmp(last->name, "experts.3.up") && last->first == 3 * 8 && last->rank == 1 && last->elements == 8);
    mlc_owned owned = mlc_entry_owned(rank, last, 2);
    CHECK(owned.begin == 2 && owned.end == 8 && owned.rank == 0 && owned.first == 3 * 8 && owned.lies.at == rank->role->held[0].master);
    CHECK(!strcmp(catalog->states.items[1].name, "experts.1.up/m") && !strcmp(catalog->states.items[4].name, "experts.*.up/scale"));
    stored_close(rank);
}

static void refuse_owned(stored *all, const char *words)
{
    mlc_error error = {0};
    mlc_catalog catalog;
    CHECK(mlc_catalog_open(&catalog, &all->model, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, words);
    mlc_catalog_close(&catalog);
    free(all);
}

/* Every parameter is shared out once, by its owner, as its update wants it. */
static void check_owned(void)
{
    stored *all = make_model();
    all->roles[0].owned_count--;
    refuse_owned(all, "is owned by nobody");
    all = make_model();
    all->owned[0][1] = all->owned[0][0];
    all->roles[0].owned_count++;
    refuse_owned(all, "is not in order");
    all = make_model();
    all->owned[0][0].sharing = MLC_SLICED;
    refuse_owned(all, "model stored: place 0: parameter table is not shared out as its update wants it");
    all = make_model();
    all->parameters[0].owner = 7;
    refuse_owned(all, "is another place's");
}

int main(void)
{
    check_enter_directory();
    check_hashes();
    check_special_files();
    check_json();
    check_round_trip();
    check_digest();
    check_damage();
    check_newest();
    check_mismatch();
    check_full_disk();
    check_kills();
    check_weights();
    check_stars();
    check_owned();
    check_leave_directory();
    printf("test_files: ok\n");
    return 0;
}
