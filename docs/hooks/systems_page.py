"""Published judges and scorers: checkpoints, prompts, ranges, licences, from cards and tables."""

from __future__ import annotations

from collections.abc import Iterable

from tables import table

from unified_reward.core.samples import Task
from unified_reward.core.verdicts import Scale
from unified_reward.judges.checklist import CARDS
from unified_reward.judges.registry import PUBLISHED
from unified_reward.prompts import official, packs
from unified_reward.prompts.template import Template
from unified_reward.scorers import SYSTEMS, critics, system
from unified_reward.scorers.card import OPEN, ScoreCard


HEADER = ("Name", "System", "Judges", "Form", "State")


def system_rows() -> list[tuple[str, ...]]:
    """A row for every published scorer, checklist and family of judges; see `HEADER`."""
    rows = [
        (f"`{card.name}`", card.system, _tasks(card.tasks), "score", "twin-verified")
        for card in scorer_cards()
    ]
    rows += [
        (f"`{card.name}`", card.system, _tasks(card.tasks), "score", "any judge, recalibrated")
        for card in CARDS.values()
    ]
    for name in official.FAMILIES:
        templates = official.outlines(name).values()
        ids = _starts(name)
        forms = ", ".join(sorted({one.form for one in templates}, reverse=True))
        tasks = _tasks(one.task for one in templates)
        rows.append(
            (f"`{name}`", ids[0] if ids else "by name", tasks, forms, "judge, words imported")
        )
    return rows


def scorer_cards() -> list[ScoreCard]:
    """Card of every published scorer."""
    return [system(name).card for name in SYSTEMS]


def _tasks(tasks: Iterable[Task]) -> str:
    return ", ".join(dict.fromkeys(task.value.replace("_", " ") for task in tasks))


def _starts(family: str) -> list[str]:
    """Hub ids whose judges a family is the default of."""
    return [f"`{start}*`" for start, (default, _) in PUBLISHED.items() if default == family]


def markdown() -> str:
    """Text of the page."""
    parts = [_INTRODUCTION, _judges(), *map(_family, official.FAMILIES), _REWORDED]
    parts += [_SCORERS, _scorer_table(), *map(_card, scorer_cards())]
    parts += [_CHECKLISTS, *map(_card, CARDS.values())]
    return "\n\n".join(parts) + "\n"


_INTRODUCTION = """# Published systems

Which checkpoint, which prompt and which range every published judge and scorer has.

- A **judge** is a vision-language model asked in words. The checkpoint decides the family of
  prompts it was trained on; the prompts are [imported once](../howto/official-wordings.md) from a
  clone of their repository.
- A **scorer** is a model with values of its own, opened as
  [`NAME:WEIGHTS`](../howto/published-scorers.md).
- A **checklist** puts the questions of a published system to any judge.

Higher is better, of every one of them.

## Judges

`*` stands for the end of the hub id, such as the size. A folder or a server has no hub id: name
the family with `--family` or `family=`."""
_REWORDED = """### Others of UnifiedReward

A hub id that begins with `CodeGoat24/UnifiedReward` and is in no row above has no imported
prompts. It is refused unless `allow_reworded=True` accepts the family `reasoned` of this library
([families](families.md))."""
_SCORERS = """## Scorers

`unified-reward scorers` prints the same in the terminal, and [published
scorers](../howto/published-scorers.md) says which files each reads."""
_CHECKLISTS = """## Checklists

The questions and weights are VisionReward's, the model is yours: `checklist-image:JUDGE`. See
[checklists](../howto/published-scorers.md#checklists)."""


def _judges() -> str:
    rows = []
    for name in official.FAMILIES:
        templates = sorted(
            official.outlines(name).values(), key=lambda one: [*Task].index(one.task)
        )
        scores = [f"{_tasks([one.task])} {_range(one)}" for one in templates if one.form == "score"]
        compared = _tasks(one.task for one in templates if one.form == "compare")
        link = f"[`{name}`](#{_anchor(name)})"
        checkpoints = ", ".join(_starts(name)) or "by name"
        rows.append((link, checkpoints, ", ".join(scores) or "-", compared or "-"))
    return table(("Family", "Checkpoints", "Scores", "Compares"), rows)


def _anchor(name: str) -> str:
    return name.replace(".", "-")


