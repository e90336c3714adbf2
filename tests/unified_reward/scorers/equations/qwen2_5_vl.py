"""Qwen2.5-VL's vision tower from the equations, in float64; its language model is Qwen2-VL's."""

import torch
from torch.nn import functional as F

from tests.unified_reward.scorers.equations.qwen2_vl import (
    HEAD,
    PATCH,
    PATCH_SIZE,
    SECTIONS,
    VISION_HEAD,
    Draw,
    attend,
    decode,
    depth,
    frequencies,
    linear,
    rms_norm,
    rotate,
    split_heads,
)


WINDOW = 112 // 28
"""Side of a window in blocks of 2 x 2 patches."""
EPSILON = 1e-6


def make_qwen2_5_vl(seed, *, vocab, hidden=256, layers=2, intermediate=96, width=160, gated=96):
    """A random state under the names of transformers 4.57, as its ``state_dict`` gives them."""
    draw, heads = Draw(seed), hidden // HEAD
    language, tower = "model.language_model", "model.visual"
    draw.decoder(language, hidden, intermediate, layers, heads, 1, HEAD, vocab, bias=True)
    draw.linear("lm_head", vocab, hidden, bias=False)
    draw.normal(f"{tower}.patch_embed.proj.weight", width, *PATCH, std=PATCH_SIZE**-0.5)
    for block in (f"{tower}.blocks.{i}" for i in range(2)):
        draw.norm(f"{block}.norm1", width)
        draw.linear(f"{block}.attn.qkv", 3 * width, width, gain=1.5)
        draw.linear(f"{block}.attn.proj", width, width)
        draw.norm(f"{block}.norm2", width)
        draw.linear(f"{block}.mlp.gate_proj", gated, width, gain=1.5)
        draw.linear(f"{block}.mlp.up_proj", gated, width, gain=1.5)
        draw.linear(f"{block}.mlp.down_proj", width, gated)
    draw.norm(f"{tower}.merger.ln_q", width)
    draw.linear(f"{tower}.merger.mlp.0", 4 * width, 4 * width, gain=1.5)
    draw.linear(f"{tower}.merger.mlp.2", hidden, 4 * width, gain=1.5)
    return draw.state


def hidden_states(state, ids, patches, grid, *, vision_token, whole=(1,)):
    """The normed last hidden state (L, hidden), positions being places; see `qwen2_vl`.

    Args:
        state: Weights under the names of transformers 4.57.
        ids: (L,), with one `vision_token` for every 2 x 2 block of patches.
        patches: (n, 1176) of all images, in the processor's order.
        grid: (images, 3) of time (1), height, width in patches.
        vision_token: The id whose embeddings the visual features replace, in order.
        whole: Blocks of the tower that see the whole image; others see windows.
    """
    x = state["model.language_model.embed_tokens.weight"].double()[ids]
    sizes = [(height, width) for _, height, width in grid.tolist()]
    images = patches.double().split([height * width for height, width in sizes])
    seen = [_image(state, x, *size, whole) for x, size in zip(images, sizes, strict=True)]
    x[ids == vision_token] = torch.cat(seen)
    angles = torch.arange(len(ids))[:, None] * frequencies(HEAD, 1e6)
    assert sum(SECTIONS) == angles.shape[1]
    heads = x.shape[-1] // HEAD
    return decode(state, "model.language_model", x, angles, heads=heads, kv_heads=1, rms_eps=1e-6)


def _image(state, x, height, width, whole):
    blocks = [(y, x_) for y in range(height // 2) for x_ in range(width // 2)]
    inner = [(y, x_) for y in range(2) for x_ in range(2)]
    place = torch.tensor([(2 * y + a, 2 * x_ + b) for y, x_ in blocks for a, b in inner])
    window = torch.tensor([(y // WINDOW, x_ // WINDOW) for y, x_ in blocks for _ in inner])
    is_apart = (window[:, None] != window[None]).any(-1)
    angles = (place[..., None] * frequencies(VISION_HEAD // 2, 1e4)).flatten(1)
    tower = "model.visual"
    x = x @ state[f"{tower}.patch_embed.proj.weight"].double().flatten(1).T
    for i in range(depth(state, f"{tower}.blocks")):
        block = f"{tower}.blocks.{i}"
        qkv = linear(state, f"{block}.attn.qkv", rms_norm(state, f"{block}.norm1", x, EPSILON))
        q, k, v = (split_heads(part, x.shape[-1] // VISION_HEAD) for part in qkv.chunk(3, dim=-1))
        hidden = None if i in whole else is_apart
        seen = attend(rotate(q, angles), rotate(k, angles), v, hidden=hidden)
        x = x + linear(state, f"{block}.attn.proj", seen)
        h = rms_norm(state, f"{block}.norm2", x, EPSILON)
        gate = F.silu(linear(state, f"{block}.mlp.gate_proj", h))
        up = linear(state, f"{block}.mlp.up_proj", h)
        x = x + linear(state, f"{block}.mlp.down_proj", gate * up)
    x = rms_norm(state, f"{tower}.merger.ln_q", x, EPSILON).reshape(-1, 4 * x.shape[-1])
    x = F.gelu(linear(state, f"{tower}.merger.mlp.0", x))
    return linear(state, f"{tower}.merger.mlp.2", x)
