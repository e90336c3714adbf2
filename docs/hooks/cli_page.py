"""Reference of the commands, from their functions: usage, arguments, options, exit codes."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator, Sequence
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
from tables import table

from unified_reward.cli import EXIT_CODES, app
from unified_reward.cli.options import JudgeArguments, opens_judge


PROGRAM = "unified-reward"
PICTURES = Path(__file__).parents[1] / "terminal"
SECTIONS = {
    "This machine": ("doctor",),
    "Judge": ("score", "compare", "rank", "judge"),
    "Make pairs": ("candidates", "pairs", "export", "show"),
    "Align and train": ("dpo", "grpo", "run"),
    "Measure": ("evaluate", "evaluate-diff", "bench", "bench-diff", "audit", "calibrate"),
    "Ask people": ("arena", "active"),
    "Serve": ("serve",),
    "Data": ("data check", "data convert", "data mix", "data stats"),
    "Published models": ("scorers", "scorers check", "templates import", "convert llava-qwen"),
    "Laboratory": ("data make microworld", "experiment"),
    "Others": (),
}
"""Commands by purpose; those that stand nowhere go to the last section."""
GUIDES = {
    "score": ("judge-images", "score-a-folder"),
    "compare": ("judge-images",),
    "rank": ("judge-images",),
    "judge": ("bulk",),
    "candidates": ("make-candidates",),
    "pairs": ("make-pairs",),
    "export": ("export-pairs",),
    "show": ("export-pairs",),
    "dpo": ("align-a-policy",),
    "grpo": ("learn-from-rewards",),
    "run": ("train-a-judge",),
    "evaluate": ("evaluate-generators",),
    "evaluate-diff": ("evaluate-generators",),
    "bench": ("benchmark",),
    "bench-diff": ("benchmark",),
    "audit": ("benchmark",),
    "calibrate": ("votes-to-judge",),
    "arena": ("votes-to-judge", "evaluate-generators"),
    "active": ("votes-to-judge",),
    "serve": ("serve", "serve-on-ray"),
    "data check": ("prepare-data",),
    "data convert": ("prepare-data",),
    "data mix": ("prepare-data",),
    "data stats": ("prepare-data",),
    "scorers": ("published-scorers",),
    "scorers check": ("published-scorers",),
    "templates import": ("official-wordings",),
    "convert llava-qwen": ("convert-checkpoints",),
    "data make microworld": ("microworld",),
    "doctor": ("doctor",),
}
"""Pages in ``howto/`` on a command."""
EXITS = {
    **dict.fromkeys(("score", "compare", "rank"), "a candidate has no verdict"),
    "judge": "a row is unparsed, failed or incomplete",
    "candidates": "a prompt failed",
    "pairs": "a prompt failed",
    **dict.fromkeys(("export", "show"), "a row is unusable"),
    **dict.fromkeys(("dpo", "grpo"), "a row could not be used"),
    "evaluate": "an output or an answer is missing",
    **dict.fromkeys(("bench", "audit"), "an item is unparsed, failed or broken"),
    "calibrate": "an item is unparsed, failed or broken",
    "active": "a judge gave no preference of a pair",
    **dict.fromkeys(("data check", "data convert", "data mix", "data stats"), "a row is unusable"),
    "scorers check": "a file, a tensor or a wording is missing",
    "templates import": "a wording is not as published",
    "convert llava-qwen": "the checkpoint cannot be converted",
    "experiment": "an item is unparsed or failed",
    "doctor": "a self-test failed",
}
"""Meaning of exit code 1 of the commands that have it."""


class Parameter(NamedTuple):
    """An argument or an option, as a row shows it."""

    name: str
    kind: str
    default: str
    help: str


class Command(NamedTuple):
    """A command, from the signature of its function."""

    name: str
    text: str
    usage: str
    arguments: tuple[Parameter, ...]
    options: tuple[Parameter, ...]


@cache
def commands() -> dict[str, Command]:
    """Every command by its name, such as ``data check``."""
    group: Any = typer.main.get_group(app)
    return {name: _command(name, function) for name, function in functions(group)}


def functions(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Name and function of every command of a group, and of the group itself if it has one."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        _, command, _ = group.resolve_command(context, [name])
        if hasattr(command, "list_commands"):
            if command.invoke_without_command:
                yield f"{prefix}{name}", command.callback
            yield from functions(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command.callback


def _command(name: str, function: Any) -> Command:
    arguments: list[Parameter] = []
    options: list[Parameter] = []
    needed: list[str] = []
    places: list[str] = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        if get_origin(parameter.annotation) is not Annotated:
            continue  # the context
        given, info = get_args(parameter.annotation)[:2]
        is_argument = isinstance(info, typer.models.ArgumentInfo)
        row = _parameter(parameter, given, info)
        (arguments if is_argument else options).append(row)
        if is_argument:
            label = row.name.removesuffix("...") + " …" * row.kind.startswith("list")
            places.append(label if row.default == "required" else f"[{label}]")
        elif row.default == "required":
            needed.append(f"{row.name.split(', ')[0]} {parameter.name.upper()}")
    text = inspect.cleandoc(function.__doc__ or "").partition("\nArgs:")[0].strip()
    usage = " ".join([PROGRAM, name, *needed, "[OPTIONS]", *places])
    return Command(name, text, usage, tuple(arguments), tuple(options))


def _parameter(parameter: inspect.Parameter, given: Any, info: Any) -> Parameter:
    is_argument = isinstance(info, typer.models.ArgumentInfo)
    option = "--" + parameter.name.replace("_", "-")
    # Typer calls the first positional argument of Option its default, in Annotated too.
    names = [*([info.default] if info.default is not ... else []), *(info.param_decls or ())]
    name = ", ".join(names).replace("/", ", ") or option
    if is_argument:
        name = info.metavar or parameter.name.upper()
    elif given is bool and not names:
        name = f"{option}, --no-{option[2:]}"
    kind = info.metavar if info.metavar and not is_argument else kind_of(given)
    limits = [str(side) for side in (info.min, info.max) if side is not None]
    if limits:
        kind += f", {' to '.join(limits)}" if len(limits) == 2 else f" ≥ {limits[0]}"
    if not is_argument and is_list(given):
        kind += ", repeatable" * ("list" not in kind)
        kind = kind.replace("list of ", "") + ", repeatable" * ("list" in kind)
    return Parameter(name, kind, _default(parameter), info.help or "")


def is_list(given: Any) -> bool:
    """Check whether a type, or a side of a union, is a list."""
    return any(get_origin(one) is list for one in (given, *get_args(given)))


def kind_of(given: Any) -> str:
    """Words for the type of a parameter.

    >>> kind_of(Literal["png", "jpeg"]), kind_of(list[str] | None), kind_of(float)
    ('png, jpeg', 'list of text', 'number')
    """
    if get_origin(given) in (Union, types.UnionType):
        return " or ".join(kind_of(one) for one in get_args(given) if one is not type(None))
    if get_origin(given) is Literal:
        return ", ".join(map(str, get_args(given)))
    if get_origin(given) is list:
        return f"list of {kind_of(get_args(given)[0])}"
    if isinstance(given, type) and issubclass(given, Enum):
        return ", ".join(str(one.value) for one in given)
    names = {str: "text", Path: "path", int: "whole number", float: "number", bool: "flag"}
    return names.get(given, getattr(given, "__name__", str(given)))


def _default(parameter: inspect.Parameter) -> str:
    value = parameter.default
    if value is inspect.Parameter.empty:
        return "required"
    if value is None or value is False or value in ("", [], ()):
        return ""
    if value is True:
        return "on"
    return str(value.value if isinstance(value, Enum) else value)


@cache
def judge_options() -> tuple[Parameter, ...]:
    """Options of every command that opens a judge."""

    @opens_judge
    def command(*, judge: JudgeArguments) -> None: ...

    return _command("", command).options


def markdown() -> str:
    """Text of the page."""
    known = commands()
    placed = {name for names in SECTIONS.values() for name in names}
    lines = [_INTRODUCTION, _exit_codes(), _global_options(), _overview(known)]
    for title, names in SECTIONS.items():
        here = [name for name in names if name in known]
        here += [name for name in known if name not in placed] if title == "Others" else []
        if here:
            lines += [f"## {title}", *(_section(known[name]) for name in here)]
        if title == "Judge":
            lines += [f"### {_SHARED}", _SHARED_TEXT, _options(judge_options())]
    return "\n\n".join(lines) + "\n"


_SHARED = "Options of a judge"
_SHARED_TEXT = (
    "Every command that opens a judge takes these; see [judge references](judges.md). Where "
    "`--judge` may be repeated, each judge takes those that apply to it."
)
_INTRODUCTION = f"""# Commands

