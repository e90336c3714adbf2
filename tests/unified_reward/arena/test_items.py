import json
import re
from dataclasses import replace

import pytest

from tests.unified_reward.arena.made import example, item
from tests.unified_reward.media.made import noise, picture
from unified_reward.arena.items import ArenaInput, read_items
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Pair, Target
from unified_reward.evaluate.inputs import read_models
from unified_reward.evaluate.output_rows import write_outputs
from unified_reward.io.rows import example_row
from unified_reward.media import encode_png


PROMPTS = "a cat\na dog\na bird\n"


@pytest.fixture
def models(tmp_path):
    """Folders of three models; beta lacks the last prompt, and has two files for the first."""
    (tmp_path / "prompts.txt").write_text(PROMPTS, "utf-8")
    files = {
        "alpha": ("0", "1", "2"),
        "beta": ("0_0", "0_1", "1"),
        "gamma": ("0_0", "0_1", "1", "2"),
    }
    for seed, (model, names) in enumerate(files.items()):
        (tmp_path / model).mkdir()
        for i, name in enumerate(names):
            pixels = noise(9 + seed, 8 + i, 3)
            (tmp_path / model / f"{name}.png").write_bytes(encode_png(picture(pixels)))
    return tmp_path


def read(folder, *names, **settings):
    paths = [str(folder / name) for name in names]
    return read_items(paths, prompts=folder / "prompts.txt", **settings)


def test_every_pair_of_models_meets_at_each_prompt_and_place_that_both_have(models):
    given = read(models, "alpha", "beta", "gamma")
    meetings = [re.sub(r"/.*/", "/", pair.id) for pair in given.items]
    assert {key: meetings.count(key) for key in meetings} == {
        "alpha|beta/0": 2,
        "alpha|gamma/0": 3,
        "beta|gamma/0": 2,
        "beta|gamma/1": 1,
    }
    for pair in given.items:
        folders = [candidate.source.parent.name for candidate in pair.example.candidates]
        assert folders == [pair.a, pair.b] == pair.id.partition("/")[0].split("|")
        assert pair.models == (pair.a, pair.b)
        tags = pair.example.tags
        assert (tags["model_first"], tags["model_second"]) == pair.models
        assert pair.example.prompt in PROMPTS
        assert pair.id == f"{pair.a}|{pair.b}/{tags['prompt_id']}/{pair.id.rpartition('/')[2]}"
    assert any(note.startswith("left out: beta, 2:") for note in given.notes), (
        "the missing file is told"
    )


def test_equal_files_of_two_models_are_asked_and_said(models):
    (models / "alpha" / "2.png").write_bytes((models / "gamma" / "2.png").read_bytes())
    given = read(models, "alpha", "gamma")
    assert len(given.items) == 3
    assert given.notes[-1].startswith("1 file of alpha is byte for byte a file of gamma")


def test_the_order_of_pairs_follows_the_seed_and_a_baseline_is_in_each(models):
    ids = [
        [pair.id for pair in read(models, "alpha", "beta", seed=seed).items] for seed in (0, 0, 1)
    ]
    assert ids[0] == ids[1]
    assert sorted(ids[0]) == sorted(ids[2])
    every = [pair.id for pair in read(models, "alpha", "beta", "gamma").items]
    assert every != sorted(every)
    assert [pair.id for pair in read(models, "alpha", "beta", "gamma", limit=3).items] == every[:3]
    with_baseline = read(models, "alpha", "beta", "gamma", baseline="beta").items
    assert {pair.models for pair in with_baseline} == {("alpha", "beta"), ("beta", "gamma")}
    with pytest.raises(ConfigError, match="no model is called 'delta'; there are alpha, beta"):
        read(models, "alpha", "beta", baseline="delta")


def test_the_output_folder_of_an_evaluation_gives_the_same_items(models):
    folders = [str(models / name) for name in ("alpha", "beta")]
    (models / "out").mkdir()
    write_outputs(read_models(folders, models / "prompts.txt"), models / "out")
    again = read_items([str(models / "out")])
    first = read(models, "alpha", "beta")
    assert [pair.id for pair in again.items] == [pair.id for pair in first.items]
    for pair, other in zip(again.items, first.items, strict=True):
        paths = [[c.source.resolve() for c in x.example.candidates] for x in (pair, other)]
        assert paths[0] == paths[1]


