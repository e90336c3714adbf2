"""Training of scalar judges: comparisons by Bradley-Terry, scores by regression, in one batch.

Knows requests and labels as tensors; not tasks, and not where the records come from.
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
from transformers import Trainer, TrainingArguments

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import VLM
from unified_reward.backends.value_head import ValueHead, last_hidden, width_of
from unified_reward.core.requests import Request
from unified_reward.train.losses import (
    bradley_terry,
    marginal_logit,
    rao_kupper,
    regression,
    to_positive,
    uncertain_regression,
)
from unified_reward.train.optim import (
    MuonFactory,
    OptimConfig,
    lora_config,
    run_trainer,
    training_arguments,
)


class ScalarExample(NamedTuple):
    """One candidate with its score, or two with their outcome, each asked about alone."""

    requests: tuple[Request, ...]
    label: float | None
    """Of one: its score in [0, 1]. Of two: 1 if the first is better, 0 the second, 0.5 a tie."""
    aspects: tuple[float | None, ...] = ()
    """The same by aspect; of two, the share of the first. None where it is not known."""


class ScalarDataset(Protocol):
    """Labelled candidates by index, made when asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ScalarExample: ...


@dataclass(frozen=True)
class ScalarConfig:
    """What a scalar judge learns."""

    pairs: Literal["bradley_terry", "bradley_terry_ties"] = "bradley_terry"
    """How comparisons are learned; scores are always learned by regression."""
    aspects: tuple[str, ...] = ()
    """Aspects of the records that have a value of their own, beside the overall one."""
    uncertain: bool = False
    """Learn a standard deviation beside every value."""


class ScalarNet(nn.Module):
    """Trunk, head and margin of ties; its forward gives the loss of a batch of labels."""

    def __init__(self, trunk: nn.Module, width: int, config: ScalarConfig) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = ValueHead(width, 1 + len(config.aspects), uncertain=config.uncertain)
        with_ties = config.pairs == "bradley_terry_ties"
        self.raw_margin = nn.Parameter(torch.zeros(())) if with_ties else None

    @property
    def margin(self) -> Tensor | None:
        """Margin of ties, > 0; None where comparisons know none."""
        return None if self.raw_margin is None else to_positive(self.raw_margin)

    def forward(self, rows: Tensor, labels: Tensor, **inputs: Tensor) -> dict[str, Tensor]:
        """The loss of a batch.

        Args:
            rows: Shape (N, 2): the places of a label's candidates among the requests, the second
                -1 where there is one alone.
            labels: Shape (N, 1 + aspects): overall first; NaN where it is not known.
            **inputs: What the trunk takes, for all requests.
        """
        means, sigmas = self.head(last_hidden(self.trunk, inputs))
        variances = torch.zeros_like(means) if sigmas is None else sigmas**2
        first, second = rows.clamp(min=0).T
        is_pair = rows[:, 1:] >= 0
        known = ~labels.isnan()
        difference = marginal_logit(
            means[first] - means[second], variances[first] + variances[second]
        )
        # All weights take part whatever the batch holds: processes wait for each other's gradients.
        loss = 0.0 * (means.sum() + variances.sum())
        for column in range(labels.shape[1]):
            paired, alone = (known & is_pair)[:, column], (known & ~is_pair)[:, column]
            if paired.any():
                told = self._of_pairs(difference[paired, column], labels[paired, column], column)
                loss = loss + told * paired.sum()
            if alone.any():
                at, label = first[alone], labels[alone, column]
                told = (
                    regression(means[at, column], label)
                    if sigmas is None
                    else uncertain_regression(means[at, column], sigmas[at, column], label)
                )
                loss = loss + told * alone.sum()
        if self.raw_margin is not None:
            loss = loss + 0.0 * self.raw_margin
        return {"loss": loss / known.sum()}

    def _of_pairs(self, difference: Tensor, outcome: Tensor, column: int) -> Tensor:
        margin = self.margin
        if margin is None or column > 0:  # of aspects the share is known, not whether it is a tie
            return bradley_terry(difference, outcome)
        return rao_kupper(difference, outcome, margin)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Passed on to the trunk; the trainer asks for it."""
        cast("Any", self.trunk).gradient_checkpointing_enable(**options)

    def get_input_embeddings(self) -> nn.Module:
        """The trunk's."""
        return cast("Any", self.trunk).get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The head, which is what stands in their place."""
        return self.head.linear


class ScalarCollator:
    """Labelled candidates to tensors, by the same code that judges."""

    def __init__(self, chat: Chat, labels: ScalarDataset) -> None:
        self._chat = chat
        self._labels = labels

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Batch the labels whose indices the rows hold, see `ScalarNet.forward`."""
        given = [self._labels[row["row"]] for row in rows]
        places: list[tuple[int, int]] = []
        requests: list[Request] = []
        for one in given:
            at = len(requests)
            places.append((at, at + 1 if len(one.requests) == 2 else -1))
            requests += one.requests
        told = [[_nan(one.label), *map(_nan, one.aspects)] for one in given]
        return {
            **self._chat.batch(requests),
            "rows": torch.tensor(places),
            "labels": torch.tensor(told, dtype=torch.float32),
        }


def _nan(value: float | None) -> float:
    return float("nan") if value is None else value


def fit_scalar(
    vlm: VLM, labels: ScalarDataset, head: ScalarConfig, config: OptimConfig, out: Path
) -> tuple[Any, ValueHead, float | None, list[tuple[int, float]]]:
    """Train trunk and head; under ``accelerate launch`` on every process it starts.

    Args:
        vlm: The model whose trunk is trained.
        labels: Taken in order, again from the start when they run out.
        head: What is learned.
        config: Steps, rates, adapters.
        out: Where checkpoints go, in ``checkpoints``; a run that was killed goes on from there.

    Returns:
        The model, adapters merged; its head; the margin of ties; and the loss in nats by step.
    """
    torch.manual_seed(config.seed)
    lora = lora_config(config)
    model = vlm.model if lora is None else get_peft_model(vlm.model, lora)
    if lora is not None and config.gradient_checkpointing:
        vlm.model.enable_input_require_grads()
    if not vlm.model.config.tie_word_embeddings:
        vlm.model.get_output_embeddings().requires_grad_(False)  # noqa: FBT003  its name and place are torch's
    net = ScalarNet(vlm.model.model, width_of(vlm), head)
    trainer = Trainer(
        model=net.train(),
        args=TrainingArguments(**training_arguments(config, out / "checkpoints")),
        data_collator=ScalarCollator(vlm.chat, labels),
        train_dataset=Dataset.from_dict({"row": range(len(labels))}),
        # A factory is taken too, though the annotation names optimisers alone.
        optimizer_cls_and_kwargs=cast(
            "Any", (MuonFactory, {"config": config}) if config.muon_lr else None
        ),
    )
    trainer.model_accepts_loss_kwargs = False
    losses = run_trainer(trainer, config, "training the scalar judge")
    margin = None if net.margin is None else net.margin.item()
    return (model.merge_and_unload() if lora else model), net.head, margin, losses
