"""The page of an evaluation: its sentences and parts, hostile text, and in a headless Chromium."""

import copy

import numpy as np
import PIL.Image
import pytest

from tests.unified_reward.report.test_page import HOSTILE, Reader
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.page import build_page, write_page
from unified_reward.report.page import DASH


MODELS = ("base", "tuned", "blurred")
PROMPT = "a large red star beside a small blue circle"


def values(mean):
    return {
        "mean": mean,
        "ci95": [mean - 0.1, mean + 0.1],
        "median": mean,
        "n": 48,
        "median_ci95": [mean - 0.2, mean + 0.2],
        "spread": 0.5,
        "spread_ci95": [0.4, 0.6],
        "outputs": 96,
    }


def difference(value, half=0.2, rate=0.5, n=48):
    return {
        "difference": value,
        "ci95": [value - half, value + half],
        "n": n,
        "flips": 0.1,
        "win_rate": rate,
        "win_rate_ci95": [rate - 0.1, rate + 0.1],
        "n_comparisons": 96,
        "win_rate_n": n,
    }


def judge(kind, calls, **more):
    return {
        "reference": "no/judge",
        "judge": "local",
        "family": "compact",
        "kind": kind,
        "scale": [1, 5],
        "calls": calls,
        "unparsed": 0,
        "failed": 1,
        "flips": 0.08,
        "reading_sigma": None,
        **more,
    }


def rate(value):
    return {"value": value, "ci95": [value - 0.1, value + 0.1], "n": 48}


def made_report():
    """A report with every part: ``tuned`` is better by both rewards, ``blurred`` is not."""
    star = {
        "n": 20,
        "models": {name: {"hps": {"mean": 3.0, "ci95": None, "n": 20}} for name in MODELS},
        "paired": {
            "tuned": {"hps": difference(0.9), "pick": difference(None or 0.0, rate=0.7)},
            "blurred": {"hps": difference(-1.4)},
        },
    }
    circle = copy.deepcopy(star) | {"n": 28}
    circle["paired"]["tuned"]["hps"] = difference(-0.5)
    return {
        "baseline": "base",
        "prompts": 48,
        "rewards": ["hps", "pick"],
        "judges": {"hps": judge("score", 288), "pick": judge("win_rate", 200, scale=None)},
        "models": {name: {"hps": values(3.0), "pick": values(0.5)} for name in MODELS},
        "paired": {
            "tuned": {"hps": difference(0.52, 0.22, 0.66), "pick": difference(0.1, rate=0.63)},
            "blurred": {"hps": difference(-1.5, 0.3, 0.2), "pick": difference(0.0, rate=0.55)},
        },
        "win_rates": {
            "hps": {
                "base": {"tuned": rate(0.34), "blurred": rate(0.8)},
                "tuned": {"base": rate(0.66), "blurred": rate(0.87)},
                "blurred": {"base": rate(0.2), "tuned": rate(0.13)},
            }
        },
        "bradley_terry": {
            "hps": {
                "base": {"strength": 0.1, "ci95": [-0.2, 0.4], "rank": [1, 2]},
                "tuned": {"strength": 1.1, "ci95": [0.7, 1.5], "rank": [1, 2]},
                "blurred": {"strength": -1.2, "ci95": [-1.6, -0.8], "rank": [3, 3]},
            }
        },
        "categories": {"stars": star, "circles": circle},
        "correlations": [{"a": "hps", "b": "pick", "spearman": 0.4, "ci95": [0.2, 0.6], "n": 144}],
        "missing": [
            {
                "model": "blurred",
                "prompt": f"p{i}",
                "kind": "missing",
                "reward": "",
                "reason": "no file of this prompt",
            }
            for i in range(20)
        ],
        "notes": ["blurred has 1 file a prompt, the others 2"],
        "most_different": [
            {
                "prompt": "p0",
                "text": PROMPT,
                "reward": "hps",
                "values": {"base": 3.0, "tuned": 4.5, "blurred": 1.25},
            }
        ],
        "warnings": [
            {
                "kind": "order",
                "model": "blurred",
                "reward": "pick",
                "text": "pick names another winner in 30 % of pairs when their order is swapped",
            }
        ],
        "budget": {
            "pick": {
                "calls": 200,
                "full_calls": 288,
                "saved": 88,
                "width": 0.11,
                "uniform_comparisons": 130,
                "pairs": {"base|tuned": 60, "base|blurred": 20, "tuned|blurred": 20},
            }
        },
        "people": {
            "tuned": {
                "value": 0.61,
                "ci95": [0.55, 0.67],
                "n_votes": 200,
                "n_judged": 4000,
                "votes_alone": rate(0.6),
                "judge_alone": rate(0.63),
                "weight": 0.8,
                "reward": "pick",
            }
        },
    }


