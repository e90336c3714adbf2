"""An audit of a judge: what moves its verdicts that should not, and how far they agree.

Labels are needed for calibration and for what is right by length alone. Figures are means over
questions, with intervals by bootstrap over prompts.
"""

from __future__ import annotations

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.bench.benchmark import JudgedItem
from unified_reward.bench.calibration import brier_score, calibration_error, collect_predictions
from unified_reward.bench.metrics import Metric, mean_interval, mean_metric
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import MediaError
from unified_reward.core.samples import Candidate, Example, Image, Sample, Task, Video
from unified_reward.core.verdicts import Failed, Preferred, Scored, Unparsed, Verdict
from unified_reward.media import PILImage


_CHUNK = 64
_FRAMES = 8
"""Of a clip, before it is changed; the unchanged one is asked with the same."""
_DECIMALS = 3
"""Scores on [0, 1] that are equal to so many places count as one value."""


def _resized(factor: float, picture: PILImage) -> PILImage:
    width, height = (max(1, round(side * factor)) for side in picture.size)
    return picture.resize((width, height), PIL.Image.Resampling.BICUBIC)


def _compressed(quality: int, picture: PILImage) -> PILImage:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return PIL.Image.open(file).convert("RGB")


PERTURBATIONS: Mapping[str, Callable[[PILImage], PILImage]] = {
    "resize_0.5": partial(_resized, 0.5),
    "resize_2": partial(_resized, 2.0),
    "jpeg_90": partial(_compressed, 90),
    "jpeg_50": partial(_compressed, 50),
    "jpeg_20": partial(_compressed, 20),
}
"""What is done to every picture and every frame, to see how far verdicts move."""


class _Seen(NamedTuple):
    figure: str
    value: float
    cluster: str
    task: Task


@dataclass
class _Asked:
    """A judge that is watched: what it could not answer is counted."""

    judge: BaseJudge
    progress: Callable[[int], None]
    n: int = 0
    lost: Counter[str] = field(default_factory=Counter[str])

    def __call__(self, samples: Sequence[Sample]) -> list[Verdict]:
        told: list[Verdict] = []
        for start in range(0, len(samples), _CHUNK):
            chunk = samples[start : start + _CHUNK]
            told += self.judge.ask(chunk)
            self.progress(len(chunk))
        self.n += len(told)
        self.lost["unparsed"] += sum(isinstance(one, Unparsed) for one in told)
        self.lost["failed"] += sum(isinstance(one, Failed) for one in told)
        return told


class AuditResult(NamedTuple):
    """What an audit gave."""

    report: dict[str, Any]
    comparisons: list[JudgedItem]


def audit(
    judge: BaseJudge, records: Sequence[Example], progress: Callable[[int], None] = lambda _: None
) -> AuditResult:
    """Ask a judge the same things in several ways.

    Args:
        judge: Anything that judges.
        records: Comparisons and scores, with labels where there are some.
        progress: Called with the number of questions just asked.

    Returns:
        The report, over all and by task, and the comparisons with their verdicts. Figures:
        ``position_flips``, share of comparisons in which the two orders name different winners;
        ``first_place_pull``, mean probability of the first place, minus 0.5; ``ties`` and
        ``unreadable``; ``longer_preferred``, ``right_where_longer_is_better`` and
        ``right_where_shorter_is_better`` of answers; ``repetition_preferred`` and
        ``repetition_score_shift``, of an answer said twice over itself;
        ``cycles``, share of triples (two candidates of an item and one of the next) with a over b
        over c over a, of those without a tie; ``calibration_error`` and ``brier_score``;
        ``distinct_scores``, ``score_entropy_bits`` and ``commonest_score``, its share;
        ``agreement``, share of comparisons whose winner has the higher score, of those where both
        decide; and by change of the pictures ``score_shift``, mean distance of scores on [0, 1],
        and ``flips``, share of winners that are others.
    """
    ask = _Asked(judge, progress)
    compared = [one for one in records if one.sample.form == "compare"]
    verdicts = ask([one.sample for one in compared])
    singles = _singles(records)
    scores = dict(zip(singles, map(_share, ask([*singles.values()])), strict=True))
    seen = [
        *_positions(compared, verdicts),
        *_lengths(compared, verdicts),
        *_repetition(ask, records, scores),
        *_cycles(ask, compared),
        *_agreement(compared, verdicts, scores),
        *_changes(ask, compared, singles),
    ]
    judged = [
        JudgedItem(one, one.task.value, verdict)
        for one, verdict in zip(compared, verdicts, strict=True)
    ]
    tasks = dict.fromkeys(one.task for one in records)
    kept = [(one.task, scores[key]) for key, one in singles.items()]
    report = {
        "name": "audit",
        "judge": judge.name,
        "family": judge.family,
        "n": len(records),
        "n_questions": ask.n,
        "n_unparsed": ask.lost["unparsed"],
        "n_failed": ask.lost["failed"],
        "metrics": _figures({*tasks}, seen, judged, kept),
        "groups": {task.value: _figures({task}, seen, judged, kept) for task in tasks},
    }
    return AuditResult(report, judged)


