"""CLIP-FlanT5 from its equations, in float64, under the names that its released code gives.

Raffel et al. 2020, arXiv:1910.10683; gated feed-forward maps and a head of its own as T5 v1.1.
"""

import math

import torch

from tests.unified_reward.scorers.equations.clip import (
    Draw,
    attention,
    float64,
    gelu,
    image_tokens,
    layer_names,
    layer_norm,
    linear,
)


BUCKETS, FAR, EPS, VISION_EPS = 32, 128, 1e-6, 1e-5
T5 = {"d_model": 48, "d_kv": 16, "d_ff": 64, "num_heads": 4, "num_layers": 2}
TOWER = "vision_tower.vision_tower.vision_model"
EYES, EYE_HEADS, EYE_LAYERS, PATCH, SIDE = 128, 2, 3, 112, 336


def make_clip_flant5(seed, *, rows):
    """Random weights; the three copies of the embeddings are those of one tensor."""
    draw = Draw(seed)
    width, inner = T5["d_model"], T5["num_heads"] * T5["d_kv"]
    state = {"shared.weight": draw.normal(rows, width)}
    for stack in ("encoder", "decoder"):
        for i in range(T5["num_layers"]):
            block = f"{stack}.block.{i}.layer"
            kinds = ["SelfAttention", "EncDecAttention"][: 1 + (stack == "decoder")]
            for j, kind in enumerate(kinds):
                state[f"{block}.{j}.layer_norm.weight"] = draw.normal(width, mean=1.0, std=0.2)
                for part in "qkv":
                    gain = 1.0 if part == "v" else 0.6
                    state[f"{block}.{j}.{kind}.{part}.weight"] = draw.matrix(inner, width, gain)
                state[f"{block}.{j}.{kind}.o.weight"] = draw.matrix(width, inner)
            if i == 0:
                bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
                state[bias] = draw.normal(BUCKETS, T5["num_heads"])
            mlp = f"{block}.{len(kinds)}"
            state[f"{mlp}.layer_norm.weight"] = draw.normal(width, mean=1.0, std=0.2)
            for part in ("wi_0", "wi_1"):
                state[f"{mlp}.DenseReluDense.{part}.weight"] = draw.matrix(T5["d_ff"], width)
            state[f"{mlp}.DenseReluDense.wo.weight"] = draw.matrix(width, T5["d_ff"])
        state[f"{stack}.final_layer_norm.weight"] = draw.normal(width, mean=1.0, std=0.2)
    state["lm_head.weight"] = draw.matrix(rows, width, 0.3)
    return state | _draw_eyes(draw, width)


