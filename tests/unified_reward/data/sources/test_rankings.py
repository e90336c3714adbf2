from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unified_reward.data.sources.reading import read, reasons, records
from unified_reward.core.samples import Image
from unified_reward.data.sources import SOURCES, rankings
from unified_reward.data.sources.streams import Raw


def ranked(ranks, **more):
    paths = [f"{i}.png" for i in range(len(ranks))]
    return {"id": "a", "prompt": "a cat", "generations": paths, "ranking": ranks} | more


def test_every_two_of_a_ranking_are_compared_and_equal_ranks_tie(tmp_path):
    found = records(read(tmp_path, "imagereward", ranked([2, 5, 2])))
    assert {name: item.target.winner for name, item in found.items()} == {
        "a:0-1": "first",
        "a:0-2": "tie",
        "a:1-2": "second",
    }
    sample = found["a:1-2"].sample
    assert sample.prompt == "a cat"
    assert sample.candidates == (Image(tmp_path / "1.png"), Image(tmp_path / "2.png"))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=9))
def test_pairs_of_a_ranking_are_its_order_again(ranks):
    rows = rankings.read([Raw(1, ranked(ranks))], SOURCES["imagereward"], Path())
    winners = [row.content.target.winner for row in rows]
    signs = {-1: "first", 0: "tie", 1: "second"}
    assert winners == [signs[(a > b) - (a < b)] for a, b in combinations(ranks, 2)]


@pytest.mark.parametrize(
    ("row", "result"),
    [
        (ranked([1, 2], generations=["0.png"]), "1 generations and 2 ranks"),
        (ranked([1]), "1 generations and 1 ranks"),
        (ranked([0, 1]), "whole number from 1, the best, not 0"),
        (ranked([1, 1.5]), "not 1.5"),
        (ranked([1, True]), "not True"),
        (ranked([1, "2"]), "not '2'"),
        (ranked([1, 2], generations=["0.png", "0.png"]), "occurs twice"),
        (ranked([1, 2], generations="0.png"), "not a list"),
        (ranked([1, 2], generations=["0.png", 7]), "an image or video is a path or bytes, not '7'"),
        (ranked([1, 2], prompt=""), "nothing in column prompt"),
        (ranked([1, 2], id=[3]), "an id is text"),
    ],
)
def test_a_wrong_ranking_costs_itself_and_says_why(tmp_path, row, result):
    rows = read(tmp_path, "imagereward", row, ranked([1, 2], id="b"))
    assert list(records(rows)) == ["b:0-1"]
    [(line, why)] = reasons(rows)
    assert line == 1
    assert result in why
