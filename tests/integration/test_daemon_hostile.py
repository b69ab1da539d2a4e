"""One broken or hostile publisher harms nobody else."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, NatsServer, StartDaemon

SECOND = 96_000
MIB = 1024 * 1024


def hpub(subject: bytes, headers: bytes, payload: bytes = b"") -> bytes:
    """A message as bytes of the protocol: a client library would not send most of what follows."""
    sizes = b"%d %d" % (len(headers), len(headers) + len(payload))
    return b"HPUB " + subject + b" " + sizes + b"\r\n" + headers + payload + b"\r\n"


def pub(subject: bytes, payload: bytes = b"") -> bytes:
    return b"PUB " + subject + b" %d\r\n" % len(payload) + payload + b"\r\n"


def block(*lines: bytes) -> bytes:
    return b"".join(line + b"\r\n" for line in (b"NATS/1.0", *lines)) + b"\r\n"


async def send_raw(url: str, messages: list[bytes]) -> None:
    """Send protocol bytes, and return when the server has taken them all."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    await reader.readline()  # INFO
    writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"protocol":1}\r\n')
    for message in messages:
        writer.write(message)
        await writer.drain()
    writer.write(b"PING\r\n")
    while (line := await reader.readline()) != b"PONG\r\n":
        assert line.startswith(b"INFO"), line
    writer.close()
    await writer.wait_closed()


NAN = np.array([0.5, math.nan], dtype="<f4").tobytes()

# What is sent to stream <code>, and so what it has to be answered with.
REFUSED = {
    "bad_encoding": hpub(b"audio.bad_encoding", block(b"Encoding: ../../etc/passwd"), bytes(4)),
    "bad_sample_rate": hpub(b"audio.bad_sample_rate", block(b"Sample-Rate: -1e999"), bytes(4)),
    "unsupported_rate": hpub(b"audio.unsupported_rate", block(b"Sample-Rate: 999999999999999999"), bytes(4)),
    "bad_channels": hpub(b"audio.bad_channels", block(b"Channels: 4294967297"), bytes(4)),
    "bad_seq": hpub(b"audio.bad_seq", block(b"Seq: \xff\xfe"), bytes(4)),
    "bad_timestamp": hpub(b"audio.bad_timestamp", block(b"Timestamp: 9999-99-99T99:99:99Z"), bytes(4)),
    "bad_language": hpub(b"audio.bad_language", block(b"Language: \x00\x00"), bytes(4)),
    "bad_end": hpub(b"audio.bad_end", block(b"End: maybe"), bytes(4)),
    "bad_header": hpub(b"audio.bad_header", block(*(b"X-%d: y" % i for i in range(20_000))), bytes(4)),
    "partial_frame": pub(b"audio.partial_frame", bytes(9601)),
    "non_finite": hpub(b"audio.non_finite", block(b"Encoding: f32le"), NAN),
    "chunk_too_large": pub(b"audio.chunk_too_large", bytes(10 * MIB)),
}

# No stream to answer, or nothing that is wrong: these only have to be survived.
IGNORED = [
    pub(b"audio.\xff\xfe", bytes(4)),
    pub(b"audio." + b"x" * 3000, bytes(4)),
    pub(b"audio.a\x0bb", bytes(4)),
    pub(b"audio.a\x0c1", bytes(4)),
    pub(b"audio.nothing"),
    hpub(b"audio.status", b"NATS/1.0 \xff\xff\xff\r\n\r\n"),
    hpub(b"audio.status", b"NATS/1.0 503\r\n\r\n"),
    hpub(b"audio.status", block(b"\xff\xff: \xff", b":", b"no colon", b"End: 1")),
]


