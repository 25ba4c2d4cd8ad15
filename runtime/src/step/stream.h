/* stream.h: pieces of tensors one after the other, cut into segments that fit a message (collective.h). */
#ifndef MLC_STREAM_H
#define MLC_STREAM_H

#include "model/arranged.h"
#include "model/rank.h"

#define MLC_STREAM_PART 32768 /* bytes worked on at a time: stays in the first cache through all additions */
#define MLC_STREAM_LINE 64 /* bytes: where pieces of a stream start, and what threads share out */

/* Elements of a tensor in canonical order: bytes [offset, offset + bytes) of the buffer at levels[0], and of the accumulators at
 * levels[1], ..., had they lain in this order. */
typedef struct mlc_stretch {
    const uint64_t *levels;
    const uint64_t *guests; /* the same of a guest's sums; NULL: not needed */
    const mlc_arrangement *arranged; /* of the buffers at `levels`; NULL: canonical, as those of guests always are */
    uint64_t unit;          /* bytes of an element */
    uint64_t offset;
    uint64_t bytes;
    uint64_t start;         /* in the stream */
} mlc_stretch;

typedef struct mlc_stream {
    mlc_stretch *stretches;
    int count;
    int capacity;
    uint64_t bytes;
} mlc_stream;

/* Bytes up to the next line. */
uint64_t mlc_stream_aligned(uint64_t bytes);

/* Adds a stretch, whose `start` is not asked for. False: out of memory. */
bool mlc_stream_add(mlc_stream *stream, mlc_stretch stretch);
void mlc_stream_close(mlc_stream *stream);

/* How many segments of `room` bytes, a multiple of MLC_STREAM_LINE, it takes. */
int64_t mlc_stream_segments(const mlc_stream *stream, uint64_t room);

/* Some bytes of one stretch, and where they lie in their segment. */
typedef struct mlc_part {
    const uint64_t *levels;
    const uint64_t *guests;
    const mlc_arrangement *arranged;
    uint64_t unit;
    uint64_t offset;
    uint64_t bytes;
    uint64_t at;
} mlc_part;

typedef void (*mlc_part_visitor)(const mlc_rank *rank, const mlc_part *part, void *context);

/* Visits the calling thread's share of segment k, in parts of at most mlc_wire_part() bytes. Called by every thread; no barrier inside. */
void mlc_stream_visit(const mlc_rank *rank, const mlc_env *env, const mlc_stream *stream, uint64_t room, int64_t k, mlc_part_visitor visit,
                      void *context);

#endif
