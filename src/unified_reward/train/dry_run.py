"""A training without its weights: all that can be wrong with a recipe before a card is rented.

The architecture stands on torch's meta device, which has shapes and no memory. Records, processor,
collator, adapters, optimiser and the launcher's configuration are the real ones.
"""

from __future__ import annotations

import math
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

from unified_reward.card import Card
from unified_reward.data.microworld import CELLS
from unified_reward.data.rows import RecordFile
from unified_reward.judge import located
from unified_reward.microworld import annotator, item
from unified_reward.models.chat import Chat
from unified_reward.train.judge import JudgeLabels, JudgeTraining, JudgeTurns, Records
from unified_reward.train.launch import Launch, read_launch
from unified_reward.train.optim import MuonFactory, adapters, arguments, check_targets
from unified_reward.train.scalar import LabelCollator, Labelled, ScalarNet
from unified_reward.train.sft import Collator, Ranking, Turn
from unified_reward.train.skeleton import (
    Skeleton,
    build_empty,
    build_narrow,
    context_of,
    read_skeleton,
)
from unified_reward.types import ConfigError, Request


_TRIED = 8
"""Records of a file that are tried."""


@dataclass(frozen=True)
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
    wrapped: Mapping[str, int]
    """Number of layers that FSDP wraps, by class."""
    memory_gib: Mapping[str, float]
    """Of one card, without activations."""
    tokens: Mapping[str, int]
    """Of what was tried, by cell of the microworld or row of the file; of two requests, the sum."""
    turns_per_step: int
    tokens_per_step: int
    """At the mean of the turns that were tried."""
    steps_per_epoch: int | None
    """None where the data is not there."""
    epochs: float | None
    lacking: tuple[str, ...]
    """What to provide before the real run, and what would not go well in it."""


def dry_run(config: JudgeTraining, launch: str = "") -> DryRun:
    """Build everything of a judge's training but the weights.

    Args:
        config: What the judge is to be made of.
        launch: A configuration of accelerate, see `read_launch`; empty for processes that each
            hold everything.

    Raises:
        ConfigError: Adapters, layers, batch or pictures do not fit.
        DataError: The records cannot be used.
        ModelError: The base is a folder without a model.
    """
    optim, base = config.optim, config.base or "tiny_base"
    started = read_launch(launch) if launch else Launch("", config.processes)
    started.check_batch(config.processes, optim)
    skeleton = read_skeleton(base)
    chat = Chat(skeleton.processor, max_pixels=config.max_pixels)
    model = build_empty(skeleton.config)
    name, parameters = type(model).__name__, sum(one.numel() for one in model.parameters())
    check_targets(model, optim)
    wrapped = started.wrapped(model)
    tried, n = _tried(config)
    turns = _Enlarged(tried, config)
    collator = _collator(config, chat, turns)
    asked = [collator([{"row": i}])["attention_mask"].sum(-1) for i in range(len(tried))]
    tokens = {key: int(each.sum()) for key, each in zip(tried, asked, strict=True)}
    longest = max(int(each.max()) for each in asked)
    _forward(skeleton, chat, turns[[*tokens.values()].index(min(tokens.values()))])
    groups, hit = _optimiser(config, model, chat, turns)
    trained = sum(one.numel() for group in groups for one in group["params"])
    states = sum(_state_bytes(group) for group in groups)
    per_step = optim.batch_size * optim.accumulate * config.processes
    return DryRun(
        model=name,
        parameters=parameters,
        trained=trained,
        adapters=hit,
        groups=tuple(_group(one) for one in groups),
        launch=f"{started.name}, {started.sharding}" if launch else "",
        wrapped=wrapped,
        memory_gib=started.memory_gib(parameters + trained * bool(hit), trained, states),
        tokens=tokens,
        turns_per_step=per_step,
        tokens_per_step=round(per_step * sum(tokens.values()) / len(tokens)),
        steps_per_epoch=math.ceil(n / per_step) if n else None,
        epochs=round(optim.steps * per_step / n, 2) if n else None,
        lacking=_lacking(config, skeleton, base, longest),
    )


