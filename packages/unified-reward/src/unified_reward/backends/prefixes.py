"""Requests as a tree of tokens, in which what several share from their start stands once.

Knows tokens, positions and images; neither models nor caches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from unified_reward.backends.image_features import ImageFeatures


class Worth(NamedTuple):
    """Prefixes that are worth sharing."""

    length: int = 32
    """Least tokens of one: a pass behind another has an explicit mask, which takes time."""
    saved: int = 128
    """Least tokens that sharing it saves."""
    behind_images: bool = False
    """True if only prefixes are shared that no images follow."""


Target = tuple[int, tuple[int, int]]
"""A token whose log-probability is wanted, and the request and the choice that it belongs to."""


class Row(NamedTuple):
    """Tokens of a prompt, with all that must agree between prompts that share them."""

    columns: Tensor
    """Shape (2 + kinds + axes, T): ids, images (0 for text), kinds of tokens, positions."""
    images: Sequence[tuple[int, ImageFeatures]]
    """Images with the index of their first token, in order."""
    position: int
    """Position of the next token."""


@dataclass(eq=False)
class Node:
    """Tokens of a row that follow those of a parent."""

    row: Row
    """One of the rows that share them."""
    start: int
    stop: int
    children: list[Node] = field(default_factory=list["Node"])
    ends: list[int] = field(default_factory=list[int])
    """Requests whose prompt ends with the last token."""
    targets: dict[int, list[Target]] = field(default_factory=dict[int, list[Target]])
    """By index of a token, what is wanted of the token behind it."""
    goes_on: bool = False
    """True if tokens that are not known yet will follow."""

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def columns(self) -> Tensor:
        """As of `Row`, shape (…, n)."""
        return self.row.columns[:, self.start : self.stop]

    @property
    def images(self) -> list[ImageFeatures]:
        """Images among the tokens, in order."""
        return [image for place, image in self.row.images if self.start <= place < self.stop]

    @cached_property
    def below(self) -> int:
        """Tokens of all descendants."""
        return sum(len(child) + child.below for child in self.children)

    @property
    def reads(self) -> list[int]:
        """Indices of the tokens behind which something is read."""
        last = [len(self) - 1] if self.ends else []
        return sorted({*self.targets, *last})


def walk(nodes: Sequence[Node]) -> Iterator[Node]:
    """All nodes, each before its children."""
    for node in nodes:
        yield node
        yield from walk(node.children)


def grow(rows: Sequence[Row], worth: Worth) -> list[Node]:
    """Trees of prompts, cut where they part; a request ends in the node that lists its index."""
    nodes = _grown(rows, 0, range(len(rows)))
    return [kept for node in nodes for kept in _dissolved(node, worth)]


def _grown(rows: Sequence[Row], start: int, members: Sequence[int]) -> list[Node]:
    groups: dict[tuple[int, ...], list[int]] = {}
    for i in members:
        groups.setdefault((*rows[i].columns[:, start].tolist(),), []).append(i)
    nodes: list[Node] = []
    for group in groups.values():
        first = rows[group[0]]
        stop = min(_common(first.columns, rows[i].columns, start) for i in group)
        longer = [i for i in group if rows[i].columns.shape[1] > stop]
        ends = [i for i in group if rows[i].columns.shape[1] == stop]
        nodes.append(Node(first, start, stop, _grown(rows, stop, longer), ends))
    return nodes


def _common(first: Tensor, second: Tensor, start: int) -> int:
    """Index at which the columns of two rows part."""
    stop = min(first.shape[1], second.shape[1])
    differs = (first[:, start:stop] != second[:, start:stop]).any(0)
    return start + int(differs.int().argmax()) if differs.any() else stop


def _dissolved(node: Node, worth: Worth) -> list[Node]:
    """Return the node, or its children behind its tokens if it is not worth sharing."""
    node.children = [kept for child in node.children for kept in _dissolved(child, worth)]
    others = len(node.children) + bool(node.ends) - 1
    is_worth = len(node) >= worth.length and len(node) * others >= worth.saved
    if worth.behind_images and any(child.images for child in node.children):
        is_worth = False
    if is_worth or not node.children:
        return [node]
    for child in node.children:
        child.start = node.start
    own = [Node(node.row, node.start, node.stop, ends=node.ends)] if node.ends else []
    return own + node.children


def add_tails(
    node: Node, request: int, tails: Sequence[Sequence[int]], position: int, *, kinds: int
) -> None:
    """Want the log-probability of every token of alternative ends of an answer behind a node.

    Args:
        node: The prompt.
        request: Number of the request; a choice is named by it and by its own index.
        tails: Tokens of each choice.
        position: Position of the first of them.
        kinds: Number of columns that tell kinds of tokens.
    """
    for k, (first, *rest) in enumerate(tails):
        node.targets.setdefault(len(node) - 1, []).append((first, (request, k)))
        if rest:
            tail = text_node([first, *rest[:-1]], position, rows=len(node.columns), kinds=kinds)
            tail.targets = {j: [(token, (request, k))] for j, token in enumerate(rest)}
            node.children.append(tail)


def text_node(tokens: Sequence[int], position: int, *, rows: int, kinds: int) -> Node:
    """Tokens of text from a position on, as columns of so many rows."""
    columns = torch.zeros(rows, len(tokens), dtype=torch.long)
    columns[0] = torch.tensor([*tokens])
    columns[2 + kinds :] = position + torch.arange(len(tokens))
    return Node(Row(columns, (), position + len(tokens)), 0, len(tokens))
