"""GRPO and DiffusionNFT of tiny pipelines, with rewards from functions and judges."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.diffusion import PIPELINES
from tests.unified_reward.train.rewarded import (
    KilledError,
    brightness,
    config,
    pictures,
    train,
    written,
)
from unified_reward import open_judge, policies
from unified_reward.core.errors import ConfigError, ModelError, ServerError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.verdicts import Failed
from unified_reward.policies import write_defaults
from unified_reward.train import group_sampler, policy_updates
from unified_reward.train.grpo_config import NFTOptions


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    return written(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


@pytest.mark.parametrize("rule", ["ddim", "cps"])
@pytest.mark.parametrize("ratio", ["plain", "guarded"])
def test_the_ratio_is_one_before_the_first_update(source, prompts, tmp_path, rule, ratio):
    report, log = train(source, prompts, tmp_path, config(2, rule=rule, ratio=ratio, beta=0.01))
    assert report["deviation"] == [0, 0]
    assert report["clipped"] == [0, 0]
    assert report["kl"][0] == 0 < report["kl"][1]
    assert report["norm_ratio"][0] == 1 != report["norm_ratio"][1]
    assert min(report["spread"]) > 0 < min(report["diversity"])
    assert not log


def test_a_second_update_on_the_same_samples_has_another_ratio(source, prompts, tmp_path):
    report, _ = train(source, prompts, tmp_path, config(1, updates=2, clip=1e-6))
    assert report["deviation"][0] > 0
    assert 0 < report["clipped"][0] <= 1


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
@pytest.mark.parametrize(
    "name", ["StableDiffusionXLPipeline", "FluxPipeline", "QwenImagePipeline", "WanPipeline 2.2"]
)
def test_every_kind_of_pipeline_starts_as_its_reference(name, algorithm, tmp_path):
    tiny = PIPELINES[name]
    tiny.build().save_pretrained(tmp_path / "source", safe_serialization=True)
    write_defaults(replace(tiny.sampling, steps=3), tmp_path / "source")
    task = "video_generation" if "Wan" in name else "image_generation"
    path = written(tmp_path / "prompts.jsonl", ["a red star"], task)
    options = config(1, group=3, prompts_per_step=1, window=1, algorithm=algorithm)
    report, _ = train(tmp_path / "source", path, tmp_path / "out", options)
    assert report["norm_ratio"] == [pytest.approx(1, abs=1e-6)]
    assert report["deviation"] == [pytest.approx(0, abs=1e-9)]
    assert report["failed_groups"] == report["constant_groups"] == [0]
    assert policies.load(tmp_path / "out" / "policy", device="cpu").tasks == (task,)


def test_the_reward_rises(source, prompts, tmp_path):
    options = config(8, optim={"lr": 3e-2, "batch_size": 8}, group=8, held_out=1, held_out_every=4)
    report, _ = train(source, prompts, tmp_path, options)
    assert np.mean(report["reward"][4:]) > report["reward"][0] + 5e-3
    steps, rewards = zip(*report["held_out"], strict=True)
    assert steps == (0, 4, 8)
    assert rewards[-1] > rewards[0] + 5e-3


def darkness(samples):
    return [-value for value in brightness(samples)]


@pytest.mark.parametrize("reward", [brightness, darkness])
def test_nft_of_a_trained_pipeline_raises_the_reward_of_prompts_held_out(prompts, tmp_path, reward):
    """The old policy must be a denoiser of what it samples, which random weights are not."""
    options = config(
        4,
        optim={"batch_size": 8, "lr": 1e-2},
        algorithm="nft",
        group=8,
        prompts_per_step=1,
        held_out=1,
        held_out_every=4,
        nft=NFTOptions(draws=2),
    )
    report, _ = train(checkpoint_path("tiny_image"), prompts, tmp_path, options, reward)
    (_, before), (_, after) = report["held_out"]
    assert after > before + 3e-3
    assert report["clipped"] == [None] * 4


def test_what_is_written_samples_as_the_trained_policy(source, prompts, tmp_path):
    train(source, prompts, tmp_path, config(2, samples_every=2))
    assert load_file(tmp_path / "adapter" / "pytorch_lora_weights.safetensors")
    assert (tmp_path / "samples" / "step-000002.png").is_file()
    plain, trained = (
        policies.load(folder, device="cpu") for folder in (source, tmp_path / "policy")
    )
    assert trained.options == plain.options
    adapted = policies.load(source, device="cpu")
    adapted.pipeline.load_lora_weights(tmp_path / "adapter")
    images = [
        np.asarray(each.sample("a red star", (), [1])[0].source, int)
        for each in (plain, trained, adapted)
    ]
    assert np.abs(images[1] - images[0]).max() > 0
    assert np.abs(images[1] - images[2]).max() <= 1


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_a_killed_run_ends_as_if_it_had_not_been(source, prompts, tmp_path, algorithm):
    options = config(
        5,
        optim={"save_every": 2},
        algorithm=algorithm,
        prompts_per_step=1,
        held_out=1,
        held_out_every=2,
        updates=2,
        ema_decay=0.5,
    )
    whole_out = tmp_path / "whole"
    whole, _ = train(source, prompts, whole_out, options)
    calls = []

    def killed(samples):
        calls.append(1)
        if len(calls) == 6:  # the held-out prompt is scored before steps 1 and 3
            raise KilledError
        return brightness(samples)

    out = tmp_path / "killed"
    with pytest.raises(KilledError):
        train(source, prompts, out, options, killed)
    assert [file.name for file in (out / "checkpoints").glob("state-*")] == ["state-000002.pt"]
    rows = [(folder / "history.jsonl").read_text().splitlines() for folder in (out, whole_out)]
    assert rows[0] == rows[1][:4], "a row as soon as a step is done"
    again, _ = train(source, prompts, out, options)
    assert again == whole
    assert (out / "history.jsonl").read_text().splitlines() == rows[1]
    name = "policy/unet/diffusion_pytorch_model.safetensors"
    weights, others = load_file(out / name), load_file(whole_out / name)
    assert all(torch.equal(weights[key], others[key]) for key in others)


def test_the_seed_decides_the_run(source, prompts, tmp_path):
    runs = {}
    for name, seed in (("a", 0), ("same", 0), ("other", 1)):
        torch.manual_seed(len(runs))
        runs[name] = train(source, prompts, tmp_path / name, config(1, optim={"seed": seed}))[0]
    assert runs["a"] == runs["same"] != runs["other"]


def test_batches_of_a_group_count_as_a_large_batch(source, prompts, tmp_path):
    reports = [
        train(
            source,
            prompts,
            tmp_path / str(n),
            config(2, optim={"batch_size": n}, prompts_per_step=1),
        )[0]
        for n in (4, 3, 1)
    ]
    for report in reports[1:]:
        for name in ("reward", "norm_ratio", "kl"):
            assert report[name] == pytest.approx(reports[0][name], rel=1e-3)


@pytest.mark.parametrize("algorithm", ["grpo", "nft"])
def test_failures_leave_their_group_and_constant_groups_are_skipped(
    source, prompts, tmp_path, algorithm
):
    """Two of four samples of a prompt fail; another prompt has equal rewards, others none."""

    def reward(samples):
        values = []
        for i, (sample, value) in enumerate(zip(samples, brightness(samples), strict=True)):
            known = {"p0": None if i % 2 else value, "p1": 0.5, "p2": value}
            values.append(known.get(sample.id))
        return values

    options = config(1, prompts_per_step=5, algorithm=algorithm)
    report, log = train(source, prompts, tmp_path, options, reward)
    assert report["failed"] == [2 + 4 + 4]
    assert report["failed_groups"] == [2]
    assert report["constant_groups"] == [1]
    assert report["losses"][0][1] is not None
    assert "step 1: the group of 'p1' has equal rewards" in log
    assert any("'p3' lacks 4 rewards: reward: no reward" in line for line in log)


def test_a_step_of_equal_rewards_changes_nothing(source, prompts, tmp_path):
    report, _ = train(source, prompts, tmp_path, config(2), lambda samples: [1.0] * len(samples))
    assert report["losses"] == [[1, None], [2, None]]
    assert report["constant_groups"] == [2, 2]
    assert report["reward"] == [1.0, 1.0]
    name = "unet/diffusion_pytorch_model.safetensors"
    before, after = load_file(source / name), load_file(tmp_path / "policy" / name)
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_prompt_that_the_pipeline_refuses_is_left_out_of_groups_and_sheets(source, tmp_path):
    refused = written(tmp_path / "prompts.jsonl", ["<|endoftext|> a", "a star"])
    report, log = train(source, refused, tmp_path / "out", config(1, samples_every=1))
    assert report["failed_groups"] == [1]
    assert "'p0' is left out: the prompt spells <|endoftext|>" in log[0]
    assert (tmp_path / "out" / "samples" / "step-000001.png").is_file()


def test_a_pipeline_that_breaks_while_it_is_measured_names_the_last_state(
    source, prompts, tmp_path, monkeypatch
):
    def broken(sampler, _):
        raise RuntimeError("values that are not finite")

    monkeypatch.setattr(group_sampler.GroupSampler, "sample_held_out", broken)
    with pytest.raises(ModelError, match="after step 0 failed: values that"):
        train(source, prompts, tmp_path, config(1, held_out=1))


def test_a_run_without_any_reward_stops(source, prompts, tmp_path):
    with pytest.raises(ModelError, match="no group got rewards in steps 1 to 3"):
        train(source, prompts, tmp_path, config(9), lambda samples: [None] * len(samples))


def test_a_loss_that_is_not_finite_stops_with_the_last_good_state(
    source, prompts, tmp_path, monkeypatch
):
    loss, calls = policy_updates.policy_loss, []

    def broken(*given):
        calls.append(1)
        terms = loss(*given)
        return terms._replace(loss=terms.loss * float("nan")) if len(calls) > 8 else terms

    monkeypatch.setattr(policy_updates, "policy_loss", broken)
    with pytest.raises(ModelError, match="loss or gradient of step 3 is not finite") as caught:
        train(source, prompts, tmp_path, config(4, optim={"save_every": 1}, ema_decay=0.9))
    (state,) = (tmp_path / "checkpoints").glob("state-*.pt")
    assert state.name == "state-000002.pt"
    assert str(state) in str(caught.value)
    weights = torch.load(state, weights_only=True)["weights"]
    assert all(each.isfinite().all() for each in weights.values())


class Server:
    """A scripted judge whose server is down for some calls."""

    def __init__(self, judge, down):
        self.judge, self.down, self.calls = judge, down, 0

    def __call__(self, samples, **_):
        self.calls += 1
        if self.calls in self.down:
            return [Failed.from_error(ServerError("no answer"))] * len(samples)
        return type(self.judge).ask(self.judge, samples)


def test_a_server_that_is_down_is_waited_for_and_then_ends_a_run_that_resumes(
    source, prompts, tmp_path, monkeypatch
):
    waits = []
    clock = SimpleNamespace(monotonic=lambda: sum(waits), sleep=waits.append)
    monkeypatch.setattr("unified_reward.train.reward_sources.time", clock)
    judge = open_judge("scripted:first")
    judge.ask = Server(judge, range(2, 4))
    options = config(3, patience_s=3.5)
    train(source, prompts, tmp_path / "short", options, judge)
    assert waits == [1.0, 2.0]
    judge = open_judge("scripted:first")
    judge.ask = Server(judge, range(2, 99))
    with pytest.raises(ServerError, match=r"no answer; resume from .*state-000001.pt"):
        train(source, prompts, tmp_path / "long", options, judge)
    assert waits == [1.0, 2.0, 1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompts_per_step": 5, "held_out": 1}, "there are 4 prompts beside the 1"),
        ({"window": 4}, "a window of 4 steps does not lie in 0 to 3 of 4"),
        ({"window_range": (2, 3)}, "of which the last is never stochastic"),
        ({"weights": (1.0, 2.0)}, "2 weights for 1 rewards"),
    ],
)
def test_options_that_do_not_fit_are_refused(source, prompts, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        train(source, prompts, tmp_path, config(**options))


@pytest.mark.parametrize(
    "options",
    [{"group": 1}, {"clip": 0.0}, {"strength": 0.0}, {"optim": {"lora_rank": 0}}],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        config(**options)


def test_the_window_is_shared_by_the_groups_of_a_step_and_moves(
    source, prompts, tmp_path, monkeypatch
):
    seen = []
    sample = group_sampler.StochasticSampler.sample

    def spied(self, prompt, context, seeds, window):
        seen.append(tuple(window))
        return sample(self, prompt, context, seeds, window)

    monkeypatch.setattr(group_sampler.StochasticSampler, "sample", spied)
    options = replace(config(6), window=1, window_range=(0, 2))
    train(source, prompts, tmp_path, options)
    assert seen[::2] == seen[1::2]
    assert {(0,), (1,)} <= set(seen) <= {(0,), (1,), (2,)}
