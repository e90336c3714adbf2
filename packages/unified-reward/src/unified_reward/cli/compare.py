"""``unified-reward compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import read_inputs
from unified_reward.cli.progress import waiting
from unified_reward.core.errors import ConfigError


@options.opens_judge
def compare(
    files: Annotated[list[str] | None, typer.Argument(help="Two images or videos.")] = None,
    *,
    prompt: options.PromptOption = None,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    judge: options.JudgeArguments,
    orders: options.OrdersOption = 2,
    as_json: options.JsonOption = False,
) -> None:
    """Compare two images or videos for a prompt, or two answers about one."""
    inputs = read_inputs(
        prompt,
        files=files or [],
        answers=answer or [],
        image=image,
        video=video,
        source=source,
        alone=judge.takes_answers_alone,
    )
    if (n := len(inputs.names)) != 2:
        raise ConfigError(f"compare takes two candidates, not {n}{'; use rank' if n > 2 else ''}")
    inputs.check_comparable()
    opened, sample = judge.open(), inputs.sample(0, 1)
    with waiting("comparing"):
        verdict = opened.ask([sample], orders=options.orders_of(orders))[0]
    output.print_verdicts(opened, [(sample.id, verdict)], as_json=as_json)
