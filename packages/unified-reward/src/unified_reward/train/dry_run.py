"""A judge's training without its weights: what can be wrong with a recipe before a card is rented.

The architecture stands on torch's meta device, which has shapes and no memory. Records, processor,
collator, adapters, optimiser and the launcher's configuration are the real ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from datasets import Dataset
from peft import get_peft_model
from transformers import Trainer, TrainingArguments
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.requests import Request
from unified_reward.data.example_file import ExampleFile
from unified_reward.judges.card import Card
from unified_reward.train.judge import JudgeLabels, JudgeTraining, JudgeTurns, Records
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
from unified_reward.train.scalar import ScalarCollator, ScalarExample, ScalarNet
from unified_reward.train.sft import ChatCollator, ChatExample, RankingExample
from unified_reward_lab.examples import CELLS
from unified_reward_lab.microworld import annotator, make_example


Groups = Sequence[Mapping[str, Any]]
TRIED = 8
"""Rows of a file that are tried."""


@dataclass(frozen=True, kw_only=True)
class DryRun:
    """What a training would be, and what is lacking."""

    model: str
    """Class of the model."""
    parameters: int
    trained: int
    """Parameters that are trained."""
    adapters: Mapping[str, int]
    """Number of layers with adapters by name."""
    groups: tuple[Mapping[str, float], ...]
    """Of the optimiser: parameters, rate and weight decay."""
    launch: str
    """``name, sharding``; empty without a launcher."""
    processes: int
    wrapped: Mapping[str, int]
    """Number of layers that FSDP wraps, by class."""
    memory_gib: Mapping[str, float]
    """Of one card, without activations; frozen parts of a policy count as weights."""
    tokens: Mapping[str, int]
    """Of what was tried, by cell of the microworld or row of the file; of two requests or answers,
    the sum; of a ``sample`` that a transformer denoises, those of its latents."""
    latent: tuple[int, ...] = ()
    """Shape of what is denoised, without the batch."""
    timesteps: tuple[float, ...] = ()
    """The only ones that are trained, as the schedule has them; empty for all."""
    per_step: Mapping[str, int]
    """``turns`` or ``pairs`` of all processes, and their ``tokens`` at the mean of ``tokens``."""
    steps_per_epoch: int | None
    """None where the data is not there."""
    epochs: float | None
    lacking: tuple[str, ...]
    """What to provide before the real run, and what would not go well in it."""


def dry_run(config: JudgeTraining, launch: str = "") -> DryRun:
    """Build everything of a judge's training but the weights.

    Args:
        config: What the judge is to be made of.
        launch: A configuration of accelerate, see `read_launch_config`; empty for
            processes that each hold everything.

    Raises:
        ConfigError: Adapters, layers, batch or pictures do not fit.
        DataError: The records cannot be used.
        ModelError: The base is a folder without a model.
    """
    optim, base = config.optim, config.base or "tiny_base"
    started = read_launch_config(launch) if launch else LaunchConfig("", config.processes)
    started.check_batch(config.processes, optim)
    skeleton = read_architecture(base)
    chat = Chat(skeleton.processor, max_pixels=config.max_pixels)
    model = build_meta_model(skeleton.config)
    name, parameters = type(model).__name__, sum(one.numel() for one in model.parameters())
    check_lora_targets(model, optim)
    wrapped = started.fsdp_layers(model)
    tried, n = _tried(config)
    turns = _Enlarged(tried, config)
    collator = _collator(config, chat, turns)
    asked = [collator([{"row": i}])["attention_mask"].sum(-1) for i in range(len(tried))]
    tokens = {key: int(each.sum()) for key, each in zip(tried, asked, strict=True)}
    longest = max(int(each.max()) for each in asked)
    try_forward(skeleton, chat, _requests(turns[[*tokens.values()].index(min(tokens.values()))]))
    groups, hit = _optimiser(config, model, chat, turns)
    lacking: list[str] = []
    if config.data != "microworld" and not Path(config.data).is_file():
        lacking.append(f"data: there is no {config.data}; turns are of the microworld")
    return DryRun(
        model=name,
        parameters=parameters,
        adapters=hit,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(*lacking, *not_here(base), *unfit_tokens(skeleton, longest, "frames")),
        **held(started, groups, parameters if hit else 0),
        **time_report(started, optim, n, turns=1, tokens=sum(tokens.values()) / len(tokens)),
    )


def held(started: LaunchConfig, groups: Groups, frozen: int) -> dict[str, Any]:
    """What is trained and what a card holds, by fields of `DryRun`.

    Args:
        started: How weights are spread.
        groups: Of the optimiser.
        frozen: Number of weights that are not trained.
    """
    trained = sum(one.numel() for group in groups for one in group["params"])
    states = sum(_state_bytes(group) for group in groups)
    return {
        "trained": trained,
        "groups": tuple(_group(one) for one in groups),
        "memory_gib": started.memory_gib(frozen + trained, trained, states),
    }


def time_report(started: LaunchConfig, optim: OptimConfig, n: int, **each: float) -> dict[str, Any]:
    """Steps and epochs, by fields of `DryRun`.

    Args:
        started: With how many processes.
        optim: How long and in which batches.
        n: Rows of the data; 0 where it is not there.
        each: What a row is and has, such as its tokens; what is 0 is not told.
    """
    rows = optim.batch_size * optim.accumulate * started.processes
    return {
        "launch": f"{started.name}, {started.sharding}" if started.name else "",
        "processes": started.processes,
        "per_step": {name: round(rows * one) for name, one in each.items() if one},
        "steps_per_epoch": math.ceil(n / rows) if n else None,
        "epochs": round(optim.steps * rows / n, 2) if n else None,
    }


def _tried(config: JudgeTraining) -> tuple[dict[str, Any], int]:
    """Some records by name, and how many there are; of the microworld where there are none."""
    path = Path(config.data)
    if path.is_file():
        file = ExampleFile(path, seed=config.optim.seed, twins=config.twins)
        return {f"row {i}": file[i] for i in range(min(TRIED, len(file)))}, len(file)
    labels = annotator(config.annotator)
    cells = [cell for cell, weight in config.cells.items() if weight > 0]
    drawn = {
        cell: make_example(*CELLS[cell], split="train", seed=0, index=0, annotator=labels)
        for cell in cells
    }
    optim = config.optim
    length = optim.steps * optim.batch_size * optim.accumulate * config.processes
    return drawn, length if config.data == "microworld" else 0


class _Enlarged:
    """Turns or labels whose pictures, where they are the microworld's, are as large as allowed."""

    def __init__(self, tried: Mapping[str, Any], config: JudgeTraining) -> None:
        records = cast("Records", [*tried.values()])
        card = Card(config.family, config.frames, config.frame_rule, config.max_pixels)
        if config.head == "scalar":
            self._made: Any = JudgeLabels(records, card, config.scalar.aspects)
        else:
            self._made = JudgeTurns(records, card, ranking=config.ranking, seed=config.optim.seed)
        is_file = Path(config.data).is_file()
        self._side = 0 if is_file else math.isqrt(config.max_pixels or 0)

    def __len__(self) -> int:
        return len(self._made)

    def __getitem__(self, index: int) -> Any:
        one = self._made[index]
        if not self._side:
            return one
        if isinstance(one, ChatExample):
            return one._replace(request=self._larger(one.request))
        if isinstance(one, RankingExample):
            return one._replace(first=self._larger(one.first), second=self._larger(one.second))
        return one._replace(requests=tuple(map(self._larger, one.requests)))

    def _larger(self, request: Request) -> Request:
        size = (self._side, self._side)
        parts = (p if isinstance(p, str) else p.resize(size) for p in request.parts)
        return Request(
            tuple(parts), request.choices, request.verdict_prefix, request.max_new_tokens
        )


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


