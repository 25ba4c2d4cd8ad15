/* test_data.c: files of every kind, what is refused of them, and the order of examples. */
#include "check.h"
#include "data/convert.h"
#include "data/data.h"
#include "mlc.h"

#include <math.h>

/* ---- order ---- */

static void check_permutation(int64_t examples)
{
    char *seen = calloc((size_t)examples, 1);
    for (int64_t epoch = 0; epoch < 3; epoch++) {
        mlc_order order = {.seed = 5, .examples = examples};
        memset(seen, 0, (size_t)examples);
        int64_t fixed = 0;
        for (int64_t i = 0; i < examples; i++) {
            int64_t window = mlc_order_window(&order, epoch * examples + i);
            CHECK(window >= 0 && window < examples && !seen[window]);
            seen[window] = 1;
            fixed += window == i;
        }
        CHECK(examples < 100 || fixed < examples / 10);
    }
    free(seen);
}

static void check_order(void)
{
    static const int64_t SIZES[] = {1, 2, 3, 4, 5, 16, 17, 255, 256, 257, 1000, 4097};
    for (size_t i = 0; i < sizeof SIZES / sizeof *SIZES; i++)
        check_permutation(SIZES[i]);
    mlc_order a = {.seed = 1, .examples = 1000}, b = {.seed = 2, .examples = 1000}, plain = {.examples = 1000, .sequential = true};
    int equal = 0, again = 0;
    for (int i = 0; i < 1000; i++) {
        equal += mlc_order_window(&a, i) == mlc_order_window(&b, i);
        again += mlc_order_window(&a, i) == mlc_order_window(&a, i + 1000);
        CHECK(mlc_order_window(&plain, 1000 + i) == i);
    }
    CHECK(equal < 20 && again < 20);
    mlc_order huge = {.seed = 1, .examples = INT64_C(1) << 40};
    CHECK(mlc_order_window(&huge, 12345) < INT64_C(1) << 40);
}

/* ---- token files ---- */

enum { BATCH = 4, CONTEXT = 16, VOCABULARY = 256, TOKENS = 0, TARGETS = 1 };

