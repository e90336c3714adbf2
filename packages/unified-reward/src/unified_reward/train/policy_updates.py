"""Gradients of GRPO and of DiffusionNFT for the networks of a pipeline, from scored groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.policies import Size
from unified_reward.policies.diffusion import DiffusionPolicy
from unified_reward.policies.observation import networks
from unified_reward.policies.packing import FORM
from unified_reward.policies.recorded import RepeatableStep, Rollout
from unified_reward.policies.step_rules import log_prob
from unified_reward.train.adapters import Adapters, add_adapters
from unified_reward.train.denoisers import Condition, Denoiser
from unified_reward.train.group_rewards import GroupScores
from unified_reward.train.grpo_config import NFTOptions
from unified_reward.train.loops import NoiseSample, NoiseSampler
from unified_reward.train.losses import add_noise, denoising_error, denoising_target
from unified_reward.train.optim import OptimConfig, lora_config
from unified_reward.train.policy_losses import (
    clean_error_scale,
    clip_advantages,
    guarded_ratio,
    kl,
    nft_loss,
    nft_reward,
    policy_loss,
    ratio,
)


@dataclass(frozen=True, eq=False)
class Group:
    """Samples of a prompt, with their rewards."""

    number: int
    """Number of the group in the training, from 0."""
    prompt: Example
    rollouts: list[Rollout]
    """Parts of the group, each sampled in one batch."""
    scores: GroupScores

    def parts(self) -> Iterator[tuple[Rollout, list[int], Tensor]]:
        """Each part with the indices of its samples that have a reward, and their advantages."""
        start = 0
        for rollout in self.rollouts:
            given = self.scores.advantages[start : start + len(rollout.samples)]
            start += len(rollout.samples)
            rows = [i for i, value in enumerate(given) if value is not None]
            if rows:
                yield rollout, rows, clip_advantages([given[i] for i in rows])

    def size(self, stride: int | None) -> Size:
        """Size of the samples; frames as many as their latents stand for."""
        made = next(s for rollout in self.rollouts for s in rollout.samples if s is not None)
        return _size_of(made, stride)


def _size_of(sample: Image | Video, stride: int | None) -> Size:
    *frames, height, width, _ = sample.source.shape
    if not frames:
        return Size(height, width)
    return Size(height, width, frames[0] + (1 - frames[0]) % (stride or 1))


class AdaptedNetworks:
    """Networks of a pipeline with trained adapters; without them they are the reference."""

    def __init__(self, policy: DiffusionPolicy, optim: OptimConfig) -> None:
        """Freeze the pipeline and add adapters.

        Raises:
            ConfigError: There is no rank, or a target matches no layer.
        """
        self.policy = policy
        lora = lora_config(optim)
        if lora is None:
            raise ConfigError("grpo trains adapters; give optim.lora_rank")
        for part in policy.pipeline.components.values():
            if isinstance(part, nn.Module):
                part.requires_grad_(requires_grad=False).eval()
        self.parts: dict[str, Any] = networks(policy.pipeline)
        self.adapters: dict[str, Adapters] = {}
        self.trained: dict[str, Tensor] = {}
        for name, network in self.parts.items():
            self.adapters[name] = add_adapters(network, lora, optim)
            if optim.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            weights = network.named_parameters()
            self.trained |= {f"{name}.{key}": each for key, each in weights if each.requires_grad}

    @contextmanager
    def as_reference(self) -> Iterator[None]:
        """Switch the adapters off, and gradients."""
        for adapters in self.adapters.values():
            adapters.enable(on=False)
        try:
            with torch.no_grad():
                yield
        finally:
            for adapters in self.adapters.values():
                adapters.enable(on=True)

    @contextmanager
    def with_weights(self, weights: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the adapters other weights, without gradients; none leaves them as they are."""
        own = {name: self.trained[name].detach().clone() for name in weights}
        self._copy(weights)
        try:
            with torch.no_grad():
                yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in weights.items():
            self.trained[name].copy_(weight)


