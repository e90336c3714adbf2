"""Reading the choices' probabilities out of token log-probabilities, by hand-made answers."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_server import token
from unified_reward.backends.choice_logprobs import choice_logprobs_from_tokens
from unified_reward.prompts.template import softmax


ln = math.log
VERDICTS = ("Image 1 is better.", "Both images are equally good.", "Image 2 is better.")
TENS = tuple(str(i) for i in range(0, 101, 10))


def _shares(
    tokens: list[Any], choices: tuple[str, ...], verdict_prefix: str = ""
) -> list[float] | None:
    found = choice_logprobs_from_tokens(tokens, choices, verdict_prefix)
    return None if found is None else [math.exp(logprob) for logprob in found]


def test_choices_of_one_token_get_their_own_probabilities() -> None:
    tokens = [token("2", ("2", ln(0.6)), ("1", ln(0.3)), ("3", ln(0.1)))]
    assert _shares(tokens, ("1", "2", "3")) == pytest.approx([0.3, 0.6, 0.1])


def test_sentences_part_at_different_tokens() -> None:
    """Both: 0.2 at "Image". Image 2: 0.8 * 0.25 at " 1". Image 1: 0.8 * 0.75."""
    tokens = [
        token("Image", ("Image", ln(0.8)), ("Both", ln(0.2))),
        token(" 1", (" 1", ln(0.75)), (" 2", ln(0.25))),
        token(" is", (" is", ln(0.5)), (" wins", ln(0.5))),
        token(" better.", (" better.", 0.0), ("!", -9.0)),
    ]
    assert _shares(tokens, VERDICTS) == pytest.approx([0.6, 0.2, 0.2])


def test_a_token_may_reach_beyond_the_end_of_a_choice() -> None:
    tokens = [token("Yes.\n", ("Yes.\n", ln(0.7)), ("No", ln(0.3)))]
    assert _shares(tokens, ("Yes.", "No.")) == pytest.approx([0.7, 0.3])


def test_a_number_is_not_the_beginning_of_a_longer_number() -> None:
    """With "100" as one token, it is evidence for "100" only, though it begins with "10"."""
    tokens = [
        token("90", ("90", ln(0.6)), ("100", ln(0.3)), ("80", ln(0.1))),
        token(".", (".", 0.0), ("0", -9.0)),
    ]
    shares = _shares(tokens, TENS)
    assert shares is not None
    assert shares[-3:] == pytest.approx([0.1, 0.6, 0.3])
    assert shares[1] == pytest.approx(0.1)  # "10": in no list, so the smallest of the list


@pytest.mark.parametrize("written", ["4", " 4", "\n4", " \n 4"])
def test_space_before_the_verdict_does_not_count(written: str) -> None:
    tokens = [
        token("Score:", ("Score:", -0.5), ("Note", -1.0)),
        token(written, (written, ln(0.5)), (" 5", ln(0.3)), ("5", ln(0.1)), ("\t", ln(0.1))),
    ]
    assert _shares(tokens, ("4", "5"), "Score:") == pytest.approx([0.5, 0.4])


def test_a_token_may_hold_the_end_of_the_lead_and_the_verdict() -> None:
    tokens = [
        token("Score", ("Score", 0.0), ("So", -9.0)),
        token(": 4", (": 4", ln(0.7)), (": 5", ln(0.2)), (" 5", ln(0.1))),
    ]
    assert _shares(tokens, ("4", "5"), "Score: ") == pytest.approx([0.7, 0.2])


def test_space_as_a_token_of_its_own_is_walked_over() -> None:
    tokens = [
        token("Score: ", ("Score: ", 0.0), ("So", -9.0)),
        token(" ", (" ", -0.3), ("4", -2.0)),
        token("4", ("4", ln(0.9)), ("5", ln(0.1))),
    ]
    assert _shares(tokens, ("4", "5"), "Score: ") == pytest.approx([0.9, 0.1])


def test_only_the_last_lead_counts() -> None:
    tokens = [
        token("Score: ", ("Score: ", 0.0), ("x", -9.0)),
        token("1", ("1", ln(0.9)), ("2", ln(0.1))),
        token(" no, Score: ", (" no, Score: ", 0.0), ("x", -9.0)),
        token("2", ("2", ln(0.8)), ("1", ln(0.2))),
    ]
    assert _shares(tokens, ("1", "2"), "Score: ") == pytest.approx([0.2, 0.8])


def test_a_generated_prefix_of_two_choices_is_walked_through() -> None:
    """Digit by digit: "1" fits 10 and 100, the end decides. 8 and 9 leave at the first digit."""
    tokens = [
        token("1", ("1", ln(0.5)), ("9", ln(0.3)), ("8", ln(0.2))),
        token("0", ("0", ln(0.9)), (".", ln(0.1))),
        token("<|end|>", ("<|end|>", ln(0.75)), ("0", ln(0.25))),
    ]
    shares = _shares(tokens, ("10", "80", "90", "100"))
    assert shares == pytest.approx([0.5 * 0.9 * 0.75, 0.2, 0.3, 0.5 * 0.9 * 0.25])


def test_the_longer_choice_leaves_to_the_shorter_what_it_does_not_take() -> None:
    """A "100" was generated: "10" would have ended where "0" follows, with 1 - 0.6."""
    tokens = [
        token("10", ("10", ln(0.8)), ("90", ln(0.2))),
        token("0", ("0", ln(0.6)), ("<|end|>", ln(0.3)), (".", ln(0.1))),
    ]
    shares = _shares(tokens, ("10", "90", "100"))
    assert shares == pytest.approx([0.8 * 0.4, 0.2, 0.8 * 0.6])


def test_an_end_that_the_server_hides_cannot_be_told() -> None:
    """These entries do not show whether a "0" might have followed "10"."""
    tokens = [token("10", ("10", ln(0.8)), ("90", ln(0.2)))]
    assert _shares(tokens, ("10", "90", "100")) is None


def test_much_probability_on_an_undecidable_alternative_cannot_be_told() -> None:
    tokens = [
        token("8", ("8", ln(0.6)), ("1", ln(0.4))),
        token("0", ("0", -0.1), ("5", -3.0)),
    ]
    assert _shares(tokens, ("10", "80", "100")) is None


def test_little_probability_on_an_undecidable_alternative_is_left_out() -> None:
    """A "1" holds 0.004 and may mean 10 or 100; both get the list's smallest, here that same."""
    tokens = [
        token("8", ("8", ln(0.7)), ("9", ln(0.296)), ("1", ln(0.004))),
        token("0", ("0", -0.1), ("5", -3.0)),
    ]
    shares = _shares(tokens, ("10", "80", "90", "100"))
    assert shares == pytest.approx([0.004, 0.7, 0.296, 0.004])


