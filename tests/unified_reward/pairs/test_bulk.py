"""A stage that is stopped anywhere makes the batches, and the bytes, of one that is not."""

import importlib.util
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Task
from unified_reward.io.journal import Journal
from unified_reward.io.rows import Row, read_examples
from unified_reward.io.run_config import Origin, check_run_config, config_path
from unified_reward.judges.bulk import Engine, JudgeWork, run
from unified_reward.judges.registry import JudgeOptions, open_judge
from unified_reward.pairs.bulk import PairWork, pair_rows
from unified_reward.pairs.strategies import PairOptions, Strategy


@dataclass
class Batches:
    """Work whose rows say with whom they were in a batch."""

    judge: str = "batches"
    opened: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    origin = property(lambda self: Origin({"kind": "batches"}, lambda: self.files, ("prompt",)))

    def open(self):
        self.opened.append(1)

        def batch(rows):
            ids = [row.id for row in rows]
            keys = {"judge": self.judge, "family": "f", "batch": ids}
            statuses = ["failed" if name in self.failing else "scored" for name in ids]
            return [
                {"id": name, "status": status} | keys
                for name, status in zip(ids, statuses, strict=True)
            ]

        return batch


def inputs(n, **prompts):
    """Prompts; those named ``q1=...`` have another text."""
    return [
        Row(i, f"q{i} 雪", Example(Task.IMAGE_GENERATION, prompts.get(f"q{i}", f"prompt {i}")))
        for i in range(n)
    ]


def finish(path, n, size, work=None, **options):
    rows = options.pop("rows", inputs(n))
    chunks = list(run(work or Batches(), lambda: rows, Journal(path), size=size, **options))
    assert [name for chunk in chunks for name in chunk.ids] == [row.id for row in rows]
    made = [chunk.rows for chunk in chunks]
    return made, path.read_bytes() if path.exists() else b""


