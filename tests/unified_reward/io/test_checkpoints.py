"""Runs that go on from a checkpoint: the rows of a whole run, and nothing overlooked."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unified_reward.pairs.test_bulk import Batches
from unified_reward.core.errors import ConfigError
from unified_reward.io import checkpoints
from unified_reward.io import rows as io_rows
from unified_reward.io.checkpoints import Checkpoint
from unified_reward.io.journal import Journal, open_journal
from unified_reward.io.row_file import RowFile
from unified_reward.io.run_config import Origin
from unified_reward.judges import bulk


SIZE = 3


class Looking(Batches):
    """Work that reads the pictures too."""

    origin = property(lambda self: Origin({}, dict, ("task", "prompt", "candidates")))


@pytest.fixture(autouse=True)
def _often(monkeypatch):
    """Checkpoints after every chunk, and files whose changes are seen at once."""
    monkeypatch.setattr(bulk, "_CHECKPOINT_S", -1.0)
    monkeypatch.setattr(checkpoints, "_SURE_S", -1.0)


def line(name, **keys):
    plain = {"id": name, "task": "image_generation", "prompt": f"p {name}"}
    return json.dumps(plain | keys, ensure_ascii=False)


LINES = [
    *(line(f"q{i} 雪", candidates=[{"image": f"{i}.png"}]) for i in range(4)),
    "",
    "{broken",
    line("q1 雪"),
    json.dumps({"task": "image_generation", "prompt": "no id"}),
    line("line 3"),
    line("q0 雪", prompt="again"),
    "{broken too",
    line('a "quoted" \\ id'),
    *(line(f"r{i}") for i in range(5)),
]


@pytest.fixture
def source(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"picture %d" % i)
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f"{each}\n" for each in LINES), "utf-8")
    return path


def finish(source, out, n_chunks=None, **options):
    """Run, or only some chunks; returns the ids that were read, and the outcomes by chunk."""
    with open_journal(out) as journal:
        chunks = bulk.run(Looking(), RowFile(source), journal, size=SIZE, **options)
        taken = [next(chunks) for _ in range(n_chunks)] if n_chunks else list(chunks)
        chunks.close()
    return taken


def stopped(source, folder, n_chunks):
    """Output of a run that was stopped after some chunks, in the middle of a row."""
    out = folder / "stopped" / "out.jsonl"
    finish(source, out, n_chunks)
    with out.open("ab") as file:
        file.write(b'{"id": "torn", "sta')
    return out


@pytest.fixture
def n_parsed(monkeypatch):
    parsed, read_row = [], io_rows.read_row

    def counting(raw, *args, **kwargs):
        parsed.append(raw)
        return read_row(raw, *args, **kwargs)

    monkeypatch.setattr(io_rows, "read_row", counting)
    return parsed


@pytest.mark.parametrize("n_chunks", range(1, 6))
def test_a_stopped_run_ends_as_a_whole_one_and_counts_every_row(source, tmp_path, n_chunks):
    """Broken, doubled and nameless lines before and behind the place get the names of one run."""
    finish(source, tmp_path / "whole.jsonl")
    out = stopped(source, tmp_path, n_chunks)
    first, *others = finish(source, out)
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert first.unread == {"scored": SIZE * n_chunks}
    assert sum(len(chunk.ids) for chunk in others) == len(LINES) - 1 - SIZE * n_chunks
    assert finish(source, out)[0].unread == {"scored": 15}


def test_rows_before_the_checkpoint_are_not_parsed_again(source, tmp_path, n_parsed):
    plain = [line(f"r{i}", candidates=[{"image": "0.png"}]) for i in range(60)]
    source.write_text("\n".join(plain), "utf-8")
    out = stopped(source, tmp_path, 15)
    n_parsed.clear()
    finish(source, out)
    assert len(n_parsed) == 15
    n_parsed.clear()
    finish(source, out)
    assert n_parsed == []


def _edit(path, old, new):
    path.write_bytes(path.read_bytes().replace(old, new, 1))


CHANGES = {
    "a prompt": lambda source, out: _edit(source, b'"p q1', b'"P q1'),
    "a picture": lambda source, out: (source.parent / "1.png").write_bytes(b"picture X"),
    "a picture that is gone": lambda source, out: (source.parent / "1.png").unlink(),
    "a fingerprint": lambda source, out: _edit(out, b'"fingerprint": "', b'"fingerprint": "f'),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("retry_failed", [False, True])
def test_changes_before_the_checkpoint_are_seen_as_without_it(
    source, tmp_path, change, retry_failed
):
    out = stopped(source, tmp_path, 2)
    CHANGES[change](source, out)
    before = out.read_bytes()
    for _ in range(2):
        with pytest.raises(ConfigError, match="made from other inputs"):
            finish(source, out, retry_failed=retry_failed)
        assert out.read_bytes() == before


def test_a_file_touched_less_than_two_seconds_ago_is_not_trusted(source, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_SURE_S", 1e6)
    assert not finish(source, stopped(source, tmp_path, 2))[0].unread


def test_pictures_of_another_folder_are_not_taken_for_those_of_the_first(
    source, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = stopped(Path("in.jsonl"), tmp_path, 2)
    other = tmp_path / "other"
    shutil.copytree(source.parent, other, ignore=shutil.ignore_patterns("stopped"))
    (other / "1.png").write_bytes(b"picture X")
    monkeypatch.chdir(other)
    with pytest.raises(ConfigError, match="made from other inputs"):
        finish(Path("in.jsonl"), out)


def test_absolute_paths_go_on_from_any_working_directory(source, tmp_path, monkeypatch):
    """Also from one that is deleted while the run goes on."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    out = stopped(source, tmp_path, 2)
    monkeypatch.chdir(tmp_path)
    assert finish(source, out)[0].unread == {"scored": 2 * SIZE}


