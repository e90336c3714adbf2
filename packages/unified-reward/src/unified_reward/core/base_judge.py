"""Base class of everything that judges, with its verbs: score, compare, rank.

The verbs are built on one primitive, ``ask``: they only build samples and raise errors, and know
neither models nor media. Judges of every kind, point scorers and tables share them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from unified_reward.core.errors import (
    ConfigError,
    ModelError,
    UnifiedRewardError,
    UnparsedError,
    one_line,
)
from unified_reward.core.progress import progress_bar
from unified_reward.core.ranking import pairs_of, rank_by_pairs, rank_by_score
from unified_reward.core.samples import Candidate, Form, Image, Sample, Task, Video
from unified_reward.core.verdicts import (
    Failed,
    Preferred,
    Ranking,
    Scale,
    Scored,
    Unparsed,
    Verdict,
)


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
    batches be fuller, at the cost of memory. Samples that share media may be more."""

    answers_alone: bool = False
    """True if it judges answers to a question of text alone too, not only about media."""

    origin: tuple[str, Any] | None = None
    """Reference and options it was opened with; None for a judge that was made otherwise."""

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

    def describe(self) -> dict[str, Any]:
        """Facts about the judge to know before it is asked, as JSON; null for what is not known.

        ``kind`` is generative, scalar, scorer, checklist, table or scripted. ``tasks`` holds the
        forms of each task, and range and aspects of its scores; a range is null where the values
        are open. ``licence`` is that of code and weights, ``revision`` a commit of the hub or a
        fingerprint of the files.

        The entry ``model`` of a local checkpoint holds its architecture, dtype and device, and by
        ``ways`` which faster ways of asking gave the answers of the plain way when it was loaded.
        """
        return {
            "name": self.name,
            "family": self.family,
            "kind": None,
            "tasks": {},
            "values": "",
            "higher_is_better": True,
            "order_free": self.order_free,
            "answers_alone": self.answers_alone,
            "licence": {"code": None, "weights": None},
            "revision": None,
            "architecture": None,
        }

    def check_samples(self, samples: Sequence[Sample]) -> list[Failed | None]:
        """Error of each sample that cannot be asked, such as a broken file, or None."""
        return [None] * len(samples)

    def networks(self) -> list[Any]:
        """Networks (torch modules) in this process that it judges by, which may be moved."""
        return []

    @contextmanager
    def cache_media(self) -> Generator[None]:
        """Keep decoded media in memory until the block ends."""
        yield

    def verdict_or_failed(self, decode: Callable[[], Verdict]) -> Verdict:
        """Decode one item; an error of its numbers fails it alone."""
        try:
            return decode()
        except (ValueError, ArithmeticError) as error:
            return Failed(f"{self.name} gave no verdict: {one_line(error)}")

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
            prompt: Caption, question or instruction of an edit: a string, or one for each item.
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
        columns: dict[str, Any] = {
            "image": _either("image", image, images),
            "video": _either("video", video, videos),
            "answer": _either("answer", answer, answers),
            "source": _either("source", source, sources),
        }
        columns = {name: column for name, column in columns.items() if column is not None}
        task = _task_of_columns(columns, alone=self.answers_alone)
        rows = _rows(columns := {"prompt": _prompts(prompt), **columns})
        if not any(isinstance(column, _Column) for column in columns.values()):
            return _expect(self.ask([_single_question(task, **rows[0])])[0], Scored)
        items = [_question_or_failure(task, row) for row in rows]
        samples = [item for item in items if isinstance(item, Sample)]
        with progress_bar("scoring", len(samples)) as advance:
            verdicts = iter(self.ask(samples, on_progress=advance))
        return [item if isinstance(item, Failed) else next(verdicts) for item in items]

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
            alone=self.answers_alone,
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
            alone=self.answers_alone,
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
        if by not in ("score", "pairs"):
            raise ConfigError(f"by is score or pairs, not {by!r}")
        if by == "score":
            return rank_by_score(self.ask([sample(i) for i in range(n)]))
        return rank_by_pairs(n, self.ask([sample(i, j) for i, j in pairs_of(n)]) if n > 1 else [])


def describe_task(
    forms: Iterable[Form], scale: Scale | None, aspects: Mapping[str, Scale]
) -> dict[str, Any]:
    """Entry of a task in `BaseJudge.describe`.

    Args:
        forms: Forms of question that the judge answers.
        scale: Scale of the overall score; None where there is none.
        aspects: Scale of each aspect of a score.
    """
    return {
        "forms": list(forms),
        "scale": scale and _sides(scale),
        "aspects": {name: _sides(one) for name, one in aspects.items()},
    }


def _sides(scale: Scale) -> list[float | None] | None:
    is_open = scale.low is None and scale.high is None
    return None if is_open else [scale.low, scale.high]


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


def _gather(  # noqa: PLR0913  the arguments of compare and rank, and the judge's own
    prompt: str,
    *,
    alone: bool,
    images: Sequence[Medium] | None = None,
    videos: Sequence[Medium] | None = None,
    answers: Sequence[str] | None = None,
    image: Medium | None = None,
    video: Medium | None = None,
    source: Medium | None = None,
) -> _Question:
    """The question that the keywords make; which are given decides the task."""
    given = {"images": images, "videos": videos, "answers": answers}
    lists = {name: tuple(_checked_list(name, v)) for name, v in given.items() if v is not None}
    kinds = [name for name, values in lists.items() if values]
    about = {"image": image, "video": video, "source": source}
    about = {name: medium for name, medium in about.items() if medium is not None}
    task = _task_of(kinds, about, alone=alone)
    return _question(task, prompt, lists[kinds[0]], next(iter(about.values()), None))


