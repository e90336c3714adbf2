"""``open_judge``: every kind of judge by one reference, as on the command line and in recipes.

Imports torch only for references that need it. Distributions add judges, scorers and named
checkpoints by entry points, see `core.extensions`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unified_reward import prompts
from unified_reward.backends.attention import ATTENTIONS, Attention
from unified_reward.backends.http_settings import check_route_to_hub
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import (
    checkpoint_path,
    checkpoints,
    extensions,
    extra,
    find_checkpoint,
    load_extension,
    missing_hint,
    wrong_type,
)
from unified_reward.core.install import LABORATORY, install_command
from unified_reward.core.paths import is_folder
from unified_reward.core.samples import Example
from unified_reward.judges.card import PUBLISHED_MAX_PIXELS, Card, CardedJudge
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
    "EditScore/EditScore-Qwen3": ("editscore-qwen3", "edit"),
    "EditScore/EditScore": ("editscore", "edit"),
    "TIGER-Lab/VideoScore2": ("videoscore2", "aspects"),
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
    api_key: str | None = field(default=None, repr=False)
    model: str | None = None
    allow_reworded: bool = False
    quantize: Literal["8bit", "4bit"] | None = None
    extra_body: Mapping[str, Any] | None = None
    extra_headers: Mapping[str, str] | None = field(default=None, repr=False)
    max_pixels: int | None = None
    image_format: Literal["png", "jpeg", "webp"] = "png"
    image_quality: int = 95
    attention: Attention | None = None

    def settings(self) -> dict[str, Any]:
        """Options that decide the verdicts, as ``judge.NAME``, where they are not the default.

        Device, batch size and attention change them by rounding alone, and a key and headers are
        secrets.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("device", "batch_size", "attention", *_SECRET):
            del given[name]
        given = {
            name: value for name, value in given.items() if value != getattr(DEFAULT_OPTIONS, name)
        }
        return {f"judge.{name}": value for name, value in given.items()}

    def __post_init__(self) -> None:
        if self.quantize not in (None, "8bit", "4bit"):
            raise ConfigError(f"quantize is 8bit or 4bit, not {self.quantize!r}")
        if self.attention not in (None, *ATTENTIONS):
            names = f"{', '.join(ATTENTIONS[:-1])} or {ATTENTIONS[-1]}"
            raise ConfigError(f"attention is {names}, not {self.attention!r}")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.votes < 0:
            raise ConfigError(f"votes must not be negative: {self.votes}")


