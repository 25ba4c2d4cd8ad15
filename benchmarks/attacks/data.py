"""Files that are not what they are taken for, and values that no model can read."""

from __future__ import annotations

import gzip
import random
import struct
from pathlib import Path

from attacks.field import Case, Ended, Field, check, check_ended


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


CASES = (
    Case("other-width", "headerless uint32, int64 and overflowed uint16 as 16-bit tokens", "refused by name with the way out", other_width),
    Case("megatron", "a Megatron data set, its .idx given itself, damaged", "read as its index says, or refused by name", megatron),
    Case("no-text", "UTF-16, an archive, text named .bin as tokens", "refused by name; u8: takes their bytes", no_text),
    Case("shards", "shard_2 and shard_10", "in natural order", shards),
)
