/* mlc_edge.h: one direction between two GPUs: a communicator of NCCL for the two, and a stream of its own on each, so that messages of
 * different edges never wait for each other. Implemented by kernels/edge.cu; called by C.
 *
 * What goes wrong stays, as in mlc_gpu.h: mlc_gpu_failed says what it was. */
#ifndef MLC_EDGE_H
#define MLC_EDGE_H

#include "mlc_gpu.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MLC_EDGE_ID_BYTES 128

/* What an edge may hold of a GPU while its message waits for the other end: blocks of a kernel. */
#define MLC_EDGE_BLOCKS 2

/* Bytes of the GPU that NCCL takes for an edge, at most: for each block a buffer of NCCL_BUFFSIZE (4 MiB, "Environment Variables"), smaller ones
 * for its other protocols, and what a communicator is. */
#define MLC_EDGE_BYTES (16LL << 20)

typedef struct mlc_edges mlc_edges;
typedef struct mlc_edge mlc_edge;

/* Opens libnccl.so.2. NULL: it is not there, or too old. */
mlc_edges *mlc_edges_open(mlc_gpu *gpu);
void mlc_edges_close(mlc_edges *all);

/* A name for an edge, by its sending end; the other one gets it from there. False: it failed. */
bool mlc_edge_name(const mlc_edges *all, char id[MLC_EDGE_ID_BYTES]);

/* Connects one end; returns when the other one does the same. `slots` messages may be under way. NULL: it failed. */
mlc_edge *mlc_edge_open(const mlc_edges *all, const char id[MLC_EDGE_ID_BYTES], bool sends, int slots);

/* After a failure of the GPU it leaves what a library would wait for to the end of the process. */
void mlc_edge_close(mlc_edge *edge);

/* What has gone wrong on an edge while a message was under way, for others to see; NULL: nothing. */
const char *mlc_edge_failed(mlc_edge *edge);

/* What follows on the edge comes behind all that the stream of the GPU has so far. */
void mlc_edge_follow(mlc_edge *edge);

/* Message n, of `bytes` bytes, in the order of n: it is over when both ends have come to it. */
void mlc_edge_move(mlc_edge *edge, int64_t n, void *at, size_t bytes);

/* A number on the device, and where the host sees it (pinned memory). */
typedef struct mlc_edge_count {
    uint64_t *counter;
    uint64_t *seen;
} mlc_edge_count;

/* Counts one more, when the edge is where it was told to follow last; when message n is over. Nothing waits for it but the end of a
 * walk. */
void mlc_edge_count_come(mlc_edge *edge, mlc_edge_count count);
void mlc_edge_count_over(mlc_edge *edge, int64_t n, mlc_edge_count count);

/* What follows on the stream of the GPU comes behind message n; one of the last `slots`. */
void mlc_edge_await(mlc_edge *edge, int64_t n);

/* The same, behind all that the edge has. */
void mlc_edge_join(mlc_edge *edge);

#ifdef __cplusplus
}
#endif

#endif
