"""Parse the answers of judges, in every format the published ones use, and write numbers.

Pure functions over strings. They know nouns and number formats, not tasks or families. Unreadable
text gives ``Unparsed`` with a reason; a tie is a verdict of its own and never a fallback.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from unified_reward.core.verdicts import Scale, Score, Unparsed, Winner


_NUMBER = r"[-+]?(?:\d+(?:[.,]\d+)?|[.,]\d+)(?:[eE][-+]?\d+)?|[-+]?(?:nan|inf(?:inity)?)\b"
_NOUN = r"(?:(?:edited\s+)?(?:image|picture)|video|answer|response|clip|candidate)"
_ADVERB = (
    r"(?:(?:the|a|bit|lot|slightly|somewhat|marginally|much|far|clearly|significantly|notably"
    r"|overall|also|definitely|considerably)\s+)*"
)
_BETTER = r"(?:better|best|preferred|superior|preferable)"
_FIRST_SECOND = re.compile(
    rf"(?:\b{_NOUN}\s*#?\s*(?P<digit>[12])|\bthe\s+(?P<word>first|second)(?:\s+{_NOUN})?)"
    rf"\s+is\s+{_ADVERB}{_BETTER}\b"
    rf"|\b(?P<tie>both\s+(?:{_NOUN}s\s+)?are\s+(?:equally|similarly)\s+\w+"
    rf"|(?:it\s+is|it's|this\s+is)\s+a\s+tie\b)",
    re.IGNORECASE,
)
_LABEL = r"\b(?:overall\s+judge?ment|final\s+(?:verdict|judge?ment|answer))"
_MARKER = re.compile(rf"{_LABEL}\b|\b(?:therefore|in\s+conclusion)\b", re.IGNORECASE)
_TITLE = re.compile(rf"{_LABEL}\s*:", re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"\n]*\"|“[^”\n]*”|«[^»\n]*»")
_MARKS = re.compile(r"\*\*|__|(?<!\d)[*`]|[*`](?!\d)")
VALUE = rf"(?P<value>{_NUMBER})(?=(?P<rest>[^\n]{{0,24}}))"
"""Pattern of a number, and of what follows it in its line; for `value`."""
_RANGE_OF_LABEL = (
    r"(?:\((?:[^)\n]{0,40}?\d\s?(?:[-\u2013\u2014]|to)\s?(?P<high>\d+(?:\.\d+)?))?[^)\n]{0,80}\))?"
)
_SCORE = re.compile(
    rf"final\s+score\s*{_RANGE_OF_LABEL}\s*(?P<sign>[:=]|\bis\b)?\s*(?:{VALUE})?", re.IGNORECASE
)
_BARE = re.compile(rf"\s*{VALUE}[^\n]{{0,24}}\s*\Z", re.IGNORECASE)
_OUT_OF = re.compile(
    r"\s*\(?(?:points?|stars?)?\s*(?:/|(?:out\s+)?of\b)\s*(?P<top>\d+(?:\.\d+)?)", re.IGNORECASE
)
_RANGE = re.compile(
    r"\s*(?:[-=]+>|[-~\u2013\u2014\u2192\u2212]|to\b|or\b|and\b)\s*\d", re.IGNORECASE
)
_GOES_ON = re.compile(r"[.,'\u2019*^]\d|\s+\d|-?[a-z]", re.IGNORECASE)
"""Begins what makes another number of the one before: 1,000,000, 2*2, 3 1/2, 5k, 4th."""
_THOUSANDS = re.compile(r"[-+]?\d{1,3},\d{3}")
_POINTS = r"[-+]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?"
_OBJECT = re.compile(r'\{\s*["}]')
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}
"""Letters, digits and signs as wide as Chinese characters, and the same in ASCII."""
_VOTES = {
    "[[A>B]]": "first",
    "[[A>>B]]": "first",
    "[[B>A]]": "second",
    "[[B>>A]]": "second",
    "[[A=B]]": "tie",
    "[[A=B=Good]]": "both_good",
    "[[A=B=Bad]]": "both_bad",
}
_CHECK = re.compile(
    r"^\s*[-•]?\s*(?P<name>[^:\n]*[^:\s])\s*:\s*(?P<value>[01])(?:\.0*)?\s*$", re.MULTILINE
)


class Aspect(NamedTuple):
    """An aspect that an answer scores, such as alignment or style."""

    name: str
    scale: Scale
    label: str
    """Its spelling in an answer; read in any case, with or without "Score" and range."""


def number_text(value: float) -> str:
    """Write a number in its shortest form that reads back as the same number.

    >>> number_text(4.0), number_text(3.67)
    ('4', '3.67')
    """
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def _number(text: str) -> float:
    return float(text.replace(",", "."))


def plain(text: str) -> str:
    """Text without marks of emphasis and code, its signs of full width in ASCII."""
    return _MARKS.sub("", text.translate(_FULL_WIDTH))


def value(match: re.Match[str], scale: Scale, text: str) -> float | Unparsed:
    """Read the number of a match of `VALUE`, as a value of a scale.

    A range, a number that goes on, is out of another top or lies outside the scale is unparsed.

    Args:
        match: The match.
        scale: Range of the value.
        text: The whole answer.
    """
    digits, rest = match["value"], match["rest"]
    number, out_of = _number(digits), _OUT_OF.match(rest)
    if not math.isfinite(number):
        return Unparsed(f"score {digits} is not a number on the scale {scale}", text)
    if _RANGE.match(rest):
        return Unparsed(f"a range, {digits}{rest.strip()}, is not a score", text)
    goes_on = not out_of and (_GOES_ON.match(rest) or rest.lstrip()[:1].isnumeric())
    if goes_on or _THOUSANDS.fullmatch(digits):
        return Unparsed(f"it is unclear what number {digits}{rest.rstrip()} is", text)
    high = match.groupdict().get("high")
    top = float(high) if high else 100.0 if rest.lstrip().startswith("%") else None
    top = float(out_of["top"]) if out_of else top
    if top is not None and top != scale.high:
        return Unparsed(f"score out of {top:g}, but the scale is {scale}", text)
    if number not in scale:
        return Unparsed(f"score {number_text(number)} is outside the scale {scale}", text)
    return number


def final_part(text: str, *, uses_think_tags: bool) -> str | Unparsed:
    """Cut out the part of an answer that may hold the verdict: after reasoning, inside tags.

    Args:
        text: The whole answer.
        uses_think_tags: The family closes its verdict in ``<answer>``; elsewhere tags are optional.
    """
    if not text.strip():
        return Unparsed("the answer is empty", text)
    body = text
    if "<think>" in body or "</think>" in body:
        _, closed, body = body.rpartition("</think>")
        if not closed or "<think>" in body:
            return Unparsed("the reasoning is cut off before a verdict", text)
    _, opened, inside = body.rpartition("<answer>")
    if opened:
        body = inside.partition("</answer>")[0]
    elif uses_think_tags:
        return Unparsed("there is no <answer> after the reasoning", text)
    return body if body.strip() else Unparsed("the answer is empty", text)


def preference(text: str) -> Winner | Unparsed:
    """Read which of two candidates an answer prefers.

    The last verdict wins; one in the same line after "Overall Judgment", "Therefore" and the like
    takes precedence, and one in quotation marks counts only where there is no other. Nothing before
    the last "Overall Judgment:" counts.

    >>> preference("Image 1 is sharper, but Image 2 is better than Image 1.")
    'second'
    >>> preference("The two are hard to compare.").reason
    'no verdict in the answer'
    """
    whole = plain(text)
    for words in (_QUOTED.sub(" ", whole), whole):
        titles = [*_TITLE.finditer(words)]
        body = words[titles[-1].start() :] if titles else words
        winner = _last_winner(body)
        for marker in _MARKER.finditer(body):
            line = re.match(r"[\s:.\-]*[^\n]*", body[marker.end() :])
            winner = (_last_winner(line.group()) if line else None) or winner
        if winner:
            return winner
    return Unparsed("no verdict in the answer", text)


def bracketed_vote(text: str) -> str | Unparsed:
    """Read a verdict in double brackets, as GenAI-Bench (arXiv:2406.04485) counts it.

    ``[[A>B]]``, ``[[B>A]]``, ``[[A=B=Good]]`` or ``[[A=B=Bad]]``; also ``[[A=B]]``, a tie of
    neither kind, and ``[[A>>B]]``. The text from the first double bracket of a line to its last
    must be exactly one of them, and the first such line decides.

    >>> bracketed_vote("Both look real. [[A=B=Good]]")
    'both_good'
    >>> bracketed_vote("[[A>B]] or [[A=B=Good]]").reason
    'no verdict in double brackets in the answer'
    """
    match = re.search(r"\[\[.*\]\]", text)
    verdict = _VOTES.get(match.group()) if match else None
    return verdict or Unparsed("no verdict in double brackets in the answer", text)


def _last_winner(text: str) -> Winner | None:
    matches = [*_FIRST_SECOND.finditer(text)]
    if not matches:
        return None
    match = matches[-1]
    if match["tie"]:
        return "tie"
    return (
        "first" if match["digit"] == "1" or (match["word"] or "").lower() == "first" else "second"
    )


def score(text: str, scale: Scale, *, label: bool = True) -> float | Unparsed:
    """Read the last ``Final Score:`` of an answer, or a bare number that is all of it.

    Args:
        text: The answer, without its reasoning.
        scale: Range of the value.
        label: The label is part of the grammar; if not, the answer must be the number alone.

    >>> score("Final Score: **3.5**/5", Scale(1, 5))
    3.5
    >>> score("Final Score: 87", Scale(1, 5)).reason
    'score 87 is outside the scale 1 to 5'
    """
    whole = plain(text)
    found = _SCORE.finditer(whole) if label else ()
    labelled = [match for match in found if match["value"] or match["sign"] in (":", "=")]
    match = labelled[-1] if labelled else _BARE.match(whole)
    if match is None:
        return Unparsed("no score in the answer", text)
    if match["value"] is None:
        return Unparsed("no number after the last final score of the answer", text)
    if not labelled and match["rest"].strip(" .%") and not _OUT_OF.match(match["rest"]):
        return Unparsed("no score in the answer", text)
    return value(match, scale, text)


def checks(text: str) -> dict[str, Score]:
    r"""Read lines ``element (type): 0|1``.

    >>> checks("red cube (object): 1\nFinal Score: 4")["red cube (object)"].value
    1.0
    """
    zero_one = Scale(0.0, 1.0, 1.0)
    return {
        match["name"]: Score(float(match["value"]), zero_one)
        for match in _CHECK.finditer(_MARKS.sub("", text))
        if match["name"].lower() != "final score"
    }


def aspects(text: str, wanted: Sequence[Aspect]) -> dict[str, Score]:
    """Read lines ``Alignment Score (1-5): 3.2`` or ``alignment: 3``, the last of each name.

    One that is NaN, a range or outside its scale is missing. A list of word-wise scores before them
    is skipped.
    """
    whole = re.sub(r"word-wise scores\s*:\s*\[.*\]", "", plain(text), flags=re.IGNORECASE)
    scores: dict[str, Score] = {}
    for name, scale, _ in wanted:
        label = rf"\b{re.escape(name)}(?P<title>\s+score)?\s*{_RANGE_OF_LABEL}\s*:\s*"
        found = re.finditer(rf"{label}(?:{VALUE})?", whole, re.IGNORECASE)
        lines = [match for match in found if match["value"] or match["title"]]
        read = value(lines[-1], scale, text) if lines and lines[-1]["value"] else None
        if isinstance(read, float):
            scores[name] = Score(read, scale)
    return scores


def shares(text: str, wanted: Sequence[Aspect]) -> dict[str, float] | Unparsed:
    """Read blocks ``Label Score:`` with two numbered lines, as the share of the first in [0, 1].

    Both are divided by their sum, which should be 1 in the published format.
    """
    whole = plain(text)
    read: dict[str, float] = {}
    for name, _, _ in wanted:
        pattern = (
            rf"\b{re.escape(name)}(?:\s+score)?\s*:\s*{_NOUN}\s*1\s*:\s*({_NUMBER})"
            rf"\s*,?\s*{_NOUN}\s*2\s*:\s*({_NUMBER})"
        )
        pairs = re.findall(pattern, whole, re.IGNORECASE)
        if not pairs:
            return Unparsed(f"no {name} score of both candidates in the answer", text)
        first, second = map(_number, pairs[-1])
        if not (first >= 0 and second >= 0 and 0 < first + second < math.inf):
            return Unparsed(f"{name} shares {first:g} and {second:g} cannot be compared", text)
        read[name] = first / (first + second)
    return read


def json_object(text: str) -> dict[str, Any] | Unparsed:
    r"""Read the last JSON object of an answer, also fenced, with trailing commas or cut off.

    A cut-off object keeps its complete members. Braces in words are no object.

    >>> json_object('```json\n{"score": [20, 18,],}\n```')
    {'score': [20, 18]}
    >>> json_object('{"winner": "Image 1", "reason": "the lig')
    {'winner': 'Image 1'}
    """
    last: dict[str, Any] | None = None
    start, is_cut_off = _OBJECT.search(text), False
    while start and not is_cut_off:
        body = text[start.start() :]
        cuts, is_cut_off = _complete_prefixes(body)
        read = _read_object(body, cuts, is_cut_off=is_cut_off)
        last = read if read or is_cut_off else last
        start = _OBJECT.search(text, start.start() + cuts[-1][0])
    if last is None:
        reason = "the JSON object in the answer cannot be read"
        return Unparsed(reason if "{" in text else "no JSON object in the answer", text)
    return last


def _read_object(
    text: str, cuts: Sequence[tuple[int, str]], *, is_cut_off: bool
) -> dict[str, Any] | None:
    for end, closers in reversed(cuts) if is_cut_off else [cuts[-1]]:
        body = text[:end].rstrip().rstrip(",")
        body = re.sub(r",(\s*[}\]])", r"\1", body + closers)
        try:
            value = json.loads(body, strict=False)
        except (ValueError, RecursionError):
            continue
        if value or not is_cut_off:
            return cast("dict[str, Any]", value)
    return None


def _complete_prefixes(text: str) -> tuple[list[tuple[int, str]], bool]:
    """List the ends of complete values with the brackets to close there; true if cut off."""
    ends: list[tuple[int, str]] = [(1, "}")]
    stack: list[str] = []
    in_string = escaped = False
    for i, char in enumerate(text):
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
        elif char in "}]" and stack:
            stack.pop()
            ends.append((i + 1, "".join(reversed(stack))))
            if not stack:
                return ends, False
        elif char == ",":
            ends.append((i, "".join(reversed(stack))))
    return ends, True


def edit_scores(text: str) -> tuple[float, ...] | Unparsed:
    """Read the list of ``{"reasoning": …, "score": [success, over-edit]}``, signed decimals too.

    >>> edit_scores('{"reasoning": "good", "score": [20, -1.5],}')
    (20.0, -1.5)
    """
    lists = re.findall(r"\bscore[\"']?\s*:\s*\[([^\]]*)\]", text, re.IGNORECASE)
    items = re.split(r"[\s,;\"']+", lists[-1].strip(" \n,;\"'")) if lists else [""]
    values = tuple(float(one) for one in items if re.fullmatch(_POINTS, one))
    if len(values) < len(items) or not all(map(math.isfinite, values)):
        return Unparsed("no list of scores in the answer", text)
    return values


def pair_values(text: str) -> tuple[float, float] | Unparsed:
    """Read two signed values, ``Edited image 1: 2.5`` and 2 likewise, or two numbers and no more.

    >>> pair_values("Edited image 1: -0.5, Edited image 2: 1")
    (-0.5, 1.0)
    """
    whole, open_scale = plain(text), Scale(None, None)
    alone = re.fullmatch(rf"\s*({_POINTS})[\s,;]+({_POINTS})[\s.]*", whole)
    values = [*map(float, alone.groups())] if alone else []
    for i in () if alone else (1, 2):
        label = rf"{_NOUN}\s*{i}(?:\s+score)?\s*[:=]\s*"
        lines = [*re.finditer(rf"{label}(?:{VALUE})?", whole, re.IGNORECASE)]
        read = value(lines[-1], open_scale, text) if lines and lines[-1]["value"] else None
        values += [read] if isinstance(read, float) else []
    if len(values) != 2 or not all(map(math.isfinite, values)):
        return Unparsed("no value of each candidate in the answer", text)
    return values[0], values[1]


def json_winner(text: str) -> Winner | Unparsed:
    """Read the overall ``winner`` of a JSON verdict; a verdict cut off before it is unparsed."""
    read = json_object(text)
    if isinstance(read, Unparsed):
        return read
    winner = str(read.get("winner", "")).strip().lower()
    match = re.fullmatch(rf"{_NOUN}\s*([12])", winner)
    if match:
        return "first" if match[1] == "1" else "second"
    if winner in ("tie", "both", "equal"):
        return "tie"
    return Unparsed(f"no winner in the JSON verdict ({winner or 'missing'})", text)
