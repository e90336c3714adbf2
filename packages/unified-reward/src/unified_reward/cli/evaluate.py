"""``unified-reward evaluate`` and ``unified-reward evaluate-diff``: which model is better."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unified_reward.cli import options, output
from unified_reward.core.errors import ConfigError
from unified_reward.core.words import count_of
from unified_reward.evaluate.diff import compare_evaluations
from unified_reward.evaluate.inputs import read_models
from unified_reward.evaluate.run import PAGE, evaluate_models
from unified_reward.evaluate.sampling import PolicySampling
from unified_reward.io.vote_rows import read_votes
from unified_reward.judges.registry import kind_of


_Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME=]PATH...",
        help="A model each: a folder of files named by number or id of their prompt, or rows of "
        "candidates; or the folder of an earlier evaluation.",
    ),
]
_PromptsOption = Annotated[
    Path | None, typer.Option(help="Prompts: .txt, .jsonl, .json, .csv, .tsv or .parquet.")
]
_PolicyOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]REFERENCE",
        help="Policy to sample from, a VLM or a diffusers pipeline; may be repeated.",
    ),
]
_BaselineOption = Annotated[
    str | None, typer.Option(help="Model to compare the others with; default the first.")
]
_ByOption = Annotated[
    Literal["both", "score", "pairs"], typer.Option(help="Questions to ask the judges.")
]
_ReadingsOption = Annotated[int, typer.Option(min=1, help="Times each score is asked.")]
_BudgetOption = Annotated[
    int | None,
    typer.Option(min=1, help="Most calls for comparisons of each judge, where they tell most."),
]
_VotesOption = Annotated[
    Path | None, typer.Option(help="Votes of people, which calibrate the first judge.")
]
_SamplesOption = Annotated[
    int, typer.Option("--n", min=1, help="Samples of a policy for each prompt.")
]
_SeedOption = Annotated[int, typer.Option(help="Random seed of policies and budget.")]
_OutOption = Annotated[
    Path | None, typer.Option(help="Folder for verdicts, report and page; resumable.")
]


@options.opens_judge
def evaluate(
    inputs: _Inputs = None,
    *,
    prompts: _PromptsOption = None,
    judges: dict[str, options.JudgeArguments],
    policy: _PolicyOption = None,
    baseline: _BaselineOption = None,
    by: _ByOption = "both",
    orders: options.OrdersOption = 2,
    readings: _ReadingsOption = 1,
    budget: _BudgetOption = None,
    votes: _VotesOption = None,
    n: _SamplesOption = 4,
    seed: _SeedOption = 0,
    out: _OutOption = None,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Find out which of several models is better, by how much, and for which prompts."""
    if out is None and (policy or retry_failed):
        option = "--policy" if policy else "--retry-failed"
        raise ConfigError(f"{option} goes with --out, the folder of the run")
    for judge in judges.values():
        kind_of(judge.judge)  # so that a wrong reference is refused before anything is made
    common = next(iter(judges.values()))
    sampling = None
    if out:
        sampling = PolicySampling(
            out, n, seed, device=common.device, dtype=common.dtype, retry_failed=retry_failed
        )
    people = read_votes(votes) if votes else ()
    outputs = read_models(inputs or (), prompts, policies=policy or (), sampling=sampling)
    report = evaluate_models(
        outputs,
        {name: partial(judge.open, is_alone=len(judges) == 1) for name, judge in judges.items()},
        baseline=baseline,
        by=by,
        orders=options.orders_of(orders),
        readings=readings,
        budget=budget,
        votes=people,
        out=out,
        retry_failed=retry_failed,
        seed=seed,
    ).report
    if as_json:
        output.print_json([report])
    else:
        _print_report(report)
        if out:
            typer.echo(f"page: {out / PAGE}")
            output.say_next("arena", out, "--out", "VOTES.jsonl")
    if out:
        output.hint_at_failed(sum(judge["failed"] for judge in report["judges"].values()))
    output.exit_if(report["missing"])


