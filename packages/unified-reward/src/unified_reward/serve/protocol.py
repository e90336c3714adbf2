"""The server's own protocol: JSON to samples, verdicts to rows.

Knows neither HTTP nor judges. An item that cannot be read fails alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from unified_reward.core.errors import DataError, UnifiedRewardError
from unified_reward.core.ranking import pairs_of, rank_by_pairs, rank_by_score
from unified_reward.core.samples import Image, Layout, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Ranking, Scored, Verdict
from unified_reward.io.rows import id_text
from unified_reward.io.validation import describe_errors
from unified_reward.io.verdict_rows import verdict_row
from unified_reward.serve.batching import Orders
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.media import decode_base64, read_npy


Verb = Literal["score", "compare", "rank", "group"]
_M = TypeVar("_M", bound=BaseModel)
Files = Mapping[str, bytes]
"""Parts of a multipart request by name."""
_PART = "part:"
_MOST_VALUES = 1_000_000
"""Values of JSON; each takes up to 30 times the memory of its two characters."""
_LONGEST_ID = 256


class TooManyError(DataError):
    """A request asks for more samples than a judge ever takes."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class MediumRow(_Model):
    """One medium or text: exactly one of the keys image, video, frames, npy and text.

    Encoded bytes are base64, with or without the head of a data URL; in a multipart request also
    ``part:NAME``, the part of that name.
    """

    image: str | None = None
    video: str | None = None
    frames: list[str] | None = Field(None, min_length=1)
    npy: str | None = None
    layout: Layout | None = None
    fps: float | None = Field(None, gt=0)
    text: str | None = None

    def model_post_init(self, _: Any) -> None:
        """Check that the keys go together."""
        given = [key for key in ("image", "video", "frames", "npy", "text") if self._has(key)]
        if len(given) != 1:
            raise ValueError(
                "a medium has one of the keys image, video, frames, npy and text, not "
                f"{' and '.join(given) or 'none'}"
            )
        if (self.npy is None) != (self.layout is None):
            raise ValueError("npy and layout go together: HWC, CHW, THWC or TCHW")

    def _has(self, key: str) -> bool:
        return getattr(self, key) is not None

    def value(self, files: Files, config: ServeConfig) -> Image | Video | str:
        """The medium or text.

        Raises:
            MediaError: The bytes cannot be read.
        """
        if self.text is not None:
            return self.text
        if self.image is not None:
            return Image(_content(self.image, files))
        if self.video is not None:
            return Video(_content(self.video, files))
        if self.frames is not None:
            return Video(tuple(Image(_content(one, files)) for one in self.frames), fps=self.fps)
        layout = cast("Layout", self.layout)
        pixels = read_npy(_content(cast("str", self.npy), files), layout, config.media_limits)
        if "T" in layout:
            return Video(pixels, layout, fps=self.fps)
        return Image(pixels, layout)


def _content(text: str, files: Files) -> bytes:
    if not text.startswith(_PART):
        return decode_base64(text)
    name = text.removeprefix(_PART)
    if name not in files:
        raise DataError(f"the request has no part {name!r}")
    return files[name]


class ItemRow(_Model):
    """A question: a prompt, its candidates, and the media it is about."""

    id: Annotated[str | None, BeforeValidator(id_text), Field(max_length=_LONGEST_ID)] = None
    """Default its index in the request."""
    task: Task | None = None
    """Default the one that the media make."""
    prompt: str
    criteria: str = ""
    context: list[MediumRow] = Field(default_factory=list[MediumRow])
    candidates: list[MediumRow] = Field(min_length=1)


class RequestRow(_Model):
    """The body of a request."""

    judges: list[str] | None = Field(None, min_length=1)
    """May be left out where one judge is served."""
    items: list[Any]
    orders: Literal[1, 2] = 2
    """Orders in which a comparison is asked."""
    by: Literal["score", "pairs"] = "score"
    """Verdicts that a ranking is made of."""
    timeout_s: float | None = Field(None, gt=0)
    """Time after which items without a verdict fail; default and upper bound the server's."""


