"""Qwen2-VL and its reward heads from the equations: one sequence at a time, in float64."""

import torch
from torch.nn import functional as F


HEAD = 128  # of the language model
VISION_HEAD = 80
SECTIONS = (16, 24, 24)  # of the HEAD / 2 frequencies, turned by time, row and column
PATCH = (3, 2, 14, 14)
PATCH_SIZE = 3 * 2 * 14 * 14
LORA = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PEFT = "base_model.model."


class Draw:
    """Draws random float32 weights that keep activations near one, into `state`."""

    def __init__(self, seed):
        self.state = {}
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, name, *shape, std=1.0):
        self.state[name] = torch.randn(shape, generator=self._generator) * std

    def linear(self, name, outputs, inputs, *, bias=True, gain=1.0):
        self.normal(f"{name}.weight", outputs, inputs, std=gain * inputs**-0.5)
        if bias:
            self.normal(f"{name}.bias", outputs, std=0.3)

    def norm(self, name, size, *, bias=False):
        self.state[f"{name}.weight"] = 0.5 + torch.rand(size, generator=self._generator)
        if bias:
            self.normal(f"{name}.bias", size, std=0.3)

    def gated_mlp(self, name, hidden, intermediate, outputs=None):
        self.linear(f"{name}.gate_proj", intermediate, hidden, bias=False, gain=1.5)
        self.linear(f"{name}.up_proj", intermediate, hidden, bias=False, gain=1.5)
        self.linear(f"{name}.down_proj", outputs or hidden, intermediate, bias=False)

    def attention(self, name, hidden, heads, kv_heads, head, *, bias):
        self.linear(f"{name}.q_proj", heads * head, hidden, bias=bias, gain=1.5)
        self.linear(f"{name}.k_proj", kv_heads * head, hidden, bias=bias, gain=1.5)
        self.linear(f"{name}.v_proj", kv_heads * head, hidden, bias=bias, gain=2.0)
        self.linear(f"{name}.o_proj", hidden, heads * head, bias=False, gain=1.5)

    def decoder(self, name, hidden, intermediate, layers, heads, kv_heads, head, vocab, *, bias):
        self.normal(f"{name}.embed_tokens.weight", vocab, hidden)
        for layer in (f"{name}.layers.{i}" for i in range(layers)):
            self.norm(f"{layer}.input_layernorm", hidden)
            self.attention(f"{layer}.self_attn", hidden, heads, kv_heads, head, bias=bias)
            self.norm(f"{layer}.post_attention_layernorm", hidden)
            self.gated_mlp(f"{layer}.mlp", hidden, intermediate)
        self.norm(f"{name}.norm", hidden)


def make_qwen2_vl(
    seed,
    *,
    hidden=256,
    layers=2,
    intermediate=96,
    kv_heads=1,
    vocab=200,
    vision_width=160,
    vision_layers=2,
):
    """A random state under the names of transformers 4; `hidden` in 128s, `vision_width` in 80s."""
    draw, heads = Draw(seed), hidden // HEAD
    draw.decoder("model", hidden, intermediate, layers, heads, kv_heads, HEAD, vocab, bias=True)
    draw.linear("lm_head", vocab, hidden, bias=False)
    draw.normal("visual.patch_embed.proj.weight", vision_width, *PATCH, std=PATCH_SIZE**-0.5)
    for block in (f"visual.blocks.{i}" for i in range(vision_layers)):
        draw.norm(f"{block}.norm1", vision_width, bias=True)
        draw.linear(f"{block}.attn.qkv", 3 * vision_width, vision_width, gain=1.5)
        draw.linear(f"{block}.attn.proj", vision_width, vision_width)
        draw.norm(f"{block}.norm2", vision_width, bias=True)
        draw.linear(f"{block}.mlp.fc1", 4 * vision_width, vision_width)
        draw.linear(f"{block}.mlp.fc2", vision_width, 4 * vision_width)
    draw.norm("visual.merger.ln_q", vision_width, bias=True)
    draw.linear("visual.merger.mlp.0", 4 * vision_width, 4 * vision_width, gain=1.5)
    draw.linear("visual.merger.mlp.2", hidden, 4 * vision_width, gain=1.5)
    return draw.state


