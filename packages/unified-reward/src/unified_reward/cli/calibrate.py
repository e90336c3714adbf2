"""``unified-reward calibrate``: temperatures and ties of a judge from labels."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from unified_reward.bench.calibration import recalibrate
from unified_reward.bench.metrics import Metric
from unified_reward.bench.protocols.votes import source_of
from unified_reward.cli import completions, options, output
from unified_reward.cli.progress import bar, waiting
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_folder
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Unparsed
from unified_reward.core.words import count_of
from unified_reward.data.pack import rows_of
from unified_reward.io.atomic import replacing_folder
from unified_reward.judges.card import CardedJudge
from unified_reward.judges.registry import open_judge


_FEW = 50
"""Labels below which a fit is doubtful."""


_JudgeArgument = Annotated[
    str,
    typer.Argument(
        metavar="JUDGE",
        help="Folder of a judge, or an installed one's name.",
        autocompletion=completions.judges,
    ),
]
_SourceOption = Annotated[
    str | None,
    typer.Option(
        help="records, votes, or the name of a published source; default records, or votes where "
        "the file is one of an arena.",
        autocompletion=completions.sources,
    ),
]
_FamilyOption = Annotated[
    str | None,
    typer.Option(help="Prompt family; default the judge's.", autocompletion=completions.families),
]


def calibrate(
    judge: _JudgeArgument,
    data: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="Labelled rows that the judge was not trained on."),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder of the judge.")],
    *,
    source: _SourceOption = None,
    family: _FamilyOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Requests in one forward pass; default 16.")
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Fit a judge's temperatures and ties to labels, such as votes of people."""
    folder = checkpoint_path(judge)
    if not is_folder(folder):
        raise ConfigError(f"{judge} is no folder of a judge, whose card can hold a calibration")
    if out.exists():
        raise ConfigError(f"{out} is there already; give a new name")
    examples, broken = _labelled(data, source or source_of(data))
    with waiting(f"loading {judge}"):
        opened = open_judge(judge, family=family, device=device, dtype=dtype, batch_size=batch_size)
    if not isinstance(opened, CardedJudge):
        raise ConfigError(f"{judge} has no card to hold a calibration")
    with bar("calibrating", len(examples)) as advance:
        found = recalibrate(opened, examples, advance)
    calibration = replace(found.calibration, data=str(data))
    with replacing_folder(out) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True)
        replace(opened.card, calibration=calibration).write(part)
    unparsed, failed = (
        sum(isinstance(verdict, kind) for verdict in found.verdicts) for kind in (Unparsed, Failed)
    )
    report = {
        "judge": judge,
        "out": str(out),
        "calibration": asdict(calibration),
        "n": len(examples),
        "n_unparsed": unparsed,
        "n_failed": failed,
        "n_broken_rows": broken,
        "before": _rows(found.before),
        "after": _rows(found.after),
    }
    if as_json:
        output.print_json([report])
    else:
        _print_report(report)
        output.say_next("score", "FILE", "--prompt", "TEXT", "--judge", out)
    output.exit_if([unparsed, failed, broken])


def _labelled(path: Path, source: str) -> tuple[list[Example], int]:
    """Labelled examples of a file, and the number of other rows, which are printed."""
    examples: list[Example] = []
    broken = 0
    for row in rows_of(path, source):
        reason = _unlabelled(row.content)
        if reason:
            broken += 1
            place = "" if reason.startswith("line ") else f"row {row.line}: "
            typer.echo(f"{place}{reason}", err=True)
        else:
            examples.append(cast("Example", row.content).as_comparison())
    if not examples:
        raise DataError(f"{path} holds no labelled rows")
    return examples, broken


def _unlabelled(content: Example | Failed) -> str:
    if isinstance(content, Failed):
        return content.reason
    example = content.as_comparison()
    label = {1: example.target.score, 2: example.target.winner}.get(len(example.candidates))
    return "no winner of two candidates, and no score of one" if label is None else ""


def _rows(figures: Mapping[str, Mapping[str, Metric]]) -> dict[str, Any]:
    return {
        form: {name: metric.row() for name, metric in named.items()}
        for form, named in figures.items()
    }


def _print_report(report: Mapping[str, Any]) -> None:
    fitted = report["calibration"]
    figure = Column("figure", no_wrap=True)  # a name is not cut; intervals wrap where it is narrow
    table = Table(
        *("", figure, "before", "95 %", "after", "95 %", "n"), title=Text(report["judge"])
    )
    for form, figures in report["before"].items():
        for i, (name, before) in enumerate(figures.items()):
            cells = [*_cells(before), *_cells(report["after"][form][name])]
            table.add_row("" if i else form, name, *cells, str(before["n"]))
    console = Console()
    console.print(table)
    console.print(
        f"temperatures {fitted['compare']:g} (compare) and {fitted['score']:g} (score), ties up to "
        f"a lead of {fitted['tie_margin']:.3f}, fitted on {count_of(fitted['n'], 'row')}: "
        f"{report['out']}",
        markup=False,
        soft_wrap=True,
    )
    if report["n"] < _FEW:
        typer.echo(f"{report['n']} labels are few: see whether the figures after hold", err=True)


def _cells(metric: Mapping[str, Any]) -> tuple[str, str]:
    value, low, high = map(output.format_number, (metric["value"], *metric["ci95"]))
    return value, f"{low} to {high}"
