"""Pictures of commands in a terminal: made of the real command, and loading nothing."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from docs.hooks.screen import Screen
from docs.hooks.terminal import PICTURES, make_pictures
from unified_reward.cli import COMMANDS


FOLDER = Path(__file__).parents[1] / "docs" / "terminal"
SVG = "{http://www.w3.org/2000/svg}"
CHARACTER = 20 * 0.61
"""Width of a character, as rich has it: its height times the proportions of the font."""
FILES = sorted(FOLDER.glob("*.svg"))


def visible(path):
    """Text of a picture, line by line; parts stand at the column of their ``x``."""
    lines = {}
    for text in ET.parse(path).iter(f"{SVG}text"):  # noqa: S314  a file of this repository
        column = round(float(text.get("x")) / CHARACTER)
        line = lines.get(text.get("y"), "").ljust(column)
        lines[text.get("y")] = line + text.text.rstrip("\n").replace("\xa0", " ")
    return list(lines.values())


def test_a_screen_shows_what_was_written_last():
    screen = Screen(10)
    screen.write("first\r\nsecond\x1b[1A\r\x1b[2Kover\n")
    screen.write("\rthird\x1b[2D..\x1b]8;;link\x1b\\!\x1b[?25h")
    assert screen.lines() == ["over", "thi..!"]


def test_a_screen_keeps_colours_and_wraps_at_its_width():
    screen = Screen(4)
    screen.write("\x1b[1m\x1b[32mab\x1b[0mcdef")
    assert screen.lines() == ["\x1b[0;1;32mab\x1b[0mcd", "ef"]


@pytest.mark.slow
def test_a_picture_has_the_command_and_its_output_and_loads_nothing(tmp_path):
    (path,) = make_pictures(["score"], tmp_path)
    first, *output = visible(path)
    assert first.startswith("$ unified-reward score a.png b.png missing.png --prompt")
    assert re.search(r"a\.png +\d\.\d\d ± \d\.\d\d +on 1 to 5", "\n".join(output))
    assert "missing.png: cannot be opened" in "\n".join(output)
    assert str(tmp_path) not in path.read_text("utf-8")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_picture_of_the_docs_is_of_a_command_and_loads_nothing(path):
    assert path.stem in COMMANDS
    assert path.stem in PICTURES
    text = path.read_text("utf-8")
    assert re.findall(r"\w+://[^\s\"'<>]+", text.replace("http://127.0.0.1:", "")) == [SVG[1:-1]]
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    title = ET.fromstring(text).find(f"{SVG}title")  # noqa: S314  a file of this repository
    assert PICTURES[path.stem].alt in title.text
    lines = visible(path)
    assert lines[0].startswith(f"$ unified-reward {path.stem}")
    assert max(map(len, lines)) <= PICTURES[path.stem].width
    assert not [line for line in lines if "it/s" in line or "Warning" in line or "tmp/" in line]


def test_every_command_with_a_picture_is_listed():
    assert set(PICTURES) - set(COMMANDS) <= {"doctor"}
