"""CogVLM2 from its equations, in float64, under the names of its released safetensors."""

import math

import torch

from tests.unified_reward.scorers.equations.clip import Draw, float64, gelu, layer_names, layer_norm


THETA = 500_000.0
TOWER_EPS, EPS = 1e-6, 1e-5


def make_cogvlm(
    seed,
    *,
    vocabulary=300,
    width=64,
    head=16,
    key_heads=2,
    layers=2,
    inner=96,
    tower_width=224,
    tower_layers=2,
    tower_inner=64,
    patch=56,
    grid=4,
    expert=False,
):
    """Random weights, gains above one so that attention is far from uniform."""
    draw = Draw(seed)
    frequencies = THETA ** (-torch.arange(0, head, 2, dtype=torch.float64) / head)
    state = {"model.embed_tokens.weight": draw.normal(vocabulary, width)}
    for layer in (f"model.layers.{i}" for i in range(layers)):
        state[f"{layer}.self_attn.rotary_emb.inv_freq"] = frequencies.bfloat16()
        for norm in ("input_layernorm", "post_attention_layernorm"):
            state[f"{layer}.{norm}.weight"] = draw.normal(width, mean=1.0, std=0.2)
        for kind in ("language", "vision")[: 1 + expert]:
            rows = width + 2 * key_heads * head
            name = f"{layer}.self_attn.{kind}_expert"
            state[f"{name}_query_key_value.weight"] = draw.matrix(rows, width, 1.6)
            if kind == "vision":
                state[f"{name}_query_key_value.bias"] = draw.normal(rows, std=0.5)
            state[f"{name}_dense.weight"] = draw.matrix(width, width)
            name = f"{layer}.mlp.{kind}_mlp"
            state[f"{name}.gate_proj.weight"] = draw.matrix(inner, width)
            state[f"{name}.up_proj.weight"] = draw.matrix(inner, width)
            state[f"{name}.down_proj.weight"] = draw.matrix(width, inner)
    state["model.norm.weight"] = draw.normal(width, mean=1.0, std=0.2)
    state |= _draw_vision(draw, width, inner, tower_width, tower_layers, tower_inner, patch, grid)
    state["lm_head.weight"] = draw.matrix(vocabulary, width, 3.0)
    return state


def _draw_vision(draw, width, inner, tower_width, layers, tower_inner, patch, grid):
    stem = "model.vision"
    state = {f"{stem}.{edge}": draw.normal(1, 1, width) for edge in ("boi", "eoi")}
    patches = f"{stem}.patch_embedding"
    state[f"{patches}.cls_embedding"] = draw.normal(1, tower_width)
    state[f"{patches}.position_embedding.weight"] = draw.normal(grid**2 + 1, tower_width)
    state[f"{patches}.proj.weight"] = draw.kernel(tower_width, patch) * 4
    state[f"{patches}.proj.bias"] = draw.normal(tower_width, std=0.2)
    for layer in (f"{stem}.transformer.layers.{i}" for i in range(layers)):
        state |= draw.norm(f"{layer}.input_layernorm", tower_width)
        state |= draw.linear(f"{layer}.attention.query_key_value", 3 * tower_width, tower_width, 2)
        state |= draw.linear(f"{layer}.attention.dense", tower_width, tower_width)
        state |= draw.linear(f"{layer}.mlp.fc1", tower_inner, tower_width)
        state |= draw.linear(f"{layer}.mlp.fc2", tower_width, tower_inner)
        state |= draw.norm(f"{layer}.post_attention_layernorm", tower_width)
    kernel = draw.matrix(tower_width, 4 * tower_width).reshape(tower_width, tower_width, 2, 2)
    state |= {f"{stem}.conv.weight": kernel, f"{stem}.conv.bias": draw.normal(tower_width, std=0.2)}
    adapter = f"{stem}.linear_proj"
    state[f"{adapter}.linear_proj.weight"] = draw.matrix(width, tower_width)
    state |= draw.norm(f"{adapter}.norm1", width)
    for name in ("dense_h_to_4h", "gate_proj"):
        state[f"{adapter}.{name}.weight"] = draw.matrix(inner, width, 1.5)
    state[f"{adapter}.dense_4h_to_h.weight"] = draw.matrix(width, inner, 2.0)
    return state


