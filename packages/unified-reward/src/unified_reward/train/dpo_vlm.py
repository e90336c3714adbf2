"""DPO of a vision-language policy on preference pairs of answers, by TRL.

Prompts are built by the code that samples from the policy. Knows neither the judge nor its scores.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from rich.progress import track
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from unified_reward import policies
from unified_reward.backends.chat import Chat
from unified_reward.core.errors import ConfigError, DataError, one_line
from unified_reward.core.requests import Request
from unified_reward.core.samples import Image, PreferencePair, Video
from unified_reward.pairs.preferences import trainable_pairs
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.adapters import merge_peft
from unified_reward.train.bad_items import BAD_ITEM, SparingCollator
from unified_reward.train.optim import (
    FiniteTrainer,
    OptimConfig,
    check_lora_targets,
    lora_config,
    optimizer_factory,
    run_trainer,
    training_arguments,
)
from unified_reward.train.padding import choose_padding
from unified_reward.train.precision import Dtype, check_dtype, load_dtype


_LOGGED = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}


@dataclass(frozen=True)
class VLMDPO:
    """Options of DPO for a vision-language policy."""

    optim: OptimConfig
    beta: float = 0.1
    """Multiplies the difference of log-ratios, > 0; larger stays closer to the reference. The
    published beta_u."""
    sft: float = 0.0
    """Weight of the cross-entropy of the chosen answers, in nats per token, >= 0."""
    max_pixels: int | None = None
    """Largest image given to the model, in pixels, > 0; None for the processor's own limit."""
    cache_gib: float = 4.0
    """Main memory for decoded and processed prompts in each process, in GiB, >= 0. A prompt that
    fits is decoded once; any other one again at each step that uses it."""
    dtype: Dtype | None = None
    """Type of frozen weights; None for bfloat16 under adapters on a GPU, else float32. Adapters are
    trained and merged in float32."""

    def __post_init__(self) -> None:
        check_dtype(self.dtype, None, self.optim.lora_rank)
        if not (0 < self.beta < math.inf and 0 <= self.sft < math.inf):
            raise ConfigError(f"beta must be > 0 and sft >= 0, not {self.beta} and {self.sft}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels must be > 0, not {self.max_pixels}")
        if not self.cache_gib >= 0:
            raise ConfigError(f"cache_gib must be >= 0, not {self.cache_gib}")
        if any(name.endswith("lm_head") for name in self.optim.lora_targets):
            # TRL multiplies by its weight directly, so that an adapter would never be trained.
            raise ConfigError("lora_targets: lm_head takes no adapter in DPO; leave it out")


class AnswerPair(NamedTuple):
    """A question and two answers in words, of which the first is preferred."""

    prompt: str
    context: tuple[Image | Video, ...]
    chosen: str
    rejected: str
    id: str = ""


class ProcessedPrompts:
    """Questions as inputs of the model, kept in memory as long as there is room.

    Where the processor lays out a batch by all of its requests, only decoded images are kept.
    """

    def __init__(self, chat: Chat, max_bytes: float = math.inf) -> None:
        self.chat = chat
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._requests: dict[tuple[Any, ...], Request] = {}
        self._inputs: dict[tuple[Any, ...], dict[str, Tensor]] = {}

    def get(self, prompt: str, context: tuple[Image | Video, ...]) -> dict[str, Tensor]:
        """Inputs of the model for one question, as from `Chat.process`.

        Raises:
            MediaError: The context cannot be read.
            ValueError: The context is empty.
        """
        known = self._inputs.get((prompt, context))
        if known is not None:
            return known
        inputs = self.chat.process([self._request(prompt, context)])
        if self.chat.joins and self._has_room(sum(tensor.nbytes for tensor in inputs.values())):
            self._inputs[prompt, context] = inputs
        return inputs

    def batch(self, pairs: Sequence[AnswerPair], answers: Sequence[list[int]]) -> dict[str, Tensor]:
        """Inputs of the model for the questions of B pairs, twice.

        Args:
            pairs: The pairs.
            answers: Token ids behind each of the 2 B questions.
        """
        if self.chat.joins:
            prompts = [self.get(pair.prompt, pair.context) for pair in pairs]
            return self.chat.collate(prompts * 2, answers)
        requests = [self._request(pair.prompt, pair.context) for pair in pairs]
        return self.chat.batch(requests * 2, answers)

    def _request(self, prompt: str, context: tuple[Image | Video, ...]) -> Request:
        known = self._requests.get((prompt, context))
        if known is not None:
            return known
        request = build_request(prompt, context)
        pixels = (image.width * image.height for image in request.images)
        if not self.chat.joins and self._has_room(3 * sum(pixels)):
            self._requests[prompt, context] = request
        return request

    def _has_room(self, n_bytes: int) -> bool:
        has_room = self._n_bytes + n_bytes <= self._max_bytes
        self._n_bytes += n_bytes * has_room
        return has_room


