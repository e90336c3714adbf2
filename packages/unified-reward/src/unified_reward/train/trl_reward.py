"""A judge in this process as a reward function of TRL's trainers.

TRL is not imported: it calls the function with prompts, answers and the columns of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.train.group_rewards import GroupRewards
from unified_reward.train.reward_functions import RewardFunction, open_reward
from unified_reward_client import RewardSet, RewardTerm


def trl_reward(
    judge: BaseJudge | RewardFunction | str | Path,
    *,
    num_generations: int = 1,
    name: str = "unified_reward",
) -> Callable[..., list[float | None]]:
    """Make a reward function for TRL's ``GRPOTrainer`` of a judge in this process.

    It takes ``prompts`` and ``completions``, texts or conversations, and what answers are about
    from the columns ``image``, ``images``, ``video`` or ``videos``. For a judge behind a
    server, or several rewards in one, take the function of this name of `unified_reward_client`.

    Args:
        judge: A judge, as from `open_judge`, its reference, or a function, see `open_reward`. A
            reference is opened on the fastest device; give an open judge to choose another.
        num_generations: As in ``GRPOConfig``; rows of a group follow each other. Needed by a judge
            that only compares, whose rewards are win rates in the group.
        name: Name in TRL's log.

    Returns:
        A function that gives a reward for each answer: the judge's score in its own units, or a
        win rate in [0, 1]. None where the judge failed or its answer cannot be read: TRL leaves the
        row out, and its column ``<name>_failure`` has the reason. TRL counts a None beside the
        reward of another function as 0, so let this be the only one.

    Raises:
        ConfigError: The judge cannot be opened, or looks verdicts up by id; when called, the judge
            does not judge answers, or rows are not whole groups.

    Example:
        >>> import PIL.Image
        >>> reward = trl_reward("scripted:tie")
        >>> images = [PIL.Image.new("RGB", (8, 8))] * 2
        >>> reward(["What is it?"] * 2, ["A star.", "A cat."], image=images)
        [50.0, 50.0]
    """
    source = judge if isinstance(judge, BaseJudge) or callable(judge) else open_reward(str(judge))
    terms = RewardSet([RewardTerm(name)], aggregate="sum")
    rewards = GroupRewards({name: source}, reward_set=terms)

    def reward(
        prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> list[float | None]:
        rows = enumerate(zip(prompts, completions, strict=True))
        samples = [_sample(prompt, answer, _media(columns, i)) for i, (prompt, answer) in rows]
        rewards.check_tasks({sample.task for sample in samples})
        if len(samples) % num_generations:
            raise ConfigError(
                f"{len(samples)} answers are no whole groups of {num_generations}: the batch size "
                "of a process must be a multiple of num_generations"
            )
        starts = range(0, len(samples), num_generations)
        scores = rewards.score([samples[start : start + num_generations] for start in starts])
        if log_extra := columns.get("log_extra"):
            log_extra(f"{name}_failure", [reason for group in scores for reason in group.reasons])
        return [value for group in scores for value in group.values]

    reward.__name__ = name
    return reward


def _sample(prompt: Any, answer: Any, media: Sequence[Image | Video]) -> Sample:
    """The question to the judge about an answer; without media, one of text alone."""
    has_video = any(isinstance(medium, Video) for medium in media)
    task = Task.VIDEO_UNDERSTANDING if has_video else Task.IMAGE_UNDERSTANDING
    return Sample(task, _text(prompt, "user"), (_text(answer, "assistant"),), tuple(media))


def _text(given: str | Iterable[Mapping[str, Any]], role: str) -> str:
    """A text, or the texts of a role in a conversation, whose contents may be lists of parts."""
    if isinstance(given, str):
        return given
    contents = [turn.get("content") or "" for turn in given if turn.get("role") == role]
    parts = [[{"text": each}] if isinstance(each, str) else each for each in contents]
    return "\n".join(part["text"] for each in parts for part in each if part.get("text"))


def _media(columns: Mapping[str, Any], row: int) -> list[Image | Video]:
    """Images or videos of a row; an undecoded one has bytes or a path, and frames may be a list."""
    for key, kind in {"image": Image, "images": Image, "video": Video, "videos": Video}.items():
        found = columns[key][row] if columns.get(key) is not None else None
        if found is not None:
            return [kind(_source(each)) for each in (found if key.endswith("s") else [found])]
    return []


def _source(medium: Any) -> Any:
    if isinstance(medium, dict):
        return medium["bytes"] or medium["path"]
    return tuple(map(Image, medium)) if isinstance(medium, list | tuple) else medium