async def test_a_hostile_publisher_changes_nothing_for_others(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, base_model_path: Path, speech_48k: bytes
) -> None:
    daemon = start_daemon(
        nats_url=nats_server.url, BUFFER_DURATION_SECS="3", WHISPER_MODEL_PATH=str(base_model_path)
    )
    speech_48k = speech_48k[: 3 * SECOND]
    await bus.send_all("undisturbed", speech_48k)
    await bus.send("undisturbed", b"", End=1)

    hostile = [*REFUSED.values(), *IGNORED]
    n_sent = 0
    for start in range(0, len(speech_48k), 9600):
        await bus.send("disturbed", speech_48k[start : start + 9600])
        n_sent += 1
        if hostile:
            await bus.client.flush()
            await send_raw(nats_server.url, [hostile.pop(0)])
    await bus.send("disturbed", b"", End=1)
    assert not hostile
    await bus.until(lambda: bus.of("end", "undisturbed") and bus.of("end", "disturbed"))

    def heard(stream: str) -> list[Any]:
        # A time of the wall clock and latencies differ, of course; text, probabilities and times have to be
        # equal.
        return [
            [(s["text"], s["start_ms"], s["end_ms"], s["avg_logprob"]) for s in event["segments"]]
            for event in bus.of("final", stream)
        ]

    assert "fellow" in bus.of("final", "undisturbed")[0]["text"].lower()
    assert heard("disturbed") == heard("undisturbed")
    assert bus.of("gap") == []
    codes = {event["stream"]: event["code"] for event in bus.of("error")}
    assert codes == {code: code for code in REFUSED}

    code, _ = daemon.stop()
    assert code == 0
    assert "disconnected" not in daemon.log
    assert daemon.samples("received") == 2 * 3 * 16_000
    assert daemon.printed("balance") == "exact"
    received, *dropped = daemon.printed("chunks").split("; ")
    assert received.startswith(f"{2 * (n_sent + 1) + len(REFUSED) + len(IGNORED)} received, ")
    assert dict(reason.split() for reason in dropped) == dict.fromkeys(REFUSED, "1") | {"bad_stream": "4"}


async def test_a_bad_chunk_is_answered_once_a_second_and_its_stream_goes_on(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, speech_48k: bytes
) -> None:
    daemon = start_daemon(nats_url=nats_server.url)
    for _ in range(50):
        await bus.send("mixed", speech_48k[:9600])
        await bus.send("mixed", b"\0")
    await bus.send("mixed", speech_48k[:9600], Encoding="opus")  # another fault is not hidden by the first
    await bus.send("mixed", b"", End=1)
    await bus.until(lambda: bus.of("end"))
    errors = bus.of("error")
    assert 2 <= len(errors) <= 6
    assert {error["code"] for error in errors} == {"partial_frame", "bad_encoding"}
    assert errors[0]["session"] == bus.of("end")[0]["session"]
    assert errors[0]["n_suppressed"] == 0
    daemon.stop()
    assert daemon.printed("chunks") == "102 received, 51 refused; bad_encoding 1; partial_frame 50"
    assert 1 <= daemon.log.count("partial_frame") <= 5
    assert daemon.samples("received") == 50 * 1600


async def test_a_stream_keeps_its_format_and_its_sequence(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon
) -> None:
    daemon = start_daemon(nats_url=nats_server.url, TRANSCRIBER_MAX_STREAMS="2")
    chunk = bytes(9600)
    await bus.send("format", chunk, Seq=0, Language="de")
    for headers in ({"Sample-Rate": 16_000}, {"Channels": 2}, {"Encoding": "f32le"}, {"Language": "fr"}):
        bus.events.clear()
        await asyncio.sleep(1)  # answers are limited to one a second
        await bus.send("format", chunk, **headers)
        await bus.until(lambda: bus.of("error"))
        assert bus.of("error")[0]["code"] == "format_changed"
        await bus.send("format", chunk, **{**headers, "Language": "de"} if "Language" in headers else {})
    await bus.send("sequence", chunk, Seq=5)
    await bus.send("sequence", chunk, Seq=6)
    await bus.send("sequence", chunk, Seq=9)
    await bus.until(lambda: bus.of("error", "sequence"))
    assert bus.of("error", "sequence")[0]["code"] == "seq_jump"
    await bus.send("third", chunk)
    await bus.until(lambda: bus.of("error", "third"))
    assert bus.of("error", "third")[0]["code"] == "too_many_streams"
    await bus.send("format", b"", End=1)
    await bus.until(lambda: bus.of("end", "format"))
    await bus.send("third", chunk)  # there is room again
    await bus.send("third", b"", End=1)
    await bus.until(lambda: bus.of("end", "third"))
    daemon.stop()
    # Five chunks of one format in the first stream, three in the second whatever their numbers, one in the
    # third.
    assert daemon.samples("received") == (5 + 3 + 1) * 1600
