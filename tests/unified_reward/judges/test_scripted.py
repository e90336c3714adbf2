"""The controls: they take a place, and nothing about the content moves them but ``random``."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pictures

from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.judges.scripted import KINDS, ScriptedModel


THREE = ("left", "same", "right")


def _text(kind: str, request: Request, seed: int = 0) -> str:
    (answer,) = ScriptedModel(kind, seed).generate([request])
    assert isinstance(answer, Answer)
    assert answer.choice_logprobs is None
    return answer.text


@pytest.mark.parametrize(
    ("kind", "text"), [("first", "left"), ("tie", "same"), ("second", "right"), ("silent", "")]
)
def test_each_kind_takes_its_place_among_three_choices(kind: str, text: str) -> None:
    assert _text(kind, Request(("?",), choices=THREE)) == text


@pytest.mark.parametrize("kind", ["first", "tie", "second"])
@pytest.mark.parametrize(
    ("choices", "text"),
    [(("1", "2", "3", "4", "5"), "3"), (("0", "1"), "0"), (("7",), "7")],
)
def test_a_place_among_other_numbers_of_choices_is_the_middle(
    kind: str, choices: tuple[str, ...], text: str
) -> None:
    assert _text(kind, Request(("?",), choices=choices)) == text


def test_the_choice_stands_behind_the_lead() -> None:
    request = Request(("?",), choices=THREE, verdict_prefix="Verdict: ")
    assert _text("first", request) == "Verdict: left"
    assert _text("silent", request) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_without_choices_there_is_nothing_to_say(kind: str) -> None:
    assert _text(kind, Request(("?",))) == ""


def test_random_is_spread_over_the_choices_and_repeats_itself() -> None:
    """900 fair draws of three: 300 each, standard deviation sqrt(900 * 2/9) = 14.1; six of them."""
    requests = [Request((f"question {i}",), choices=THREE) for i in range(900)]
    answers = ScriptedModel("random").generate(requests)
    assert answers == ScriptedModel("random").generate(requests)
    counts = Counter(answer.text for answer in answers if isinstance(answer, Answer))
    assert all(abs(counts[choice] - 300) < 85 for choice in THREE)


def test_random_does_not_depend_on_the_batch() -> None:
    requests = [Request((f"question {i}",), choices=THREE) for i in range(20)]
    model = ScriptedModel("random", seed=3)
    assert model.generate(requests) == [model.generate([one])[0] for one in requests]


def _draws(request: Request) -> list[str]:
    """Sixty draws by seed: two different contents agree on all of them with 3 ** -60."""
    return [_text("random", request, seed) for seed in range(60)]


def test_random_sees_the_pixels_and_the_order_and_the_cut_of_the_parts() -> None:
    white, grey = Pictures.new("RGB", (2, 3), "white"), Pictures.new("RGB", (2, 3), "grey")
    request = Request((white, "ab", "c"), choices=THREE)
    others = [
        replace(request, parts=(grey, "ab", "c")),
        replace(request, parts=(Pictures.new("RGB", (3, 2), "white"), "ab", "c")),
        replace(request, parts=("ab", white, "c")),
        replace(request, parts=(white, "a", "bc")),
        replace(request, parts=(white, "abtext c")),
        replace(request, verdict_prefix="So: "),
    ]
    base = _draws(request)
    assert _draws(replace(request, parts=(white.copy(), "ab", "c"))) == base
    assert all(_draws(other) != base for other in others)


@given(
    kind=st.sampled_from([kind for kind in KINDS if kind != "silent"]),
    choices=st.lists(st.text(), min_size=1, max_size=12).map(tuple),
    text=st.text(),
)
def test_an_answer_is_one_of_the_choices(kind: str, choices: tuple[str, ...], text: str) -> None:
    assert _text(kind, Request((text,), choices=choices)) in choices


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="'best'; there are first, tie, second, silent, random"):
        ScriptedModel("best")


def test_it_is_a_model_with_a_name() -> None:
    model: Model = ScriptedModel("tie")
    assert model.name == "scripted:tie"
    assert model.generate([]) == []
