"""The vision encoder of Idefics2 and VILA1.5, a SigLIP, in float64."""

from torch.nn import functional as F

from tests.unified_reward.scorers.equations.qwen2_vl import (
    attend,
    depth,
    layer_norm,
    linear,
    split_heads,
)


def draw_encoder(draw, prefix, *, width, layers, intermediate, patch, side):
    """Draw weights under the names below `prefix`, for `side` times `side` positions."""
    embeddings, inputs = f"{prefix}.embeddings", 3 * patch**2
    draw.normal(f"{embeddings}.patch_embedding.weight", width, 3, patch, patch, std=inputs**-0.5)
    draw.normal(f"{embeddings}.patch_embedding.bias", width, std=0.3)
    draw.normal(f"{embeddings}.position_embedding.weight", side**2, width)
    for layer in (f"{prefix}.encoder.layers.{i}" for i in range(layers)):
        draw.norm(f"{layer}.layer_norm1", width, bias=True)
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            draw.linear(f"{layer}.self_attn.{name}", width, width, gain=1.5)
        draw.norm(f"{layer}.layer_norm2", width, bias=True)
        draw.linear(f"{layer}.mlp.fc1", intermediate, width)
        draw.linear(f"{layer}.mlp.fc2", width, intermediate)
    draw.norm(f"{prefix}.post_layernorm", width, bias=True)


def encode(state, prefix, patches, places, *, heads, eps, left_out=0):
    """States (n, width) of a picture's patches (n, 3 * patch**2), before the norm at the end.

    Args:
        state: Weights.
        prefix: What their names begin with.
        patches: Pixels of each patch.
        places: (n,), the position of each.
        heads: Attention heads.
        eps: Epsilon of the norms.
        left_out: Layers at the end that are not run.
    """
    embeddings, layers = f"{prefix}.embeddings", f"{prefix}.encoder.layers"
    x = patches @ state[f"{embeddings}.patch_embedding.weight"].double().flatten(1).T
    x = x + state[f"{embeddings}.patch_embedding.bias"].double()
    x = x + state[f"{embeddings}.position_embedding.weight"].double()[places]
    for layer in (f"{layers}.{i}" for i in range(depth(state, layers) - left_out)):
        h = layer_norm(state, f"{layer}.layer_norm1", x, eps)
        q, k, v = (
            split_heads(linear(state, f"{layer}.self_attn.{name}", h), heads)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        x = x + linear(state, f"{layer}.self_attn.out_proj", attend(q, k, v))
        h = linear(state, f"{layer}.mlp.fc1", layer_norm(state, f"{layer}.layer_norm2", x, eps))
        x = x + linear(state, f"{layer}.mlp.fc2", F.gelu(h, approximate="tanh"))
    return x
