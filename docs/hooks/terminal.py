"""Pictures of the main commands: `.venv/bin/python -m docs.hooks.terminal [NAME ...]`.

Each command runs in a pseudo-terminal of fixed width, on tiny files in a temporary folder, and its
last screen becomes ``docs/terminal/NAME.svg``. Times, free ports and tokens are replaced or left
out, so that unchanged code gives the same file again. Needs no network.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import SVG_EXPORT_THEME
from rich.text import Text

from docs.hooks.screen import Screen


FOLDER = Path(__file__).parents[1] / "terminal"
WIDTH = 100
_ROWS = 40
_LONGEST = 34
"""Lines of output; of more the first are shown."""
_LIMIT_S = 600
_PROMPT = "a large red star"
_FORMAT = """<svg class="rich-terminal" role="img" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg">
<title>ALT</title>
<style>
.{unique_id}-matrix {{
  font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  font-size: {char_height}px;
  line-height: {line_height}px;
  white-space: pre;
}}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


@dataclass(frozen=True)
class Picture:
    """Commands of one picture."""

    commands: tuple[str, ...]
    """Arguments of ``unified-reward``, in order."""
    alt: str
    """Description for those who do not see it."""
    needs: tuple[str, ...] = ()
    """Pictures whose commands run before, as these read their files."""
    until: str = ""
    """Pattern of the output at which a server is ready; empty for a command that ends by itself."""
    question: str = ""
    """Arguments of a command that asks the server; ``PORT`` stands for its port."""
    port: str = ""
    """Port in the picture, in place of the free one that is taken."""
    width: int = WIDTH
    """Columns of the terminal."""


PICTURES = {
    "score": Picture(
        (f'score a.png b.png missing.png --prompt "{_PROMPT}" --judge tiny_judge',),
        "Two images get a score with its deviation; a file that is missing gets a reason instead.",
    ),
    "compare": Picture(
        (f'compare a.png b.png --prompt "{_PROMPT}" --judge tiny_judge',),
        "Two images compared: the winner, and the shares of first, tie and second.",
    ),
    "rank": Picture(
        (f'rank a.png b.png c.png --prompt "{_PROMPT}" --judge tiny_judge',),
        "Three images ranked for a prompt, best first.",
    ),
    "data": Picture(
        (
            "data make microworld items --task image_generation --form compare --n 24 --split test",
            "data check items/records.jsonl --source records",
        ),
        "Labelled comparisons are made and checked.",
    ),
    "judge": Picture(
        ("judge items/records.jsonl verdicts.jsonl --judge tiny_judge",),
        "A file of samples is judged, with a bar that counts them.",
        needs=("data",),
    ),
    "candidates": Picture(
        ("candidates prompts.jsonl made --policy tiny_image --n 6",),
        "A policy generates candidates for every prompt; a count by status.",
    ),
    "pairs": Picture(
        ("pairs made/candidates.jsonl pairs.jsonl --judge tiny_judge",),
        "A judge makes a preference pair of the candidates of each prompt; a count by status.",
        needs=("candidates",),
    ),
    "show": Picture(
        ("show pairs.jsonl",),
        "A page with the pairs is written.",
        needs=("pairs",),
    ),
    "dpo": Picture(
        (
            "dpo pairs.jsonl --policy tiny_image --out aligned "
            "optim.steps=8 optim.batch_size=4 optim.accumulate=1 optim.lr=3e-4",
        ),
        "A pipeline is aligned on the pairs by diffusion DPO; the loss before and after.",
        needs=("pairs",),
    ),
    "grpo": Picture(
        (
            "grpo prompts.jsonl --policy tiny_image --reward tiny_judge --out learned "
            "optim.steps=2 group=4 prompts_per_step=2",
        ),
        "A pipeline is trained for two steps by the rewards of a judge.",
    ),
    "evaluate": Picture(
        ("evaluate before after --prompts prompts.txt --judge tiny_judge --out runs/after",),
        "Two models with means, difference, wins and strengths, each with its 95 % interval.",
        width=124,
    ),
    "bench": Picture(
        ("bench --on votes --data items/records.jsonl --judge tiny_judge",),
        "Figures of a judge on a benchmark, each with its 95 % interval and number of items.",
        needs=("data",),
    ),
    "calibrate": Picture(
        ("calibrate tiny_judge items/records.jsonl out",),
        "Figures of a judge before and after its temperatures and tie margin are fitted.",
        needs=("data",),
    ),
    "serve": Picture(
        ("serve --judge tiny_judge --port PORT",),
        "A reward server is started, and asked for a score from another terminal.",
        until=r"serving on .*?\n",
        question=f'score a.png --prompt "{_PROMPT}" --judge reward+http://127.0.0.1:PORT/tiny_judge',
        port="8100",
    ),
    "arena": Picture(
        (
            "arena before after --prompts prompts.txt --out votes.jsonl "
            "--rater ann --rater bob --port PORT",
        ),
        "An arena is started: a link to vote for each rater, and one to the standings.",
        until=r"standings.*?\n",
        port="8200",
    ),
    "scorers": Picture(
        ("scorers",),
        "The published scorers, and what their numbers mean.",
    ),
    "doctor": Picture(
        ("doctor",),
        "What is missing of this installation, and which models fit into the memory there is.",
    ),
}
"""Pictures by name, which is that of the command. Several may read the files of an earlier one."""

