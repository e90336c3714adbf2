"""A judge's training without its weights, to find errors of a recipe before a GPU is rented.

The architecture is built on torch's meta device, which has shapes and no memory. Examples,
processor, collator, adapters, optimiser and the launcher's configuration are the real ones.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from unified_reward.backends.batching import FAULTS
from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError, one_line
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.requests import Request
from unified_reward.core.samples import Example
from unified_reward.data.series import find_series
from unified_reward.judges.card import Card
from unified_reward.train.bad_items import collate_alone
from unified_reward.train.judge import JudgeLabels, JudgeTraining, JudgeTurns, training_examples
from unified_reward.train.launch import LaunchConfig, read_launch_config
from unified_reward.train.meta_models import (
    Architecture,
    build_meta_model,
    build_narrow_model,
    max_context,
    read_architecture,
)
from unified_reward.train.optim import (
    MuonFactory,
    OptimConfig,
    check_lora_targets,
    lora_config,
    training_arguments,
)
from unified_reward.train.placeholders import placeholder_examples
from unified_reward.train.precision import frozen_dtype
from unified_reward.train.scalar import ScalarCollator, ScalarExample, ScalarNet
from unified_reward.train.sft import ChatCollator, ChatExample, RankingExample


Groups = Sequence[Mapping[str, Any]]
PREVIEWS = 8
"""Rows of a file that a dry run reads."""

_LAYER = re.compile(r"[^.]+(?:\.\d+)?$")
"""Last part of a layer's name, with the number of a layer in a list, such as ``to_out.0``."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """Sizes and costs of a training, and what is missing for it."""

    model: str
    """Class of the model."""
    parameters: int
    trained: int
    """Number of parameters that are trained."""
    adapters: Mapping[str, int]
    """Number of layers with adapters by name."""
    groups: tuple[Mapping[str, float], ...]
    """Parameter groups of the optimiser: number of parameters, learning rate, weight decay."""
    launch: str
    """``name, sharding``; empty without a launcher."""
    processes: int
    wrapped: Mapping[str, int]
    """Number of layers that FSDP wraps, by class."""
    memory_gib: Mapping[str, float]
    """Memory of one card without activations; frozen parts of a policy count as weights."""
    tokens: Mapping[str, int]
    """Tokens of each preview, by row of the file or kind of example; the sum over two requests or
    answers; of a ``sample`` that a transformer denoises, those of its latents."""
    latent: tuple[int, ...] = ()
    """Shape of the latents, without the batch."""
    timesteps: tuple[float, ...] = ()
    """The only timesteps that are trained, as the schedule has them; empty for all."""
    per_step: Mapping[str, int]
    """``turns`` or ``pairs`` of all processes, and their ``tokens`` at the mean of ``tokens``."""
    steps_per_epoch: int | None
    """None where the data is absent."""
    epochs: float | None
    dtype: str = "float32"
    """Type of frozen weights on a GPU."""
    lacking: tuple[str, ...]
    """Problems: what to provide before the real run, and what would not work in it."""


def dry_run(config: JudgeTraining, launch: str = "") -> DryRun:
    """Build everything of a judge's training except its weights.

    Args:
        config: The training.
        launch: A configuration of accelerate, see `read_launch_config`; empty for
            processes
            that each hold everything.

    Raises:
        ConfigError: Adapters, layers, batch or images do not fit, or no base is named.
        DataError: The examples cannot be used.
        ModelError: The base is a folder without a model.
    """
    optim, base = config.optim, config.base
    if not base:
        raise ConfigError("name the base to train from: judge.base is a folder or a hub id")
    launcher = read_launch_config(launch) if launch else LaunchConfig("", config.processes)
    launcher.check_batch(config.processes, optim)
    architecture = read_architecture(base)
    chat = Chat(architecture.processor, max_pixels=config.max_pixels)
    model = build_meta_model(architecture.config)
    name, parameters = type(model).__name__, sum(weight.numel() for weight in model.parameters())
    check_lora_targets(model, optim)
    wrapped = launcher.fsdp_layers(model)
    previews, n, lacking = _previews(config)
    turns = _EnlargedTurns(previews, config)
    collator = _collator(config, chat, turns)
    batches = [collate_alone(collator, turns, i) for i in range(len(previews))]
    lengths = [batch["attention_mask"].sum(-1) for batch in batches]
    tokens = {key: int(each.sum()) for key, each in zip(previews, lengths, strict=True)}
    longest = max(int(each.max()) for each in lengths)
    shortest = [*tokens.values()].index(min(tokens.values()))
    try_forward(architecture, chat, _requests(turns[shortest]))
    groups, adapter_layers = _optimiser(config, model, chat, turns)
    dtype = frozen_dtype(config.dtype, None, optim.lora_rank, on_gpu=True)
    return DryRun(
        model=name,
        parameters=parameters,
        adapters=adapter_layers,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(*lacking, *not_here(base), *unfit_tokens(architecture, longest, "frames")),
        dtype=dtype,
        **memory_report(
            launcher, groups, parameters * launcher.width(dtype) if adapter_layers else 0
        ),
        **time_report(launcher, optim, n, turns=1, tokens=sum(tokens.values()) / len(tokens)),
    )


