"""The study of a judge that thinks: its reasons, and its arms on phases that are stubbed."""

import json
from pathlib import Path

import pytest

from unified_reward.core.samples import Task
from unified_reward.data.example_file import mirrored
from unified_reward.judges.card import Card
from unified_reward.pairs.judge_answers import PairAnswer
from unified_reward.recipes import stages
from unified_reward_lab.experiments import think
from unified_reward_lab.experiments.think import ThinkStudy, page, run
from unified_reward_lab.microworld import make_example, true_utilities
from unified_reward_lab.microworld.reasons import reasons


def comparison(index):
    return make_example(Task.IMAGE_GENERATION, "compare", split="train", seed=2, index=index)


def test_reasons_speak_of_the_candidates_in_their_order():
    for example in map(comparison, range(5)):
        first, second = reasons(example.tags).split(". ")
        turned = (
            f"first: {second.removeprefix('second: ')}. second: {first.removeprefix('first: ')}"
        )
        assert reasons(mirrored(example).tags) == turned


def test_a_clean_candidate_without_a_false_fact_has_the_whole_utility():
    reasoned = [
        (text.partition(": ")[2], utility)
        for example in map(comparison, range(60))
        for text, utility in zip(
            reasons(example.tags).split(". "), true_utilities(example), strict=True
        )
    ]
    faultless = [text.endswith(" 0 no, clean") for text, _ in reasoned]
    assert faultless == [utility == 1 for _, utility in reasoned]
    assert 0 < sum(faultless) < len(faultless)


RIGHT = {
    "start": 1,
    "rejection": 2,
    "grpo": 4,
    "control": 3,
    "unselected": 3,
    "slow": 4,
    "unpenalised": 4,
}
"""Comparisons of four that each arm gets right in both orders; the others never agree."""


@pytest.fixture
def phases(monkeypatch):
    """Phases that only write their files; the names of those that ran."""
    ran = []

    def train(training, out):
        ran.append(out.name)
        out.mkdir(parents=True, exist_ok=True)
        Card("compact-think").write(out)
        return [(1, 0.5)]

    def sift(folder, config, out):
        ran.append(f"{out.parent.name} x {config.sifting.answers}")
        rows = Path(config.data).read_bytes()
        for name in ("kept", "wrong"):
            (out / f"{name}.jsonl").write_bytes(rows)
        return {"wrong": len(rows.splitlines())}

    def learn(folder, data, config, reward, out, log=None):
        train(None, out / "policy")
        return {"accuracy": [0.5]}

    def examine(folder, examples, answers, **options):
        arm = answers.parts[-2 if "think" in answers.parts else -3]
        ran.append(f"exam {arm}")
        text, n = f"<think>{examples[0].target.rationale}</think>", RIGHT[arm]
        rows = [
            PairAnswer(
                example.id, swapped, "tie", text, "tie" if i < RIGHT[arm] else "first", True, n
            )._asdict()
            for i, example in enumerate(examples)
            for swapped in (False, True)
        ]
        answers.parent.mkdir(parents=True, exist_ok=True)
        answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
        figure = {"value": RIGHT[arm] / 4, "ci95": [0.0, 1.0], "n": 8}
        return dict.fromkeys(think._FIGURES, figure) | {"n_failed": 0}

    for module in (stages, think):
        monkeypatch.setattr(module, "train_judge", train)
        monkeypatch.setattr(module, "sift_answers", sift)
        monkeypatch.setattr(module, "examine_answers", examine)
        monkeypatch.setattr(module, "learn_from_verdicts", learn)
    return ran


def test_arms_are_compared_on_the_same_comparisons_and_done_phases_are_not_repeated(
    phases, tmp_path
):
    study = ThinkStudy(tmp_path / "work", seeds=(0,), chains=2, comparisons=4, tests=4)
    report = run(study)
    assert phases[0] == "judge"  # the cold start
    # GRPO samples 80 x 64 answers, the control as many to both orders of 4 comparisons.
    assert phases[1:] == [
        *("think x 1", "rejection", "policy", "exam start", "exam rejection", "exam grpo"),
        *("control x 640", "judge", "exam control"),
        *("policy", "exam unselected", "policy", "exam slow", "policy"),
        "exam unpenalised",
    ]
    gains = {name: each["accuracy"]["value"] for name, each in report["contrasts"].items()}
    assert gains == {
        "rejection against start": 0.25,
        "grpo against rejection": 0.5,
        "grpo against control": 0.25,
        "control against rejection": 0.25,
        "unselected against grpo": -0.25,
        "unselected against rejection": 0.25,
        "unselected against control": 0,
        "slow against grpo": 0,
        "slow against rejection": 0.5,
        "unpenalised against slow": 0,
        "unpenalised against rejection": 0.5,
        "unpenalised against control": 0.25,
        "unpenalised against start": 0.75,
    }
    contrast = report["contrasts"]["grpo against rejection"]
    assert contrast["consistency"]["value"] == 0.5
    assert contrast["tokens"]["value"] == 2
    reasoning = report["seeds"]["0"]["arms"]["start"]
    assert reasoning["different"] == 1
    assert reasoning["true_reasons"]["value"] >= 1 / 8  # of the first comparison, as it is
    phases.clear()
    assert run(study) == report
    assert phases == []
    assert "| 0 | grpo | 1.000 (0.000 to 1.000) |" in page(report)
