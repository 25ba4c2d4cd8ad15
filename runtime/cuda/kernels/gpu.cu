/* gpu.cu: see mlc_gpu.h. */
#include "mlc_gpu.h"

#include "mlc_device.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MOST_PINNED 64
#define MOST_GRAPHS 32
#define MOST_QUEUES "32"
#define LOOKS 200      /* at the stream before a wait rests between two of them */
#define REST 20000     /* nanoseconds */

/* Where a graph takes the time. */
typedef struct mark {
    cudaEvent_t event;
    const void *action, *row;
} mark;

typedef struct marks {
    mark *of;
    int count, room;
} marks;

/* It owns what its copies read. */
struct mlc_gpu_graph {
    mlc_gpu_key key;
    void *staged;
    marks marked;
    cudaGraphExec_t graph;
};

struct mlc_gpu {
    char *base;
    cudaStream_t stream;
    mlc_calls *calls;
    void *pinned[MOST_PINNED];
    int pinned_count;
    mlc_gpu_graph graphs[MOST_GRAPHS];
    int graph_count;
    marks marked;     /* of the graph that is captured */
    cudaEvent_t begun; /* before a launch; NULL: no graph has marks */
    int64_t begun_at;
    int (*look)(void *);
    void *looker;
    char failure[MLC_GPU_TEXT_BYTES]; /* "": none */
};

static bool fails(mlc_gpu *gpu, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return gpu->failure[0] != 0;
    if (!gpu->failure[0])
        snprintf(gpu->failure, sizeof gpu->failure, "GPU: %s: %s", what, cudaGetErrorString(status));
    return true;
}

/* What has been launched so far, that was refused. */
static bool launch_fails(mlc_gpu *gpu)
{
    const char *why = mlc_calls_why(gpu->calls);
    const cudaError_t status = cudaGetLastError();
    if (why[0])
        mlc_gpu_fail(gpu, "GPU: %s", why);
    return fails(gpu, status, "a launch was refused");
}

/* Is there a driver for the release of CUDA that this is compiled with? One of the same first number will do ("Minor Version Compatibility"). */
static bool lacks_driver(mlc_gpu *gpu)
{
    int driver = 0, runtime = 0;
    if (fails(gpu, cudaDriverGetVersion(&driver), "its driver does not answer") || fails(gpu, cudaRuntimeGetVersion(&runtime), "no runtime"))
        return true;
    if (!driver)
        mlc_gpu_fail(gpu, "GPU: this machine has no driver of NVIDIA's");
    else if (driver / 1000 < runtime / 1000)
        mlc_gpu_fail(gpu, "GPU: the driver of this machine is for CUDA up to %d.%d, and this program is of CUDA %d.%d: it wants a newer driver, "
                     "or to be compiled with an older toolkit", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    return gpu->failure[0] != 0;
}

/* The one of the GPUs that the process sees; who sees one alone has been given it. */
static bool lacks_number(mlc_gpu *gpu, int number, int *device)
{
    int count = 0;
    /* Read by the first call. Streams of a step do not wait in one queue; and no kernel is loaded when it is first launched, in a capture or
     * beside one that waits for another GPU: loading may wait for all that runs ("Lazy Loading: Concurrent execution"). */
    setenv("CUDA_DEVICE_MAX_CONNECTIONS", MOST_QUEUES, 0);
    setenv("CUDA_MODULE_LOADING", "EAGER", 0);
    if (fails(gpu, cudaGetDeviceCount(&count), "there is none that this program can use"))
        return true;
    if (count > 1 && number >= count)
        mlc_gpu_fail(gpu, "GPU: this machine has %d, and rank number %d of it wants one of its own", count, number);
    *device = count > 1 ? number : 0;
    return gpu->failure[0] || fails(gpu, cudaSetDevice(*device), "cannot be used");
}

/* Is there a GPU, of the kind that the kernels are compiled for? */
static bool lacks_device(mlc_gpu *gpu, int number)
{
    int device = 0, major = 0, minor = 0, shared = 0;
    if (lacks_driver(gpu) || lacks_number(gpu, number, &device))
        return true;
    if (fails(gpu, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "does not say what it is") ||
        fails(gpu, cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "does not say what it is"))
        return true;
    if (major * 10 + minor != MLC_SM)
        mlc_gpu_fail(gpu, "GPU: this program is compiled for sm_%d, and this one is sm_%d%d", MLC_SM, major, minor);
    if (gpu->failure[0] || fails(gpu, cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "does not say what it is"))
        return true;
    if (shared < MLC_MOST_SHARED)
        mlc_gpu_fail(gpu, "GPU: kernels may ask for %d bytes of shared memory a block, and this one has %d", MLC_MOST_SHARED, shared);
    return gpu->failure[0] != 0;
}

/* Says how much the plan wants and how much there is. */
static bool lacks_memory(mlc_gpu *gpu, uint64_t bytes, const char *parts)
{
    size_t left = 0, total = 0;
    if (fails(gpu, cudaMemGetInfo(&left, &total), "does not say how much memory it has"))
        return true;
    if (left < bytes)
        mlc_gpu_fail(gpu, "GPU: the plan wants %.1f MiB of its memory, and %.1f of %.1f MiB are free: %s", (double)bytes / 0x1p20,
                     (double)left / 0x1p20, (double)total / 0x1p20, parts);
    return gpu->failure[0] != 0;
}

mlc_gpu *mlc_gpu_open(int number, uint64_t bytes, const char *parts, char **base, char text[MLC_GPU_TEXT_BYTES])
{
    mlc_gpu *gpu = (mlc_gpu *)calloc(1, sizeof *gpu);
    if (gpu)
        gpu->calls = mlc_calls_open();
    if (!gpu || !gpu->calls) {
        free(gpu);
        snprintf(text, MLC_GPU_TEXT_BYTES, "GPU: out of memory");
        return NULL;
    }
    char what[96];
    snprintf(what, sizeof what, "cannot allocate the %llu bytes of the plan", (unsigned long long)bytes);
    if (lacks_device(gpu, number) || lacks_memory(gpu, bytes, parts) ||
        fails(gpu, cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), "cannot be opened") ||
        fails(gpu, cudaMalloc((void **)&gpu->base, bytes), what) || fails(gpu, cudaMemset(gpu->base, 0, bytes), "cannot clear its memory") ||
        fails(gpu, cudaDeviceSynchronize(), "does not answer")) {
        snprintf(text, MLC_GPU_TEXT_BYTES, "%s", gpu->failure);
        mlc_gpu_close(gpu);
        return NULL;
    }
    *base = gpu->base;
    return gpu;
}

