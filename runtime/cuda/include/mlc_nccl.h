/* mlc_nccl.h: what is used of NCCL, declared from its public documentation ("NVIDIA Collective Communication Library: API"), so that
 * programs build without it. libnccl.so.2 is opened at start (edge.cu); the execution shim has a stub of its own (shim/nccl.cpp). */
#ifndef MLC_NCCL_H
#define MLC_NCCL_H

#include <stddef.h>

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#define NCCL_UNIQUE_ID_BYTES 128

typedef struct ncclComm *ncclComm_t;

typedef struct ncclUniqueId {
    char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;

typedef enum ncclResult {
    ncclSuccess = 0,
    ncclUnhandledCudaError = 1,
    ncclSystemError = 2,
    ncclInternalError = 3,
    ncclInvalidArgument = 4,
    ncclInvalidUsage = 5,
    ncclRemoteError = 6,
    ncclInProgress = 7
} ncclResult_t;

typedef enum ncclDataType { ncclInt8 = 0 } ncclDataType_t;

/* As of 2.18, whose version it states: later libraries take it. What is MLC_NCCL_UNSET is left to the library. */
typedef struct ncclConfig {
    size_t size;
    unsigned magic;
    unsigned version;
    int blocking;
    int cgaClusterSize;
    int minCTAs;
    int maxCTAs;
    const char *netName;
    int splitShare;
} ncclConfig_t;

#define MLC_NCCL_UNSET (-2147483647 - 1)
#define MLC_NCCL_MAGIC 0xcafebeefu
#define MLC_NCCL_OLDEST 21800 /* 2.18.0: major * 10000 + minor * 100 + patch */

/* The functions, by the names that the library has for them. */
#define MLC_NCCL_FUNCTIONS(X) \
    X(ncclResult_t, ncclGetVersion, (int *version)) \
    X(ncclResult_t, ncclGetUniqueId, (ncclUniqueId *id)) \
    X(ncclResult_t, ncclCommInitRankConfig, (ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)) \
    X(ncclResult_t, ncclCommDestroy, (ncclComm_t comm)) \
    X(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm, ncclResult_t *error)) \
    X(ncclResult_t, ncclGroupStart, (void)) \
    X(ncclResult_t, ncclGroupEnd, (void)) \
    X(ncclResult_t, ncclSend, (const void *from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)) \
    X(ncclResult_t, ncclRecv, (void *to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)) \
    X(const char *, ncclGetErrorString, (ncclResult_t result))

#ifdef MLC_SHIM /* the stub is linked */
#define MLC_NCCL_DECLARE(kind, name, parameters) kind name parameters;
MLC_NCCL_FUNCTIONS(MLC_NCCL_DECLARE)
#undef MLC_NCCL_DECLARE
#endif

#ifdef __cplusplus
}
#endif

#endif
