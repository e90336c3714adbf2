"""Rows of a file by index."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from unified_reward.core.errors import DataError
from unified_reward.data.example_file import ExampleFile, mirrored
from unified_reward.io.vote_rows import win_share


def row(name, **changes):
    sample = {
        "id": name,
        "task": "image_generation",
        "prompt": f"prompt {name}",
        "candidates": [{"image": "a.png"}],
        "target": {"score": 0.5, "scale": [0, 1]},
    }
    return json.dumps(sample | changes, ensure_ascii=False)


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "records.jsonl"
    lines = [row(str(i), criteria="ünï" * i) for i in range(20)]
    lines.insert(7, "   ")
    file.write_text("\n".join(lines), "utf-8")
    return file


def test_every_row_comes_once_in_an_order_that_the_seed_decides(path):
    orders = [[item.sample.id for item in ExampleFile(path, seed=seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]
    assert sorted(orders[0], key=int) == [str(i) for i in range(20)]


def test_a_row_is_read_whole_and_its_media_lie_beside_the_file(path):
    records = ExampleFile(path, seed=0)
    assert len(records) == 20
    for record in (records[i] for i in range(20)):
        assert record.sample.criteria == "ünï" * int(record.sample.id)
        assert record.sample.candidates[0].source == path.parent / "a.png"
        assert record.target.score == 0.5


def test_an_index_past_the_end_is_an_index_error(path):
    with pytest.raises(IndexError):
        ExampleFile(path, seed=0)[20]


def test_unusable_rows_are_counted_and_the_first_reasons_told(path):
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\nno json\n{row('x', prompt=1)}\n{row('3')}\n{row('y', target={'score': 2})}")
    with pytest.raises(
        DataError, match=r"3 of 24 rows .*line 22.*line 23: prompt.*duplicate id '3'"
    ):
        ExampleFile(path, seed=0)


def test_a_file_without_rows_is_an_error(tmp_path):
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"empty.jsonl has no rows"):
        ExampleFile(tmp_path / "empty.jsonl", seed=0)


def test_a_file_that_changes_while_it_is_read_is_noticed(path):
    records = ExampleFile(path, seed=0)
    path.write_text("x" * path.stat().st_size, "utf-8")
    with pytest.raises(DataError, match="changed while it was read"):
        records[0]


@pytest.fixture
def mixed(tmp_path):
    """Scores at even places, comparisons at odd ones."""
    pair = {"candidates": [{"image": "a.png"}, {"image": "b.png"}]}
    pair |= {"target": {"winner": "first", "aspects": {"style": 0.7}}}
    pair |= {"tags": {"utility_first": "0.9", "utility_second": "0.2", "vote": "first"}}
    file = tmp_path / "mixed.jsonl"
    file.write_text("\n".join(row(str(i), **(pair if i % 2 else {})) for i in range(10)), "utf-8")
    return file


def test_twins_give_every_comparison_in_both_orders_and_every_score_once(mixed):
    records = ExampleFile(mixed, seed=3, twins=True)
    given = [records[i] for i in range(len(records))]
    assert [item.sample.id for item in given] == [
        name
        for name in (
            item.sample.id for item in map(ExampleFile(mixed, seed=3).__getitem__, range(10))
        )
        for _ in range(1 + int(name) % 2)
    ]
    winners = [item.target.winner for item in given if item.sample.form == "compare"]
    assert winners == ["first", "second"] * 5


def test_the_other_order_turns_candidates_winner_and_aspects(mixed):
    given = map(ExampleFile(mixed, seed=0).__getitem__, range(10))
    record = next(item for item in given if item.sample.form == "compare")
    turned = mirrored(record)
    assert turned.sample.candidates == record.sample.candidates[::-1]
    assert turned.target.winner == "second"
    assert turned.target.aspects == pytest.approx({"style": 0.3})
    assert turned.tags == {"utility_first": "0.2", "utility_second": "0.9", "vote": "first"}
    assert mirrored(turned).target.aspects == pytest.approx(record.target.aspects)


def test_the_other_order_turns_votes_of_people(mixed):
    record = next(item for item in ExampleFile(mixed, seed=0) if item.sample.form == "compare")
    raters = {"n": 4, "a": 2, "b": 1, "tie": 1, "both_bad": 0, "cannot_tell": 0}
    turned = mirrored(replace(record, raters=raters))
    assert turned.raters == raters | {"a": 1, "b": 2}
    assert win_share(turned.raters) == 1 - win_share(raters)
    assert mirrored(replace(record, raters=3)).raters == 3


def test_a_score_has_no_other_order(path):
    with pytest.raises(DataError, match="only two candidates have one, it has 1"):
        mirrored(ExampleFile(path, seed=0)[0])


def test_a_conversation_has_no_twin_and_a_turned_record_none_of_its_words(tmp_path):
    text = {"messages": [{"from": "human", "value": "<image><image>"}], "target": {"winner": "tie"}}
    pair = [{"image": "a.png"}, {"image": "b.png"}]
    file = tmp_path / "published.jsonl"
    result = row("told", **text, candidates=[], context=pair)
    file.write_text(f"{result}\n{row('known', **text, candidates=pair)}", "utf-8")
    given = [*ExampleFile(file, seed=0, twins=True)]
    assert sorted(item.id for item in given) == ["known", "known", "told"]
    assert sorted(len(item.messages) for item in given) == [0, 1, 1]


def test_held_back_prompts_are_the_same_however_the_file_is_named(path, tmp_path, monkeypatch):
    about = {"context": [{"image": "before.png"}], "task": "image_editing"}
    path.write_text("\n".join(row(str(i), **about) for i in range(40)), "utf-8")
    monkeypatch.chdir(tmp_path)
    held_back, again = (
        {record.id for record in ExampleFile(name, seed=0, part="held_back", held_back=0.5)}
        for name in (path, Path(path.name))
    )
    trained = {record.id for record in ExampleFile(path, seed=0, part="train", held_back=0.5)}
    assert held_back == again
    assert 5 < len(held_back) < 35
    assert held_back | trained == {str(i) for i in range(40)}
    assert not held_back & trained


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"target": None}, "no label; a judge learns from a score or from aspects"),
        ({"target": {"rationale": "r"}}, "no label; a judge learns from a score"),
        (
            {"candidates": [{"image": "a.png"}, {"image": "b.png"}], "target": None},
            "no label; a judge learns from a winner",
        ),
        ({"candidates": []}, "0 candidates without a pair"),
    ],
)
def test_a_row_without_a_label_is_found_when_the_file_is_opened(path, changes, reason):
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" + row("x", **changes))
    with pytest.raises(DataError, match=f"1 of 21 rows .*line 22: {reason}"):
        ExampleFile(path, seed=0)
