"""A stage over a file of rows: in order, resumable, in this process or on a Ray cluster.

Rows are worked on in chunks that begin at the same rows whenever a run is started, so that a run
that was stopped makes the same batches, and the same numbers, as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import parse_row
from unified_reward.judges.bulk import Line, Rows
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.make import PairOptions, failed_row, make_pairs, pairs_row


@dataclass(frozen=True)
class PairWork:
    """A pairs row of every row of candidates."""

    source: Path
    out: Path
    judge: str
    model: str | None
    family: str | None
    how: PairOptions

    def open(self) -> Callable[[Sequence[Line]], Rows]:
        """Load the judge."""
        judge = open_judge(self.judge, model=self.model, family=self.family)

        def pairs(lines: Sequence[Line]) -> Rows:
            read = [
                Failed(line.error)
                if line.error
                else parse_row(line.raw.encode(), self.source.parent)
                for line in lines
            ]
            pools = [one for one in read if isinstance(one, Example)]
            made = iter(make_pairs(pools, judge, self.how))
            return [
                pairs_row(next(made), judge, self.out.parent)
                if isinstance(one, Example)
                else failed_row(line.id, one.error, judge, self.how)
                for line, one in zip(lines, read, strict=True)
            ]

        return pairs
