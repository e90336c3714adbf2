"""Prompts of published judges against what the official scripts write, evaluated by Python.

The clone is named by ``UNIFIED_REWARD_OFFICIAL``; without it a made-up one shows that the
comparison can fail.
"""

import ast
import os
import re
from pathlib import Path

import pytest

from tests.unified_reward.prompts.clones import as_code, made_prompt, made_text, write_clone
from tests.unified_reward.prompts.test_templates import sample_for
from unified_reward import prompts
from unified_reward.prompts import official, packs


FOLDER = os.environ.get("UNIFIED_REWARD_OFFICIAL", "")
ROWS = {
    name: prompt
    for name, prompt in packs.published_prompts().items()
    if prompt.repository == packs.REPOSITORY
}
FAMILY_OF = {name: family for family, names in official._WORDINGS.items() for name in names}
_KINDS = (ast.Constant, ast.JoinedStr, ast.BinOp)


class Value:
    """Stands for a variable of a script, its items and its attributes."""

    def __init__(self, name):
        self._name = name

    def __getattr__(self, name):
        return Value(f"{self._name}.{name}")

    def __getitem__(self, key):
        return Value(f"{self._name}[{key!r}]")

    def __str__(self):
        return f"⟦{self._name}⟧"

    def __format__(self, _):
        return str(self)

    def __add__(self, other):
        return f"{self}{other}"

    def __radd__(self, other):
        return f"{other}{self}"

    def __len__(self):
        return 8


class Variables(dict):
    """Every name has a value."""

    def __missing__(self, name):
        return Value(name)


def evaluate(node):
    code = compile(ast.fix_missing_locations(ast.Expression(node)), "script", "eval")
    return eval(code, {"__builtins__": {}}, Variables(len=len))  # noqa: S307


def texts_at(file, line):
    """Texts that the expressions of a line of a script write, longest first."""
    source = file.read_text("utf-8")
    try:
        nodes = [*ast.walk(ast.parse(source))]
    except SyntaxError:  # an apostrophe in a string: the string ends at the last one of the line
        torn = source.splitlines()[line - 1]
        inside = torn[torn.index("f'") + 2 : torn.rindex("'")]
        nodes = [*ast.walk(ast.parse(f"f'''{inside}'''"))]
        line = 1
    found = [
        evaluate(node)
        for node in nodes
        if isinstance(node, _KINDS) and node.lineno <= line <= node.end_lineno
    ]
    return sorted((text for text in found if isinstance(text, str)), key=len, reverse=True)


def written(text, sample):
    """A text without marks of images in front, its variables filled in order of appearance."""
    body = re.sub(r"^(?: ?<image>\n?|⟦DEFAULT_IMAGE_TOKEN⟧\n?)+", "", text)
    fillings = iter((sample.prompt, *(one for one in sample.candidates if isinstance(one, str))))
    known = {}
    for name in re.findall("⟦(.*?)⟧", body):
        if name not in known:
            known[name] = next(fillings, f"⟦{name}⟧")
    return re.sub("⟦(.*?)⟧", lambda match: known[match[1]], body)


def puts_as_written(clone, name, prompt):
    """True if a family puts to its judge what the script writes."""
    sample = sample_for(prompt.task, prompt.form)
    request = prompts.template(FAMILY_OF[name], prompt.task, prompt.form).request(
        sample, lambda medium: [medium]
    )
    texts = [written(text, sample) for text in texts_at(clone / prompt.file, prompt.line)]
    return request.parts[-1] in texts


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The official clone, with its wordings imported into a home of this module."""
    if not FOLDER:
        pytest.skip("needs a clone of CodeGoat24/UnifiedReward: set UNIFIED_REWARD_OFFICIAL to it")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(tmp_path_factory.mktemp("home")))
        yield Path(FOLDER)


def test_every_wording_of_the_official_clone_is_verified(cli, clone):
    imported = packs.import_pack(clone)
    assert [one for one in imported.prompts if one.status != "verified"] == []
    assert {one.name for one in imported.prompts} == {*ROWS}
    code, _, _ = cli("templates", "import", clone)
    assert code == 0


@pytest.mark.parametrize("name", ROWS)
def test_a_family_puts_what_its_official_script_writes(name, clone):
    if name not in packs.installed_wordings():
        packs.import_pack(clone)
    assert puts_as_written(clone, name, ROWS[name])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A made-up clone with every name, written in several ways."""
    folder = tmp_path_factory.mktemp("made")
    codes, rows = {}, {}
    for i, (name, row) in enumerate(ROWS.items()):
        text = made_text(name)
        marks = (
            "",
            "'<image>\\n' * len(images) + ",
            "'<image>\\n <image>\\n' + ",
            "TOKEN + '\\n' + ",
        )
        codes[name] = as_code(text).replace("f'", f"{marks[i % len(marks)]}f'", 1)
        rows[name] = made_prompt(text, name=name, task=row.task, form=row.form)
    torn = made_text("L-VU-PAIR").replace("Say ", "Say its' ").replace("\n", "\\n")
    code = as_code(made_text("L-VU-PAIR")).replace("Say ", "Say its' ")
    codes["L-VU-PAIR"] = f"{code}\ndef f(:"
    rows["L-VU-PAIR"] = made_prompt(
        torn.replace("\\n", "\n"),
        name="L-VU-PAIR",
        task=ROWS["L-VU-PAIR"].task,
        form=ROWS["L-VU-PAIR"].form,
    )
    clone = write_clone(folder / "clone", codes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFIED_REWARD_HOME", str(folder / "home"))
        imported = packs.import_pack(clone, expected=rows.values())
        assert [one for one in imported.prompts if one.status != "verified"] == []
        yield clone, rows


@pytest.mark.parametrize("name", ROWS)
def test_the_comparison_holds_for_a_made_up_clone(name, made):
    clone, rows = made
    assert puts_as_written(clone, name, rows[name])


def test_the_comparison_sees_a_script_that_writes_something_else(made, tmp_path):
    _, rows = made
    other = write_clone(tmp_path, {"Q-IG-PAIR": as_code(made_text("Q-IG-PAIR") + " Or so.")})
    assert not puts_as_written(other, "Q-IG-PAIR", rows["Q-IG-PAIR"])
