"""What /metrics says, in Prometheus' format. Labels are bounded: models beyond the limit are `other`, keys never appear."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from burnish import __version__

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)


class Metrics:
    """Counters of one gateway process."""

    def __init__(self, models: int, at_work: Callable[[], int]) -> None:
        """at_work: how many requests are being answered, asked whenever somebody looks."""
        self.registry = CollectorRegistry()
        self._models = models
        self.known: set[str] = set()
        by_model = ["model"]
        self.requests = Counter(
            "burnish_requests", "Requests by what was asked, which version answered, and the status",
            ["endpoint", "model", "status"], registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "burnish_refused", "Requests refused by the gateway itself", ["reason"], registry=self.registry
        )
        self.seconds = Histogram(
            "burnish_request_seconds", "Whole requests", by_model, buckets=SECONDS, registry=self.registry
        )
        self.first = Histogram(
            "burnish_first_token_seconds",
            "From the request to its first byte",
            by_model,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.tokens = Counter("burnish_tokens", "Tokens used", ["model", "kind"], registry=self.registry)
        self.shadow = Counter("burnish_shadow", "Shadow copies", ["model", "result"], registry=self.registry)
        self.rollbacks = Counter("burnish_rollbacks", "Versions taken out of traffic", by_model, registry=self.registry)
        self.feedback = Counter(
            "burnish_feedback", "Votes, thumbs and corrections", ["model", "kind"], registry=self.registry
        )
        Gauge("burnish_requests_at_work", "Requests that are being answered", registry=self.registry).set_function(
            at_work
        )
        Gauge("burnish_build", "Version", ["version"], registry=self.registry).labels(__version__).set(1)

    def label(self, model: str) -> str:
        """Return the model's name as a label; `other` once there are too many."""
        if model not in self.known:
            if len(self.known) >= self._models:
                return "other"
            self.known.add(model)
        return model

    def text(self) -> bytes:
        """Return all counters in Prometheus' text format."""
        return generate_latest(self.registry)
