/* identity.c: see identity.h. */
#include "checkpoint/identity.h"

#include "system/sha256.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_BYTES (4 << 20)
#define BLOCK_BYTES (4 << 10)
#define BLOCKS 256

static void add_number(mlc_sha256 *hash, uint64_t number)
{
    mlc_sha256_add(hash, &number, sizeof number);
}

static void add_bytes(mlc_sha256 *hash, const uint8_t *data, uint64_t bytes)
{
    add_number(hash, bytes);
    if (bytes <= WHOLE_BYTES) {
        mlc_sha256_add(hash, data, bytes);
        return;
    }
    for (uint64_t i = 0; i < BLOCKS; i++) {
        uint64_t last = bytes - BLOCK_BYTES, at = last / (BLOCKS - 1) * i + last % (BLOCKS - 1) * i / (BLOCKS - 1);
        mlc_sha256_add(hash, data + at, BLOCK_BYTES);
    }
}

static void add_stream(mlc_sha256 *hash, const mlc_tokens *stream)
{
    for (int i = 0; i < stream->count; i++) {
        const mlc_token_file *file = &stream->files[i];
        add_number(hash, (uint64_t)file->token_bytes << 1 | file->is_signed);
        add_bytes(hash, file->data, (uint64_t)file->tokens * (uint64_t)file->token_bytes);
    }
}

static void add_array(mlc_sha256 *hash, const mlc_npy *array)
{
    add_number(hash, (uint64_t)(unsigned char)array->kind << 8 | (uint64_t)array->item_bytes);
    for (int i = 0; i < array->rank; i++)
        add_number(hash, (uint64_t)array->shape[i]);
    add_bytes(hash, array->data, (uint64_t)array->elements * (uint64_t)array->item_bytes);
}

static void end_hash(mlc_sha256 *hash, char hex[MLC_IDENTITY_BYTES])
{
    char whole[65];
    uint8_t digest[32];
    mlc_sha256_end(hash, digest);
    mlc_sha256_hex(digest, whole);
    snprintf(hex, MLC_IDENTITY_BYTES, "%.32s", whole);
}

void mlc_identity_of_bytes(const void *data, size_t bytes, char hex[MLC_IDENTITY_BYTES])
{
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    add_bytes(&hash, data, bytes);
    end_hash(&hash, hex);
}

void mlc_identity_of_files(const mlc_bundle *const *bundles, int count, char hex[MLC_IDENTITY_BYTES])
{
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    for (int b = 0; b < count; b++)
        for (int64_t i = 0; i < bundles[b]->count; i++)
            add_bytes(&hash, bundles[b]->files[i].mapping.base, bundles[b]->files[i].mapping.bytes);
    end_hash(&hash, hex);
}

void mlc_identity_of_input(const mlc_data *data, int input, char hex[MLC_IDENTITY_BYTES])
{
    const mlc_bound *binding = &data->bindings[input];
    mlc_sha256 hash;
    bool own = binding->kind == MLC_BOUND_ARRAY || (binding->kind == MLC_BOUND_TOKENS && binding->source == input);
    hex[0] = 0;
    if (!own)
        return;
    mlc_sha256_begin(&hash);
    if (binding->kind == MLC_BOUND_ARRAY)
        add_array(&hash, &data->arrays[input]);
    else
        add_stream(&hash, &data->streams[input]);
    end_hash(&hash, hex);
}

char *mlc_identity_lines(const mlc_data *data)
{
    size_t bytes = 1, used = 0;
    for (int i = 0; i < data->model->input_count; i++)
        bytes += strlen(data->model->inputs[i].tensor.name) + MLC_IDENTITY_BYTES + sizeof "data.=\n";
    char *lines = calloc(1, bytes);
    for (int i = 0; lines && i < data->model->input_count; i++) {
        char hex[MLC_IDENTITY_BYTES];
        mlc_identity_of_input(data, i, hex);
        if (*hex)
            used += (size_t)snprintf(lines + used, bytes - used, "data.%s=%s\n", data->model->inputs[i].tensor.name, hex);
    }
    return lines;
}
