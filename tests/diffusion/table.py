"""Table of docs/reference/pipelines.md: each cell is measured on a random tiny pipeline.

``python -m tests.diffusion.table`` writes it anew.
"""

import inspect
import sys
from pathlib import Path

import diffusers

from tests import diffusion
from tests.diffusion.census import text_pipelines
from tests.diffusion.examine import Row, examine
from unified_reward.policies.diffusion import _FRAMES, _is_editor, _is_text_to_media


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pipelines.md"
COLUMNS = (
    *("pipeline", "task", "candidates", "DPO"),
    *("recorded sampling", "merged adapters", "why not"),
)
_HEAD = """# Pipelines

Every class of diffusers that generates images or videos from a prompt. Whether a pipeline can be \
sampled, aligned and trained is not known by its name, but observed while it samples. The table is \
made by `python -m tests.diffusion.table` from random tiny pipelines, and a test measures every \
cell again.
"""


def rows(measure=examine):
    """Rows of all pipelines by title: the tiny ones measured, the others with their reason."""
    built = {name.partition(" ")[0] for name in diffusion.PIPELINES}
    outside = {name: reason for name, reason in text_pipelines().items() if name not in built}
    made = {name: Row("no", "no", "no", "no", why) for name, why in outside.items()}
    made |= {name: measure(name) for name in diffusion.PIPELINES}
    return {title(name): cells(name, made[name]) for name in sorted(made)}


def cells(name, row):
    """Cells of a pipeline by column."""
    return dict(zip(COLUMNS, (title(name), task(name), *row), strict=True))


def title(name):
    kind, _, variant = name.partition(" ")
    return f"`{kind}`, {variant}" if variant else f"`{kind}`"


def task(name):
    """Tasks of a pipeline as its signature gives them."""
    kind = getattr(diffusers, name.partition(" ")[0])
    takes = inspect.signature(kind.__call__).parameters
    generates = "text to video" if takes.keys() & {*_FRAMES} else "text to image"
    edits = _is_editor(kind, takes)
    only_edits = edits and not _is_text_to_media(kind, takes)
    return ", ".join([generates] * (not only_edits) + ["image editing"] * edits)


def read():
    """Cells of the page by the title of their pipeline."""
    lines = [line for line in PAGE.read_text("utf-8").splitlines() if line.startswith("|")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: dict(zip(found[0], row, strict=True)) for row in found[2:]}


def write(found):
    """Write the page from rows by title."""
    made = [COLUMNS, ["---"] * len(COLUMNS)]
    made += [[row[column] for column in COLUMNS] for row in found.values()]
    table = [f"| {' | '.join(row)} |" for row in made]
    PAGE.write_text(f"{_HEAD}\n" + "\n".join(table) + "\n", "utf-8")


def main(names):
    if names:
        for name in names:
            sys.stderr.write(f"{cells(name, examine(name))}\n")
        return
    write(rows())


if __name__ == "__main__":
    main(sys.argv[1:])
