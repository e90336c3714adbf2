"""Policies aligned by a judge, and examined by an oracle that the judge knows nothing of.

Beside that, two questions about the pairs of image generation: which way of making them teaches
most, and whether a judge of all tasks makes better ones than a judge of that task alone. Every arm
is kept in ``work``, so that a study that was stopped goes on, and several processes can share it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward import policies
from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.run_config import check_run_config
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.strategies import Strategy
from unified_reward.train.dpo import align
from unified_reward.train.dpo_diffusion import DiffusionDPO
from unified_reward.train.dpo_vlm import VLMDPO
from unified_reward.train.optim import OptimConfig
from unified_reward_lab.alignment import (
    AlignedPolicy,
    ExamConfig,
    PreferenceConfig,
    write_candidates,
    write_pairs,
)
from unified_reward_lab.bench.oracle import PolicyExam, examine, gap_closed, mean_known


WAYS = (Strategy.RANDOM, Strategy.SCORE, Strategy.RANK, Strategy.RANK_AND_SIFT)
"""In the order of the publication's Table XII, the best last."""
JUDGED = Task.IMAGE_GENERATION
"""The task whose pairs are asked about."""
DRAWN = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
VOTED = "voted"

_SPEAKING = VLMDPO(
    OptimConfig(steps=60, batch_size=16, accumulate=1, lr=5e-4, warmup=0.1, lora_rank=16)
)
_OF_VIDEOS = VLMDPO(
    OptimConfig(steps=60, batch_size=16, accumulate=1, lr=2e-4, warmup=0.1, lora_rank=16), sft=0.2
)
_DRAWING = DiffusionDPO(
    OptimConfig(steps=300, batch_size=32, accumulate=1, lr=1e-3, warmup=0.1, lora_rank=16),
    beta=1000.0,
    weighting="noise",
)
_FILMING = DiffusionDPO(
    OptimConfig(steps=240, batch_size=32, accumulate=1, lr=5e-4, warmup=0.1, lora_rank=16),
    beta=1000.0,
    weighting="noise",
)


@dataclass(frozen=True)
class AlignmentStudy:
    """What is aligned, by whom, and how it is examined."""

    work: Path = Path("runs/alignment")
    """Folder of the arms."""
    policies: Mapping[Task, AlignedPolicy] = field(
        default_factory=lambda: {
            Task.IMAGE_UNDERSTANDING: AlignedPolicy("tiny_vlm", vlm=_SPEAKING),
            Task.VIDEO_UNDERSTANDING: AlignedPolicy("tiny_vlm", vlm=_OF_VIDEOS, prompts=512),
            Task.IMAGE_GENERATION: AlignedPolicy("tiny_image", diffusion=_DRAWING),
            Task.VIDEO_GENERATION: AlignedPolicy("tiny_video", diffusion=_FILMING, prompts=512),
        }
    )
    judge: str = "tiny_judge"
    judges: Mapping[str, str] = field(default_factory=dict)
    """Two more by the name to show: one of image generation alone, and a joint one, last."""
    voted: str = ""
    """A judge taught by votes on what the policies made (`experiments.votes`); its pairs align the
    policies that draw once more."""
    preferences: PreferenceConfig = field(default_factory=lambda: PreferenceConfig(prompts=256))
    """Their seed is replaced by each of ``seeds``."""
    exam: ExamConfig = field(default_factory=lambda: ExamConfig(n=500, seed=20261125))
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Each names prompts, candidates and draws of a training."""

    def __post_init__(self) -> None:
        if not self.seeds or self.exam.n < 2:
            raise ConfigError("a study needs a seed, and two prompts to examine")

    @property
    def total(self) -> int:
        """Arms, and one examination of each policy before."""
        return len(self.policies) + len([*arms(self)])


class Arm(NamedTuple):
    """One training: a policy on pairs of one seed, made in one way by one judge."""

    task: Task
    seed: int
    judge: str
    """Its name; the reference stands in the study."""
    way: Strategy

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task.value}/{self.seed}/{self.judge}-{self.way.value}"


def arms(study: AlignmentStudy) -> Iterator[Arm]:
    """Every training of a study, those with common candidates one behind the other."""
    for seed in study.seeds:
        for task in study.policies:
            yield Arm(task, seed, "shipped", WAYS[-1])
            if study.voted and task in DRAWN:
                yield Arm(task, seed, VOTED, WAYS[-1])
            if task is JUDGED:
                yield from (Arm(task, seed, "shipped", way) for way in WAYS[:-1])
                yield from (Arm(task, seed, name, WAYS[-1]) for name in study.judges)


def alignment(
    study: AlignmentStudy, progress: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Align and examine whatever is not done yet, and put the figures together.

    Returns:
        By task: ``before`` and, over all seeds, ``after`` (see `PolicyExam.report`); ``gain`` with
        its interval over prompts, by seed, and as the sum of what ``became_right``,
        ``became_readable`` and ``became_unreadable``; ``gap_closed``. By way and by judge: the
        gain of the policy of image generation from equally many pairs.
    """
    before = {task: _exam(study, task, None, progress) for task in study.policies}
    after = {arm: _exam(study, arm.task, arm, progress) for arm in arms(study)}
    main = [arm for arm in after if (arm.judge, arm.way) == ("shipped", WAYS[-1])]
    report: dict[str, Any] = {
        "name": "alignment",
        "n": study.exam.n,
        "seed": study.exam.seed,
        "seeds": [*study.seeds],
        "preferences": asdict(study.preferences),
        "n_unparsed": 0,
        "n_failed": 0,
        "tasks": {},
    }
    for task, old in before.items():
        new = [after[arm] for arm in main if arm.task is task]
        report["tasks"][task.value] = _compared(old, new) | {
            "prompts": study.policies[task].asked(study.preferences).prompts,
            "pairs": [
                len(_kept_rows(_equal_pairs(study, arm))) for arm in main if arm.task is task
            ],
        }
    if study.voted:
        report[VOTED] = {
            task.value: _by_judge(task, before[task], after) for task in DRAWN if task in before
        }
    if JUDGED in before:
        mine = [arm for arm in after if arm.task is JUDGED]
        ways = {
            way.value: [arm for arm in mine if (arm.judge, arm.way) == ("shipped", way)]
            for way in WAYS
        }
        report["ways"] = _contrasted(before[JUDGED], after, ways)
        judges = {name: [arm for arm in mine if arm.judge == name] for name in study.judges}
        if judges:
            report["judges"] = _contrasted(before[JUDGED], after, judges)
    return report