@settings(max_examples=200)
@given(st.integers(0, 12), st.integers(1, 5), st.floats(0, 1))
def test_stopped_at_any_byte_it_goes_on_to_the_same_bytes(n, size, part):
    with TemporaryDirectory() as folder:
        made, whole = finish(Path(folder) / "whole", n, size)
        assert [len(rows) for rows in made] == [size] * (n // size) + [n % size] * (n % size > 0)
        torn = Path(folder) / "torn"
        torn.write_bytes(whole[: round(part * len(whole))])
        if whole:
            shutil.copy(config_path(Path(folder) / "whole"), config_path(torn))
        done = sum(line.endswith(b"}") for line in torn.read_bytes().splitlines())
        work = Batches()
        again, content = finish(torn, n, size, work)
        assert content == whole
        assert len(work.opened) == (done < n), "a judge is loaded once, where it is needed"
        assert sum(map(len, again)) == n - done, "a row was made twice"


def test_where_nothing_is_left_nothing_is_opened(tmp_path):
    finish(tmp_path / "out", 5, 2)
    work = Batches()
    assert finish(tmp_path / "out", 5, 2, work)[0] == [[], [], []]
    assert work.opened == []


def test_what_is_done_is_kept_when_a_later_chunk_breaks(tmp_path):
    """A finished chunk is written before the next one is begun."""
    first = run(Batches(), lambda: inputs(6), Journal(tmp_path / "out"), size=2)
    next(first)
    next(first)
    first.close()
    assert (tmp_path / "out").read_bytes().count(b"\n") == 4
    finish(tmp_path / "plain", 6, 2)
    assert finish(tmp_path / "out", 6, 2)[1] == (tmp_path / "plain").read_bytes()


def test_rows_of_another_judge_are_not_mixed_in(tmp_path):
    _, before = finish(tmp_path / "out", 3, 2)
    with pytest.raises(DataError, match=r"holds rows of batches \(f\)"):
        finish(tmp_path / "out", 5, 2, Batches(judge="other"))
    assert (tmp_path / "out").read_bytes() == before


def test_rows_that_no_run_made_are_left_as_they_are(tmp_path):
    out = tmp_path / "out"
    for row in ('"judge": "batches", "family": "f"', '"policy": "p"'):
        out.write_text(f'{{"id": "x", "status": "kept", {row}}}')
        before = out.read_bytes()
        with pytest.raises((ConfigError, DataError), match="give another output file"):
            finish(out, 5, 2)
        assert out.read_bytes() == before


@pytest.mark.parametrize(
    "work",
    [
        JudgeWork(Path("in"), "scripted:none", JudgeOptions(), 2),
        PairWork(Path(), "scripted:none", JudgeOptions(), PairOptions()),
    ],
)
def test_a_judge_that_is_none_stops_the_run_before_a_row_is_written(work, tmp_path):
    with pytest.raises(ConfigError, match="no scripted model 'none'"):
        finish(tmp_path / "out", 3, 2, work)
    assert not (tmp_path / "out").exists()


def test_a_run_goes_on_under_the_settings_it_was_begun_with_only(tmp_path):
    out = tmp_path / "new" / "out.jsonl"
    check_run_config(out, {"judge": "a", "sizes": (1, 2), "margin": 0.5}, {})
    check_run_config(out, {"judge": "a", "sizes": [1, 2], "margin": 0.5}, {})
    assert [path.name for path in out.parent.iterdir()] == ["out.jsonl.config.json"]
    out.write_text("{}\n")
    with pytest.raises(ConfigError) as error:
        check_run_config(out, {"judge": "b", "sizes": [1, 2], "seed": 3}, {})
    text = str(error.value)
    for due in ("judge was 'a' and is 'b'", "margin was 0.5 and is None", "seed was None and is 3"):
        assert due in text
    assert "sizes" not in text
    check_run_config(out, {"judge": "a", "sizes": [1, 2], "margin": 0.5}, {})


@pytest.mark.parametrize("content", ["", "{", "\udcff"])
def test_settings_that_cannot_be_read_are_told(content, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("{}\n")
    path = out.with_name("out.jsonl.config.json")
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"config\.json cannot be read"):
        check_run_config(out, {"seed": 0}, {})


def test_engine_ray_without_ray_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install .*unified-reward\[ray\]'"):
        finish(tmp_path / "out", 2, 1, engine=Engine.RAY)


def test_the_input_is_taken_chunk_by_chunk(tmp_path):
    taken = []
    rows = (taken.append(row) or row for row in inputs(100))
    chunks = run(Batches(), lambda: rows, Journal(tmp_path / "out"), size=3)
    for i in range(1, 4):
        next(chunks)
        assert len(taken) == 3 * i


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="Ray is not installed")
def test_on_ray_a_bounded_part_of_the_input_is_in_memory(tmp_path):
    """Two chunks a worker wait beside the one that is taken next; order and bytes stay."""
    import ray

    taken = []
    rows = (taken.append(row) or row for row in inputs(60))
    finish(tmp_path / "here", 60, 3)
    try:
        journal = Journal(tmp_path / "ray")
        chunks = run(Batches(), lambda: rows, journal, size=3, engine=Engine.RAY, workers=2)
        for i, chunk in enumerate(chunks):
            assert [row["id"] for row in chunk.rows] == [row.id for row in taken[3 * i : 3 * i + 3]]
            assert len(taken) <= 3 * (i + 1 + 2 * 2)
        assert (tmp_path / "ray").read_bytes() == (tmp_path / "here").read_bytes()
        work = JudgeWork(Path("in"), "scripted:none", JudgeOptions(), 2)
        with pytest.raises(ConfigError, match="no scripted model 'none'"):
            finish(tmp_path / "no", 2, 1, work, engine=Engine.RAY)
    finally:
        ray.shutdown()


def test_a_failed_row_of_candidates_keeps_what_is_known_of_its_prompt(tmp_path):
    row = {"id": "a", "status": "failed", "reason": "no memory", "candidates": []}
    known = {"task": "image_editing", "prompt": "p", "criteria": "c", "tags": {"k": "v"}}
    known["context"] = [{"image": "a.png"}]
    (tmp_path / "in.jsonl").write_text(json.dumps(row | known))
    rows = list(read_examples(tmp_path / "in.jsonl"))
    judge = open_judge("scripted:first")
    (made,) = pair_rows(rows, judge, PairOptions(Strategy.RANK), tmp_path)
    assert {key: made[key] for key in known} == known
    assert (made["status"], made["reason"]) == ("failed", "line 1: no memory")


def test_a_changed_input_is_named_and_leaves_the_file(tmp_path):
    out = tmp_path / "out"
    before = finish(out, 5, 2)[1]
    changed = inputs(7, q1="new", q3="new", q4="new", q0="new")
    for rows in (changed, changed[::-1]):
        with pytest.raises(ConfigError) as error:
            finish(out, 7, 2, rows=rows)
        assert "changed under 'q" in str(error.value)
        assert "and 1 more; give another output file, or delete out" in str(error.value)
        assert out.read_bytes() == before


