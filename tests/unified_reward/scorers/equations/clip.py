"""CLIP from its equations, in float64, for both published key layouts of its weights."""

import math
import re
from dataclasses import dataclass

import torch
from torch.nn import functional


# OpenAI's and open_clip's names to those of transformers' CLIPModel, whose "layrnorm" is its own.
HF_NAMES = (
    (r"^visual\.transformer\.resblocks", "vision_model.encoder.layers"),
    (r"^transformer\.resblocks", "text_model.encoder.layers"),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.conv1", "vision_model.embeddings.patch_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^token_embedding", "text_model.embeddings.token_embedding"),
    (r"^visual\.ln_pre", "vision_model.pre_layrnorm"),
    (r"^visual\.ln_post", "vision_model.post_layernorm"),
    (r"^ln_final", "text_model.final_layer_norm"),
    (r"^visual\.proj$", "visual_projection.weight"),
    (r"^text_projection$", "text_projection.weight"),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.attn\.", ".self_attn."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


@dataclass(frozen=True, kw_only=True)
class ClipSizes:
    """The sizes of a random CLIP; the numbers of heads leave no trace in its weights."""

    vision_width: int = 32
    vision_layers: int = 2
    vision_heads: int = 4
    text_width: int = 24
    text_layers: int = 2
    text_heads: int = 2
    embed: int = 16
    patch: int = 32
    image_size: int = 224
    vocab: int = 49408
    context: int = 77
    mlp_ratio: int = 4

    def __post_init__(self):
        assert self.vision_width % self.vision_heads == 0
        assert self.text_width % self.text_heads == 0
        assert self.image_size % self.patch == 0

    @property
    def positions(self):
        return (self.image_size // self.patch) ** 2 + 1


class Draw:
    """Seeded weights that keep activations near one and leave nothing at its initial 0 or 1."""

    def __init__(self, seed):
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape, std=1.0, mean=0.0):
        return mean + std * torch.randn(shape, generator=self._generator)

    def matrix(self, outputs, inputs, gain=1.0):
        return self.normal(outputs, inputs, std=gain / math.sqrt(inputs))

    def linear(self, name, outputs, inputs, gain=1.0):
        return {
            f"{name}.weight": self.matrix(outputs, inputs, gain),
            f"{name}.bias": self.normal(outputs, std=0.2),
        }

    def norm(self, name, width):
        return {
            f"{name}.weight": self.normal(width, mean=1.0, std=0.2),
            f"{name}.bias": self.normal(width, std=0.2),
        }

    def kernel(self, width, patch):
        return self.matrix(width, 3 * patch * patch).reshape(width, 3, patch, patch)


def make_open_clip(seed, **sizes):
    """Random float32 weights under the names that OpenAI and open_clip save."""
    size, draw = ClipSizes(**sizes), Draw(seed)
    state = {
        "logit_scale": draw.normal(mean=math.log(100), std=0.05),
        "visual.proj": draw.matrix(size.embed, size.vision_width).T.contiguous(),
        "text_projection": draw.matrix(size.embed, size.text_width).T.contiguous(),
        "visual.class_embedding": draw.normal(size.vision_width),
        "visual.conv1.weight": draw.kernel(size.vision_width, size.patch),
        "visual.positional_embedding": draw.normal(size.positions, size.vision_width, std=0.3),
        "token_embedding.weight": draw.normal(size.vocab, size.text_width),
        "positional_embedding": draw.normal(size.context, size.text_width, std=0.3),
    }
    for norm in ("ln_pre", "ln_post"):
        state |= draw.norm(f"visual.{norm}", size.vision_width)
    state |= draw.norm("ln_final", size.text_width)
    for tower, layers, width in (
        ("visual.transformer", size.vision_layers, size.vision_width),
        ("transformer", size.text_layers, size.text_width),
    ):
        for layer in range(layers):
            state |= _draw_layer(draw, f"{tower}.resblocks.{layer}", width, size.mlp_ratio)
    return state


def _draw_layer(draw, prefix, width, mlp_ratio):
    state = {
        f"{prefix}.attn.in_proj_weight": torch.cat(
            [draw.matrix(width, width, gain) for gain in (2.0, 2.0, 1.0)]
        ),
        f"{prefix}.attn.in_proj_bias": draw.normal(3 * width, std=0.2),
    }
    state |= draw.linear(f"{prefix}.attn.out_proj", width, width)
    for name in ("ln_1", "ln_2"):
        state |= draw.norm(f"{prefix}.{name}", width)
    state |= draw.linear(f"{prefix}.mlp.c_fc", width * mlp_ratio, width)
    return state | draw.linear(f"{prefix}.mlp.c_proj", width, width * mlp_ratio)


def make_hf_clip(seed, **sizes):
    """The weights of `make_open_clip` under the names that transformers' `CLIPModel` saves."""
    return _with_hf_names(make_open_clip(seed, **sizes))


def _with_hf_names(state):
    renamed = {}
    for name, weight in state.items():
        hf_name = name
        for pattern, replacement in HF_NAMES:
            hf_name = re.sub(pattern, replacement, hf_name)
        if ".in_proj_" in name:
            for part, rows in zip("qkv", weight.chunk(3), strict=True):
                renamed[hf_name.replace("in_proj_", f"{part}_proj.")] = rows.clone()
        else:
            transposed = name in ("visual.proj", "text_projection")
            renamed[hf_name] = weight.T.contiguous() if transposed else weight
    return renamed


def open_clip_features(state, pixels, ids, *, vision_heads, text_heads, quick_gelu):
    """Unnormalised (image, text) features from weights named as in `make_open_clip`."""
    return hf_clip_features(
        _with_hf_names(state),
        pixels,
        ids,
        vision_heads=vision_heads,
        text_heads=text_heads,
        quick_gelu=quick_gelu,
    )


def hf_clip_features(state, pixels, ids, *, vision_heads, text_heads, quick_gelu, eps=1e-5):
    """Unnormalised (image, text) features from weights named as in `make_hf_clip`."""
    state = float64(state)
    activation = _quick_gelu if quick_gelu else gelu
    parts = ("patch_embedding.weight", "class_embedding", "position_embedding.weight")
    tokens = image_tokens(pixels, *(state[f"vision_model.embeddings.{part}"] for part in parts))
    tokens = layer_norm(state, "vision_model.pre_layrnorm", tokens, eps)
    for layer in layer_names(state, "vision_model.encoder.layers"):
        tokens = _layer(state, layer, tokens, vision_heads, activation, eps)
    image = layer_norm(state, "vision_model.post_layernorm", tokens[:, 0], eps)

    length = ids.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    tokens = state["text_model.embeddings.token_embedding.weight"][ids]
    tokens = tokens + state["text_model.embeddings.position_embedding.weight"][:length]
    for layer in layer_names(state, "text_model.encoder.layers"):
        tokens = _layer(state, layer, tokens, text_heads, activation, eps, causal)
    pooled = tokens[torch.arange(len(ids)), _first_of_the_largest(ids)]
    text = layer_norm(state, "text_model.final_layer_norm", pooled, eps)

    return image @ state["visual_projection.weight"].T, text @ state["text_projection.weight"].T


def vision_states(state, prefix, pixels, *, heads, eps=1e-5):
    """States (n, 1 + patches, width) of a tower with quick_gelu, before the norm at its end."""
    state = float64({name: weight for name, weight in state.items() if name.startswith(prefix)})
    parts = ("patch_embedding.weight", "class_embedding", "position_embedding.weight")
    tokens = image_tokens(pixels, *(state[f"{prefix}.embeddings.{part}"] for part in parts))
    tokens = layer_norm(state, f"{prefix}.pre_layrnorm", tokens, eps)
    for layer in layer_names(state, f"{prefix}.encoder.layers"):
        tokens = _layer(state, layer, tokens, heads, _quick_gelu, eps)
    return tokens


def cosine(image_features, text_features):
    """The cosine of each row of one with the same row of the other."""
    products = (image_features * text_features).sum(dim=-1)
    return products / (image_features.norm(dim=-1) * text_features.norm(dim=-1))


def _layer(state, name, tokens, heads, activation, eps, allowed=None):
    normed = layer_norm(state, f"{name}.layer_norm1", tokens, eps)
    projected = (linear(state, f"{name}.self_attn.{part}_proj", normed) for part in "qkv")
    attended = attention(*projected, heads, allowed)
    tokens = tokens + linear(state, f"{name}.self_attn.out_proj", attended)
    normed = layer_norm(state, f"{name}.layer_norm2", tokens, eps)
    hidden = activation(linear(state, f"{name}.mlp.fc1", normed))
    return tokens + linear(state, f"{name}.mlp.fc2", hidden)


def _first_of_the_largest(ids):
    largest = ids == ids.max(dim=1, keepdim=True).values
    return torch.where(largest, torch.arange(ids.shape[1]), ids.shape[1]).min(dim=1).values


def _quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def float64(state):
    return {name: weight.double() for name, weight in state.items()}


def layer_names(state, prefix):
    """The prefixes of a stack's layers, in order."""
    tails = (name.removeprefix(f"{prefix}.") for name in state if name.startswith(f"{prefix}."))
    return [f"{prefix}.{number}" for number in sorted({int(tail.split(".")[0]) for tail in tails})]


def image_tokens(pixels, kernel, class_token, positions, bias=None):
    """The class token and one token for each patch, row by row, each with its position added."""
    patches = functional.conv2d(pixels.double(), kernel, bias, stride=kernel.shape[-1])
    patches = patches.flatten(2).transpose(1, 2)
    return torch.cat([class_token.expand(len(patches), 1, -1), patches], dim=1) + positions


def attention(queries, keys, values, heads, allowed=None):
    """Softmax attention in equal slices of the width; `allowed` is true where a query may look."""
    queries, keys, values = (
        tokens.unflatten(-1, (heads, -1)).transpose(1, 2) for tokens in (queries, keys, values)
    )
    logits = queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -math.inf)
    return (logits.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)


def linear(state, name, tokens):
    return tokens @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def layer_norm(state, name, tokens, eps):
    centred = tokens - tokens.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    scaled = centred / (variance + eps).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2
