import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unified_reward import prompts
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Preferred, Score, Scored, Unparsed
from unified_reward.prompts import TEMPLATES, parse
from unified_reward.prompts.families import critic
from unified_reward.prompts.wording import CELLS, NOUNS


PROMPTS = Path(__file__).parents[2] / "golden" / "prompts"
KEYS = sorted(TEMPLATES, key=str)


def sample_for(task, form, prompt="a red cube"):
    medium = Video("v.mp4") if "video" in task else Image("p.png")
    if "understanding" in task:
        candidates, context = ("one", "two"), (medium,)
    else:
        candidates, context = (medium, medium), ()
        if task is Task.IMAGE_EDITING:
            context = (Image("source.png"),)
    return Sample(task, prompt, candidates[: 1 if form == "score" else 2], context)


def rendered(key, **changes):
    _, task, form = key
    return TEMPLATES[key].request(sample_for(task, form, **changes), lambda medium: [medium])


def as_text(request):
    return "".join(p if isinstance(p, str) else f"[{p.source}]" for p in request.parts)


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_the_wording_of_every_template_is_the_golden_one(key):
    request = rendered(key)
    content = f"{as_text(request)}\n--- choices ---\n" + "\n".join(request.choices) + "\n"
    golden = PROMPTS / ("-".join(map(str, key)) + ".txt")
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(content, "utf-8")
    assert golden.read_text("utf-8") == content


OWN_CELLS = {
    "compact-think": {cell for cell in CELLS if cell[1] == "compare"},
    "edit": {(Task.IMAGE_EDITING, "score"), (Task.IMAGE_EDITING, "compare")},
    "edit_values": {(Task.IMAGE_EDITING, "compare")},
    "flex": {(Task.IMAGE_GENERATION, "compare"), (Task.VIDEO_GENERATION, "compare")},
}


def test_every_family_asks_all_ten_cells_but_those_with_some_of_their_own():
    for name in prompts.FAMILIES:
        covered = {key[1:] for key in TEMPLATES if key[0] == name}
        assert covered == OWN_CELLS.get(name, set(CELLS))
    assert len(CELLS) == 10


def some_verdict(template, value):
    aspects = {}
    if template.form == "compare" and template.aspects:
        shares = {one.name: value for one in template.aspects}
        return Preferred(value, 0.0, 1 - value, shares)
    if template.form == "compare" and not template.phrases:
        share = 0.02 + 0.96 * value
        return Preferred(0.0, 1.0, 0.0) if share == 0.5 else Preferred(share, 0.0, 1 - share)
    if template.form == "compare":
        index = min(2, int(value * 3))
        return Preferred(*(float(i == index) for i in range(3)))
    for name, scale, _ in template.aspects:
        aspects[name] = Score(scale.low + value * (scale.high - scale.low), scale)
    if template.scale is None:
        return Scored(None, aspects)
    low, high = template.scale.low, template.scale.high
    return Scored(Score(low + value * (high - low), template.scale), aspects)


@pytest.mark.parametrize("key", KEYS, ids=str)
@given(value=st.floats(0, 1))
def test_parsing_an_answer_gives_the_verdict_back(key, value):
    template = TEMPLATES[key]
    verdict = some_verdict(template, value)
    read = template.parse(template.answer(verdict))
    if isinstance(verdict, Scored):
        assert (read.score, read.aspects) == (verdict.score, verdict.aspects)
    else:
        assert read.p_first == pytest.approx(verdict.p_first)
        assert read.p_tie == verdict.p_tie
        assert read.aspects == pytest.approx(verdict.aspects)


@pytest.mark.parametrize("key", [k for k in KEYS if TEMPLATES[k].choices], ids=str)
def test_every_choice_completes_a_readable_answer(key):
    template = TEMPLATES[key]
    verdict_prefix = "" if template.family.verdict_first else template.opening
    head = "<think>hm</think>\n" if template.family.uses_think_tags else ""
    head += "".join(f"{label}: {scale.low:g}\n" for _, scale, label in template.aspects)
    head += "{" if template.family.name == "flex" else ""
    for choice in template.choices:
        assert not isinstance(template.parse(head + verdict_prefix + choice), Unparsed)


def test_a_source_stands_before_what_was_made_of_it():
    for name in ("native", "compact", "edit"):
        text = as_text(rendered((name, Task.IMAGE_EDITING, "compare")))
        assert text.startswith("[source.png][p.png][p.png]")


@given(values=st.lists(st.floats(-30, 30), min_size=2, max_size=2))
def test_signed_values_compare_by_the_logistic_of_their_difference(values):
    template = TEMPLATES["edit_values", Task.IMAGE_EDITING, "compare"]
    read = template.parse(f"hm\nEdited image 1: {values[0]}\nEdited image 2: {values[1]}")
    gap = values[0] - values[1]
    assert read.probability == pytest.approx(1 / (1 + math.exp(-gap)))
    assert (read.winner == "tie") == (gap == 0) or abs(gap) < 1e-9


