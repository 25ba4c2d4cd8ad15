/* tokens.h: token streams: files of tokens, cut into windows that never cross a file. */
#ifndef MLC_TOKENS_H
#define MLC_TOKENS_H

#include "data/megatron.h"
#include "system/file.h"

/* One file. Tokens are little-endian unsigned integers, or signed ones from a .npy array. */
typedef struct mlc_token_file {
    char *path;
    mlc_mapping mapping;
    const uint8_t *data; /* first token; may be unaligned */
    int token_bytes;     /* 1, 2, 4, 8 */
    bool is_signed;
    bool is_assumed;       /* nothing says how wide its tokens are: 16 bits are taken for granted */
    mlc_megatron megatron; /* its index, with the bounds of documents; mapping.base NULL: none */
    int64_t tokens;
    int64_t first_window; /* number of windows in the files before it */
    int64_t windows;
} mlc_token_file;

typedef struct mlc_tokens {
    mlc_token_file *files;
    int count;
    int64_t windows;
    int64_t stride; /* tokens from the start of a window to the next */
    int64_t extent; /* tokens a window reads */
} mlc_tokens;

/* How wide the tokens of a file are, as its user states it; bytes 0: the file or its name says. */
typedef struct mlc_width {
    int bytes;
    bool is_signed;
} mlc_width;

/* Takes "u8:" "u16:" "u32:" "i32:" "u64:" "i64:" off the front of a pattern, if one is there. */
mlc_width mlc_width_take(const char **pattern);

/* Opens files as token streams with windows of `extent` tokens every `stride`. Checks headers and sizes, and that a file is what it is
 * taken for. An .idx stands for the .bin beside it. Returns a status. */
int mlc_tokens_open(mlc_tokens *tokens, char *const *paths, int count, mlc_width width, int64_t stride, int64_t extent, mlc_error *error);
void mlc_tokens_close(mlc_tokens *tokens);

/* Copies `count` tokens of a window, from token `shift` of it; each must be in [0, limit), or fit i32 when limit is -1.
 * Returns a status: the message names file, byte offset and value. Any thread. */
int mlc_tokens_read(const mlc_tokens *tokens, int64_t window, int64_t shift, int64_t count, int64_t limit, int32_t *to, mlc_error *error);

/* Was what mlc_tokens_read has read still in its file? Returns a status. Any thread. */
int mlc_tokens_check(const mlc_tokens *tokens, int64_t window, int64_t shift, int64_t count, mlc_error *error);

/* Refuses files of assumed width where 16 bits do not hold `limit` tokens. Checks every token of the files that are small enough to be
 * read at the start, so that most errors come before step 0. */
int mlc_tokens_scan(const mlc_tokens *tokens, int64_t limit, mlc_error *error);

#endif
