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
from unified_reward.media import Picture, Pixels
from unified_reward.types import DataError, Failed, Preferred, Score, Scored, Unparsed, Verdict


DASH = "\N{EN DASH}"
EMBEDDED_PIXELS = 512 * 512
"""Larger pictures and frames are embedded at this size, so that a page stays a few megabytes."""
ENLARGED_PX = 200
"""Side up to which small pictures are enlarged, by whole factors so that pixels stay square."""


@dataclass(frozen=True, eq=False)
class Moving:
    """A clip as it is shown: every frame, at its speed."""

    pixels: Pixels
    """RGB, shape (T, H, W, 3), T >= 1."""
    fps: float


@dataclass(frozen=True)
class Card:
    """One thing to look at: pictures or clips, words about them, and what was said of them."""

    media: Sequence[Picture | Moving]
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
        for side in (self.value, self.low, self.high):
            if side is not None and not 0 <= side <= 1:
                raise DataError(
                    f"the bar {self.label!r} needs value, low and high in [0, 1] or None, "
                    f"not {self.value}, {self.low}, {self.high}"
                )


class Page:
    """A page that grows from top to bottom.

    >>> page = Page("Results", lead="Everything was measured on held-out items.")
    >>> page.section("Accuracy")
    >>> page.table(["task", "accuracy"], [["images", 0.75], ["videos", None]])
    >>> "<td class=\\"number\\">0.750</td>" in page.html()
    True
    """

    def __init__(self, title: str, *, lead: str = "") -> None:
        self._title = title
        self._blocks = [
            f"<header>{_words('h1', title)}{_words('p', lead, 'lead')}</header><section>"
        ]

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
        numeric = [
            any(not isinstance(row[j], str) for row in rows)
            and not any(isinstance(row[j], str) for row in rows)
            for j in range(len(header))
        ]
        head = "".join(
            f'<th scope="col"{" class=number" if right else ""}>{_words("div", name)}</th>'
            for name, right in zip(header, numeric, strict=True)
        )
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

        Args:
            bars: From top to bottom.
            title: What is measured.
            reference: Where to draw a thin vertical line across all bars, such as chance.
            reference_label: What the line means.
        """
        line = label = ""
        if reference is not None:
            line = f'<i class="reference" style="left:{_percent(reference)}"></i>'
            words = escape(f"{reference_label} {reference:.2f}".strip())
            shift = f"left:{_percent(reference)};transform:translateX(-{_percent(reference)})"
            label = f'<li class="over"><div><span style="{shift}">{words}</span></div></li>'
        rows = "".join(_bar_row(bar, line) for bar in bars)
        ticks = "".join(f"<span>{tick}</span>" for tick in ("0", "0.5", "1"))
        axis = f'<li class="axis" aria-hidden="true"><div>{ticks}</div></li>'
        self._figure(title, f'<ul class="bars">{label}{rows}{axis}</ul>' if bars else "")

    def curve(
        self, series: Mapping[str, Sequence[tuple[float, float]]], *, title: str, x: str, y: str
    ) -> None:
        """Add a line chart.

        Args:
            series: Points (x, y) of each line by its name; a point that is not finite is a gap.
            title: What is shown.
            x: Name and unit of the horizontal axis.
            y: Name and unit of the vertical axis.
        """
        if not any(series.values()):
            self._figure(title, "")
            return
        keys = "".join(
            f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path d="M0 4H24" style="stroke:'
            f'{_colour(i)};stroke-dasharray:{_DASHES[i // 4 % 3]}"/></svg>{_words("span", name)}</li>'
            for i, name in enumerate(series)
        )
        drawing = _line_chart(list(series.values()), x, y, salt=str(len(self._blocks)))
        drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
        self._figure(title, f'<div class="curve">{drawing}</div><ul class="keys">{keys}</ul>')

    def gallery(self, cards: Sequence[Card]) -> None:
        """Add cards in a grid with as many columns as fit."""
        if not cards:
            self._blocks.append(_EMPTY)
            return
        wide = " wide" if any(len(card.media) > 1 for card in cards) else ""
        self._blocks.append(f'<div class="gallery{wide}">{"".join(map(_card, cards))}</div>')

    def html(self) -> str:
        """The whole page. Characters no file can hold (lone surrogates) become question marks."""
        page = (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta name="color-scheme" content="light dark">'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
            f'<link rel="icon" href="data:,"><title>{escape(self._title)}</title>'
            f"<style>{_STYLE}</style></head><body><main>{''.join(self._blocks)}</section>"
            "</main></body></html>\n"
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
    plain = value == 0 or 1e-3 <= abs(value) < 1e6
    return (
        f'<td class="number">{value:,.3f}</td>' if plain else f'<td class="number">{value:.3g}</td>'
    )


def _bar_row(bar: Bar, line: str) -> str:
    fill = whisker = interval = ""
    if bar.value is not None:
        fill = f'<i class="fill" style="width:{_percent(bar.value)}"></i>'
    if bar.low is not None and bar.high is not None:
        place = f"left:{_percent(bar.low)};right:{_percent(1 - bar.high)}"
        whisker = f'<i class="whisker" style="{place}"></i>'
        interval = f"{bar.low:.2f}{DASH}{bar.high:.2f}"
    value = DASH if bar.value is None else f"{bar.value:.2f}"
    return (
        f'<li>{_words("span", bar.label, "label")}<div class="track">{fill}{line}{whisker}</div>'
        f"<b>{value}</b><small>{interval}</small><small>n&nbsp;=&nbsp;{bar.n:,}</small></li>"
    )


_EMPTY = '<p class="empty">Nothing to show.</p>'
_DASHES = ("none", "5 3", "1.5 2.5")
_INK, _LINE = "#010203", "#010204"


def _colour(i: int) -> str:
    return f"var(--series-{i % 4})"


def _line_chart(
    lines: Sequence[Sequence[tuple[float, float]]], x: str, y: str, *, salt: str
) -> str:
    """Inline SVG whose colours are the page's own, so that it follows light and dark."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure = Figure(figsize=(6.2, 3.3), layout="constrained", facecolor="none")
        axes = figure.add_subplot(facecolor="none")
        for i, line in enumerate(lines):
            points = np.asarray(line, dtype=float).reshape(-1, 2)
            points[~np.isfinite(points)] = np.nan
            marker = "o" if len(points) <= 16 else None
            dash = _DASHES[i // 4 % 3]
            pattern = (0, tuple(map(float, dash.split()))) if " " in dash else "-"
            colour = f"#01030{i % 4}"
            axes.plot(*points.T, color=colour, ls=pattern, lw=2, marker=marker, ms=4)
        axes.set_xlabel(x, color=_INK, parse_math=False)
        axes.set_ylabel(y, color=_INK, parse_math=False)
        axes.tick_params(length=0, labelcolor=_INK, pad=6)
        axes.grid(axis="y", color=_LINE, lw=0.8)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_LINE)
        drawn = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(drawn, format="svg", metadata=nothing)
    svg = drawn.getvalue()
    svg = re.sub(r' (?:id="[\w.]+_\d+"|xmlns(?::\w+)?="[^"]*")', "", svg[svg.index("<svg") :])
    colours = {_INK: "var(--muted)", _LINE: "var(--line)"}
    colours |= {f"#01030{i}": _colour(i) for i in range(4)}
    for placeholder, colour in colours.items():
        svg = svg.replace(placeholder, colour)
    return svg


