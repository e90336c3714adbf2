"""Base class of everything that judges, with its verbs: score, compare, rank.

The verbs are built on one primitive, ``ask``: they only build samples and raise errors, and know
neither models nor media. Judges of every kind, point scorers and tables share them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from unified_reward.core.errors import ConfigError, ModelError, UnparsedError
from unified_reward.core.progress import progress_bar
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Ranking, Scored, Unparsed, Verdict


Medium = str | Path | bytes | Image | Video | Any
"""A path, encoded bytes, a PIL image, or an ``Image`` or ``Video``."""
Progress = Callable[[int], None]
"""Called with the number of samples just judged."""


class BaseJudge(ABC):
    """Base class of everything that turns samples into verdicts."""

    name: str
    family: str
    order_free: bool = False
    """True if each candidate is scored independently, so the swapped order is never asked."""
    window: int = 16
    """Samples whose media are in memory together, >= 1; as many more are opened ahead. More lets
    batches be fuller, at the cost of memory."""

    @abstractmethod
    def ask(
        self,
        samples: Sequence[Sample],
        *,
        orders: Literal[1, 2] = 2,
        on_progress: Progress | None = None,
    ) -> list[Verdict]:
        """Judge every sample: same length, same order; one bad item never spoils another.

        Memory does not grow with the number of samples: media are decoded ``window`` samples at a
        time and dropped, unless ``cache_media`` is active.

        Args:
            samples: Questions of any mixture of tasks and forms.
            orders: 2 asks every comparison in both orders and merges them; 1 asks as given.
            on_progress: Called with the number of samples just judged.
        """

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Error of each sample that cannot be asked, such as a broken file, or None."""
        return [None] * len(samples)

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """Keep decoded media in memory until the block ends."""
        yield

    @overload
    def score(
        self,
        prompt: str,
        *,
        image: Medium | None = None,
        video: Medium | None = None,
        answer: str | None = None,
        source: Medium | None = None,
    ) -> Scored: ...

    @overload
    def score(
        self,
        prompt: str | Sequence[str],
        *,
        images: Sequence[Medium] | None = None,
        videos: Sequence[Medium] | None = None,
        answers: Sequence[str] | None = None,
        image: Medium | None = None,
        video: Medium | None = None,
        source: Medium | None = None,
        sources: Sequence[Medium] | None = None,
    ) -> list[Verdict]: ...

    def score(  # noqa: PLR0913  one item or lists of them, of any task
        self,
        prompt: str | Sequence[str],
        *,
        image: Medium | None = None,
        video: Medium | None = None,
        answer: str | None = None,
        source: Medium | None = None,
        images: Sequence[Medium] | None = None,
        videos: Sequence[Medium] | None = None,
        answers: Sequence[str] | None = None,
        sources: Sequence[Medium] | None = None,
    ) -> Scored | list[Verdict]:
        """Score one generated image or video, or one answer about a given one; or lists of them.

        Lists must be of equal length; a single value is used for every item. Lists that take
        longer than two seconds show a progress bar on standard error.

        Args:
            prompt: The caption; the question, if answers are given; the instruction, if a source
                is. A string, or a list with one for each item.
            image: The image: generated, or the one that the question is about.
            video: The video, likewise.
            answer: The answer to judge.
            source: The image before an edit.
            images: One image for each item.
            videos: One video for each item.
            answers: One answer for each item.
            sources: One source for each item.

        Returns:
            A score; for lists a list of verdicts, in which failures are values.

        Raises:
            ConfigError: The arguments make no question, or lists differ in length.
            UnparsedError: The judge's answer cannot be read; not for lists.
            MediaError: The image or video cannot be opened; not for lists.

        Example:
            >>> from unified_reward import open_judge
            >>> judge = open_judge("scripted:tie")
            >>> verdicts = judge.score("a red cube", images=["missing-a.png", "missing-b.png"])
            >>> [type(verdict).__name__ for verdict in verdicts]
            ['Failed', 'Failed']
        """
        columns = {
            "image": _either("image", image, images),
            "video": _either("video", video, videos),
            "answer": _either("answer", answer, answers),
            "source": _either("source", source, sources),
        }
        prompts = prompt if isinstance(prompt, str) else _Column(prompt)
        rows = _rows({"prompt": prompts, **columns})
        samples = [_single_question(**row).sample(0) for row in rows]
        if not any(isinstance(column, _Column) for column in (prompts, *columns.values())):
            return _expect(self.ask(samples)[0], Scored)
        with progress_bar("scoring", len(samples)) as advance:
            return self.ask(samples, on_progress=advance)

    def compare(
        self,
        prompt: str,
        *,
        images: Sequence[Medium] | None = None,
        videos: Sequence[Medium] | None = None,
        answers: Sequence[str] | None = None,
        image: Medium | None = None,
        video: Medium | None = None,
        source: Medium | None = None,
    ) -> Preferred:
        """Compare two images, videos or answers.

        Args:
            prompt: The caption, or the question if ``answers`` are given.
            images: Two generated images.
            videos: Two generated videos.
            answers: Two answers to a question about ``image`` or ``video``.
            image: The image that the question is about.
            video: The video that the question is about.
            source: The image before, if ``images`` are edits of it.

        Returns:
            Probabilities of first, tie and second, averaged over both orders.

        Raises:
            ConfigError: The arguments make no comparison.
            UnparsedError: The judge's answer cannot be read.
            MediaError: An image or video cannot be opened.
        """
        question = _gather(
            prompt,
            images=images,
            videos=videos,
            answers=answers,
            image=image,
            video=video,
            source=source,
        )
        if len(question.candidates) != 2:
            raise ConfigError(
                f"compare takes two candidates, not {len(question.candidates)}; rank takes more"
            )
        return _expect(self.ask([question.sample(0, 1)])[0], Preferred)

    def rank(  # noqa: PLR0913  the arguments of compare, and how to rank
        self,
        prompt: str,
        *,
        images: Sequence[Medium] | None = None,
        videos: Sequence[Medium] | None = None,
        answers: Sequence[str] | None = None,
        image: Medium | None = None,
        video: Medium | None = None,
        source: Medium | None = None,
        by: Literal["score", "pairs"] = "score",
    ) -> Ranking:
        """Order the candidates of one prompt, best first.

        Args:
            prompt: The caption, or the question if ``answers`` are given.
            images: Generated images.
            videos: Generated videos.
            answers: Answers to a question about ``image`` or ``video``.
            image: The image that the question is about.
            video: The video that the question is about.
            source: The image before, if ``images`` are edits of it.
            by: ``score`` asks n times, ``pairs`` compares all n (n - 1) / 2 pairs.

        Returns:
            The ranking; candidates that got no answer are left out of its order.
        """
        question = _gather(
            prompt,
            images=images,
            videos=videos,
            answers=answers,
            image=image,
            video=video,
            source=source,
        )
        return self.rank_samples(question.sample, len(question.candidates), by=by)

    def rank_samples(
        self, sample: Callable[..., Sample], n: int, *, by: Literal["score", "pairs"] = "score"
    ) -> Ranking:
        """Order n candidates, best first.

        Args:
            sample: Called with one index for a score, with two for a comparison.
            n: Number of candidates.
            by: See ``rank``.
        """
        if by == "score":
            verdicts = self.ask([sample(i) for i in range(n)])
            scores = [_value(verdict) for verdict in verdicts]
        else:
            pairs = list(combinations(range(n), 2))
            verdicts = self.ask([sample(i, j) for i, j in pairs])
            scores = _mean_wins(n, pairs, verdicts)
        answered = [(-score, i) for i, score in enumerate(scores) if score is not None]
        order = tuple(i for _, i in sorted(answered))
        return Ranking(order, tuple(scores), tuple(verdicts))


