"""Self-contained HTML pages for people: pictures, clips, plots, tables and verdicts.

One file, no request to anywhere, no script; light and dark, narrow and wide. Every text that comes
in is escaped. Knows neither judges nor tasks, nor where its values come from.
"""

from __future__ import annotations

import base64
import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.core.errors import DataError
from unified_reward.core.extensions import extra
from unified_reward.core.verdicts import Failed, Preferred, Score, Scored, Unparsed, Verdict
from unified_reward.media import PILImage, Pixels


DASH = "\N{EN DASH}"
EMBEDDED_PIXELS = 512 * 512
"""Larger pictures and frames are embedded at this size, so that a page stays a few megabytes."""
ENLARGED_PX = 200
"""Side up to which small pictures are enlarged, by whole factors so that pixels stay square."""
_EMPTY = '<p class="empty">Nothing to show.</p>'
_INK, _LINE = "#010203", "#010204"
_SERIES = ("#010300", "#010301", "#010302", "#010303")
_PAINT = {_INK: "var(--muted)", _LINE: "var(--line)"} | {
    colour: f"var(--series-{i})" for i, colour in enumerate(_SERIES)
}
"""Matplotlib takes no CSS variable, so it is given stand-ins."""


@dataclass(frozen=True, eq=False)
class Animation:
    """A clip as it is shown: every frame, at its speed."""

    pixels: Pixels
    """RGB, shape (T, H, W, 3), T >= 1."""
    fps: float


@dataclass(frozen=True)
class Card:
    """One thing to look at: pictures or clips, words about them, and what was said of them."""

    media: Sequence[PILImage | Animation]
    title: str
    lines: Sequence[str] = ()
    verdict: Verdict | None = None
    mark: str = ""
    """A word or two on a badge, such as ``chosen``."""


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] with its 95 % interval; None where nothing could be measured."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    n: int

    def __post_init__(self) -> None:
        shown = (self.value, self.low, self.high)
        if any(side is not None and not 0 <= side <= 1 for side in shown):
            raise DataError(f"the bar {self.label!r} takes shares in [0, 1] or None, not {shown}")


class Page:
    """A page that grows from top to bottom.

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

    def section(self, heading: str, note: str = "") -> None:
        """Start a new part of the page."""
        head = _words("h2", heading) + _words("p", note, "note")
        self._blocks.append(f"</section><section>{head}")

    def text(self, paragraph: str) -> None:
        """Add a paragraph; line breaks are kept."""
        self._blocks.append(_words("p", paragraph, "text"))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> None:
        """Add a table. Numbers stand right aligned; None and NaN are shown as a dash.

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
        self._blocks.append(
            f'<div class="panel table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
        )

    def bars(
        self,
        bars: Sequence[Bar],
        *,
        title: str,
        reference: float | None = None,
        reference_label: str = "",
    ) -> None:
        """Add horizontal bars over [0, 1], each with its interval as a whisker.

        ``reference`` is where a thin vertical line crosses all of them, such as chance, and
        ``reference_label`` says what it means.
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

    def curve(
        self, series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str, y: str
    ) -> None:
        """Add a line chart; a point that is not finite is a gap.

        ``series`` holds the points (x, y) of each line by its name, in the order of the points;
        ``x`` and ``y`` name the axes with their units.
        """
        if not any(series.values()):
            self._figure(title, "")
            return
        keys = "".join(
            f'<li style="--key:{_PAINT[_SERIES[i % len(_SERIES)]]}">{_words("span", name)}</li>'
            for i, name in enumerate(series)
        )
        drawing = _line_chart(list(series.values()), salt=str(len(self._blocks)))
        chart = _words("small", y) + drawing + _words("small", x, "x")
        self._figure(title, f'<div class="curve">{chart}</div><ul class="keys">{keys}</ul>')

    def gallery(self, cards: Sequence[Card]) -> None:
        """Add cards in a grid with as many columns as fit."""
        wide = " wide" if any(len(card.media) > 1 for card in cards) else ""
        grid = f'<div class="gallery{wide}">{"".join(map(_card, cards))}</div>'
        self._blocks.append(grid if cards else _EMPTY)

    def html(self) -> str:
        """The whole page. Characters no file can hold (lone surrogates) become question marks."""
        policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
        page = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="icon" href="data:,"><title>{escape(self._title)}</title><style>{_STYLE}'
            f"</style></head><body><main>{''.join(self._blocks)}</section></main></body></html>\n"
        )
        return page.encode(errors="replace").decode()

    def write(self, path: Path) -> None:
        """Write the page; a reader finds the old file or the whole new one, never a half."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(self.html(), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def _figure(self, title: str, body: str) -> None:
        caption = _words("figcaption", title)
        self._blocks.append(f'<figure class="panel">{caption}{body or _EMPTY}</figure>')


