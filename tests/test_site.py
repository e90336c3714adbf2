"""The site: it builds without a warning, its links lead somewhere, and nothing public is missing.

It is built once for all tests of a run. Those with a browser read it from its folder, as users do.
"""

import ast
import inspect
import logging
import re
import zlib
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

import api_pages
import cli_page
import docstrings
import links
import pytest
import systems_page
import typer
from filelock import FileLock
from mkdocs.commands.build import build
from mkdocs.config import load_config

import unified_reward
import unified_reward_client
from unified_reward.cli import app
from unified_reward.core.extensions import Group
from unified_reward.judges.registry import PUBLISHED
from unified_reward.prompts import packs
from unified_reward.scorers import SYSTEMS


ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md"))
QUIET = ("Cleaning site directory", "Building documentation", "Documentation built")
"""Beginnings of the lines that a build without a problem logs."""


def shared_folder(tmp_path_factory, worker_id):
    """Folder of this run of pytest, the same for each of its workers."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def worker_id(request):
    """``master`` where pytest-xdist runs no workers, or is not installed."""
    return getattr(request.config, "workerinput", {}).get("workerid", "master")


@pytest.fixture(scope="module")
def site(tmp_path_factory, worker_id):
    """Folder of the built site; what the build logged is in ``log.txt`` beside it."""
    folder = shared_folder(tmp_path_factory, worker_id) / "site"
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            lines = log_of_build(folder)
            folder.with_name("log.txt").write_text("\n".join(lines), "utf-8")
    return folder


def log_of_build(folder):
    """Build the site, strictly, and return the lines of the log."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    log = logging.getLogger("mkdocs")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.INFO)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(folder), strict=True))
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
    return lines


def test_the_site_builds_strictly_and_logs_no_problem(site):
    """Such as a link that leads nowhere, or a page that the navigation lacks."""
    lines = site.with_name("log.txt").read_text("utf-8").splitlines()
    assert len(lines) >= len(QUIET)
    assert [line for line in lines if not line.startswith(QUIET)] == []


class Html(NamedTuple):
    """Anchors of a page, its links, and the files that it is shown with."""

    anchors: set[str]
    links: list[str]
    files: list[str]


_TAG = re.compile(r"<(\w+)\s([^>]*)>")
_ATTRIBUTE = re.compile(r"\b(id|name|href|src|rel)=\"([^\"]*)\"")


@cache
def read(page):
    html = Html(set(), [], [])
    for tag, attributes in _TAG.findall(page.read_text("utf-8")):
        given = dict(_ATTRIBUTE.findall(attributes))
        html.anchors.update(given[one] for one in ("id", "name") if one in given)
        is_shown = tag != "link" or given.get("rel") in ("stylesheet", "icon")
        if "src" in given or (tag == "link" and is_shown):
            html.files.append(given.get("src") or given["href"])
        elif "href" in given and is_shown:
            html.links.append(given["href"])
    return html


def is_outside(link):
    return re.match(r"(https?|mailto):", link)


def test_every_link_and_picture_of_the_site_leads_to_something(site):
    lost = []
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    for page in pages:
        for link in (*read(page).links, *read(page).files):
            if is_outside(link):
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            known = read(target).anchors if target.suffix == ".html" and target.exists() else None
            if not target.exists() or (anchor and known is not None and anchor not in known):
                lost.append(f"{page.relative_to(site)}: {link}")
    assert len(pages) > 60
    assert lost == []


def test_the_pages_load_nothing_from_elsewhere(site):
    sources = {source for page in site.rglob("*.html") for source in read(page).files}
    assert [source for source in sources if is_outside(source) or source.startswith("//")] == []
    styles = "".join(file.read_text("utf-8") for file in site.rglob("*.css"))
    assert re.findall(r"url\([\"']?https?:[^)]*\)|@import[^;]*", styles) == []


