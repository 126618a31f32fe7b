"""What a server tells Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Upper bounds of the latency histograms, seconds.
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
#: Parts of a request that are timed.
STAGES: Final = ("receive", "decode", "queue", "inference", "draw", "total")


class Metrics:
    """Counters, gauges and histograms of one server, in a registry of their own."""

    def __init__(self, *, depth: Callable[[], float], taken: Callable[[], float], model: Mapping[str, str]) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        more: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("rtmo_requests", "Answers, by route and status.", ("route", "status"), **more)
        self.rejected = Counter("rtmo_rejections", "Requests without a place, by what was full.", ("reason",), **more)
        self.seconds = Histogram(
            "rtmo_stage_seconds", "Time of a request's parts.", ("stage",), buckets=_SECONDS, **more
        )
        self.batches = Histogram("rtmo_batch_size", "Images that ran together.", buckets=(1, 2, 4, 8, 16, 32), **more)
        self.people = Counter("rtmo_people", "People found.", **more)
        self.streams = Gauge("rtmo_streams", "Cameras that are connected.", **more)
        Gauge("rtmo_queue_depth", "Requests that wait for the network.", **more).set_function(depth)
        Gauge("rtmo_requests_in_flight", "Requests that are decoded, wait or run.", **more).set_function(taken)
        Info("rtmo_model", "What is served.", **more).info(dict(model))
        for stage in STAGES:
            self.seconds.labels(stage)
        for reason in ("queue", "timeout", "memory", "connections", "streams", "drain"):
            self.rejected.labels(reason)

    def timed(self, timings_ms: Mapping[str, float]) -> None:
        """Count the parts of one request."""
        for stage, milliseconds in timings_ms.items():
            self.seconds.labels(stage).observe(milliseconds / 1000)

    def text(self) -> tuple[bytes, str]:
        """What ``/metrics`` answers, and its type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