EDIT_ANSWERS = [
    ('{"reasoning" : "ok", "score" : [20, 18],}', {"success": 20.0, "preservation": 18.0}),
    ('```json\n{"reasoning": "[1, 2]", "score": [0, 25]}\n```', {"success": 0, "preservation": 25}),
    ('{"score": [26, 3]}', "26 is outside the scale 0 to 25"),
    ('{"score": [-1.5, 3]}', "-1.5 is outside the scale 0 to 25"),
    ('{"score": [9]}', "1 points in the answer, for success, preservation"),
    ("It was edited well.", "no list of scores in the answer"),
]


@pytest.mark.parametrize(("text", "wanted"), EDIT_ANSWERS)
def test_points_of_an_edit_are_read_or_unparsed_never_guessed(text, wanted):
    read = TEMPLATES["edit", Task.IMAGE_EDITING, "score"].parse(text)
    if isinstance(wanted, str):
        assert (type(read), read.reason) == (Unparsed, wanted)
    else:
        assert read.score is None
        assert {name: one.value for name, one in read.aspects.items()} == wanted


VALUES = [
    ("Edited image 1: -0.5\nEdited image 2: 1.25", (-0.5, 1.25)),
    ("Edited Image 1 score: **2**, Edited Image 2 score: -3", (2.0, -3.0)),
    ("1.5\n-2.25", (1.5, -2.25)),
    ("1.5, 2, 3", None),
    ("Edited image 1: 3", None),
    ("both are fine", None),
    ("Edited image 1: nan\nEdited image 2: 1", None),
]


@pytest.mark.parametrize(("text", "wanted"), VALUES)
def test_two_signed_values_are_read_with_their_signs_or_not_at_all(text, wanted):
    read = parse.pair_values(text)
    assert isinstance(read, Unparsed) if wanted is None else read == wanted


def test_a_flex_answer_has_shares_by_dimension_and_the_winner_it_names():
    template = TEMPLATES["flex", Task.IMAGE_GENERATION, "compare"]
    body = {
        "prompt": "a cat",
        "categories": [
            {
                "name": "Alignment",
                "dims": [
                    {"name": "subject", "reason_1": "a", "score_1": 7, "score_2": 3},
                    {"name": "count", "score_1": 5, "score_2": 5},
                    {"name": "odd", "score_1": "7", "score_2": 3},
                ],
                "cat_winner": "Image 1",
            },
            {"name": "Quality", "dims": [{"name": "light", "score_1": 0, "score_2": 10}]},
        ],
        "reason": "so",
        "winner": "Image 2",
    }
    read = template.parse(f"```json\n{json.dumps(body, indent=1)}\n```")
    assert read.winner == "second"
    assert read.aspects == {"Alignment/subject": 0.7, "Alignment/count": 0.5, "Quality/light": 0.0}
    cut = json.dumps(body)[:-30]
    assert isinstance(template.parse(cut), Unparsed)
    weighed = template.decode(Answer(json.dumps(body), (-0.1, -9.0, -3.0)))
    assert weighed.winner == "first", "the probabilities at the winner decide"
    assert weighed.aspects == read.aspects


def test_a_flex_answer_says_what_is_there():
    template = TEMPLATES["flex", Task.VIDEO_GENERATION, "compare"]
    verdict = Preferred(1.0, 0.0, 0.0, {"Motion/pace": 0.75, "Motion/steadiness": 0.25})
    body = json.loads(template.answer(verdict, rationale="so"))
    assert body["winner"] == "Video 1"
    assert body["categories"] == [
        {
            "name": "Motion",
            "dims": [
                {"name": "pace", "score_1": 7.5, "score_2": 2.5},
                {"name": "steadiness", "score_1": 2.5, "score_2": 7.5},
            ],
            "cat_winner": "tie",
        }
    ]
    assert template.parse(template.answer(verdict)).aspects == verdict.aspects


@given(caption=st.text())
def test_a_caption_is_filled_in_as_it_is(caption):
    for key in KEYS:
        assert caption in as_text(rendered(key, prompt=caption))


def test_slots_in_a_caption_are_not_filled():
    text = as_text(rendered(("native", Task.IMAGE_GENERATION, "score"), prompt="a ⟪criteria⟫ {0}"))
    assert "Caption: a ⟪criteria⟫ {0}" in text


def test_interleaved_answers_keep_their_pictures_in_place():
    parts = ("see ", Image("a.png"), " here")
    sample = Sample(Task.IMAGE_UNDERSTANDING, "q", (parts,), (Image("q.png"),))
    template = prompts.template("compact", Task.IMAGE_UNDERSTANDING, "score")
    request = template.request(sample, lambda medium: [medium])
    assert as_text(request) == "[q.png]rate answer: q 1: see [a.png] here"


def test_the_samples_own_criteria_replace_the_familys():
    task = Task.IMAGE_GENERATION
    sample = Sample(task, "x", (Image("a.png"),), criteria="only the colours")
    request = prompts.template("native", task, "score").request(sample, lambda medium: [medium])
    assert "only the colours" in as_text(request)
    assert "faithfully" not in as_text(request)