void mlc_gpu_close(mlc_gpu *gpu)
{
    if (!gpu)
        return;
    if (!gpu->failure[0]) {
        mlc_gpu_forget(gpu);
        for (int i = 0; i < gpu->pinned_count; i++)
            cudaFreeHost(gpu->pinned[i]);
        if (gpu->begun)
            cudaEventDestroy(gpu->begun);
        cudaFree(gpu->base);
        cudaStreamDestroy(gpu->stream);
    }
    mlc_calls_close(gpu->calls);
    free(gpu);
}

const char *mlc_gpu_failed(const mlc_gpu *gpu)
{
    return gpu->failure[0] ? gpu->failure : NULL;
}

static void drop_graph(mlc_gpu *gpu, mlc_gpu_graph *graph)
{
    fails(gpu, cudaGraphExecDestroy(graph->graph), "cannot free the graph of a step");
    for (int i = 0; i < graph->marked.count && !gpu->failure[0]; i++)
        fails(gpu, cudaEventDestroy(graph->marked.of[i].event), "cannot free an event");
    free(graph->marked.of);
}

void mlc_gpu_forget(mlc_gpu *gpu)
{
    for (int i = 0; i < gpu->graph_count && !gpu->failure[0]; i++)
        drop_graph(gpu, &gpu->graphs[i]);
    gpu->graph_count = 0;
}

void mlc_gpu_fail(mlc_gpu *gpu, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (!gpu->failure[0])
        vsnprintf(gpu->failure, sizeof gpu->failure, format, arguments);
    va_end(arguments);
}

void mlc_gpu_name(const mlc_gpu *gpu, char name[MLC_GPU_NAME_BYTES])
{
    int device = 0;
    memset(name, 0, MLC_GPU_NAME_BYTES);
    if (gpu->failure[0] || cudaGetDevice(&device) != cudaSuccess || cudaDeviceGetPCIBusId(name, MLC_GPU_NAME_BYTES, device) != cudaSuccess)
        name[0] = 0;
}

