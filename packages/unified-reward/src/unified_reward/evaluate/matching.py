"""Files of a folder to prompts: by id, by number, or by the text of the prompt in the name.

One rule for a whole folder, the one that matches most of its files; the first of these where two
match as many. A folder whose metadata name its files needs no rule, see `folder_prompts`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from unified_reward.core.errors import DataError
from unified_reward.evaluate.folder_prompts import FILE_NAME
from unified_reward.evaluate.prompt_files import PromptFile


_NO_MEDIA = {
    *(".json", ".jsonl", ".txt", ".csv", ".tsv", ".parquet", ".npy", ".npz", ".pt", ".safetensors"),
    *(".md", ".html", ".log", ".yaml", ".yml", ".py", ".zip", ".tar", ".gz", ".db", ".ini"),
}
_NUMBER = re.compile(r"(\d+)(?:[_-].*)?", re.DOTALL)
_COPY = re.compile(r"(?:seed|sample|s|v)?[_-]?\d+", re.IGNORECASE)
"""End of a name, behind ``_`` or ``-``, that tells several files of a prompt apart."""


@dataclass(frozen=True)
class Matches:
    """Files of a folder by id of their prompt."""

    files: Mapping[str, tuple[Path, ...]]
    """In natural order of their names: ``3_2.png`` before ``3_10.png``."""
    unmatched: tuple[tuple[str, str], ...] = ()
    """Files that belong to no prompt, by name in the folder, each with the reason."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class MediaFolder:
    """A folder of files that may be media; none is opened."""

    path: Path
    files: tuple[PurePosixPath, ...]
    """Paths in the folder, in natural order."""
    copies: frozenset[str]
    """Folders in it that hold one file of each prompt, such as ``seed1``."""

    def number(self, file: PurePosixPath) -> int | None:
        """Number at the begin of a file's name, or of the folder in which a prompt's files lie."""
        is_alone = len(file.parts) == 1 or file.parts[0] in self.copies
        match = _NUMBER.fullmatch(file.stem if is_alone else file.parts[0])
        return int(match[1]) if match else None


def media_files(path: Path) -> list[PurePosixPath]:
    """List the files of a folder that may be media, in natural order; none is opened.

    Hidden files, texts and tables are left out, and so is the ``grid.png`` that GenEval's scripts
    put beside ``samples/``.
    """
    return sorted(_walk(path), key=_natural)


def media_folder(path: Path, n: int) -> MediaFolder:
    """List the files of a folder for ``n`` prompts, see `media_files`."""
    files = tuple(media_files(path))
    return MediaFolder(path, files, frozenset(_copies(files, n)))


def first_numbers(folders: Sequence[MediaFolder], n: int) -> list[int]:
    """Find at which number the files of each folder begin, 0 or 1.

    A folder without a file 0 begins with 1, unless it has no file ``n`` either while another folder
    has a file 0: then its own file 0 is missing.

    Args:
        folders: The folders.
        n: Number of prompts.
    """
    numbers = [{folder.number(file) for file in folder.files} for folder in folders]
    is_zero_known = any(0 in found for found in numbers)
    return [int(0 not in found and (n in found or not is_zero_known)) for found in numbers]


def match_files(
    folder: MediaFolder,
    prompts: PromptFile,
    first: int,
    named: Mapping[PurePosixPath, str] | None = None,
) -> Matches:
    """Match the files of a folder to prompts.

    Args:
        folder: The folder.
        prompts: The prompts.
        first: Number of the first prompt in the names, 0 or 1; see `first_numbers`.
        named: Id of the prompt by file, where the folder itself says it; no name is looked at then.

    Raises:
        DataError: No file of the folder matches.
    """
    rules = {
        "id": _by_id(folder, prompts),
        "number": _by_number(folder, prompts, first),
        "text": _by_text(folder, prompts),
    }
    if named:
        rules = {FILE_NAME: named.get}
    elif prompts.is_numbered:
        del rules["id"]
    found = {name: [rule(file) for file in folder.files] for name, rule in rules.items()}
    counts = {name: sum(map(bool, keys)) for name, keys in found.items()}
    name = max(counts, key=lambda rule: counts[rule])
    if not counts[name]:
        raise DataError(_nothing(folder, prompts))
    matched: dict[str, list[Path]] = {}
    unmatched: list[tuple[str, str]] = []
    for file, key in zip(folder.files, found[name], strict=True):
        if key:
            matched.setdefault(key, []).append(folder.path / file)
        else:
            unmatched.append((str(file), _reason(name, folder.number(file), key, prompts, first)))
    ordered = {key: tuple(matched[key]) for key in prompts.prompts if key in matched}
    return Matches(ordered, tuple(unmatched), _notes(folder, name, prompts, first, found))


_Rule = Callable[[PurePosixPath], str | None]
"""Id of a file's prompt; empty where the row of its number cannot be used, None without any."""


def _walk(folder: Path) -> Iterator[PurePosixPath]:
    seen: set[str] = set()
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith((".", "__"))]
        is_geneval = "samples" in folders or "metadata.jsonl" in names
        base = PurePosixPath(Path(root).relative_to(folder).as_posix())
        for name in names:
            path = PurePosixPath(name)
            is_grid = is_geneval and path.stem == "grid"
            if name[0] != "." and path.suffix.lower() not in _NO_MEDIA and not is_grid:
                yield base / name


