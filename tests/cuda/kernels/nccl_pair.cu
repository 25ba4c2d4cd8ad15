/* Two processes with a communicator of the stub between them, in a scenario that is right, or has one fault. */
#include "mlc_nccl.h"
#include "mlc_shim.h"

#include "mlc_cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const size_t BYTES = 300000; /* more than the stub passes on at a time */

struct End {
    int rank;
    ncclComm_t comm;
    cudaStream_t stream, other;
    char *data;
};

static void move(const End *end, bool sends, void *at, size_t bytes, cudaStream_t stream)
{
    const ncclResult_t result = sends ? ncclSend(at, bytes, ncclInt8, 1 - end->rank, end->comm, stream)
                                      : ncclRecv(at, bytes, ncclInt8, 1 - end->rank, end->comm, stream);
    (void)result;
}

/* Rank 0 sends, rank 1 receives. */
static void pass(const End *end, size_t bytes)
{
    move(end, end->rank == 0, end->data, bytes, end->stream);
}

static bool holds(const End *end, int value)
{
    char *copy = (char *)malloc(BYTES);
    cudaMemcpy(copy, end->data, BYTES, cudaMemcpyDeviceToHost);
    bool same = true;
    for (size_t i = 0; i < BYTES; i++)
        same = same && copy[i] == value;
    free(copy);
    return same;
}

static void run_graph(End *end, bool deadlocks)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaStreamBeginCapture(end->stream, cudaStreamCaptureModeThreadLocal);
    if (deadlocks)
        move(end, false, end->data, 64, end->stream);
    else
        pass(end, BYTES);
    move(end, end->rank == 1 || deadlocks, end->data, BYTES / 2, end->stream);
    cudaStreamEndCapture(end->stream, &graph);
    cudaGraphInstantiate(&exec, graph, 0);
    cudaGraphDestroy(graph);
    for (int step = 0; step < (deadlocks ? 1 : 3); step++) {
        cudaMemsetAsync(end->data, 7 + step - end->rank, BYTES, end->stream);
        cudaGraphLaunch(exec, end->stream);
        cudaStreamSynchronize(end->stream);
        if (!deadlocks && !holds(end, 7 + step))
            fprintf(stderr, "wrong data\n");
    }
    cudaGraphExecDestroy(exec);
}

static void play(End *end, const char *scenario)
{
    const bool first = end->rank == 0;
    if (!strcmp(scenario, "graph") || !strcmp(scenario, "deadlock in a graph"))
        run_graph(end, strcmp(scenario, "graph"));
    else if (!strcmp(scenario, "group")) { /* both send first: of a group neither comes before the other */
        ncclGroupStart();
        move(end, true, end->data, BYTES / 2, end->stream);
        move(end, false, end->data + BYTES / 2, BYTES / 2, end->stream);
        ncclGroupEnd();
    } else if (!strcmp(scenario, "deadlock")) {
        move(end, true, end->data, BYTES / 2, end->stream);
        move(end, false, end->data, BYTES / 2, end->stream);
    } else if (!strcmp(scenario, "sizes"))
        pass(end, first ? 128 : 64);
    else if (!strcmp(scenario, "types"))
        (void)(first ? ncclSend(end->data, 64, ncclInt8, 1, end->comm, end->stream) : ncclRecv(end->data, 64, (ncclDataType_t)7, 0, end->comm, end->stream));
    else if (!strcmp(scenario, "peer"))
        (void)ncclSend(end->data, 64, ncclInt8, end->rank, end->comm, end->stream);
    else if (!strcmp(scenario, "streams")) {
        pass(end, 64);
        cudaStreamSynchronize(end->stream);
        move(end, first, end->data, 64, end->other);
        cudaStreamSynchronize(end->other);
    } else if (!strcmp(scenario, "captured")) {
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        if (first)
            cudaStreamBeginCapture(end->stream, cudaStreamCaptureModeThreadLocal);
        pass(end, 64);
        if (first) {
            cudaStreamEndCapture(end->stream, &graph);
            cudaGraphInstantiate(&exec, graph, 0);
            cudaGraphLaunch(exec, end->stream);
            cudaStreamSynchronize(end->stream);
            cudaGraphExecDestroy(exec);
            cudaGraphDestroy(graph);
        }
    } else if (!strcmp(scenario, "host memory")) {
        char here[64] = "";
        move(end, first, here, sizeof here, end->stream);
    } else if (!strcmp(scenario, "bounds"))
        pass(end, BYTES + 4096);
    else if (!strcmp(scenario, "destroyed early")) {
        pass(end, 64);
        ncclCommDestroy(end->comm);
        return;
    } else if (!strcmp(scenario, "used late")) {
        ncclCommDestroy(end->comm);
        pass(end, 64);
        return;
    }
    cudaStreamSynchronize(end->stream);
    ncclCommDestroy(end->comm);
}

int main(int count, char **words)
{
    int id_ends[2], ready[2];
    ncclUniqueId id;
    if (count != 2 || pipe(id_ends) || pipe(ready))
        return 1;
    const pid_t child = fork();
    End end = {child ? 0 : 1, NULL, NULL, NULL, NULL};
    if (child) {
        ncclGetUniqueId(&id);
        if (write(id_ends[1], &id, sizeof id) != sizeof id)
            return 1;
    } else if (read(id_ends[0], &id, sizeof id) != sizeof id)
        return 1;
    ncclConfig_t config = {sizeof config, MLC_NCCL_MAGIC, MLC_NCCL_OLDEST, 1, MLC_NCCL_UNSET, 1, 1, NULL, MLC_NCCL_UNSET};
    cudaMalloc((void **)&end.data, BYTES);
    cudaMemset(end.data, 7 - end.rank, BYTES);
    cudaStreamCreateWithFlags(&end.stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&end.other, cudaStreamNonBlocking);
    cudaDeviceSynchronize();
    ncclCommInitRankConfig(&end.comm, 2, id, end.rank, &config);
    play(&end, words[1]);
    int status = 0;
    if (child)
        waitpid(child, &status, 0);
    return 0;
}