uint64_t mlc_gpu_free_bytes(mlc_gpu *gpu)
{
    size_t left = 0, total = 0;
    return fails(gpu, cudaMemGetInfo(&left, &total), "does not say how much memory it has") ? 0 : left;
}

int mlc_gpu_blocks(const mlc_gpu *gpu)
{
    int device = 0, blocks = 0;
    if (gpu->failure[0] || cudaGetDevice(&device) != cudaSuccess)
        return 0;
    return cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device) == cudaSuccess ? blocks : 0;
}

void mlc_gpu_watch(mlc_gpu *gpu, int (*look)(void *), void *context)
{
    gpu->look = look;
    gpu->looker = context;
}

void *mlc_gpu_stream(const mlc_gpu *gpu)
{
    return (void *)gpu->stream;
}

mlc_calls *mlc_gpu_calls(const mlc_gpu *gpu)
{
    return gpu->calls;
}

void *mlc_gpu_pinned(mlc_gpu *gpu, size_t bytes)
{
    void *memory = NULL;
    cudaError_t refusal = gpu->pinned_count == MOST_PINNED ? cudaErrorMemoryAllocation : cudaSuccess;
    if (fails(gpu, refusal, "cannot pin memory of the host") || fails(gpu, cudaMallocHost(&memory, bytes), "cannot pin memory of the host"))
        return NULL;
    gpu->pinned[gpu->pinned_count++] = memory;
    memset(memory, 0, bytes);
    return memory;
}

void mlc_gpu_unpin(mlc_gpu *gpu, void *memory)
{
    if (gpu->failure[0])
        return;
    for (int i = 0; i < gpu->pinned_count; i++)
        if (gpu->pinned[i] == memory) {
            gpu->pinned[i] = gpu->pinned[--gpu->pinned_count];
            fails(gpu, cudaFreeHost(memory), "cannot free memory of the host");
            return;
        }
}

/* Until the stream has ended, or somebody says that it will not. */
static void wait_and_look(mlc_gpu *gpu)
{
    const struct timespec rest = {0, REST};
    for (int64_t looks = 0; !gpu->failure[0]; looks++) {
        const cudaError_t status = cudaStreamQuery(gpu->stream);
        if (status != cudaErrorNotReady) {
            fails(gpu, status, "failed");
            return;
        }
        if (looks >= LOOKS && gpu->look(gpu->looker))
            return;
        if (looks >= LOOKS)
            nanosleep(&rest, NULL);
    }
}

void mlc_gpu_wait(mlc_gpu *gpu)
{
    if (launch_fails(gpu))
        return;
    if (gpu->look)
        wait_and_look(gpu);
    else
        fails(gpu, cudaStreamSynchronize(gpu->stream), "failed");
}

/* The stream first: of memory that is not pinned the call would wait for it, and look at nobody. */
static void copy(mlc_gpu *gpu, void *to, const void *from, size_t bytes, cudaMemcpyKind kind)
{
    mlc_gpu_wait(gpu);
    if (bytes && !gpu->failure[0] && !fails(gpu, cudaMemcpyAsync(to, from, bytes, kind, gpu->stream), "cannot copy"))
        mlc_gpu_wait(gpu);
}

void mlc_gpu_write(mlc_gpu *gpu, void *to, const void *from, size_t bytes)
{
    copy(gpu, to, from, bytes, cudaMemcpyHostToDevice);
}

void mlc_gpu_read(mlc_gpu *gpu, void *to, const void *from, size_t bytes)
{
    copy(gpu, to, from, bytes, cudaMemcpyDeviceToHost);
}

void mlc_gpu_clear(mlc_gpu *gpu, void *at, size_t bytes)
{
    if (bytes && !gpu->failure[0] && !fails(gpu, cudaMemsetAsync(at, 0, bytes, gpu->stream), "cannot clear memory"))
        mlc_gpu_wait(gpu);
}

void mlc_gpu_begin(mlc_gpu *gpu)
{
    if (!gpu->failure[0])
        fails(gpu, cudaStreamBeginCapture(gpu->stream, cudaStreamCaptureModeThreadLocal), "cannot capture a step");
}

