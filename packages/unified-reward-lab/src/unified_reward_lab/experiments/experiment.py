"""Experiment: what ``unified-reward experiment`` runs, as each module here defines one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Experiment(NamedTuple):
    """Configuration, run, page and plot of an experiment."""

    config: type[Any]
    """Dataclass with ``total``, the number of steps of its progress bar."""
    run: Callable[[Any, Callable[[int], None]], dict[str, Any]]
    """From a configuration and a progress callback to a report in JSON."""
    page: Callable[[dict[str, Any]], str]
    """From the report to a section in Markdown."""
    plot: Callable[[dict[str, Any]], bytes] | None = None
    """From the report to a plot as a PNG file."""
