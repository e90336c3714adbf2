"""What the commands for single prompts are given: files, or answers about a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unified_reward import media
from unified_reward.core.errors import ConfigError, MediaError
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video


@dataclass(frozen=True)
class Asked:
    """One prompt and its candidates, named as the user named them."""

    task: Task
    prompt: str
    names: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    context: tuple[Image | Video, ...]

    def sample(self, *indices: int) -> Sample:
        """The question about some of the candidates."""
        name = " | ".join(self.names[i] for i in indices)
        chosen = tuple(self.candidates[i] for i in indices)
        return Sample(self.task, self.prompt, chosen, self.context, id=name)


def asked(
    prompt: str,
    *,
    files: Sequence[str] = (),
    answers: Sequence[str] = (),
    image: str | None = None,
    video: str | None = None,
    source: str | None = None,
) -> Asked:
    """Tell generation (files), editing (files of a source) and understanding (answers) apart.

    Raises:
        ConfigError: Both or neither are given, pictures and clips are mixed, or clips have a
            source.
    """
    kinds = _kinds(files)
    if source is not None and (not files or kinds == {"video"}):
        raise ConfigError("--source is the picture before an edit and goes with pictures")
    if files and (answers or image or video):
        raise ConfigError("give files to judge, or --answer about one --image or --video; not both")
    if not files and not (answers and (image is None) != (video is None)):
        raise ConfigError("give files to judge, or --answer about one --image or --video")
    if image is not None:
        task = Task.IMAGE_UNDERSTANDING
        return Asked(task, prompt, tuple(answers), tuple(answers), (Image(Path(image)),))
    if video is not None:
        task = Task.VIDEO_UNDERSTANDING
        return Asked(task, prompt, tuple(answers), tuple(answers), (Video(Path(video)),))
    if len(kinds) > 1:
        raise ConfigError("pictures and clips cannot be judged against each other")
    if kinds == {"video"}:
        clips = tuple(Video(Path(file)) for file in files)
        return Asked(Task.VIDEO_GENERATION, prompt, tuple(files), clips, ())
    pictures = tuple(Image(Path(file)) for file in files)
    if source is not None:
        context = (Image(Path(source)),)
        return Asked(Task.IMAGE_EDITING, prompt, tuple(files), pictures, context)
    return Asked(Task.IMAGE_GENERATION, prompt, tuple(files), pictures, ())


def _kinds(files: Sequence[str]) -> set[str]:
    """Which kinds of media the files hold; one that cannot be read fails later, alone."""
    kinds: set[str] = set()
    for file in files:
        try:
            kinds.add(media.image_or_video(Path(file)))
        except MediaError:
            continue
    return kinds
