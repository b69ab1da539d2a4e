"""Audio in, text out, over a real server: order, flush, losses, and the balance to the sample."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, DaemonProcess, NatsServer, StartDaemon

SECOND = 96_000  # bytes of 48 kHz mono s16le


def accounted(events: list[dict[str, Any]]) -> int:
    """Samples of the windows that were announced, as text or as a loss."""
    return sum(event["n_samples"] for event in events if event["type"] in ("final", "gap"))


def assert_exact(daemon: DaemonProcess, received: int) -> None:
    assert daemon.printed("balance") == "exact"
    assert daemon.samples("received") == received
    parts = ("transcribed", "flushed", "dropped", "buffered")
    assert sum(daemon.samples(part) for part in parts) == received


async def test_speech_comes_back_in_order_with_times_and_ends_when_the_publisher_says_so(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, base_model_path: Path, speech_48k: bytes
) -> None:
    daemon = start_daemon(nats_url=nats_server.url, WHISPER_MODEL_PATH=str(base_model_path))
    assert daemon.ready_line == (
        f"transcriber-daemon: ready on {nats_server.url} model ggml-base.bin, 1 worker x 1 threads, window 5 "
        "s, "
        "queue 4\n"
    )
    start = datetime(2026, 11, 22, 10, tzinfo=UTC)
    speech_48k = speech_48k[
        : 11 * SECOND - 2
    ]  # one frame short: the last sample at 16 kHz is made of two frames
    n_chunks = 0
    for offset in range(0, len(speech_48k), 9600):
        time = start + timedelta(seconds=offset / SECOND)
        chunk = speech_48k[offset : offset + 9600]
        await bus.send("jfk", chunk, Seq=n_chunks, Timestamp=time.isoformat())
        n_chunks += 1
    await bus.send("jfk", b"", End=1)
    await bus.until(lambda: bus.of("end"))

    finals = bus.of("final")
    assert [event["type"] for event in bus.events] == ["final", "final", "final", "end"]
    assert [event["seq"] for event in finals] == [0, 1, 2]
    assert [(event["start_ms"], event["end_ms"]) for event in finals[:2]] == [(0, 5000), (5000, 10_000)]
    assert finals[1]["time"] == "2026-11-22T10:00:05.000Z"
    assert [event["flush"] for event in finals] == [False, False, True]
    assert {event["session"] for event in bus.events} == {finals[0]["session"]}
    text = " ".join(event["text"] for event in finals).lower()
    assert "fellow americans" in text
    assert "country" in text
    assert {(event["language"], event["language_probability"]) for event in finals} == {("en", None)}
    for event in finals:
        latency = event["latency"]
        assert latency["end_to_end_ms"] >= latency["queue_ms"] + latency["processing_ms"] > 0

    received = math.ceil(len(speech_48k) / 2 / 3)
    (end,) = bus.of("end")
    assert end["reason"] == "end"
    assert end["n_windows"] == 3
    assert end["balance"] == {
        "received": received,
        "transcribed": 160_000,
        "flushed": received - 160_000,
        "dropped": {},
        "buffered": 0,
        "exact": True,
    }
    assert accounted(bus.events) == received
    code, _ = daemon.stop()
    assert code == 0
    assert daemon.printed("jobs_enqueued") == "3"
    assert daemon.printed("jobs_dropped") == "0"
    assert daemon.printed("queue_depth") == "0"
    assert daemon.printed("chunks") == f"{n_chunks + 1} received, 0 refused"
    assert_exact(daemon, received)


async def test_a_full_queue_drops_counts_logs_and_announces_exactly_what_was_lost(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, speech_48k: bytes
) -> None:
    daemon = start_daemon(
        nats_url=nats_server.url, BUFFER_DURATION_SECS="1", TRANSCRIPTION_QUEUE_CAPACITY="1"
    )
    # Eight windows at once for a worker that holds one and a queue that holds one.
    await bus.send_all("flood", speech_48k[: 8 * SECOND])
    await bus.until(lambda: bus.of("gap"))
    await bus.send("flood", b"", End=1)
    await bus.until(lambda: bus.of("end"))

    finals, gaps, (end,) = bus.of("final"), bus.of("gap"), bus.of("end")
    assert len(gaps) >= 4
    assert {gap["reason"] for gap in gaps} == {"queue_full"}
    for gap in gaps:
        assert gap["duration_ms"] == gap["n_samples"] / 16 == gap["end_ms"] - gap["start_ms"]
    # Every window is there once, as text or as a gap, and they cover the stream without a hole.
    windows = sorted(finals + gaps, key=lambda event: event["seq"])
    assert [window["seq"] for window in windows] == list(range(end["n_windows"]))
    assert [window["start_ms"] for window in windows] == [0, *(window["end_ms"] for window in windows[:-1])]
    assert [final["seq"] for final in finals] == sorted(final["seq"] for final in finals)
    assert windows[-1]["end_ms"] == 8000
    lost = sum(gap["n_samples"] for gap in gaps)
    assert end["balance"]["dropped"] == {"queue_full": lost}
    assert accounted(bus.events) == end["balance"]["received"] == 8 * 16_000

    daemon.stop()
    assert "stream flood: 1.000 s of audio dropped: queue_full" in daemon.log
    assert daemon.printed("jobs_dropped") == str(len(gaps))
    assert daemon.printed("jobs_enqueued") == str(len(finals))
    assert daemon.printed("dropped") == f"{lost} samples ({lost / 16_000:.3f} s); queue_full {lost}"
    assert_exact(daemon, 8 * 16_000)


async def test_the_balance_is_exact_over_streams_formats_and_lengths(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, speech_48k: bytes
) -> None:
    daemon = start_daemon(nats_url=nats_server.url, TRANSCRIBER_IDLE_TIMEOUT_SECS="0.3")
    # All ways to end: an idle time-out, with audio in the last message, without, with the daemon. Odd lengths
    # all of them, in chunks that do not divide by three frames.
    received = 0
    for stream, n_frames, headers in (
        ("idle", 20_011, {}),
        ("low", 7_013, {"Sample-Rate": 16_000}),
        ("stereo", 31_336, {"Channels": 2}),
        ("law", 9_998, {"Encoding": "mulaw", "Sample-Rate": 16_000}),
    ):
        frame_bytes = {"stereo": 4, "law": 1}.get(stream, 2)
        pcm = speech_48k[SECOND : SECOND + n_frames * frame_bytes]
        for start in range(0, len(pcm), 1000 * frame_bytes):
            chunk = pcm[start : start + 1000 * frame_bytes]
            last = stream == "law" and start + len(chunk) == len(pcm)
            await bus.send(stream, chunk, **headers, **({"End": 1} if last else {}))
        if stream == "low":
            await bus.send(stream, b"", End=1)
        received += n_frames if "Sample-Rate" in headers else math.ceil(n_frames / 3)
    await bus.until(lambda: len(bus.of("end")) == 4)

    assert {end["stream"]: end["reason"] for end in bus.of("end")} == {
        "idle": "idle",
        "low": "end",
        "stereo": "idle",
        "law": "end",
    }
    assert all(end["balance"]["exact"] and end["balance"]["buffered"] == 0 for end in bus.of("end"))
    assert accounted(bus.events) == received

    # A stream that comes back after its end is a new session.
    await bus.send("idle", speech_48k[:9600])
    received += 1600
    await bus.until(lambda: len(bus.of("end", "idle")) == 2)
    assert len({end["session"] for end in bus.of("end", "idle")}) == 2
    code, _ = daemon.stop()
    assert code == 0
    assert_exact(daemon, received)
