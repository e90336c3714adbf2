"""Pages of the site that are made from the code, when the site is built."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


PAGES = {
    "reference/cli.md": lambda: "# Commands\n",
    "reference/api.md": lambda: "# Python\n\n::: unified_reward.open_judge\n",
    "reference/systems.md": lambda: "# Published systems\n",
}
"""Text of each page that no file holds, by its path."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for path, text in PAGES.items():
        files.append(File.generated(config, path, content=text()))
    return files
