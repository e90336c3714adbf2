"""Verdicts of a judge on the items of an arena, to compare them with people's votes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from unified_reward.arena.items import PROMPT, ArenaItem
from unified_reward.core.errors import ConfigError
from unified_reward.core.verdicts import Preferred, Scored
from unified_reward.io.verdict_rows import read_verdict, read_verdict_rows


def judge_probabilities(path: Path, items: Iterable[ArenaItem]) -> dict[str, float]:
    """Read the probability that ``a`` is better, a tie counted half, by id of the item.

    Args:
        path: Verdict rows by id of the item, or the output folder of an evaluation by one reward;
            where that scored the outputs only, the higher score wins.
        items: Items of the arena; those without a verdict are left out.

    Raises:
        ConfigError: The folder holds no verdicts, or those of several rewards.
        DataError: A row is no verdict.
    """
    shares: dict[str, float] = {}
    scores: dict[str, float] = {}
    for row in read_verdict_rows(_verdict_file(path)):
        match read_verdict(row):
            case Preferred() as verdict:
                shares[row["id"]] = verdict.probability
            case Scored(score) if score:
                scores[row["id"]] = score.value
            case _:
                pass
    probabilities: dict[str, float] = {}
    for item in items:
        place = item.id.rpartition("/")[2]
        about = f"{item.example.tags.get(PROMPT)}/{place}"
        a, b = (scores.get(f"{model}/{about}") for model in (item.a, item.b))
        if item.id in shares:
            probabilities[item.id] = shares[item.id]
        elif a is not None and b is not None:
            probabilities[item.id] = 0.5 + 0.5 * ((a > b) - (a < b))
    return probabilities


def _verdict_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted((path / "verdicts").glob("*.jsonl"))
    if len(files) != 1:
        names = ", ".join(map(str, files)) or "none"
        raise ConfigError(f"{path} holds verdicts of {len(files)} rewards: {names}; name one file")
    return files[0]
