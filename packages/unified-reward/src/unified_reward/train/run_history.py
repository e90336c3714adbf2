"""Figures of a run while it goes on: a file of rows, and the trackers of accelerate."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from unified_reward.core.errors import ConfigError, one_line
from unified_reward.io.atomic import write_bytes, written
from unified_reward.io.text import read_text
from unified_reward.train.grpo_config import DiffusionGRPO


FILE = "history.jsonl"
"""File in a run's folder with a row for each step."""
_TRACKED = "checkpoints/tracked"
"""File with the number of the last step that the trackers have."""
_PROJECT = "unified-reward"


def tracker_names(report_to: str | Sequence[str]) -> list[str]:
    """Names of trackers that accelerate can log with; ``all`` stands for all that are installed.

    Raises:
        ConfigError: Accelerate does not know one, or its package is not installed.
    """
    given = [report_to] if isinstance(report_to, str) else [*report_to]
    own = [name for name in LOGGER_TYPE_TO_CLASS if name not in LoggerType.list()]
    installed = [*map(str, get_available_trackers()), *own]
    known = [*LoggerType.list(), *own]
    for name in given:
        if name not in known:
            raise ConfigError(f"report_to: {name!r} is no tracker; there are {', '.join(known)}")
        if name not in (*installed, "all"):
            raise ConfigError(
                f"report_to: {name} is not installed; install it, or name one that is: "
                f"{', '.join(installed) or 'there is none'}"
            )
    return installed if "all" in given else given


class RunHistory:
    """Rows of figures, in the first process; each goes to every tracker once."""

    def __init__(self, folder: Path, accelerator: Accelerator, config: DiffusionGRPO) -> None:
        """Set up.

        Args:
            folder: Folder of the run.
            accelerator: Made with the names of the trackers.
            config: Settings, for the trackers.
        """
        self._folder, self._accelerator, self._config = folder, accelerator, config
        self._tracked = -1

    def begin(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Write the rows of a run that goes on, in place of any others; start the trackers.

        Raises:
            ConfigError: A tracker cannot be started.
        """
        if not self._accelerator.is_main_process:
            return
        rows = [row_of(history, step) for step in range(len(history["loss"]) + 1)]
        lines = [json.dumps(row, allow_nan=False) for row in rows if len(row) > 1]
        write_bytes(self._folder / FILE, "".join(f"{line}\n" for line in lines).encode())
        if self._accelerator.log_with:
            self._start_trackers()
        for row in rows:
            self._track(row)

    def _start_trackers(self) -> None:
        settings = asdict(self._config)
        settings |= {f"optim.{name}": value for name, value in settings.pop("optim").items()}
        plain = {k: v if isinstance(v, int | float | str) else str(v) for k, v in settings.items()}
        if (file := self._folder / _TRACKED).is_file():
            self._tracked = int(read_text(file))
        options = {"wandb": {"dir": str(self._folder)}}
        try:
            self._accelerator.init_trackers(_PROJECT, plain, options)
        except Exception as error:
            raise ConfigError(f"a tracker cannot be started: {one_line(error)}") from error

    def add(self, history: Mapping[str, Sequence[Any]]) -> None:
        """Add the row of the last step."""
        if not self._accelerator.is_main_process:
            return
        row = row_of(history, len(history["loss"]))
        path = self._folder / FILE
        with written(path), path.open("ab") as file:
            file.write(f"{json.dumps(row, allow_nan=False)}\n".encode())
        self._track(row)

    def _track(self, row: Mapping[str, Any]) -> None:
        step = row["step"]
        if not self._accelerator.log_with or step <= self._tracked or len(row) < 2:
            return
        self._accelerator.log(_flat(row), step=step)
        self._tracked = step
        write_bytes(self._folder / _TRACKED, str(step).encode())

    def finish(self) -> None:
        """Let the trackers send what they have."""
        for tracker in self._accelerator.trackers:
            tracker.finish()


def row_of(history: Mapping[str, Sequence[Any]], step: int) -> dict[str, Any]:
    """Row of the figures of a step, from 1; 0 has what was measured before the first.

    Args:
        history: Figures by name: a list with a value a step; and ``held_out``, a list of the step,
            the mean reward, and the mean of each reward by name.
        step: Number of the step.
    """
    row: dict[str, Any] = {"step": step}
    if step:
        row |= {name: values[step - 1] for name, values in history.items() if name != "held_out"}
    for at, reward, by_name in history["held_out"]:
        if at == step:
            row |= {"held_out": reward, "held_out_rewards": by_name}
    return row


def _flat(row: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a row, those inside others under ``NAME/PART``."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        parts = value.items() if isinstance(value, Mapping) else ()
        flat |= {f"{name}/{part}": each for part, each in parts} or {name: value}
    return {name: value for name, value in flat.items() if value is not None and name != "step"}
