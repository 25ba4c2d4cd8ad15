/* host.cpp: the runtime API as a checked stub. An operation (kernel, copy, fill, mark of an event) is queued with what it comes after;
 * it runs when something waits for it, and of those that may run next the schedule chooses. So what a program does not order happens
 * in another order in some schedule, and what it reads too early is not there yet. */
#include "shim.h"

#include "mlc_shim.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <set>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

using namespace mlc_shim;

/* What is to be done: queued once, or captured and queued at every launch of the graph. */
struct Work {
    std::string name;
    std::function<void()> run;      /* empty: a mark */
    std::function<Progress()> step; /* of what waits for another process, in place of `run` */
};

struct Operation {
    std::shared_ptr<const Work> work;
    std::vector<std::shared_ptr<Operation>> after;
    std::vector<uint32_t> clock; /* by row: how many operations of it are over before this one begins */
    int row;                     /* a stream, or a stream of a graph */
    uint32_t place;              /* in its row, from 1 */
    uint64_t queued;             /* order of the queue */
    bool done;
    uint32_t number;             /* of operation_now, in its epoch; 0: none yet */
    uint64_t epoch;
};
typedef std::shared_ptr<Operation> OperationRef;

struct mlc_shim_node {
    std::shared_ptr<const Work> work;
    std::vector<int> after; /* nodes */
    int row;                /* stream of the capture */
};

struct mlc_shim_graph {
    std::vector<mlc_shim_node> nodes;
    int rows;
    bool invalid, live;
    cudaStream_t origin;
};

struct mlc_shim_graph_exec {
    std::vector<mlc_shim_node> nodes;
    int first_row;
    OperationRef last; /* launches of a graph come one after another */
    bool live;
};

struct mlc_shim_stream {
    int row;
    bool blocking, live;
    OperationRef last;
    mlc_shim_graph *capture; /* nullptr: not capturing */
    int capture_row;
    std::vector<int> capture_last; /* nodes that the next one comes after */
    int asked;                     /* times, since something was put on it */
};

struct mlc_shim_event {
    OperationRef operation;
    mlc_shim_graph *capture;
    std::vector<int> nodes;
    bool live;
    int asked; /* times, since recorded */
    int64_t at = 0; /* nanoseconds, of one that was recorded with flags and has come */
};

namespace {

struct Pinned {
    size_t bytes;
};

struct Runtime {
    std::vector<OperationRef> queue; /* not done, in order of queueing */
    std::vector<uint32_t> row_length;
    std::vector<uint32_t> host_clock; /* what the host has waited for */
    uint64_t queued = 0;
    std::vector<std::unique_ptr<mlc_shim_stream>> streams; /* [0]: the default stream */
    std::vector<std::unique_ptr<mlc_shim_event>> events;
    std::vector<std::unique_ptr<mlc_shim_graph>> graphs;
    std::vector<std::unique_ptr<mlc_shim_graph_exec>> execs;
    std::map<const char *, Pinned> pinned;
    std::map<const void *, size_t> shared_limit; /* by kernel */
    cudaError_t error = cudaSuccess;
    int captures = 0;

    Runtime() { new_stream(true); }

    int new_row()
    {
        row_length.push_back(0);
        return (int)row_length.size() - 1;
    }

