"""The emitted directory of a program for GPUs: the runtime with runtime/cuda laid over it, and nvcc in the Makefile.

A file of runtime/cuda/src takes the place of the one of the same room and name; the kernels are those of runtime/cuda.
"""

from __future__ import annotations

from pathlib import Path

from mlc.build import Toolchain
from mlc.diagnostics import MlcError
from mlc.emit.project import Device, SourceTree, runtime_files, with_makefile
from mlc.nvcc import USUAL, find_nvcc

_RULES = """\
# The kernels. SHIM=DIR (runtime/cuda/shim of mlc): they run on the CPU, one thread after the other, to be tested.
CUDA_HOME = {home}
CUDA_LIBRARIES = {libraries}
SHIM =
NVCC_EXTRA =
GENCODE = -gencode arch=compute_{architecture},code=sm_{architecture}
CUDA_INCLUDES = -Iruntime/include -Iruntime/src
HOST_FLAGS = -fPIC -Wall -Wextra
# -O is of the host; what a device runs is optimized whatever it says.
NVCC = $(CUDA_HOME)/bin/nvcc
NVCC_FLAGS = -std=c++17 -O1 -fmad=false -DMLC_SM={number} $(GENCODE)
KERNEL = $(NVCC) $(NVCC_FLAGS) -Xcompiler "$(HOST_FLAGS)" $(CUDA_INCLUDES) $(NVCC_EXTRA)
SHIM_FLAGS = -std=c++17 -O1 -ffp-contract=off -DMLC_SHIM -DMLC_SM={number} -I$(SHIM)
SHIM_KERNEL = $(CXX) $(SHIM_FLAGS) $(HOST_FLAGS) $(CUDA_INCLUDES) $(SHIM_EXTRA) -x c++
SHIM_OBJECTS = $(patsubst $(SHIM)/%.cpp,objects/shim/%.o,$(wildcard $(SHIM)/*.cpp))
RUN_TIME = $(if $(SHIM),,-L$(CUDA_LIBRARIES) -lcudart_static)
KERNELS = $(if $(SHIM),$(SHIM_KERNEL),$(KERNEL))

objects/%.o: %.cu Makefile settings
	@mkdir -p $(@D)
	$(KERNELS) -MMD -MF $@.d -c -o $@.part $<
	@mv -f $@.d $(@:.o=.d)
	@mv -f $@.part $@

objects/shim/%.o: $(SHIM)/%.cpp Makefile settings
	@mkdir -p $(@D)
	$(CXX) -std=c++17 -O2 -fPIC -DMLC_SM={number} -I$(SHIM) $(CUDA_INCLUDES) -c -o $@ $<

.DEFAULT_GOAL = all
libmlcrt.a: $(if $(SHIM),$(SHIM_OBJECTS))
"""


def add_cuda_project(
    name_of_target: str, model: SourceTree, name: str, runtime: Path, toolchain: Toolchain, target: tuple[str, ...]
) -> SourceTree:
    """As emit.project.add_project, for the architecture of a target; sources alone can be written where there is no toolkit."""
    try:
        found = find_nvcc()
        home, libraries = found.home, found.libraries
    except MlcError:
        home, libraries = USUAL, f"{USUAL}/lib64"
    files = {
        **runtime_files(runtime, ("include", "src", "transports")),
        **runtime_files(runtime / "cuda", ("include", "kernels", "src")),
    }
    number = name_of_target.removeprefix("sm_")
    rules = _RULES.format(home=home, libraries=libraries, architecture=f"{number}a", number=number)
    device = Device(rules, "$(KERNELS)", "$(RUN_TIME) -lstdc++ -lpthread -lrt", ".cu")
    return with_makefile(model, files, name, toolchain, target, device)