@dataclass(frozen=True)
class _Question:
    """A prompt with its candidates."""

    task: Task
    prompt: str
    candidates: tuple[Candidate, ...]
    context: tuple[Image | Video, ...] = ()

    def sample(self, *indices: int) -> Sample:
        chosen = tuple(self.candidates[i] for i in indices)
        return Sample(self.task, self.prompt, chosen, self.context)


def _gather(
    prompt: str,
    *,
    images: Sequence[Medium] | None = None,
    videos: Sequence[Medium] | None = None,
    answers: Sequence[str] | None = None,
    image: Medium | None = None,
    video: Medium | None = None,
    source: Medium | None = None,
) -> _Question:
    """The question that the keywords make; which are given decides the task."""
    given = {"images": images, "videos": videos, "answers": answers}
    kinds = [kind for kind, value in given.items() if value]
    if len(kinds) != 1:
        raise ConfigError(
            "give candidates of one kind: images, videos, or answers about an image or a video; "
            f"given: {' and '.join(kinds) or 'none'}"
        )
    if source is not None and not images:
        raise ConfigError("source= is the image before an edit and goes with images")
    if not answers and (image is not None or video is not None):
        raise ConfigError("an image or video to ask about goes with answers=")
    if answers and (image is None) == (video is None):
        raise ConfigError("answers are about one thing: give image= or video=")
    if answers and image is not None:
        return _Question(Task.IMAGE_UNDERSTANDING, prompt, tuple(answers), (as_image(image),))
    if answers:
        return _Question(Task.VIDEO_UNDERSTANDING, prompt, tuple(answers), (as_video(video),))
    if videos:
        return _Question(Task.VIDEO_GENERATION, prompt, tuple(map(as_video, videos)))
    edits = tuple(map(as_image, images or ()))
    if source is not None:
        return _Question(Task.IMAGE_EDITING, prompt, edits, (as_image(source),))
    return _Question(Task.IMAGE_GENERATION, prompt, edits)


