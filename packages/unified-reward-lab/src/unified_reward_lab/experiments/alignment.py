"""Alignment: policies aligned by a judge, examined by an oracle that is independent of it.

Also compared, for image generation: the strategies of making pairs, and the pairs of a judge of
all tasks with those of a judge of that task alone. Every arm is kept in ``work``, so that an
interrupted study is continued, and several processes can share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward import policies
from unified_reward.bench.metrics import Metric, mean_interval
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.samples import Task
from unified_reward.io.atomic import write_bytes, write_json
from unified_reward.io.run_config import check_run_config
from unified_reward.io.text import parse_json, read_json, read_lines
from unified_reward.judges.files import checkpoint_files, judge_files
from unified_reward.judges.registry import JudgeOptions, open_judge
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
from unified_reward_lab.experiments.alignment_page import VOTED, page, plot
from unified_reward_lab.experiments.experiment import Experiment


STRATEGIES = (Strategy.RANDOM, Strategy.SCORE, Strategy.RANK, Strategy.RANK_AND_SIFT)
"""In the order of Table XII of arXiv:2503.05236, the best last."""
MAIN = Strategy.RANK_AND_SIFT
"""Strategy of the pairs that every policy is aligned on."""
COMPARED_TASK = Task.IMAGE_GENERATION
"""Task whose strategies and judges are compared."""
GENERATION_TASKS = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)

_IMAGE_VLM = VLMDPO(
    OptimConfig(steps=60, batch_size=16, accumulate=1, lr=5e-4, warmup=0.1, lora_rank=16)
)
_VIDEO_VLM = VLMDPO(
    OptimConfig(steps=60, batch_size=16, accumulate=1, lr=2e-4, warmup=0.1, lora_rank=16), sft=0.2
)
_IMAGE_DPO = DiffusionDPO(
    OptimConfig(steps=300, batch_size=32, accumulate=1, lr=1e-3, warmup=0.1, lora_rank=16),
    beta=1000.0,
    weighting="noise",
)
_VIDEO_DPO = DiffusionDPO(
    OptimConfig(steps=240, batch_size=32, accumulate=1, lr=5e-4, warmup=0.1, lora_rank=16),
    beta=1000.0,
    weighting="noise",
)


@dataclass(frozen=True)
class AlignmentStudy:
    """Policies, judges and the exam of the study."""

    work: Path = Path("runs/alignment")
    """Working folder of the arms."""
    policies: Mapping[Task, AlignedPolicy] = field(
        default_factory=lambda: {
            Task.IMAGE_UNDERSTANDING: AlignedPolicy("tiny_vlm", vlm=_IMAGE_VLM),
            Task.VIDEO_UNDERSTANDING: AlignedPolicy("tiny_vlm", vlm=_VIDEO_VLM, prompts=512),
            Task.IMAGE_GENERATION: AlignedPolicy("tiny_image", diffusion=_IMAGE_DPO),
            Task.VIDEO_GENERATION: AlignedPolicy("tiny_video", diffusion=_VIDEO_DPO, prompts=512),
        }
    )
    judge: str = "tiny_judge"
    judges: Mapping[str, str] = field(default_factory=dict)
    """Two more judges by the name to show: of image generation alone, and last a joint one."""
    voted: str = ""
    """A judge trained on votes (`experiments.votes`); its pairs align the generators once more."""
    preferences: PreferenceConfig = field(default_factory=lambda: PreferenceConfig(prompts=256))
    """Settings of the pairs; ``seeds`` replace their seed."""
    exam: ExamConfig = field(default_factory=lambda: ExamConfig(n=500, seed=20261125))
    strategies: tuple[Strategy, ...] = STRATEGIES
    """Strategies to compare for image generation, rank+sift last."""
    seeds: tuple[int, ...] = (0, 1, 2, 3)
    """Seeds of prompts, candidates and trainings."""

    def __post_init__(self) -> None:
        if not self.seeds or self.exam.n < 2:
            raise ConfigError("a study needs at least one seed and two prompts to examine")
        if not self.strategies or self.strategies[-1] is not MAIN:
            raise ConfigError(f"the last strategy to compare is {MAIN}")

    @property
    def total(self) -> int:
        """Number of exams: one per arm, and one of each policy before."""
        return len(self.policies) + len([*arms(self)])


class Arm(NamedTuple):
    """One training: a policy on the pairs of one seed, strategy and judge."""

    task: Task
    seed: int
    judge: str
    """Name of the judge, whose reference the study has."""
    strategy: Strategy

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.task.value}/{self.seed}/{self.judge}-{self.strategy.value}"


def arms(study: AlignmentStudy) -> Iterator[Arm]:
    """List every training of a study, those with common candidates one after the other."""
    for seed in study.seeds:
        for task in study.policies:
            yield Arm(task, seed, "shipped", MAIN)
            if study.voted and task in GENERATION_TASKS:
                yield Arm(task, seed, VOTED, MAIN)
            if task is COMPARED_TASK:
                yield from (Arm(task, seed, "shipped", other) for other in study.strategies[:-1])
                yield from (Arm(task, seed, name, MAIN) for name in study.judges)


def run(study: AlignmentStudy, progress: Callable[[int], None] = lambda _: None) -> dict[str, Any]:
    """Align and examine what is missing, and collect the results.

    Returns:
        By task: ``before`` and, over all seeds, ``after`` (see `PolicyExam.report`); ``gain`` with
        its interval over prompts, by seed, and as the sum of what ``became_right``,
        ``became_readable`` and ``became_unreadable``; ``gap_closed``. By strategy and by judge:
        the gain of the policy of image generation from equally many pairs.
    """
    before = {task: _exam(study, task, None, progress) for task in study.policies}
    after = {arm: _exam(study, arm.task, arm, progress) for arm in arms(study)}
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
        main = _select(after, task, "shipped", MAIN)
        report["tasks"][task.value] = _compare(old, [after[arm] for arm in main]) | {
            "prompts": study.policies[task].preferences(study.preferences).prompts,
            "pairs": [len(_kept_rows(_equal_pairs(study, arm))) for arm in main],
        }
    if study.voted:
        report[VOTED] = {
            task.value: _by_judge(task, before[task], after)
            for task in GENERATION_TASKS
            if task in before
        }
    if COMPARED_TASK in before:
        old = before[COMPARED_TASK]
        ways = {s.value: _select(after, COMPARED_TASK, "shipped", s) for s in study.strategies}
        report["ways"] = _contrast(old, after, ways)
        for name, group in ways.items():
            report["ways"][name]["calls"] = _calls_per_prompt(study, group)
        judges = {n: _select(after, COMPARED_TASK, n, MAIN) for n in study.judges}
        if judges:
            report["judges"] = _contrast(old, after, judges)
    return report


def _select(arms: Iterable[Arm], task: Task, judge: str, strategy: Strategy) -> list[Arm]:
    """Arms of one task, judge and strategy, one per seed."""
    return [arm for arm in arms if arm == Arm(task, arm.seed, judge, strategy)]


def _exam(
    study: AlignmentStudy, task: Task, arm: Arm | None, progress: Callable[[int], None]
) -> PolicyExam:
    """Examine the policy before, or after an arm; read the exam from its file if there is one."""
    folder = study.work / (arm.name if arm else f"{task.value}/before")
    file = folder / f"exam-{study.exam.seed}-{study.exam.n}.json"
    examiner = judge_files(study.judge, JudgeOptions())
    files = {f"{name} of the examiner": value for name, value in examiner.items()}
    files |= checkpoint_files(study.policies[task].policy)
    check_run_config(file, _settings(study, task, arm), files)
    if not file.exists():
        path = checkpoint_path(study.policies[task].policy)
        if arm:
            path = _align(study, arm, folder)
        judge = open_judge(study.judge)
        policy = policies.load(path, batch_size=1)
        exam = examine(policy, task, judge, n=study.exam.n, seed=study.exam.seed)
        write_json(file, asdict(exam))
    progress(1)
    return PolicyExam(**read_json(file))


def _settings(study: AlignmentStudy, task: Task, arm: Arm | None) -> dict[str, Any]:
    """Settings that an exam depends on; an exam with different ones is refused."""
    policy = study.policies[task]
    if arm is None:
        return {"policy": policy.policy, "examiner": study.judge}
    preferences = asdict(policy.preferences(study.preferences)) | {"seed": arm.seed}
    judges = {"judge": _judge(study, arm), "examiner": study.judge}
    return asdict(policy) | preferences | judges


def _judge(study: AlignmentStudy, arm: Arm) -> str:
    return {"shipped": study.judge, VOTED: study.voted, **study.judges}[arm.judge]


def _align(study: AlignmentStudy, arm: Arm, folder: Path) -> Path:
    """Train an arm, and return its folder."""
    policy = study.policies[arm.task]
    config = policy.vlm or policy.diffusion
    if config is None:
        raise ConfigError(f"the policy of {arm.task.value} needs settings: vlm or diffusion")
    config = replace(config, optim=replace(config.optim, seed=arm.seed))
    align(_equal_pairs(study, arm), checkpoint_path(policy.policy), config, folder / "dpo")
    return folder / "dpo"


def _equal_pairs(study: AlignmentStudy, arm: Arm) -> Path:
    """Write the arm's pairs, as many as the arms have that it is compared with."""
    rivals = [
        other
        for other in arms(study)
        if (other.task, other.seed, _group(other)) == (arm.task, arm.seed, _group(arm))
    ]
    rows = {rival: _kept_rows(_pairs(study, rival)) for rival in rivals}
    n = min(map(len, rows.values()))
    out = _pairs(study, arm).with_suffix(".equal.jsonl")
    write_bytes(out, b"".join(rows[arm][:n]))
    return out