@pytest.fixture(scope="module")
def entries(site):
    """Page and anchor of each name in the index that other sites read."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data[data.index(b"zlib.\n") + 6 :]).decode().splitlines()
    return {line.split()[0]: line.split()[3].replace("$", line.split()[0]) for line in lines}


def imported_names(page):
    """Names that the Python blocks of a page import from the packages, and modules as a whole."""
    for code in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("unified_reward"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_names(module):
    """Public functions and classes that a module defines."""
    return {
        f"{module.__name__}.{name}"
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__
    }


def test_every_public_name_has_an_entry(entries):
    wanted = {f"unified_reward.{name}" for name in unified_reward.__all__}
    wanted |= own_names(unified_reward_client)
    wanted |= {name for page in PAGES for name in imported_names(page)}
    assert len(wanted) > 60
    modules = {name.rpartition(".")[0] for name in api_pages.entries()}
    assert [name for name in sorted(wanted - modules) if entry_of(name) not in entries] == []


def entry_of(name):
    """Name of an object in the reference: as the package exports it, where it does."""
    module, _, own = name.rpartition(".")
    home = unified_reward._HOMES.get(own, "").partition(":")[0]
    return f"unified_reward.{own}" if module == f"unified_reward.{home}" else name


def test_every_name_of_a_reference_page_is_in_the_index_of_names(entries):
    assert len(api_pages.entries()) > 180
    for name, page in api_pages.entries().items():
        assert entries[name] == f"{page.removesuffix('.md')}.html#{name}"


def test_every_group_of_entry_points_is_named(site):
    text = (site / "reference" / "api" / "extensions.html").read_text("utf-8")
    for name in Group.__args__:
        assert f'"{name}"' in text or f"&quot;{name}&quot;" in text or name in text


def parameters(group, prefix=""):
    """Name and parameters of each command, as typer has them."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        is_group = hasattr(command, "list_commands")
        if not is_group or command.invoke_without_command:
            yield f"{prefix}{name}", command.params
        if is_group:
            yield from parameters(command, f"{prefix}{name} ")


def test_every_command_and_every_option_stands_in_the_reference(site):
    head, *parts = re.split(r"<h3 id=\"", (site / "reference" / "cli.html").read_text("utf-8"))
    sections = {part.partition('"')[0]: part for part in parts}
    group = typer.main.get_group(app)
    assert all(f"<code>{name}</code>" in head for each in group.params for name in each.opts)
    commands = dict(parameters(group))
    assert {cli_page.anchor(name) for name in commands} | {"options-of-a-judge"} == {*sections}
    for name, given in commands.items():
        section = sections[cli_page.anchor(name)]
        assert f"unified-reward {name} " in re.sub("<[^>]*>", "", section)
        for parameter in given:
            if parameter.param_type_name == "option":
                missing = [one for one in parameter.opts if f"<code>{one}</code>" not in section]
                assert not missing, f"{name}: {missing}"
            else:
                label = (parameter.metavar or parameter.name.upper()).replace(">", "&gt;")
                assert f"<code>{label}</code>" in section


def test_a_command_that_can_exit_with_1_says_when():
    ends = ("exit_if(", "Exit(1)", "run_bulk(", "print_verdicts(", "print_ranking(")
    for name, function in cli_page.functions(typer.main.get_group(app)):
        source = inspect.getsource(inspect.unwrap(function))
        assert any(word in source for word in ends) == (name in cli_page.EXITS), name


def test_options_are_read_from_signatures():
    convert = cli_page.commands()["convert llava-qwen"]
    assert convert.usage == "unified-reward convert llava-qwen [OPTIONS] IN OUT"
    assert convert.options[0] == (
        "--dry-run",
        "flag",
        "",
        "Write nothing; exit 1 if it cannot be converted.",
    )
    judge = cli_page.commands()["judge"]
    assert ("--workers", "whole number ≥ 1", "1") in [one[:3] for one in judge.options]
    assert ("--image-format", "png, jpeg, webp", "png") in [one[:3] for one in judge.options]
    assert cli_page.commands()["candidates"].usage.endswith(
        "candidates --policy POLICY [OPTIONS] PROMPTS.jsonl OUT_DIR"
    )


def test_checkpoint_prompt_and_range_of_every_published_system_stand_on_its_page(site):
    text = re.sub("<[^>]*>", "", (site / "reference" / "systems.html").read_text("utf-8"))
    starts = [f"{start}*" for start, (family, _) in PUBLISHED.items() if family]
    assert [start for start in starts if start not in text] == []
    assert [name for name in packs.published_prompts() if name not in text] == []
    assert {card.name for card in systems_page.scorer_cards()} == {*SYSTEMS}
    for card in systems_page.scorer_cards():
        facts = [card.name, card.system, systems_page.scale_text(card.scale), card.code_licence]
        facts += [*card.weights, *card.aspects]
        assert [
            fact for fact in facts if fact.replace("'", "&#39;") not in text and fact not in text
        ] == []
    assert "image generation 1 to 5, image understanding 0 to 100, video generation 1 to 10" in text


