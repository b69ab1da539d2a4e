"""Metrics over OpenTelemetry. Nothing of it is imported unless `start` finds it configured.

Names end in their unit where they have one, as the alerts in the documentation expect them. So instruments
have no unit attribute: a Prometheus exporter would append it once more.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from transcriber.errors import ConfigError

if TYPE_CHECKING:
    from opentelemetry.metrics import CallbackOptions, Observation
    from opentelemetry.sdk.metrics.export import MetricReader

    from transcriber.stream import Counters
    from transcriber.stream import Final as FinalEvent

__all__ = ["ChunkCounts", "Telemetry", "start"]

# Latencies from a tiny model on a fast machine to a full queue on a slow one; around the promise of some
# seconds the steps are small enough to read a percentile.
_LATENCY_MS = (10, 25, 50, 100, 250, 500, 750, 1000, 1500, 2000, 3000, 4000, 5000, 7500, 10_000, 15_000,
20_000,
               30_000, 60_000, 120_000)  # fmt: skip
# 1 is real time.
_RTF = (
    0.01,
    0.02,
    0.05,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.6,
    0.7,
    0.8,
    0.9,
    1.0,
    1.25,
    1.5,
    2.0,
    3.0,
    5.0,
    10.0,
)


@dataclass(slots=True)
class ChunkCounts:
    """What became of the messages. Written by the event loop, read by the exporter's thread."""

    received: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one message that was not used."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


class Telemetry:
    """The instruments. Gauges and counters are read when the exporter asks; histograms take each final event.

    Parameters
    ----------
    reader : MetricReader
        Where the metrics go.
    counters : callable
        Gives the latest snapshot; called from the exporter's thread.
    chunks : ChunkCounts
        The daemon's own counts.
    """

    def __init__(self, reader: MetricReader, counters: Callable[[], Counters], chunks: ChunkCounts) -> None:
        from opentelemetry.metrics import Observation
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
        from opentelemetry.sdk.resources import Resource

        # Resource.create lets OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES override only what is not given
        # here.
        attributes = {"service.version": version("transcriber"), "service.instance.id": str(uuid.uuid4())}
        if "OTEL_SERVICE_NAME" not in os.environ:
            attributes["service.name"] = "transcriber"
        self._provider = MeterProvider(
            metric_readers=[reader],
            resource=Resource.create(attributes),
            views=[
                View(
                    instrument_name="transcriber.*latency_ms",
                    aggregation=ExplicitBucketHistogramAggregation(_LATENCY_MS),
                ),
                View(instrument_name="transcriber.rtf", aggregation=ExplicitBucketHistogramAggregation(_RTF)),
            ],
            shutdown_on_exit=False,  # the daemon flushes, with a deadline
        )
        meter = self._provider.get_meter("transcriber", version("transcriber"))

        def one(read: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
            return lambda _: [Observation(read())]

        def by_reason(options: CallbackOptions) -> Iterable[Observation]:
            return [Observation(count, {"reason": reason}) for reason, count in list(chunks.dropped.items())]

        gauges: Mapping[str, tuple[Callable[[], float], str]] = {
            "transcriber.queue.depth": (lambda: counters().queue_depth, "Windows waiting for a worker."),
            "transcriber.queue.capacity": (
                lambda: counters().queue_capacity,
                "Windows that may wait, per stream.",
            ),
            "transcriber.worker.busy": (lambda: counters().workers_busy, "Workers transcribing."),
            "transcriber.buffer.size": (
                lambda: counters().buffered_samples,
                "Samples at 16 kHz in hand: ring, open window, queue, workers.",
            ),
            "transcriber.streams.active": (lambda: counters().streams_active, "Streams that have not ended."),
        }
        for name, (read, description) in gauges.items():
            meter.create_observable_gauge(name, [one(read)], description=description)
        totals: Mapping[str, tuple[Callable[[], float], str]] = {
            "transcriber.jobs.enqueued": (lambda: counters().jobs_enqueued, "Windows put into a queue."),
            "transcriber.jobs.dropped": (
                lambda: counters().jobs_dropped,
                "Windows that no worker finished: queue full, abandoned.",
            ),
            "transcriber.jobs.completed": (lambda: counters().jobs_completed, "Windows transcribed."),
            "transcriber.jobs.failed": (lambda: counters().jobs_failed, "Windows that the engine failed on."),
            "transcriber.chunks.received": (lambda: chunks.received, "Messages from NATS."),
            "transcriber.chunks.filtered": (
                lambda: 0,
                "Chunks held back as non-speech; none until the daemon filters.",
            ),
        }
        for name, (read, description) in totals.items():
            meter.create_observable_counter(name, [one(read)], description=description)
        meter.create_observable_counter(
            "transcriber.chunks.dropped", [by_reason], description="Messages refused or lost, by reason."
        )

        self._queue_ms = meter.create_histogram(
            "transcriber.queue.latency_ms", description="From a window's last sample to its worker."
        )
        self._processing_ms = meter.create_histogram(
            "transcriber.processing.latency_ms", description="One inference."
        )
        self._end_to_end_ms = meter.create_histogram(
            "transcriber.end_to_end.latency_ms", description="From a window's last sample to its publication."
        )
        self._rtf = meter.create_histogram(
            "transcriber.rtf",
            description="Processing time over audio time; below 1 is faster than real time.",
        )

    def final(self, final: FinalEvent, end_to_end_ms: float) -> None:
        """Record the latencies of one published window."""
        self._queue_ms.record(final.queue_ms)
        self._processing_ms.record(final.processing_ms)
        self._end_to_end_ms.record(end_to_end_ms)
        self._rtf.record(final.processing_ms / (final.n_samples / 16))

    def shutdown(self, timeout_s: float) -> None:
        """Export once more and stop. Blocks for up to `timeout_s`: not for the event loop."""
        self._provider.shutdown(timeout_millis=max(1.0, timeout_s * 1000))


def start(counters: Callable[[], Counters], chunks: ChunkCounts) -> Telemetry | None:
    """Start exporting if the standard OTEL_* variables ask for it; otherwise return None and import nothing.

    Raises
    ------
    ConfigError
        The variables ask for a protocol that does not exist.
    """
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT") or os.environ.get(
        "OTEL_EXPORTER_OTLP_ENDPOINT"
    )
    if (
        not endpoint
        or os.environ.get("OTEL_METRICS_EXPORTER") == "none"
        or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    ):
        return None
    variable = "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL"
    if not os.environ.get(variable):
        variable = "OTEL_EXPORTER_OTLP_PROTOCOL"
    protocol = os.environ.get(variable) or "grpc"
    exporter: Any
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcExporter

        exporter = GrpcExporter()
    elif protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpExporter

        exporter = HttpExporter()
    else:
        raise ConfigError(f"{variable} is {protocol!r}; allowed: grpc, http/protobuf")
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return Telemetry(PeriodicExportingMetricReader(exporter), counters, chunks)
