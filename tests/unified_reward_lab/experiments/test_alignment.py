"""Gains by hand, and a study of two policies that is done once and reported twice."""

import io
import json
from dataclasses import replace

import PIL.Image
import pytest

from unified_reward.bench.metrics import mean_interval
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Task
from unified_reward.pairs.strategies import Strategy
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import AlignedPolicy, ExamConfig, PreferenceConfig
from unified_reward_lab.bench.oracle import PolicyExam
from unified_reward_lab.experiments import alignment as experiment
from unified_reward_lab.experiments.alignment import (
    STRATEGIES,
    AlignmentStudy,
    _compare,
    _gain,
    arms,
    run,
)
from unified_reward_lab.experiments.alignment_page import page, plot


SPEAKING, DRAWING = Task.IMAGE_UNDERSTANDING, Task.IMAGE_GENERATION
OPTIM = OptimConfig(steps=1, batch_size=2, accumulate=1, lr=1e-3, lora_rank=2)
FIGURE = {"value", "ci95", "n"}


def study_in(work, **changes):
    given = {
        "policies": {
            SPEAKING: AlignedPolicy("tiny_vlm", vlm=VLMDPO(OPTIM)),
            DRAWING: AlignedPolicy("tiny_image", diffusion=DiffusionDPO(OPTIM)),
        },
        "judges": {"one task": "scripted:first", "joint": "tiny_judge"},
        "preferences": PreferenceConfig(prompts=4, n=3),
        "exam": ExamConfig(n=4, seed=3),
        "seeds": (0,),
    }
    return AlignmentStudy(work, **(given | changes))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    work = tmp_path_factory.mktemp("study")
    return study_in(work, judges={"one task": "tiny_judge"}, voted="tiny_scalar")


@pytest.fixture(scope="module")
def report(study):
    results = []
    made = run(study, results.append)
    assert sum(results) == study.total
    return made


def rows(file):
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


PROMPTS = ("a", "b", "c", "d", "e")
BEFORE = PolicyExam((0.5, None, 1.0, None, 0.25), (0.5,) * 5, PROMPTS)
AFTER = PolicyExam((1.0, 0.75, None, None, 0.0), (0.75, None, 0.5, None, 1.0), PROMPTS)
GAINS = [0.5, 0.75, -1.0, 0.0, -0.25]


def test_a_gain_counts_what_cannot_be_read_as_nothing():
    gain = _gain([BEFORE], [AFTER])
    assert gain.value == pytest.approx(0.0)
    assert gain.ci95 == mean_interval(GAINS, PROMPTS)
    assert gain.n == 5


def test_the_parts_of_a_gain_are_a_sum():
    """Right: 0.5 and -0.25. Readable: 0.75. Unreadable: -1. Each over all five prompts."""
    results = _compare(BEFORE, [AFTER])
    parts = {name: entry["value"] for name, entry in results["parts"].items()}
    assert parts == pytest.approx(
        {"became_right": 0.25 / 5, "became_readable": 0.75 / 5, "became_unreadable": -1 / 5}
    )
    assert sum(parts.values()) == pytest.approx(results["gain"]["value"])


def test_what_was_bad_and_becomes_unreadable_costs_nothing():
    zero = PolicyExam((0.0, None), (None, None), ("a", "b"))
    swapped = PolicyExam((None, 0.0), (None, None), ("a", "b"))
    results = _compare(zero, [swapped])
    assert {entry["value"] for entry in results["parts"].values()} == {0.0}
    assert results["after"]["readable"]["value"] == 0.5


def test_seeds_are_pooled_by_prompt():
    """One mean and one interval; a prompt's gains of all seeds are drawn together."""
    same = [BEFORE, BEFORE]
    gain = _gain(same, [AFTER, BEFORE])
    assert gain.value == pytest.approx(sum(GAINS) / 10)
    assert gain.ci95 == mean_interval([*GAINS, *[0.0] * 5], [*PROMPTS, *PROMPTS])
    assert gain.n == 10
    results = _compare(BEFORE, [AFTER, BEFORE])
    assert results["by_seed"] == pytest.approx([sum(GAINS) / 5, 0.0])
    assert results["after"]["oracle"]["n"] == 10
    assert results["after"]["oracle"]["value"] == pytest.approx(1.75 / 5)