def _group(arm: Arm) -> str:
    """Group of arms that are compared with each other and have equally many pairs."""
    return arm.judge if arm.judge in ("shipped", VOTED) else "others"


def _kept_rows(pairs: Path) -> list[bytes]:
    return [row for _, _, row in read_lines(pairs) if parse_json(row)["status"] == "kept"]


def _calls_per_prompt(study: AlignmentStudy, group: Iterable[Arm]) -> float:
    """Mean number of questions to the judge for the pair of a prompt."""
    rows = [parse_json(row) for arm in group for _, _, row in read_lines(_pairs(study, arm))]
    return sum(row["judge_calls"] for row in rows) / len(rows)


def _pairs(study: AlignmentStudy, arm: Arm) -> Path:
    """Make the candidates and pairs of an arm that are missing; the file of all its pairs."""
    folder = study.work / arm.task.value / str(arm.seed)
    policy = study.policies[arm.task]
    preferences = replace(policy.preferences(study.preferences), seed=arm.seed)
    write_candidates(policy.policy, arm.task, preferences, folder / "candidates")
    file = folder / f"pairs-{arm.judge}-{arm.strategy.value}.jsonl"
    options = replace(preferences.pairing, strategy=arm.strategy, seed=arm.seed)
    source = folder / "candidates" / "candidates.jsonl"
    write_pairs(source, _judge(study, arm), options, file)
    return file