class DocumentedRequest(RequestRow):
    """The body of a request, as the OpenAPI page shows it."""

    items: list[ItemRow]  # pyright: ignore[reportIncompatibleVariableOverride]


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """JSON schema of a body with its references resolved, as a page of OpenAPI shows it."""
    schema = model.model_json_schema()
    parts = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(one) for one in cast("list[Any]", value)]
        if not isinstance(value, dict):
            return value
        fields = cast("dict[str, Any]", value)
        if "$ref" in fields:
            return resolved(parts[fields["$ref"].rpartition("/")[2]])
        return {key: resolved(part) for key, part in fields.items()}

    return resolved(schema)


@dataclass(frozen=True)
class Item:
    """An item of a request: its id, and the samples to ask or the reason why there are none."""

    id: str
    n: int
    """Number of candidates."""
    samples: tuple[Sample, ...]
    failure: Failed | None = None


@dataclass(frozen=True)
class Question:
    """A request that was read."""

    verb: Verb
    judges: Sequence[str] | None
    items: Sequence[Item]
    orders: Orders
    by: Literal["score", "pairs"]
    timeout_s: float | None

    def groups(self) -> list[Sequence[Sample | Failed]]:
        """Samples of each item, to be asked together."""
        return [item.samples for item in self.items]

    def rows(self, verdicts: Sequence[Verdict], judge: str, family: str) -> list[dict[str, Any]]:
        """One row for each item.

        Args:
            verdicts: On the samples of `groups`, in order.
            judge: Name of the judge, as served.
            family: Its prompt family.
        """
        rows: list[dict[str, Any]] = []
        start = 0
        for item in self.items:
            own = verdicts[start : start + len(item.samples)]
            start += len(item.samples)
            row = partial_row(item.id, judge=judge, family=family)
            rows.append(row(item.failure) if item.failure else self._row(item, own, row))
        return rows

    def _row(self, item: Item, verdicts: Sequence[Verdict], row: RowOf) -> dict[str, Any]:
        if self.verb in ("score", "compare"):
            return row(verdicts[0])
        if self.verb == "group":
            return _group_row(item, verdicts, row)
        if self.by == "score":
            return row(rank_by_score(verdicts))
        return row(rank_by_pairs(item.n, verdicts))


RowOf = Callable[[Any], dict[str, Any]]


def partial_row(name: str, *, judge: str, family: str) -> RowOf:
    """Writer of rows of one item and judge."""
    return lambda verdict: verdict_row(name, verdict, judge=judge, family=family)


def _group_row(item: Item, verdicts: Sequence[Verdict], row: RowOf) -> dict[str, Any]:
    """Row of a group: its ranking by win rate, and the verdicts that it comes from."""
    scored, compared = verdicts[: item.n], verdicts[item.n :]
    ranking = rank_by_pairs(item.n, compared)
    if item.n == 1 and not isinstance(scored[0], Scored):
        ranking = Ranking((), (None,), tuple(scored))
    pairs = [
        {"a": a, "b": b, **row(verdict)}
        for (a, b), verdict in zip(pairs_of(item.n), compared, strict=True)
    ]
    return {
        **row(ranking),
        "win_rates": ranking.scores,
        "candidates": [row(verdict) for verdict in scored],
        "pairs": pairs,
    }


def read_request(verb: Verb, body: bytes, files: Files, config: ServeConfig) -> Question:
    """Read the body of a request.

    Args:
        verb: The path of the request.
        body: JSON.
        files: Further parts of a multipart request.
        config: Limits.

    Raises:
        DataError: The body is not such a request; an item that is wrong only fails itself.
    """
    request = read_json(body, RequestRow)
    items = read_items(verb, request.items, files, config, by=request.by)
    return Question(verb, request.judges, items, request.orders, request.by, request.timeout_s)


def read_json(body: bytes, model: type[_M]) -> _M:
    """Read a body of JSON.

    Raises:
        DataError: It is not JSON, has too many values, or a field is wrong.
    """
    if sum(map(body.count, (b",", b"[", b"{"))) > _MOST_VALUES:
        raise DataError(f"the body has more than {_MOST_VALUES} values")
    try:
        return model.model_validate(from_json(body, allow_inf_nan=False))
    except ValidationError as error:
        raise DataError(f"the request: {describe_errors(error, 'body', 3)}") from error
    except ValueError as error:
        raise DataError(f"the body is not JSON: {error}") from error


