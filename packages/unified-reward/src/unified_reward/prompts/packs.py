"""Official wordings: read out of a user's own clone, verified, and kept outside this package.

The table of published prompts holds what each is, its length and its sha256, never its words. The
files of a clone are parsed, not run. Knows nothing of how an answer is read.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Form, Task


REPOSITORY = "CodeGoat24/UnifiedReward"
_HINT = "unified-reward templates import PATH on your clone of"
SLOT = re.compile(r"⟪([^⟫]*)⟫")
_MARK = re.compile(r" ?(?:<image>|⟪[^⟫]*⟫)\n?")  # the place of one picture before a text
_NAMES = (
    *("prompt", "caption", "text_prompt", "instruction", "question", "query", "problem"),
    *("answer", "answer1", "answer2", "answer_1", "answer_2", "response", "response1"),
    *("response2", "response_1", "response_2", "R1", "R2", "first", "second"),
)

_EXAMPLED = "lmms-lab/llava-critic-7b"
"""Its page shows the prompts with an example in every bracket; what is told is "[{}]"."""
_NO_PYTHON = (SyntaxError, ValueError, RecursionError)

Status = Literal["verified", "changed", "missing", "no file", "unreadable"]


class Prompt(NamedTuple):
    """A published prompt without its words: what it asks, and how to tell that a text is it."""

    name: str
    task: Task
    form: Form
    length: int
    """Characters, every substitution written ⟪name⟫."""
    sha256: str
    """Of that text in UTF-8; the first 12 hex digits."""
    file: str
    line: int
    repository: str = REPOSITORY

    @property
    def hint(self) -> str:
        """What to run so that it is imported."""
        return f"{_HINT} {self.repository}"


class PromptImport(NamedTuple):
    """What became of one published prompt in a clone."""

    name: str
    file: str
    status: Status
    note: str = ""


class ImportReport(NamedTuple):
    """The pack that was written, and what became of every published prompt."""

    pack: Path
    prompts: tuple[PromptImport, ...]


@dataclass(frozen=True)
class Wording:
    """A verified official text with the slots ⟪prompt⟫ ⟪first⟫ ⟪second⟫."""

    name: str
    task: Task
    form: Form
    text: str
    sha256: str
    """Of ``text``, so that a pack somebody changed is seen."""


@dataclass(frozen=True)
class _Pack:
    schema: Literal[1]
    wordings: tuple[Wording, ...]


@cache
def published_prompts() -> Mapping[str, Prompt]:
    """The published prompts by name; those of UnifiedReward as of its commit ff6f520."""
    table = resources.files("unified_reward.prompts") / "official_prompts.csv"
    rows = csv.DictReader(table.read_text("utf-8").splitlines())
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
    """Read the official wordings out of a clone and keep those that are verified.

    Args:
        clone: Root of the user's clone of any repository that has some.
        home: Where packs are kept; default `default_home`.
        expected: The prompts to look for; default `published_prompts`.

    Raises:
        ConfigError: Not one of them is there, or the pack cannot be written.
    """
    prompts = _of_clone(clone, [*(published_prompts().values() if expected is None else expected)])
    files = {file: _source(clone / file) for file in {one.file for one in prompts}}
    met = [_look_up(one, files[one.file]) for one in prompts]
    wordings = [one for one in met if isinstance(one, Wording)]
    if not wordings:
        n_files = sum(one.status != "no file" for one in files.values())
        raise ConfigError(
            f"{clone} has {n_files} of {len(files)} files with official wordings, and none of the "
            f"{len(prompts)} wordings as published; give the root of a clone of "
            f"{' or '.join(_repositories())}"
        )
    pack = _pack_in(home or default_home(), prompts[0].repository)
    _write(pack, wordings)
    found = [
        PromptImport(one.name, prompt.file, "verified") if isinstance(one, Wording) else one
        for one, prompt in zip(met, prompts, strict=True)
    ]
    return ImportReport(pack, tuple(found))


def _of_clone(clone: Path, prompts: list[Prompt]) -> list[Prompt]:
    """The prompts of the repository of which a folder has most files, the first of equals."""

    def n_files(repository: str) -> int:
        files = {one.file for one in prompts if one.repository == repository}
        return sum((clone / file).is_file() for file in files)

    best = max(dict.fromkeys(one.repository for one in prompts), key=n_files)
    return [one for one in prompts if one.repository == best]


class _Text(NamedTuple):
    line: int
    text: str
    """With ⟪its source⟫ for every part that is no literal."""


class _Source(NamedTuple):
    """The texts of one Python file, and what is to be said of one that is not among them."""

    texts: list[_Text]
    status: Status = "missing"
    note: str = ""


def _source(file: Path) -> _Source:
    if not file.is_file():
        return _Source([], "no file")
    try:
        text = file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        return _Source([], "unreadable", str(error))
    if file.suffix == ".txt":  # a list of questions, whole
        return _Source([_Text(1, text.replace("\r\n", "\n").rstrip("\n"))])
    try:
        return _Source([*_texts(text)])
    except _NO_PYTHON as error:
        return _Source([*_torn_texts(text)], "unreadable", str(error))


def _texts(source: str, line: int = 0) -> Iterator[_Text]:
    """Every string, f-string and sum of strings, also without the pictures it begins with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that Python does not know
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            text = _written(node)
            while text:
                yield _Text(line or node.lineno, text)
                mark = _MARK.match(text)
                text = text[mark.end() :] if mark else ""