    mlc_shim_stream *new_stream(bool blocking)
    {
        streams.emplace_back(new mlc_shim_stream{new_row(), blocking, true, nullptr, nullptr, 0, {}, 0});
        return streams.back().get();
    }
};

Runtime &runtime()
{
    static Runtime only;
    return only;
}

std::recursive_mutex api; /* threads of the host call one after another */

struct Guard {
    Guard() { api.lock(); }
    ~Guard() { api.unlock(); }
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
};

/* Fails a call: noted for cudaGetLastError, and reported, since no program is meant to run into it. */
cudaError_t fail(cudaError_t error, const std::string &what)
{
    runtime().error = error;
    report_host("host: %s (%s)", what.c_str(), cudaGetErrorName(error));
    return error;
}

/* ---- running operations ---- */

struct Numbered {
    int row;
    uint32_t place;
    std::string name;
};

std::vector<Numbered> numbered(1); /* by number; 0 is none */
uint64_t epoch = 1;                /* of numbers */
const Operation *running;

void join(std::vector<uint32_t> &clock, const std::vector<uint32_t> &other)
{
    if (clock.size() < other.size())
        clock.resize(other.size());
    for (size_t row = 0; row < other.size(); row++)
        clock[row] = std::max(clock[row], other[row]);
}

/* False: it waits for another process; `moved` if it has done something all the same. */
bool run_operation(Operation &operation, bool &moved)
{
    if (operation.work->step || operation.work->run) {
        if (numbered.size() == 65535) {
            forget_operations();
            numbered.resize(1);
            epoch++;
        }
        if (!operation.number || operation.epoch != epoch) {
            operation.number = (uint32_t)numbered.size();
            operation.epoch = epoch;
            numbered.push_back({operation.row, operation.place, operation.work->name});
        }
        operation_now = operation.number;
        running = &operation;
        if (options().apart)
            device_reach(true);
        const Progress progress = operation.work->step ? operation.work->step() : (operation.work->run(), Progress::DONE);
        if (options().apart)
            device_reach(false);
        running = nullptr;
        moved |= progress != Progress::BLOCKED;
        if (progress != Progress::DONE)
            return false;
    }
    moved = true;
    operation.done = true;
    operation.after.clear();
    return true;
}

/* Of all that is queued and nothing waits for here, something that another process may wait for. False: there is nothing. */
bool run_something_else(const std::vector<OperationRef> &needed)
{
    const std::set<OperationRef> known(needed.begin(), needed.end());
    bool moved = false;
    for (const OperationRef &operation : std::vector<OperationRef>(runtime().queue)) {
        bool ready = !operation->done && !known.count(operation);
        for (const OperationRef &before : operation->after)
            ready = ready && before->done;
        if (ready)
            run_operation(*operation, moved);
    }
    return moved;
}

/* Runs `needed`, closed under `after`, in an order that the schedule chooses. False: it waits for another process, and the caller does
 * not. */
bool run_all(std::vector<OperationRef> needed, bool waits = true)
{
    std::sort(needed.begin(), needed.end(), [](const OperationRef &a, const OperationRef &b) { return a->queued < b->queued; });
    std::map<const Operation *, std::pair<int, std::vector<size_t>>> waiting; /* how many it waits for, who waits for it */
    std::vector<size_t> ready;
    for (size_t i = 0; i < needed.size(); i++) {
        int count = 0;
        for (const OperationRef &before : needed[i]->after)
            if (!before->done) {
                waiting[before.get()].second.push_back(i);
                count++;
            }
        waiting[needed[i].get()].first = count;
        if (count == 0)
            ready.push_back(i);
    }
    std::set<size_t> may(ready.begin(), ready.end()), blocked;
    bool whole = true;
    while (!may.empty() || !blocked.empty()) {
        if (may.empty()) { /* each of them waits for another process */
            const bool other = run_something_else(needed);
            whole = other || nccl_rest(waits);
            if (!whole)
                break;
            may.swap(blocked);
            continue;
        }
        auto next = may.begin();
        if (options().order == Order::REVERSE)
            next = std::prev(may.end());
        else if (options().order != Order::FORWARD)
            std::advance(next, (ptrdiff_t)(draw() % may.size()));
        const OperationRef operation = needed[*next];
        const size_t number = *next;
        may.erase(next);
        bool moved = false;
        if (!operation->done && !run_operation(*operation, moved)) {
            (moved ? may : blocked).insert(number);
            continue;
        }
        for (size_t i : waiting[operation.get()].second)
            if (--waiting[needed[i].get()].first == 0)
                may.insert(i);
    }
    auto &queue = runtime().queue;
    queue.erase(std::remove_if(queue.begin(), queue.end(), [](const OperationRef &operation) { return operation->done; }), queue.end());
    return whole;
}

bool complete(const OperationRef &last, bool waits = true)
{
    if (!last)
        return true;
    std::vector<OperationRef> needed, stack;
    std::set<const Operation *> seen;
    if (!last->done)
        stack.push_back(last);
    while (!stack.empty()) {
        const OperationRef operation = stack.back();
        stack.pop_back();
        if (!seen.insert(operation.get()).second)
            continue;
        needed.push_back(operation);
        for (const OperationRef &before : operation->after)
            if (!before->done)
                stack.push_back(before);
    }
    if (!run_all(std::move(needed), waits))
        return false;
    join(runtime().host_clock, last->clock);
    return true;
}

void complete_everything()
{
    run_all(runtime().queue);
    auto &clock = runtime().host_clock;
    clock.assign(runtime().row_length.begin(), runtime().row_length.end());
}

OperationRef queue(std::shared_ptr<const Work> work, std::vector<OperationRef> after, int row)
{
    Runtime &r = runtime();
    OperationRef operation(new Operation{std::move(work), {}, r.host_clock, row, ++r.row_length[(size_t)row], r.queued++, false, 0, 0});
    for (OperationRef &before : after) {
        if (!before)
            continue;
        join(operation->clock, before->clock);
        if (!before->done)
            operation->after.push_back(before);
    }
    if (operation->clock.size() <= (size_t)row)
        operation->clock.resize((size_t)row + 1);
    operation->clock[(size_t)row] = operation->place;
    r.queue.push_back(operation);
    return operation;
}

/* ---- streams ---- */

mlc_shim_stream *stream_of(cudaStream_t stream)
{
    Runtime &r = runtime();
    if (!stream)
        return r.streams[0].get();
    for (const auto &known : r.streams)
        if (known.get() == stream)
            return stream->live ? stream : nullptr;
    return nullptr;
}

/* What the next operation on the stream comes after: the default stream and the blocking ones wait for one another. */
std::vector<OperationRef> before_next(mlc_shim_stream &stream)
{
    Runtime &r = runtime();
    std::vector<OperationRef> after = {stream.last};
    if (&stream == r.streams[0].get()) {
        for (const auto &other : r.streams)
            if (other->blocking)
                after.push_back(other->last);
    } else if (stream.blocking) {
        after.push_back(r.streams[0]->last);
    }
    return after;
}

cudaError_t submit_work(cudaStream_t handle, const std::string &name, std::function<void()> run, std::function<Progress()> step)
{
    Runtime &r = runtime();
    mlc_shim_stream *stream = stream_of(handle);
    if (!stream)
        return fail(cudaErrorInvalidResourceHandle, name + " on a stream that does not exist or was destroyed");
    std::shared_ptr<const Work> work(new Work{name, std::move(run), std::move(step)});
    if (stream->capture) {
        mlc_shim_graph &graph = *stream->capture;
        graph.nodes.push_back({work, stream->capture_last, stream->capture_row});
        stream->capture_last = {(int)graph.nodes.size() - 1};
        return cudaSuccess;
    }
    if (r.captures > 0 && stream == r.streams[0].get()) {
        for (const auto &graph : r.graphs)
            graph->invalid |= graph->origin != nullptr;
        return fail(cudaErrorStreamCaptureImplicit, name + " on the default stream while another stream is captured");
    }
    stream->asked = 0;
    stream->last = queue(std::move(work), before_next(*stream), stream->row);
    return cudaSuccess;
}

cudaError_t submit(cudaStream_t handle, const std::string &name, std::function<void()> run)
{
    return submit_work(handle, name, std::move(run), nullptr);
}

/* For calls that may not come while a stream is captured. */
bool refuse_capture(const char *call, cudaError_t *error)
{
    Runtime &r = runtime();
    if (r.captures == 0)
        return false;
    for (const auto &graph : r.graphs)
        graph->invalid |= graph->origin != nullptr;
    *error = fail(cudaErrorStreamCaptureUnsupported, std::string(call) + " while a stream is captured");
    return true;
}

/* ---- copies ---- */

bool is_pinned(const void *p, size_t bytes)
{
    const auto &pinned = runtime().pinned;
    auto after = pinned.upper_bound((const char *)p);
    if (after == pinned.begin())
        return false;
    const auto &found = *std::prev(after);
    return (const char *)p + bytes <= found.first + found.second.bytes;
}

bool is_kind(enum cudaMemcpyKind kind, bool to_device, bool from_device)
{
    switch (kind) {
    case cudaMemcpyHostToHost: return !to_device && !from_device;
    case cudaMemcpyHostToDevice: return to_device && !from_device;
    case cudaMemcpyDeviceToHost: return !to_device && from_device;
    case cudaMemcpyDeviceToDevice: return to_device && from_device;
    case cudaMemcpyDefault: return true;
    }
    return false;
}

void carry_out_copy(void *to, const void *from, size_t bytes, const void *source)
{
    if (in_device(from) && !device_contains(from, bytes)) {
        report_host("out of bounds: %s reads %zu bytes at %s", operation_name(operation_now).c_str(), bytes, describe(from).c_str());
        return;
    }
    if (in_device(to) && !device_contains(to, bytes)) {
        report_host("out of bounds: %s writes %zu bytes at %s", operation_name(operation_now).c_str(), bytes, describe(to).c_str());
        return;
    }
    if (in_device(from) && !in_device(to))
        touch_operation(from, bytes, READ);
    if (in_device(to))
        touch_operation(to, bytes, WRITE);
    if (in_device(to) && in_device(from))
        copy_states(to, from, bytes);
    memmove(to, source, bytes);
}

cudaError_t copy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    if (bytes == 0)
        return cudaSuccess;
    const bool to_device = in_device(to), from_device = in_device(from);
    if (!is_kind(kind, to_device, from_device))
        return fail(cudaErrorInvalidValue, "a copy whose pointers are not of the kind it names");
    mlc_shim_stream *on = stream_of(stream);
    static const char *const names[2][2] = {{"copy on the host", "copy to the host"}, {"copy to the device", "copy on the device"}};
    const std::string name = std::string(names[to_device][from_device]) + " (" + std::to_string(bytes) + " bytes)";
    const void *host = to_device ? (from_device ? nullptr : from) : to;
    if (host && !is_pinned(host, bytes)) {
        if (on && on->capture)
            return fail(cudaErrorStreamCaptureUnsupported, name + " of pageable host memory while a stream is captured");
        /* the driver stages it: what is sent is what is there at the call, what is fetched is there when the call returns */
        if (to_device) {
            std::shared_ptr<std::vector<char>> staged(new std::vector<char>((const char *)from, (const char *)from + bytes));
            return submit(stream, name, [=] { carry_out_copy(to, from, bytes, staged->data()); });
        }
        const cudaError_t error = submit(stream, name, [=] { carry_out_copy(to, from, bytes, from); });
        if (error == cudaSuccess)
            complete(on->last);
        return error;
    }
    return submit(stream, name, [=] { carry_out_copy(to, from, bytes, from); });
}

}