def _by_judge(task: Task, old: PolicyExam, after: Mapping[Arm, PolicyExam]) -> dict[str, Any]:
    """Compare the pairs of the shipped judge with those of the judge trained on votes."""
    groups = {name: _select(after, task, name, MAIN) for name in ("shipped", VOTED)}
    rows = _contrast(old, after, groups)
    start = old.report()["oracle"]["value"]
    for row in rows.values():
        row["gap_closed"] = gap_closed(start, start + row["gain"]["value"])
    return rows


def _contrast(
    old: PolicyExam, after: Mapping[Arm, PolicyExam], groups: Mapping[str, Sequence[Arm]]
) -> dict[str, Any]:
    """Gains of groups of arms, and the lead of the last group, the supposed best, over each."""
    exams = {name: [after[arm] for arm in group] for name, group in groups.items()}
    best = [*exams.values()][-1]
    return {
        name: {
            "gain": _gain([old] * len(each), each).row(),
            "by_seed": [_gain([old], [exam]).value for exam in each],
            "behind_best": _gain(each, best).row(),
            "readable": _readable(each),
            "judge_reward": _judge_reward(each),
        }
        for name, each in exams.items()
    }


def _compare(old: PolicyExam, new: Sequence[PolicyExam]) -> dict[str, Any]:
    before = [old] * len(new)
    start = old.report()
    gain = _gain(before, new)
    parts: dict[str, _Part] = {
        "became_right": lambda a, b: b - a if a is not None and b is not None else 0.0,
        "became_readable": lambda a, b: b if a is None and b is not None else 0.0,
        "became_unreadable": lambda a, b: -a if a is not None and b is None else 0.0,
    }
    return {
        "before": start,
        "after": {
            "oracle": _mean(new, lambda exam: [score or 0.0 for score in exam.oracle_scores]),
            "readable": _readable(new),
            "judge_reward": _judge_reward(new),
        },
        "gain": gain.row(),
        "by_seed": [_gain([old], [exam]).value for exam in new],
        "parts": {name: _gain(before, new, part).row() for name, part in parts.items()},
        "gap_closed": gap_closed(start["oracle"]["value"], start["oracle"]["value"] + gain.value),
    }


_Part = Callable[[float | None, float | None], float]


def _gain(
    before: Sequence[PolicyExam],
    after: Sequence[PolicyExam],
    part: _Part = lambda a, b: (b or 0.0) - (a or 0.0),
) -> Metric:
    """Mean gain over prompts and seeds; the interval resamples prompts with all their seeds."""
    gains: list[float] = []
    prompts: list[str] = []
    for old, new in zip(before, after, strict=True):
        gains += [part(a, b) for a, b in zip(old.oracle_scores, new.oracle_scores, strict=True)]
        prompts += new.prompts
    return Metric(sum(gains) / len(gains), mean_interval(gains, prompts), len(gains))


def _mean(
    exams: Sequence[PolicyExam], values: Callable[[PolicyExam], Sequence[float | None]]
) -> dict[str, Any]:
    known = [value for exam in exams for value in values(exam)]
    return mean_known(known, [name for exam in exams for name in exam.prompts])


def _readable(exams: Sequence[PolicyExam]) -> dict[str, Any]:
    return _mean(exams, lambda exam: [float(score is not None) for score in exam.oracle_scores])


def _judge_reward(exams: Sequence[PolicyExam]) -> dict[str, Any]:
    return _mean(exams, lambda exam: exam.rewards)


EXPERIMENT = Experiment(AlignmentStudy, run, page, plot)
