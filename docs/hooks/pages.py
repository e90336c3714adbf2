"""Pages of the site that are made from the code, when the site is built."""

from __future__ import annotations

import re

import api_pages
import cli_page
import links
import systems_page
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


_PLACE = re.compile("<!-- made from the code -->.*<!-- end -->", re.DOTALL)
_FROM_CODE = """| Made from the code | Content |
|---|---|
| [Commands](reference/cli.md) | every command: usage, options, exit codes |
| [Python](reference/api/index.md) | every public name: signatures, arguments, errors |
| [Published systems](reference/systems.md) | checkpoint, prompt and range of every model |
"""


def generated() -> dict[str, str]:
    """Markdown of each page that no file of docs/ holds, by its path."""
    return {
        "reference/cli.md": cli_page.markdown(),
        "reference/systems.md": systems_page.markdown(),
        **api_pages.pages(),
        **links.pages(),
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the examples to the navigation."""
    for section in config.nav or []:
        if "Start" in section and links.example_pages():
            section["Start"].append({"Examples": links.example_pages()})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Turn links that lead out of docs/ into links of the site, and finish the first page."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
        markdown = _PLACE.sub(_FROM_CODE, markdown)
    return links.rewrite(markdown, page.file.src_uri)


def on_post_page(output: str, **_: object) -> str:
    """Name the search for those who hear the page; the theme does not."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Link names of the code to their entries in the reference, which say where they are from."""
    return api_pages.add_imports(api_pages.link_names(html, page.file.url))
