"""The exam: questions and statements about images and videos of the test split, answered exactly.

It asks a vision-language model before it is a judge; an answer counts if it is right to the letter.
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
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import Lesson
from unified_reward_lab.microworld import exam as exam_question
from unified_reward_lab.microworld.items import TASKS


_TOKENS = 64
_CHUNK = 128


@dataclass(frozen=True)
class Exam:
    """Who is asked."""

    models: Mapping[str, str] = field(default_factory=lambda: {"shipped base": ""})
    """Folder of a vision-language model by the name to show; empty for the package's base."""
    n: int = 1500
    """Questions a task."""
    seed: int = 0
    frames: int = 4
    """Frames of a video."""

    @property
    def total(self) -> int:
        """Questions asked in all."""
        return len(self.models) * self.n * len(TASKS)


def exam(config: Exam, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Ask every model the same questions; understanding asks, generation states a caption.

    Args:
        config: Who is asked.
        progress: Called with the number of questions just answered.

    Returns:
        By model and task the number of right answers, of yes where yes or no is asked, and of
        questions that could not be asked, with n and a 95 % interval by Wilson.
    """
    from unified_reward.backends.hf_vlm import load_vlm

    models: dict[str, Any] = {}
    for name, folder in config.models.items():
        vlm = load_vlm(checkpoint_path(folder or "tiny_base"), batch_size=64)
        models[name] = {}
        for task in TASKS:
            right = n_yes = n_failed = 0
            for lessons in _chunks(config, task):
                requests = [_request(one, config.frames) for one in lessons]
                for taught, reply in zip(lessons, vlm.generate(requests), strict=True):
                    text = reply.text.strip() if isinstance(reply, Answer) else ""
                    right += text == taught.answer
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


def _chunks(config: Exam, task: Task) -> Iterator[list[Lesson]]:
    for start in range(0, config.n, _CHUNK):
        end = min(start + _CHUNK, config.n)
        yield [exam_question(task, seed=config.seed, index=i) for i in range(start, end)]


def _request(taught: Lesson, frames: int) -> Request:
    images = [
        image
        for medium in taught.media
        for image in (
            [media.open_image(medium)]
            if isinstance(medium, Image)
            else media.sample_frames(medium, frames, "linspace_inclusive").images()
        )
    ]
    return Request((*images, taught.question), max_new_tokens=_TOKENS)


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    rows: list[list[Any]] = []
    for name, tasks in report["models"].items():
        for task, row in tasks.items():
            medium = "clips" if task.startswith("video") else "pictures"
            what = "statements" if task.endswith("generation") else "questions"
            rows.append([name, f"{what} about {medium}", told(row), row["n"], row["said_yes"]])
    lines = [
        "## The base",
        "",
        f"Questions of the test split about what is seen, and captions to be affirmed or denied, "
        f"{report['n']} of each (seed {report['seed']}), answered greedily; right is right to the "
        "letter. In brackets 95 % intervals by Wilson; one training seed.",
        "",
        *table(["model", "asked", "right", "n", "said yes"], rows),
    ]
    return "\n".join(lines) + "\n"
