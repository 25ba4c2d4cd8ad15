/* module.c: opens the transport `mpi`, a shared object beside the program. */
#include "transports.h"

#include "mlc.h"

#include <dlfcn.h>
#include <limits.h>
#include <string.h>
#include <unistd.h>

static const char *const file_name = "libmlc_mpi.so";

/* The path of a file beside the program. Returns a status. */
static int path_beside(char path[PATH_MAX], const char *name, mlc_error *error)
{
    ssize_t length = readlink("/proc/self/exe", path, PATH_MAX - 1);
    if (length < 0)
        return mlc_error_system(error, MLC_FAILED, "transport mpi: cannot find the program's directory");
    path[length] = 0;
    char *end = strrchr(path, '/') + 1;
    if ((size_t)(end - path) + strlen(name) >= PATH_MAX)
        return mlc_error_set(error, MLC_FAILED, "transport mpi: the program's path is too long");
    strcpy(end, name);
    return MLC_OK;
}

int mlc_mpi_load(const mlc_mpi **mpi, mlc_error *error)
{
    char path[PATH_MAX];
    *mpi = NULL;
    if (path_beside(path, file_name, error))
        return error->status;
    if (access(path, R_OK))
        return mlc_error_system(error, MLC_FAILED, "transport mpi: %s (make builds it where it finds mpicc)", path);
    void *module = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!module)
        return mlc_error_set(error, MLC_FAILED, "transport mpi: %s", dlerror());
    const mlc_mpi *table = dlsym(module, "mlc_mpi_table");
    if (!table || table->abi_version != MLC_ABI_VERSION || table->world_bytes != sizeof(mlc_world))
        return mlc_error_set(error, MLC_FAILED, "transport mpi: %s was built for another version of the runtime", path);
    *mpi = table;
    return MLC_OK;
}
