from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unified_reward.core.verdicts import Scale, Unparsed
from unified_reward.prompts import parse


GOLDEN = Path(__file__).parents[2] / "golden" / "answers"


def cases(name):
    return yaml.safe_load((GOLDEN / name).read_text("utf-8"))


@pytest.mark.parametrize("case", cases("comparisons.yaml"), ids=lambda case: case["say"][:40])
def test_a_comparison_is_read_as_it_was_meant(case):
    body = parse.final_part(case["say"], uses_think_tags=False)
    read = body if isinstance(body, Unparsed) else parse.preference(body)
    assert ("unparsed" if isinstance(read, Unparsed) else read) == case["means"]


@pytest.mark.parametrize("case", cases("scores.yaml"), ids=lambda case: case["say"][:40])
def test_a_score_is_read_as_it_was_meant(case):
    body = parse.final_part(case["say"], uses_think_tags=False)
    read = body if isinstance(body, Unparsed) else parse.score(body, Scale(*case["scale"]))
    assert ("unparsed" if isinstance(read, Unparsed) else read) == case["means"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_written_number_reads_back_exactly(value):
    assert float(parse.number_text(value)) == value


@given(st.text())
def test_no_text_makes_the_parsers_raise(text):
    for scale in (Scale(1, 5), Scale(0, 100)):
        value = parse.score(text, scale)
        assert isinstance(value, Unparsed) or value in scale
    assert parse.preference(text) in ("first", "second", "tie") or isinstance(
        parse.preference(text), Unparsed
    )
    assert isinstance(parse.json_object(text), dict | Unparsed)


def test_ten_is_not_one_nor_below_nine():
    scale = Scale(1, 10)
    assert parse.score("Final Score: 10", scale) == 10.0
    assert parse.score("Final Score: 10", scale) > parse.score("Final Score: 9", scale)


def test_elements_are_read_and_the_final_score_is_not_one_of_them():
    read = parse.checks("red cube (object): 1\nleft of (relation): 0\n- hat: 1.0\nFinal Score: 1")
    assert {name: one.value for name, one in read.items()} == {
        "red cube (object)": 1.0,
        "left of (relation)": 0.0,
        "hat": 1.0,
    }


ACS = tuple(
    parse.Aspect(name, Scale(1, 5), f"{name.capitalize()} Score (1-5)")
    for name in ("alignment", "coherence", "style")
)


def test_aspects_are_read_with_and_without_their_range_and_nan_is_missing():
    text = (
        'Word-wise Scores: [["red", 0.2], ["style", 4.0], ["[No_mistakes]", 0.9]]\n'
        "Alignment Score (1-5): 2.694700002670288\nCoherence Score: 3\nStyle Score (1-5): NaN"
    )
    read = parse.aspects(text, ACS)
    assert {name: one.value for name, one in read.items()} == {
        "alignment": 2.694700002670288,
        "coherence": 3.0,
    }


def test_shares_are_divided_by_their_sum():
    text = "Alignment Score:\n Image 1: 0.3\n Image 2: 0.9\n\n"
    assert parse.shares(text, ACS[:1]) == {"alignment": pytest.approx(0.25)}


def test_a_missing_share_is_unparsed_not_a_half():
    read = parse.shares("Alignment Score:\n Image 1: 0.3\n", ACS[:1])
    assert isinstance(read, Unparsed)
    assert "no alignment score of both candidates" in read.reason


FLEX = """```json
{"prompt": "x", "categories": [
  {"name": "A", "dims": [
    {"name": "d", "reason_1": "a \\"quoted\\" {thing}", "score_1": 7, "score_2": 3}],
   "cat_winner": "Image 1"},],
 "reason": "brackets ]} inside", "winner": "Image 2"}
```"""


def test_a_fenced_verdict_with_trailing_commas_is_read_whole():
    value = parse.json_object(FLEX)
    assert value["categories"][0]["dims"][0]["score_1"] == 7
    assert parse.json_winner(FLEX) == "second"


@pytest.mark.parametrize("length", range(12, len(FLEX), 13))
def test_a_cut_off_verdict_never_yields_the_category_winner(length):
    read = parse.json_winner(FLEX[:length])
    assert isinstance(read, Unparsed) or read == "second"


def test_signed_edit_scores_keep_their_sign():
    assert parse.edit_scores('{"reasoning": "x", "score": [-3.5, 12],}') == (-3.5, 12.0)
    assert isinstance(parse.edit_scores('{"reasoning": "x", "score": ['), Unparsed)


SCALE = Scale(1, 5)
SCORES = [
    ("Final Score: 2, no wait. Final Score: 5", 5),
    ("Final Score: 2 Final Score: 3 Final Score: 4", 4),
    ("Final Score: 5. final score is 2", 2),
    ("**Final Score:** 2 … **Final Score: 4**.", 4),
    ("Final Score\uff1a\uff15", 5),
    ("Final Score: \uff14\uff0e\uff15", 4.5),
    ("Final Score: 4 (out of 5)", 4),
    ("Final Score: 4 stars out of 5", 4),
    ("Final Score: 4 of 5", 4),
    ("Final Score: 5.", 5),
    ("Final Score: 4. 3 elements are missing.", 4),
    ("Final Score: 4, 3 of them red", 4),
    ("Final Score: 1e0", 1),
    ("Final Score (from 1 to 5): 4", 4),
    ("Final Score (1-10): 4/5", 4),
    ("Final Score: 4\nThe final score is based on the colours.", 4),
]
NO_SCORES = [
    *("Final Score: 2. Final Score: n/a", "Final Score: 4\nFinal Score: nan", "Final Score: inf"),
    *("Final Score: 4 of 10", "Final Score: 4 (out of 10)", "Final Score: 1,000"),
    *("Final Score: 1,234,567", "Final Score: 4.5.6", "Final Score: 3 1/2", "Final Score: 4\u00bd"),
    *("Final Score: 3 or 4", "Final Score: 3 to 4", "Final Score: 3 -> 4", "Final Score: 3 ~ 4"),
    *(
        "Final Score: between 3 and 4",
        "Final Score: -1",
        "Final Score: \u22121",
        "Final Score: 1e3",
    ),
    *(
        "Final Score: 1e999",
        "Final Score: 5k",
        "Final Score: 4th",
        "Final Score: 0",
        "1,000",
        "3-4",
    ),
    *("nan", "Infinity", "Final Score: 3\u00b2", "Final Score: 3 \u00bd", "Final Score: 2*2"),
    *("Final Score (1-10): 4", "Final Score (0 to 100): 4", "Final Score: 2^2"),
]


@pytest.mark.parametrize(("text", "wanted"), SCORES)
def test_the_last_score_of_an_answer_counts(text, wanted):
    assert parse.score(text, SCALE) == wanted


@pytest.mark.parametrize("text", NO_SCORES)
def test_what_is_not_clearly_one_number_of_the_scale_is_unparsed(text):
    assert isinstance(parse.score(text, SCALE), Unparsed)


WINNERS = [
    ("Overall Judgment: Image 1 is better, no wait. Image 2 is better.", "second"),
    ("Overall Judgment: Image 1 is better. Overall Judgment: Image 2 is better.", "second"),
    (
        "Therefore, Image 1 is better.\nOverall Judgment: both have merits.\nImage 2 is better.",
        "second",
    ),
    ('Image 2 is better in colour. Overall Judgment: "Image 1 is better."', "first"),
    ("Image 1 is better in style.\nFinal answer: Image 2", None),
    ("Overall Judgment: Image 1 is better.\nOverall Judgment: undecided", None),
    ("Image \uff12 is better", "second"),
]


@pytest.mark.parametrize(("text", "wanted"), WINNERS)
def test_the_last_verdict_counts_and_nothing_before_its_title(text, wanted):
    read = parse.preference(text)
    assert isinstance(read, Unparsed) if wanted is None else read == wanted


def test_reasoning_that_begins_again_is_cut_off():
    text = "<think>a</think>Final Score: 4 <think>no, Final Score: 2"
    assert isinstance(parse.final_part(text, uses_think_tags=False), Unparsed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Style Score (1-5): 2\nStyle Score (1-5): 4", 4),
        ("Style Score (1-5): 2\nStyle Score (1-5): N/A", None),
        ("Style Score (1-5): 3-4", None),
        ("Style Score (1-5): 4/10", None),
        ("Style Score (1-10): 4", None),
        ("style: 3/5", 3),
    ],
)
def test_the_last_line_of_an_aspect_counts(text, wanted):
    read = parse.aspects(text, ACS[2:])
    assert read.get("style") is None if wanted is None else read["style"].value == wanted


