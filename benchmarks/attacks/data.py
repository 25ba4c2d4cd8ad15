"""Files that are not what they are taken for, and values that no model can read."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

from attacks.field import FOUR, Case, Ended, Field, check, check_ended


def numbers(kind: str, count: int, limit: int) -> bytes:
    """`count` numbers below `limit`, as struct packs them."""
    draw = random.Random(7)
    return struct.pack(f"<{count}{kind}", *(draw.randrange(limit) for _ in range(count)))


def write(field: Field, name: str, content: bytes) -> Path:
    path = field.folder / name
    path.write_bytes(content)
    return path


def wide(field: Field) -> Path:
    """A GPT whose vocabulary does not fit 16 bits."""
    return field.gpt("wide", vocab=70000)


def steps(field: Field, program: Path, data: str) -> Ended:
    return field.run(program, "--data", data, "--steps", 2, "--threads", 1)


def other_width(field: Field) -> None:
    write(field, "wide.bin", numbers("I", 20000, 70000))
    write(field, "long.bin", numbers("q", 20000, 256))
    write(field, "narrow.bin", numbers("H", 20000, 65536))
    program = wide(field)
    check_ended(steps(field, program, "wide.bin"), 1, "halves of 32-bit numbers", "u32:wide.bin")
    check_ended(steps(field, program, "narrow.bin"), 1, "16 bits do not hold 70000", "u32:narrow.bin")
    check_ended(steps(field, field.one, "long.bin"), 1, "halves of 64-bit numbers", "i64:long.bin")
    for stated in ("tokens=u32:wide.bin", "u16:narrow.bin"):
        check_ended(steps(field, program, stated), 0)
    check_ended(steps(field, field.one, "i64:long.bin"), 0)


def megatron(field: Field) -> None:
    count = 20000
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 4, 2, 3)
    index = head + struct.pack("<2i2q3q", 5000, count - 5000, 0, 4 * 5000, 0, 1, 2)
    write(field, "corpus.bin", numbers("i", count, 256))
    write(field, "corpus.idx", index)
    same = [steps(field, field.one, data).out.splitlines()[0].split(",")[0] for data in ("corpus.bin", "corpus.idx", "corpus.*")]
    write(field, "plain.bin", numbers("i", count, 256))
    same.append(steps(field, field.one, "i32:plain.bin").out.splitlines()[0].split(",")[0])
    check(len(set(same)) == 1, f"read in several ways: {same}")
    write(field, "corpus.idx", index[:-1])
    check_ended(steps(field, field.one, "corpus.bin"), 1, "corpus.idx: truncated, damaged or of another kind")
    write(field, "corpus.idx", index.replace(struct.pack("<i", 5000), struct.pack("<i", 5001), 1))
    check_ended(steps(field, field.one, "corpus.bin"), 1, "corpus.idx: sequence 1")


def no_text(field: Field) -> None:
    text = field.text.read_bytes()
    write(field, "text16.txt", text.decode().encode("utf-16"))
    write(field, "text16.le", text.decode().encode("utf-16-le"))
    write(field, "text.gz", gzip.compress(text))
    write(field, "text.bin", text)
    check_ended(steps(field, field.one, "text16.txt"), 1, "UTF-16 text", "u8:text16.txt")
    check_ended(steps(field, field.one, "text16.le"), 1, "UTF-16 text")
    check_ended(steps(field, field.one, "text.gz"), 1, "gzip archive", "u8:text.gz")
    check_ended(steps(field, field.one, "text.bin"), 1, "this is text", "u8:text.bin")
    for data in ("u8:text.gz", "u8:text.bin"):
        check_ended(steps(field, field.one, data), 0)


def shards(field: Field) -> None:
    text = field.text.read_bytes()
    for name, part in (("s_2.txt", text[:5000]), ("s_10.txt", text[5000:20000])):
        write(field, name, part)
    for name, part in (("t_02.txt", text[:5000]), ("t_10.txt", text[5000:20000])):
        write(field, name, part)
    losses = [field.run(field.one, "--data", p, "--steps", 3, "--threads", 1, "--hash").digest for p in ("s_*.txt", "t_*.txt")]
    check(losses[0] == losses[1], "s_10 comes before s_2")


INDICES = """from mlc.optim import sgd