def memory_report(launcher: LaunchConfig, groups: Groups, frozen: int) -> dict[str, Any]:
    """Trained parameters and the memory of one card, by fields of `DryRun`.

    Args:
        launcher: Sharding of the weights.
        groups: Parameter groups of the optimiser.
        frozen: Bytes of the weights that are not trained.
    """
    trained = sum(weight.numel() for group in groups for weight in group["params"])
    states = sum(_state_bytes(group) for group in groups)
    return {
        "trained": trained,
        "groups": tuple(_group(group) for group in groups),
        "memory_gib": launcher.memory_gib(frozen, trained, states),
    }


def time_report(
    launcher: LaunchConfig, optim: OptimConfig, n: int, **each: float
) -> dict[str, Any]:
    """Steps and epochs, by fields of `DryRun`.

    Args:
        launcher: Number of processes.
        optim: Steps and batches.
        n: Rows of the data; 0 where it is absent.
        each: Units of one row, such as its tokens; a unit of 0 is left out.
    """
    rows = optim.batch_size * optim.accumulate * launcher.processes
    return {
        "launch": f"{launcher.name}, {launcher.sharding}" if launcher.name else "",
        "processes": launcher.processes,
        "per_step": {name: round(rows * units) for name, units in each.items() if units},
        "steps_per_epoch": math.ceil(n / rows) if n else None,
        "epochs": round(optim.steps * rows / n, 2) if n else None,
    }


def _previews(config: JudgeTraining) -> tuple[Mapping[str, Example], int, list[str]]:
    """Some examples by name, the number of all, and what is missing; placeholders without data."""
    path = Path(config.data)
    if not is_file(path) and (path.suffix or not config.data):
        missing = f"data: there is no {path}" if config.data else "data: none is named"
        return placeholder_examples(config.family), 0, [f"{missing}; turns are placeholders"]
    examples = training_examples(config)
    found = find_series(config.data, config.data_options)
    if found:
        series, options = found
        return series.previews(options), len(examples), []
    rows = {f"row {i}": examples[i] for i in range(min(PREVIEWS, len(examples)))}
    return rows, len(examples), []


class _EnlargedTurns:
    """Turns or labels whose images, unless they are from a file, are as large as allowed."""

    def __init__(self, previews: Mapping[str, Example], config: JudgeTraining) -> None:
        examples = [*previews.values()]
        card = Card(config.family, config.frames, config.frame_rule, config.max_pixels)
        if config.head == "scalar":
            self._turns: Any = JudgeLabels(examples, card, config.scalar.aspects)
        else:
            seed = config.optim.seed
            self._turns = JudgeTurns(examples, card, ranking=config.ranking, seed=seed)
        self._side_px = 0 if is_file(config.data) else math.isqrt(config.max_pixels or 0)

    def __len__(self) -> int:
        return len(self._turns)

    def name(self, index: int) -> str:
        return self._turns.name(index)

    def __getitem__(self, index: int) -> Any:
        turn = self._turns[index]
        if not self._side_px:
            return turn
        if isinstance(turn, ChatExample):
            return turn._replace(request=self._enlarge(turn.request))
        if isinstance(turn, RankingExample):
            first, second = self._enlarge(turn.first), self._enlarge(turn.second)
            return turn._replace(first=first, second=second)
        return turn._replace(requests=tuple(map(self._enlarge, turn.requests)))

    def _enlarge(self, request: Request) -> Request:
        size = (self._side_px, self._side_px)
        parts = (p if isinstance(p, str) else p.resize(size) for p in request.parts)
        return replace(request, parts=tuple(parts))


def _collator(config: JudgeTraining, chat: Chat, turns: Any) -> ChatCollator | ScalarCollator:
    return ScalarCollator(chat, turns) if config.head == "scalar" else ChatCollator(chat, turns)


