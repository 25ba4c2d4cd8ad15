/* fuzz_loaders.c: mutated files for everything that reads files: SECONDS [SEED]. A loader may refuse, not crash. */
#include "checkpoint/checkpoint.h"
#include "checkpoint/weights.h"
#include "data/data.h"
#include "stored.h"
#include "system/json.h"

#include <time.h>

static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state = mlc_order_mix(state);
    return state % below;
}

/* ---- mutations ---- */

typedef struct text {
    char *bytes;
    size_t size;
} text;

static const char *const WORDS[] = {"{", "}", "[", "]", "\"", ":", ",", "-1", "18446744073709551615", "9223372036854775807",
                                    "1e999", "\\u0000", "null", "(", ")", "'", "\\"};

static void splice(text *file, size_t at, size_t removed, const char *inserted, size_t size)
{
    removed = removed < file->size - at ? removed : file->size - at;
    char *bytes = malloc(file->size - removed + size + 1);
    memcpy(bytes, file->bytes, at);
    memcpy(bytes + at, inserted, size);
    memcpy(bytes + at + size, file->bytes + at + removed, file->size - at - removed);
    free(file->bytes);
    *file = (text){bytes, file->size - removed + size};
}

static void mutate(text *file)
{
    size_t near = file->size > 600 && draw(4) ? 600 : file->size; /* headers are at the front */
    size_t at = near ? draw(near) : 0;
    uint64_t word = draw(3) ? draw(256) : state;
    const char *inserted = WORDS[draw(sizeof WORDS / sizeof *WORDS)];
    switch (draw(6)) {
    case 0:
        if (at < file->size)
            file->bytes[at] ^= (char)(1 << draw(8));
        break;
    case 1:
        splice(file, at, draw(2) * strlen(inserted), inserted, strlen(inserted));
        break;
    case 2:
        splice(file, at, 1 + draw(20), "", 0);
        break;
    case 3:
        file->size = draw(8) ? file->size : at;
        break;
    case 4:
        splice(file, at, 8, (const char *)&word, 1 + draw(8));
        break;
    default:
        if (file->size - at > 16)
            splice(file, at, 0, file->bytes + at, 1 + draw(16));
    }
}

/* ---- targets: each writes what it needs, and reads a mutated file ---- */

static mlc_rank *rank;

static void write_mutated(const char *seed, const char *path)
{
    text file;
    file.bytes = check_read(seed, &file.size);
    for (uint64_t i = 1 + draw(6); i > 0; i--)
        mutate(&file);
    check_write(path, file.bytes, file.size);
    free(file.bytes);
}

static void check_status(const mlc_error *error)
{
    CHECK(error->status == MLC_OK || error->status == MLC_BAD_INPUT || error->status == MLC_USAGE);
    CHECK(!error->status == !*error->text);
}

/* Opens a file as data and fills a few microbatches from it. */
static void try_data(const mlc_model *model, const char *path)
{
    mlc_error error = {0};
    mlc_data data;
    char *argument = (char *)(uintptr_t)path;
    if (!mlc_data_open(&data, model, &argument, 1, "--data", &error)) {
        mlc_data_feed feed = mlc_data_feed_make(&data, (mlc_order){.seed = state, .examples = data.examples}, 0, 1);
        mlc_rank reader = {.model = model};
        int32_t rows[64];
        for (int64_t j = 0; j < 3 && !error.status; j++)
            for (int input = 0; input < model->input_count && !error.status; input++)
                feed.feed.fill(&feed.feed, &reader, input, j, 0, model->batch, rows, &error);
    }
    mlc_data_close(&data);
    check_status(&error);
}