_MASKS: tuple[tuple[str, str], ...] = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d+)?Z?", "2026-12-01 12:00:00"),
    (r"\b\d+(?:\.\d+)? (?:s|ms|seconds)\b", "1.0 s"),
    (r"(?<=process )\[\d+\]", "[4242]"),
    (r"(?<=/#)[\w-]{16,}", "TOKEN"),
    (r"(?<=/standings#)[\w-]{16,}", "TOKEN"),
)
"""Parts of the output that differ from run to run, and their replacements."""
_AFTER_BAR = re.compile(r"(━.*?)(?:\x1b\[[\d;]*m)?\s*(?:[\d.,]+ ?\w*/s|\d+:\d\d:\d\d|-:--:--).*$")
"""Progress bar, and the times and rates behind it."""

_PULSE = re.compile(r"━.*/\?")
"""Bar of unknown length, whose colours move."""


def draw_files(folder: Path) -> None:
    """Draw the images, prompts and models that the commands read."""
    from PIL import Image

    from unified_reward import media
    from unified_reward.core.samples import Task
    from unified_reward_lab.microworld import Scene, Thing, candidate_pool, render, true_utilities

    star = Thing("red", "star", "large", "top left")
    circle = Thing("blue", "circle", "small", "bottom right")
    for name, things in {"a": (star,), "b": (circle,), "c": (star, circle)}.items():
        Image.fromarray(render(Scene(things), seed=0)).save(folder / f"{name}.png")
    prompts = []
    for i in range(12):
        pool = candidate_pool(Task.IMAGE_GENERATION, n=4, split="test", seed=0, index=i)
        worth = true_utilities(pool)
        for model, k in {"before": 0, "after": max((1, 2, 3), key=worth.__getitem__)}.items():
            (folder / model).mkdir(exist_ok=True)
            pixels = media.open_image(pool.candidates[k])  # pyright: ignore[reportArgumentType]
            (folder / model / f"{i:04}.png").write_bytes(media.encode_png(pixels))
        prompts.append(pool.prompt)
    (folder / "prompts.txt").write_text("\n".join(prompts) + "\n", "utf-8")
    rows = [{"task": "image_generation", "prompt": prompt} for prompt in prompts[:4]]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


