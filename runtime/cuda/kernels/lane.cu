/* lane.cu: see mlc_lane.h. */
#include "mlc_lane.h"

#include "mlc_cuda.h"
#include "mlc_lane->of->h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MLC_SHIM
#define DECLARE(kind, name, parameters) extern "C" kind name parameters;
MLC_NCCL_FUNCTIONS(DECLARE)
extern "C" const char *mlc_shim_nccl_missing(void);
#else
#include <dlfcn.h>
#endif

#define FIELD(kind, name, parameters) kind(*name) parameters;

struct mlc_lanes {
    mlc_gpu *gpu;
    void *module;
    MLC_NCCL_FUNCTIONS(FIELD)
};

struct mlc_lane {
    const mlc_lanes *of;
    mlc_gpu *gpu;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaEvent_t before; /* of the GPU's stream, which the lane follows */
    cudaEvent_t *gone;  /* [slots] */
    int slots;
    bool sends;
    bool aborted;
};

/* ---- the library ---- */

namespace {

const char *const HELP = "several GPUs want NCCL 2.18 or later: pip install nvidia-nccl-cu13, or the package libnccl2, and its folder in "
                         "LD_LIBRARY_PATH";

#ifdef MLC_SHIM
#define TAKE(kind, name, parameters) all->name = ::name;
bool find(mlc_lanes *all)
{
    MLC_NCCL_FUNCTIONS(TAKE)
    if (mlc_shim_nccl_missing())
        mlc_gpu_fail(all->gpu, "NCCL: %s; %s", mlc_shim_nccl_missing(), HELP);
    return !mlc_shim_nccl_missing();
}
#else
#define TAKE(kind, name, parameters) all->name = (decltype(all->name))dlsym(all->module, #name);
#define LACKS(kind, name, parameters) missing = missing ? missing : all->name ? NULL : #name;
bool find(mlc_lanes *all)
{
    const char *missing = NULL;
    all->module = dlopen("liblane->of->so.2", RTLD_NOW | RTLD_LOCAL);
    if (!all->module) {
        mlc_gpu_fail(all->gpu, "NCCL: %s; %s", dlerror(), HELP);
        return false;
    }
    MLC_NCCL_FUNCTIONS(TAKE)
    MLC_NCCL_FUNCTIONS(LACKS)
    if (missing)
        mlc_gpu_fail(all->gpu, "NCCL: liblane->of->so.2 has no %s; %s", missing, HELP);
    return !missing;
}
#endif

bool fails(const mlc_lanes *of, ncclResult_t result, const char *what)
{
    if (result == ncclSuccess)
        return mlc_gpu_failed(of->gpu) != NULL;
    mlc_gpu_fail(of->gpu, "NCCL: %s: %s", what, of->ncclGetErrorString(result));
    return true;
}

bool fails(mlc_gpu *gpu, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return mlc_gpu_failed(gpu) != NULL;
    mlc_gpu_fail(gpu, "GPU: %s: %s", what, cudaGetErrorString(status));
    return true;
}

cudaStream_t stream_of(const mlc_gpu *gpu)
{
    return (cudaStream_t)mlc_gpu_stream(gpu);
}

/* Streams whose order nobody needs, so that nothing has the time of an event. */
bool make_streams(mlc_lane *lane)
{
    const char *what = "cannot open a stream";
    if (fails(lane->gpu, cudaStreamCreateWithFlags(&lane->stream, cudaStreamNonBlocking), what) ||
        fails(lane->gpu, cudaEventCreateWithFlags(&lane->before, cudaEventDisableTiming), what))
        return false;
    for (int i = 0; i < lane->slots; i++)
        if (fails(lane->gpu, cudaEventCreateWithFlags(&lane->gone[i], cudaEventDisableTiming), what))
            return false;
    return true;
}

bool connect(mlc_lane *lane, const char *id)
{
    ncclUniqueId name;
    ncclConfig_t config = {sizeof config, MLC_NCCL_MAGIC, MLC_NCCL_OLDEST, 1, MLC_NCCL_UNSET, 1, MLC_LANE_BLOCKS, NULL, MLC_NCCL_UNSET};
    memcpy(name.internal, id, sizeof name.internal);
    return !fails(lane->of, lane->of->ncclCommInitRankConfig(&lane->comm, 2, name, lane->sends ? 0 : 1, &config), "cannot connect two ranks");
}

}

