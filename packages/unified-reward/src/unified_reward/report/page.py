"""Self-contained HTML pages: images, videos, charts, tables and verdicts.

Without scripts or network requests; light and dark, narrow and wide. All text is escaped.
Knows neither judges nor tasks, nor where its values come from.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Unparsed, Verdict
from unified_reward.io.atomic import write_bytes
from unified_reward.io.text import read_text
from unified_reward.media import PILImage, Pixels
from unified_reward.report import charts


DASH = "\N{EN DASH}"
EMBEDDED_PIXELS = 512 * 512
"""Larger images and frames are shrunk to this size, so that a page stays a few megabytes."""
ENLARGED_PX = 200
"""Small images are enlarged up to this side, by whole factors so that pixels stay square."""
_LONG = 60
"""Longest text in characters that is never cut off by its box."""
Tone = Literal["good", "bad", "open", "warning"]
_EMPTY = '<p class="empty">Nothing to show.</p>'


@dataclass(frozen=True, eq=False)
class Animation:
    """Frames of a video to play on a page, all of them."""

    pixels: Pixels
    """RGB, shape (T, H, W, 3), T >= 1."""
    fps: float


@dataclass(frozen=True)
class Card:
    """A card of a gallery: images or videos, lines of text, and a verdict on them."""

    media: Sequence[PILImage | Animation]
    title: str
    lines: Sequence[str] = ()
    verdict: Verdict | None = None
    mark: str = ""
    """Text of a badge, such as ``chosen``."""


@dataclass(frozen=True)
class Bar:
    """A bar of a share in [0, 1] with its 95 % interval; None where nothing was measured."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def __post_init__(self) -> None:
        shares = (self.value, self.low, self.high)
        if any(share is not None and not 0 <= share <= 1 for share in shares):
            raise DataError(f"the bar {self.label!r} takes shares in [0, 1] or None, not {shares}")


