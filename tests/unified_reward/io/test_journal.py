"""Journals under their lock, with rows dropped, doubled or of an earlier version."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.lock import locked


def row(name, status="scored", **keys):
    return {"id": name, "status": status} | keys


def test_a_second_run_is_refused_with_its_process_and_loses_nothing(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    with open_journal(path) as journal:
        journal.append([row("a")])
        with (
            pytest.raises(
                ConfigError, match=rf"being written by another run \(process {os.getpid()}"
            ),
            open_journal(path),
        ):
            pytest.fail("two runs had the lock")
        journal.append([row("b")])
    with open_journal(path) as journal:
        assert list(journal.done) == ["a", "b"]
    assert list(path.parent.iterdir()) == [path], "no lock is left"


def test_a_killed_run_leaves_no_lock_behind(tmp_path):
    code = (
        "import sys; from pathlib import Path; from unified_reward.io.lock import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "out"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        process.stdout.readline()
        with (
            pytest.raises(ConfigError, match=f"process {process.pid} on "),
            locked(tmp_path / "out"),
        ):
            pytest.fail("two runs had the lock")
        process.kill()
    assert (tmp_path / ".out.lock").exists()
    with locked(tmp_path / "out"):
        assert str(os.getpid()) in (tmp_path / ".out.lock").read_text()
    assert list(tmp_path.iterdir()) == []


def test_the_lock_ends_with_an_error_or_an_interrupt(tmp_path):
    for error in (ZeroDivisionError, KeyboardInterrupt):
        with pytest.raises(error), locked(tmp_path / "out"):
            raise error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_error_before_the_run(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"out\.jsonl cannot be written: "):
        open_journal(tmp_path / "file" / "out.jsonl").__enter__()


def test_ids_that_stand_twice_are_refused_by_name_and_left(tmp_path):
    path = tmp_path / "out.jsonl"
    Journal(path).append([row(name) for name in "abcdeab"])
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"holds 2 ids twice \(a, b\).*another output file"):
        Journal(path)
    assert path.read_bytes() == before


def test_dropped_rows_leave_the_others_byte_for_byte_and_the_torn_end_goes(tmp_path):
    path = tmp_path / "out.jsonl"
    Journal(path).append([row("a"), row("b", "failed", reason="x"), row("雪", "unparsed")])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines) + b'{"id": "torn')
    journal = Journal(path)
    assert journal.unanswered() == {"b"}
    journal.drop(journal.unanswered())
    assert path.read_bytes() == lines[0] + lines[2]
    assert journal.done == Journal(path).done == {"a": "scored", "雪": "unparsed"}
    journal.append([row("b")])
    assert list(Journal(path).done) == ["a", "雪", "b"]


def test_failed_rows_of_a_server_that_has_not_named_its_model_are_kept(tmp_path):
    path = tmp_path / "out.jsonl"
    Journal(path).append([row("a", judge="toy at URL")])
    Journal(path).append([row("b", "failed", judge="URL")])
    assert Journal(path).done == {"a": "scored", "b": "failed"}
    with pytest.raises(DataError, match="holds rows of toy at URL"):
        Journal(path).append([row("c", judge="URL")])


def test_a_process_that_is_killed_leaves_every_row_though_few_are_pushed_to_the_disk(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from unified_reward.io import journal\n"
        "pushed = []; fsync = os.fsync\n"
        "journal.os.fsync = lambda number: (pushed.append(number), fsync(number))\n"
        "journal._PUSH_S = 1e9\n"
        "journal.time.monotonic = lambda: 2e9\n"
        "rows = journal.Journal(Path(sys.argv[1]))\n"
        "for i in range(50): rows.append([{'id': str(i), 'status': 'scored'}])\n"
        "rows._finish_push(); print(len(pushed), flush=True); os.kill(os.getpid(), 9)"
    )
    path = tmp_path / "out.jsonl"
    killed = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=False
    )
    assert (killed.returncode, killed.stdout) == (-9, "1\n")
    assert [*Journal(path).done] == [str(i) for i in range(50)]


def test_the_last_rows_are_pushed_to_the_disk_at_the_end_and_after_an_error(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr("unified_reward.io.journal._push", pushed.append)
    for error in (None, KeyboardInterrupt()):
        path = tmp_path / f"{error!r}.jsonl"
        pushed.clear()
        with suppress(KeyboardInterrupt), open_journal(path) as journal:
            journal.append([row("a")])
            journal.append([row("b")])
            if error:
                raise error
        assert pushed == [path, path]


def test_a_ranking_that_lacks_candidates_counts_as_failed_when_asked_again(tmp_path):
    journal = Journal(tmp_path / "out.jsonl")
    journal.append([row("a", "ranked", reason=None), row("b", "ranked", reason="one is lost")])
    assert journal.unanswered() == {"b"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device is full")
def test_a_full_disk_is_an_error_that_names_the_output(tmp_path, monkeypatch):
    journal = Journal(tmp_path / "out.jsonl")
    journal.append([row("a")])
    monkeypatch.setattr(journal, "path", Path("/dev/full"))
    with pytest.raises(DataError, match="/dev/full cannot be written: No space left on device"):
        journal.append([row("b")])
    assert list(Journal(tmp_path / "out.jsonl").done) == ["a"]