mlc_lanes *mlc_lanes_open(mlc_gpu *gpu)
{
    int version = 0;
    mlc_lanes *all = (mlc_lanes *)calloc(1, sizeof *all);
    if (!all) {
        mlc_gpu_fail(gpu, "GPU: out of memory");
        return NULL;
    }
    all->gpu = gpu;
    bool whole = find(all) && !fails(all, all->ncclGetVersion(&version), "does not say its version");
    if (whole && version < MLC_NCCL_OLDEST)
        mlc_gpu_fail(gpu, "NCCL: liblane->of->so.2 is %d.%d.%d; %s", version / 10000, version / 100 % 100, version % 100, HELP);
    if (whole && version >= MLC_NCCL_OLDEST)
        return all;
    mlc_lanes_close(all);
    return NULL;
}

void mlc_lanes_close(mlc_lanes *all)
{
#ifndef MLC_SHIM
    if (all && all->module)
        dlclose(all->module);
#endif
    free(all);
}

bool mlc_lane_name(const mlc_lanes *all, char id[MLC_LANE_ID_BYTES])
{
    ncclUniqueId name;
    if (fails(all, all->ncclGetUniqueId(&name), "cannot name a connection"))
        return false;
    memcpy(id, name.internal, MLC_LANE_ID_BYTES);
    return true;
}

mlc_lane *mlc_lane_open(const mlc_lanes *all, const char id[MLC_LANE_ID_BYTES], bool sends, int slots)
{
    mlc_lane *lane = (mlc_lane *)calloc(1, sizeof *lane);
    cudaEvent_t *gone = (cudaEvent_t *)calloc((size_t)slots, sizeof *gone);
    if (!lane || !gone) {
        mlc_gpu_fail(all->gpu, "GPU: out of memory");
        free(lane);
        free(gone);
        return NULL;
    }
    *lane = mlc_lane{all, all->gpu, NULL, NULL, NULL, gone, slots, sends, false};
    if (make_streams(lane) && connect(lane, id))
        return lane;
    mlc_lane_close(lane);
    return NULL;
}

void mlc_lane_close(mlc_lane *lane)
{
    if (!lane)
        return;
    if (lane->comm && !lane->aborted && mlc_gpu_failed(lane->gpu))
        lane->of->ncclCommAbort(lane->comm);
    else if (lane->comm && !lane->aborted)
        lane->of->ncclCommDestroy(lane->comm);
    for (int i = 0; i < lane->slots; i++)
        if (lane->gone[i])
            cudaEventDestroy(lane->gone[i]);
    if (lane->before)
        cudaEventDestroy(lane->before);
    if (lane->stream)
        cudaStreamDestroy(lane->stream);
    free(lane->gone);
    free(lane);
}

const char *mlc_lane_failed(mlc_lane *lane)
{
    ncclResult_t error = ncclSuccess;
    if (lane->aborted || !lane->comm)
        return NULL;
    const ncclResult_t asked = lane->of->ncclCommGetAsyncError(lane->comm, &error);
    error = asked == ncclSuccess ? error : asked;
    return error == ncclSuccess || error == ncclInProgress ? NULL : lane->of->ncclGetErrorString(error);
}

void mlc_lane_abort(mlc_lane *lane)
{
    if (!lane->aborted && lane->comm)
        lane->of->ncclCommAbort(lane->comm);
    lane->aborted = true;
}

void mlc_lane_follow(mlc_lane *lane)
{
    if (mlc_gpu_failed(lane->gpu) || fails(lane->gpu, cudaEventRecord(lane->before, stream_of(lane->gpu)), "cannot order streams"))
        return;
    fails(lane->gpu, cudaStreamWaitEvent(lane->stream, lane->before, 0), "cannot order streams");
}

void mlc_lane_move(mlc_lane *lane, int64_t n, void *at, size_t bytes)
{
    if (mlc_gpu_failed(lane->gpu) || lane->aborted)
        return;
    const ncclResult_t moved = lane->sends ? lane->of->ncclSend(at, bytes, ncclInt8, 1, lane->comm, lane->stream)
                                           : lane->of->ncclRecv(at, bytes, ncclInt8, 0, lane->comm, lane->stream);
    if (!fails(lane->of, moved, lane->sends ? "cannot send" : "cannot receive"))
        fails(lane->gpu, cudaEventRecord(lane->gone[n % lane->slots], lane->stream), "cannot order streams");
}

void mlc_lane_await(mlc_lane *lane, int64_t n)
{
    if (!mlc_gpu_failed(lane->gpu))
        fails(lane->gpu, cudaStreamWaitEvent(stream_of(lane->gpu), lane->gone[n % lane->slots], 0), "cannot order streams");
}

void mlc_lane_join(mlc_lane *lane)
{
    if (mlc_gpu_failed(lane->gpu) || fails(lane->gpu, cudaEventRecord(lane->before, lane->stream), "cannot order streams"))
        return;
    fails(lane->gpu, cudaStreamWaitEvent(stream_of(lane->gpu), lane->before, 0), "cannot order streams");
}
