"""Sections of docs/results.md about speed, made of the reports in docs/results.

    python -m benchmarks.pages

A benchmark in `SECTIONS` has ``page(report)``, the section in Markdown; its report lies in
docs/results under the benchmark's name.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

from unified_reward_lab.experiments.page import replace_section


DOCS = Path(__file__).parents[1] / "docs"
SECTIONS = ("real_shapes", "decoding", "scale", "diffusion_shapes", "gpu")


def reports() -> dict[str, Path]:
    """Committed reports by the name of their benchmark."""
    files = {name: DOCS / "results" / f"{name}.json" for name in SECTIONS}
    return {name: file for name, file in files.items() if file.exists()}


def section(name: str, report: Path) -> str:
    """Section of a benchmark, from its report."""
    page = import_module(f"benchmarks.{name}").page
    return page(json.loads(report.read_text("utf-8")))


if __name__ == "__main__":
    for name, report in reports().items():
        replace_section(DOCS / "results.md", name, section(name, report))
