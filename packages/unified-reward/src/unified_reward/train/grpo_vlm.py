"""GRPO of a vision-language model by rewards of its answers, by TRL.

Requests come in and a function scores the answers: knows no judges and no files of rows.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from datasets import Dataset
from peft import PeftModel
from rich.progress import track
from torch import Tensor
from trl.models.utils import prepare_deepspeed, prepare_fsdp
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.utils import add_fused_lm_head

from unified_reward.backends.chat import Chat
from unified_reward.backends.hf_vlm import VLM
from unified_reward.core.errors import ConfigError, DataError, ModelError, ServerError, one_line
from unified_reward.core.requests import Request
from unified_reward.media import PILImage
from unified_reward.train.adapters import merge_peft
from unified_reward.train.bad_items import BAD_ITEM, item_name
from unified_reward.train.grpo_log import FIGURE, Measurements, history
from unified_reward.train.loops import shuffled_indices
from unified_reward.train.optim import (
    FiniteTrainer,
    OptimConfig,
    check_lora_targets,
    last_checkpoint,
    lora_config,
    non_finite_error,
    optimizer_factory,
    run_trainer,
    training_arguments,
)
from unified_reward.train.padding import choose_padding
from unified_reward.train.precision import Dtype, check_dtype


_VLLM = "vllm_"
HELD_OUT_ANSWERS = 4
"""Answers to a held-out prompt."""
_FAILED_STEPS = 3
"""Steps in a row without a single reward after which a run stops."""


@dataclass(frozen=True)
class VLMGRPO:
    """Options of GRPO for a vision-language policy; names and defaults are TRL's."""

    optim: OptimConfig
    """``steps`` counts optimiser steps. In each, a process learns from ``batch_size`` times
    ``accumulate`` answers, a multiple of ``group``."""
    group: int = 8
    """Answers to a prompt, >= 2; TRL's ``num_generations``."""
    updates: int = 1
    """Optimiser steps on the same answers, >= 1; TRL's ``num_iterations``."""
    beta: float = 0.0
    """Weight of the KL divergence from the reference, >= 0."""
    epsilon: float = 0.2
    """Clip range of the ratio, > 0; with one update the ratio is 1."""
    epsilon_high: float | None = None
    """Its upper range, > 0; None for ``epsilon``."""
    loss_type: Literal["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"] = "dapo"
    """Normalisation of the loss over tokens, and its kind."""
    scale_rewards: Literal["group", "batch", "none"] = "group"
    """Standard deviation by which rewards are divided."""
    temperature: float = 1.0
    """Divides the logits, in sampling and in training; > 0."""
    max_new_tokens: int = 256
    """Longest answer, in tokens; TRL's ``max_completion_length``."""
    block: int = 1
    """Consecutive prompts, >= 1, that a process always learns from in the same step, such as both
    orders of a comparison; all are left out if one cannot be used."""
    mask_truncated_completions: bool = False
    """Learn nothing from answers that the limit cut."""
    weights: tuple[float, ...] = ()
    """Weight of each reward; empty for 1."""
    opponents: int = 8
    """Most answers of its group that each is compared with, for win rates, >= 2."""
    min_spread: float = 0.0
    """Standard deviation of a reward in a group up to which differences are noise, >= 0."""
    held_out: int = 0
    """Prompts that are kept out of training."""
    held_out_every: int = 10
    """Steps between measurements of the reward of the held-out prompts, >= 1."""
    patience_s: float = 120.0
    """Seconds to wait for a reward server that does not answer."""
    max_pixels: int | None = None
    """Largest image given to the model, in pixels, > 0; None for the processor's own limit."""
    vllm: Mapping[str, Any] = field(default_factory=dict)
    """TRL's options of sampling by vLLM without their prefix, such as ``{mode: colocate,
    gpu_memory_utilization: 0.3}``; empty samples by transformers."""
    dtype: Dtype | None = None
    """Type of frozen weights; None for bfloat16 under adapters on a GPU, else float32. Adapters are
    trained and merged in float32."""
    report_to: str = "none"
    """Tracker of the figures, such as ``tensorboard``, ``wandb`` or ``trackio``."""

    def __post_init__(self) -> None:
        check_dtype(self.dtype, None, self.optim.lora_rank)
        least = {"group": 2, "updates": 1, "block": 1, "held_out_every": 1, "max_new_tokens": 1}
        least |= {"opponents": 2, "held_out": 0, "beta": 0, "min_spread": 0, "patience_s": 0}
        for name, low in least.items():
            if not low <= (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} must be at least {low}, and finite, not {value}")
        for name in ("epsilon", "epsilon_high", "temperature", "max_pixels"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0, and finite, not {value}")
        if not all(map(math.isfinite, self.weights)):
            raise ConfigError(f"weights must be finite numbers, not {self.weights}")
        self._check_batches()
        if any(name.endswith("lm_head") for name in self.optim.lora_targets):
            # TRL multiplies by its weight directly, so that an adapter would never be trained.
            raise ConfigError("lora_targets: lm_head takes no adapter in GRPO; leave it out")
        _check_vllm(self.vllm)

    def _check_batches(self) -> None:
        optim = self.optim
        if (n := optim.batch_size * optim.accumulate) % self.group:
            raise ConfigError(
                f"optim.batch_size times optim.accumulate is {n}, which must be a multiple of "
                f"group, {self.group}: a process scores whole groups"
            )
        if self.block > 1 and self.held_out:
            raise ConfigError("held_out is for prompts that stand alone, with a block of 1")
        if self.prompts_per_step % self.block:
            raise ConfigError(
                f"a process has {self.prompts_per_step} prompts a step (optim.batch_size times "
                f"optim.accumulate over group), which must be a multiple of block, {self.block}"
            )
        for name in ("steps", "save_every"):
            if (value := getattr(optim, name)) % self.updates:
                raise ConfigError(
                    f"optim.{name} is {value}, which must be a multiple of updates, {self.updates}"
                )

    @property
    def prompts_per_step(self) -> int:
        """Groups that a process samples at a time."""
        return self.optim.batch_size * self.optim.accumulate // self.group


def _check_vllm(options: Mapping[str, Any]) -> None:
    if not options:
        return
    known = {each.name.removeprefix(_VLLM) for each in fields(GRPOConfig) if _VLLM in each.name}
    if unknown := options.keys() - (known - {"use_vllm"}):
        raise ConfigError(
            f"vllm: there is no option {', '.join(sorted(unknown))}; there are "
            f"{', '.join(sorted(known - {'use_vllm'}))}"
        )
    if find_spec("vllm") is None:
        raise ConfigError("vllm is not installed; install it, or leave the vllm options out")


class Requests(Protocol):
    """Prompts; whatever has ids also has a method ``name``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Request:
        """Open the media of a prompt."""
        ...


class SampledAnswer(NamedTuple):
    """An answer of the policy."""

    row: int
    """Index of its request."""
    text: str
    n_tokens: int
    """Its length with the end token."""
    is_cut: bool
    """True if the limit of length ended it."""
    is_held_out: bool = False
    """True if nothing is learned from it."""


class Rewards(NamedTuple):
    """Rewards of some answers."""

    values: Sequence[float | None]
    """One number each; None, or one that is not finite, takes an answer out of its group."""
    figures: Mapping[str, float] = {}
    """Means for the log, by name; ``rewards/NAME`` of a reward that is one of several."""


RewardAnswers = Callable[[Sequence[SampledAnswer]], Rewards]
"""Scores the answers of a step and process, whole groups one after another; or of held-out
requests, some answers each."""


class RequestInputs:
    """Requests as inputs of the model; those of a step are opened and processed once."""

    def __init__(self, chat: Chat, requests: Requests, kept: int) -> None:
        self.chat = chat
        self._request = lru_cache(kept)(requests.__getitem__)
        self._inputs = lru_cache(kept)(lambda row: chat.process([self._request(row)]))

    def batch(
        self, rows: Sequence[int], answers: Sequence[Sequence[int]] = ()
    ) -> dict[str, Tensor]:
        """Inputs of the model for the requests of B rows, with token ids behind each."""
        if self.chat.joins:
            return self.chat.collate([self._inputs(row) for row in rows], answers)
        return self.chat.batch([self._request(row) for row in rows], answers)

    def images(self, rows: Sequence[int]) -> list[list[PILImage] | None]:
        """Images of each request."""
        return [self._request(row).images or None for row in rows]


class _GRPOTrainer(FiniteTrainer, GRPOTrainer):
    """TRL's trainer on the inputs of our own requests; aborts before a step that is not finite.

    TRL's own inputs are processed twice for each answer, and lack whatever it does not know, such
    as the number of images of LLaVA-OneVision.
    """

    inputs: RequestInputs
    _rows: Sequence[int] = ()
    """Requests of the current batch."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._rows = rows = [example["row"] for example in inputs]
        return {**super()._generate_and_score_completions(inputs), "row": torch.tensor(rows)}

    def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
        self._rows = inputs["row"].tolist()
        return super()._compute_loss(model, inputs)

    def _tokenize_prompts(self, prompts: list[Any]) -> tuple[list[list[int]], None, dict[str, Any]]:
        batch = self.inputs.batch(self._rows)
        masks = batch.pop("attention_mask").bool()
        ids = zip(batch.pop("input_ids"), masks, strict=True)
        return [row[mask].tolist() for row, mask in ids], None, batch

    def _generate_single_turn(
        self, prompt_ids: Any, images: Any, *rest: Any, **options: Any
    ) -> Any:
        if self.use_vllm:
            images = self.inputs.images(self._rows)
        return super()._generate_single_turn(prompt_ids, images, *rest, **options)

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None, None]:
        ids, masks = (each[:, -logits_to_keep:] for each in (input_ids, attention_mask.bool()))
        found: list[tuple[Tensor, Tensor | None]] = []
        for start in range(0, len(ids), batch_size or len(ids)):
            part = slice(start, start + (batch_size or len(ids)))
            answers = [row[mask].tolist() for row, mask in zip(ids[part], masks[part], strict=True)]
            found.append(self._score_tokens(model, self._rows[part], answers, masks[part]))
        entropies = [each for _, each in found if each is not None]
        logps = torch.cat([each for each, _ in found])
        return logps, torch.cat(entropies) if entropies else None, None

    def _score_tokens(
        self, model: Any, rows: Sequence[int], answers: Sequence[list[int]], mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities and entropies of the tokens of answers, where the mask is True."""
        batch = self.inputs.batch(rows, answers)
        labels = torch.full_like(batch["input_ids"], -100)
        for row, attended, answer in zip(labels, batch["attention_mask"], answers, strict=True):
            places = attended.nonzero()[:, 0]
            row[places[len(places) - len(answer) :]] = torch.tensor(answer, dtype=row.dtype)
        batch = cast("dict[str, Tensor]", self._prepare_input({**batch, "labels": labels}))
        with self.accelerator.autocast():
            out = model(**batch, fused_lm_head=True)

        def place(values: Tensor) -> Tensor:
            is_answer = batch["labels"][:, -values.shape[1] :] != -100
            return values.new_zeros(mask.shape).masked_scatter(mask, values[is_answer])

        return place(out.log_probs), None if out.entropy is None else place(out.entropy)


class _Scoring:
    """The reward function of TRL: passes answers on, and counts those without a reward."""

    __name__ = "answers"

    def __init__(
        self,
        chat: Chat,
        ends: Collection[int],
        held_out: Collection[int],
        group: int,
        reward: RewardAnswers,
        checkpoints: Path,
    ) -> None:
        self._chat, self._ends, self._group, self._reward = chat, ends, group, reward
        self._held_out, self._checkpoints = {*held_out}, checkpoints
        self._n_failed = 0

    def __call__(
        self, completion_ids: Sequence[list[int]], row: Sequence[int], log_metric: Any, **_: Any
    ) -> list[float | None]:
        """Rewards of answers.

        Raises:
            ModelError: No answer got a reward for some steps.
        """
        texts = self._chat.decode(completion_ids)
        answers = [
            SampledAnswer(
                *(index, text.strip(), len(ids)),
                *(ids[-1] not in self._ends, index in self._held_out),
            )
            for index, text, ids in zip(row, texts, completion_ids, strict=True)
        ]
        try:
            given, figures = self._reward(answers)
        except (ServerError, ModelError) as error:
            raise type(error)(f"{error}{self._resume()}") from error
        if len(given) != len(answers):
            raise ConfigError(f"{len(given)} rewards for {len(answers)} answers")
        values = [None if each is None or not math.isfinite(each) else each for each in given]
        for name, figure in figures.items():
            log_metric(FIGURE + name, figure)
        if not answers[0].is_held_out:
            self._count(values, log_metric)
        return values

    def _count(self, values: list[float | None], log_metric: Any) -> None:
        n = len(values) // self._group
        groups = [values[i * self._group : (i + 1) * self._group] for i in range(n)]
        known = [[value for value in group if value is not None] for group in groups]
        counts = {
            "failed": values.count(None),
            "failed_groups": sum(len(group) < 2 for group in known),
            "constant_groups": sum(len(g) > 1 and min(g) == max(g) for g in known),
        }
        for name, count in counts.items():  # TRL takes the mean over processes
            log_metric(FIGURE + name, count * PartialState().num_processes)
        self._n_failed = 0 if any(known) else self._n_failed + 1
        if self._n_failed == _FAILED_STEPS:
            raise ModelError(
                f"no answer got a reward in {_FAILED_STEPS} steps in a row{self._resume()}"
            )

    def _resume(self) -> str:
        newest = last_checkpoint(self._checkpoints)
        return f"; resume from {newest}" if newest else "; no checkpoint was saved"


def learn_from_rewards(
    vlm: VLM,
    requests: Requests,
    reward: RewardAnswers,
    config: VLMGRPO,
    out: Path,
    log: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Train a vision-language model by rewards of its answers, and write it.

    Shao et al. 2024, arXiv:2402.03300, by TRL. Under ``accelerate launch`` every process takes its
    share of each batch.

    Args:
        vlm: The model, in float32, or under adapters in bfloat16.
        requests: Prompts.
        reward: Scores answers; called in every process.
        config: Settings; of ``weights``, ``min_spread`` and ``patience_s`` the reward makes use.
        out: Folder of ``policy/``, the new model, with adapters also of ``adapter/``, and of
            ``checkpoints/``, from which a killed run resumes.
        log: Called with the reason for each request that is left out.

    Returns:
        ``prompts`` learned from; ``left_out``, those that cannot be used; ``losses``, pairs of step
        and loss; by step ``reward`` (the figure of that name where the reward gives one),
        ``spread``, ``kl``, ``clipped``, ``entropy`` in nats, ``tokens``, ``cut`` (the share of
        answers that the limit ended), ``failed``, ``failed_groups``, ``constant_groups`` and the
        other figures of the reward, None where a step sampled nothing; ``rewards``, the mean of
        each by name; ``held_out``, pairs of step and mean reward; and ``held_out_rewards``, these
        of each by name. ``history.jsonl`` in the folder has the same by step.

    Raises:
        ConfigError: Options do not fit, or there are too few requests.
        DataError: No request can be used.
        ModelError: The model cannot be trained, there are no rewards any more, or loss or gradient
            is not finite; the message names the checkpoint to resume from.
        ServerError: A reward server does not answer; the run can be resumed.
    """
    state = PartialState()
    chat = _open_chat(vlm, config)
    log = log if state.is_main_process else _ignore
    limit = vlm.context - config.max_new_tokens
    # One process decides which requests can be used, so that all have the same ones.
    found = [_usable(chat, requests, limit, log) if state.is_main_process else None]
    usable = cast("Any", broadcast_object_list(found))[0]
    trained, held_out = _split(usable, config)
    inputs = RequestInputs(chat, requests, 2 * config.prompts_per_step + config.optim.batch_size)
    trainer = _build_trainer(vlm.model, inputs, trained, held_out, reward, config, out)
    try:
        losses = run_trainer(trainer, config.optim, "learning from rewards")
    except RuntimeError as error:
        if "probability tensor" not in str(error):
            raise
        step = trainer.state.global_step + 1
        newest = last_checkpoint(out / "checkpoints")
        raise non_finite_error("distribution of the next token", step, newest) from error
    _save(trainer, chat, out)
    left_out = len(requests) - len(trained) - len(held_out)
    counts = {"prompts": len(trained), "left_out": left_out}
    return counts | {"losses": losses} | history(trainer.state.log_history)


def _ignore(_: str) -> None: ...


def _open_chat(vlm: VLM, config: VLMGRPO) -> Chat:
    """Chat of the model's processor, whose prompts the model takes in batches."""
    chat = Chat(vlm.chat.processor, max_pixels=config.max_pixels)
    chat.limit_to(vlm.n_tokens)
    choose_padding(vlm.model, chat)
    if chat.padding_side != "left":
        raise ModelError(
            f"{type(vlm.model).__name__} cannot be trained by GRPO: with padding in front of a "
            "prompt it answers otherwise, and TRL samples so"
        )
    return chat


def _usable(chat: Chat, requests: Requests, limit: int, log: Callable[[str], None]) -> list[int]:
    """Indices of requests that can be opened and leave room for an answer."""
    usable: list[int] = []
    n = len(requests)
    for i in track(range(n), description="opening prompts", disable=n < 100):
        try:
            if (length := chat.process([requests[i]])["input_ids"].shape[1]) > limit:
                raise DataError(f"{length} tokens, and with its answer it may have {limit}")
            usable.append(i)
        except BAD_ITEM as error:
            log(f"{item_name(requests, i)} is left out: {one_line(error)}")
    return usable


def _split(usable: Sequence[int], config: VLMGRPO) -> tuple[list[int], list[int]]:
    """Requests to train on and those that are held out, which the seed decides.

    Raises:
        ConfigError: Too few are left for a step, in which none may repeat.
        DataError: There is none.
    """
    if not usable:
        raise DataError("no prompt can be used; the reasons are logged")
    n_by_block = Counter(i // config.block for i in usable)
    usable = [i for i in usable if n_by_block[i // config.block] == config.block]
    order = shuffled_indices(len(usable), range(len(usable)), config.optim.seed)
    held_out = sorted(usable[i] for i in order[: config.held_out])
    trained = [i for i in usable if i not in {*held_out}]
    n = config.prompts_per_step * PartialState().num_processes
    if len(trained) < n:
        raise ConfigError(
            f"a step has {n} prompts (batch_size times accumulate over group, in each process), "
            f"and there are {len(trained)}"
            + (f" beside the {len(held_out)} that are held out" if held_out else "")
        )
    return trained, held_out


def _build_trainer(
    model: Any,
    inputs: RequestInputs,
    trained: Sequence[int],
    held_out: Sequence[int],
    reward: RewardAnswers,
    config: VLMGRPO,
    out: Path,
) -> _GRPOTrainer:
    optim, chat = config.optim, inputs.chat
    check_lora_targets(model, optim)
    # Answers end as the policy's own do.
    own = model.generation_config.eos_token_id
    ends = {chat.eos_id, *(own if isinstance(own, list) else [own])} - {None}
    model.generation_config.eos_token_id = sorted(ends)
    reference = copy.deepcopy(model) if config.beta and not optim.lora_rank else None
    ends |= {chat.tokenizer.eos_token_id, chat.pad_id}
    scoring = _Scoring(chat, ends, held_out, config.group, reward, out / "checkpoints")
    n_groups = optim.steps // config.updates * config.prompts_per_step
    n_groups *= PartialState().num_processes
    n = config.block
    blocks = shuffled_indices(len(trained) // n, range(n_groups // n), optim.seed)
    trainer = _GRPOTrainer(
        model=model,
        reward_funcs=scoring,
        args=_arguments(config, len(held_out), out / "checkpoints", model.dtype),
        train_dataset=_rows([trained[n * i + k] for i in blocks for k in range(n)]),
        eval_dataset=_rows(held_out) if held_out else None,
        processing_class=chat.processor,
        peft_config=lora_config(optim),
    )
    trainer.inputs = inputs
    every = config.held_out_every if held_out else 0
    trainer.add_callback(Measurements(every, out / "history.jsonl"))
    if optim.muon_lr:  # TRL's constructor takes no factory
        trainer.optimizer_cls_and_kwargs = optimizer_factory(optim)
    _add_reference(trainer, reference, config.beta)
    return trainer


def _rows(indices: Sequence[int]) -> Dataset:
    """Rows for TRL, which takes prompts and images from the trainer's inputs instead."""
    prompt = [{"role": "user", "content": ""}]
    return Dataset.from_dict({"row": [*indices], "prompt": [prompt] * len(indices)})


def _arguments(
    config: VLMGRPO, n_held_out: int, checkpoints: Path, dtype: torch.dtype
) -> GRPOConfig:
    most = max(1, config.optim.batch_size // HELD_OUT_ANSWERS)
    vllm = {_VLLM + name: value for name, value in config.vllm.items()}
    shared = training_arguments(config.optim, checkpoints, dtype) | {"report_to": config.report_to}
    return GRPOConfig(
        **shared,
        **vllm,
        use_vllm=bool(vllm),
        num_generations=config.group,
        num_iterations=config.updates,
        epsilon=config.epsilon,
        epsilon_high=config.epsilon_high,
        loss_type=config.loss_type,
        scale_rewards=config.scale_rewards,
        temperature=config.temperature,
        max_completion_length=config.max_new_tokens,
        mask_truncated_completions=config.mask_truncated_completions,
        shuffle_dataset=False,  # the rows are in order
        disable_dropout=True,  # so that the ratio is 1 before an update
        router_aux_loss_coef=0.0,
        num_generations_eval=HELD_OUT_ANSWERS,
        # Full batches only, over which TRL takes the mean.
        per_device_eval_batch_size=HELD_OUT_ANSWERS
        * max(n for n in range(1, 1 + most) if not n_held_out % n),
        eval_on_start=bool(n_held_out) and last_checkpoint(checkpoints) is None,
    )


def _add_reference(trainer: _GRPOTrainer, reference: Any, beta: float) -> None:
    """Set the weight of the KL divergence, and the model as it was, where no adapter is switched.

    TRL would load it from where the model came from, which may be an adapter alone.
    """
    trainer.beta = beta
    if reference is None:
        return
    add_fused_lm_head(reference, temperature=trainer.temperature)
    if trainer.is_deepspeed_enabled:
        trainer.ref_model = prepare_deepspeed(reference, trainer.accelerator)
    elif trainer.is_fsdp_enabled:
        trainer.ref_model = prepare_fsdp(reference, trainer.accelerator)
    else:
        trainer.ref_model = trainer.accelerator.prepare_model(reference, evaluation_mode=True)


def _save(trainer: _GRPOTrainer, chat: Chat, out: Path) -> None:
    """Write the adapters, and the model with them merged."""
    if not trainer.accelerator.is_main_process:
        return
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model.save_pretrained(str(out / "adapter"), save_embedding_layers=False)
        model = merge_peft(model)
    model.save_pretrained(out / "policy")
    chat.processor.save_pretrained(out / "policy")