def _natural(path: PurePosixPath) -> list[list[str | int]]:
    parts = [*path.parent.parts, path.stem]
    return [_digits(part) for part in parts] + [[path.suffix]]


def _digits(text: str) -> list[str | int]:
    return [int(part) if n % 2 else part for n, part in enumerate(re.split(r"(\d+)", text))]


def _copies(files: Sequence[PurePosixPath], n: int) -> set[str]:
    names = {file.parts[0] for file in files if len(file.parts) == 2}
    if len(names) == 1 and all(len(file.parts) == 2 for file in files):
        is_of_prompt = _NUMBER.fullmatch(min(names)) and len({file.stem for file in files}) < n
        return set() if is_of_prompt else names
    # Folders 1 and 2 are of prompts 1 and 2, unless they have a file of every prompt.
    is_full = len(names) < n == len({file.stem for file in files})
    return {name for name in names if _COPY.fullmatch(name) and (is_full or not name.isdecimal())}


def _by_number(folder: MediaFolder, prompts: PromptFile, first: int) -> _Rule:
    places: dict[int | None, str] = {**dict(enumerate(prompts.places, first))}
    return lambda file: places.get(folder.number(file))


def _by_id(folder: MediaFolder, prompts: PromptFile) -> _Rule:
    ids = prompts.prompts
    numbers = {int(key): key for key in ids if key.isdecimal()}
    if len(numbers) < len(ids):
        numbers = {}

    def known(name: str) -> str | None:
        if name in ids:
            return name
        return numbers.get(int(name)) if name.isdecimal() else None

    return lambda file: _by_name(file, folder, known)


def _by_text(folder: MediaFolder, prompts: PromptFile) -> _Rule:
    exact: dict[str, str] = {}
    plain: dict[str, str] = {}
    for key, prompt in prompts.prompts.items():
        exact.setdefault(prompt.prompt.strip(), key)
        plain.setdefault(_plain(prompt.prompt), key)

    def known(name: str) -> str | None:
        return exact.get(name.strip()) or plain.get(_plain(name) or "\n")

    return lambda file: _by_name(file, folder, known)


def _plain(text: str) -> str:
    """Text without the characters that names of files lack or have in other places."""
    return re.sub(r"[\W_]+", " ", text).strip().casefold()


def _by_name(
    file: PurePosixPath, folder: MediaFolder, known: Callable[[str], str | None]
) -> str | None:
    """Look up a path without its suffix, then without a copy's ending, its folders, its name."""
    path = str(file.with_suffix("")) if file.suffix else str(file)
    folders = [str(parent) for parent in file.parents[:-1]]
    if file.parts[0].isdecimal() and file.parts[0] in folder.copies:
        folders = []
    for name in dict.fromkeys([path, *folders, file.stem]):
        if key := known(name):
            return key
        for match in reversed([*re.finditer("[_-]", name)]):
            is_copy = _COPY.fullmatch(name, match.end())
            if is_copy and (key := known(name[: match.start()])):
                return key
    return None


def _nothing(folder: MediaFolder, prompts: PromptFile) -> str:
    if not folder.files:
        return f"{folder.path} holds no image and no video"
    n = len(folder.files)
    none = f"its file {folder.files[0]} lacks"
    if n > 1:
        none = f"none of its {n} files, such as {folder.files[0]}, has"
    return (
        f"{folder.path}: {none} the number, id or text of a "
        f"prompt as its name; the first id is {next(iter(prompts.prompts))!r}"
    )


def _reason(rule: str, number: int | None, key: str | None, prompts: PromptFile, first: int) -> str:
    if key is not None:
        return "the row of its number in the file of prompts cannot be used"
    if rule == FILE_NAME:
        return f"no row of the folder's metadata names it as {FILE_NAME} with a prompt of this run"
    if rule != "number":
        return f"its name has no {rule} of a prompt"
    if number is None:
        return "its name does not begin with a number"
    return f"the prompts have the numbers {first} to {len(prompts.places) - 1 + first}"


def _notes(
    folder: MediaFolder,
    rule: str,
    prompts: PromptFile,
    first: int,
    found: Mapping[str, Sequence[str | None]],
) -> tuple[str, ...]:
    notes: list[str] = []
    is_without_zero = 0 not in map(folder.number, folder.files)
    if rule == "number" and first == 1:
        notes.append("there is no file 0, so file 1 is of the first prompt")
    elif rule == "number" and is_without_zero:
        notes.append("there is no file 0, which another model has; it is taken as missing")
    by_id, by_number = found.get("id", ()), found.get("number", ())
    if any(a and b and a != b for a, b in zip(by_id, by_number, strict=False)):
        other = "number" if rule == "id" else "id"
        notes.append(f"files are matched by {rule}; by {other} they would be of other prompts")
    texts = {" ".join(prompt.prompt.split()) for prompt in prompts.prompts.values()}
    if rule == "text" and len(texts) < len(prompts.prompts):
        notes.append("files are matched by text; of equal prompts the first has all files")
    return tuple(f"{folder.path}: {note}" for note in notes)
