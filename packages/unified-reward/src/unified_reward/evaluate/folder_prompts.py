"""Prompts that lie in a folder of outputs, in files called ``metadata``.

ImageFolder and VideoFolder of Hugging Face's datasets: rows with ``file_name`` in
``metadata.jsonl``, ``.csv`` or ``.parquet``, in the folder or in a folder in it. GenEval
(arXiv:2310.11513): a ``metadata.jsonl`` in each folder of a prompt.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.evaluate.prompt_files import (
    PromptFile,
    collect,
    prompt_text,
    row_id,
    rows_of_file,
)


FILE_NAME = "file_name"
_NAMES = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

_Entry = tuple[str, dict[str, Any] | Failed]


@dataclass(frozen=True)
class FolderPrompts:
    """Prompts of a folder, and the prompt of each of its files."""

    prompts: PromptFile
    files: Mapping[PurePosixPath, str] = field(default_factory=dict[PurePosixPath, str])
    """Id of the prompt by path in the folder; empty in GenEval's layout, whose ids are folders."""

    def of(self, file: PurePosixPath) -> Example | None:
        """Prompt of a file by its path in the folder; None without any."""
        known = self.prompts.prompts
        return known.get(self.files.get(file, "")) or known.get(file.parts[0])


def read_metadata(folder: Path) -> FolderPrompts | None:
    """Read the prompts that lie beside the outputs; None where there are none.

    The id of a prompt is that of its row, else the first file's path without its suffix; in
    GenEval's layout the name of the folder.

    Raises:
        DataError: None of the rows can be used.
    """
    paths = [folder / name for name in _NAMES]
    paths += sorted(path for name in _NAMES for path in folder.glob(f"*/{name}"))
    named: list[tuple[Path, list[_Entry]]] = []
    of_folders: list[_Entry] = []
    for path in paths:
        if not path.is_file():
            continue
        entries = [*rows_of_file(path)]
        if any(FILE_NAME in row for _, row in entries if not isinstance(row, Failed)):
            named.append((path, entries))
        elif entries and path.parent.name.isdecimal() and path.suffix == ".jsonl":
            row = entries[0][1]
            row = row if isinstance(row, Failed) else {**row, "id": path.parent.name}
            of_folders.append((f"{path.parent.name}/{path.name}", row))
    if of_folders:
        return FolderPrompts(collect(folder, of_folders))
    return _by_file_name(folder, named) if named else None


def _by_file_name(folder: Path, tables: Sequence[tuple[Path, Sequence[_Entry]]]) -> FolderPrompts:
    """Join rows of the same prompt: of the same id and text, or of the same text without ids."""
    entries: list[_Entry] = []
    files: dict[PurePosixPath, str] = {}
    ids: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for path, rows in tables:
        base = path.parent.relative_to(folder).as_posix()
        for at, row in rows:
            place = f"{path.relative_to(folder).as_posix()} {at}"
            name = FILE_NAME if isinstance(row, Failed) else row.get(FILE_NAME)
            if isinstance(row, Failed) or not isinstance(name, str) or not name:
                lacks = Failed(f"it has no {FILE_NAME}")
                entries.append((place, row if isinstance(row, Failed) else lacks))
                continue
            file = PurePosixPath(os.path.normpath(f"{base}/{name}"))
            own = row_id(row)
            key = (own, " ".join(prompt_text(row).split()))
            if key not in ids:
                made = own or _free_id(file, taken)
                # A second text under an id is a problem of its row, and no prompt of its file.
                ids[key] = "" if own in taken else made
                taken.add(made)
                entries.append((place, {**row, "id": made}))
            files[file] = ids[key]
    return FolderPrompts(collect(folder, entries), files)


def _free_id(file: PurePosixPath, taken: set[str]) -> str:
    """Path without its suffix; with it where another file has that id."""
    name = str(file.with_suffix(""))
    return str(file) if name in taken else name
