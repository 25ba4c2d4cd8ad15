"""A DeepSeek-V3-like model: latent attention, experts with capacity, a shared expert, balance without auxiliary loss. Names as in Hugging Face's deepseek_v3.

    mlc run examples/deepseek_v3.dsl -D vocab=256 -D context=64 -D width=64 -D heads=4 -D depth=3 -D dense_depth=1 -D batch=4 -D q_rank=48 -D kv_rank=32 -D nope=16 -D rope=8 -D v_head=16 -D dense_hidden=192 -D hidden=64 -D experts=16 -D active=4 -D groups=4 -D active_groups=2 -- --data book.txt --steps 100
"""
from mlc.attention import attention, rotary, rotary_frequency
from mlc.losses import cross_entropy
from mlc.moe import moe
from mlc.nn import linear, rms_norm, swiglu
from mlc.optim import adamw
from mlc.rates import cosine

vocab: dim = 129280
context: dim = 4096
width: dim = 7168
heads: dim = 128
depth: int = 61
dense_depth: int = 3        # the first layers have a plain MLP
batch: dim = 1

q_rank: dim = 1536
kv_rank: dim = 512
nope: dim = 128             # features of a query or key head without position
rope: dim = 64              # features of a query or key head with rotary position
v_head: dim = 128

dense_hidden: dim = 18432
hidden: dim = 2048
experts: dim = 256
active: dim = 8
shared: dim = 1
groups: dim = 8
active_groups: dim = 4
scaling: float = 2.5
slack: float = 1.25         # capacity over an even share
capacity: dim = int(slack * batch * context * active / experts)

rate: f32 = 2.2e-4
balance_rate: f32 = 1e-3


def dense(x: real[..., n], m: dim):
    return linear(x, m, bias=False, init=normal(0.006))


def latent_attention(x: real[b, t, n]):
    frequency = rotary_frequency(rope)
    q = dense(rms_norm(dense(x, q_rank, name="q_a_proj"), name="q_a_layernorm"), heads * (nope + rope), name="q_b_proj")
    q, q_rope = split(reshape(q, [b, t, heads, nope + rope]), [nope, rope], axis=-1)
    latent, k_rope = split(dense(x, kv_rank + rope, name="kv_a_proj_with_mqa"), [kv_rank, rope], axis=-1)
    kv = dense(rms_norm(latent, name="kv_a_layernorm"), heads * (nope + v_head), name="kv_b_proj")
    k, v = split(reshape(kv, [b, t, heads, nope + v_head]), [nope, v_head], axis=-1)
    q_rope = rotary(q_rope, frequency, interleaved=True)
    k_rope = rotary(k_rope[:, :, None, :], frequency, interleaved=True)
    q = concat([q, q_rope], axis=-1)
    k = concat([k, broadcast(k_rope, [b, t, heads, rope])], axis=-1)
    y = attention(q, k, v, causal=True)
    return dense(reshape(y, [b, t, heads * v_head]), n, name="o_proj")


@layer
def block(x: real[batch, context, width], *, sparse: bool):
    x = x + latent_attention(rms_norm(x, name="input_layernorm"), name="self_attn")
    h = rms_norm(x, name="post_attention_layernorm")
    if not sparse:
        return x + swiglu(h, dense_hidden, init=normal(0.006), name="mlp")
    y = moe(
        h, experts=experts, active=active, hidden=hidden, capacity=capacity,
        groups=groups, active_groups=active_groups, scaling=scaling, name="mlp",
    )
    return x + y + swiglu(h, shared * hidden, init=normal(0.006), name="mlp.shared_experts")


@layer
def head(x: real[batch, context, width], targets: i32[batch, context]):
    logits = dense(rms_norm(x, name="model.norm"), vocab, name="lm_head")
    return cross_entropy(logits, targets), logits


@model
def deepseek(tokens: i32[batch, context], targets: i32[batch, context] = following("tokens")):
    x = gather(param("model.embed_tokens.weight", [vocab, width], init=normal(0.006)), tokens)
    for i in range(depth):
        x = block(x, sparse=i >= dense_depth, name=f"model.layers.{i}")
    loss, logits = head(x, targets)
    return {"loss": loss, "logits": logits}


@optimizer
def balance(p: f32[...], g: f32[p.shape], step: f32, *, rate: f32):
    """g is the number of tokens each expert got: an expert with more than its share becomes a little harder to choose."""
    return p + rate * sign(mean(g) - g)


@train(clip=1.0, precision=bf16)
def recipe(p: parameter):
    if glob(p.name, "*.e_score_correction_bias"):
        return balance(rate=balance_rate)
    decay = 0.1 if len(p.shape) > 1 else 0.0
    return adamw(rate=cosine(rate, warmup=2000.0, floor=0.1 * rate), betas=(0.9, 0.95), weight_decay=decay)