@dataclass(frozen=True)
class Interval:
    """An estimate of any sign with its 95 % interval; None where nothing was measured."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None = None
    mark: str = ""
    """Reading of the interval in a word or two, such as ``better``."""

    def __post_init__(self) -> None:
        numbers = (self.value, self.low, self.high)
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise DataError(f"the interval {self.label!r} takes finite numbers, not {numbers}")


class Finding(NamedTuple):
    """A sentence with its gist in a badge, and what it rests on."""

    mark: str
    text: str
    lines: Sequence[str] = ()
    tone: Tone = "open"
    """Colour of the badge, which repeats what ``mark`` says."""


class Tile(NamedTuple):
    """A large figure with its name."""

    label: str
    value: str
    note: str = ""


class Page:
    """An HTML page, built from top to bottom.

    >>> page = Page("Results", lead="Everything was measured on held-out items.")
    >>> page.section("Accuracy")
    >>> page.table(["task", "accuracy"], [["images", 0.75], ["videos", None]])
    >>> "0.750" in page.html()
    True
    """

    def __init__(self, title: str, *, lead: str = "") -> None:
        self._title = title
        head = _words("h1", title) + _words("p", lead, "lead")
        self._blocks = [f"<header>{head}</header><section>"]
        self._images = "data:"

    def section(self, heading: str, note: str = "") -> None:
        """Start a new section."""
        head = _words("h2", heading) + _words("p", note, "note")
        self._blocks.append(f"</section><section>{head}")

    def subsection(self, heading: str, note: str = "") -> None:
        """Start a part of a section."""
        head = _words("h3", heading) + _words("p", note, "note")
        self._blocks.append(f'<div class="part">{head}</div>' if head else "")

    def findings(self, findings: Sequence[Finding]) -> None:
        """Add sentences to read first, each with a badge."""
        rows = ""
        for finding in findings:
            lines = "".join(_words("small", line) for line in finding.lines)
            mark = _words("span", finding.mark, f"mark {finding.tone}")
            rows += f"<li>{mark}{_words('p', finding.text)}{lines}</li>"
        self._blocks.append(f'<ul class="findings">{rows}</ul>' if rows else _EMPTY)

    def text(self, paragraph: str) -> None:
        """Add a paragraph; line breaks are kept."""
        self._blocks.append(_words("p", paragraph, "text"))

    def tiles(self, tiles: Sequence[Tile]) -> None:
        """Add large figures side by side."""
        rows = "".join(
            f"<li>{_words('span', tile.label)}{_words('b', tile.value)}"
            f"{_words('small', tile.note)}</li>"
            for tile in tiles
        )
        self._blocks.append(f'<ul class="tiles">{rows}</ul>')

    def files(self, images: Sequence[tuple[str, str, str]]) -> None:
        """Add images that stay files beside the page, and are loaded when they come into view.

        Args:
            images: Path relative to the page, caption, and alternative text of each.
        """
        self._images = "'self' file: data:"
        figures = ""
        for path, caption, words in images:
            source = escape(quote(path))
            image = f'<img loading="lazy" src="{source}" alt="{escape(words)}">'
            link = f'<a href="{source}">{image}</a>'
            figures += f'<figure class="panel">{_words("figcaption", caption)}{link}</figure>'
        self._blocks.append(f'<div class="files">{figures}</div>' if figures else _EMPTY)

    def table(
        self,
        header: Sequence[str],
        rows: Sequence[Sequence[str | float | Interval | None]],
        *,
        folded: str = "",
    ) -> None:
        """Add a table. Numbers are right-aligned; None, NaN and infinity are shown as a dash.

        Args:
            header: Names of the columns.
            rows: Cells; of an `Interval` the value and the ends are shown.
            folded: Line in whose place the table appears when it is opened; empty to show it.

        Raises:
            DataError: A row is longer or shorter than the header.
        """
        for i, row in enumerate(rows):
            if len(row) != len(header):
                raise DataError(f"row {i} has {len(row)} cells, the header has {len(header)}")
        head = ""
        for j, name in enumerate(header):
            css = "" if not rows or any(isinstance(row[j], str) for row in rows) else "number"
            head += f'<th scope="col" class="{css}">{_words("div", name)}</th>'
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        table = (
            f'<div class="panel table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )
        summary = _words("summary", folded)
        self._blocks.append(f"<details>{summary}{table}</details>" if folded else table)

    def bars(
        self,
        bars: Sequence[Bar],
        *,
        title: str,
        reference: float | None = None,
        reference_label: str = "",
    ) -> None:
        """Add horizontal bars over [0, 1], each with its interval as a whisker.

        Args:
            bars: From top to bottom.
            title: Caption of the figure.
            reference: Place of a thin vertical line across all bars, such as chance, in [0, 1].
            reference_label: Label of that line.
        """
        line = label = ""
        if reference is not None:
            line = f'<i class="reference" style="left:{_percent(reference)}"></i>'
            words = escape(f"{reference_label} {reference:.2f}".strip())
            shift = f"left:{_percent(reference)};transform:translateX(-{_percent(reference)})"
            label = f'<li class="over"><div><span style="{shift}">{words}</span></div></li>'
        rows = "".join(_bar_row(bar, line) for bar in bars)
        axis = '<li class="axis"><div><span>0</span><span>0.5</span><span>1</span></div></li>'
        self._figure(title, f'<ul class="bars">{label}{rows}{axis}</ul>' if bars else "")

    def intervals(
        self, intervals: Sequence[Interval], *, title: str, reference: float = 0, note: str = ""
    ) -> None:
        """Add estimates with intervals over a common axis, which has a line at ``reference``.

        Args:
            intervals: From top to bottom.
            title: Caption of the figure.
            reference: Value of no effect, always on the axis; if it is 0, values have signs.
            note: A sentence below.
        """
        if not intervals:
            self._figure(title, "")
            return
        axis = _Axis.over(intervals, reference)
        line = f'<i class="reference" style="left:{_percent(axis.share(reference))}"></i>'
        rows = "".join(_interval_row(each, axis, line) for each in intervals)
        ticks = ""
        for tick in axis.ticks:
            share = _percent(axis.share(tick))
            ticks += f'<span style="left:{share};transform:translateX(-{share})">{tick:g}</span>'
        rows += f'<li class="axis ticks"><div>{ticks}</div></li>'
        self._figure(title, f'<ul class="bars forest">{rows}</ul>{_words("p", note, "note")}')

    def matrix(self, rows: Mapping[str, Mapping[str, Bar]], *, title: str, corner: str) -> None:
        """Add a table of shares, tinted by their distance from a half.

        Args:
            rows: Bars by row and column, which have the same names; a cell without one is a dash.
            title: Caption of the figure.
            corner: Reading of a cell, above the names of the rows.
        """
        used = {name for row in rows.values() for name in row}
        columns = [name for name in rows if name in used]
        head = "".join(f'<th scope="col">{_words("div", name)}</th>' for name in columns)
        body = ""
        for name, row in rows.items():
            cells = "".join(_share_cell(row.get(column)) for column in columns)
            body += f'<tr><th scope="row">{_words("div", name)}</th>{cells}</tr>'
        head = f'<tr><th scope="col">{_words("div", corner)}</th>{head}</tr>'
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        frame = f'<div class="table matrix" tabindex="0">{table}</div>'
        self._figure(title, frame if columns else "")

    def curve(
        self,
        series: Mapping[str, charts.Line],
        *,
        title: str,
        x: str,
        y: str,
        note: str = "",
        smooth: int = 1,
        wide: bool = False,
    ) -> None:
        """Add a line chart, whose first and last values are its text for those who cannot see it.

        Args:
            series: Lines by name; a line without a name is not in the legend.
            title: Caption of the figure.
            x: Label of the x axis with its unit.
            y: Label of the y axis with its unit.
            note: A sentence below the chart.
            smooth: Points of a running mean, see `charts.line_chart`.
            wide: Over the whole width of the page, except on a phone.
        """
        if not any(series.values()):
            self._figure(title, "")
            return
        keys = "".join(
            f'<li style="--key:{charts.series_colour(i)}">{_words("span", name)}</li>'
            for i, name in enumerate(series)
            if name
        )
        lines, salt = list(series.values()), str(len(self._blocks))
        ends = "; ".join(filter(None, (_ends(*item) for item in series.items())))
        chart = _words("small", y)
        for is_wide in (True, False) if wide else (False,):  # a phone shows the last one
            svg = charts.line_chart(lines, salt=f"{salt}{is_wide}", smooth=smooth, wide=is_wide)
            words = f'role="img" aria-label="{escape(f"{title}: {ends}")}"'
            chart += svg.replace("<svg", f"<svg {words}", 1)
        chart += _words("small", x, "x")
        legend = f'<ul class="keys">{keys}</ul>' if keys else ""
        css = "curve wide" if wide else "curve"
        body = f'<div class="{css}">{chart}</div>{legend}{_words("p", note, "note")}'
        self._figure(title, body)

    def gallery(self, cards: Sequence[Card], *, compact: bool = False) -> None:
        """Add cards in a grid with as many columns as fit.

        Args:
            cards: In reading order.
            compact: In smaller columns, also where a card has several media.
        """
        is_wide = not compact and any(len(card.media) > 1 for card in cards)
        css = " compact" if compact else " wide" if is_wide else ""
        grid = f'<div class="gallery{css}">{"".join(map(_card, cards))}</div>'
        self._blocks.append(grid if cards else _EMPTY)

    def html(self) -> str:
        """Render the page; characters that UTF-8 cannot encode become question marks."""
        policy = f"default-src 'none'; img-src {self._images}; style-src 'unsafe-inline'"
        page = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{escape(self._title)}</title><style>{_style()}'
            f"</style></head><body><main>{''.join(self._blocks)}</section></main></body></html>\n"
        )
        return page.encode(errors="replace").decode()

    def write(self, path: Path) -> None:
        """Write the page as a whole.

        Raises:
            DataError: The file cannot be written; an older one stays as it was.
        """
        write_bytes(path, self.html().encode())

    def _figure(self, title: str, body: str) -> None:
        caption = _words("figcaption", title)
        self._blocks.append(f'<figure class="panel">{caption}{body or _EMPTY}</figure>')


def _ends(name: str, line: charts.Line) -> str:
    """First and last value of a line in words; empty without any."""
    known = [(x, y) for x, y in line if math.isfinite(y)]
    if not known:
        return ""
    (first_x, first), (last_x, last) = known[0], known[-1]
    return f"{name} {first:.4g} at {first_x:g}, {last:.4g} at {last_x:g}".strip()


@cache
def _style() -> str:
    return read_text(Path(str(resources.files("unified_reward.report") / "page.css")))


def _words(tag: str, text: str, css: str = "") -> str:
    """Wrap text in an element: escaped, in its own writing direction; empty for empty text."""
    css = f' class="{css}"' if css else ""
    keys = "" if tag in ("p", "small") else _reachable(text)
    return f'<{tag}{css} dir="auto"{keys}>{escape(text)}</{tag}>' if text else ""


def _reachable(text: str) -> str:
    """Attribute of a box that may have to be scrolled to read this text, also with keys."""
    return ' tabindex="0"' if len(text) > _LONG else ""


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0), 1):.4g}%"


def _cell(value: str | float | Interval | None) -> str:
    if isinstance(value, str):
        return f"<td>{_words('div', value)}</td>"
    if isinstance(value, Interval):
        return _interval_cell(value)
    if value is None or not math.isfinite(value):
        return f'<td class="number">{DASH}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    digits = ",.3f" if value == 0 or 1e-3 <= abs(value) < 1e6 else ".3g"
    return f'<td class="number">{value:{digits}}</td>'


def _interval_cell(each: Interval) -> str:
    if each.value is None or each.low is None or each.high is None:
        return _cell(each.value)
    digits = f".{decimals_of(each.high - each.low)}f"
    interval = f"<small>{each.low:{digits}} to {each.high:{digits}}</small>"
    return f'<td class="number">{each.value:{digits}} {interval}</td>'


def _bar_row(bar: Bar, line: str) -> str:
    fill = whisker = interval = ""
    if bar.value is not None:
        fill = f'<i class="fill" style="width:{_percent(bar.value)}"></i>'
    if bar.low is not None and bar.high is not None:
        place = f"left:{_percent(bar.low)};right:{_percent(1 - bar.high)}"
        whisker = f'<i class="whisker" style="{place}"></i>'
        interval = f"{bar.low:.2f}{DASH}{bar.high:.2f}"
    value = DASH if bar.value is None else f"{bar.value:.2f}"
    figures = f"<b>{value}</b><small>{interval}</small><small>n&nbsp;=&nbsp;{bar.n:,}</small>"
    label = _words("span", bar.label or DASH, "label")
    return f'<li>{label}<div class="track">{fill}{line}{whisker}</div>{figures}</li>'


class _Axis(NamedTuple):
    """An axis of round ticks; its ends are the first and the last of them."""

    ticks: Sequence[float]
    decimals: int
    """Decimals of values, see `decimals_of`."""
    sign: str
    """``+`` if values are written with their sign."""

    @classmethod
    def over(cls, intervals: Sequence[Interval], reference: float) -> _Axis:
        """Cover all intervals and the reference."""
        ends = [reference]
        for each in intervals:
            ends += [end for end in (each.value, each.low, each.high) if end is not None]
        low, high = min(ends), max(ends)
        width = high - low or abs(high) or 1.0
        raw = width / 3
        power = 10.0 ** math.floor(math.log10(raw))
        step = power * next(k for k in (1, 2, 2.5, 5, 10) if k * power >= raw * (1 - 1e-9))
        first, last = math.floor(low / step), math.ceil(high / step)
        if first == last:
            first, last = first - 1, last + 1
        widths = [
            each.high - each.low
            for each in intervals
            if each.low is not None and each.high is not None and each.high > each.low
        ]
        ticks = [k * step for k in range(first, last + 1)]
        return cls(ticks, decimals_of(min(widths, default=width)), "" if reference else "+")

    def share(self, value: float) -> float:
        """Place of a value on the axis, in [0, 1]."""
        return (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0])


def decimals_of(width: float) -> int:
    """Decimals with which an interval of this width spans 20 steps or more, in [0, 6].

    >>> decimals_of(0.44), decimals_of(1.1), decimals_of(30)
    (2, 2, 0)
    """
    return min(max(math.ceil(-math.log10(width / 20)), 0), 6) if width > 0 else 2


def _interval_row(each: Interval, axis: _Axis, line: str) -> str:
    whisker = dot = interval = ""
    value, digits = DASH, f"{axis.sign}.{axis.decimals}f"
    if each.low is not None and each.high is not None:
        low, high = axis.share(each.low), axis.share(each.high)
        whisker = f'<i class="whisker" style="left:{_percent(low)};right:{_percent(1 - high)}"></i>'
        interval = f"{each.low:{digits}} to {each.high:{digits}}"
    if each.value is not None:
        dot = f'<i class="dot" style="left:{_percent(axis.share(each.value))}"></i>'
        value = f"{each.value:{digits}}"
    n = "" if each.n is None else f"n&nbsp;=&nbsp;{each.n:,}"
    figures = f"<b>{value}</b><small>{interval}</small><small>{n}</small>"
    label = f"{_words('span', each.label or DASH)}{_words('em', each.mark)}"
    label = f'<div class="label">{label}</div>'
    return f'<li>{label}<div class="track">{line}{whisker}{dot}</div>{figures}</li>'


def _share_cell(bar: Bar | None) -> str:
    if bar is None or bar.value is None:
        return f"<td>{DASH}</td>"
    interval = ""
    if bar.low is not None and bar.high is not None:
        interval = f"<small>{bar.low:.2f}{DASH}{bar.high:.2f}</small>"
    colour = "--accent" if bar.value > 0.5 else "--series-1"
    tint = f"background:color-mix(in srgb,var({colour}) {64 * abs(bar.value - 0.5):.0f}%,#0000)"
    return f'<td style="{tint}"><b>{bar.value:.2f}</b>{interval}</td>'


def _card(card: Card) -> str:
    compared = len(card.media) == 2 and isinstance(card.verdict, Preferred)
    names = ("first", "second") if compared else [""] * len(card.media)
    figures = ""
    for medium, name in zip(card.media, names, strict=True):
        figures += f"<figure>{_medium(medium, card.title)}{_words('figcaption', name)}</figure>"
    stage = f'<div class="stage">{figures}</div>' if figures else ""
    words = "".join(_words("p", line) for line in card.lines)
    keys = _reachable("".join(card.lines))
    lines = f'<div class="lines"{keys}>{words}</div>' if words else ""
    head = _words("span", card.mark, "mark") + _words("h3", card.title)
    return f'<article class="card">{stage}{head}{lines}{_verdict(card.verdict)}</article>'


def _medium(medium: PILImage | Animation, title: str) -> str:
    is_animation = isinstance(medium, Animation)
    images = map(PIL.Image.fromarray, medium.pixels) if is_animation else [media.open_image(medium)]
    frames = [media.fit_pixels(image, EMBEDDED_PIXELS) for image in images]
    if is_animation:
        webp = media.encode_webp(np.stack([np.asarray(frame) for frame in frames]), medium.fps)
        url = "data:image/webp;base64," + base64.b64encode(webp).decode()
    else:
        url = media.data_url(frames[0])
    factor = ENLARGED_PX // max(frames[0].size)
    crisp = f' class="crisp" width="{frames[0].width * factor}"' if factor > 1 else ""
    return f'<img{crisp} src="{url}" alt="{escape(title[:200])}">'


def _verdict(verdict: Verdict | None) -> str:
    match verdict:
        case None:
            return ""
        case Scored(score, aspects):
            named = ([("score", score)] if score else []) + list(aspects.items())
            inside = "".join(_gauge(name, value) for name, value in named)
        case Preferred():
            inside = _preference(verdict)
        case Unparsed(reason):
            inside = _unknown("unreadable answer", reason)
        case Failed(reason):
            inside = _unknown("not asked", reason)
    return f'<div class="verdict">{inside}</div>'


def _unknown(gist: str, reason: str) -> str:
    words = f"<b>{gist}</b>{_words('p', reason)}"
    return f'<div class="unknown"{_reachable(reason)}>{words}</div>'


def _gauge(name: str, score: Score) -> str:
    """Draw a score on its scale, with a band of one standard deviation to each side."""
    spread = f" ± {score.sigma:.2g}" if score.sigma is not None else ""
    value = f"<span><b>{score.value:.4g}</b>{spread}</span>"
    header = f'<div class="says">{_words("span", name)}{value}</div>'
    low, high, share = score.scale.low, score.scale.high, score.normalized
    if low is None or high is None or share is None:
        return header
    reach = (score.sigma or 0) / (high - low)
    place = f"left:{_percent(share - reach)};right:{_percent(1 - share - reach)}"
    dot = f'<i class="dot" style="left:{_percent(share)}"></i>'
    track = f'<div class="track"><i class="band" style="{place}"></i>{dot}</div>'
    return f'{header}<div class="gauge"><small>{low:g}</small>{track}<small>{high:g}</small></div>'


def _preference(verdict: Preferred) -> str:
    """Draw three shares of one bar, the most probable in bold, and whether the orders agree."""
    parts = keys = ""
    shares = {"first": verdict.p_first, "tie": verdict.p_tie, "second": verdict.p_second}
    for name, share in shares.items():
        tag = "b" if name == verdict.winner else "span"
        parts += f'<i class="{name}" style="flex-grow:{share:.4f}"></i>'
        keys += f"<{tag}>{name} {share:.0%}</{tag}>"
    agreement = {None: "", True: "both orders agree", False: "orders disagree"}[verdict.consistent]
    outcomes = f'<div class="shares">{parts}</div><div class="outcomes">{keys}</div>'
    return outcomes + _words("small", agreement)
