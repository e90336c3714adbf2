"""``unified-reward rank``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import read_inputs
from unified_reward.cli.progress import waiting


class By(StrEnum):
    """Verdicts that a ranking is made from."""

    SCORE = "score"
    PAIRS = "pairs"


@options.opens_judge
def rank(
    files: Annotated[
        list[str] | None, typer.Argument(help="Generated images or videos, or a folder of them.")
    ] = None,
    *,
    prompt: options.PromptOption = None,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    by: Annotated[By, typer.Option(help="Rank by scores, or by comparing all pairs.")] = By.SCORE,
    judge: options.JudgeArguments,
    as_json: options.JsonOption = False,
) -> None:
    """Rank images or videos for a prompt, or answers about one, best first."""
    inputs = read_inputs(
        prompt,
        files=files or [],
        answers=answer or [],
        image=image,
        video=video,
        source=source,
        alone=judge.takes_answers_alone,
    )
    common = inputs.check_comparable()
    opened = judge.open()
    with waiting("ranking"):
        ranking = opened.rank_samples(inputs.sample, len(inputs.names), by=by.value)
    output.print_ranking(opened, common, inputs.names, ranking, as_json=as_json)
