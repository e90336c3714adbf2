"""Texts in Python files, parsed and never run: literals, and how expressions put them together.

Parts that are not literals are written as ⟪their source⟫. A text whose number of repetitions is not
known is taken once, which fits marks of images. Knows nothing of which texts are wanted.
"""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from unified_reward.core.errors import DataError
from unified_reward.core.paths import is_file
from unified_reward.core.quiet import quiet_warnings
from unified_reward.io.text import read_text


Status = Literal["verified", "changed", "missing", "no file", "unreadable"]
_PLACEHOLDER = re.compile(r" ?(?:<image>|⟪[^⟫]*⟫)\n?")  # of an image, before a text
_NOT_PYTHON = (SyntaxError, ValueError, RecursionError)
_PERCENT = re.compile(r"%(?:\((?P<name>[^)]*)\))?[-+ #0]*\d*(?:\.\d+)?(?P<kind>[a-zA-Z%])")
_OPENING = r"(?:^|(?<=[\s(\[{{=+,:*])|(?<=\b[fFrRbBuU])|(?<=\b[fFrR][fFrR])){quote}"
"""Place of a quotation mark that can open a string of its own."""


class Text(NamedTuple):
    """A text and the line at which it begins."""

    line: int
    text: str


class Source(NamedTuple):
    """The texts of one file."""

    texts: list[Text]
    status: Status = "missing"
    """Status of a wanted text that is not among them."""
    note: str = ""


def read_source(file: Path) -> Source:
    """Read the texts of a Python file, or a text file as one text."""
    if not is_file(file):
        return Source([], "no file")
    try:
        text = read_text(file)
    except DataError as error:
        return Source([], "unreadable", str(error))
    if file.suffix == ".txt":  # a list of questions, whole
        return Source([Text(1, text.rstrip("\n"))])
    try:
        texts = [*_texts(text)]
    except _NOT_PYTHON as error:
        return Source([*_torn_texts(text)], "unreadable", str(error))
    return Source(texts, note="; ".join(_unread(text)))


def _parsed(source: str) -> ast.Module:
    with quiet_warnings(always=True):  # about escapes that Python does not know
        return ast.parse(source)


def _texts(source: str, line: int = 0) -> Iterator[Text]:
    """Yield every text that an expression writes, also without leading image placeholders."""
    for node in ast.walk(_parsed(source)):
        if isinstance(node, ast.expr):
            text = _text_of(node)
            while text:
                yield Text(line or node.lineno, text)
                match = _PLACEHOLDER.match(text)
                text = text[match.end() :] if match else ""


def _written(node: ast.expr) -> str:
    text = _text_of(node)
    return f"⟪{ast.unparse(node)}⟫" if text is None else text


def _text_of(node: ast.expr) -> str | None:
    """The text that an expression writes; None where that cannot be read from it.

    Repetitions are taken once, since marks of images are what is repeated.
    """
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_written, parts))
        case ast.FormattedValue(value=inner):
            return _written(inner)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _written(left) + _written(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            text = _text_of(left)
            return _text_of(right) if text is None else text
        case ast.BinOp(left=left, op=ast.Mod(), right=right):
            template = _text_of(left)
            return None if template is None else _percent(template, right)
        case ast.Call(func=ast.Attribute(value=template, attr="format")):
            text = _text_of(template)
            return None if text is None else _formatted(text, node)
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(joint)), attr="join"), args=[rows]
        ):
            return _joined(joint, rows)
        case _:
            return None


def _percent(template: str, values: ast.expr) -> str | None:
    """Fill a template of ``%``; None where the number of values does not fit."""
    rows: list[ast.expr] = values.elts if isinstance(values, ast.Tuple) else [values]
    pieces, end, used = list[str](), 0, 0
    for match in _PERCENT.finditer(template):
        pieces.append(template[end : match.start()])
        end = match.end()
        if match["kind"] == "%":
            pieces.append("%")
        elif match["name"] is not None:
            pieces.append(f"⟪{match['name']}⟫")
            used = len(rows)
        elif used < len(rows):
            pieces.append(_written(rows[used]))
            used += 1
        else:
            return None
    return "".join([*pieces, template[end:]]) if used == len(rows) else None


def _formatted(template: str, call: ast.Call) -> str | None:
    """Fill a template of ``format``; None where a field has no argument."""
    named = {one.arg: one.value for one in call.keywords if one.arg}
    is_open = any(one.arg is None for one in call.keywords)
    pieces, used = list[str](), 0
    try:
        for literal, field, _, _ in string.Formatter().parse(template):
            pieces.append(literal)
            if field is None:
                continue
            key = re.split(r"[.\[]", field)[0]
            if key == "":
                key, used = str(used), used + 1
            if key.isdigit() and int(key) < len(call.args):
                pieces.append(_written(call.args[int(key)]))
            elif key in named:
                pieces.append(_written(named[key]) if key == field else f"⟪{field}⟫")
            elif is_open and not key.isdigit():
                pieces.append(f"⟪{field}⟫")
            else:
                return None
    except ValueError:  # braces that do not pair
        return None
    return "".join(pieces)


def _joined(joint: str, rows: ast.expr) -> str | None:
    """Join the rows of a list that is written out; one row for all of a repetition."""
    match rows:
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            return joint.join(map(_written, elements))
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element):
            return _written(element)
        case ast.BinOp(left=ast.List() as repeated, op=ast.Mult()):
            return _joined(joint, repeated)
        case ast.BinOp(op=ast.Mult(), right=ast.List() as repeated):
            return _joined(joint, repeated)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            first, second = _joined(joint, left), _joined(joint, right)
            return None if first is None or second is None else first + joint + second
        case _:
            return None


def _unread(source: str) -> Iterator[str]:
    """Yield the places where a long text is changed in a way that is not followed."""
    for node in ast.walk(_parsed(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=changed, attr=method)):
                if method in dir(str) and _is_long(changed) and _text_of(node) is None:
                    yield f"line {node.lineno} changes a text by .{method}(), which is not followed"
            case ast.BinOp(left=left, op=ast.Mod()) if _is_long(left) and _text_of(node) is None:
                yield f"line {node.lineno} fills a text by %, whose values do not fit"
            case ast.AugAssign(op=ast.Add(), value=added) if _is_long(added):
                yield f"line {node.lineno} builds a text by +=, which is not followed"
            case _:
                pass


def _is_long(node: ast.expr) -> bool:
    return len(_text_of(node) or "") > 40


def _torn_texts(source: str) -> Iterator[Text]:
    """Yield the texts of a file that is not valid Python, line by line.

    One published file has an unescaped apostrophe in a string of one line, so a string is tried
    from every place where one can open to the last quotation mark of the line.
    """
    for number, line in enumerate(source.split("\n"), 1):
        for quote, fence in (("'", '"""'), ('"', "'''")):
            for start in re.finditer(_OPENING.format(quote=quote), line):
                inside = line[start.end() : line.rfind(quote)]
                for prefix in ("", "f"):
                    with suppress(*_NOT_PYTHON):
                        yield from _texts(f"{prefix}{fence}{inside}{fence}", number)


def similar(texts: Sequence[Text], length: int, line: int) -> Text | None:
    """The text nearest to a line among those more than half as long as a wanted one."""
    long = [text for text in texts if 2 * len(text.text) > length]
    return min(long, key=lambda text: abs(text.line - line)) if long else None
