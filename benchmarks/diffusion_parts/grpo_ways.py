"""Two ways of GRPO of the same pipeline: a loop in the published manner, and the library's.

The published manner (DDPO, Flow-GRPO, DanceGRPO): a sampling loop of its own for one model, every
step stochastic and trained except the last.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor

from benchmarks.diffusion_parts import pipelines
from unified_reward import policies
from unified_reward.core.samples import Example, Sample, Task
from unified_reward.policies import recorded
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.recorded import StochasticSampler
from unified_reward.policies.step_rules import Level, StepRule, log_prob, step
from unified_reward.train.group_collector import GroupCollector, HeldOut
from unified_reward.train.group_rewards import GroupRewards, GroupScores
from unified_reward.train.group_sampler import GroupSampler
from unified_reward.train.grpo_config import DiffusionGRPO
from unified_reward.train.optim import OptimConfig
from unified_reward.train.policy_losses import clip_advantages, policy_loss, ratio
from unified_reward.train.policy_updates import AdaptedNetworks, Group, GRPOUpdate
from unified_reward.train.processes import Processes


CLIP, GROUP = 1e-4, 2
OPTIM = OptimConfig(steps=100, batch_size=GROUP, accumulate=1, lr=1e-4, lora_rank=8)
RULE = StepRule("ddim", 1.0)
WAYS = ("published", "library")


@dataclass
class Taken:
    """A stochastic step of a group, as the published loop keeps it."""

    before: Tensor
    after: Tensor
    timestep: Tensor
    levels: tuple[Level, Level]
    std: float
    log_prob: Tensor


class Calls:
    """Forward passes of a network by the sample; one with gradients counts three times."""

    def __init__(self, network: Any) -> None:
        self.passes = 0
        network.register_forward_hook(self._count)

    def _count(self, network: Any, inputs: Any, output: Any) -> None:
        del network, inputs
        self.passes += len(output[0]) * (3 if output[0].requires_grad else 1)


class PublishedLoop:
    """GRPO of Stable Diffusion 1 or 3 by a sampling loop of its own."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Add adapters."""
        self.policy, self.pipeline = policy, policy.pipeline
        self.model = AdaptedNetworks(policy, OPTIM)
        (self._network,) = self.model.parts.values()
        self.calls = Calls(self._network)
        self._is_flow = hasattr(self.pipeline, "transformer")
        self._longest = {"max_sequence_length": pipelines.TOKENS} if self._is_flow else {}
        self._weights = [*self.model.trained.values()]
        self._optimiser = torch.optim.AdamW(self._weights, OPTIM.lr)

    def _encode(self, prompt: str, n: int) -> dict[str, Tensor]:
        found = self.pipeline.encode_prompt(
            *[prompt] * (3 if self._is_flow else 1),
            device="cpu",
            num_images_per_prompt=n,
            do_classifier_free_guidance=False,
            **self._longest,
        )
        if self._is_flow:
            return {"encoder_hidden_states": found[0], "pooled_projections": found[2]}
        return {"encoder_hidden_states": found[0]}

    def _levels(self) -> list[Level]:
        """Noise levels before each step and after the last."""
        scheduler = self.pipeline.scheduler
        if self._is_flow:
            return [Level(1 - sigma, sigma) for sigma in scheduler.sigmas.tolist()]
        kept = [*scheduler.alphas_cumprod[scheduler.timesteps].tolist(), 1.0]
        return [Level(share**0.5, (1 - share) ** 0.5) for share in kept]

    def _step(self, x: Tensor, timestep: Tensor, embeds: Any, levels: Sequence[Level]) -> Any:
        sample = "hidden_states" if self._is_flow else "sample"
        given = {sample: x, "timestep": timestep.expand(len(x)), "return_dict": False}
        prediction = self._network(**given, **embeds)[0]
        kind = "flow" if self._is_flow else "epsilon"
        return step(RULE, kind, x, prediction, levels[0], levels[1])

    @torch.no_grad()
    def sample(
        self, prompt: str, seeds: Sequence[int]
    ) -> tuple[np.ndarray, Tensor, dict[str, Tensor], list[Taken]]:
        """Sample a group: pixels in [0, 1], last latents, embeddings and stochastic steps."""
        embeds = self._encode(prompt, len(seeds))
        side = (self.policy.options.height or 0) // 8
        shape = (self._network.config.in_channels, side, side)
        first, noises = ([torch.Generator().manual_seed(s) for s in seeds] for _ in range(2))
        x = torch.stack([torch.randn(shape, generator=each) for each in first])
        self.pipeline.scheduler.set_timesteps(self.policy.options.steps)
        timesteps, levels = self.pipeline.scheduler.timesteps, self._levels()
        steps: list[Taken] = []
        for i, timestep in enumerate(timesteps):
            pair = (levels[i], levels[i + 1])
            mean, std = self._step(x, timestep, embeds, pair)
            following = mean
            if i + 1 < len(timesteps):
                noise = torch.stack([torch.randn(shape, generator=each) for each in noises])
                following = mean + std * noise
                old = log_prob(following, mean, std)
                steps.append(Taken(x, following, timestep, pair, std, old))
            x = following
        vae = self.pipeline.vae
        latents = x / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        images = vae.decode(latents, return_dict=False)[0]
        pixels = self.pipeline.image_processor.postprocess(images, output_type="np")
        return pixels, x, embeds, steps

    def backward(self, embeds: Any, steps: Sequence[Taken], advantages: Sequence[float]) -> None:
        """Add the gradients of the steps of a group."""
        advantage = clip_advantages([*advantages])
        for taken in steps:
            mean = self._step(taken.before, taken.timestep, embeds, taken.levels).mean
            ratios = ratio(log_prob(taken.after, mean, taken.std), taken.log_prob)
            (policy_loss(ratios, advantage, CLIP).loss / len(steps)).backward()

    def update(self, number: int) -> None:
        """Sample a group, score it and train on it."""
        prompt = prompts()[number]
        pixels, _, embeds, steps = self.sample(
            prompt.prompt, policies.seeds(prompt.id, GROUP, number)
        )
        rewards = np.array([image.mean() for image in pixels])
        spread = max(float(rewards.std()), 1e-6)
        self.backward(embeds, steps, [*((rewards - rewards.mean()) / spread)])
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()