def _exam(
    study: AlignmentStudy, task: Task, arm: Arm | None, progress: Callable[[int], None]
) -> PolicyExam:
    """Of the policy before, or of an arm; from its file where it was examined already."""
    folder = study.work / (arm.name if arm else f"{task.value}/before")
    file = folder / f"exam-{study.exam.seed}-{study.exam.n}.json"
    check_run_config(file, _settings(study, task, arm))
    if not file.exists():
        policy = checkpoint_path(study.policies[task].policy)
        if arm:
            policy = _align(study, arm, folder)
        asked = open_judge(study.judge)
        maker = policies.load(policy, batch_size=1)
        exam = examine(maker, task, asked, n=study.exam.n, seed=study.exam.seed)
        folder.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(f".{os.getpid()}")  # another process may take the same exam
        part.write_text(json.dumps(asdict(exam)) + "\n", "utf-8")
        part.replace(file)
    progress(1)
    return PolicyExam(**json.loads(file.read_text("utf-8")))


def _settings(study: AlignmentStudy, task: Task, arm: Arm | None) -> dict[str, Any]:
    """What an examination depends on; one that was begun otherwise is not gone on with."""
    one = study.policies[task]
    if arm is None:
        return {"policy": one.policy, "examiner": study.judge}
    made_by = {"judge": _judge(study, arm), "examiner": study.judge}
    return asdict(one) | asdict(one.asked(study.preferences)) | {"seed": arm.seed} | made_by


def _judge(study: AlignmentStudy, arm: Arm) -> str:
    return {"shipped": study.judge, VOTED: study.voted, **study.judges}[arm.judge]


def _align(study: AlignmentStudy, arm: Arm, folder: Path) -> Path:
    """Train an arm; its folder when it is done."""
    one = study.policies[arm.task]
    config = one.on(_equal_pairs(study, arm))
    config = replace(
        config,
        vlm=config.vlm and _seeded(config.vlm, arm.seed),
        diffusion=config.diffusion and _seeded(config.diffusion, arm.seed),
    )
    align(config.pairs, checkpoint_path(one.policy), config.training, folder / "dpo")
    return folder / "dpo"


def _seeded(config: Any, seed: int) -> Any:
    return replace(config, optim=replace(config.optim, seed=seed))


def _equal_pairs(study: AlignmentStudy, arm: Arm) -> Path:
    """The arm's pairs, as many as the arms have that it is held against."""
    rivals = [one for one in arms(study) if (one.task, one.seed) == (arm.task, arm.seed)]
    rivals = [one for one in rivals if _side(one) == _side(arm)]
    rows = {one: _kept_rows(_pairs(study, one)) for one in rivals}
    n = min(map(len, rows.values()))
    out = _pairs(study, arm).with_suffix(".equal.jsonl")
    out.write_bytes(b"".join(rows[arm][:n]))
    return out