@pytest.mark.parametrize(
    ("page", "link", "made"),
    [
        ("departures.md", "../CONTRIBUTING.md", "contributing.md"),
        ("howto/bulk.md", "../../CHANGELOG.md", "../changelog.md"),
        ("contributing.md", "docs/design.md", "design.md"),
        ("changelog.md", "docs/reference/media.md", "reference/media.md"),
        ("results.md", "results", "results/index.md"),
        ("start.md", "../examples/score.py", "examples/score.md"),
        ("examples/index.md", "score.py", "score.md"),
        ("examples/index.md", "../docs/howto/bulk.md", "../howto/bulk.md"),
        ("papers.md", "https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
    ],
)
def test_links_lead_to_the_pages_of_files_outside_docs(page, link, made):
    assert links.rewrite(f"[a]({link}#b)", page) == f"[a]({made}#b)"


def test_code_in_prose_links_to_its_entry():
    html = "<p><code>open_judge</code> <code>x</code></p><pre><code>open_judge</code></pre>"
    entry = "../reference/api/judges.html#unified_reward.open_judge"
    linked = f'<a class="name" href="{entry}"><code>open_judge</code></a>'
    assert api_pages.link_names(html, "howto/bulk.html") == html.replace(
        "<code>open_judge</code>", linked, 1
    )


def test_doctests_and_examples_become_code():
    text = "First.\n\n>>> f(1)\n2\n\nExample:\n    >>> g()\n\nExample::\n\n    h()\n\n"
    text += "Raises:\n    A: b."
    assert re.sub("\n+", "\n", docstrings.with_code(text)).splitlines() == [
        "First.",
        *("```pycon", ">>> f(1)", "2", "```"),
        *("**Example:**", "```pycon", ">>> g()", "```"),
        *("**Example:**", "```python", "h()", "```"),
        *("Raises:", "    A: b."),
    ]


@pytest.fixture
def visit(browser, site):
    """Open a page of the folder; nothing may come from a network, and no script may fail."""
    contexts, problems = [], []

    def open_page(path, width=1280, scheme="light"):
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda sent: sent.url.startswith(("file:", "data:")) or problems.append(sent.url),
        )
        page.goto((site / path).as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def test_a_word_is_found_from_the_folder_without_a_network(visit):
    page = visit("howto/bulk.html")
    page.locator(".md-search__input").click()
    page.keyboard.type("calibrate")
    page.locator(".md-search-result__item").first.wait_for()
    found = page.locator(".md-search-result__item > a").evaluate_all("all => all.map(a => a.href)")
    assert any("howto/votes-to-judge.html" in link for link in found)
    assert any("reference/cli.html" in link for link in found)


LOOKED_AT = (
    *("index.html", "start.html", "concepts.html", "howto/make-pairs.html", "results.html"),
    *("reference/cli.html", "reference/api/judges.html", "reference/systems.html"),
)
FOR_AXE = ("index.html", "concepts.html", "howto/make-pairs.html", "reference/api/pairs.html")
"""Shorter pages with everything that the longer ones have, which take axe minutes."""
_OVERFLOWING = """tables => tables.filter(table => {
    const around = table.closest(".md-typeset__scrollwrap");
    const scrolls = around && ["auto", "scroll"].includes(getComputedStyle(around).overflowX);
    return table.getBoundingClientRect().width > innerWidth && !scrolls;
}).map(table => table.innerText.slice(0, 80))"""
"""Tables that are wider than the page and do not scroll within themselves."""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
def test_pages_fit_their_width_and_tables_scroll_within_themselves(width, visit):
    for path in LOOKED_AT:
        page = visit(path, width)
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, path
        assert page.locator("article table").evaluate_all(_OVERFLOWING) == [], path


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (360, "dark")])
@pytest.mark.parametrize("path", FOR_AXE)
def test_axe_finds_nothing_serious(path, width, scheme, visit):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    response = axe.run(visit(path, width, scheme), options={}).response
    assert len(response["passes"]) > 10
    assert [
        (each["id"], node["html"])
        for each in response["violations"]
        for node in each["nodes"]
        if each["impact"] in ("serious", "critical")
    ] == []
