"""Tokens of the raters and of the owner of an arena, kept in a file that only its user reads."""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.atomic import written
from unified_reward.io.text import read_json
from unified_reward.io.validation import describe_errors


_RATER = re.compile(r"[\w.@-]{1,64}")


@dataclass(frozen=True)
class Tokens:
    """Secrets of an arena."""

    key: str
    """Key of the names under which items and media are sent."""
    owner: str
    """Token of the person who sees the standings."""
    raters: Mapping[str, str]
    """Token by name of the rater."""

    def rater(self, token: str) -> str | None:
        """Name of the rater with a token; None for any other."""
        found = [name for name, own in self.raters.items() if _is_equal(own, token)]
        return found[0] if found else None

    def is_owner(self, token: str) -> bool:
        """True for the token of the owner."""
        return _is_equal(self.owner, token)


def open_tokens(path: Path, raters: Iterable[str]) -> Tokens:
    """Read the tokens of a file, and add those of new raters; earlier raters keep theirs.

    Args:
        path: File, written with mode 0600; made if it is not there.
        raters: Names; none takes those of the file, or ``rater-1``.

    Raises:
        ConfigError: A name is empty, too long, or holds other signs than letters, digits and
            ``.@_-``.
        DataError: The file cannot be read or written, or holds something else.
    """
    names = list(raters)
    for name in names:
        if not _RATER.fullmatch(name):
            raise ConfigError(f"a rater's name is 1 to 64 letters, digits and .@_- , not {name!r}")
    known = _read(path) if path.exists() else Tokens(_secret(), _secret(), {})
    names = [*known.raters, *(names or (() if known.raters else ("rater-1",)))]
    tokens = Tokens(
        known.key, known.owner, {name: known.raters.get(name) or _secret() for name in names}
    )
    if tokens != known:
        _write(path, tokens)
    return tokens


def _read(path: Path) -> Tokens:
    try:
        return TypeAdapter(Tokens).validate_python(read_json(path), extra="forbid")
    except ValidationError as error:
        reasons = describe_errors(error, "file", 3)
        raise DataError(f"{path} holds no tokens of an arena: {reasons}") from error


def _write(path: Path, tokens: Tokens) -> None:
    text = json.dumps(
        {"key": tokens.key, "owner": tokens.owner, "raters": dict(tokens.raters)},
        indent=1,
        allow_nan=False,
    )
    part = path.with_name(f".{path.name}.part")
    with written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)


def _secret() -> str:
    return secrets.token_urlsafe(24)


def _is_equal(own: str, given: str) -> bool:
    return hmac.compare_digest(own.encode(), given.encode(errors="replace"))
