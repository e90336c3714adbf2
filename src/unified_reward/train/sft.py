"""Supervised fine-tuning of any vision-language model on question and answer turns, by TRL.

Knows requests and answers as text; not tasks, and not where the turns come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from unified_reward.models.vlm import Chat
from unified_reward.train.optim import MuonFactory, Optimisation, adapters, arguments, run
from unified_reward.types import Request


_IGNORED = -100


class Turn(NamedTuple):
    """One user turn and what the assistant is to say."""

    request: Request
    answer: str


class Turns(Protocol):
    """Turns by index, made when asked for, so that no set need fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Turn: ...


class Collator:
    """Turns to tensors, by the same code that judges; the loss sees answer tokens alone."""

    def __init__(self, chat: Chat, turns: Turns) -> None:
        self._chat = chat
        self._turns = turns

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Batch the turns whose indices the rows hold; ``labels`` has shape (B, T)."""
        turns = [self._turns[row["row"]] for row in rows]
        answers = [[*self._chat.tokens(turn.answer), self._chat.end] for turn in turns]
        inputs = self._chat.batch([turn.request for turn in turns], answers)
        labels = torch.full_like(inputs["input_ids"], _IGNORED)
        for k, ids in enumerate(answers):
            labels[k, -len(ids) :] = inputs["input_ids"][k, -len(ids) :]
        return {**inputs, "labels": labels}


def fit(
    model: Any,
    chat: Chat,
    turns: Turns,
    config: Optimisation,
    out: Path,
    *,
    title: str = "training",
) -> tuple[Any, list[tuple[int, float]]]:
    """Fine-tune a model; under ``accelerate launch`` on every process it starts.

    Args:
        model: A transformers vision-language model.
        chat: Its processor.
        turns: Taken in order, again from the start when they run out.
        config: Steps, rates, adapters.
        out: Where checkpoints go, in ``checkpoints``; a run that was killed goes on from there.
        title: What the progress bar says.

    Returns:
        The trained model, adapters merged, and the loss in nats per answer token by step.
    """
    shared = arguments(config, out / "checkpoints")
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        data_collator=Collator(chat, turns),
        train_dataset=Dataset.from_dict({"row": range(len(turns))}),
        processing_class=chat.processor,
        peft_config=adapters(config),
        # A factory is taken too, though the annotation names optimisers alone.
        optimizer_cls_and_kwargs=cast(
            "Any", (MuonFactory, {"config": config}) if config.muon_lr else None
        ),
    )
    losses = run(trainer, config, title)
    trained = trainer.accelerator.unwrap_model(trainer.model)
    return (trained.merge_and_unload() if config.lora_rank else trained), losses