def frame_tokens(state, pixels, *, heads):
    """First token, image tokens, last token of one frame (3, side, side); shape (n + 2, width)."""
    state, stem = float64(state), "model.vision"
    x = _patches(state, f"{stem}.patch_embedding", pixels.double())
    for layer in layer_names(state, f"{stem}.transformer.layers"):
        x = x + _norm(state, f"{layer}.input_layernorm", _look(state, layer, x, heads))
        hidden = gelu(_affine(state, f"{layer}.mlp.fc1", x))
        mapped = _affine(state, f"{layer}.mlp.fc2", hidden)
        x = x + _norm(state, f"{layer}.post_attention_layernorm", mapped)
    patches = x[1:]
    side = math.isqrt(len(patches))
    kernel = state[f"{stem}.conv.weight"]
    merged = []
    for row in range(0, side, 2):
        for column in range(0, side, 2):
            total = state[f"{stem}.conv.bias"].clone()
            for dy in range(2):
                for dx in range(2):
                    total += kernel[:, :, dy, dx] @ patches[(row + dy) * side + column + dx]
            merged.append(total)
    adapter = f"{stem}.linear_proj"
    y = torch.stack(merged) @ state[f"{adapter}.linear_proj.weight"].T
    y = gelu(layer_norm(state, f"{adapter}.norm1", y, 1e-5))
    gate = _silu(y @ state[f"{adapter}.gate_proj.weight"].T)
    y = gate * (y @ state[f"{adapter}.dense_h_to_4h.weight"].T)
    y = y @ state[f"{adapter}.dense_4h_to_h.weight"].T
    return torch.cat([state[f"{stem}.boi"][0], y, state[f"{stem}.eoi"][0]])


def _patches(state, stem, pixels):
    kernel = state[f"{stem}.proj.weight"]
    size = kernel.shape[-1]
    rows = [state[f"{stem}.cls_embedding"][0]]
    for top in range(0, pixels.shape[1], size):
        for left in range(0, pixels.shape[2], size):
            cut = pixels[:, top : top + size, left : left + size]
            rows.append((kernel * cut).sum((1, 2, 3)) + state[f"{stem}.proj.bias"])
    return torch.stack(rows) + state[f"{stem}.position_embedding.weight"]


def _look(state, layer, x, heads):
    q, k, v = _affine(state, f"{layer}.attention.query_key_value", x).chunk(3, dim=-1)
    width = x.shape[1] // heads
    read = []
    for part in (slice(i * width, (i + 1) * width) for i in range(heads)):
        logits = q[:, part] @ k[:, part].T / math.sqrt(width)
        read.append(logits.softmax(-1) @ v[:, part])
    return _affine(state, f"{layer}.attention.dense", torch.cat(read, -1))


def last_logits(state, tokens, positions, *, experts=None, angles=torch.bfloat16):
    """Logits behind a whole sequence of embeddings (L, width), nothing cached.

    ``experts`` is True at each token of the visual expert.
    """
    frequencies = state["model.layers.0.self_attn.rotary_emb.inv_freq"].to(angles)
    table = torch.tensor(positions)[:, None].to(angles) * frequencies
    cos, sin = (wave(table.double()).to(angles).double() for wave in (torch.cos, torch.sin))
    visual = [False] * len(tokens) if experts is None else experts
    state, x = float64(state), tokens.double()
    for layer in layer_names(state, "model.layers"):
        normed = _rms(state, f"{layer}.input_layernorm", x)
        x = x + _attend(state, layer, normed, visual, cos, sin)
        normed = _rms(state, f"{layer}.post_attention_layernorm", x)
        rows = []
        for row, is_visual in zip(normed, visual, strict=True):
            mlp = f"{layer}.mlp.{'vision' if is_visual else 'language'}_mlp"
            gate = _silu(state[f"{mlp}.gate_proj.weight"] @ row)
            inner = gate * (state[f"{mlp}.up_proj.weight"] @ row)
            rows.append(state[f"{mlp}.down_proj.weight"] @ inner)
        x = x + torch.stack(rows)
    return state["lm_head.weight"] @ _rms(state, "model.norm", x[-1])


def _attend(state, layer, x, visual, cos, sin):
    width, half = x.shape[1], cos.shape[1]
    head = 2 * half
    names = [f"{layer}.self_attn.{'vision' if v else 'language'}_expert" for v in visual]
    mixed = torch.stack(
        [
            state[f"{name}_query_key_value.weight"] @ row
            + state.get(f"{name}_query_key_value.bias", 0.0)
            for name, row in zip(names, x, strict=True)
        ]
    )
    n_keys = (mixed.shape[1] - width) // 2 // head
    split = mixed.split([width, n_keys * head, n_keys * head], dim=1)
    queries, keys, values = (part.unflatten(1, (-1, head)) for part in split)
    queries, keys = (_rotate(part, cos, sin) for part in (queries, keys))
    rows = []
    for t, name in enumerate(names):
        read = []
        for h in range(queries.shape[1]):
            g = h // (queries.shape[1] // n_keys)
            weights = (keys[: t + 1, g] @ queries[t, h] / math.sqrt(head)).softmax(0)
            read.append(weights @ values[: t + 1, g])
        rows.append(state[f"{name}_dense.weight"] @ torch.cat(read))
    return torch.stack(rows)


def _rotate(x, cos, sin):
    first, second = x[..., : cos.shape[1]], x[..., cos.shape[1] :]
    cos, sin = cos[:, None], sin[:, None]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def _rms(state, name, x):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * state[f"{name}.weight"]


def _affine(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _norm(state, name, x):
    return layer_norm(state, name, x, TOWER_EPS)


def _silu(x):
    return x / (1 + torch.exp(-x))
