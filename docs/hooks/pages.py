"""Pages of the site that are made from the code, when the site is built."""

from __future__ import annotations

import api_pages
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page


def generated() -> dict[str, str]:
    """Markdown of each page that no file holds, by its path."""
    return {
        "reference/cli.md": "# Commands\n",
        "reference/systems.md": "# Published systems\n",
        **api_pages.pages(),
    }


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_content(html: str, page: Page, **_: object) -> str:
    """Link names of the code to their entries in the reference."""
    return api_pages.link_names(html, page.file.url)