class Collator:
    """Makes tensors of pairs; both answers of a pair share their processed prompt."""

    def __init__(self, prompts: ProcessedPrompts, pairs: Sequence[AnswerPair]) -> None:
        self.chat = prompts.chat
        self._prompts = prompts
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def name(self, index: int) -> str:
        """Id of a pair."""
        return self._pairs[index].id

    def __call__(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Batch B pairs.

        Args:
            batch: The index of a pair by the key ``row``, B times.

        Returns:
            Arguments of the model's forward for 2 B turns, all chosen before all rejected;
            ``completion_mask``, shape (2 B, T), 1 on the answers and their end tokens.
        """
        pairs = [self._pairs[row["row"]] for row in batch]
        texts = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
        answers = [self.chat.closed(text) for text in texts]
        inputs = self._prompts.batch(pairs, answers)
        mask = torch.zeros_like(inputs["input_ids"])
        for row, attended, answer in zip(mask, inputs["attention_mask"], answers, strict=True):
            row[attended.nonzero()[-len(answer) :]] = 1
        return {**inputs, "completion_mask": mask}


class _DPOTrainer(FiniteTrainer, DPOTrainer):
    """TRL's trainer, which aborts before a step whose loss or gradient is not finite."""


def align_vlm(
    policy: str | Path, pairs: Path, config: VLMDPO, out: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Align a vision-language policy by DPO and write it.

    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. Under ``accelerate launch`` every process takes
    its share of each batch.

    Args:
        policy: Folder or hub id of the model.
        pairs: A file of kept pairs, or of two candidates with a winner.
        config: Optimiser and loss.
        out: Folder of the new model; with adapters also ``adapter``, these alone. A killed run
            continues from ``checkpoints`` in it.
        log: Called with the reason for each row that is left out.

    Returns:
        ``rows`` by status, ``pairs`` learned from, ``dtype`` of frozen weights, ``losses`` in nats
        by step, and for the same steps ``accuracy``, the share of pairs whose chosen answer gained
        more than the rejected one; ``chosen`` and ``rejected``, beta times their log-ratios to the
        reference; and ``margin``, the difference of these.

    Raises:
        ConfigError: The policy is not a vision-language model, the pairs are of other tasks, or
            options do not fit.
        DataError: No pair can be used.
        ModelError: The model cannot be loaded, or loss or gradient is not finite any more.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    dtype = load_dtype(config.dtype, config.optim.lora_rank)
    model = policies.load(policy, device=str(state.device), dtype=dtype)
    if not isinstance(model, VLMPolicy):
        raise ConfigError(f"{policy} is a diffusers pipeline, not a vision-language model")
    chat = Chat(model.vlm.chat.processor, max_pixels=config.max_pixels)
    chat.limit_to(model.vlm.n_tokens)
    choose_padding(model.vlm.model, chat)
    prompts = ProcessedPrompts(chat, config.cache_gib * 2**30)
    log = log if state.is_main_process else _ignore
    records, rows = trainable_pairs(pairs, model.tasks, log)
    # One process decides which pairs can be used, so that all have the same ones.
    limit = model.vlm.context
    usable = [
        trainable_answers(records, prompts, rows, log, limit) if state.is_main_process else None
    ]
    answers, rows = cast("Any", broadcast_object_list(usable))[0]
    if not answers:
        raise DataError(f"no pair of {pairs} is left to learn from; the reasons are logged")
    collator = Collator(prompts, answers)
    trained, losses, history = _fit(model.vlm.model, collator, config, out, log)
    if state.is_main_process:
        trained.save_pretrained(out)
        chat.processor.save_pretrained(out)
        policies.write_defaults(model.options, out)
    figures = {name: [round(step[key], 6) for step in history] for name, key in _LOGGED.items()}
    report = {"rows": dict(rows), "pairs": len(answers), "dtype": dtype, "losses": losses}
    return report | figures


def _ignore(_: str) -> None: ...


def trainable_answers(
    pairs: Sequence[PreferencePair],
    prompts: ProcessedPrompts,
    rows: Counter[str],
    log: Callable[[str], None],
    limit: int | None = None,
) -> tuple[list[AnswerPair], Counter[str]]:
    """Pairs that can be learned.

    Args:
        pairs: Pairs of answers.
        prompts: Opens the contexts and keeps them for training.
        rows: Numbers of rows by status, before.
        log: Called with the reason for each pair that is left out.
        limit: Tokens that the model takes; None for any number.

    Returns:
        The pairs, and the numbers of rows by status, in which those left out are not ``kept`` but
        ``failed`` or ``unusable``.
    """
    usable: list[AnswerPair] = []
    rows = rows.copy()
    for pair in track(pairs, description="opening contexts", disable=len(pairs) < 100):
        try:
            answers = _answers(pair, prompts.chat)
            turn = int(prompts.get(answers.prompt, answers.context)["attention_mask"].sum())
            n = turn + max(
                len(prompts.chat.closed(text)) for text in (answers.chosen, answers.rejected)
            )
            if limit and n > limit:
                raise DataError(f"its longer turn has {n} tokens, and the model takes {limit}")
            usable.append(answers)
        except BAD_ITEM as error:
            rows["kept"] -= 1
            rows["unusable" if isinstance(error, DataError) else "failed"] += 1
            log(f"pair {pair.id!r}: {one_line(error)}")
    return usable, rows


def _answers(pair: PreferencePair, chat: Chat) -> AnswerPair:
    chosen, rejected = pair.chosen, pair.rejected
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError("its answers are not both plain text")
    if chosen.strip() == rejected.strip():
        raise DataError("its answers are the same")
    if chat.spells_control(chosen) or chat.spells_control(rejected):
        raise DataError("its answers contain a control token of the model")
    return AnswerPair(pair.prompt, pair.context, chosen, rejected, pair.id)


def _fit(
    model: Any, collator: Collator, config: VLMDPO, out: Path, log: Callable[[str], None]
) -> tuple[Any, list[tuple[int, float]], list[dict[str, Any]]]:
    """Train; returns the model with adapters merged, its losses and the log of each step."""
    optim = config.optim
    check_lora_targets(model, optim)
    terms = {"sigmoid": 1.0} | ({"sft": config.sft} if config.sft else {})
    args = DPOConfig(
        **training_arguments(optim, out / "checkpoints", model.dtype),
        beta=config.beta,
        loss_type=[*terms],
        loss_weights=[*terms.values()],
        max_length=None,
        router_aux_loss_coef=0.0,  # the loss is that of the equation, for mixtures of experts too
    )
    processes = PartialState().num_processes
    n = optim.steps * optim.accumulate * optim.batch_size * processes
    trainer = _DPOTrainer(
        model=model,
        # Without its adapters a model is its own reference.
        ref_model=None if optim.lora_rank else copy.deepcopy(model),
        args=args,
        data_collator=cast("Any", SparingCollator(collator, collator, log)),
        # TRL leaves rows with images to the collator, which finds them by the index of the pair.
        train_dataset=Dataset.from_dict(
            {"row": _order(len(collator), n, optim.seed), "images": [None] * n}
        ),
        processing_class=collator.chat.processor,
        peft_config=lora_config(optim),
    )
    if optim.muon_lr:  # TRL's constructor takes no factory
        trainer.optimizer_cls_and_kwargs = optimizer_factory(optim)
    losses = run_trainer(trainer, optim, "aligning")
    history = [step for step in trainer.state.log_history if "loss" in step]
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not optim.lora_rank:
        return trained, losses, history
    if trainer.accelerator.is_main_process:
        trained.save_pretrained(out / "adapter", save_embedding_layers=False)
    return merge_peft(trained), losses, history


def _order(n: int, total: int, seed: int) -> list[int]:
    """Indices of ``total`` pairs; every pair comes once before any comes again."""
    rounds = [np.random.default_rng([seed, k]).permutation(n) for k in range(-(-total // n))]
    return np.concatenate(rounds)[:total].tolist()
