"""CogVLM2 (Hong et al. 2024, arXiv:2408.16500): a tower, and Llama 3 with or without an expert.

All image tokens of a frame share one position. In models with a visual expert they, and the token
before them, have weights of their own in every layer of the language model. Names of tensors are
those of the released safetensors. Knows neither questions nor scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unified_reward.checkpoints.tensor_keys import State, depth, shape
from unified_reward.core.errors import ModelError
from unified_reward.scorers.eva2_clip import TowerSizes, Vision, tower_sizes


Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, shape (key heads, L, head width)."""
_EPS = 1e-5
_LAYER = "model.layers.0"
_QKV = "self_attn.{}_expert_query_key_value.weight"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a CogVLM2."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    key_heads: int
    head: int
    """Width of a head."""
    inner: int
    """Width within the feed-forward maps."""
    tower: TowerSizes
    has_expert: bool
    """True if image tokens have weights of their own."""


def sizes(state: State) -> Sizes:
    """Sizes by the shapes of the tensors, under their names in the released safetensors.

    Raises:
        ModelError: The tensors are not those of a CogVLM2.
    """
    vocabulary, width = shape(state, "model.embed_tokens.weight")
    head = 2 * shape(state, f"{_LAYER}.self_attn.rotary_emb.inv_freq")[0]
    rows = shape(state, f"{_LAYER}.{_QKV.format('language')}")[0]
    if width % head or (rows - width) % (2 * head):
        raise ModelError(
            f"{rows} rows of queries, keys and values for a width of {width} and heads of {head}"
        )
    return Sizes(
        vocabulary=vocabulary,
        width=width,
        layers=depth(state, "model.layers"),
        heads=width // head,
        key_heads=(rows - width) // (2 * head),
        head=head,
        inner=shape(state, f"{_LAYER}.mlp.language_mlp.up_proj.weight")[0],
        tower=tower_sizes(state),
        has_expert=f"{_LAYER}.{_QKV.format('vision')}" in state,
    )


def positions(start: int, image_tokens: int) -> list[int]:
    """Positions of a frame's tokens: its first, its image tokens, its last.

    >>> positions(1, 3)
    [1, 2, 2, 2, 3]
    """
    return [start, *[start + 1] * image_tokens, start + 2]


def expert_mask(image_tokens: int) -> list[bool]:
    """True for the tokens of a frame that the visual expert maps: all but the last.

    >>> expert_mask(2)
    [True, True, True, False]
    """
    return [True] * (1 + image_tokens) + [False]


class CogVLM(nn.Module):
    """Tower and language model; a prefix is computed once for all questions about it."""

    angles: torch.dtype = torch.bfloat16
    """Precision of rotary angles, their cosines and sines; the released code most likely has
    bfloat16, since its frequencies are stored so. float32 multiplies the stored frequencies
    without rounding."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.size = size
        self.model: Any = _Trunk(size)
        self.lm_head = nn.Linear(size.width, size.vocabulary, bias=False)

    def visual_tokens(self, pixels: Tensor) -> Tensor:
        """Tokens of frames, shape (n, image tokens + 2, width), of pixels (n, 3, side, side)."""
        return self.model.vision(pixels)

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings of text tokens, shape (L, width)."""
        table = self.model.embed_tokens
        return table(torch.tensor(ids, device=table.weight.device, dtype=torch.long))

    def encode(
        self, tokens: Tensor, positions: Sequence[int], experts: Sequence[bool] | None = None
    ) -> Cache:
        """Keys and values of a prefix.

        Args:
            tokens: Embeddings, shape (L, width).
            positions: L of them; they may repeat.
            experts: True for each token that the visual expert maps; None if there is no expert.
        """
        return self._run(tokens, positions, experts)[1]

    def last_logits(self, prefix: Cache, questions: Sequence[Sequence[int]], start: int) -> Tensor:
        """Logits at the last token of each question, shape (questions, vocabulary).

        All questions are one sequence in which each attends to the prefix and to itself.

        Args:
            prefix: As `encode` returns it.
            questions: Ids of text tokens, none empty.
            start: Position of the first token of every question.
        """
        lengths = torch.tensor([len(ids) for ids in questions])
        of_question = torch.arange(len(questions)).repeat_interleave(lengths)
        sees = (of_question[:, None] == of_question).tril()
        before = torch.ones(len(sees), prefix[0][0].shape[1], dtype=torch.bool)
        places = [start + i for ids in questions for i in range(len(ids))]
        words = self.embed([token for ids in questions for token in ids])
        mask = torch.cat([before, sees], dim=1).to(words.device)
        hidden, _ = self._run(words, places, None, prefix, mask)
        last = hidden[(lengths.cumsum(0) - 1).to(hidden.device)]
        return self.lm_head(self.model.norm(last))

    def _run(
        self,
        tokens: Tensor,
        positions: Sequence[int],
        experts: Sequence[bool] | None,
        prefix: Cache | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Cache]:
        places = torch.tensor(positions, device=tokens.device)
        is_visual = None if experts is None else torch.tensor(experts, device=tokens.device)
        cache: Cache = []
        for i, layer in enumerate(self.model.layers):
            before = None if prefix is None else prefix[i]
            tables = layer.self_attn.rotary_emb(places, self.angles, tokens.dtype)
            tokens, kept = layer(tokens, tables, is_visual, before, mask)
            cache.append(kept)
        return tokens, cache


