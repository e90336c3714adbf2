"""Outputs of models in files of rows: candidates, and ``outputs.jsonl`` of an evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from unified_reward.core.errors import DataError, one_line
from unified_reward.core.samples import Example, Task
from unified_reward.core.verdicts import Failed
from unified_reward.core.words import count_of
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.io.atomic import replacing
from unified_reward.io.rows import part_row, parts_rows, read_examples, read_row
from unified_reward.io.text import parse_json, read_json_lines, read_lines


CANDIDATES = "candidates.jsonl"
OUTPUTS = "outputs.jsonl"
_EXAMPLE_KEYS = ("task", "prompt", "candidates", "context", "criteria", "tags")


@dataclass(frozen=True)
class ModelRows:
    """Outputs of one model, with their prompts."""

    path: Path
    examples: Mapping[str, Example]
    """By id, with candidates; without any where the model has none."""
    missing: Mapping[str, str] = field(default_factory=dict[str, str])
    """Reason by id, or by line, of a row without candidates."""
    notes: tuple[str, ...] = ()

    @property
    def prompts(self) -> dict[str, Example]:
        """Prompts by id, without candidates."""
        return {key: replace(row, candidates=(), pair=None) for key, row in self.examples.items()}


def is_outputs(path: Path) -> bool:
    """True if the first row of a file is of the ``outputs.jsonl`` of an evaluation."""
    return _first_row(path).keys() >= {"model", "prompt_id"}


def read_candidates(path: Path) -> ModelRows:
    """Read rows of candidates, each with its prompt, as one model.

    Rows may lack the task, which then is that of the first row's candidates.

    Raises:
        DataError: The file cannot be read, or no row has candidates.
    """
    examples: dict[str, Example] = {}
    missing: dict[str, str] = {}
    partial: list[str] = []
    for row in read_examples(path, task=_default_task(path)):
        if isinstance(row.content, Failed):
            missing[row.id] = row.reason or row.content.reason
            if row.prompt:
                examples[row.id] = row.prompt
        else:
            examples[row.id] = replace(row.content, pair=None)
            if not row.content.candidates:
                missing[row.id] = row.reason or "the row has no candidates"
            elif row.reason:
                partial.append(f"{row.id}: {one_line(row.reason, 200)}")
    if not any(example.candidates for example in examples.values()):
        reason = next(iter(missing.values()), "it is empty")
        raise DataError(f"{path} has no row with candidates: {reason}")
    words = count_of(len(partial), "row lacks", "rows lack")
    notes = [f"{path}: {words} candidates, such as {row}" for row in partial[:1]]
    return ModelRows(path, examples, missing, tuple(notes))


def write_outputs(outputs: ModelOutputs, folder: Path) -> None:
    """Write ``outputs.jsonl`` into a folder, from which `read_outputs` reads all models again.

    Every model has a row for every prompt, without candidates where it has none.

    Raises:
        DataError: A medium is in memory, not in a file, or the folder cannot be written.
    """
    with replacing(folder / OUTPUTS) as file:
        for model, prompt_id in (
            (model, key) for model in outputs.models for key in outputs.prompts
        ):
            prompt = outputs.prompts[prompt_id]
            row = {
                "model": model,
                "prompt_id": prompt_id,
                "task": prompt.task.value,
                "prompt": prompt.prompt,
                "candidates": [
                    part_row(part, folder) for part in outputs.outputs[model].get(prompt_id, ())
                ],
                "context": parts_rows(prompt.context, folder),
                "criteria": prompt.criteria,
                "tags": dict(prompt.tags),
            }
            text = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(f"{text}\n".encode(errors="replace"))


def read_outputs(path: Path) -> dict[str, ModelRows]:
    """Read the ``outputs.jsonl`` of an evaluation, by name of the model.

    Raises:
        DataError: A line is no row of an output; names it.
    """
    models: dict[str, dict[str, Example]] = {}
    for line, row in read_json_lines(path):
        model, prompt = row.get("model"), row.get("prompt_id")
        if not isinstance(model, str) or not isinstance(prompt, str):
            raise DataError(f"{path} line {line}: a row has texts under model and prompt_id")
        about = {key: row[key] for key in _EXAMPLE_KEYS if key in row}
        raw = json.dumps({"id": prompt, **about}, allow_nan=False).encode()
        content = read_row(raw, path.parent).content
        if isinstance(content, Failed):
            raise DataError(f"{path} line {line}: {content.reason}")
        models.setdefault(model, {})[prompt] = content
    return {model: ModelRows(path, examples) for model, examples in models.items()}


def _first_row(path: Path) -> dict[str, Any]:
    first = next(_objects(path), None)
    return first if isinstance(first, dict) else {}


def _objects(path: Path) -> Iterator[Any]:
    for *_, raw in read_lines(path):
        try:
            yield parse_json(raw)
        except ValueError:
            yield None


def _default_task(path: Path) -> Task:
    row = _first_row(path)
    parts = [*(row.get("candidates") or ()), *(row.get("context") or ())]
    kinds = [kind for part in parts if isinstance(part, dict) for kind in part]
    if "text" in kinds:
        return Task.VIDEO_UNDERSTANDING if "video" in kinds else Task.IMAGE_UNDERSTANDING
    if "video" in kinds:
        return Task.VIDEO_GENERATION
    return Task.IMAGE_EDITING if row.get("context") else Task.IMAGE_GENERATION
