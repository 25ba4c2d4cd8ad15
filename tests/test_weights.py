"""Weights that others wrote, loaded by real programs: names, shapes, dtypes, config.json beside them, and files that are none."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from mlc.driver import Build

SIZES = {"depth": 1, "width": 16, "heads": 2, "kv_heads": 1, "hidden": 24, "vocab": 50, "context": 8, "batch": 2, "stretch": 1}

CONFIG = {
    "model_type": "llama",
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 24,
    "vocab_size": 50,
    "max_position_embeddings": 8,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}

BLOCK = {
    "input_layernorm.weight": (16,),
    "self_attn.q_proj.weight": (16, 16),
    "self_attn.k_proj.weight": (8, 16),
    "self_attn.v_proj.weight": (8, 16),
    "self_attn.o_proj.weight": (16, 16),
    "post_attention_layernorm.weight": (16,),
    "mlp.gate_proj.weight": (24, 16),
    "mlp.up_proj.weight": (24, 16),
    "mlp.down_proj.weight": (16, 24),
}
SHAPES = {
    "model.embed_tokens.weight": (50, 16),
    **{f"model.layers.0.{name}": shape for name, shape in BLOCK.items()},
    "model.norm.weight": (16,),
    "lm_head.weight": (50, 16),
}

DTYPES = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "U8": np.uint8, "BF16": None}


def to_bytes(array: np.ndarray, dtype: str) -> bytes:
    if dtype == "BF16":
        return (np.ascontiguousarray(array, np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return np.ascontiguousarray(array, DTYPES[dtype]).tobytes()


def safetensors(tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> bytes:
    header, data = {}, b""
    for name, array in tensors.items():
        stored = to_bytes(array, dtype)
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def drawn(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    return {name: (rng.integers(-64, 64, shape) / 64).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def llama(compiled) -> Build:
    return compiled("llama3", **SIZES)


@pytest.fixture(scope="module")
def tied(compiled) -> Build:
    return compiled("llama3", **SIZES, tied=True)


@pytest.fixture
def hub(tmp_path: Path) -> Path:
    """A directory as a hub has it, whole and right."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(drawn()))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def write(folder: Path, tensors: Mapping[str, np.ndarray]) -> None:
    (folder / "model.safetensors").write_bytes(safetensors(tensors))


def digest(done) -> str:
    return done.stdout.split("digest: ")[1]


def test_dtypes_and_wrappers_make_no_difference(llama: Build, hub: Path, run) -> None:
    """Values that every dtype holds, names that only differ in the marks of wrappers: the same parameters."""
    whole = run(llama, "--weights", hub, "--hash")
    assert whole.stderr == ""
    for dtype in ("F64", "F16", "BF16"):
        (hub / "model.safetensors").write_bytes(safetensors(drawn(), dtype))
        assert digest(run(llama, "--weights", hub, "--hash")) == digest(whole)
    for wrap in ("_orig_mod.{}", "module.{}", "module._orig_mod.{}"):
        write(hub, {wrap.format(name): array for name, array in drawn().items()})
        assert digest(run(llama, "--weights", hub / "model.safetensors", "--hash")) == digest(whole)
    write(hub, {name.replace("layers.0.", "layers.0._orig_mod."): array for name, array in drawn().items()})
    assert digest(run(llama, "--weights", hub, "--hash")) == digest(whole)
    write(hub, {name.removeprefix("model."): array for name, array in drawn().items()})
    assert digest(run(llama, "--weights", hub, "--hash")) == digest(whole)


def test_one_tensor_for_two_parameters(compiled, tmp_path: Path, run) -> None:
    """Names that differ only by a wrapper's mark: the file must have both."""
    model = tmp_path / "line.dsl"
    model.write_text(LINE)
    build: Build = compiled(model)
    for name, tensors in {"one": {"w": np.ones(1)}, "both": {"w": np.ones(1), "model.w": np.zeros(1)}}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name, tensors)
    assert "tensor w would be parameter " in run(build, "--weights", tmp_path / "one", "--hash", code=1).stderr
    run(build, "--weights", tmp_path / "both", "--hash")


