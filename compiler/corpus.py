"""Text to token files: llm.c shards of bytes or of a corpus's own characters, with the vocabulary beside them.

A shard: 256 little-endian int32, of which [0] = 20240520, [1] = 1, [2] = number of tokens; then uint16 tokens.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from mlc.build import check_sources, write_file
from mlc.diagnostics import NO_SPAN, Diagnostic, MlcError
from mlc.frozen import frozen
from mlc.resources import read_bytes

_MAGIC = 20240520
_VERSION = 1
_HEADER_INTS = 256

#: The text and its tokens are in memory as a whole.
MOST_TEXT_BYTES = 1 << 34

LEVELS = ("bytes", "characters")


@frozen
class TokenFiles:
    """What was written; `validation` is None when nothing was set apart."""

    train: Path
    validation: Path | None
    vocabulary: Path | None
    train_tokens: int
    validation_tokens: int
    vocabulary_size: int


def tokenize(sources: tuple[Path, ...], folder: Path, level: str, validation: float) -> TokenFiles:
    """Write folder/train.bin, and folder/validation.bin with the last `validation` part of the text.

    level:  "bytes", or "characters": token i is the i-th of the corpus's characters in code point order, as vocabulary.json lists them
    raises: E0804 a file cannot be written, E0806 a source cannot be read, E0810 the text is empty or has too many characters
    """
    data = b"".join(_read(path) for path in sources)
    if not data:
        raise _error("E0810", "nothing to tokenize: the text is empty")
    tokens, vocabulary = (np.frombuffer(data, np.uint8), None) if level == "bytes" else _characters(data)
    cut = len(tokens) - int(len(tokens) * validation)
    train, held_out, listing = folder / "train.bin", folder / "validation.bin", folder / "vocabulary.json"
    _check_outputs((train, held_out, listing), sources)
    _write_shard(train, tokens[:cut])
    if cut < len(tokens):
        _write_shard(held_out, tokens[cut:])
    if vocabulary is not None:
        write_file(listing, f"{json.dumps(vocabulary, ensure_ascii=True)}\n".encode())
    return TokenFiles(
        train,
        held_out if cut < len(tokens) else None,
        listing if vocabulary is not None else None,
        cut,
        len(tokens) - cut,
        256 if vocabulary is None else len(vocabulary),
    )


def _characters(data: bytes) -> tuple[np.ndarray, list[str]]:
    try:
        points = np.frombuffer(data.decode("utf-8").encode("utf-32-le"), np.uint32)
    except UnicodeDecodeError as problem:
        raise _error("E0810", f"the text is not UTF-8: byte {problem.start}", "--level bytes takes any file") from problem
    known, tokens = np.unique(points, return_inverse=True)
    if len(known) > 1 << 16:
        raise _error("E0810", f"{len(known)} different characters do not fit 16-bit tokens", "--level bytes has 256")
    return tokens, [chr(point) for point in known]


def _check_outputs(paths: tuple[Path, ...], sources: tuple[Path, ...]) -> None:
    """Whether shards and vocabulary may be written: none is a source, or a file that was not made here. raises: E0804"""
    check_sources(paths, sources)
    for path in paths:
        made = _MAGIC.to_bytes(4, "little") if path.suffix == ".bin" else b"["
        if path.is_file() and path.stat().st_size and not _read(path).startswith(made):
            raise _error("E0804", f"cannot write {path}: a file that mlc did not make is there", "name another folder, or move it away")


def _write_shard(path: Path, tokens: np.ndarray) -> None:
    header = np.zeros(_HEADER_INTS, "<i4")
    header[:3] = _MAGIC, _VERSION, len(tokens)
    write_file(path, header.tobytes() + tokens.astype("<u2").tobytes())


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, MOST_TEXT_BYTES, pipes=True)
    except OSError as problem:
        raise _error("E0806", f"cannot read {path}: {problem.strerror or problem}") from problem


def _error(code: str, message: str, help: str | None = None) -> MlcError:
    return MlcError([Diagnostic(code, message, NO_SPAN, (), help)])
