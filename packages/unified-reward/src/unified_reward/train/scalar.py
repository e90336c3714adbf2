"""Training of scalar judges: comparisons by Bradley-Terry, scores by regression, in one batch.

Knows requests and labels; knows nothing of tasks or data files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor, nn
from transformers import TrainingArguments

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import VLM
from unified_reward.backends.value_head import ValueHead, last_hidden, trunk_of, width_of
from unified_reward.core.requests import Request
from unified_reward.train.adapters import merge_peft
from unified_reward.train.bad_items import SparingCollator
from unified_reward.train.losses import (
    bradley_terry,
    marginal_logit,
    rao_kupper,
    regression,
    to_positive,
    uncertain_regression,
)
from unified_reward.train.optim import (
    FiniteTrainer,
    OptimConfig,
    lora_config,
    optimizer_factory,
    run_trainer,
    training_arguments,
)


class ScalarExample(NamedTuple):
    """One candidate and its score, or two candidates and the outcome; a request for each."""

    requests: tuple[Request, ...]
    label: float | None
    """For one candidate, its score in [0, 1]; for two, 1 if the first is better, 0 if the second
    is, 0.5 for a tie. None if unknown."""
    aspects: tuple[float | None, ...] = ()
    """Labels by aspect, for two candidates the share of the first; None where unknown."""


class ScalarDataset(Protocol):
    """Examples by index, built on access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ScalarExample: ...


@dataclass(frozen=True)
class ScalarConfig:
    """Settings of a scalar judge: its values and the loss of comparisons."""

    pairs: Literal["bradley_terry", "bradley_terry_ties"] = "bradley_terry"
    """Loss of comparisons; scores are always learned by regression."""
    aspects: tuple[str, ...] = ()
    """Aspects that get a value of their own, besides the overall one."""
    uncertain: bool = False
    """Predict a standard deviation for every value."""


class ScalarNet(nn.Module):
    """Trunk, value head and tie margin; its forward computes the loss of a batch."""

    def __init__(self, trunk: nn.Module, width: int, config: ScalarConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ValueHead(width, 1 + len(config.aspects), uncertain=config.uncertain)
        with_ties = config.pairs == "bradley_terry_ties"
        self.raw_margin = nn.Parameter(torch.zeros(())) if with_ties else None

    @property
    def margin(self) -> Tensor | None:
        """Tie margin of Rao and Kupper, > 0; None for plain Bradley-Terry."""
        return None if self.raw_margin is None else to_positive(self.raw_margin)

    def forward(self, rows: Tensor, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """Compute the loss of N examples.

        Args:
            rows: Indices of each example's candidates among the requests, the second -1 for an
                example of one candidate. Shape (N, 2).
            labels: Overall label first, then by aspect; NaN if unknown. Shape (N, 1 + aspects).
            **inputs: Inputs of the trunk for all requests.
        """
        means, sigmas = self.head(last_hidden(self.trunk, inputs))
        variances = torch.zeros_like(means) if sigmas is None else sigmas**2
        first, second = rows.clamp(min=0).T
        is_pair = rows[:, 1:] >= 0
        known = ~labels.isnan()
        difference = marginal_logit(
            means[first] - means[second], variances[first] + variances[second]
        )
        # All weights take part in every batch: processes wait for each other's gradients.
        loss = 0.0 * (means.sum() + variances.sum())
        for column in range(labels.shape[1]):
            compared, scored = (known & is_pair)[:, column], (known & ~is_pair)[:, column]
            if compared.any():
                cost = self._pair_loss(
                    difference[compared, column], labels[compared, column], column
                )
                loss = loss + cost * compared.sum()
            if scored.any():
                at, label = first[scored], labels[scored, column]
                cost = (
                    regression(means[at, column], label)
                    if sigmas is None
                    else uncertain_regression(means[at, column], sigmas[at, column], label)
                )
                loss = loss + cost * scored.sum()
        if self.raw_margin is not None:
            loss = loss + 0.0 * self.raw_margin
        return {"loss": loss / known.sum()}

    def _pair_loss(self, difference: Tensor, outcome: Tensor, column: int) -> Tensor:
        margin = self.margin
        # Labels of aspects are shares of the first candidate, which say nothing of ties.
        if margin is None or column > 0:
            return bradley_terry(difference, outcome)
        return rao_kupper(difference, outcome, margin)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Enable it in the trunk; the trainer calls this."""
        cast("Any", self.trunk).activation_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """Return the trunk's embeddings."""
        return cast("Any", self.trunk).get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """Return the linear layer of the head."""
        return self.head.linear


class ScalarCollator:
    """Builds batches with the code that also builds a judge's prompts."""

    def __init__(self, chat: Chat, dataset: ScalarDataset) -> None:
        self._chat = chat
        self._dataset = dataset

    def __call__(self, batch: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Collate the examples whose indices the rows hold, see `ScalarNet.forward`."""
        examples = [self._dataset[item["row"]] for item in batch]
        rows: list[tuple[int, int]] = []
        requests: list[Request] = []
        for example in examples:
            at = len(requests)
            rows.append((at, at + 1 if len(example.requests) == 2 else -1))
            requests += example.requests
        labels = [[_nan(value) for value in (item.label, *item.aspects)] for item in examples]
        return {
            **self._chat.batch(requests),
            "rows": torch.tensor(rows),
            "labels": torch.tensor(labels, dtype=torch.float32),
        }


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def fit_scalar(
    vlm: VLM,
    dataset: ScalarDataset,
    head: ScalarConfig,
    config: OptimConfig,
    out: Path,
    start: ValueHead | None = None,
) -> tuple[Any, ValueHead, float | None, list[tuple[int, float]]]:
    """Train trunk and head; under ``accelerate launch`` on every process it starts.

    Args:
        vlm: The model whose trunk is trained.
        dataset: Examples, taken in order, and again from the start when they run out.
        head: Values and loss.
        config: Optimiser, schedule and adapters.
        out: Folder of the run; a killed run resumes from the checkpoints in ``checkpoints``.
        start: Value head to train on; None for a new one.

    Returns:
        The model, adapters merged; its head; the tie margin; and the loss in nats by step.

    Raises:
        ConfigError: ``lora_targets`` names no layer.
        DataError: Too many examples cannot be used; a few are left out, and logged.
        ModelError: Loss or gradient is not finite.
    """
    torch.manual_seed(config.seed)
    lora = lora_config(config)
    model = vlm.model if lora is None else get_peft_model(vlm.model, lora)
    if lora is not None and config.gradient_checkpointing:
        vlm.model.enable_input_require_grads()
    words = vlm.model.get_output_embeddings()
    if words.weight is not vlm.model.get_input_embeddings().weight:
        words.requires_grad_(False)  # noqa: FBT003  its name and place are torch's
    net = ScalarNet(trunk_of(vlm), width_of(vlm), head)
    if start is not None:
        net.head = start
    trainer = FiniteTrainer(
        model=net.train(),
        args=TrainingArguments(**training_arguments(config, out / "checkpoints", vlm.model.dtype)),
        data_collator=SparingCollator(ScalarCollator(vlm.chat, dataset), dataset),
        train_dataset=Dataset.from_dict({"row": range(len(dataset))}),
        optimizer_cls_and_kwargs=optimizer_factory(config),
    )
    trainer.model_accepts_loss_kwargs = False
    losses = run_trainer(trainer, config, "training the scalar judge")
    margin = None if net.margin is None else net.margin.item()
    return (merge_peft(model) if lora else model), net.head, margin, losses