def test_rows_added_behind_the_end_are_made_and_others_are_not_read(source, tmp_path, n_parsed):
    finish(source, tmp_path / "out.jsonl")
    n_parsed.clear()
    with source.open("a") as file:
        file.write(line("new") + "\n")
    finish(source, tmp_path / "out.jsonl")
    assert len(n_parsed) == 3, "the one that was no whole chunk, to check it and to go on"
    assert list(Journal(tmp_path / "out.jsonl").done)[-1] == "new"


def test_a_last_line_that_grows_is_another_row(source, tmp_path):
    source.write_text("\n".join(map(line, "abc")), "utf-8")
    finish(source, tmp_path / "out.jsonl")
    with source.open("a") as file:
        file.write(" , ")
    assert not finish(source, tmp_path / "out.jsonl")[0].unread
    assert list(Journal(tmp_path / "out.jsonl").done) == ["a", "b", "c", "line 3"]


@pytest.mark.parametrize(
    "left", ["gone", "torn", "another version", "no JSON", "another count", "another type"]
)
def test_without_a_whole_checkpoint_every_row_is_checked(source, tmp_path, left):
    finish(source, tmp_path / "whole.jsonl")
    out = stopped(source, tmp_path, 2)
    path = out.with_name(".out.jsonl.checked")
    lines = path.read_bytes().splitlines(keepends=True)
    last = {
        "gone": b"",
        "torn": lines[-1][:-9],
        "another version": replace(Checkpoint.read(lines[-1]), version=0).line.encode(),
        "no JSON": b'["checkpoint", nothing]\n',
        "another count": lines[-1].replace(b'"scored": 6', b'"scored": 5'),
        "another type": lines[-1].replace(b'"scored": 6', b'"scored": ""'),
    }[left]
    places = [i for i, each in enumerate(lines) if each.startswith(b'["checkpoint"')]
    path.write_bytes(b"".join(lines[: places[0]]) + last)
    chunks = finish(source, out)
    assert not chunks[0].unread
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert finish(source, out)[0].unread


def test_failed_rows_made_again_leave_no_checkpoint_of_the_file_before(source, tmp_path):
    source.write_text("\n".join(LINES[:-1]), "utf-8")
    out = tmp_path / "out.jsonl"
    with open_journal(out) as journal:
        work = Looking(failing={"r1"})
        list(bulk.run(work, RowFile(source), journal, size=SIZE))
    finish(source, out, retry_failed=True)
    assert not out.with_name(".out.jsonl.checked").exists()
    assert set(Journal(out).done.values()) == {"scored"}
    assert list(Journal(out).done)[-1] == "r1"
    finish(source, out)
    assert finish(source, out)[0].unread


def test_a_new_output_forgets_the_checkpoint_of_one_that_was_deleted(source, tmp_path):
    out = stopped(source, tmp_path, 3)
    whole = finish(source, tmp_path / "whole.jsonl")
    out.unlink()
    assert [chunk.ids for chunk in finish(source, out)] == [chunk.ids for chunk in whole]