/* Where a graph may be made: in place of the one of the same key, or of the last one when there are too many, as good a guess as another. */
static mlc_gpu_graph *place_for(mlc_gpu *gpu, mlc_gpu_key key)
{
    mlc_gpu_graph *old = mlc_gpu_graph_of(gpu, key);
    if (!old && gpu->graph_count < MOST_GRAPHS)
        return &gpu->graphs[gpu->graph_count];
    if (!old)
        old = &gpu->graphs[MOST_GRAPHS - 1];
    drop_graph(gpu, old);
    mlc_gpu_unpin(gpu, old->staged);
    mlc_gpu_graph *last = &gpu->graphs[--gpu->graph_count];
    *old = *last;
    return last;
}

mlc_gpu_graph *mlc_gpu_end(mlc_gpu *gpu, mlc_gpu_key key, void *staged)
{
    cudaGraph_t captured = NULL;
    const cudaError_t status = cudaStreamEndCapture(gpu->stream, &captured);
    if (launch_fails(gpu) || fails(gpu, status, "cannot capture a step"))
        return NULL;
    mlc_gpu_graph *graph = place_for(gpu, key);
    graph->key = key;
    graph->staged = staged;
    graph->marked = gpu->marked;
    gpu->marked = marks{};
    if (fails(gpu, cudaGraphInstantiate(&graph->graph, captured, 0), "cannot make the graph of a step") ||
        fails(gpu, cudaGraphDestroy(captured), "cannot make the graph of a step"))
        return NULL;
    gpu->graph_count++;
    return graph;
}

mlc_gpu_graph *mlc_gpu_graph_of(const mlc_gpu *gpu, mlc_gpu_key key)
{
    for (int i = 0; i < gpu->graph_count; i++)
        if (memcmp(&gpu->graphs[i].key, &key, sizeof key) == 0)
            return (mlc_gpu_graph *)&gpu->graphs[i];
    return NULL;
}

void *mlc_gpu_graph_staged(const mlc_gpu_graph *graph)
{
    return graph->staged;
}

/* False: there is no room. */
static bool has_room(marks *marked)
{
    if (marked->count < marked->room)
        return true;
    const int room = marked->room ? 2 * marked->room : 256;
    mark *of = (mark *)realloc(marked->of, (size_t)room * sizeof *of);
    if (of)
        marked->of = of, marked->room = room;
    return of != NULL;
}

void mlc_gpu_mark(mlc_gpu *gpu, const void *action, const void *row)
{
    marks *marked = &gpu->marked;
    mark made = {NULL, action, row};
    if (gpu->failure[0] || fails(gpu, has_room(marked) ? cudaSuccess : cudaErrorMemoryAllocation, "cannot take times") ||
        fails(gpu, cudaEventCreate(&made.event), "cannot take times") ||
        fails(gpu, cudaEventRecordWithFlags(made.event, gpu->stream, cudaEventRecordExternal), "cannot take times"))
        return;
    marked->of[marked->count++] = made;
}

int mlc_gpu_moments(const mlc_gpu_graph *graph)
{
    return graph->marked.count;
}

mlc_gpu_moment mlc_gpu_moment_at(mlc_gpu *gpu, const mlc_gpu_graph *graph, int number)
{
    const mark *of = &graph->marked.of[number];
    float milliseconds = 0;
    if (!gpu->failure[0])
        fails(gpu, cudaEventElapsedTime(&milliseconds, gpu->begun, of->event), "does not say a time");
    return mlc_gpu_moment{of->action, of->row, gpu->begun_at + (int64_t)((double)milliseconds * 1e6)};
}

/* A time of the device that is known on the clock of the host: of an idle stream. */
static void take_begin(mlc_gpu *gpu)
{
    struct timespec now;
    if (fails(gpu, gpu->begun ? cudaSuccess : cudaEventCreate(&gpu->begun), "cannot take times") ||
        fails(gpu, cudaEventRecordWithFlags(gpu->begun, gpu->stream, cudaEventRecordDefault), "cannot take times") ||
        fails(gpu, cudaStreamSynchronize(gpu->stream), "failed"))
        return;
    clock_gettime(CLOCK_MONOTONIC, &now);
    gpu->begun_at = now.tv_sec * 1000000000LL + now.tv_nsec;
}

void mlc_gpu_launch(mlc_gpu *gpu, const mlc_gpu_graph *graph)
{
    if (!gpu->failure[0] && graph->marked.count)
        take_begin(gpu);
    if (!gpu->failure[0])
        fails(gpu, cudaGraphLaunch(graph->graph, gpu->stream), "cannot start a step");
}
