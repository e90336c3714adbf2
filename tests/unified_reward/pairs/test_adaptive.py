"""Questions of the adaptive strategy to judges of known behaviour."""

import pytest

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed
from unified_reward.pairs.make import make_pairs
from unified_reward.pairs.strategies import PairOptions, Strategy


SCALE = Scale(0, 10)
CLOSE = {"a": 8.0, "b": 7.9, "c": 5.0, "d": 2.1, "e": 2.0}
"""Two could be the best, two the worst, and ``c`` is neither."""
CLEAR = {"a": 9.0, "b": 7.0, "c": 5.0, "d": 3.0, "e": 1.0}


class Judge(BaseJudge):
    """Scores by a table, with a deviation or without, and compares by a function."""

    name, family = "table", "known"

    def __init__(self, worth, comparing=None, sigma=0.5):
        self.worth = worth
        self.comparing = comparing or self._by_worth
        self.sigma = sigma
        self.scored, self.compared, self.turns = [], [], []

    def _by_worth(self, first, second):
        won = self.worth[first] > self.worth[second]
        return Preferred(0.9, 0.0, 0.1) if won else Preferred(0.1, 0.0, 0.9)

    def ask(self, samples, *, orders=2, on_progress=None):
        self.turns.append(len(samples))
        return [self._verdict(sample) for sample in samples]

    def _verdict(self, sample):
        if sample.form == "compare":
            self.compared.append(sample.candidates)
            return self.comparing(*sample.candidates)
        self.scored.append(sample.candidates[0])
        value = self.worth[sample.candidates[0]]
        if isinstance(value, Unparsed | Failed):
            return value
        if isinstance(value, list):
            value = value.pop(0)
        return Scored(Score(value, SCALE, self.sigma))


def pair(judge, **options):
    answers = tuple(judge.worth)
    question = Example(
        Task.IMAGE_UNDERSTANDING, "what is it?", answers, (Image("seen.png"),), id="p"
    )
    (result,) = make_pairs([question], judge, strategy="adaptive", **options)
    assert result.judge_calls == len(judge.scored) + len(judge.compared)
    return result


def sides_of(result):
    return tuple(result.example.candidates[i] for i in (result.chosen, result.rejected))


def test_clear_scores_are_enough():
    judge = Judge(CLEAR)
    result = pair(judge)
    assert sides_of(result) == ("a", "e")
    assert judge.turns == [5]
    assert result.scores == dict(enumerate(CLEAR.values()))


def test_only_candidates_that_could_be_best_or_worst_are_compared():
    judge = Judge(CLOSE)
    result = pair(judge, confidence=0.9)
    assert sides_of(result) == ("a", "e")
    met = {frozenset(pair) for pair in judge.compared}
    assert met == {frozenset("ae"), frozenset("ab"), frozenset("de")}
    assert {frozenset(each) for each in judge.compared[:2]} == {frozenset("ae")}
    assert result.judge_calls == 5 + len(judge.compared)


def test_the_second_order_is_asked_only_where_the_first_leaves_doubt():
    sure = Judge(CLOSE)
    pair(sure, confidence=0.6)
    unsure = Judge(CLOSE, lambda a, b: _mild(CLOSE[a] > CLOSE[b]))
    pair(unsure, confidence=0.6)
    assert len(sure.compared) == 2 + 2
    assert len(unsure.compared) == 2 + 4
    assert len({*unsure.compared}) == 6  # no question is asked twice


def _mild(won):
    return Preferred(0.52, 0.0, 0.48) if won else Preferred(0.48, 0.0, 0.52)


def test_comparisons_turn_close_scores_around_and_leave_clear_ones():
    judge = Judge(CLOSE, lambda a, b: Preferred(*(0.99, 0.0, 0.01)[:: 1 if (a, b) in WON else -1]))
    result = pair(judge, confidence=0.9)
    assert sides_of(result) == ("b", "d")
    scores = result.scores
    assert scores[result.chosen] > scores[0] > scores[2] > scores[4] > scores[result.rejected]


WON = {("b", "a"), ("e", "d"), *((x, y) for x in "abc" for y in "de"), ("b", "c"), ("a", "c")}


@pytest.mark.parametrize("confidence", [0.6, 0.9])
def test_a_judge_that_looks_at_the_order_is_not_believed_for_long(confidence):
    always_first = Judge(CLOSE, lambda *_: Preferred(0.95, 0.0, 0.05))
    result = pair(always_first, confidence=confidence)
    assert sides_of(result) == ("a", "e")
    assert result.scores == dict(enumerate(CLOSE.values()))
    assert len(always_first.compared) <= 6


