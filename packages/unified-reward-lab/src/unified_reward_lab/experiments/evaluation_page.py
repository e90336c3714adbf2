"""Section and plot of the study of evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unified_reward_lab.experiments.page import png, table, with_interval


_KINDS = {
    "mean": "mean score",
    "difference": "paired difference",
    "win_rate": "win rate",
    "strength": "Bradley-Terry strength",
    "lead": "Bradley-Terry lead of neighbours",
}


def page(report: Mapping[str, Any]) -> str:
    """Format the report as a Markdown section."""
    lines = [
        "## Evaluations of four policies of known order",
        "",
        f"{report['n']:,} held-out prompts, one picture of each policy: *better* (trained from "
        f"rewards), *before* (`tiny_image`), *blurred* ({report['blur']:g} px) and *noisy* "
        f"({report['noise']:g} of 255). Values of the whole pool:",
        "",
        *_pool(report["pool"]),
        "",
        "### Coverage of 95 % intervals",
        "",
        f"Share of {report['repeats']} random samples of prompts whose interval contains the "
        "pool's value: the lowest of all models, and the mean.",
        "",
        *_coverage(report["samples"]),
        "",
        "The known order: shares of the samples in which Bradley-Terry finds it as a whole, and "
        "in which the interval of a lead is above 0; of all leads, the share below 0.",
        "",
        *_order(report["samples"]),
        "",
        "### Calls saved by adaptive pairs",
        "",
        *_budget(report["budget"]),
        "",
        "### Few votes and many verdicts",
        "",
        *_people(report["people"], report["agreement"]),
    ]
    return "\n".join(lines) + "\n"


def _pool(pool: Mapping[str, Any]) -> list[str]:
    models = [key.removeprefix("mean ") for key in pool["oracle"] if key.startswith("mean ")]
    kinds = ("mean", "difference", "win_rate", "strength")
    rows = [
        [
            model,
            reward,
            *(
                with_interval(figures[f"{kind} {model}"]) if f"{kind} {model}" in figures else "-"
                for kind in kinds
            ),
        ]
        for reward, figures in pool.items()
        for model in models
    ]
    head = ["policy", "reward", "mean", "minus before", "win rate against before", "strength"]
    return table(head, rows)


def _coverage(samples: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    for size, by_reward in samples.items():
        for reward, found in by_reward.items():
            row = [size, reward]
            for kind in _KINDS:
                values = [
                    each["value"]
                    for key, each in found["coverage"].items()
                    if key.startswith(f"{kind} ")
                ]
                row.append(f"{min(values):.3f}, {sum(values) / len(values):.3f}")
            rows.append(row)
    return table(["prompts", "reward", *_KINDS.values()], rows)


def _order(samples: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    names: list[str] = []
    for size, by_reward in samples.items():
        for reward, found in by_reward.items():
            order = found["order"]
            names = [*order["apart"]]
            shares = (order["right"], *order["apart"].values(), order["wrong"])
            rows.append([size, reward, *(f"{each['value']:.3f}" for each in shares)])
    return table(["prompts", "reward", "whole order", *names, "wrong"], rows)


def _budget(budget: Mapping[str, Any]) -> list[str]:
    rows: list[list[str]] = []
    for reward, by_number in budget["rewards"].items():
        for n, each in by_number.items():
            shares = [found["value"] for key, found in each.items() if key.startswith("share ")]
            saved = (with_interval(each[key]) for key in ("saved", "saved_neighbours", "reported"))
            covered = min(lead["value"] for lead in each["coverage"].values())
            spread = f"{min(shares):.2f} to {max(shares):.2f}"
            rows.append([reward, f"{int(n):,}", *saved, spread, f"{covered:.3f}"])
    saved = ("saved", "saved, neighbours", "saved as reported")
    return [
        f"{budget['prompts']} prompts of the pool, {budget['repeats']} times: the share of the "
        "calls of even pairs that adaptive pairs save (geometric mean) until the widest interval "
        "of a win rate is as narrow, over all pairs and over neighbours of the known order, and as "
        "`--budget` reports it; the shares of the comparisons that the six pairs get; and the "
        "lowest coverage of the leads of neighbours.",
        "",
        *table(["reward", "comparisons", *saved, "shares of pairs", "coverage"], rows),
    ]


def _people(people: Mapping[str, Any], agreement: Mapping[str, float | None]) -> list[str]:
    rows: list[list[str]] = []
    for model, found in people["models"].items():
        for n, each in found["by_votes"].items():
            ratio = each["powered"]["width"] / each["votes"]["width"]
            cells = [
                f"{each[kind]['value']:.3f} ({each[kind]['width']:.3f})"
                for kind in ("votes", "powered", "judge")
            ]
            rows.append([model, n, *cells, f"{ratio:.3f}", f"{each['weight']:.2f}"])
    known = ", ".join(
        f"{model} {found['value']:.3f} (correlation of verdicts with the oracle's "
        f"{'-' if agreement[model] is None else f'{agreement[model]:.2f}'})"
        for model, found in people["models"].items()
    )
    head = [
        "policy",
        "votes",
        "votes alone",
        "prediction-powered",
        "judge alone",
        "width",
        "weight",
    ]
    return [
        f"Win rate against *before* among simulated raters (temperature {people['temperature']:g}),"
        f" in the pool: {known}. Coverage, and mean width in brackets, over {people['repeats']:,} "
        f"draws of votes and {people['judged']:,} other verdicts of the judge; width against that "
        "of votes alone, and mean weight of the judge.",
        "",
        *table(head, rows),
    ]


def plot(report: Mapping[str, Any]) -> bytes:
    """Plot the widths and coverage of intervals of people's win rates."""
    from matplotlib.figure import Figure

    models = report["people"]["models"]
    figure = Figure(figsize=(3.2 * len(models), 5), layout="constrained")
    axes = figure.subplots(2, len(models), sharex=True, sharey="row", squeeze=False)
    for column, (model, found) in enumerate(models.items()):
        numbers = [int(n) for n in found["by_votes"]]
        for kind in ("votes", "powered", "judge"):
            rows = [each[kind] for each in found["by_votes"].values()]
            axes[0, column].plot(numbers, [row["width"] for row in rows], marker="o")
            axes[1, column].plot(numbers, [row["value"] for row in rows], marker="o")
        axes[0, column].set(title=model, xscale="log")
        axes[1, column].axhline(0.95, color="0.7", linewidth=1)
        axes[1, column].set(xlabel="votes", ylim=(-0.03, 1.03))
        axes[1, column].set_xticks(numbers, [*map(str, numbers)])
        axes[1, column].minorticks_off()
    axes[0, 0].set(ylabel="width")
    axes[1, 0].set(ylabel="coverage")
    axes[0, 0].legend(["votes alone", "prediction-powered", "judge alone"], frameon=False)
    return png(figure, dpi=110)