def test_the_gap_closed_is_the_gain_by_what_was_lacking():
    """Before 0.5 of 1; a gain of 0.125 is a quarter of the rest."""
    before = PolicyExam((0.5, 0.5), (None, None), ("a", "b"))
    after = PolicyExam((0.75, 0.5), (None, None), ("a", "b"))
    assert _compare(before, [after])["gap_closed"] == pytest.approx(0.25)


def test_a_judge_that_read_nothing_has_no_mean_reward_and_the_page_says_so():
    silent = PolicyExam((1.0, 1.0), (None, None), ("a", "b"))
    entry = _compare(silent, [silent]) | {"pairs": [3]}
    assert entry["after"]["judge_reward"] == {"value": None, "ci95": [None, None], "n": 0}
    assert entry["gap_closed"] is None
    results = {
        "n": 2,
        "seed": 0,
        "seeds": [0],
        "preferences": {"prompts": 4, "n": 3},
        "tasks": {SPEAKING.value: entry},
    }
    row = next(line for line in page(results).splitlines() if line.startswith("| image_und"))
    assert row.endswith("| - | - |")
    assert "| +0.000 | - |" in row
    assert plot(results).startswith(b"\x89PNG")


def test_the_arms_are_one_a_task_and_the_ways_and_judges_of_image_generation(tmp_path):
    study = study_in(tmp_path, seeds=(0, 1))
    each = [entry.name for entry in arms(study) if entry.seed == 0]
    ways = [f"image_generation/0/shipped-{way.value}" for way in (STRATEGIES[-1], *STRATEGIES[:-1])]
    judges = [f"image_generation/0/{entry}-rank+sift" for entry in ("one task", "joint")]
    assert each == ["image_understanding/0/shipped-rank+sift", *ways, *judges]
    assert len({entry.name for entry in arms(study)}) == 2 * len(each)
    assert study.total == 2 + 2 * len(each)


@pytest.mark.slow
@pytest.mark.slow
def test_the_report_has_every_figure_of_every_policy(report):
    assert (report["n"], report["seed"], report["seeds"]) == (4, 3, [0])
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["tasks"]) == {SPEAKING.value, DRAWING.value}
    for entry in report["tasks"].values():
        for side in ("before", "after"):
            for name in ("oracle", "readable", "judge_reward"):
                assert set(entry[side][name]) == FIGURE
                assert entry[side][name]["n"] <= 4
        assert set(entry["gain"]) == FIGURE
        assert entry["by_seed"] == pytest.approx([entry["gain"]["value"]])
        gained = entry["after"]["oracle"]["value"] - entry["before"]["oracle"]["value"]
        assert entry["gain"]["value"] == pytest.approx(gained)
        parts = sum(part["value"] for part in entry["parts"].values())
        assert parts == pytest.approx(gained)
        assert len(entry["pairs"]) == 1


@pytest.mark.slow
def test_ways_and_judges_are_of_image_generation_and_the_best_is_not_behind_itself(report):
    assert list(report["ways"]) == [way.value for way in STRATEGIES]
    assert list(report["judges"]) == ["one task"]
    assert report["ways"]["rank+sift"]["behind_best"]["value"] == 0
    assert report["judges"]["one task"]["behind_best"]["value"] == 0
    assert report["ways"]["random"]["calls"] == 0
    assert report["ways"]["score"]["calls"] == 3


