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