/* ---- for memory.cpp and block.cpp ---- */

namespace mlc_shim {

uint32_t operation_now;

bool operation_ordered(uint32_t number)
{
    if (number == operation_now)
        return true;
    const Numbered &other = numbered[number];
    return (size_t)other.row < running->clock.size() && running->clock[(size_t)other.row] >= other.place;
}

std::string operation_name(uint32_t number)
{
    return number > 0 && number < numbered.size() ? numbered[number].name : "an operation";
}

cudaError_t submit_step(cudaStream_t stream, const std::string &name, std::function<Progress()> step)
{
    const Guard guard;
    return submit_work(stream, name, nullptr, std::move(step));
}

bool is_captured(cudaStream_t stream)
{
    const Guard guard;
    const mlc_shim_stream *known = stream_of(stream);
    return known && known->capture;
}

static bool launchable(const char *name, const void *function, dim3 grid, dim3 size, size_t shared_bytes)
{
    const Runtime &r = runtime();
    const size_t threads = (size_t)size.x * size.y * size.z;
    const auto limit = r.shared_limit.find(function);
    if (threads == 0 || threads > MAX_THREADS || size.z > 64)
        fail(cudaErrorInvalidConfiguration, std::string(name) + ": a block of " + std::to_string(threads) + " threads");
    else if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535)
        fail(cudaErrorInvalidConfiguration, std::string(name) + ": a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) +
                                                " x " + std::to_string(grid.z) + " blocks");
    else if (shared_bytes > (limit == r.shared_limit.end() ? SHARED_BYTES_DEFAULT : limit->second))
        fail(cudaErrorInvalidValue, std::string(name) + ": " + std::to_string(shared_bytes) +
                                        " bytes of dynamic shared memory, more than 49152 or than cudaFuncSetAttribute allowed");
    else
        return true;
    return false;
}