class _Trunk(nn.Module):
    """Names of the released tensors; run by `CogVLM`."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(size.vocabulary, size.width)
        self.layers = nn.ModuleList(_Layer(size) for _ in range(size.layers))
        self.norm = _RMSNorm(size.width)
        self.vision = Vision(size.tower)


class _RMSNorm(nn.Module):
    """Scaled and weighted in float32, then rounded once; Llama's of transformers rounds twice."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = _wide(x)
        scaled = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + _EPS)
        return (scaled * _wide(self.weight)).to(x.dtype)


class _Rotary(nn.Module):
    """Frequencies as stored; computed ones differ, since the stored are bfloat16."""

    def __init__(self, head: int) -> None:
        super().__init__()
        self.register_buffer("inv_freq", torch.empty(head // 2))

    def forward(
        self, places: Tensor, angles: torch.dtype, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Cosines and sines, each of shape (L, head width)."""
        frequencies: Any = self.inv_freq
        angle = (places[:, None].to(angles) * frequencies.to(angles)).repeat(1, 2)
        return angle.cos().to(dtype), angle.sin().to(dtype)


class _Attention(nn.Module):
    """Causal attention with fewer keys than queries; rows of the one map are q, k, v."""

    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.size = size
        rows = (size.heads + 2 * size.key_heads) * size.head
        self.rotary_emb = _Rotary(size.head)
        self.language_expert_query_key_value = nn.Linear(size.width, rows, bias=False)
        self.language_expert_dense = nn.Linear(size.width, size.width, bias=False)
        if size.has_expert:
            self.vision_expert_query_key_value = nn.Linear(size.width, rows)
            self.vision_expert_dense = nn.Linear(size.width, size.width, bias=False)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        is_visual: Tensor | None,
        before: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        size = self.size
        maps = ("query_key_value", "dense")
        (mixed, out) = (
            (getattr(self, f"language_expert_{one}"), getattr(self, f"vision_expert_{one}", None))
            for one in maps
        )
        heads = _routed(x, is_visual, *mixed).view(len(x), -1, size.head).transpose(0, 1)
        query, key, value = heads.split([size.heads, size.key_heads, size.key_heads])
        query, key = _rotated(query, *tables), _rotated(key, *tables)
        kept = key, value
        if before is not None:
            key, value = (torch.cat(pair, dim=1) for pair in zip(before, kept, strict=True))
        groups = size.heads // size.key_heads
        read = functional.scaled_dot_product_attention(
            query[None],
            key.repeat_interleave(groups, 0)[None],
            value.repeat_interleave(groups, 0)[None],
            attn_mask=mask,
            is_causal=mask is None,
        )
        return _routed(read[0].transpose(0, 1).flatten(1), is_visual, *out), kept


class _Mlp(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))


class _Layer(nn.Module):
    def __init__(self, size: Sizes) -> None:
        super().__init__()
        self.self_attn = _Attention(size)
        experts = ("language_mlp", "vision_mlp")[: 1 + size.has_expert]
        self.mlp = nn.ModuleDict({name: _Mlp(size.width, size.inner) for name in experts})
        self.input_layernorm = _RMSNorm(size.width)
        self.post_attention_layernorm = _RMSNorm(size.width)

    def forward(
        self,
        x: Tensor,
        tables: tuple[Tensor, Tensor],
        is_visual: Tensor | None,
        before: tuple[Tensor, Tensor] | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        read, kept = self.self_attn(self.input_layernorm(x), tables, is_visual, before, mask)
        x = x + read
        normed = self.post_attention_layernorm(x)
        return x + _routed(normed, is_visual, *self.mlp.values()), kept


def _routed(x: Tensor, is_visual: Tensor | None, language: nn.Module, *visual: Any) -> Tensor:
    """Map each token by the map of its kind; without a mask all are text."""
    if is_visual is None:
        return language(x)
    (expert,) = visual
    text = language(x[~is_visual])
    mapped = text.new_empty(len(x), text.shape[-1])
    mapped[~is_visual] = text
    mapped[is_visual] = expert(x[is_visual])
    return mapped


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    wide = _wide(x)
    low, high = wide.chunk(2, dim=-1)
    turned = torch.cat([-high, low], dim=-1)
    return (wide * _wide(cos) + turned * _wide(sin)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
