"""Page and plot of the study of reinforcement learning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unified_reward_lab.experiments.page import png, table, with_interval
from unified_reward_lab.experiments.reinforcement_arms import EXAMINERS, PARTS
from unified_reward_lab.experiments.reinforcement_report import JUDGE


_TITLES = {
    "algorithms": "GRPO and DiffusionNFT beside DPO, images",
    "algorithms-large": "The same with ten times the questions, images",
    "videos": "GRPO and DiffusionNFT beside DPO, videos",
    "rewards": "Judges as rewards, images (DiffusionNFT)",
    "over-optimisation": "Over-optimisation, images (DiffusionNFT, larger learning rate)",
    "failures-long": "5 % of the rewards fail, images (DiffusionNFT, 60 steps, penalty 1)",
    "equal-cost": "DiffusionNFT with penalty 1 beside DPO of as many questions, images",
    "failures": "5 % of the rewards fail, images (DiffusionNFT)",
}
_CURVES = (("reward", "trained reward"), ("second", "other judge"), ("oracle", "oracle"))


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    befores = "; ".join(
        f"{task}: oracle {with_interval(state['oracle'])}, readable "
        f"{with_interval(state['readable'])}"
        for task, state in report["before"].items()
    )
    lines = [
        "## Learning from the judge's rewards, examined by the oracle",
        "",
        f"{report['n']} held-out prompts (seed {report['seed']}), one candidate each, the same "
        "noise before and after; in brackets 95 % intervals, bootstrap over prompts with all "
        "their seeds. Gains are of the oracle's score, in which unreadable is 0; rewards are in "
        "the judge's own unit. Questions to judges and samples through the denoiser (a backward "
        f"pass counted as two) are of one training. Before: {befores}.",
    ]
    for part, names in PARTS.items():
        arms = {name: report["arms"][name] for name in names if name in report["arms"]}
        if arms:
            lines += ["", f"### {_TITLES[part]}", "", *_part(part, arms)]
            if part == "rewards":
                lines += _agreement(report["before"]["image_generation"]["agreement"])
            lines += _contrasts(report["contrasts"], names)
            lines += _curves(arms)
    return "\n".join(lines) + "\n"


def _part(part: str, arms: Mapping[str, Any]) -> list[str]:
    judges = EXAMINERS[part]
    head = ["arm", "questions", "network calls", "gain", "by seed", "became right"]
    head += ["became readable", "became unreadable", "readable after"]
    head += [f"gain in reward of {name}" for name in judges]
    rows = [
        [
            name,
            f"{arm['questions']:,.0f}",
            f"{arm['network']:,}",
            f"**{with_interval(arm['gain'])}**",
            ", ".join(f"{gain:+.3f}" for gain in arm["by_seed"]),
            *(
                with_interval(arm[key])
                for key in ("became_right", "became_readable", "became_unreadable", "readable")
            ),
            *(
                with_interval(arm["reward_gains"][judge]) if judge in arm["reward_gains"] else "-"
                for judge in judges
            ),
        ]
        for name, arm in arms.items()
    ]
    return table(head, rows)


def _agreement(agreement: Mapping[str, float | None]) -> list[str]:
    rows = [[name, "-" if value is None else f"{value:.2f}"] for name, value in agreement.items()]
    head = ["judge", "Spearman's correlation with the oracle, on the exam before"]
    return ["", *table(head, rows)]


def _contrasts(contrasts: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    rows = [
        [
            f"{name} - {other}",
            *(with_interval(contrasts[f"{name} - {other}"][key]) for key in ("oracle", "reward")),
        ]
        for i, name in enumerate(names)
        for other in names[i + 1 :]
        if f"{name} - {other}" in contrasts
    ]
    return ["", *table(["arms", "lead by the oracle", f"by {JUDGE}"], rows)] if rows else []


def _curves(arms: Mapping[str, Any]) -> list[str]:
    """Means by step on the held-out training prompts."""
    curves = {name: arm["curve"] for name, arm in arms.items() if arm["curve"]}
    if not curves:
        return []
    steps = [row["step"] for row in next(iter(curves.values()))]
    rows = [
        [name, label, *(f"{row[key]:.3f}" for row in curve)]
        for name, curve in curves.items()
        for key, label in _CURVES
    ]
    return ["", *table(["arm", "by step", *map(str, steps)], rows)]


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the curves of over-optimisation, as changes, above the gains of all arms."""
    from matplotlib.figure import Figure

    arms = report["arms"]
    curves = {name: arm["curve"] for name, arm in arms.items() if arm["curve"]}
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, max(1, len(curves)), height_ratios=[1, 1.1])
    for k, (name, curve) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[0, k])
        for key, label in _CURVES:
            steps = [row["step"] for row in curve]
            change = [row[key] - curve[0][key] for row in curve]
            bars = [row[f"{key}_se"] for row in curve]
            axes.errorbar(steps, change, yerr=bars, label=label, marker="o", markersize=3)
        axes.axhline(0, color="0.7", linewidth=1)
        axes.set(title=name, xlabel="step", ylabel="" if k else "change")
        if not k:
            axes.legend(frameon=False, fontsize=8)
    axes = figure.add_subplot(grid[1, :])
    for place, arm in enumerate(arms.values()):
        value, (low, high) = arm["gain"]["value"], arm["gain"]["ci95"]
        axes.errorbar(
            place, value, yerr=[[value - low], [high - value]], marker="o", color="tab:blue"
        )
        axes.plot([place] * len(arm["by_seed"]), arm["by_seed"], ".", color="0.6", markersize=4)
    axes.axhline(0, color="0.7", linewidth=1)
    axes.set_xticks(range(len(arms)), [*arms], rotation=35, ha="right", fontsize=8)
    axes.set_ylabel("gain by the oracle")
    return png(figure, dpi=110)