def write_rows(path, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    return str(path)


def test_records_keep_their_order_and_lose_their_labels(tmp_path):
    rows = [example_row(example(name, tmp_path), tmp_path) for name in ("z", "a", "m")]
    del rows[1]["tags"]
    rows[2]["target"]["winner"] = "first"
    rows[2]["raters"] = {"n": 3}
    rows.append({**rows[0], "id": "one", "candidates": rows[0]["candidates"][:1]})
    rows.append({**rows[0], "id": "bad", "task": "no task"})
    given = read_items([write_rows(tmp_path / "records.jsonl", rows)])
    assert [pair.id for pair in given.items] == ["z", "a", "m"]
    assert [(pair.a, pair.b) for pair in given.items] == [
        ("alpha", "beta"),
        ("a-a.png", "a-b.png"),
        ("alpha", "beta"),
    ]
    assert given.items[1].models == ()
    assert given.items[2].example.target == Target()
    assert given.items[2].example.raters is None
    assert "one: 1 candidate; a pair has two" in given.notes[0]
    assert "task: Input should be" in given.notes[1]


def test_records_that_begin_with_a_score_are_records(tmp_path):
    row = example_row(example("pair", tmp_path), tmp_path)
    alone = {**row, "id": "alone", "candidates": row["candidates"][:1]}
    alone["target"] = {"score": 4.0, "scale": [1.0, 5.0]}
    given = read_items([write_rows(tmp_path / "records.jsonl", [alone, row])])
    assert [pair.id for pair in given.items] == ["pair"]
    assert "alone: 1 candidate; a pair has two" in given.notes[0]


def test_pairs_are_asked_by_file_name_and_the_chosen_one_stands_on_either_side(tmp_path):
    def pair_row(i):
        made = replace(example(f"p{i}", tmp_path), pair=Pair(0, 1, 4.0, 2.0))
        return example_row(made, tmp_path)

    rows = [pair_row(i) for i in range(40)]
    dropped = {**rows[0], "id": "dropped", "status": "dropped", "chosen": None, "rejected": None}
    dropped |= {"chosen_score": None, "rejected_score": None}
    given = read_items([write_rows(tmp_path / "pairs.jsonl", [dropped, *rows])])
    assert [pair.id for pair in given.items] == [f"p{i}" for i in range(40)]
    firsts = [pair.a.endswith("-a.png") for pair in given.items]
    assert 8 <= sum(firsts) <= 32, "the chosen candidate is a or b by the id"
    for pair in given.items:
        assert [c.source.name for c in pair.example.candidates] == [pair.a, pair.b]
        assert (pair.models, pair.example.pair, pair.example.target) == ((), None, Target())


def test_gold_items_know_their_answer_and_rows_without_one_are_told(tmp_path):
    rows = [example_row(example(name, tmp_path), tmp_path) for name in ("x", "y", "z", "none")]
    for row, winner in zip(rows, ("first", "second", "tie", None), strict=True):
        row["target"]["winner"] = winner
    file = write_rows(tmp_path / "gold.jsonl", rows)
    plain = write_rows(tmp_path / "records.jsonl", rows[:1])
    given = read_items([plain], gold=tmp_path / "gold.jsonl")
    assert [(pair.id, pair.gold) for pair in given.gold] == [
        ("gold/x", "a"),
        ("gold/y", "b"),
        ("gold/z", "tie"),
    ]
    assert [pair.gold for pair in given.items] == [None]
    assert given.notes == (f"left out: {file} none: no pair with a known winner",)


@pytest.mark.parametrize("names", [("a", "a"), ("a", "a #2"), ("a #2", "a")])
def test_items_whose_votes_could_be_mixed_up_are_refused(tmp_path, names):
    with pytest.raises(DataError, match="two items have the id"):
        ArenaInput(tuple(item(name, tmp_path) for name in names))


def test_an_input_without_pairs_is_an_error(models):
    with pytest.raises(ConfigError, match="alpha: there is no pair to vote on"):
        read(models, "alpha")
