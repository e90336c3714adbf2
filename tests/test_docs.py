"""README and docs: every Python block and every command runs, every link and name exists.

Blocks of one page share a namespace and a folder with the small files that
docs/howto/microworld.md draws. CONTRIBUTING.md says how blocks are marked.
"""

import functools
import re
import shlex
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
import systems_page
from tables import table
from typer.testing import CliRunner

from tests.fake_server import Call, FakeServer, Reply, chat
from tests.unified_reward.checkpoints import llava_twins
from tests.unified_reward.scorers import twins
from tests.unified_reward.serve.running import serving
from unified_reward.cli import app
from unified_reward.core.errors import UnifiedRewardError
from unified_reward.core.samples import Form, Task
from unified_reward.judges import registry
from unified_reward.prompts import FAMILIES, TEMPLATES
from unified_reward.prompts.template import Template


ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PAGES += sorted(DOCS.rglob("*.md"))
SERVER = "http://localhost:8000/v1"
REWARD_SERVER = "http://localhost:8100"
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    language: str
    line: int
    text: str


def blocks(page: Path) -> list[Block]:
    text = page.read_text("utf-8")
    return [
        Block(match[1], text.count("\n", 0, match.start()) + 2, match[2])
        for match in _BLOCK.finditer(text)
    ]


def prose(page: Path) -> str:
    return _BLOCK.sub("", page.read_text("utf-8"))


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def at_servers(written: list[Block], urls: dict[str, str]) -> list[Block]:
    """Put the URLs of running servers into the blocks."""
    for example, url in urls.items():
        written = [block._replace(text=block.text.replace(example, url)) for block in written]
    return written


@contextmanager
def reward_server(page: Path):
    """URL of a server of the tiny judge, if the page has code that asks one."""
    if not any(REWARD_SERVER in block.text for block in blocks(page)):
        yield REWARD_SERVER
        return
    with serving({"tiny_judge": registry.open_judge("tiny_judge")}) as url:
        yield url


def run_python(block: Block, page: Path, namespace: dict) -> None:
    code = "\n" * (block.line - 1) + block.text
    exec(compile(code, str(page), "exec"), namespace)  # noqa: S102  the point of this test


def run_console(block: Block) -> None:
    """Run each ``$`` line; the lines below it must occur in its output, ``…`` stands for others."""
    lines = block.text.replace("\\\n", " ").replace("…\n", "").splitlines()
    output = ""
    for line in lines:
        if not line.startswith("$ "):
            assert line.strip() in output, f"{line!r} is not in the output:\n{output}"
            continue
        program, *arguments = shlex.split(line[2:], comments=True)
        assert program == "unified-reward", f"a console block runs unified-reward, not {line!r}"
        result = CliRunner().invoke(app, arguments)
        code, error = result.exit_code, result.exception
        if isinstance(error, UnifiedRewardError):
            code = 2
        elif error is not None and not isinstance(error, SystemExit):
            raise error
        output = f"{result.output}{error or ''}"
        expected = re.search(r"# exit (\d)$", line)
        assert code == (int(expected[1]) if expected else 0), f"{line!r}: exit {code}\n{output}"


def write_file(block: Block) -> None:
    """Write a YAML block whose first line names it as a file of that name."""
    named = re.match(r"# ([\w.-]+\.yaml)\n", block.text)
    if named:
        Path(named[1]).write_text(block.text, "utf-8")


def answer(call: Call) -> Reply:
    return chat("Final Score: 4" if "Final Score" in call.text else "Image 1 is better.")


@pytest.fixture
def among_files(tmp_path, monkeypatch):
    """Work in a folder with the files that the pages use, and load each judge once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(registry, "open_checkpoint", open_once)
    page = DOCS / "howto" / "microworld.md"
    run_python([one for one in blocks(page) if one.language == "python"][-1], page, {})


open_once = functools.cache(registry.open_checkpoint)


def write_pickscore() -> None:
    folder = Path("weights/pickscore")
    folder.mkdir(parents=True)
    twins.pickscore(folder)


def write_llava() -> None:
    state = llava_twins.original_state(llava_twins.reference())
    llava_twins.save_original(Path("llava-critic-7b"), state)


STAND_INS = {"published-scorers.md": write_pickscore, "convert-checkpoints.md": write_llava}
"""Tiny files of random weights in place of the released ones that a page names."""
SLOW = {
    "train-a-judge.md",
    "benchmark.md",
    "align-a-policy.md",
    "votes-to-judge.md",
    "align-flux.md",
}


def marked(page: Path):
    return pytest.param(page, marks=[pytest.mark.slow] * (page.name in SLOW), id=name_of(page))


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_every_block_of_a_page_runs_in_order(page, among_files):
    namespace: dict = {}
    if page.name in STAND_INS:
        STAND_INS[page.name]()
    known = {"python", "console", "yaml", "sh", "text"}
    assert {block.language for block in blocks(page)} <= known, "nobody runs blocks of others"
    with FakeServer(answer) as server, reward_server(page) as url:
        for block in at_servers(blocks(page), {SERVER: server.url, REWARD_SERVER: url}):
            match block.language:
                case "python":
                    run_python(block, page, namespace)
                case "console":
                    run_console(block)
                case "yaml":
                    write_file(block)


def anchors(page: Path) -> set[str]:
    """Names of the headings of a page in links."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_points_at_something(page):
    for link in _LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading"


