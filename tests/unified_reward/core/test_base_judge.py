"""score, compare and rank on one primitive: which sample is asked, and which error is raised."""

import threading
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unified_reward.core import progress
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, MediaError, ModelError, UnparsedError
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Scale, Score, Scored, Unparsed


FIRST, SECOND, TIE = Preferred(1, 0, 0), Preferred(0, 0, 1), Preferred(0, 1, 0)


def points(value):
    return Scored(Score(value, Scale(0, 100)))


class Verdicts(BaseJudge):
    """Answers each sample by a function of it, and keeps the samples."""

    name, family = "verdicts", "none"

    def __init__(self, verdict):
        self._verdict = verdict
        self.questions = []

    def ask(self, samples, *, orders=2, on_progress=None):
        self.questions += samples
        if on_progress:
            on_progress(len(samples))
        return [self._verdict(sample) for sample in samples]


def always(verdict):
    return Verdicts(lambda _: verdict)


def by_worth(worth):
    """Scores an answer by its worth, None for a failure; compares by the larger worth."""

    def verdict(sample):
        values = [worth[entry] for entry in sample.candidates]
        if None in values:
            return Failed("lost")
        if len(values) == 1:
            return points(values[0])
        return TIE if values[0] == values[1] else FIRST if values[0] > values[1] else SECOND

    return Verdicts(verdict)


@pytest.mark.parametrize(
    ("given_", "questions"),
    [
        ({"image": "a.png"}, Sample(Task.IMAGE_GENERATION, "p", (Image("a.png"),))),
        ({"video": "a.mp4"}, Sample(Task.VIDEO_GENERATION, "p", (Video("a.mp4"),))),
        (
            {"image": "a.png", "answer": "yes"},
            Sample(Task.IMAGE_UNDERSTANDING, "p", ("yes",), (Image("a.png"),)),
        ),
        (
            {"video": "a.mp4", "answer": ""},
            Sample(Task.VIDEO_UNDERSTANDING, "p", ("",), (Video("a.mp4"),)),
        ),
        (
            {"image": "b.png", "source": "a.png"},
            Sample(Task.IMAGE_EDITING, "p", (Image("b.png"),), (Image("a.png"),)),
        ),
    ],
)
def test_the_task_of_a_score_follows_from_what_is_given(given_, questions):
    judge = always(points(50))
    assert judge.score("p", **given_) == points(50)
    assert judge.questions == [questions]


@pytest.mark.parametrize(
    ("given_", "questions"),
    [
        (
            {"images": ["a.png", Image("b.png")]},
            Sample(Task.IMAGE_GENERATION, "p", (Image("a.png"), Image("b.png"))),
        ),
        (
            {"videos": ["a.mp4", "b.mp4"]},
            Sample(Task.VIDEO_GENERATION, "p", (Video("a.mp4"), Video("b.mp4"))),
        ),
        (
            {"answers": ["yes", "no"], "video": "a.mp4"},
            Sample(Task.VIDEO_UNDERSTANDING, "p", ("yes", "no"), (Video("a.mp4"),)),
        ),
        (
            {"images": ["b.png", "c.png"], "source": "a.png"},
            Sample(Task.IMAGE_EDITING, "p", (Image("b.png"), Image("c.png")), (Image("a.png"),)),
        ),
    ],
)
def test_the_task_of_a_comparison_follows_from_what_is_given(given_, questions):
    judge = always(SECOND)
    assert judge.compare("p", **given_) == SECOND
    assert judge.questions == [questions]


@pytest.mark.parametrize(
    ("given_", "result"),
    [
        ({}, "give candidates of one kind.*given: none"),
        ({"images": ["a"], "videos": ["b"]}, "given: images and videos"),
        ({"images": []}, "given: none"),
        ({"images": ["a", "b"], "image": "c"}, "goes with answers="),
        ({"answers": ["a", "b"]}, "answers are about one thing: give image= or video="),
        ({"answers": ["a", "b"], "image": "c", "video": "d"}, "answers are about one thing"),
    ],
)
@pytest.mark.parametrize("verb", ["compare", "rank"])
def test_candidates_that_make_no_question_are_refused_before_anything_is_asked(
    verb, given_, result
):
    judge = always(FIRST)
    with pytest.raises(ConfigError, match=result):
        getattr(judge, verb)("p", **given_)
    assert judge.questions == []