def _written(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_written, parts))
        case ast.FormattedValue(value=inner):
            return _written(inner)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _written(left) + _written(right)
        case ast.BinOp(left=ast.Constant(value=str(text)), op=ast.Mult()):
            return text
        case _:
            return f"⟪{ast.unparse(node)}⟫"


def _torn_texts(source: str) -> Iterator[_Text]:
    """Texts of a file that is no valid Python: each line from its first quote to its last.

    One published file has an unescaped apostrophe in a string of one line.
    """
    for number, line in enumerate(source.splitlines(), 1):
        for quote, fence in (("'", '"""'), ('"', "'''")):
            inside = line[line.find(quote) + 1 : line.rfind(quote)]
            for prefix in ("", "f"):
                with suppress(*_NO_PYTHON):
                    yield from _texts(f"{prefix}{fence}{inside}{fence}", number)


def _look_up(prompt: Prompt, source: _Source) -> Wording | PromptImport:
    for _, written in source.texts:
        is_exampled = prompt.repository == _EXAMPLED
        text = re.sub(r"\[[^\]]*\]", "[{}]", written) if is_exampled else written
        if _is(prompt, text):
            slotted = _slotted(prompt, text)
            if slotted is None:
                note = "as published, but its substitutions do not fit what it asks"
                return PromptImport(prompt.name, prompt.file, "changed", note)
            return Wording(prompt.name, prompt.task, prompt.form, slotted, _sha256(slotted))
    alike = [one for one in source.texts if 2 * len(one.text) > prompt.length]
    if source.status != "missing" or not alike:
        return PromptImport(prompt.name, prompt.file, source.status, source.note)
    nearest = min(alike, key=lambda one: abs(one.line - prompt.line))
    note = f"line {nearest.line} has other words than the {prompt.length} characters published"
    return PromptImport(prompt.name, prompt.file, "changed", note)


