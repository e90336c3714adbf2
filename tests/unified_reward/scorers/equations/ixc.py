"""IXC-2.5-Reward from its equations, one conversation at a time, in float64.

A token of an image goes through ``W + B A`` where a token of text goes through ``W``.
"""

import math

import torch
from torch.nn import functional as F

from tests.unified_reward.scorers.equations.clip import vision_states
from tests.unified_reward.scorers.equations.qwen2_vl import (
    Draw,
    attend,
    depth,
    frequencies,
    linear,
    rms_norm,
    rotate,
)


VIT = "vit.vision_tower.vision_model"
VISION_HEAD = 64


def make_ixc(seed, *, vocab, hidden=64, inner=96, heads=4, kv_heads=2, rank=8, width=64, patch=140):
    """Random bfloat16 weights under the released names, in their order."""
    draw, head = Draw(seed), hidden // heads
    draw.normal("plora_glb_GN", 1, 1, 4 * width)
    draw.normal("plora_sub_GN", 1, 1, 1, 4 * width)
    draw.normal("model.tok_embeddings.weight", vocab, hidden)
    for layer in ("model.layers.0", "model.layers.1"):
        rows = (heads + 2 * kv_heads) * head
        _draw_partial(draw, f"{layer}.attention.wqkv", rows, hidden, rank)
        _draw_partial(draw, f"{layer}.attention.wo", hidden, heads * head, rank)
        for name, outputs, inputs in (("w1", inner, hidden), ("w3", inner, hidden)):
            _draw_partial(draw, f"{layer}.feed_forward.{name}", outputs, inputs, rank)
        _draw_partial(draw, f"{layer}.feed_forward.w2", hidden, inner, rank)
        for name in ("attention_norm", "ffn_norm"):
            draw.norm(f"{layer}.{name}", hidden)
    draw.norm("model.norm", hidden)
    draw.linear("score", 1, hidden, bias=False, gain=3.0)
    embeddings = f"{VIT}.embeddings"
    draw.normal(f"{embeddings}.class_embedding", width)
    draw.normal(f"{embeddings}.patch_embedding.weight", width, 3, patch, patch, std=0.3 / patch)
    draw.normal(f"{embeddings}.position_embedding.weight", (560 // patch) ** 2 + 1, width, std=0.3)
    draw.norm(f"{VIT}.pre_layrnorm", width, bias=True)
    for layer in (f"{VIT}.encoder.layers.{i}" for i in range(2)):
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            draw.linear(f"{layer}.self_attn.{name}", width, width, gain=1.5)
        draw.norm(f"{layer}.layer_norm1", width, bias=True)
        draw.linear(f"{layer}.mlp.fc1", 2 * width, width, gain=1.5)
        draw.linear(f"{layer}.mlp.fc2", width, 2 * width)
        draw.norm(f"{layer}.layer_norm2", width, bias=True)
    draw.norm(f"{VIT}.post_layernorm", width, bias=True)
    draw.linear("vision_proj.0", hidden, 4 * width, gain=1.5)
    draw.linear("vision_proj.2", hidden, hidden, gain=1.5)
    return {name: value.bfloat16() for name, value in draw.state.items()}


def _draw_partial(draw, name, outputs, inputs, rank):
    draw.linear(name, outputs, inputs, bias=False, gain=1.5)
    draw.linear(f"{name}.Plora_A", rank, inputs, bias=False)
    draw.linear(f"{name}.Plora_B", outputs, rank, bias=False, gain=1.5)


def see(state, views, rows, columns):
    """Embeddings of an image: the whole view, then its tiles row by row."""
    states = vision_states(state, VIT, views, heads=_width(state) // VISION_HEAD)[:, 1:]
    side = math.isqrt(states.shape[1])
    half = side // 2

    def token(view, row, column):
        corners = [(2 * row + y, 2 * column + x) for y in (0, 1) for x in (0, 1)]
        return torch.cat([states[view, y * side + x] for y, x in corners])

    sub, whole = (state[f"plora_{name}_GN"].double().flatten() for name in ("sub", "glb"))
    tokens = []
    for row in range(half):
        tokens += [*(token(0, row, column) for column in range(half)), sub]
    tokens.append(whole)
    for row in range(rows * half):
        for column in range(columns * half):
            tile = 1 + row // half * columns + column // half
            tokens.append(token(tile, row % half, column % half))
        tokens.append(sub)
    return linear(
        state, "vision_proj.2", F.gelu(linear(state, "vision_proj.0", torch.stack(tokens)))
    )


def _width(state):
    return len(state[f"{VIT}.embeddings.class_embedding"])


def reward(state, pieces, *, heads=4, kv_heads=2, theta=1e6, eps=1e-5):
    """The reward of a conversation: texts as lists of ids, images as tensors of embeddings."""
    embed = state["model.tok_embeddings.weight"].double()
    x = torch.cat([embed[part] if isinstance(part, list) else part for part in pieces])
    seen = torch.cat(
        [torch.full((len(part),), not isinstance(part, list)) for part in pieces if len(part)]
    )
    head = x.shape[1] // heads
    angles = torch.arange(len(x))[:, None] * frequencies(head, theta)
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    for layer in (f"model.layers.{i}" for i in range(depth(state, "model.layers"))):
        h = rms_norm(state, f"{layer}.attention_norm", x, eps)
        rows = partial(state, f"{layer}.attention.wqkv", h, seen).split(head, dim=1)
        per_group = heads // kv_heads
        q, k, v = [], [], []
        for group in range(kv_heads):
            start = group * (per_group + 2)
            q += rows[start : start + per_group]
            k.append(rows[start + per_group])
            v.append(rows[start + per_group + 1])
        q, k, v = torch.stack(q), torch.stack(k), torch.stack(v)
        y = attend(rotate(q, angles), rotate(k, angles), v, hidden=future)
        x = x + partial(state, f"{layer}.attention.wo", y, seen)
        h = rms_norm(state, f"{layer}.ffn_norm", x, eps)
        gate, up = (partial(state, f"{layer}.feed_forward.{w}", h, seen) for w in ("w1", "w3"))
        x = x + partial(state, f"{layer}.feed_forward.w2", F.silu(gate) * up, seen)
    return float(linear(state, "score", rms_norm(state, "model.norm", x, eps)[-1]))


def partial(state, name, x, seen):
    weight, low, high = (
        state[f"{name}{part}.weight"].double() for part in ("", ".Plora_A", ".Plora_B")
    )
    return torch.where(seen[:, None], x @ (weight + high @ low).T, x @ weight.T)