@pytest.mark.parametrize(
    "given_",
    [{"videos": ["a", "b"]}, {"answers": ["a", "b"], "image": "c"}],
)
def test_a_source_beside_anything_but_pictures_is_refused_and_not_ignored(given_):
    with pytest.raises(ConfigError, match="goes with images"):
        always(FIRST).compare("p", source="s.png", **given_)
    with pytest.raises(ConfigError, match="goes with images"):
        always(FIRST).score("p", answer="a", image="c", source="s.png")


@pytest.mark.parametrize("n", [1, 3])
def test_compare_takes_two_candidates_and_points_to_rank(n):
    with pytest.raises(
        ConfigError, match=f"compare takes two candidates, not {n}; rank takes more"
    ):
        always(FIRST).compare("p", images=["a.png"] * n)


def test_an_unreadable_answer_is_raised_with_what_the_judge_said():
    judge = always(Unparsed("no number in the answer", "lovely!"))
    with pytest.raises(UnparsedError, match=r"no number in the answer; the judge answered: 'love"):
        judge.score("p", image="a.png")
    with pytest.raises(UnparsedError, match="no number"):
        judge.compare("p", images=["a.png", "b.png"])


def test_a_failure_is_raised_as_the_error_that_caused_it():
    cause = MediaError("a.png: the file is empty")
    with pytest.raises(MediaError, match=r"a\.png: the file is empty"):
        always(Failed("told", cause)).score("p", image="a.png")
    with pytest.raises(ModelError, match="no memory"):
        always(Failed("no memory")).compare("p", images=["a.png", "b.png"])


def test_a_verdict_of_the_wrong_kind_is_an_error_and_no_verdict():
    with pytest.raises(ModelError, match="expected Scored, but the judge gave Preferred"):
        always(FIRST).score("p", image="a.png")


WORTHS = st.dictionaries(st.text(max_size=5), st.none() | st.integers(0, 9), min_size=1, max_size=6)


@settings(deadline=None)
@given(WORTHS, st.sampled_from(["score", "pairs"]), st.data())
def test_the_order_does_not_depend_on_the_order_of_the_candidates(worth, by, data):
    names = data.draw(st.permutations(list(worth)))
    ranking = by_worth(worth).rank("p", answers=names, image="a.png", by=by)
    worths = [worth[names[i]] for i in ranking.order]
    assert worths == sorted(worths, reverse=True)
    if by == "score" or len(names) > 1:
        assert None not in worths


@settings(deadline=None)
@given(WORTHS)
def test_by_score_only_a_failed_candidate_is_left_out_of_the_order(worth):
    names = list(worth)
    ranking = by_worth(worth).rank("p", answers=names, image="a.png")
    assert sorted(ranking.order) == [i for i, name in enumerate(names) if worth[name] is not None]
    assert ranking.scores == tuple(worth.values())
    assert [isinstance(entry, Failed) for entry in ranking.verdicts] == [
        value is None for value in worth.values()
    ]


def test_an_unreadable_candidate_is_left_out_and_never_ranked_last():
    judge = Verdicts(lambda s: Unparsed("?") if s.candidates == ("b",) else points(0.0))
    ranking = judge.rank("p", answers=["a", "b", "c"], image="a.png")
    assert ranking.order == (0, 2)
    assert ranking.scores == (0.0, None, 0.0)


def test_equal_scores_keep_the_order_given():
    worth = {"a": 5, "b": 7, "c": 5, "d": 7}
    assert by_worth(worth).rank("p", answers=list(worth), image="x").order == (1, 3, 0, 2)


def test_by_pairs_every_pair_is_asked_once_and_scores_are_mean_wins():
    """c beats a and b, a ties with b: wins a (1/2 + 0) / 2, b (1/2 + 0) / 2, c (1 + 1) / 2."""
    judge = by_worth({"a": 1, "b": 1, "c": 2})
    ranking = judge.rank("p", answers=["a", "b", "c"], image="x", by="pairs")
    assert [entry.candidates for entry in judge.questions] == list(combinations("abc", 2))
    assert ranking.scores == (0.25, 0.25, 1.0)
    assert ranking.order == (2, 0, 1)


def test_where_only_aspects_are_defined_candidates_rank_by_their_normalized_mean():
    """Aspects 5 of 1 to 5 and 0 of 0 to 10: shares 1 and 0, mean 1/2; against 3 of 1 to 5 twice."""
    uneven = {"style": Score(5, Scale(1, 5)), "count": Score(0, Scale(0, 10))}
    open_only = dict.fromkeys(uneven, Score(9, Scale(None, None)))
    even = {"style": Score(3, Scale(1, 5)), "count": Score(5, Scale(0, 10))}
    verdicts = {"a": open_only, "b": uneven, "c": even}
    judge = Verdicts(lambda s: Scored(None, verdicts[s.candidates[0]]))
    ranking = judge.rank("p", answers=["a", "b", "c"], image="x")
    assert ranking.scores == (None, 0.5, 0.5)
    assert ranking.order == (1, 2)