def test_the_strategies_that_are_compared_end_with_the_one_of_all_policies():
    strategies = (Strategy.ADAPTIVE, Strategy.RANK_AND_SIFT)
    study = AlignmentStudy(seeds=(0,), strategies=strategies)
    assert {arm.strategy for arm in arms(study)} == {*strategies}
    with pytest.raises(ConfigError, match=r"the last strategy to compare is rank\+sift"):
        AlignmentStudy(strategies=strategies[::-1])


@pytest.mark.slow
def test_pairs_of_a_judge_taught_by_votes_stand_beside_those_of_the_shipped_one(report):
    (groups,) = report["voted"].values()
    assert [*report["voted"]] == [DRAWING.value]
    assert [*groups] == ["shipped", "voted"]
    assert groups["shipped"]["gain"] == report["tasks"][DRAWING.value]["gain"]
    assert groups["shipped"]["gap_closed"] == report["tasks"][DRAWING.value]["gap_closed"]
    assert groups["voted"]["behind_best"]["value"] == 0
    assert "a judge trained on votes" in page(report)
    gain = report["tasks"][DRAWING.value]["gain"]["value"]
    assert report["ways"]["rank+sift"]["gain"]["value"] == pytest.approx(gain)
    for entry in report["ways"].values():
        assert entry["behind_best"]["value"] == pytest.approx(gain - entry["gain"]["value"])


@pytest.mark.slow
def test_all_ways_learn_from_equally_many_pairs(study, report):
    folder = study.work / DRAWING.value / "0"
    files = [folder / f"pairs-shipped-{way.value}.equal.jsonl" for way in STRATEGIES]
    counts = {len(rows(file)) for file in files}
    whole = [rows(file.with_name(file.name.replace(".equal", ""))) for file in files]
    kept = [sum(row["status"] == "kept" for row in each) for each in whole]
    assert counts == {min(kept)} == {*report["tasks"][DRAWING.value]["pairs"]}
    for way in STRATEGIES:
        results = json.loads((folder / f"shipped-{way.value}/exam-3-4.json").read_text())
        assert len(results["oracle_scores"]) == 4
    assert len({file.read_bytes() for file in files}) > 1


@pytest.mark.slow
def test_a_second_run_trains_and_examines_nothing_and_reports_the_same(study, report, monkeypatch):
    for name in ("align", "examine"):
        monkeypatch.setattr(experiment, name, lambda *_, **__: pytest.fail("it was done before"))
    results = []
    assert run(study, results.append) == report
    assert sum(results) == study.total


@pytest.mark.slow
@pytest.mark.slow
def test_a_lost_exam_is_taken_again_and_the_report_is_the_same(study, report):
    lost = study.work / SPEAKING.value / "before" / "exam-3-4.json"
    before = lost.read_bytes()
    lost.unlink()
    assert run(study) == report
    assert lost.read_bytes() == before


@pytest.mark.slow
def test_the_page_and_the_plot_show_every_task_way_and_judge(report):
    text = page(report)
    for name in (SPEAKING.value, DRAWING.value, *STRATEGIES, "one task", "4 held-out prompts"):
        assert name in text
    assert "| behind rank+sift |" in text
    assert "| behind one task |" in text
    assert PIL.Image.open(io.BytesIO(plot(report))).size[0] > 500


@pytest.mark.slow
def test_arms_of_other_options_are_not_taken_for_those_of_this_study(study, report):
    entry = study.policies[SPEAKING]
    bolder = replace(entry, vlm=replace(entry.vlm, beta=0.3))
    with pytest.raises(ConfigError, match="was started with different settings: vlm was"):
        run(replace(study, policies={SPEAKING: bolder}))
    with pytest.raises(ConfigError, match="examiner was 'tiny_judge' and is 'scripted:first'"):
        run(replace(study, judge="scripted:first"))


@pytest.mark.parametrize("wrong", [{"seeds": ()}, {"exam": ExamConfig(n=1)}])
def test_a_senseless_study_is_refused(tmp_path, wrong):
    with pytest.raises(ConfigError, match="at least one seed and two prompts"):
        study_in(tmp_path, **wrong)
