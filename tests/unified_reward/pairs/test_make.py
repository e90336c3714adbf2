"""Pairs from judges of known behaviour: who is chosen, what is asked, and what is told."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unified_reward.pairs.drawn import draw_pools, read_rows
from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.io.rows import read_examples
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.make import PairOptions, Strategy, make_pairs, pairs_row


SCALE = Scale(0, 100)
KEYS = (
    *("id", "status", "reason", "task", "prompt", "context", "chosen", "rejected"),
    *("chosen_score", "rejected_score", "candidates", "comparisons", "judge_calls"),
    *("judge", "family", "strategy", "seed"),
)


class Knows(BaseJudge):
    """Judges answers by a table of their worth; what is not a number is said as it is."""

    name, family = "knows", "table"

    def __init__(self, worth, comparing=None, refused=()):
        self.worth = worth
        self.comparing = worth if comparing is None else comparing
        self.refused = refused
        self.asked = []

    def check_samples(self, samples):
        shown = [one.candidates[0] for one in samples]
        return [Failed(f"{one} is broken") if one in self.refused else None for one in shown]

    def ask(self, samples, *, orders=2):
        self.asked += samples
        return [self._verdict(one) for one in samples]

    def _verdict(self, sample):
        table = self.worth if sample.form == "score" else self.comparing
        told = [table[one] for one in sample.candidates]
        told = [one.pop(0) if isinstance(one, list) else one for one in told]
        lost = [one for one in told if isinstance(one, Unparsed | Failed)]
        if lost:
            return lost[0]
        if len(told) == 1:
            return Scored(Score(told[0], SCALE))
        first, second = float(told[0] > told[1]), float(told[1] > told[0])
        return Preferred(first, 1 - first - second, second)


def pool(*answers, name="p"):
    return Example(Task.IMAGE_UNDERSTANDING, "what is it?", answers, (Image("seen.png"),), id=name)


def pair(judge, answers, **how):
    return make_pairs([pool(*answers)], judge, PairOptions(**how))[0]


def said(paired):
    """The two sides as answers."""
    sides = (paired.chosen, paired.rejected)
    return tuple(None if i is None else paired.board.pool.candidates[i] for i in sides)


TEN = {f"answer {i}": float(i) for i in range(10)}


def test_the_best_scored_winner_meets_the_worst_scored_loser():
    paired = pair(Knows(TEN), TEN)
    board = paired.board
    assert sorted(i for one in board.matches for i in (one.a, one.b)) == [*range(10)]
    for one in board.matches:
        winner, loser = max(one.a, one.b), min(one.a, one.b)
        assert (board.sides[winner], board.sides[loser]) == ("chosen", "rejected")
    assert said(paired) == ("answer 9", "answer 0")
    assert board.scores == dict(enumerate(TEN.values()))
    assert board.calls == 2 * 5 + 10


def test_points_decide_among_winners_and_among_losers_only():
    """Comparisons and scores contradict each other: the worst by comparison has the best score."""
    upside = {name: 9 - worth for name, worth in TEN.items()}
    paired = pair(Knows(upside, comparing=TEN), TEN)
    board = paired.board
    winners = [i for i, side in board.sides.items() if side == "chosen"]
    losers = [i for i, side in board.sides.items() if side == "rejected"]
    best, worst = min(winners), max(losers)  # scores fall with the index
    if best < worst:
        assert (paired.chosen, paired.rejected) == (best, worst)
    else:
        assert paired.status == "dropped"
    by_score = pair(Knows(upside, comparing=TEN), TEN, strategy=Strategy.SCORE)
    assert said(by_score) == ("answer 0", "answer 9")


def test_those_of_a_tie_are_on_no_side_and_are_not_scored():
    even = dict.fromkeys(["a", "b"], 1.0)
    paired = pair(Knows({"a": 3.0, "b": 5.0}, comparing=even), ["a", "b"])
    assert (paired.status, paired.reason) == ("dropped", "every comparison is a tie")
    assert paired.board.sides == {}
    assert paired.board.scores == {}
    assert paired.board.calls == 2


@pytest.mark.parametrize("strategy", [one for one in Strategy if one is not Strategy.RANDOM])
@pytest.mark.parametrize("lost", [Unparsed("no verdict", "?"), Failed("server down")])
def test_a_judge_that_cannot_be_read_gives_failed_rows_and_no_number(strategy, lost):
    paired = pair(Knows(dict.fromkeys(TEN, lost)), TEN, strategy=strategy)
    assert paired.status == "failed"
    assert paired.board.scores == {}
    assert said(paired) == (None, None)
    told = f"{paired.reason} {paired.board.reasons}"
    assert "no verdict" in told or "server down" in told


def test_one_unreadable_comparison_costs_its_two_candidates_only():
    comparing = TEN | {"answer 9": Unparsed("mumbled")}
    paired = pair(Knows(TEN, comparing=comparing), TEN)
    assert paired.status == "kept"
    lost = next(one for one in paired.board.matches if 9 in (one.a, one.b))
    assert lost.p_a is None
    assert not {lost.a, lost.b} & paired.board.sides.keys()


def test_an_unreadable_score_is_never_the_worst():
    """C.2: published code takes an answer it cannot read for 0, and so for the rejected one."""
    paired = pair(Knows(TEN | {"answer 0": Unparsed("mumbled")}, comparing=TEN), TEN)
    assert said(paired)[1] != "answer 0"
    assert 0 not in paired.board.scores
    assert paired.board.reasons[0] == "mumbled"


def test_scores_are_numbers_with_decimals():
    """C.2: as text 10 is below 9, and 2.67 is 2."""
    worth = {"ten": 10.0, "nine": 9.0, "two": 2.0, "more": 2.67}
    paired = pair(Knows(worth), worth, strategy=Strategy.SCORE)
    assert said(paired) == ("ten", "two")
    assert paired.board.scores[3] == 2.67


@pytest.mark.parametrize(("margin", "status"), [(0.0, "kept"), (0.49, "kept"), (0.5, "dropped")])
def test_the_chosen_one_must_be_above_by_more_than_the_margin(margin, status):
    paired = pair(Knows({"a": 1.5, "b": 1.0}), ["a", "b"], margin=margin)
    assert paired.status == status
    assert ("1.5" in paired.reason) if status == "dropped" else paired.reason is None


@pytest.mark.parametrize(("least", "status"), [(9.0, "kept"), (9.5, "dropped")])
def test_a_set_without_a_good_candidate_is_dropped(least, status):
    paired = pair(Knows(TEN), TEN, min_quality=least)
    assert paired.status == status


def test_readings_are_averaged_counted_and_unreadable_ones_left_out():
    worth = {"a": [1.0, 4.0, Unparsed("?")], "b": [1.0, 1.0, 1.0]}
    paired = pair(Knows(worth), ["a", "b"], strategy=Strategy.SCORE, readings=3)
    assert paired.board.scores == {0: 2.5, 1: 1.0}
    assert paired.board.calls == 6


def test_readings_of_one_score_are_told_apart_by_their_ids():
    judge = Knows(TEN)
    pair(judge, TEN, strategy=Strategy.SCORE, readings=2)
    assert len({one.id for one in judge.asked}) == 20


def test_a_broken_candidate_is_set_aside_before_anybody_is_paired_with_it():
    paired = pair(Knows(TEN, refused={"answer 4"}), TEN)
    met = {i for one in paired.board.matches for i in (one.a, one.b)}
    assert 4 not in met
    assert len(met) == 8  # nine are left, one rests
    assert paired.board.reasons[4] == "answer 4 is broken"
    few = pair(Knows(TEN, refused={*TEN} - {"answer 1"}), TEN)
    assert few.status == "failed"
    assert few.reason.startswith("1 of 10 candidates can be judged, two are needed")


def test_a_candidate_that_equals_another_is_asked_about_once():
    judge = Knows({"a": 1.0, "b": 2.0, "c": 3.0})
    paired = pair(judge, ["a", "b", "a", "b", "c"], strategy=Strategy.TOURNAMENT)
    assert len(paired.board.matches) == 3
    assert paired.board.reasons == {2: "the same as candidate 0", 3: "the same as candidate 1"}
    assert said(paired) == ("c", "a")


@pytest.mark.parametrize("worth", [TEN, {"a": 0.0, "b": 10.0, "c": 4.0, "d": 5.0}])
def test_the_most_decided_comparison_is_the_pair_of_rank(worth):
    """A certain win of the second, probability 0, is as decided as one of the first."""

    class Sure(Knows):
        def _verdict(self, sample):
            a, b = (self.worth[one] for one in sample.candidates)
            p = 0.5 + (a - b) / 20
            return Preferred(p, 0.0, 1 - p)

    for seed in range(40):
        paired = pair(Sure(worth), worth, strategy=Strategy.RANK, seed=seed)
        gaps = {frozenset((one.a, one.b)): abs(one.p_a - 0.5) for one in paired.board.matches}
        assert gaps[frozenset((paired.chosen, paired.rejected))] == max(gaps.values())
        assert paired.board.scores == {}


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_tournament_asks_all_pairs_or_its_rounds(rounds):
    paired = pair(Knows(TEN), TEN, strategy=Strategy.TOURNAMENT, rounds=rounds)
    matches = paired.board.matches
    assert len(matches) == (5 * rounds or 45)
    assert len({frozenset((one.a, one.b)) for one in matches}) == len(matches)
    if not rounds:
        assert said(paired) == ("answer 9", "answer 0")
        assert sorted(TEN, key=lambda name: paired.board.scores[[*TEN].index(name)]) == [*TEN]


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_tournament_of_draws_has_no_winner(rounds):
    even = Knows(dict.fromkeys(TEN, 1.0))
    paired = pair(even, TEN, strategy=Strategy.TOURNAMENT, rounds=rounds)
    assert paired.status == "dropped"
    assert paired.reason == "the best, at 0, is not above the worst, at 0"


def test_an_always_first_judge_is_led_by_the_draw_and_not_by_the_place_in_the_file():
    class First(Knows):
        def _verdict(self, sample):
            return Preferred(1.0, 0.0, 0.0)

    drawn = Counter(
        pair(First(TEN), TEN, strategy=Strategy.RANK, orders=1, seed=seed).chosen
        for seed in range(400)
    )
    assert set(drawn) == {*range(10)}
    assert max(drawn.values()) < 80  # 40 expected each


@pytest.mark.parametrize(
    "wrong",
    [
        {"readings": 0},
        {"rounds": -1},
        {"margin": -1.0},
        {"margin": float("nan")},
        {"strategy": Strategy.RANK, "min_quality": 1.0},
        {"strategy": Strategy.RANDOM, "margin": 1.0},
    ],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError):
        PairOptions(**wrong)


@settings(max_examples=60)
@given(
    st.sampled_from(Strategy),
    st.lists(st.integers(0, 4), min_size=0, max_size=9),
    st.integers(0, 99),
    st.integers(0, 3),
)
def test_every_prompt_ends_as_a_row_that_holds_together(strategy, drawn, seed, rounds):
    answers = [f"{i}: {worth}" for i, worth in enumerate(drawn)]
    worth = {one: float(one.split(": ")[1]) for one in answers}
    how = PairOptions(strategy, seed=seed, rounds=rounds, orders=1)
    asked = pool(*answers, *answers[:2], name="one")
    judge = Knows(worth)
    row = pairs_row(make_pairs([asked], judge, how)[0], judge, Path())
    assert tuple(row) == KEYS
    assert len(row["candidates"]) == len(asked.candidates)
    assert row["judge_calls"] == len(judge.asked)
    assert (row["status"] == "kept") == (row["chosen"] is not None) == (row["reason"] is None)
    if row["status"] == "kept":
        assert row["chosen"] != row["rejected"]
        if row["chosen_score"] is not None:
            assert row["chosen_score"] > row["rejected_score"]
        if strategy is not Strategy.RANDOM and not (strategy is Strategy.TOURNAMENT and rounds):
            assert worth[row["chosen"]["text"]] > worth[row["rejected"]["text"]]
    assert all(one["a"] != one["b"] for one in row["comparisons"])
    together = make_pairs([pool(*TEN, name="other"), asked], Knows(worth | TEN), how)[1]
    assert pairs_row(together, judge, Path()) == row


def test_files_are_decoded_once_for_all_their_questions(tmp_path, monkeypatch):
    tiny = open_judge("tiny_judge")
    source = draw_pools(tmp_path, prompts=2, n=4)
    pools = [row.content for row in read_examples(source)]
    opened = Counter()
    real = media.open_image

    def counting(image):
        opened[str(image.source)] += 1
        return real(image)

    monkeypatch.setattr(media, "open_image", counting)
    for strategy in (Strategy.RANK_AND_SIFT, Strategy.TOURNAMENT):
        opened.clear()
        make_pairs(pools, tiny, PairOptions(strategy, rounds=2 * (strategy is Strategy.TOURNAMENT)))
        assert len(opened) == 8
        assert set(opened.values()) == {1}
    assert not tiny.model._encoder._seen, "features outlive their pictures"


def test_a_broken_file_costs_one_candidate_and_a_broken_context_the_row(tmp_path):
    tiny = open_judge("tiny_judge")
    source = draw_pools(tmp_path, prompts=1, n=5)
    (tmp_path / "0-2.png").write_bytes(b"no picture")
    paired = make_pairs([one.content for one in read_examples(source)], tiny, PairOptions())[0]
    assert "0-2.png" in paired.board.reasons[2]
    assert len(paired.board.matches) == 2
    assert paired.status in ("kept", "dropped")
    asked = tmp_path / "asked"
    source = draw_pools(asked, prompts=2, n=3, task=Task.IMAGE_UNDERSTANDING)
    (asked / "0-about.png").unlink()
    first, second = make_pairs([one.content for one in read_examples(source)], tiny, PairOptions())
    assert first.status == "failed"
    assert "0-about.png" in first.reason
    assert second.board.live == [0, 1, 2]
    assert read_rows(source)[0]["id"] == first.board.pool.id
