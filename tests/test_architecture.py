"""The shape of the code: who may import whom, what is heavy, how long things may be."""

import ast
import io
import subprocess
import sys
import tokenize
import tomllib
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "unified_reward"
FILES = sorted(SOURCE.rglob("*.py"))
HEAVY = {"torch", "transformers", "diffusers", "trl", "peft", "accelerate", "ray"}
MAY_BE_HEAVY = {
    "models/chat.py",
    "models/encoder.py",
    "models/keys.py",
    "models/llava_config.py",
    "models/llava_qwen.py",
    "models/shards.py",
    "models/vlm.py",
    "models/scalar.py",
    "policies",
    "scorers",
    "train",
    "pipeline.py",
}


def layers():
    """Names by the line they stand on, the lowest line 0."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contract = next(
        c for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"
    )
    assert contract["exhaustive"]
    lines = [line.split("|") for line in reversed(contract["layers"])]
    ranks = {name.strip(): rank for rank, line in enumerate(lines) for name in line}
    return ranks, set(contract["exhaustive_ignores"])


RANKS, UNRANKED = layers()


def relative(file):
    return file.relative_to(SOURCE).as_posix()


def layer(file):
    return relative(file).split("/")[0].removesuffix(".py")


def imported(file, tree):
    """Full dotted names of everything that a file imports, anywhere in it."""
    package = ["unified_reward", *file.relative_to(SOURCE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{start}.{name.name}" for name in node.names)


def ours(file, tree):
    """Layers of this package that a file imports from, its own left out."""
    for name in imported(file, tree):
        parts = name.split(".")
        if parts[0] == "unified_reward" and parts[1] in RANKS and parts[1] != layer(file):
            yield parts[1]


def parsed(file):
    return ast.parse(file.read_text("utf-8"))


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_a_file_imports_only_from_layers_below_its_own(file):
    if file.parent == SOURCE and file.stem in {"__init__", *UNRANKED}:
        return
    assert layer(file) in RANKS, f"{relative(file)} stands in no layer of pyproject.toml"
    upward = {name for name in ours(file, parsed(file)) if RANKS[name] >= RANKS[layer(file)]}
    assert not upward


def test_the_layers_name_nothing_that_is_not_there():
    assert {layer(file) for file in FILES} - {"__init__"} - UNRANKED == set(RANKS)


@pytest.mark.parametrize("code", ["from unified_reward import judge", "from ..judge import load"])
def test_an_import_upwards_would_be_seen(code):
    """The check itself: a reader of rows must not know the judge, however it is written."""
    file = SOURCE / "models" / "table.py"
    assert RANKS["models"] < RANKS["judge"]
    assert list(ours(file, ast.parse(f"def load():\n    {code}"))) == ["judge"]


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_heavy_libraries_are_imported_where_something_is_loaded(file):
    if {relative(file), layer(file)} & MAY_BE_HEAVY:
        return
    names = {
        name.split(".")[0]
        for node in parsed(file).body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in imported(file, ast.Module([node], []))
    }
    assert not names & HEAVY


def test_the_pipeline_imports_accelerate_and_nothing_heavier_itself():
    file = SOURCE / "pipeline.py"
    assert {name.split(".")[0] for name in imported(file, parsed(file))} & HEAVY == {"accelerate"}


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_files_and_functions_are_short_and_say_what_they_are_for(file):
    text, tree = file.read_text("utf-8"), parsed(file)
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(tree)
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_nothing_prints_and_nothing_unpickles(file):
    forbidden = {"print", "eval", "exec", "breakpoint"}
    called = {
        node.func.id
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & forbidden
    loaded = {*imported(file, parsed(file))} - {"pickle.UnpicklingError"}
    assert not {name.split(".")[0] for name in loaded} & {"pickle", "dill"}


def code_lines(text):
    """Lines that hold code: no blank lines, no comments, no docstrings, no imports."""
    told = set()
    for node in ast.walk(ast.parse(text)):
        is_words = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_words or isinstance(node, ast.Import | ast.ImportFrom):
            told |= set(range(node.lineno, node.end_lineno + 1))
    silent = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    held = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in (*silent, tokenize.ENDMARKER):
            held |= set(range(token.start[0], token.end[0] + 1))
    return len(held - told)


def test_only_code_is_counted():
    text = '"""Says."""\nimport os\n\nx = """a\nb"""  # why\n# no\ndef f():\n    """It."""\n'
    assert code_lines(text) == 3


def test_the_whole_is_small():
    library = [file for file in FILES if layer(file) != "experiments"]
    assert sum(code_lines(file.read_text("utf-8")) for file in library) < 16_000


def test_the_import_linter_agrees():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 kept, 0 broken" in done.stdout
