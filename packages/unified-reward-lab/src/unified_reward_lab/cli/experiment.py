"""``unified-reward experiment``."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError
from unified_reward.io.config import load_config


class Experiment(StrEnum):
    """The experiments there are."""

    ALIGNMENT = "alignment"
    ANNOTATORS = "annotators"
    BEST_OF_N = "best_of_n"
    EXAM = "exam"
    GATE = "gate"
    JOINT_LEARNING = "joint_learning"
    SIFTING = "sifting"
    TRUST = "trust"
    VOTES = "votes"


class _Parts(NamedTuple):
    """What an experiment consists of."""

    config: type[Any]
    """With ``total``, the number of steps to show progress of."""
    run: Callable[[Any, Callable[[int], None]], dict[str, Any]]
    page: Callable[[dict[str, Any]], str]
    draw: Callable[[dict[str, Any]], bytes] | None = None


def _parts(name: Experiment) -> _Parts:
    match name:
        case Experiment.ALIGNMENT:
            from unified_reward_lab.experiments import alignment as study
            from unified_reward_lab.experiments import alignment_page as shown

            return _Parts(study.AlignmentStudy, study.alignment, shown.page, shown.draw)
        case Experiment.ANNOTATORS:
            from unified_reward_lab.experiments import annotators

            return _Parts(annotators.Annotators, annotators.annotators, annotators.page)
        case Experiment.BEST_OF_N:
            from unified_reward_lab.experiments import best_of_n

            return _Parts(best_of_n.BestOfN, best_of_n.best_of_n, best_of_n.page, best_of_n.draw)
        case Experiment.EXAM:
            from unified_reward_lab.experiments import exam

            return _Parts(exam.Exam, exam.exam, exam.page)
        case Experiment.GATE:
            from unified_reward_lab.experiments import gate

            return _Parts(gate.Gate, gate.gate, gate.page, gate.draw)
        case Experiment.JOINT_LEARNING:
            from unified_reward_lab.experiments import joint_learning as joint

            return _Parts(joint.JointLearning, joint.joint_learning, joint.page, joint.draw)
        case Experiment.SIFTING:
            from unified_reward_lab.experiments import sifting

            return _Parts(sifting.Sifting, sifting.sifting, sifting.page, sifting.draw)
        case Experiment.TRUST:
            from unified_reward_lab.experiments import trust

            return _Parts(trust.Trust, trust.trust, trust.page)
        case Experiment.VOTES:
            from unified_reward_lab.experiments import votes

            return _Parts(votes.Votes, votes.votes, votes.page)


def experiment(
    name: Annotated[Experiment, typer.Argument(help="The experiment.")],
    out: Annotated[Path, typer.Argument(help="Folder for report.json, page.md and a plot.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="A Markdown file; page.md goes between its markers of NAME."),
    ] = None,
) -> None:
    """Run an experiment on the microworld: figures, a page and a plot."""
    from unified_reward_lab.experiments.page import around, splice

    parts = _parts(name)
    config = load_config(parts.config, overrides=overrides or [])
    if page:
        around(page, name.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be a folder: {error}") from error
    with bar(name.value, config.total) as advance:
        report = parts.run(config, advance)
    text = json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False)
    (out / "report.json").write_text(text + "\n", "utf-8")
    section = parts.page(report)
    (out / "page.md").write_text(section, "utf-8")
    if parts.draw:
        (out / f"{name.value}.png").write_bytes(parts.draw(report))
    if page:
        splice(page, name.value, section)
    if report["n_unparsed"] or report["n_failed"]:
        raise typer.Exit(1)
