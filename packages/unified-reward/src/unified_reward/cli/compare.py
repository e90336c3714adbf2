"""``unified-reward compare``."""

from __future__ import annotations

from typing import Annotated

import typer

from unified_reward.cli import options, output
from unified_reward.cli.inputs import asked
from unified_reward.core.errors import ConfigError
from unified_reward.judges.registry import open_judge


def compare(
    prompt: options.PromptOption,
    files: Annotated[list[str] | None, typer.Argument(help="Two pictures or clips.")] = None,
    *,
    image: options.ImageOption = None,
    video: options.VideoOption = None,
    answer: options.AnswerOption = None,
    source: options.SourceOption = None,
    judge: options.JudgeOption = "",
    model: options.ModelOption = None,
    family: options.FamilyOption = None,
    orders: options.OrdersOption = 2,
    as_json: options.JsonOption = False,
) -> None:
    """Compare two generated files, or two answers about a picture or clip."""
    given = {"files": files or [], "answers": answer or []}
    one = asked(prompt, **given, image=image, video=video, source=source)
    if len(one.names) != 2:
        raise ConfigError(f"compare takes two candidates, not {len(one.names)}; rank takes more")
    opened = open_judge(judge, model=model, family=family)
    sample = one.sample(0, 1)
    verdict = opened.ask([sample], orders=options.both(orders))[0]
    output.show(opened, [(sample.id, verdict)], as_json=as_json)