def test_the_same_letters_cut_otherwise_count_with_the_generated_token() -> None:
    """A "Im" continues the same two choices as "Image": together 0.7."""
    tokens = [
        token("Image", ("Image", ln(0.5)), ("Both", ln(0.3)), ("Im", ln(0.2))),
        token(" 2", (" 2", ln(0.9)), (" 1", ln(0.1))),
    ]
    tokens += [token(" is better.", (" is better.", 0.0), ("x", -9.0))]
    assert _shares(tokens, VERDICTS) == pytest.approx([0.07, 0.3, 0.63])


def test_an_alternative_that_continues_every_choice_says_nothing() -> None:
    """The piece "Image" leaves all open; what is known is 4 to 1 for the first."""
    tokens = [token("Image 1", ("Image 1", ln(0.4)), ("Image", ln(0.5)), ("Image 2", ln(0.1)))]
    assert _shares(tokens, ("Image 1", "Image 2")) == pytest.approx([0.4, 0.1])


def test_a_text_that_goes_on_towards_a_longer_choice_and_turns_away_cannot_be_told() -> None:
    tokens = [token(item, (item, -0.1), ("!", -3.0)) for item in ("1", " or", " none")]
    assert _shares(tokens, ("1", "1 or 2")) is None


def test_a_choice_missing_from_the_list_gets_the_lists_smallest() -> None:
    tokens = [token("1", ("1", -0.01), ("2", -5.0), ("x", -7.0))]
    assert choice_logprobs_from_tokens(tokens, ("1", "2", "3")) == pytest.approx((-0.01, -5, -7))


def entry(text: str, *top: tuple[str, Any]) -> dict[str, Any]:
    """A generated token whose list holds anything."""
    listed = [{"token": other, "logprob": logprob} for other, logprob in top]
    return {"token": text, "logprob": dict(top).get(text, -0.1), "top_logprobs": listed}


MASKED = [None, -math.inf, -9999.0, -9999, -1e30, -3.4028235e38, "-Infinity", "-inf", -(10**400)]


