"""Section and plot of the study of voting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unified_reward_lab.experiments.page import png, table, with_interval


_ARMS = {
    "random": "pairs at random",
    "uncertain": "pairs on which the judge so far is least sure",
    "disagree": "pairs on which it and the second judge differ most",
}


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    arms: Mapping[str, Any] = report["arms"]
    rows = [
        [
            arm,
            f"{int(n):,}",
            *(with_interval(each[key]) for key in ("accuracy", "gain")),
            "-" if arm == "random" else with_interval(each["ahead"]),
            ", ".join(f"{value:.3f}" for value in each["by_seed"]),
            f"{each['ties']:.2f}",
            f"{each['wrong']:.2f}",
        ]
        for arm, by_votes in arms.items()
        for n, each in by_votes.items()
    ]
    lines = [
        "## Votes that teach a judge, at random or where it is unsure",
        "",
        f"Accuracy on {report['n']:,} pairs of pictures of held-out prompts whose oracle scores "
        f"differ, mean over the seeds; before any vote "
        f"{with_interval(report['before'])}. The votes are a simulated rater's, with "
        f"Bradley-Terry noise of temperature {report['temperature']:g}, on some of "
        f"{report['unlabelled']:,} pairs of training prompts: "
        + "; ".join(f"`{arm}`, {_ARMS[arm]}" for arm in arms)
        + ". Each judge is trained from the shipped scalar judge on all votes so far, and "
        "compared with as many seeds of `random`. Ties and wrong votes are shares of the votes, "
        "by the oracle.",
        "",
        *table(
            ["arm", "votes", "accuracy", "gain", "ahead of random", "by seed", "ties", "wrong"],
            rows,
        ),
    ]
    if report["needed"]:
        heads = ["arm", *(f"as {int(n):,} at random" for n in arms["random"])]
        needed = [
            [arm, *(_votes(each) for each in by_votes.values())]
            for arm, by_votes in report["needed"].items()
        ]
        lines += [
            "",
            "Votes that reach the same accuracy, interpolated; 0 is before any:",
            "",
            *table(heads, needed),
        ]
    return "\n".join(lines) + "\n"


def _votes(needed: Mapping[str, Any]) -> str:
    value, low, high = (
        "never" if number is None else f"{number:,}"
        for number in (needed["value"], *needed["ci95"])
    )
    return f"{value} ({low} to {high})"


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the accuracy by the number of votes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    before = report["before"]
    axes.axhspan(*before["ci95"], color="0.9")
    axes.axhline(before["value"], color="0.5", linewidth=1, label="before")
    for arm, by_votes in report["arms"].items():
        metrics = [each["accuracy"] for each in by_votes.values()]
        values = [metric["value"] for metric in metrics]
        bars = [
            [abs(metric["ci95"][side] - metric["value"]) for metric in metrics] for side in (0, 1)
        ]
        axes.errorbar([*map(int, by_votes)], values, yerr=bars, label=arm, marker="o", capsize=3)
    axes.set(xlabel="votes", ylabel="accuracy on held-out pairs", xscale="log")
    numbers = [int(n) for n in report["arms"]["random"]]
    axes.set_xticks(numbers, [f"{n:,}" for n in numbers])
    axes.minorticks_off()
    axes.legend(frameon=False)
    return png(figure, dpi=110)
