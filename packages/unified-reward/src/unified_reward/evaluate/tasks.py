"""Tasks of prompts, which follow from the kind of their outputs where no row names one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Candidate, Example, Image, Task, Video


Kind = Literal["image", "video", "text"]
_KINDS: dict[Task, Kind] = {
    Task.IMAGE_GENERATION: "image",
    Task.IMAGE_EDITING: "image",
    Task.VIDEO_GENERATION: "video",
    Task.IMAGE_UNDERSTANDING: "text",
    Task.VIDEO_UNDERSTANDING: "text",
}


def kind_of(task: Task) -> Kind:
    """Kind of the outputs of a task."""
    return _KINDS[task]


def candidate_kind(candidate: Candidate, task: Task) -> Kind:
    """Kind of an output; of an interleaved one that of its task."""
    if isinstance(candidate, Image):
        return "image"
    if isinstance(candidate, Video):
        return "video"
    return "text" if isinstance(candidate, str) else kind_of(task)


def with_task(prompt: Example, kind: Kind, *, is_stated: bool) -> Example:
    """Return a prompt with the task that outputs of this kind have.

    An image or video that a question would be about is left out where the outputs are media: it may
    be a reference, such as the photograph that a caption describes.

    Args:
        prompt: The prompt; its task is `Task.IMAGE_EDITING` where it has a source image.
        kind: Kind of the outputs.
        is_stated: True if the row names the task.

    Raises:
        DataError: The task that the row names has outputs of another kind.
    """
    if kind_of(prompt.task) == kind:
        return prompt
    if is_stated:
        raise DataError(
            f"the prompt {prompt.id!r} has the task {prompt.task.value}, and the outputs are "
            f"{kind}s"
        )
    if kind == "text":
        return replace(prompt, task=Task.IMAGE_UNDERSTANDING)
    task = Task.VIDEO_GENERATION if kind == "video" else Task.IMAGE_GENERATION
    return replace(prompt, task=task, context=())