LINE = """
from mlc.optim import sgd

batch: dim = 4


@model
def line(x: real[batch], y: real[batch]):
    error = param("w", [1], init=zeros()) * x + param("model.w", [1], init=zeros()) - y
    return mean(error * error)


@train()
def recipe():
    return sgd(rate=0.1)
"""


def test_two_tensors_for_one_parameter(llama: Build, hub: Path, run) -> None:
    """With and without a mark: which is meant is not guessed, unless one has the very name."""
    tensors = drawn()
    write(hub, {**tensors, "module.lm_head.weight": tensors["lm_head.weight"] + 1})
    done = run(llama, "--weights", hub, "--hash", code=1)
    assert "the model has no parameter for tensor module.lm_head.weight" in done.stderr
    head = tensors.pop("lm_head.weight")
    write(hub, {**tensors, "module.lm_head.weight": head, "_orig_mod.lm_head.weight": head + 1})
    assert "parameter lm_head.weight is missing" in run(llama, "--weights", hub, "--hash", code=1).stderr


@pytest.mark.parametrize(
    ("key", "value", "said", "allow"),
    [
        ("num_attention_heads", 4, "num_attention_heads is 4, the model's heads 2, compile with -D heads=4", "heads"),
        ("num_key_value_heads", 2, "num_key_value_heads is 2, the model's kv_heads 1", "kv_heads"),
        ("rope_theta", 10000.0, "rope_theta is 10000, the model's theta 500000, compile with -D theta=10000", "theta"),
        ("rms_norm_eps", 1e-6, "rms_norm_eps is 1e-06, the model's rms_norm.eps 1e-05", "eps"),
        ("hidden_act", "gelu", "hidden_act is gelu, the model calls silu", "activation"),
        ("tie_word_embeddings", True, "tie_word_embeddings is true, the model's tied false, compile with -D tied=True", "tied"),
        ("max_position_embeddings", 4, "max_position_embeddings is 4, the model's context 8", "context"),
        ("num_hidden_layers", 2, "num_hidden_layers is 2, the model's depth 1", "depth"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor is 0.5, of which the model states nothing", "partial_rotary_factor"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "rope_scaling has factor 8, the model's stretch 1", "rope_scaling"),
        ("sliding_window", 4, "sliding_window is 4, of which the model states nothing", "sliding_window"),
    ],
)
def test_config_that_is_of_another_model(llama: Build, hub: Path, run, key: str, value: object, said: str, allow: str) -> None:
    (hub / "config.json").write_text(json.dumps({**CONFIG, key: value}))
    error = run(llama, "--weights", hub, "--hash", code=1).stderr
    assert said in error and f"(--allow {allow})" in error and len(error.splitlines()) == 1
    for pattern in (allow, allow[:-1] + "*", "config.json"):
        run(llama, "--weights", hub, "--hash", "--allow", pattern)
    assert said in run(llama, "--weights", hub / "model.safetensors", "--hash", code=1).stderr


def test_config_says_more_than_one_thing(llama: Build, hub: Path, run) -> None:
    (hub / "config.json").write_text(json.dumps({**CONFIG, "num_attention_heads": 4, "rope_theta": 1e4, "max_position_embeddings": 4096}))
    error = run(llama, "--weights", hub, "--hash", code=1).stderr
    assert "num_attention_heads is 4" in error and "rope_theta is 10000" in error and "max_position" not in error
    run(llama, "--weights", hub, "--hash", "--allow", "heads", "--allow", "theta")


def test_config_elsewhere_and_odd_ones(llama: Build, hub: Path, run) -> None:
    nested = {"text_config": {**CONFIG, "rope_theta": None, "rope_parameters": {"rope_theta": 10000.0}}}
    (hub / "config.json").write_text(json.dumps(nested))
    assert "rope_theta is 10000" in run(llama, "--weights", hub, "--hash", code=1).stderr
    for text in ("{}", "[1, 2]", '"text"', json.dumps(dict.fromkeys(CONFIG)), json.dumps(dict.fromkeys(CONFIG, "x"))):
        (hub / "config.json").write_text(text)
        run(llama, "--weights", hub, "--hash")
    (hub / "config.json").write_text('{"num_attention_heads": 1e999}')
    assert "num_attention_heads is" in run(llama, "--weights", hub, "--hash", code=1).stderr
    for text in ("", "{", '{"rope_theta": NaN}', "[" * 100000):
        (hub / "config.json").write_text(text)
        assert "cannot be compared with the model: it is no JSON" in run(llama, "--weights", hub, "--hash", code=1).stderr
        run(llama, "--weights", hub, "--hash", "--allow", "config.json")


def test_what_is_not_compared_is_said(compiled, hub: Path, run) -> None:
    """A model that states no theta: a note, since no shape shows it."""
    gpt = compiled("gpt2", vocab=50, context=8, width=16, heads=2, depth=1, batch=2)
    config = {"n_head": 2, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "rope_theta": 10000.0}
    shapes = {
        "wte.weight": (50, 16), "wpe.weight": (8, 16),
        "h.0.ln_1.weight": (16,), "h.0.ln_1.bias": (16,), "h.0.ln_2.weight": (16,), "h.0.ln_2.bias": (16,),
        "h.0.attn.c_attn.weight": (16, 48), "h.0.attn.c_attn.bias": (48,),
        "h.0.attn.c_proj.weight": (16, 16), "h.0.attn.c_proj.bias": (16,),
        "h.0.mlp.c_fc.weight": (16, 64), "h.0.mlp.c_fc.bias": (64,), "h.0.mlp.c_proj.weight": (64, 16), "h.0.mlp.c_proj.bias": (16,),
        "ln_f.weight": (16,), "ln_f.bias": (16,),
    }  # fmt: skip
    write(hub, drawn(shapes))
    (hub / "config.json").write_text(json.dumps(config))
    done = run(gpt, "--weights", hub, "--hash")
    assert done.stderr == f"note: {hub}/config.json: not compared, for the model states no such thing: rope_theta\n"
    (hub / "config.json").write_text(json.dumps({**config, "activation_function": "gelu"}))
    error = run(gpt, "--weights", hub, "--hash", code=1).stderr
    assert "activation_function is gelu, the model calls gelu with exact=False" in error
    (hub / "config.json").write_text(json.dumps(config))
    write(hub, {**drawn(shapes), "h.0.attn.c_attn.weight": drawn(shapes)["h.0.attn.c_attn.weight"].T})
    error = run(gpt, "--weights", hub, "--hash", code=1).stderr
    assert "has shape [48, 16], parameter h.0.attn.c_attn.weight has [16, 48]; it is stored transposed" in error


def test_heads_that_are_and_are_not_tied(llama: Build, tied: Build, hub: Path, run) -> None:
    (hub / "config.json").unlink()
    error = run(tied, "--weights", hub, "--hash", code=1).stderr
    assert "no parameter for tensor lm_head.weight; the head of this file is no copy of its embedding: compile with -D tied=False" in error
    tensors = drawn()
    write(hub, {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]})
    run(tied, "--weights", hub, "--hash")
    del tensors["lm_head.weight"]
    write(hub, tensors)
    run(tied, "--weights", hub, "--hash")
    error = run(llama, "--weights", hub, "--hash", code=1).stderr
    assert "parameter lm_head.weight is missing; the head of this file is its embedding: compile with -D tied=True" in error


