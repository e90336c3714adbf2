"""Votes as a benchmark: figures by hand, and who agrees with the others."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.arena.votes import vote, write_votes
from unified_reward.bench.benchmark import JudgedItem
from unified_reward.bench.page import write_page
from unified_reward.bench.protocols.votes import agreement_metrics
from unified_reward.bench.registry import find_benchmark
from unified_reward.bench.run import run_benchmark
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Target, Task
from unified_reward.core.verdicts import Preferred, Unparsed
from unified_reward.data.pack import convert, rows_of
from unified_reward.io.vote_rows import CHOICES
from unified_reward.judges.registry import open_reference


VOTES = {"i1": "a a b", "i2": "b b", "i3": "tie a", "i4": "tie both_bad a cannot_tell"}


@pytest.fixture
def path(tmp_path):
    votes = [
        vote(tmp_path, choice, f"rater {n}", item)
        for item, choices in VOTES.items()
        for n, choice in enumerate(choices.split())
    ]
    dogs = {"tags": {"prompt_id": "i4"}}
    votes = [
        vote(tmp_path, e.vote, e.rater, "i4", about=dogs) if e.id == "i4" else e for e in votes
    ]
    return write_votes(tmp_path / "VOTES.jsonl", votes)


def measured(path, **winners):
    table = path.with_name("table.csv")
    table.write_text("id,winner\n" + "".join(f"{a},{b}\n" for a, b in winners.items()), "utf-8")
    judge = open_reference(f"table:{table}", opens_media=False)
    return run_benchmark("votes", judge, path)


def test_a_judge_is_measured_against_majorities_and_single_raters(path):
    """Majorities: first, second, tie, tie. Labels by the others, ties of them left out:

    i1: the b against a a. i2: each b against the other. i3: the tie against a.
    i4: each vote for a tie against an even split, and the a against two ties: none counts.
    """
    report = measured(path, i1="first", i2="first", i3="first", i4="tie").report
    figures = {name: (row["value"], row["n"]) for name, row in report["metrics"].items()}
    assert figures["pair_accuracy"] == (0.5, 2)
    assert figures["three_way_accuracy"] == (0.5, 4)
    assert figures["human_agreement"] == (0.5, 4)
    assert figures["judge_agreement"] == (0.5, 4)
    assert [*report["groups"]] == ["animals", "image_generation"]
    assert report["groups"]["image_generation"]["human_agreement"]["n"] == 0
    better = measured(path, i1="first", i2="second", i3="first", i4="tie").report["metrics"]
    assert better["judge_agreement"]["value"] == 1.0
    assert better["human_agreement"]["value"] == 0.5
    assert better["human_agreement"]["ci95"][0] < 0.5 < better["human_agreement"]["ci95"][1]


def test_records_made_of_votes_give_the_same_figures(path, tmp_path):
    for name in VOTES:
        for side in "ab":
            (tmp_path / f"{name}-{side}.png").write_bytes(b"there")
    rows = rows_of(path, "votes")
    records = tmp_path / "records.jsonl"
    convert(rows, records, lambda _: None)
    answers = dict.fromkeys(VOTES, "first")
    reports = [measured(file, **answers).report for file in (path, records)]
    assert reports[0] == reports[1]


def test_a_row_without_a_vote_is_broken_and_a_folder_is_no_file(path, tmp_path):
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(vote(tmp_path, "cannot_tell", item="i5").row(tmp_path)) + "\n")
    assert measured(path, i1="first").report["n_broken_rows"] == 1
    with pytest.raises(ConfigError, match="needs --data, the file of votes"):
        measured(tmp_path, i1="first")


def test_its_page_has_bars_of_judge_and_people(path, tmp_path):
    result = measured(path, **dict.fromkeys(VOTES, "first"))
    write_page(find_benchmark("votes"), result.report, result.worst, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "Judge agreement" in page
    assert "Human agreement" in page


def item(i, verdict, counts):
    pictures = (Image(f"{i}a.png"), Image(f"{i}b.png"))
    raters = {"n": sum(counts.values()), **dict.fromkeys(CHOICES, 0), **counts}
    target = Target(winner="first")
    example = Example(Task.IMAGE_GENERATION, f"p{i}", pictures, target=target, raters=raters)
    return JudgedItem(example, "", verdict)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_raters_who_all_agree_agree_with_each_other_and_a_silent_judge_with_none(sizes):
    items = [item(i, Unparsed("?"), {"a": n}) for i, n in enumerate(sizes)]
    figures = agreement_metrics(items)
    n = sum(size for size in sizes if size > 1)
    if not n:
        assert figures == {}
        return
    assert (figures["human_agreement"].value, figures["human_agreement"].n) == (1.0, n)
    assert figures["judge_agreement"].value == 0.0


def test_a_tie_of_the_judge_is_wrong_where_the_others_decided():
    tie = Preferred(0.0, 1.0, 0.0)
    figures = agreement_metrics([item(0, tie, {"a": 2}), item(1, replace(tie), {"a": 1})])
    assert (figures["judge_agreement"].value, figures["judge_agreement"].n) == (0.0, 2)