void launch_kernel(const char *name, const void *kernel, Invoke invoke, dim3 grid, dim3 size, size_t shared_bytes, cudaStream_t stream,
    const void *arguments, size_t bytes, const Word *words, size_t word_count)
{
    const Guard guard;
    if (!launchable(name, kernel, grid, size, shared_bytes))
        return;
    std::vector<char> kept((const char *)arguments, (const char *)arguments + bytes);
    std::vector<Word> pointers(words, words + word_count);
    submit(stream, name, [=] {
        check_arguments(name, pointers);
        run_kernel({name, operation_now, grid, size, shared_bytes, kernel, invoke, kept.data(), kept.size()});
    });
}

}

/* ---- the runtime API ---- */

struct ErrorText {
    cudaError_t error;
    const char *name, *text;
};

static const ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing"},
    {cudaErrorStreamCaptureInvalidated, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture"},
    {cudaErrorStreamCaptureUnmatched, "cudaErrorStreamCaptureUnmatched", "capture was not initiated in this stream"},
    {cudaErrorStreamCaptureUnjoined, "cudaErrorStreamCaptureUnjoined", "capturing stream has unjoined work"},
    {cudaErrorStreamCaptureIsolation, "cudaErrorStreamCaptureIsolation", "dependency created on uncaptured work in another stream"},
    {cudaErrorStreamCaptureImplicit, "cudaErrorStreamCaptureImplicit",
        "operation would make the legacy stream depend on a capturing blocking stream"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a capturing stream"},
    {cudaErrorStreamCaptureWrongThread, "cudaErrorStreamCaptureWrongThread",
        "attempt to terminate a thread-local capture sequence from another thread"},
};

static const ErrorText &text_of(cudaError_t error)
{
    static const ErrorText other = {cudaSuccess, "unrecognized error code", "unrecognized error code"};
    for (const ErrorText &text : error_texts)
        if (text.error == error)
            return text;
    return other;
}

const char *cudaGetErrorName(cudaError_t error)
{
    return text_of(error).name;
}

const char *cudaGetErrorString(cudaError_t error)
{
    return text_of(error).text;
}

cudaError_t cudaPeekAtLastError(void)
{
    const Guard guard;
    return runtime().error;
}

cudaError_t cudaGetLastError(void)
{
    const Guard guard;
    const cudaError_t error = runtime().error;
    runtime().error = cudaSuccess;
    return error;
}

/* A number of the environment. */
static int number_set(const char *name, int otherwise)
{
    const char *set = getenv(name);
    return set ? atoi(set) : otherwise;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = number_set("MLC_SHIM_DRIVER", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device)
{
    const Guard guard;
    return device == 0 ? cudaSuccess : fail(cudaErrorInvalidDevice, "cudaSetDevice(" + std::to_string(device) + ")");
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *properties, int device)
{
    const Guard guard;
    if (device != 0)
        return fail(cudaErrorInvalidDevice, "cudaGetDeviceProperties");
    const int sm = number_set("MLC_SHIM_SM", MLC_SM);
    *properties = cudaDeviceProp{"mlc execution shim", options().memory_bytes, SHARED_BYTES_OPTIN, sm / 10, sm % 10, 132};
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr attribute, int device)
{
    const Guard guard;
    if (device != 0)
        return fail(cudaErrorInvalidDevice, "cudaDeviceGetAttribute");
    switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 132; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = number_set("MLC_SHIM_SM", MLC_SM) / 10; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = number_set("MLC_SHIM_SM", MLC_SM) % 10; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = number_set("MLC_SHIM_SHARED", (int)SHARED_BYTES_OPTIN); return cudaSuccess;
    }
    return fail(cudaErrorInvalidValue, "cudaDeviceGetAttribute");
}

/* Every process has a GPU of its own, unless MLC_SHIM_GPU names it. */
cudaError_t cudaDeviceGetPCIBusId(char *text, int bytes, int device)
{
    const Guard guard;
    const char *named = getenv("MLC_SHIM_GPU");
    if (device != 0)
        return fail(cudaErrorInvalidDevice, "cudaDeviceGetPCIBusId");
    if (named)
        snprintf(text, (size_t)bytes, "%s", named);
    else
        snprintf(text, (size_t)bytes, "shim:%d", (int)getpid());
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaDeviceSynchronize", &error))
        return error;
    complete_everything();
    return cudaSuccess;
}

cudaError_t cudaDeviceReset(void)
{
    const Guard guard;
    return cudaDeviceSynchronize();
}

cudaError_t cudaMalloc(void **pointer, size_t bytes)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaMalloc", &error))
        return error;
    *pointer = nullptr;
    if (bytes == 0)
        return cudaSuccess;
    *pointer = device_alloc(bytes);
    if (!*pointer)
        return runtime().error = cudaErrorMemoryAllocation;
    return cudaSuccess;
}