def test_near_names_are_suggested(llama: Build, hub: Path, run) -> None:
    write(hub, {name.replace("self_attn", "attn"): array for name, array in drawn().items()})
    error = run(llama, "--weights", hub, "--hash", code=1).stderr
    assert "model.layers.0.self_attn.q_proj.weight is missing; the nearest name in the file is model.layers.0.attn.q_proj.weight" in error


def test_padded_tables(llama: Build, hub: Path, run) -> None:
    """A table with more rows than the model's is cut, one with fewer filled up, by --fit alone."""
    tensors, grown = drawn(), drawn({**SHAPES, "model.embed_tokens.weight": (64, 16), "lm_head.weight": (64, 16)})
    both = {**tensors, **{name: grown[name] for name in ("model.embed_tokens.weight", "lm_head.weight")}}
    write(hub, both)
    error = run(llama, "--weights", hub, "--hash", code=1).stderr
    assert "has shape [64, 16], parameter model.embed_tokens.weight has [50, 16]" in error
    assert "; --fit model.embed_tokens.weight takes the first 50 of dim 0" in error
    done = run(llama, "--weights", hub, "--hash", "--fit", "*embed_tokens*", "--fit", "lm_head.weight")
    assert "note: lm_head.weight: 50 of 64 along dim 0 are taken, the rest of the file's is cut" in done.stderr
    write(hub, {name: array[:50] if len(array) == 64 else array for name, array in both.items()})
    assert digest(run(llama, "--weights", hub, "--hash")) == digest(done)
    write(hub, {**tensors, "lm_head.weight": tensors["lm_head.weight"][:40]})
    done = run(llama, "--weights", hub, "--hash", "--fit", "lm_head.weight")
    assert "note: lm_head.weight: 40 of 50 along dim 0 come from the file, the others keep their initial values" in done.stderr
    write(hub, {**tensors, "lm_head.weight": tensors["lm_head.weight"][:40, :8]})
    assert "has shape [40, 8]" in run(llama, "--weights", hub, "--hash", "--fit", "*", code=1).stderr


