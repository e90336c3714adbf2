"""A page of statistics of data: counts, balance, and a random sample of rows."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from unified_reward import media
from unified_reward.core.errors import DataError, MediaError
from unified_reward.core.samples import Example, Image, Video
from unified_reward.core.verdicts import Failed
from unified_reward.core.words import count_of
from unified_reward.data.check import cell, files, question, tally
from unified_reward.data.sources.annotated import Agreement
from unified_reward.io.rows import Row
from unified_reward.report.page import EMBEDDED_PIXELS, Animation, Bar, Card, Page


_BINS = 10
_FRAMES, _FPS = 8, 4.0


@dataclass
class Stats:
    """Counts of one pass over rows, with eight bytes a row and a medium, and a sample of rows."""

    sampled: list[Example] = field(default_factory=list)
    """Random sample of rows, each as likely as any other."""
    bad: Counter[str] = field(default_factory=Counter)
    """Unusable rows by reason."""
    cells: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Usable rows by source, task and form."""
    winners: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Comparisons by source and winner, ``first``, ``tie``, ``second`` or ``none``."""
    scores: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Scores on a closed scale by that scale and place: ``0`` to ``9``, tenths of it."""
    aspects: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Targets by source and aspect."""
    unscaled: int = 0
    """Scores on no scale, or on an open one."""
    without_media: int = 0
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    media: array[int] = field(default_factory=lambda: array("Q"))


def gather(rows: Iterable[Row], *, n: int, seed: int) -> Stats:
    """Count rows and keep a random sample of ``n``.

    Args:
        rows: As ``rows_of`` gives them.
        n: Rows of the sample, >= 0.
        seed: Random seed of the sample.

    Raises:
        DataError: There is no usable row.
    """
    stats = Stats()
    rng = np.random.default_rng(seed)
    n_seen = 0
    for row in rows:
        if isinstance(row.content, Failed):
            tally(stats.bad, row.content.reason)
            continue
        n_seen += 1
        _count(stats, row.content)
        # Reservoir sampling, algorithm R.
        place = int(rng.integers(n_seen))
        if len(stats.sampled) < n:
            stats.sampled.append(row.content)
        elif place < n:
            stats.sampled[place] = row.content
    if not n_seen:
        reasons = ", ".join(f"{reason} ({k})" for reason, k in stats.bad.most_common(3))
        raise DataError(f"there is no usable row: {reasons or 'no row at all'}")
    return stats


def page(stats: Stats, title: str, agreed: Agreement | None = None) -> Page:
    """Build the page of statistics; media that cannot be opened are named.

    Args:
        stats: Result of `gather`.
        title: Title of the page.
        agreed: Agreement of the annotators, where there were several.
    """
    made = Page(title, lead=f"{stats.cells.total():,} usable rows, {stats.bad.total():,} unusable.")
    made.section("Rows")
    made.table(["source", "task", "form", "rows"], [[*key, n] for key, n in _sorted(stats.cells)])
    repeated = [
        ["rows without media", stats.without_media],
        ["scores without a closed scale", stats.unscaled],
        ["prompts that occur again", _repeats(stats.prompts)],
        ["media that occur again, by name", _repeats(stats.media)],
    ]
    made.table(["", "count"], repeated)
    if agreed:
        made.section("Agreement of annotators", "1 is full agreement, 0 is chance.")
        alpha = agreed.reason if agreed.alpha is None else f"{agreed.alpha:.3f}"
        made.table(["Krippendorff's alpha", *agreed._fields[2:]], [[alpha, *agreed[2:]]])
    if stats.bad:
        made.section("Unusable")
        made.table(["reason", "rows"], [list(reason) for reason in stats.bad.most_common()])
    if stats.winners:
        made.section("Winners", "A share of first and second far from equal is a position bias.")
        for source in sorted({source for source, _ in stats.winners}):
            names = ("first", "tie", "second", "none")
            made.bars(
                _bars(names, [stats.winners[source, winner] for winner in names]),
                title=source or "-",
            )
    if stats.scores:
        made.section("Scores", "Tenths of each scale, its upper end included in the last.")
        for scale in sorted({scale for scale, _ in stats.scores}):
            counts = [stats.scores[scale, i] for i in range(_BINS)]
            labels = [f"{i * 10} to {i * 10 + 10} %" for i in range(_BINS)]
            made.bars(_bars(labels, counts), title=f"scale {scale}")
    if stats.aspects:
        made.section("Aspects")
        made.table(["source", "aspect", "rows"], [[*key, n] for key, n in _sorted(stats.aspects)])
    made.section("Random sample", f"{count_of(len(stats.sampled), 'row')}.")
    made.gallery([_card(example) for example in stats.sampled])
    return made


def _count(stats: Stats, content: Example) -> None:
    source, target = content.source, content.target
    task, form = cell(content)
    stats.cells[source, task.value, form] += 1
    if form == "compare":
        stats.winners[source, target.winner or "none"] += 1
    scale = target.scale
    share = scale.share(target.score) if target.score is not None and scale else None
    if share is not None:
        stats.scores[str(scale), min(int(share * _BINS), _BINS - 1)] += 1
    elif target.score is not None:
        stats.unscaled += 1
    for aspect in target.aspects:
        stats.aspects[source, aspect] += 1
    media = list(files(content.media))
    stats.without_media += not media
    stats.prompts.append(_hash(question(content).encode(errors="surrogatepass")))
    for medium in media:
        raw = medium.source
        raw = raw if isinstance(raw, bytes) else str(raw).encode(errors="surrogatepass")
        stats.media.append(_hash(raw))


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big")


def _repeats(hashes: array[int]) -> int:
    return len(hashes) - len(np.unique(np.asarray(hashes)))


def _sorted(counts: Counter[tuple[str, ...]]) -> list[tuple[tuple[str, ...], int]]:
    return sorted(counts.items())


def _bars(labels: Sequence[str], counts: Sequence[int]) -> list[Bar]:
    total = sum(counts)
    return [Bar(label, n / total, None, None, n) for label, n in zip(labels, counts, strict=True)]


def _card(content: Example) -> Card:
    visible_media: list[media.PILImage | Animation] = []
    lines: list[str] = []
    for medium in content.media:
        try:
            visible_media.append(visible(medium))
        except MediaError as error:
            lines.append(f"cannot be shown: {error}")
    answers = [answer for answer in content.candidates if isinstance(answer, str)]
    lines += [f"{i}. {answer}" for i, answer in enumerate(answers, 1)]
    target = content.target
    if target.winner:
        lines.append(f"winner: {target.winner}")
    if target.score is not None:
        lines.append(f"score: {target.score:g} on {target.scale or 'no scale'}")
    lines += [f"{name}: {value:g}" for name, value in target.aspects.items()]
    if target.rationale:
        lines.append(f"rationale: {target.rationale}")
    lines += [f"{name}: {tag}" for name, tag in content.tags.items()]
    lines += [f"{turn.get('from')}: {turn.get('value')}" for turn in content.messages]
    return Card(
        visible_media, question(content), lines, mark=f"{content.source} {content.id}".strip()
    )


def visible(medium: Image | Video, max_pixels: int = EMBEDDED_PIXELS) -> media.PILImage | Animation:
    """Open an image, or frames of a video, for a page, each shrunk to at most ``max_pixels``.

    Raises:
        MediaError: It cannot be opened.
    """
    if isinstance(medium, Image):
        return media.fit_pixels(media.open_image(medium), max_pixels)
    frames = media.sample_frames(medium, _FRAMES).images()
    small = [np.asarray(media.fit_pixels(frame, max_pixels)) for frame in frames]
    return Animation(np.stack(small), _FPS)


def visible_parts(
    parts: Iterable[Image | Video | str], max_pixels: int = EMBEDDED_PIXELS
) -> tuple[list[media.PILImage | Animation], list[str]]:
    """Open the media among parts of a candidate for a page.

    Returns:
        Media, and lines of text: those among the parts, and why a medium cannot be opened.
    """
    opened: list[media.PILImage | Animation] = []
    lines: list[str] = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
            continue
        try:
            opened.append(visible(part, max_pixels))
        except MediaError as error:
            lines.append(f"cannot be shown: {error}")
    return opened, lines
