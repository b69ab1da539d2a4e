"""Metrics: every name, the right values, and nothing at all when nobody asked."""

from __future__ import annotations

import math
import subprocess
import sys
from typing import Any

import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from transcriber.errors import ConfigError
from transcriber.result import Transcript
from transcriber.service import telemetry
from transcriber.stream import Counters, Final

OTEL = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL")


def points(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    (resource,) = data.resource_metrics
    (scope,) = resource.scope_metrics
    return {metric.name: metric.data.data_points for metric in scope.metrics}


def test_every_metric_is_there_with_its_value() -> None:
    counters = Counters(
        jobs_enqueued=10,
        jobs_dropped=2,
        jobs_completed=7,
        jobs_failed=1,
        queue_depth=3,
        workers_busy=1,
        streams_active=5,
        queue_capacity=4,
        buffered_samples=1234,
    )
    chunks = telemetry.ChunkCounts(received=100)
    chunks.drop("bad_seq")
    chunks.drop("partial_frame")
    chunks.drop("bad_seq")
    reader = InMemoryMetricReader()
    metrics = telemetry.Telemetry(reader, lambda: counters, chunks)
    final = Final(
        stream="demo",
        session="s",
        seq=0,
        start_ms=0,
        end_ms=5000,
        n_samples=80_000,
        flush=False,
        transcript=Transcript("", "en", math.nan, 5000, ()),
        created_ns=0,
        queue_ms=20.0,
        processing_ms=2500.0,
    )
    metrics.final(final, end_to_end_ms=2600.0)

    seen = points(reader)
    assert {name: [point.value for point in seen[name]] for name in seen if name not in HISTOGRAMS} == {
        "transcriber.queue.depth": [3],
        "transcriber.queue.capacity": [4],
        "transcriber.jobs.enqueued": [10],
        "transcriber.jobs.dropped": [2],
        "transcriber.jobs.completed": [7],
        "transcriber.jobs.failed": [1],
        "transcriber.worker.busy": [1],
        "transcriber.chunks.received": [100],
        "transcriber.chunks.dropped": [2, 1],
        "transcriber.chunks.filtered": [0],
        "transcriber.buffer.size": [1234],
        "transcriber.streams.active": [5],
    }
    assert [dict(point.attributes) for point in seen["transcriber.chunks.dropped"]] == [
        {"reason": "bad_seq"},
        {"reason": "partial_frame"},
    ]
    for name, value in HISTOGRAMS.items():
        (point,) = seen[name]
        assert (point.count, point.sum) == (1, value)
        assert point.explicit_bounds == (telemetry._RTF if name.endswith("rtf") else telemetry._LATENCY_MS)
        assert not point.attributes  # no label per stream: there may be any number of them
    metrics.shutdown(1.0)


HISTOGRAMS = {
    "transcriber.queue.latency_ms": 20.0,
    "transcriber.processing.latency_ms": 2500.0,
    "transcriber.end_to_end.latency_ms": 2600.0,
    "transcriber.rtf": 0.5,
}


def test_nothing_is_imported_when_nothing_is_configured() -> None:
    code = (
        "import sys\n"
        "from transcriber.service import daemon, telemetry\n"
        "assert telemetry.start(lambda: None, telemetry.ChunkCounts()) is None\n"
        "loaded = [name for name in sys.modules if name.startswith(('opentelemetry', 'grpc'))]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PATH": ""})


@pytest.mark.parametrize(
    "off", [{"OTEL_METRICS_EXPORTER": "none"}, {"OTEL_SDK_DISABLED": "true"}, {OTEL[0]: ""}], ids=str
)
def test_the_standard_switches_turn_it_off(off: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL[0], "http://127.0.0.1:9")
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert telemetry.start(lambda: pytest.fail("read"), telemetry.ChunkCounts()) is None


def test_an_unknown_protocol_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OTEL[0], "http://127.0.0.1:9")
    monkeypatch.setenv(OTEL[2], "http/json")
    with pytest.raises(
        ConfigError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json'; allowed: grpc, http/protobuf"
    ):
        telemetry.start(lambda: pytest.fail("read"), telemetry.ChunkCounts())
