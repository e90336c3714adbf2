"""Votes: a judge trained on votes on images and videos that the policies generated.

The shipped judges are trained on rendered scenes alone. Here the microworld's oracle stands for
people who vote on generated candidates of training prompts that nothing else uses, and a scalar
judge is trained further on those votes. It is compared with the shipped judges by its accuracy on
generated candidates; the study of alignment uses it to make pairs.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from unified_reward import media
from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Example, Image, Task, Video
from unified_reward.core.verdicts import Failed, Preferred
from unified_reward.io.atomic import write_bytes, write_json
from unified_reward.io.fingerprints import text_fingerprint
from unified_reward.io.rows import read_examples
from unified_reward.io.run_config import check_run_config
from unified_reward.io.text import read_json, read_json_lines
from unified_reward.judges.files import checkpoint_files
from unified_reward.judges.registry import open_judge
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import write_candidates
from unified_reward_lab.bench.oracle import mean_known
from unified_reward_lab.experiments.alignment import AlignmentStudy
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.page import table, with_interval
from unified_reward_lab.microworld import Split, policy_prompt


@dataclass(frozen=True)
class VoteStudy:
    """Votes to make, and the training on them."""

    work: Path = Path("runs/votes")
    """Folder of candidates, votes and the judge."""
    seeds: Mapping[Task, tuple[int, ...]] = field(
        default_factory=lambda: {
            Task.IMAGE_GENERATION: (10, 11),
            Task.VIDEO_GENERATION: (10, 11, 12),
        }
    )
    """Seeds of training prompts, other than those of the study."""
    prompts: int = 512
    """Prompts per seed."""
    each: int = 6
    """Largest number of votes per prompt."""
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
    """References of judges to compare with, by the name to show."""
    study: AlignmentStudy = field(default_factory=AlignmentStudy)
    """Study whose training prompts the judges are tested on, one comparison per prompt."""

    def __post_init__(self) -> None:
        if any(set(seeds) & set(self.study.seeds) for seeds in self.seeds.values()):
            raise ConfigError(
                "votes and pairs must have different training prompts: no seed of the study"
            )

    @property
    def total(self) -> int:
        """Number of judges."""
        return len(self.judges) + 1


def run(config: VoteStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Make what is missing of candidates, votes and judge, and test the judges.

    Returns:
        ``votes`` by task; by judge and task the pair accuracy on comparisons whose candidates
        have different oracle scores.
    """
    rows = [*_vote_rows(config)]
    judge = config.work / "judge"
    file = judge / "votes.jsonl"
    settings = {"votes": len(rows), "training": asdict(config.training)}
    files = {"the votes": text_fingerprint(json.dumps(rows, allow_nan=False))}
    check_run_config(file, settings, files | checkpoint_files(config.training.base))
    if not (judge / "unified_reward.json").exists():
        random.Random(0).shuffle(rows)
        _write_rows(file, rows)
        train_judge(replace(config.training, data=str(file)), judge)
    tests = config.work / "examined.jsonl"
    _write_rows(tests, _test_rows(config))
    examples = [row.content for row in read_examples(tests) if isinstance(row.content, Example)]
    report: dict[str, Any] = {
        "name": "votes",
        "votes": {task: sum(row["task"] == task for row in rows) for task in config.seeds},
        "n_unparsed": 0,
        "n_failed": 0,
        "judges": {},
    }
    for name, reference in {**config.judges, "voted": str(judge)}.items():
        report["judges"][name] = _accuracy(reference, examples)
        progress(1)
    return report


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_bytes(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows).encode())


def _vote_rows(config: VoteStudy) -> Iterator[dict[str, Any]]:
    for task, seeds in config.seeds.items():
        for seed in seeds:
            folder = config.work / task.value / str(seed) / "candidates"
            preferences = replace(config.study.preferences, prompts=config.prompts, seed=seed)
            write_candidates(config.study.policies[task].policy, task, preferences, folder)
            yield from vote(folder, task, seed, config.each)


