/* cuda_runtime.h of the execution shim. */
#include "cuda_runtime_api.h"
