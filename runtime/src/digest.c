/* digest.c: see digest.h. Blocks of one tensor are hashed by all threads, a window of blocks at a time. */
#include "digest.h"

#include "sha256.h"

#include <string.h>

#define BLOCK_BYTES (1 << 20)
#define WINDOW 256 /* blocks whose hashes are held at once */

typedef struct hashing {
    const uint8_t *data;
    int64_t bytes;
    int64_t first; /* block */
    int count;     /* blocks */
    uint8_t digests[WINDOW][32];
} hashing;

static void hash_share(mlc_env *env, void *context)
{
    hashing *work = context;
    for (int i = env->thread; i < work->count; i += env->threads) {
        int64_t at = (work->first + i) * BLOCK_BYTES, left = work->bytes - at;
        mlc_sha256 hash;
        mlc_sha256_begin(&hash);
        mlc_sha256_add(&hash, work->data + at, (size_t)(left < BLOCK_BYTES ? left : BLOCK_BYTES));
        mlc_sha256_end(&hash, work->digests[i]);
    }
}

static void add_word(mlc_sha256 *hash, uint64_t word)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(word >> 8 * i);
    mlc_sha256_add(hash, bytes, sizeof bytes);
}

static void add_tensor(mlc_session *session, mlc_sha256 *hash, const mlc_entry *entry)
{
    mlc_sha256_add(hash, entry->name, strlen(entry->name) + 1);
    mlc_sha256_add(hash, "F32", 4);
    add_word(hash, (uint64_t)entry->rank);
    for (int i = 0; i < entry->rank; i++)
        add_word(hash, (uint64_t)entry->shape[i]);
    hashing work = {.data = mlc_session_at(session, entry->at), .bytes = entry->elements * (int64_t)sizeof(float)};
    int64_t blocks = (work.bytes + BLOCK_BYTES - 1) / BLOCK_BYTES;
    for (; work.first < blocks; work.first += WINDOW) {
        work.count = (int)(blocks - work.first < WINDOW ? blocks - work.first : WINDOW);
        mlc_team_run(session->team, hash_share, &work);
        mlc_sha256_add(hash, work.digests, (size_t)work.count * 32);
    }
}

void mlc_digest(mlc_session *session, char hex[65])
{
    uint8_t digest[32];
    mlc_sha256 hash;
    mlc_sha256_begin(&hash);
    for (int64_t i = 0; i < session->catalog.whole.count; i++)
        add_tensor(session, &hash, &session->catalog.whole.items[i]);
    add_word(&hash, (uint64_t)session->step);
    add_word(&hash, (uint64_t)session->cursor);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
}