def _draw_eyes(draw, width):
    state = draw.linear("mm_projector.0", width, EYES)
    state |= draw.linear("mm_projector.2", width, width, 3.0)
    embeddings = f"{TOWER}.embeddings"
    state[f"{embeddings}.class_embedding"] = draw.normal(EYES)
    state[f"{embeddings}.patch_embedding.weight"] = draw.kernel(EYES, PATCH) * 8
    positions = draw.normal((SIDE // PATCH) ** 2 + 1, EYES, std=0.3)
    state[f"{embeddings}.position_embedding.weight"] = positions
    for norm in ("pre_layrnorm", "post_layernorm"):
        state |= draw.norm(f"{TOWER}.{norm}", EYES)
    for layer in (f"{TOWER}.encoder.layers.{i}" for i in range(EYE_LAYERS)):
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            state |= draw.linear(f"{layer}.self_attn.{part}", EYES, EYES)
        for norm in ("layer_norm1", "layer_norm2"):
            state |= draw.norm(f"{layer}.{norm}", EYES)
        state |= draw.linear(f"{layer}.mlp.fc1", 2 * EYES, EYES)
        state |= draw.linear(f"{layer}.mlp.fc2", EYES, 2 * EYES)
    return state


def vqascore(state, pixels, before, after, answer, *, n_tokens, layer=-2):
    """exp of the mean log-probability of an answer, its end included; pixels (3, side, side)."""
    state = float64(state)
    words = state["shared.weight"]
    read = torch.cat([words[before], _see(state, pixels, layer), words[after]])
    read = _stack(state, "encoder", read, None)
    written = _stack(state, "decoder", words[[0, *answer[:-1]]], read)
    logits = (written @ state["lm_head.weight"].T)[:, :n_tokens]
    logs = [row[i] - torch.logsumexp(row, 0) for row, i in zip(logits, answer, strict=True)]
    return math.exp(sum(logs) / len(logs))


def _see(state, pixels, layer):
    parts = ("patch_embedding.weight", "class_embedding", "position_embedding.weight")
    x = image_tokens(pixels[None], *(state[f"{TOWER}.embeddings.{part}"] for part in parts))
    states = [layer_norm(state, f"{TOWER}.pre_layrnorm", x, VISION_EPS)]
    for name in layer_names(state, f"{TOWER}.encoder.layers"):
        x = states[-1]
        normed = layer_norm(state, f"{name}.layer_norm1", x, VISION_EPS)
        mixed = (linear(state, f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
        x = x + linear(state, f"{name}.self_attn.out_proj", attention(*mixed, EYE_HEADS))
        normed = layer_norm(state, f"{name}.layer_norm2", x, VISION_EPS)
        inner = linear(state, f"{name}.mlp.fc1", normed)
        inner = inner * torch.sigmoid(1.702 * inner)
        states.append(x + linear(state, f"{name}.mlp.fc2", inner))
    patches = states[layer][0, 1:]
    return linear(state, "mm_projector.2", gelu(linear(state, "mm_projector.0", patches)))


def _stack(state, name, x, read):
    """Blocks of an encoder, or of a decoder that reads an encoder's output."""
    first = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    bias = _bias(state[first], len(x), both_ways=read is None)
    for block in (f"{layer}.layer" for layer in layer_names(state, f"{name}.block")):
        normed = _rms(state, f"{block}.0.layer_norm", x)
        x = x + _attend(state, f"{block}.0.SelfAttention", normed, normed, bias)
        if read is not None:
            normed = _rms(state, f"{block}.1.layer_norm", x)
            x = x + _attend(state, f"{block}.1.EncDecAttention", normed, read, 0.0)
        mlp = f"{block}.{1 if read is None else 2}"
        normed, maps = _rms(state, f"{mlp}.layer_norm", x), f"{mlp}.DenseReluDense"
        gate = _gelu_tanh(normed @ state[f"{maps}.wi_0.weight"].T)
        x = x + (gate * (normed @ state[f"{maps}.wi_1.weight"].T)) @ state[f"{maps}.wo.weight"].T
    return _rms(state, f"{name}.final_layer_norm", x)


def _attend(state, name, x, read, bias):
    """Not scaled by the width of a head."""
    q, k, v = (
        (tokens @ state[f"{name}.{part}.weight"].T).unflatten(-1, (T5["num_heads"], -1))
        for part, tokens in zip("qkv", (x, read, read), strict=True)
    )
    logits = torch.einsum("ihd,jhd->hij", q, k) + bias
    mixed = torch.einsum("hij,jhd->ihd", logits.softmax(-1), v)
    return mixed.flatten(1) @ state[f"{name}.o.weight"].T


def _bias(table, n, *, both_ways):
    """Bias of each pair of places by the bucket of their distance, shape (heads, n, n)."""
    reach = range(1 - n, n if both_ways else 1)
    by_distance = [table[_bucket(distance, both_ways=both_ways)] for distance in reach]
    by_distance += [torch.full_like(table[0], -math.inf)] * (2 * n - 1 - len(by_distance))
    rows = torch.stack(by_distance).T
    return torch.stack([rows[:, n - 1 - i : 2 * n - 1 - i] for i in range(n)], dim=1)


def _bucket(distance, *, both_ways):
    n = BUCKETS // 2 if both_ways else BUCKETS
    behind = n if both_ways and distance > 0 else 0
    gap = abs(distance)
    if gap < n // 2:
        return behind + gap
    steps = math.log(gap / (n // 2)) / math.log(FAR / (n // 2)) * (n - n // 2)
    return behind + min(n - 1, n // 2 + int(steps))


def _rms(state, name, x):
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * state[f"{name}.weight"]


def _gelu_tanh(x):
    return x / 2 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
