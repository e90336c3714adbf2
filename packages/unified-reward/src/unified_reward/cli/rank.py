"""``unified-reward rank``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import asked
from unified_reward.judges.registry import open_judge


class By(StrEnum):
    """What a ranking stands on."""

    SCORE = "score"
    PAIRS = "pairs"


def rank(
    prompt: options.PromptOption,
    files: Annotated[list[str] | None, typer.Argument(help="Generated pictures or clips.")] = None,
    *,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    by: Annotated[By, typer.Option(help="Rank by single scores, or by all pairs.")] = By.SCORE,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Order generated files, or answers about a picture or clip, best first."""
    given = {"files": files or [], "answers": answer or []}
    one = asked(prompt, **given, image=image, video=video, source=source)
    opened = open_judge(judge, model=model, family=family)
    ranking = opened.rank_samples(one.sample, len(one.names), by=by.value)
    output.show(opened, [(prompt, ranking)], as_json=as_json)
