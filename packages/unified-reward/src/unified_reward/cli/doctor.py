"""``unified-reward doctor``: what this machine can do."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

import unified_reward
from unified_reward.cli import output
from unified_reward.cli.progress import bar
from unified_reward.doctor import diagnosis, sizes
from unified_reward.doctor.devices import Device
from unified_reward.doctor.self_tests import TESTS, SelfTest, run_self_tests


_MAIN = (
    *("unified-reward-client", "numpy", "av", "torch", "transformers", "trl", "diffusers"),
    *("accelerate", "peft", "ray", "vllm", "fastapi", "uvicorn", "decord"),
)
"""Packages that a person looks for; JSON has all."""
_COLOURS = {"ok": "green", "failed": "red", "installed": "green", "incomplete": "yellow"}
_FITS = {"yes": ("+", "green"), "if empty": ("~", "yellow"), "no": ("-", "dim")}
_LEAST = 24
"""Columns of the last cell of a table, below which rows are paragraphs."""
_Row = tuple[str | Text, ...]


def doctor(
    *,
    self_test: Annotated[
        bool,
        typer.Option("--self-test/--no-self-test", help="Try each installed capability once."),
    ] = True,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object and nothing else.")
    ] = False,
) -> None:
    """Say what this machine can do: versions, devices, weights, what fits, and self-tests."""
    # Before a library is imported that reads them.
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    found = diagnosis.diagnose()
    tests: list[SelfTest] = []
    if self_test:
        dtypes = {device.device: device.dtype for device in found.devices}
        with bar("self-tests", len(TESTS) + len(dtypes)) as advance:
            tests = run_self_tests(found.lacking, dtypes, advance)
    if as_json:
        output.print_json([diagnosis.as_json(found, tests)])
    else:
        _print(found, tests)
    output.exit_if(test.status == "failed" for test in tests)


def _print(found: diagnosis.Diagnosis, tests: Sequence[SelfTest]) -> None:
    """Print what failed, what is missing and what fits, then the rest."""
    console = Console(highlight=False)
    failed = [test for test in tests if test.status == "failed"]
    _print_group(console, "Self-tests that failed", _tests(failed))
    _print_missing(console, found)
    for place, free, _ in found.places:
        marks = "GiB needed: + fits, ~ fits once the memory is empty, - does not"
        title = (f"\nFits on {place}, {_size(free)} free", "bold")
        console.print(Text.assemble(title, f"  {marks}"))
        rows = [row for row in diagnosis.fits(found) if row["place"] == place]
        for kind in dict.fromkeys(row["kind"] for row in rows):
            console.print(_fit_table(kind, [row for row in rows if row["kind"] == kind]))
    groups: dict[str, list[_Row]] = {
        "Self-tests": _tests(tests),
        "Weights": _weights(found),
        "Machine": _machine(found),
        "Backends": _backends(found),
        "Extras": _extras(found),
        "Versions": _versions(found),
    }
    for title, rows in groups.items():
        _print_group(console, title, rows)
    for problem in found.problems:
        console.print(Text.assemble(("\nproblem: ", "yellow"), problem))
    next_step = diagnosis.next_step(found, tests)
    console.print(Text.assemble(("\nnext: ", "bold"), next_step), soft_wrap=True)


def _print_missing(console: Console, found: diagnosis.Diagnosis) -> None:
    """Print the extras that are not whole, each with the command that mends it on a line."""
    console.print(Text("\nMissing", "bold"))
    lacking = [extra for extra in found.extras if extra.install]
    if not lacking:
        console.print(Text(" no extra", "green"))
    for extra in lacking:
        lacks = ", ".join((*extra.missing, *extra.wrong))
        console.print(Text.assemble((f" [{extra.name}]", "yellow"), f" {lacks}"))
        console.print(Text(f"   {extra.install}"), soft_wrap=True)


def _print_group(console: Console, title: str, rows: Sequence[_Row]) -> None:
    """Print rows as a table, or as paragraphs where the terminal is too narrow for one."""
    if not rows:
        return
    console.print(Text(f"\n{title}", "bold"))
    cells = [[Text.assemble(cell) for cell in row] for row in rows]
    n = max(map(len, cells))
    widths = [max((row[i].cell_len for row in cells if i < len(row)), default=0) for i in range(n)]
    left = console.width - sum(widths[:-1]) - 2 * n
    if left < min(widths[-1], _LEAST):
        for first, *others in cells:
            console.print(Text.assemble(" ", first))
            rest = Text(", ").join(cell for cell in others if cell.cell_len)
            if rest.cell_len:
                console.print(Padding(rest, (0, 0, 0, 4)))
        return
    table = Table(box=None, show_header=False, padding=(0, 1))
    for i in range(n):
        table.add_column(overflow="fold", no_wrap=i < n - 1)
    for row in cells:
        table.add_row(*row)
    console.print(table)


def _versions(found: diagnosis.Diagnosis) -> list[_Row]:
    known = {package.name: package for package in found.packages}
    rows: list[_Row] = [
        ("python", platform.python_version(), ""),
        ("unified-reward", unified_reward.__version__, ""),
    ]
    for package in (known[name] for name in _MAIN if name in known):
        is_wrong = package.in_range is False
        note = Text(f"wanted {package.wanted}", "yellow") if is_wrong else ""
        rows.append((package.name, package.version or Text("not installed", "dim"), note))
    return rows


def _extras(found: diagnosis.Diagnosis) -> list[_Row]:
    rows: list[_Row] = []
    for extra in found.extras:
        lacks = ", ".join((*extra.missing, *extra.wrong))
        status = Text(extra.status, _COLOURS.get(extra.status, "dim"))
        rows.append((f"[{extra.name}]", status, f"lacks {lacks}" if lacks else ""))
    return rows


def _machine(found: diagnosis.Diagnosis) -> list[_Row]:
    cpu, memory = found.cpu, found.memory
    allowed = "" if cpu.allowed == cpu.cores else f", {_number(cpu.allowed)} allowed"
    limit = "" if memory.limit is None else f", limit {_size(memory.limit)}"
    rows: list[_Row] = [
        ("processor", f"{_number(cpu.cores)} cores{allowed}, {cpu.name}"),
        ("memory", f"{_size(memory.available)} of {_size(memory.total)} available{limit}"),
    ]
    rows += [(device.device, _device(device)) for device in found.devices]
    if found.backends and not found.devices:
        rows.append(("accelerator", Text("none that torch sees", "dim")))
    rows += [
        (disk.use, f"{_size(disk.free)} of {_size(disk.total)} free, {disk.folder}")
        for disk in found.disks
    ]
    return rows


def _device(device: Device) -> str:
    capability = f"compute capability {device.capability}" if device.capability else ""
    half = {True: "bfloat16", False: "no bfloat16", None: ""}[device.bfloat16]
    memory = f"{_size(device.free)} of {_size(device.total)} free"
    return ", ".join(filter(None, (device.name, memory, capability, half)))


def _backends(found: diagnosis.Diagnosis) -> list[_Row]:
    rows: list[_Row] = []
    if backends := found.backends:
        rows.append(("judges", f"{backends.dtype} on {backends.device} by default"))
        for name, reason in backends.attention.items():
            rows.append((name, Text(reason or "available", "dim" if reason else "green")))
        driver = f", driver {backends.driver}" if backends.driver else ""
        rows.append(("CUDA", f"{backends.cuda or 'not'} of torch{driver}"))
    codecs = ", ".join(found.decoders["codecs"])
    rows.append(("videos", f"{codecs} by libavcodec {found.decoders['libavcodec']}"))
    tools = [name for name, path in found.compilers.items() if path]
    rows.append(("compilers", ", ".join(tools) or Text("none", "dim")))
    return rows


def _weights(found: diagnosis.Diagnosis) -> list[_Row]:
    rows: list[_Row] = []
    if not found.cached:
        rows.append(("hub", "", Text("no published weights in the cache", "dim")))
    for each in found.cached:
        state = Text("complete", "green")
        if each.missing:
            state = Text(f"partial: {'; '.join(each.missing)}", "yellow")
        rows.append((each.reference, _size(each.bytes), state))
    return rows + [(each.name, _size(each.bytes), each.kind) for each in found.folders]


def _fit_table(kind: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A row a model: GiB of each use, marked by whether they fit."""
    ways = [*dict.fromkeys((row["use"], row["dtype"]) for row in rows)]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column(f" {kind}", overflow="fold")  # gives way to the figures
    for use, dtype in ways:
        table.add_column(dtype if use == "inference" else use, justify="right", no_wrap=True)
    cells: dict[str, dict[Any, Text]] = {}
    for row in rows:
        mark, colour = _FITS.get(row["fits"], ("", "dim"))
        text = "unknown" if row["bytes"] is None else f"{_gib(row['bytes'])} {mark}"
        cells.setdefault(row["model"], {})[row["use"], row["dtype"]] = Text(text, colour)
    for name, known in cells.items():
        table.add_row(Text(f" {name}"), *(known.get(way, "") for way in ways))
    return table


def _gib(size: int) -> str:
    gib = size / sizes.GIB
    return f"{gib:,.0f}" if gib >= 1000 else f"{gib:.1f}"


def _tests(tests: Sequence[SelfTest]) -> list[_Row]:
    return [
        (
            test.name,
            Text(test.status, _COLOURS.get(test.status, "dim")),
            _seconds(test),
            test.reason,
        )
        for test in tests
    ]


def _seconds(test: SelfTest) -> str:
    return "" if test.status == "skipped" else f"{test.seconds:.1f} s"


def _size(size: int | None) -> str:
    if size is None:
        return "unknown"
    return f"{size / 2**20:,.1f} MiB" if size < sizes.GIB else f"{size / sizes.GIB:,.1f} GiB"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:g}"
