"""Fine-tuning of a judge on examples of all tasks and forms, with the templates of one family.

The result is an ordinary checkpoint folder with a card.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from accelerate import PartialState

from unified_reward import prompts
from unified_reward.backends.hf_vlm import VLM, load_vlm
from unified_reward.backends.value_head import ValueHead, load_head, save_head
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Example, FrameRule, Target
from unified_reward.core.verdicts import WIN_SHARES, Preferred, Scale, Score, Scored
from unified_reward.data.example_file import ExampleFile
from unified_reward.data.series import Examples, SeriesRequest, find_series
from unified_reward.judges.card import Card, Head, build_published, build_request
from unified_reward.judges.scalar import UNIT
from unified_reward.train.bad_items import check_items
from unified_reward.train.optim import OptimConfig
from unified_reward.train.padding import choose_padding
from unified_reward.train.precision import Dtype, check_dtype, load_dtype
from unified_reward.train.scalar import ScalarCollator, ScalarConfig, ScalarExample, fit_scalar
from unified_reward.train.sft import ChatCollator, ChatExample, RankingExample, fit


@dataclass(frozen=True)
class JudgeTraining:
    """Options of training a judge."""

    optim: OptimConfig
    base: str = ""
    """Vision-language model to start from: a folder, a named checkpoint or a hub id; empty for the
    base that the recipe trains."""
    data: str = ""
    """JSONL file of examples, or the name of a series, such as ``microworld``."""
    data_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of the series, such as the weights of its cells."""
    held_back: float = 0.0
    """Share of a file's prompts to keep out of training, in [0, 1); for calibration."""
    twins: bool = False
    """Give every comparison in both orders, one behind the other, with its label swapped."""
    head: Literal["generative", "scalar"] = "generative"
    """``generative`` answers in text; ``scalar`` has a value head on the trunk: that of the base if
    it is a scalar judge of the same values, else a new one."""
    scalar: ScalarConfig = field(default_factory=ScalarConfig)
    """Options of a scalar judge."""
    ranking: float = 0.0
    """Share of a generative judge's comparison batches, in [0, 1], that train its scores instead of
    its verdict: each candidate is scored alone, and their expected scores are ranked."""
    family: str = "native"
    frames: int | None = None
    """Frames of a video; None for the family's own number."""
    frame_rule: FrameRule | None = None
    max_pixels: int | None = None
    processes: int = 1
    """Processes the run is launched with; they share the examples."""
    dtype: Dtype | None = None
    """Type of frozen weights; None for bfloat16 under adapters on a GPU, else float32. Adapters are
    trained and merged in float32."""

    def __post_init__(self) -> None:
        check_dtype(self.dtype, None, self.optim.lora_rank)
        family = prompts.family(self.family)
        if not 0 <= self.held_back < 1:
            raise ConfigError(f"held_back is a share in [0, 1), not {self.held_back}")
        if not 0 <= self.ranking <= 1:
            raise ConfigError(f"ranking is a share in [0, 1], not {self.ranking}")
        if self.ranking and not family.verdict_first:
            raise ConfigError(
                f"answers of family {self.family} reason before the score, so that the expected "
                "scores of two candidates cannot be ranked; set ranking to 0"
            )


