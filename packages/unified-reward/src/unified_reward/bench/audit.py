"""Audit of a judge: what changes its verdicts and should not, and how well they agree.

Labels are needed for calibration and for accuracy by length alone. Figures are means over
questions, with intervals by bootstrap over prompts.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.bench.benchmark import JudgedItem
from unified_reward.bench.calibration import brier_score, calibration_error, collect_predictions
from unified_reward.bench.metrics import Metric, mean_interval, mean_metric
from unified_reward.core.base_judge import BaseJudge, Progress
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Candidate, Example, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.media import PILImage


_WINDOW = 64
_MAX_PIXELS = 50_000_000
"""Decoded pixels of questions to perturb in memory at a time; one question may exceed it."""
_N_FRAMES = 8
"""Frames of a video in perturbed questions, and in the unperturbed ones beside them."""
_DECIMALS = 3
"""Scores on [0, 1] that are equal after rounding to this many decimals count as one value."""


def _resized(factor: float, image: PILImage) -> PILImage:
    width, height = (max(1, round(side * factor)) for side in image.size)
    return image.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _compressed(quality: int, image: PILImage) -> PILImage:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return PIL.Image.open(file).convert("RGB")


PERTURBATIONS: Mapping[str, Callable[[PILImage], PILImage]] = {
    "resize_0.5": partial(_resized, 0.5),
    "resize_2": partial(_resized, 2.0),
    "jpeg_90": partial(_compressed, 90),
    "jpeg_50": partial(_compressed, 50),
    "jpeg_20": partial(_compressed, 20),
}
"""Changes of every image and every frame that should not change a verdict."""


class _Observation(NamedTuple):
    figure: str
    value: float
    cluster: str
    task: Task


@dataclass
class _CountingJudge:
    """Judge that counts its questions, and those it could not answer."""

    judge: BaseJudge
    on_progress: Progress | None
    n: int = 0
    n_unparsed: int = 0
    n_failed: int = 0

    def ask(self, samples: Iterable[Sample]) -> list[Verdict]:
        verdicts = self.judge.ask([*samples], on_progress=self.on_progress)
        self.n += len(verdicts)
        self.n_unparsed += sum(isinstance(verdict, Unparsed) for verdict in verdicts)
        self.n_failed += sum(isinstance(verdict, Failed) for verdict in verdicts)
        return verdicts


class AuditResult(NamedTuple):
    """Result of an audit."""

    report: dict[str, Any]
    comparisons: list[JudgedItem]


def audit(
    judge: BaseJudge, examples: Sequence[Example], *, on_progress: Progress | None = None
) -> AuditResult:
    """Ask a judge the same questions in several ways.

    Args:
        judge: The judge to audit.
        examples: Examples with any number of candidates, with or without labels. Every candidate is
            scored; two, or a preference pair, are compared too.
        on_progress: Called with the number of questions just asked.

    Returns:
        The report, over all examples and by task, and the comparisons with their verdicts. Figures:
        ``position_flips``, share of comparisons in which the two orders name different winners;
        ``first_place_pull``, mean probability of the first position, minus 0.5; ``ties`` and
        ``unreadable``; ``longer_preferred``, ``right_where_longer_is_better`` and
        ``right_where_shorter_is_better`` of answers; ``repetition_preferred`` and
        ``repetition_score_shift``, of an answer repeated twice over the answer itself;
        ``cycles``, share of triples (two candidates of an example and one of the next) with a over
        b over c over a, of those without a tie; ``calibration_error`` and ``brier_score``;
        ``distinct_scores``, ``score_entropy_bits`` and ``commonest_score``, its share;
        ``agreement``, share of comparisons whose winner has the higher score, of those where both
        decide; and by perturbation of the images ``score_shift``, mean distance of scores on
        [0, 1], and ``flips``, share of winners that change.
    """
    counting = _CountingJudge(judge, on_progress)
    examples = [example.as_comparison() for example in examples]
    compared = [example for example in examples if len(example.candidates) == 2]
    verdicts = counting.ask(example.sample for example in compared)
    singles = _singles(examples)
    scores = dict(zip(singles, map(_unit_score, counting.ask(singles.values())), strict=True))
    observations = [
        *_positions(compared, verdicts),
        *_lengths(compared, verdicts),
        *_repetitions(counting, singles, scores),
        *_cycles(counting, compared),
        *_agreements(compared, verdicts, scores),
        *_perturbations(counting, [*(one.sample for one in compared), *singles.values()]),
    ]
    judged = [
        JudgedItem(example, example.task.value, verdict)
        for example, verdict in zip(compared, verdicts, strict=True)
    ]
    tasks = dict.fromkeys(example.task for example in examples)
    task_scores = [(sample.task, scores[key]) for key, sample in singles.items()]
    report = {
        "name": "audit",
        "judge": judge.name,
        "family": judge.family,
        "n": len(examples),
        "n_questions": counting.n,
        "n_unparsed": counting.n_unparsed,
        "n_failed": counting.n_failed,
        "metrics": _figures({*tasks}, observations, judged, task_scores),
        "groups": {
            task.value: _figures({task}, observations, judged, task_scores) for task in tasks
        },
    }
    return AuditResult(report, judged)


def _figures(
    tasks: set[Task],
    observations: Sequence[_Observation],
    judged: Sequence[JudgedItem],
    scores: Sequence[tuple[Task, float | None]],
) -> dict[str, Any]:
    """Figures of some tasks, without those that nothing was observed for."""
    metrics = {
        **_means([seen for seen in observations if seen.task in tasks]),
        **_calibration([item for item in judged if item.example.task in tasks]),
        **_coarseness([score for task, score in scores if task in tasks]),
    }
    return {name: metric.row() for name, metric in metrics.items() if metric.n}


_Key = tuple[Task, str, tuple[Any, ...], Candidate]


def _single(sample: Sample, candidate: Candidate) -> Sample:
    return replace(sample, candidates=(candidate,))


def _key(sample: Sample, candidate: Candidate) -> _Key:
    return sample.task, sample.prompt, sample.context, candidate


def _singles(examples: Sequence[Example]) -> dict[_Key, Sample]:
    """Score questions about every candidate of every example, each once."""
    samples = [sample for example in examples for sample in example.as_samples()]
    return {_key(s, part): _single(s, part) for s in samples for part in s.candidates}


def _unit_score(verdict: Verdict) -> float | None:
    """Score on [0, 1]; on an open scale the score itself; None without one."""
    if not isinstance(verdict, Scored) or verdict.score is None:
        return None
    normalized = verdict.score.normalized
    return verdict.score.value if normalized is None else normalized


def _observe(sample: Sample, figure: str, value: float) -> _Observation:
    return _Observation(figure, float(value), sample.prompt, sample.task)


def _positions(compared: Sequence[Example], verdicts: Sequence[Verdict]) -> Iterator[_Observation]:
    for example, verdict in zip(compared, verdicts, strict=True):
        sample = example.sample
        yield _observe(sample, "unreadable", not isinstance(verdict, Preferred))
        if not isinstance(verdict, Preferred):
            continue
        yield _observe(sample, "ties", verdict.winner == "tie")
        if len(verdict.orders) == 2:
            given, swapped = verdict.orders
            yield _observe(sample, "position_flips", given.winner != swapped.winner)
            pull = (given.probability - swapped.probability) / 2
            yield _observe(sample, "first_place_pull", pull)


def _lengths(compared: Sequence[Example], verdicts: Sequence[Verdict]) -> Iterator[_Observation]:
    for example, verdict in zip(compared, verdicts, strict=True):
        sample = example.sample
        first, second = sample.candidates
        if not (isinstance(first, str) and isinstance(second, str)):
            continue
        longer = len(first.split()) - len(second.split())
        if not longer or not isinstance(verdict, Preferred):
            continue
        share = verdict.probability if longer > 0 else 1 - verdict.probability
        yield _observe(sample, "longer_preferred", share)
        if (winner := example.target.winner) in ("first", "second"):
            better = "longer" if (winner == "first") == (longer > 0) else "shorter"
            yield _observe(sample, f"right_where_{better}_is_better", verdict.winner == winner)


def _repetitions(
    judge: _CountingJudge, singles: Mapping[_Key, Sample], scores: Mapping[_Key, float | None]
) -> Iterator[_Observation]:
    """Compare each answer with itself repeated twice, which is longer and adds nothing."""
    pairs = [
        (sample, answer, f"{answer} {answer}")
        for sample in singles.values()
        for answer in sample.candidates
        if isinstance(answer, str)
    ]
    preferred = judge.ask(replace(s, candidates=(twice, once)) for s, once, twice in pairs)
    scored = judge.ask(_single(sample, twice) for sample, _, twice in pairs)
    for (sample, once, _), verdict, score in zip(pairs, preferred, scored, strict=True):
        if isinstance(verdict, Preferred):
            yield _observe(sample, "repetition_preferred", verdict.probability)
        before, after = scores[_key(sample, once)], _unit_score(score)
        if before is not None and after is not None:
            yield _observe(sample, "repetition_score_shift", after - before)


def _cycles(judge: _CountingJudge, compared: Sequence[Example]) -> Iterator[_Observation]:
    triples = [
        (example.sample, *example.sample.candidates, following.sample.candidates[0])
        for example, following in pairwise([*compared, *compared[:1]])
        if example.task is following.task and following is not example
    ]
    verdicts = judge.ask(
        replace(sample, candidates=pair)
        for sample, a, b, c in triples
        for pair in ((a, b), (b, c), (c, a))
    )
    winners = [item.winner if isinstance(item, Preferred) else "tie" for item in verdicts]
    for i, (sample, *_) in enumerate(triples):
        of_triple = winners[3 * i : 3 * i + 3]
        if "tie" not in of_triple:
            yield _observe(sample, "cycles", len({*of_triple}) == 1)


def _agreements(
    compared: Sequence[Example], verdicts: Sequence[Verdict], scores: Mapping[_Key, float | None]
) -> Iterator[_Observation]:
    for example, verdict in zip(compared, verdicts, strict=True):
        sample = example.sample
        first, second = (scores[_key(sample, candidate)] for candidate in sample.candidates)
        if first is None or second is None or first == second:
            continue
        if isinstance(verdict, Preferred) and verdict.winner != "tie":
            agrees = (verdict.winner == "first") == (first > second)
            yield _observe(sample, "agreement", agrees)


def _perturbations(judge: _CountingJudge, samples: Iterable[Sample]) -> Iterator[_Observation]:
    """Compare verdicts on perturbed media with those on the same media as they are."""
    for window in _opened(samples):
        unchanged = judge.ask(window)
        for name, change in PERTURBATIONS.items():
            changed = judge.ask(_map_images(sample, change) for sample in window)
            for sample, before, after in zip(window, unchanged, changed, strict=True):
                if isinstance(before, Preferred) and isinstance(after, Preferred):
                    yield _observe(sample, f"flips.{name}", before.winner != after.winner)
                old, new = _unit_score(before), _unit_score(after)
                if old is not None and new is not None:
                    yield _observe(sample, f"score_shift.{name}", abs(new - old))


def _opened(samples: Iterable[Sample]) -> Iterator[list[Sample]]:
    """Samples with their media decoded, as many at a time as memory allows."""
    window: list[Sample] = []
    n_pixels = 0

    def counted(image: PILImage) -> PILImage:
        nonlocal n_pixels
        n_pixels += image.width * image.height
        return image

    for sample in samples:
        window.append(_map_images(sample, counted))
        if len(window) == _WINDOW or n_pixels >= _MAX_PIXELS:
            yield window
            window, n_pixels = [], 0
    if window:
        yield window


def _map_images(sample: Sample, change: Callable[[PILImage], PILImage]) -> Sample:
    """Sample with its images and frames changed; media that cannot be opened stay as they are."""

    def changed(part: Any) -> Any:
        try:
            if isinstance(part, Image):
                return Image(change(media.open_image(part)))
            if isinstance(part, Video):
                frames = media.sample_frames(part, _N_FRAMES).images()
                return Video(tuple(Image(change(frame)) for frame in frames), fps=part.fps)
        except MediaError:
            return part
        return tuple(map(changed, part)) if isinstance(part, tuple) else part

    candidates = tuple(map(changed, sample.candidates))
    return replace(sample, candidates=candidates, context=tuple(map(changed, sample.context)))


def _means(observations: Sequence[_Observation]) -> dict[str, Metric]:
    figures: dict[str, list[_Observation]] = {}
    for seen in observations:
        figures.setdefault(seen.figure, []).append(seen)
    return {name: _mean(each) for name, each in figures.items()}


def _mean(observations: Sequence[_Observation]) -> Metric:
    values, clusters = zip(*((seen.value, seen.cluster) for seen in observations), strict=True)
    if {*values} <= {0.0, 1.0}:
        return mean_metric(values, clusters)
    return Metric(sum(values) / len(values), mean_interval(values, clusters), len(values))


def _calibration(judged: Sequence[JudgedItem]) -> dict[str, Metric]:
    predictions = collect_predictions(
        [item.example for item in judged], [item.verdict for item in judged]
    )
    return {
        "calibration_error": calibration_error(predictions),
        "brier_score": brier_score(predictions),
    }


def _coarseness(scores: Sequence[float | None]) -> dict[str, Metric]:
    """Number and distribution of different scores; no intervals, as resamples have fewer values."""
    known = [round(score, _DECIMALS) for score in scores if score is not None]
    if not known:
        return {}
    shares = np.unique(known, return_counts=True)[1] / len(known)
    figures = {
        "distinct_scores": float(len(shares)),
        "score_entropy_bits": float(-(shares * np.log2(shares)).sum()) + 0.0,
        "commonest_score": float(shares.max()),
    }
    nothing = (math.nan, math.nan)
    return {name: Metric(value, nothing, len(known)) for name, value in figures.items()}
