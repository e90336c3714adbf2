"""The command line: one thin file per command. Exit 0 all answered, 1 some not, 2 wrong usage."""

from __future__ import annotations

import os
import sys
import warnings

import typer
from rich.console import Console
from rich.text import Text

from unified_reward.cli import (
    audit,
    bench,
    candidates,
    compare,
    convert,
    data,
    dpo,
    export,
    judge,
    pairs,
    rank,
    run,
    score,
    scorers,
    show,
    templates,
)
from unified_reward.core.errors import UnifiedRewardError
from unified_reward_lab.cli import experiment


app = typer.Typer(
    help="Judge generated and understood pictures and videos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (
    score.score,
    compare.compare,
    rank.rank,
    judge.judge,
    candidates.candidates,
    pairs.pairs,
    dpo.dpo,
    export.export,
    show.show,
    bench.bench,
    bench.bench_diff,
    audit.audit,
    experiment.experiment,
    run.run,
):
    app.command()(command)
app.add_typer(convert.app, name="convert")
app.add_typer(data.app, name="data")
app.add_typer(scorers.app, name="scorers")
app.add_typer(templates.app, name="templates")


def main() -> None:
    """Run the command line; an error of this package is a message, not a traceback."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers|trl")
    try:
        app()
    except UnifiedRewardError as error:
        told = Text.assemble(("error:", "red"), f" {error}")
        Console(stderr=True).print(told, soft_wrap=True)
        sys.exit(2)