JSON_WINNERS = [
    ('{"winner": "Image 1"} No: {"winner": "Image 2"}', "second"),
    ('{"winner": "Image 1", "winner": "Image 2"}', "second"),
    ('Use {braces} and {"a brace. {"winner": "Image 1"}', None),
    ('Of the set {1, 2}: {"winner": "tie"}', "tie"),
    ('{"winner": "Image 1"} {"reason": "wai', None),
    ('{"winner": ' + "[" * 100_000, None),
    ('{"n": ' + "1" * 5000 + ', "winner": "Image 1"}', None),
]


@pytest.mark.parametrize(("text", "wanted"), JSON_WINNERS, ids=lambda value: str(value)[:40])
def test_the_last_object_of_an_answer_counts(text, wanted):
    read = parse.json_winner(text)
    assert isinstance(read, Unparsed) if wanted is None else read == wanted


def test_points_of_an_edit_are_all_numbers_or_none_are_read():
    assert parse.edit_scores('{"score":[20,18]}') == (20.0, 18.0)
    assert parse.edit_scores('{"score": [1, 2]} {"score": ["3", 4]}') == (3.0, 4.0)
    for text in ('{"score": [20, "N/A", 18]}', '{"score": [NaN, 1]}', '{"score": [1e999, 1]}'):
        assert isinstance(parse.edit_scores(text), Unparsed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("There are 2 cats and 3 dogs.", None),
        ("Image 1: 2. Image 2: 1. Image 1: 0", (0.0, 1.0)),
        ("Image 1: 2\nImage 2: n/a", None),
        ("Image 1: 2\nImage 2: 1\nImage 2: n/a", None),
        ("Image 1: 2-3\nImage 2: 1", None),
        ("1.5,2.5", (1.5, 2.5)),
        ("1,2,3", None),
    ],
)
def test_values_of_two_candidates_are_never_taken_from_prose(text, wanted):
    read = parse.pair_values(text)
    assert isinstance(read, Unparsed) if wanted is None else read == wanted
