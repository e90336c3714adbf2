"""Gradients of rewards themselves, through the last step of sampling (DRaFT-1, arXiv:2309.17400).

No advantages are needed, and so no groups; but the reward must have gradients.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

from accelerate import Accelerator
from torch import Tensor

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image
from unified_reward.policies.last_step import DifferentiableRollout
from unified_reward.scorers import SYSTEMS, system
from unified_reward.scorers.images import TensorScorer
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.losses import denoising_error
from unified_reward.train.policy_updates import AdaptedNetworks, Figures, Group, norm_ratio
from unified_reward_client import RewardTerm


class RewardGradients:
    """Update by the gradients of differentiable scorers."""

    def __init__(
        self,
        model: AdaptedNetworks,
        accelerator: Accelerator,
        rewards: GroupRewards,
        *,
        beta: float,
    ) -> None:
        """Set up.

        Args:
            model: The trained networks.
            accelerator: Its precision.
            rewards: Scorers with their weights.
            beta: Weight of the squared distance to the prediction of the reference.

        Raises:
            ConfigError: A reward has no gradients.
        """
        self._model, self._accelerator, self._beta = model, accelerator, beta
        self._terms = [(term, _scorer(term, rewards)) for term in rewards.terms]
        self._is_proven = False
        vae = model.policy.pipeline.vae
        if any(part.is_gradient_checkpointing for part in model.parts.values()):
            vae.enable_gradient_checkpointing()

    def backward(self, groups: Sequence[Group], number: int) -> dict[str, float]:
        """See `Update`. Samples whose reward failed are left out."""
        del number
        figures = Figures()
        parts = [part for group in groups for part in _scored(group)]
        if not self._is_proven:
            prompt, rollout, rows = parts[0]
            for _, scorer in self._terms:
                scorer.check_tensors(cast("Image", rollout.samples[rows[0]]), prompt)
            self._is_proven = True
        total = sum(len(rows) for _, _, rows in parts)
        for prompt, rollout, rows in parts:
            loss = self._loss(prompt, rollout, rows, figures)
            self._accelerator.backward(loss * (len(rows) / total))
        return figures.means()

    def _loss(
        self, prompt: str, rollout: DifferentiableRollout, rows: list[int], figures: Figures
    ) -> Tensor:
        last, parts = rollout.last, self._model.parts
        with self._model.as_reference(), self._accelerator.autocast():
            reference = last.prediction(parts)[rows]
        with self._accelerator.autocast():
            prediction = last.prediction(parts)
            pixels = rollout.decoder.pixels(last.latents(prediction))[rows].float()
        prediction, captions = prediction[rows], [prompt] * len(rows)
        distance = denoising_error(prediction, reference).mean()
        loss = self._beta * distance
        for term, scorer in self._terms:
            scores = scorer.score_tensors(pixels, captions).float().to(loss.device)
            scaled = (scores + term.linear.offset) / term.linear.divisor
            loss = loss - term.weight * scaled.mean()
        figures.add(len(rows), loss=loss, kl=distance, norm_ratio=norm_ratio(prediction, reference))
        return loss


def _scored(group: Group) -> Iterator[tuple[str, DifferentiableRollout, list[int]]]:
    """Parts of a group with its prompt and the indices of samples that have a reward."""
    start = 0
    for rollout in group.rollouts:
        values = group.scores.values[start : start + len(rollout.samples)]
        start += len(rollout.samples)
        rows = [i for i, value in enumerate(values) if value is not None]
        if rows:
            yield group.prompt.prompt, cast("DifferentiableRollout", rollout), rows


def _scorer(term: RewardTerm, rewards: GroupRewards) -> TensorScorer:
    scorer = rewards.sources[term.judge]
    if isinstance(scorer, TensorScorer) and term.form == "score" and not term.aspect:
        return scorer
    known = [each for each in SYSTEMS if issubclass(system(each), TensorScorer)]
    raise ConfigError(
        f"algorithm=draft follows the gradients of a reward, and {term.name} has none; scores of "
        f"{', '.join(known)} have, in this process, and algorithm=grpo needs none"
    )
