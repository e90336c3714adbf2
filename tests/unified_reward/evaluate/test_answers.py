"""Verdict rows as values: places, repeated readings, and outputs without a value."""

import math

from tests.unified_reward.evaluate.judges import SCALE, answers
from tests.unified_reward.media.made import noise, picture
from unified_reward.core.samples import Example, Image, Task
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Unparsed
from unified_reward.evaluate.answers import read_answers
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.media import encode_png


def read(outputs, verdicts, orders=2):
    rows = [verdict_row(name, verdict, judge="j", family="f") for name, verdict in verdicts.items()]
    return read_answers("r", rows, outputs, orders=orders)


def scored(value):
    return Scored(Score(value, SCALE))


def test_scores_keep_the_places_of_their_files():
    outputs = answers({"a": [[1, 2, 3]], "b": [4]})
    found = read(outputs, {"a/p0/2": scored(3), "a/p0/0": scored(1), "a/p0/1": Unparsed("?")})
    first, second, third = found.values.scores["a"]["p0"]
    assert (first, third) == (1, 3)
    assert math.isnan(second)
    assert math.isnan(found.values.scores["b"]["p0"][0])
    assert found.scale == [0, 10]


def test_rows_about_other_outputs_are_left_out():
    """An earlier run had another model, more prompts and more files."""
    names = ["a/p0/0", "gone/p0/0", "a/p9/0", "a/p0/7", "a|gone/p0/0", "line 7"]
    found = read(answers({"a": [1]}), dict.fromkeys(names, scored(1)))
    assert found.values.calls == 1
    assert found.values.scores == {"a": {"p0": (1,)}}


def test_a_comparison_keeps_both_orders():
    once = Preferred(0.75, 0.25, 0.0)
    again = Preferred(0.25, 0.0, 0.75)
    both = Preferred(0.5, 0.125, 0.375, orders=(once, again))
    found = read(answers({"a": [1], "b": [1]}), {"a|b/p0/0": both})
    (comparison,) = found.values.comparisons
    assert (comparison.probability, comparison.orders) == (0.5625, (0.875, 0.25))
    assert comparison.consistent is False
    assert (found.values.calls, found.values.scores) == (2, {})
    assert (found.asks("compare"), found.asks("score")) == (True, False)


def test_a_reading_that_is_read_makes_up_for_one_that_is_not():
    outputs = answers({"a": [1, 2]})
    lost = {"a/p0/0": Unparsed("?"), "a/p0/0 #2": scored(3), "a/p1/0": scored(1)}
    found = read(outputs, lost)
    assert found.values.scores["a"] == {"p0": (3,), "p1": (1,)}
    assert found.missing(outputs) == []
    assert found.count(Unparsed) == 1
    assert found.values.reading_sigma is None


def test_broken_media_are_told_from_failures_and_their_side_is_named(tmp_path):
    """Neither row says which of its files is broken, or whether any is."""
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.png").write_bytes(encode_png(picture(noise(8, 8, 3))))
    (tmp_path / "b.png").write_bytes(b"no picture")
    prompts = {"p": Example(Task.IMAGE_GENERATION, "a cat", id="p")}
    outputs = ModelOutputs(
        prompts, {name: {"p": (Image(tmp_path / f"{name}.png"),)} for name in "abc"}
    )
    failed = Failed("nobody knows why")
    found = read(outputs, {"b/p/0": failed, "a|b/p/0": failed, "a|c/p/0": failed})
    rows = [(row.model, row.kind, row.reward) for row in found.missing(outputs)]
    assert rows == [("b", "broken", "r"), ("a|c", "failed", "r")]
    assert "b.png" in found.missing(outputs)[0].reason
    assert found.count(Failed) == 3
