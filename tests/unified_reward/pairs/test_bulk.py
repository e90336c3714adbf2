"""A stage that is stopped anywhere makes the batches, and the bytes, of one that is not."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unified_reward.pairs.drawn import write_rows
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.io.journal import Journal
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.judges.bulk import JudgeWork, Line, lines_of, run
from unified_reward.pairs import bulk
from unified_reward.pairs.bulk import PairWork
from unified_reward.pairs.make import PairOptions


@dataclass
class Batches:
    """Its rows tell beside whom they were worked on."""

    judge: str = "batches"
    opened: list[int] = field(default_factory=list)

    def open(self):
        self.opened.append(1)

        def told(lines):
            beside = [one.id for one in lines]
            keys = {"status": "scored", "judge": self.judge, "family": "f", "beside": beside}
            return [{"id": one.id} | keys for one in lines]

        return told


def lines(n):
    return [Line(i, f"q{i} 雪", "") for i in range(n)]


def finished(path, n, size, work=None):
    made = list(run(work or Batches(), lines(n), Journal(path), size=size))
    return made, path.read_bytes() if path.exists() else b""


@settings(max_examples=200)
@given(st.integers(0, 12), st.integers(1, 5), st.floats(0, 1))
def test_stopped_at_any_byte_it_goes_on_to_the_same_bytes(n, size, part):
    with TemporaryDirectory() as folder:
        made, whole = finished(Path(folder) / "whole", n, size)
        assert [len(rows) for rows in made] == [size] * (n // size) + [n % size] * (n % size > 0)
        torn = Path(folder) / "torn"
        torn.write_bytes(whole[: round(part * len(whole))])
        done = torn.read_bytes().count(b"\n")
        work = Batches()
        again, found = finished(torn, n, size, work)
        assert found == whole
        assert len(work.opened) == (done < n), "a judge is loaded once, where it is needed"
        assert sum(map(len, again)) == n - done, "a row was made twice"


def test_where_nothing_is_left_nothing_is_opened(tmp_path):
    finished(tmp_path / "out", 5, 2)
    work = Batches()
    assert finished(tmp_path / "out", 5, 2, work)[0] == []
    assert work.opened == []


def test_what_is_done_is_kept_when_a_later_chunk_breaks(tmp_path):
    """What is written does not wait for what comes behind it."""
    first = run(Batches(), lines(6), Journal(tmp_path / "out"), size=2)
    next(first)
    next(first)
    first.close()
    assert (tmp_path / "out").read_bytes().count(b"\n") == 4
    finished(tmp_path / "plain", 6, 2)
    assert finished(tmp_path / "out", 6, 2)[1] == (tmp_path / "plain").read_bytes()


def test_rows_of_another_judge_are_not_mixed_in(tmp_path):
    _, before = finished(tmp_path / "out", 3, 2)
    with pytest.raises(DataError, match=r"holds rows of batches \(f\)"):
        finished(tmp_path / "out", 5, 2, Batches(judge="other"))
    assert (tmp_path / "out").read_bytes() == before


def test_lines_go_to_a_worker_as_they_stand_in_the_file(tmp_path):
    row = {"id": "a", "task": "image_generation", "prompt": "é", "candidates": []}
    source = write_rows(tmp_path / "in.jsonl", [row, {"id": "b"}, row])
    source.write_bytes(source.read_bytes() + b"\n\xff\xfe\n")
    good, lacking, repeated, wrong = lines_of(source, read_examples(source))
    assert (good.number, good.id, good.error) == (1, "a", "")
    assert good.raw.encode() == source.read_bytes().splitlines(keepends=True)[0]
    assert "line 2: task: Field required" in lacking.error
    assert "duplicate id" in repeated.error
    assert (wrong.number, wrong.id) == (5, "line 5")


@pytest.mark.parametrize(
    "work",
    [
        JudgeWork(Path("in"), "scripted:none", None, None, 2),
        PairWork(Path("in"), Path("out"), "scripted:none", None, None, PairOptions()),
    ],
)
def test_a_judge_that_is_none_stops_the_run_before_a_row_is_written(work, tmp_path):
    with pytest.raises(ConfigError, match="no scripted model 'none'"):
        finished(tmp_path / "out", 3, 2, work)
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_under_the_settings_it_was_begun_with_only(tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    check_run_config(out, {"judge": "a", "sizes": (1, 2), "margin": 0.5})
    check_run_config(out, {"judge": "a", "sizes": [1, 2], "margin": 0.5})
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl.config.json"]
    out.write_text("{}\n")
    with pytest.raises(ConfigError) as told:
        check_run_config(out, {"judge": "b", "sizes": [1, 2], "seed": 3})
    text = str(told.value)
    for due in ("judge was 'a' and is 'b'", "margin was 0.5 and is None", "seed was None and is 3"):
        assert due in text
    assert "sizes" not in text
    check_run_config(out, {"judge": "a", "sizes": [1, 2], "margin": 0.5})


@pytest.mark.parametrize("content", ["", "{", "\udcff"])
def test_settings_that_cannot_be_read_are_told(content, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    path = out.with_name("out.jsonl.config.json")
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        check_run_config(out, {"seed": 0})


def test_engine_ray_without_ray_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'unified-reward\[ray\]'"):
        next(run(Batches(), lines(2), Journal(tmp_path / "out"), size=1, engine=bulk.Engine.RAY))
