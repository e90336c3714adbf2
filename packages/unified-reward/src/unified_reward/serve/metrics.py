"""Figures of a running server for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest


_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "unified_reward_requests_total",
            "Requests by path and status.",
            ("path", "status"),
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "unified_reward_request_seconds",
            "Seconds from a request to its answer.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.verdicts = Counter(
            "unified_reward_verdicts_total",
            "Verdicts by judge and status.",
            ("judge", "status"),
            registry=self.registry,
        )
        self.repeated = Counter(
            "unified_reward_repeated_total",
            "Samples answered without asking, because an equal one was answered or was in the "
            "batch.",
            ("judge",),
            registry=self.registry,
        )
        self.batch_samples = Histogram(
            "unified_reward_batch_samples",
            "Samples that a judge was asked at once.",
            ("judge",),
            buckets=_SIZES,
            registry=self.registry,
        )
        self.batch_seconds = Histogram(
            "unified_reward_batch_seconds",
            "Seconds of a judge for one batch.",
            ("judge",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.pending = Gauge(
            "unified_reward_pending_samples",
            "Samples that wait or are being judged.",
            ("judge",),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """All figures in the text format of Prometheus."""
        return generate_latest(self.registry)