def _card(card: Card) -> str:
    compared = len(card.media) == 2 and isinstance(card.verdict, Preferred)
    names = ("first", "second") if compared else ("",) * len(card.media)
    shown = "".join(
        f"<figure>{_medium(medium, card.title)}{_words('figcaption', name)}</figure>"
        for medium, name in zip(card.media, names, strict=True)
    )
    stage = f'<div class="stage">{shown}</div>' if shown else ""
    words = "".join(_words("p", line) for line in card.lines)
    lines = f'<div class="lines">{words}</div>' if words else ""
    mark = _words("span", card.mark, "mark")
    return (
        f'<article class="card">{stage}{mark}{_words("h3", card.title)}{lines}'
        f"{_verdict(card.verdict)}</article>"
    )


def _medium(medium: Picture | Moving, title: str) -> str:
    if isinstance(medium, Moving):
        frames = [_fitted(PIL.Image.fromarray(frame)) for frame in medium.pixels]
        clip = media.encode_webp_clip(np.stack([np.asarray(frame) for frame in frames]), medium.fps)
        width, height = frames[0].size
        url = "data:image/webp;base64," + base64.b64encode(clip).decode()
    else:
        picture = _fitted(media.open_image(medium))
        width, height = picture.size
        url = media.data_url(picture)
    factor = max(1, ENLARGED_PX // max(width, height))
    crisp = ' class="crisp"' if factor > 1 else ""
    size = f'width="{width * factor}" height="{height * factor}"'
    return f'<img{crisp} src="{url}" {size} alt="{escape(title[:200])}">'


def _fitted(picture: Picture) -> Picture:
    return media.fit_pixels(picture, EMBEDDED_PIXELS)


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
            inside = f'<p class="unknown"><b>unreadable answer</b>{_words("span", reason)}</p>'
        case Failed(error):
            inside = f'<p class="unknown"><b>not asked</b>{_words("span", error)}</p>'
    return f'<div class="verdict">{inside}</div>'


def _gauge(name: str, score: Score) -> str:
    """A score on its scale, with one standard deviation to each side as a band."""
    spread = f" ± {score.sigma:.2g}" if score.sigma is not None else ""
    head = f"{_words('span', name)}<span><b>{score.value:.4g}</b>{spread}</span>"
    low, high, share = score.scale.low, score.scale.high, score.normalized
    if low is None or high is None or share is None:
        return f'<div class="says">{head}</div>'
    reach = (score.sigma or 0) / (high - low)
    place = f"left:{_percent(share - reach)};right:{_percent(1 - share - reach)}"
    return (
        f'<div class="says">{head}</div><div class="gauge"><small>{low:g}</small>'
        f'<div class="track"><i class="band" style="{place}"></i>'
        f'<i class="dot" style="left:{_percent(share)}"></i></div><small>{high:g}</small></div>'
    )


def _preference(verdict: Preferred) -> str:
    """Three shares of one bar, the most probable one in bold, and what each order said."""
    shares = {"first": verdict.p_first, "tie": verdict.p_tie, "second": verdict.p_second}
    parts = "".join(
        f'<i class="{name}" style="flex-grow:{share:.4f}"></i>' for name, share in shares.items()
    )
    keys = "".join(
        f'<span class="{name}{" winner" if name == verdict.winner else ""}">{name} {share:.0%}</span>'
        for name, share in shares.items()
    )
    aspects = "".join(
        f'<div class="says">{_words("span", name)}<span>first <b>{share:.0%}</b></span></div>'
        for name, share in verdict.aspects.items()
    )
    agreement = {None: "", True: "both orders agree", False: "orders disagree"}[verdict.consistent]
    return (
        f'<div class="shares">{parts}</div><div class="outcomes">{keys}</div>{aspects}'
        f"{_words('small', agreement)}"
    )


_STYLE = """
:root{--bg:#fafafb;--panel:#fff;--ink:#17181c;--muted:#63656e;--line:#e6e7eb;--track:#eeeff2;
--accent:#3d5afe;--soft:#e9edff;--other:#8b90a0;
--series-0:var(--accent);--series-1:#d9480f;--series-2:#0b8a6a;--series-3:#8a4fd0}
@media (prefers-color-scheme:dark){:root{--bg:#0e0f12;--panel:#17191e;--ink:#f1f2f5;
--muted:#9ea1ad;--line:#2a2d35;--track:#262931;--accent:#8c9eff;--soft:#232a4d;--other:#6d7282;
--series-1:#ff9f68;--series-2:#4fcfa9;--series-3:#c79bff}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);-webkit-text-size-adjust:100%;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif}
main{max-width:1200px;margin:auto;padding:clamp(40px,8vw,104px) clamp(16px,4vw,48px)}
h1,h2,h3,p,ul,figure{margin:0;padding:0}
h1,h2,h3,p,figcaption,li,.lead,td div,th div{overflow-wrap:anywhere}
h1{font-size:clamp(2rem,5vw,3.25rem);line-height:1.1;letter-spacing:-.028em;font-weight:650;
max-height:4.5em;overflow:auto}
h2{font-size:clamp(1.4rem,3vw,1.8rem);line-height:1.2;letter-spacing:-.018em;font-weight:620;
max-height:5em;overflow:auto}
small{font-size:.8125rem;color:var(--muted)}
.lead{margin-top:20px;max-width:44em;font-size:clamp(1.05rem,2vw,1.25rem);color:var(--muted)}
.note{margin-top:8px;max-width:46em;color:var(--muted)}
.text{max-width:46em}.lead,.note,.text{white-space:pre-line}
section{display:flex;flex-wrap:wrap;gap:24px;margin-top:clamp(56px,8vw,88px)}
header+section{margin-top:clamp(28px,4vw,44px)}header+section:empty{display:none}
section>*{flex:1 1 100%;min-width:0}section>h2+.note{margin-top:-14px}
section>figure.panel{flex:1 1 440px;max-width:100%}
.panel,.card{background:var(--panel);border:1px solid var(--line);border-radius:20px}
figure.panel{padding:clamp(18px,3vw,28px);container-type:inline-size}
.panel>figcaption{font-weight:600;margin-bottom:18px;max-height:6em;overflow:auto}
.empty{color:var(--muted)}
.table{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-size:.9375rem}
th,td{padding:13px clamp(12px,2vw,24px);text-align:start;vertical-align:top}
th{font-size:.8125rem;font-weight:500;color:var(--muted)}
tbody tr{border-top:1px solid var(--line)}
td div,th div{min-width:min-content;max-width:48ch;max-height:8em;overflow:auto;
overflow-wrap:break-word}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
th.number div{margin-left:auto;width:fit-content}
i{display:block}
ul{list-style:none}
.bars{display:grid;grid-template-columns:fit-content(34%) 1fr auto auto auto;column-gap:14px;
font-variant-numeric:tabular-nums}
.bars li{display:grid;grid-template-columns:subgrid;grid-column:1/-1;align-items:center;
padding:9px 0}
.bars .label{max-height:4.7em;overflow:auto}
.bars b{font-weight:620}
.bars .axis,.bars .over{padding:0}
.axis div,.over div{grid-column:2;display:flex;justify-content:space-between;color:var(--muted);
font-size:.75rem}
.over span{position:relative;white-space:nowrap}
.track{position:relative;height:10px;border-radius:5px;background:var(--track)}
.track i{position:absolute}
.fill{inset:0 auto 0 0;border-radius:5px;background:var(--accent)}
.reference{top:-16px;bottom:-16px;width:0;border-left:1.5px dashed var(--muted)}
.whisker{top:50%;height:1.5px;margin-top:-.75px;background:var(--ink)}
.whisker:before,.whisker:after{content:"";position:absolute;top:-5px;height:11.5px;width:1.5px;
background:var(--ink)}
.whisker:before{left:0}.whisker:after{right:0}
@container (max-width:560px){.bars{grid-template-columns:1fr auto auto auto;column-gap:10px}
.bars li{row-gap:4px;padding:10px 0}.bars .label{grid-column:1}
.bars .track{grid-column:1/-1;grid-row:2}
.axis div,.over div{grid-column:1/-1}}
.curve svg{display:block;width:100%;height:auto;max-width:720px;margin:auto;overflow:visible}
.curve text{font-family:inherit!important}
.keys{display:flex;flex-wrap:wrap;gap:6px 22px;margin-top:16px;font-size:.875rem;
color:var(--muted);justify-content:center}
.keys li{display:flex;gap:8px;align-items:center}
.keys svg{flex:none;width:24px;height:8px;fill:none;stroke-width:2.2}
.gallery{display:grid;gap:24px;grid-template-columns:repeat(auto-fill,minmax(min(100%,256px),1fr))}
.gallery.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
.card{position:relative;display:flex;flex-direction:column;gap:10px;padding:20px;min-width:0;
overflow:hidden}
.stage{display:flex;gap:12px;justify-content:center;align-items:center;margin:-20px -20px 6px;
padding:20px;background:var(--track);flex:none;min-height:240px}
.stage figure{flex:0 1 auto;min-width:0;text-align:center}
.stage figcaption{margin-top:8px;font-size:.8125rem;color:var(--muted)}
img{display:block;margin:auto;max-width:100%;height:auto;max-height:340px;object-fit:contain;
border-radius:8px}
.crisp{image-rendering:pixelated;border-radius:4px}
.mark{position:absolute;top:12px;right:12px;max-width:70%;padding:2px 11px;border-radius:99px;
overflow:hidden;text-overflow:ellipsis;white-space:nowrap;font-size:.8125rem;font-weight:550;
background:var(--soft);color:var(--accent)}
h3{font-size:1rem;line-height:1.4;font-weight:600;max-height:4.2em;overflow:auto}
.lines{font-size:.9375rem;color:var(--muted);max-height:9.3em;overflow:auto}
.verdict{margin-top:auto;padding-top:6px;display:grid;gap:8px;font-size:.875rem;
font-variant-numeric:tabular-nums}
.says{display:flex;justify-content:space-between;gap:12px;color:var(--muted)}
.says b{color:var(--ink);font-size:1.05em;font-weight:620}
.gauge{display:flex;gap:10px;align-items:center}.gauge .track{flex:1;height:8px}
.band{top:0;bottom:0;background:var(--accent);opacity:.35;border-radius:4px}
.dot{top:50%;width:14px;height:14px;margin:-7px;border-radius:50%;background:var(--accent);
border:2.5px solid var(--panel)}
.shares{display:flex;gap:2px;height:10px;border-radius:5px;overflow:hidden;background:var(--panel)}
.shares i{flex:0 1 0}
.shares .first{background:var(--accent)}.shares .tie{background:var(--line)}
.shares .second{background:var(--other)}
.outcomes{display:flex;justify-content:space-between;color:var(--muted)}
.winner{color:var(--ink);font-weight:620}
.unknown{display:grid;gap:2px;padding:10px 14px;border-radius:12px;background:var(--track);
color:var(--muted);max-height:8em;overflow:auto}
.unknown b{color:var(--ink);font-weight:600}
"""