def empty_report():
    """A report of one model, one prompt and one reward, without any comparison."""
    value = values(3.0) | dict.fromkeys(("ci95", "median_ci95", "spread", "spread_ci95"))
    return {
        "baseline": "base",
        "prompts": 1,
        "rewards": ["hps"],
        "judges": {"hps": judge("score", 1, scale=None, flips=None)},
        "models": {"base": {"hps": value | {"n": 1, "outputs": 1}}},
        **{key: {} for key in ("paired", "win_rates", "bradley_terry", "categories")},
        **{key: [] for key in ("correlations", "missing", "notes", "most_different", "warnings")},
        "budget": None,
        "people": None,
    }


@pytest.fixture
def outputs(tmp_path):
    """Outputs of one prompt: a picture, two pictures, and a file that is no picture."""
    for name, level in {"a.png": 40, "b.png": 200, "c.png": 90}.items():
        PIL.Image.new("RGB", (48, 32), (level, 60, 90)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    a, b, c, broken = (Image(tmp_path / f"{name}.png") for name in ("a", "b", "c", "broken"))
    prompts = {"p0": Example(id="p0", task=Task.IMAGE_GENERATION, prompt=PROMPT, candidates=())}
    by_model = {"base": (a,), "tuned": (b, c), "blurred": (broken,)}
    return ModelOutputs(prompts, {name: {"p0": files} for name, files in by_model.items()})


def text_of(report, outputs):
    return Reader(build_page(report, outputs)).text


def test_a_page_begins_with_a_sentence_on_every_model(outputs):
    text = text_of(made_report(), outputs)
    sentences = [
        "tuned is better than base in hps (+0.52, 95 % interval +0.30 to +0.74, 48 prompts) and "
        "pick (wins 63 %, 95 % interval 53 % to 73 %, 48 prompts).",
        "blurred is worse than base in hps (-1.50, 95 % interval -1.80 to -1.20, 48 prompts); it "
        "cannot be told apart from base in pick (wins 55 %, 95 % interval 45 % to 65 %, ",
        "pick names another winner in 30 % of pairs when their order is swapped.",
        "Differences to base",
    ]
    places = [text.index(sentence) for sentence in sentences]
    assert places == sorted(places)
    assert "▼ worse in 1 of 2 rewards" in text
    assert "By votes of people and pick: wins 61 % (55 % to 67 %)." in text


@pytest.mark.parametrize(
    ("value", "half", "mark"),
    [
        (0.3, 0.2, "▲ better"),
        (-0.3, 0.2, "▼ worse"),
        (0.2, 0.2, "cannot be told apart"),
        (0.1, 0.3, "cannot be told apart"),
    ],
)
def test_an_interval_that_reaches_no_difference_leaves_it_open(outputs, value, half, mark):
    report = made_report() | {"rewards": ["hps"]}
    report["models"] = {name: report["models"][name] for name in ("base", "tuned")}
    report["paired"] = {"tuned": {"hps": difference(value, half)}}
    assert f"hps. {mark} tuned " in text_of(report, outputs)


def test_rewards_that_disagree_are_no_win(outputs):
    report = made_report()
    report["paired"]["tuned"]["pick"] = difference(0.0, rate=0.3)
    assert "rewards disagree tuned is better than base in hps" in text_of(report, outputs)


def test_models_without_a_common_prompt_are_not_compared(outputs):
    report = made_report()
    report["paired"] = {"tuned": {}}
    text = text_of(report, outputs)
    assert "no comparison tuned and base have no prompt in common" in text


def test_every_part_of_a_full_report_is_on_the_page(outputs):
    text = text_of(made_report(), outputs)
    parts = [
        "hps: difference of scores tuned ▲ better +0.52 +0.30 to +0.74 n = 48",
        "pick: share of prompts won tuned ▲ better",
        "Votes of people",
        "tuned, hps: difference of scores stars ▲ better",
        "circles ▼ worse",
        "hps: strength tuned rank 1 to 2 +1.10 +0.70 to +1.50",
        "rank 3",
        f"row wins against base tuned blurred base {DASH} 0.34",
        "hps and pick",
        f"hps no/judge compact score, 1 to 5 288 0 1 0.080 {DASH}",
        "pick 200 288 88 0.110 100 130",
        "pick base tuned 60",
        "blurred has 1 file a prompt, the others 2",
        "All 20",
        "blurred p19 missing all no file of this prompt",
    ]
    missing = [part for part in parts if part not in text]
    assert not missing


def test_prompts_that_differ_most_are_pictures_with_best_and_worst(outputs):
    page = build_page(made_report(), outputs)
    text = Reader(page).text
    for part in ("base hps: 3 ", "▲ best tuned hps: 4.5 ", "▼ worst blurred hps: 1.25 cannot be"):
        assert part in text
    assert page.html().count('src="data:image/png') == 3


def test_a_page_has_no_more_media_than_fit(outputs):
    """Four files a prompt, so that 12 prompts of 20 have 48."""
    report = made_report()
    (row,) = report["most_different"]
    report["most_different"] = [row | {"prompt": f"p{i}"} for i in range(20)]
    prompts = {f"p{i}": outputs.prompts["p0"] for i in range(20)}
    by_model = {
        model: dict.fromkeys(prompts, files["p0"]) for model, files in outputs.outputs.items()
    }
    text = text_of(report, ModelOutputs(prompts, by_model))
    assert text.count("▲ best") == 12


def test_edits_stand_beside_their_source_and_answers_are_text(tmp_path, outputs):
    source = next(iter(outputs.outputs["base"]["p0"]))
    edit = Example(Task.IMAGE_EDITING, "make it blue", (), context=(source,), id="p0")
    clip = Video(np.zeros((3, 16, 16, 3), np.uint8), layout="THWC", fps=4)
    made = ModelOutputs({"p0": edit}, {"base": {"p0": (clip,)}, "tuned": {"p0": ("a blue star",)}})
    page = build_page(made_report(), made)
    text = Reader(page).text
    assert text.index("source") < text.index("a blue star")
    assert 'src="data:image/webp' in page.html()


def test_a_prompt_without_values_has_neither_best_nor_worst(outputs):
    report = made_report()
    report["most_different"][0]["values"] = {"base": 2.0, "tuned": 2.0, "blurred": None}
    text = text_of(report, outputs)
    assert "hps: no value" in text
    assert "best" not in text.split("Where the models differ most")[1].split("All models")[0]


def test_one_model_with_one_prompt_has_a_page_without_empty_parts(outputs):
    read = Reader(build_page(empty_report(), outputs))
    assert f"hps base 3.000 3.000 {DASH} 1 1" in read.text
    for part in (
        "Differences",
        "Categories",
        "against each other",
        "Votes",
        "agree?",
        "differ most",
    ):
        assert part not in read.text
    assert "No output is missing or broken." in read.text


def replaced(value, text):
    """Put a text in the place of every free text of a report, also names."""
    if isinstance(value, dict):
        return {replaced(name, text): replaced(each, text) for name, each in value.items()}
    if isinstance(value, list):
        return [replaced(each, text) for each in value]
    return f"{value}{text}" if value in FREE else value


FREE = {*MODELS, "hps", "pick", "stars", "circles", "no/judge", PROMPT, "no file of this prompt"}


def test_markup_in_names_and_prompts_stays_text(outputs):
    report = replaced(made_report(), HOSTILE)
    by_model = {f"{name}{HOSTILE}": files for name, files in outputs.outputs.items()}
    read = Reader(build_page(report, ModelOutputs(outputs.prompts, by_model)))
    assert "script" not in read.seen
    assert not any(name.startswith("on") for name, _ in read.attributes)
    assert read.text.count(HOSTILE) > 50
    assert f"{PROMPT}{HOSTILE}" in read.text


def long_report():
    """A report whose names and texts do not fit anywhere."""
    long = replaced(made_report(), " of a name that goes on and on" * 5 + "without_a_break" * 20)
    long["most_different"][0]["text"] = "word " * 600
    return long


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("made", [made_report, long_report])
def test_a_page_is_accessible_and_fits_a_phone(browser, outputs, tmp_path, made, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    report, by_model = made(), outputs.outputs
    names = dict(zip(report["models"], by_model.values(), strict=True))
    write_page(report, ModelOutputs(outputs.prompts, names), tmp_path / "page.html")
    for width in (360, 1200):
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
        )
        page = context.new_page()
        page.goto((tmp_path / "page.html").as_uri())
        page.get_by_text("All 20", exact=True).click()
        assert page.evaluate("() => document.documentElement.scrollWidth") == width
        found = axe.run(page).response["violations"]
        grave = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not [(each["id"], [node["html"] for node in each["nodes"]]) for each in grave]
        context.close()