cudaError_t cudaFree(void *pointer)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaFree", &error))
        return error;
    if (!pointer)
        return cudaSuccess;
    complete_everything();
    return device_free(pointer) ? cudaSuccess : fail(cudaErrorInvalidValue, "cudaFree of what is not an allocation, or was freed before");
}

cudaError_t cudaHostAlloc(void **pointer, size_t bytes, unsigned)
{
    const Guard guard;
    return cudaMallocHost(pointer, bytes);
}

cudaError_t cudaMallocHost(void **pointer, size_t bytes)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaMallocHost", &error))
        return error;
    *pointer = bytes ? aligned_alloc(4096, (bytes + 4095) / 4096 * 4096) : nullptr;
    if (bytes && !*pointer)
        return runtime().error = cudaErrorMemoryAllocation;
    if (bytes)
        runtime().pinned[(const char *)*pointer] = {bytes};
    return cudaSuccess;
}

cudaError_t cudaFreeHost(void *pointer)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaFreeHost", &error))
        return error;
    if (!pointer)
        return cudaSuccess;
    if (!runtime().pinned.erase((const char *)pointer))
        return fail(cudaErrorInvalidValue, "cudaFreeHost of what is not an allocation, or was freed before");
    complete_everything();
    free(pointer);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    const Guard guard;
    *total_bytes = options().memory_bytes;
    *free_bytes = *total_bytes - device_used();
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaMemcpy", &error))
        return error;
    error = copy(to, from, bytes, kind, nullptr);
    if (error == cudaSuccess)
        complete(runtime().streams[0]->last);
    return error;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream)
{
    const Guard guard;
    return copy(to, from, bytes, kind, stream);
}

