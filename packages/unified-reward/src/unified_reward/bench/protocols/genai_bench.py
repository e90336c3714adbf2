"""GenAI-Bench: which of two generated media people voted for, or neither.

UnifiedReward's "tau" is `three_way_accuracy` and its "diff" `pair_accuracy`. The leaderboard asks
for four outcomes and is on the release's split ``test_v1`` (1,735 pictures, 919 edits, 1,069
clips); the split ``test`` is larger, so say which.
"""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, exact_match_accuracy
from unified_reward.bench.protocols.files import official_files
from unified_reward.core.verdicts import Preferred


_VOTES = {"tievote": "both_good", "bothbad_vote": "both_bad"}


def four_way_accuracy(
    said: Sequence[str | None], labels: Sequence[str], *, clusters: Sequence[str]
) -> Metric:
    """Share of votes named, of first, second, both_good and both_bad; unreadable ones are wrong.

    A tie that does not say which kind is right for both, as on the leaderboard.
    """
    both = _VOTES.values()
    told = [
        label if one == "tie" and label in both else one
        for one, label in zip(said, labels, strict=True)
    ]
    return exact_match_accuracy(told, labels, clusters=clusters)


def _four_way(items: Sequence[JudgedItem]) -> Metric | None:
    """None for a judge that never tells the two kinds of ties apart."""
    preferred = [one.verdict if isinstance(one.verdict, Preferred) else None for one in items]
    if not any(one and one.text in _VOTES.values() for one in preferred):
        return None
    return four_way_accuracy(
        [one and (one.text if one.text in _VOTES.values() else one.winner) for one in preferred],
        [_VOTES.get(one.target.rationale, one.target.winner or "") for one in items],
        clusters=[one.cluster for one in items],
    )


def _measure(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    found = _four_way(items)
    return BenchmarkMetrics(
        pair_metrics(items) | ({"four_way_accuracy": found} if found else {}), {}
    )


PROTOCOLS = tuple(
    Benchmark(
        f"genai_bench_{medium}",
        "Share of votes for one side that are named (diff), of all outcomes with both kinds of "
        "ties as one (three-way, tau), and of all four where the judge tells them apart.",
        "https://arxiv.org/abs/2406.04485",
        official_files(f"genai_bench_{medium}", *files),
        _measure,
        hub="TIGER-Lab/GenAI-Bench",
    )
    for medium, files in (
        ("image", ("image_generation/test_v1-*.parquet", "data.json")),
        ("edit", ("image_edition/test_v1-*.parquet", "data.json")),
        (
            "video",
            ("GenAI-Bench-Video_data.json", "video_generation/test_v1-*.parquet", "data.json"),
        ),
    )
)