@pytest.mark.parametrize("masked", MASKED)
def test_a_masked_choice_is_impossible_and_not_as_likely_as_the_least(masked: Any) -> None:
    """Expectation of a score by hand: (4 e^-0.05 + 5 e^-3) / (e^-0.05 + e^-3) = 4.0497."""
    top = [("4", -0.05), ("5", -3.0), ("3", masked), ("2", masked), ("1", masked)]
    found = choice_logprobs_from_tokens([entry("4", *top)], ("1", "2", "3", "4", "5"))
    assert found is not None
    weights = softmax(found)
    assert weights[:3] == (0.0, 0.0, 0.0)
    assert sum(w * v for w, v in zip(weights, range(1, 6), strict=True)) == pytest.approx(4.0497366)


@pytest.mark.parametrize("masked", MASKED)
def test_a_choice_beside_masked_ones_in_the_list_is_impossible_too(masked: Any) -> None:
    """A list reaches what is masked only after everything that is possible."""
    found = choice_logprobs_from_tokens([entry("1", ("1", -0.1), ("x", masked))], ("1", "2"))
    assert found is not None
    assert softmax(found) == (1.0, 0.0)


@pytest.mark.parametrize("masked", MASKED)
def test_a_comparison_reads_a_masked_answer_as_impossible(masked: Any) -> None:
    start = token("Image ", ("Image ", -0.001), ("x", -8.0))
    tokens = [start, entry("1", ("1", -0.3), ("2", masked), ("9", -1.35))]
    tokens.append(token(" is better.", (" is better.", -0.001), ("x", -8.0)))
    found = choice_logprobs_from_tokens(tokens, ("Image 1 is better.", "Image 2 is better."))
    assert found is not None
    assert softmax(found) == (1.0, 0.0)


ODD = [math.nan, math.inf, 0.5, 1.0, "NaN", "Infinity", "-0.5", "", True, False, [], {}]


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_log_probability_leaves_the_choices_unknown(odd: Any) -> None:
    for at in (0, 1, 2):
        top = [("1", -0.3), ("2", -1.4), ("x", -5.0)]
        top[at] = (top[at][0], odd)
        assert choice_logprobs_from_tokens([entry("1", *top)], ("1", "2")) is None


@pytest.mark.parametrize("masked", MASKED)
def test_lists_of_nothing_but_the_impossible_leave_the_choices_unknown(masked: Any) -> None:
    assert choice_logprobs_from_tokens([entry("x", ("1", masked), ("2", masked))], "x12") is None
    generated = entry("1", ("1", masked), ("2", -0.1))
    assert choice_logprobs_from_tokens([generated], ("1", "2")) is None
    assert choice_logprobs_from_tokens([{**generated, "logprob": -0.1}], ("1", "2")) is None


@pytest.mark.parametrize("listed", [0.0, -0.5])
def test_probabilities_that_sum_to_far_more_than_one_leave_the_choices_unknown(
    listed: float,
) -> None:
    """Servers without log-probabilities may send the same number for every token."""
    tokens = [token("1", ("1", listed), ("2", listed), ("3", listed))]
    assert choice_logprobs_from_tokens(tokens, ("1", "2", "3")) is None


def test_a_certain_token_may_be_above_zero_by_rounding() -> None:
    found = choice_logprobs_from_tokens([token("1", ("1", 1e-6), ("2", -14.0))], ("1", "2"))
    assert found == (0.0, -14.0)


def test_a_generated_token_missing_from_its_list_counts() -> None:
    generated = token("1", ("1", ln(0.2)), ("2", ln(0.8)))
    generated["top_logprobs"] = generated["top_logprobs"][1:]
    assert _shares([generated], ("1", "2")) == pytest.approx([0.2, 0.8])


def test_bytes_stand_for_tokens_that_are_half_a_letter() -> None:
    """Both answers begin with the byte e5; the second and third bytes tell them apart."""
    left, right = "左".encode(), "右".encode()
    assert left[:1] == right[:1] == b"\xe5"

    def raw(*top: tuple[bytes, float]) -> dict[str, Any]:
        listed = [{"token": "�", "logprob": x, "bytes": list(b)} for b, x in top]
        return {**listed[0], "top_logprobs": listed}

    tokens = [
        raw((left[:1], ln(0.9)), (b"?", ln(0.1))),
        raw((left[1:], ln(0.7)), (right[1:], ln(0.3))),
    ]
    assert _shares(tokens, ("左", "右")) == pytest.approx([0.63, 0.27])


