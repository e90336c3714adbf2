"""Pairs that an arena asks people about: of outputs of models, of pairs and of records."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unified_reward.arena.queue import REPEAT
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Candidate, Example, Image, Target, Video
from unified_reward.core.verdicts import Failed
from unified_reward.core.words import count_of
from unified_reward.evaluate.inputs import read_models
from unified_reward.evaluate.outputs import CATEGORY, ModelOutputs, model_pairs
from unified_reward.io.rows import parts_rows, read_examples
from unified_reward.io.vote_rows import Choice, Vote


PROMPT = "prompt_id"
"""Tag of an item with the id of its prompt."""
_ANSWERS: dict[str | None, Choice] = {"first": "a", "second": "b", "tie": "tie"}
_MODEL_TAGS = ("model_first", "model_second")


@dataclass(frozen=True)
class ArenaItem:
    """A pair of candidates, a and b."""

    example: Example
    """Prompt, context and two candidates without a target; its id is that of the item."""
    a: str
    """Name of the model of the first candidate; of its file where models are unknown."""
    b: str
    gold: Choice | None = None
    """Known right vote of an item that tests attention; None for any other."""

    @property
    def id(self) -> str:
        """Id of the item."""
        return self.example.id

    @property
    def models(self) -> tuple[str, ...]:
        """Names of both models; empty where they are unknown."""
        return (self.a, self.b) if all(tag in self.example.tags for tag in _MODEL_TAGS) else ()


@dataclass(frozen=True)
class ArenaInput:
    """Input of an arena."""

    items: tuple[ArenaItem, ...]
    """In the order in which they are asked."""
    gold: tuple[ArenaItem, ...] = ()
    notes: tuple[str, ...] = ()
    """Rows and outputs that are left out, with reasons, and what is odd about the outputs."""

    def __post_init__(self) -> None:
        ids: set[str] = set()
        for item in (*self.items, *self.gold):
            if item.id in ids or item.id + REPEAT in ids or item.id.removesuffix(REPEAT) in ids:
                raise DataError(f"two items have the id {item.id!r}; ids must differ")
            ids.add(item.id)


def read_items(
    inputs: Sequence[str],
    *,
    prompts: Path | None = None,
    baseline: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    gold: Path | None = None,
) -> ArenaInput:
    """Read the items of an arena.

    Files of pairs and of records with two candidates keep their order and come first, models
    follow: each pair of models at each prompt, shuffled.

    Args:
        inputs: Files of pairs or records, and whatever `evaluate.inputs.read_models` takes.
        prompts: Prompts of folders.
        baseline: Model that every pair of models includes; None for all pairs.
        limit: Largest number of items; None for all.
        seed: Decides the order of the pairs of models.
        gold: File of records with two candidates and the known winner.

    Raises:
        ConfigError: No model is called ``baseline``, or there is no pair at all.
        DataError: An input cannot be read, or two items have one id.
    """
    left_out: list[str] = []
    notes: tuple[str, ...] = ()
    files = [each for each in inputs if _holds_pairs(each)]
    items = [item for file in files for item in _file_items(Path(file), left_out)]
    others = [each for each in inputs if each not in files]
    if others:
        outputs = read_models(others, prompts)
        left_out += [f"{one.model}, {one.prompt}: {one.reason}" for one in outputs.missing]
        notes = outputs.notes
        items += _model_items(outputs, baseline, seed)
    if not items:
        raise ConfigError(f"{', '.join(inputs)}: there is no pair to vote on")
    known = tuple(_gold_items(gold, left_out)) if gold else ()
    notes = (*(f"left out: {each}" for each in left_out), *notes)
    return ArenaInput(tuple(items[:limit]), known, notes)


def check_votes(items: Iterable[ArenaItem], votes: Iterable[Vote]) -> None:
    """Refuse votes on something else under the id of an item.

    Raises:
        ConfigError: Prompt, criteria or files differ.
    """
    contents = {item.id: _content(item.example) for item in items}
    others = [
        item
        for vote in votes
        if (item := vote.id.removesuffix(REPEAT)) in contents
        and vote.example.candidates  # a row of another tool may lack them
        and contents[item] != _content(vote.example)
    ]
    if others:
        raise ConfigError(
            f"{count_of(len(others), 'vote is', 'votes are')} on other prompts or files than the "
            f"input has under the same ids, such as {others[0]!r}; give these pairs "
            "another file of votes"
        )


def _content(example: Example) -> tuple[object, ...]:
    """Task, prompt, criteria and parts of a pair, files by their paths."""
    parts = parts_rows((*example.context, *example.candidates), Path())
    return example.task, example.prompt, example.criteria, parts


def _holds_pairs(path: str) -> bool:
    """True for a file of pairs, or of records of which one has two candidates."""
    if not is_file(path) or not path.endswith(".jsonl"):
        return False
    for row in read_examples(Path(path)):
        if isinstance(row.content, Failed):
            continue
        is_record = not row.status and row.content.form == "compare"
        if is_record or row.status in ("kept", "dropped"):
            return True
        if row.content.target.score is None:  # an output of a model; records may be mixed
            return False
    return False


def _file_items(path: Path, notes: list[str]) -> Iterator[ArenaItem]:
    """Items of a file of pairs or records; rows that are none are noted."""
    for row in read_examples(path):
        content = row.content
        if row.status == "dropped":
            continue
        if isinstance(content, Failed):
            notes.append(f"{path} {row.id}: {content.reason}")
        elif content.form == "compare" and content.candidates:
            yield _file_item(content)
        else:
            n = count_of(len(content.candidates), "candidate")
            notes.append(f"{path} {row.id}: {n}; a pair has two")


def _file_item(example: Example) -> ArenaItem:
    if example.pair:  # its tags of models are in the order of the file's candidates
        tags = {name: tag for name, tag in example.tags.items() if name not in _MODEL_TAGS}
        example = replace(example.as_comparison(), tags=tags)
    files = [_name(candidate) for candidate in example.candidates]
    a, b = (example.tags.get(tag, name) for tag, name in zip(_MODEL_TAGS, files, strict=True))
    return ArenaItem(replace(example, target=Target(), raters=None), a, b)


def _name(candidate: Candidate) -> str:
    """Name of the first file of a candidate; empty for an answer in words."""
    parts = candidate if isinstance(candidate, tuple) else (candidate,)
    media = (part.source for part in parts if isinstance(part, Image | Video))
    source = next(media, "")
    if isinstance(source, tuple):
        source = source[0].source
    return Path(source).name if isinstance(source, str | Path) else ""


def _model_items(outputs: ModelOutputs, baseline: str | None, seed: int) -> list[ArenaItem]:
    models = outputs.models
    if baseline is not None and baseline not in models:
        raise ConfigError(f"no model is called {baseline!r}; there are {', '.join(models)}")
    items = [
        ArenaItem(_pair_example(outputs, (a, b), prompt, place), a, b)
        for a, b in model_pairs(models)
        if baseline in (None, a, b)
        for prompt in outputs.prompts
        for place in range(_n_common(outputs, (a, b), prompt))
    ]
    random.Random(seed).shuffle(items)
    return items


def _n_common(outputs: ModelOutputs, models: Iterable[str], prompt: str) -> int:
    return min(len(outputs.outputs[model].get(prompt, ())) for model in models)


def _pair_example(
    outputs: ModelOutputs, models: tuple[str, str], prompt: str, place: int
) -> Example:
    """Pair with the id that `evaluate` gives the comparison."""
    about = outputs.prompts[prompt]
    tags = {PROMPT: prompt, **dict(zip(_MODEL_TAGS, models, strict=True))}
    if CATEGORY in about.tags:
        tags[CATEGORY] = about.tags[CATEGORY]
    return Example(
        about.task,
        about.prompt,
        tuple(outputs.outputs[model][prompt][place] for model in models),
        about.context,
        about.criteria,
        f"{'|'.join(models)}/{prompt}/{place}",
        tags=tags,
    )


def _gold_items(path: Path, notes: list[str]) -> Iterator[ArenaItem]:
    """Items whose right vote is known; the others are noted."""
    for row in read_examples(path):
        content = row.content
        if isinstance(content, Failed):
            notes.append(f"{path} {row.id}: {content.reason}")
            continue
        answer = _ANSWERS.get(content.target.winner)
        if answer is None or not content.candidates:
            notes.append(f"{path} {row.id}: no pair with a known winner")
            continue
        yield replace(_file_item(replace(content, id=f"gold/{content.id}")), gold=answer)
