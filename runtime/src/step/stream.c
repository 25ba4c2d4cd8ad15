/* stream.c: see stream.h. */
#include "step/stream.h"

#include "step/wire.h"
#include "system/numbers.h"

#include <stdlib.h>

uint64_t mlc_stream_aligned(uint64_t bytes)
{
    return (bytes + MLC_STREAM_LINE - 1) / MLC_STREAM_LINE * MLC_STREAM_LINE;
}

bool mlc_stream_add(mlc_stream *stream, mlc_stretch stretch)
{
    if (stream->count == stream->capacity) {
        int capacity = stream->capacity ? 2 * stream->capacity : 8;
        mlc_stretch *grown = realloc(stream->stretches, (size_t)capacity * sizeof *grown);
        if (!grown)
            return false;
        stream->stretches = grown;
        stream->capacity = capacity;
    }
    stretch.start = stream->bytes;
    stream->stretches[stream->count++] = stretch;
    stream->bytes += mlc_stream_aligned(stretch.bytes);
    return true;
}

int64_t mlc_stream_segments(const mlc_stream *stream, uint64_t room)
{
    return (int64_t)((stream->bytes + room - 1) / room);
}

/* The stretch in which a byte of the stream lies. */
static int stretch_at(const mlc_stream *stream, uint64_t byte)
{
    return mlc_last_at_most(&stream->stretches[0].start, sizeof *stream->stretches, stream->count, byte);
}

/* The bytes of a stretch that lie in [low, high) of the stream. */
static void visit_stretch(const mlc_rank *rank, const mlc_stretch *it, uint64_t low, uint64_t high, uint64_t segment,
                          mlc_part_visitor visit, void *context)
{
    uint64_t begin = low > it->start ? low : it->start, end = high < it->start + it->bytes ? high : it->start + it->bytes;
    const uint64_t part = mlc_wire_part();
    for (uint64_t at = begin; at < end; at += part) {
        uint64_t bytes = end - at < part ? end - at : part;
        visit(rank, &(mlc_part){it->levels, it->guests, it->arranged, it->unit, it->offset + at - it->start, bytes, at - segment}, context);
    }
}

void mlc_stream_visit(const mlc_rank *rank, const mlc_env *env, const mlc_stream *stream, uint64_t room, int64_t k, mlc_part_visitor visit,
                          void *context)
{
    uint64_t segment = (uint64_t)k * room;
    uint64_t length = stream->bytes - segment < room ? stream->bytes - segment : room;
    uint64_t threads = (uint64_t)env->threads, lines = length / MLC_STREAM_LINE;
    uint64_t low = segment + lines * (uint64_t)env->thread / threads * MLC_STREAM_LINE;
    uint64_t high = segment + lines * ((uint64_t)env->thread + 1) / threads * MLC_STREAM_LINE;
    if (low >= high)
        return;
    for (int i = stretch_at(stream, low); i < stream->count && stream->stretches[i].start < high; i++)
        visit_stretch(rank, &stream->stretches[i], low, high, segment, visit, context);
}

void mlc_stream_close(mlc_stream *stream)
{
    free(stream->stretches);
    *stream = (mlc_stream){0};
}