class Figures:
    """Weighted means of the figures of an update."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, float] = {}

    def add(self, weight: float, **figures: Tensor) -> None:
        """Add scalars of a batch."""
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value.detach().float()
            self._weights[name] = self._weights.get(name, 0.0) + weight

    def means(self) -> dict[str, float]:
        """Mean of each figure."""
        return {name: float(total) / self._weights[name] for name, total in self._sums.items()}


class Update(Protocol):
    """Gradients of an optimiser step."""

    def backward(self, groups: Sequence[Group], number: int) -> dict[str, float]:
        """Add the gradients of scored groups to the weights.

        Args:
            groups: Groups with differences in reward.
            number: Number of the optimiser step, from 0.

        Returns:
            Figures: ``loss``, ``deviation``, ``kl``, ``norm_ratio`` and perhaps ``clipped``.
        """
        ...


class GRPOUpdate:
    """Policy gradient of recorded steps (Flow-GRPO, arXiv:2505.05470)."""

    def __init__(
        self,
        model: AdaptedNetworks,
        accelerator: Accelerator,
        *,
        clip: float,
        beta: float,
        kind: Literal["plain", "guarded"],
    ) -> None:
        """Set up; see `DiffusionGRPO` for the settings."""
        self._model, self._accelerator = model, accelerator
        self._clip, self._beta, self._kind = clip, beta, kind

    def backward(self, groups: Sequence[Group], number: int) -> dict[str, float]:
        """See `Update`."""
        del number
        figures = Figures()
        parts = [part for group in groups for part in group.parts()]
        total = sum(len(rows) * len(rollout.steps) for rollout, rows, _ in parts)
        for rollout, rows, advantage in parts:
            for i, step in enumerate(rollout.steps):
                # Without a penalty the reference is a figure only, for which one step is enough.
                is_compared = bool(self._beta) or i == 0
                loss = self._loss(step, rows, advantage, figures, is_compared=is_compared)
                self._accelerator.backward(loss * (len(rows) / total))
        return figures.means()

    def _loss(
        self,
        step: RepeatableStep,
        rows: list[int],
        advantage: Tensor,
        figures: Figures,
        *,
        is_compared: bool,
    ) -> Tensor:
        record, n = step.step, len(rows)
        reference = None
        if is_compared:
            with self._model.as_reference(), self._accelerator.autocast():
                reference = step.prediction(self._model.parts)
        with self._accelerator.autocast():
            prediction = step.prediction(self._model.parts)
        mean, std = record.transition(prediction)
        new, old = (log_prob(record.next_sample, each, std)[rows] for each in (mean, record.mean))
        mean, old_mean = mean[rows], record.mean[rows]
        if self._kind == "guarded":
            ratios, duration = guarded_ratio(new, old, mean, old_mean, std), record.duration
        else:
            ratios, duration = ratio(new, old), 1.0
        terms = policy_loss(ratios, advantage.to(ratios.device), self._clip, duration)
        loss = terms.loss
        if reference is not None:
            distance = kl(mean, record.transition(reference).mean[rows], std).mean()
            loss = loss + self._beta * distance if self._beta else loss
            figures.add(n, kl=distance, norm_ratio=norm_ratio(prediction[rows], reference[rows]))
        deviation = (ratios - 1).abs().mean()
        figures.add(n, loss=loss, clipped=terms.clipped_share, deviation=deviation)
        return loss


class NFTUpdate:
    """DiffusionNFT (arXiv:2509.16117) of the latents that were sampled."""

    def __init__(
        self,
        model: AdaptedNetworks,
        accelerator: Accelerator,
        old: Mapping[str, Tensor],
        options: NFTOptions,
        seed: int,
    ) -> None:
        """Set up.

        Args:
            model: The trained networks.
            accelerator: Its precision.
            old: Weights of the policy that samples, changed in place by whoever owns them.
            options: Settings.
            seed: Seed of timesteps and noise.

        Raises:
            ModelError: The networks cannot be trained.
        """
        self._model, self._accelerator, self._old = model, accelerator, old
        self._options = options
        self._denoiser = Denoiser(model.policy)
        steps = torch.arange(len(self._denoiser.schedule.alpha))
        self._noise = NoiseSampler(1, steps, seed)
        self._conditions: dict[str, dict[str, Tensor]] = {}

    def encode(self, group: Group) -> None:
        """Encode the prompt of a group, once.

        Raises:
            DataError: No text encoder reads the prompt to its end.
            ValueError: The pipeline refuses it.
        """
        prompt, policy = group.prompt, self._model.policy
        if prompt.id in self._conditions:
            return
        is_edit = prompt.task is Task.IMAGE_EDITING
        source = policy.open_source(prompt.context) if is_edit else None
        size = group.size(policy.temporal_stride)
        condition = self._denoiser.encode_prompt(prompt.prompt, size, source)
        self._conditions[prompt.id] = {name: value.cpu() for name, value in condition.items()}

    def backward(self, groups: Sequence[Group], number: int) -> dict[str, float]:
        """See `Update`."""
        figures = Figures()
        parts = [(group, *part) for group in groups for part in group.parts()]
        total = sum(len(rows) for _, _, rows, _ in parts) * self._options.draws
        taken: Counter[int] = Counter()
        for group, rollout, rows, advantage in parts:
            clean = rollout.latents[rows].float()
            condition = self._condition(group.prompt.id, len(rows))
            for _ in range(self._options.draws):
                # Numbered in its group, so that other groups make no difference.
                first = (number << 64) + (group.number << 32) + taken[group.number]
                noise = self._noise.sample(range(first, first + len(rows)), clean.shape[1:])
                taken[group.number] += len(rows)
                loss = self._loss(clean, condition, nft_reward(advantage), noise, figures)
                self._accelerator.backward(loss * (len(rows) / total))
        # Those of other steps are not needed any more.
        now = {group.prompt.id for group in groups}
        self._conditions = {key: each for key, each in self._conditions.items() if key in now}
        return figures.means()

    def _condition(self, name: str, n: int) -> Condition:
        device = self._accelerator.device
        return {
            key: torch.stack([value] * n).to("cpu" if key == FORM else device)
            for key, value in self._conditions[name].items()
        }

    def _loss(
        self,
        clean: Tensor,
        condition: Condition,
        reward: Tensor,
        sample: NoiseSample,
        figures: Figures,
    ) -> Tensor:
        schedule, device = self._denoiser.schedule, clean.device
        kind = schedule.prediction_type
        alpha, sigma = (
            level[sample.steps].float().to(device) for level in (schedule.alpha, schedule.sigma)
        )
        timestep, noise = schedule.timestep[sample.steps].to(device), sample.noise.to(device)
        noisy = add_noise(clean, noise, alpha, sigma)

        def predict() -> Tensor:
            with self._accelerator.autocast():
                return self._denoiser.predict(noisy, timestep, condition)

        with self._model.as_reference():
            reference = predict()
        with self._model.with_weights(self._old):
            old = predict()
        prediction = predict()
        terms = nft_loss(
            prediction,
            old,
            denoising_target(kind, clean, noise, alpha, sigma),
            reward.to(device),
            beta=self._options.beta,
            scale=clean_error_scale(kind, alpha, sigma),
        )
        distance = denoising_error(prediction, reference).mean()
        loss = terms.loss + self._options.penalty * distance
        figures.add(
            len(clean),
            loss=loss,
            deviation=terms.deviation.mean(),
            kl=distance,
            norm_ratio=norm_ratio(prediction, reference),
        )
        return loss


def norm_ratio(prediction: Tensor, reference: Tensor) -> Tensor:
    """Norm of the predictions of a batch over that of the reference's, ``|v| / |v_ref|``."""
    norms = (each.detach().float().flatten(1).norm(dim=1) for each in (prediction, reference))
    own, other = norms
    return (own / other).mean()