class Terminal:
    """A folder in which commands run, each once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._screens: dict[str, list[str]] = {}
        draw_files(folder)

    def run(self, name: str) -> list[str]:
        """Run the commands of a picture, and those it needs, and return the lines of its screen."""
        if name not in self._screens:
            picture = PICTURES[name]
            for needed in picture.needs:
                self.run(needed)
            lines: list[str] = []
            for command in picture.commands:
                if picture.until:
                    lines += _serve(self._folder, picture, command)
                    continue
                output = _output(self._folder, command, width=picture.width)
                lines += _lines(command, output, picture.width)
            self._screens[name] = lines
        return self._screens[name]


def _lines(command: str, output: str, width: int = WIDTH) -> list[str]:
    """Prompt line and output, without what differs from run to run."""
    for pattern, replacement in _MASKS:
        output = re.sub(pattern, replacement, output)
    screen = Screen(width)
    screen.write(output)
    lines = [_AFTER_BAR.sub("\\1\x1b[0m", line) for line in screen.lines()]
    lines = [line for line in lines if not _PULSE.search(line)]
    while lines and not lines[-1].strip():
        lines.pop()
    if len(lines) > _LONGEST:
        n, lines = len(lines) - _LONGEST, lines[:_LONGEST]
        lines.append(f"\x1b[0;2m… {n} more lines\x1b[0m")
    return [*_typed(command), *lines]


def _typed(command: str) -> list[str]:
    """Lines of a prompt with the command, broken between its arguments."""
    lines = ["unified-reward"]
    for part in re.findall(r'(?:--\S+ )?(?:"[^"]*"|\S+)', command):
        if len(f"$ {lines[-1]} {part} \\") > WIDTH:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    first, *others = [f"\x1b[0;1m{line}\x1b[0m" for line in lines]
    return [f"\x1b[0;1;32m$\x1b[0m {first}", *others]


def _serve(folder: Path, picture: Picture, command: str) -> list[str]:
    """Start a server, ask it if there is a question, and stop it."""
    started, port = "", picture.port

    def stop(process: subprocess.Popen[bytes], output: str) -> bool:
        nonlocal started, answer
        if not re.search(picture.until, output):
            return False
        if picture.question:
            free = re.search(r"http://[^:/]+:(\d+)", output)
            free_question = picture.question.replace("PORT", free[1] if free else "")
            answer = _lines(picture.question.replace("PORT", port), _output(folder, free_question))
        started = output
        process.send_signal(signal.SIGINT)
        return True

    answer: list[str] = []
    _output(folder, command.replace("PORT", "0"), stop)
    started = re.sub(r"(?<=127\.0\.0\.1:)\d+|(?<=localhost:)\d+", port, started)
    end = ["", "\x1b[0;2m# from another terminal\x1b[0m", *answer] if answer else ["^C"]
    return [*_lines(command.replace("PORT", port), started), *end]


def _output(
    folder: Path,
    command: str,
    on_output: Callable[[subprocess.Popen[bytes], str], bool] = lambda *_: False,
    width: int = WIDTH,
) -> str:
    """Run a command in a pseudo-terminal and return everything it wrote.

    Args:
        folder: Working directory, whose name is replaced in the output.
        command: Arguments of ``unified-reward``.
        on_output: Called with the process and all output so far, until it returns True.
        width: Columns.
    """
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", _ROWS, width, 0, 0))
    unset = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CI", "PYTHONWARNINGS"}
    environment = {key: value for key, value in os.environ.items() if key not in unset}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "unified_reward", *shlex.split(command)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=inner,
        stderr=inner,
        start_new_session=True,
    )
    os.close(inner)
    written, is_waiting, deadline = b"", True, time.monotonic() + _LIMIT_S
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([outer], [], [], 1.0)
            try:
                chunk = os.read(outer, 65536) if ready else None
            except OSError:  # the program has ended, and with it the terminal
                break
            if chunk == b"":
                break
            written += chunk or b""
            text = written.decode("utf-8", "replace").replace(f"{folder}/", "")
            is_waiting = is_waiting and not on_output(process, text)
        else:
            raise TimeoutError(f"unified-reward {command}: still running after {_LIMIT_S} s")
        process.wait(_LIMIT_S)
    finally:
        process.kill()
        process.wait()
        os.close(outer)
    return written.decode("utf-8", "replace").replace(f"{folder}/", "")


def render(name: str, lines: Sequence[str]) -> str:
    """Render the lines of a screen as SVG, with the description of the picture as its title."""
    console = Console(
        record=True,
        width=PICTURES[name].width,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        legacy_windows=False,
    )
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=True, crop=False)
    console.print()  # rich cuts the last line
    description = f"Terminal with unified-reward {name}. {PICTURES[name].alt}"
    return console.export_svg(
        title="",
        theme=SVG_EXPORT_THEME,
        code_format=_FORMAT.replace("ALT", description),
        unique_id=f"terminal-{name}",
    )


def make_pictures(names: Sequence[str], out: Path = FOLDER) -> list[Path]:
    """Run commands and write their pictures.

    Args:
        names: Names of pictures.
        out: Folder to write into.

    Returns:
        The files.
    """
    out.mkdir(parents=True, exist_ok=True)
    files = []
    with TemporaryDirectory() as temporary:
        terminal = Terminal(Path(temporary).resolve())
        for name in names:
            files.append(out / f"{name}.svg")
            files[-1].write_text(render(name, terminal.run(name)), "utf-8")
            sys.stderr.write(f"{files[-1]}\n")
    return files


def main(arguments: Sequence[str]) -> None:
    """Make the pictures that are named, or all of those whose command there is."""
    from unified_reward.cli import COMMANDS

    unknown = [name for name in arguments if name not in PICTURES or name not in COMMANDS]
    if unknown:
        raise SystemExit(f"no such picture or command: {', '.join(unknown)}")
    make_pictures(arguments or [name for name in PICTURES if name in COMMANDS])


if __name__ == "__main__":
    main(sys.argv[1:])