batch: dim = 4


@model
def indices(t: i32[batch, 3], y: real[batch]):
    w = param("w", [5], init=ones())
    v = param("v", [9], init=ones())
    safe = select(t[:, 1] != -100, t[:, 1], 0)
    e = gather(w, t[:, 0] + 3) + gather(v, safe) + select(t[:, 2] > 2, 0.0, gather(w, t[:, 2] * 2))
    return mean((e - y) * (e - y))


@train(microbatches=8)
def recipe():
    return sgd(rate=0.1)
"""


def npy(kind: str, shape: tuple[int, ...], content: bytes) -> bytes:
    """A NumPy file."""
    header = str({"descr": kind, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def index_rows(field: Field, **wrong: int) -> None:
    """t.npy and y.npy of 64 records; `wrong`: value of a column (a, b, c) of record 37."""
    draw = random.Random(5)
    rows = [[draw.randrange(-3, 2), draw.choice((-100, 0, 8)), draw.randrange(3)] for _ in range(64)]
    for column, value in wrong.items():
        rows[37]["abc".index(column)] = value
    write(field, "t.npy", npy("<i4", (64, 3), struct.pack("<192i", *(value for row in rows for value in row))))
    write(field, "y.npy", npy("<f4", (64,), struct.pack("<64f", *(draw.random() for _ in rows))))


def index_model(field: Field, name: str, *options: object) -> Path:
    return field.programs.build(f"indices-{name}", write(field, "indices.dsl", INDICES.encode()), *options)


def step_indices(field: Field, program: Path, *options: object) -> Ended:
    return field.run(program, "--data", "t=t.npy", "--data", "y=y.npy", "--steps", 6, "--threads", 1, *options)


def columns(field: Field) -> None:
    program = index_model(field, "one")
    index_rows(field)
    check_ended(step_indices(field, program), 0)
    for column, value, range_ in (("a", 2, "-3 to 1"), ("b", 9, "0 to 8, nor -100"), ("b", -101, "0 to 8, nor -100")):
        index_rows(field, **{column: value})
        check_ended(step_indices(field, program), 1, f"t.npy: input t, record 37: value {value}", f"is not in {range_}")


def computed(field: Field) -> None:
    index_rows(field, c=3)
    said = "record 37: indices.dsl:11:77: gather (index from input t): 6 is not in 0 to 4"
    check_ended(step_indices(field, index_model(field, "one")), 1, said)
    for transport in ("local", "threads"):
        check_ended(step_indices(field, index_model(field, "four", *FOUR), "--transport", transport), 1, said)


def not_a_number(field: Field) -> None:
    index_rows(field)
    numbers_ = [0.5] * 64
    numbers_[21] = float("nan")
    write(field, "y.npy", npy("<f4", (64,), struct.pack("<64f", *numbers_)))
    for name, options in (("one", ()), ("four", FOUR)):
        check_ended(step_indices(field, index_model(field, name, *options)), 5, "the loss is not finite; input y is nan in record 21")


CASES = (
    Case("other-width", "headerless uint32, int64 and overflowed uint16 as 16-bit tokens", "refused by name with the way out", other_width),
    Case("megatron", "a Megatron data set, its .idx given itself, damaged", "read as its index says, or refused by name", megatron),
    Case("no-text", "UTF-16, an archive, text named .bin as tokens", "refused by name; u8: takes their bytes", no_text),
    Case("shards", "shard_2 and shard_10", "in natural order", shards),
    Case("columns", "masked labels, columns of several ranges, an offset", "each has its own range, named with record", columns),
    Case("computed", "a computed index out of range that a mask hides", "exit code 1 with op, line, input and record", computed),
    Case("nan", "NaN in an array", "exit code 5 with input and record", not_a_number),
)