def test_a_score_is_the_expectation_over_the_steps_with_its_spread():
    """Half on 2, half on 4: mean 3, standard deviation 1."""
    template = prompts.template("native", Task.IMAGE_GENERATION, "score")
    impossible = -1e9
    answer = Answer("Final Score: 2", (impossible, -1.0, impossible, -1.0, impossible))
    score = template.decode(answer).score
    assert (score.value, score.sigma, score.normalized) == (3.0, 1.0, 0.5)


def test_votes_that_cannot_be_read_do_not_vote():
    template = prompts.template("native", Task.IMAGE_GENERATION, "compare")
    votes = ("Image 1 is better.", "hm", "Image 2 is better.")
    verdict = template.decode(Answer("Image 1 is better.", None, votes))
    assert (verdict.p_first, verdict.p_second) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert isinstance(template.decode(Answer("hm", None, ("?", "!"))), Unparsed)


def test_reasoning_without_a_verdict_is_unparsed_even_with_probabilities():
    template = prompts.template("think", Task.IMAGE_GENERATION, "compare")
    assert isinstance(
        template.decode(Answer("<think>Image 1 is better", (0.0, -1.0, -2.0))), Unparsed
    )


def test_an_unknown_family_is_an_error_that_lists_the_known():
    with pytest.raises(
        ConfigError,
        match="no family 'nativ'; there are aspects, compact, compact-think, edit, edit_values",
    ):
        prompts.family("nativ")


def test_an_aspect_the_target_lacks_is_named():
    template = prompts.template("aspects", Task.IMAGE_GENERATION, "score")
    with pytest.raises(ConfigError, match="states alignment, coherence, style"):
        template.answer(Scored(None))


def two_answers(template):
    """Answers that state different verdicts."""
    return [template.answer(some_verdict(template, value)) for value in (0.1, 0.9)]


@pytest.mark.parametrize("glue", [" no wait. ", "\n", ", or rather: "])
@pytest.mark.parametrize(
    "key", [k for k in KEYS if k[0] not in ("compact", "native", "edit")], ids=str
)
def test_an_earlier_verdict_before_an_answer_changes_nothing(key, glue):
    template = TEMPLATES[key]
    earlier, later = two_answers(template)
    read, alone = template.parse(f"{earlier}{glue}{later}"), template.parse(later)
    assert not isinstance(alone, Unparsed)
    assert replace(read, text="") == replace(alone, text="")


@pytest.mark.parametrize("key", [k for k in KEYS if TEMPLATES[k].choices], ids=str)
def test_probabilities_are_those_of_the_verdict_that_the_text_ends_with(key):
    """A text that goes on to another verdict in other words counts without them."""
    template = TEMPLATES[key]
    n = len(template.choices)
    logprobs = (-0.1, *[-9.0] * (n - 1))
    answer, _ = two_answers(template)
    weighed = template.decode(Answer(answer, logprobs))
    if isinstance(weighed, Scored):
        assert weighed.score.sigma is not None
    else:
        assert 0.9 < weighed.p_first < 1
    if template.opening == "<answer>" or template.family.name in ("compact", "flex"):
        return  # A text that goes on has no other words for a verdict.
    noun = NOUNS[template.task].capitalize()
    revised = f"{noun} 2 is better" if template.form == "compare" else "final score = 5"
    revised = f"<answer>{revised}</answer>" if template.family.uses_think_tags else revised
    read = template.decode(Answer(f"{answer} I take it back: {revised}", logprobs))
    if isinstance(read, Scored):
        assert (read.score.value, read.score.sigma) == (5.0, None)
    else:
        assert (read.p_first, read.p_second) == (0.0, 1.0)


@pytest.mark.parametrize("text", ["Final Score: 4/10", "Final Score: 4. Final Score: n/a"])
def test_probabilities_make_no_score_of_a_text_that_states_none(text):
    template = TEMPLATES["native", Task.IMAGE_GENERATION, "score"]
    assert isinstance(template.decode(Answer(text, (-9.0, -9.0, -9.0, -0.1, -9.0))), Unparsed)


def test_points_that_are_no_numbers_are_left_out_of_a_flex_answer():
    template = TEMPLATES["flex", Task.IMAGE_GENERATION, "compare"]
    for points in ("NaN, 3", "true, 3", "Infinity, 3", "1" + "0" * 400 + ", 3", "-1, 3"):
        first, second = points.split(", ")
        dims = f'[{{"name": "d", "score_1": {first}, "score_2": {second}}}]'
        text = f'{{"categories": [{{"name": "A", "dims": {dims}}}], "winner": "tie"}}'
        read = template.parse(text)
        assert (read.winner, read.aspects) == ("tie", {})


@pytest.mark.parametrize("text", ["4*5", "80*1/100"])
def test_a_product_is_no_score_of_a_critic(text):
    (template,) = (one for one in critic.TEMPLATES if one.form == "score")
    assert isinstance(template.parse(text), Unparsed)