def test_higher_confidence_never_asks_less():
    calls = [pair(Judge(CLOSE), confidence=c).judge_calls for c in (0.51, 0.7, 0.9, 0.99)]
    assert calls == sorted(calls)
    assert calls[0] < calls[-1]
    assert pair(Judge(CLOSE)).judge_calls == calls[1]


def test_one_order_asks_no_pair_twice():
    judge = Judge(CLOSE, lambda a, b: _mild(CLOSE[a] > CLOSE[b]))
    pair(judge, orders=1, confidence=0.95)
    met = [frozenset(pair) for pair in judge.compared]
    assert len(met) == len({*met})


def test_readings_repeat_the_scores_in_doubt_in_place_of_comparisons():
    judge = Judge({n: [value] * 4 for n, value in CLOSE.items()}, sigma=None)
    result = pair(judge, readings=4, confidence=0.9)
    assert judge.compared == []
    assert judge.scored.count("c") == 1
    assert {judge.scored.count(name) for name in "abde"} <= {2, 3, 4}
    assert sides_of(result) == ("a", "e")
    noisy = Judge({"a": [8.0, 4.0, 4.0], "b": [7.9, 7.9, 7.9], "e": [2.0] * 3}, sigma=None)
    assert sides_of(pair(noisy, readings=3, confidence=0.9)) == ("b", "e")


def test_an_unreadable_repeated_score_is_not_asked_for_ever():
    class Mumbling(Judge):
        def _verdict(self, sample):
            if sample.form == "score" and sample.candidates[0] in self.scored:
                self.scored.append(sample.candidates[0])
                return Unparsed("mumbled")
            return super()._verdict(sample)

    result = pair(Mumbling(CLOSE, sigma=None), readings=3, confidence=0.99)
    assert sides_of(result) == ("a", "e")
    assert result.scores == dict(enumerate(CLOSE.values()))


def test_comparisons_that_follow_from_scores_are_not_asked():
    judge = Judge(CLOSE)
    judge.order_free = True
    assert sides_of(pair(judge, confidence=0.99)) == ("a", "e")
    assert judge.compared == []


@pytest.mark.parametrize("lost", [Unparsed("no verdict"), Failed("server down")])
def test_a_judge_that_only_scores_gives_the_pair_of_its_scores(lost):
    result = pair(Judge(CLOSE, lambda *_: lost), confidence=0.9)
    assert result.status == "kept"
    assert sides_of(result) == ("a", "e")
    assert result.n_unreadable == len(result.comparisons) <= 6


def test_a_judge_that_only_compares_fails_with_the_reason_of_its_scores():
    judge = Judge(dict.fromkeys("abc", Unparsed("no score in the answer")))
    result = pair(judge)
    assert (result.status, result.judge_calls) == ("failed", 3)
    assert result.reason == "fewer than two scores could be read: no score in the answer"


def test_one_candidate_without_a_score_is_left_out():
    result = pair(Judge(CLOSE | {"a": Unparsed("mumbled")}))
    assert sides_of(result) == ("b", "e")
    assert result.candidate_reasons == {0: "mumbled"}


def test_equals_end_without_a_pair():
    result = pair(Judge(dict.fromkeys("abcd", 5.0), lambda *_: Preferred(0.0, 1.0, 0.0)))
    assert (result.status, result.reason) == (
        "dropped",
        "the best score, 5, is not above the worst, 5",
    )


def test_equal_scores_are_decided_by_comparisons():
    rank = "cabd"
    judge = Judge(
        dict.fromkeys("abcd", 5.0),
        lambda a, b: Preferred(*(1.0, 0.0, 0.0)[:: 1 if rank.index(a) < rank.index(b) else -1]),
    )
    assert sides_of(pair(judge, confidence=0.8)) == ("c", "d")


def test_margin_and_least_quality_are_in_units_of_the_score():
    assert pair(Judge(CLEAR), margin=7.9).status == "kept"
    assert pair(Judge(CLEAR), margin=8.0).status == "dropped"
    assert pair(Judge(CLEAR), min_quality=9.5).reason.endswith("is below the minimum, 9.5")


@pytest.mark.parametrize(
    "wrong",
    [
        {"confidence": 0.5},
        {"confidence": 1.0},
        {"confidence": float("nan")},
        {"rounds": 2},
        {"strategy": Strategy.SCORE, "confidence": 0.8},
    ],
)
def test_senseless_options_are_refused(wrong):
    with pytest.raises(ConfigError, match=r"confidence|rounds"):
        PairOptions(**({"strategy": Strategy.ADAPTIVE} | wrong))
