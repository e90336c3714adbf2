"""The microworld as data sets: a series of examples to train on, and files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Form, Image, Task, Video
from unified_reward.data.example_file import mirrored
from unified_reward.io.atomic import replacing, write_bytes
from unified_reward.io.rows import example_row, part_row
from unified_reward_lab.microworld import Annotator, Split, make_example, policy_prompt
from unified_reward_lab.microworld.items import TASKS


CELLS: dict[str, tuple[Task, Form]] = {
    f"{task.value}.{form}": (task, form) for task in TASKS for form in ("score", "compare")
}
"""The eight cells: each task, scored and compared."""
EDITING: dict[str, tuple[Task, Form]] = {
    f"{Task.IMAGE_EDITING.value}.{form}": (Task.IMAGE_EDITING, form)
    for form in ("score", "compare")
}
"""Two more cells, trained on and measured only if they are named."""


class MicroworldSeries:
    """Training examples by index, in blocks of one cell so that batches have similar lengths.

    With twins, a comparison at an odd index is its predecessor with the candidates exchanged.

    Raises:
        ConfigError: There is no cell, or an unknown one.
    """

    def __init__(
        self,
        n: int,
        *,
        block: int,
        seed: int,
        weights: Mapping[str, float],
        annotator: Annotator,
        twins: bool = False,
    ) -> None:
        known = CELLS | EDITING
        unknown = set(weights) - set(known)
        if unknown or not weights:
            given = ", ".join(sorted(unknown)) or "none"
            raise ConfigError(f"unknown cells: {given}; there are {', '.join(known)}")
        self._n, self._block, self._seed, self._annotator = n, block, seed, annotator
        self._twins = twins
        self._cells = list(weights)
        total = sum(weights.values())
        self._shares = [weight / total for weight in weights.values()]

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self._n:
            raise IndexError(index)
        rng = np.random.default_rng([self._seed, index // self._block])
        task, form = (CELLS | EDITING)[str(rng.choice(self._cells, p=self._shares))]
        is_twin = self._twins and form == "compare" and index % 2 == 1
        example = make_example(
            task,
            form,
            split="train",
            seed=self._seed,
            index=index - is_twin,
            annotator=self._annotator,
        )
        return mirrored(example) if is_twin else example


def write_microworld(
    out: Path,
    *,
    task: Task,
    forms: Sequence[Form],
    n: int,
    seed: int,
    split: Split,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write examples to ``records.jsonl`` and ``media/<sha256>.png|mp4``, lossless.

    Args:
        out: Folder to write into.
        task: Task of the examples.
        forms: Forms that take turns.
        n: Number of rows.
        seed: Seed of the series of examples.
        split: ``train`` or ``test``.
        progress: Called with the number of rows just written.

    Returns:
        Path of the rows.

    Raises:
        DataError: The folder cannot be written.
    """

    def row(i: int) -> dict[str, Any]:
        form = forms[i % len(forms)]
        example = make_example(task, form, split=split, seed=seed, index=i // len(forms))
        saved: dict[str, Any] = {
            name: tuple(_save(part, out / "media") for part in getattr(example, name))
            for name in ("candidates", "context")
        }
        return example_row(replace(example, **saved), out)

    return _write_rows(out / "records.jsonl", row, n, progress)


def write_prompts(
    out: Path,
    *,
    task: Task,
    n: int,
    seed: int,
    split: Split,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write prompts as rows without candidates, for `make_candidates`.

    Args:
        out: Folder to write into: ``prompts.jsonl`` and, for understanding, ``media/``.
        task: Task of the prompts.
        n: Number of prompts.
        seed: Seed of the series of prompts.
        split: ``train`` or ``test``.
        progress: Called with the number of prompts just written.

    Returns:
        Path of the prompts.

    Raises:
        DataError: The folder cannot be written.
    """

    def row(i: int) -> dict[str, Any]:
        prompt = policy_prompt(task, split=split, seed=seed, index=i)
        context = [part_row(_save(part, out / "media"), out) for part in prompt.context]
        given = {"id": prompt.id, "task": task.value, "prompt": prompt.prompt}
        return given | {"candidates": [], "context": context}

    return _write_rows(out / "prompts.jsonl", row, n, progress)


def _write_rows(
    path: Path, row: Callable[[int], Mapping[str, Any]], n: int, progress: Callable[[int], None]
) -> Path:
    with replacing(path) as file:
        (path.parent / "media").mkdir(exist_ok=True)
        for i in range(n):
            text = json.dumps(row(i), ensure_ascii=False, allow_nan=False)
            file.write(text.encode() + b"\n")
            progress(1)
    return path


def _save(part: Any, folder: Path) -> Any:
    """Return the medium as a file in the folder; a text as it is."""
    if isinstance(part, Image):
        return Image(_save_bytes(media.encode_png(media.open_image(part)), folder, "png"))
    if isinstance(part, Video):
        return Video(_save_bytes(media.encode_mp4(part.source, part.fps or 4.0), folder, "mp4"))
    return part


def _save_bytes(content: bytes, folder: Path, suffix: str) -> Path:
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.{suffix}"
    if not path.exists():
        write_bytes(path, content)
    return path
