"""``unified-reward data``: rows to train and test on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from unified_reward.cli import data_files
from unified_reward.cli.progress import bar
from unified_reward.core.samples import Form, Task
from unified_reward_lab.examples import write_microworld, write_prompts


app = typer.Typer(help="Make and inspect data.", no_args_is_help=True)
make = typer.Typer(help="Make data whose truth is known.", no_args_is_help=True)
app.add_typer(make, name="make")
for command in (data_files.check, data_files.convert, data_files.mix, data_files.stats):
    app.command()(command)


class Split(StrEnum):
    """Held-out captions, or the others."""

    TRAIN = "train"
    TEST = "test"


class Forms(StrEnum):
    """Which questions are made."""

    SCORE = "score"
    COMPARE = "compare"
    BOTH = "both"
    PROMPT = "prompt"


_FORMS: dict[Forms, tuple[Form, ...]] = {
    Forms.SCORE: ("score",),
    Forms.COMPARE: ("compare",),
    Forms.BOTH: ("score", "compare"),
}


@make.command()
def microworld(
    out: Annotated[Path, typer.Argument(help="Folder for records.jsonl and media/.")],
    *,
    task: Annotated[Task, typer.Option(help="What is judged.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of records.")],
    seed: Annotated[int, typer.Option(help="Names the series of items.")] = 0,
    split: Annotated[Split, typer.Option(help="Held-out captions, or the others.")] = Split.TRAIN,
    form: Annotated[
        Forms, typer.Option(help="Scores, comparisons, both by turns; or prompts for a policy.")
    ] = Forms.BOTH,
) -> None:
    """Write records of the microworld, with lossless media and exact targets; or prompts alone."""
    wanted: dict[str, Any] = {"task": task, "n": n, "seed": seed, "split": split.value}
    with bar("drawing", n) as advance:
        if form is Forms.PROMPT:
            path = write_prompts(out, **wanted, progress=advance)
        else:
            path = write_microworld(out, forms=_FORMS[form], **wanted, progress=advance)
    typer.echo(path)
