"""Dry runs of reinforcement learning: sizes and calls beside those of a real run."""

from dataclasses import replace
from functools import wraps
from pathlib import Path

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from tests.unified_reward.train.rewarded import config, pictures, train, written
from unified_reward import policies
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.policies import Denoising
from unified_reward.policies.layouts import walk
from unified_reward.policies.recorded import StochasticSampler
from unified_reward.recipes.installed import find_recipe
from unified_reward.recipes.run import dry_run, load_recipe
from unified_reward.train.dry_run_grpo import dry_run_grpo
from unified_reward.train.grpo import PolicyGRPO
from unified_reward.train.grpo_config import NFTOptions


GIB = 2**30
JUDGE = "scripted:first"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("pictures"))


def rehearse(policy, prompts="prompts.jsonl", *, launch="", rewards=(JUDGE,), **options):
    return dry_run_grpo(
        PolicyGRPO(str(policy), Path(prompts), config(**options), rewards=tuple(rewards)), launch
    )


def gib(n_bytes, **tolerance):
    return pytest.approx(n_bytes / GIB, **({"abs": 5e-4} | tolerance))


def test_recorded_memory_is_that_of_a_rollout(source, monkeypatch):
    """Every tensor counts once, however many steps share it; scalars are left out.

    Without a tokenizer prompts have CLIP's 77 tokens, of width 16, here 32; twice, with guidance.
    """
    policy = policies.load(source, device="cpu", dtype="float32")
    rollout = StochasticSampler(policy).sample("a red star", [], range(4), range(2))
    kept = [(step.step.__dict__, [call.arguments for call in step.calls]) for step in rollout.steps]
    tensors = [v for _, v in walk([kept, rollout.latents]) if isinstance(v, torch.Tensor)]
    sizes = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if tensor.ndim > 1}
    monkeypatch.setattr("unified_reward.train.dry_run_grpo._GIB", 1)
    found = rehearse(source, prompts_per_step=3, group=4).rollout_gib
    longer = 12 * 2 * (77 - 32) * 16 * 4
    assert found["recorded"] == pytest.approx(3 * sum(sizes.values()) + longer, rel=1e-3)
    assert found["samples"] == 12 * 16 * 16 * 3


@pytest.mark.parametrize("beta", [0.0, 0.1])
def test_network_calls_are_those_of_a_step(source, tmp_path, monkeypatch, beta):
    """By hand: 8 samples, guidance calls twice, 3 steps; a window of 2, 2 updates.

    Sampling 8 x 3 x 2, training 2 x 8 x 2 x 2, comparing half of it without a penalty. The real run
    also repeats the two recorded steps of its first batch of 4, as a proof.
    """
    calls = {True: 0, False: 0}
    forward = UNet2DConditionModel.forward

    @wraps(forward)
    def count(self, *args, **kwargs):
        calls[torch.is_grad_enabled()] += len(args[0] if args else kwargs["sample"])
        return forward(self, *args, **kwargs)

    options = {"updates": 2, "beta": beta, "rollout": Denoising(steps=3), "window_range": (0, 1)}
    expected = rehearse(source, **options).network_calls
    assert expected == {
        "sampling": 48,
        "training": 64,
        "comparing": 64 if beta else 32,
        "held_out": 0,
    }
    monkeypatch.setattr(UNet2DConditionModel, "forward", count)
    train(source, written(tmp_path / "p.jsonl"), tmp_path, config(1, **options))
    assert calls[True] == expected["training"]
    assert calls[False] == expected["sampling"] + expected["comparing"] + 2 * 4 * 2


def test_held_out_prompts_are_sampled_as_the_policy_is(source):
    """5 prompts x 4 samples x 4 steps x 2 calls, every tenth step; 8 samples x 2 steps x 1 call."""
    rollout = Denoising(steps=2, guidance=1.0)
    found = rehearse(source, held_out=5, window=1, rollout=rollout).network_calls
    assert (found["held_out"], found["sampling"]) == (16, 16)


def test_nft_keeps_an_old_policy_and_no_steps(source):
    options = {"algorithm": "nft", "updates": 2, "nft": NFTOptions(draws=3)}
    found, plain = rehearse(source, **options), rehearse(source)
    assert found.window is None
    assert plain.window == (0, 1)
    assert (found.network_calls["training"], found.network_calls["comparing"]) == (48, 96)
    more = found.memory_gib["total"] - plain.memory_gib["total"]
    assert more == pytest.approx(found.memory_gib["old_policy"]) == gib(4 * found.trained)


