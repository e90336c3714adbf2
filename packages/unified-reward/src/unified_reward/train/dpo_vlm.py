"""DPO of a vision-language policy, on preference pairs of answers, by TRL.

Asks in training what the policy is asked in sampling. Knows neither who judged nor how well.
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
from unified_reward.core.errors import ConfigError, DataError, MediaError, ModelError
from unified_reward.core.samples import Image, Video
from unified_reward.pairs.preferences import PreferencePair, trainable_pairs
from unified_reward.policies.vlm import VLMPolicy, build_request
from unified_reward.train.optim import (
    MuonFactory,
    OptimConfig,
    adapters,
    arguments,
    check_lora_targets,
    last_checkpoint,
    run,
)


_LOGGED = {
    "accuracy": "rewards/accuracies",
    "margin": "rewards/margins",
    "chosen": "rewards/chosen",
    "rejected": "rewards/rejected",
}


@dataclass(frozen=True)
class VLMDPO:
    """How a vision-language model is aligned."""

    optim: OptimConfig
    beta: float = 0.1
    """Multiplies the difference of log-ratios, > 0; larger stays closer to the reference. The
    published beta_u."""
    sft: float = 0.0
    """Weight of the cross-entropy of the chosen answers, in nats per token, >= 0."""
    max_pixels: int | None = None
    """Largest picture shown to the model, in pixels, > 0; None for what its processor does."""

    def __post_init__(self) -> None:
        if not (0 < self.beta < math.inf and 0 <= self.sft < math.inf):
            raise ConfigError(f"beta is above 0 and sft 0 or more, not {self.beta} and {self.sft}")
        if self.max_pixels is not None and self.max_pixels < 1:
            raise ConfigError(f"max_pixels is above 0, not {self.max_pixels}")
        if any(one.endswith("lm_head") for one in self.optim.lora_targets):
            # TRL multiplies by its weight directly, so that an adapter would never be trained.
            raise ConfigError("lora_targets: lm_head takes no adapter in DPO; leave it out")


class AnswerPair(NamedTuple):
    """A question and two answers in words, of which the first is preferred."""

    prompt: str
    context: tuple[Image | Video, ...]
    chosen: str
    rejected: str


class Collator:
    """Pairs to tensors, by the same code that samples."""

    def __init__(self, chat: Chat, pairs: Sequence[AnswerPair]) -> None:
        self._chat = chat
        self._pairs = pairs

    def __call__(self, batch: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Batch the B pairs whose places the rows hold.

        Returns:
            What the model's forward takes for 2 B turns, all chosen before all rejected;
            ``completion_mask``, shape (2 B, T), 1 on the answers and their ends.
        """
        pairs = [self._pairs[one["row"]] for one in batch]
        texts = [one.chosen for one in pairs] + [one.rejected for one in pairs]
        answers = [[*self._chat.tokens(text), self._chat.end] for text in texts]
        requests = [build_request(one.prompt, one.context) for one in pairs]
        inputs = self._chat.batch(requests * 2, answers)
        mask = torch.zeros_like(inputs["input_ids"])
        for row, answer in zip(mask, answers, strict=True):
            row[-len(answer) :] = 1
        return {**inputs, "completion_mask": mask}


class _Trainer(DPOTrainer):
    """TRL's, stopped before the weights are moved by what is no number."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  its signature is the trainer's
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Nats, meaned over the pairs of the batch."""
        loss: Any = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        self._check_finite(loss.detach(), "loss")
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm: Any = super()._clip_grad_norm(model)
        if norm is not None:  # DeepSpeed's own may be known only behind the step
            self._check_finite(norm, "gradient")
        return norm

    def _check_finite(self, value: Any, what: str) -> None:
        if not math.isfinite(float(value)):
            newest = last_checkpoint(Path(self.args.output_dir or ""))
            left = f"the last whole checkpoint is {newest}" if newest else "no checkpoint was saved"
            raise ModelError(
                f"the {what} of step {self.state.global_step + 1} is no number; {left}; "
                "use a lower rate"
            )


