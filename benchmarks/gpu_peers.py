"""Training-step time of PyTorch and JAX on a GPU, for the GPT-2 of examples/gpt2.dsl and the Llama of examples/llama3.dsl.

    python benchmarks/gpu_peers.py torch-compile gpt2 16,1024,768,12,12,50257 bf16
    python benchmarks/gpu_peers.py jax llama 1,2048,2048,16,32,128256 bf16 --hidden 8192 --kv-heads 8

Dims: batch, context, width, depth, heads, vocab. A step is forward, backward, clipping of the global gradient norm to 1, AdamW and the
loss on the host. bf16: f32 masters, bf16 products. The last line printed is JSON: step_ms (median), tokens_per_s, first_s, loss.
`--device cpu` tries the scripts where there is no GPU.
"""

# ruff: noqa: PLC0415  (a peer need not be there for the other)
from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Step = Callable[[], float]


@dataclass(frozen=True)
class Shape:
    """A model: `hidden` and `kv_heads` are of llama alone."""

    batch: int
    context: int
    width: int
    depth: int
    heads: int
    vocab: int
    hidden: int
    kv_heads: int


def torch_step(model_name: str, s: Shape, dtype: str, device: str, mode: str) -> Step:
    import torch
    from torch import nn
    from torch.nn import functional as F

    torch.manual_seed(0)
    head = s.width // s.heads
    rotary = torch.outer(torch.arange(s.context), 500000.0 ** (-torch.arange(0, head, 2) / head)).to(device)
    cos, sin = (torch.cat([f, f], -1) for f in (rotary.cos(), rotary.sin()))

    def turn(x: Any) -> Any:
        a, b = x.chunk(2, -1)
        return x * cos.to(x.dtype) + torch.cat([-b, a], -1) * sin.to(x.dtype)

    def attend(q: Any, k: Any, v: Any, grouped: bool) -> Any:
        q, k, v = (x.view(s.batch, s.context, -1, head).transpose(1, 2) for x in (q, k, v))
        if grouped:
            q, k = turn(q), turn(k)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return y.transpose(1, 2).reshape(s.batch, s.context, s.width)

    class Gpt2Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(s.width), nn.LayerNorm(s.width)
            self.qkv, self.proj = nn.Linear(s.width, 3 * s.width), nn.Linear(s.width, s.width)
            self.up, self.down = nn.Linear(s.width, 4 * s.width), nn.Linear(4 * s.width, s.width)

        def forward(self, x: Any) -> Any:
            x = x + self.proj(attend(*self.qkv(self.ln_1(x)).split(s.width, 2), False))
            return x + self.down(F.gelu(self.up(self.ln_2(x)), approximate="tanh"))

    class LlamaBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm_1, self.norm_2 = nn.RMSNorm(s.width, eps=1e-5), nn.RMSNorm(s.width, eps=1e-5)
            self.q, self.o = nn.Linear(s.width, s.width, bias=False), nn.Linear(s.width, s.width, bias=False)
            self.k, self.v = (nn.Linear(s.width, s.kv_heads * head, bias=False) for _ in range(2))
            self.gate, self.up = (nn.Linear(s.width, s.hidden, bias=False) for _ in range(2))
            self.down = nn.Linear(s.hidden, s.width, bias=False)

        def forward(self, x: Any) -> Any:
            h = self.norm_1(x)
            x = x + self.o(attend(self.q(h), self.k(h), self.v(h), True))
            h = self.norm_2(x)
            return x + self.down(F.silu(self.gate(h)) * self.up(h))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            gpt2 = model_name == "gpt2"
            self.wte, self.wpe = nn.Embedding(s.vocab, s.width), nn.Embedding(s.context, s.width) if gpt2 else None
            self.blocks = nn.ModuleList((Gpt2Block if gpt2 else LlamaBlock)() for _ in range(s.depth))
            self.norm = nn.LayerNorm(s.width) if gpt2 else nn.RMSNorm(s.width, eps=1e-5)
            self.head = nn.Linear(s.width, s.vocab, bias=False)
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.normal_(p, std=0.02)
            if gpt2:
                self.head.weight = self.wte.weight

        def forward(self, tokens: Any, targets: Any) -> Any:
            x = self.wte(tokens)
            if self.wpe is not None:
                x = x + self.wpe.weight
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(self.norm(x)).view(-1, s.vocab).float(), targets.view(-1))

    model = Model().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    tokens, targets = torch.randint(0, s.vocab, (2, s.batch, s.context), device=device)
    forward = model if mode == "eager" else torch.compile(model)

    def step() -> float:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bf16"):
            loss = forward(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    return step


def jax_step(model_name: str, s: Shape, dtype: str, device: str) -> Step:
    import jax
    import jax.numpy as jnp
    import optax

    compute, head, gpt2 = jnp.bfloat16 if dtype == "bf16" else jnp.float32, s.width // s.heads, model_name == "gpt2"
    attention = {"implementation": "cudnn"} if device == "cuda" and dtype == "bf16" else {}
    keys = iter(jax.random.split(jax.random.PRNGKey(0), 8 + 8 * s.depth))
    rotary = jnp.outer(jnp.arange(s.context), 500000.0 ** (-jnp.arange(0, head, 2) / head))
    cos, sin = (jnp.concatenate([f, f], -1)[:, None] for f in (jnp.cos(rotary), jnp.sin(rotary)))

    def normal(*shape: int) -> Any:
        return jax.random.normal(next(keys), shape) * 0.02

    def turn(x: Any) -> Any:
        a, b = jnp.split(x, 2, -1)
        return (x * cos + jnp.concatenate([-b, a], -1) * sin).astype(x.dtype)

    def attend(q: Any, k: Any, v: Any) -> Any:
        q, k, v = (x.reshape(s.batch, s.context, -1, head) for x in (q, k, v))
        if not gpt2:
            q, k = turn(q), turn(k)
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, **attention).reshape(s.batch, s.context, s.width)

    def norm(x: Any, p: Any) -> Any:
        x = x.astype(jnp.float32)
        if not gpt2:
            return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-5) * p[0]
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p[0] + p[1]

    def linear(x: Any, p: Any) -> Any:
        y = x.astype(compute) @ p[0].astype(compute)
        return y + p[1].astype(compute) if len(p) > 1 else y

    def gpt2_block(x: Any, p: Any) -> Any:
        x = x + linear(attend(*jnp.split(linear(norm(x, p["n1"]), p["qkv"]), 3, -1)), p["proj"])
        return x + linear(jax.nn.gelu(linear(norm(x, p["n2"]), p["up"]), approximate=True), p["down"])

    def llama_block(x: Any, p: Any) -> Any:
        h = norm(x, p["n1"])
        x = x + linear(attend(linear(h, p["q"]), linear(h, p["k"]), linear(h, p["v"])), p["proj"])
        h = norm(x, p["n2"])
        return x + linear(jax.nn.silu(linear(h, p["gate"])) * linear(h, p["up"]), p["down"])

    def layer() -> dict[str, Any]:
        norms = {"n1": [jnp.ones(s.width)] + [jnp.zeros(s.width)] * gpt2, "n2": [jnp.ones(s.width)] + [jnp.zeros(s.width)] * gpt2}
        if gpt2:
            sizes = {
                "qkv": (s.width, 3 * s.width),
                "proj": (s.width, s.width),
                "up": (s.width, 4 * s.width),
                "down": (4 * s.width, s.width),
            }
            return norms | {name: [normal(*size), jnp.zeros(size[1])] for name, size in sizes.items()}
        kv = s.kv_heads * head
        sizes = {"q": (s.width, s.width), "k": (s.width, kv), "v": (s.width, kv), "proj": (s.width, s.width)}
        sizes |= {"gate": (s.width, s.hidden), "up": (s.width, s.hidden), "down": (s.hidden, s.width)}
        return norms | {name: [normal(*size)] for name, size in sizes.items()}

    params = {"wte": normal(s.vocab, s.width), "norm": [jnp.ones(s.width)] + [jnp.zeros(s.width)] * gpt2}
    params |= {"wpe": normal(s.context, s.width)} if gpt2 else {"head": normal(s.vocab, s.width)}
    params["blocks"] = [layer() for _ in range(s.depth)]

    def loss_of(params: Any, tokens: Any, targets: Any) -> Any:
        x = params["wte"][tokens].astype(compute if not gpt2 else jnp.float32)
        if gpt2:
            x = x + params["wpe"]
        for p in params["blocks"]:
            x = (gpt2_block if gpt2 else llama_block)(x, p)
        table = params["wte" if gpt2 else "head"]
        logits = (norm(x, params["norm"]).astype(compute) @ table.astype(compute).T).astype(jnp.float32)
        return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()

    chain = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, b1=0.9, b2=0.95, weight_decay=0.1))

    def update(params: Any, state: Any, tokens: Any, targets: Any) -> Any:
        loss, gradients = jax.value_and_grad(loss_of)(params, tokens, targets)
        updates, state = chain.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(update, donate_argnums=(0, 1))
    held: list[Any] = [params, chain.init(params)]
    tokens, targets = jax.random.randint(next(keys), (2, s.batch, s.context), 0, s.vocab)

    def step() -> float:
        held[0], held[1], loss = compiled(held[0], held[1], tokens, targets)
        return float(loss)

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=["torch-eager", "torch-compile", "jax"])
    parser.add_argument("model", choices=["gpt2", "llama"])
    parser.add_argument("dims")
    parser.add_argument("dtype", choices=["f32", "bf16"])
    parser.add_argument("--hidden", type=int, default=0)
    parser.add_argument("--kv-heads", type=int, default=0)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--steps", type=int, default=20)
    a = parser.parse_args()
    shape = Shape(*map(int, a.dims.split(",")), hidden=a.hidden, kv_heads=a.kv_heads)
    start = time.perf_counter()
    if a.peer == "jax":
        step = jax_step(a.model, shape, a.dtype, a.device)
    else:
        step = torch_step(a.model, shape, a.dtype, a.device, a.peer.removeprefix("torch-"))
    loss = step()
    first = time.perf_counter() - start
    _ = step()
    seconds: list[float] = []
    for _ in range(a.steps):
        start = time.perf_counter()
        loss = step()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds)
    tokens = shape.batch * shape.context
    print(json.dumps({"step_ms": median * 1e3, "tokens_per_s": round(tokens / median), "first_s": round(first, 2), "loss": round(loss, 4)}))


if __name__ == "__main__":
    main()
