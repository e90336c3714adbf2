"""A million rows: rows a second, memory, and the time a killed run takes to go on.

    python -m benchmarks.scale [--json] [--rows 1000000] [--small 10000] [--parts judge pairs ...]

Each command of the library is a process of its own; the time is that of the clock and of the
processor, the peak that of its resident memory. Judges are scripted, so that the library is what is
measured. A run over all rows is killed (SIGKILL) at 99 % of them and started again.
"""

import argparse
import json
import os


os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import PIL.Image

from unified_reward.io.journal import open_journal
from unified_reward.io.row_file import RowFile
from unified_reward.io.run_config import Origin
from unified_reward.io.verdict_rows import VERDICT_KEYS
from unified_reward.judges import bulk


PARTS = ("judge", "pairs", "evaluate", "pictures", "candidates", "ray")
"""Ray last, as a command begins with the peak memory of this process."""
N_PICTURES = 16
SLEEP_S = 0.05
KILLED_AT = 0.99
LINES = {"judge": 2, "pairs": 4}
"""Candidates of a row."""


def main(given: list[str] | None = None) -> None:
    """Measure the parts, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="Print JSON instead of the section.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument(
        "--prompts", type=int, nargs=2, default=[1000, 10_000], help="Of candidates."
    )
    parser.add_argument("--ray-chunks", type=int, default=10)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    options = parser.parse_args(given)
    sizes = (options.small, options.rows)
    parts: dict[str, Callable[[Path], object]] = {
        "judge": partial(_bulk, "judge", "scripted:first", sizes),
        "pairs": partial(_bulk, "pairs", "scripted:random", sizes),
        "evaluate": partial(_evaluate, sizes),
        "pictures": partial(_pictures, options.small),
        "candidates": partial(_candidates, options.prompts),
        "ray": partial(_ray, options.ray_chunks),
    }
    report: dict[str, object] = {"cores": os.cpu_count(), "rows": sizes}
    for name in (part for part in PARTS if part in options.parts):
        with tempfile.TemporaryDirectory(prefix="scale-") as folder:
            report[name] = parts[name](Path(folder))
        sys.stderr.write(f"{name}: {json.dumps(report[name])}\n")
    sys.stdout.write(json.dumps(report) + "\n" if options.json else page(report))


@dataclass(frozen=True)
class Ended:
    """A command that has ended, or was killed."""

    code: int
    seconds: float
    cpu_seconds: float
    peak_mib: float

    def row(self, n: int) -> dict[str, float]:
        """Figures of n rows."""
        return {
            "rows": n,
            "seconds": round(self.seconds, 2),
            "cpu_seconds": round(self.cpu_seconds, 2),
            "rows_per_second": _rate(n / self.seconds),
            "rows_per_cpu_second": _rate(n / self.cpu_seconds),
            "peak_mib": round(self.peak_mib, 1),
        }


def _rate(value: float) -> float:
    return round(value, 1) if value < 10 else round(value)


class Command:
    """A command of the library in a process of its own."""

    def __init__(self, *arguments: str | Path) -> None:
        command = [sys.executable, "-m", "unified_reward", *map(str, arguments)]
        self._start = time.monotonic()
        null = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=null, stderr=null)
        self._ended: Ended | None = None

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start

    def ended(self, *, wait: bool) -> Ended | None:
        """Result of the command; None while it runs, unless it is waited for."""
        if self._ended is None:
            pid, status, usage = os.wait4(self._process.pid, 0 if wait else os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self._process.returncode = code
                cpu = usage.ru_utime + usage.ru_stime
                self._ended = Ended(code, self.seconds, cpu, usage.ru_maxrss / 1024)
        return self._ended

    def cpu_seconds(self) -> float:
        """Seconds of the processor by now, as Linux counts them; 0 elsewhere."""
        path = Path("/proc", str(self._process.pid), "stat")
        times = path.read_text().rpartition(")")[2].split()[11:13] if path.exists() else ()
        return sum(map(int, times)) / os.sysconf("SC_CLK_TCK")

    def finish(self) -> Ended:
        """Wait for its end, which must be a success."""
        ended = self.ended(wait=True)
        if ended is None or ended.code:
            raise SystemExit(f"{self._process.args} ended with {ended and ended.code}")
        return ended

    def kill(self) -> Ended | None:
        """Kill it as the system does when memory runs out."""
        self._process.send_signal(signal.SIGKILL)
        return self.ended(wait=True)


def _write_rows(path: Path, n: int, n_candidates: int, picture: Callable[[int], str]) -> None:
    with path.open("w") as file:
        for i in range(n):
            row = {
                "id": f"row-{i:07}",
                "task": "image_understanding",
                "prompt": f"What is in picture {i}?",
                "context": [{"image": picture(i)}],
                "candidates": [{"text": f"answer {k} to {i}"} for k in range(n_candidates)],
            }
            file.write(json.dumps(row) + "\n")


def _draw(folder: Path, n: int) -> Callable[[int], str]:
    """Draw n small pictures, which the rows repeat."""
    for i in range(n):
        colour = (i % 256, i // 256 % 256, 77)
        PIL.Image.new("RGB", (64, 64), colour).save(folder / f"{i}.png")
    time.sleep(2.1)  # a file that has just changed is read again when a run goes on
    return lambda i: f"{i % n}.png"


def _bulk(command: str, judge: str, sizes: tuple[int, int], folder: Path) -> dict[str, object]:
    """Run ``judge`` or ``pairs`` on few rows, and on many with a kill."""
    picture = _draw(folder, N_PICTURES)
    few, many = sizes
    for n in sizes:
        _write_rows(folder / f"{n}.jsonl", n, LINES[command], picture)
    out = folder / "few.jsonl"
    small = Command(command, folder / f"{few}.jsonl", out, "--judge", judge).finish()
    report: dict[str, object] = {"few": small.row(few)}
    source, out = folder / f"{many}.jsonl", folder / "many.jsonl"
    arguments = (command, source, out, "--judge", judge)
    started = Command(*arguments)
    done = _wait_for_rows(out, round(KILLED_AT * many), started)
    killed = started.kill()
    assert killed is not None
    report["many"] = killed.row(done)
    again = Command(*arguments)
    first = _wait_for_growth(out, again)
    ended = again.finish()
    _check(source, out)
    report["resumed"] = {
        "done": done,
        "first_row_seconds": first and round(first[0], 2),
        "first_row_cpu_seconds": first and round(first[1], 2),
        "peak_mib": round(ended.peak_mib, 1),
    }
    nothing_left = Command(*arguments).finish()
    report["nothing_left_seconds"] = round(nothing_left.seconds, 2)
    peaks = [each.peak_mib for each in (killed, ended, nothing_left)]
    report["peak_ratio"] = round(max(peaks) / small.peak_mib, 3)
    return report


def _wait_for_rows(out: Path, n: int, command: Command) -> int:
    """Wait until a file has n lines, or its command has ended; returns the number of lines."""
    lines, place = 0, 0
    while command.ended(wait=False) is None:
        if out.exists():
            with out.open("rb") as file:
                file.seek(place)
                while block := file.read(2**20):
                    lines += block.count(b"\n")
                    place += len(block)
        if lines >= n:
            break
        time.sleep(0.05)
    with out.open("rb") as file:
        return sum(1 for _ in file)


def _wait_for_growth(out: Path, command: Command) -> tuple[float, float] | None:
    """Seconds, by the clock and of the processor, until rows are appended; None without any."""
    size = out.stat().st_size
    while command.ended(wait=False) is None:
        if out.stat().st_size > size:
            return command.seconds, command.cpu_seconds()
        time.sleep(0.01)
    return None


def _check(source: Path, out: Path) -> None:
    """Stop if a row of the input has no row, or two, or they are not in order."""
    with source.open() as rows, out.open() as made:
        for row, verdict in zip(rows, made, strict=True):
            if row[:19] != verdict[:19]:
                raise SystemExit(f"a row is lost or doubled at {row[:19]}")


def _evaluate(sizes: tuple[int, int], folder: Path) -> dict[str, object]:
    """Compare two models: two scores and a comparison a prompt, so three rows of verdicts."""
    _draw(folder, N_PICTURES)
    report: dict[str, object] = {}
    for name, n in zip(("few", "many"), sizes, strict=True):
        models = []
        for model in "ab":
            path = folder / f"{n}" / f"{model}.jsonl"
            path.parent.mkdir(exist_ok=True)
            _write_rows(path, n // 3, 1, lambda i: f"../{i % N_PICTURES}.png")
            models.append(f"{model}={path}")
        arguments = ("evaluate", *models, "--judge", "scripted:random", "--out", folder / f"o{n}")
        report[name] = Command(*arguments).finish().row(n // 3 * 3)
        again = Command(*arguments).finish()
        report[f"{name}_again"] = again.row(n // 3 * 3)
        report[f"{name}_page_kib"] = round((folder / f"o{n}" / "page.html").stat().st_size / 1024)
    return report


def _pictures(n: int, folder: Path) -> dict[str, float]:
    """Judge rows about a picture each."""
    picture = _draw(folder, n)
    _write_rows(folder / "in.jsonl", n, LINES["judge"], picture)
    arguments = ("judge", folder / "in.jsonl", folder / "out.jsonl", "--judge", "scripted:first")
    made = Command(*arguments).finish().row(n)
    again = Command(*arguments).finish()
    return made | {"nothing_left_seconds": round(again.seconds, 2)}


def _candidates(sizes: list[int], folder: Path) -> dict[str, object]:
    """Make one candidate a prompt with the smallest policy, in one step."""
    report: dict[str, object] = {}
    for name, n in zip(("few", "many"), sizes, strict=True):
        source, out = folder / f"{n}.jsonl", folder / f"{n}"
        rows = ({"id": f"p{i}", "task": "image_generation", "prompt": "a star"} for i in range(n))
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        options = ("--policy", "tiny_image", "--n", "1", "--steps", "1")
        report[name] = Command("candidates", source, out, *options).finish().row(n)
        again = Command("candidates", source, out, *options).finish()
        report[f"{name}_again_seconds"] = round(again.seconds, 2)
    return report


@dataclass(frozen=True)
class Sleeping:
    """Work that costs time and no processor: a judge behind a network, or on another device."""

    @property
    def origin(self) -> Origin:
        """No settings."""
        return Origin({}, dict, ("prompt",))

    def open(self) -> bulk.Worker:
        """Return the worker."""
        return _sleep


def _sleep(rows: object) -> bulk.OutputRows:
    made = []
    for row in rows:
        time.sleep(SLEEP_S)
        made.append(dict.fromkeys(VERDICT_KEYS) | {"id": row.id, "status": "scored"})
    return made


def _ray(n_chunks: int, folder: Path) -> dict[str, object]:
    """Run chunks with one worker and with two, by turns: one, two."""
    n = n_chunks * bulk.CHUNK
    _write_rows(folder / "in.jsonl", n, 1, _draw(folder, 1))
    report: dict[str, object] = {"rows": n, "sleep_ms": round(1000 * SLEEP_S)}
    for workers in (1, 2):
        ends: list[float] = []
        start = time.monotonic()
        with _on_ray(), open_journal(folder / f"{workers}.jsonl") as journal:
            options = {"size": bulk.CHUNK, "engine": bulk.Engine.RAY, "workers": workers}
            for _ in bulk.run(Sleeping(), RowFile(folder / "in.jsonl"), journal, **options):
                ends.append(time.monotonic() - start)
        busy = (n_chunks - workers) * bulk.CHUNK / (ends[-1] - ends[0])
        report[f"workers_{workers}"] = {
            "seconds": round(ends[-1], 2),
            "rows_per_second": round(n / ends[-1], 2),
            "rows_per_second_after_start": round(busy, 2),
        }
    one, two = (report[f"workers_{workers}"] for workers in (1, 2))
    for key in ("rows_per_second", "rows_per_second_after_start"):
        report[f"ratio_{key}"] = round(two[key] / one[key], 3)
    return report


@contextmanager
def _on_ray() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        yield
    finally:
        ray.shutdown()


def page(report: dict) -> str:
    """Section of docs/results.md."""
    lines = [
        "## A million rows",
        "",
        f"`python -m benchmarks.scale`: scripted judges, each command a process of its own, on "
        f"{report['cores']} cores that others use too, so that rates by the clock are lower "
        "bounds. Rows are short questions with answers in words about "
        f"{N_PICTURES} small pictures, unless said. MiB are the peak of the resident memory.",
        "",
    ]
    rows = [*_command_rows(report), *_other_rows(report)]
    header = ["", "rows", "rows a second", "rows a second of processor", "peak MiB"]
    lines += _table(header, rows)
    for command in ("judge", "pairs"):
        if command in report:
            lines += ["", _resumed(command, report[command])]
    if "evaluate" in report:
        lines += ["", _evaluated(report["evaluate"])]
    if "candidates" in report:
        again = report["candidates"]["many_again_seconds"]
        lines += ["", f"`candidates` again, with nothing left to make: {again:.1f} s."]
    if "ray" in report:
        lines += ["", _on_workers(report["ray"])]
    lines += [line for note in report.get("notes", ()) for line in ("", note)]
    return "\n".join(lines) + "\n"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _figures(label: str, row: dict) -> list[str]:
    keys = ("rows", "rows_per_second", "rows_per_cpu_second")
    return [label, *(f"{row[key]:,}" for key in keys), f"{row['peak_mib']:.0f}"]


def _command_rows(report: dict) -> Iterator[list[str]]:
    for command in ("judge", "pairs", "evaluate", "candidates"):
        for size in ("few", "many"):
            if command in report:
                yield _figures(f"`{command}`", report[command][size])


def _other_rows(report: dict) -> Iterator[list[str]]:
    if "pictures" in report:
        yield _figures("`judge`, a picture each", report["pictures"])


def _resumed(command: str, figures: dict) -> str:
    resumed = figures["resumed"]
    after, first = "no row was left", resumed["first_row_seconds"]
    if first is not None:
        cpu = resumed.get("first_row_cpu_seconds")
        of_processor = "" if cpu is None else f" ({cpu:.1f} s of the processor)"
        after = f"the first new row after {first:.1f} s{of_processor}"
    return (
        f"`{command}`: the peak of all rows is {figures['peak_ratio']:.2f} times that of the few. "
        f"Killed with {resumed['done']:,} rows done and started again: {after}, every id once and "
        f"in order. With nothing left it ends after {figures['nothing_left_seconds']:.1f} s."
    )


def _evaluated(figures: dict) -> str:
    few, many = figures["few"], figures["many"]
    more = (many["peak_mib"] - few["peak_mib"]) * 2**20 / max(1, many["rows"] - few["rows"])
    again = figures["many_again"]
    return (
        f"`evaluate` (two models, {many['rows'] // 3:,} prompts, two scores and a comparison each) "
        f"holds numbers of every prompt and what was asked: {more:.0f} bytes more a row, "
        f"{many['peak_mib'] / few['peak_mib']:.2f} times the peak of the few. Again, with every "
        f"verdict there, it takes {again['seconds']:.1f} s and {again['peak_mib']:.0f} MiB. Its "
        f"page has {figures['many_page_kib']} KiB, that of the few {figures['few_page_kib']}."
    )


def _on_workers(figures: dict) -> str:
    whole, busy = figures["ratio_rows_per_second"], figures["ratio_rows_per_second_after_start"]
    one, two = (figures[f"workers_{workers}"] for workers in (1, 2))
    return (
        f"Ray, {figures['rows']:,} rows that sleep {figures['sleep_ms']} ms each: two workers are "
        f"{whole:.2f} times one with the start of Ray ({two['rows_per_second']:.1f} against "
        f"{one['rows_per_second']:.1f} rows a second), {busy:.2f} times after the first chunk."
    )


if __name__ == "__main__":
    main()
