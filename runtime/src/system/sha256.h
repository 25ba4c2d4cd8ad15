/* sha256.h: SHA-256 (FIPS 180-4). */
#ifndef MLC_SHA256_H
#define MLC_SHA256_H

#include <stddef.h>
#include <stdint.h>

typedef struct mlc_sha256 {
    uint32_t state[8];
    uint64_t bytes;
    uint8_t block[64]; /* bytes % 64 of them wait for the rest of their block */
} mlc_sha256;

void mlc_sha256_begin(mlc_sha256 *hash);
void mlc_sha256_add(mlc_sha256 *hash, const void *data, size_t bytes);
void mlc_sha256_end(mlc_sha256 *hash, uint8_t digest[32]);

/* 64 lower-case hex digits and a 0 byte. */
void mlc_sha256_hex(const uint8_t digest[32], char hex[65]);

#endif