def _family(name: str) -> str:
    family = official.FAMILIES[name]
    starts = _starts(name)
    checkpoints = f"Default of {', '.join(starts)}." if starts else "Chosen by name alone."
    rule = "" if family.frame_rule == "linspace_inclusive" else f" (rule `{family.frame_rule}`)"
    facts = [
        checkpoints,
        f"Answers have at most {family.max_new_tokens} tokens.",
        "Reasons stand in `<think>`, the verdict in `<answer>`." * family.uses_think_tags,
    ]
    outlines = official.outlines(name)
    frames = {one.family.frames for one in outlines.values() if one.task in _OF_VIDEOS}
    if frames:
        facts.append(f"Videos: {' or '.join(map(str, sorted(frames)))} frames{rule}.")
    repository = official.import_hint(name).rpartition(" ")[2]
    rows = [
        (one.task.value.replace("_", " "), one.form, _verdict(one), f"`{words}`")
        for words, one in outlines.items()
    ]
    return "\n\n".join(
        [
            f"### `{name}` {{ #{_anchor(name)} }}",
            " ".join(fact for fact in facts if fact),
            *_licences(name),
            table(("Judges", "Form", "Verdict", "Prompt"), rows),
            f"Prompts: `unified-reward templates import PATH` on a clone of `{repository}`.",
        ]
    )


_OF_VIDEOS = (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING)


def _licences(name: str) -> list[str]:
    card = critics.CARDS.get(name)
    if card is None:
        return []
    return [f"Licences: code {card.code_licence}; weights {card.weights_licence}."]


def _range(template: Template) -> str:
    """Scale of the score, or of its aspects."""
    scales = [template.scale] if template.scale else [one.scale for one in template.aspects]
    return ", ".join(dict.fromkeys(map(str, scales)))


def _verdict(template: Template) -> str:
    if template.form == "compare":
        return "first, tie, second" if template.phrases else "first, tie, second, by aspects"
    aspects = ", ".join(f"{one.name} {one.scale}" for one in template.aspects)
    return "; ".join(part for part in (str(template.scale or ""), aspects) if part)


def scale_text(scale: Scale) -> str:
    """Sides of a scale, or that it is open."""
    return "open" if scale == OPEN else str(scale)


def _scorer_table() -> str:
    rows = [
        (
            f"[`{card.name}`](#{_anchor(card.name)})",
            _hub_id(card),
            _tasks(card.tasks),
            scale_text(card.scale),
            ", ".join(f"`{one}`" for one in card.wording) or "none",
        )
        for card in scorer_cards()
    ]
    return table(("Name", "Checkpoint", "Judges", "Range", "Prompts"), rows)


def _hub_id(card: ScoreCard) -> str:
    """First place of the weights that is a hub id or a file."""
    return f"`{card.weights[0].replace(',', ' ').split()[0]}`"


def _card(card: ScoreCard) -> str:
    facts = {
        "Checkpoint": _listed(card.weights),
        "Judges": _tasks(card.tasks),
        "Range": scale_text(card.scale),
        "Values": card.values,
        "Overall": card.overall if card.aspects or card in CARDS.values() else "",
        "Aspects": ", ".join(card.aspects),
        "Frames": card.frames,
        "Prompts": _prompts(card),
        "Comparison": _comparison(card),
        "Licence of the code": card.code_licence,
        "Licence of the weights": card.weights_licence,
        "Paper": f"arXiv:{card.paper}",
        "Differs": _listed(card.deviations),
        "Checked": _listed(card.verified),
        "Open": _listed(card.open_questions),
    }
    rows = [(title, text) for title, text in facts.items() if text]
    heading = f"### {card.system} {{ #{_anchor(card.name)} }}"
    return f"{heading}\n\n{table(('Name', f'`{card.name}`'), rows)}"


def _listed(texts: Iterable[str]) -> str:
    return "<br>".join(texts)


def _comparison(card: ScoreCard) -> str:
    return (
        "the logistic of the difference of two values"
        f"{'' if card.temperature == 1 else f' divided by {card.temperature:g}'}; "
        f"temperature of {card.temperature_source}"
    )


def _prompts(card: ScoreCard) -> str:
    published = packs.published_prompts()
    if not card.wording:
        return "none to import"
    names = ", ".join(f"`{name}`" for name in card.wording)
    places = dict.fromkeys(published[name].repository for name in card.wording)
    return f"{names}, of {', '.join(f'`{place}`' for place in places)}"