def as_peft(state, seed, *, rank=4):
    """Weights as the base of random LoRA adapters, under the names PEFT gives them."""
    draw = Draw(seed)
    for name, value in state.items():
        linear, _, kind = name.rpartition(".")
        if not (name.startswith("model.layers.") and linear.endswith(LORA)):
            draw.state[PEFT + name] = value
            continue
        draw.state[f"{PEFT}{linear}.base_layer.{kind}"] = value
        if kind == "weight":
            outputs, inputs = value.shape
            draw.linear(f"{PEFT}{linear}.lora_A.default", rank, inputs, bias=False)
            draw.linear(f"{PEFT}{linear}.lora_B.default", outputs, rank, bias=False, gain=0.3)
    return draw.state


def merged(state, *, scale):
    """Undoes `as_peft`: plain names, W + scale B A (those in float64)."""
    plain = {}
    for name, value in state.items():
        linear, adapted, kind = name.partition(".base_layer.")
        if adapted and kind == "weight":
            down = state[f"{linear}.lora_A.default.weight"].double()
            up = state[f"{linear}.lora_B.default.weight"].double()
            plain[f"{linear}.weight".removeprefix(PEFT)] = value.double() + scale * (up @ down)
        elif ".lora_" not in name:
            plain[name.replace(".base_layer.", ".").removeprefix(PEFT)] = value
    return plain


def hidden_states(
    state,
    ids,
    patches,
    grid,
    *,
    vision_token,
    rope_theta=1e6,
    rms_eps=1e-6,
    positions=None,
):
    """The normed last hidden state (L, hidden) of one sequence.

    Args:
        state: Weights under the names of transformers 4.
        ids: (L,), with one `vision_token` for every 2 x 2 block of patches.
        patches: (n, 1176) in the processor's order: frame, block, patch within the block.
        grid: (visuals, 3) of time, height, width in patches.
        vision_token: The id whose embeddings the visual features replace, in order.
        rope_theta: Base of the rotary frequencies.
        rms_eps: Epsilon of the language model's norms.
        positions: (3, L) time, row and column of each token; 0..L-1 on all axes without it.
    """
    x = state["model.embed_tokens.weight"].double()[ids]
    x[ids == vision_token] = vision_tower(state, patches.double(), grid)
    if positions is None:
        positions = torch.arange(len(ids)).expand(3, -1)
    by_axis = positions[..., None] * frequencies(HEAD, rope_theta)
    parts = by_axis.split(SECTIONS, dim=-1)
    angles = torch.cat([part[axis] for axis, part in enumerate(parts)], dim=-1)
    heads = x.shape[-1] // HEAD
    kv_heads = len(state["model.layers.0.self_attn.k_proj.weight"]) // HEAD
    return decode(state, "model", x, angles, heads=heads, kv_heads=kv_heads, rms_eps=rms_eps)


def vision_tower(state, patches, grid):
    """One feature for every 2 x 2 block of patches; frames never see each other."""
    sizes = [(height, width) for time, height, width in grid.tolist() for _ in range(time)]
    frames = patches.split([height * width for height, width in sizes])
    return torch.cat([_frame(state, x, *size) for x, size in zip(frames, sizes, strict=True)])


