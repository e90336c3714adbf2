"""Dry run of GRPO of a vision-language policy: everything except the weights.

Prompts, processor and adapters are the real ones; the model has shapes and no memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import get_peft_model

from unified_reward.backends.chat import Chat
from unified_reward.core.errors import DataError, one_line
from unified_reward.core.paths import is_file
from unified_reward.core.requests import Request
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.bad_items import BAD_ITEM
from unified_reward.train.dry_run import (
    PREVIEWS,
    DryRun,
    memory_report,
    not_here,
    optimiser_of,
    try_forward,
    unfit_tokens,
)
from unified_reward.train.dry_run_dpo import enlarged_context
from unified_reward.train.group_rewards import read_prompts
from unified_reward.train.grpo_answers import Prompts
from unified_reward.train.grpo_vlm import VLMGRPO
from unified_reward.train.launch import LaunchConfig
from unified_reward.train.meta_models import build_meta_model, read_architecture
from unified_reward.train.optim import check_lora_targets, lora_config
from unified_reward.train.precision import frozen_dtype


_QUESTION = "What colour is the lantern at the bow of the boat?"


@dataclass(frozen=True, kw_only=True)
class AnswersDryRun(DryRun):
    """Sizes and costs of GRPO of a vision-language policy, and what is missing for it.

    ``per_step`` has ``prompts`` and ``answers`` of all processes, and their ``tokens`` if all
    answers are of the greatest length; ``tokens`` are those of prompts.
    """

    cache_gib: float
    """Most memory of a card for keys and values while a process samples its answers."""


def dry_run_answers(
    policy: str, prompts: Path, training: VLMGRPO, launcher: LaunchConfig
) -> AnswersDryRun:
    """Build everything of GRPO of a vision-language policy except its weights.

    Args:
        policy: Folder, name of a registered policy, or hub id.
        prompts: A file of rows; placeholders stand for it where it is absent.
        training: Settings.
        launcher: Number of processes, and the sharding of weights.

    Raises:
        ConfigError: Adapters, layers, images or batches do not fit.
        DataError: No prompt of the file can be used.
        ModelError: The policy's folder is of another kind.
    """
    optim = training.optim
    launcher.check_batch(launcher.processes, optim)
    architecture = read_architecture(policy)
    chat = Chat(architecture.processor, max_pixels=training.max_pixels)
    model = build_meta_model(architecture.config)
    name, parameters = type(model).__name__, model.num_parameters()
    check_lora_targets(model, optim)
    wrapped = launcher.fsdp_layers(model)
    requests, n, lacking = _requests(prompts, training)
    tokens = {key: chat.process([each])["input_ids"].shape[1] for key, each in requests.items()}
    longest = max(tokens.values()) + training.max_new_tokens
    try_forward(architecture, chat, [requests[min(tokens, key=tokens.__getitem__)]])
    lora = lora_config(optim)
    groups, adapter_layers = optimiser_of(get_peft_model(model, lora) if lora else model, optim)
    rows = training.prompts_per_step * launcher.processes
    answers = rows * training.group
    if n and n < rows:
        lacking.append(f"prompts: {n} are left for steps of {rows}")
    mean = sum(tokens.values()) / len(tokens) + training.max_new_tokens
    has_reference = bool(lora or training.beta)
    dtype = frozen_dtype(training.dtype, None, optim.lora_rank, on_gpu=True)
    n_cached = answers // launcher.processes * longest
    return AnswersDryRun(
        model=name,
        parameters=parameters,
        adapters=adapter_layers,
        wrapped=wrapped,
        tokens=tokens,
        lacking=(*lacking, *not_here(policy), *unfit_tokens(architecture, longest, "max_pixels")),
        # Frozen is the base of the adapters, or else the reference.
        dtype=dtype,
        **memory_report(
            launcher, groups, parameters * launcher.width(dtype) if has_reference else 0
        ),
        launch=f"{launcher.name}, {launcher.sharding}" if launcher.name else "",
        processes=launcher.processes,
        per_step={"prompts": rows, "answers": answers, "tokens": round(answers * mean)},
        steps_per_epoch=math.ceil(n / rows) * training.updates if n else None,
        epochs=round(optim.steps / training.updates * rows / n, 2) if n else None,
        cache_gib=_cache_gib(architecture.config, n_cached, 2 if dtype == "bfloat16" else 4),
    )


def _requests(path: Path, training: VLMGRPO) -> tuple[Mapping[str, Request], int, list[str]]:
    """Some requests by name, the number of all that are trained, and what is missing."""
    if not is_file(path):
        made = {
            task.value: build_request(_QUESTION, enlarged_context(task, training.max_pixels or 0))
            for task in VLMPolicy.tasks
        }
        return made, 0, [f"prompts: there is no {path}"]
    reasons: list[str] = []
    examples, rows = read_prompts(path, VLMPolicy.tasks, reasons.append)
    previews = Prompts(examples)
    requests: dict[str, Request] = {}
    for i, example in enumerate(examples[:PREVIEWS]):
        try:
            requests[example.id] = previews[i]
        except BAD_ITEM as error:
            reasons.append(f"{example.id!r}: {one_line(error)}")
    if not requests:
        raise DataError(f"none of the first prompts of {path} can be used: {reasons[-1]}")
    unusable = sum(rows.values()) - len(examples) + min(PREVIEWS, len(examples)) - len(requests)
    lacking = [f"prompts: {unusable} cannot be used, the first: {reasons[0]}"] if reasons else []
    return requests, max(0, len(examples) - training.held_out), lacking


def _cache_gib(config: Any, tokens: int, width: int) -> float:
    """Size of keys and values of so many tokens in all attention layers, of numbers of a width."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    size = 2 * text.num_hidden_layers * heads * head_dim * width
    return round(tokens * size / 2**30, 3)
