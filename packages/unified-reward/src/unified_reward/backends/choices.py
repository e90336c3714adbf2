"""Log-probabilities of the choices of a request, in three ways of which the later are slower.

``packed``: one pass over the prompt, then the rest of every choice side by side in one row, behind
a mask. ``rows``: the rest of every choice as a row of its own, on copies of the cache. ``whole``:
a pass over prompt and choice for every choice, without a cache. Only the last is right for any
model; see `backends.equivalence`.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from unified_reward.backends.attention import check_mask
from unified_reward.backends.passes import check_length
from unified_reward.core.requests import Request


if TYPE_CHECKING:
    from unified_reward.backends.hf_vlm import VLM

Way = Literal["packed", "rows", "whole"]
Heads = Sequence[tuple[Request, str]]
"""Requests, each with the text that was generated before its choice."""
Prompt = tuple[Request, Sequence[int]]
"""A request with the first tokens of its answer."""
Tails = Sequence[Sequence[int]]
"""Tokens of alternative ends of an answer."""
_CACHED_TOKENS = 32_768
"""Most tokens in copies of caches at a time; one takes 60 to 150 kB in a model of 7B parameters."""
_ROWS_PER_REQUEST = 4
"""Most rows in a pass for each request of a batch."""


def score_choices(vlm: VLM, heads: Heads, way: Way) -> list[tuple[float, ...]]:
    """Log-probability of each choice of each request, given the text generated before it.

    Each choice is tokenised whole and closed with the end token, so "10" and "100" differ however
    the tokenizer splits them. Tokens that all choices share, and that thus decide nothing, are not
    counted.
    """
    split = [vlm.chat.split_choices(head, request.choices) for request, head in heads]
    prompts = [(request, shared) for (request, _), (shared, _) in zip(heads, split, strict=True)]
    return score_tails(vlm, prompts, [tails for _, tails in split], way)


def score_first_tokens(
    vlm: VLM, heads: Heads, choices: Sequence[Sequence[str]]
) -> list[tuple[float, ...] | None]:
    """Log-probability of the first token of each choice, given the text generated before it.

    For choices in the middle of an answer, which something else follows. None where two of them
    begin with the same token.
    """
    split = [
        vlm.chat.split_choices(head, each) for (_, head), each in zip(heads, choices, strict=True)
    ]
    inputs = vlm.inputs([request for request, _ in heads], [shared for shared, _ in split])
    logprobs = vlm.logits(inputs, 1)[:, -1].float().log_softmax(-1)
    rows: list[tuple[float, ...] | None] = []
    for (_, tails), row in zip(split, logprobs, strict=True):
        first = [tail[0] for tail in tails]
        is_distinct = len({*first}) == len(first)
        rows.append(tuple(row[first].tolist()) if is_distinct else None)
    return rows


def score_tails(
    vlm: VLM, prompts: Sequence[Prompt], tails: Sequence[Tails], way: Way
) -> list[tuple[float, ...]]:
    """Log-probability of each tail behind each prompt."""
    if way == "whole":
        return _score_whole(vlm, prompts, tails)
    inputs = vlm.inputs([request for request, _ in prompts], [shared for _, shared in prompts])
    for mask, rows in zip(inputs["attention_mask"], tails, strict=True):
        check_length(vlm, int(mask.sum()), rows)
    positions = vlm.position_ids(inputs)
    out = vlm.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)
    first = out.logits[:, -1].float().log_softmax(-1)
    rest = [[0.0] * len(rows) for rows in tails]
    if any(len(row) > 1 for rows in tails for row in rows):
        prefill = _Prefill(vlm, out.cache, inputs["attention_mask"], _next(positions))
        rest = (_score_packed if way == "packed" else _score_rows)(prefill, tails)
    return [
        tuple(float(start[row[0]]) + rest for row, rest in zip(rows, rests, strict=True))
        for start, rows, rests in zip(first, tails, rest, strict=True)
    ]


class _Prefill(NamedTuple):
    """A pass over B prompts."""

    vlm: VLM
    cache: Any
    mask: Tensor
    """Shape (B, T)."""
    position: Tensor
    """Position of the next token, shape (B, 1), or (axes, B, 1) for M-RoPE."""


def _next(positions: Tensor) -> Tensor:
    """The position behind the last of each row, over all axes: text advances all axes alike."""
    last = positions.amax(-1, keepdim=True) + 1
    return last.amax(0, keepdim=True).expand_as(last) if last.dim() == 3 else last


def _score_whole(
    vlm: VLM, prompts: Sequence[Prompt], tails: Sequence[Tails]
) -> list[tuple[float, ...]]:
    jobs = [
        (request, shared, row)
        for (request, shared), rows in zip(prompts, tails, strict=True)
        for row in rows
    ]
    most = vlm.batch_size if vlm.ways.padding else 1
    sums: list[float] = []
    for start in range(0, len(jobs), most):
        part = jobs[start : start + most]
        inputs = vlm.inputs([job[0] for job in part], [[*job[1], *job[2]] for job in part])
        keep = max(len(row) for _, _, row in part) + 1
        logits = vlm.logits(inputs, keep)
        for (_, _, row), predicted in zip(part, logits, strict=True):
            sums.append(sum(_logprobs(predicted[-len(row) - 1 :], row)))
    values = iter(sums)
    return [tuple(next(values) for _ in rows) for rows in tails]


def _score_rows(prefill: _Prefill, tails: Sequence[Tails]) -> list[list[float]]:
    """Log-probability of all but the first token of each tail, each on a copy of its cache.

    Beside the caches of B prompts of T tokens there are copies for at most `_CACHED_TOKENS` / T
    rows at a time, or a single one, and none for the last rows, which take the prompts' place.
    """
    longer = [
        (i, k, row) for i, rows in enumerate(tails) for k, row in enumerate(rows) if len(row) > 1
    ]
    most = max(_CACHED_TOKENS // prefill.mask.shape[1], 1)
    most = min(most, _ROWS_PER_REQUEST * prefill.vlm.batch_size)
    sums = [[0.0] * len(group) for group in tails]
    for start in range(0, len(longer), most):
        part = longer[start : start + most]
        owners = torch.tensor([i for i, _, _ in part], device=prefill.mask.device)
        if start + most < len(longer):
            cache = _copied(prefill.cache, owners)
        else:
            cache = prefill.cache
            cache.reorder_cache(owners)
        ids = _padded([row[:-1] for _, _, row in part], prefill, prefill.vlm.chat.pad_id)
        valid = _padded([[1] * (len(row) - 1) for _, _, row in part], prefill, 0)
        steps = torch.arange(ids.shape[1], device=ids.device)
        logits = _continue(
            prefill.vlm,
            ids,
            torch.cat([prefill.mask[owners], valid], -1),
            prefill.position[..., owners, :] + steps,
            cache,
        )
        for (i, k, row), predicted in zip(part, logits, strict=True):
            sums[i][k] = sum(_logprobs(predicted, row[1:]))
    return sums


def _copied(cache: Any, owners: Tensor) -> Any:
    """A copy of a cache with rows of the owners, made layer by layer, as two would take memory."""
    rows = copy.copy(cache)
    rows.layers = []
    for layer in cache.layers:
        rows.layers.append(copy.deepcopy(layer))
        rows.layers[-1].reorder_cache(owners)
    return rows


def _score_packed(prefill: _Prefill, tails: Sequence[Tails]) -> list[list[float]]:
    """Log-probability of all but the first token of each tail, side by side in one row."""
    ids = _padded(
        [[token for row in rows for token in row[:-1]] for rows in tails],
        prefill,
        prefill.vlm.chat.pad_id,
    )
    owner = _padded(
        [[k for k, row in enumerate(rows) for _ in row[:-1]] for rows in tails], prefill, -1
    )
    steps = _padded(
        [[j for row in rows for j in range(len(row) - 1)] for rows in tails], prefill, 0
    )
    is_own = owner[:, :, None] == owner[:, None, :]
    attends = is_own & (steps[:, :, None] >= steps[:, None, :])
    before = prefill.mask.bool()[:, None, :].expand(-1, ids.shape[1], -1)
    mask = torch.cat([before, attends], -1)[:, None]
    logits = _continue(prefill.vlm, ids, mask, prefill.position + steps, prefill.cache)
    sums: list[list[float]] = []
    for predicted, rows in zip(logits, tails, strict=True):
        values = iter(_logprobs(predicted, [token for row in rows for token in row[1:]]))
        sums.append([sum(next(values) for _ in row[1:]) for row in rows])
    return sums


def _logprobs(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probability of each token, from logits of shape (T, vocabulary) before it and more."""
    # Row by row: a batch of 16 with 101 choices each would take 5 GB at 150,000 tokens.
    logprobs = logits[: len(tokens)].float().log_softmax(-1)
    return logprobs[range(len(tokens)), [*tokens]].tolist()


def _continue(vlm: VLM, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
    """Logits behind each of ids, shape (B, T, vocabulary).

    Raises:
        ValueError: The mask has a row for each token, and the attention is a Flash Attention.
    """
    check_mask(mask, vlm.model.config)
    return vlm.model(
        input_ids=ids, attention_mask=mask, position_ids=positions, cache=cache, use_cache=True
    ).logits


def _padded(rows: Sequence[Sequence[int]], prefill: _Prefill, fill: int) -> Tensor:
    """Rows of integers, padded on the right."""
    tensors = [torch.tensor([*row], dtype=torch.long) for row in rows]
    return pad_sequence(tensors, batch_first=True, padding_value=fill).to(prefill.mask.device)
