"""Page and plot of the study of reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    return "TODO\n"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot curves and gains."""
    return b""
