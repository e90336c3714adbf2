"""The microworld as records: a series to train on, and files on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Form, Image, Task, Video
from unified_reward.data.example_file import mirrored
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
"""Two more, trained on where they are named and measured apart."""


class MicroworldSeries:
    """Training records by index, in blocks of one cell so that batches have about one length.

    With twins, a comparison at an odd place is the one before it the other way round.
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
            raise ConfigError(
                f"no cell {', '.join(sorted(unknown)) or 'given'}; there are {', '.join(known)}"
            )
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
        named = index - 1 if is_twin else index
        given = make_example(
            task, form, split="train", seed=self._seed, index=named, annotator=self._annotator
        )
        return mirrored(given) if is_twin else given


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
    """Write items as files: ``records.jsonl`` and ``media/<sha256>.png|mp4``, lossless.

    Args:
        out: Folder to write into.
        task: What is judged.
        forms: Taken by turns.
        n: Number of records.
        seed: Names the series of items.
        split: ``train`` or ``test``.
        progress: Called with the number of records just written.

    Returns:
        The path of the records.

    Raises:
        DataError: The folder cannot be written.
    """
    folder, path = out / "media", out / "records.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for i in range(n):
                form = forms[i % len(forms)]
                record = make_example(task, form, split=split, seed=seed, index=i // len(forms))
                row = example_row(_on_disk(record, folder), out)
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                progress(1)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    return path


def write_prompts(
    out: Path,
    *,
    task: Task,
    n: int,
    seed: int,
    split: Split,
    progress: Callable[[int], None] = lambda _: None,
) -> Path:
    """Write briefs as rows without candidates, for `make_candidates`.

    Args:
        out: Folder to write into: ``prompts.jsonl`` and, of understanding, ``media/``.
        task: What is wanted.
        n: Number of prompts.
        seed: Names the series of briefs.
        split: ``train`` or ``test``.
        progress: Called with the number of prompts just written.

    Returns:
        The path of the prompts.

    Raises:
        DataError: The folder cannot be written.
    """
    folder, path = out / "media", out / "prompts.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for i in range(n):
                wanted = policy_prompt(task, split=split, seed=seed, index=i)
                shown = [part_row(_stored(one, folder), out) for one in wanted.context]
                row = {"id": wanted.id, "task": task.value, "prompt": wanted.prompt}
                file.write(json.dumps(row | {"candidates": [], "context": shown}) + "\n")
                progress(1)
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error
    return path


def _on_disk(record: Example, folder: Path) -> Example:
    context: Any = tuple(_stored(one, folder) for one in record.context)
    candidates = tuple(_stored(one, folder) for one in record.candidates)
    return replace(record, candidates=candidates, context=context)


def _stored(part: Any, folder: Path) -> Any:
    if isinstance(part, Image):
        return Image(_store(media.encode_png(media.open_image(part)), folder, "png"))
    if isinstance(part, Video):
        return Video(_store(media.encode_mp4(part.source, part.fps or 4.0), folder, "mp4"))
    return part


def _store(content: bytes, folder: Path, suffix: str) -> Path:
    path = folder / f"{hashlib.sha256(content).hexdigest()[:32]}.{suffix}"
    if not path.exists():
        path.write_bytes(content)
    return path
