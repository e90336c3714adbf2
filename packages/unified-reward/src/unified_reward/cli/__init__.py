"""The command line: one thin file per command; see `EXIT_CODES`."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from typing import Annotated, Any, NoReturn

import typer

import unified_reward
from unified_reward.cli.groups import make_app
from unified_reward.core.errors import UnifiedRewardError


_QUIET = {
    "DATASETS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "GRPC_VERBOSITY": "ERROR",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Settings of other libraries that keep their bars, notices and reports off terminal and network;
what the user has set wins."""


INTERRUPTED = 130
EXIT_CODES = {
    0: "everything was answered",
    1: "some items were not, or the finding is negative",
    2: "wrong usage, or nothing could be done",
    INTERRUPTED: "interrupted by Ctrl-C",
}
_USAGE: Any = import_module(typer.BadParameter.__module__)
"""Module of the errors about wrong options and arguments; older versions of typer have click's."""


COMMANDS = {
    "doctor": (
        "unified_reward.cli.doctor:doctor",
        "Say what this machine can do: versions, devices, weights, what fits, and self-tests.",
    ),
    "score": (
        "unified_reward.cli.score:score",
        "Score images or videos for a prompt, or answers about an image or video.",
    ),
    "compare": (
        "unified_reward.cli.compare:compare",
        "Compare two images or videos for a prompt, or two answers about one.",
    ),
    "rank": (
        "unified_reward.cli.rank:rank",
        "Rank images or videos for a prompt, or answers about one, best first.",
    ),
    "judge": (
        "unified_reward.cli.judge:judge",
        "Judge every sample of a file; resumes a stopped run.",
    ),
    "candidates": (
        "unified_reward.cli.candidates:candidates",
        "Generate candidates for every prompt with a policy; resumes a stopped run.",
    ),
    "pairs": (
        "unified_reward.cli.pairs:pairs",
        "Make a preference pair from the candidates of each prompt; resumes a stopped run.",
    ),
    "serve": (
        "unified_reward.cli.serve:serve",
        "Serve judges and scorers over HTTP, until a signal ends it.",
    ),
    "dpo": (
        "unified_reward.cli.dpo:dpo",
        "Align a policy on preference pairs by DPO; resumes a stopped run.",
    ),
    "grpo": (
        "unified_reward.cli.grpo:grpo",
        "Train a policy by the rewards of judges (GRPO, NFT, DRaFT); resumes a stopped run.",
    ),
    "export": (
        "unified_reward.cli.export:export",
        "Export the kept pairs in the format of another trainer.",
    ),
    "show": (
        "unified_reward.cli.show:show",
        "Write an HTML page with the counts and the first rows of a file.",
    ),
    "bench": (
        "unified_reward.cli.bench:bench",
        "Run a benchmark on a judge: metrics with sample sizes and 95 % intervals.",
    ),
    "bench-diff": (
        "unified_reward.cli.bench:bench_diff",
        "Compare two runs of a benchmark on their common items: B minus A, paired tests.",
    ),
    "evaluate": (
        "unified_reward.cli.evaluate:evaluate",
        "Find out which of several models is better, by how much, and for which prompts.",
    ),
    "evaluate-diff": (
        "unified_reward.cli.evaluate:evaluate_diff",
        "Compare two evaluations on their common models, prompts and rewards: B minus A.",
    ),
    "arena": (
        "unified_reward.cli.arena:arena",
        "Let people vote on pairs in a browser, blind; resumes, until a signal ends it.",
    ),
    "active": (
        "unified_reward.cli.active:active",
        "Sort pairs by what votes of people tell most about: where judges are unsure or disagree.",
    ),
    "calibrate": (
        "unified_reward.cli.calibrate:calibrate",
        "Fit a judge's temperatures and ties to labels, such as votes of people.",
    ),
    "audit": (
        "unified_reward.cli.audit:audit",
        "Measure what should not move a judge: order, length, repeats, resolution, JPEG.",
    ),
    "run": (
        "unified_reward.cli.run:run",
        "Run the stages of a recipe; skips those that are done.",
    ),
    "data": ("unified_reward.cli.data:app", "Check, convert, mix and count rows of data."),
    "convert": (
        "unified_reward.cli.convert:app",
        "Convert original checkpoints to folders that transformers loads.",
    ),
    "scorers": (
        "unified_reward.cli.scorers:app",
        "List the published scorers and what their numbers mean.",
    ),
    "templates": (
        "unified_reward.cli.templates:app",
        "Import the official wordings of published judges.",
    ),
}


