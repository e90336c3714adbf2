"""Inputs of the commands for single prompts: files, or answers about a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unified_reward import media
from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Candidate, Example, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed
from unified_reward.core.words import count_of
from unified_reward.evaluate.folder_prompts import read_metadata
from unified_reward.evaluate.matching import media_files
from unified_reward.evaluate.tasks import Kind, with_task


class Question(NamedTuple):
    """The question that a candidate answers."""

    task: Task
    prompt: str
    context: tuple[Image | Video, ...] = ()


@dataclass(frozen=True)
class Inputs:
    """Candidates, named as on the command line, each with its question."""

    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    questions: tuple[Question, ...]
    problems: tuple[Failed | None, ...]
    """Reason that a candidate cannot be asked about, such as a file that is no medium."""

    def sample(self, *indices: int) -> Sample:
        """Sample of the candidates at these indices, with the question of the first."""
        name = " | ".join(self.names[i] for i in indices)
        chosen = tuple(self.candidates[i] for i in indices)
        task, prompt, context = self.questions[indices[0]]
        return Sample(task, prompt, chosen, context, id=name)

    def check_comparable(self) -> str:
        """Return the prompt of all candidates.

        Raises:
            ConfigError: They are images and videos, or have several prompts.
        """
        usable = [
            question
            for question, problem in zip(self.questions, self.problems, strict=True)
            if problem is None
        ]
        if len({question.task for question in usable}) > 1:
            raise ConfigError(
                "images and videos cannot be judged against each other; give one kind, or score "
                "them: unified-reward score"
            )
        if any(question != usable[0] for question in usable):
            n = count_of(len({question.prompt for question in usable}), "prompt")
            raise ConfigError(
                f"the files have {n} in their metadata, and are compared for one: give --prompt "
                "TEXT, or score them: unified-reward score"
            )
        return self.questions[0].prompt


def read_inputs(
    prompt: str | None,
    *,
    files: Sequence[str],
    answers: Sequence[str],
    image: str | None = None,
    video: str | None = None,
    source: str | None = None,
    alone: Callable[[], bool] = lambda: False,
) -> Inputs:
    """Find the task: generation (files), editing (files of a source), understanding (answers).

    Args:
        prompt: The caption or the question; None for files of a folder whose metadata has it.
        files: Generated images or videos; a folder stands for those in it.
        answers: Answers to the question.
        image: The image that it is about.
        video: The video that it is about.
        source: The image before an edit.
        alone: Called where answers are about neither; True if the judge takes them.

    Raises:
        ConfigError: Both or neither are given, there is no prompt, videos have a source, a folder
            is empty, or a text is not UTF-8.
    """
    for given in (prompt or "", *answers):
        _check_text(given)
    if prompt is not None and not prompt.strip():
        raise ConfigError("--prompt is empty; give the prompt of the files, or the question")
    if files and (answers or image or video):
        raise ConfigError("give files to judge, or --answer about one --image or --video; not both")
    if files:
        return _of_files(prompt, [each for file in files for each in _files(file, prompt)], source)
    about = (image is not None) + (video is not None)
    if not (answers and (about == 1 or (about == 0 and alone()))):
        raise ConfigError("give files to judge, or --answer about one --image or --video")
    if source is not None:
        raise ConfigError("--source is the image before an edit; give it with image files")
    if prompt is None:
        raise ConfigError("Missing option '--prompt', the question that is answered")
    question = Question(Task.IMAGE_UNDERSTANDING, prompt)
    if video is not None:
        question = Question(Task.VIDEO_UNDERSTANDING, prompt, (Video(Path(video)),))
    elif image is not None:
        question = Question(Task.IMAGE_UNDERSTANDING, prompt, (Image(Path(image)),))
    n = len(answers)
    return Inputs(tuple(answers), tuple(answers), (question,) * n, (None,) * n)


def _of_files(
    prompt: str | None, files: Sequence[tuple[str, Example | None]], source: str | None
) -> Inputs:
    """Candidates of files, each with its own prompt where none is given."""
    kinds = [_kind(name) for name, _ in files]
    if source is not None and "video" in kinds:
        raise ConfigError("--source is the image before an edit; give it with image files")
    are_videos = "video" in kinds and "image" not in kinds
    before = None if source is None else Image(Path(source))
    candidates: list[Candidate] = []
    questions: list[Question] = []
    for (name, beside), kind in zip(files, kinds, strict=True):
        is_video = kind == "video" or (kind != "image" and are_videos)
        found: Kind = "video" if is_video else "image"
        candidates.append((Video if found == "video" else Image)(Path(name)))
        if prompt is None and beside is None:
            raise ConfigError(
                f"Missing option '--prompt', the text that {name} was made for; a folder has "
                'prompts in rows {"file_name": …, "text": …} of its metadata.jsonl'
            )
        example = beside or Example(Task.IMAGE_GENERATION, prompt or "")
        questions.append(_question(example, found, before))
    problems = tuple(kind if isinstance(kind, Failed) else None for kind in kinds)
    return Inputs(tuple(name for name, _ in files), tuple(candidates), tuple(questions), problems)


def _question(example: Example, kind: Kind, source: Image | None) -> Question:
    """Question about a file of this kind; an edit of the source where there is one."""
    if source is not None:
        return Question(Task.IMAGE_EDITING, example.prompt, (source,))
    placed = with_task(example, kind, is_stated=False)
    return Question(placed.task, placed.prompt, placed.context)


def _files(file: str, prompt: str | None) -> Iterator[tuple[str, Example | None]]:
    """Iterate over the file, or those of a folder, each with the prompt that lies beside it."""
    if not is_folder(file):
        yield file, None
        return
    names = media_files(Path(file))
    if not names:
        raise ConfigError(f"{file} is a folder without images or videos")
    metadata = read_metadata(Path(file)) if prompt is None else None
    for name in names:
        yield str(Path(file) / name), metadata.of(name) if metadata else None


def _check_text(given: str) -> None:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the text {given!a} is not UTF-8") from error


def _kind(file: str) -> Kind | Failed | None:
    """Kind of a medium, or why a file is none; None for a file that is not there.

    That one may be answered by a table, and else fails alone.
    """
    try:
        return media.image_or_video(Path(file))
    except MediaError as error:
        return Failed.from_error(error) if is_file(file) else None
