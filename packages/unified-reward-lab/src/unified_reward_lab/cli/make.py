"""``unified-reward data make``: data sets whose truth is known."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from unified_reward.cli.progress import bar
from unified_reward.core.samples import Form, Task


app = typer.Typer(help="Make data sets whose truth is known.", no_args_is_help=True)


class Split(StrEnum):
    """Captions held out for tests, or the others."""

    TRAIN = "train"
    TEST = "test"


class Forms(StrEnum):
    """Kinds of rows to write."""

    SCORE = "score"
    COMPARE = "compare"
    BOTH = "both"
    PROMPT = "prompt"


_FORMS: dict[Forms, tuple[Form, ...]] = {
    Forms.SCORE: ("score",),
    Forms.COMPARE: ("compare",),
    Forms.BOTH: ("score", "compare"),
}


@app.command()
def microworld(
    out: Annotated[Path, typer.Argument(help="Folder for records.jsonl and media/.")],
    *,
    task: Annotated[Task, typer.Option(help="Task of the rows.")],
    n: Annotated[int, typer.Option("--n", min=1, help="Number of rows.")],
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    split: Annotated[
        Split, typer.Option(help="Captions for training, or those held out for tests.")
    ] = Split.TRAIN,
    form: Annotated[
        Forms,
        typer.Option(help="Scores, comparisons, both by turns; or prompts without candidates."),
    ] = Forms.BOTH,
) -> None:
    """Write rows of the microworld with lossless media and exact targets; or prompts alone."""
    from unified_reward_lab.examples import write_microworld, write_prompts

    options: dict[str, Any] = {"task": task, "n": n, "seed": seed, "split": split.value}
    with bar("rendering", n) as advance:
        if form is Forms.PROMPT:
            path = write_prompts(out, **options, progress=advance)
        else:
            path = write_microworld(out, forms=_FORMS[form], **options, progress=advance)
    typer.echo(path)
