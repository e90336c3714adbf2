"""Final state of a terminal after a program has written to it: lines, colours, overwritten bars."""

from __future__ import annotations

import re
from itertools import groupby
from typing import NamedTuple


_TOKEN = re.compile(
    r"\x1b\[(?P<parameters>[\d;?]*)(?P<command>[A-Za-z])"
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # titles and links
    r"|\x1b."
    r"|(?P<control>[\r\n\b\t])"
    r"|(?P<text>[^\x00-\x1f]+)"
    r"|[\x00-\x1f]"
)


class _Cell(NamedTuple):
    text: str
    style: str
    """Parameters of the escape sequences in force, joined by semicolons."""


_EMPTY = _Cell(" ", "")


class Screen:
    r"""Interpreter of what a program writes to a terminal that is as high as it needs to be.

    Args:
        width: Columns.

    >>> screen = Screen(20)
    >>> screen.write("half\rdone\x1b[K\n\x1b[32mgreen\x1b[0m")
    >>> screen.lines()
    ['done', '\x1b[0;32mgreen\x1b[0m']
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._rows: list[list[_Cell]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def write(self, output: str) -> None:
        """Interpret more output."""
        for token in _TOKEN.finditer(output):
            if token["text"]:
                self._put(token["text"])
            elif token["control"]:
                self._control(token["control"])
            elif token["command"]:
                self._command(token["command"], token["parameters"])

    def lines(self) -> list[str]:
        """Return the lines, with an escape sequence in front of each run of one style."""
        return [_line(row) for row in self._rows]

    def _put(self, text: str) -> None:
        for character in text:
            if self._column >= self._width:
                self._move(self._row + 1, 0)
            row = self._rows[self._row]
            row.extend([_EMPTY] * (self._column + 1 - len(row)))
            row[self._column] = _Cell(character, self._style)
            self._column += 1

    def _control(self, character: str) -> None:
        match character:
            case "\r":
                self._column = 0
            case "\n":  # a pty turns it into both
                self._move(self._row + 1, 0)
            case "\b":
                self._column = max(0, self._column - 1)
            case _:
                self._column = (self._column // 8 + 1) * 8

    def _command(self, command: str, parameters: str) -> None:
        number = int(parameters) if parameters.isdigit() else 0
        match command:
            case "m":
                self._set_style(parameters)
            case "A" | "F":
                self._move(self._row - max(1, number), 0 if command == "F" else self._column)
            case "B" | "E":
                self._move(self._row + max(1, number), 0 if command == "E" else self._column)
            case "C":
                self._column += max(1, number)
            case "D":
                self._column = max(0, self._column - max(1, number))
            case "G":
                self._column = max(0, number - 1)
            case "K":
                self._erase_line(number)
            case "J":
                self._erase_line(0)
                del self._rows[self._row + 1 :]

    def _set_style(self, parameters: str) -> None:
        if parameters in ("", "0"):
            self._style = ""
        elif parameters.startswith("0;"):
            self._style = parameters[2:]
        else:
            self._style = f"{self._style};{parameters}".strip(";")

    def _erase_line(self, part: int) -> None:
        row = self._rows[self._row]
        if part == 2:
            row.clear()
        elif part == 0:
            del row[self._column :]

    def _move(self, row: int, column: int) -> None:
        self._row, self._column = max(0, row), column
        while len(self._rows) <= self._row:
            self._rows.append([])


def _line(row: list[_Cell]) -> str:
    parts = [
        ("".join(cell.text for cell in cells), style)
        for style, cells in groupby(row, key=lambda cell: cell.style)
    ]
    if parts and not parts[-1][1]:
        parts[-1] = (parts[-1][0].rstrip(), "")
    return "".join(f"\x1b[0;{style}m{text}\x1b[0m" if style else text for text, style in parts)
