"""Optimisation shared by all trainings: settings, LoRA, Muon, checkpoints, checks, progress bar."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.rate import RateColumn


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule settings."""

    steps: int
    """Optimiser steps, > 0."""
    batch_size: int = 16
    """Examples per forward pass and process, > 0."""
    accumulate: int = 2
    """Forward passes per optimiser step (gradient accumulation), > 0."""
    lr: float = 1e-3
    """Peak learning rate, >= 0; decays to zero with a cosine."""
    muon_lr: float = 0.0
    """Peak learning rate of the hidden weight matrices under Muon; 0 trains them with AdamW too."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises from zero, in [0, 1)."""
    weight_decay: float = 0.01
    """Decoupled weight decay of AdamW and Muon, >= 0."""
    lora_rank: int = 0
    """Rank of the LoRA adapters; 0 trains all weights."""
    lora_targets: tuple[str, ...] = ()
    """Names, or ends of names, of the layers with adapters, such as ``q_proj``; empty for every
    linear layer, including the vision tower."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    save_every: int = 0
    """Steps between checkpoints from which a killed run resumes; 0 for none."""
    workers: int = 0
    """Processes that prepare batches; 0 prepares them in the training process."""
    seed: int = 0
    """Random seed."""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.accumulate < 1:
            raise ConfigError("steps, batch_size and accumulate must be at least 1")
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup must be a share of the steps in [0, 1), not {self.warmup}")
        for name in ("lr", "muon_lr", "weight_decay", "lora_rank", "save_every", "workers"):
            if not 0 <= (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be 0 or more, and finite, not {value}")


def loss_progress() -> Progress:
    """Progress bar that shows the latest loss, a field of its task."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
    console = Console()
    return Progress(
        *columns,
        RateColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


class _Progress(TrainerCallback):
    def __init__(self, title: str, steps: int) -> None:
        self._bar = loss_progress()
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


def training_arguments(
    config: OptimConfig, checkpoints: Path, dtype: torch.dtype = torch.float32
) -> dict[str, Any]:
    """Arguments of a transformers trainer that every training shares.

    Args:
        config: Optimiser and schedule.
        checkpoints: Folder of the checkpoints of a run.
        dtype: Type of the model's weights; bfloat16 needs mixed precision, on a CPU too.
    """
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(checkpoints),
        "max_steps": config.steps,
        "per_device_train_batch_size": config.batch_size,
        "gradient_accumulation_steps": config.accumulate,
        "learning_rate": config.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": round(config.steps * config.warmup),
        "weight_decay": config.weight_decay,
        "activation_checkpointing": config.gradient_checkpointing,
        "save_strategy": "steps" if config.save_every else "no",
        "save_steps": config.save_every or 1,
        "save_total_limit": 1,
        "logging_steps": max(1, config.steps // 200),
        "dataloader_num_workers": config.workers,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "seed": config.seed,
        "bf16": on_gpu or dtype == torch.bfloat16,
        "use_cpu": not on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def lora_config(config: OptimConfig) -> LoraConfig | None:
    """LoRA configuration of the wanted rank and layers; None to train all weights."""
    rank = config.lora_rank
    targets = list(config.lora_targets) or "all-linear"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets) if rank else None


def check_lora_targets(model: torch.nn.Module, config: OptimConfig) -> None:
    """Check that every name in ``lora_targets`` matches a layer; PEFT ignores one that does not.

    Raises:
        ConfigError: Some match no linear layer; names these, and the layers there are.
    """
    linear = [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]
    # Names as they were before adapters were added.
    names = [name.removesuffix(".base_layer") for name in linear if ".lora_" not in name]
    absent = [
        target
        for target in config.lora_targets
        if not any(f".{name}.".endswith(f".{target}.") for name in names)
    ]
    if absent and config.lora_rank:
        known = sorted({name.rpartition(".")[2] for name in names})
        raise ConfigError(
            f"lora_targets: no linear layer is named {', '.join(absent)}; "
            f"there are {', '.join(known)}"
        )


class _ExactMuon(Muon):
    """Muon in the precision of the weights; many CPUs are slow in bfloat16."""

    @staticmethod
    def _orthogonalize(group: Any, updates: list[torch.Tensor]) -> list[torch.Tensor]:
        settings = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"]}
        return [
            zero_power_via_newton_schulz_5(update.flatten(1), dtype=update.dtype, **settings)
            for update in updates
        ]


def build_muon(
    model: torch.nn.Module,
    excluded: set[torch.Tensor],
    *,
    lr: float,
    muon_lr: float,
    weight_decay: float,
) -> Muon:
    """Build Muon for the hidden matrices of a model, with AdamW for all other weights.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; updates have AdamW's size.

    Args:
        model: The model; weights that need no gradient are left out.
        excluded: Matrices that AdamW trains too, such as embeddings and the output layer.
        lr: Learning rate of AdamW.
        muon_lr: Learning rate of Muon.
        weight_decay: Decoupled weight decay of both.
    """
    linear = {part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)}
    linear -= excluded
    # In the model's order, by which a resumed run finds the state of each weight.
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hidden = [weight for weight in trained if weight in linear]
    others = [weight for weight in trained if weight not in linear]
    decay = {"weight_decay": weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": hidden, "lr": muon_lr, **decay, "use_muon": True},
        {"params": others, "lr": lr, **decay, "use_muon": False},
    ]
    optimiser = Muon if torch.cuda.is_available() else _ExactMuon
    return optimiser(groups, use_adjusted_lr=True)


