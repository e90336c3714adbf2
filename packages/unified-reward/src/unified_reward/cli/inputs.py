"""Inputs of the commands for single prompts: files, or answers about a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unified_reward import media
from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.paths import is_folder
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.evaluate.matching import media_files


@dataclass(frozen=True)
class Inputs:
    """A prompt and its candidates, named as on the command line."""

    task: Task
    prompt: str
    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    context: tuple[Image | Video, ...] = ()

    def sample(self, *indices: int) -> Sample:
        """Sample of the candidates at these indices."""
        name = " | ".join(self.names[i] for i in indices)
        chosen = tuple(self.candidates[i] for i in indices)
        return Sample(self.task, self.prompt, chosen, self.context, id=name)


def read_inputs(
    prompt: str,
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
        prompt: The caption or the question.
        files: Generated images or videos; a folder stands for those in it.
        answers: Answers to the question.
        image: The image that it is about.
        video: The video that it is about.
        source: The image before an edit.
        alone: Called where answers are about neither; True if the judge takes them.

    Raises:
        ConfigError: Both or neither are given, images and videos are mixed, or videos have a
            source, a folder is empty, or a text is not UTF-8.
    """
    files = [name for file in files for name in _files(file)]
    for given in (prompt, *answers):
        _check_text(given)
    kinds = _kinds(files)
    if source is not None and (not files or kinds == {"video"}):
        raise ConfigError("--source is the image before an edit; give it with image files")
    if files and (answers or image or video):
        raise ConfigError("give files to judge, or --answer about one --image or --video; not both")
    about = (image is not None) + (video is not None)
    if not files and not (answers and (about == 1 or (about == 0 and alone()))):
        raise ConfigError("give files to judge, or --answer about one --image or --video")
    if video is not None:
        context = (Video(Path(video)),)
        return Inputs(Task.VIDEO_UNDERSTANDING, prompt, tuple(answers), tuple(answers), context)
    if answers:
        context = () if image is None else (Image(Path(image)),)
        return Inputs(Task.IMAGE_UNDERSTANDING, prompt, tuple(answers), tuple(answers), context)
    if len(kinds) > 1:
        raise ConfigError("images and videos cannot be judged against each other; give one kind")
    if kinds == {"video"}:
        videos = tuple(Video(Path(file)) for file in files)
        return Inputs(Task.VIDEO_GENERATION, prompt, tuple(files), videos)
    images = tuple(Image(Path(file)) for file in files)
    if source is not None:
        return Inputs(Task.IMAGE_EDITING, prompt, tuple(files), images, (Image(Path(source)),))
    return Inputs(Task.IMAGE_GENERATION, prompt, tuple(files), images)


def _files(file: str) -> list[str]:
    if not is_folder(file):
        return [file]
    names = [str(Path(file) / name) for name in media_files(Path(file))]
    if not names:
        raise ConfigError(f"{file} is a folder without images or videos")
    return names


def _check_text(given: str) -> None:
    try:
        given.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the text {given!a} is not UTF-8") from error


def _kinds(files: Sequence[str]) -> set[str]:
    """Kinds of media of the files; one that cannot be read fails later, alone."""
    kinds: set[str] = set()
    for file in files:
        try:
            kinds.add(media.image_or_video(Path(file)))
        except MediaError:
            continue
    return kinds
