"""The phases of a judge that thinks, as a stage of a recipe; each only writes its files."""

import pytest

from unified_reward.judges.card import Card
from unified_reward.recipes import stages
from unified_reward.recipes.run import run
from unified_reward.recipes.stage import Recipe
from unified_reward.train.grpo_vlm import VLMGRPO
from unified_reward.train.optim import OptimConfig
from unified_reward.train.think import ThinkTraining
from unified_reward.train.verdict_rewards import VerdictReward


OPTIM = OptimConfig(steps=1, batch_size=4, accumulate=1)
GRPO = VLMGRPO(OptimConfig(steps=1, batch_size=4, accumulate=1), group=2, max_new_tokens=64)


@pytest.fixture
def phases(monkeypatch, tmp_path):
    """Base and last argument of each phase that ran."""
    ran = []

    def train(training, out):
        ran.append((training.base, out.name))
        out.mkdir(parents=True, exist_ok=True)
        Card("compact-think").write(out)
        return [(1, 0.5)]

    def sift(folder, config, out):
        ran.append((folder, out.name))
        for name in ("kept", "wrong"):
            (out / f"{name}.jsonl").write_text(name)
        return {"tokens": 52.0}

    def learn(folder, data, config, reward, out, log):
        ran.append((folder, data.name))
        (out / "policy").mkdir(parents=True)
        Card("compact-think").write(out / "policy")
        return {}

    def examine(folder, examples, answers, **_):
        ran.append((folder, "exam"))
        answers.write_text("")
        return {"accuracy": {"value": 0.5}}

    monkeypatch.setattr(stages, "train_judge", train)
    monkeypatch.setattr(stages, "sift_answers", sift)
    monkeypatch.setattr(stages, "learn_from_verdicts", learn)
    monkeypatch.setattr(stages, "examine_answers", examine)
    monkeypatch.setattr(stages, "read_comparisons", lambda path: [])
    for name in ("base", "chains", "data", "exam"):
        (tmp_path / name).write_text(name)
    return ran


def thinking(folder, reward, **options):
    files = {name: str(folder / name) for name in ("base", "data", "exam")}
    return ThinkTraining(
        rejection=OPTIM, grpo=GRPO, reward=reward, family="compact-think", **files, **options
    )


def test_each_phase_goes_on_from_the_one_before_and_is_done_once(phases, tmp_path):
    chains = {"cold_start": OPTIM, "chains": str(tmp_path / "chains")}
    config = thinking(tmp_path, VerdictReward(cap=64, margin=0), **chains)
    out = tmp_path / "run"
    report = run(Recipe(out, {"think": config}))
    start, learned = str(out / "think" / "cold_start"), str(out / "think" / "rejection")
    assert phases == [
        (config.base, "cold_start"),
        (start, "answers"),
        (start, "rejection"),
        (learned, "wrong.jsonl"),
        *((judge, "exam") for judge in (start, learned, str(out / "think" / "grpo" / "policy"))),
    ]
    assert report["think.grpo.accuracy"] == {"value": 0.5}
    phases.clear()
    run(Recipe(out, {"think": config}))
    assert phases == []


def test_a_base_that_reasons_needs_no_cold_start(phases, tmp_path):
    config = thinking(tmp_path, VerdictReward(cap=64, margin=0))
    run(Recipe(tmp_path / "run", {"think": config}))
    assert phases[0] == (config.base, "answers")


@pytest.mark.parametrize(("margin", "n_lines"), [(13, 1), (12, 0)])
def test_a_penalty_that_begins_below_the_mean_length_is_reported(phases, tmp_path, margin, n_lines):
    """Answers have 52 tokens in the mean; of 64, the penalty begins at 51 or at 52."""
    lines = []
    config = thinking(tmp_path, VerdictReward(cap=64, margin=margin))
    run(Recipe(tmp_path / "run", {"think": config}), lines.append)
    found = [line for line in lines if "those above 51 are penalised" in line]
    assert len(found) == n_lines
