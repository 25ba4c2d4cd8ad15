"""Tokens a second of gpt2 with batch 1 that are generated, beside a PyTorch loop with cached keys and values, in turn.

    python benchmarks/generation.py [--tokens 200] [--rounds 3] [--threads 2] [--python /path/to/python] [--json]

Both start with random weights of the same sizes and read a prompt of 8 tokens; what a start costs is taken off by a run with one
token, and swings by a second: so many tokens.
`--python`: one that has torch; without torch there, only ours is measured. Printed are medians of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlc.driver import Options, compile_file

ROOT = Path(__file__).resolve().parent.parent
PROMPT = "1 2 3 4 5 6 7 8"

#: What the other interpreter runs: the forward pass of gpt2 for one token, on caches that are filled in place.
PEER = """
import sys, time
import torch
import torch.nn.functional as F
dtype, threads, tokens = getattr(torch, sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
torch.manual_seed(0)
L, H, C, T, V = 12, 12, 768, 1024, 50257
make = lambda *s: (torch.randn(*s) * 0.02).to(dtype)
wte, wpe = make(V, C), make(T, C)
layers = [dict(a=make(3 * C, C), ab=make(3 * C), p=make(C, C), pb=make(C), f=make(4 * C, C), fb=make(4 * C), o=make(C, 4 * C), ob=make(C),
               g=torch.ones(C, dtype=dtype), b=make(C)) for _ in range(L)]
keys, values = ([torch.zeros(1, H, T, C // H, dtype=dtype) for _ in range(L)] for _ in range(2))
@torch.inference_mode()
def logits(token, t):
    x = wte[token] + wpe[t]
    for n, l in enumerate(layers):
        q, k, v = F.linear(F.layer_norm(x, (C,), l["g"], l["b"]), l["a"], l["ab"]).view(3, H, C // H)
        keys[n][0, :, t], values[n][0, :, t] = k, v
        y = F.scaled_dot_product_attention(q.view(1, H, 1, -1), keys[n][:, :, : t + 1], values[n][:, :, : t + 1])
        x = x + F.linear(y.reshape(C), l["p"], l["pb"])
        x = x + F.linear(F.gelu(F.linear(F.layer_norm(x, (C,), l["g"], l["b"]), l["f"], l["fb"]), approximate="tanh"), l["o"], l["ob"])
    return F.linear(F.layer_norm(x, (C,), layers[0]["g"], layers[0]["b"]), wte)
token, start = 1, 0.0
for t in range(8 + tokens):
    if t == 8:
        start = time.perf_counter()
    token = int(torch.multinomial(torch.softmax(logits(token, t).float(), 0), 1))
print(tokens / (time.perf_counter() - start))
"""


def built(precision: str, folder: Path) -> Path:
    """gpt2 with weights of a precision, for one text. Copies in bf16 last in a program of several microbatches; else each token rounds."""
    text = (ROOT / "examples" / "gpt2.dsl").read_text(encoding="utf-8").replace("precision=f32", f"precision={precision}")
    path = folder / f"gpt2_{precision}.dsl"
    path.write_text(text, encoding="utf-8")
    return compile_file(path, folder / precision, {"batch": 1}, Options(microbatches=2)).program


def seconds(program: Path, tokens: int, threads: int) -> float:
    start = time.perf_counter()
    words = [str(program), "--sample", str(tokens), "--prompt", PROMPT, "--threads", str(threads)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def ours(program: Path, tokens: int, threads: int) -> float:
    """Tokens a second behind the first."""
    return tokens / (seconds(program, 1 + tokens, threads) - seconds(program, 1, threads))


def peer(python: Path, dtype: str, tokens: int, threads: int) -> float | None:
    words = [str(python), "-c", PEER, dtype, str(threads), str(tokens)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return float(done.stdout) if done.returncode == 0 else None


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, dict[str, float | None]]:
    """By precision: medians of ours and of the peer, and their ratio."""
    found: dict[str, dict[str, float | None]] = {}
    for precision, dtype in (("f32", "float32"), ("bf16", "bfloat16")):
        program = built(precision, folder)
        rounds = [
            (ours(program, arguments.tokens, arguments.threads), peer(arguments.python, dtype, arguments.tokens, arguments.threads))
            for _ in range(arguments.rounds)
        ]
        own, others = statistics.median(one for one, _ in rounds), [other for _, other in rounds if other is not None]
        other = statistics.median(others) if others else None
        found[precision] = {"mlc": own, "pytorch": other, "ratio": own / other if other else None}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", type=Path, default=Path(sys.executable))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(found))
        return 0
    for precision, row in found.items():
        beside = "no torch to compare with" if row["pytorch"] is None else f"PyTorch {row['pytorch']:.1f}, {row['ratio']:.2f} x"
        print(f"gpt2 {precision}, batch 1, {arguments.threads} threads: {row['mlc']:.1f} tokens/s; {beside}")
    if found["f32"]["pytorch"] and found["bf16"]["mlc"]:
        print(f"bf16 weights against PyTorch's f32: {found['bf16']['mlc'] / found['f32']['pytorch']:.2f} x")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