class JudgeTurns:
    """Examples as chat turns: the judge's own request, answered by the target.

    A published conversation is used verbatim.

    Args:
        examples: The examples, in blocks of one form.
        card: Family and frames of the judge.
        block: Examples in a block.
        ranking: Share of the blocks in which comparisons become rankings.
        seed: Seed of the choice of those blocks.
    """

    def __init__(
        self, examples: Examples, card: Card, *, block: int = 1, ranking: float = 0.0, seed: int = 0
    ) -> None:
        self._examples = examples
        self._card = card
        self._block, self._ranking, self._seed = block, ranking, seed

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> ChatExample | RankingExample:
        record = self._examples[index]
        if record.messages:
            return ChatExample(*build_published(record, self._card))
        sample = record.sample
        template = prompts.template(self._card.family, sample.task, sample.form)
        verdict = target_verdict(record, template)
        if isinstance(verdict, Preferred) and self._is_ranked(index):
            first, second = (build_request(each, self._card, {}) for each in sample.split())
            return RankingExample(first, second, WIN_SHARES[verdict.winner])
        answer = template.answer(verdict, rationale=record.target.rationale)
        request = build_request(sample, self._card, {})
        soft = template.scale is not None and template.family.verdict_first
        return ChatExample(request, answer, _spread(record, len(request.choices)) if soft else ())

    def name(self, index: int) -> str:
        """Id of an example."""
        return self._examples[index].id

    def _is_ranked(self, index: int) -> bool:
        draw = np.random.default_rng([self._seed, index // self._block, 1]).random()
        return bool(draw < self._ranking)


class JudgeLabels:
    """Examples as labelled candidates of a scalar judge, in the judge's own requests."""

    def __init__(self, examples: Examples, card: Card, aspects: Sequence[str]) -> None:
        self._examples = examples
        self._card = card
        self._aspects = aspects

    def __len__(self) -> int:
        return len(self._examples)

    def name(self, index: int) -> str:
        """Id of an example."""
        return self._examples[index].id

    def __getitem__(self, index: int) -> ScalarExample:
        record = self._examples[index]
        if record.messages and not record.candidates:
            raise DataError(
                f"conversation {record.id!r} has no known candidates, which a scalar judge needs; "
                "import its official wordings, and convert it again"
            )
        sample, target = record.sample, record.target
        label = WIN_SHARES.get(target.winner or "")
        shares: Mapping[str, float | None] = target.aspects
        if sample.form == "score":
            label = None if target.score is None else _share(record)
            template = prompts.template(self._card.family, sample.task, "score")
            scales = {one.name: one.scale for one in template.aspects}
            other = _scale_of_aspects(target)
            shares = {
                name: scales.get(name, other).share(value) for name, value in target.aspects.items()
            }
        aspects = tuple(shares.get(name) for name in self._aspects)
        wrong = [one for one in (label, *aspects) if one is not None and not 0 <= one <= 1]
        if wrong:
            raise DataError(
                f"record {sample.id!r} has a score or share beyond its scale: "
                f"{wrong[0]:g}, moved to 0 to 1"
            )
        if label is None and not any(share is not None for share in aspects):
            wanted = "score" if sample.form == "score" else "winner"
            raise DataError(f"record {sample.id!r} has no {wanted} to learn from")
        requests = tuple(build_request(each, self._card, {}) for each in sample.split())
        return ScalarExample(requests, label, aspects)


def target_verdict(record: Example, template: prompts.Template) -> Scored | Preferred:
    """The verdict to train towards: the target moved to the template's scale.

    Where probabilities are read over the steps of a scale, a value between two steps becomes one
    of them, chosen by the record's id so that its expectation is the value; `JudgeTurns` adds the
    shares of both where they can be learned (docs/departures.md).

    Raises:
        DataError: The target lacks the label of the form.
    """
    target, name = record.target, record.sample.id
    if template.form == "compare":
        if target.winner is None:
            raise DataError(f"record {name!r} has two candidates but no winner")
        outcome = [float(target.winner == one) for one in ("first", "tie", "second")]
        shares = target.aspects if template.aspects else {}
        try:
            return Preferred(*outcome, aspects=shares)
        except ValueError as error:
            raise DataError(f"record {name!r}: {error}") from error
    scales = {one.name: one.scale for one in template.aspects}
    try:
        aspects = {
            key: Score(value, scales.get(key, _scale_of_aspects(target)))
            for key, value in target.aspects.items()
            if key in scales or not scales
        }
    except ValueError as error:
        raise DataError(f"record {name!r}: {error}") from error
    if template.scale is None or template.scale.step is None:  # an answer states aspects alone
        return Scored(None, aspects)
    step = _on_step(_share(record), template.scale, name)
    return Scored(Score(step, template.scale), aspects)


def _scale_of_aspects(target: Target) -> Scale:
    return target.scale if target.score is None and target.scale else UNIT


def _share(record: Example) -> float:
    """The target's score moved to [0, 1]."""
    target, name = record.target, record.sample.id
    if target.score is None or target.scale is None:
        raise DataError(f"record {name!r} has no score on a scale")
    share = target.scale.share(target.score)
    if share is None:
        raise DataError(f"record {name!r} has a score on an open scale, which has no steps")
    return share


def _spread(record: Example, n: int) -> tuple[float, ...]:
    """Shares of n steps whose expectation is the score: of the two next to it, or of one."""
    place = min(max(_share(record), 0.0), 1.0) * (n - 1)
    return tuple(max(0.0, 1 - abs(place - step)) for step in range(n))


def _on_step(share: float, scale: Scale, name: str) -> float:
    steps = scale.steps()
    place = min(max(share, 0.0), 1.0) * (len(steps) - 1)
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64
    return steps[min(math.floor(place + draw), len(steps) - 1)]


def train_judge(
    config: JudgeTraining, out: str | Path, examples: Examples | None = None
) -> list[tuple[int, float]]:
    """Fine-tune a judge, and write its checkpoint, processor and card.

    Args:
        config: Base, data, family, head and optimiser.
        out: Folder of the new checkpoint; `open_judge` opens it.
        examples: Trained on in place of those that the configuration names.

    Returns:
        Loss by optimiser step, in nats per answer token, or per label for a scalar judge.

    Raises:
        ConfigError: The configuration names no base or no data.
        DataError: Rows of the file cannot be used, or more than a few other examples.
        ModelError: The base cannot be loaded.

    Example::

        from unified_reward import train_judge
        from unified_reward.train.judge import JudgeTraining
        from unified_reward.train.optim import OptimConfig

        optim = OptimConfig(steps=1000, batch_size=16, lr=1e-5)
        config = JudgeTraining(optim, base="Qwen/Qwen2.5-VL-7B-Instruct", data="train.jsonl")
        losses = train_judge(config, "my_judge")
    """
    if not config.base:
        raise ConfigError("name the base to train from: judge.base is a folder or a hub id")
    folder = Path(out)
    examples = training_examples(config) if examples is None else examples
    card = _card(config)
    optim, base = config.optim, str(checkpoint_path(config.base))
    dtype = load_dtype(config.dtype, optim.lora_rank)
    vlm = load_vlm(base, dtype=dtype, max_pixels=config.max_pixels)
    choose_padding(vlm.model, vlm.chat)
    checks = {"limit": vlm.context, "workers": optim.workers}
    head = _head_of_base(config, vlm)
    if config.head == "scalar":
        aspects = config.scalar.aspects
        labels = JudgeLabels(examples, card, aspects)
        if isinstance(examples, ExampleFile):
            check_items(ScalarCollator(vlm.chat, labels), labels, config.data, **checks)
        model, head, margin, losses = fit_scalar(vlm, labels, config.scalar, optim, folder, head)
        card = replace(card, head=Head(aspects, config.scalar.uncertain, margin))
    else:
        turns = JudgeTurns(
            examples, card, block=optim.batch_size, ranking=config.ranking, seed=optim.seed
        )
        if isinstance(examples, ExampleFile):
            check_items(ChatCollator(vlm.chat, turns), turns, config.data, **checks)
        model, losses = fit(vlm.model, vlm.chat, turns, optim, folder, title="training the judge")
    if PartialState().is_main_process:
        model.save_pretrained(folder)
        if head is not None:
            save_head(head, folder)
        vlm.chat.processor.save_pretrained(folder)
        card.write(folder)
    return losses


def _head_of_base(config: JudgeTraining, vlm: VLM) -> ValueHead | None:
    """Value head to train on: that of a base that is a scalar judge of the same values."""
    folder = checkpoint_path(config.base)
    card = Card.read(folder)
    wanted = (config.scalar.aspects, config.scalar.uncertain)
    known = card.head if card and config.head == "scalar" else None
    if known is None or (known.aspects, known.uncertain) != wanted:
        return None
    n_values = 1 + len(known.aspects)
    return load_head(folder, vlm, n_values=n_values, uncertain=known.uncertain)


def _card(config: JudgeTraining) -> Card:
    return Card(
        config.family,
        config.frames,
        config.frame_rule,
        config.max_pixels,
        base=config.base,
        training={"data": config.data, "steps": config.optim.steps, "seed": config.optim.seed},
    )


def training_examples(config: JudgeTraining) -> Examples:
    """The examples that a configuration names, in the order of training.

    Raises:
        ConfigError: ``data`` is neither a file nor a series, or its options are wrong.
        DataError: A row of the file cannot be used.
    """
    optim = config.optim
    found = find_series(config.data, config.data_options)
    if found:
        series, options = found
        if config.held_back:
            raise ConfigError(f"held_back is for files; {config.data} makes new examples instead")
        n = optim.steps * optim.batch_size * optim.accumulate * config.processes
        request = SeriesRequest(n, block=optim.batch_size, seed=optim.seed, twins=config.twins)
        return series.train(options, request)
    return ExampleFile(
        Path(config.data),
        seed=optim.seed,
        twins=config.twins,
        part="train" if config.held_back else "all",
        held_back=config.held_back,
    )
