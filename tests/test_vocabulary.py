"""Words of the code: names and docstrings that a user of TRL or diffusers knows."""

import ast
import re
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("packages/*/src/**/*.py"), *ROOT.glob("tests/**/*.py")])
VAGUE = {"told", "heard", "asked", "said", "shown", "drawn", "held", "how"}
OPENING = re.compile(r"(Of|What|Whether|How|Who|Why|Where|When|The same|Which|In which|As)\b")
"""First words of a docstring that neither says what is done nor names the thing."""
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def names(tree):
    """Every identifier with its line; ``one`` only outside of comprehensions and lambdas."""
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, (*_COMPREHENSIONS, ast.Lambda))
        for part in ast.walk(node)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                pass
            case ast.arg(arg=name) | ast.keyword(arg=name):
                pass
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                pass
            case _:
                continue
        if name != "one" or id(node) not in inner:
            yield node.lineno, name


def docstrings(tree):
    """Docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        yield ast.get_docstring(node) or ""
        for assignment, text in zip(node.body, node.body[1:], strict=False):
            if (
                isinstance(assignment, ast.Assign | ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                yield str(text.value.value)


def problems(text):
    tree = ast.parse(text)
    vague = [f"line {line}: {name}" for line, name in names(tree) if name in {*VAGUE, "one"}]
    return vague + [text[:60] for text in docstrings(tree) if OPENING.match(text)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_names_and_docstrings_are_those_of_the_field(file):
    assert problems(file.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("told = 1", ["line 1: told"]),
        ("def f(x): return x.shown", ["line 1: shown"]),
        ("for one in x:\n    f(one)", ["line 1: one", "line 2: one"]),
        ("[f(one) for one in x]", []),
        ("sorted(x, key=lambda one: one.id)", []),
        ('def f():\n    """Whether it is."""', ["Whether it is."]),
        ('x = 1\n"""Of a video."""', ["Of a video."]),
        ('x = 1\n"""Assets of a video."""', []),
    ],
)
def test_a_vague_word_would_be_seen(text, found):
    assert problems(text) == found