class MuonFactory:
    """Builds Muon for a language model, for trainers that build their optimiser after adapters."""

    def __call__(self, model: Any, config: OptimConfig) -> Muon:
        """Build the optimiser; embeddings and output layer are trained by AdamW."""
        ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        return build_muon(
            model,
            ends,
            lr=config.lr,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
        )


def optimizer_factory(config: OptimConfig) -> Any:
    """Value for a trainer's ``optimizer_cls_and_kwargs``: Muon, or None for the trainer's AdamW."""
    # A factory is accepted too, though the trainer's annotation names optimisers only.
    return (MuonFactory, {"config": config}) if config.muon_lr else None


def last_checkpoint(folder: Path) -> str | None:
    """Path of the newest complete checkpoint; None without one.

    The trainer writes ``trainer_state.json`` last, so a save that was killed has none.
    """
    states = [
        file for file in folder.glob("checkpoint-*/trainer_state.json") if file.stat().st_size
    ]
    complete = {int(file.parent.name.rpartition("-")[2]): str(file.parent) for file in states}
    return complete[max(complete)] if complete else None


def non_finite_error(what: str, step: int, checkpoint: str | Path | None) -> ModelError:
    """Error for a run that aborts because of a value that is NaN or infinite.

    Args:
        what: The value, such as ``loss``.
        step: Number of the optimiser step, from 1.
        checkpoint: The last good checkpoint; None without one.
    """
    saved = f"the last checkpoint is {checkpoint}" if checkpoint else "no checkpoint was saved"
    # Before the first step nothing was learned yet.
    remedy = (
        "use a lower learning rate" if step > 1 else "the weights hold it, or need another dtype"
    )
    return ModelError(f"the {what} of step {step} is not finite; {saved}; {remedy}")


class FiniteTrainer(Trainer):
    """Mixin that aborts before the step if loss or gradient is not finite.

    transformers' own trainer logs the mean of the finite losses and trains on.
    """

    def training_step(
        self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Run forward and backward on a batch.

        Raises:
            ModelError: The loss is not finite.
        """
        loss: torch.Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._check_finite(loss, "loss")
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm: Any = super()._clip_grad_norm(model)
        if norm is not None:  # DeepSpeed may know it only after the step
            self._check_finite(norm, "gradient")
        return norm

    def _check_finite(self, value: Any, what: str) -> None:
        if not math.isfinite(float(value)):
            newest = last_checkpoint(Path(self.args.output_dir or ""))
            raise non_finite_error(what, self.state.global_step + 1, newest)


def gather_full_weights(trainer: Trainer) -> None:
    """Gather weights that FSDP or ZeRO-3 shard over processes back into the model.

    The first process then holds them all, in main memory; the model of the others is empty, so that
    merging adapters makes no process wait for another. Weights that are not sharded stay as they
    are.
    """
    model = cast("torch.nn.Module", trainer.model)
    if any(isinstance(weight, DTensor) for weight in model.parameters()):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = cast("Mapping[str, Any]", get_model_state_dict(model, options=options))
    elif any(hasattr(weight, "ds_id") for weight in model.parameters()):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        return
    is_main = trainer.accelerator.is_main_process
    gathered: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # tied weights stay tied
    for prefix, module in model.named_modules():
        for name, old in [*module.named_parameters(recurse=False)]:
            if old not in gathered:
                key = f"{prefix}.{name}" if prefix else name
                value = weights[key] if is_main else torch.empty(old.shape, device="meta")
                gathered[old] = torch.nn.Parameter(cast("torch.Tensor", value), old.requires_grad)
            setattr(module, name, gathered[old])


def run_trainer(trainer: Trainer, config: OptimConfig, title: str) -> list[tuple[int, float]]:
    """Train, resuming from the newest complete checkpoint of a run that was killed.

    Returns:
        Step and mean loss of each logged step.
    """
    check_lora_targets(cast("torch.nn.Module", trainer.model), config)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(title, config.steps))
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir or "")))
    gather_full_weights(trainer)
    # The trainer's log is part of the checkpoints, so that a resumed run has all losses.
    logged = [row for row in trainer.state.log_history if "loss" in row]
    return [(int(row["step"]), float(row["loss"])) for row in logged]
