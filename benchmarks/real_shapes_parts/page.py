"""Section of docs/results.md about speed at real shapes, made of the report."""

from __future__ import annotations

from typing import Any


AIMS = {
    "image_generation": 1.35,
    "video_generation": 1.6,
    "image_understanding": 3.0,
    "video_understanding": 8.0,
}


def ratios(cell: dict[str, Any]) -> dict[str, Any]:
    """Batch and loop by ours, by length of the answers, and ours by the bound."""
    seconds = cell["seconds"]
    ours = seconds["ours"]
    return {
        "batch": {n: s / ours for n, s in seconds["batch"].items()},
        "loop": {n: s / ours for n, s in seconds["loop"].items()},
        "bound": ours / sum(seconds["bound"].values()),
    }


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Ratios at N = 10 of the first architecture, by the batch's answers of one token."""
    first = report["models"][0]["architecture"]
    cells = {
        cell["task"]: ratios(cell)
        for cell in report["cells"]
        if cell["architecture"] == first and cell["n"] == 10
    }
    return {
        "speedup_over_batch": {task: each["batch"]["1"] for task, each in cells.items()},
        "bound_ratio": max(each["bound"] for each in cells.values()),
        "equal": report["equality"]["all"]["share"],
    }


def page(report: dict[str, Any]) -> str:
    return "## Speed of judging at real shapes\n" + str(summary(report))
