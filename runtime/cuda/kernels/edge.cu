/* edge.cu: see mlc_edge.h. */
#include "mlc_edge.h"

#include "mlc_cuda.h"
#include "mlc_nccl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef MLC_SHIM
extern "C" const char *mlc_shim_nccl_missing(void);
#else
#include <dlfcn.h>
#endif

#define FIELD(kind, name, parameters) kind(*name) parameters;

struct mlc_edges {
    mlc_gpu *gpu;
    MLC_NCCL_FUNCTIONS(FIELD)
};

struct mlc_edge {
    const mlc_edges *of;
    mlc_gpu *gpu;
    ncclComm_t comm;
    cudaStream_t stream;
    cudaStream_t counts; /* what the host looks at, so that no message waits for it */
    cudaEvent_t before; /* of the GPU's stream, which the edge follows */
    cudaEvent_t *gone;  /* [slots] */
    int slots;
    bool sends;
    bool counted; /* since streams were joined */
};

/* ---- the library ---- */

namespace {

const char *const HELP = "several GPUs want NCCL 2.18 or later: pip install nvidia-nccl-cu13, or the package libnccl2, and its folder in "
                         "LD_LIBRARY_PATH";

#ifdef MLC_SHIM
#define TAKE(kind, name, parameters) all->name = ::name;
bool find(mlc_edges *all)
{
    MLC_NCCL_FUNCTIONS(TAKE)
    if (mlc_shim_nccl_missing())
        mlc_gpu_fail(all->gpu, "NCCL: %s; %s", mlc_shim_nccl_missing(), HELP);
    return !mlc_shim_nccl_missing();
}
#else
#define TAKE(kind, name, parameters) all->name = (decltype(all->name))dlsym(module, #name);
#define LACKS(kind, name, parameters) missing = missing ? missing : all->name ? NULL : #name;
/* It stays open: its threads may outlive the communicators. */
bool find(mlc_edges *all)
{
    const char *missing = NULL;
    void *const module = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!module) {
        mlc_gpu_fail(all->gpu, "NCCL: %s; %s", dlerror(), HELP);
        return false;
    }
    MLC_NCCL_FUNCTIONS(TAKE)
    MLC_NCCL_FUNCTIONS(LACKS)
    if (missing)
        mlc_gpu_fail(all->gpu, "NCCL: libnccl.so.2 has no %s; %s", missing, HELP);
    return !missing;
}
#endif

bool fails(const mlc_edges *of, ncclResult_t result, const char *what)
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
bool make_streams(mlc_edge *edge)
{
    const char *what = "cannot open a stream";
    if (fails(edge->gpu, cudaStreamCreateWithFlags(&edge->stream, cudaStreamNonBlocking), what) ||
        fails(edge->gpu, cudaStreamCreateWithFlags(&edge->counts, cudaStreamNonBlocking), what) ||
        fails(edge->gpu, cudaEventCreateWithFlags(&edge->before, cudaEventDisableTiming), what))
        return false;
    for (int i = 0; i < edge->slots; i++)
        if (fails(edge->gpu, cudaEventCreateWithFlags(&edge->gone[i], cudaEventDisableTiming), what))
            return false;
    return true;
}

bool connect(mlc_edge *edge, const char *id)
{
    ncclUniqueId name;
    ncclConfig_t config = {sizeof config, MLC_NCCL_MAGIC, MLC_NCCL_OLDEST, 1, MLC_NCCL_UNSET, 1, MLC_EDGE_BLOCKS, NULL, MLC_NCCL_UNSET};
    memcpy(name.internal, id, sizeof name.internal);
    const int rank = edge->sends ? 0 : 1;
    return !fails(edge->of, edge->of->ncclCommInitRankConfig(&edge->comm, 2, name, rank, &config), "cannot connect two ranks");
}

}

mlc_edges *mlc_edges_open(mlc_gpu *gpu)
{
    int version = 0;
    mlc_edges *all = (mlc_edges *)calloc(1, sizeof *all);
    if (!all) {
        mlc_gpu_fail(gpu, "GPU: out of memory");
        return NULL;
    }
    all->gpu = gpu;
    bool whole = find(all) && !fails(all, all->ncclGetVersion(&version), "does not say its version");
    if (whole && version < MLC_NCCL_OLDEST)
        mlc_gpu_fail(gpu, "NCCL: libnccl.so.2 is %d.%d.%d; %s", version / 10000, version / 100 % 100, version % 100, HELP);
    if (whole && version >= MLC_NCCL_OLDEST)
        return all;
    mlc_edges_close(all);
    return NULL;
}

void mlc_edges_close(mlc_edges *all)
{
    free(all);
}

bool mlc_edge_name(const mlc_edges *all, char id[MLC_EDGE_ID_BYTES])
{
    ncclUniqueId name;
    if (fails(all, all->ncclGetUniqueId(&name), "cannot name a connection"))
        return false;
    memcpy(id, name.internal, MLC_EDGE_ID_BYTES);
    return true;
}

