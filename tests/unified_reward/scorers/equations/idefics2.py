"""VideoScore, an Idefics2 with a linear head, from the equations: one sequence, in float64."""

import torch

from tests.unified_reward.scorers.equations.qwen2_vl import (
    Draw,
    attend,
    decode,
    depth,
    frequencies,
    gated_mlp,
    layer_norm,
    linear,
    rms_norm,
)
from tests.unified_reward.scorers.equations.siglip import draw_encoder, encode


VISION = "model.vision_model"
PROJECTION = "model.connector.modality_projection"
RESAMPLER = "model.connector.perceiver_resampler"
TEXT = "model.text_model"


def make_videoscore(
    seed,
    *,
    vision_width=32,
    vision_layers=2,
    vision_intermediate=48,
    patch=14,
    image_size=56,
    hidden=64,
    intermediate=96,
    layers=2,
    text_heads=4,
    text_kv_heads=2,
    vocab=200,
    latents=4,
    resampler_layers=2,
    resampler_heads=4,
    resampler_kv_heads=2,
    resampler_head_dim=16,
    scores=5,
):
    """A random state under the names of TIGER-Lab/VideoScore."""
    draw = Draw(seed)
    draw_encoder(
        draw,
        VISION,
        width=vision_width,
        layers=vision_layers,
        intermediate=vision_intermediate,
        patch=patch,
        side=image_size // patch,
    )
    draw.gated_mlp(PROJECTION, vision_width, intermediate, hidden)
    draw.normal(f"{RESAMPLER}.latents", latents, hidden)
    for layer in (f"{RESAMPLER}.layers.{i}" for i in range(resampler_layers)):
        for name in ("input_latents_norm", "input_context_norm", "post_attention_layernorm"):
            draw.norm(f"{layer}.{name}", hidden)
        heads = (resampler_heads, resampler_kv_heads, resampler_head_dim)
        draw.attention(f"{layer}.self_attn", hidden, *heads, bias=False)
        draw.gated_mlp(f"{layer}.mlp", hidden, 4 * hidden)
    draw.norm(f"{RESAMPLER}.norm", hidden)

    heads = (text_heads, text_kv_heads, hidden // text_heads)
    draw.decoder(TEXT, hidden, intermediate, layers, *heads, vocab, bias=False)
    draw.linear("score", scores, hidden)
    return draw.state


def videoscore(
    state,
    ids,
    pixel_values,
    pixel_mask,
    *,
    image_token,
    vision_heads,
    patch,
    image_size,
    resampler_heads,
    resampler_kv_heads,
    resampler_head_dim,
    text_heads,
    text_kv_heads,
    rope_theta=1e4,
    text_eps=1e-5,
    resampler_eps=1e-6,
    vision_eps=1e-6,
):
    """The scores (5,) read at the last token of one sequence.

    Args:
        state: Weights under the names of TIGER-Lab/VideoScore.
        ids: (L,), with as many `image_token` per picture as there are latents.
        pixel_values: (n, 3, H, W), normalised.
        pixel_mask: (n, H, W), one where a picture is, from its top left corner; zero in padding.
        image_token: The id whose embeddings the pictures' features replace, in order.
        vision_heads: Attention heads of the vision encoder.
        patch: Side of a patch in pixels.
        image_size: Side in pixels of the picture that the table of positions covers.
        resampler_heads: Query heads of the perceiver.
        resampler_kv_heads: Key and value heads of the perceiver.
        resampler_head_dim: Size of a head of the perceiver.
        text_heads: Query heads of the language model.
        text_kv_heads: Key and value heads of the language model.
        rope_theta: Base of the rotary frequencies.
        text_eps: Epsilon of the language model's norms.
        resampler_eps: Epsilon of the perceiver's norms.
        vision_eps: Epsilon of the vision encoder's norms.
    """
    side = image_size // patch
    features = []
    for pixels, mask in zip(pixel_values.double(), pixel_mask, strict=True):
        seen = _encode(state, *_patches(pixels, mask, patch), side, vision_heads, vision_eps)
        context = gated_mlp(state, PROJECTION, seen)
        heads = (resampler_heads, resampler_kv_heads, resampler_head_dim)
        features.append(_resample(state, context, *heads, resampler_eps))
    x = state[f"{TEXT}.embed_tokens.weight"].double()[ids]
    x[ids == image_token] = torch.cat(features)
    angles = torch.arange(len(ids))[:, None] * frequencies(x.shape[-1] // text_heads, rope_theta)
    heads = {"heads": text_heads, "kv_heads": text_kv_heads}
    x = decode(state, TEXT, x, angles, **heads, rms_eps=text_eps)
    return linear(state, "score", x[-1])


def _patches(pixels, mask, patch):
    """The whole patches inside the picture, row by row as (rows * columns, 3 * patch**2)."""
    rows, columns = (int(mask.bool().any(axis).sum()) // patch for axis in (1, 0))
    inside = pixels[:, : rows * patch, : columns * patch]
    grid = inside.unflatten(2, (columns, patch)).unflatten(1, (rows, patch))
    return grid.permute(1, 3, 0, 2, 4).reshape(rows * columns, -1), rows, columns


def _encode(state, x, rows, columns, side, heads, eps):
    places = _buckets(rows, side)[:, None] * side + _buckets(columns, side)
    x = encode(state, VISION, x, places.flatten(), heads=heads, eps=eps)
    return layer_norm(state, f"{VISION}.post_layernorm", x, eps)


def _buckets(count, side):
    """Positions, of `side`, of each of `count` patches: i * side // count.

    In transformers' float32, which differs from that at counts 25, 49, 50 and 55 of a side of 70.
    """
    fractions = torch.arange(count, dtype=torch.float32) * (1 / torch.tensor(count))
    boundaries = torch.arange(1 / side, 1, 1 / side)
    return torch.bucketize(fractions.clamp(max=1 - 1e-6), boundaries, right=True)


def _resample(state, context, heads, kv_heads, head_dim, eps):
    """The latents after reading a picture's patches and each other; no positions."""
    x = state[f"{RESAMPLER}.latents"].double()
    for layer in (f"{RESAMPLER}.layers.{i}" for i in range(depth(state, f"{RESAMPLER}.layers"))):
        latents = rms_norm(state, f"{layer}.input_latents_norm", x, eps)
        seen = torch.cat([rms_norm(state, f"{layer}.input_context_norm", context, eps), latents])
        q = linear(state, f"{layer}.self_attn.q_proj", latents).unflatten(-1, (heads, head_dim))
        k, v = (
            linear(state, f"{layer}.self_attn.{name}", seen).unflatten(-1, (kv_heads, head_dim))
            for name in ("k_proj", "v_proj")
        )
        read = attend(*(part.transpose(0, 1) for part in (q, k, v)))
        x = x + linear(state, f"{layer}.self_attn.o_proj", read)
        h = rms_norm(state, f"{layer}.post_attention_layernorm", x, eps)
        x = x + gated_mlp(state, f"{layer}.mlp", h)
    return rms_norm(state, f"{RESAMPLER}.norm", x, eps)