def test_every_page_is_listed_in_the_index():
    listed = {(DOCS / link).resolve() for link in _LINK.findall(prose(DOCS / "index.md"))}
    unlisted = set(DOCS.rglob("*.md")) - listed - {DOCS / "index.md"}
    assert not unlisted


def cell(template: Template) -> str:
    parts = [str(template.scale)] if template.scale else []
    parts += [f"{len(template.aspects)} aspects"] if template.aspects else []
    return ", ".join(parts or ["first, tie, second"])


def test_the_table_of_tasks_is_the_table_in_the_code():
    families = sorted(FAMILIES)
    header = f"| Task and form | {' | '.join(f'`{one}`' for one in families)} |"
    rows: list[str] = []
    cells: set[tuple[Task, Form]] = {(one.task, one.form) for one in TEMPLATES.values()}
    for task, form in cells:
        templates = [TEMPLATES.get((family, task, form)) for family in families]
        cell_texts = " | ".join(cell(one) if one else "-" for one in templates)
        rows.append(f"| `{task.value}` {form} | {cell_texts} |")
    lines = (DOCS / "reference" / "families.md").read_text("utf-8").splitlines()
    assert header in lines
    assert sorted(
        line for line in lines if re.match(r"\| `(image|video)_\w+` (score|compare) ", line)
    ) == sorted(rows)


def test_the_table_of_systems_in_the_readme_is_made_of_cards_and_tables():
    made = table(systems_page.HEADER, systems_page.system_rows())
    assert f"\n\n{made}\n\n" in (ROOT / "README.md").read_text("utf-8")


def test_every_task_has_a_template():
    assert {task for _, task, _ in TEMPLATES} == {*Task}


def paper_rows() -> list[list[str]]:
    lines = [line for line in prose(DOCS / "papers.md").splitlines() if line.startswith("| ")]
    return [[part.strip() for part in line.strip("|").split("|")] for line in lines[1:]]


@pytest.mark.parametrize("row", paper_rows(), ids=lambda row: row[2])
def test_every_formula_has_its_code_and_its_test(row):
    _, _, code, tests = row
    for name in re.findall(r"`([^`]+)`", code):
        assert resolves(name), f"there is no unified_reward.{name}"
    named = re.findall(r"`([^`]+)::([^`]+)`", tests)
    assert named, f"{code} names no test"
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text("utf-8"), f"{file} has no {test}"


HISTORY = {"log.md", "CHANGELOG.md"}
PACKAGES = {path.name for path in ROOT.glob("packages/*/src/*/*") if not path.name.startswith("_")}
_NAME = re.compile(r"`((?:[a-z_]+\.)+\w+)`")


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in HISTORY], ids=name_of)
def test_every_dotted_name_of_the_package_exists(page):
    for name in _NAME.findall(prose(page)):
        is_file = name.rpartition(".")[2] in {
            "py",
            "md",
            "txt",
            "json",
            "jsonl",
            "yaml",
            "html",
            "csv",
        }
        if name.split(".")[0] in PACKAGES | {"unified_reward_lab"} and not is_file:
            assert resolves(name), f"there is no {name}"


def resolves(name: str) -> bool:
    """Check that a dotted name is an attribute below the library, or in the laboratory."""
    parts = name.split(".")
    root = [] if parts[0] in ("unified_reward_lab", "unified_reward_client") else ["unified_reward"]
    for n in range(len(parts), 0, -1):
        try:
            value = import_module(".".join([*root, *parts[:n]]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            value = getattr(value, part, None)
        return value is not None
    return False


def test_every_source_file_stands_in_the_tree_of_the_design():
    text = (DOCS / "design.md").read_text("utf-8")
    private = {"__init__.py", "__main__.py"}
    files = {
        path.name
        for path in ROOT.glob("packages/*/src/**/*.py")
        if path.parent.name not in ("cli", "families", "protocols", "scorers", "experiments")
    }
    named = set(re.findall(r"\b_?\w+\.py\b", text))
    assert files - private <= named
    everywhere = {path.name for path in ROOT.glob("packages/*/src/**/*.py")}
    everywhere |= {path.name for path in ROOT.glob("tests/**/*.py")}
    everywhere |= {path.name for path in ROOT.glob("docs/hooks/*.py")}
    assert named <= everywhere
