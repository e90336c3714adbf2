"""Supervised fine-tuning of any vision-language model on question and answer turns, by TRL.

Knows requests and answers as text; not tasks, and not where the turns come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from datasets import Dataset
from peft import LoraConfig
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from unified_reward.models.vlm import Chat
from unified_reward.types import ConfigError, Request


_IGNORED = -100


class Turn(NamedTuple):
    """One user turn and what the assistant is to say."""

    request: Request
    answer: str


class Turns(Protocol):
    """Turns by index, made when asked for, so that no set need fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Turn: ...


@dataclass(frozen=True)
class Optimisation:
    """How the weights are moved."""

    steps: int
    """Optimiser steps, > 0."""
    batch_size: int = 16
    """Turns in one pass, per process."""
    accumulate: int = 2
    """Passes per optimiser step."""
    lr: float = 1e-3
    """Peak learning rate; cosine to zero."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises from zero, in [0, 1)."""
    weight_decay: float = 0.01
    lora_rank: int = 0
    """Rank of the adapters on every linear layer, of the vision tower too; 0 trains all weights."""
    gradient_checkpointing: bool = False
    save_every: int = 0
    """Steps between checkpoints from which a killed run goes on; 0 for none."""
    workers: int = 0
    """Processes that prepare turns."""
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.accumulate < 1:
            raise ConfigError("steps, batch_size and accumulate must be at least 1")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is a share of the steps in [0, 1), not {self.warmup}")


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


class _Progress(TrainerCallback):
    """A rich bar with the latest loss."""

    def __init__(self, title: str, steps: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(), transient=False)
        self._task = self._bar.add_task(title, total=steps, loss="")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_local_process_zero:
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "loss" in logs:
            self._bar.update(self._task, loss=f"loss {float(logs['loss']):.3f}")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.stop()


def _arguments(config: Optimisation, checkpoints: Path) -> SFTConfig:
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(checkpoints),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulate,
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=round(config.steps * config.warmup),
        weight_decay=config.weight_decay,
        gradient_checkpointing=config.gradient_checkpointing,
        save_strategy="steps" if config.save_every else "no",
        save_steps=config.save_every or 1,
        save_total_limit=1,
        logging_steps=max(1, config.steps // 200),
        dataloader_num_workers=config.workers,
        train_sampling_strategy="sequential",
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        seed=config.seed,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        report_to="none",
        disable_tqdm=True,
    )


def _last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint: its state is written last, and not at all by a killed save."""
    states = [one for one in folder.glob("checkpoint-*/trainer_state.json") if one.stat().st_size]
    whole = {int(one.parent.name.rpartition("-")[2]): str(one.parent) for one in states}
    return whole[max(whole)] if whole else None


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
    checkpoints = out / "checkpoints"
    rank = config.lora_rank
    adapters = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    trainer = SFTTrainer(
        model=model,
        args=_arguments(config, checkpoints),
        data_collator=Collator(chat, turns),
        train_dataset=Dataset.from_dict({"row": range(len(turns))}),
        processing_class=chat.processor,
        callbacks=[_Progress(title, config.steps)],
        peft_config=adapters if rank else None,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_last_checkpoint(checkpoints))
    trained = trainer.accelerator.unwrap_model(trainer.model)
    # The trainer's own log, because it is in the checkpoints: a run that went on has all losses.
    logged = [one for one in trainer.state.log_history if "loss" in one]
    losses = [(int(one["step"]), float(one["loss"])) for one in logged]
    return (trained.merge_and_unload() if rank else trained), losses