@pytest.mark.parametrize("text", ["3.5", "15", "1,5", "12"])
def test_another_number_is_not_a_choice(text: str) -> None:
    tokens = [token(text, (text, -0.1), ("1", -3.0)), token("!", ("!", -0.1), ("?", -3.0))]
    assert _shares(tokens, ("1", "3", "5")) is None


@pytest.mark.parametrize(
    ("tokens", "verdict_prefix"),
    [
        ([], ""),
        ([token("Sorry", ("Sorry", -0.1), ("1", -3.0))], ""),
        ([token("1", ("1", -0.1), ("2", -3.0))], "Score: "),
        ([token("Score: ", ("Score: ", -0.1), ("2", -3.0))], "Score: "),
        ([{"token": "1", "logprob": -0.1}], ""),
        ([{"token": "1", "logprob": -0.1, "top_logprobs": []}], ""),
        ([{"token": "1", "logprob": None, "top_logprobs": [{"token": "2", "logprob": -3}]}], ""),
        ([{**token("1", ("1", -0.1), ("2", -3.0)), "logprob": math.nan}], ""),
        ([{**token("1", ("1", -0.1), ("2", -3.0)), "logprob": -(10**400)}], ""),
        (["1"], ""),
    ],
    ids=[
        "empty",
        "other",
        "no verdict_prefix",
        "no verdict",
        "no list",
        "none",
        "null",
        "nan",
        "huge",
        "no entry",
    ],
)
def test_what_cannot_be_told_is_none(tokens: list[Any], verdict_prefix: str) -> None:
    assert choice_logprobs_from_tokens(tokens, ("1", "2"), verdict_prefix) is None


def test_without_choices_there_is_nothing_to_tell() -> None:
    assert choice_logprobs_from_tokens([token("1", ("1", -0.1), ("2", -3.0))], ()) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
ENTRY = st.fixed_dictionaries(
    {"token": st.just("1") | JSON, "logprob": st.just(-0.5) | JSON},
    optional={"bytes": JSON | st.lists(st.integers(-1, 300) | st.floats(), max_size=2)},
)


@given(
    tokens=st.lists(
        JSON
        | st.tuples(ENTRY, JSON | st.lists(ENTRY | JSON, max_size=3)).map(
            lambda pair: {**pair[0], "top_logprobs": pair[1]}
        ),
        max_size=3,
    )
)
def test_no_entry_however_odd_raises(tokens: list[Any]) -> None:
    found = choice_logprobs_from_tokens(tokens, ("1", "2", "11"))
    assert found is None or (len(found) == 3 and all(map(math.isfinite, found)))


@st.composite
def _answers(draw: st.DrawFn) -> tuple[list[dict[str, Any]], tuple[str, ...], list[float]]:
    """A random distribution over words, spelled letter by letter with every alternative listed.

    The token entries of one word are made from the words' probabilities by adding up, at each
    letter, the words that share the letters so far; "." ends every word.
    """
    words = draw(
        st.lists(st.text("abc", min_size=1, max_size=4), min_size=2, max_size=5, unique=True)
    )
    weights = draw(st.lists(st.integers(1, 20), min_size=len(words), max_size=len(words)))
    shares = {word + ".": w / sum(weights) for word, w in zip(words, weights, strict=True)}
    answer, tokens = draw(st.sampled_from(list(shares))), []
    for i, letter in enumerate(answer):
        total = sum(p for word, p in shares.items() if word.startswith(answer[:i]))
        by_letter: dict[str, float] = {"?": 1e-9}
        for word, p in shares.items():
            if word.startswith(answer[:i]):
                by_letter[word[i]] = by_letter.get(word[i], 0.0) + p / total
        tokens.append(token(letter, *((item, ln(p)) for item, p in by_letter.items())))
    return tokens, tuple(shares), list(shares.values())


@given(case=_answers())
def test_complete_lists_give_back_the_distribution_or_none(
    case: tuple[list[dict[str, Any]], tuple[str, ...], list[float]],
) -> None:
    tokens, words, shares = case
    found = _shares(tokens, words)
    answer = "".join(entry["token"] for entry in tokens)
    # A letter off the generated path that begins two words cannot tell them apart.
    forks = {
        word[: i + 1]
        for word in words
        for i in range(len(word))
        if word[:i] == answer[:i] and word[: i + 1] != answer[: i + 1]
    }
    told_apart = all(sum(word.startswith(fork) for word in words) == 1 for fork in forks)
    if told_apart:
        assert found == pytest.approx(shares, abs=1e-6)
    elif found is not None:
        assert found[words.index(answer)] == pytest.approx(shares[words.index(answer)], abs=1e-6)
