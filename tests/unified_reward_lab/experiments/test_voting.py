"""Votes at random, or where a judge is unsure: what is chosen, taught, tested and reported."""

import json
from dataclasses import replace

import numpy as np
import pytest

from unified_reward.core.errors import ConfigError
from unified_reward_lab.experiments.voting import (
    Pictures,
    VotingStudy,
    choose,
    page,
    plot,
    read_pictures,
    run,
    vote,
)
from unified_reward_lab.experiments.voting_report import build_report, votes_to_reach
from unified_reward_lab.microworld.annotators import NOISELESS, Annotator


PICTURES = Pictures(["p"] * 3, [], [0.2, 0.9, 0.9], np.array([[0, 1], [1, 0], [1, 2]]))


def test_the_noiseless_rater_prefers_by_utility_and_calls_equals_a_tie():
    assert [vote(PICTURES, pair, NOISELESS, 0) for pair in range(3)] == ["second", "first", "tie"]


def test_a_noisy_vote_depends_on_rater_and_pair_alone():
    noisy = Annotator(temperature=2.0)
    votes = [vote(PICTURES, 0, noisy, seed) for seed in range(40)]
    assert votes == [vote(PICTURES, 0, noisy, seed) for seed in range(40)]
    assert {*votes} == {"first", "second"}


def test_random_pairs_are_never_asked_twice_and_go_on():
    urgency = np.zeros(10)
    first = choose(urgency, 4, [], seed=1)
    assert sorted(first + choose(urgency, 6, first, seed=1)) == [*range(10)]
    assert first != choose(urgency, 4, [], seed=2)


def test_a_target_that_is_never_reached_is_infinite_and_a_fall_does_not_undo_it():
    assert votes_to_reach([10, 20, 30], [0.5, 0.75, 0.5, 1.0], [0, 0.625, 0.75, 1.5]) == [
        5.0,
        10.0,
        float("inf"),
    ]


def result(points):
    return {"points": points, "ties": 0.25, "wrong": 0.0}


def test_arms_are_compared_on_the_same_pairs():
    """Two captions of two pairs; at 20 votes the arm leads by 1/2, seed by seed."""
    done = {
        "random": [
            [result([1, 0, 0, 0]), result([1, 0, 1, 0])],
            [result([0, 0, 0, 0]), result([0, 0, 0, 0])],
        ],
        "uncertain": [[result([1, 0, 1, 0]), result([1, 1, 1, 1])]],
    }
    report = build_report([10, 20], result([0, 0, 0, 0]), done, ["x", "x", "y", "y"])
    last = report["arms"]["uncertain"]["20"]
    assert (last["accuracy"]["value"], last["gain"]["value"]) == (1.0, 1.0)
    assert (last["ahead"]["value"], last["ahead"]["ci95"]) == (0.5, [0.5, 0.5])
    assert last["ties"] == 0.25
    assert report["needed"]["uncertain"]["20"]["value"] == 10


@pytest.mark.parametrize("votes", [(), (8, 4), (0, 4)])
def test_numbers_of_votes_that_do_not_rise_are_refused(votes):
    with pytest.raises(ConfigError, match="votes must be increasing numbers from 1"):
        VotingStudy(votes=votes)


def test_a_study_without_its_reference_is_refused():
    with pytest.raises(ConfigError, match="random needs at least as many seeds as any other"):
        VotingStudy(arms={"random": 1, "uncertain": 2})


@pytest.mark.slow
def test_judges_are_taught_in_rounds_and_what_is_taught_is_kept(tmp_path):
    study = VotingStudy(
        tmp_path / "work",
        prompts={"train": 6, "test": 6},
        pictures=3,
        votes=(3, 6),
        arms={"random": 2, "uncertain": 1, "disagree": 1},
        epochs=1,
        batch_size=3,
    )
    advanced = []
    report = run(study, advanced.append)
    assert sum(advanced) == study.total == 8
    tested = read_pictures(study, "test")
    assert 0 < report["n"] <= len(tested.pairs) == 18
    chosen = {}
    for arm in study.arms:
        for n in study.votes:
            folder = tmp_path / "work" / arm / "0" / str(n)
            rows = [*map(json.loads, (folder / "votes.jsonl").read_text().splitlines())]
            chosen[arm, n] = {row["id"] for row in rows}
            assert len(chosen[arm, n]) == n
        assert chosen[arm, 3] < chosen[arm, 6], "later rounds keep the votes of earlier ones"
    assert "| disagree | 6 |" in page(report)
    assert plot(report).startswith(b"\x89PNG")
    weights = tmp_path / "work" / "random" / "0" / "6" / "judge" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(study) == report
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"temperature was 0\.2 and is 0\.1"):
        run(replace(study, temperature=0.1))
