"""Shape of the code: layers, heavy imports, sizes, public names."""

import ast
import inspect
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import unified_reward


ROOT = Path(__file__).parents[1]
PACKAGES = ROOT / "packages"
LIBRARY = PACKAGES / "unified-reward" / "src" / "unified_reward"
FILES = sorted(PACKAGES.glob("*/src/**/*.py"))
LIBRARY_FILES = [file for file in FILES if file.is_relative_to(LIBRARY)]
BASE = {
    *("av", "filelock", "httpx", "numpy", "PIL", "pydantic", "pydantic_core", "rich", "typer"),
    *("packaging", "unified_reward_client", "yaml"),
}
"""Modules of the dependencies without any extra."""
HEAVY = ("arena", "backends", "checkpoints", "policies", "recipes", "scorers", "serve", "train")
"""Packages that are only imported when something is loaded or trained."""


def name_of(file):
    return file.relative_to(PACKAGES).as_posix()


def parse(file):
    return ast.parse(file.read_text("utf-8"))


def third_party(node):
    """Top-level names of the third-party modules that an import statement names."""
    if isinstance(node, ast.Import):
        names = {alias.name.partition(".")[0] for alias in node.names}
    else:
        names = {node.module.partition(".")[0]} if node.module and not node.level else set()
    return names - {"unified_reward", "unified_reward_lab", "__future__", *sys.stdlib_module_names}


def unguarded_imports(tree):
    """Third-party modules of the extras that are imported outside of a ``with extra(…)`` block."""
    found = set()

    def visit(node):
        if isinstance(node, ast.Import | ast.ImportFrom):
            found.update(third_party(node) - BASE)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if isinstance(node, ast.With) and any(
            isinstance(item.context_expr, ast.Call)
            and ast.unparse(item.context_expr.func).endswith("extra")
            for item in node.items
        ):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


@pytest.mark.parametrize("file", LIBRARY_FILES, ids=name_of)
def test_modules_of_extras_are_imported_where_something_is_loaded(file):
    """Elsewhere an import stands in a ``with extra(…)`` block, which names the missing extra."""
    if file.relative_to(LIBRARY).parts[0] in HEAVY:
        return
    assert not unguarded_imports(parse(file))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch", {"torch"}),
        ("def f():\n    from scipy import stats", {"scipy"}),
        ("def f():\n    with extra('bench'):\n        from scipy import stats", set()),
        ("if TYPE_CHECKING:\n    import torch", set()),
        ("import json, numpy\nfrom unified_reward import io", set()),
    ],
)
def test_an_import_that_is_not_guarded_would_be_seen(code, found):
    assert unguarded_imports(ast.parse(code)) == found


LONGEST = {"unified_reward_client.py": 1120}
"""Lines of the only file that holds several ideas: trainers copy it."""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_files_and_functions_are_short_and_documented(file):
    text = file.read_text("utf-8")
    tree = ast.parse(text)
    assert len(text.splitlines()) <= LONGEST.get(file.name, 600)
    assert ast.get_docstring(tree)
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long


NO_FILE = (
    *("backends/openai.py", "backends/openai_response", "checkpoints/llava_config"),
    *("data/pack", "data/sources/", "io/run_config", "recipes/stage"),
)
"""Modules whose JSON is a message, a hash, a comparison or checked before."""


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_json_that_is_written_holds_no_nan(file):
    calls = [node for node in ast.walk(parse(file)) if isinstance(node, ast.Call)]
    writes = [call for call in calls if ast.unparse(call.func) in ("json.dumps", "json.dump")]
    strict = [
        call
        for call in writes
        if any(each.arg == "allow_nan" and not each.value.value for each in call.keywords)
    ]
    assert len(strict) == len(writes) or any(f"/{part}" in name_of(file) for part in NO_FILE)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_prints_and_nothing_unpickles(file):
    forbidden = {"print", "eval", "exec", "breakpoint"}
    tree = parse(file)
    called = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not called & forbidden
    imported = {
        f"{getattr(node, 'module', None) or ''}.{alias.name}".strip(".")
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    unpickling = {name for name in imported if name.partition(".")[0] in ("pickle", "dill")}
    assert unpickling <= {"pickle.UnpicklingError", "pickle.dumps"}


@pytest.mark.parametrize("name", unified_reward.__all__)
def test_a_public_name_is_documented_with_every_argument(name):
    value = getattr(unified_reward, name)
    text = inspect.getdoc(value)
    assert text
    if inspect.isfunction(value):
        missing = [arg for arg in inspect.signature(value).parameters if f"{arg}:" not in text]
        assert not missing


def test_public_names_are_few_and_sorted():
    assert unified_reward.__all__ == sorted(unified_reward.__all__)
    assert len(unified_reward.__all__) <= 30


def test_layers_hold_and_the_library_does_not_import_the_laboratory():
    command = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "2 kept, 0 broken" in done.stdout


def test_the_wheel_of_the_library_is_at_most_one_mebibyte():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as wheel:
        for file in sorted(LIBRARY.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                wheel.write(file, file.relative_to(LIBRARY.parent))
    assert len(buffer.getvalue()) <= 2**20


LOADING = {
    *("from_pretrained", "from_config", "get_class_from_dynamic_module", "get_kernel"),
    *("load_dataset", "load_dataset_builder", "transformers.pipeline"),
    *("SentenceTransformer", "CrossEncoder"),
}
"""Calls of transformers, diffusers, datasets, peft, kernels that may load code of a folder."""
WITHOUT_CODE = {
    "kind.from_config": "a class of diffusers, built from a mapping, and takes no such argument",
}


def unsafe_loads(tree):
    """Calls that load something and do not say ``trust_remote_code=False``."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        callee = ast.unparse(node.func)
        if not {callee, callee.rpartition(".")[2]} & LOADING or callee in WITHOUT_CODE:
            continue
        given = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if given.get("trust_remote_code") != "False":
            yield callee


SOURCES = [
    *FILES,
    *(path for name in ("benchmarks", "tests") for path in sorted((ROOT / name).rglob("*.py"))),
]


def test_every_load_says_that_remote_code_is_not_trusted():
    found = {str(path.relative_to(ROOT)): [*unsafe_loads(parse(path))] for path in SOURCES}
    assert not {path: calls for path, calls in found.items() if calls}


@pytest.mark.parametrize(
    "code",
    [
        "AutoModel.from_pretrained(it)",
        "a.b().from_config(it, **options)",
        "kind.from_pretrained(it, trust_remote_code=True)",
        "load_dataset('it', trust_remote_code=given)",
        "transformers.pipeline('it')",
    ],
)
def test_a_load_that_does_not_say_so_would_be_seen(code):
    assert [*unsafe_loads(ast.parse(code))]
    assert not [*unsafe_loads(ast.parse("it.from_pretrained(x, trust_remote_code=False)"))]