def _tried(config: JudgeTraining) -> tuple[dict[str, Any], int]:
    """Some records by name, and how many there are; of the microworld where there are none."""
    path = Path(config.data)
    if path.is_file():
        file = RecordFile(path, seed=config.optim.seed, twins=config.twins)
        return {f"row {i}": file[i] for i in range(min(_TRIED, len(file)))}, len(file)
    labels = annotator(config.annotator)
    cells = [cell for cell, weight in config.cells.items() if weight > 0]
    drawn = {
        cell: item(*CELLS[cell], split="train", seed=0, index=0, annotator=labels) for cell in cells
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
        if isinstance(one, Turn):
            return one._replace(request=self._larger(one.request))
        if isinstance(one, Ranking):
            return one._replace(first=self._larger(one.first), second=self._larger(one.second))
        return one._replace(requests=tuple(map(self._larger, one.requests)))

    def _larger(self, request: Request) -> Request:
        size = (self._side, self._side)
        parts = (p if isinstance(p, str) else p.resize(size) for p in request.parts)
        return Request(tuple(parts), request.choices, request.lead, request.max_new_tokens)


def _collator(config: JudgeTraining, chat: Chat, turns: Any) -> Collator | LabelCollator:
    return LabelCollator(chat, turns) if config.head == "scalar" else Collator(chat, turns)


def _forward(skeleton: Skeleton, chat: Chat, turn: Turn | Ranking | Labelled) -> None:
    """One pass of a narrow copy over one turn: pictures, marks, grids and positions fit."""
    match turn:
        case Turn():
            requests: Sequence[Request] = [turn.request]
        case Ranking():
            requests = [turn.first, turn.second]
        case _:
            requests = turn.requests
    narrow = build_narrow(skeleton.config, len(chat.tokenizer))
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
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Groups of the optimiser that the trainer makes, and layers with adapters by name."""
    optim = config.optim
    rows = Dataset.from_dict({"row": range(len(turns))})
    muon = cast("Any", (MuonFactory, {"config": optim}) if optim.muon_lr else None)
    common: dict[str, Any] = {
        "data_collator": _collator(config, chat, turns),
        "train_dataset": rows,
        "optimizer_cls_and_kwargs": muon,
    }
    with TemporaryDirectory() as folder:
        shared = arguments(optim, Path(folder))
        if config.head == "scalar":
            trainer: Trainer = Trainer(
                model=_scalar_net(config, model), args=_Arguments(**shared), **common
            )
        else:
            trainer = SFTTrainer(
                model=model,
                args=_SFTArguments(
                    **shared, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None
                ),
                processing_class=chat.processor,
                peft_config=adapters(optim),
                **common,
            )
        trainer.create_optimizer()
    made: dict[str, int] = {}
    for name, one in cast("torch.nn.Module", trainer.model).named_modules():
        if hasattr(one, "lora_A"):
            last = name.rpartition(".")[2]
            made[last] = made.get(last, 0) + 1
    return cast("Any", trainer.optimizer).param_groups, made


def _scalar_net(config: JudgeTraining, model: Any) -> ScalarNet:
    lora = adapters(config.optim)
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


def _lacking(config: JudgeTraining, skeleton: Skeleton, base: str, longest: int) -> tuple[str, ...]:
    told: list[str] = []
    if config.data != "microworld" and not Path(config.data).is_file():
        told.append(f"data: there is no {config.data}; turns are of the microworld")
    if not located(base).is_dir():
        told.append(f"weights: {base} is not here and would be downloaded")
    if not skeleton.has_own_processor:
        told.append("tokens: words are cut by the tiny tokenizer, into more than there will be")
    most = context_of(skeleton.config)
    if most and longest > most:
        told.append(f"tokens: a turn has {longest}, the model takes {most}; lower frames")
    return tuple(told)