def _frame(state, x, height, width):
    place = torch.tensor(
        [
            (2 * block_row + row, 2 * block_column + column)
            for block_row in range(height // 2)
            for block_column in range(width // 2)
            for row in range(2)
            for column in range(2)
        ]
    )
    angles = (place[..., None] * frequencies(VISION_HEAD // 2, 1e4)).flatten(1)
    x = x @ state["visual.patch_embed.proj.weight"].double().flatten(1).T
    for block in (f"visual.blocks.{i}" for i in range(depth(state, "visual.blocks"))):
        qkv = linear(state, f"{block}.attn.qkv", layer_norm(state, f"{block}.norm1", x, 1e-6))
        q, k, v = (split_heads(part, x.shape[-1] // VISION_HEAD) for part in qkv.chunk(3, dim=-1))
        seen = attend(rotate(q, angles), rotate(k, angles), v)
        x = x + linear(state, f"{block}.attn.proj", seen)
        h = linear(state, f"{block}.mlp.fc1", layer_norm(state, f"{block}.norm2", x, 1e-6))
        x = x + linear(state, f"{block}.mlp.fc2", h * torch.sigmoid(1.702 * h))
    x = layer_norm(state, "visual.merger.ln_q", x, 1e-6).reshape(-1, 4 * x.shape[-1])
    return linear(state, "visual.merger.mlp.2", F.gelu(linear(state, "visual.merger.mlp.0", x)))


def decode(state, name, x, angles, *, heads, kv_heads, rms_eps):
    """A causal decoder with grouped heads and rotary angles (L, head / 2), and its final norm."""
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for layer in (f"{name}.layers.{i}" for i in range(depth(state, f"{name}.layers"))):
        h = rms_norm(state, f"{layer}.input_layernorm", x, rms_eps)
        q = split_heads(linear(state, f"{layer}.self_attn.q_proj", h), heads)
        k = split_heads(linear(state, f"{layer}.self_attn.k_proj", h), kv_heads)
        v = split_heads(linear(state, f"{layer}.self_attn.v_proj", h), kv_heads)
        seen = attend(rotate(q, angles), rotate(k, angles), v, hidden=future)
        x = x + linear(state, f"{layer}.self_attn.o_proj", seen)
        h = rms_norm(state, f"{layer}.post_attention_layernorm", x, rms_eps)
        x = x + gated_mlp(state, f"{layer}.mlp", h)
    return rms_norm(state, f"{name}.norm", x, rms_eps)


def linear_head(state, hidden, name):
    """One linear layer, with a bias where `state` has one."""
    return linear(state, name, hidden)


def mlp_head(state, hidden, prefix, indices=(0, 3, 5)):
    """Linear layers with ReLU between them, numbered as in their Sequential."""
    first, *others = (f"{prefix}.{index}" for index in indices)
    x = linear(state, first, hidden)
    for name in others:
        x = linear(state, name, x.clamp(min=0))
    return x


def depth(state, name):
    """Number of layers that `state` has under `name`."""
    prefix = f"{name}."
    rest = (key.removeprefix(prefix) for key in state if key.startswith(prefix))
    return 1 + max(int(key.partition(".")[0]) for key in rest)


def linear(state, name, x):
    y = x @ state[f"{name}.weight"].double().T
    return y + state[f"{name}.bias"].double() if f"{name}.bias" in state else y


def layer_norm(state, name, x, eps):
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"].double() + state[f"{name}.bias"].double()


def rms_norm(state, name, x, eps):
    x = x / (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return x * state[f"{name}.weight"].double()


def gated_mlp(state, name, x):
    gate = F.silu(linear(state, f"{name}.gate_proj", x))
    return linear(state, f"{name}.down_proj", gate * linear(state, f"{name}.up_proj", x))


def frequencies(size, theta):
    return theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)


def rotate(x, angles):
    """Turns the pairs (i, i + head / 2) of x (heads, L, head) by angles (L, head / 2)."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


def split_heads(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)


def attend(q, k, v, *, hidden=None):
    """Attention of q (heads, L, head) to fewer or as many heads of k and v, joined to (L, -1)."""
    k, v = (x.repeat_interleave(len(q) // len(x), dim=0) for x in (k, v))
    scores = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
