"""Voting: judges taught by raters' votes, asked at random or where a judge is least sure.

The raters are an annotator of the microworld with noise, on the oracle's scores of pictures that a
policy generated. A judge is trained from the shipped one on all votes so far; the next votes are
chosen by it. Every training is kept in ``work``, so that an interrupted study is continued.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from unified_reward.core.errors import ConfigError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Preferred, Winner
from unified_reward.io.atomic import write_bytes, write_json
from unified_reward.io.run_config import check_run_config
from unified_reward.io.text import read_json
from unified_reward.judges.registry import open_judge
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import PreferenceConfig, write_candidates
from unified_reward_lab.experiments.experiment import Experiment
from unified_reward_lab.experiments.reinforcement_rewards import scores
from unified_reward_lab.experiments.votes import generated, oracle_scores
from unified_reward_lab.experiments.voting_page import page, plot
from unified_reward_lab.experiments.voting_report import build_report
from unified_reward_lab.microworld import Split
from unified_reward_lab.microworld.annotators import NOISELESS, Annotator


Arm = Literal["random", "uncertain", "disagree"]
Values = np.ndarray[Any, np.dtype[np.float64]]
Pairs = np.ndarray[Any, np.dtype[np.int64]]
Result = dict[str, Any]
"""``points`` by test pair: 1, 0, or 0.5 for a tie; of a trained judge also the share of ``ties``
among its votes by the oracle, and of votes that are ``wrong``, which the oracle contradicts."""
_TASK = Task.IMAGE_GENERATION
_OPTIM = OptimConfig(steps=1, accumulate=1, lr=3e-4, muon_lr=6e-4, warmup=0.03)


@dataclass(frozen=True)
class VotingStudy:
    """Pictures, raters, ways of asking and trainings."""

    work: Path = Path("runs/voting")
    """Folder of pictures and judges."""
    policy: str = "tiny_image"
    prompts: Mapping[Split, int] = field(default_factory=lambda: {"train": 4000, "test": 1500})
    """Number of prompts that are voted on, and of held-out ones on which judges are tested."""
    prompt_seeds: Mapping[Split, int] = field(
        default_factory=lambda: {"train": 29, "test": 20261202}
    )
    pictures: int = 4
    """Pictures of each prompt, every pair of which can be asked about."""
    temperature: float = 0.2
    """Bradley-Terry noise of the rater, in units of the oracle's score."""
    arms: Mapping[Arm, int] = field(
        default_factory=lambda: {"random": 2, "uncertain": 2, "disagree": 1}
    )
    """Number of seeds of each: of the order of asking, the raters' noise and the training.
    ``random``; ``uncertain``: pairs on which the judge so far is least sure; ``disagree``: pairs on
    which it and the second judge differ most."""
    votes: tuple[int, ...] = (500, 1000, 2000, 4000, 8000)
    """Numbers of votes after which a judge is trained, increasing."""
    judge: str = "tiny_scalar"
    """Scalar judge that is taught."""
    second: str = "tiny_judge"
    """Judge that does not learn."""
    epochs: int = 3
    batch_size: int = 32

    def __post_init__(self) -> None:
        if [*self.votes] != sorted({*self.votes}) or not self.votes or self.votes[0] < 1:
            raise ConfigError(f"votes must be increasing numbers from 1, given {self.votes}")
        if not 0 < max(self.arms.values(), default=0) <= self.arms.get("random", 0):
            raise ConfigError("the arm random needs at least as many seeds as any other, and one")

    @property
    def total(self) -> int:
        """Number of trainings."""
        return sum(self.arms.values()) * len(self.votes)


class Pictures(NamedTuple):
    """Pictures of all prompts, in order."""

    prompts: list[str]
    """Caption of each."""
    paths: list[Path]
    utilities: list[float]
    """Oracle's scores, 0 for a picture that it cannot read."""
    pairs: Pairs
    """Places of the two pictures of each pair of one prompt, in random order; shape (pairs, 2)."""