def _requests(turn: ChatExample | RankingExample | ScalarExample) -> Sequence[Request]:
    match turn:
        case ChatExample():
            return [turn.request]
        case RankingExample():
            return [turn.first, turn.second]
        case _:
            return turn.requests


def try_forward(architecture: Architecture, chat: Chat, requests: Sequence[Request]) -> None:
    """Run a narrow copy once, so that images, marks, grids and positions are known to fit.

    Raises:
        ConfigError: They do not fit.
    """
    narrow = build_narrow_model(architecture.config, len(chat.tokenizer))
    try:
        with torch.inference_mode():
            narrow(**chat.batch(requests), use_cache=False, logits_to_keep=1)
    except FAULTS as error:
        raise ConfigError(
            "the processor's images do not fit the model "
            f"({type(chat.processor).__name__}, {architecture.config.model_type}): "
            f"{one_line(error)}"
        ) from error


class _OnMeta:
    """Mixin of arguments with which a trainer leaves the model on the meta device."""

    @property
    def place_model_on_device(self) -> bool:
        return False


class _SFTArguments(_OnMeta, SFTConfig): ...


class _Arguments(_OnMeta, TrainingArguments): ...


def _optimiser(
    config: JudgeTraining, model: Any, chat: Chat, turns: Any
) -> tuple[Groups, dict[str, int]]:
    optim = config.optim
    if config.head == "scalar":
        return optimiser_of(_scalar_net(config, model), optim)
    with TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
            args=_SFTArguments(
                **training_arguments(optim, Path(folder)),
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=None,
            ),
            data_collator=cast("Any", _collator(config, chat, turns)),
            train_dataset=Dataset.from_dict({"row": range(len(turns))}),
            processing_class=chat.processor,
            peft_config=lora_config(optim),
            optimizer_cls_and_kwargs=_muon(optim),
        )
        return _groups_and_adapters(trainer)


def optimiser_of(model: torch.nn.Module, optim: OptimConfig) -> tuple[Groups, dict[str, int]]:
    """Parameter groups that a trainer makes of a model, and its adapted layers by name."""
    with TemporaryDirectory() as folder:
        args = _Arguments(**training_arguments(optim, Path(folder)))
        return _groups_and_adapters(Trainer(model, args, optimizer_cls_and_kwargs=_muon(optim)))


def _muon(optim: OptimConfig) -> Any:
    return (MuonFactory, {"config": optim}) if optim.muon_lr else None


def _groups_and_adapters(trainer: Trainer) -> tuple[Groups, dict[str, int]]:
    groups = trainer.create_optimizer().param_groups
    return groups, adapted(cast("torch.nn.Module", trainer.model))


def adapted(model: torch.nn.Module) -> dict[str, int]:
    """Number of layers with adapters by name."""
    names = (name for name, layer in model.named_modules() if hasattr(layer, "lora_A"))
    return dict(Counter(_LAYER.findall(name)[0] for name in names))


def _scalar_net(config: JudgeTraining, model: Any) -> ScalarNet:
    lora = lora_config(config.optim)
    if lora is not None:
        get_peft_model(model, lora)
    with torch.device("meta"):
        return ScalarNet(model.model, model.config.get_text_config().hidden_size, config.scalar)


def _state_bytes(group: Mapping[str, Any]) -> int:
    """AdamW keeps two float32 moments of a weight, Muon one."""
    return sum(one.numel() for one in group["params"]) * (4 if group.get("use_muon") else 8)


def _group(group: Mapping[str, Any]) -> dict[str, float]:
    return {
        "parameters": sum(one.numel() for one in group["params"]),
        "lr": group["lr"],
        "weight_decay": group["weight_decay"],
    }


def not_here(reference: str) -> list[str]:
    """A warning if a base or policy would be downloaded; else nothing."""
    if is_folder(checkpoint_path(reference)):
        return []
    return [f"weights: {reference} is not here and would be downloaded"]


def unfit_tokens(architecture: Architecture, longest: int, option: str) -> list[str]:
    """Warnings about tokens: another tokenizer's, or more than the model takes.

    Args:
        architecture: Configuration and processor of the base.
        longest: Tokens of the longest turn.
        option: Name of the option that lowers them.
    """
    warnings: list[str] = []
    if not architecture.has_own_processor:
        warnings.append("tokens: counted by the tiny tokenizer, which makes more of them")
    most = max_context(architecture.config)
    if most and longest > most:
        warnings.append(f"tokens: a turn has {longest}, the model takes {most}; lower {option}")
    return warnings
