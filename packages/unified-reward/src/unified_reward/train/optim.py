"""How weights are moved, whatever the loss: the arguments, optimisers and bar of every trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig
from pytorch_optimizer import Muon
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.tensor import DTensor
from transformers import PrinterCallback, Trainer, TrainerCallback

from unified_reward.core.errors import ConfigError


@dataclass(frozen=True)
class OptimConfig:
    """How the weights are moved."""

    steps: int
    """Optimiser steps, > 0."""
    batch_size: int = 16
    """Turns in one pass, per process."""
    accumulate: int = 2
    """Passes per optimiser step."""
    lr: float = 1e-3
    """Peak learning rate; cosine to zero."""
    muon_lr: float = 0.0
    """Peak learning rate of the hidden weight matrices under Muon; 0 leaves them to AdamW too."""
    warmup: float = 0.03
    """Share of the steps in which the rate rises from zero, in [0, 1)."""
    weight_decay: float = 0.01
    lora_rank: int = 0
    """Rank of the adapters; 0 trains all weights."""
    lora_targets: tuple[str, ...] = ()
    """Ends of the names of the layers with adapters, such as ``q_proj``; empty for every linear
    layer, of the vision tower too."""
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


def loss_progress() -> Progress:
    """A rich bar with the latest loss, a field of its task."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[loss]}"))
    return Progress(*columns, TimeRemainingColumn(), transient=False)


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


def training_arguments(config: OptimConfig, checkpoints: Path) -> dict[str, Any]:
    """The part of a trainer's arguments that every training shares."""
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
        "gradient_checkpointing": config.gradient_checkpointing,
        "save_strategy": "steps" if config.save_every else "no",
        "save_steps": config.save_every or 1,
        "save_total_limit": 1,
        "logging_steps": max(1, config.steps // 200),
        "dataloader_num_workers": config.workers,
        "train_sampling_strategy": "sequential",
        "remove_unused_columns": False,
        "seed": config.seed,
        "bf16": on_gpu,
        "use_cpu": not on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }


def lora_config(config: OptimConfig) -> LoraConfig | None:
    """Adapters of the wanted rank on the wanted layers; None to train all weights."""
    rank = config.lora_rank
    targets = list(config.lora_targets) or "all-linear"
    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets) if rank else None


def check_lora_targets(model: torch.nn.Module, config: OptimConfig) -> None:
    """See that every name in ``lora_targets`` is of a layer; one that is not would be passed over.

    Raises:
        ConfigError: Names those that are of none, and what there is.
    """
    names = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)]
    absent = [
        target
        for target in config.lora_targets
        if not any(f".{name}.".endswith(f".{target}.") for name in _plain(names))
    ]
    if absent and config.lora_rank:
        known = sorted({name.rpartition(".")[2] for name in _plain(names)})
        raise ConfigError(
            f"lora_targets: no linear layer is named {', '.join(absent)}; "
            f"there are {', '.join(known)}"
        )


def _plain(names: list[str]) -> list[str]:
    """Names of layers as they were before adapters were put on them."""
    return [name.removesuffix(".base_layer") for name in names if ".lora_" not in name]


class _ExactMuon(Muon):
    """Muon in the weights' own precision; without instructions for it, bfloat16 is slow."""

    @staticmethod
    def _orthogonalize(group: Any, updates: list[torch.Tensor]) -> list[torch.Tensor]:
        settings = {"num_steps": group["ns_steps"], "weights": group["ns_coeffs"]}
        return [
            zero_power_via_newton_schulz_5(one.flatten(1), dtype=one.dtype, **settings)
            for one in updates
        ]


def build_muon(
    model: torch.nn.Module,
    ends: set[torch.Tensor],
    *,
    lr: float,
    muon_lr: float,
    weight_decay: float,
) -> Muon:
    """Muon for the hidden matrices of a model, with AdamW for its ``ends`` and all other weights.

    Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; updates have AdamW's size.
    """
    linear = {one.weight for one in model.modules() if isinstance(one, torch.nn.Linear)} - ends
    # In the model's order, by which a resumed run finds the state of each weight.
    moved = [one for one in model.parameters() if one.requires_grad]
    hidden = [one for one in moved if one in linear]
    others = [one for one in moved if one not in linear]
    decay = {"weight_decay": weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": hidden, "lr": muon_lr, **decay, "use_muon": True},
        {"params": others, "lr": lr, **decay, "use_muon": False},
    ]
    made = Muon if torch.cuda.is_available() else _ExactMuon
    return made(groups, use_adjusted_lr=True)


class MuonFactory:
    """Makes `build_muon` of a language model once its adapters are in place."""

    def __call__(self, model: Any, config: OptimConfig) -> Muon:
        """The optimiser of a model's trainable weights; embeddings and output are AdamW's."""
        ends = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
        return build_muon(
            model,
            ends,
            lr=config.lr,
            muon_lr=config.muon_lr,
            weight_decay=config.weight_decay,
        )


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint: its state is written last, and not at all by a killed save."""
    states = [one for one in folder.glob("checkpoint-*/trainer_state.json") if one.stat().st_size]
    whole = {int(one.parent.name.rpartition("-")[2]): str(one.parent) for one in states}
    return whole[max(whole)] if whole else None


def gather_full_weights(trainer: Trainer) -> None:
    """Put weights that FSDP or ZeRO-3 spread over processes back into the model.

    The first process then holds them all, in its main memory; the model of the others is empty, so
    that merging adapters makes no process wait for another. Weights in one piece stay as they are.
    """
    model = cast("torch.nn.Module", trainer.model)
    if any(isinstance(one, DTensor) for one in model.parameters()):
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights = cast("Mapping[str, Any]", get_model_state_dict(model, options=options))
    elif any(hasattr(one, "ds_id") for one in model.parameters()):
        weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    else:
        return
    is_main = trainer.accelerator.is_main_process
    made: dict[torch.nn.Parameter, torch.nn.Parameter] = {}  # tied weights stay tied
    for prefix, module in model.named_modules():
        for name, old in [*module.named_parameters(recurse=False)]:
            if old not in made:
                place = f"{prefix}.{name}" if prefix else name
                value = weights[place] if is_main else torch.empty(old.shape, device="meta")
                made[old] = torch.nn.Parameter(cast("torch.Tensor", value), old.requires_grad)
            setattr(module, name, made[old])


def run_trainer(trainer: Trainer, config: OptimConfig, title: str) -> list[tuple[int, float]]:
    """Train, from the newest whole checkpoint of a run that was killed.

    Returns:
        Loss by optimiser step.
    """
    check_lora_targets(cast("torch.nn.Module", trainer.model), config)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress(title, config.steps))
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir or "")))
    gather_full_weights(trainer)
    # The trainer's own log, because it is in the checkpoints: a run that went on has all losses.
    logged = [one for one in trainer.state.log_history if "loss" in one]
    return [(int(one["step"]), float(one["loss"])) for one in logged]