def _task_of(kinds: Sequence[str], about: Collection[str], *, alone: bool) -> Task:
    """The task that the names of the arguments make.

    Args:
        kinds: Kinds of candidates: images, videos, answers.
        about: Context: image, video, source.
        alone: Answers may be about nothing but the question.
    """
    if len(kinds) != 1:
        raise ConfigError(
            "give candidates of one kind: images, videos, or answers about an image or a video; "
            f"given: {' and '.join(kinds) or 'none'}"
        )
    (kind,) = kinds
    if "source" in about and kind != "images":
        raise ConfigError("source= is the image before an edit and goes with images")
    if kind == "answers":
        if alone and not about:
            return Task.IMAGE_UNDERSTANDING
        if len(about) != 1:
            raise ConfigError("answers are about one thing: give image= or video=")
        return Task.IMAGE_UNDERSTANDING if "image" in about else Task.VIDEO_UNDERSTANDING
    if "image" in about or "video" in about:
        raise ConfigError("an image or video to ask about goes with answers=")
    if kind == "videos":
        return Task.VIDEO_GENERATION
    return Task.IMAGE_EDITING if "source" in about else Task.IMAGE_GENERATION


def _task_of_columns(columns: Collection[str], *, alone: bool) -> Task:
    """The task of `BaseJudge.score`, whose image is the candidate unless there is an answer."""
    if "answer" in columns:
        about = [name for name in columns if name != "answer"]
        return _task_of(["answers"], about, alone=alone)
    kinds = [f"{name}s" for name in columns if name != "source"]
    return _task_of(kinds, [name for name in columns if name == "source"], alone=alone)


def _question(task: Task, prompt: Any, candidates: Sequence[Any], about: Any) -> _Question:
    """The question about candidates as they were given, None for no context.

    Raises:
        ConfigError: The prompt or a candidate is not of the type that the task needs.
        MediaError: A medium is an array without a layout.
    """
    if not isinstance(prompt, str):
        raise ConfigError(f"a prompt is text, not {_shortened(prompt)}")
    is_video = task in (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING)
    as_medium = as_video if is_video else as_image
    context = () if about is None else (as_medium(about),)
    if task not in (Task.IMAGE_UNDERSTANDING, Task.VIDEO_UNDERSTANDING):
        missing = [i for i, candidate in enumerate(candidates) if candidate is None]
        if missing:
            raise ConfigError(f"candidate {missing[0]} is None, not an image or a video")
        return _Question(task, prompt, tuple(map(as_medium, candidates)), context)
    for answer in candidates:
        if not isinstance(answer, str):
            raise ConfigError(f"an answer is text, not {_shortened(answer)}")
    return _Question(task, prompt, tuple(candidates), context)


def _shortened(value: Any) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _is_list(value: Any) -> bool:
    """True for several values, False for a single medium or text."""
    is_array = hasattr(value, "__array_interface__") and hasattr(value, "dtype")
    return (
        isinstance(value, Iterable) and not isinstance(value, str | bytes | Path) and not is_array
    )


def _checked_list(name: str, values: Any) -> Iterable[Any]:
    """The values of an argument that takes several.

    Raises:
        ConfigError: It is a single value.
    """
    if _is_list(values):
        return values
    single = name.removesuffix("s")
    if hasattr(values, "__array_interface__") and hasattr(values, "dtype"):
        kind = "Video" if single == "video" else "Image"
        raise ConfigError(
            f"{name}= is a list, not an array of shape {tuple(values.shape)}: give a list of "
            f"{kind}(array, layout=...)"
        )
    raise ConfigError(f"{name}= is a list; one {single} is {single}= of score")


class _Column(tuple[Any, ...]):
    """Values with one for each item, where a plain value is used for every item."""

    __slots__ = ()


def _either(name: str, single: Any, several: Sequence[Any] | None) -> Any:
    if single is not None and several is not None:
        raise ConfigError(f"give {name}= for every item or {name}s= with one for each, not both")
    return single if several is None else _Column(_checked_list(f"{name}s", several))


def _prompts(prompt: Any) -> Any:
    return _Column(prompt) if _is_list(prompt) else prompt


def _rows(columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Arguments of each item; a single one if there are no columns.

    Raises:
        ConfigError: Columns differ in length.
    """
    lengths = {name: len(column) for name, column in columns.items() if isinstance(column, _Column)}
    if len(set(lengths.values())) > 1:
        given = " and ".join(f"{n} {name}{'s' * (n != 1)}" for name, n in lengths.items())
        single = [name for name, n in lengths.items() if n == 1 and name != "prompt"]
        hint = "; a single prompt is used for all" if "prompt" in lengths else ""
        hint += "".join(f"; one {name} for all is {name}=" for name in single)
        raise ConfigError(f"lists must be of equal length, not {given}{hint}")
    return [
        {name: c[i] if isinstance(c, _Column) else c for name, c in columns.items()}
        for i in range(next(iter(lengths.values()), 1))
    ]


def _single_question(task: Task, prompt: Any, **values: Any) -> Sample:
    """The question about one candidate, with its context if there is any.

    Raises:
        ConfigError: A value is None, or not of the type that the task needs.
        MediaError: A medium is an array without a layout.
    """
    for name, value in values.items():
        if value is None:
            raise ConfigError(f"{name} is None")
    candidate = values.pop(next(name for name in ("answer", "image", "video") if name in values))
    return _question(task, prompt, [candidate], next(iter(values.values()), None)).sample(0)


def _question_or_failure(task: Task, row: Mapping[str, Any]) -> Sample | Failed:
    try:
        return _single_question(task, **row)
    except UnifiedRewardError as error:
        return Failed.from_error(error)


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
        raise verdict.cause or ModelError(verdict.reason)
    raise ModelError(f"expected {kind.__name__}, but the judge gave {type(verdict).__name__}")
