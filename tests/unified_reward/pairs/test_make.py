"""Pairs from judges of known behaviour: the pair, the questions, and the reasons."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unified_reward.pairs.candidate_files import draw_pools, read_rows, write_rows
from unified_reward import media
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example, Image, Sample, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.io.rows import read_examples
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.make import make_pairs, write_pairs
from unified_reward.pairs.preferences import read_pairs
from unified_reward.pairs.strategies import PairOptions, Strategy


SCALE = Scale(0, 100)
KEYS = (
    *("id", "status", "reason", "task", "prompt", "context", "chosen", "rejected"),
    *("chosen_score", "rejected_score", "criteria", "tags", "candidates", "comparisons"),
    *("judge_calls", "judge", "family", "strategy", "seed"),
)


class TableJudge(BaseJudge):
    """Judges answers by a table of their worth; a verdict in the table is given as it is."""

    name, family = "table", "known"

    def __init__(self, worth, comparing=None, broken=()):
        self.worth = worth
        self.comparing = worth if comparing is None else comparing
        self.broken = broken
        self.samples = []

    def check_samples(self, samples):
        answers = [sample.candidates[0] for sample in samples]
        return [Failed(f"{a} is broken") if a in self.broken else None for a in answers]

    def ask(self, samples, *, orders=2, on_progress=None):
        self.samples += samples
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample):
        table = self.worth if sample.form == "score" else self.comparing
        values = [table[answer] for answer in sample.candidates]
        values = [value.pop(0) if isinstance(value, list) else value for value in values]
        lost = [value for value in values if isinstance(value, Unparsed | Failed)]
        if lost:
            return lost[0]
        if len(values) == 1:
            return Scored(Score(values[0], SCALE))
        first, second = float(values[0] > values[1]), float(values[1] > values[0])
        return Preferred(first, 1 - first - second, second)


def question(*answers, name="p"):
    return Example(Task.IMAGE_UNDERSTANDING, "what is it?", answers, (Image("seen.png"),), id=name)


def pair(judge, answers, **options):
    return make_pairs([question(*answers)], judge, **options)[0]


def sides_of(result):
    """Chosen and rejected answer."""
    indices = (result.chosen, result.rejected)
    return tuple(None if i is None else result.example.candidates[i] for i in indices)


TEN = {f"answer {i}": float(i) for i in range(10)}


def test_the_best_scored_winner_meets_the_worst_scored_loser():
    result = pair(TableJudge(TEN), TEN)
    assert sorted(i for one in result.comparisons for i in (one.a, one.b)) == [*range(10)]
    for comparison in result.comparisons:
        winner, loser = max(comparison[:2]), min(comparison[:2])
        assert (result.sides[winner], result.sides[loser]) == ("chosen", "rejected")
    assert sides_of(result) == ("answer 9", "answer 0")
    assert result.scores == dict(enumerate(TEN.values()))
    assert result.judge_calls == 2 * 5 + 10


def test_points_decide_among_winners_and_among_losers_only():
    """Comparisons and scores contradict each other: the worst by comparison has the best score."""
    upside = {name: 9 - worth for name, worth in TEN.items()}
    result = pair(TableJudge(upside, comparing=TEN), TEN)
    winners = [i for i, side in result.sides.items() if side == "chosen"]
    losers = [i for i, side in result.sides.items() if side == "rejected"]
    best, worst = min(winners), max(losers)  # scores fall with the index
    if best < worst:
        assert (result.chosen, result.rejected) == (best, worst)
    else:
        assert result.status == "dropped"
    by_score = pair(TableJudge(upside, comparing=TEN), TEN, strategy=Strategy.SCORE)
    assert sides_of(by_score) == ("answer 0", "answer 9")


def test_a_comparison_that_is_lost_is_told_beside_ties():
    even = {"a": 1.0, "b": 1.0, "c": 1.0, "lost": Failed("server down")}
    result = pair(TableJudge({}, comparing=even), ["a", "b", "c", "lost"])
    assert result.status == "dropped"
    assert result.reason.startswith("every comparison is a tie, but 1 of 2 that could not be read")
    assert result.reason.endswith("server down")


def test_those_of_a_tie_are_on_no_side_and_are_not_scored():
    even = dict.fromkeys(["a", "b"], 1.0)
    result = pair(TableJudge({"a": 3.0, "b": 5.0}, comparing=even), ["a", "b"])
    assert (result.status, result.reason) == ("dropped", "every comparison is a tie")
    assert result.sides == {}
    assert result.scores == {}
    assert result.judge_calls == 2


@pytest.mark.parametrize("strategy", [one for one in Strategy if one is not Strategy.RANDOM])
@pytest.mark.parametrize("lost", [Unparsed("no verdict", "?"), Failed("server down")])
def test_a_judge_that_cannot_be_read_gives_failed_rows_and_no_number(strategy, lost):
    result = pair(TableJudge(dict.fromkeys(TEN, lost)), TEN, strategy=strategy)
    assert result.status == "failed"
    assert result.scores == {}
    assert sides_of(result) == (None, None)
    reasons = f"{result.reason} {result.candidate_reasons}"
    assert "no verdict" in reasons or "server down" in reasons


def test_one_unreadable_comparison_costs_its_two_candidates_only():
    comparing = TEN | {"answer 9": Unparsed("mumbled")}
    result = pair(TableJudge(TEN, comparing=comparing), TEN)
    assert result.status == "kept"
    lost = next(one for one in result.comparisons if 9 in (one.a, one.b))
    assert lost.p_a is None
    assert not {lost.a, lost.b} & result.sides.keys()


def test_an_unreadable_score_is_never_the_worst():
    """C.2: published code takes an answer it cannot read for 0, and so for the rejected one."""
    result = pair(TableJudge(TEN | {"answer 0": Unparsed("mumbled")}, comparing=TEN), TEN)
    assert sides_of(result)[1] != "answer 0"
    assert 0 not in result.scores
    assert result.candidate_reasons[0] == "mumbled"


def test_scores_are_numbers_with_decimals():
    """C.2: as text 10 is below 9, and 2.67 is 2."""
    worth = {"ten": 10.0, "nine": 9.0, "two": 2.0, "more": 2.67}
    result = pair(TableJudge(worth), worth, strategy=Strategy.SCORE)
    assert sides_of(result) == ("ten", "two")
    assert result.scores[3] == 2.67


@pytest.mark.parametrize(("margin", "status"), [(0.0, "kept"), (0.49, "kept"), (0.5, "dropped")])
def test_the_chosen_one_must_be_above_by_more_than_the_margin(margin, status):
    result = pair(TableJudge({"a": 1.5, "b": 1.0}), ["a", "b"], margin=margin)
    assert result.status == status
    assert ("1.5" in result.reason) if status == "dropped" else result.reason is None


@pytest.mark.parametrize(("least", "status"), [(9.0, "kept"), (9.5, "dropped")])
def test_a_set_without_a_good_candidate_is_dropped(least, status):
    result = pair(TableJudge(TEN), TEN, min_quality=least)
    assert result.status == status


def test_readings_are_averaged_counted_and_unreadable_ones_left_out():
    worth = {"a": [1.0, 4.0, Unparsed("?")], "b": [1.0, 1.0, 1.0]}
    result = pair(TableJudge(worth), ["a", "b"], strategy=Strategy.SCORE, readings=3)
    assert result.scores == {0: 2.5, 1: 1.0}
    assert result.judge_calls == 6


def test_readings_of_one_score_are_told_apart_by_their_ids():
    judge = TableJudge(TEN)
    pair(judge, TEN, strategy=Strategy.SCORE, readings=2)
    assert len({one.id for one in judge.samples}) == 20


def test_a_broken_candidate_is_set_aside_before_anybody_is_paired_with_it():
    result = pair(TableJudge(TEN, broken={"answer 4"}), TEN)
    met = {i for one in result.comparisons for i in (one.a, one.b)}
    assert 4 not in met
    assert len(met) == 8  # nine are left, one rests
    assert result.candidate_reasons[4] == "answer 4 is broken"
    few = pair(TableJudge(TEN, broken={*TEN} - {"answer 1"}), TEN)
    assert few.status == "failed"
    assert few.reason.startswith("1 of 10 candidates can be judged, two are needed")


def test_a_candidate_that_equals_another_is_asked_about_once():
    judge = TableJudge({"a": 1.0, "b": 2.0, "c": 3.0})
    result = pair(judge, ["a", "b", "a", "b", "c"], strategy=Strategy.TOURNAMENT)
    assert len(result.comparisons) == 3
    assert result.candidate_reasons == {2: "the same as candidate 0", 3: "the same as candidate 1"}
    assert sides_of(result) == ("c", "a")


@pytest.mark.parametrize("worth", [TEN, {"a": 0.0, "b": 10.0, "c": 4.0, "d": 5.0}])
def test_the_most_decided_comparison_is_the_pair_of_rank(worth):
    """A certain win of the second, probability 0, is as decided as one of the first."""

    class Sure(TableJudge):
        def _verdict(self, sample):
            a, b = (self.worth[one] for one in sample.candidates)
            p = 0.5 + (a - b) / 20
            return Preferred(p, 0.0, 1 - p)

    for seed in range(40):
        result = pair(Sure(worth), worth, strategy=Strategy.RANK, seed=seed)
        gaps = {frozenset((one.a, one.b)): abs(one.p_a - 0.5) for one in result.comparisons}
        assert gaps[frozenset((result.chosen, result.rejected))] == max(gaps.values())
        assert result.scores == {}


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_a_tournament_asks_all_pairs_or_its_rounds(rounds):
    result = pair(TableJudge(TEN), TEN, strategy=Strategy.TOURNAMENT, rounds=rounds)
    matches = result.comparisons
    assert len(matches) == (5 * rounds or 45)
    assert len({frozenset((one.a, one.b)) for one in matches}) == len(matches)
    if not rounds:
        assert sides_of(result) == ("answer 9", "answer 0")
        assert sorted(TEN, key=lambda name: result.scores[[*TEN].index(name)]) == [*TEN]


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_tournament_of_draws_has_no_winner(rounds):
    even = TableJudge(dict.fromkeys(TEN, 1.0))
    result = pair(even, TEN, strategy=Strategy.TOURNAMENT, rounds=rounds)
    assert result.status == "dropped"
    assert result.reason == "the best score, 0, is not above the worst, 0"


def test_an_always_first_judge_is_led_by_the_draw_and_not_by_the_place_in_the_file():
    class First(TableJudge):
        def _verdict(self, sample):
            return Preferred(1.0, 0.0, 0.0)

    chosen = Counter(
        pair(First(TEN), TEN, strategy=Strategy.RANK, orders=1, seed=seed).chosen
        for seed in range(400)
    )
    assert set(chosen) == {*range(10)}
    assert max(chosen.values()) < 80  # 40 expected each


@pytest.mark.parametrize(
    "wrong",
    [
        {"readings": 0},
        {"rounds": -1},
        {"margin": -1.0},
        {"margin": float("nan")},
        {"margin": float("inf")},
        {"min_quality": float("nan")},
        {"strategy": Strategy.RANK, "min_quality": 1.0},
        {"strategy": Strategy.RANDOM, "margin": 1.0},
        {"strategy": Strategy.RANK, "readings": 2},
        {"strategy": Strategy.TOURNAMENT, "readings": 2},
        {"strategy": Strategy.SCORE, "rounds": 3},
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
def test_every_prompt_ends_as_a_row_that_holds_together(strategy, values, seed, rounds):
    rounds = rounds if strategy is Strategy.TOURNAMENT else 0
    answers = [f"{i}: {worth}" for i, worth in enumerate(values)]
    worth = {answer: float(answer.split(": ")[1]) for answer in answers}
    options = {"strategy": strategy, "seed": seed, "rounds": rounds, "orders": 1}
    example = question(*answers, *answers[:2], name="the")
    judge = TableJudge(worth)
    (result,) = make_pairs([example], judge, **options)
    row = result.row(Path())
    assert tuple(row) == KEYS
    assert (row["strategy"], row["seed"]) == (strategy.value, seed)
    assert len(row["candidates"]) == len(example.candidates)
    assert row["judge_calls"] == len(judge.samples)
    assert (row["status"] == "kept") == (row["chosen"] is not None) == (row["reason"] is None)
    if row["status"] == "kept":
        assert row["chosen"] != row["rejected"]
        if row["chosen_score"] is not None:
            assert row["chosen_score"] > row["rejected_score"]
        if strategy is not Strategy.RANDOM and not rounds:
            assert worth[row["chosen"]["text"]] > worth[row["rejected"]["text"]]
    assert all(comparison["a"] != comparison["b"] for comparison in row["comparisons"])
    both = [question(*TEN, name="other"), example]
    assert make_pairs(both, TableJudge(worth | TEN), **options)[1].row(Path()) == row


def test_a_row_reads_back_as_its_pair_with_criteria_and_tags(tmp_path):
    context = (Image(tmp_path / "seen.png"),)
    example = replace(question(*TEN), context=context, criteria="be brief", tags={"group": "red"})
    (result,) = make_pairs([example], TableJudge(TEN))
    file = write_rows(tmp_path / "pairs.jsonl", [result.row(tmp_path)])
    (row,) = read_examples(file, strict=True)
    assert row.status == "kept"
    assert row.content == result.as_example()
    assert row.content.as_pair() == result.pair
    assert (result.pair.criteria, result.pair.tags) == ("be brief", {"group": "red"})
    assert (result.pair.chosen_score, result.pair.rejected_score) == (9.0, 0.0)


def test_without_a_pair_there_is_none_and_the_row_says_why():
    (result,) = make_pairs([question("a", "b")], TableJudge({"a": 1.0, "b": 1.0}))
    assert (result.pair, result.as_example().pair) == (None, None)
    assert result.row(Path())["chosen"] is None


def test_many_prompts_are_worked_through_in_bounded_groups():
    """16 prompts are asked together, and no batch has more."""

    class Batches(TableJudge):
        def ask(self, samples, *, orders=2, on_progress=None):
            self.sizes.append(len({sample.id.split()[0] for sample in samples}))
            return super().ask(samples, orders=orders)

    judge = Batches(TEN)
    judge.sizes = []
    results = make_pairs([question(*TEN, name=f"p{i}") for i in range(40)], judge)
    assert [result.example.id for result in results] == [f"p{i}" for i in range(40)]
    assert judge.sizes == [16, 16, 16, 16, 8, 8]
    alone = pair(TableJudge(TEN), TEN)
    again = make_pairs([question(*TEN)], TableJudge(TEN))[0]
    assert again.row(Path()) == alone.row(Path())


def test_an_unknown_strategy_is_an_error_that_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"no strategy 'best'; there are random, score, rank"):
        make_pairs([], TableJudge({}), strategy="best")


def test_files_are_decoded_once_for_all_their_questions(tmp_path, monkeypatch):
    tiny = open_judge("tiny_judge")
    source = draw_pools(tmp_path, prompts=2, n=4)
    examples = [row.content for row in read_examples(source)]
    opened = Counter()
    open_image = media.open_image

    def counting(image):
        opened[str(image.source)] += 1
        return open_image(image)

    monkeypatch.setattr(media, "open_image", counting)
    for options in ({}, {"strategy": "tournament", "rounds": 2}):
        opened.clear()
        make_pairs(examples, tiny, **options)
        assert len(opened) == 8
        assert set(opened.values()) == {1}
    assert not tiny.model.encoder._features, "features outlive their images"


def test_a_broken_file_costs_one_candidate_and_a_broken_context_the_row(tmp_path):
    tiny = open_judge("tiny_judge")
    source = draw_pools(tmp_path, prompts=1, n=5)
    (tmp_path / "0-2.png").write_bytes(b"not an image")
    result = make_pairs([row.content for row in read_examples(source)], tiny)[0]
    assert "0-2.png" in result.candidate_reasons[2]
    assert len(result.comparisons) == 2
    assert result.status in ("kept", "dropped")
    folder = tmp_path / "questions"
    source = draw_pools(folder, prompts=2, n=3, task=Task.IMAGE_UNDERSTANDING)
    (folder / "0-about.png").unlink()
    first, second = make_pairs([row.content for row in read_examples(source)], tiny)
    assert first.status == "failed"
    assert "0-about.png" in first.reason
    assert not second.candidate_reasons
    assert read_rows(source)[0]["id"] == first.example.id


def test_a_sample_is_a_prompt_with_its_candidates():
    context = (Image("a.png"),)
    sample = Sample(Task.IMAGE_UNDERSTANDING, "q", ("good", "bad"), context, id="s")
    (result,) = make_pairs([sample], TableJudge({"good": 90, "bad": 10}), strategy="score")
    assert (result.pair.chosen, result.pair.rejected, result.pair.id) == ("good", "bad", "s")


def test_a_prompt_without_candidates_ends_in_no_empty_reason():
    (result,) = make_pairs([Example(Task.IMAGE_GENERATION, "p", id="a")], TableJudge({}))
    assert result.reason == "0 of 0 candidates can be judged, two are needed"


def test_pairs_are_written_as_the_rows_that_training_reads(tmp_path):
    examples = [replace(question("good", "bad"), id="a"), replace(question("bad"), id="b")]
    judge = TableJudge({"good": 90, "bad": 10})
    results = make_pairs(iter(examples), judge, strategy="score")
    counts = write_pairs(results, tmp_path / "new" / "pairs.jsonl")
    assert counts == {"kept": 1, "failed": 1}
    kept, failed = read_pairs(tmp_path / "new" / "pairs.jsonl")
    assert (kept.pair.chosen, kept.pair.rejected, failed.status) == ("good", "bad", "failed")
    assert read_rows(tmp_path / "new" / "pairs.jsonl") == [
        result.row(tmp_path / "new") for result in results
    ]


def test_media_of_written_pairs_lie_beside_them(tmp_path):
    pixels = [np.full((8, 8, 3), grey, np.uint8) for grey in (10, 200)]
    images = tuple(Image(each, "HWC") for each in pixels)
    example = Example(Task.IMAGE_GENERATION, "p", images, id="a")
    results = make_pairs([example], open_judge("scripted:first"), strategy="random")
    assert write_pairs(results, tmp_path / "pairs.jsonl") == {"kept": 1}
    (row,) = read_pairs(tmp_path / "pairs.jsonl")
    assert row.pair.chosen.source.parent == tmp_path / "media"
    shades = [media.open_image(each).getpixel((0, 0))[0] for each in row.row.content.candidates]
    assert shades == [10, 200]


def test_an_id_that_stands_twice_is_refused_and_the_earlier_file_stays(tmp_path):
    path = write_rows(tmp_path / "pairs.jsonl", [{"id": "earlier"}])
    results = make_pairs([question("a", "b")] * 2, TableJudge({"a": 1, "b": 2}), strategy="score")
    with pytest.raises(DataError, match="duplicate id"):
        write_pairs(results, path)
    assert read_rows(path) == [{"id": "earlier"}]
