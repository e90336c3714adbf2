"""Scales, nouns, verdict sentences and the statement of each task, shared by families in prose.

Scales and answer sentences are the published ones (arXiv:2503.05236 trains each task on the scale
of its source). Every other word is this project's own, so a published checkpoint is off its
training distribution here until its official wordings are imported.
"""

from __future__ import annotations

from unified_reward.core.samples import Form, Task
from unified_reward.core.verdicts import Scale


SCALES = {
    Task.IMAGE_GENERATION: Scale(1.0, 5.0, 1.0),
    Task.IMAGE_UNDERSTANDING: Scale(0.0, 100.0, 10.0),
    Task.VIDEO_GENERATION: Scale(1.0, 10.0, 1.0),
    Task.VIDEO_UNDERSTANDING: Scale(1.0, 5.0, 1.0),
    Task.IMAGE_EDITING: Scale(0.0, 25.0, 5.0),
}
NOUNS = {
    Task.IMAGE_GENERATION: "image",
    Task.IMAGE_UNDERSTANDING: "answer",
    Task.VIDEO_GENERATION: "video",
    Task.VIDEO_UNDERSTANDING: "answer",
    Task.IMAGE_EDITING: "edited image",
}
CRITERIA = {
    Task.IMAGE_GENERATION: "how faithfully it shows the caption (objects, attributes, counts, "
    "relations), and how clean and natural it looks",
    Task.IMAGE_UNDERSTANDING: "whether it is right about the image, complete, and to the point",
    Task.VIDEO_GENERATION: "how faithfully it shows the caption (objects, attributes, motion), "
    "how steady it stays over time, and how clean and natural it looks",
    Task.VIDEO_UNDERSTANDING: "whether it is right about what happens in the video, complete, and "
    "to the point",
    Task.IMAGE_EDITING: "whether it does what the instruction asks, leaves everything else as it "
    "was, and looks clean and natural",
}
_FRAMES = "The pictures are frames in order of time"
_STATEMENTS: dict[tuple[Task, Form], str] = {
    (Task.IMAGE_GENERATION, "score"): "⟪media⟫This image was generated from a caption.\n"
    "Caption: ⟪prompt⟫\nJudge the image by this: ⟪criteria⟫.",
    (Task.IMAGE_GENERATION, "compare"): "⟪media⟫These two images, Image 1 and Image 2, were "
    "generated from one caption.\nCaption: ⟪prompt⟫\nJudge each image by this: ⟪criteria⟫.",
    (Task.VIDEO_GENERATION, "score"): f"⟪media⟫{_FRAMES} of a video that was generated from a "
    "caption.\nCaption: ⟪prompt⟫\nJudge the video by this: ⟪criteria⟫.",
    (Task.VIDEO_GENERATION, "compare"): f"⟪media⟫{_FRAMES}, first half Video 1, second half "
    "Video 2; both were generated from one caption.\nCaption: ⟪prompt⟫\n"
    "Judge each video by this: ⟪criteria⟫.",
    (Task.IMAGE_UNDERSTANDING, "score"): "⟪media⟫Somebody was asked about this image.\n"
    "Question: ⟪prompt⟫\nAnswer: ⟪first⟫\nJudge the answer by this: ⟪criteria⟫.",
    (Task.IMAGE_UNDERSTANDING, "compare"): "⟪media⟫Two people were asked about this image.\n"
    "Question: ⟪prompt⟫\nAnswer 1: ⟪first⟫\nAnswer 2: ⟪second⟫\n"
    "Judge each answer by this: ⟪criteria⟫.",
    (Task.VIDEO_UNDERSTANDING, "score"): f"⟪media⟫{_FRAMES} of a video that somebody was asked "
    "about.\nQuestion: ⟪prompt⟫\nAnswer: ⟪first⟫\nJudge the answer by this: ⟪criteria⟫.",
    (Task.VIDEO_UNDERSTANDING, "compare"): f"⟪media⟫{_FRAMES} of a video that two people were "
    "asked about.\nQuestion: ⟪prompt⟫\nAnswer 1: ⟪first⟫\nAnswer 2: ⟪second⟫\n"
    "Judge each answer by this: ⟪criteria⟫.",
    (Task.IMAGE_EDITING, "score"): "⟪media⟫The first image was edited by an instruction, and the "
    "second is the edited image.\nInstruction: ⟪prompt⟫\n"
    "Judge the edited image by this: ⟪criteria⟫.",
    (Task.IMAGE_EDITING, "compare"): "⟪media⟫The first image was edited twice by one instruction; "
    "Edited image 1 and Edited image 2 follow it.\nInstruction: ⟪prompt⟫\n"
    "Judge each edited image by this: ⟪criteria⟫.",
}
CELLS = tuple(_STATEMENTS)
"""The ten pairs of task and form."""


def statement(task: Task, form: Form) -> str:
    """Look up the statement of a task, with its slots; the family adds the answer format."""
    return _STATEMENTS[task, form]


def verdict_sentences(task: Task) -> tuple[str, str, str]:
    """List the published verdicts of a comparison: first, tie, second.

    >>> verdict_sentences(Task.VIDEO_GENERATION)[0]
    'Video 1 is better.'
    """
    noun = NOUNS[task]
    title = noun.capitalize()
    return f"{title} 1 is better.", f"Both {noun}s are equally good.", f"{title} 2 is better."


def verdict_options(task: Task) -> str:
    """Write the three sentences as an instruction."""
    first, tie, second = (f'"{sentence}"' for sentence in verdict_sentences(task))
    return f"{tie} for a tie, else {first} or {second}"