class Library:
    """The library's sampler, collector and update, with its default window."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        """Add adapters."""
        accelerator = Accelerator(cpu=True)
        config = DiffusionGRPO(OPTIM, group=GROUP, prompts_per_step=1, clip=CLIP)
        self._model = AdaptedNetworks(policy, OPTIM)
        (network,) = self._model.parts.values()
        self.calls = Calls(network)
        sampler = GroupSampler(policy, prompts(), config, accelerator)
        rewards = GroupRewards({"brightness": _brightness})
        self._collector = GroupCollector(sampler, rewards, Processes(accelerator), print, HeldOut())
        self._update = GRPOUpdate(self._model, accelerator, clip=CLIP, beta=0.0, kind="plain")
        self._weights = [*self._model.trained.values()]
        self._optimiser = torch.optim.AdamW(self._weights, OPTIM.lr)

    def update(self, number: int) -> None:
        """Sample a group, score it and train on it."""
        groups, _ = self._collector.collect(number, lambda _: None)
        self._update.backward(groups, number)
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimiser.step()
        self._optimiser.zero_grad()


def _brightness(samples: Sequence[Sample]) -> list[float]:
    return [float(np.mean(sample.candidates[0].source)) for sample in samples]  # type: ignore[union-attr]


def prompts() -> list[Example]:
    """Prompts of the updates."""
    return [
        Example(Task.IMAGE_GENERATION, f"{i} red stars at the top left", (), id=f"p{i}")
        for i in range(100)
    ]


@contextmanager
def uncounted_proof(calls: Calls) -> Iterator[list[float]]:
    """Processor seconds of what is proven once in a run; its passes are not counted."""
    prove, spent = recorded._prove, list[float]()

    def timed(*given: Any) -> None:
        start, passes = time.process_time(), calls.passes
        prove(*given)
        calls.passes = passes
        spent.append(time.process_time() - start)

    recorded._prove = timed
    try:
        yield spent
    finally:
        recorded._prove = prove


def compare(kind: str, size: pipelines.Size, updates: int) -> dict[str, Any]:
    """Train by both ways in turn; processor seconds and passes of the network by update.

    Args:
        kind: ``unet`` or ``dit``.
        size: Size of the pipeline.
        updates: Updates of each way.
    """
    ways: dict[str, Any] = {
        "published": PublishedLoop(pipelines.policy(kind, size)),
        "library": Library(pipelines.policy(kind, size)),
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    passes: dict[str, list[int]] = {way: [] for way in WAYS}
    proof = 0.0
    for number in range(updates):
        for way in WAYS[:: 1 if number % 2 else -1]:
            before, start = ways[way].calls.passes, time.process_time()
            with uncounted_proof(ways[way].calls) as spent:
                ways[way].update(number)
            seconds[way].append(time.process_time() - start - sum(spent))
            passes[way].append(ways[way].calls.passes - before)
            proof += sum(spent)
    per_sample = {way: passes[way][-1] / GROUP for way in WAYS}
    figures = {"group": GROUP, "steps": size.steps, "update_s": seconds, "proof_s": proof}
    return {**figures, "passes_of_a_sample": per_sample}


def differences(kind: str, size: pipelines.Size) -> dict[str, float]:
    """Relative differences of latents and gradients of both, for a window of all steps."""
    published = PublishedLoop(pipelines.policy(kind, size))
    policy = pipelines.policy(kind, size)
    model = AdaptedNetworks(policy, OPTIM)
    for weights in (published.model.trained, model.trained):
        torch.manual_seed(1)
        for weight in weights.values():
            weight.data = 0.02 * torch.randn_like(weight)
    prompt, window = prompts()[0], range(size.steps - 1)
    seeds = policies.seeds(prompt.id, GROUP, 0)
    _, latents, embeds, steps = published.sample(prompt.prompt, seeds)
    rollout = StochasticSampler(policy, RULE.name, RULE.strength).sample(
        prompt.prompt, (), seeds, window, seeds
    )
    advantages = [1.0, -1.0]
    published.backward(embeds, steps, advantages)
    update = GRPOUpdate(model, Accelerator(cpu=True), clip=CLIP, beta=0.0, kind="plain")
    scores = GroupScores([*advantages], [0.0] * GROUP, [""] * GROUP)
    update.backward([Group(0, prompt, [rollout], scores)], 0)
    gradients = [
        torch.cat([weight.grad.flatten() for weight in weights.values() if weight.grad is not None])
        for weights in (published.model.trained, model.trained)
    ]
    pairs = {"latents": (latents, rollout.latents), "gradients": gradients}
    return {name: float((a - b).norm() / b.norm()) for name, (a, b) in pairs.items()}
