"""Pairs in bulk: a pairs row for every row of candidates, as `judges.bulk` runs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed
from unified_reward.io.rows import Row
from unified_reward.io.run_config import Origin
from unified_reward.judges.bulk import OutputRows, Worker
from unified_reward.judges.files import judge_files
from unified_reward.judges.registry import JudgeOptions, open_reference
from unified_reward.pairs.make import WINDOW, failed_row, pair_examples
from unified_reward.pairs.strategies import PairOptions


CHUNK = WINDOW
"""Prompts whose pairs are made, and then appended, together: one window of the judge."""


@dataclass(frozen=True)
class PairWork:
    """A pairs row for every row of candidates."""

    folder: Path
    """Folder of the output file, at which its media paths start."""
    judge: str
    judge_options: JudgeOptions
    options: PairOptions

    @property
    def origin(self) -> Origin:
        """Settings and files of the judge, settings of the pairs, and the prompts."""
        config = {"judge": self.judge, **self.judge_options.settings(), **asdict(self.options)}
        reads = ("task", "prompt", "candidates", "context", "criteria", "tags")
        return Origin(config, partial(judge_files, self.judge, self.judge_options), reads)

    def open(self) -> Worker:
        """Open the judge."""
        judge = open_reference(self.judge, self.judge_options)
        return lambda rows: pair_rows(rows, judge, self.options, self.folder)


def pair_rows(
    rows: Sequence[Row], judge: BaseJudge, options: PairOptions, folder: Path
) -> OutputRows:
    """Make a pairs row of a file in ``folder`` for each row of candidates, in order."""
    examples = [row.content for row in rows if isinstance(row.content, Example)]
    results = iter(pair_examples(examples, judge, options))
    return [
        failed_row(row, row.content.reason, judge, options, folder)
        if isinstance(row.content, Failed)
        else next(results).row(folder)
        for row in rows
    ]
