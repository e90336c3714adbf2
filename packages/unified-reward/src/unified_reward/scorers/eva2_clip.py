"""EVA2-CLIP tower of CogVLM2, its convolution and adapter (Sun et al. 2023, arXiv:2303.15389).

The tower normalises the output of each sub-layer, ``x + LN(f(x))``, and has no norm at its end.
Names of tensors are those of the released safetensors of CogVLM2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified_reward.checkpoints.tensor_keys import State, depth, shape, square_side
from unified_reward.core.errors import ModelError


_HEAD = 112
_EPS = 1e-6
_MERGED = 2
"""Patches along a side of what the convolution merges."""


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of a tower and of its adapter."""

    width: int
    layers: int
    inner: int
    patch: int
    positions: int
    """Patches and the class token."""
    output: int
    """Width of the language model."""
    adapter_inner: int

    @property
    def image_tokens(self) -> int:
        """Tokens of an image, without the two around them."""
        return (square_side(self.positions) // _MERGED) ** 2

    @property
    def side(self) -> int:
        """Side of an image, in pixels."""
        return square_side(self.positions) * self.patch


def tower_sizes(state: State, stem: str = "model.vision") -> TowerSizes:
    """Sizes by the shapes of the tensors.

    Raises:
        ModelError: The tensors are not those of such a tower.
    """
    width, _, patch, _ = shape(state, f"{stem}.patch_embedding.proj.weight")
    positions = shape(state, f"{stem}.patch_embedding.position_embedding.weight")[0]
    side = square_side(positions)
    if width % _HEAD or side**2 + 1 != positions or side % _MERGED:
        raise ModelError(
            f"a tower of width {width} with {positions} positions is no EVA2-CLIP: heads have a "
            f"width of {_HEAD}, patches fill a square of an even side"
        )
    layers = f"{stem}.transformer.layers"
    output = shape(state, f"{stem}.linear_proj.linear_proj.weight")[0]
    return TowerSizes(
        width=width,
        layers=depth(state, layers),
        inner=shape(state, f"{layers}.0.mlp.fc1.weight")[0],
        patch=patch,
        positions=positions,
        output=output,
        adapter_inner=shape(state, f"{stem}.linear_proj.gate_proj.weight")[0],
    )


class _Patches(nn.Module):
    def __init__(self, size: TowerSizes) -> None:
        super().__init__()
        width, patch = size.width, size.patch
        self.proj = nn.Conv2d(3, width, patch, patch)
        self.cls_embedding = nn.Parameter(torch.empty(1, width))
        self.position_embedding = nn.Embedding(size.positions, width)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.proj(pixels).flatten(2).transpose(1, 2)
        first = self.cls_embedding.expand(len(patches), 1, -1)
        return torch.cat([first, patches], dim=1) + self.position_embedding.weight


class _TowerAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query_key_value = nn.Linear(width, 3 * width)
        self.dense = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.query_key_value(x).unflatten(-1, (3, -1, _HEAD)).permute(2, 0, 3, 1, 4)
        read = functional.scaled_dot_product_attention(*heads)
        return self.dense(read.transpose(1, 2).flatten(2))


class _TowerLayer(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(width, _EPS)
        self.attention = _TowerAttention(width)
        maps = {"fc1": nn.Linear(width, inner), "fc2": nn.Linear(inner, width)}
        self.mlp = nn.ModuleDict(maps)
        self.post_attention_layernorm = nn.LayerNorm(width, _EPS)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.input_layernorm(self.attention(x))
        hidden = self.mlp["fc2"](functional.gelu(self.mlp["fc1"](x)))
        return x + self.post_attention_layernorm(hidden)


class _Adapter(nn.Module):
    def __init__(self, size: TowerSizes) -> None:
        super().__init__()
        self.linear_proj = nn.Linear(size.width, size.output, bias=False)
        self.norm1 = nn.LayerNorm(size.output)
        self.dense_h_to_4h = nn.Linear(size.output, size.adapter_inner, bias=False)
        self.gate_proj = nn.Linear(size.output, size.adapter_inner, bias=False)
        self.dense_4h_to_h = nn.Linear(size.adapter_inner, size.output, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.gelu(self.norm1(self.linear_proj(x)))
        return self.dense_4h_to_h(functional.silu(self.gate_proj(x)) * self.dense_h_to_4h(x))


class Vision(nn.Module):
    """Tower, 2 x 2 convolution, adapter, and a learned token at each end."""

    def __init__(self, size: TowerSizes) -> None:
        super().__init__()
        width = size.width
        self.patch_embedding = _Patches(size)
        layers = (_TowerLayer(width, size.inner) for _ in range(size.layers))
        self.transformer: Any = nn.ModuleDict({"layers": nn.ModuleList(layers)})
        self.linear_proj = _Adapter(size)
        self.conv = nn.Conv2d(width, width, _MERGED, _MERGED)
        self.boi = nn.Parameter(torch.empty(1, 1, size.output))
        self.eoi = nn.Parameter(torch.empty(1, 1, size.output))

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens of shape (n, image tokens + 2, output), of pixels (n, 3, side, side)."""
        x = self.patch_embedding(pixels)
        for layer in self.transformer["layers"]:
            x = layer(x)
        side = square_side(x.shape[1])
        grid = x[:, 1:].transpose(1, 2).unflatten(2, (side, side))
        tokens = self.linear_proj(self.conv(grid).flatten(2).transpose(1, 2))
        first, last = (edge.expand(len(x), 1, -1) for edge in (self.boi, self.eoi))
        return torch.cat([first, tokens, last], dim=1)