def test_new_rows_are_made_and_missing_ones_are_no_change(tmp_path):
    out = tmp_path / "out"
    before = finish(out, 5, 2)[1]
    _, content = finish(out, 7, 2, rows=inputs(7)[3:])
    assert content.startswith(before)
    assert len(content.splitlines()) == 7


@pytest.mark.parametrize(
    ("files", "due"),
    [
        ({"weights": "2", "card": "1"}, "weights changed"),
        ({"card": "1"}, "weights is gone"),
        ({"weights": "1", "card": "1", "more": "1"}, "more is new"),
    ],
)
def test_a_changed_file_of_the_judge_is_named(files, due, tmp_path):
    out = tmp_path / "out"
    before = finish(out, 3, 2, Batches(files={"weights": "1", "card": "1"}))[1]
    with pytest.raises(ConfigError, match=rf"made with other files: {due}; give another output"):
        finish(out, 5, 2, Batches(files=files))
    assert out.read_bytes() == before
    finish(out, 5, 2, Batches(files={"weights": "", "card": "1"}))  # one that is not known


@pytest.mark.parametrize("retry_failed", [False, True])
def test_files_of_an_earlier_version_are_refused_with_the_remedy(retry_failed, tmp_path):
    out = tmp_path / "out"
    finish(out, 3, 2)
    config, rows = config_path(out).read_text(), out.read_text()
    out.write_text(
        "".join(line.partition(', "fingerprint"')[0] + "}\n" for line in rows.splitlines())
    )
    with pytest.raises(ConfigError, match=r"earlier version.*give another output file, or delete"):
        finish(out, 3, 2, retry_failed=retry_failed)
    out.write_text(rows)
    config_path(out).write_text(json.dumps({"kind": "batches"}))
    with pytest.raises(ConfigError, match=r"earlier version.*give another output file, or delete"):
        finish(out, 3, 2, retry_failed=retry_failed)
    config_path(out).write_text(config)
    finish(out, 3, 2, retry_failed=retry_failed)


def test_failed_rows_are_made_again_alone_and_only_when_it_is_wanted(tmp_path):
    out, lost = tmp_path / "out", {"q1 雪", "q4 雪"}
    before = finish(out, 6, 3, Batches(failing=lost))[1]
    assert finish(out, 6, 3)[1] == before
    made, content = finish(out, 6, 3, retry_failed=True)
    kept = [line for line in before.splitlines() if b'"scored"' in line]
    assert content.splitlines()[:4] == kept
    again = [row for rows in made for row in rows]
    assert [(row["id"], row["status"], row["batch"]) for row in again] == [
        ("q1 雪", "scored", ["q1 雪"]),
        ("q4 雪", "scored", ["q4 雪"]),
    ]
    assert finish(out, 6, 3, retry_failed=True)[1] == content


def test_failed_rows_may_have_changed_when_they_are_made_again(tmp_path):
    out = tmp_path / "out"
    before = finish(out, 4, 2, Batches(failing={"q1 雪"}))[1]
    rows = inputs(4, q1="mended")
    with pytest.raises(ConfigError, match=r"'q1 雪'; ask failed rows again with --retry-failed"):
        finish(out, 4, 2, rows=rows)
    assert out.read_bytes() == before
    finish(out, 4, 2, rows=rows, retry_failed=True)
    assert set(Journal(out).done.values()) == {"scored"}


def test_where_all_rows_failed_another_judge_may_make_them(tmp_path):
    out = tmp_path / "out"
    finish(out, 4, 2, Batches(failing={row.id for row in inputs(4)}, files={"weights": "1"}))
    other = Batches(judge="other", files={"weights": "2"})
    _, content = finish(out, 4, 2, other, retry_failed=True)
    assert content.count(b'"judge": "other"') == 4
    assert finish(out, 4, 2, other)[1] == content


def test_killed_anywhere_while_failed_rows_are_made_again_it_ends_with_each_id_once(tmp_path):
    """Every length that the file can have between the two runs."""
    out, lost = tmp_path / "out", {"q1 雪", "q4 雪"}
    before = finish(out, 5, 2, Batches(failing=lost))[1]
    whole = finish(out, 5, 2, retry_failed=True)[1]
    kept = len([line for line in before.splitlines() if b'"scored"' in line])
    start = sum(map(len, whole.splitlines(keepends=True)[:kept]))
    states = [before, *(whole[:length] for length in range(start, len(whole)))]
    for state in states:
        out.write_bytes(state)
        assert finish(out, 5, 2, retry_failed=True)[1] == whole
    out.write_bytes(whole[:start])
    finish(out, 5, 2)  # also without the option
    assert sorted(Journal(out).done) == [row.id for row in inputs(5)]
