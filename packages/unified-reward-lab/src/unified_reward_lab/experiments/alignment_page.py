"""Page and plot of the study of alignment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unified_reward_lab.experiments.page import png, table, with_interval


VOTED = "voted"
"""Name of the judge trained on votes, in reports."""
FEWER = "fewer"
"""Key of a report: the strategies `score`, `adaptive` and rank+sift of a later study, in which the
judge that ships now made the pairs; as its entry ``ways``."""
EQUAL_CALLS = "equal_calls"
"""Key of a report: `score` with twice the prompts and rank+sift, each with all its pairs; as
`FEWER`."""


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    head = ["task", "pairs", "oracle before", "after", "gain", "by seed", "gap closed"]
    head += ["readable before", "after", "judge reward before", "after"]
    rows: list[list[Any]] = []
    split: list[list[Any]] = []
    for task, result in report["tasks"].items():
        old, new = result["before"], result["after"]
        rows.append(
            [
                task,
                ", ".join(map(str, result["pairs"])),
                with_interval(old["oracle"]),
                with_interval(new["oracle"]),
                f"**{with_interval(result['gain'])}**",
                _signed(result["by_seed"]),
                _share(result["gap_closed"]),
                *(
                    with_interval(side[name])
                    for name in ("readable", "judge_reward")
                    for side in (old, new)
                ),
            ]
        )
        split.append([task, *(with_interval(figure) for figure in result["parts"].values())])
    lines = [
        "## Aligned by the judge, examined by the oracle",
        "",
        f"{report['n']} held-out prompts per task (seed {report['seed']}), one candidate each, "
        f"with the same noise before and after; {len(report['seeds'])} trainings (seeds "
        f"{', '.join(map(str, report['seeds']))}) on pairs from training prompts with "
        f"{report['preferences']['n']} candidates each, by rank+sift with the shipped judge. "
        "Oracle: for images and videos the share of the caption's facts that "
        "hold, for answers their utility, 0 if unreadable. In brackets 95 % intervals, "
        "bootstrap over prompts.",
        "",
        *table(head, rows),
        "",
        "The gain as a sum: candidates that were readable and improved, that became readable, and "
        "that became unreadable.",
        "",
        *table(["task", "became right", "became readable", "became unreadable"], split),
    ]
    lines += _contrasts(report)
    return "\n".join(lines) + "\n"


def _contrasts(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, title in (
        ("ways", "Strategies of making pairs, image generation, equal pairs and steps"),
        (FEWER, "Fewer questions for a pair, image generation, equal pairs and steps"),
        (EQUAL_CALLS, "Equal calls, image generation, equal steps"),
        ("judges", "Pairs of two judges, image generation, equal pairs and steps"),
    ):
        if groups := report.get(key):
            figures = [
                [
                    name,
                    *([f"{result['calls']:.1f}"] if "calls" in result else []),
                    with_interval(result["gain"]),
                    _signed(result["by_seed"]),
                    with_interval(result["behind_best"]),
                    with_interval(result["readable"]),
                    with_interval(result["judge_reward"]),
                ]
                for name, result in groups.items()
            ]
            behind = f"behind {[*groups][-1].partition(',')[0]}"
            names = ["gain", "by seed", behind, "readable", "judge reward"]
            calls = ["calls a prompt"] * any("calls" in result for result in groups.values())
            lines += ["", f"### {title}", "", *table(["pairs", *calls, *names], figures)]
    return lines + (_voted(report[VOTED]) if VOTED in report else [])


def _voted(tasks: Mapping[str, Any]) -> list[str]:
    """Format the comparison of the shipped judge with the judge trained on votes."""
    rows = [
        [
            task,
            name,
            with_interval(result["gain"]),
            _signed(result["by_seed"]),
            _share(result["gap_closed"]),
            with_interval(result["behind_best"]),
            with_interval(result["readable"]),
            with_interval(result["judge_reward"]),
        ]
        for task, groups in tasks.items()
        for name, result in groups.items()
    ]
    head = ["task", "pairs by", "gain", "by seed", "gap closed", "behind voted", "readable"]
    return [
        "",
        "### Pairs of a judge trained on votes on generated candidates",
        "",
        *table([*head, "judge reward"], rows),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the scores of oracle and judge before and after: one panel per task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    panels = figure.subplots(1, len(report["tasks"]), sharey=True, squeeze=False)[0]
    for axes, (task, result) in zip(panels, report["tasks"].items(), strict=True):
        for name, colour in (("oracle", "tab:blue"), ("judge_reward", "tab:orange")):
            sides = [result[side][name] for side in ("before", "after")]
            if any(side["value"] is None for side in sides):
                continue
            values = [side["value"] for side in sides]
            reach = [[abs(s["value"] - s["ci95"][k]) for s in sides] for k in (0, 1)]
            label = name.replace("_", " ")
            axes.errorbar([0, 1], values, yerr=reach, marker="o", color=colour, label=label)
        axes.set(title=task.replace("_", " "), ylim=(0, 1), xlim=(-0.3, 1.3))
        axes.set_xticks([0, 1], ["before", "after"])
    panels[0].set_ylabel("score")
    panels[-1].legend(loc="lower right")
    return png(figure)