def _figures(
    tasks: set[Task],
    seen: Sequence[_Seen],
    judged: Sequence[JudgedItem],
    scores: Sequence[tuple[Task, float | None]],
) -> dict[str, Any]:
    """The figures of some tasks; those of which nothing was seen are left out."""
    told = {
        **_means([one for one in seen if one.task in tasks]),
        **_calibration([one for one in judged if one.record.task in tasks]),
        **_coarseness([score for task, score in scores if task in tasks]),
    }
    return {name: metric.row() for name, metric in told.items() if metric.n}


_Key = tuple[Task, str, tuple[Any, ...], Candidate]


def _single(sample: Sample, candidate: Candidate) -> Sample:
    return replace(sample, candidates=(candidate,))


def _key(sample: Sample, candidate: Candidate) -> _Key:
    return sample.task, sample.prompt, sample.context, candidate


def _singles(records: Sequence[Example]) -> dict[_Key, Sample]:
    """Every candidate of every record, once, to be scored."""
    samples = [one.sample for one in records]
    return {_key(s, one): _single(s, one) for s in samples for one in s.candidates}


def _share(verdict: Verdict) -> float | None:
    """A score on [0, 1]; of an open scale as it is."""
    if not isinstance(verdict, Scored) or verdict.score is None:
        return None
    share = verdict.score.normalized
    return verdict.score.value if share is None else share


def _see(record: Example | Sample, figure: str, value: float) -> _Seen:
    sample = record.sample if isinstance(record, Example) else record
    return _Seen(figure, float(value), sample.prompt, sample.task)


def _positions(compared: Sequence[Example], verdicts: Sequence[Verdict]) -> Iterator[_Seen]:
    for record, verdict in zip(compared, verdicts, strict=True):
        yield _see(record, "unreadable", not isinstance(verdict, Preferred))
        if not isinstance(verdict, Preferred):
            continue
        yield _see(record, "ties", verdict.winner == "tie")
        if len(verdict.orders) == 2:
            one, other = verdict.orders
            yield _see(record, "position_flips", one.winner != other.winner)
            yield _see(record, "first_place_pull", (one.probability - other.probability) / 2)


def _lengths(compared: Sequence[Example], verdicts: Sequence[Verdict]) -> Iterator[_Seen]:
    for record, verdict in zip(compared, verdicts, strict=True):
        first, second = record.sample.candidates
        if not (isinstance(first, str) and isinstance(second, str)):
            continue
        longer = len(first.split()) - len(second.split())
        if not longer or not isinstance(verdict, Preferred):
            continue
        share = verdict.probability if longer > 0 else 1 - verdict.probability
        yield _see(record, "longer_preferred", share)
        if (winner := record.target.winner) in ("first", "second"):
            better = "longer" if (winner == "first") == (longer > 0) else "shorter"
            yield _see(record, f"right_where_{better}_is_better", verdict.winner == winner)


def _repetition(
    ask: _Asked, records: Sequence[Example], scores: Mapping[_Key, float | None]
) -> Iterator[_Seen]:
    """An answer against itself said twice: longer, and nothing more in it."""
    told = {
        _key(one.sample, answer): (one.sample, answer)
        for one in records
        for answer in one.sample.candidates
        if isinstance(answer, str)
    }
    pairs = [(s, answer, f"{answer} {answer}") for s, answer in told.values()]
    preferred = ask([replace(s, candidates=(twice, once)) for s, once, twice in pairs])
    scored = ask([_single(s, twice) for s, _, twice in pairs])
    for (sample, once, _), verdict, score in zip(pairs, preferred, scored, strict=True):
        if isinstance(verdict, Preferred):
            yield _see(sample, "repetition_preferred", verdict.probability)
        before, after = scores[_key(sample, once)], _share(score)
        if before is not None and after is not None:
            yield _see(sample, "repetition_score_shift", after - before)


