"""Paired comparison of two evaluations, on the models, prompts and rewards of both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Candidate, Example
from unified_reward.evaluate.answers import read_answers
from unified_reward.evaluate.coverage import content_of
from unified_reward.evaluate.estimates import (
    between,
    mean_estimate,
    paired_difference,
    prompt_means,
    win_shares,
)
from unified_reward.evaluate.output_rows import OUTPUTS, read_outputs
from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.questions import Question
from unified_reward.evaluate.report import Figures, reward_figures
from unified_reward.evaluate.run import REPORT, is_report, verdicts_path
from unified_reward.io.run_config import config_path
from unified_reward.io.text import read_json
from unified_reward.io.verdict_rows import read_verdict_rows


class _Run(NamedTuple):
    folder: Path
    report: Mapping[str, Any]
    outputs: ModelOutputs

    def figures(self, reward: str, models: list[str], prompts: Iterable[str]) -> Figures:
        """Values of a reward for some models and prompts."""
        outputs = replace(
            self.outputs, outputs={name: self.outputs.outputs[name] for name in models}
        )
        rows = [
            row
            for row in read_verdict_rows(self.verdicts(reward))
            if (question := Question.parse(row["id"])) and question.form in self.forms(reward)
        ]
        answers = read_answers(reward, rows, outputs, orders=2, aspect=self._aspect(reward))
        return reward_figures(answers, outputs).of(prompts)

    def verdicts(self, reward: str) -> Path:
        """Path of the verdicts, one file for all aspects of a judge."""
        aspect = self._aspect(reward)
        return verdicts_path(self.folder, reward.removesuffix(f".{aspect}") if aspect else reward)

    def _aspect(self, reward: str) -> str:
        return self.report["judges"][reward]["aspect"] or ""

    def forms(self, reward: str) -> list[str]:
        """Forms of question in the report; a file of verdicts may hold others of earlier runs."""
        return self.report["judges"][reward]["forms"]

    def judge(self, reward: str) -> dict[str, Any]:
        """Settings and files of the judge of a reward, and the kind of its values."""
        config = read_json(config_path(self.verdicts(reward)))
        return {**config, "kind": self.report["judges"][reward]["kind"]}


def compare_evaluations(first: Path, second: Path) -> dict[str, Any]:
    """Compute the changes of all figures from one evaluation to another, B minus A.

    Every change is a mean over the prompts of both, paired by prompt, with Student's t interval.

    Args:
        first: Folder that ``evaluate --out`` wrote, A.
        second: Folder of the other run, B.

    Returns:
        For each model and reward the changes of its ``mean``, of its ``difference`` to the
        baseline and of its ``win_rate`` against it, each null where it does not exist; and the
        names of what only one run has.

    Raises:
        ConfigError: The runs share no model, prompt or reward, or no reward is of the same judge.
        DataError: A folder was not written by ``evaluate --out``.
    """
    a, b = _read(first), _read(second)
    models = _common("model", a, b, a.outputs.models, b.outputs.models)
    texts = [{name: _asked(run, name) for name in run.outputs.prompts} for run in (a, b)]
    named = _common("prompt", a, b, texts[0], texts[1])
    prompts = [name for name in named if texts[0][name] == texts[1][name]]
    rewards = _common("reward", a, b, a.report["rewards"], b.report["rewards"])
    others = {name: _difference(a.judge(name), b.judge(name)) for name in rewards}
    others = {name: reason for name, reason in others.items() if reason}
    if others.keys() == {*rewards}:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in others.items())
        raise ConfigError(f"{first} and {second} were judged differently: {reasons}")
    baselines = {run.report["baseline"] for run in (a, b)}
    baseline = next(iter(baselines)) if len(baselines) == 1 else None
    figures = {
        name: _figures(a, b, name, models, prompts) for name in rewards if name not in others
    }
    others |= {
        f"{name}: win_rate": "asked for in one run, and following from scores in the other"
        for name in figures
        if not _have_same_wins(a, b, name)
    }
    return {
        "a": str(first),
        "b": str(second),
        "baseline": baseline,
        "prompts": len(prompts),
        "rewards": [*figures],
        "models": {
            model: {name: _changes(*pair, model, baseline) for name, pair in figures.items()}
            for model in models
        },
        "only_a": _only(a, b),
        "only_b": _only(b, a),
        "changed_prompts": [name for name in named if texts[0][name] != texts[1][name]],
        "other_judges": others,
    }


def _have_same_wins(a: _Run, b: _Run, reward: str) -> bool:
    """True if win rates are of comparisons in both runs, or of scores in both."""
    return ("compare" in a.forms(reward)) == ("compare" in b.forms(reward))


def _figures(
    a: _Run, b: _Run, reward: str, models: list[str], prompts: list[str]
) -> tuple[Figures, Figures]:
    """Values of a reward in both runs, without comparisons that cannot be compared."""
    first, second = (run.figures(reward, models, prompts) for run in (a, b))
    if not _have_same_wins(a, b, reward):
        return first._replace(comparisons=[]), second._replace(comparisons=[])
    return first, second


def _read(folder: Path) -> _Run:
    if is_folder(folder / "verdicts") and not is_file(folder / REPORT):
        raise DataError(f"the evaluation in {folder} was not finished; run its command again")
    try:
        report = read_json(folder / REPORT)
        if not is_report(report):
            raise DataError(f"{REPORT} is not that of an evaluation")
        return _Run(folder, report, _outputs(folder / OUTPUTS))
    except DataError as error:
        raise DataError(f"{folder} was not written by evaluate --out: {error}") from error


def _outputs(path: Path) -> ModelOutputs:
    prompts: dict[str, Example] = {}
    outputs: dict[str, dict[str, tuple[Candidate, ...]]] = {}
    for model, rows in read_outputs(path).items():
        prompts |= rows.prompts
        outputs[model] = {key: row.candidates for key, row in rows.examples.items()}
    return ModelOutputs(prompts, outputs)


def _common(what: str, a: _Run, b: _Run, first: Iterable[str], second: Iterable[str]) -> list[str]:
    first, second = dict.fromkeys(first), dict.fromkeys(second)
    common = [name for name in first if name in second]
    if not common:
        names = [
            ", ".join([*each][:3]) + (", …" if len(each) > 3 else "") for each in (first, second)
        ]
        raise ConfigError(
            f"{a.folder} and {b.folder} share no {what}: one has {names[0]}, the other {names[1]}"
        )
    return common


def _asked(run: _Run, name: str) -> tuple[Any, ...]:
    prompt = run.outputs.prompts[name]
    media = [content_of(medium) for medium in prompt.context]
    return prompt.task, prompt.prompt, prompt.criteria, media


def _only(run: _Run, other: _Run) -> dict[str, list[str]]:
    """Names that only the first of two runs has."""
    names = {
        "models": (run.outputs.models, other.outputs.models),
        "prompts": (run.outputs.prompts, other.outputs.prompts),
        "rewards": (run.report["rewards"], other.report["rewards"]),
    }
    return {
        kind: [name for name in mine if name not in theirs]
        for kind, (mine, theirs) in names.items()
    }


def _difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """Difference of two judges in words; empty for the same.

    Two tables are the same: the judge behind their verdicts is not known.
    """
    references = [str(config.get("judge")) for config in (a, b)]
    is_table = all(reference.startswith("table:") for reference in references)
    skipped = {"files", "judge"} if is_table else {"files"}
    for key in sorted((a.keys() | b.keys()) - skipped):
        if a.get(key) != b.get(key):
            return f"{key} is {a.get(key)!r} in A and {b.get(key)!r} in B"
    files = [(config.get("files") or {}).items() for config in (a, b)]
    if not is_table and files[0] != files[1]:
        return f"{references[0]} has another {min(files[0] ^ files[1])[0]} in B"
    return ""


def _changes(a: Figures, b: Figures, model: str, baseline: str | None) -> dict[str, Any]:
    most = a.length if a.scale == b.scale else None
    means = [each.means.get(model, {}) for each in (a, b)]
    if baseline is None or model == baseline:
        return {"mean": _change(means[0], means[1], most), "difference": None, "win_rate": None}
    bases = [each.means.get(baseline, {}) for each in (a, b)]
    leads = [
        {prompt: mine[prompt] - base[prompt] for prompt in mine if prompt in base}
        for mine, base in zip(means, bases, strict=True)
    ]
    wins = [
        prompt_means(win_shares(between(each.comparisons, model, baseline), model))
        for each in (a, b)
    ]
    return {
        "mean": _change(means[0], means[1], most),
        "difference": _change(leads[0], leads[1], None if most is None else 2 * most),
        "win_rate": _change(wins[0], wins[1], 1.0),
    }


def _change(
    a: Mapping[str, float], b: Mapping[str, float], most: float | None
) -> dict[str, Any] | None:
    """Change of a mean over the prompts that both runs have, at most ``most``; None without any."""
    common = [prompt for prompt in a if prompt in b]
    if not common:
        return None
    before, after = (mean_estimate({prompt: each[prompt] for prompt in common}) for each in (a, b))
    return {"a": before.value, "b": after.value, **paired_difference(b, a, most).row("change")}
