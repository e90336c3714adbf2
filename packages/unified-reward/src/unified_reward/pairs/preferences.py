"""Preference pairs of a file, for training a policy.

Knows neither judges nor trainers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import PreferencePair, Task, check_context
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import Row, read_examples


class PairRow(NamedTuple):
    """One line of a file with its preference pair, or why it has none."""

    row: Row
    status: str
    """``kept``; ``dropped`` where there is no preference; ``failed`` where something could not be
    read or asked when the row was made; ``unusable`` where the line itself is wrong."""
    pair: PreferencePair | None
    reason: str = ""


def read_pairs(path: Path) -> Iterator[PairRow]:
    """Read the preference pairs of a file: made ones, and records of two candidates with a winner.

    Raises:
        DataError: The file cannot be opened.
    """
    for row in read_examples(path):
        if isinstance(row.content, Failed):
            reason = row.reason if row.status == "failed" else row.content.reason
            yield PairRow(row, row.status, None, reason)
        elif row.status in ("dropped", "failed"):
            yield PairRow(row, row.status, None, row.reason)
        else:
            pair = row.content.as_pair()
            if pair is None:
                reason = f"line {row.line}: no candidate is preferred to another"
                yield PairRow(row, "dropped", None, reason)
            else:
                yield PairRow(row, "kept", pair)


def trainable_pairs(
    path: Path, tasks: Sequence[Task], log: Callable[[str], None]
) -> tuple[list[PreferencePair], Counter[str]]:
    """Read the pairs of a file that a policy for these tasks can learn from.

    Args:
        path: A file of pairs, or of records such as human votes.
        tasks: Tasks of the policy.
        log: Called with the reason for every row that cannot be used.

    Returns:
        The pairs, and how many rows were ``kept``, ``dropped``, ``failed`` and ``unusable``; pairs
        of another task, and those whose candidates are the same, are unusable.

    Raises:
        ConfigError: All pairs are of other tasks.
        DataError: The file cannot be opened, or holds no pair that can be used.
    """
    pairs: list[PreferencePair] = []
    counts: Counter[str] = Counter()
    n_undecided = 0
    other_tasks: set[str] = set()
    for row, row_status, pair, row_reason in read_pairs(path):
        status, reason = row_status, row_reason
        if pair and pair.task not in tasks:
            other_tasks.add(pair.task.value)
            status, reason = "unusable", f"line {row.line}: a pair of {pair.task.value}"
        elif pair:
            try:
                check_context(pair.task, pair.context)
                pairs.append(pair)
            except DataError as error:
                status, reason = "unusable", f"line {row.line}: {error}"
        counts[status] += 1
        n_undecided += status == "dropped" != row.status
        if status == "unusable":
            log(reason)
    if other_tasks and not pairs:
        raise ConfigError(
            f"the policy is for {' and '.join(tasks)}, and the pairs of {path} are of "
            f"{', '.join(sorted(other_tasks))}"
        )
    if not pairs:
        found = ", ".join(f"{n} {status}" for status, n in sorted(counts.items())) or "no rows"
        if n_undecided:
            found += f"; {n_undecided} without a preference: make pairs with `unified-reward pairs`"
        raise DataError(f"{path} holds no pair to learn from: {found}")
    return pairs, counts