def test_a_candidate_that_lacks_an_aspect_of_another_has_no_rank():
    """Its mean would be of other aspects."""
    style, count = Score(5, Scale(1, 5)), Score(4, Scale(0, 10))
    verdicts = {"a": {"style": style}, "b": {"style": style, "count": count}}
    judge = Verdicts(lambda s: Scored(None, verdicts[s.candidates[0]]))
    ranking = judge.rank("p", answers=["a", "b"], image="x")
    assert (ranking.order, ranking.scores) == ((1,), (None, 0.7))
    assert ranking.verdicts[0] == Unparsed("no score for count in the answer")


def test_edits_of_one_picture_are_ranked_beside_it():
    judge = always(SECOND)
    judge.rank("p", images=["b.png", "c.png"], source="a.png", by="pairs")
    edited = (Image("b.png"), Image("c.png"))
    assert judge.questions == [Sample(Task.IMAGE_EDITING, "p", edited, (Image("a.png"),))]


@pytest.mark.parametrize(
    ("prompt", "given_", "samples"),
    [
        (
            "p",
            {"images": ["a.png", "b.png"]},
            [Sample(Task.IMAGE_GENERATION, "p", (Image(name),)) for name in ("a.png", "b.png")],
        ),
        (
            ["p", "q"],
            {"videos": ["a.mp4", "b.mp4"]},
            [
                Sample(Task.VIDEO_GENERATION, "p", (Video("a.mp4"),)),
                Sample(Task.VIDEO_GENERATION, "q", (Video("b.mp4"),)),
            ],
        ),
        (
            "p",
            {"answers": ["yes", "no"], "image": "a.png"},
            [
                Sample(Task.IMAGE_UNDERSTANDING, "p", (answer,), (Image("a.png"),))
                for answer in ("yes", "no")
            ],
        ),
        (
            ["p", "q"],
            {"answer": "yes", "images": ["a.png", "b.png"]},
            [
                Sample(Task.IMAGE_UNDERSTANDING, "p", ("yes",), (Image("a.png"),)),
                Sample(Task.IMAGE_UNDERSTANDING, "q", ("yes",), (Image("b.png"),)),
            ],
        ),
        (
            "p",
            {"images": ["b.png", "c.png"], "sources": ["a.png", "d.png"]},
            [
                Sample(Task.IMAGE_EDITING, "p", (Image("b.png"),), (Image("a.png"),)),
                Sample(Task.IMAGE_EDITING, "p", (Image("c.png"),), (Image("d.png"),)),
            ],
        ),
        (
            ["p", "q"],
            {"image": "a.png"},
            [Sample(Task.IMAGE_GENERATION, prompt, (Image("a.png"),)) for prompt in ("p", "q")],
        ),
        ([], {"images": []}, []),
    ],
)
def test_lists_are_scored_item_by_item_and_single_values_serve_all(prompt, given_, samples):
    judge = always(points(50))
    assert judge.score(prompt, **given_) == [points(50)] * len(samples)
    assert judge.questions == samples


@pytest.mark.parametrize(
    ("prompt", "given_", "message"),
    [
        (["p", "q"], {"images": ["a"] * 3}, "not 2 prompts and 3 images; a single prompt is"),
        ("p", {"images": ["a"] * 3, "sources": ["b"]}, "not 3 images and 1 source"),
        (["p"], {"answers": ["a", "b"], "image": "c"}, "not 1 prompt and 2 answers"),
        ("p", {"images": ["a"], "image": "b"}, "give image= for every item or images= with one"),
        (["p"], {}, "give candidates of one kind"),
    ],
)
def test_lists_of_different_lengths_are_refused_before_anything_is_asked(prompt, given_, message):
    judge = always(points(50))
    with pytest.raises(ConfigError, match=message):
        judge.score(prompt, **given_)
    assert not judge.questions


def test_a_failure_is_a_value_of_a_list_and_is_raised_for_a_single_item():
    failure = Failed("lost", MediaError("lost"))
    judge = Verdicts(lambda s: failure if s.candidates[0].source == "b" else points(1))
    assert judge.score("p", images=["a", "b"]) == [points(1), failure]
    with pytest.raises(MediaError, match="lost"):
        judge.score("p", image="b")


