"""Official wordings: read from a user's own clone, verified, and stored outside this package.

The table of published prompts holds name, task, length and sha256 of each, never its words. The
files of a clone are parsed, not run. Knows nothing of how an answer is read.
"""

from __future__ import annotations

import ast
import hashlib
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

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Form, Task
from unified_reward.io.atomic import write_json
from unified_reward.io.text import read_json, read_table, read_text


REPOSITORY = "CodeGoat24/UnifiedReward"
_HINT = "unified-reward templates import PATH on your clone of"
SLOT = re.compile(r"⟪([^⟫]*)⟫")
_PLACEHOLDER = re.compile(r" ?(?:<image>|⟪[^⟫]*⟫)\n?")  # of an image, before a text
_NAMES = (
    *("prompt", "caption", "text_prompt", "instruction", "question", "query", "problem"),
    *("answer", "answer1", "answer2", "answer_1", "answer_2", "response", "response1"),
    *("response2", "response_1", "response_2", "R1", "R2", "first", "second"),
)

_EXAMPLED = "lmms-lab/llava-critic-7b"
"""Its page prints the prompts with an example in every bracket, published as "[{}]"."""
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError)

Status = Literal["verified", "changed", "missing", "no file", "unreadable"]


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
    prompts = _of_clone(clone, [*(published_prompts().values() if expected is None else expected)])
    files = {file: _source(clone / file) for file in {prompt.file for prompt in prompts}}
    results = [_look_up(prompt, files[prompt.file]) for prompt in prompts]
    wordings = [result for result in results if isinstance(result, Wording)]
    if not wordings:
        n_files = sum(source.status != "no file" for source in files.values())
        raise ConfigError(
            f"{clone} has {n_files} of {len(files)} files with official wordings, and none of the "
            f"{len(prompts)} wordings as published; give the root of a clone of "
            f"{' or '.join(_repositories())}"
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


def _of_clone(clone: Path, prompts: list[Prompt]) -> list[Prompt]:
    """Select the prompts of the repository of which a folder has most files."""

    def n_files(repository: str) -> int:
        files = {prompt.file for prompt in prompts if prompt.repository == repository}
        return sum(is_file(clone / file) for file in files)

    best = max(dict.fromkeys(prompt.repository for prompt in prompts), key=n_files)
    return [prompt for prompt in prompts if prompt.repository == best]


class _Text(NamedTuple):
    line: int
    text: str
    """Parts that are not literals are written as ⟪their source⟫."""


class _Source(NamedTuple):
    """The texts of one Python file."""

    texts: list[_Text]
    status: Status = "missing"
    """Status of a prompt that is not among them."""
    note: str = ""


def _source(file: Path) -> _Source:
    if not is_file(file):
        return _Source([], "no file")
    try:
        text = read_text(file)
    except DataError as error:
        return _Source([], "unreadable", str(error))
    if file.suffix == ".txt":  # a list of questions, whole
        return _Source([_Text(1, text.rstrip("\n"))])
    try:
        return _Source([*_texts(text)])
    except _NOT_PYTHON as error:
        return _Source([*_torn_texts(text)], "unreadable", str(error))


def _texts(source: str, line: int = 0) -> Iterator[_Text]:
    """Yield every string, f-string and sum of strings, also without leading image placeholders."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # escapes that Python does not know
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            text = _written(node)
            while text:
                yield _Text(line or node.lineno, text)
                match = _PLACEHOLDER.match(text)
                text = text[match.end() :] if match else ""


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
    """Yield the texts of a file that is not valid Python: each line from first quote to last.

    One published file has an unescaped apostrophe in a string of one line.
    """
    for number, line in enumerate(source.split("\n"), 1):
        for quote, fence in (("'", '"""'), ('"', "'''")):
            inside = line[line.find(quote) + 1 : line.rfind(quote)]
            for prefix in ("", "f"):
                with suppress(*_NOT_PYTHON):
                    yield from _texts(f"{prefix}{fence}{inside}{fence}", number)


def _look_up(prompt: Prompt, source: _Source) -> Wording | PromptImport:
    for _, written in source.texts:
        is_exampled = prompt.repository == _EXAMPLED
        text = re.sub(r"\[[^\]]*\]", "[{}]", written) if is_exampled else written
        if _is_published(prompt, text):
            slotted = _slotted(prompt, text)
            if slotted is None:
                note = "as published, but its substitutions do not fit what it asks"
                return PromptImport(prompt.name, prompt.file, "changed", note)
            return Wording(prompt.name, prompt.task, prompt.form, slotted, _sha256(slotted))
    similar = [text for text in source.texts if 2 * len(text.text) > prompt.length]
    if source.status != "missing" or not similar:
        return PromptImport(prompt.name, prompt.file, source.status, source.note)
    nearest = min(similar, key=lambda text: abs(text.line - prompt.line))
    note = f"line {nearest.line} differs from the {prompt.length} characters published"
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
        text = text.replace("{text_prompt}", "⟪text_prompt⟫")
        for name in ("prompt", "first", "second"):
            text = text.replace("[{}]", f"[⟪{name}⟫]", 1)
    published = [*dict.fromkeys(SLOT.findall(text))]
    may_have_none = prompt.task is Task.IMAGE_EDITING or prompt.repository != REPOSITORY
    if len(published) != len(slots) and (published or not may_have_none):
        return None
    renamed = dict(zip(published, slots, strict=False))
    return SLOT.sub(lambda match: f"⟪{renamed[match[1]]}⟫", text)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
    for repository in _repositories():
        pack = _pack_in(home or default_home(), repository)
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
