"""Direct reward gradients through the last step (DRaFT-1, arXiv:2309.17400) of tiny pipelines."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.diffusion import PIPELINES
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.test_recorded import policy_of
from tests.unified_reward.scorers import twins
from unified_reward import open_judge
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.verdicts import Failed
from unified_reward.policies import Denoising, write_defaults
from unified_reward.policies.last_step import LastStepSampler
from unified_reward.policies.observation import networks
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.grpo_diffusion import train_pipeline
from unified_reward.train.optim import OptimConfig


PROMPTS = ("a red star", "two blue discs", "a green square")
CAPTION = PROMPTS[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random pipeline, three prompts and the twins of two scorers."""
    folder = tmp_path_factory.mktemp("draft")
    pipelines.pictures(folder / "policy")
    sampling = Denoising(steps=3, guidance=2.0, height=16, width=16)
    write_defaults(sampling, folder / "policy")
    rows = [
        {"id": f"p{i}", "task": "image_generation", "prompt": text}
        for i, text in enumerate(PROMPTS)
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    for name in ("aesthetic-v2", "hpsv2.1"):
        (folder / name).mkdir()
        twins.MAKERS[name](folder / name)
    return folder


def scorer(folder, name="aesthetic-v2", dtype="float32"):
    return open_judge(f"{name}:{folder / name}", device="cpu", dtype=dtype)


def train(folder, out, rewards, *, steps=2, policy=None, optim=None, **options):
    optim = {"batch_size": 2, "accumulate": 1, "lora_rank": 4, "warmup": 0.0, **(optim or {})}
    settings = {"algorithm": "draft", "group": 2, "prompts_per_step": 2, **options}
    config = DiffusionGRPO(OptimConfig(steps, **optim), **settings)
    log = []
    policy = policy or folder / "policy"
    report = train_pipeline(policy, folder / "prompts.jsonl", rewards, config, out, log.append)
    return report, log


@pytest.mark.parametrize(
    "name",
    [
        *("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline"),
        "FluxPipeline",
    ],
)
def test_the_gradient_through_scorer_decoder_and_step_agrees_with_differences(name, folder):
    """Along the gradient of a network's weights, in float64."""
    policy, judge = policy_of(name), scorer(folder, dtype="float64")
    policy.pipeline.to(dtype=torch.float64)
    rollout, parts = LastStepSampler(policy).sample(CAPTION, (), [1, 2]), networks(policy.pipeline)
    (part,) = parts.values()
    weight = [*part.parameters()][-2]

    def reward():
        latents = rollout.last.latents(rollout.last.prediction(parts))
        return judge.score_tensors(rollout.decoder.pixels(latents), [CAPTION] * 2).sum()

    (gradient,) = torch.autograd.grad(reward(), weight)
    step = 1e-5 * gradient / gradient.norm()
    ends = []
    with torch.no_grad():
        for sign in (1, -2):
            weight += sign * step
            ends.append(float(reward()))
    slope = (ends[0] - ends[1]) / 2e-5
    assert slope == pytest.approx(float(gradient.norm()), rel=1e-3)


def test_single_samples_raise_the_reward_of_a_prompt_held_out(folder, tmp_path):
    """A group of one sample is enough, and what is trained is what the scorer reports."""
    report, log = train(
        folder,
        tmp_path,
        {"aesthetic": scorer(folder)},
        steps=4,
        group=1,
        held_out=1,
        optim={"lr": 3e-2},
    )
    (_, before), (_, after) = report["held_out"]
    assert after > before + 0.3
    losses = [loss for _, loss in report["losses"]]
    # The loss is of pixels before they are rounded to levels; of 4 that rewards differ by.
    assert losses == pytest.approx([-value for value in report["reward"]], abs=0.3)
    assert report["norm_ratio"][0] == 1 != report["norm_ratio"][-1]
    assert report["failed_groups"] == report["constant_groups"] == [0] * 4
    assert not log


def test_rewards_are_weighted_and_the_distance_to_the_reference_is_added(folder, tmp_path):
    rewards = {name: scorer(folder, name) for name in ("aesthetic-v2", "hpsv2.1")}
    report, _ = train(folder, tmp_path, rewards, weights=(0.1, -2.0), beta=1e4, optim={"lr": 1e-2})
    assert report["kl"][0] == 0 < report["kl"][1]
    for (_, loss), distance, reward in zip(
        report["losses"], report["kl"], report["reward"], strict=True
    ):
        assert loss + reward == pytest.approx(1e4 * distance, abs=0.02)


def test_samples_without_a_reward_are_left_out_and_counted(folder, tmp_path, monkeypatch):
    judge = scorer(folder)
    ask = judge.ask

    def failing(samples, **options):
        verdicts = ask(samples, **options)
        return [
            Failed("broken") if sample.id == "p0" or (i % 2 and len(samples) > 1) else verdict
            for i, (sample, verdict) in enumerate(zip(samples, verdicts, strict=True))
        ]

    monkeypatch.setattr(judge, "ask", failing)
    report, log = train(folder, tmp_path, {"reward": judge}, steps=1, prompts_per_step=3)
    assert report["failed"] == [2 + 1 + 1]
    assert report["failed_groups"] == [1]
    assert report["losses"][0][1] == pytest.approx(-report["reward"][0], abs=0.1)
    assert any("broken" in line for line in log)


def test_gradient_checkpointing_changes_nothing(folder, tmp_path):
    reports = [
        train(
            folder,
            tmp_path / str(saves),
            {"aesthetic": scorer(folder)},
            prompts_per_step=1,
            optim={"lr": 1e-2, "gradient_checkpointing": saves},
        )[0]
        for saves in (False, True)
    ]
    assert reports[1]["losses"][1] == pytest.approx(reports[0]["losses"][1], rel=1e-4)


@pytest.mark.parametrize("name", ["scripted:first", "function"])
def test_a_reward_without_gradients_is_refused_by_those_that_have(name, folder, tmp_path):
    rewards = {
        "aesthetic": scorer(folder),
        name: open_judge(name) if ":" in name else lambda samples: [0.0] * len(samples),
    }
    with pytest.raises(ConfigError, match=rf"{name} has none; scores of pickscore, .*hpsv3 have"):
        train(folder, tmp_path, rewards)


def test_a_pipeline_without_gradients_is_refused(folder, tmp_path):
    tiny = PIPELINES["PixArtSigmaPipeline"]
    tiny.build().save_pretrained(tmp_path / "policy", safe_serialization=True)
    write_defaults(tiny.sampling, tmp_path / "policy")
    rewards = {"aesthetic": scorer(folder)}
    with pytest.raises(ModelError, match="no gradients of its last step: a sample is"):
        train(folder, tmp_path / "out", rewards, policy=tmp_path / "policy")


def test_a_scorer_whose_tensors_score_otherwise_is_refused(folder, tmp_path, monkeypatch):
    judge = scorer(folder)
    monkeypatch.setattr(type(judge), "fit_tensor", lambda *_: torch.zeros(1, 3, 224, 224))
    with pytest.raises(ModelError, match="prepares tensors of 16 x 16 pixels in another way"):
        train(folder, tmp_path, {"aesthetic": judge})


class KilledError(Exception):
    """Stands for the end of a process."""


def test_a_killed_run_ends_as_if_it_had_not_been(folder, tmp_path, monkeypatch):
    options = {"steps": 2, "optim": {"save_every": 1}, "updates": 2}
    judge = scorer(folder)
    whole, _ = train(folder, tmp_path / "whole", {"reward": judge}, **options)
    ask, calls = judge.ask, []

    def killed(samples, **given):
        calls.append(1)
        if len(calls) == 3:  # after a step and the proof of its tensors
            raise KilledError
        return ask(samples, **given)

    monkeypatch.setattr(judge, "ask", killed)
    with pytest.raises(KilledError):
        train(folder, tmp_path / "killed", {"reward": judge}, **options)
    assert [*(tmp_path / "killed" / "checkpoints").glob("state-*")]
    again, _ = train(folder, tmp_path / "killed", {"reward": judge}, **options)
    assert again == whole
    name = Path("policy", "unet", "diffusion_pytorch_model.safetensors")
    weights, others = load_file(tmp_path / "killed" / name), load_file(tmp_path / "whole" / name)
    assert all(np.array_equal(weights[key], others[key]) for key in others)
