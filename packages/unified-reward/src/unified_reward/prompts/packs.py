"""Official wordings: read from a user's own clone, verified, and stored outside this package.

The table of published prompts holds name, task, length and sha256 of each, never its words. The
files of a clone are parsed, not run (`sources`). Knows nothing of how an answer is read.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Form, Task
from unified_reward.io.atomic import write_json
from unified_reward.io.text import read_json, read_table
from unified_reward.prompts.sources import Source, Status, read_source, similar


REPOSITORY = "CodeGoat24/UnifiedReward"
_HINT = "unified-reward templates import PATH on your clone of"
SLOT = re.compile(r"⟪([^⟫]*)⟫")
_MARKS = ("{text_prompt}", "<instruction>", "$t2v_prompt")
"""Places of a caption or instruction in texts that scripts fill by replacing."""
_NAMES = (
    *("prompt", "caption", "text_prompt", "instruction", "question", "query", "problem"),
    *("answer", "answer1", "answer2", "answer_1", "answer_2", "response", "response1"),
    *("response2", "response_1", "response_2", "R1", "R2", "first", "second"),
)

_EXAMPLED = "lmms-lab/llava-critic-7b"
"""Its page prints the prompts with an example in every bracket, published as "[{}]"."""


class Prompt(NamedTuple):
    """A published prompt without its words: its task and form, and the hash that verifies it."""

    name: str
    task: Task
    form: Form
    length: int
    """Characters, every substitution written ⟪name⟫."""
    sha256: str
    """First 12 hex digits of the hash of that text in UTF-8."""
    file: str
    line: int
    repository: str = REPOSITORY

    @property
    def hint(self) -> str:
        """Command that imports it."""
        return f"{_HINT} {self.repository}"


class PromptImport(NamedTuple):
    """Result of importing one published prompt from a clone."""

    name: str
    file: str
    status: Status
    note: str = ""


class ImportReport(NamedTuple):
    """The pack that was written, and the result of every published prompt."""

    pack: Path
    prompts: tuple[PromptImport, ...]


@dataclass(frozen=True)
class Wording:
    """A verified official prompt with the slots ⟪prompt⟫ ⟪first⟫ ⟪second⟫."""

    name: str
    task: Task
    form: Form
    text: str
    sha256: str
    """Hash of ``text``, checked when the pack is read."""


@dataclass(frozen=True)
class _Pack:
    schema: Literal[1]
    wordings: tuple[Wording, ...]


@cache
def published_prompts() -> Mapping[str, Prompt]:
    """Read the table of published prompts, by name; UnifiedReward as of its commit ff6f520."""
    table = resources.files("unified_reward.prompts") / "official_prompts.csv"
    rows = (row for _, row in read_table(Path(str(table))) if isinstance(row, dict))
    return {
        row["name"]: Prompt(
            row["name"],
            Task(row["task"]),
            "score" if row["form"] == "score" else "compare",
            int(row["length"]),
            row["sha256"],
            row["file"],
            int(row["line"]),
            row["repository"],
        )
        for row in rows
    }


def import_pack(
    clone: Path, home: Path | None = None, *, expected: Iterable[Prompt] | None = None
) -> ImportReport:
    """Read the official wordings from a clone and store those that are verified.

    Args:
        clone: Root of the user's clone of any repository that has some.
        home: Folder of the packs; default `default_home`.
        expected: Prompts to look for; default `published_prompts`.

    Raises:
        ConfigError: None of them is found, or the pack cannot be written.
    """
    known = [*(published_prompts().values() if expected is None else expected)]
    looked_up = [_read_repository(clone, name, known) for name in _names_of(known)]
    results, n_files, prompts = max(looked_up, key=_n_verified_and_files)
    wordings = [result for result in results if isinstance(result, Wording)]
    if not wordings:
        raise ConfigError(
            f"{clone} has {n_files} of the {len({prompt.file for prompt in prompts})} files of "
            f"{prompts[0].repository}, and none of its {len(prompts)} wordings as published; give "
            f"the root of a clone of {' or '.join(_repositories())}"
        )
    pack = _pack_in(home or default_home(), prompts[0].repository)
    _write(pack, wordings)
    imports = [
        PromptImport(prompt.name, prompt.file, "verified")
        if isinstance(result, Wording)
        else result
        for result, prompt in zip(results, prompts, strict=True)
    ]
    return ImportReport(pack, tuple(imports))


class _LookedUp(NamedTuple):
    """The results of all prompts of a repository in a folder."""

    results: list[Wording | PromptImport]
    n_files: int
    prompts: list[Prompt]


def _names_of(prompts: Iterable[Prompt]) -> Iterable[str]:
    return dict.fromkeys(prompt.repository for prompt in prompts)


def _read_repository(clone: Path, repository: str, known: Iterable[Prompt]) -> _LookedUp:
    prompts = [prompt for prompt in known if prompt.repository == repository]
    sources = {file: read_source(clone / file) for file in {prompt.file for prompt in prompts}}
    results = [_look_up(prompt, sources[prompt.file]) for prompt in prompts]
    n_files = sum(source.status != "no file" for source in sources.values())
    return _LookedUp(results, n_files, prompts)


def _n_verified_and_files(found: _LookedUp) -> tuple[int, int]:
    """Order of the repositories that a folder may be a clone of: by contents, then by names."""
    return sum(isinstance(one, Wording) for one in found.results), found.n_files


def _look_up(prompt: Prompt, source: Source) -> Wording | PromptImport:
    for _, written in source.texts:
        is_exampled = prompt.repository == _EXAMPLED
        text = re.sub(r"\[[^\]]*\]", "[{}]", written) if is_exampled else written
        if _is_published(prompt, text):
            slotted = _slotted(prompt, text)
            if slotted is None:
                note = "as published, but its substitutions do not fit what it asks"
                return PromptImport(prompt.name, prompt.file, "changed", note)
            return Wording(prompt.name, prompt.task, prompt.form, slotted, _sha256(slotted))
    nearest = similar(source.texts, prompt.length, prompt.line)
    if source.status != "missing" or nearest is None:
        return PromptImport(prompt.name, prompt.file, source.status, source.note)
    note = f"line {nearest.line} differs from the {prompt.length} characters published"
    note += f"; {source.note}" if source.note else ""
    return PromptImport(prompt.name, prompt.file, "changed", note)


def _is_published(prompt: Prompt, text: str) -> bool:
    """Check a text against the published hash, under several names of its substitutions.

    The variable names of a script are not part of a wording, so besides the last name in each
    expression the usual ones are tried.
    """
    pieces = SLOT.split(text)
    literals, slots = pieces[::2], pieces[1::2]
    spare = prompt.length - sum(map(len, literals)) - 2 * len(slots)
    distinct = [*dict.fromkeys(slots)]
    if not len(slots) <= spare <= 40 * len(slots):
        return False
    own = tuple((re.findall(r"[^\W\d]\w*", slot) or [slot])[-1] for slot in distinct)
    others = product(_NAMES, repeat=len(distinct)) if 0 < len(distinct) <= 3 else ()
    for names in (own, *others):
        renamed = dict(zip(distinct, names, strict=True))
        if sum(len(renamed[slot]) for slot in slots) == spare:
            candidate = SLOT.sub(lambda match, renamed=renamed: f"⟪{renamed[match[1]]}⟫", text)
            if _sha256(candidate).startswith(prompt.sha256):
                return True
    return False


def _slotted(prompt: Prompt, text: str) -> str | None:
    """Rename the slots to ours, by order of appearance; None where their number differs."""
    slots = ("prompt",)
    if prompt.task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING):
        slots += ("first",) if prompt.form == "score" else ("first", "second")
    if prompt.repository != REPOSITORY:
        for mark in _MARKS:
            text = text.replace(mark, "⟪prompt⟫")
        for name in ("prompt", "first", "second"):
            text = text.replace("[{}]", f"[⟪{name}⟫]", 1)
    published = [*dict.fromkeys(SLOT.findall(text))]
    may_have_none = prompt.task is Task.IMAGE_EDITING or prompt.repository != REPOSITORY
    if len(published) != len(slots) and (published or not may_have_none):
        return None
    renamed = dict(zip(published, slots, strict=False))
    return SLOT.sub(lambda match: f"⟪{renamed[match[1]]}⟫", text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def default_home() -> Path:
    """Folder of the packs: ``UNIFIED_REWARD_HOME``, or the platform's folder for user data."""
    return _home(*map(os.environ.get, ("UNIFIED_REWARD_HOME", "LOCALAPPDATA", "XDG_DATA_HOME")))