cudaError_t cudaMemsetAsync(void *pointer, int value, size_t bytes, cudaStream_t stream)
{
    const Guard guard;
    if (bytes == 0)
        return cudaSuccess;
    if (!in_device(pointer))
        return fail(cudaErrorInvalidValue, "cudaMemset of what is not device memory");
    return submit(stream, "fill (" + std::to_string(bytes) + " bytes)", [=] {
        if (!device_contains(pointer, bytes)) {
            report_host(
                "out of bounds: %s writes %zu bytes at %s", operation_name(operation_now).c_str(), bytes, describe(pointer).c_str());
            return;
        }
        touch_operation(pointer, bytes, WRITE);
        memset(pointer, value, bytes);
    });
}

cudaError_t cudaMemset(void *pointer, int value, size_t bytes)
{
    const Guard guard;
    cudaError_t error;
    if (refuse_capture("cudaMemset", &error))
        return error;
    return cudaMemsetAsync(pointer, value, bytes, nullptr);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags)
{
    const Guard guard;
    *stream = runtime().new_stream(!(flags & cudaStreamNonBlocking));
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream)
{
    const Guard guard;
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    const Guard guard;
    mlc_shim_stream *known = stream_of(stream);
    if (!stream || !known)
        return fail(cudaErrorInvalidResourceHandle, "cudaStreamDestroy of a stream that does not exist");
    if (known->capture)
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamDestroy of a stream that is captured");
    known->live = false;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    const Guard guard;
    mlc_shim_stream *known = stream_of(stream);
    if (!known)
        return fail(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize of a stream that does not exist");
    if (known->capture) {
        known->capture->invalid = true;
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamSynchronize of a stream that is captured");
    }
    for (const OperationRef &last : before_next(*known))
        complete(last);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream)
{
    const Guard guard;
    mlc_shim_stream *known = stream_of(stream);
    if (!known)
        return fail(cudaErrorInvalidResourceHandle, "cudaStreamQuery of a stream that does not exist");
    if (known->asked++ >= 2) { /* late, but not never */
        bool done = true;
        for (const OperationRef &last : before_next(*known))
            done = done && complete(last, false);
    }
    return !known->last || known->last->done ? cudaSuccess : cudaErrorNotReady;
}

static mlc_shim_event *event_of(cudaEvent_t event)
{
    for (const auto &known : runtime().events)
        if (known.get() == event)
            return event->live ? event : nullptr;
    return nullptr;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned)
{
    const Guard guard;
    mlc_shim_stream *on = stream_of(stream);
    mlc_shim_event *of = event_of(event);
    if (!on || !of)
        return fail(cudaErrorInvalidResourceHandle, "cudaStreamWaitEvent with a stream or event that does not exist");
    if (of->capture) {
        if (!of->capture->origin)
            return fail(cudaErrorCapturedEvent, "cudaStreamWaitEvent for an event that was recorded in a capture that has ended");
        if (on->capture && on->capture != of->capture)
            return fail(cudaErrorStreamCaptureIsolation, "cudaStreamWaitEvent joins two captures");
        if (!on->capture) { /* the stream joins the capture */
            on->capture = of->capture;
            on->capture_row = of->capture->rows++;
            on->capture_last.clear();
        }
        for (int node : of->nodes)
            if (std::find(on->capture_last.begin(), on->capture_last.end(), node) == on->capture_last.end())
                on->capture_last.push_back(node);
        return cudaSuccess;
    }
    if (on->capture) {
        on->capture->invalid = true;
        return fail(cudaErrorStreamCaptureIsolation, "a captured stream waits for an event that was recorded outside the capture");
    }
    if (!of->operation)
        return cudaSuccess;
    std::vector<OperationRef> after = before_next(*on);
    after.push_back(of->operation);
    static const std::shared_ptr<const Work> mark(new Work{"wait for an event", nullptr, nullptr});
    on->last = queue(mark, std::move(after), on->row);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned)
{
    const Guard guard;
    runtime().events.emplace_back(new mlc_shim_event{nullptr, nullptr, {}, true, 0});
    *event = runtime().events.back().get();
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    const Guard guard;
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    const Guard guard;
    mlc_shim_event *known = event_of(event);
    if (!known)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventDestroy of an event that does not exist");
    known->live = false;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    const Guard guard;
    mlc_shim_event *known = event_of(event);
    mlc_shim_stream *on = stream_of(stream);
    if (!known || !on)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventRecord with a stream or event that does not exist");
    known->asked = 0;
    known->capture = on->capture;
    if (on->capture) {
        known->operation = nullptr;
        known->nodes = on->capture_last;
        return cudaSuccess;
    }
    static const std::shared_ptr<const Work> mark(new Work{"event", nullptr, nullptr});
    known->operation = on->last = queue(mark, before_next(*on), on->row);
    return cudaSuccess;
}

/* "Event record flags": an external one is a node of the graph, which takes the time at every launch. */
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned flags)
{
    const Guard guard;
    mlc_shim_event *known = event_of(event);
    mlc_shim_stream *on = stream_of(stream);
    if (!known || !on)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventRecordWithFlags with a stream or event that does not exist");
    if ((flags == cudaEventRecordExternal) != (on->capture != nullptr))
        return fail(cudaErrorInvalidValue, "cudaEventRecordWithFlags: external events are those of a capture");
    known->at = 0;
    return submit(stream, "event", [=] {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        known->at = now.tv_sec * 1000000000LL + now.tv_nsec;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    const Guard guard;
    mlc_shim_event *known = event_of(event);
    if (!known)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventSynchronize of an event that does not exist");
    if (known->capture)
        return fail(cudaErrorCapturedEvent, "cudaEventSynchronize of an event that was recorded in a capture");
    complete(known->operation);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    const Guard guard;
    mlc_shim_event *known = event_of(event);
    if (!known)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventQuery of an event that does not exist");
    if (known->capture)
        return fail(cudaErrorCapturedEvent, "cudaEventQuery of an event that was recorded in a capture");
    if (known->asked++ >= 2) /* late, but not never */
        complete(known->operation);
    return !known->operation || known->operation->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t from, cudaEvent_t to)
{
    const Guard guard;
    mlc_shim_event *first = event_of(from), *last = event_of(to);
    if (first && last && first->at && last->at) {
        *milliseconds = (float)(last->at - first->at) * 1e-6f;
        return cudaSuccess;
    }
    if (!first || !last || !first->operation || !last->operation)
        return fail(cudaErrorInvalidResourceHandle, "cudaEventElapsedTime of events that were not recorded");
    if (!first->operation->done || !last->operation->done)
        return cudaErrorNotReady;
    *milliseconds = 0; /* no clock here says how long a device would have taken */
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode)
{
    const Guard guard;
    Runtime &r = runtime();
    mlc_shim_stream *on = stream_of(stream);
    if (!stream || !on)
        return fail(stream ? cudaErrorInvalidResourceHandle : cudaErrorStreamCaptureUnsupported,
            "cudaStreamBeginCapture on the default stream or on none");
    if (on->capture)
        return fail(cudaErrorStreamCaptureUnsupported, "cudaStreamBeginCapture on a stream that is captured");
    r.graphs.emplace_back(new mlc_shim_graph{{}, 1, false, true, on});
    on->capture = r.graphs.back().get();
    on->capture_row = 0;
    on->capture_last.clear();
    r.captures++;
    return cudaSuccess;
}

/* Nodes that no other comes after and that the origin's next node would not come after. */
static bool all_joined(const mlc_shim_graph &graph, const std::vector<int> &last)
{
    std::vector<char> reached(graph.nodes.size(), 0);
    std::vector<int> stack = last;
    size_t count = 0;
    while (!stack.empty()) {
        const int node = stack.back();
        stack.pop_back();
        if (reached[(size_t)node]++)
            continue;
        count++;
        for (int before : graph.nodes[(size_t)node].after)
            stack.push_back(before);
    }
    return count == graph.nodes.size();
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *result)
{
    const Guard guard;
    Runtime &r = runtime();
    mlc_shim_stream *on = stream_of(stream);
    *result = nullptr;
    if (!on || !on->capture || on->capture->origin != on)
        return fail(cudaErrorStreamCaptureUnmatched, "cudaStreamEndCapture on a stream where none began");
    mlc_shim_graph *graph = on->capture;
    const bool joined = all_joined(*graph, on->capture_last);
    graph->origin = nullptr;
    r.captures--;
    for (const auto &other : r.streams)
        if (other->capture == graph)
            other->capture = nullptr;
    for (const auto &event : r.events)
        if (event->capture == graph)
            event->nodes.clear();
    if (graph->invalid)
        return runtime().error = cudaErrorStreamCaptureInvalidated;
    if (!joined)
        return fail(cudaErrorStreamCaptureUnjoined, "cudaStreamEndCapture while work of another stream has not been joined");
    *result = graph;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status)
{
    const Guard guard;
    mlc_shim_stream *on = stream_of(stream);
    if (!on)
        return fail(cudaErrorInvalidResourceHandle, "cudaStreamIsCapturing of a stream that does not exist");
    *status = !on->capture           ? cudaStreamCaptureStatusNone
              : on->capture->invalid ? cudaStreamCaptureStatusInvalidated
                                     : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

static mlc_shim_graph *graph_of(cudaGraph_t graph)
{
    for (const auto &known : runtime().graphs)
        if (known.get() == graph)
            return graph->live && !graph->origin ? graph : nullptr;
    return nullptr;
}

static mlc_shim_graph_exec *exec_of(cudaGraphExec_t exec)
{
    for (const auto &known : runtime().execs)
        if (known.get() == exec)
            return exec->live ? exec : nullptr;
    return nullptr;
}

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count)
{
    const Guard guard;
    mlc_shim_graph *known = graph_of(graph);
    if (!known)
        return fail(cudaErrorInvalidValue, "cudaGraphGetNodes of a graph that does not exist");
    const size_t room = nodes ? *count : 0;
    *count = known->nodes.size();
    for (size_t i = 0; i < room; i++)
        nodes[i] = i < *count ? &known->nodes[i] : nullptr;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    const Guard guard;
    Runtime &r = runtime();
    mlc_shim_graph *known = graph_of(graph);
    *exec = nullptr;
    if (!known)
        return fail(cudaErrorInvalidValue, "cudaGraphInstantiate of a graph that does not exist");
    const int first_row = (int)r.row_length.size();
    for (int row = 0; row < known->rows; row++)
        r.new_row();
    r.execs.emplace_back(new mlc_shim_graph_exec{known->nodes, first_row, nullptr, true});
    *exec = r.execs.back().get();
    return cudaSuccess;
}

cudaError_t cudaGraphUpload(cudaGraphExec_t exec, cudaStream_t stream)
{
    const Guard guard;
    return exec_of(exec) && stream_of(stream) ? cudaSuccess : fail(cudaErrorInvalidValue, "cudaGraphUpload of a graph that does not exist");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream)
{
    const Guard guard;
    mlc_shim_graph_exec *known = exec_of(exec);
    mlc_shim_stream *on = stream_of(stream);
    if (!known || !on)
        return fail(cudaErrorInvalidResourceHandle, "cudaGraphLaunch of a graph that does not exist or was destroyed");
    if (on->capture) {
        on->capture->invalid = true;
        return fail(cudaErrorStreamCaptureUnsupported, "cudaGraphLaunch into a stream that is captured");
    }
    std::vector<OperationRef> first = before_next(*on), operations, all;
    first.push_back(known->last);
    for (const mlc_shim_node &node : known->nodes) {
        std::vector<OperationRef> after;
        for (int before : node.after)
            after.push_back(operations[(size_t)before]);
        operations.push_back(queue(node.work, after.empty() ? first : after, known->first_row + node.row));
    }
    static const std::shared_ptr<const Work> mark(new Work{"end of a graph", nullptr, nullptr});
    all = first;
    all.insert(all.end(), operations.begin(), operations.end());
    on->asked = 0;
    on->last = known->last = queue(mark, std::move(all), on->row);
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    const Guard guard;
    mlc_shim_graph *known = graph_of(graph);
    if (!known)
        return fail(cudaErrorInvalidValue, "cudaGraphDestroy of a graph that does not exist");
    known->live = false;
    known->nodes.clear();
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    const Guard guard;
    mlc_shim_graph_exec *known = exec_of(exec);
    if (!known)
        return fail(cudaErrorInvalidValue, "cudaGraphExecDestroy of a graph that does not exist");
    known->live = false;
    known->nodes.clear();
    return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void *function, enum cudaFuncAttribute attribute, int value)
{
    const Guard guard;
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize)
        return cudaSuccess;
    if (value < 0 || (size_t)value > SHARED_BYTES_OPTIN)
        return fail(cudaErrorInvalidValue, "cudaFuncSetAttribute: " + std::to_string(value) + " bytes of shared memory");
    runtime().shared_limit[function] = (size_t)value;
    return cudaSuccess;
}

/* ---- tensors of a plan ---- */

int mlc_shim_region_open(void *p, size_t bytes, const char *name, cudaStream_t stream)
{
    const Guard guard;
    if (!in_device(p) || !device_contains(p, bytes))
        return fail(cudaErrorInvalidValue, std::string("a region outside an allocation: ") + name);
    const std::string kept = name;
    return submit(stream, "begin of " + kept, [=] { open_region(p, bytes, kept.c_str()); });
}

int mlc_shim_region_close(void *p, size_t bytes, cudaStream_t stream)
{
    const Guard guard;
    if (!in_device(p) || !device_contains(p, bytes))
        return fail(cudaErrorInvalidValue, "a region outside an allocation");
    return submit(stream, "end of a region", [=] { close_region(p, bytes); });
}