def _words(tag: str, text: str, css: str = "") -> str:
    """An element around text from outside: escaped, in its own direction; nothing for no text."""
    css = f' class="{css}"' if css else ""
    return f'<{tag}{css} dir="auto">{escape(text)}</{tag}>' if text else ""


def _percent(share: float) -> str:
    return f"{100 * min(max(share, 0), 1):.4g}%"


def _cell(value: str | float | None) -> str:
    if isinstance(value, str):
        return f"<td>{_words('div', value)}</td>"
    if value is None or math.isnan(value):
        return f'<td class="number">{DASH}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value:,}</td>'
    digits = ",.3f" if value == 0 or 1e-3 <= abs(value) < 1e6 else ".3g"
    return f'<td class="number">{value:{digits}}</td>'


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


def _line_chart(lines: Sequence[Sequence[tuple[float, float]]], *, salt: str) -> str:
    """Inline SVG without words, in the colours of the page so that it follows light and dark."""
    with extra("report"):
        import matplotlib as mpl
        from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt, "font.size": 10}):
        figure = Figure(figsize=(5.2, 2.9), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        for i, line in enumerate(lines):
            points = np.asarray(line, dtype=float).reshape(-1, 2)
            points[~np.isfinite(points)] = np.nan
            marker = "o" if len(points) <= 16 else None
            axes.plot(*points.T, color=_SERIES[i % len(_SERIES)], lw=2, marker=marker, ms=5)
        axes.tick_params(length=0, labelcolor=_INK, pad=6)
        axes.grid(axis="y", color=_LINE, lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing)
    svg = drawn.getvalue()
    # The ids repeat from chart to chart and the namespaces are addresses: a page needs neither.
    svg = re.sub(r' (?:id="[\w.]+_\d+"|xmlns(?::\w+)?="[^"]*")', "", svg[svg.index("<svg") :])
    for colour, variable in _PAINT.items():
        svg = svg.replace(colour, variable)
    return svg


def _card(card: Card) -> str:
    compared = len(card.media) == 2 and isinstance(card.verdict, Preferred)
    names = ("first", "second") if compared else [""] * len(card.media)
    shown = ""
    for one, name in zip(card.media, names, strict=True):
        shown += f"<figure>{_medium(one, card.title)}{_words('figcaption', name)}</figure>"
    stage = f'<div class="stage">{shown}</div>' if shown else ""
    words = "".join(_words("p", line) for line in card.lines)
    lines = f'<div class="lines">{words}</div>' if words else ""
    head = _words("span", card.mark, "mark") + _words("h3", card.title)
    return f'<article class="card">{stage}{head}{lines}{_verdict(card.verdict)}</article>'


def _medium(medium: PILImage | Animation, title: str) -> str:
    moving = isinstance(medium, Animation)
    given = map(PIL.Image.fromarray, medium.pixels) if moving else [media.open_image(medium)]
    frames = [media.fit_pixels(frame, EMBEDDED_PIXELS) for frame in given]
    if moving:
        clip = media.encode_webp(np.stack([np.asarray(one) for one in frames]), medium.fps)
        url = "data:image/webp;base64," + base64.b64encode(clip).decode()
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
            inside = "".join(_gauge(name, one) for name, one in named)
        case Preferred():
            inside = _preference(verdict)
        case Unparsed(reason):
            inside = f'<div class="unknown"><b>unreadable answer</b>{_words("p", reason)}</div>'
        case Failed(error):
            inside = f'<div class="unknown"><b>not asked</b>{_words("p", error)}</div>'
    return f'<div class="verdict">{inside}</div>'


def _gauge(name: str, score: Score) -> str:
    """A score on its scale, with one standard deviation to each side as a band."""
    spread = f" ± {score.sigma:.2g}" if score.sigma is not None else ""
    value = f"<span><b>{score.value:.4g}</b>{spread}</span>"
    says = f'<div class="says">{_words("span", name)}{value}</div>'
    low, high, share = score.scale.low, score.scale.high, score.normalized
    if low is None or high is None or share is None:
        return says
    reach = (score.sigma or 0) / (high - low)
    place = f"left:{_percent(share - reach)};right:{_percent(1 - share - reach)}"
    dot = f'<i class="dot" style="left:{_percent(share)}"></i>'
    track = f'<div class="track"><i class="band" style="{place}"></i>{dot}</div>'
    return f'{says}<div class="gauge"><small>{low:g}</small>{track}<small>{high:g}</small></div>'


def _preference(verdict: Preferred) -> str:
    """Three shares of one bar, the most probable one in bold, and what each order said."""
    parts = keys = ""
    shares = {"first": verdict.p_first, "tie": verdict.p_tie, "second": verdict.p_second}
    for name, share in shares.items():
        tag = "b" if name == verdict.winner else "span"
        parts += f'<i class="{name}" style="flex-grow:{share:.4f}"></i>'
        keys += f"<{tag}>{name} {share:.0%}</{tag}>"
    agreement = {None: "", True: "both orders agree", False: "orders disagree"}[verdict.consistent]
    outcomes = f'<div class="shares">{parts}</div><div class="outcomes">{keys}</div>'
    return outcomes + _words("small", agreement)


_STYLE = """
:root{--bg:#fafafb;--panel:#fff;--ink:#17181c;--muted:#63656e;--line:#e6e7eb;--track:#eeeff2;
--tie:#c6cad4;--second:#545a6b;--accent:#3d5afe;--soft:#e9edff;color-scheme:light dark;
--series-0:var(--accent);--series-1:#d9480f;--series-2:#0b8a6a;--series-3:#8a4fd0}
@media(prefers-color-scheme:dark){:root{--bg:#0e0f12;--panel:#17191e;--ink:#f1f2f5;--muted:#9ea1ad;
--line:#2a2d35;--track:#262931;--tie:#474c59;--second:#c3c7d4;--accent:#8c9eff;--soft:#232a4d;
--series-1:#ff9f68;--series-2:#4fcfa9;--series-3:#c79bff}}
*{box-sizing:border-box;margin:0;padding:0;overflow-wrap:anywhere}.x{text-align:center}
body{background:var(--bg);color:var(--ink);font:16px/1.55 system-ui,-apple-system,sans-serif}
main{max-width:1200px;margin:auto;padding:clamp(40px,8vw,104px) clamp(16px,4vw,48px)}
h1,h2{line-height:1.15;letter-spacing:-.025em;font-weight:650;max-height:4.6em;overflow:auto}
h1{font-size:clamp(2rem,5vw,3.25rem)}h2{font-size:clamp(1.4rem,3vw,1.8rem)}
h3{font-size:1rem;line-height:1.4;font-weight:600;max-height:4.2em;overflow:auto}
b,figcaption{font-weight:600}small{font-size:.8125rem}i{display:block}ul{list-style:none}
.lead,.note,.text{max-width:46em;white-space:pre-line}.lead,.note,.empty,small,th,.lines,.verdict,
.stage figcaption,.axis,.over{color:var(--muted)}
.lead{margin-top:20px;font-size:clamp(1.05rem,2vw,1.25rem)}h2+.note{margin-top:-14px}
section{display:flex;flex-wrap:wrap;gap:24px;margin-top:clamp(56px,8vw,88px)}
header+section{margin-top:36px}section>*{flex:1 1 100%;min-width:0}section>figure{flex:1 1 440px}
.panel,.card{background:var(--panel);border:1px solid var(--line);border-radius:20px}
figure.panel{padding:clamp(18px,3vw,28px);container-type:inline-size}
.panel>figcaption{margin-bottom:18px;max-height:6em;overflow:auto}
.table{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9375rem}
th,td{padding:13px clamp(12px,2vw,24px);text-align:start;vertical-align:top}
th{font-size:.8125rem;font-weight:500}tbody tr{border-top:1px solid var(--line)}
td div,th div{max-width:48ch;max-height:8em;overflow:auto}td div{min-width:14ch}
.number{text-align:right;white-space:nowrap}.number div{margin-left:auto;width:max-content}
.number,.bars,.verdict{font-variant-numeric:tabular-nums}.axis,.over{font-size:.75rem}
.bars{display:grid;grid-template-columns:fit-content(34%) 1fr auto auto auto;column-gap:14px}
.bars li{display:grid;grid-template-columns:subgrid;grid-column:1/-1;align-items:center;
padding:9px 0;overflow:hidden}.bars b,.bars small{white-space:nowrap}
.label{max-height:6.2em;overflow:auto}.bars .axis,.bars .over{padding:4px 0 0}
.axis div,.over div{grid-column:2;display:flex;justify-content:space-between}
.track{position:relative;height:10px;border-radius:5px;background:var(--track)}
.track i{position:absolute}.fill{inset:0 auto 0 0;border-radius:5px;background:var(--accent)}
.reference{top:-99px;bottom:-99px;margin-left:-1px;border-left:1.5px dashed var(--muted)}
.whisker{top:50%;height:1.5px;margin-top:-.75px;background:var(--ink)}
.whisker:before,.whisker:after{content:"";position:absolute;top:-5px;height:11.5px;width:1.5px;
background:var(--ink)}.whisker:before{left:0}.whisker:after{right:0}
@container(max-width:560px){.bars{grid-template-columns:1fr auto auto auto;column-gap:10px}
.bars li{row-gap:5px}.bars .track,.bars .axis div,.over div{grid-column:1/-1}
.bars .track{grid-row:2}.reference{top:-5px}}
@container(max-width:420px){.bars{grid-template-columns:auto auto 1fr}.label{grid-column:1/-1}
.reference{bottom:-5px}}
.curve{max-width:620px;margin:auto}.curve svg{display:block;width:100%;height:auto;margin:4px 0}
.curve text{font-family:inherit!important}.curve small{display:block}
.keys{display:flex;flex-wrap:wrap;gap:6px 22px;margin-top:16px;font-size:.875rem;
justify-content:center}.keys li{display:flex;gap:8px;align-items:center}
.keys li:before{content:"";flex:none;width:18px;height:3px;border-radius:2px;background:var(--key)}
.gallery{display:grid;gap:24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,256px),1fr))}
.gallery.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
.card{display:flex;flex-direction:column;gap:10px;padding:20px;min-width:0;overflow:hidden}
.stage{display:flex;gap:12px;justify-content:center;align-items:center;margin:-20px -20px 6px;
padding:20px;background:var(--track);flex:none;min-height:240px}.stage figure{min-width:0}
.stage figcaption{margin-top:8px;font-size:.8125rem;font-weight:400;text-align:center}
img{display:block;margin:auto;max-width:100%;max-height:340px;border-radius:6px;
outline:1px solid #8882;outline-offset:-1px}.crisp{image-rendering:pixelated}
.mark{align-self:start;max-width:100%;padding:2px 11px;border-radius:12px;max-height:3.6em;
overflow:auto;font-size:.8125rem;font-weight:550;background:var(--soft);color:var(--accent)}
.lines{font-size:.9375rem;max-height:9.3em;overflow:auto}.over span{position:relative}
.verdict{margin-top:auto;padding-top:6px;display:grid;gap:8px;font-size:.875rem}
.verdict b{color:var(--ink)}.says,.outcomes{display:flex;justify-content:space-between;gap:12px}
.gauge{display:flex;gap:10px;align-items:center}.gauge .track{flex:1;height:8px}
.band{top:0;bottom:0;background:var(--accent);opacity:.35;border-radius:4px}
.dot{top:50%;width:14px;height:14px;margin:-7px;border-radius:50%;background:var(--accent);
border:2.5px solid var(--panel)}
.shares{display:flex;gap:2px;height:10px;border-radius:5px;overflow:hidden}.shares i{flex:0 1 0}
i.first{background:var(--accent)}i.tie{background:var(--tie)}i.second{background:var(--second)}
.unknown{padding:10px 14px;border-radius:12px;background:var(--track);max-height:8em;overflow:auto}
"""