def _is(prompt: Prompt, text: str) -> bool:
    """Whether a text is the published one under some names of its substitutions.

    What a script calls its variables is no part of a wording, so besides the last name in each
    expression the usual ones are tried; the digest decides.
    """
    pieces = SLOT.split(text)
    literals, holes = pieces[::2], pieces[1::2]
    spare = prompt.length - sum(map(len, literals)) - 2 * len(holes)
    distinct = [*dict.fromkeys(holes)]
    if not len(holes) <= spare <= 40 * len(holes):
        return False
    own = tuple((re.findall(r"[^\W\d]\w*", hole) or [hole])[-1] for hole in distinct)
    others = product(_NAMES, repeat=len(distinct)) if 0 < len(distinct) <= 3 else ()
    for names in (own, *others):
        called = dict(zip(distinct, names, strict=True))
        if sum(len(called[hole]) for hole in holes) == spare:
            named = SLOT.sub(lambda hole, called=called: f"⟪{called[hole[1]]}⟫", text)
            if _sha256(named).startswith(prompt.sha256):
                return True
    return False


def _slotted(prompt: Prompt, text: str) -> str | None:
    """The text with our slots, by order of appearance; None where their number is another."""
    slots = ("prompt",)
    if prompt.task in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING):
        slots += ("first",) if prompt.form == "score" else ("first", "second")
    if prompt.repository != REPOSITORY:
        text = text.replace("{text_prompt}", "⟪text_prompt⟫")
        for name in ("prompt", "first", "second"):
            text = text.replace("[{}]", f"[⟪{name}⟫]", 1)
    holes = [*dict.fromkeys(SLOT.findall(text))]
    is_bare = prompt.task is Task.IMAGE_EDITING or prompt.repository != REPOSITORY
    if len(holes) != len(slots) and (holes or not is_bare):
        return None
    called = dict(zip(holes, slots, strict=False))
    return SLOT.sub(lambda hole: f"⟪{called[hole[1]]}⟫", text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def default_home() -> Path:
    """Where packs are kept: ``UNIFIED_REWARD_HOME``, or the platform's place for user data."""
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
    return tuple(dict.fromkeys(one.repository for one in published_prompts().values()))


def _again(pack: Path) -> str:
    names = (one for one in _repositories() if one.split("/")[1].lower() == pack.stem)
    return f"run {_HINT} {next(names)} again"


@cache
def _pack_in(folder: Path, repository: str) -> Path:
    return folder / "packs" / f"{repository.split('/')[1].lower()}.json"


def _write(pack: Path, wordings: list[Wording]) -> None:
    row = {"schema": 1, "wordings": [asdict(one) for one in wordings]}
    part = pack.with_suffix(f".{os.getpid()}.part")
    try:
        pack.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(row, indent=1, ensure_ascii=False) + "\n", "utf-8")
        part.replace(pack)
    except OSError as error:
        raise ConfigError(
            f"{pack} cannot be written: {error.strerror}; UNIFIED_REWARD_HOME names another place"
        ) from error


def installed_wordings(home: Path | None = None) -> Mapping[str, Wording]:
    """The imported wordings by name, the longest first; empty where none were imported.

    Raises:
        ConfigError: A pack was changed since it was written, or is no pack.
    """
    stamps: list[tuple[Path, tuple[int, ...]]] = []
    for repository in _repositories():
        pack = _pack_in(home or default_home(), repository)
        with suppress(OSError):
            stat = os.stat(pack)  # noqa: PTH116  asked for every row, and pathlib is slow
            stamps.append((pack, (stat.st_mtime_ns, stat.st_size, stat.st_ino)))
    return _merged(tuple(stamps))


@lru_cache(maxsize=4)
def _merged(stamps: tuple[tuple[Path, tuple[int, ...]], ...]) -> Mapping[str, Wording]:
    wordings = [one for pack, _ in stamps for one in _read(pack)]
    return {one.name: one for one in sorted(wordings, key=lambda one: -len(one.text))}


def _read(pack: Path) -> tuple[Wording, ...]:
    try:
        wordings = TypeAdapter(_Pack).validate_json(pack.read_bytes()).wordings
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{pack} is no pack of wordings; {_again(pack)}") from error
    for one in wordings:
        if _sha256(one.text) != one.sha256:
            raise ConfigError(f"{pack}: {one.name} was changed; {_again(pack)}")
    return wordings
