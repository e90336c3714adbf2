"""``open_judge``: every kind of judge by one reference, as on the command line and in recipes.

Imports torch only for references that need it. Distributions add judges, scorers and named
checkpoints by entry points, see `core.extensions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from unified_reward import prompts
from unified_reward.backends.openai import OpenAIModel
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import (
    checkpoint_path,
    checkpoints,
    extensions,
    extra,
    load_extension,
    missing_hint,
)
from unified_reward.core.samples import Example
from unified_reward.judges.card import Card, CardedJudge
from unified_reward.judges.generative import GenerativeJudge
from unified_reward.judges.scalar import ScalarJudge
from unified_reward.judges.scripted import KINDS, ScriptedModel
from unified_reward.judges.table import TableJudge
from unified_reward.prompts.official import has_wordings, import_hint
from unified_reward.scorers import CHECKLISTS, scorer_names, system


if TYPE_CHECKING:
    from unified_reward.scorers.base import Scorer


PUBLISHED: dict[str, tuple[str | None, str]] = {
    "CodeGoat24/UnifiedReward-Think-qwen3": ("unifiedreward-think-qwen3", "think"),
    "CodeGoat24/UnifiedReward-Think": ("unifiedreward-think", "think"),
    "CodeGoat24/UnifiedReward-2.0": ("unifiedreward-2.0", "reasoned"),
    "CodeGoat24/UnifiedReward-qwen-": ("unifiedreward-qwen", "reasoned"),
    "CodeGoat24/UnifiedReward-7b": ("unifiedreward-llava", "reasoned"),
    "CodeGoat24/UnifiedReward-0.5b": ("unifiedreward-llava", "reasoned"),
    "CodeGoat24/UnifiedReward-Edit": ("unifiedreward-edit", "edit"),
    "CodeGoat24/UnifiedReward-Flex": ("unifiedreward-flex", "flex"),
    "CodeGoat24/UnifiedReward": (None, "reasoned"),
    "lmms-lab/llava-critic": ("llava-critic", "reasoned"),
}
"""Published judges by the start of their hub id, first match wins: the family with the wording
they were trained on (None where no family has it), and the family of this library whose answers
are alike."""


@dataclass(frozen=True)
class JudgeOptions:
    """The arguments of `open_judge` beside the reference; see there."""

    family: str | None = None
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    votes: int = 0
    api_key: str | None = None
    model: str | None = None
    allow_reworded: bool = False
    quantize: Literal["8bit", "4bit"] | None = None

    def __post_init__(self) -> None:
        if self.quantize not in (None, "8bit", "4bit"):
            raise ConfigError(f"quantize is 8bit or 4bit, not {self.quantize!r}")


_DEFAULTS = JudgeOptions()


def open_judge(  # noqa: PLR0913  the one door: every option of every kind of judge
    reference: str | Path,
    *,
    family: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    votes: int = 0,
    api_key: str | None = None,
    model: str | None = None,
    allow_reworded: bool = False,
    quantize: Literal["8bit", "4bit"] | None = None,
) -> BaseJudge:
    """Open a judge by its reference. There is no default judge.

    Args:
        reference: The first match wins: an existing folder with a checkpoint; ``scripted:KIND``,
            a control that answers by a fixed rule; ``table:FILE`` of known verdicts;
            ``NAME:WEIGHTS``, a published scorer with the folder or hub id of its weights; a name
            that an installed distribution registers, such as ``tiny_judge`` of the laboratory;
            ``checklist-image:JUDGE`` or ``checklist-video:JUDGE``, VisionReward's questions put to
            any generative judge; ``http(s)://…``, an OpenAI-compatible server, which imports no
            torch; a hub id ``org/name``, which reaches the network.
        family: Prompts and answer format; default those of the checkpoint's card, else ``native``.
        device: ``cpu``, ``cuda``, ``mps``, …; default the fastest there is. ``auto`` spreads a
            checkpoint over all devices (accelerate), for judges too large for one.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        batch_size: Requests in one forward pass of a local judge, >= 1; default 16.
        votes: Further answers sampled per question, >= 0, and averaged, where a server does not
            return log-probabilities.
        api_key: Bearer token of a server; default the environment's UNIFIED_REWARD_API_KEY.
        model: The server's name of the model; default its only one.
        allow_reworded: Ask a published judge whose official wording is not imported in the wording
            of this library, which it never saw in training.
        quantize: ``8bit`` or ``4bit`` weights of a local checkpoint; needs bitsandbytes.

    Returns:
        The judge; ``score``, ``compare`` and ``rank`` answer at once, ``ask`` takes samples.

    Raises:
        ConfigError: The reference is empty or matches nothing, or an option does not apply.
        ModelError: The checkpoint cannot be loaded.
        DataError: The table cannot be read.

    Example:
        >>> open_judge("scripted:first").name
        'scripted:first'
    """
    options = JudgeOptions(
        family=family,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        votes=votes,
        api_key=api_key,
        model=model,
        allow_reworded=allow_reworded,
        quantize=quantize,
    )
    return open_reference(reference, options)


def open_reference(
    reference: str | Path,
    options: JudgeOptions = _DEFAULTS,
    *,
    truth: Iterable[Example] | None = None,
    opens_media: bool = True,
) -> BaseJudge:
    """Open a judge with its options as one value; see `open_judge`.

    Args:
        reference: See `open_judge`.
        options: See `open_judge`.
        truth: Examples whose targets ``scripted:perfect`` answers.
        opens_media: False lets scripted judges answer without opening files, even missing ones.
    """
    given = str(reference)
    kind, _, rest = given.partition(":")
    if not given:
        raise ConfigError(f"no judge is named, and there is no default:\n{available_judges()}")
    if Path(given).is_dir():
        return open_checkpoint(given, Path(given), options)
    if options.quantize and not _is_checkpoint(given):
        raise ConfigError(
            f"quantize={options.quantize!r} is for local vision-language checkpoints, "
            f"not for {given}"
        )
    if kind == "scripted":
        return _open_scripted(rest, options, truth, opens_media=opens_media)
    if kind in _OPENERS:
        return _OPENERS[kind](given, options)
    if kind in scorer_names():
        return _open_scorer(kind, rest, options)
    if kind in extensions("judges"):
        opener: Callable[[str, JudgeOptions], BaseJudge] = load_extension("judges", kind)
        return opener(rest, options)
    if _is_checkpoint(given):
        return open_checkpoint(given, checkpoint_path(given), options)
    raise ConfigError(
        f"there is no judge {given!r}{missing_hint(given)}; give one of these:\n"
        f"{available_judges()}"
    )


def available_judges() -> str:
    """Every kind of judge there is, in three lines, for error messages."""
    named = [f"{name} ({checkpoint.note})" for name, checkpoint in checkpoints("judge")]
    named += extensions("judges")
    installed = "; ".join(named) or "none; toys to try things out: pip install unified-reward-lab"
    return (
        "  models: a folder or hub id of a vision-language checkpoint, the http(s):// URL of a "
        f"server, NAME:WEIGHTS of a scorer ({', '.join(scorer_names())})\n"
        f"  installed by name: {installed}\n"
        f"  others: {', '.join(f'{name}:JUDGE' for name in CHECKLISTS)}, table:FILE, "
        f"scripted:{'|'.join((*KINDS, 'perfect'))} (controls, no judgement)"
    )


def _is_checkpoint(reference: str) -> bool:
    """True for a registered checkpoint or a hub id ``org/name``."""
    is_hub_id = re.fullmatch(r"\w[\w.-]*/[\w.-]+", reference) is not None
    return is_hub_id or reference in extensions("checkpoints")


def open_checkpoint(reference: str, folder: Path, options: JudgeOptions) -> CardedJudge:
    """Load a generative or scalar judge from a folder, or from the hub where there is none.

    Args:
        reference: Name of the judge; the hub id where ``folder`` does not exist.
        folder: Where the checkpoint and its card are.
        options: See `open_judge`.
    """
    card = Card.read(folder) if folder.is_dir() else None
    if card is None:
        published = _published_family(reference, allow_reworded=options.allow_reworded)
        card = Card(options.family or published or "native")
    elif options.family is not None:
        card = replace(card, family=options.family)
    prompts.family(card.family)
    with extra("local"):
        from unified_reward.backends.hf_vlm import load_vlm

    model = load_vlm(
        folder if folder.is_dir() else reference,
        device=options.device,
        dtype=options.dtype,
        max_pixels=card.max_pixels,
        batch_size=options.batch_size,
        quantize=options.quantize,
    )
    model.name = reference
    if card.head is None:
        judge = GenerativeJudge(model, card)
    else:
        from unified_reward.backends.value_head import load_value_model

        n_values, uncertain = 1 + len(card.head.aspects), card.head.uncertain
        values = load_value_model(folder, model, n_values=n_values, uncertain=uncertain)
        judge = ScalarJudge(values, card)
    judge.window = max(judge.window, options.batch_size or 0)
    return judge


def _open_scorer(name: str, weights: str, options: JudgeOptions) -> Scorer:
    with extra("local"):
        kind = system(name)
    if options.family is not None:
        raise ConfigError(f"{name} has one prompt format; leave out family={options.family!r}")
    if options.device == "auto":
        raise ConfigError(
            f"device='auto' is for vision-language checkpoints; {name} runs on one device, "
            "such as 'cuda:0'"
        )
    if not weights:
        raise ConfigError(
            f"{name} needs its weights, a folder or one of {', '.join(kind.card.weights)}: "
            f"{name}:WEIGHTS"
        )
    with extra("local"):
        from unified_reward.scorers.loading import fetched, load_system

    return load_system(
        kind,
        fetched(kind, weights),
        device=options.device,
        dtype=options.dtype,
        batch_size=options.batch_size,
    )


def _open_scripted(
    kind: str, options: JudgeOptions, truth: Iterable[Example] | None, *, opens_media: bool
) -> BaseJudge:
    if kind == "perfect":
        if truth is None:
            raise ConfigError("scripted:perfect needs targets, which are not known here")
        return TableJudge.truth(truth)
    judge = GenerativeJudge(ScriptedModel(kind), Card(options.family or "native"))
    judge.is_blind = not opens_media
    return judge


def _open_table(given: str, _: JudgeOptions) -> BaseJudge:
    return TableJudge.read(Path(given.removeprefix("table:")))


def _open_checklist(given: str, options: JudgeOptions) -> BaseJudge:
    from unified_reward.judges.checklist import ChecklistJudge, visionreward

    name, _, reference = given.partition(":")
    checklist = visionreward(name)
    inner = open_reference(reference, options) if reference else None
    if not isinstance(inner, GenerativeJudge):
        raise ConfigError(
            f"{name} asks a generative judge, not {reference or 'nothing'}: {name}:FOLDER, a hub "
            "id or a URL"
        )
    return ChecklistJudge(checklist, inner.model)


def _open_server(url: str, options: JudgeOptions) -> GenerativeJudge:
    model = OpenAIModel(url, model=options.model, api_key=options.api_key, votes=options.votes)
    judge = GenerativeJudge(model, Card(options.family or "native"))
    judge.window = 2 * model.options.max_concurrency
    return judge


_OPENERS: Mapping[str, Callable[[str, JudgeOptions], BaseJudge]] = {
    "table": _open_table,
    "http": _open_server,
    "https": _open_server,
    **dict.fromkeys(CHECKLISTS, _open_checklist),
}


def _published_family(reference: str, *, allow_reworded: bool) -> str | None:
    for start, (official, ours) in PUBLISHED.items():
        if not reference.lower().startswith(start.lower()):
            continue
        if official and has_wordings(official):
            return official
        if allow_reworded:
            return ours
        lacking = (
            f"which are not part of this package: run {import_hint(official)}"
            if official
            else "which no family asks yet, imported or not"
        )
        raise ConfigError(
            f"{reference} was trained on official wordings, {lacking}; allow_reworded=True asks it "
            "in this package's own words, off its training distribution"
        )
    return None
