"""Examination of a random tiny pipeline: what of the library works on it, and why not."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch

from tests import diffusion
from tests.diffusion import census
from tests.diffusion.tiny import Tiny
from unified_reward.core.errors import UnifiedRewardError
from unified_reward.policies import Size
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.noise_levels import prediction_type, stochastic_scheduler
from unified_reward.policies.observation import networks
from unified_reward.policies.recorded import StochasticSampler
from unified_reward.policies.step_rules import RuleName, log_prob
from unified_reward.train.denoisers import Denoiser
from unified_reward.train.dpo_diffusion import DiffusionDPO, DPOModel
from unified_reward.train.latents import padding_frames
from unified_reward.train.loops import NoiseSample
from unified_reward.train.optim import OptimConfig


class Row(NamedTuple):
    """Cells of a pipeline behind its name and its task."""

    candidates: str
    dpo: str
    recorded_sampling: str
    merged_adapters: str
    why_not: str


def examine(name: str) -> Row:
    """Measure the cells of a tiny pipeline.

    The last cell has the reasons of the checks and that of the census.

    Args:
        name: Its name in `PIPELINES`.
    """
    measured, reasons = dict.fromkeys(Row._fields[:-1], "-"), []
    for field, check in CHECKS.items():
        tiny = diffusion.PIPELINES[name]
        try:
            measured[field] = "yes" if check(tiny.build(), tiny) else "wrong"
        except UnifiedRewardError as error:
            measured[field] = "no"
            reason = re.sub("^tiny (cannot be aligned at [^:]*: )?", "", str(error))
            reasons.append(" ".join(reason.replace("|", "/").split()))
    reasons.append(census.text_pipelines().get(name.partition(" ")[0], ""))
    return Row(**measured, why_not="; ".join(dict.fromkeys(filter(None, reasons))))


def samples(pipeline: Any, tiny: Tiny) -> bool:
    """Each candidate follows its own seed and the prompt, alone as in a batch."""
    policy = _policy(pipeline, tiny)
    first, second = (pixels(policy, "a red star", [1, 2])[i] for i in (0, 1))
    other, alone = pixels(policy, "two blue cats", [1, 2]), pixels(policy, "a red star", [1])[0]
    depends = (first != second).any() and all(
        (mine != its).any() for mine, its in zip((first, second), other, strict=True)
    )
    return bool(depends and np.abs(first - alone).max() <= 1)


def pixels(policy: DiffusionPolicy, prompt: str, seeds: list[int]) -> list[Any]:
    """Candidates as integers, so that they can be subtracted."""
    made: list[Any] = policy.sample(prompt, (), seeds)
    return [np.asarray(medium.source, np.int16) for medium in made]


def aligns(pipeline: Any, tiny: Tiny) -> bool:
    """DPO of all weights starts at ln 2 with a gradient that is not 0."""
    model, batch = _dpo(pipeline, tiny, lora_rank=0)
    loss = model.loss(*batch)["loss"]
    loss.backward()
    grads = {name: weight.grad for name, weight in model.trained.items()}
    moved = {n.partition(".")[0] for n, g in grads.items() if g is not None and (g != 0).any()}
    # The copy that is the reference may round otherwise, which beta (2500) enlarges.
    return moved == {*model.networks} and abs(loss.item() - math.log(2)) < 2500 * 1e-6


def records(pipeline: Any, tiny: Tiny) -> bool:
    """A recorded step of every rule has the density it was sampled with, and a gradient."""
    policy = _policy(pipeline, tiny)
    ratios = []
    rules = rules_of(pipeline)
    for rule in rules:
        rollout = StochasticSampler(policy, rule).sample("a red star", (), [1, 2], (0, 1))
        for each in rollout.steps:
            taken = log_prob(each.step.next_sample, each.step.mean, each.step.std)
            repeated = each.log_prob(networks(pipeline))
            ratios.append(float((repeated.detach() - taken).exp().sub(1).abs().max()))
        repeated.sum().backward()
    return len(ratios) == 2 * len(rules) and max(ratios) <= 1e-5


def rules_of(pipeline: Any) -> list[RuleName]:
    """Step rules that fit what the networks predict."""
    is_flow = prediction_type(stochastic_scheduler(pipeline.scheduler)) == "flow"
    return ["ddim", "cps", *(["flow"] if is_flow else [])]


def merges(pipeline: Any, tiny: Tiny) -> bool:
    """Merged adapters sample as attached ones, and unlike none."""
    policy = _policy(pipeline, tiny)
    before = pixels(policy, "a red star", [1])[0]
    model, batch = _dpo(pipeline, tiny)
    model.loss(*batch)
    for name, weight in model.trained.items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    attached = pixels(policy, "a red star", [1])[0]
    with TemporaryDirectory() as folder:
        model.merge_adapters(Path(folder))
        saved = [*Path(folder).rglob("*.safetensors")]
    merged = pixels(policy, "a red star", [1])[0]
    change = np.abs(attached - before).max()
    # Random networks enlarge the rounding of weights that were merged.
    is_close = np.abs(attached - merged).max() <= max(1, change / 20)
    return bool(change and is_close and len(saved) == len(model.networks))


CHECKS: dict[str, Callable[[Any, Tiny], bool]] = {
    "candidates": samples,
    "dpo": aligns,
    "recorded_sampling": records,
    "merged_adapters": merges,
}
"""Check of a pipeline by the field of its cell; raises ModelError with the reason of a refusal."""


def _policy(pipeline: Any, tiny: Tiny) -> DiffusionPolicy:
    pipeline.set_progress_bar_config(disable=True)
    return DiffusionPolicy(pipeline, tiny.sampling, name="tiny", batch_size=2)


def _dpo(pipeline: Any, tiny: Tiny, lora_rank: int = 2) -> tuple[DPOModel, tuple[Any, ...]]:
    """Model, by default with adapters, and a batch of a pair of random pixels."""
    denoiser = Denoiser(_policy(pipeline, tiny))
    size = training_size(denoiser.policy)
    condition = denoiser.encode_prompt("a red star", size)
    generator = torch.Generator().manual_seed(0)
    frames = [size.frames] if size.frames else []
    pixels = torch.rand(2, 3, *frames, *size[:2], generator=generator) * 2 - 1
    latents = denoiser.encode_pixels(pixels, size)
    model = DPOModel(denoiser, DiffusionDPO(OptimConfig(steps=1, lora_rank=lora_rank)))
    batch = {name: torch.stack([value] * 2) for name, value in condition.items()}
    noise = torch.randn(latents.shape, generator=generator)
    return model, (latents, latents.flip(0), batch, NoiseSample(torch.tensor([100, 900]), noise))


def training_size(policy: DiffusionPolicy) -> Size:
    """Sampling size of a tiny policy, rounded up to what its autoencoder takes."""
    block, options = policy.size_multiple, policy.options
    sides = [-(-(side or block) // block) * block for side in (options.height, options.width)]
    frames = policy.temporal_stride and (options.frames or 1)
    return Size(*sides, frames and frames + padding_frames(frames, policy.temporal_stride))