static const int64_t SHAPE[] = {2, 3}, TOKENS_SHAPE[] = {4, 16}, TABLE_SHAPE[] = {64, 64};
static const stored_kind TABLE = {"table", 2, TABLE_SHAPE, {{"momentum", MLC_F32, 2, TABLE_SHAPE, MLC_NONE}}, 1, false};
static const mlc_input TOKENS[] = {{{"tokens", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, 256},
                                   {{"targets", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_FOLLOWING, 0, 1, 256}};
static const mlc_input FLOATS[] = {{{"x", MLC_BF16, 2, SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, -1}};
static const mlc_input LABELS[] = {{{"x", MLC_I32, 2, SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, 10}};
static const mlc_model tokens = {.name = "tokens", .inputs = TOKENS, .input_count = 2, .batch = 4},
                       floats = {.name = "floats", .inputs = FLOATS, .input_count = 1, .batch = 2},
                       labels = {.name = "labels", .inputs = LABELS, .input_count = 1, .batch = 2};

static void try_tokens(void)
{
    static const char *const SEEDS[] = {"shard.bin", "nano.bin", "stream.npy", "nano.bin"};
    uint64_t at = draw(4);
    const char *seed = SEEDS[at], *path = strstr(seed, ".npy") ? "mutated.npy" : at < 3 ? "mutated.bin" : "mutated.txt";
    write_mutated(seed, path);
    try_data(&tokens, path);
}

/* An index beside its data, one of them damaged; or the index itself. */
static void try_megatron(void)
{
    bool index = draw(3);
    size_t size;
    char *whole = check_read(index ? "whole.bin" : "whole.idx", &size);
    check_write(index ? "broken.bin" : "broken.idx", whole, size);
    free(whole);
    write_mutated(index ? "whole.idx" : "whole.bin", index ? "broken.idx" : "broken.bin");
    try_data(&tokens, draw(4) ? "broken.bin" : "broken.idx");
}

static void try_arrays(void)
{
    write_mutated(draw(2) ? "floats.npy" : "labels.npy", "mutated.npy");
    try_data(&floats, "mutated.npy");
    try_data(&labels, "mutated.npy");
}

static void try_weights(void)
{
    mlc_error error = {0};
    write_mutated("ckpt/step-00000000/model-00001-of-00001.safetensors", "mutated.safetensors");
    mlc_weights_load(rank, "mutated.safetensors", (mlc_weights_terms){0}, &error);
    check_status(&error);
}

/* A state.json whose own checksum is right again, so that what lies behind it is reached. */
static void seal(const char *path)
{
    text file;
    uint8_t digest[32];
    char hex[65], tail[128];
    mlc_sha256 hash;
    file.bytes = check_read(path, &file.size);
    file.size = file.size > 83 ? file.size - 83 : 0;
    mlc_sha256_begin(&hash);
    mlc_sha256_add(&hash, file.bytes, file.size);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    snprintf(tail, sizeof tail, "  \"checksum\": \"%s\"\n}\n", hex);
    splice(&file, file.size, 0, tail, strlen(tail));
    check_write(path, file.bytes, file.size);
    free(file.bytes);
}

static void try_checkpoint(void)
{
    static const char *const NAMES[] = {"state.json", "model.safetensors.index.json", "model-00001-of-00001.safetensors"};
    char seed[256], path[256];
    mlc_error error = {0};
    uint64_t file = draw(3);
    snprintf(seed, sizeof seed, "ckpt/step-00000000/%s", NAMES[file]);
    snprintf(path, sizeof path, "broken/%s", NAMES[file]);
    write_mutated(seed, path);
    if (file == 0 && draw(4))
        seal(path);
    mlc_checkpoint_load(rank, "broken", (mlc_allowed){0}, &error);
    check_status(&error);
    error = (mlc_error){0};
    mlc_weights_load(rank, "broken", (mlc_weights_terms){0}, &error);
    check_status(&error);
    size_t size;
    char *text = check_read(seed, &size);
    check_write(path, text, size);
    free(text);
}

static void try_json(void)
{
    mlc_json json;
    mlc_error error = {0};
    size_t size;
    write_mutated("ckpt/step-00000000/state.json", "mutated.json");
    char *text = check_read("mutated.json", &size);
    if (!mlc_json_parse(&json, text, size, "text", &error))
        mlc_json_free(&json);
    check_status(&error);
    free(text);
}

/* ---- seeds ---- */

static void write_npy(const char *path, const char *header, size_t bytes)
{
    static const char ZEROS[1024];
    FILE *file = fopen(path, "wb");
    unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)strlen(header), 0};
    CHECK(file && fwrite(prefix, 1, 10, file) == 10 && fputs(header, file) >= 0 && fwrite(ZEROS, 1, bytes, file) == bytes);
    fclose(file);
}

static void write_seeds(void)
{
    int32_t shard[256 + 50] = {20240520, 1, 100};
    mlc_error error = {0};
    check_write("shard.bin", shard, 1024 + 200);
    check_write("nano.bin", shard + 3, 400);
    uint8_t index[34 + 2 * 12 + 2 * 8] = "MMIDIDX\0";
    index[9] = 1, index[17] = 8, index[18] = 2, index[26] = 2, index[34] = 50, index[38] = 50, index[50] = 100, index[66] = 2;
    check_write("whole.idx", index, sizeof index);
    check_write("whole.bin", shard + 3, 200);
    write_npy("stream.npy", "{'descr': '<i8', 'fortran_order': False, 'shape': (40,), }\n", 320);
    write_npy("floats.npy", "{'descr': '<f8', 'fortran_order': False, 'shape': (5, 3), }\n", 120);
    write_npy("labels.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (5, 3), }\n", 60);
    CHECK(!mlc_checkpoint_save(rank, "ckpt", &error));
    CHECK(!system("cp -r ckpt/step-00000000 broken"));
}

int main(int argc, char **argv)
{
    static void (*const TARGETS[])(void) = {try_tokens, try_arrays, try_weights, try_checkpoint, try_json, try_megatron};
    double seconds = argc > 1 ? atof(argv[1]) : 1;
    state = argc > 2 ? strtoull(argv[2], NULL, 10) : 1;
    check_enter_directory();
    rank = stored_alone(&TABLE, 1, 1);
    write_seeds();
    long tries = 0;
    time_t end = time(NULL) + (time_t)(seconds + 0.5);
    for (; time(NULL) < end; tries++)
        TARGETS[draw(6)]();
    stored_close(rank);
    check_leave_directory();
    printf("fuzz_loaders: ok, %ld files\n", tries);
    return 0;
}