def run(study: VotingStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Train the judges that are missing, and test all of them.

    Returns:
        See `build_report`.
    """
    unlabelled, tested = (read_pictures(study, split) for split in ("train", "test"))
    tested = tested._replace(pairs=_differing(tested))
    shared = ("work", "arms")
    settings = {name: value for name, value in asdict(study).items() if name not in shared}
    check_run_config(study.work / "before.json", settings, {})
    before = _kept(study.work / "before.json", lambda: {"points": _points(study.judge, tested)})
    course = _Course(study, unlabelled, tested)
    done: dict[Arm, list[list[Result]]] = {arm: [] for arm in study.arms}
    for seed in range(max(study.arms.values())):
        arms: list[Arm] = [arm for arm, n in study.arms.items() if seed < n]
        for arm in arms:
            rounds: list[Result] = []
            for result in course.rounds(arm, seed):
                rounds.append(result)
                progress(1)
            done[arm].append(rounds)
    prompts = [tested.prompts[int(first)] for first, _ in tested.pairs]
    return build_report(study.votes, before, {**done}, prompts) | {
        "temperature": study.temperature,
        "unlabelled": len(unlabelled.pairs),
    }


class _Course(NamedTuple):
    study: VotingStudy
    unlabelled: Pictures
    tested: Pictures

    def rounds(self, arm: Arm, seed: int) -> Iterator[Result]:
        """Ask and train up to each number of votes."""
        judge, folder, chosen = self.study.judge, self.study.work, list[int]()
        for n in self.study.votes:
            chosen += choose(self._urgency(arm, judge, folder), n - len(chosen), chosen, seed)
            folder = self.study.work / arm / str(seed) / str(n)
            judge = str(folder / "judge")
            yield _kept(folder / "result.json", partial(self._teach, [*chosen], seed, folder))

    def _urgency(self, arm: Arm, judge: str, folder: Path) -> Values:
        """Urgency of each pair, by the judge so far, whose chances are kept in its folder."""
        unlabelled = self.unlabelled
        if arm == "random":
            return np.zeros(len(unlabelled.pairs))
        file = folder / "chances.json"
        kept = _kept(file, lambda: {"chances": win_chances(judge, unlabelled).tolist()})
        chances = np.array(kept["chances"])
        if arm == "uncertain":
            return 1 - np.abs(2 * chances - 1)
        second, file = self.study.second, self.study.work / "second.json"
        kept = _kept(file, lambda: {"chances": _compared(second, unlabelled)})
        return np.abs(chances - np.array(kept["chances"]))

    def _teach(self, chosen: Sequence[int], seed: int, folder: Path) -> Result:
        """Train a judge on the votes of a rater on some pairs, and test it."""
        study, unlabelled = self.study, self.unlabelled
        rater = Annotator(temperature=study.temperature)
        votes: list[Winner] = [vote(unlabelled, pair, rater, seed) for pair in chosen]
        rows = [_row(unlabelled, pair, votes[i]) for i, pair in enumerate(chosen)]
        random.Random(seed).shuffle(rows)
        lines = (json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_bytes(folder / "votes.jsonl", "".join(lines).encode())
        size = study.batch_size
        steps = math.ceil(study.epochs * len(rows) / size)
        training = JudgeTraining(
            replace(_OPTIM, steps=steps, batch_size=size, seed=seed),
            base=study.judge,
            data=str(folder / "votes.jsonl"),
            head="scalar",
            family="compact",
            frames=4,
        )
        train_judge(training, folder / "judge")
        truth = [vote(unlabelled, pair, NOISELESS, 0) for pair in chosen]
        return {
            "points": _points(str(folder / "judge"), self.tested),
            "ties": truth.count("tie") / len(truth),
            "wrong": sum(a != b for a, b in zip(votes, truth, strict=True)) / len(truth),
        }


def _kept(file: Path, make: Callable[[], Result]) -> Result:
    """Read a result; one that is missing is made."""
    if not file.exists():
        write_json(file, make())
    return read_json(file)


def read_pictures(study: VotingStudy, split: Split) -> Pictures:
    """Read the pictures of a split, which are made if missing."""
    folder, seed = study.work / split, study.prompt_seeds[split]
    config = PreferenceConfig(prompts=study.prompts[split], n=study.pictures, seed=seed)
    if not (folder / "oracle_scores.json").exists():
        write_candidates(study.policy, _TASK, config, folder, split=split)
    scores = oracle_scores(folder, _TASK, seed, split)
    found = Pictures([], [], [], np.empty((0, 2), int))
    pairs: list[Sequence[int]] = []
    rng = random.Random(seed)
    for row in generated(folder):
        places = range(len(found.paths), len(found.paths) + len(row["candidates"]))
        pairs += [rng.sample(two, 2) for two in combinations(places, 2)]
        found.prompts.extend([row["prompt"]] * len(places))
        found.paths.extend((folder / each["image"]).resolve() for each in row["candidates"])
        found.utilities.extend(score or 0.0 for score in scores[row["id"]])
    return found._replace(pairs=np.array(pairs))


def _differing(pictures: Pictures) -> Pairs:
    """Pairs of which the noiseless annotator prefers one."""
    labels = [vote(pictures, i, NOISELESS, 0) for i in range(len(pictures.pairs))]
    return pictures.pairs[[label != "tie" for label in labels]]


def vote(pictures: Pictures, pair: int, rater: Annotator, seed: int) -> Winner:
    """Return a rater's vote on a pair, which depends on nothing else."""
    first, second = (pictures.utilities[place] for place in pictures.pairs[pair])
    return rater.prefer(first, second, np.random.default_rng([seed, pair]))


def choose(urgency: Values, n: int, chosen: Collection[int], seed: int) -> list[int]:
    """Choose the pairs to ask about next, the most urgent first.

    Args:
        urgency: Of each pair.
        n: Number of pairs.
        chosen: Pairs that were asked about before.
        seed: Of the random order of equally urgent pairs.

    >>> choose(np.array([0.1, 0.9, 0.5]), 2, [1], seed=0)
    [2, 0]
    """
    order = np.random.default_rng(seed).permutation(len(urgency))
    order = order[np.argsort(-urgency[order], kind="stable")]
    known = {*chosen}
    return [int(pair) for pair in order if pair not in known][:n]


def _row(pictures: Pictures, pair: int, winner: Winner) -> dict[str, Any]:
    places = pictures.pairs[pair]
    return {
        "id": str(pair),
        "task": _TASK.value,
        "prompt": pictures.prompts[places[0]],
        "candidates": [{"image": str(pictures.paths[place])} for place in places],
        "target": {"winner": winner},
        "source": "votes",
        "schema": 1,
    }


def win_chances(reference: str, pictures: Pictures) -> Values:
    """Probability that the first picture of each pair is better, by the scores of a judge."""
    samples = [
        Sample(_TASK, prompt, (Image(path),), id=str(i))
        for i, (prompt, path) in enumerate(zip(pictures.prompts, pictures.paths, strict=True))
    ]
    given = [value for value in scores(open_judge(reference), samples) if value is not None]
    if len(given) < len(samples):
        raise ConfigError(f"{reference} scored {len(given)} of {len(samples)} pictures")
    first, second = np.array(given)[pictures.pairs.T]
    # Scores are sigmoids of the values that a scalar judge's Bradley-Terry model compares.
    return first * (1 - second) / (first * (1 - second) + second * (1 - first))


def _points(reference: str, tested: Pictures) -> list[float]:
    """1 for each pair whose better picture is the more probable one, 0 for others, a tie half."""
    utilities = np.array(tested.utilities)[tested.pairs]
    chances = win_chances(reference, tested)
    signs = np.sign(chances - 0.5) * np.sign(utilities[:, 0] - utilities[:, 1])
    return ((signs + 1) / 2).tolist()


def _compared(reference: str, pictures: Pictures) -> list[float]:
    """Probability of the first picture of each pair by a judge that compares, in both orders."""
    samples = [
        Sample(_TASK, pictures.prompts[a], (Image(pictures.paths[a]), Image(pictures.paths[b])))
        for a, b in pictures.pairs
    ]
    verdicts = open_judge(reference).ask(samples)
    found = [verdict.probability for verdict in verdicts if isinstance(verdict, Preferred)]
    if len(found) < len(samples):
        raise ConfigError(f"{reference} compared {len(found)} of {len(samples)} pairs")
    return found


EXPERIMENT = Experiment(VotingStudy, run, page, plot)