class _Column(tuple[Any, ...]):
    """Values with one for each item, where a plain value is used for every item."""

    __slots__ = ()


def _either(name: str, single: Any, several: Sequence[Any] | None) -> Any:
    if single is not None and several is not None:
        raise ConfigError(f"give {name}= for every item or {name}s= with one for each, not both")
    return single if several is None else _Column(several)


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arguments of each item; a single one if there are no columns.

    Raises:
        ConfigError: Columns differ in length.
    """
    lengths = {name: len(column) for name, column in columns.items() if isinstance(column, _Column)}
    if len(set(lengths.values())) > 1:
        given = " and ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in lengths.items())
        raise ConfigError(
            f"lists must be of equal length, not {given}; a single prompt is used for all"
        )
    return [
        {name: c[i] if isinstance(c, _Column) else c for name, c in columns.items()}
        for i in range(next(iter(lengths.values()), 1))
    ]


def _single_question(
    prompt: str, image: Medium, video: Medium, answer: str | None, source: Medium
) -> _Question:
    """The question about one candidate."""
    if answer is not None:
        return _gather(prompt, answers=[answer], image=image, video=video, source=source)
    images = None if image is None else [image]
    videos = None if video is None else [video]
    return _gather(prompt, images=images, videos=videos, source=source)


def as_image(medium: Medium) -> Image:
    """``medium`` as an ``Image``."""
    return medium if isinstance(medium, Image) else Image(medium)


def as_video(medium: Medium) -> Video:
    """``medium`` as a ``Video``."""
    return medium if isinstance(medium, Video) else Video(medium)


_Kind = TypeVar("_Kind", Scored, Preferred)


def _expect(verdict: Verdict, kind: type[_Kind]) -> _Kind:
    if isinstance(verdict, kind):
        return verdict
    if isinstance(verdict, Unparsed):
        raise UnparsedError(f"{verdict.reason}; the judge answered: {verdict.text!r}")
    if isinstance(verdict, Failed):
        raise verdict.cause or ModelError(verdict.error)
    raise ModelError(f"expected {kind.__name__}, but the judge gave {type(verdict).__name__}")


def _value(verdict: Verdict) -> float | None:
    """The overall score; if there are only aspects, the mean of those on [0, 1]."""
    if not isinstance(verdict, Scored):
        return None
    if verdict.score is not None:
        return verdict.score.value
    shares = [score.normalized for score in verdict.aspects.values()]
    closed = [share for share in shares if share is not None]
    return sum(closed) / len(closed) if closed else None


def _mean_wins(
    n: int, pairs: Sequence[tuple[int, int]], verdicts: Sequence[Verdict]
) -> list[float | None]:
    wins: list[list[float]] = [[] for _ in range(n)]
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        if isinstance(verdict, Preferred):
            wins[i].append(verdict.probability)
            wins[j].append(1 - verdict.probability)
    return [sum(shares) / len(shares) if shares else None for shares in wins]
