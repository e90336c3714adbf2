"""History of a run of TRL's GRPO, by the names of this package."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unified_reward.io.atomic import write_bytes


FIGURE = "figures/"
"""Begins the names of our own figures in TRL's log."""
_REWARD = "rewards/"
"""Begins the name of a figure that is the mean of a reward."""
_ROW_ONLY = ("step", "loss", "rewards")
_LOGGED = {
    "reward": "reward",
    "spread": "reward_std",
    "kl": "kl",
    "clipped": "clip_ratio/region_mean",
    "entropy": "entropy",
    "tokens": "completions/mean_length",
    "cut": "completions/clipped_ratio",
}
"""Names of figures in TRL's log."""


class Measurements(TrainerCallback):
    """Measures held-out prompts after some steps and after the last; writes the history."""

    def __init__(self, every: int, history: Path) -> None:
        """Set up; 0 measures none."""
        self._every, self._history = every, history

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Have the held-out prompts measured where they are due."""
        step = state.global_step
        if self._every and (step % self._every == 0 or step == state.max_steps):
            control.should_evaluate = True

    def on_log(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the history of the steps so far."""
        if state.is_world_process_zero:
            rows = history_rows(state.log_history)
            lines = [json.dumps(row, allow_nan=False) + "\n" for row in rows]
            write_bytes(self._history, "".join(lines).encode())


def history(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures by step, and the rewards of held-out prompts, from the rows of `history_rows`."""
    rows = history_rows(log)
    steps = [row for row in rows if "reward" in row]
    names = dict.fromkeys(name for row in steps for name in row)
    measured = [row for row in rows if "held_out" in row]
    return {
        **{name: [row.get(name) for row in steps] for name in names if name not in _ROW_ONLY},
        "rewards": _by_name([row["rewards"] for row in steps]),
        "held_out": [[row["step"], row["held_out"]] for row in measured],
        "held_out_rewards": {
            name: [[row["step"], value] for row, value in zip(measured, values, strict=True)]
            for name, values in _by_name([row["held_out_rewards"] for row in measured]).items()
        },
    }


def _by_name(rows: Sequence[Mapping[str, float | None]]) -> dict[str, list[float | None]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def history_rows(log: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Figures of TRL's log by our names: a row for each step, and for each measurement.

    ``rewards`` has the mean of each reward by name, ``held_out`` the mean reward of the held-out
    prompts and ``held_out_rewards`` those by name.
    """
    rows: list[dict[str, Any]] = []
    for entry in log:
        head = "eval_" * ("eval_loss" in entry)
        own = {
            key.removeprefix(head + FIGURE): _rounded(value)
            for key, value in entry.items()
            if key.startswith(head + FIGURE)
        }
        rewards = {k.removeprefix(_REWARD): v for k, v in own.items() if k.startswith(_REWARD)}
        reward = own.get("reward", _rounded(entry.get(f"{head}reward")))
        if head:
            row = {"held_out": reward, "held_out_rewards": rewards}
        elif "loss" in entry:
            figures = {name: _rounded(entry.get(key)) for name, key in _LOGGED.items()}
            figures |= {name: value for name, value in own.items() if not name.startswith(_REWARD)}
            row = {"loss": _rounded(entry["loss"]), **figures, "rewards": rewards}
        else:
            continue
        rows.append({"step": entry["step"], **row})
    return rows


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 9)
