"""The judge: a model asked in the manner of a family, in both orders, without bias to either.

Knows tasks and models; not how rows are stored or what the verdicts are used for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, overload

from unified_reward import prompts
from unified_reward.backends.openai import OpenAIModel
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Example
from unified_reward.judges.card import Card
from unified_reward.judges.scalar import ScalarJudge
from unified_reward.judges.scripted import ScriptedModel
from unified_reward.judges.table import TableJudge
from unified_reward.prompts.official import has_wordings, import_hint
from unified_reward.scorers import CHECKLISTS, SYSTEMS, system


if TYPE_CHECKING:
    from unified_reward.scorers.base import Scorer
from unified_reward.judges.generative import GenerativeJudge


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
"""Published judges by the start of their id, first match: the family in the words they were
trained on, None where there is none that we know, and ours whose answers are like theirs."""


SHIPPED = {
    "tiny_judge": "judge",
    "tiny_scalar": "scalar",
    "tiny_base": "base",
    "tiny_vlm": "vlm",
    "tiny_image": "image",
    "tiny_video": "video",
}
"""Folders in assets of the checkpoints of this package, by the recipes that make them."""


@overload
def load(
    reference: str | Path = "tiny_judge",
    *,
    family: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    allow_reworded: bool = False,
) -> GenerativeJudge | ScalarJudge: ...


@overload
def load(
    reference: str,
    *,
    weights: str | Path | None,
    family: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
) -> Scorer: ...


def load(
    reference: str | Path = "tiny_judge",
    *,
    weights: str | Path | None = None,
    family: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
    allow_reworded: bool = False,
) -> GenerativeJudge | ScalarJudge | Scorer:
    """Load a local judge: one that speaks, a scalar one, or a published scorer.

    Args:
        reference: A folder, the name of a checkpoint that comes with the package (`SHIPPED`), or a
            hub id (which reaches the network); with ``weights`` the name of a scorer
            (`scorers.SYSTEMS`).
        weights: Where the files of the scorer are: a folder, or a hub id.
        family: How to ask; default what the checkpoint's card says, or ``native`` without one.
        device: ``cpu``, ``cuda``, …; default the best there is.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        batch_size: Requests in one pass; default 16.
        allow_reworded: Ask a published judge in this project's wording, which it never saw in
            training, while its official wordings are not imported.

    Raises:
        ConfigError: Unknown family, or a published judge without its wordings.
        ModelError: The checkpoint cannot be loaded.
    """
    if weights is not None or reference in SYSTEMS:
        return _load_scorer(str(reference), weights, family, device, dtype, batch_size)
    folder = checkpoint_path(reference)
    card = Card.read(folder) if folder.is_dir() else None
    if card is None:
        published = _published_family(str(reference), allow_reworded=allow_reworded)
        card = Card(family or published or "native")
    elif family is not None:
        card = replace(card, family=family)
    if not folder.is_dir() and _looks_like_path(str(reference)):
        raise ConfigError(
            f"there is no folder {reference}, and it is neither a hub id (org/name) nor one of "
            f"{', '.join(SHIPPED)}"
        )
    prompts.family(card.family)
    from unified_reward.backends.hf_vlm import load_vlm

    model = load_vlm(
        folder if folder.is_dir() else str(reference),
        device=device,
        dtype=dtype,
        max_pixels=card.max_pixels,
        batch_size=batch_size,
    )
    model.name = str(reference)
    if card.head is None:
        return GenerativeJudge(model, card)
    from unified_reward.backends.value_head import load_scalar

    values, uncertain = 1 + len(card.head.aspects), card.head.uncertain
    return ScalarJudge(load_scalar(folder, model, values=values, uncertain=uncertain), card)


def _load_scorer(
    name: str,
    weights: str | Path | None,
    family: str | None,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
) -> Scorer:
    kind = system(name)
    if family is not None:
        raise ConfigError(f"{name} is asked in one way only; leave out family={family!r}")
    if weights is None:
        raise ConfigError(
            f"{name} needs its weights, a folder or one of {', '.join(kind.card.weights)}: "
            f'load("{name}", weights=…), on the command line {name}:WEIGHTS'
        )
    from unified_reward.scorers.loading import fetched, load_system

    folder = fetched(kind, weights)
    return load_system(kind, folder, device=device, dtype=dtype, batch_size=batch_size)


def _open_checklist(name: str, reference: str, model: str | None) -> BaseJudge:
    from unified_reward.judges.checklist import ChecklistJudge, visionreward

    checklist = visionreward(name)
    inner = open_judge(reference, model=model)
    if not isinstance(inner, GenerativeJudge):
        raise ConfigError(
            f"{name} asks a judge that speaks, not {reference or 'nothing'}: {name}:FOLDER, a hub "
            "id or a URL"
        )
    return ChecklistJudge(checklist, inner.model)


def _looks_like_path(reference: str) -> bool:
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", reference) is None


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


def connect(
    url: str,
    *,
    model: str | None = None,
    family: str = "native",
    api_key: str | None = None,
    votes: int = 0,
) -> GenerativeJudge:
    """Judge through an OpenAI-compatible chat server. Imports no torch.

    Args:
        url: Base address, such as ``http://localhost:8000/v1``.
        model: The server's model; default its only one.
        family: How to ask.
        api_key: Sent as bearer token.
        votes: Further sampled answers per question, averaged, where the server gives no
            log-probabilities.
    """
    return GenerativeJudge(
        OpenAIModel(url, model=model, api_key=api_key, votes=votes), Card(family)
    )


def open_judge(
    reference: str = "",
    *,
    model: str | None = None,
    family: str | None = None,
    truth: Iterable[Example] | None = None,
    look: bool = True,
) -> BaseJudge:
    """Open a judge by the reference used on the command line and in recipes.

    Args:
        reference: First match wins: an existing folder; a name in `SHIPPED`; ``scripted:KIND``;
            ``table:FILE``; ``NAME:WEIGHTS`` of a published scorer; ``checklist-image:JUDGE`` or
            ``checklist-video:JUDGE`` for VisionReward's questions, asked of any judge that speaks;
            ``http(s)://…``; a hub id; nothing for ``tiny_judge``.
        model: The server's model, for a URL.
        family: How to ask, if not as the checkpoint's card says.
        truth: Records whose targets ``scripted:perfect`` answers.
        look: Whether scripted judges open what they are shown, and fail where it is missing.

    Raises:
        ConfigError: The reference is none of these.
    """
    kind, _, rest = reference.partition(":")
    if Path(reference).is_dir() and reference:
        return load(Path(reference), family=family)
    if not reference or reference in SHIPPED:
        return load(reference or "tiny_judge", family=family)
    if reference == "scripted:perfect":
        if truth is None:
            raise ConfigError("scripted:perfect answers known targets, and here are none")
        return TableJudge.truth(truth)
    if kind == "scripted":
        scripted = GenerativeJudge(ScriptedModel(rest), Card(family or "native"))
        scripted.is_blind = not look
        return scripted
    if kind == "table":
        return TableJudge.read(Path(rest))
    if kind in SYSTEMS:
        return load(kind, weights=rest or None, family=family)
    if kind in CHECKLISTS:
        return _open_checklist(kind, rest, model)
    if kind in ("http", "https"):
        return connect(reference, model=model, family=family or "native")
    return load(reference, family=family)
