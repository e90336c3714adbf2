"""``unified-reward arena``: people vote on pairs in a browser."""

from __future__ import annotations

import logging
import re
import socket
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unified_reward.cli import output
from unified_reward.core.extensions import extra
from unified_reward.core.words import count_of


if TYPE_CHECKING:
    from unified_reward.arena.tokens import Tokens


_InputsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...",
        help="Models, as evaluate takes them, its output folder, or files of pairs or of records "
        "with two candidates.",
    ),
]
_OutOption = Annotated[Path, typer.Option(help="File that votes are appended to.")]
_PromptsOption = Annotated[Path | None, typer.Option(help="Prompts of folders of files.")]
_BaselineOption = Annotated[str | None, typer.Option(help="Model that each pair includes.")]
_LimitOption = Annotated[int | None, typer.Option("--n", min=1, help="Most pairs; default all.")]
_SeedOption = Annotated[int, typer.Option(help="Decides sides, and the order of pairs of models.")]
_VotesOption = Annotated[int, typer.Option(min=1, help="Votes of different raters for each pair.")]
_RaterOption = Annotated[
    list[str] | None,
    typer.Option(help="Name of a rater, who gets a link; may be repeated."),
]
_RatersOption = Annotated[int, typer.Option(min=0, help="As many raters as this: rater-1, …")]
_AspectOption = Annotated[
    list[str] | None, typer.Option(help="Aspect to give stars for; may be repeated.")
]
_GoldOption = Annotated[
    Path | None,
    typer.Option(help="Records with a known winner, to test attention: a tenth of the votes."),
]
_RepeatOption = Annotated[
    float, typer.Option(min=0, max=0.5, help="Share of votes that repeat an own earlier pair.")
]
_VerdictsOption = Annotated[
    Path | None,
    typer.Option(help="Verdict rows by id of the pair, or an output folder of evaluate."),
]
_HostOption = Annotated[str, typer.Option(help="Address; any but loopback is not encrypted.")]
_PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
_TitleOption = Annotated[str, typer.Option(help="Title of the pages.")]


def arena(
    inputs: _InputsArgument,
    *,
    out: _OutOption,
    prompts: _PromptsOption = None,
    baseline: _BaselineOption = None,
    limit: _LimitOption = None,
    seed: _SeedOption = 0,
    votes: _VotesOption = 2,
    rater: _RaterOption = None,
    raters: _RatersOption = 0,
    aspect: _AspectOption = None,
    gold: _GoldOption = None,
    repeat: _RepeatOption = 0.1,
    judge_verdicts: _VerdictsOption = None,
    host: _HostOption = "127.0.0.1",
    port: _PortOption = 8200,
    title: _TitleOption = "Arena",
) -> None:
    """Let people vote on pairs in a browser, blind; resumes, until a signal ends it."""
    with extra("arena"):
        from unified_reward.arena.app import LOOPBACK, create_app
        from unified_reward.arena.service import Arena, ArenaConfig
        from unified_reward.serve.server import run
    from unified_reward.arena.items import read_items
    from unified_reward.arena.journal import open_votes
    from unified_reward.arena.media import MediaStore
    from unified_reward.arena.queue import QueueConfig
    from unified_reward.arena.tokens import open_tokens
    from unified_reward.arena.verdicts import judge_probabilities

    given = read_items(
        inputs, prompts=prompts, baseline=baseline, limit=limit, seed=seed, gold=gold
    )
    judge = judge_probabilities(judge_verdicts, given.items) if judge_verdicts else None
    queue = QueueConfig(votes=votes, repeat_share=repeat, seed=seed)
    config = ArenaConfig(title, tuple(aspect or ()), queue, judge)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    for note in given.notes:
        typer.echo(note, err=True)
    if judge is not None and len(judge) < len(given.items):
        typer.echo(f"{judge_verdicts}: {len(judge)} of {len(given.items)} pairs judged", err=True)
    if host not in LOOPBACK:
        typer.echo("links and votes travel unencrypted on this network", err=True)
    names = [*(rater or ()), *(f"rater-{i}" for i in range(1, raters + 1))]
    with open_votes(out) as journal, tempfile.TemporaryDirectory() as folder:
        tokens = open_tokens(out.with_name(f"{out.name}.tokens.json"), names)
        store = MediaStore([*given.items, *given.gold], tokens.key, Path(folder))
        service = Arena(given, journal, store, tokens.key, config)
        if n := service.n_foreign:
            words = count_of(n, "vote is", "votes are")
            typer.echo(f"{out}: {words} on other pairs than the input's; kept", err=True)
        app = create_app(service, tokens, is_loopback=host in LOOPBACK)
        run(app, host, port, lambda url: _print_links(url, tokens))
    output.say_next("calibrate", "JUDGE", out, "NEW_FOLDER")


def _print_links(url: str, tokens: Tokens) -> None:
    """Print a link for each rater and for the owner; every address is that of this machine."""
    url = re.sub(r"//(0\.0\.0\.0|\[::\])", f"//{socket.gethostname()}", url)
    for name, token in tokens.raters.items():
        typer.echo(f"{name}: {url}/#{token}")
    typer.echo(f"standings, for you alone: {url}/standings#{tokens.owner}")
    sys.stdout.flush()
