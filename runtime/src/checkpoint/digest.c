/* digest.c: see digest.h.
 *
 * The blocks of all tensors are numbered through and hashed a window at a time. Most lie in one shard: their rank hashes them.
 * A block that shards cut is hashed in rounds: each owner goes on from the state in which the one before it left the hash.
 *
 *   window   | table: blocks 0 .. 4 | table/m: blocks 0 .. 4 | ...     round 0: every block, as far as its first owner has it
 *   pending  |                    4 |                    4   |         round 1: those that have a second owner, and so on
 *
 * After each round the states travel to all ranks, so that every rank ends with the hash of every block.
 */
#include "checkpoint/digest.h"

#include "model/accord.h"
#include "system/sha256.h"

#include <string.h>

#define BLOCK_BYTES (1 << 20)
#define WINDOW 512 /* blocks whose hashes are held at once */

typedef struct block {
    const mlc_entry *entry;
    int64_t at;  /* first element that is not hashed yet */
    int64_t end; /* element */
} block;

typedef struct hashing {
    mlc_rank *rank;
    int count;           /* blocks of the window */
    int taken;           /* of them, by the digest */
    block blocks[WINDOW];
    int pending[WINDOW]; /* blocks that are not whole yet */
    int pending_count;
    mlc_sha256 states[WINDOW]; /* by index in `pending` */
    uint8_t digests[WINDOW][32];
    mlc_entries entries;
    int64_t entry;       /* where the next window begins */
    int64_t number;      /* of the block of that entry */
} hashing;

/* ---- a window of blocks ---- */

static int64_t block_elements(const hashing *work)
{
    return BLOCK_BYTES / work->entries.dtype->bytes;
}

static int64_t block_count(const hashing *work, const mlc_entry *entry)
{
    return (entry->elements + block_elements(work) - 1) / block_elements(work);
}

static void add_block(hashing *work, const mlc_entry *entry)
{
    int64_t at = work->number * block_elements(work), end = at + block_elements(work);
    mlc_sha256_begin(&work->states[work->count]);
    work->pending[work->count] = work->count;
    work->blocks[work->count++] = (block){entry, at, end < entry->elements ? end : entry->elements};
    work->number++;
}

/* The next blocks of the tensors; none at the end. */
static void gather(hashing *work)
{
    work->count = work->taken = 0;
    while (work->entry < work->entries.count && work->count < WINDOW) {
        const mlc_entry *entry = &work->entries.items[work->entry];
        if (work->number < block_count(work, entry)) {
            add_block(work, entry);
        } else {
            work->entry++;
            work->number = 0;
        }
    }
    work->pending_count = work->count;
}

/* The part of a block that comes next, within one shard. */
static mlc_owned next_part(const hashing *work, const block *of)
{
    mlc_owned part = mlc_entry_owned(work->rank, of->entry, of->at);
    part.end = part.end < of->end ? part.end : of->end;
    return part;
}

/* ---- a round ---- */

static void hash_part(const hashing *work, mlc_sha256 *state, const mlc_owned *part)
{
    mlc_strip strip;
    for (int64_t count, at = part->begin; at < part->end; at += count) {
        const char *elements = mlc_owned_look(work->rank, part, at, &count, &strip);
        mlc_sha256_add(state, elements, (size_t)(count * work->entries.dtype->bytes));
    }
}

static void hash_share(mlc_env *env, void *context)
{
    hashing *work = context;
    for (int i = env->thread; i < work->pending_count; i += env->threads) {
        mlc_owned part = next_part(work, &work->blocks[work->pending[i]]);
        if (part.rank == work->rank->rank)
            hash_part(work, &work->states[i], &part);
        else
            memset(&work->states[i], 0, sizeof work->states[i]);
        mlc_accord_work(work->rank);
    }
}

/* Sorts out the blocks that are whole. */
static void settle(hashing *work)
{
    int left = 0;
    for (int i = 0; i < work->pending_count; i++) {
        int number = work->pending[i];
        block *of = &work->blocks[number];
        of->at = next_part(work, of).end;
        if (of->at == of->end) {
            mlc_sha256_end(&work->states[i], work->digests[number]);
            continue;
        }
        work->states[left] = work->states[i];
        work->pending[left++] = number;
    }
    work->pending_count = left;
}

/* Hashes the next window. */
static int next_window(hashing *work, mlc_error *error)
{
    gather(work);
    while (work->pending_count) {
        mlc_team_run(work->rank->team, hash_share, work);
        if (mlc_accord_block(work->rank, work->states, (size_t)work->pending_count * sizeof *work->states, error))
            return error->status;
        settle(work);
    }
    return MLC_OK;
}

/* ---- the whole ---- */

static void add_word(mlc_sha256 *hash, uint64_t word)
{
    uint8_t bytes[8];
    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(word >> 8 * i);
    mlc_sha256_add(hash, bytes, sizeof bytes);
}

static void add_head(mlc_sha256 *hash, const mlc_dtype_row *dtype, const mlc_entry *entry)
{
    mlc_sha256_add(hash, entry->name, strlen(entry->name) + 1);
    mlc_sha256_add(hash, dtype->stored, strlen(dtype->stored) + 1);
    add_word(hash, (uint64_t)entry->rank);
    for (int i = 0; i < entry->rank; i++)
        add_word(hash, (uint64_t)entry->shape[i]);
}

static int add_tensors(hashing *work, mlc_sha256 *hash, mlc_error *error)
{
    for (int64_t i = 0; i < work->entries.count; i++) {
        add_head(hash, work->entries.dtype, &work->entries.items[i]);
        for (int64_t b = 0; b < block_count(work, &work->entries.items[i]); b++, work->taken++) {
            if (work->taken == work->count && next_window(work, error))
                return error->status;
            mlc_sha256_add(hash, work->digests[work->taken], 32);
        }
    }
    return MLC_OK;
}

int mlc_digest(mlc_rank *rank, char hex[65], mlc_error *error)
{
    uint8_t digest[32];
    mlc_sha256 hash;
    hashing work = {.rank = rank, .entries = rank->catalog.whole};
    mlc_sha256_begin(&hash);
    if (add_tensors(&work, &hash, error))
        return error->status;
    add_word(&hash, (uint64_t)rank->step);
    add_word(&hash, (uint64_t)rank->cursor);
    mlc_sha256_end(&hash, digest);
    mlc_sha256_hex(digest, hex);
    return MLC_OK;
}