def align_vlm(
    policy: str | Path, pairs: Path, config: VLMDPO, out: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Align a vision-language policy and write it, by DPO.

    Rafailov et al. 2023, arXiv:2305.18290, Eq. 7. Under ``accelerate launch`` every process takes
    its share of each batch.

    Args:
        policy: Folder or hub id of the model.
        pairs: A pairs file; kept rows are learned.
        config: How.
        out: Folder of the new model; with adapters also ``adapter``, these by themselves. In
            ``checkpoints`` is what a killed run goes on from.
        log: Told why a row or pair is left out.

    Returns:
        ``rows`` by status, ``pairs`` learned from, ``losses`` in nats by step, and for the same
        steps ``accuracy``, the share of pairs whose chosen answer gained more than the rejected
        one; ``chosen`` and ``rejected``, beta times the log-ratios of these to the reference; and
        ``margin``, their difference.

    Raises:
        ConfigError: The policy is of another kind than the pairs, or options do not fit.
        DataError: No pair can be used.
        ModelError: The model cannot be loaded, or loss or gradient is no number any more.
    """
    state = PartialState(cpu=not torch.cuda.is_available())
    maker = policies.load(policy, device=str(state.device), dtype="float32")
    if not isinstance(maker, VLMPolicy):
        raise ConfigError(f"{policy} is a pipeline of diffusers, no vision-language model")
    chat = Chat(maker.vlm.chat.processor, max_pixels=config.max_pixels)
    log = log if state.is_main_process else _mute
    read, rows = trainable_pairs(pairs, maker.tasks, log)
    # Every medium is opened once, by one process.
    found = [trainable_answers(read, chat, rows, log) if state.is_main_process else None]
    answers, rows = cast("Any", broadcast_object_list(found))[0]
    if not answers:
        raise DataError(f"no pair of {pairs} is left to learn from; see what was told of each")
    model, losses, history = _fit(maker.vlm.model, chat, answers, config, out)
    if state.is_main_process:
        model.save_pretrained(out)
        chat.processor.save_pretrained(out)
        policies.write_defaults(maker.options, out)
    figures = {name: [round(one[key], 6) for one in history] for name, key in _LOGGED.items()}
    return {"rows": dict(rows), "pairs": len(answers), "losses": losses, **figures}


def _mute(_: str) -> None: ...


def trainable_answers(
    pairs: Sequence[PreferencePair], chat: Chat, rows: Counter[str], log: Callable[[str], None]
) -> tuple[list[AnswerPair], Counter[str]]:
    """Pairs that can be learned, and the rows by status once the others are counted too.

    Args:
        pairs: Of answers; their contexts are opened.
        chat: Whose control tokens no answer may spell.
        rows: By status, before.
        log: Told why a pair is left out.
    """
    kept: list[AnswerPair] = []
    rows = rows.copy()
    special = set(chat.tokenizer.all_special_ids)
    for pair in track(pairs, description="opening contexts", disable=len(pairs) < 100):
        try:
            kept.append(_answers(pair, chat, special))
        except (DataError, MediaError) as error:
            rows["kept"] -= 1
            rows["failed" if isinstance(error, MediaError) else "unusable"] += 1
            log(f"pair {pair.id!r}: {error}")
    return kept, rows


def _answers(pair: PreferencePair, chat: Chat, special: set[int]) -> AnswerPair:
    chosen, rejected = pair.chosen, pair.rejected
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise DataError("its answers are not both plain text")
    if chosen.strip() == rejected.strip():
        raise DataError("its answers are the same")
    if special.intersection(chat.tokens(chosen) + chat.tokens(rejected)):
        raise DataError("its answers spell a control token of the model")
    build_request(pair.prompt, pair.context)
    return AnswerPair(pair.prompt, pair.context, chosen, rejected)


def _fit(
    model: Any, chat: Chat, pairs: Sequence[AnswerPair], config: VLMDPO, out: Path
) -> tuple[Any, list[tuple[int, float]], list[dict[str, Any]]]:
    """The aligned model, adapters merged; its losses; all that was logged with them."""
    optim = config.optim
    check_lora_targets(model, optim)
    terms = {"sigmoid": 1.0} | ({"sft": config.sft} if config.sft else {})
    args = DPOConfig(
        **arguments(optim, out / "checkpoints"),
        beta=config.beta,
        loss_type=[*terms],
        loss_weights=[*terms.values()],
        max_length=None,
    )
    processes = PartialState().num_processes
    n = optim.steps * optim.accumulate * optim.batch_size * processes
    trainer = _Trainer(
        model=model,
        # Without its adapters a model is its own reference.
        ref_model=None if optim.lora_rank else copy.deepcopy(model),
        args=args,
        data_collator=Collator(chat, pairs),
        # TRL leaves rows with pictures to the collator, which finds them by the place of the pair.
        train_dataset=Dataset.from_dict(
            {"row": _order(len(pairs), n, optim.seed), "images": [None] * n}
        ),
        processing_class=chat.processor,
        peft_config=adapters(optim),
    )
    if optim.muon_lr:
        trainer.optimizer_cls_and_kwargs = cast("Any", (MuonFactory, {"config": optim}))
    losses = run(trainer, optim, "aligning")
    history = [one for one in trainer.state.log_history if "loss" in one]
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not optim.lora_rank:
        return trained, losses, history
    if trainer.accelerator.is_main_process:
        trained.save_pretrained(out / "adapter", save_embedding_layers=False)
    return trained.merge_and_unload(), losses, history


def _order(n: int, total: int, seed: int) -> list[int]:
    """Places of pairs; every pair comes once before any comes again."""
    rounds = [np.random.default_rng([seed, k]).permutation(n) for k in range(-(-total // n))]
    return np.concatenate(rounds)[:total].tolist()
