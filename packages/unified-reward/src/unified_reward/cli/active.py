"""``unified-reward active``: pairs in the order in which people should vote on them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from unified_reward.arena.active import By, DoubtfulPair, ask_judge, rank_pairs
from unified_reward.arena.items import check_votes, read_items
from unified_reward.cli import options, output
from unified_reward.cli.progress import bar
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Example
from unified_reward.core.verdicts import Failed, Unparsed, Verdict
from unified_reward.core.words import count_of
from unified_reward.data.pack import record_line
from unified_reward.evaluate.run import verdicts_path
from unified_reward.io.atomic import keep_inputs, replacing
from unified_reward.io.vote_rows import read_votes
from unified_reward.judges.bulk import JudgeWork
from unified_reward.judges.registry import applicable


_InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Models, as evaluate takes them, its output folder, or files of pairs or of records "
        "with two candidates.",
    ),
]


@options.opens_judge
def active(
    inputs: _InputsArgument,
    *,
    judges: dict[str, options.JudgeArguments],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Rows of pairs, for arena; verdicts go to a folder beside it, so that a stopped "
            "run goes on. Default: the order is printed."
        ),
    ] = None,
    n: Annotated[int | None, typer.Option("--n", min=1, help="Most pairs; default all.")] = None,
    by: Annotated[
        By | None,
        typer.Option(help="Default uncertainty for one judge, disagreement for several."),
    ] = None,
    votes: Annotated[
        list[Path] | None,
        typer.Option(help="Votes of an arena; pairs that have some are left out. Repeatable."),
    ] = None,
    prompts: Annotated[Path | None, typer.Option(help="Prompts of folders of files.")] = None,
    orders: options.OrdersOption = 2,
    seed: Annotated[int, typer.Option(help="Random seed of the order of equal doubts.")] = 0,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Sort pairs by what votes of people tell most about: where judges are unsure or disagree."""
    if out:
        if out.suffix != ".jsonl":
            raise ConfigError(f"--out is a .jsonl file, not {out}")
        keep_inputs(out, *map(Path, inputs), *(votes or ()))
    kind = by or ("uncertainty" if len(judges) == 1 else "disagreement")
    if kind == "disagreement" and len(judges) == 1:
        raise ConfigError("disagreement is of several judges; repeat --judge")
    pairs = _pairs(inputs, prompts, votes or ())
    works = _works(judges, Path(inputs[0]), options.orders_of(orders))
    verdicts = _ask_all(works, pairs, out, retry_failed=retry_failed)
    ranked = rank_pairs(pairs, verdicts, kind, seed=seed)[:n]
    missing = sum(_tell_missing(name, pairs, given) for name, given in verdicts.items())
    if not ranked:
        raise DataError("no pair has a preference of every judge")
    if out:
        with replacing(out) as file:
            file.writelines(record_line(pair.tagged(kind), out.parent) for pair in ranked)
    if as_json:
        output.print_json([_row(pair, kind) for pair in ranked])
    elif out is None:
        for pair in ranked:
            typer.echo(f"{pair.doubt:.3f} {pair.example.id}")
    else:
        doubts = f"doubts {ranked[0].doubt:.3f} to {ranked[-1].doubt:.3f}"
        typer.echo(f"{len(ranked)} of {count_of(len(pairs), 'pair')} by {kind}, {doubts}: {out}")
        output.say_next("arena", out, "--out", "VOTES.jsonl")
    output.exit_if([missing])


def _pairs(inputs: list[str], prompts: Path | None, votes: Sequence[Path]) -> list[Example]:
    """Pairs of the inputs that have no votes; prints what is left out."""
    given = read_items(inputs, prompts=prompts)
    for note in given.notes:
        typer.echo(note, err=True)
    known = [vote for path in votes for vote in read_votes(path)]
    check_votes(given.items, known)
    voted = {vote.id for vote in known}
    pairs = [item.example for item in given.items if item.id not in voted]
    if not pairs:
        raise DataError(f"all {len(given.items)} pairs have votes")
    return pairs


def _works(
    judges: Mapping[str, options.JudgeArguments], source: Path, orders: Literal[1, 2]
) -> dict[str, JudgeWork]:
    """Work of each judge; of several, options that do not apply to a judge are passed over."""
    works: dict[str, JudgeWork] = {}
    for name, judge in judges.items():
        given = judge.options()
        chosen = given if len(judges) == 1 else applicable(judge.judge, given)
        works[name] = JudgeWork(source, judge.judge, chosen, orders)
    return works


def _ask_all(
    works: Mapping[str, JudgeWork],
    pairs: Sequence[Example],
    out: Path | None,
    *,
    retry_failed: bool,
) -> dict[str, list[Verdict]]:
    """Verdicts of each judge on all pairs, kept in a folder beside the output."""
    verdicts: dict[str, list[Verdict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        kept = out.with_suffix("") if out else Path(folder)
        for name, work in works.items():
            with bar(name, len(pairs)) as advance:
                verdicts[name] = ask_judge(
                    pairs,
                    work,
                    verdicts_path(kept, name),
                    retry_failed=retry_failed,
                    on_progress=advance,
                )
    return verdicts


def _tell_missing(name: str, pairs: Sequence[Example], verdicts: Sequence[Verdict]) -> int:
    """Print how many pairs a judge has no preference on, and return their number."""
    lost = [
        f"{pair.id}: {verdict.reason}"
        for pair, verdict in zip(pairs, verdicts, strict=True)
        if isinstance(verdict, Failed | Unparsed)
    ]
    if lost:
        typer.echo(
            f"{name}: no preference on {count_of(len(lost), 'pair')}, such as {lost[0]}", err=True
        )
    output.hint_at_failed(sum(isinstance(verdict, Failed) for verdict in verdicts))
    return len(lost)


def _row(pair: DoubtfulPair, by: By) -> dict[str, Any]:
    return {
        "id": pair.example.id,
        "by": by,
        "doubt": pair.doubt,
        "probabilities": dict(pair.probabilities),
        "flips": list(pair.flips),
    }