def test_epochs_are_counted_over_the_prompts_that_are_trained(source, tmp_path):
    """5 prompts without one, 2 a step, 4 steps: two steps an epoch, two epochs."""
    found = rehearse(source, written(tmp_path / "p.jsonl"), steps=4, held_out=1)
    assert (found.steps_per_epoch, found.epochs) == (2, 2.0)
    assert found.per_step == {"prompts": 2, "samples": 8}
    assert found.lacking == ()


def test_what_is_lacking_is_said(source, tmp_path):
    judge = "org/judge"
    assert rehearse(source, rewards=[judge]).lacking == (
        "reward: org/judge is not here and would be downloaded",
        "prompts: there is no prompts.jsonl",
    )
    prompts = written(tmp_path / "p.jsonl", ["a", "b"])
    (text,) = rehearse(source, prompts, held_out=1).lacking
    assert text == "prompts: 1 are left for steps of 2"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "a window of 4 steps does not lie in 0 to 3 of 4 steps"),
        ({"rollout": Denoising(steps=2), "window": 2}, "of 2 steps, of which the last"),
        ({"rule": "flow"}, "rule: flow is for flow models"),
        ({"optim": {"lora_targets": ("nothing",)}}, "nothing"),
        ({"rewards": ["nobody"]}, "nobody"),
        ({"launch": "fsdp"}, "fsdp shards weights, .* launch --num_processes 8"),
    ],
)
def test_what_cannot_work_is_refused_before_a_weight_is_loaded(source, options, message):
    with pytest.raises(ConfigError, match=message):
        rehearse(source, **options)


def test_every_process_has_a_prompt(source, tmp_path):
    launch = tmp_path / "launch.yaml"
    text = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nnum_processes: 3\n"
    launch.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="prompts_per_step is 2, of which 3 processes need"):
        rehearse(source, launch=str(launch))
    found = rehearse(source, launch=str(launch), prompts_per_step=4)
    alone = rehearse(source, prompts_per_step=2)
    assert found.processes == 3
    assert found.rollout_gib == alone.rollout_gib, "the largest share is two of four prompts"


def test_prompts_of_another_task_are_refused(source, tmp_path):
    path = written(tmp_path / "p.jsonl", ["a boat"], "video_generation")
    with pytest.raises(DataError, match="no prompt"):
        rehearse(source, path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters", "latent", "tokens", "window", "sampling"),
    [
        ("grpo_flux", 11_901_408_320, (1024, 64), 1024, (0, 11), 512 * 25),
        ("grpo_sd3_5_medium", 2_243_171_520, (16, 64, 64), 1024, (0, 8), 576 * 10 * 2),
        ("grpo_wan_1_3b", 1_418_996_800, (16, 9, 30, 52), 3_510, (0, 9), 128 * 20 * 2),
        ("nft_sd3_5_medium", 2_243_171_520, (16, 64, 64), 1024, None, 1152 * 10),
    ],
)
def test_recipes_have_the_published_sizes(name, parameters, latent, tokens, window, sampling):
    """512 x 512 pixels are 64 x 64 latents, of which 2 x 2 make a token; guidance calls twice."""
    found = dry_run(load_recipe(find_recipe(name)))
    assert (found.parameters, found.latent, found.tokens) == (
        parameters,
        latent,
        {"sample": tokens},
    )
    assert (found.window, found.network_calls["sampling"]) == (window, sampling)
    assert {line.partition(":")[0] for line in found.lacking} == {"reward", "weights", "prompts"}
    assert found.memory_gib["total"] < 80, "fits a card of 80 GB"
    assert found.rollout_gib["recorded"] < 16


def published(name):
    return load_recipe(find_recipe(name)).stages["grpo"].diffusion


def test_recipes_have_the_published_settings():
    """Flow-GRPO's for SD3.5 and Wan, DiffusionNFT's, and Pref-GRPO's for FLUX."""
    sd3, wan, nft, flux = map(
        published, ("grpo_sd3_5_medium", "grpo_wan_1_3b", "nft_sd3_5_medium", "grpo_flux")
    )
    assert (sd3.group, sd3.clip, sd3.optim.lr, sd3.optim.lora_rank) == (24, 1e-4, 3e-4, 32)
    assert (sd3.rollout.steps, sd3.sampling.steps, sd3.sampling.guidance) == (10, 40, 4.5)
    assert (wan.clip, wan.optim.lr, wan.rollout.steps, wan.sampling.frames) == (1e-3, 1e-4, 20, 33)
    assert (nft.group, nft.prompts_per_step, nft.optim.lr) == (24, 48, 3e-4)
    assert nft.nft == replace(nft.nft, beta=1, penalty=1e-4, decay_rate=1e-3, decay_limit=0.5)
    assert (flux.group, flux.rollout.steps, flux.ratio, flux.optim.lr) == (16, 25, "guarded", 1e-5)
