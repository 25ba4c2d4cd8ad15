/* mlc_shim.h: how tests and programs steer the execution shim and read what it found. C and C++.
 *
 * From the environment, read once:
 *   MLC_SHIM_ORDER    forward, reverse, random or ahead (default forward): see block.cpp
 *   MLC_SHIM_SEED     a number, for random and ahead (default 1)
 *   MLC_SHIM_MEMORY   bytes of the device (default 8 GiB)
 *   MLC_SHIM_APART    set: memory of the device is out of reach for the host but in calls, as on a GPU (it costs time)
 *   MLC_SHIM_GPU      what the device is called (default: by the process)
 *   MLC_SHIM_DRIVER   the release of CUDA that the driver knows, as 12040 (default 13000; 0: there is no driver)
 *   MLC_SHIM_SM       the architecture of the device, as 103 (default: that of the build)
 *   MLC_SHIM_SHARED   bytes of shared memory that a block may ask for, as the device says it
 *   MLC_SHIM_NO_MAPS  set: the driver takes no tensor map
 *   MLC_SHIM_NCCL     missing, or old: the stub of NCCL is as if it were
 * Reports go to stderr; a process that ends with reports that nobody cleared ends with exit code 66. */
#ifndef MLC_SHIM_API_H
#define MLC_SHIM_API_H

#include <stddef.h>
#include <stdint.h>

#include "cuda_runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 0, or -1 if there is no such order. */
int mlc_shim_options(const char *order, uint64_t seed);
/* 1: reports go to stderr as they come (at first), 0: they are kept only. */
void mlc_shim_print(int print);
int mlc_shim_checked(void);
size_t mlc_shim_report_count(void);
/* One line, valid until cleared; NULL past the end. */
const char *mlc_shim_report_text(size_t index);
void mlc_shim_reports_clear(void);
/* Tensors of a plan inside one allocation, in the order of the stream (captured as any other work). Checked builds take what lies in no
 * open region of a closed stretch as out of bounds, and what was in a region before it opened as never written. So: close the allocation,
 * open each tensor where it begins to live, close it where it ends. 0, or an error of the runtime API. */
int mlc_shim_region_open(void *p, size_t bytes, const char *name, cudaStream_t stream);
int mlc_shim_region_close(void *p, size_t bytes, cudaStream_t stream);

/* Where the shim takes element (i, k) of the matrix of a descriptor from, as an address in shared memory; kind: 0 wgmma, 1 tcgen05. For
 * tests of layouts against documents. */
uint32_t mlc_shim_matrix_place(uint64_t descriptor, int trans, int kind, int i, int k);

/* Fiber switches since the process began. */
uint64_t mlc_shim_switches(void);

#ifdef __cplusplus
}
#endif

#endif
