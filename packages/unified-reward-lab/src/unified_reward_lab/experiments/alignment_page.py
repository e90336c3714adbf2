"""The study of alignment as a section of results, and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unified_reward_lab.experiments.alignment import VOTED
from unified_reward_lab.experiments.page import png, table, with_interval


def page(report: Mapping[str, Any]) -> str:
    """The report as a Markdown section: how it was measured, and the figures."""
    head = ["task", "pairs", "oracle before", "after", "gain", "by seed", "gap closed"]
    head += ["readable before", "after", "judge reward before", "after"]
    rows: list[list[Any]] = []
    split: list[list[Any]] = []
    for task, one in report["tasks"].items():
        old, new = one["before"], one["after"]
        rows.append(
            [
                task,
                ", ".join(map(str, one["pairs"])),
                with_interval(old["oracle"]),
                with_interval(new["oracle"]),
                f"**{with_interval(one['gain'])}**",
                _signed(one["by_seed"]),
                _share(one["gap_closed"]),
                *(
                    with_interval(side[name])
                    for name in ("readable", "judge_reward")
                    for side in (old, new)
                ),
            ]
        )
        split.append([task, *(with_interval(figure) for figure in one["parts"].values())])
    lines = [
        "## Aligned by the judge, examined by the oracle",
        "",
        f"{report['n']} held-out prompts a task (seed {report['seed']}), one candidate each, with "
        f"the same noise before and after; {len(report['seeds'])} trainings (seeds "
        f"{', '.join(map(str, report['seeds']))}) on pairs from training prompts with "
        f"{report['preferences']['n']} candidates each, ranked and sifted by the shipped judge. "
        "Oracle: of pictures and clips the share of the caption's facts that "
        "hold, of answers their utility, 0 where it cannot read. In brackets 95 % intervals, "
        "bootstrap over prompts.",
        "",
        *table(head, rows),
        "",
        "The gain as a sum: what was readable before and is better, what became readable, and what "
        "became unreadable.",
        "",
        *table(["task", "became right", "became readable", "became unreadable"], split),
    ]
    lines += _contrasts(report)
    return "\n".join(lines) + "\n"


def _contrasts(report: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for key, title in (
        ("ways", "Ways of making pairs, image generation, equal pairs and steps"),
        ("judges", "Pairs of two judges, image generation, equal pairs and steps"),
    ):
        if groups := report.get(key):
            figures = [
                [
                    name,
                    with_interval(one["gain"]),
                    _signed(one["by_seed"]),
                    with_interval(one["behind_best"]),
                    with_interval(one["readable"]),
                    with_interval(one["judge_reward"]),
                ]
                for name, one in groups.items()
            ]
            behind = f"behind {[*groups][-1]}"
            names = ["pairs", "gain", "by seed", behind, "readable", "judge reward"]
            lines += ["", f"### {title}", "", *table(names, figures)]
    return lines + (_voted(report[VOTED]) if VOTED in report else [])


def _voted(tasks: Mapping[str, Any]) -> list[str]:
    """The shipped judge's pairs against those of the judge that was taught by votes."""
    rows = [
        [
            task,
            name,
            with_interval(one["gain"]),
            _signed(one["by_seed"]),
            _share(one["gap_closed"]),
            with_interval(one["behind_best"]),
            with_interval(one["readable"]),
            with_interval(one["judge_reward"]),
        ]
        for task, groups in tasks.items()
        for name, one in groups.items()
    ]
    head = ["task", "pairs by", "gain", "by seed", "gap closed", "behind voted", "readable"]
    return [
        "",
        "### Pairs of a judge that was taught by votes on what policies made",
        "",
        *table([*head, "judge reward"], rows),
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def _signed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def plot(report: Mapping[str, Any]) -> bytes:
    """Oracle and judge before and after as a PNG image, a panel a task."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 2.8), layout="constrained")
    panels = figure.subplots(1, len(report["tasks"]), sharey=True, squeeze=False)[0]
    for axes, (task, one) in zip(panels, report["tasks"].items(), strict=True):
        for name, colour in (("oracle", "tab:blue"), ("judge_reward", "tab:orange")):
            sides = [one[side][name] for side in ("before", "after")]
            if any(side["value"] is None for side in sides):
                continue
            values = [side["value"] for side in sides]
            reach = [[abs(s["value"] - s["ci95"][k]) for s in sides] for k in (0, 1)]
            label = name.replace("_", " ")
            axes.errorbar([0, 1], values, yerr=reach, marker="o", color=colour, label=label)
        axes.set(title=task.replace("_", " "), ylim=(0, 1), xlim=(-0.3, 1.3))
        axes.set_xticks([0, 1], ["before", "after"])
    panels[0].set_ylabel("worth, reward")
    panels[-1].legend(loc="lower right")
    return png(figure)
