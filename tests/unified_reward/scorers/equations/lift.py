"""LiFT-Critic, a VILA1.5 with an adapter, from the equations: one conversation, in float64."""

import torch
from torch.nn import functional as F

from tests.unified_reward.scorers.equations.qwen2_vl import (
    LORA,
    Draw,
    decode,
    frequencies,
    layer_norm,
    linear,
)
from tests.unified_reward.scorers.equations.siglip import draw_encoder, encode


TOWER = "vision_model"
PEFT = "base_model.model."


def make_lift(
    seed,
    *,
    vocab,
    hidden=64,
    intermediate=96,
    layers=2,
    heads=4,
    vision_width=32,
    vision_layers=3,
    vision_intermediate=48,
    patch=42,
    image_size=384,
    rank=4,
):
    """A random state under the released names, by what is a file of its own."""
    llm = Draw(seed)
    shape = (layers, heads, heads, hidden // heads)
    llm.decoder("model", hidden, intermediate, *shape, vocab, bias=False)
    llm.linear("lm_head", vocab, hidden, bias=False)
    tower = {"layers": vision_layers, "intermediate": vision_intermediate, "patch": patch}
    return {
        "llm": llm.state,
        "vision_tower": _make_tower(seed + 1, vision_width, side=image_size // patch, **tower),
        "mm_projector": _make_projector(seed + 2, 4 * vision_width, hidden),
        "adapter": _make_adapter(seed + 3, llm.state, rank),
        "own": _make_own(seed + 4, vision_width, vision_intermediate, hidden),
    }


def _make_tower(seed, width, **shape):
    draw = Draw(seed)
    draw_encoder(draw, TOWER, width=width, **shape)
    draw.normal(f"{TOWER}.head.probe", 1, 1, width)
    draw.norm(f"{TOWER}.head.layernorm", width, bias=True)
    return draw.state


def _make_projector(seed, inputs, outputs):
    draw = Draw(seed)
    draw.norm("layers.1", inputs, bias=True)
    draw.linear("layers.2", outputs, inputs, gain=1.5)
    draw.linear("layers.4", outputs, outputs, gain=2.0)
    return draw.state


def _make_adapter(seed, llm, rank):
    """Adapters of every linear layer of the language model, as PEFT saves them."""
    draw = Draw(seed)
    for name, value in llm.items():
        stem = name.removesuffix(".weight")
        if stem.endswith(LORA):
            outputs, inputs = value.shape
            draw.linear(f"{PEFT}{stem}.lora_A", rank, inputs, bias=False)
            draw.linear(f"{PEFT}{stem}.lora_B", outputs, rank, bias=False, gain=0.3)
    return draw.state


def _make_own(seed, width, intermediate, hidden):
    """Further weights of the adapter: a projector, and a layer of the vision tower.

    Under the names that PEFT gives the parts of a VILA1.5, which its loader passes over.
    """
    projector = _make_projector(seed, 4 * width, hidden)
    own = {f"{PEFT}mm_projector.{name}": value for name, value in projector.items()}
    draw = Draw(seed + 1)
    layer = f"{PEFT}vision_tower.vision_tower.{TOWER}.encoder.layers.0"
    draw.linear(f"{layer}.mlp.fc1", intermediate, width)
    return own | draw.state


def merged(parts, *, scale, with_own=False):
    """The base under its own names: W + scale B A, and further weights in place if they are."""
    state = parts["llm"] | parts["vision_tower"] | parts["mm_projector"]
    for name, value in parts["own"].items() if with_own else ():
        plain = name.removeprefix(PEFT).removeprefix("mm_projector.")
        state[plain.removeprefix("vision_tower.vision_tower.")] = value
    for name, down in parts["adapter"].items():
        stem, is_down, _ = name.partition(".lora_A.")
        if is_down:
            up = parts["adapter"][f"{stem}.lora_B.weight"].double()
            weight = f"{stem.removeprefix(PEFT)}.weight"
            state[weight] = state[weight].double() + scale * (up @ down.double())
    return state


def see(state, pixels, *, patch, heads, eps=1e-6):
    """Hidden states before the last layer of the vision tower, (n, patches, width).

    Args:
        state: Weights under the released names, merged.
        pixels: (n, 3, H, W); what is left of H and W beside whole patches is not seen.
        patch: Side of a patch in pixels.
        heads: Attention heads.
        eps: Epsilon of the norms.
    """
    return torch.stack([_see_one(state, item.double(), patch, heads, eps) for item in pixels])


def _see_one(state, pixels, patch, heads, eps):
    side = pixels.shape[-1] // patch
    cuts = [
        pixels[:, patch * row : patch * (row + 1), patch * column : patch * (column + 1)].flatten()
        for row in range(side)
        for column in range(side)
    ]
    places = torch.arange(len(cuts))
    return encode(state, TOWER, torch.stack(cuts), places, heads=heads, eps=eps, left_out=1)


def four_to_one(patches):
    """Patches (n, side * side, width) to (n, half * half, 4 * width), one by one.

    Token t stands for the rows 2 (t mod half) and the one below, and the columns 2 (t div half)
    and the one to the right: first the upper row, from the left. Beyond the grid all is zero.
    """
    n, count, width = patches.shape
    side = round(count**0.5)
    half = (side + 1) // 2
    made = torch.zeros(n, half * half, 4 * width, dtype=patches.dtype)
    for token in range(half * half):
        top, left = 2 * (token % half), 2 * (token // half)
        for place, (row, column) in enumerate(
            [(top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)]
        ):
            if row < side and column < side:
                patch = patches[:, row * side + column]
                made[:, token, place * width : (place + 1) * width] = patch
    return made


def project(state, patches, *, eps=1e-5):
    """Tokens (n, tokens, hidden) of patches (n, side * side, width)."""
    x = layer_norm(state, "layers.1", four_to_one(patches), eps)
    return linear(state, "layers.4", F.gelu(linear(state, "layers.2", x)))


def embed(state, chunks, frames):
    """Embeddings of the first chunk of ids, a frame, the second chunk, a frame and so on."""
    table = state["model.embed_tokens.weight"].double()
    rows = [table[chunks[0]]]
    for frame, ids in zip(frames, chunks[1:], strict=True):
        rows += [frame, table[ids]]
    return torch.cat(rows)


def say(state, x, *, heads, most, end, rope_theta, eps=1e-5):
    """The likeliest ids behind x (L, hidden), one after the other, and by how much each.

    Everything is worked out anew for every token.

    Args:
        state: Weights under the released names, merged.
        x: Embeddings of the conversation.
        heads: Attention heads, as many of keys and values.
        most: How many ids at most.
        end: The id behind which nothing follows.
        rope_theta: Base of the rotary frequencies.
        eps: Epsilon of the norms.

    Returns:
        Ids, and the distance of each one's logit to the next best.
    """
    ids, margins = [], []
    while len(ids) < most and end not in ids:
        angles = torch.arange(len(x))[:, None] * frequencies(x.shape[-1] // heads, rope_theta)
        hidden = decode(state, "model", x, angles, heads=heads, kv_heads=heads, rms_eps=eps)
        logits = hidden[-1] @ state["lm_head.weight"].double().T
        best, second = logits.topk(2).values
        ids.append(int(logits.argmax()))
        margins.append(float(best - second))
        x = torch.cat([x, state["model.embed_tokens.weight"].double()[ids[-1:]]])
    return ids, margins