def _test_rows(config: VoteStudy) -> Iterator[dict[str, Any]]:
    for task in config.seeds:
        policy = config.study.policies[task]
        for seed in config.study.seeds:
            folder = config.study.work / task.value / str(seed) / "candidates"
            preferences = replace(policy.preferences(config.study.preferences), seed=seed)
            write_candidates(policy.policy, task, preferences, folder)
            yield from vote(folder, task, seed, 1)


def vote(folder: Path, task: Task, seed: int, most: int) -> Iterator[dict[str, Any]]:
    """Make rows of comparisons of candidates with different oracle scores.

    Args:
        folder: Folder of ``candidates.jsonl``.
        task: Task of the candidates.
        seed: Seed of their prompts, of the training split.
        most: Largest number of comparisons per prompt.
    """
    scores_by_id = oracle_scores(folder, task, seed)
    for row in generated(folder):
        scores = [score or 0.0 for score in scores_by_id[row["id"]]]
        rng = random.Random(row["id"])
        pairs = [(i, j) for i, a in enumerate(scores) for j, b in enumerate(scores) if a > b]
        rng.shuffle(pairs)
        for best, worst in pairs[:most]:
            order = (best, worst) if rng.random() < 0.5 else (worst, best)
            candidates = [
                {kind: str((folder / path).resolve()) for kind, path in candidate.items()}
                for candidate in (row["candidates"][i] for i in order)
            ]
            yield {
                "id": "-".join(map(str, (row["id"], *order))),
                "task": task.value,
                "prompt": row["prompt"],
                "candidates": candidates,
                "target": {"winner": "first" if order[0] == best else "second"},
                "source": "votes",
                "schema": 1,
            }


def generated(folder: Path) -> Iterator[dict[str, Any]]:
    """Iterate over the rows of the prompts with candidates."""
    for _, row in read_json_lines(folder / "candidates.jsonl"):
        if row["status"] == "generated":
            yield row


def oracle_scores(
    folder: Path, task: Task, seed: int, split: Split = "train"
) -> dict[str, list[float | None]]:
    """Oracle's score of each candidate by the id of its prompt, kept in a file beside them."""
    file = folder / "oracle_scores.json"
    if not file.exists():
        scores: dict[str, list[float | None]] = {}
        for row in generated(folder):
            index = int(row["id"].split("-")[-1])
            prompt = policy_prompt(task, split=split, seed=seed, index=index)
            candidates = (_open(folder, candidate) for candidate in row["candidates"])
            scores[row["id"]] = [*map(prompt.oracle_score, candidates)]
        write_json(file, scores)
    return read_json(file)


def _open(folder: Path, candidate: Mapping[str, str]) -> Image | Video:
    if "video" in candidate:
        return Video(media.sample_frames(folder / candidate["video"], 8).pixels, "THWC")
    return Image(np.asarray(media.open_image(folder / candidate["image"])), "HWC")


def _accuracy(reference: str, examples: Sequence[Example]) -> dict[str, Any]:
    """Pair accuracy by task; a tie counts half."""
    verdicts = open_judge(reference).ask([example.sample for example in examples])
    points: dict[Task, list[tuple[float, str]]] = {}
    for example, verdict in zip(examples, verdicts, strict=True):
        if not isinstance(verdict, Preferred):
            reason = verdict.reason if isinstance(verdict, Failed) else type(verdict).__name__
            raise ConfigError(f"{reference} did not compare {example.id}: {reason}")
        point = {"tie": 0.5, example.target.winner: 1.0}.get(verdict.winner, 0.0)
        points.setdefault(example.task, []).append((point, example.prompt))
    return {task.value: mean_known(*zip(*each, strict=True)) for task, each in points.items()}


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    tasks = [*report["votes"]]
    rows = [
        [name, *(with_interval(each[task]) for task in tasks)]
        for name, each in report["judges"].items()
    ]
    counted = ", ".join(f"{n:,} on {task}" for task, n in report["votes"].items())
    lines = [
        "## Judges of generated images and videos",
        "",
        f"Pair accuracy on comparisons of candidates with different oracle scores, one per "
        f"training prompt; unreadable candidates score 0. `voted` is the scalar judge trained "
        f"further on votes on other prompts ({counted}).",
        "",
        *table(["judge", *tasks], rows),
    ]
    return "\n".join(lines) + "\n"


EXPERIMENT = Experiment(VoteStudy, run, page)
