"""``unified-reward score``."""

from __future__ import annotations

from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import asked
from unified_reward.judges.registry import open_judge


def score(
    prompt: options.PromptOption,
    files: Annotated[list[str] | None, typer.Argument(help="Generated pictures or clips.")] = None,
    *,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Score generated files against a caption, or answers about a picture or clip."""
    given = {"files": files or [], "answers": answer or []}
    one = asked(prompt, **given, image=image, video=video, source=source)
    opened = open_judge(judge, model=model, family=family)
    verdicts = opened.ask([one.sample(i) for i in range(len(one.names))])
    output.show(opened, list(zip(one.names, verdicts, strict=True)), as_json=as_json)
