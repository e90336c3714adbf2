"""Configuration of a run beside its output: a run is resumed with the same settings only."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.atomic import write_json
from unified_reward.io.checkpoints import Checkpoint
from unified_reward.io.fingerprints import example_fingerprint
from unified_reward.io.journal import UNANSWERED, Journal
from unified_reward.io.row_file import RowFile, media_of
from unified_reward.io.rows import Row
from unified_reward.io.text import LinePlace, read_json


Rows = Callable[[], Iterable[Row]] | RowFile
"""Reads the rows of an input, each time all of them."""
_FILES = "files"
_NAMED = 3
"""Ids and files named in a message."""


def config_path(out: Path) -> Path:
    """Return the path of the config of a run, beside its output."""
    return out.parent / f"{out.name}.config.json"


def check_run_config(out: Path, config: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Write a run's config beside its output, or check that it is the one written there.

    The config of a run that has made no row yet, such as one whose judge could not be loaded, is
    replaced.

    Args:
        out: The output.
        config: Settings that decide the rows.
        files: Fingerprints of the files that decide them, by names for people; "" where it is not
            known.

    Raises:
        ConfigError: The run was started with different settings or files, which are named, or by
            a version that kept no fingerprints.
        DataError: The file cannot be read or written.
    """
    path = config_path(out)
    given = _as_written({**config, _FILES: files})
    try:
        if not out.exists() or not out.stat().st_size:
            write_json(path, given)
            return
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not path.exists():
        raise ConfigError(f"{path}, the settings of {out}, is missing; {_remedy(out)}")
    known = read_json(path)
    known_files = known.pop(_FILES, None)
    del given[_FILES]
    differences = [
        f"{key} was {known.get(key)!r} and is {given.get(key)!r}"
        for key in sorted(known.keys() | given.keys())
        if known.get(key) != given.get(key)
    ]
    if differences:
        raise ConfigError(
            f"{out} was started with different settings: {'; '.join(differences)}; give another "
            "output file, or the same settings"
        )
    _check_files(out, known_files, files)


def _as_written(config: Mapping[str, Any]) -> dict[str, Any]:
    """Config as it comes back from its file, also names of files that are not UTF-8."""
    return json.loads(json.dumps(config, ensure_ascii=False).encode(errors="replace"))


def _check_files(out: Path, known: Mapping[str, str] | None, files: Mapping[str, str]) -> None:
    if not isinstance(known, dict):
        raise _earlier(out)
    changed: list[str] = []
    for name in sorted(known.keys() | files.keys()):
        before, now = known.get(name), files.get(name)
        if before != now and "" not in (before, now):
            verb = "is new" if before is None else "is gone" if now is None else "changed"
            changed.append(f"{name} {verb}")
    if changed:
        raise ConfigError(f"{out} was made with other files: {_listed(changed)}; {_remedy(out)}")


@dataclass(frozen=True)
class Origin:
    """Everything that decides the rows of a resumable output."""

    config: Mapping[str, Any]
    """Settings, written beside the output."""
    files: Callable[[], Mapping[str, str]]
    """Fingerprints of the files of a model, by names for people; "" where it is not known."""
    reads: tuple[str, ...]
    """Fields of `Example` that the work reads."""

    def check(self, journal: Journal) -> None:
        """Write the config beside a journal without rows, or check it; see `check_run_config`."""
        check_run_config(journal.path, self.config, self.files())

    def resume(
        self,
        journal: Journal,
        read: Rows,
        *,
        retry_failed: bool,
    ) -> LinePlace | None:
        """Check that the rows that are done were made alike, and drop those to be made again.

        New rows, and rows that are not in the input any more, are no change.

        Args:
            journal: Finished rows; left as they are where one has changed.
            read: Reads the input; called only where there are finished rows.
            retry_failed: Drop the rows that failed, whatever has changed in them.

        Returns:
            Place in a file up to which all rows are done, and journal and file have no others;
            None where that is not known.

        Raises:
            ConfigError: Settings, files or inputs have changed, which are named, or a version that
                kept no fingerprints made the rows.
        """
        again = UNANSWERED if retry_failed else ()
        kept = sum(n for outcome, n in journal.outcomes.items() if outcome not in again)
        if not kept:
            journal.forget_checkpoint()
            place = None
        elif journal.are_all_marked(but=again):
            self.check(journal)
            place = self._checked_before(journal, read)
            self._check_inputs(journal, read, place, again)
        else:
            raise _earlier(journal.path)
        if again and (names := journal.unanswered()):
            journal.drop(names)
            place = None
        journal.repair()
        return place

    def _checked_before(self, journal: Journal, read: Rows) -> LinePlace | None:
        """Place in the input up to which nothing has changed since the last checkpoint."""
        last, place = journal.checkpoint, None
        if last is not None and isinstance(read, RowFile) and self._is_of(last, read):
            place = read.at(last)
        if place is None or not journal.checkpoints.are_media_unchanged():
            journal.forget_checkpoint()
            return None
        return place

    def _is_of(self, checkpoint: Checkpoint, read: RowFile) -> bool:
        return checkpoint.about == self.about(read)

    def about(self, read: Rows) -> list[str]:
        """Input of a checkpoint: its path, where a relative one starts, and what is read of it."""
        path = read.path if isinstance(read, RowFile) else Path()
        # The working directory of a long run may be gone.
        start = "" if path.is_absolute() else str(Path.cwd())
        return [start, str(path), *self.reads]

    def _check_inputs(
        self, journal: Journal, read: Rows, place: LinePlace | None, again: Collection[str]
    ) -> None:
        """Compare the rows that are done, behind a place where there is one."""
        out, left, changed = journal.path, len(journal.done), list[str]()
        if place is None or not isinstance(read, RowFile):
            rows = iter(read())
        else:
            rows = read.after(place.copy(), journal.before_checkpoint)
            left -= journal.before_checkpoint.n
        while left and (row := next(rows, None)):
            if row.id in journal.done:
                left -= 1
                if journal.outcome(row.id) in again:
                    continue
                if isinstance(read, RowFile):
                    journal.checkpoints.note(media_of(row))
                if self.fingerprint(row) != journal.fingerprint(row.id):
                    changed.append(row.id)
        if not changed:
            return
        retry = ""
        if all(journal.outcome(name) in UNANSWERED for name in changed):
            retry = "ask failed rows again with --retry-failed, "
        raise ConfigError(
            f"{out} was made from other inputs: what is asked, or a file of it, changed under "
            f"{_listed(list(map(repr, changed)))}; {retry}{_remedy(out)}"
        )

    def fingerprint(self, row: Row) -> str:
        """Fingerprint of a row of the input, see `example_fingerprint`."""
        return example_fingerprint(row.content, self.reads, row.prompt)


def _earlier(out: Path) -> ConfigError:
    return ConfigError(
        f"{out} was written by an earlier version, which kept no fingerprints of inputs and "
        f"models; {_remedy(out)}"
    )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _remedy(out: Path) -> str:
    return f"give another output file, or delete {out.name} to begin anew"
