/* mlc_gpu.h: one GPU as the host of a rank sees it: memory, a stream, graphs. Implemented by kernels/gpu.cu; called by C.
 *
 * What goes wrong stays: the first failure is kept, everything after it does nothing, and mlc_gpu_failed says what it was. What is under way
 * then may never end, and freeing waits for it: memory, streams and graphs go with the process. */
#ifndef MLC_GPU_H
#define MLC_GPU_H

#include "mlc_calls.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct mlc_gpu mlc_gpu;
typedef struct mlc_gpu_graph mlc_gpu_graph;

/* What tells graphs apart: all that their capture depended on. */
typedef struct mlc_gpu_key {
    double share;
    int64_t count, kind;
} mlc_gpu_key;

#define MLC_GPU_TEXT_BYTES 768

/* Opens a GPU with `bytes` zero bytes of its memory, at *base: of those that this process sees number `number`, or the only one. parts: what
 * the memory is for. NULL: text says why. */
mlc_gpu *mlc_gpu_open(int number, uint64_t bytes, const char *parts, char **base, char text[MLC_GPU_TEXT_BYTES]);
void mlc_gpu_close(mlc_gpu *gpu);

/* What failed first; NULL: nothing. */
const char *mlc_gpu_failed(const mlc_gpu *gpu);

/* Notes a failure, if it is the first. */
void mlc_gpu_fail(mlc_gpu *gpu, const char *format, ...);

#define MLC_GPU_NAME_BYTES 32

/* Where it lies in its machine. */
void mlc_gpu_name(const mlc_gpu *gpu, char name[MLC_GPU_NAME_BYTES]);

/* From now on a wait asks `look` from time to time, which says by `true` that nothing more will come. */
void mlc_gpu_watch(mlc_gpu *gpu, int (*look)(void *), void *context);

/* Bytes of its memory that nobody has. */
uint64_t mlc_gpu_free_bytes(mlc_gpu *gpu);

/* Its multiprocessors. */
int mlc_gpu_blocks(const mlc_gpu *gpu);

void *mlc_gpu_stream(const mlc_gpu *gpu);

/* Calls of sweeps that are to come to the stream. */
mlc_calls *mlc_gpu_calls(const mlc_gpu *gpu);

/* Zero bytes of memory of the host that copies read while the caller goes on; NULL: there is no more. Given back with the second one. */
void *mlc_gpu_pinned(mlc_gpu *gpu, size_t bytes);
void mlc_gpu_unpin(mlc_gpu *gpu, void *memory);

/* Copies that have happened on return, behind what lies on the stream. */
void mlc_gpu_write(mlc_gpu *gpu, void *to, const void *from, size_t bytes);
void mlc_gpu_read(mlc_gpu *gpu, void *to, const void *from, size_t bytes);
void mlc_gpu_clear(mlc_gpu *gpu, void *at, size_t bytes);

/* Waits for all that lies on the stream. */
void mlc_gpu_wait(mlc_gpu *gpu);

/* The graph that was made under a key; NULL: none. */
mlc_gpu_graph *mlc_gpu_graph_of(const mlc_gpu *gpu, mlc_gpu_key key);

/* What comes between goes into a graph instead of being done. NULL: it failed. `staged` is pinned memory that its copies read; it is the
 * graph's from then on. The graph of the same key goes, or one of too many. */
void mlc_gpu_begin(mlc_gpu *gpu);
mlc_gpu_graph *mlc_gpu_end(mlc_gpu *gpu, mlc_gpu_key key, void *staged);

/* Under capture: a time of the device is taken whenever the graph comes to here. What it is the time of is the caller's. */
void mlc_gpu_mark(mlc_gpu *gpu, const void *action, const void *row);

/* A time of the last launch of a graph, whose end was waited for, in nanoseconds of CLOCK_MONOTONIC. */
typedef struct mlc_gpu_moment {
    const void *action, *row;
    int64_t at;
} mlc_gpu_moment;

int mlc_gpu_moments(const mlc_gpu_graph *graph);
mlc_gpu_moment mlc_gpu_moment_at(mlc_gpu *gpu, const mlc_gpu_graph *graph, int number);

/* All graphs go: what they move messages with ends. */
void mlc_gpu_forget(mlc_gpu *gpu);

void *mlc_gpu_graph_staged(const mlc_gpu_graph *graph);
void mlc_gpu_launch(mlc_gpu *gpu, const mlc_gpu_graph *graph);

#ifdef __cplusplus
}
#endif

#endif