`{PROGRAM} COMMAND --help` prints the same in the terminal. Values are given as `--name value`; a
flag has none."""


def _exit_codes() -> str:
    rows = [(str(code), meaning) for code, meaning in EXIT_CODES.items()]
    return table(("Exit code", "Meaning"), rows)


def _global_options() -> str:
    """Options of the program itself."""
    program: Any = typer.main.get_command(app)
    rows = [
        (", ".join(f"`{one}`" for one in each.opts), each.help or "") for each in program.params
    ]
    return table((f"`{PROGRAM}` alone", "Meaning"), rows)


def _overview(known: dict[str, Command]) -> str:
    placed = [name for names in SECTIONS.values() for name in names if name in known]
    names = [*placed, *(name for name in known if name not in placed)]
    rows = [(f"[`{name}`](#{anchor(name)})", known[name].text.split("\n")[0]) for name in names]
    return table(("Command", "What it does"), rows)


def anchor(name: str) -> str:
    """Name of a command's section in links."""
    return f"{PROGRAM}-{name.replace(' ', '-')}"


def _section(command: Command) -> str:
    shared = [option for option in command.options if option in judge_options()]
    own = [option for option in command.options if option not in shared]
    lines = [
        f"### {command.name} {{ #{anchor(command.name)} }}",
        command.text,
        f"```text\n{command.usage}\n```",
    ]
    lines += _picture(command.name)
    if command.arguments:
        rows = [_row(argument) for argument in command.arguments]
        lines.append(table(("Argument", "Type", "Meaning"), [(a, b, d) for a, b, _, d in rows]))
    if own:
        lines.append(_options(own))
    if shared:
        names = ", ".join(f"`{option.name.split(', ')[0]}`" for option in shared)
        lines.append(f"[{_SHARED}](#{_SHARED.lower().replace(' ', '-')}): {names}.")
    if command.name in EXITS:
        lines.append(f"Exit code 1: {EXITS[command.name]}.")
    guides = [page for page in GUIDES.get(command.name, ()) if _guide(page).exists()]
    if guides:
        links = ", ".join(f"[{_title(page)}](../howto/{page}.md)" for page in guides)
        lines.append(f"See {links}.")
    return "\n\n".join(lines)