def test_python_takes_the_same_terms(llama: Build, hub: Path) -> None:
    tensors = drawn()
    write(hub, {**tensors, "lm_head.weight": tensors["lm_head.weight"][:40]})
    with llama.open() as model:
        with pytest.raises(Exception, match=r"--fit lm_head\.weight"):
            model.load_weights(hub)
        before = model.parameters["lm_head.weight"][40:].copy()
        model.load_weights(hub, fit=["lm_head.*"], allow=["theta"])
        assert np.array_equal(model.parameters["lm_head.weight"], np.concatenate([tensors["lm_head.weight"][:40], before]))
        assert np.array_equal(model.parameters["model.norm.weight"], tensors["model.norm.weight"])


def test_values_that_are_not_finite(llama: Build, hub: Path, run) -> None:
    for dtype, value, said in (("F32", np.nan, "not finite"), ("F16", np.inf, "not finite"), ("F64", 1e300, "does not fit f32")):
        tensors = {name: array.astype(np.float64) for name, array in drawn().items()}
        tensors["model.norm.weight"][3] = value
        (hub / "model.safetensors").write_bytes(safetensors(tensors, dtype))
        error = run(llama, "--weights", hub, "--hash", code=1).stderr
        assert "tensor model.norm.weight: element 3 is" in error and said in error
        run(llama, "--weights", hub, "--hash", "--allow", "model.norm.*")