DEFAULT_OPTIONS = JudgeOptions()
_Kind = Literal[
    "checkpoint", "scorer", "checklist", "server", "reward_server", "scripted", "table", "installed"
]
_LOCAL: frozenset[_Kind] = frozenset({"checkpoint", "scorer", "checklist", "installed"})
_SERVED: frozenset[_Kind] = frozenset({"server", "checklist", "installed"})
_KEYED: frozenset[_Kind] = _SERVED | frozenset[_Kind]({"reward_server"})
_LOADED: frozenset[_Kind] = frozenset({"checkpoint", "checklist", "installed"})
_ASKED: frozenset[_Kind] = frozenset({"checkpoint", "server", "scripted", "installed"})
_APPLIES: Mapping[str, tuple[frozenset[_Kind], str]] = {
    "family": (_ASKED, "judges asked in words, and others have one prompt format"),
    "device": (_LOCAL, "local checkpoints and scorers"),
    "dtype": (_LOCAL, "local checkpoints and scorers"),
    "batch_size": (_LOCAL, "local checkpoints and scorers"),
    "votes": (_SERVED, "servers"),
    "api_key": (_KEYED, "servers"),
    "model": (_SERVED, "servers"),
    "allow_reworded": (_LOADED, "local vision-language checkpoints and hub ids"),
    "quantize": (_LOADED, "local vision-language checkpoints"),
    "extra_body": (_SERVED, "servers"),
    "extra_headers": (_SERVED, "servers"),
    "max_pixels": (_SERVED, "servers; a local checkpoint has it in its card"),
    "image_format": (_SERVED, "servers"),
    "image_quality": (_SERVED, "servers"),
    "attention": (_LOADED, "local vision-language checkpoints"),
}
"""Kinds of judge that each option applies to, and their description. A checklist passes its options
on to its judge, where they are checked again."""
_ADDRESS = re.compile(
    r"(reward\+)?((?:(?:localhost|\d+(?:\.\d+){3}|\[[\da-fA-F:.]+\])(?::\d+)?|[\w.-]+:\d+)(?:/\S*)?)"
)
"""A server's address without its scheme: a host with a port, or this machine or an IP address."""
_SECRET = ("api_key", "extra_headers")
"""Options whose values are in no message and no file."""


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
    extra_body: Mapping[str, Any] | None = None,
    extra_headers: Mapping[str, str] | None = None,
    max_pixels: int | None = None,
    image_format: Literal["png", "jpeg", "webp"] = "png",
    image_quality: int = 95,
    attention: Attention | None = None,
) -> BaseJudge:
    """Open a judge by its reference. There is no default judge.

    Args:
        reference: The first match wins: an existing folder with a checkpoint; ``scripted:KIND``,
            a control that answers by a fixed rule; ``table:FILE`` of known verdicts;
            ``NAME:WEIGHTS``, a published scorer with the folder or hub id of its weights; a name
            that an installed distribution registers, such as ``tiny_judge`` of the laboratory;
            ``checklist-image:JUDGE`` or ``checklist-video:JUDGE``, VisionReward's questions put to
            any generative judge; ``http(s)://…``, an OpenAI-compatible server;
            ``reward+http(s)://…/NAME``, a judge of a reward server; a hub id ``org/name``.
        family: Prompts and answer format; default those of the checkpoint's card, else ``native``.
        device: ``cpu``, ``cuda``, …; default the fastest; ``auto`` spreads over all (accelerate).
        dtype: ``float32``, …; default bfloat16, float32 on a CPU and for CLIP and BLIP scorers.
        batch_size: Requests in one forward pass of a local judge, >= 1; default 16.
        votes: Further answers sampled and averaged, >= 0, where a server has no probabilities.
        api_key: Bearer token; default $UNIFIED_REWARD_API_KEY, reward+http: $UNIFIED_REWARD_TOKEN.
        model: The server's name of the model; default its only one.
        allow_reworded: Ask a published judge in our wording where its own is not imported.
        quantize: ``8bit`` or ``4bit`` weights of a local checkpoint; needs bitsandbytes.
        extra_body: Fields of each request to a server, over ours; None leaves one out.
        extra_headers: Headers of each request to a server; they are taken for secrets.
        max_pixels: Pixels, >= 1, to which larger images are scaled for a server; default any.
        image_format: ``png`` (lossless), ``jpeg`` or ``webp``, as images are sent to a server.
        image_quality: Quality of jpeg and webp, 1 to 100.
        attention: Of a local checkpoint, ``sdpa`` (the default), ``eager``, ``flash_attention_2``…

    Returns:
        The judge; ``score``, ``compare`` and ``rank`` answer at once, ``ask`` takes samples.

    Raises:
        ConfigError: The reference is empty or matches nothing, or an option does not apply.
        ModelError: The checkpoint cannot be loaded.
        DataError: The table cannot be read.

    >>> open_judge("scripted:first").name
    'scripted:first'
    """
    first = (family, device, dtype, batch_size, votes, api_key, model, allow_reworded, quantize)
    others = (extra_body, extra_headers, max_pixels, image_format, image_quality, attention)
    return open_reference(reference, JudgeOptions(*first, *others))