def _print_report(report: Mapping[str, Any]) -> None:
    console = Console()
    for reward in report["rewards"]:
        console.print(_reward_table(report, reward))
    for model, row in (report["people"] or {}).items():
        n_votes = count_of(row["n_votes"], "prompt")
        by = f"votes on {n_votes} and {row['reward']} on {row['n_judged']}"
        share = _with_interval(row, "value")
        console.print(Text(f"people: {model} beats {report['baseline']} {share}, by {by}"))
    for reward, row in (report["budget"] or {}).items():
        width = output.format_number(row["width"])
        calls = f"{row['calls']} of {row['full_calls']} calls for comparisons"
        console.print(Text(f"{reward}: {calls}; widest interval of a win rate {width}"))
    for warning in report["warnings"]:
        console.print(Text.assemble(("warning: ", "yellow"), warning["text"]))
    for note in report["notes"]:
        console.print(Text(f"note: {note}"))
    lost: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in report["missing"]:
        lost.setdefault((row["model"], row["kind"]), []).append(row)
    for (model, kind), rows in lost.items():
        example = f"{rows[0]['prompt']}: {rows[0]['reason']}"
        console.print(Text(f"{model}: {len(rows)} {kind}, such as {example}"))


def _reward_table(report: Mapping[str, Any], reward: str) -> Table:
    """Models by one reward: values and, of several models, differences, wins and strengths."""
    judge, baseline = report["judges"][reward], report["baseline"]
    what = "mean" if judge["kind"] == "score" else "share of wins"
    compared = (f"minus {baseline}", f"wins against {baseline}", "strength", "rank")
    strengths = report["bradley_terry"].get(reward)
    table = Table(title=Text(f"{reward}: {count_of(judge['calls'], 'call')}"))
    for text in ("", what, *(compared if strengths else ()), "n"):
        table.add_column(Text(text))
    for model, values in report["models"].items():
        paired = report["paired"].get(model, {}).get(reward)
        cells = _comparison_cells(paired, strengths[model]) if strengths else ()
        value = _with_interval(values[reward], "mean")
        table.add_row(Text(model), value, *cells, str(values[reward]["n"]))
    return table


def _comparison_cells(
    paired: Mapping[str, Any] | None, strength: Mapping[str, Any]
) -> tuple[str, str, str, str]:
    return (
        _with_interval(paired, "difference") if paired else "baseline",
        _with_interval(paired, "win_rate", "win_rate_ci95") if paired else "",
        _with_interval(strength, "strength"),
        "-".join(map(str, dict.fromkeys(strength["rank"]))),
    )


def _with_interval(row: Mapping[str, Any], name: str, interval: str = "ci95") -> str:
    value = output.format_number(row[name])
    if row[interval] is None or None in row[interval]:
        return value
    low, high = map(output.format_number, row[interval])
    return f"{value} ({low} to {high})"


def evaluate_diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of another one.")],
    *,
    as_json: options.JsonOption = False,
) -> None:
    """Compare two evaluations on their common models, prompts and rewards: B minus A."""
    report = compare_evaluations(first, second)
    if as_json:
        output.print_json([report])
        return
    console = Console()
    title = Text(
        f"A {report['a']}, B {report['b']}: {count_of(report['prompts'], 'prompt')} of both"
    )
    table = Table("", "reward", "", "A", "B", "B - A", "prompts", title=title)
    for model, reward, name, row in _changes(report):
        cells = [output.format_number(row[side]) for side in "ab"]
        change = _with_interval(row, "change")
        table.add_row(Text(model), Text(reward), name, *cells, change, str(row["n"]))
    console.print(table)
    for reward, reason in report["other_judges"].items():
        console.print(Text(f"{reward} is left out: {reason}"))
    for side, kind in product("ab", ("models", "prompts", "rewards")):
        if names := report[f"only_{side}"][kind]:
            console.print(Text(f"only in {side.upper()}: {len(names)} {kind}, such as {names[0]}"))
    if changed := report["changed_prompts"]:
        words = count_of(len(changed), "prompt was", "prompts were")
        console.print(Text(f"{words} changed, such as {changed[0]}"))


def _changes(report: Mapping[str, Any]) -> Iterator[tuple[str, str, str, Mapping[str, Any]]]:
    for model, by_reward in report["models"].items():
        for reward, changes in by_reward.items():
            for name, row in changes.items():
                if row is not None:
                    yield model, reward, name, row
