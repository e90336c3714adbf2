"""InternLM2 with partial adapters, and the eyes of InternLM-XComposer-2.5 (arXiv:2407.03320).

A partial adapter (arXiv:2401.16420) adds its low-rank product at image positions alone. Names of
tensors are those of the released files. Knows neither files nor texts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel


_CLIP_HEAD = 64
_MERGED = 2
"""Patches along a side of what is one token of an image."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the language model."""

    width: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    rank: int
    """Rank of the adapters."""
    eps: float
    theta: float
    """Base of the rotary frequencies."""

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads


@dataclass(frozen=True)
class TowerSizes:
    """Sizes of the vision tower, a CLIP."""

    width: int
    inner: int
    layers: int
    patch: int
    side: int
    """Side of an image, in pixels."""


class Partial(nn.Linear):
    """A linear map without bias, plus its adapter at image positions."""

    def __init__(self, inputs: int, outputs: int, rank: int) -> None:
        super().__init__(inputs, outputs, bias=False)
        self.Plora_A = nn.Linear(inputs, rank, bias=False)
        self.Plora_B = nn.Linear(rank, outputs, bias=False)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Map (B, L, inputs); ``seen`` are the image positions among all B * L, ascending."""
        y = functional.linear(x, self.weight)
        added = self.Plora_B(self.Plora_A(x.flatten(0, 1)[seen]))  # alpha / rank is 256 / 256
        return y.flatten(0, 1).index_add(0, seen, added).view_as(y)


class Norm(nn.Module):
    """RMSNorm that returns to the dtype of its input before the weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Causal attention; rows of ``wqkv`` are the queries of a group, its key and its value."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.kv_heads, self.head = size.kv_heads, size.head
        rows = (size.heads + 2 * size.kv_heads) * size.head
        self.wqkv = Partial(size.width, rows, size.rank)
        self.wo = Partial(size.heads * size.head, size.width, size.rank)

    def forward(self, x: Tensor, seen: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Attend to the same and to earlier positions, so that padding at the end is not read."""
        groups = self.wqkv(x, seen).unflatten(-1, (self.kv_heads, -1, self.head))
        q, k, v = groups[..., :-2, :].flatten(2, 3), groups[..., -2, :], groups[..., -1, :]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(
            rotated(q, turns), rotated(k, turns), v, is_causal=True, enable_gqa=True
        )
        return self.wo(y.transpose(1, 2).flatten(2), seen)


class FeedForward(nn.Module):
    """``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.w1 = Partial(size.width, size.inner, size.rank)
        self.w3 = Partial(size.width, size.inner, size.rank)
        self.w2 = Partial(size.inner, size.width, size.rank)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Map every position by itself."""
        return self.w2(functional.silu(self.w1(x, seen)) * self.w3(x, seen), seen)


class Layer(nn.Module):
    """A layer that normalises the input of each of its two parts."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.attention = Attention(size)
        self.feed_forward = FeedForward(size)
        self.attention_norm = Norm(size.width, size.eps)
        self.ffn_norm = Norm(size.width, size.eps)

    def forward(self, x: Tensor, seen: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """States of the next layer, (B, L, width)."""
        x = x + self.attention(self.attention_norm(x), seen, turns)
        return x + self.feed_forward(self.ffn_norm(x), seen)


class InternLM2(nn.Module):
    """The language model, without a head."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.size = size
        self.tok_embeddings = nn.Embedding(size.vocab, size.width)
        self.layers = nn.ModuleList(Layer(size) for _ in range(size.layers))
        self.norm = Norm(size.width, size.eps)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        """Normalised states, (B, L, width), of embeddings x; ``seen`` is that of `Partial`."""
        turns = rotary(x.shape[1], self.size.head, self.size.theta, like=x)
        for layer in self.layers:
            x = layer(x, seen, turns)
        return self.norm(x)


class RewardModel(nn.Module):
    """Vision tower, its projector and separators, language model, and the head of the reward."""

    def __init__(self, size: Sizes, tower: TowerSizes) -> None:
        super().__init__()
        merged = _MERGED**2 * tower.width
        self.side = tower.side // tower.patch // _MERGED
        """Tokens along a side of a tile."""
        self.plora_glb_GN = nn.Parameter(torch.empty(1, 1, merged))
        self.plora_sub_GN = nn.Parameter(torch.empty(1, 1, 1, merged))
        self.model = InternLM2(size)
        self.score = nn.Linear(size.width, 1, bias=False)
        config = CLIPVisionConfig(
            hidden_size=tower.width,
            intermediate_size=tower.inner,
            num_hidden_layers=tower.layers,
            num_attention_heads=tower.width // _CLIP_HEAD,
            image_size=tower.side,
            patch_size=tower.patch,
            layer_norm_eps=1e-5,
            hidden_act="quick_gelu",
        )
        self.vision_model: Any = CLIPVisionModel(config)
        inner = nn.Linear(merged, size.width), nn.GELU(), nn.Linear(size.width, size.width)
        self.vision_proj = nn.Sequential(*inner)

    def see(self, tiles: Tensor, rows: int, columns: int) -> Tensor:
        """Embeddings of an image, (tokens, width), separators included.

        Args:
            tiles: The whole image, then its tiles row by row, (1 + rows * columns, 3, side, side).
            rows: Number of tiles over the height.
            columns: Number of tiles over the width.
        """
        squares = merged(self.vision_model(tiles).last_hidden_state[:, 1:])
        ends = self.plora_sub_GN.flatten(), self.plora_glb_GN.flatten()
        return self.vision_proj(stitched(squares, rows, columns, *ends))

    def rewards(self, x: Tensor, seen: Tensor, last: Tensor) -> Tensor:
        """Rewards, (B, 1), float32.

        Args:
            x: Embeddings, padded at their ends, (B, L, width).
            seen: True where an embedding is of an image or a separator, (B, L).
            last: The position that is read in each row, (B,).
        """
        states = self.model(x, seen.flatten().nonzero().flatten())
        return self.score(states[torch.arange(len(x), device=x.device), last]).float()


def rotary(n: int, width: int, theta: float, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of n positions, (n, width), angles in float32 at least."""
    wide = torch.promote_types(like.dtype, torch.float32)
    frequencies = theta ** (-torch.arange(0, width, 2, dtype=wide, device=like.device) / width)
    angles = torch.outer(torch.arange(n, dtype=wide, device=like.device), frequencies)
    angles = torch.cat([angles, angles], -1)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotated(x: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Turn pairs (i, i + half) of the last dimension."""
    cosines, sines = turns
    first, second = x.chunk(2, -1)
    return x * cosines + torch.cat([-second, first], -1) * sines


def merged(patches: Tensor) -> Tensor:
    """Squares of four patches as one, its upper row first.

    Args:
        patches: Row by row, (n, side * side, channels), side even.

    Returns:
        (n, side / 2, side / 2, 4 * channels)

    >>> merged(torch.arange(16.0)[None, :, None])[0, 0, 1].tolist()
    [2.0, 3.0, 6.0, 7.0]
    """
    half = int(patches.shape[1] ** 0.5) // _MERGED
    grid = patches.unflatten(1, (half, _MERGED, half, _MERGED))
    return grid.transpose(2, 3).flatten(3)


def stitched(
    squares: Tensor, rows: int, columns: int, end_of_row: Tensor, end_of_view: Tensor
) -> Tensor:
    """The whole image, then the tiles as one map, both row by row with a separator behind each row.

    Args:
        squares: Tokens of the whole image and of each tile, (1 + rows * columns, side, side, C).
        rows: Number of tiles over the height.
        columns: Number of tiles over the width.
        end_of_row: Separator behind each row of tokens, (C,).
        end_of_view: Separator between the whole image and the tiles, (C,).

    Returns:
        (tokens, C)
    """
    tiles = squares[1:].unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    views = [
        torch.cat([view, end_of_row.expand(len(view), 1, -1)], 1).flatten(0, 1)
        for view in (squares[0], tiles)
    ]
    return torch.cat([views[0], end_of_view[None], views[1]])
