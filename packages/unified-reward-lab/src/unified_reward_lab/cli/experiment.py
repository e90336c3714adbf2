"""``unified-reward experiment``."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli.progress import bar
from unified_reward.io.atomic import write_bytes, write_json
from unified_reward.io.config import load_config
from unified_reward.io.lock import locked


class ExperimentName(StrEnum):
    """Modules of ``unified_reward_lab.experiments`` that define an experiment."""

    ALIGNMENT = "alignment"
    ANNOTATORS = "annotators"
    BEST_OF_N = "best_of_n"
    EVALUATION = "evaluation"
    EXAM = "exam"
    GATE = "gate"
    JOINT_LEARNING = "joint_learning"
    REINFORCEMENT = "reinforcement"
    SIFTING = "sifting"
    THINK = "think"
    TRUST = "trust"
    VOTES = "votes"
    VOTING = "voting"


def experiment(
    name: Annotated[ExperimentName, typer.Argument(help="The experiment.")],
    out: Annotated[Path, typer.Argument(help="Folder for report.json, page.md and a plot.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="key=value")] = None,
    *,
    page: Annotated[
        Path | None,
        typer.Option("--page", help="A Markdown file; page.md goes between its markers of NAME."),
    ] = None,
) -> None:
    """Run an experiment on the microworld: figures, a page and a plot."""
    from unified_reward_lab.experiments.experiment import Experiment
    from unified_reward_lab.experiments.page import replace_section, split_at_section

    module = import_module(f"unified_reward_lab.experiments.{name.value}")
    chosen: Experiment = module.EXPERIMENT
    config = load_config(chosen.config, overrides=overrides or [])
    if page:
        split_at_section(page, name.value)
    # The lock is taken first, so that a folder that cannot be written is found before the work.
    with locked(out / "report.json"), bar(name.value, config.total) as advance:
        report = chosen.run(config, advance)
        section = chosen.page(report)
        write_json(out / "report.json", report)
        write_bytes(out / "page.md", section.encode())
        if chosen.plot:
            write_bytes(out / f"{name.value}.png", chosen.plot(report))
    if page:
        replace_section(page, name.value, section)
    if report["n_unparsed"] or report["n_failed"]:
        raise typer.Exit(1)