def _cycles(ask: _Asked, compared: Sequence[Example]) -> Iterator[_Seen]:
    triples = [
        (one.sample, *one.sample.candidates, other.sample.candidates[0])
        for one, other in pairwise([*compared, *compared[:1]])
        if one.task is other.task and other is not one
    ]
    asked = [
        replace(sample, candidates=pair)
        for sample, a, b, c in triples
        for pair in ((a, b), (b, c), (c, a))
    ]
    told = ask(asked)
    for i, (sample, *_) in enumerate(triples):
        winners = [
            one.winner if isinstance(one, Preferred) else "tie" for one in told[3 * i : 3 * i + 3]
        ]
        if "tie" not in winners:
            yield _see(sample, "cycles", len({*winners}) == 1)


def _agreement(
    compared: Sequence[Example], verdicts: Sequence[Verdict], scores: Mapping[_Key, float | None]
) -> Iterator[_Seen]:
    for record, verdict in zip(compared, verdicts, strict=True):
        first, second = (scores[_key(record.sample, one)] for one in record.sample.candidates)
        if first is None or second is None or first == second:
            continue
        if isinstance(verdict, Preferred) and verdict.winner != "tie":
            yield _see(record, "agreement", (verdict.winner == "first") == (first > second))


def _changes(
    ask: _Asked, compared: Sequence[Example], singles: Mapping[_Key, Sample]
) -> Iterator[_Seen]:
    """Verdicts on changed pictures against those on the same pictures as they are."""
    samples = [*(one.sample for one in compared), *singles.values()]
    same = ask([_changed(one, lambda picture: picture) for one in samples])
    for name, change in PERTURBATIONS.items():
        told = ask([_changed(one, change) for one in samples])
        for sample, before, after in zip(samples, same, told, strict=True):
            if isinstance(before, Preferred) and isinstance(after, Preferred):
                yield _see(sample, f"flips.{name}", before.winner != after.winner)
            one, other = _share(before), _share(after)
            if one is not None and other is not None:
                yield _see(sample, f"score_shift.{name}", abs(other - one))


def _changed(sample: Sample, change: Callable[[PILImage], PILImage]) -> Sample:
    """A sample whose pictures are others; one that cannot be opened stays, and fails when asked."""

    def medium(one: Any) -> Any:
        try:
            if isinstance(one, Image):
                return Image(change(media.open_image(one)))
            if isinstance(one, Video):
                frames = media.sample_frames(one, _FRAMES).images()
                return Video(tuple(Image(change(frame)) for frame in frames), fps=one.fps)
        except MediaError:
            return one
        return tuple(map(medium, one)) if isinstance(one, tuple) else one

    candidates = tuple(map(medium, sample.candidates))
    return replace(sample, candidates=candidates, context=tuple(map(medium, sample.context)))


def _means(seen: Sequence[_Seen]) -> dict[str, Metric]:
    figures: dict[str, list[_Seen]] = {}
    for one in seen:
        figures.setdefault(one.figure, []).append(one)
    found: dict[str, Metric] = {}
    for name, each in figures.items():
        values, clusters = [one.value for one in each], [one.cluster for one in each]
        if {*values} <= {0.0, 1.0}:
            found[name] = mean_metric(values, clusters)
        else:
            interval = mean_interval(values, clusters)
            found[name] = Metric(sum(values) / len(values), interval, len(values))
    return found


def _calibration(judged: Sequence[JudgedItem]) -> dict[str, Metric]:
    told = collect_predictions([one.record for one in judged], [one.verdict for one in judged])
    return {"calibration_error": calibration_error(told), "brier_score": brier_score(told)}


def _coarseness(scores: Sequence[float | None]) -> dict[str, Metric]:
    """Without intervals: a resample has fewer different values than what it is drawn from."""
    known = [round(one, _DECIMALS) for one in scores if one is not None]
    if not known:
        return {}
    shares = np.unique(known, return_counts=True)[1] / len(known)
    figures = {
        "distinct_scores": float(len(shares)),
        "score_entropy_bits": float(-(shares * np.log2(shares)).sum()) + 0.0,
        "commonest_score": float(shares.max()),
    }
    return {name: Metric(one, (math.nan, math.nan), len(known)) for name, one in figures.items()}
