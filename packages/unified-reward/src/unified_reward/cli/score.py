"""``unified-reward score``."""

from __future__ import annotations

from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import read_inputs
from unified_reward.core.progress import progress_bar


@options.opens_judge
def score(
    files: Annotated[
        list[str] | None, typer.Argument(help="Generated images or videos, or a folder of them.")
    ] = None,
    *,
    prompt: options.PromptOption = None,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    judge: options.JudgeArguments,
    as_json: options.JsonOption = False,
) -> None:
    """Score images or videos for a prompt, or answers about an image or video."""
    inputs = read_inputs(
        prompt,
        files=files or [],
        answers=answer or [],
        image=image,
        video=video,
        source=source,
        alone=judge.takes_answers_alone,
    )
    opened = judge.open()
    with progress_bar("scoring", inputs.problems.count(None)) as advance:
        indices = [i for i, problem in enumerate(inputs.problems) if problem is None]
        answers = iter(opened.ask([*map(inputs.sample, indices)], on_progress=advance))
        verdicts = [problem or next(answers) for problem in inputs.problems]
    output.print_verdicts(opened, list(zip(inputs.names, verdicts, strict=True)), as_json=as_json)
