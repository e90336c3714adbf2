"""Supervised fine-tuning of any vision-language model on question and answer turns, by TRL.

Knows requests, answers and the choices among them as text; not tasks, and not where the turns come
from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from unified_reward.backends.chat import Chat, common_prefix
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Request
from unified_reward.train.losses import expected_share, score_ranking
from unified_reward.train.optim import (
    MuonFactory,
    OptimConfig,
    lora_config,
    run_trainer,
    training_arguments,
)


_IGNORED = -100


class ChatExample(NamedTuple):
    """One user turn and what the assistant is to say."""

    request: Request
    answer: str
    shares: tuple[float, ...] = ()
    """How often each of the request's choices is to be said; empty where the answer always is."""


class RankingExample(NamedTuple):
    """Two user turns whose choices ascend, and which of them deserves the higher one."""

    first: Request
    second: Request
    outcome: float
    """1 if the first does, 0 the second, 0.5 neither."""


class ChatDataset(Protocol):
    """Turns by index, made when asked for, so that no set need fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ChatExample | RankingExample: ...


class _Row(NamedTuple):
    """One user turn with its answer in tokens, and what is weighed in it."""

    request: Request
    answer: list[int]
    """As far as it is given to the model."""
    labels: list[int]
    choices: list[int] = []  # noqa: RUF012  never changed
    """The token that each choice begins with, behind what all share; empty if none is weighed."""
    shares: tuple[float, ...] = ()
    at: int = 1
    """Where that token is foretold, counted from the end."""
    outcome: float = float("nan")
    """Of the first turn of a ranking."""


class ChatCollator:
    """Turns to tensors, by the same code that judges; the loss sees answer tokens alone."""

    def __init__(self, chat: Chat, turns: ChatDataset) -> None:
        self._chat = chat
        self._turns = turns

    def __call__(self, batch: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Batch the turns whose indices the rows hold, the two of a ranking one behind the other.

        Returns:
            What the model's forward takes for B user turns; ``labels``, shape (B, T); ``choices``,
            shape (B, C), the token each begins with, -1 for none; ``shares``, shape (B, C), 0 in a
            ranking; ``at``, shape (B,), how far from the end that token is foretold; ``outcome``,
            shape (B,), NaN but for the first of a ranking.
        """
        rows = [row for one in batch for row in self._rows(self._turns[one["row"]])]
        inputs = self._chat.batch([row.request for row in rows], [row.answer for row in rows])
        labels = torch.full_like(inputs["input_ids"], _IGNORED)
        for k, row in enumerate(rows):
            if row.labels:
                labels[k, -len(row.labels) :] = torch.tensor(row.labels)
        width = max(1, *(len(row.choices) for row in rows))
        choices = [row.choices + [-1] * (width - len(row.choices)) for row in rows]
        shares = [[*row.shares] + [0.0] * (width - len(row.shares)) for row in rows]
        return {
            **inputs,
            "labels": labels,
            "choices": torch.tensor(choices),
            "shares": torch.tensor(shares),
            "at": torch.tensor([row.at for row in rows]),
            "outcome": torch.tensor([row.outcome for row in rows]),
        }

    def _rows(self, turn: ChatExample | RankingExample) -> list[_Row]:
        if isinstance(turn, RankingExample):
            rows: list[_Row] = []
            for request, outcome in ((turn.first, turn.outcome), (turn.second, float("nan"))):
                opening, choices = self._choices(request)
                if not choices:
                    raise ConfigError(
                        "scores cannot be ranked: the tokenizer begins several of the answers "
                        f"{', '.join(request.choices)} with the same token"
                    )
                rows.append(_Row(request, opening, [], choices, outcome=outcome))
            return rows
        answer = [*self._chat.tokens(turn.answer), self._chat.end]
        opening, choices = self._choices(turn.request) if turn.shares else ([], [])
        if not choices:
            return [_Row(turn.request, answer, answer)]
        labels = [*answer]
        labels[len(opening)] = _IGNORED
        at = len(answer) - len(opening) + 1
        return [_Row(turn.request, answer, labels, choices, turn.shares, at)]

    def _choices(self, request: Request) -> tuple[list[int], list[int]]:
        """The tokens that all choices share, and the next of each; none if two have the same."""
        rows = [[*self._chat.tokens(one), self._chat.end] for one in request.choices]
        shared = common_prefix(rows)
        first = [row[shared] for row in rows]
        return rows[0][:shared], first if len({*first}) == len(first) else []


class _Trainer(SFTTrainer):
    """TRL's but for the loss.

    TRL gathers metrics over the processes with every batch, so that none could leave a batch to us:
    the others would wait for it.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  its signature is the trainer's
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Nats, meaned over answer tokens and rankings of the batch."""
        choices, shares, at, outcome, labels = (
            inputs.pop(name) for name in ("choices", "shares", "at", "outcome", "labels")
        )
        is_said = labels != _IGNORED
        n_said = int(is_said.any(0).flip(0).nonzero().amax()) + 1 if is_said.any() else 0
        kept = max(n_said + 1, int(at.max()))
        logits = model(**inputs, use_cache=False, logits_to_keep=kept).logits.float()
        answers = labels[:, labels.shape[1] - kept + 1 :]
        told = cross_entropy(logits[:, :-1].flatten(0, 1), answers.flatten(), reduction="sum")
        foretold = logits[torch.arange(len(at)), -at]
        chosen = foretold.gather(-1, choices.clamp(min=0))
        weighed = shares * (foretold.logsumexp(-1, keepdim=True) - chosen)
        is_first = ~outcome.isnan()
        expected = expected_share(chosen, choices >= 0)
        ranked = score_ranking(expected[is_first], expected[is_first.roll(1)], outcome[is_first])
        n = is_said.sum() + (shares.sum(-1) > 0).sum() + is_first.sum()
        loss = (told + weighed.sum() + ranked.sum()) / n
        # The trainer means over accumulated passes itself where it does not count items.
        return (
            loss if num_items_in_batch is None else loss / self.current_gradient_accumulation_steps
        )


def fit(
    model: Any,
    chat: Chat,
    turns: ChatDataset,
    config: OptimConfig,
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

    With adapters, these are also kept by themselves, in ``out / "adapter"``.

    Returns:
        The trained model, adapters merged, and the loss in nats per answer token by step.
    """
    shared = training_arguments(config, out / "checkpoints")
    trainer = _Trainer(
        model=model,
        args=SFTConfig(**shared, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None),
        data_collator=ChatCollator(chat, turns),
        train_dataset=Dataset.from_dict({"row": range(len(turns))}),
        processing_class=chat.processor,
        peft_config=lora_config(config),
        # A factory is taken too, though the annotation names optimisers alone.
        optimizer_cls_and_kwargs=cast(
            "Any", (MuonFactory, {"config": config}) if config.muon_lr else None
        ),
    )
    losses = run_trainer(trainer, config, title)
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not config.lora_rank:
        return trained, losses
    if trainer.accelerator.is_main_process:
        trained.save_pretrained(out / "adapter", save_embedding_layers=False)
    return trained.merge_and_unload(), losses