def open_reference(
    reference: str | Path,
    options: JudgeOptions = DEFAULT_OPTIONS,
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
    judge = _open(reference, options, truth, opens_media=opens_media)
    judge.origin = (str(reference), options)
    return judge


def _open(
    reference: str | Path,
    options: JudgeOptions,
    truth: Iterable[Example] | None,
    *,
    opens_media: bool,
) -> BaseJudge:
    given = str(reference)
    name, _, rest = given.partition(":")
    kind = kind_of(given)
    _check_options(given, kind, options)
    if kind == "scripted":
        return _open_scripted(rest, options, truth, opens_media=opens_media)
    if kind == "scorer":
        return _open_scorer(name, rest, options)
    if kind == "installed":
        return _open_installed(name, rest, options)
    if kind != "checkpoint":
        return _OPENERS[name][1](given, options)
    if is_folder(given):
        return open_checkpoint(given, Path(given), options)
    checkpoint = find_checkpoint(given)
    if checkpoint and checkpoint.kind != "judge":
        what = "a policy" if checkpoint.kind == "policy" else "a base model to train from"
        raise ConfigError(
            f"{given} is {what}, not a judge ({checkpoint.note}); give one of these:\n"
            f"{available_judges()}"
        )
    return open_checkpoint(given, checkpoint_path(given), options)


def kind_of(given: str) -> _Kind:
    """The kind of judge that a reference names, first match wins.

    Raises:
        ConfigError: The reference is empty or matches nothing.
    """
    name = given.partition(":")[0]
    if not given:
        raise ConfigError(f"no judge is named, and there is no default:\n{available_judges()}")
    if is_folder(given):
        return "checkpoint"
    if name == "scripted":
        return "scripted"
    if name in _OPENERS:
        return _OPENERS[name][0]
    if name in scorer_names():
        return "scorer"
    if name in extensions("judges"):
        return "installed"
    if match := _ADDRESS.fullmatch(given):
        begin, rest = match.groups()
        url = f"{begin or ''}http://{rest}"
        raise ConfigError(f"{given!r} lacks http:// or https://; did you mean {url}")
    if _is_checkpoint(given):
        return "checkpoint"
    known = (*extensions("checkpoints"), *extensions("judges"), *scorer_names())
    near = get_close_matches(given, known, n=1)
    hint = f", but {near[0]}" if near else missing_hint(given)
    raise ConfigError(
        f"there is no judge {given!r}{hint}; give one of these:\n{available_judges()}"
    )


def _check_options(given: str, kind: _Kind, options: JudgeOptions) -> None:
    """Refuse an option that does not apply to a kind of judge."""
    for option in fields(options):
        value = getattr(options, option.name)
        kinds, expected = _APPLIES[option.name]
        if value == option.default or kind in kinds:
            continue
        text = option.name if option.name in _SECRET else f"{option.name}={value!r}"
        raise ConfigError(f"{text} is for {expected}; leave out {text}: {given} does not take it")


def applicable(reference: str, options: JudgeOptions) -> JudgeOptions:
    """Options of several judges, without those that do not apply to this one.

    Raises:
        ConfigError: The reference matches nothing.
    """
    kind = kind_of(reference)
    others = [name for name, (kinds, _) in _APPLIES.items() if kind not in kinds]
    return replace(options, **{name: getattr(DEFAULT_OPTIONS, name) for name in others})


def available_judges() -> str:
    """Every kind of judge there is, in three lines, for error messages."""
    named = [f"{name} ({checkpoint.note})" for name, checkpoint in checkpoints("judge")]
    named += extensions("judges")
    toys = f"none; toys to try things out: {install_command(of=LABORATORY)}"
    installed = "; ".join(named) or toys
    return (
        "  models: a folder or hub id of a vision-language checkpoint, the http(s):// URL of a "
        "server, reward+http(s)://HOST:PORT/NAME of a reward server, NAME:WEIGHTS of a scorer "
        f"({', '.join(scorer_names())})\n"
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
    card = _card_of(reference, folder, options)
    prompts.family(card.family)
    with extra("local"):
        from unified_reward.backends.hf_vlm import load_vlm

    if not is_folder(folder):
        check_route_to_hub()
    model = load_vlm(
        folder if is_folder(folder) else reference,
        device=options.device,
        dtype=options.dtype,
        max_pixels=card.max_pixels,
        batch_size=options.batch_size,
        quantize=options.quantize,
        attention=options.attention,
    )
    model.name = reference
    if card.head is None:
        judge = GenerativeJudge(model, card)
    else:
        from unified_reward.backends.value_head import load_value_model

        n_values, uncertain = 1 + len(card.head.aspects), card.head.uncertain
        values = load_value_model(folder, model, n_values=n_values, uncertain=uncertain)
        judge = ScalarJudge(values, card)
    judge.folder = folder if is_folder(folder) else cached_snapshot(reference)
    judge.window = max(judge.window, options.batch_size or 0)
    return judge


def _card_of(reference: str, folder: Path, options: JudgeOptions) -> Card:
    card = Card.read(folder) if is_folder(folder) else None
    if card is None:
        published = _published_family(reference, allow_reworded=options.allow_reworded)
        family = options.family or published or "native"
        return Card(family, max_pixels=PUBLISHED_MAX_PIXELS)
    return card if options.family is None else replace(card, family=options.family)


def cached_snapshot(hub_id: str) -> Path | None:
    """Folder of a hub id in the local cache, named by its commit; None where it is not there."""
    with extra("local"):
        from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except (OSError, ValueError):
        return None


def family_of(reference: str, options: JudgeOptions) -> str:
    """The family that a checkpoint is asked in; see `open_checkpoint`."""
    return _card_of(reference, checkpoint_path(reference), options).family


def _open_installed(name: str, rest: str, options: JudgeOptions) -> BaseJudge:
    opener = load_extension("judges", name)
    if not callable(opener):
        raise wrong_type("judges", name, "a function that opens a judge", opener)
    judge = opener(rest, options)
    if not isinstance(judge, BaseJudge):
        raise wrong_type("judges", name, "a judge", judge)
    return judge


def _open_scorer(name: str, weights: str, options: JudgeOptions) -> Scorer:
    with extra("local"):
        kind = system(name)
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
    if not kind:
        raise ConfigError(
            f"scripted needs the answer it gives: scripted:{'|'.join((*KINDS, 'perfect'))}"
        )
    if kind == "perfect":
        if truth is None:
            raise ConfigError("scripted:perfect needs targets, which are not known here")
        return TableJudge.truth(truth)
    judge = GenerativeJudge(ScriptedModel(kind), Card(options.family or "native"))
    judge.is_blind = not opens_media
    return judge


def _open_table(given: str, _: JudgeOptions) -> BaseJudge:
    file = given.partition(":")[2]
    if not file:
        raise ConfigError("table needs its file of verdicts: table:FILE")
    return TableJudge.read(Path(file))


def _open_checklist(given: str, options: JudgeOptions) -> BaseJudge:
    from unified_reward.judges.checklist import CARDS, ChecklistJudge
    from unified_reward.scorers.checklists import visionreward

    name, _, reference = given.partition(":")
    checklist = visionreward(CARDS[name])
    inner = _open_speaker(reference, options) if reference else None
    if not isinstance(inner, GenerativeJudge):
        raise ConfigError(
            f"{name} asks a generative judge, not {reference or 'nothing'}: {name}:FOLDER, a hub "
            "id or a URL"
        )
    judge = ChecklistJudge(checklist, inner.model)
    judge.folder = inner.folder
    return judge


def _open_speaker(reference: str, options: JudgeOptions) -> BaseJudge:
    """Open the judge of a checklist, which any vision-language model can be."""
    checkpoint = None if is_folder(reference) else find_checkpoint(reference)
    if checkpoint is None:
        return open_reference(reference, options)
    _check_options(reference, "checkpoint", options)
    return open_checkpoint(reference, checkpoint.folder, options)


def _open_reward_server(given: str, options: JudgeOptions) -> BaseJudge:
    from unified_reward.judges.reward_server import open_reward_server

    return open_reward_server(given, api_key=options.api_key)


def _open_server(url: str, options: JudgeOptions) -> GenerativeJudge:
    model = OpenAIModel(
        url,
        model=options.model,
        api_key=options.api_key,
        votes=options.votes,
        options=OpenAIOptions(
            extra_body=options.extra_body or {},
            extra_headers=options.extra_headers or {},
            max_pixels=options.max_pixels,
            image_format=options.image_format,
            image_quality=options.image_quality,
        ),
    )
    judge = GenerativeJudge(model, Card(options.family or "native"))
    judge.window = 2 * model.options.max_concurrency
    return judge


_OPENERS: Mapping[str, tuple[_Kind, Callable[[str, JudgeOptions], BaseJudge]]] = {
    "table": ("table", _open_table),
    "http": ("server", _open_server),
    "https": ("server", _open_server),
    "reward+http": ("reward_server", _open_reward_server),
    "reward+https": ("reward_server", _open_reward_server),
    **dict.fromkeys(CHECKLISTS, ("checklist", _open_checklist)),
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
