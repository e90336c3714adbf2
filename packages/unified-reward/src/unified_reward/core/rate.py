"""Column of a progress bar: items for each second."""

from __future__ import annotations

from rich.progress import ProgressColumn, Task
from rich.text import Text


class RateColumn(ProgressColumn):
    """Items of this run for each second, or seconds for each item."""

    def render(self, task: Task) -> Text:
        """See rich's ``ProgressColumn.render``; empty while nothing is known."""
        speed = task.finished_speed or task.speed
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each")
