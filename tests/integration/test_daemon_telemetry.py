"""A real daemon exports to a real OTLP receiver."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, NatsServer, StartDaemon

SECOND = 96_000


class Receiver(HTTPServer):
    """Keeps the last value of every metric that was posted to /v1/metrics."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.metrics: dict[str, Any] = {}
        self.resource: dict[str, str] = {}

    def take(self, body: bytes) -> None:
        for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
            self.resource = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    kind = metric.WhichOneof("data")
                    assert kind is not None
                    self.metrics[metric.name] = list(getattr(metric, kind).data_points)


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/v1/metrics":
            self.server.take(body)
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_a_daemon_exports_every_metric(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, receiver: Receiver, speech_48k: bytes
) -> None:
    daemon = start_daemon(
        nats_url=nats_server.url,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{receiver.server_port}",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_SERVICE_NAME="captions",
        OTEL_METRIC_EXPORT_INTERVAL="200",
        TRANSCRIBER_GRACE_MS="5000",  # for the last export on a busy machine
    )
    await bus.send_all("a", speech_48k[: 6 * SECOND])
    await bus.send("a", b"\0")
    await bus.send("a", b"", End=1)
    await bus.until(lambda: bus.of("end"))
    code, _ = daemon.stop()
    assert code == 0

    def value(name: str) -> int | float:
        (point,) = receiver.metrics[name]
        return point.as_int if point.HasField("as_int") else point.as_double

    assert receiver.resource["service.name"] == "captions"
    assert value("transcriber.queue.depth") == 0
    assert value("transcriber.queue.capacity") == 4
    assert value("transcriber.jobs.enqueued") == 2
    assert value("transcriber.jobs.completed") == 2
    assert value("transcriber.jobs.dropped") == 0
    assert value("transcriber.jobs.failed") == 0
    assert value("transcriber.worker.busy") == 0
    assert value("transcriber.buffer.size") == 0
    assert value("transcriber.streams.active") == 0
    assert value("transcriber.chunks.received") == 62
    assert value("transcriber.chunks.filtered") == 0
    (dropped,) = receiver.metrics["transcriber.chunks.dropped"]
    assert (dropped.as_int, dropped.attributes[0].value.string_value) == (1, "partial_frame")
    finals = bus.of("final")
    for name, key in (
        ("queue", "queue_ms"),
        ("processing", "processing_ms"),
        ("end_to_end", "end_to_end_ms"),
    ):
        (histogram,) = receiver.metrics[f"transcriber.{name}.latency_ms"]
        assert histogram.count == 2
        assert histogram.sum == pytest.approx(sum(final["latency"][key] for final in finals), abs=0.01)
    assert receiver.metrics["transcriber.rtf"][0].count == 2
