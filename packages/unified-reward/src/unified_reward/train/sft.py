"""Supervised fine-tuning of any vision-language model on prompts and answers, by TRL.

Knows requests, answers and the choices among them as text; knows nothing of tasks or data files.
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
from unified_reward.train.adapters import merge_peft
from unified_reward.train.bad_items import SparingCollator
from unified_reward.train.losses import expected_share, score_ranking
from unified_reward.train.optim import (
    FiniteTrainer,
    OptimConfig,
    lora_config,
    optimizer_factory,
    run_trainer,
    training_arguments,
)


_IGNORED = -100


class ChatExample(NamedTuple):
    """A user turn and the assistant's answer."""

    request: Request
    answer: str
    shares: tuple[float, ...] = ()
    """Target probability of each of the request's choices (soft labels, summing to 1); empty if
    ``answer`` alone is learned."""


class RankingExample(NamedTuple):
    """Two score requests whose choices ascend, and which of them deserves the higher score."""

    first: Request
    second: Request
    outcome: float
    """1 if the first is better, 0 if the second is, 0.5 for a tie."""


class ChatDataset(Protocol):
    """Examples by index, built on access, so that no data set has to fit in memory."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> ChatExample | RankingExample: ...


class _TokenizedExample(NamedTuple):
    """A user turn, the token ids of its answer and the targets of its choices."""

    request: Request
    answer: list[int]
    """Answer tokens that are fed to the model."""
    labels: list[int]
    """Targets for the answer tokens; ignored ones are -100."""
    choices: list[int] = []  # noqa: RUF012  never changed
    """First token of each choice after their common prefix; empty without soft labels."""
    shares: tuple[float, ...] = ()
    """Target probability of each choice."""
    offset: int = 1
    """Position of the logits that predict that first token, counted from the end."""
    outcome: float = float("nan")
    """Outcome of the ranking whose first request this is; NaN elsewhere."""


class ChatCollator:
    """Builds batches with the code that also builds a judge's prompts; only answers have labels."""

    def __init__(self, chat: Chat, dataset: ChatDataset) -> None:
        self._chat = chat
        self._dataset = dataset

    def __call__(self, batch: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        """Collate the examples whose indices the rows hold; a ranking becomes two adjacent rows.

        Returns:
            Inputs of the model's forward for B user turns; ``labels``, shape (B, T); ``choices``,
            shape (B, C), the first token of each choice, -1 for none; ``shares``, shape (B, C), 0
            in a ranking; ``place``, shape (B,), position of the logits that predict that token;
            ``outcome``, shape (B,), NaN except for the first of a ranking.
        """
        rows = [row for item in batch for row in self._tokenize(self._dataset[item["row"]])]
        inputs = self._chat.batch([row.request for row in rows], [row.answer for row in rows])
        labels = torch.full_like(inputs["input_ids"], _IGNORED)
        ends = [int(mask.nonzero().amax()) + 1 for mask in inputs["attention_mask"]]
        for k, (row, end) in enumerate(zip(rows, ends, strict=True)):
            labels[k, end - len(row.labels) : end] = torch.tensor(row.labels)
        width = max(1, *(len(row.choices) for row in rows))
        choices = [row.choices + [-1] * (width - len(row.choices)) for row in rows]
        shares = [[*row.shares] + [0.0] * (width - len(row.shares)) for row in rows]
        return {
            **inputs,
            "labels": labels,
            "choices": torch.tensor(choices),
            "shares": torch.tensor(shares),
            "place": torch.tensor([end - row.offset for row, end in zip(rows, ends, strict=True)]),
            "outcome": torch.tensor([row.outcome for row in rows]),
        }

    def _tokenize(self, example: ChatExample | RankingExample) -> list[_TokenizedExample]:
        if isinstance(example, RankingExample):
            rows: list[_TokenizedExample] = []
            outcomes = (example.outcome, float("nan"))
            for request, outcome in zip((example.first, example.second), outcomes, strict=True):
                prefix, choices = self._choices(request)
                if not choices:
                    raise ConfigError(
                        "scores cannot be ranked: the tokenizer begins several of the answers "
                        f"{', '.join(request.choices)} with the same token"
                    )
                rows.append(_TokenizedExample(request, prefix, [], choices, outcome=outcome))
            return rows
        request = example.request
        answer = self._chat.closed(example.answer)
        prefix, choices = self._choices(request) if example.shares else ([], [])
        if not choices:
            return [_TokenizedExample(request, answer, answer)]
        labels = [*answer]
        labels[len(prefix)] = _IGNORED
        offset = len(answer) - len(prefix) + 1
        return [_TokenizedExample(request, answer, labels, choices, example.shares, offset)]

    def _choices(self, request: Request) -> tuple[list[int], list[int]]:
        """Common token prefix of all choices, and each one's next token; none if two are equal."""
        rows = [self._chat.closed(choice) for choice in request.choices]
        shared = common_prefix(rows)
        first = [row[shared] for row in rows]
        return rows[0][:shared], first if len({*first}) == len(first) else []


class _SFTTrainer(FiniteTrainer, SFTTrainer):
    """TRL's trainer with soft labels and rankings in the loss.

    TRL gathers metrics across processes in every batch, so its own loss cannot be called for some
    batches only: the other processes would wait for it.
    """

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,  # noqa: FBT001, FBT002  its signature is the trainer's
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Loss in nats, averaged over the answer tokens and rankings of the batch."""
        choices, shares, place, outcome, labels = (
            inputs.pop(name) for name in ("choices", "shares", "place", "outcome", "labels")
        )
        # Each position predicts the next token.
        targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=_IGNORED)
        has_label = targets != _IGNORED
        positions = torch.cat([has_label.any(0).nonzero()[:, 0], place]).unique()
        logits = model(**inputs, use_cache=False, logits_to_keep=positions).logits
        if logits.shape[1] != len(positions):  # some models compute all of them
            logits = logits[:, positions]
        logits = logits.float()
        hard = cross_entropy(logits.flatten(0, 1), targets[:, positions].flatten(), reduction="sum")
        at_choice = logits[torch.arange(len(place)), torch.searchsorted(positions, place)]
        chosen = at_choice.gather(-1, choices.clamp(min=0))
        soft = shares * (at_choice.logsumexp(-1, keepdim=True) - chosen)
        is_first = ~outcome.isnan()
        expected = expected_share(chosen, choices >= 0)
        ranked = score_ranking(expected[is_first], expected[is_first.roll(1)], outcome[is_first])
        n = has_label.sum() + (shares.sum(-1) > 0).sum() + is_first.sum()
        loss = (hard + soft.sum() + ranked.sum()) / n
        # The trainer averages over accumulated passes itself where it does not count items.
        return (
            loss if num_items_in_batch is None else loss / self.current_gradient_accumulation_steps
        )


def fit(
    model: Any,
    chat: Chat,
    dataset: ChatDataset,
    config: OptimConfig,
    out: Path,
    *,
    title: str = "training",
) -> tuple[Any, list[tuple[int, float]]]:
    """Fine-tune a model; under ``accelerate launch`` on every process it starts.

    With adapters, these are also written on their own, to ``out / "adapter"``.

    Args:
        model: A transformers vision-language model.
        chat: Its processor.
        dataset: Examples, taken in order, and again from the start when they run out.
        config: Optimiser, schedule and adapters.
        out: Folder of the run; a killed run resumes from the checkpoints in ``checkpoints``.
        title: Label of the progress bar.

    Returns:
        The trained model, adapters merged, and the loss in nats per answer token by step.

    Raises:
        ConfigError: ``lora_targets`` names no layer, or scores cannot be ranked.
        DataError: Too many examples cannot be used; a few are left out, and logged.
        ModelError: Loss or gradient is not finite.
    """
    trainer = _SFTTrainer(
        model=model,
        args=SFTConfig(
            **training_arguments(config, out / "checkpoints", model.dtype),
            dataset_kwargs={"skip_prepare_dataset": True},
            max_length=None,
        ),
        data_collator=cast("Any", SparingCollator(ChatCollator(chat, dataset), dataset)),
        train_dataset=Dataset.from_dict({"row": range(len(dataset))}),
        processing_class=chat.processor,
        peft_config=lora_config(config),
        optimizer_cls_and_kwargs=optimizer_factory(config),
    )
    losses = run_trainer(trainer, config, title)
    trained: Any = trainer.accelerator.unwrap_model(trainer.model)
    if not config.lora_rank:
        return trained, losses
    if trainer.accelerator.is_main_process:
        trained.save_pretrained(out / "adapter", save_embedding_layers=False)
    return merge_peft(trained), losses
