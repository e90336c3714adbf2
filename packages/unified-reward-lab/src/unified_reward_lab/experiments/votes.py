"""A judge that is taught by votes on what the policies themselves made, as published ones are.

The shipped judges have learned from rendered scenes alone. Here the microworld's oracle stands for
people who vote on generated images and videos of training prompts that nothing else uses, and a
scalar judge goes on from those votes. Beside it: how often the shipped judges are right about
what policies made. Whether its pairs align better is asked by the study of alignment.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.core.verdicts import Failed, Preferred
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.judges.registry import open_judge
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import write_candidates
from unified_reward_lab.experiments.alignment import AlignmentStudy
from unified_reward_lab.experiments.page import table, told
from unified_reward_lab.microworld import policy_prompt


_CHUNK = 64


@dataclass(frozen=True)
class Votes:
    """On what is voted, and what is learned from it."""

    work: Path = Path("runs/votes")
    """Folder of candidates, votes and the judge."""
    seeds: Mapping[Task, tuple[int, ...]] = field(
        default_factory=lambda: {
            Task.IMAGE_GENERATION: (10, 11),
            Task.VIDEO_GENERATION: (10, 11, 12),
        }
    )
    """Of training prompts; none of those of the study."""
    prompts: int = 512
    """Of each seed."""
    each: int = 6
    """Comparisons of a prompt that are voted on, at most."""
    training: JudgeTraining = field(
        default_factory=lambda: JudgeTraining(
            OptimConfig(steps=900, batch_size=32, accumulate=1, lr=3e-4, muon_lr=6e-4, warmup=0.03),
            base="tiny_scalar",
            head="scalar",
            family="compact",
            frames=4,
        )
    )
    judges: Mapping[str, str] = field(
        default_factory=lambda: {"generative": "tiny_judge", "scalar": "tiny_scalar"}
    )
    """Held against it, by the name to show."""
    study: AlignmentStudy = field(default_factory=AlignmentStudy)
    """On whose training prompts judges are examined, a comparison a prompt."""

    def __post_init__(self) -> None:
        if any(set(seeds) & set(self.study.seeds) for seeds in self.seeds.values()):
            raise ConfigError("votes and pairs need training prompts of their own: other seeds")

    @property
    def total(self) -> int:
        """Judges that are examined."""
        return len(self.judges) + 1


def votes(config: Votes, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Make whatever is not there yet of candidates, votes and judge; examine the judges.

    Returns:
        ``votes`` by task; by judge and task ``pair_accuracy`` on comparisons of different worth.
    """
    cast = [*_cast(config)]
    judge = config.work / "judge"
    check_run_config(
        judge / "votes.jsonl", {"votes": len(cast), "training": asdict(config.training)}
    )
    file = judge / "votes.jsonl"
    if not (judge / "unified_reward.json").exists():
        random.Random(0).shuffle(cast)
        file.write_text("".join(json.dumps(row) + "\n" for row in cast), "utf-8")
        train_judge(replace(config.training, data=str(file)), judge)
    tested = config.work / "examined.jsonl"
    tested.write_text("".join(json.dumps(row) + "\n" for row in _examined(config)), "utf-8")
    records = [row.content for row in read_examples(tested) if isinstance(row.content, Example)]
    report: dict[str, Any] = {
        "name": "votes",
        "votes": {task: sum(row["task"] == task for row in cast) for task in config.seeds},
        "n_unparsed": 0,
        "n_failed": 0,
        "judges": {},
    }
    for name, reference in {**config.judges, "voted": str(judge)}.items():
        report["judges"][name] = _right(reference, records)
        progress(1)
    return report


def _cast(config: Votes) -> Iterator[dict[str, Any]]:
    for task, seeds in config.seeds.items():
        for seed in seeds:
            folder = config.work / task.value / str(seed) / "candidates"
            how = replace(config.study.preferences, prompts=config.prompts, seed=seed)
            write_candidates(config.study.policies[task].policy, task, how, folder)
            yield from vote(folder, task, seed, config.each)


def _examined(config: Votes) -> Iterator[dict[str, Any]]:
    for task in config.seeds:
        for seed in config.study.seeds:
            folder = config.study.work / task.value / str(seed) / "candidates"
            one = config.study.policies[task]
            how = replace(one.asked(config.study.preferences), seed=seed)
            write_candidates(one.policy, task, how, folder)
            yield from vote(folder, task, seed, 1)


