from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.judges.registry import open_judge
from unified_reward_lab.alignment import ExamConfig
from unified_reward_lab.experiments.reinforcement import ReinforcementStudy, trainings
from unified_reward_lab.experiments.reinforcement_arms import ARMS, PARTS, Pairs
from unified_reward_lab.experiments.reinforcement_clip import ClipTraining, train_clip
from unified_reward_lab.experiments.reinforcement_page import page, plot
from unified_reward_lab.experiments.reinforcement_report import build_report, lead, mean_curve
from unified_reward_lab.experiments.reinforcement_rewards import (
    WatchedReward,
    counted_calls,
    fails,
    oracle_score,
    replace_failed,
)
from unified_reward_lab.microworld import policy_prompt


def _samples(n: int, prompt: str = "p") -> list[Sample]:
    rng = np.random.default_rng(0)
    return [
        Sample(
            Task.IMAGE_GENERATION,
            prompt,
            (Image(rng.integers(256, size=(8, 8, 3), dtype=np.uint8), "HWC"),),
            id=prompt,
        )
        for _ in range(n)
    ]


def test_each_training_is_listed_once_and_first_seeds_come_first() -> None:
    listed = [(arm.name, seed) for arm, seed in trainings(("algorithms", "failures"))]
    assert len(listed) == len(set(listed)) == 28
    assert [seed for _, seed in listed[:8]] == [0] * 4 + [1] * 4


def test_every_arm_answers_a_question() -> None:
    assert {name for names in PARTS.values() for name in names} == ARMS.keys()


def test_unknown_question_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithms"):
        ReinforcementStudy(parts=("speed",))


def test_equal_judge_calls_are_equal() -> None:
    method, pairs = ARMS["grpo"].method, ARMS["dpo-equal-judge"].method
    assert isinstance(pairs, Pairs)
    assert not isinstance(method, Pairs)
    assert pairs.questions == method.optim.steps * method.group * method.prompts_per_step


@pytest.mark.parametrize(
    ("handling", "expected"),
    [
        ("left_out", [None, 2.0, 4.0, None]),
        ("zero", [0.0, 2.0, 4.0, 0.0]),
        # The last group has no reward that a mean could be taken of.
        ("group_mean", [3.0, 2.0, 4.0, None]),
    ],
)
def test_failed_reward_is_replaced_within_its_group(
    handling: Any, expected: Sequence[float | None]
) -> None:
    values = [1.0, 2.0, 4.0, 5.0]
    assert replace_failed("aaab", values, [True, False, False, True], handling) == expected


def test_failures_are_decided_by_the_sample_at_the_given_rate() -> None:
    samples = _samples(2000)
    failed = [fails(sample, 0.05) for sample in samples]
    assert failed == [fails(sample, 0.05) for sample in samples]
    # 100 expected with a standard deviation of 9.7.
    assert 60 < sum(failed) < 140
    assert not any(fails(sample, 0.0) for sample in samples)


def test_watched_reward_tells_held_out_calls_by_their_prompts() -> None:
    prompts = [
        policy_prompt(Task.IMAGE_GENERATION, split="train", seed=0, index=i) for i in range(3)
    ]
    blank = Image(np.zeros((64, 64, 3), np.uint8), "HWC")
    samples = [Sample(p.task, p.prompt, (blank,), id=p.id) for p in prompts]
    judge = open_judge("scripted:first")
    reward = WatchedReward(judge, judge, groups=2)
    assert reward(samples[:2]) == reward(samples[:2])
    reward(samples)
    assert [row["held_out"] for row in reward.curve] == [False, False, True]
    assert reward.questions == 7
    assert [oracle_score(sample) for sample in samples] == [p.oracle_score(blank) for p in prompts]


def test_network_calls_are_samples_and_a_backward_pass_is_two() -> None:
    network: Any = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
    )
    given = torch.zeros(3, 4, 4, 4), 0, torch.zeros(3, 1, 8)
    with counted_calls() as calls:
        with torch.no_grad():
            network(*given)
        network(*given)
    network(*given)
    assert (calls.forward, calls.trained, calls.total) == (6, 3, 12)


def _exam(oracle: Sequence[float | None], curve: Sequence[Any] = ()) -> dict[str, Any]:
    rewards = {name: [float(i) for i in range(len(oracle))] for name in ("unified", "scalar")}
    costs = {"questions": 8, "seconds": 1.0, "failures": 0, "network": {"total": 30}}
    return {"oracle": [*oracle], "rewards": rewards, "curve": [*curve], **costs}


def test_lead_is_over_the_seeds_that_both_have() -> None:
    one, other = [_exam([1.0, None]), _exam([0.0, 0.0])], [_exam([0.5, 0.5])]
    figure = lead(one, other, "ab")["oracle"]
    assert (figure["value"], figure["n"]) == (0.0, 2)


def test_gain_is_the_sum_of_its_parts() -> None:
    before = {"image_generation": _exam([0.5, None, 1.0, 0.25])}
    after = [_exam([1.0, 0.5, None, None]), _exam([None, 1.0, 0.5, 0.25])]
    arm = build_report(before, {"nft": after}, ExamConfig(n=4))["arms"]["nft"]
    parts = ("became_right", "became_readable", "became_unreadable")
    assert arm["gain"]["value"] == pytest.approx(sum(arm[part]["value"] for part in parts))
    assert arm["became_readable"]["value"] == pytest.approx((0.5 + 1.0) / 8)


def test_agreement_counts_unreadable_samples_as_zero() -> None:
    before = {"image_generation": _exam([None, 0.25, 1.0])}
    report = build_report(before, {}, ExamConfig(n=3))
    assert report["before"]["image_generation"]["agreement"]["unified"] == 1.0


def _row(held_out: bool, value: float) -> dict[str, Any]:
    figures = dict.fromkeys(("reward", "second", "oracle", "readable"), value)
    return {"held_out": held_out, **figures}


def test_curve_is_by_the_steps_before_each_measurement() -> None:
    rows = [_row(True, 0.0), _row(False, 9.0), _row(False, 9.0), _row(True, 1.0)]
    curve = mean_curve([rows, [{**row, "oracle": 3.0} for row in rows]])
    assert [row["step"] for row in curve] == [0, 2]
    assert [row["oracle"] for row in curve] == [1.5, 2.0]
    # Standard error of two values: half their difference.
    assert [row["oracle_se"] for row in curve] == [1.5, 1.0]


def test_page_and_plot_show_arms_curves_and_contrasts() -> None:
    curve = [_row(True, 0.0), _row(False, 9.0), _row(True, 1.0)]
    before = {"image_generation": _exam([None, 0.5])}
    done = {name: [_exam([1.0, 0.5], curve)] for name in ("long-one", "long-two")}
    report = build_report(before, done, ExamConfig(n=2))
    text = page(report)
    assert "| long-one - long-two | 0.000 (0.000 to 0.000) | 0.000 (0.000 to 0.000) |" in text
    assert "| long-two | oracle | 0.000 | 1.000 |" in text
    assert plot(report).startswith(b"\x89PNG")


def test_tiny_clip_opens_as_a_published_scorer(tmp_path: Any) -> None:
    config = ClipTraining(steps=2, batch_size=2, width=8, layers=(1, 1))
    assert len(train_clip(config, tmp_path)) == 2
    (verdict,) = open_judge(f"clip-cosine:{tmp_path}").ask(_samples(1, "a red circle"))
    assert -1 <= verdict.score.value <= 1  # type: ignore[union-attr]