def _picture(name: str) -> list[str]:
    """The command in a terminal, where there is a picture; its title describes it."""
    files = [PICTURES / f"{one}.svg" for one in (name.replace(" ", "-"), _OF_GROUP.get(name))]
    file = next((one for one in files if one.exists()), None)
    if file is None:
        return []
    title = re.search(r"<title[^>]*>([^<]*)</title>", file.read_text("utf-8"))
    alt = title[1] if title else f"{PROGRAM} {name} in a terminal"
    return [f"![{alt}](../terminal/{file.name})"]


_OF_GROUP = {"data check": "data", "templates import": "templates"}
"""Pictures of groups of commands stand at their first command."""


def _options(options: Sequence[Parameter]) -> str:
    titles = ("Option", "Type", "Default", "Meaning")
    rows = [_row(option) for option in options]
    if not any(default for _, _, default, _ in rows):
        return table((*titles[:2], titles[3]), [(a, b, d) for a, b, _, d in rows])
    return table(titles, rows)


def _row(parameter: Parameter) -> tuple[str, str, str, str]:
    name, kind, default, text = parameter
    names = ", ".join(f"`{one}`" for one in name.split(", "))
    is_word = default in ("", "required", "on")
    return names, kind, default if is_word else f"`{default}`", text


def _guide(page: str) -> Path:
    return Path(__file__).parents[1] / "howto" / f"{page}.md"


def _title(page: str) -> str:
    return _guide(page).read_text("utf-8").splitlines()[0].removeprefix("# ")