def read_items(
    verb: Verb,
    given: Sequence[Any],
    files: Files,
    config: ServeConfig,
    *,
    by: Literal["score", "pairs"] = "score",
) -> list[Item]:
    """Read the items of a request; one that is wrong only fails itself.

    Args:
        verb: Question about each item.
        given: JSON of the items.
        files: Bytes that items name as ``part:NAME``.
        config: Limits.
        by: Verdicts that a ranking is made of.

    Raises:
        DataError: There are too many.
        TooManyError: They ask for too many samples.
    """
    if len(given) > config.max_items:
        raise DataError(f"{len(given)} items; at most {config.max_items} in a request")
    n = sum(_n_samples(verb, by, one, config) for one in given)
    if n > config.max_queue:
        raise TooManyError(f"{n} samples in a request; at most {config.max_queue}")
    return [_item(verb, by, index, one, files, config) for index, one in enumerate(given)]


def _n_samples(verb: Verb, by: str, given: Any, config: ServeConfig) -> int:
    """Number of samples that an item asks for, at least; 0 if it is wrong."""
    candidates = given.get("candidates") if isinstance(given, dict) else None
    n = len(candidates) if isinstance(candidates, list) else 0
    if not 0 < n <= config.max_candidates or verb in ("score", "compare"):
        return min(n, 1)
    n_pairs = n * (n - 1) // 2
    return n + n_pairs if verb == "group" else n_pairs if by == "pairs" else n


def _item(verb: Verb, by: str, index: int, given: Any, files: Files, config: ServeConfig) -> Item:
    name = id_text(given.get("id")) if isinstance(given, dict) else None
    name = name if isinstance(name, str) and len(name) <= _LONGEST_ID else str(index)
    try:
        row = ItemRow.model_validate(given)
        check_lengths(row, config)
        candidates = tuple(one.value(files, config) for one in row.candidates)
        context = tuple(one.value(files, config) for one in row.context)
        samples = _samples(verb, by, row, candidates, context)
    except ValidationError as error:
        return Item(name, 0, (), Failed(describe_errors(error, "item", 3)))
    except UnifiedRewardError as error:
        return Item(name, 0, (), Failed.from_error(error))
    return Item(name, len(candidates), samples)


def check_lengths(row: ItemRow, config: ServeConfig) -> None:
    """Refuse too long texts and too many candidates.

    Raises:
        DataError: A text or the list is too long.
    """
    texts = [row.prompt, row.criteria, *(one.text for one in row.candidates if one.text)]
    longest = max(map(len, texts))
    if longest > config.max_prompt_chars:
        raise DataError(
            f"a text has {longest} characters; at most {config.max_prompt_chars} are read"
        )
    if len(row.candidates) > config.max_candidates:
        raise DataError(
            f"{len(row.candidates)} candidates; at most {config.max_candidates} in an item"
        )


def _samples(
    verb: Verb, by: str, row: ItemRow, candidates: Sequence[Any], context: Sequence[Any]
) -> tuple[Sample, ...]:
    """The samples that an item asks for."""
    n = len(candidates)
    wanted = {"score": 1, "compare": 2}.get(verb)
    if wanted and n != wanted:
        raise DataError(f"{verb} takes {wanted} candidate{'s' * (wanted > 1)}, not {n}")
    if any(isinstance(medium, str) for medium in context):
        raise DataError("context is images and videos; a text belongs into the prompt")
    task = row.task or _task(candidates, context)

    def sample(*indices: int) -> Sample:
        chosen = tuple(candidates[i] for i in indices)
        return Sample(task, row.prompt, chosen, tuple(context), row.criteria)

    singles = [sample(i) for i in range(n)]
    pairs = [sample(i, j) for i, j in pairs_of(n)]
    if verb == "compare" or (verb == "rank" and by == "pairs"):
        return tuple(pairs)
    return tuple(singles + pairs if verb == "group" else singles)


def _task(candidates: Sequence[Any], context: Sequence[Any]) -> Task:
    """The task that the media make.

    Raises:
        DataError: They are of several kinds.
    """
    kinds = {type(candidate) for candidate in candidates}
    if len(kinds) != 1:
        raise DataError("candidates are of one kind: images, videos or texts; or name the task")
    (kind,) = kinds
    if kind is Video:
        return Task.VIDEO_GENERATION
    if kind is Image:
        return Task.IMAGE_EDITING if context else Task.IMAGE_GENERATION
    is_video = any(isinstance(medium, Video) for medium in context)
    return Task.VIDEO_UNDERSTANDING if is_video else Task.IMAGE_UNDERSTANDING