RESUMED = {"arena", "candidates", "convert", "dpo", "grpo", "judge", "pairs", "run"}
"""Commands that go on where they stopped when they are called again."""
RESUMED_WITH_OUT = {"active", "bench", "evaluate"}


app = make_app("", COMMANDS, help="Judge generated images and videos, and answers about them.")


def _print_version(value: bool) -> None:  # noqa: FBT001  typer calls it so
    if value:
        typer.echo(unified_reward.__version__)
        raise typer.Exit


@app.callback(epilog=f"Exit code {'; '.join(f'{n}: {text}' for n, text in EXIT_CODES.items())}.")
def root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Judge generated images and videos, and answers about them."""
    del version
    _set_up_streams()


def main() -> None:
    """Run the command line; an error of this package or of the system is a line, no traceback."""
    _set_up_streams()
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
        if logging.lastResort:  # of loggers that nobody set up
            logging.lastResort.addFilter(_is_ours_or_error)
    try:
        code = _run()
    finally:
        _flush()
    if code == INTERRUPTED:
        typer.echo(_describe_interrupt(sys.argv[1:]), err=True)
    if code:
        sys.exit(code)


def _is_ours_or_error(record: logging.LogRecord) -> bool:
    """Drop notices of other libraries, such as matplotlib's about its fonts."""
    return record.levelno >= logging.ERROR or record.name.startswith("unified_reward")


def _run() -> Any:
    """Run the application; its exit code, or None for 0."""
    try:
        return app(standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except _USAGE.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except _USAGE.ClickException as error:
        _fail(_describe_usage(error))
    except UnifiedRewardError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename or 'the output'}: {error.strerror or error}")
    except Exception as error:
        # So do tokenizers and safetensors name the system's errors, such as of a full disk.
        if "(os error " not in str(error):
            raise
        _fail(str(error))


def _describe_usage(error: Any) -> str:
    """An error about options and arguments in one line, with the command whose help says more."""
    text = " ".join(error.format_message().split()).rstrip(".?")
    context = getattr(error, "ctx", None)
    return f"{text}; see {context.command_path} --help" if context else text


def _describe_interrupt(arguments: Sequence[str]) -> str:
    """Say after Ctrl-C whether, and by what, the work goes on."""
    command = next((each for each in arguments if not each.startswith("-")), "")
    has_out = any(each == "--out" or each.startswith("--out=") for each in arguments)
    if command in RESUMED or (command in RESUMED_WITH_OUT and has_out):
        return "interrupted; the same command goes on from here"
    if command in RESUMED_WITH_OUT:
        return "interrupted; with --out FOLDER the same command would go on from here"
    return "interrupted"


def _set_up_streams() -> None:
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whatever started this process
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # names of files need not be UTF-8


def _flush() -> None:
    try:
        sys.stdout.flush()
    except OSError as error:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123  lest the exit fails on it again
        if not isinstance(error, BrokenPipeError):
            _fail(f"standard output cannot be written: {error.strerror}")


def _fail(text: str) -> NoReturn:
    from rich.console import Console
    from rich.text import Text

    message = Text.assemble(("error:", "red"), f" {text}")
    Console(stderr=True).print(message, soft_wrap=True)
    sys.exit(2)