def test_a_list_that_takes_long_shows_a_bar_on_standard_error(monkeypatch, capsys):
    start, started = progress._started, threading.Event()

    def start_bar(*arguments):
        bar = start(*arguments)
        started.set()
        return bar

    class Slow(Verdicts):
        def ask(self, samples, *, orders=2, on_progress=None):
            assert progress.DELAY_S or started.wait(60), "a bar appears before any item is done"
            for _ in samples:
                on_progress(1)
            return [points(1)] * len(samples)

    monkeypatch.setattr(progress, "_started", start_bar)
    judge = Slow(None)
    judge.score("p", images=["a"] * 8)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(progress, "DELAY_S", 0.0)
    judge.score("p", images=["a"] * 8)
    out, err = capsys.readouterr()
    assert out == err == "", "no terminal, no bar"
    started.clear()
    monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal does
    judge.score("p", images=["a"] * 8)
    out, err = capsys.readouterr()
    assert not out
    assert "scoring" in err
    assert "8/8" in err


def test_an_item_of_a_list_that_is_none_fails_alone_and_changes_no_task():
    judge = always(points(50))
    scored, failed = judge.score("q", answers=["x", None], image="a.png")
    assert scored == points(50)
    assert failed.error == "answer is None"
    (sample,) = judge.questions
    assert sample.task is Task.IMAGE_UNDERSTANDING
    verdicts = judge.score("q", images=["a", "b"], sources=[None, "c"])
    assert [type(verdict) for verdict in verdicts] == [Failed, Scored]


def test_an_item_of_a_list_that_makes_no_sample_is_a_failed_value():
    judge, array = always(points(50)), np.zeros((2, 2, 3), np.uint8)
    no_layout, scored, none = judge.score("p", images=[array, Image(array, "HWC"), None])
    assert isinstance(no_layout.cause, MediaError)
    assert scored == points(50)
    assert none.error == "image is None"
    scored, no_text = judge.score(["p", 3], image="a.png")
    assert scored == points(50)
    assert no_text.error == "a prompt is text, not a value of type int"
    with pytest.raises(ConfigError, match="a prompt is text, not None"):
        judge.score(None, image="a.png")


@pytest.mark.parametrize("value", ["ab", b"ab", Path("ab"), Image("ab")])
@pytest.mark.parametrize("name", ["images", "videos", "answers"])
def test_a_single_value_in_place_of_a_list_is_refused(name, value):
    judge = always(FIRST)
    context = {"image": "c"} if name == "answers" else {}
    single = name.removesuffix("s")
    for verb in (judge.score, judge.compare, judge.rank):
        with pytest.raises(ConfigError, match=f"{name}= is a list; one {single} is {single}="):
            verb("p", **{name: value}, **context)
    with pytest.raises(ConfigError, match="sources= is a list; one source is source="):
        judge.score("p", images=["a", "b"], sources="ab")
    assert not judge.questions


def test_a_batch_in_one_array_is_refused_with_what_to_give():
    judge, batch = always(FIRST), np.zeros((2, 4, 4, 3), np.uint8)
    for verb in (judge.score, judge.compare, judge.rank):
        with pytest.raises(
            ConfigError, match=r"\(2, 4, 4, 3\): give a list of Image\(array, layout"
        ):
            verb("p", images=batch)
        with pytest.raises(ConfigError, match=r"give a list of Video\(array, layout"):
            verb("p", videos=batch)


def test_lengths_that_differ_have_a_hint_only_where_it_helps():
    judge = always(points(50))
    with pytest.raises(ConfigError, match=r"not 3 images and 2 sources$"):
        judge.score("p", images=["a"] * 3, sources=["b", "c"])
    with pytest.raises(ConfigError, match=r"and 1 source; one source for all is source=$"):
        judge.score("p", images=["a"] * 3, sources=["b"])


def test_a_candidate_alone_is_the_ranking_by_pairs():
    ranking = always(FIRST).rank("p", images=["a.png"], by="pairs")
    assert (ranking.order, ranking.scores, ranking.verdicts) == ((0,), (None,), ())


def test_ranking_by_something_else_is_refused():
    with pytest.raises(ConfigError, match="by is score or pairs, not 'nope'"):
        always(FIRST).rank("p", images=["a.png", "b.png"], by="nope")
