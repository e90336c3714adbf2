"""ImageReward (BLIP and a chain of affine maps) from its equations, in float64."""

from dataclasses import dataclass

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


SCORE_MEAN, SCORE_STD = 0.16717362830052426, 1.0333394966054072
VISION_EPS, TEXT_EPS = 1e-6, 1e-12
MLP_LAYERS = (0, 2, 4, 6, 7)  # dropout takes the places between


@dataclass(frozen=True, kw_only=True)
class ImageRewardSizes:
    """The sizes of a random ImageReward; the numbers of heads leave no trace in its weights."""

    vision_width: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    vision_intermediate: int = 128
    text_width: int = 48
    text_layers: int = 2
    text_heads: int = 4
    text_intermediate: int = 96
    patch: int = 32
    image_size: int = 224
    vocab: int = 30524
    context: int = 512
    projection: int = 16
    mlp_widths: tuple[int, ...] = (32, 16, 8, 4, 1)

    def __post_init__(self):
        assert self.vision_width % self.vision_heads == 0
        assert self.text_width % self.text_heads == 0
        assert self.image_size % self.patch == 0
        assert len(self.mlp_widths) == len(MLP_LAYERS)

    @property
    def positions(self):
        return (self.image_size // self.patch) ** 2 + 1


def make_imagereward(seed, **sizes):
    """Random weights under the names of ImageReward.pt; the score does not use the projections."""
    size, draw = ImageRewardSizes(**sizes), Draw(seed)
    state = _draw_vision(draw, "blip.visual_encoder", size)
    state |= _draw_text(draw, "blip.text_encoder", size)
    state |= draw.linear("blip.vision_proj", size.projection, size.vision_width)
    state |= draw.linear("blip.text_proj", size.projection, size.text_width)
    inputs = (size.text_width, *size.mlp_widths[:-1])
    for layer, width, outputs in zip(MLP_LAYERS, inputs, size.mlp_widths, strict=True):
        state |= draw.linear(f"mlp.layers.{layer}", outputs, width, gain=1.2)
    return state


def _draw_vision(draw, tower, size):
    width, hidden = size.vision_width, size.vision_intermediate
    state = {
        f"{tower}.cls_token": draw.normal(1, 1, width),
        f"{tower}.pos_embed": draw.normal(1, size.positions, width, std=0.3),
        f"{tower}.patch_embed.proj.weight": draw.kernel(width, size.patch),
        f"{tower}.patch_embed.proj.bias": draw.normal(width, std=0.2),
    }
    for layer in (f"{tower}.blocks.{number}" for number in range(size.vision_layers)):
        state |= draw.norm(f"{layer}.norm1", width)
        state |= draw.linear(f"{layer}.attn.qkv", 3 * width, width, gain=1.5)
        state |= draw.linear(f"{layer}.attn.proj", width, width)
        state |= draw.norm(f"{layer}.norm2", width)
        state |= draw.linear(f"{layer}.mlp.fc1", hidden, width)
        state |= draw.linear(f"{layer}.mlp.fc2", width, hidden)
    return state | draw.norm(f"{tower}.norm", width)


def _draw_text(draw, tower, size):
    width, hidden = size.text_width, size.text_intermediate
    state = {
        f"{tower}.embeddings.position_ids": torch.arange(size.context)[None],
        f"{tower}.embeddings.word_embeddings.weight": draw.normal(size.vocab, width),
        f"{tower}.embeddings.position_embeddings.weight": draw.normal(size.context, width, std=0.3),
    }
    state |= draw.norm(f"{tower}.embeddings.LayerNorm", width)
    for layer in (f"{tower}.encoder.layer.{number}" for number in range(size.text_layers)):
        for kind, source, gain in (
            ("attention", width, 2.0),
            ("crossattention", size.vision_width, 1.0),
        ):
            state |= draw.linear(f"{layer}.{kind}.self.query", width, width, gain=2.0)
            state |= draw.linear(f"{layer}.{kind}.self.key", width, source, gain=2.0)
            state |= draw.linear(f"{layer}.{kind}.self.value", width, source, gain)
            state |= draw.linear(f"{layer}.{kind}.output.dense", width, width)
            state |= draw.norm(f"{layer}.{kind}.output.LayerNorm", width)
        state |= draw.linear(f"{layer}.intermediate.dense", hidden, width)
        state |= draw.linear(f"{layer}.output.dense", width, hidden)
        state |= draw.norm(f"{layer}.output.LayerNorm", width)
    return state


def imagereward_score(state, pixels, ids, mask, *, vision_heads, text_heads):
    """The standardised reward of each picture with the caption in the same row of `ids`."""
    state = float64(state)
    image = _see(state, "blip.visual_encoder", pixels, vision_heads)
    score = _read(state, "blip.text_encoder", ids, mask, image, text_heads)[:, 0]
    for layer in MLP_LAYERS:
        score = linear(state, f"mlp.layers.{layer}", score)
    return (score.squeeze(-1) - SCORE_MEAN) / SCORE_STD


def _see(state, tower, pixels, heads):
    tokens = image_tokens(
        pixels,
        state[f"{tower}.patch_embed.proj.weight"],
        state[f"{tower}.cls_token"],
        state[f"{tower}.pos_embed"],
        state[f"{tower}.patch_embed.proj.bias"],
    )
    for layer in layer_names(state, f"{tower}.blocks"):
        normed = layer_norm(state, f"{layer}.norm1", tokens, VISION_EPS)
        queries, keys, values = linear(state, f"{layer}.attn.qkv", normed).chunk(3, dim=-1)
        attended = attention(queries, keys, values, heads)
        tokens = tokens + linear(state, f"{layer}.attn.proj", attended)
        normed = layer_norm(state, f"{layer}.norm2", tokens, VISION_EPS)
        hidden = gelu(linear(state, f"{layer}.mlp.fc1", normed))
        tokens = tokens + linear(state, f"{layer}.mlp.fc2", hidden)
    return layer_norm(state, f"{tower}.norm", tokens, VISION_EPS)


def _read(state, tower, ids, mask, image, heads):
    words = state[f"{tower}.embeddings.word_embeddings.weight"][ids]
    places = state[f"{tower}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    tokens = layer_norm(state, f"{tower}.embeddings.LayerNorm", words + places, TEXT_EPS)
    real = mask.bool()[:, None, None, :]
    for layer in layer_names(state, f"{tower}.encoder.layer"):
        tokens = _attend(state, f"{layer}.attention", tokens, tokens, heads, real)
        tokens = _attend(state, f"{layer}.crossattention", tokens, image, heads)
        hidden = gelu(linear(state, f"{layer}.intermediate.dense", tokens))
        added = tokens + linear(state, f"{layer}.output.dense", hidden)
        tokens = layer_norm(state, f"{layer}.output.LayerNorm", added, TEXT_EPS)
    return tokens


def _attend(state, name, tokens, source, heads, allowed=None):
    queries = linear(state, f"{name}.self.query", tokens)
    keys, values = (linear(state, f"{name}.self.{part}", source) for part in ("key", "value"))
    attended = attention(queries, keys, values, heads, allowed)
    added = tokens + linear(state, f"{name}.output.dense", attended)
    return layer_norm(state, f"{name}.output.LayerNorm", added, TEXT_EPS)
