"""The three verbs of everything that judges: score, compare, rank.

They stand on one primitive, ``ask``, and only build samples and raise errors; they know neither
models nor media. Judges, point scorers and tables of answers share them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, TypeVar

from unified_reward.core.errors import ConfigError, ModelError, UnparsedError
from unified_reward.core.samples import Candidate, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Ranking, Scored, Unparsed, Verdict


Medium = str | Path | bytes | Image | Video | Any
"""A path, the encoded bytes, a PIL picture, or an ``Image`` or ``Video``."""


class BaseJudge(ABC):
    """Whatever answers samples with verdicts."""

    name: str
    family: str
    order_free: bool = False
    """It knows the candidates by themselves, and is told nothing by their order."""

    @abstractmethod
    def ask(self, samples: Sequence[Sample], *, orders: Literal[1, 2] = 2) -> list[Verdict]:
        """Judge every sample: same length, same order; one bad item never spoils another.

        Args:
            samples: Questions of any mixture of tasks and forms.
            orders: 2 asks every comparison in both orders and merges them; 1 asks as given.
        """

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Why each sample cannot be asked, such as a broken file; None where nothing is known."""
        return [None] * len(samples)

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """What is opened within stays open from one ``ask`` to the next."""
        yield

    def score(
        self,
        prompt: str,
        *,
        image: Medium | None = None,
        video: Medium | None = None,
        answer: str | None = None,
        source: Medium | None = None,
    ) -> Scored:
        """Score one generated picture or clip, or one answer about a given one.

        Args:
            prompt: The caption; the question, where ``answer`` is given; the instruction, where
                ``source`` is.
            image: The picture: generated, or what the question is about.
            video: The clip, likewise.
            answer: The answer to judge.
            source: The picture before an edit.

        Raises:
            UnparsedError: The judge's answer cannot be read.
            MediaError: The picture or clip cannot be opened.
        """
        if answer is None:
            images = None if image is None else [image]
            videos = None if video is None else [video]
            asked = _gather(prompt, images=images, videos=videos, source=source)
        else:
            asked = _gather(prompt, answers=[answer], image=image, video=video, source=source)
        return _expect(self.ask([asked.sample(0)])[0], Scored)

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
        """Compare two pictures, clips or answers; arguments and errors as in ``rank``."""
        asked = _gather(
            prompt,
            images=images,
            videos=videos,
            answers=answers,
            image=image,
            video=video,
            source=source,
        )
        if len(asked.candidates) != 2:
            raise ConfigError(
                f"compare takes two candidates, not {len(asked.candidates)}; rank takes more"
            )
        return _expect(self.ask([asked.sample(0, 1)])[0], Preferred)

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
            prompt: The caption, or the question where ``answers`` are given.
            images: Generated pictures.
            videos: Generated clips.
            answers: Answers to a question about ``image`` or ``video``.
            image: What the question is about.
            video: What the question is about.
            source: The picture before, where ``images`` are edits of it.
            by: ``score`` asks n times, ``pairs`` compares all n (n - 1) / 2 pairs.

        Returns:
            The ranking; candidates that got no answer are left out of its order.
        """
        asked = _gather(
            prompt,
            images=images,
            videos=videos,
            answers=answers,
            image=image,
            video=video,
            source=source,
        )
        return self.rank_samples(asked.sample, len(asked.candidates), by=by)

    def rank_samples(
        self, sample: Callable[..., Sample], n: int, *, by: Literal["score", "pairs"] = "score"
    ) -> Ranking:
        """Order n candidates; ``sample(i)`` asks about one of them, ``sample(i, j)`` about two."""
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
class _Asked:
    """One prompt with its candidates."""

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
) -> _Asked:
    """Tell the task from which keywords were given."""
    given = {"images": images, "videos": videos, "answers": answers}
    kinds = [kind for kind, value in given.items() if value]
    if len(kinds) != 1:
        raise ConfigError(
            "give candidates of one kind: pictures, clips, or answers about a picture or a clip; "
            f"given: {' and '.join(kinds) or 'none'}"
        )
    if source is not None and not images:
        raise ConfigError("source= is the picture before an edit and goes with pictures")
    if not answers and (image is not None or video is not None):
        raise ConfigError("a picture or clip to ask about goes with answers=")
    if answers and (image is None) == (video is None):
        raise ConfigError("answers are about one thing: give image= or video=")
    if answers and image is not None:
        return _Asked(Task.IMAGE_UNDERSTANDING, prompt, tuple(answers), (as_image(image),))
    if answers:
        return _Asked(Task.VIDEO_UNDERSTANDING, prompt, tuple(answers), (as_video(video),))
    if videos:
        return _Asked(Task.VIDEO_GENERATION, prompt, tuple(map(as_video, videos)))
    pictures = tuple(map(as_image, images or ()))
    if source is not None:
        return _Asked(Task.IMAGE_EDITING, prompt, pictures, (as_image(source),))
    return _Asked(Task.IMAGE_GENERATION, prompt, pictures)


def as_image(medium: Medium) -> Image:
    """The medium as an ``Image``; one that already is passes through."""
    return medium if isinstance(medium, Image) else Image(medium)


def as_video(medium: Medium) -> Video:
    """The medium as a ``Video``; one that already is passes through."""
    return medium if isinstance(medium, Video) else Video(medium)


_Wanted = TypeVar("_Wanted", Scored, Preferred)


def _expect(verdict: Verdict, wanted: type[_Wanted]) -> _Wanted:
    if isinstance(verdict, wanted):
        return verdict
    if isinstance(verdict, Unparsed):
        raise UnparsedError(f"{verdict.reason}; the judge said: {verdict.text!r}")
    if isinstance(verdict, Failed):
        raise verdict.cause or ModelError(verdict.error)
    raise ModelError(f"asked for {wanted.__name__}, but the judge gave {type(verdict).__name__}")


def _value(verdict: Verdict) -> float | None:
    """The overall score; where only aspects are defined, the mean of those on [0, 1]."""
    if not isinstance(verdict, Scored):
        return None
    if verdict.score is not None:
        return verdict.score.value
    shares = [one.normalized for one in verdict.aspects.values()]
    closed = [one for one in shares if one is not None]
    return sum(closed) / len(closed) if closed else None


def _mean_wins(
    n: int, pairs: Sequence[tuple[int, int]], verdicts: Sequence[Verdict]
) -> list[float | None]:
    wins: list[list[float]] = [[] for _ in range(n)]
    for (i, j), verdict in zip(pairs, verdicts, strict=True):
        if isinstance(verdict, Preferred):
            wins[i].append(verdict.probability)
            wins[j].append(1 - verdict.probability)
    return [sum(one) / len(one) if one else None for one in wins]