def _side(arm: Arm) -> str:
    """Arms of one side are held against each other, and have equally many pairs."""
    return arm.judge if arm.judge in ("shipped", VOTED) else "others"


def _kept_rows(pairs: Path) -> list[bytes]:
    with pairs.open("rb") as file:
        return [row for row in file if json.loads(row)["status"] == "kept"]


def _pairs(study: AlignmentStudy, arm: Arm) -> Path:
    """The file of all pairs of an arm; candidates and pairs are made where they are not."""
    folder = study.work / arm.task.value / str(arm.seed)
    how = replace(study.policies[arm.task].asked(study.preferences), seed=arm.seed)
    write_candidates(study.policies[arm.task].policy, arm.task, how, folder / "candidates")
    file = folder / f"pairs-{arm.judge}-{arm.way.value}.jsonl"
    pairing = replace(how.pairing, strategy=arm.way, seed=arm.seed)
    source = folder / "candidates" / "candidates.jsonl"
    write_pairs(source, _judge(study, arm), pairing, file)
    return file


def _by_judge(task: Task, old: PolicyExam, after: Mapping[Arm, PolicyExam]) -> dict[str, Any]:
    """The shipped judge's pairs against those of the one that was taught by votes."""
    groups = {
        name: [arm for arm in after if arm == (task, arm.seed, name, WAYS[-1])]
        for name in ("shipped", VOTED)
    }
    told = _contrasted(old, after, groups)
    start = old.report()["oracle"]["value"]
    for one in told.values():
        one["gap_closed"] = gap_closed(start, start + one["gain"]["value"])
    return told


def _contrasted(
    old: PolicyExam, after: Mapping[Arm, PolicyExam], groups: Mapping[str, Sequence[Arm]]
) -> dict[str, Any]:
    """Gains of groups of arms, and how far the last, said to be best, is ahead of the others."""
    exams = {name: [after[arm] for arm in group] for name, group in groups.items()}
    best = [*exams.values()][-1]
    return {
        name: {
            "gain": _gain([old] * len(each), each).row(),
            "by_seed": [_gain([old], [one]).value for one in each],
            "behind_best": _gain(each, best).row(),
            "readable": _share_readable(each),
            "judge_reward": _rewarded(each),
        }
        for name, each in exams.items()
    }


def _compared(old: PolicyExam, new: Sequence[PolicyExam]) -> dict[str, Any]:
    before = [old] * len(new)
    start = old.report()
    gain = _gain(before, new)
    parts = {
        "became_right": lambda a, b: b - a if a is not None and b is not None else 0.0,
        "became_readable": lambda a, b: b if a is None and b is not None else 0.0,
        "became_unreadable": lambda a, b: -a if a is not None and b is None else 0.0,
    }
    return {
        "before": start,
        "after": {
            "oracle": _over(new, lambda exam: [one or 0.0 for one in exam.oracle_scores]),
            "readable": _share_readable(new),
            "judge_reward": _rewarded(new),
        },
        "gain": gain.row(),
        "by_seed": [_gain([old], [one]).value for one in new],
        "parts": {name: _gain(before, new, part).row() for name, part in parts.items()},
        "gap_closed": gap_closed(start["oracle"]["value"], start["oracle"]["value"] + gain.value),
    }


_Part = Callable[[float | None, float | None], float]


def _gain(
    before: Sequence[PolicyExam],
    after: Sequence[PolicyExam],
    part: _Part = lambda a, b: (b or 0.0) - (a or 0.0),
) -> Metric:
    """Mean gain over prompts and seeds; the interval is over prompts, all their seeds together."""
    gains: list[float] = []
    prompts: list[str] = []
    for old, new in zip(before, after, strict=True):
        gains += [part(a, b) for a, b in zip(old.oracle_scores, new.oracle_scores, strict=True)]
        prompts += new.prompts
    return Metric(sum(gains) / len(gains), mean_interval(gains, prompts), len(gains))


def _over(
    exams: Sequence[PolicyExam], values: Callable[[PolicyExam], Sequence[float | None]]
) -> dict[str, Any]:
    told = [value for one in exams for value in values(one)]
    return mean_known(told, [name for one in exams for name in one.prompts])


def _share_readable(exams: Sequence[PolicyExam]) -> dict[str, Any]:
    return _over(exams, lambda exam: [float(one is not None) for one in exam.oracle_scores])


def _rewarded(exams: Sequence[PolicyExam]) -> dict[str, Any]:
    return _over(exams, lambda exam: exam.rewards)
