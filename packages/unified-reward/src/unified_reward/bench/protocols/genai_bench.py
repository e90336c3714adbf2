"""GenAI-Bench: votes for one of two generated media, or for neither.

UnifiedReward's "tau" is `three_way_accuracy` and its "diff" `pair_accuracy`. The leaderboard asks
for four outcomes and is on the release's split ``test_v1`` (1,735 images, 919 edits, 1,069
videos); the split ``test`` is larger, so say which.
"""

from __future__ import annotations

from collections.abc import Sequence

from unified_reward.bench.benchmark import Benchmark, BenchmarkMetrics, JudgedItem, pair_metrics
from unified_reward.bench.metrics import Metric, exact_match_accuracy
from unified_reward.bench.protocols.official import official_files
from unified_reward.core.verdicts import Preferred


_TIE_KINDS = {"tievote": "both_good", "bothbad_vote": "both_bad"}


def four_way_accuracy(
    votes: Sequence[str | None], labels: Sequence[str], *, clusters: Sequence[str]
) -> Metric:
    """Share of correct votes for first, second, both_good and both_bad; unreadable ones are wrong.

    A tie without its kind counts as the labelled kind, as on the leaderboard.
    """
    kinds = _TIE_KINDS.values()
    known = [
        label if vote == "tie" and label in kinds else vote
        for vote, label in zip(votes, labels, strict=True)
    ]
    return exact_match_accuracy(known, labels, clusters=clusters)


def _four_way(items: Sequence[JudgedItem]) -> Metric | None:
    """Four-way accuracy; None for a judge that does not distinguish the two kinds of ties."""
    preferred = [item.verdict if isinstance(item.verdict, Preferred) else None for item in items]
    if not any(verdict and verdict.tie_kind for verdict in preferred):
        return None
    return four_way_accuracy(
        [verdict and (verdict.tie_kind or verdict.winner) for verdict in preferred],
        [_TIE_KINDS.get(item.example.tags["vote"], item.target.winner or "") for item in items],
        clusters=[item.cluster for item in items],
    )


def _compute_metrics(items: Sequence[JudgedItem]) -> BenchmarkMetrics:
    four_way = _four_way(items)
    return BenchmarkMetrics(
        pair_metrics(items) | ({"four_way_accuracy": four_way} if four_way else {}), {}
    )


BENCHMARKS = tuple(
    Benchmark(
        f"genai_bench_{medium}",
        "Share of votes for one side that are named (diff), of all outcomes with both kinds of "
        "ties as one (three-way, tau), and of all four where the judge tells them apart.",
        "https://arxiv.org/abs/2406.04485",
        official_files(f"genai_bench_{medium}", *files),
        _compute_metrics,
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