mlc_edge *mlc_edge_open(const mlc_edges *all, const char id[MLC_EDGE_ID_BYTES], bool sends, int slots)
{
    mlc_edge *edge = (mlc_edge *)calloc(1, sizeof *edge);
    cudaEvent_t *gone = (cudaEvent_t *)calloc((size_t)slots, sizeof *gone);
    if (!edge || !gone) {
        mlc_gpu_fail(all->gpu, "GPU: out of memory");
        free(edge);
        free(gone);
        return NULL;
    }
    *edge = mlc_edge{all, all->gpu, NULL, NULL, NULL, NULL, gone, slots, sends, false};
    if (make_streams(edge) && connect(edge, id))
        return edge;
    mlc_edge_close(edge);
    return NULL;
}

/* Ends a connection on which nothing is under way, and which no graph holds any more. There is no abort: ncclCommAbort too waits for those
 * graphs, a graph that runs ends when all its edges do, and one is aborted after the other. */
static void disconnect(mlc_edge *edge)
{
    if (edge->comm)
        edge->of->ncclCommDestroy(edge->comm);
    for (int i = 0; i < edge->slots; i++)
        if (edge->gone[i])
            cudaEventDestroy(edge->gone[i]);
    if (edge->before)
        cudaEventDestroy(edge->before);
    if (edge->stream)
        cudaStreamDestroy(edge->stream);
    if (edge->counts)
        cudaStreamDestroy(edge->counts);
}

void mlc_edge_close(mlc_edge *edge)
{
    if (!edge)
        return;
    if (!mlc_gpu_failed(edge->gpu))
        disconnect(edge);
    free(edge->gone);
    free(edge);
}

const char *mlc_edge_failed(mlc_edge *edge)
{
    ncclResult_t error = ncclSuccess;
    if (!edge->comm)
        return NULL;
    const ncclResult_t asked = edge->of->ncclCommGetAsyncError(edge->comm, &error);
    error = asked == ncclSuccess ? error : asked;
    return error == ncclSuccess || error == ncclInProgress ? NULL : edge->of->ncclGetErrorString(error);
}

void mlc_edge_follow(mlc_edge *edge)
{
    if (mlc_gpu_failed(edge->gpu) || fails(edge->gpu, cudaEventRecord(edge->before, stream_of(edge->gpu)), "cannot order streams"))
        return;
    fails(edge->gpu, cudaStreamWaitEvent(edge->stream, edge->before, 0), "cannot order streams");
}

void mlc_edge_move(mlc_edge *edge, int64_t n, void *at, size_t bytes)
{
    if (mlc_gpu_failed(edge->gpu))
        return;
    const ncclResult_t moved = edge->sends ? edge->of->ncclSend(at, bytes, ncclInt8, 1, edge->comm, edge->stream)
                                           : edge->of->ncclRecv(at, bytes, ncclInt8, 0, edge->comm, edge->stream);
    if (!fails(edge->of, moved, edge->sends ? "cannot send" : "cannot receive"))
        fails(edge->gpu, cudaEventRecord(edge->gone[n % edge->slots], edge->stream), "cannot order streams");
}

MLC_KERNEL void mlc_count(uint64_t *counter)
{
    *counter += 1;
}

static void count_behind(mlc_edge *edge, cudaEvent_t event, mlc_edge_count count)
{
    if (mlc_gpu_failed(edge->gpu) || fails(edge->gpu, cudaStreamWaitEvent(edge->counts, event, 0), "cannot order streams"))
        return;
    edge->counted = true;
    MLC_LAUNCH(mlc_count, 1, 1, 0, edge->counts, count.counter);
    fails(edge->gpu, cudaMemcpyAsync(count.seen, count.counter, sizeof *count.seen, cudaMemcpyDeviceToHost, edge->counts), "cannot copy");
}

void mlc_edge_count_come(mlc_edge *edge, mlc_edge_count count)
{
    count_behind(edge, edge->before, count);
}

void mlc_edge_count_over(mlc_edge *edge, int64_t n, mlc_edge_count count)
{
    count_behind(edge, edge->gone[n % edge->slots], count);
}

void mlc_edge_await(mlc_edge *edge, int64_t n)
{
    if (!mlc_gpu_failed(edge->gpu))
        fails(edge->gpu, cudaStreamWaitEvent(stream_of(edge->gpu), edge->gone[n % edge->slots], 0), "cannot order streams");
}

/* The stream of the GPU comes behind all that another one has. */
static void join(mlc_edge *edge, cudaStream_t stream)
{
    if (mlc_gpu_failed(edge->gpu) || fails(edge->gpu, cudaEventRecord(edge->before, stream), "cannot order streams"))
        return;
    fails(edge->gpu, cudaStreamWaitEvent(stream_of(edge->gpu), edge->before, 0), "cannot order streams");
}

void mlc_edge_join(mlc_edge *edge)
{
    join(edge, edge->stream);
    if (edge->counted)
        join(edge, edge->counts);
    edge->counted = false;
}
