"""The stages of the library: training, calibrating and benchmarking a judge, DPO and GRPO."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, cast

from accelerate import PartialState

from unified_reward.bench.answer_exam import examine_answers
from unified_reward.bench.calibration import fit_calibration
from unified_reward.bench.run import run_benchmark
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.paths import is_file
from unified_reward.core.samples import Example
from unified_reward.data.example_file import ExampleFile
from unified_reward.data.series import find_series
from unified_reward.io.config import as_data
from unified_reward.judges.card import CARD, Card, CardedJudge
from unified_reward.judges.registry import open_judge
from unified_reward.pairs.judge_answers import read_comparisons
from unified_reward.policies import DEFAULTS
from unified_reward.recipes.stage import Recipe, Run, Stage
from unified_reward.train.dpo import PolicyDPO, align
from unified_reward.train.dry_run import DryRun, dry_run
from unified_reward.train.dry_run_dpo import dry_run_dpo
from unified_reward.train.dry_run_grpo import dry_run_grpo
from unified_reward.train.grpo import PolicyGRPO, learn_from_judges
from unified_reward.train.judge import JudgeTraining, train_judge
from unified_reward.train.optim import OptimConfig
from unified_reward.train.reward_functions import reward_files
from unified_reward.train.think import ThinkTraining, learn_from_verdicts, sift_answers


@dataclass(frozen=True)
class CalibrationConfig:
    """Options of fitting a judge's temperatures, on examples it was not trained on."""

    data: str = ""
    """JSONL file of examples; empty for those that ``judge.held_back`` keeps out of training, or
    new ones where ``judge.data`` is a series."""
    n: int = 200
    """Examples at most, > 0; of a series, of each kind that the judge was taught."""
    seed: int = 1_000_003
    """Seed of the choice; for a series it must not be that of the training."""


@dataclass(frozen=True)
class BenchConfig:
    """Options of benchmarking the judge."""

    name: str
    """Name of a benchmark."""
    judge: str = ""
    """A judge's reference; empty for the judge that the recipe trains."""
    data: str = ""
    """Folder of its official files."""
    limit: int | None = None
    """Items at most, >= 3; of the microworld, items of each cell."""
    seed: int = 0
    orders: Literal[1, 2] = 2
    """2 asks every comparison in both orders."""

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"bench.limit is at least 1, not {self.limit}")


def train_together(train: Callable[[], Sequence[tuple[int, float]]]) -> dict[str, Any]:
    """Train on all processes; the first one has cleared the folder before and reports after."""
    state = PartialState()
    state.wait_for_everyone()
    losses = train()
    state.wait_for_everyone()
    return {"losses": [list(step) for step in losses]}