def try_forward(skeleton: Architecture, chat: Chat, requests: Sequence[Request]) -> None:
    """One pass of a narrow copy: pictures, marks, grids and positions fit.

    Raises:
        ConfigError: They do not.
    """
    narrow = build_narrow_model(skeleton.config, len(chat.tokenizer))
    try:
        with torch.inference_mode():
            narrow(**chat.batch(requests), use_cache=False, logits_to_keep=1)
    except (ValueError, RuntimeError, IndexError) as error:
        raise ConfigError(f"the processor's pictures do not fit the model: {error}") from error


class _Unplaced:
    """A trainer with these arguments leaves the model where it is: nowhere."""

    @property
    def place_model_on_device(self) -> bool:
        return False


class _SFTArguments(_Unplaced, SFTConfig): ...


class _Arguments(_Unplaced, TrainingArguments): ...


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
        return _made(trainer)


def optimiser_of(model: torch.nn.Module, optim: OptimConfig) -> tuple[Groups, dict[str, int]]:
    """Groups of the optimiser that a trainer makes of a model, and its adapted layers by name."""
    with TemporaryDirectory() as folder:
        args = _Arguments(**training_arguments(optim, Path(folder)))
        return _made(Trainer(model, args, optimizer_cls_and_kwargs=_muon(optim)))


def _muon(optim: OptimConfig) -> Any:
    return (MuonFactory, {"config": optim}) if optim.muon_lr else None


def _made(trainer: Trainer) -> tuple[Groups, dict[str, int]]:
    groups = trainer.create_optimizer().param_groups
    return groups, adapted(cast("torch.nn.Module", trainer.model))


def adapted(model: torch.nn.Module) -> dict[str, int]:
    """Number of layers with adapters by name."""
    names = (name for name, one in model.named_modules() if hasattr(one, "lora_A"))
    return dict(Counter(name.rpartition(".")[2] for name in names))


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
    """Of a base or policy, whether it would be downloaded."""
    if checkpoint_path(reference).is_dir():
        return []
    return [f"weights: {reference} is not here and would be downloaded"]


def unfit_tokens(skeleton: Architecture, longest: int, lowered: str) -> list[str]:
    """What is wrong with tokens: those of another tokenizer, or more than the model takes."""
    told: list[str] = []
    if not skeleton.has_own_processor:
        told.append("tokens: words are cut by the tiny tokenizer, into more than there will be")
    most = max_context(skeleton.config)
    if most and longest > most:
        told.append(f"tokens: a turn has {longest}, the model takes {most}; lower {lowered}")
    return told
