"""Answers of a model to many requests, whose common prefixes are computed once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unified_reward.backends.batching import FAULTS, bisect_failures
from unified_reward.backends.image_features import ImageFeatures
from unified_reward.backends.passes import (
    NOT_NUMBERS,
    ROOT,
    Done,
    Limits,
    Lost,
    State,
    Tip,
    TreeWalk,
    Visit,
    check_length,
    encoder_of,
    read_hidden,
    read_logits,
    selected,
)
from unified_reward.backends.prefixes import (
    Node,
    Row,
    Target,
    Worth,
    add_tails,
    grow,
    text_node,
    walk,
)
from unified_reward.core.errors import one_line
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed


if TYPE_CHECKING:
    from unified_reward.backends.hf_vlm import VLM


Split = tuple[Sequence[int], Sequence[Sequence[int]]]
"""First tokens of an answer, and those of each choice behind them."""
_ROWS = 32
"""Rows of logits that are normalised together: 20 MB of 150,000 tokens."""


def row_of(vlm: VLM, request: Request, features: Sequence[ImageFeatures], answer: Split) -> Row:
    """Tokens, images and positions of a prompt with the first tokens of its answer.

    Raises:
        ValueError: A text cannot be encoded, or is longer than the model's context.
    """
    continuation, tails = answer
    encoder = encoder_of(vlm)
    kinds = encoder.type_ids
    texts = [image.text for image in features]
    inputs = vlm.chat.batch_texts(
        [request], [texts], [continuation], token=encoder.token, types=kinds
    )
    positional = {name for image in features for name in image.inputs}
    positions = vlm.position_ids(
        inputs
        | {name: torch.cat([one.inputs[name].cpu() for one in features]) for name in positional}
    )
    ids = inputs["input_ids"]
    is_image = (ids[0] == encoder.token).nonzero().flatten()
    counts = [sum(text.runs) for text in texts]
    images = torch.zeros_like(ids)
    names = torch.tensor([id(image) for image in features], dtype=torch.long)
    images[0, is_image] = names.repeat_interleave(torch.tensor(counts, dtype=torch.long))
    firsts = [int(is_image[sum(counts[:i])]) for i in range(len(counts))]
    check_length(vlm, ids.shape[1], tails)
    columns = torch.cat([ids, images, *(inputs[name] for name in kinds), positions.flatten(0, -2)])
    places = [*zip(firsts, features, strict=True)]
    return Row(columns, places, int(positions.max()) + 1)


class Answers:
    """Answers to requests, computed by one walk over the tree of their prompts."""

    def __init__(self, vlm: VLM, requests: Sequence[Request], limits: Limits) -> None:
        self._vlm = vlm
        self._requests = requests
        self._limits = limits
        self._kinds = len(encoder_of(vlm).type_ids)
        self._walk = TreeWalk(vlm, read_logits(vlm), limits)
        self._sums: list[list[float]] = []
        """By question, the log-probability of each choice."""
        self._questions: dict[int, int] = {}
        """By request, the number of its question."""
        self._places: dict[tuple[int, int], int | None] = {}
        """By request and place, the same; None where choices begin alike."""
        self._texts: dict[int, str] = {}
        self._failures: dict[int, Failed] = {}
        self._rows: dict[int, Row] = {}

    def grow(self, worth: Worth) -> list[Node]:
        """Trees of the requests that are not bad.

        Args:
            worth: Prefixes that are shared.
        """
        split = bisect_failures([*self._requests], self._split, self._vlm.name)
        rows = rows_of(self._vlm, self._requests, split)
        tails = [() if isinstance(parts, Failed) else parts[1] for parts in split]
        self._rows = {i: row for i, row in enumerate(rows) if not isinstance(row, Failed)}
        nodes = _trees(rows, worth)
        for node in [*walk(nodes)]:
            for i in node.ends:
                if is_generated(self._requests[i]):
                    node.goes_on = True
                else:
                    self._questions[i] = len(self._sums)
                    self._add_tails(node, tails[i], self._rows[i].position)
        self._failures = {i: row for i, row in enumerate(rows) if isinstance(row, Failed)}
        return nodes

    def read(self, nodes: Sequence[Node]) -> list[Answer | Failed]:
        """Answer to each request, by passes over its trees; one bad request fails alone."""
        self._read(self._walk.visit([(ROOT, nodes)]))
        return [self._answer(i) for i in range(len(self._requests))]

    def _split(self, requests: list[Request]) -> list[Split]:
        return [
            ([], []) if is_generated(request) else self._vlm.chat.split_choices("", request.choices)
            for request in requests
        ]

    def _add_tails(self, node: Node, tails: Sequence[Sequence[int]], position: int) -> None:
        add_tails(node, len(self._sums), tails, position, kinds=self._kinds)
        self._sums.append([0.0] * len(tails))

    def _read(self, passes: Iterable[Done | Lost]) -> None:
        for done in passes:
            if isinstance(done, Lost):
                self._lose(done)
            else:
                try:
                    self._take(done)
                except FAULTS as error:
                    for visit in done.visits:
                        self._lose(Lost(visit.node, error))
            del done  # its cache, while the next pass is computed

    def _take(self, done: Done) -> None:
        """Count what a pass has read, and generate what goes on from it."""
        nodes = [visit.node for visit in done.visits]
        wanted = [node.targets.get(offset, ()) for node in nodes for offset in node.reads]
        self._count(wanted, done.read)
        jobs = [
            (i, visit)
            for visit in done.visits
            for i in visit.node.ends
            if is_generated(self._requests[i])
        ]
        if jobs:
            self._generate(jobs, done.state)

    def _count(self, wanted: Sequence[Sequence[Target]], logits: Tensor) -> None:
        """Add log-probabilities of the tokens wanted behind each row of logits."""
        for start in range(0, len(wanted), _ROWS):
            flat = [(r, *one) for r, row in enumerate(wanted[start : start + _ROWS]) for one in row]
            if not flat:
                continue
            logprobs = logits[start : start + _ROWS].float().log_softmax(-1)
            found = logprobs[[r for r, _, _ in flat], [token for _, token, _ in flat]].tolist()
            for (_, _, (question, k)), value in zip(flat, found, strict=True):
                self._sums[question][k] += value

    def _lose(self, lost: Lost) -> None:
        questions = {
            q for node in walk([lost.node]) for t in node.targets.values() for _, (q, _) in t
        }
        ends = {i for node in walk([lost.node]) for i in node.ends}
        ends |= {i for i, q in self._questions.items() if q in questions}
        ends |= {i for (i, _), q in self._places.items() if q in questions}
        for i in ends:
            self._fail(i, lost.error)

    def _fail(self, request: int, error: Exception) -> None:
        self._failures.setdefault(request, failure_of(self._vlm, error))

    def _generate(self, jobs: Sequence[tuple[int, Visit]], state: State) -> None:
        """Generate text behind prompts, and ask what follows it."""
        longest = max(self._requests[i].max_new_tokens for i, _ in jobs)
        most = max(self._limits.tokens // 2 // (state.width + longest), 1)
        most = min(most, self._limits.requests)
        starts: list[tuple[Tip, list[Node]]] = []
        for start in range(0, len(jobs), most):
            part = [*jobs[start : start + most]]
            texts = bisect_failures(part, lambda some: self._texts_of(some, state), self._vlm.name)
            for (i, visit), text in zip(part, texts, strict=True):
                if isinstance(text, Failed):
                    self._failures.setdefault(i, text)
                    continue
                self._texts[i] = text
                try:
                    starts.append((visit.tip, self._behind(i, visit, text)))
                except FAULTS as error:
                    self._fail(i, error)
        self._read(
            self._walk.visit([one for one in starts if one[1]], state, self._limits.tokens // 2)
        )

    def _texts_of(self, jobs: Sequence[tuple[int, Visit]], state: State) -> list[str]:
        tips = [visit.tip for _, visit in jobs]
        first = torch.stack([visit.read[-1] for _, visit in jobs])
        positions = [self._rows[i].position for i, _ in jobs]
        limits = [self._requests[i].max_new_tokens for i, _ in jobs]
        axes = len(jobs[0][1].node.columns) - 2 - self._kinds
        return self._vlm.chat.decode(greedy(self._vlm, state, tips, first, positions, limits, axes))

    def _behind(self, request: int, visit: Visit, text: str) -> list[Node]:
        """Return what is asked behind a generated text, as nodes behind its prompt."""
        nodes: list[Node] = []
        given = self._requests[request]
        if head := head_of(given, text):
            self._questions[request] = len(self._sums)
            shared, tails = self._vlm.chat.split_choices(head, given.choices)
            nodes += self._asked(request, visit, shared, tails)
        for k, before, choices in heads_of_places(given, text):
            shared, tails = self._vlm.chat.split_choices(before, choices)
            first = [tail[:1] for tail in tails]
            is_distinct = len({token for (token,) in first}) == len(first)
            self._places[request, k] = len(self._sums) if is_distinct else None
            if is_distinct:
                nodes += self._asked(request, visit, shared, first)
        return nodes

    def _asked(
        self, request: int, visit: Visit, shared: Sequence[int], tails: Sequence[Sequence[int]]
    ) -> list[Node]:
        check_length(self._vlm, self._rows[request].columns.shape[1] + len(shared), tails)
        position = self._rows[request].position
        rows = len(visit.node.columns)
        if shared:
            node = text_node(shared, position, rows=rows, kinds=self._kinds)
            self._add_tails(node, tails, position + len(shared))
            return [node]
        prompt = Node(visit.node.row, visit.node.start, visit.node.stop)
        self._add_tails(prompt, tails, position)
        self._count([prompt.targets[len(prompt) - 1]], visit.read[-1:])
        return prompt.children

    def _answer(self, i: int) -> Answer | Failed:
        if i in self._failures:
            return self._failures[i]
        request = self._requests[i]
        question = self._questions.get(i)
        logprobs = None if question is None else (*self._sums[question],)
        places = [self._places.get((i, k)) for k in range(len(request.places))]
        at_places = tuple(None if q is None else (*self._sums[q],) for q in places)
        try:
            return to_answer(request, self._texts.get(i, ""), logprobs, at_places)
        except FAULTS as error:
            self._fail(i, error)
            return self._failures[i]


def hidden_of(
    vlm: VLM, trunk: Any, requests: Sequence[Request], limits: Limits, worth: Worth
) -> list[Tensor | Failed]:
    """Hidden state of the last token of each prompt, shape (width,); one bad request fails alone.

    Args:
        vlm: The model.
        trunk: Its part that gives hidden states.
        requests: Prompts.
        limits: Sizes of passes.
        worth: Prefixes that are shared.
    """
    rows = rows_of(vlm, requests, [((), ())] * len(requests))
    found: list[Tensor | Failed | None] = [row if isinstance(row, Failed) else None for row in rows]
    nodes = _trees(rows, worth)
    for done in TreeWalk(vlm, read_hidden(trunk), limits).visit([(ROOT, nodes)]):
        if isinstance(done, Lost):
            for i in {i for node in walk([done.node]) for i in node.ends}:
                found[i] = failure_of(vlm, done.error)
            continue
        for visit in done.visits:
            for i in visit.node.ends:
                found[i] = visit.read[-1]
    return [Failed("not computed") if one is None else one for one in found]


def rows_of(
    vlm: VLM, requests: Sequence[Request], answers: Sequence[Split | Failed]
) -> list[Row | Failed]:
    """Rows of prompts with the first tokens of their answers; one bad request fails alone."""
    encoded = bisect_failures(
        [request.images for request in requests], encoder_of(vlm).encode, vlm.name
    )
    rows: list[Row | Failed] = []
    for request, features, answer in zip(requests, encoded, answers, strict=True):
        if isinstance(answer, Failed):
            rows.append(answer)
        elif isinstance(features, Failed):
            rows.append(features)
        else:
            try:
                rows.append(row_of(vlm, request, features, answer))
            except FAULTS as error:
                rows.append(failure_of(vlm, error))
    return rows


def _trees(rows: Sequence[Row | Failed], worth: Worth) -> list[Node]:
    """Trees of the rows that there are; requests end by their index in ``rows``."""
    members = [i for i, row in enumerate(rows) if not isinstance(row, Failed)]
    nodes = grow([row for row in rows if not isinstance(row, Failed)], worth)
    for node in walk(nodes):
        node.ends = [members[i] for i in node.ends]
    return nodes


def failure_of(vlm: VLM, error: Exception) -> Failed:
    """Failure of a request that raised an error."""
    return Failed(f"{vlm.name} could not answer: {one_line(error)}")


def is_generated(request: Request) -> bool:
    """True if text is generated for a request before anything is read."""
    return bool(request.verdict_prefix) or not request.choices


def head_of(request: Request, text: str) -> str:
    """Generated text up to the choice of a request; empty if there is none."""
    prefix = request.verdict_prefix
    before, found, _ = text.rpartition(prefix) if prefix else ("", "", "")
    return before + found if request.choices and found == prefix else ""


def heads_of_places(request: Request, text: str) -> Iterator[tuple[int, str, tuple[str, ...]]]:
    """Index of each place that a text has, the text before its choices, and these."""
    for k, place in enumerate(request.places):
        matches = [*re.finditer(place.pattern, text)]
        if matches:
            yield k, text[: matches[-1].end()], place.choices


def to_answer(
    request: Request,
    text: str,
    logprobs: tuple[float, ...] | None,
    at_places: tuple[tuple[float, ...] | None, ...],
) -> Answer:
    """The answer; without generated text it is the most probable choice."""
    if logprobs is not None and not request.verdict_prefix:
        text = request.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
    return Answer(text, logprobs, place_logprobs=at_places)


def greedy(
    vlm: VLM,
    state: State,
    tips: Sequence[Tip],
    logits: Tensor,
    positions: Sequence[int],
    limits: Sequence[int],
    axes: int,
) -> list[list[int]]:
    """Most probable tokens behind prompts, up to a token that ends an answer.

    Args:
        vlm: The model.
        state: Cached rows, which stay as they are.
        tips: The ends of B prompts in them.
        logits: Logits behind each, shape (B, vocabulary).
        positions: Positions of the next tokens.
        limits: Most tokens of each.
        axes: Numbers that a position has.

    Raises:
        ValueError: A logit is NaN or infinite.
    """
    device = logits.device
    cache = selected(state.cache, [tip.row for tip in tips])
    mask = torch.stack([tip.seen for tip in tips]).long().to(device)
    place = torch.tensor([*positions], device=device)[:, None]
    ends = torch.tensor([*vlm.end_ids], device=device)
    is_done = torch.zeros(len(tips), dtype=torch.bool, device=device)
    most = torch.tensor([*limits], device=device)
    new: list[Tensor] = []
    while True:
        if not (logits < torch.inf).all():
            raise ValueError(NOT_NUMBERS)
        token = logits.argmax(-1)
        new.append(token.masked_fill(is_done, vlm.chat.pad_id))
        is_done = is_done | torch.isin(token, ends) | (len(new) >= most)
        if is_done.all():
            break
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        logits = vlm.model(
            input_ids=token[:, None],
            attention_mask=mask,
            position_ids=place[None].expand(axes, -1, -1) if axes > 1 else place,
            cache=cache,
            use_cache=True,
        ).logits[:, -1]
        place = place + 1
    rows = torch.stack(new, 1).tolist()
    return [row[:limit] for row, limit in zip(rows, limits, strict=True)]