def archive(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr(name, b"x" * 100)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (archive("archive/data.pkl"), "is a PyTorch pickle, which can run any code"),
        (pickle.dumps({"a": list(range(100))}, protocol=2), "is a PyTorch pickle"),
        (pickle.dumps({"a": list(range(100))}, protocol=5), "is a PyTorch pickle"),
        (archive("wte.weight.npy"), "is an archive of NumPy arrays"),
        (b"GGUF" + bytes([3, 0, 0, 0]) + b"x" * 100, "is a GGUF file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
        (b"\x93NUMPY\x01\x00" + bytes(100), "is one NumPy array"),
        (b"\x1f\x8b\x08\x00" + b"x" * 100, "is compressed"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page"),
        (b'{"metadata": {}, "weight_map": {}}', "is JSON text"),
        (b"archive/data.pkl" + bytes(257 - 16) + b"ustar" + bytes(300), "is a tar archive"),
        (b"short", "no safetensors file"),
    ],
)
def test_files_that_are_something_else(llama: Build, tmp_path: Path, run, content: bytes, said: str) -> None:
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(content)
    error = run(llama, "--weights", path, "--hash", code=1).stderr
    assert len(error.splitlines()) == 1 and said in error
    folder = tmp_path / "folder"
    folder.mkdir()
    path.rename(folder / "pytorch_model.bin")
    error = run(llama, "--weights", folder, "--hash", code=1).stderr
    assert "holds no model.safetensors and no model.safetensors.index.json; pytorch_model.bin is a PyTorch pickle" in error


def shards(hub: Path, parts: Mapping[str, Mapping[str, np.ndarray]], index: Mapping[str, str]) -> None:
    (hub / "model.safetensors").unlink(missing_ok=True)
    for name, tensors in parts.items():
        (hub / name).write_bytes(safetensors(tensors))
    (hub / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def test_shards(llama: Build, hub: Path, run) -> None:
    whole = digest(run(llama, "--weights", hub, "--hash"))
    names, tensors = list(SHAPES), drawn()
    a, b = ({name: tensors[name] for name in part} for part in (names[:5], names[5:]))
    index = {name: "a.safetensors" if name in a else "b.safetensors" for name in names}
    shards(hub, {"a.safetensors": a, "b.safetensors": b}, index)
    assert digest(run(llama, "--weights", hub, "--hash")) == whole
    assert digest(run(llama, "--weights", hub / "model.safetensors.index.json", "--hash")) == whole
    shards(hub, {"a.safetensors": {**a, names[-1]: tensors[names[-1]]}, "b.safetensors": b}, index)
    assert f"tensor {names[-1]} is in two files" in run(llama, "--weights", hub, "--hash", code=1).stderr
    shards(hub, {"a.safetensors": a, "b.safetensors": b}, {**index, names[0]: "b.safetensors"})
    assert f"tensor {names[0]} is not in b.safetensors" in run(llama, "--weights", hub, "--hash", code=1).stderr
    shards(hub, {"a.safetensors": a, "b.safetensors": b}, {**index, "ghost": "a.safetensors"})
    assert "tensor ghost is not in a.safetensors" in run(llama, "--weights", hub, "--hash", code=1).stderr
    shards(hub, {"a.safetensors": a, "b.safetensors": b}, {**index, "ghost": "../hub/a.safetensors"})
    assert "tensor ghost has no file name" in run(llama, "--weights", hub, "--hash", code=1).stderr


def hostile(header: object, data: int = 64, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensor(begin: int, end: int, **more: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [(end - begin) // 4], "data_offsets": [begin, end], **more}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (hostile({"a": tensor(0, 32), "b": tensor(16, 64)}), "tensor b starts at byte 16 of the data, where 32 is free"),
        (hostile({"a": tensor(0, 32), "b": tensor(48, 64)}), "tensor b starts at byte 48 of the data, where 32 is free"),
        (hostile({"a": tensor(0, 32)}), "32 bytes behind the last tensor belong to none"),
        (hostile({"a": tensor(0, 128)}), "shape and offsets of tensor a do not fit the file"),
        (hostile({"a": tensor(0, 64, shape=[2**62, 2**62])}), "shape and offsets of tensor a do not fit the file"),
        (hostile({"a": tensor(0, 64, shape=[-16])}), "shape and offsets of tensor a do not fit the file"),
        (hostile({"a": tensor(0, 64, shape=[1] * 17)}), "shape and offsets of tensor a do not fit the file"),
        (hostile({"a": {"dtype": "F32"}}), "tensor a has not one dtype, shape and data_offsets"),
        (hostile({"a": [1, 2, 3]}), "tensor a has not one dtype, shape and data_offsets"),
        (hostile(b'{"a": {"dtype": "F32", "dtype": "F16", "shape": [16], "data_offsets": [0, 64]}}'), "tensor a has not one dtype"),
        (hostile(b'{"a": 1' + b" " * 100), "not JSON"),
        (hostile(b"[" * 100000), "not JSON"),
        (hostile(b"[" + b"0," * 5_000_000 + b"0]"), "JSON of more than 4194304 values"),
        (hostile({}, length=2**63), "truncated or no safetensors file"),
        (hostile({}, length=1000), "truncated or no safetensors file"),
        (hostile({"a\\u0000": tensor(0, 64)}), "no parameter"),
    ],
    ids=range(16),
)
def test_hostile_files(llama: Build, tmp_path: Path, run, content: bytes, said: str) -> None:
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(content)
    error = run(llama, "--weights", path, "--hash", "--allow", "model.*", "--allow", "lm_head.weight", code=1).stderr
    assert said in error and len(error.splitlines()) == 1
