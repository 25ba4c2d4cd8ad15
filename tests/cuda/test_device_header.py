"""mlc_cuda.h under nvcc: every wrapper compiles to the instruction it stands for, on both architectures, without spills or stack."""

from __future__ import annotations

import functools
import os
import re
import subprocess

import pytest
from shim_library import INCLUDES, KERNELS, lack, scratch

from mlc.diagnostics import MlcError
from mlc.nvcc import find_nvcc, find_tool

ARCHITECTURES = ("90a", "103a")
SOURCES = ["primitives.cu", "layer_norm.cu", "matmul.cu", "tensor.cu", "contract.cu"]
#: kernel: instructions of its machine code, by the beginning of their names
EXPECTED = {
    "shuffles": ["SHFL.IDX", "SHFL.UP", "SHFL.DOWN", "SHFL.BFLY"],
    "votes": ["VOTE"],
    "gathers": ["BAR.RED.OR", "BAR.RED.AND", "BAR.RED.POPC"],
    "named_barriers": ["BAR.SYNC", "BAR.ARV"],
    "async_copies": ["LDGSTS.E.ZFILL", "LDGSTS.E.64", "LDGSTS.E.BYPASS.128", "LDGDEPBAR", "DEPBAR.LE SB0, 0x2", "LDS.128", "STG.E.128"],
    "load_matrices": ["LDSM.16.M88 ", "LDSM.16.M88.2", "LDSM.16.M88.4", "LDSM.16.MT88 ", "LDSM.16.MT88.2", "LDSM.16.MT88.4"],
    "powers": ["MUFU.EX2"],
    "multiply_bf16": ["HMMA.16816.F32.BF16"],
    "multiply_tf32": ["HMMA.1688.F32.TF32"],
    "vectors": ["LDG.E.EF.128", "STG.E.EF.128", "LDG.E.128", "STG.E.128", "STS.128", "LDS.128"],
    "layer_norm_768": ["SHFL.BFLY", "BAR.SYNC"],
    "matmul_tn": ["HMMA.16816.F32.BF16", "LDGSTS.E.BYPASS.128", "LDSM.16.M88.4", "LDSM.16.M88.2"],
}
#: of one architecture
EXPECTED_ON = {
    "90a": {
        "wgmma": ["HGMMA.64x64x16.F32.BF16", "HGMMA.64x256x16.F32.BF16", "WARPGROUP.ARRIVE", "WARPGROUP.DEPBAR", "FENCE.VIEW.ASYNC"],
        "registers": ["USETMAXREG"],
        "tensor": [
            *(f"HGMMA.64x{n}x16.F32.BF16" for n in (128, 192, 256)),
            "UTMALDG.3D",
            "WARPGROUP.DEPBAR.LE gsb0, 0x1",
        ],
        "wgmma_tensor": ["HGMMA.64x128x16.F32.BF16", "UTMALDG.3D", "UTMASTG.3D", "UTMACMDFLUSH", "SYNCS.PHASECHK", "SYNCS.ARRIVE"],
    },
    "103a": {
        "tensor_memory": ["UTCHMMA", "LDTM.x32", "UTCBAR", "UTCATOMSWS", "SYNCS.PHASECHK"],
        "tmem": ["UTCHMMA", "LDTM.x32", "UTCBAR", "UTMALDG.3D", "STS.128", "STG.E.128"],
    },
}


@functools.cache
def compiled(source: str, architecture: str) -> tuple[str, dict[str, str]]:
    """What ptxas said, and the machine code of each kernel."""
    try:
        nvcc = find_nvcc()
    except MlcError as problem:
        lack(problem.diagnostics[0].message)
    disassembler = find_tool(nvcc, "cuobjdump")
    if disassembler is None:
        lack("no cuobjdump")
    cubin = str(scratch() / f"{source}.{architecture}.cubin")
    command = [nvcc.compiler, "-std=c++17", "-O3", "-fmad=false", "-Werror", "all-warnings", "-Xptxas", "-v,-warn-spills"]
    command += [
        *INCLUDES[:2],
        "-gencode",
        f"arch=compute_{architecture},code=sm_{architecture}",
        "-cubin",
        "-o",
        cubin,
        str(KERNELS / source),
    ]
    path = os.pathsep.join([f"{nvcc.home}/bin", os.environ["PATH"]])
    said = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PATH": path}, check=False)
    assert said.returncode == 0, said.stderr
    assert "Potential Performance Loss" not in said.stderr, said.stderr
    listing = subprocess.run([disassembler, "-sass", cubin], capture_output=True, text=True, env=os.environ | {"PATH": path}, check=True)
    parts = re.split(r"Function : (\S+)", listing.stdout)
    kernels: dict[str, str] = {}
    for name, code in zip(parts[1::2], parts[2::2]):
        template = re.match(r"_Z\d+([a-z_]+)I", name)
        name = template[1] if template else name
        kernels[name] = kernels.get(name, "") + code
    return said.stderr, kernels


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", SOURCES)
def test_wrappers_become_their_instructions(source: str, architecture: str) -> None:
    said, kernels = compiled(source, architecture)
    assert re.findall(r"(\d+) bytes stack frame", said)
    assert set(re.findall(r"(\d+) bytes (?:stack frame|spill stores|spill loads)", said)) == {"0"}
    expected = EXPECTED | EXPECTED_ON[architecture]
    for name in expected.keys() & kernels.keys():
        missing = [instruction for instruction in expected[name] if f" {instruction}" not in kernels[name]]
        assert not missing, (name, missing, sorted(set(re.findall(r"\*/\s+(?:@!?\w+ )?([A-Z]\S+)", kernels[name]))))


@pytest.mark.parametrize(("architecture", "kernel", "issued"), [("90a", "tensor", "UTMALDG"), ("103a", "tmem", "UTCHMMA")])
def test_one_thread_issues_without_a_loop(architecture: str, kernel: str, issued: str) -> None:
    """Where ptxas does not know that one lane is there it loops over lanes around each instruction, as long as a product takes."""
    code = compiled("contract.cu", architecture)[1][kernel]
    assert f" {issued}" in code and "BRA.U.ANY" not in code


def test_every_expectation_is_met_somewhere() -> None:
    for architecture in ARCHITECTURES:
        found = {name for source in SOURCES for name in compiled(source, architecture)[1]}
        assert set(EXPECTED | EXPECTED_ON[architecture]) <= found
