"""Docstrings as the reference shows them: fields as one table, doctests as code.

An extension of griffe, which reads the source for mkdocstrings.
"""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

from griffe import Attribute, Class, Docstring, Extension, Object


_EXAMPLE = re.compile(r"^(\s*)Example::?$")


class ReadableDocstrings(Extension):
    """Lists fields and properties of a class under "Attributes", and marks doctests as code."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Mark the doctests of a function or class."""
        if obj.docstring and not obj.is_attribute:
            obj.docstring.value = with_code(obj.docstring.value)

    def on_class_members(self, *, cls: Class, **_: Any) -> None:
        """Move the docstrings of fields and properties into the one of their class."""
        lines = [line for owner in (*_private_bases(cls), cls) for line in _fields(owner)]
        if lines:
            text = cls.docstring.value if cls.docstring else ""
            value = "\n".join([text, "", "Attributes:", *lines])
            cls.docstring = Docstring(value, parent=cls)


def _private_bases(cls: Class) -> list[Class]:
    names = {str(base) for base in cls.bases if str(base).startswith("_")}
    siblings = cls.parent.members if cls.parent else {}
    return [one for name in names if isinstance(one := siblings.get(name), Class)]


def _fields(cls: Class) -> list[str]:
    lines: list[str] = []
    for name, member in cls.members.items():
        if not isinstance(member, Attribute) or name.startswith("_"):
            continue
        text = (member.docstring.value if member.docstring else "").partition(">>>")[0].strip()
        lines.append(f"    {name}: " + text.replace("\n\n", " ").replace("\n", "\n        "))
        member.docstring = None  # what has none is not shown a second time
    return lines


def with_code(text: str) -> str:
    """Mark doctests and the lines of an example as code.

    Args:
        text: A docstring, its first line without indentation.
    """
    lines = text.splitlines()
    made: list[str] = []
    while lines:
        line = lines.pop(0)
        example = _EXAMPLE.match(line)
        if example:
            made += [f"{example[1]}**Example:**", "", *_fenced(_indented(lines, example[1]))]
        elif line.startswith(">>>"):
            made += _fenced([line, *_paragraph(lines)])
        else:
            made.append(line)
    return "\n".join(made)


def _indented(lines: list[str], indent: str) -> list[str]:
    """The lines that are indented more, which are removed from the others."""
    ends = (i for i, one in enumerate(lines) if one.strip() and not one.startswith(f"{indent} "))
    n = next(ends, len(lines))
    block = lines[:n]
    del lines[:n]
    return block


def _paragraph(lines: list[str]) -> list[str]:
    """The lines up to an empty one, which are removed from the others."""
    n = next((i for i, one in enumerate(lines) if not one.strip()), len(lines))
    block = lines[:n]
    del lines[:n]
    return block


def _fenced(block: list[str]) -> list[str]:
    code = dedent("\n".join(block)).strip()
    return [f"```{'pycon' if '>>>' in code else 'python'}", code, "```", ""]
