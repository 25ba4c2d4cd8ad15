/* mlc_lane.h: one direction between two GPUs: a communicator of NCCL for the two, and a stream of its own on each, so that messages of
 * different lanes never wait for each other. Implemented by kernels/lane.cu; called by C.
 *
 * What goes wrong stays, as in mlc_gpu.h: mlc_gpu_failed says what it was. */
#ifndef MLC_LANE_H
#define MLC_LANE_H

#include "mlc_gpu.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MLC_LANE_ID_BYTES 128

/* What a lane may hold of a GPU while its message waits for the other end: blocks of a kernel. */
#define MLC_LANE_BLOCKS 2

typedef struct mlc_lanes mlc_lanes;
typedef struct mlc_lane mlc_lane;

/* Opens libnccl.so.2. NULL: it is not there, or too old. */
mlc_lanes *mlc_lanes_open(mlc_gpu *gpu);
void mlc_lanes_close(mlc_lanes *all);

/* A name for a lane, by its sending end; the other one gets it from there. False: it failed. */
bool mlc_lane_name(const mlc_lanes *all, char id[MLC_LANE_ID_BYTES]);

/* Connects one end; returns when the other one does the same. `slots` messages may be under way. NULL: it failed. */
mlc_lane *mlc_lane_open(const mlc_lanes *all, const char id[MLC_LANE_ID_BYTES], bool sends, int slots);

/* After a failure nothing is waited for. */
void mlc_lane_close(mlc_lane *lane);

/* What has gone wrong on a lane while a message was under way, for others to see; NULL: nothing. */
const char *mlc_lane_failed(mlc_lane *lane);

/* Ends what is under way on both ends, as a failure. */
void mlc_lane_abort(mlc_lane *lane);

/* What follows on the lane comes behind all that the stream of the GPU has so far. */
void mlc_lane_follow(mlc_lane *lane);

/* Message n, of `bytes` bytes, in the order of n: it is over when both ends have come to it. */
void mlc_lane_move(mlc_lane *lane, int64_t n, void *at, size_t bytes);

/* What follows on the stream of the GPU comes behind message n; one of the last `slots`. */
void mlc_lane_await(mlc_lane *lane, int64_t n);

/* The same, behind all that the lane has. */
void mlc_lane_join(mlc_lane *lane);

#ifdef __cplusplus
}
#endif

#endif