static const int64_t TOKENS_SHAPE[] = {BATCH, CONTEXT};
static const mlc_input TOKEN_INPUTS[] = {{{"tokens", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, VOCABULARY},
                                         {{"targets", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_FOLLOWING, TOKENS, 1, VOCABULARY}};
static const mlc_model BIGRAM = {.name = "bigram", .inputs = TOKEN_INPUTS, .input_count = 2, .batch = BATCH};

static mlc_data data;

/* Fills rows [0, rows) of an input with the first microbatch of a feed. Returns a status. */
static int fill(const mlc_data_feed *feed, int input, int64_t rows, void *to, mlc_error *error)
{
    mlc_rank rank = {.model = feed->data->model};
    return feed->feed.fill(&feed->feed, &rank, input, 0, 0, rows, to, error);
}

/* Opens data for a model and expects the message to hold `part`; NULL: no error. */
static void open_as(const mlc_model *model, int count, char **arguments, const char *part)
{
    mlc_error error = {0};
    mlc_data_open(&data, model, arguments, count, "--data", &error);
    if (!part && error.status)
        fprintf(stderr, "%s\n", error.text);
    CHECK(!error.status == !part);
    if (part)
        CHECK_HOLDS(error.text, part);
}

static void expect(char *argument, const char *part)
{
    open_as(&BIGRAM, 1, &argument, part);
    mlc_data_close(&data);
}

/* Fills a microbatch in sequential order and checks a token of its first row. */
static void expect_token(char *argument, int64_t windows, int64_t example, int position, int32_t token)
{
    mlc_error error = {0};
    open_as(&BIGRAM, 1, &argument, NULL);
    CHECK(data.examples == windows);
    mlc_data_feed feed = mlc_data_feed_make(&data, (mlc_order){.examples = windows, .sequential = true}, example, 1);
    int32_t tokens[BATCH * CONTEXT], targets[BATCH * CONTEXT];
    CHECK(!fill(&feed, TOKENS, 1, tokens, &error) && !fill(&feed, TARGETS, 1, targets, &error));
    CHECK(tokens[position] == token && (position == 0 || targets[position - 1] == token));
    mlc_data_close(&data);
}

static void write_shard(const char *path, int32_t magic, int32_t version, int32_t promised, int width, int tokens)
{
    int32_t header[256] = {magic, version, promised};
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(header, 4, 256, file) == 256);
    for (int32_t i = 0; i < tokens; i++) {
        int32_t token = i % 250;
        CHECK(fwrite(&token, (size_t)width, 1, file) == 1);
    }
    fclose(file);
}

static void check_bytes(void)
{
    char text[1000];
    for (int i = 0; i < 1000; i++)
        text[i] = (char)(i % 251);
    check_write("a.txt", text, 1000);
    check_write("b.txt", text + 500, 100);
    check_write("empty.txt", "", 0);
    check_write("short.txt", text, 16);
    expect_token("a.txt", 62, 3, 5, 53);                     /* (1000 - 17) / 16 + 1 windows */
    expect_token("tokens=a.txt", 62, 0, 0, 0);
    expect_token("[ab].txt", 62 + 6, 62, 2, 502 % 251);      /* windows never cross files; names in order */
    expect_token("[ab].txt", 62 + 6, 61, 15, 61 * 16 % 251 + 15);
    expect("empty.txt", "empty.txt: the file is empty");
    expect("short.txt", "short.txt: 16 tokens are fewer than one window of 17");
    expect("*.txt", "empty.txt: the file is empty");
    expect("none.txt", "--data none.txt: no such file, and no file matches");
    expect("label=a.txt", "model bigram has no input label");
    expect(".", ".: a directory, not a regular file");
    open_as(&BIGRAM, 2, (char *[]){"a.txt", "b.txt"}, "input tokens is given twice");
    open_as(&BIGRAM, 1, (char *[]){"targets=a.txt"}, "input tokens has no data: give --data tokens=FILE");
}

static void check_bins(void)
{
    uint16_t words[64];
    for (int i = 0; i < 64; i++)
        words[i] = (uint16_t)(i * 4);
    check_write("nano.bin", words, sizeof words);
    check_write("odd.bin", words, 77);
    words[33] = 256;
    check_write("beyond.bin", words, sizeof words);
    write_shard("gpt2.bin", 20240520, 1, 100, 2, 100);
    write_shard("llama.bin", 20240801, 7, 100, 4, 100);
    write_shard("magic.bin", 20240521, 1, 100, 2, 100);
    write_shard("version.bin", 20240520, 3, 100, 2, 100);
    write_shard("cut.bin", 20240520, 1, 100, 2, 99);
    write_shard("negative.bin", 20240520, 1, -5, 2, 100);
    check_write("head.bin", (int32_t[]){20240520, 1, 100}, 12);
    expect_token("nano.bin", 3, 1, 3, 76);
    expect_token("gpt2.bin", 6, 1, 3, 19);
    expect_token("llama.bin", 6, 5, 15, 95);
    expect("odd.bin", "odd.bin: truncated: 77 bytes are no whole number of uint16 tokens");
    expect("beyond.bin", "beyond.bin: token 256 at offset 66 is not in 0 to 255");
    expect("magic.bin", "magic.bin: wrong magic at offset 0: 20240521; llm.c shards have 20240520 (uint16) or 20240801 (uint32)");
    expect("version.bin", "version.bin: version 3 at offset 4");
    expect("cut.bin", "cut.bin: truncated or damaged: the header at offset 8 promises 100 tokens, the file holds 99");
    expect("negative.bin", "negative.bin: truncated or damaged");
    expect("head.bin", "head.bin: truncated: an llm.c shard has a header of 1024 bytes, the file holds 12");
}

/* ---- tokens of another width ---- */

static const mlc_input WIDE_INPUTS[] = {{{"tokens", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, 100277}};
static const mlc_input WORD_INPUTS[] = {{{"tokens", MLC_I32, 2, TOKENS_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, 65536}};
static const mlc_model WIDE = {.name = "wide", .inputs = WIDE_INPUTS, .input_count = 1, .batch = BATCH},
                       WORDS = {.name = "words", .inputs = WORD_INPUTS, .input_count = 1, .batch = BATCH};

/* `count` numbers below `limit` of `width` bytes, drawn; every `period`-th is below 4. */
static void write_numbers(const char *path, int width, int count, uint64_t limit, int period)
{
    FILE *file = fopen(path, "wb");
    for (int i = 0; i < count; i++) {
        uint64_t number = mlc_order_mix((uint64_t)i + 7) % (period && i % period == period - 1 ? 4 : limit);
        CHECK(file && fwrite(&number, (size_t)width, 1, file) == 1);
    }
    CHECK(!fclose(file));
}

static void expect_of(const mlc_model *model, char *argument, const char *part)
{
    open_as(model, 1, &argument, part);
    mlc_data_close(&data);
}

static void check_widths(void)
{
    write_numbers("wide.bin", 4, 4000, 100277, 0);
    write_numbers("long.bin", 8, 4000, 50257, 0);
    write_numbers("narrow.bin", 2, 4000, 50257, 0);
    write_numbers("all.bin", 2, 4000, 65536, 0);
    write_numbers("tiny.bin", 2, 4000, 3, 0);
    write_numbers("bits.bin", 4, 4000, 3, 0);
    write_numbers("typed.bin", 2, 4000, 60000, 3);
    write_numbers("rows.bin", 2, 4000, 60000, 16);
    expect_of(&WIDE, "wide.bin", "its 16-bit words are the halves of 32-bit numbers: write u32:wide.bin");
    expect_of(&WORDS, "long.bin", "its 16-bit words are the halves of 64-bit numbers: write i64:long.bin");
    expect_of(&WIDE, "tokens=u32:wide.bin", NULL);
    expect_of(&WIDE, "i32:wide.bin", NULL);
    expect_of(&WORDS, "i64:long.bin", NULL);
    expect_of(&WORDS, "u64:[l]ong.bin", NULL);
    expect_of(&WORDS, "u32:wide.bin", "is not in 0 to 65535");
    expect_of(&WORDS, "u16:wide.bin", NULL);
    expect_of(&WIDE, "narrow.bin", "nothing says how wide its tokens are, and 16 bits do not hold 100277 of them: write u32:narrow.bin");
    expect_of(&WIDE, "u16:narrow.bin", NULL);
    expect_of(&WIDE, "u32:odd.bin", "odd.bin: truncated: 77 bytes are no whole number of 32-bit tokens");
    expect_of(&WIDE, "u32:x:narrow.bin", "no such file");
    expect_of(&WIDE, "gpt2.bin", NULL);
    expect_of(&WIDE, "u16:gpt2.bin", "gpt2.bin: this is an llm.c shard (name it .bin): 16-bit numbers cannot be stated of it");
    expect_of(&WORDS, "narrow.bin", NULL);
    expect_of(&WORDS, "all.bin", NULL);
    expect_of(&WORDS, "tiny.bin", NULL);
    expect_of(&WORDS, "bits.bin", NULL); /* below 4 in every word: nothing speaks for either */
    expect_of(&WORDS, "typed.bin", NULL);
    expect_of(&WORDS, "rows.bin", NULL);
    expect("beyond.bin", "nothing says that its tokens are 16-bit: if they are not, write u8: or u32: before beyond.bin");
}

/* Labels of -100 among int32 and int64 numbers do not hide their width. */
static void check_negative_widths(void)
{
    int32_t narrow[4000];
    int64_t wide[4000];
    for (int i = 0; i < 4000; i++)
        wide[i] = narrow[i] = i % 3 ? (int32_t)(mlc_order_mix((uint64_t)i) % 50257) : -100;
    check_write("minus32.bin", narrow, sizeof narrow);
    check_write("minus64.bin", wide, sizeof wide);
    expect_of(&WORDS, "minus32.bin", "halves of 32-bit numbers");
    expect_of(&WORDS, "minus64.bin", "halves of 64-bit numbers");
    expect_of(&WORDS, "i64:minus64.bin", "minus64.bin: token -100 at offset 0 is not in 0 to 65535");
}

/* ---- what is no text and no tokens ---- */

static void check_foreign_kind(const char *path, const void *bytes, size_t size, const char *kind)
{
    char stated[64], name[64];
    uint8_t file[4096];
    memset(file, 'a', sizeof file);
    memcpy(file, bytes, size);
    check_write(path, file, sizeof file);
    snprintf(name, sizeof name, "%s", path);
    snprintf(stated, sizeof stated, "u8:%s", path);
    expect(name, kind);
    expect(stated, NULL);
}

static void check_encodings(void)
{
    char wide[4096] = {0}, text[4096];
    for (int i = 0; i < 2048; i++)
        wide[2 * i] = (char)('a' + i % 26);
    check_write("utf16.txt", wide, sizeof wide);
    check_write("utf16-be.txt", wide + 1, sizeof wide - 2);
    for (int i = 0; i < 1024; i++)
        memcpy(wide + 4 * i, (char[]){(char)('a' + i % 26), 0, 0, 0}, 4);
    check_write("utf32.txt", wide, sizeof wide);
    for (int i = 0; i < 4096; i++)
        text[i] = (char)('a' + i % 19);
    check_write("text.bin", text, sizeof text);
    memset(text, 0, sizeof text);
    check_write("zeros.dat", text, sizeof text);
    expect("utf16.txt", "utf16.txt: this is UTF-16 text, or 16-bit numbers; convert it to what the model reads, or write u8:utf16.txt");
    expect("utf16-be.txt", "this is UTF-16 text, or 16-bit numbers");
    expect("utf32.txt", "this is UTF-32 text, or 32-bit numbers");
    expect("u8:utf16.txt", NULL);
    expect("text.bin", "text.bin: this is text, not 16-bit tokens; write u8:text.bin for its bytes");
    expect("u8:text.bin", NULL);
    expect("zeros.dat", NULL);
    expect("zeros.bin", "no such file");
}

static void check_foreign(void)
{
    check_foreign_kind("a.gz", "\x1f\x8b\x08\0\0\0\0\0\0\3", 10, "a.gz: this is a gzip archive");
    check_foreign_kind("b.txt", "PK\3\4", 4, "b.txt: this is a zip archive (.zip, .npz)");
    check_foreign_kind("c.bin", "\x28\xb5\x2f\xfd", 4, "c.bin: this is a zstd archive, not 16-bit tokens");
    check_foreign_kind("d.txt", "SQLite format 3", 16, "a SQLite database");
    check_foreign_kind("e.txt", "\x93NUMPY", 6, "a NumPy array (name it .npy)");
    check_foreign_kind("f.idx", "MMIDIDX\0", 9, "the index of a Megatron data set");
    check_foreign_kind("g.txt", "\xff\xfe" "a\0b", 6, "UTF-16 text");
    check_foreign_kind("h.txt", "\xff\xfe\0\0", 4, "UTF-32 text");
    check_foreign_kind("i.dat", (int32_t[]){20240520, 1}, 8, "an llm.c shard (name it .bin)");
    check_foreign_kind("j.dat", "\x20\0\0\0\0\0\0\0{\"", 10, "a safetensors file");
    check_foreign_kind("k.dat", "%PDF-1.7", 8, "a PDF document");
    check_encodings();
}

/* ---- Megatron data sets ---- */

/* Two documents of three sequences of `tokens` tokens in all. */
static void write_megatron(const char *stem, int code, int width, int tokens)
{
    char path[64];
    uint8_t head[34] = "MMIDIDX\0";
    uint64_t numbers[] = {1, 3, 3};
    int32_t lengths[] = {40, tokens - 40, 0};
    int64_t offsets[] = {0, 40 * width, tokens * width}, documents[] = {0, 1, 3};
    memcpy(head + 9, &numbers[0], 8);
    head[17] = (uint8_t)code;
    memcpy(head + 18, &numbers[1], 16);
    snprintf(path, sizeof path, "%s.idx", stem);
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(head, 1, 34, file) == 34 && fwrite(lengths, 4, 3, file) == 3);
    CHECK(fwrite(offsets, 8, 3, file) == 3 && fwrite(documents, 8, 3, file) == 3 && !fclose(file));
    snprintf(path, sizeof path, "%s.bin", stem);
    write_numbers(path, width, tokens, 120, 0);
}

/* Writes an index of u16 with `size` bytes at `at` replaced. */
static void damage_index(long at, const void *bytes, size_t size)
{
    write_megatron("damaged", 8, 2, 100);
    FILE *file = fopen("damaged.idx", "r+b");
    CHECK(file && !fseek(file, at, SEEK_SET) && fwrite(bytes, 1, size, file) == size && !fclose(file));
}

static void check_damaged_index(void)
{
    static const struct { long at; int64_t value; size_t size; const char *part; } EDITS[] = {
        {9, 2, 8, "damaged.idx: version 2 at offset 9"},
        {17, 6, 1, "dtype code 6 at offset 17: the data set holds floats"},
        {17, 9, 1, "dtype code 9 at offset 17 is unknown"},
        {17, 4, 1, "sequence 1 has length 60 and begins at byte 80; the one before ends at 160"},
        {18, 4, 8, "damaged.idx: truncated, damaged or of another kind"},
        {18, -1, 8, "damaged.idx: truncated, damaged or of another kind"},
        {34, -1, 4, "sequence 0 has length -1"},
        {38, 61, 4, "sequence 2 has length 0 and begins at byte 200; the one before ends at 202"},
        {42, 1, 4, "its sequences fill 202 bytes, damaged.bin holds 200"},
        {46 + 8, 79, 8, "sequence 1 has length 60 and begins at byte 79"},
        {70 + 8, 4, 8, "document bound 1 is 4, not in 0 to 3"},
        {70 + 16, 0, 8, "document bound 2 is 0, not in 1 to 3"},
        {94, 0, 1, "truncated, damaged or of another kind"},
    };
    for (size_t i = 0; i < sizeof EDITS / sizeof *EDITS; i++) {
        damage_index(EDITS[i].at, &EDITS[i].value, EDITS[i].size);
        expect("damaged.bin", EDITS[i].part);
    }
    check_write("damaged.idx", "MMIDIDX\0\0", 10);
    expect("damaged.bin", "damaged.idx: truncated: a Megatron index has a header of 34 bytes, the file holds 10");
}

static void check_megatron(void)
{
    static const int WIDTHS[] = {0, 1, 1, 2, 4, 8, 0, 0, 2};
    for (int code = 1; code <= 8; code++)
        if (WIDTHS[code]) {
            write_megatron("mega", code, WIDTHS[code], 100);
            open_as(&BIGRAM, 1, (char *[]){"mega.bin"}, NULL);
            CHECK(data.examples == 6 && data.streams[0].files[0].token_bytes == WIDTHS[code]);
            CHECK(data.streams[0].files[0].megatron.documents == 3 && mlc_megatron_document(&data.streams[0].files[0].megatron, 1) == 1);
            mlc_data_close(&data);
            expect_token("mega.bin", 6, 1, 3, (int32_t)(mlc_order_mix(16 + 3 + 7) % 120));
        }
    expect("mega.idx", NULL);
    expect("mega.*", NULL);
    open_as(&BIGRAM, 1, (char *[]){"mega.*"}, NULL);
    CHECK(data.examples == 6 && data.streams[0].count == 1);
    mlc_data_close(&data);
    expect("u16:mega.bin", "mega.bin: this is the data of the Megatron index beside it: 16-bit numbers cannot be stated of it");
    expect("u8:mega.bin", NULL);
    check_damaged_index();
}

/* ---- order of names ---- */

static void check_natural_order(void)
{
    static const char *const NAMES[] = {"s_1.txt", "s_2.txt", "s_02.txt", "s_10.txt", "s_a.txt"};
    char bytes[40];
    for (int i = 0; i < 5; i++) {
        memset(bytes, i, sizeof bytes);
        check_write(NAMES[i], bytes, sizeof bytes);
    }
    open_as(&BIGRAM, 1, (char *[]){"s_*.txt"}, NULL);
    CHECK(data.streams[0].count == 5);
    for (int i = 0; i < 5; i++)
        CHECK(data.streams[0].files[i].data[0] == (i == 1 ? 2 : i == 2 ? 1 : i));
    mlc_data_close(&data);
}

/* ---- arrays ---- */

static void write_npy(const char *path, const char *header, const void *values, size_t bytes)
{
    char text[256];
    int length = snprintf(text, sizeof text, "%s\n", header);
    unsigned char prefix[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (unsigned char)length, (unsigned char)(length >> 8)};
    FILE *file = fopen(path, "wb");
    CHECK(file && fwrite(prefix, 1, 10, file) == 10 && fwrite(text, 1, (size_t)length, file) == (size_t)length);
    CHECK(fwrite(values, 1, bytes, file) == bytes && !fclose(file));
}

#define NPY(type, shape) "{'descr': '" type "', 'fortran_order': False, 'shape': " shape ", }"

/* A model with an input of every dtype. */
static const int64_t ROW_SHAPE[] = {2, 3}, FLAT_SHAPE[] = {2};
static const mlc_input INPUTS[] = {{{"x", MLC_F32, 2, ROW_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, -1},
                                   {{"h", MLC_BF16, 2, ROW_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, -1},
                                   {{"label", MLC_I32, 1, FLAT_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, 10},
                                   {{"mask", MLC_BOOL, 2, ROW_SHAPE, MLC_NONE}, MLC_SOURCE_DATA, 0, 0, -1}};
static const mlc_model ARRAYS = {.name = "arrays", .inputs = INPUTS, .input_count = 4, .batch = 2};

static void write_arrays(void)
{
    static const float X[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    static const double H[] = {1, 2, 3.5, 1.00390625, 1.01171875, -1e300, 7, 8, NAN};
    static const int64_t LABEL[] = {9, 0, 3};
    static const uint8_t MASK[] = {1, 0, 1, 0, 0, 1, 1, 1, 1};
    write_npy("x.npy", NPY("<f4", "(3, 3)"), X, sizeof X);
    write_npy("h.npy", NPY("<f8", "(3, 3)"), H, sizeof H);
    write_npy("label.npy", NPY("<i8", "(3,)"), LABEL, sizeof LABEL);
    write_npy("mask.npy", NPY("|b1", "(3, 3)"), MASK, sizeof MASK);
}

/* Opens all four with one replaced. */
static void expect_array(int replaced, char *argument, const char *part)
{
    char *arguments[] = {"x=x.npy", "h=h.npy", "label=label.npy", "mask=mask.npy"};
    arguments[replaced] = argument;
    open_as(&ARRAYS, 4, arguments, part);
    mlc_data_close(&data);
}

static void check_array_values(void)
{
    mlc_error error = {0};
    open_as(&ARRAYS, 4, (char *[]){"x=x.npy", "h=h.npy", "label=label.npy", "mask=mask.npy"}, NULL);
    mlc_data_feed feed = mlc_data_feed_make(&data, (mlc_order){.examples = 3, .sequential = true}, 1, 1);
    float x[6];
    uint16_t h[6];
    int32_t label[2];
    uint8_t mask[6];
    CHECK(data.examples == 3 && !fill(&feed, 0, 2, x, &error) && !fill(&feed, 1, 2, h, &error));
    CHECK(!fill(&feed, 2, 2, label, &error) && !fill(&feed, 3, 2, mask, &error));
    CHECK(!memcmp(x, (float[]){4, 5, 6, 7, 8, 9}, sizeof x));
    CHECK(h[0] == 0x3f80 && h[1] == 0x3f82 && h[2] == 0xff80 && h[3] == 0x40e0 && (h[5] & 0x7fff) > 0x7f80);
    CHECK(!memcmp(label, (int32_t[]){0, 3}, sizeof label));
    CHECK(!memcmp(mask, (uint8_t[]){0, 0, 1, 1, 1, 1}, sizeof mask));
    mlc_data_close(&data);
}

static void check_array_errors(void)
{
    static const float X[16] = {0};
    static const int32_t LABEL[] = {9, 10, 3};
    static const uint8_t BYTES[] = {1, 2, 1, 0, 0, 1, 1, 1, 1};
    write_npy("wide.npy", NPY("<f4", "(3, 4)"), X, 48);
    write_npy("more.npy", NPY("<f4", "(4, 3)"), X, 48);
    write_npy("none.npy", NPY("<f4", "(0, 3)"), X, 0);
    write_npy("cut.npy", NPY("<f4", "(3, 3)"), X, 35);
    write_npy("long.npy", NPY("<f4", "(3, 3)"), X, 40);
    write_npy("big.npy", NPY(">f4", "(3, 3)"), X, 36);
    write_npy("fortran.npy", "{'descr': '<f4', 'fortran_order': True, 'shape': (3, 3), }", X, 36);
    write_npy("object.npy", NPY("|O8", "(3, 3)"), X, 36);
    write_npy("shape.npy", NPY("<f4", "(3, -3)"), X, 36);
    write_npy("huge.npy", NPY("<f4", "(3000000000, 3000000000, 3000000000)"), X, 36);
    write_npy("range.npy", NPY("<i4", "(3,)"), LABEL, sizeof LABEL);
    write_npy("bytes.npy", NPY("|u1", "(3, 3)"), BYTES, sizeof BYTES);
    check_write("no.npy", "hello there, this is text", 25);
    check_write("empty.npy", "", 0);
    expect_array(0, "x=wide.npy", "wide.npy: shape [3, 4]; input x wants [rows, 3]");
    expect_array(0, "x=more.npy", "input x has 4 examples, input h has 3");
    expect_array(0, "x=none.npy", "none.npy: the array has no rows");
    expect_array(0, "x=cut.npy", "cut.npy: truncated or damaged: 9 elements of 4 bytes, but 35 bytes of data");
    expect_array(0, "x=long.npy", "long.npy: truncated or damaged");
    expect_array(0, "x=big.npy", "big.npy: dtype >f4 is not one of");
    expect_array(0, "x=fortran.npy", "fortran.npy: the array is in Fortran order");
    expect_array(0, "x=object.npy", "object.npy: dtype |O8 is not one of");
    expect_array(0, "x=shape.npy", "shape.npy: the header has no shape");
    expect_array(0, "x=huge.npy", "huge.npy: the header has no shape");
    expect_array(0, "x=no.npy", "no.npy: not a .npy file");
    expect_array(0, "x=empty.npy", "empty.npy: the file is empty");
    expect_array(0, "x=label.npy", "label.npy: shape [3]; input x wants [rows, 3]");
    expect_array(2, "label=x.npy", "x.npy: shape [3, 3]; input label wants [rows]");
    expect_array(3, "mask=x.npy", "x.npy: dtype f4 does not feed input mask, which is bool");
    expect_array(0, "x.npy", "model arrays has no token input and more than one input");
    mlc_model none = ARRAYS;
    none.input_count = 0;
    open_as(&none, 1, (char *[]){"x.npy"}, "model arrays reads none of its inputs, so there is no data to give");
    mlc_data_close(&data);
}

/* Values are checked when they are read. */
static void expect_refused(int input, char *label, char *mask, const char *part)
{
    int32_t values[6];
    mlc_error error = {0};
    open_as(&ARRAYS, 4, (char *[]){"x=x.npy", "h=h.npy", label, mask}, NULL);
    mlc_data_feed feed = mlc_data_feed_make(&data, (mlc_order){.examples = 3, .sequential = true}, 0, 1);
    CHECK(fill(&feed, input, 2, values, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, part);
    mlc_data_close(&data);
}

static void check_arrays(void)
{
    write_arrays();
    check_array_values();
    check_array_errors();
    expect_refused(2, "label=range.npy", "mask=mask.npy", "range.npy: value 10 at offset 72 is not in 0 to 9");
    expect_refused(3, "label=label.npy", "mask=bytes.npy", "bytes.npy: value 2 at offset");
}

static void check_stream_arrays(void)
{
    int64_t tokens[40];
    for (int i = 0; i < 40; i++)
        tokens[i] = i;
    write_npy("stream.npy", NPY("<i8", "(40,)"), tokens, sizeof tokens);
    expect_token("stream.npy", 2, 1, 1, 17);
    tokens[20] = -1;
    write_npy("minus.npy", NPY("<i8", "(40,)"), tokens, sizeof tokens);
    expect("minus.npy", "minus.npy: token -1 at offset");
    write_npy("rows.npy", NPY("<i8", "(2, 16)"), tokens, 256);
    open_as(&BIGRAM, 1, (char *[]){"tokens=rows.npy"}, "input targets has no data");
    write_npy("floats.npy", NPY("<f8", "(40,)"), tokens, sizeof tokens);
    expect("floats.npy", "a token stream is a one-dimensional array of integers");
}

/* ---- files that shrink ---- */

/* Reads one window of tokens in the place it has in the file. Returns a status. */
static int read_window(int64_t window, mlc_error *error)
{
    int32_t row[CONTEXT];
    *error = (mlc_error){0};
    mlc_data_feed feed = mlc_data_feed_make(&data, (mlc_order){.examples = data.examples, .sequential = true}, window, 1);
    return fill(&feed, TOKENS, 1, row, error);
}

/* What was cut off is refused, within the page that still has a beginning and behind it; what stands before the cut is read as ever. */
static void check_shrinking(void)
{
    static uint8_t bytes[20000];
    mlc_error error;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(i % 250 / 249); /* zeros, and a one here and there */
    check_write("shrinks", bytes, sizeof bytes);
    open_as(&BIGRAM, 1, (char *[]){"shrinks"}, NULL);
    for (int64_t window = 0; window < data.examples; window++)
        CHECK(!read_window(window, &error));
    CHECK(!truncate("shrinks", 10010));
    CHECK(!read_window(100, &error) && !read_window(623, &error));
    CHECK(read_window(625, &error) == MLC_BAD_INPUT);
    CHECK_HOLDS(error.text, "shrinks: became shorter while it was read: 10010 bytes, 20000 at the start");
    CHECK(read_window(1000, &error) == MLC_BAD_INPUT);
    mlc_data_close(&data);
}

/* ---- conversions ---- */

static void check_halves(void)
{
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        float half = mlc_convert_from_f16((uint16_t)bits), brain = mlc_convert_from_bf16((uint16_t)bits);
        CHECK(isnan(half) || mlc_convert_to_f16(half) == bits);
        CHECK(isnan(brain) || mlc_convert_to_bf16(brain) == bits);
        CHECK(!isnan(half) || isnan(mlc_convert_from_f16(mlc_convert_to_f16(half))));
    }
    CHECK(mlc_convert_to_f16(65519.9) == 0x7bff && mlc_convert_to_f16(65520) == 0x7c00);
    CHECK(mlc_convert_to_f16(0x1p-25) == 0 && mlc_convert_to_f16(0x1.8p-25) == 1 && mlc_convert_to_f16(1 + 0x1p-11) == 0x3c00);
}

int main(void)
{
    check_enter_directory();
    check_order();
    check_bytes();
    check_bins();
    check_widths();
    check_negative_widths();
    check_foreign();
    check_megatron();
    check_natural_order();
    check_arrays();
    check_stream_arrays();
    check_shrinking();
    check_halves();
    check_leave_directory();
    printf("test_data: ok\n");
    return 0;
}