def on_first_process(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Report of work that one process does while the others wait; empty in these."""
    state = PartialState()
    report = work() if state.is_main_process else {}
    state.wait_for_everyone()
    return report


def _judge(config: JudgeTraining, run: Run) -> None:
    base = config.base or str(run.products.get("base", ""))
    config, folder = replace(config, base=base), run.out / "judge"
    run.stage(
        "judge",
        config,
        [checkpoint_path(base), config.data],
        folder / CARD,
        lambda: train_together(lambda: train_judge(config, folder)),
    )
    run.products["judge"] = folder


def _check_calibration(config: CalibrationConfig, recipe: Recipe) -> None:
    names = [*recipe.stages]
    if "judge" not in names[: names.index("calibration")]:
        raise ConfigError(
            "calibration is written into the judge that the recipe trains: put a judge stage before"
        )
    judge: JudgeTraining = recipe.stages["judge"]
    if config.data:
        if not is_file(config.data):
            raise ConfigError(f"calibration.data is a JSONL file of examples, not {config.data!r}")
        if Path(config.data).resolve() == Path(judge.data).resolve():
            raise ConfigError(
                f"calibration.data is the file that the judge is trained on, {config.data}; leave "
                "it out and set judge.held_back to the share of rows to keep out of training"
            )
    elif not judge.held_back and find_series(judge.data, judge.data_options) is None:
        raise ConfigError(
            "calibration needs examples that the judge was not trained on: set judge.held_back to "
            "the share of rows to keep out of training, or calibration.data to another file"
        )


def _calibrate(config: CalibrationConfig, run: Run) -> None:
    folder, training = run.products["judge"], cast("JudgeTraining", run.recipe.stages["judge"])
    card = Card.read(folder)
    if card and card.calibration is None:  # a judge trained again has a new card
        (run.out / "calibration" / "report.json").unlink(missing_ok=True)
    run.stage(
        "calibration",
        config,
        [folder, config.data or training.data],
        folder / CARD,
        lambda: _fit_calibration(folder, config, training),
    )


def _fit_calibration(
    folder: Path, config: CalibrationConfig, training: JudgeTraining
) -> dict[str, Any]:
    """Fit the temperatures and write them into the card, with the examples they are fitted on."""
    judge = cast("CardedJudge", open_judge(str(folder)))
    examples, source = calibration_examples(config, training)
    fitted = replace(fit_calibration(judge, examples), data=source)
    replace(judge.card, calibration=fitted).write(folder)
    return {**asdict(fitted), "n_left_out": len(examples) - fitted.n}


def calibration_examples(
    config: CalibrationConfig, training: JudgeTraining
) -> tuple[list[Example], str]:
    """Examples that the judge was not trained on, and where they are from.

    Raises:
        DataError: A row cannot be used, or none was held back.
    """
    if config.data:
        rows = ExampleFile(Path(config.data), seed=config.seed)
        source = config.data
    elif series := find_series(training.data, training.data_options):
        generator, options = series
        return generator.held_out(options, config.n, config.seed), f"new items of {training.data}"
    else:
        rows = ExampleFile(
            Path(training.data), seed=config.seed, part="held_back", held_back=training.held_back
        )
        source = f"{training.held_back:g} of {training.data}, held back"
    known = (row for i in range(len(rows)) if (row := rows[i]).candidates)
    return list(islice(known, config.n)), source


def judge_of(reference: str, run: Run) -> str:
    """The judge that a stage names, or else the one that the recipe has trained.

    Raises:
        ConfigError: There is neither.
    """
    trained = run.products.get("judge")
    if not reference and trained is None:
        raise ConfigError("name a judge: the recipe has no judge stage before this one")
    return reference or str(trained)


def _bench(config: BenchConfig, run: Run) -> None:
    judge = judge_of(config.judge, run)
    folder = checkpoint_path(judge)
    run.stage("bench", config, [folder, folder / CARD], run.out, lambda: _measure(judge, config))
    run.figures |= _figures(run.reports["bench"])


def _measure(judge: str, config: BenchConfig) -> dict[str, Any]:
    result = run_benchmark(
        config.name,
        open_judge(judge),
        config.data or None,
        limit=config.limit,
        seed=config.seed,
        orders=config.orders,
    )
    return result.report


def _figures(report: Mapping[str, Any]) -> dict[str, Any]:
    """The figure of each group that is named ``<task>.<form>``."""
    metrics = {"score": "spearman", "compare": "pair_accuracy"}
    figures = {
        group: row[metrics[form]]
        for group, row in report["groups"].items()
        if (form := group.rpartition(".")[2]) in metrics
    }
    return {
        f"judge.{group}": {key: figure[key] for key in ("value", "ci95", "n")}
        for group, figure in figures.items()
    }


def _dpo(config: PolicyDPO, run: Run) -> None:
    folder, policy = run.out / "dpo", checkpoint_path(config.policy)
    run.stage(
        "dpo",
        config,
        [policy, config.pairs],
        folder / DEFAULTS,
        lambda: align(config.pairs, policy, config.training, folder, log=run.log),
    )


def _grpo(config: PolicyGRPO, run: Run) -> None:
    folder, policy = run.out / "grpo", checkpoint_path(config.policy)
    config = replace(config, rewards=config.rewards or (judge_of("", run),))
    judges = [file for reference in config.references for file in reward_files(reference)]
    run.stage(
        "grpo",
        config,
        [policy, config.prompts, *judges],
        folder / "policy" / DEFAULTS,
        lambda: learn_from_judges(config, folder, run.log),
    )


def _think(config: ThinkTraining, run: Run) -> None:
    """Cold start, sifting of the judge's answers, rejection sampling, GRPO; an exam after each."""
    folder, judge = run.out / "think", judge_of(config.base, run)
    reward = config.reward
    if config.cold_start:
        judge = _taught("cold_start", config, config.cold_start, judge, config.chains, run)
    sifted = folder / "answers"
    run.stage(
        "think/answers",
        {"sifting": as_data(config.sifting), "max_new_tokens": config.grpo.max_new_tokens},
        [checkpoint_path(judge), config.data],
        sifted / "wrong.jsonl",
        lambda: on_first_process(lambda: sift_answers(judge, config, sifted)),
    )
    tokens, free = run.reports["think/answers"].get("tokens", 0), reward.cap - reward.margin
    if reward.length and tokens > free:
        run.log(
            f"think: its answers have {tokens:.0f} tokens in the mean, and those above {free} are "
            "penalised, however right; raise reward.cap and grpo.max_new_tokens"
        )
    kept = str(sifted / "kept.jsonl")
    learned = _taught("rejection", config, config.rejection, judge, kept, run)
    policy = folder / "grpo" / "policy"
    wrong = sifted / "wrong.jsonl"
    run.stage(
        "think/grpo",
        {"grpo": as_data(config.grpo), "reward": as_data(reward)},
        [learned, wrong],
        policy / CARD,
        lambda: learn_from_verdicts(learned, wrong, config.grpo, reward, folder / "grpo", run.log),
    )
    examined = {"start": judge, "rejection": learned, "grpo": str(policy)}
    if config.exam:
        for name, judged in examined.items():
            _examine(name, judged, config, run)
    run.products["judge"] = policy


def _taught(
    name: str, config: ThinkTraining, optim: OptimConfig, base: str, data: str, run: Run
) -> str:
    """A judge that has learned to answer with the reasoning in a file."""
    training, folder = config.supervised(base, data, optim), run.out / "think" / name
    run.stage(
        f"think/{name}",
        training,
        [checkpoint_path(base), data],
        folder / CARD,
        lambda: train_together(lambda: train_judge(training, folder)),
    )
    return str(folder)


def _examine(name: str, judge: str, config: ThinkTraining, run: Run) -> None:
    answers = run.out / "think" / "exam" / name / "answers.jsonl"
    options = {
        "max_new_tokens": config.grpo.max_new_tokens,
        "batch_size": config.sifting.batch_size,
    }

    def work() -> dict[str, Any]:
        return examine_answers(judge, read_comparisons(Path(config.exam)), answers, **options)

    run.stage(
        f"think/exam/{name}",
        options,
        [judge, config.exam],
        answers,
        lambda: on_first_process(work),
    )
    report = run.reports[f"think/exam/{name}"]
    for figure in ("accuracy", "consistency", "exact", "tokens"):
        run.figures[f"think.{name}.{figure}"] = report.get(figure)


def _rehearse_think(config: ThinkTraining, launch: str) -> DryRun:
    """Dry run of the first phase; the last one holds the reference too, unless it has adapters."""
    data = config.chains or config.data
    return dry_run(
        config.supervised(config.base, data, config.cold_start or config.rejection), launch
    )


JUDGE = Stage("judge", JudgeTraining, _judge, dry_run=dry_run, every_process=True)
CALIBRATION = Stage("calibration", CalibrationConfig, _calibrate, _check_calibration)
BENCH = Stage("bench", BenchConfig, _bench)
DPO = Stage("dpo", PolicyDPO, _dpo, dry_run=dry_run_dpo, every_process=True)
GRPO = Stage("grpo", PolicyGRPO, _grpo, dry_run=dry_run_grpo, every_process=True)
THINK = Stage("think", ThinkTraining, _think, dry_run=_rehearse_think, every_process=True)
