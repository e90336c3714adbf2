"""Links of the pages to files that lie outside docs/, and the pages made of those files."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path


ROOT = Path(__file__).parents[2]
PROJECT = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages made of files of the repository's root."""
RESULTS = "results/index.md"
_LINK = re.compile(r"(\]\()([^)\s#]+)")


def pages() -> dict[str, str]:
    """Markdown of the pages that are made of files, by their path in the site."""
    texts = {page: (ROOT / file).read_text("utf-8") for file, page in PROJECT.items()}
    for path in sorted((ROOT / "examples").glob("*")):
        if path.suffix in (".md", ".py"):
            texts[example_page(path.name)] = _example(path)
    return {**texts, RESULTS: _results()}


def example_page(name: str) -> str:
    """Page of a file in ``examples/``."""
    return "examples/index.md" if name == "README.md" else f"examples/{Path(name).stem}.md"


def example_pages() -> list[str]:
    """Pages of the examples, the list of them first; none where there are no examples."""
    names = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    has_list = (ROOT / "examples" / "README.md").exists()
    return [example_page("README.md")] * has_list + [example_page(name) for name in names]


def _example(path: Path) -> str:
    text = path.read_text("utf-8")
    if path.suffix == ".md":
        return text
    title = path.stem.replace("_", " ").capitalize()
    return f"# {title}\n\n`examples/{path.name}`\n\n```python\n{text}```\n"


def _results() -> str:
    files = sorted((ROOT / "docs" / "results").glob("*.json"))
    lines = ["# Files of the results", "", "Figures of [results](../results.md), as JSON.", ""]
    return "\n".join([*lines, *(f"- [{file.name}]({file.name})" for file in files), ""])


def source_of(page: str) -> str:
    """Path in the repository of a page of the site."""
    names = {site: file for file, site in PROJECT.items()}
    return names.get(page) or (page if page.startswith("examples/") else f"docs/{page}")


def rewrite(text: str, page: str) -> str:
    """Turn links that lead out of docs/ into links of the site.

    Args:
        text: Markdown of the page.
        page: Its path in the site.
    """
    folder = posixpath.dirname(source_of(page))

    def moved(match: re.Match[str]) -> str:
        link = match[2]
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        target = posixpath.normpath(posixpath.join(folder, link))
        place = _place(target)
        if place is None:
            return match[0]
        return match[1] + posixpath.relpath(place, posixpath.dirname(page) or ".")

    return _LINK.sub(moved, text)


def _place(target: str) -> str | None:
    """Path in the site of a file of the repository; None where none shows it."""
    if target in PROJECT:
        return PROJECT[target]
    if target == "docs/results":
        return RESULTS
    if target in ("examples", "examples/README.md"):
        return example_page("README.md")
    if target.startswith("examples/"):
        return example_page(posixpath.basename(target))
    return target.removeprefix("docs/") if target.startswith("docs/") else None