def vote(folder: Path, task: Task, seed: int, most: int) -> Iterator[dict[str, Any]]:
    """Record rows of comparisons of different worth, at most so many a prompt.

    Args:
        folder: Where ``candidates.jsonl`` is.
        task: Of the candidates.
        seed: Of their prompts, of the training split.
        most: Comparisons of a prompt.
    """
    oracle_scores = _worths(folder, task, seed)
    for row in _generated(folder):
        worth = [one or 0.0 for one in oracle_scores[row["id"]]]
        rng = random.Random(row["id"])
        better = [
            (i, j)
            for i in range(len(worth))
            for j in range(len(worth))
            if i != j and worth[i] > worth[j]
        ]
        rng.shuffle(better)
        for best, worst in better[:most]:
            shown = (best, worst) if rng.random() < 0.5 else (worst, best)
            candidates = [
                {
                    kind: str((folder / path).resolve())
                    for kind, path in row["candidates"][i].items()
                }
                for i in shown
            ]
            yield {
                "id": "-".join(map(str, (row["id"], *shown))),
                "task": task.value,
                "prompt": row["prompt"],
                "candidates": candidates,
                "target": {"winner": "first" if shown[0] == best else "second"},
                "source": "votes",
                "schema": 1,
            }


def _generated(folder: Path) -> Iterator[dict[str, Any]]:
    for line in (folder / "candidates.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["status"] == "generated":
            yield row


def _worths(folder: Path, task: Task, seed: int) -> dict[str, list[float | None]]:
    """What each candidate is worth to the oracle; kept beside them."""
    file = folder / "worths.json"
    if not file.exists():
        found: dict[str, list[float | None]] = {}
        for row in _generated(folder):
            asked = policy_prompt(
                task, split="train", seed=seed, index=int(row["id"].split("-")[-1])
            )
            found[row["id"]] = [
                asked.oracle_score(_opened(folder, one)) for one in row["candidates"]
            ]
        file.write_text(json.dumps(found) + "\n", "utf-8")
    return json.loads(file.read_text("utf-8"))


def _opened(folder: Path, candidate: Mapping[str, str]) -> Image | Video:
    if "video" in candidate:
        return Video(media.sample_frames(folder / candidate["video"], 8).pixels, "THWC")
    return Image(np.asarray(media.open_image(folder / candidate["image"])), "HWC")


def _right(reference: str, records: list[Example]) -> dict[str, Any]:
    """Share of comparisons whose winner is named, by task; ties count half."""
    judge = open_judge(reference)
    points: dict[Task, list[tuple[float, str]]] = {}
    for start in range(0, len(records), _CHUNK):
        chunk = records[start : start + _CHUNK]
        for record, verdict in zip(chunk, judge.ask([one.sample for one in chunk]), strict=True):
            if not isinstance(verdict, Preferred):
                why = verdict.error if isinstance(verdict, Failed) else type(verdict).__name__
                raise ConfigError(f"{reference} did not compare {record.id}: {why}")
            point = {"tie": 0.5, record.target.winner: 1.0}.get(verdict.winner, 0.0)
            points.setdefault(record.sample.task, []).append((point, record.sample.prompt))
    told = {}
    for task, each in points.items():
        values, prompts = zip(*each, strict=True)
        mean = sum(values) / len(values)
        told[task.value] = Metric(mean, mean_interval(values, prompts), len(values)).row()
    return told


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section."""
    tasks = [*report["votes"]]
    rows = [
        [name, *(told(each[task]) for task in tasks)] for name, each in report["judges"].items()
    ]
    counted = ", ".join(f"{n:,} on {task}" for task, n in report["votes"].items())
    lines = [
        "## Judges of what policies make",
        "",
        f"Pair accuracy on comparisons of candidates of different worth to the oracle, one a "
        f"training prompt, unreadable ones worth 0. `voted` went on from the scalar judge with "
        f"votes on other prompts ({counted}).",
        "",
        *table(["judge", *tasks], rows),
    ]
    return "\n".join(lines) + "\n"
