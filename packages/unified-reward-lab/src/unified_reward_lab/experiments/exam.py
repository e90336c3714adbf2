"""Exam of vision-language models before judge training: questions about held-out scenes.

An answer counts if it equals the right one exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from unified_reward import media
from unified_reward.bench.metrics import wilson
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.requests import Answer, Request
from unified_reward.core.samples import Image, Task
from unified_reward.core.verdicts import Failed
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import table, with_interval
from unified_reward_lab.microworld import Lesson
from unified_reward_lab.microworld import exam as exam_question
from unified_reward_lab.microworld.items import TASKS


_TOKENS = 64
_CHUNK = 128


@dataclass(frozen=True)
class ExamStudy:
    """Models, and the number of questions."""

    models: Mapping[str, str] = field(default_factory=lambda: {"shipped base": "tiny_base"})
    """Folder of a vision-language model, or a name, by the name to show."""
    n: int = 1500
    """Questions per task."""
    seed: int = 0
    frames: int = 4
    """Number of frames of a video."""

    @property
    def total(self) -> int:
        """Number of all questions."""
        return len(self.models) * self.n * len(TASKS)


def run(config: ExamStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Ask every model the same questions: about a scene, or whether a caption is true of it.

    Args:
        config: Models and number of questions.
        progress: Called with the number of questions just answered.

    Returns:
        By model and task: the numbers of right answers, of the answer yes and of failed questions,
        and the share of right answers with n and Wilson's 95 % interval.
    """
    from unified_reward.backends.hf_vlm import load_vlm

    models: dict[str, Any] = {}
    for name, folder in config.models.items():
        vlm = load_vlm(checkpoint_path(folder), batch_size=64)
        models[name] = {}
        for task in TASKS:
            right = n_yes = n_failed = 0
            for lessons in _chunks(config, task):
                requests = [_request(lesson, config.frames) for lesson in lessons]
                for lesson, reply in zip(lessons, vlm.generate(requests), strict=True):
                    text = reply.text.strip() if isinstance(reply, Answer) else ""
                    right += text == lesson.answer
                    n_yes += text == "yes"
                    n_failed += isinstance(reply, Failed)
                progress(len(lessons))
            models[name][task.value] = {
                "right": right,
                "said_yes": n_yes,
                "n_failed": n_failed,
                "value": right / config.n,
                "ci95": list(wilson(right, config.n)),
                "n": config.n,
            }
    n_failed = sum(row["n_failed"] for tasks in models.values() for row in tasks.values())
    return {
        "name": "exam",
        "n": config.n,
        "seed": config.seed,
        "n_unparsed": 0,
        "n_failed": n_failed,
        "models": models,
    }


def _chunks(config: ExamStudy, task: Task) -> Iterator[list[Lesson]]:
    for start in range(0, config.n, _CHUNK):
        end = min(start + _CHUNK, config.n)
        yield [exam_question(task, seed=config.seed, index=i) for i in range(start, end)]


def _request(lesson: Lesson, frames: int) -> Request:
    images = [
        image
        for medium in lesson.media
        for image in (
            [media.open_image(medium)]
            if isinstance(medium, Image)
            else media.sample_frames(medium, frames, "linspace_inclusive").images()
        )
    ]
    return Request((*images, lesson.question), max_new_tokens=_TOKENS)


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    rows: list[list[Any]] = []
    for name, tasks in report["models"].items():
        for task, row in tasks.items():
            medium = "videos" if task.startswith("video") else "images"
            kind = "statements" if task.endswith("generation") else "questions"
            rows.append(
                [name, f"{kind} about {medium}", with_interval(row), row["n"], row["said_yes"]]
            )
    lines = [
        "## Exam of the base",
        "",
        f"Held-out questions about a scene, and statements to be affirmed or denied, "
        f"{report['n']} of each (seed {report['seed']}), greedy decoding; an answer must match "
        "exactly. In brackets Wilson's 95 % intervals; one training seed.",
        "",
        *table(["model", "questions", "right", "n", "answered yes"], rows),
    ]
    return "\n".join(lines) + "\n"


EXPERIMENT = Experiment(ExamStudy, run, page)