@cache
def _home(given: str | None, windows: str | None, linux: str | None) -> Path:
    if given:
        return Path(given)
    if sys.platform == "win32":
        root = windows or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Application Support"
    else:
        root = linux or Path.home() / ".local" / "share"
    return Path(root) / "unified_reward"


@cache
def _repositories() -> tuple[str, ...]:
    return tuple(dict.fromkeys(prompt.repository for prompt in published_prompts().values()))


def _import_again(pack: Path) -> str:
    names = (name for name in _repositories() if name.split("/")[1].lower() == pack.stem)
    return f"run {_HINT} {next(names)} again"


@cache
def _pack_in(folder: Path, repository: str) -> Path:
    return folder / "packs" / f"{repository.split('/')[1].lower()}.json"


@cache
def _packs_in(folder: Path) -> tuple[Path, ...]:
    return tuple(_pack_in(folder, repository) for repository in _repositories())


def _write(pack: Path, wordings: list[Wording]) -> None:
    row = {"schema": 1, "wordings": [asdict(wording) for wording in wordings]}
    try:
        write_json(pack, row)
    except DataError as error:
        raise ConfigError(f"{error}; set UNIFIED_REWARD_HOME to another folder") from error


def installed_wordings(home: Path | None = None) -> Mapping[str, Wording]:
    """Read the imported wordings, by name, the longest first; empty where none were imported.

    Raises:
        ConfigError: A pack was changed since it was written, or is not a pack.
    """
    stamps: list[tuple[Path, tuple[int, ...]]] = []
    folder = home or default_home()
    for pack in _packs_in(folder):
        with suppress(OSError):
            stat = os.stat(pack)  # noqa: PTH116  called for every row, and pathlib is slow
            stamps.append((pack, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
    return _merged(tuple(stamps))


@lru_cache(maxsize=4)
def _merged(stamps: tuple[tuple[Path, tuple[int, ...]], ...]) -> Mapping[str, Wording]:
    wordings = [wording for pack, _ in stamps for wording in _read(pack)]
    wordings.sort(key=lambda wording: -len(wording.text))
    return {wording.name: wording for wording in wordings}


def _read(pack: Path) -> tuple[Wording, ...]:
    try:
        wordings = TypeAdapter(_Pack).validate_python(read_json(pack)).wordings
    except (DataError, ValidationError) as error:
        raise ConfigError(f"{pack} is not a pack of wordings; {_import_again(pack)}") from error
    for wording in wordings:
        if _sha256(wording.text) != wording.sha256:
            raise ConfigError(f"{pack}: {wording.name} was changed; {_import_again(pack)}")
    return wordings
