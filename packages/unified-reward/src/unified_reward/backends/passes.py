"""Passes of a model over trees of tokens, depth first, in bounded memory.

A pass continues rows of a cache. Several nodes may stand side by side in one row, behind a mask
that hides them from one another: what follows one long prefix needs no copies of its cache. Where
a model does not see masks, each node has a row of its own, on a copy, and rows of one pass are
equally long.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from unified_reward.backends.attention import check_mask
from unified_reward.backends.batching import FAULTS
from unified_reward.backends.image_features import ImageEncoder, to_device
from unified_reward.backends.prefixes import Node, walk


if TYPE_CHECKING:
    from unified_reward.backends.hf_vlm import VLM

Run = Callable[[dict[str, Any], Tensor], tuple[Any, Tensor]]
"""A pass: from the model's inputs and indices into B * T tokens to the cache and to what is read at
these tokens, one row each."""


class State(NamedTuple):
    """Cached rows."""

    cache: Any
    """None before the first pass."""
    width: int
    """Tokens of a row, with those that are hidden."""


class Tip(NamedTuple):
    """A place in a cache at which something may go on."""

    row: int
    seen: Tensor
    """Tokens of the row that are seen from here, booleans of shape (width,)."""
    length: int
    """Their number."""


class Visit(NamedTuple):
    """A node that a pass has computed."""

    node: Node
    tip: Tip
    read: Tensor
    """Logits, or hidden states, behind each of `Node.reads`, shape (reads, …)."""


class Done(NamedTuple):
    """A pass, while its cache is there."""

    state: State
    visits: list[Visit]
    read: Tensor
    """Logits, or hidden states, of all visits one after the other."""


class Lost(NamedTuple):
    """A node, and all behind it, that could not be computed."""

    node: Node
    error: Exception


class Strip(NamedTuple):
    """Nodes side by side in a row, behind a tip."""

    tip: Tip
    nodes: tuple[Node, ...]
    parents: tuple[int, ...]
    """Index in ``nodes`` of each parent, -1 for the tip."""

    @property
    def length(self) -> int:
        """Tokens of all nodes."""
        return sum(map(len, self.nodes))

    @property
    def is_open(self) -> bool:
        """True if something will follow."""
        return self.leaves_children or any(node.goes_on for node in self.nodes)

    @property
    def leaves_children(self) -> bool:
        """True if the children of its only node are not among its nodes."""
        return len(self.nodes) == 1 and bool(self.nodes[0].children)

    @property
    def requests(self) -> float:
        """Requests that it counts for: four rows with choices count as one."""
        ends = sum(len(node.ends) for node in self.nodes)
        are_tails = all(node.targets and not node.ends for node in self.nodes)
        return min(len(self.nodes) / _ROWS_PER_REQUEST, 1) if are_tails else max(ends, 1)


_ROWS_PER_REQUEST = 4
NOT_NUMBERS = "logits or states of a token are not numbers; try another dtype"
ROOT = Tip(0, torch.zeros(0, dtype=torch.bool), 0)
START = State(None, 0)


@dataclass(frozen=True)
class Limits:
    """Sizes of passes."""

    tokens: int
    """Most tokens in all caches at a time, with padding; a single row may have more, and text that
    is generated takes half as many again."""
    requests: int
    """Most requests in a pass."""
    padding: int
    """Most padding tokens in a pass."""
    packed: float | None
    """Pairs of tokens side by side that take the time of copying a cached token; None if nothing
    stands side by side."""
    packed_least: int
    """Tokens that may stand side by side behind any prefix."""
    pads_roots: bool
    """True if prompts of different lengths share a pass even where each has a row."""


@dataclass(frozen=True)
class TreeWalk:
    """A walk of a model over trees."""

    vlm: VLM
    run: Run
    limits: Limits

    def visit(
        self,
        starts: Sequence[tuple[Tip, Sequence[Node]]],
        state: State = START,
        tokens: int | None = None,
    ) -> Iterator[Done | Lost]:
        """Compute nodes behind tips of cached rows, and all nodes below them.

        Args:
            starts: Tips, and what follows each.
            state: The rows; they stay as they are.
            tokens: Most tokens in new caches; default `Limits.tokens`.
        """
        tokens = self.limits.tokens if tokens is None else tokens
        strips = [strip for tip, nodes in starts for strip in self._strips(tip, nodes)]
        for group in self._groups(strips, state, tokens // 2):
            yield from self._compute(group, state, tokens)

    def _compute(self, strips: Sequence[Strip], state: State, tokens: int) -> Iterator[Done | Lost]:
        try:
            done = self._pass(strips, state)
        except FAULTS as error:
            fault = error.with_traceback(None)
        else:
            yield done
            open_nodes = {id(strip.nodes[0]) for strip in strips if strip.leaves_children}
            starts = [(v.tip, v.node.children) for v in done.visits if id(v.node) in open_nodes]
            left = max(tokens - len(strips) * done.state.width, 0)
            yield from self.visit(starts, done.state, left)
            return
        halves = _halves(strips)
        if not halves:
            yield Lost(strips[0].nodes[0], fault)
        for half in halves:
            yield from self._compute(half, state, tokens)

    def _strips(self, tip: Tip, nodes: Sequence[Node]) -> Iterator[Strip]:
        """Rows for what follows a tip, each node with all below it where that is not much."""
        strip: list[Node] = []
        size = longest = 0
        for node in nodes:
            n = len(node) + node.below
            if not self._is_whole(tip, node):
                yield Strip(tip, (node,), (-1,))
                continue
            longest = max(longest, n)
            if strip and (
                not self._fits(size + n, longest, tip.length)
                or _requests(strip) >= self.limits.requests
            ):
                yield _whole(tip, strip)
                strip, size, longest = [], 0, n
            strip.append(node)
            size += n
        if strip:
            yield _whole(tip, strip)

    def _is_whole(self, tip: Tip, node: Node) -> bool:
        """True if a node shares a row with all below it."""
        if self.limits.packed is None or not node.children:
            return self.limits.packed is not None
        if len(node) + node.below <= self.limits.packed_least:
            return True
        # Without a prefix, a pass over the node alone needs no mask.
        longest = max(len(below) for below in walk(node.children))
        return bool(tip.length) and self._fits(node.below, longest, tip.length + len(node))

    def _fits(self, size: int, longest: int, length: int) -> bool:
        """True if tokens stand side by side behind a prefix, rather than on copies of its cache."""
        packed = self.limits.packed or 0
        return size <= self.limits.packed_least or size * longest <= packed * length

    def _groups(self, strips: Sequence[Strip], state: State, tokens: int) -> Iterator[list[Strip]]:
        """Strips of similar lengths in passes."""
        group: list[Strip] = []
        for strip in sorted(strips, key=lambda one: (one.is_open, one.length)):
            padding = sum(strip.length - other.length for other in group)
            width = state.width + strip.length
            if group and (
                (len(group) + 1) * width > tokens
                or sum(one.requests for one in (*group, strip)) > self.limits.requests
                or padding > self.limits.padding
                or not self._may_share(group[-1], strip, is_root=state.cache is None)
            ):
                yield group
                group = []
            group.append(strip)
        if group:
            yield group

    def _may_share(self, first: Strip, second: Strip, *, is_root: bool) -> bool:
        """True if two strips may share a pass."""
        if first.length == second.length or self.limits.packed is not None:
            return True
        # Padding behind the last tokens of a row does not change what was read before.
        return self.limits.pads_roots if is_root else not (first.is_open or second.is_open)

    def _pass(self, strips: Sequence[Strip], state: State) -> Done:
        laid = _lay_out(strips, is_root=state.cache is None, pad=self.vlm.chat.pad_id)
        nodes = [node for strip in strips for node in strip.nodes]
        before = torch.stack([strip.tip.seen for strip in strips])
        mask = _mask(before, laid)
        inputs = self._inputs(laid.rows, mask, [image for node in nodes for image in node.images])
        if state.cache is not None:
            inputs["cache"] = selected(state.cache, [strip.tip.row for strip in strips])
        # What nothing is read of is computed at one place: some heads take no empty tensor.
        reads = torch.tensor(laid.reads or [0], device=self.vlm.model.device)
        cache, values = self.run(inputs, reads)
        values = values[: len(laid.reads)]
        if laid.reads and not (values < torch.inf).all():
            # A hidden token counts 0 times, and 0 times NaN spoils the nodes beside its own.
            raise ValueError(NOT_NUMBERS)
        parts = values.split([len(node.reads) for node in nodes])
        visits: list[Visit] = []
        for node, (row, last), read in zip(nodes, laid.ends, parts, strict=True):
            own = laid.valid[row] if laid.own is None else laid.own[row, last]
            seen = torch.cat([before[row], own])
            visits.append(Visit(node, Tip(row, seen, int(seen.sum())), read))
        return Done(State(cache, mask.shape[-1]), visits, values)

    def _inputs(self, rows: Tensor, mask: Tensor, images: Sequence[Any]) -> dict[str, Any]:
        encoder = encoder_of(self.vlm)
        check_mask(mask, self.vlm.model.config)
        kinds = len(encoder.type_ids)
        positions = rows[2 + kinds :]
        tokens = {
            "input_ids": rows[0],
            "attention_mask": mask,
            "position_ids": positions if len(positions) > 1 else positions[0],
            **dict(zip(encoder.type_ids, rows[2 : 2 + kinds], strict=True)),
        }
        return to_device(tokens, self.vlm.model) | encoder.join(images)


class _Layout(NamedTuple):
    """New tokens of a pass over B rows."""

    rows: Tensor
    """Columns as of `Row`, shape (…, B, T)."""
    valid: Tensor
    """False for padding, shape (B, T)."""
    own: Tensor | None
    """New tokens that each new token sees, booleans of shape (B, T, T); None where each row has a
    single node."""
    reads: list[int]
    """Indices into B * T tokens at which something is read, by node."""
    ends: list[tuple[int, int]]
    """Row and place of the last token of each node."""


def _lay_out(strips: Sequence[Strip], *, is_root: bool, pad: int) -> _Layout:
    width = max(strip.length for strip in strips)
    first = strips[0].nodes[0].columns
    rows = first.new_zeros(len(first), len(strips), width)
    rows[0] = pad
    valid = torch.zeros(len(strips), width, dtype=torch.bool)
    own = None
    if any(len(strip.nodes) > 1 for strip in strips):
        # A row of padding that sees nothing would be not a number.
        own = torch.eye(width, dtype=torch.bool).repeat(len(strips), 1, 1)
    laid = _Layout(rows, valid, own, [], [])
    for r, strip in enumerate(strips):
        # As everywhere, whole prompts are padded on the left.
        stop = width - strip.length if is_root else 0
        lasts: list[int] = []
        for node, parent in zip(strip.nodes, strip.parents, strict=True):
            start, stop = stop, stop + len(node)
            rows[:, r, start:stop] = node.columns
            valid[r, start:stop] = True
            if own is not None:
                if parent >= 0:
                    own[r, start:stop] = own[r, lasts[parent]]
                own[r, start:stop, start:stop] = torch.ones(len(node), len(node)).tril().bool()
            lasts.append(stop - 1)
            laid.reads.extend(r * width + start + offset for offset in node.reads)
        laid.ends.extend((r, last) for last in lasts)
    return laid


def _mask(before: Tensor, laid: _Layout) -> Tensor:
    """Mask of a pass: (B, C + T) where each row has a single node, else (B, 1, T, C + T)."""
    if laid.own is None:
        return torch.cat([before, laid.valid], 1).long()
    return torch.cat([before[:, None].expand(-1, laid.own.shape[1], -1), laid.own], -1)[:, None]


def encoder_of(vlm: VLM) -> ImageEncoder:
    """Encoder of a model whose requests share prefixes.

    Raises:
        ValueError: It has none.
    """
    if vlm.encoder is None:
        raise ValueError("images are not encoded apart from their requests")
    return vlm.encoder


def check_length(vlm: VLM, length: int, tails: Sequence[Sequence[int]] = ()) -> None:
    """Refuse a prompt that, with the longest of its choices, is longer than the model's context.

    Raises:
        ValueError: It is longer.
    """
    length += max(map(len, tails), default=1) - 1
    if length > vlm.context:
        raise ValueError(
            f"{length} tokens, but the model takes {vlm.context}; shorten the text or "
            "lower max_pixels"
        )


def _requests(nodes: Sequence[Node]) -> int:
    return sum(len(node.ends) for node in walk(nodes))


def _whole(tip: Tip, nodes: Sequence[Node]) -> Strip:
    """Nodes with all below them in one row."""
    flat: list[Node] = []
    parents: list[int] = []

    def add(node: Node, parent: int) -> None:
        flat.append(node)
        parents.append(parent)
        place = len(flat) - 1
        for child in node.children:
            add(child, place)

    for node in nodes:
        add(node, -1)
    return Strip(tip, (*flat,), (*parents,))


def _halves(strips: Sequence[Strip]) -> list[Sequence[Strip]]:
    """Strips in two parts, or the nodes of a single one; nothing where it has only one."""
    if len(strips) > 1:
        half = len(strips) // 2
        return [strips[:half], strips[half:]]
    (strip,) = strips
    if len(strip.nodes) == 1:
        return []
    first = [n for n, parent in zip(strip.nodes, strip.parents, strict=True) if parent < 0]
    return [[Strip(strip.tip, (node,), (-1,))] for node in first]


def selected(cache: Any, rows: Sequence[int]) -> Any:
    """A copy of rows of a cache."""
    found = copy.copy(cache)
    found.layers = [copy.copy(layer) for layer in cache.layers]
    for layer in found.layers:
        for name, value in vars(layer).items():
            if isinstance(value, dict | list):
                setattr(layer, name, copy.copy(value))
        layer.reorder_cache(torch.tensor([*rows]))
    return found


def read_logits(vlm: VLM) -> Run:
    """Pass of a model that reads logits at some tokens, and computes no others."""
    head = vlm.model.get_output_embeddings()

    def run(inputs: dict[str, Any], places: Tensor) -> tuple[Any, Tensor]:
        def at_places(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            (hidden,) = args
            return (hidden.flatten(0, -2)[places.to(hidden.device)][None],)

        hook = head.register_forward_pre_hook(at_places)
        try:
            out = vlm.model(**inputs, use_cache=True)
        finally:
            hook.remove()
        return out.cache, out.logits[0]

    return run


def read_hidden(trunk: Any) -> Run:
    """Pass of a model's trunk that reads hidden states."""

    def run(inputs: dict[str, Any], places: Tensor) -> tuple[Any, Tensor]:
        out = trunk(**inputs, use_cache=True)
        hidden = out.last_hidden_state.flatten(0, 1)
        return out.cache, hidden[places.to(hidden.device)]

    return run
