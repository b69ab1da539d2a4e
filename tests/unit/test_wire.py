"""The wire format: what is refused, with which code, and that nothing else can happen."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from transcriber.errors import ProtocolError
from transcriber.result import Segment, Transcript, Word
from transcriber.service import wire
from transcriber.stream import Balance, End, Final, Gap

LANGUAGES = ("en", "de")


def block(*lines: str) -> bytes:
    return b"NATS/1.0\r\n" + b"".join(line.encode() + b"\r\n" for line in lines) + b"\r\n"


def parse(*lines: str, payload: bytes = b"\0" * 8, subject: str = "audio.demo") -> wire.Chunk:
    return wire.parse(subject, block(*lines), payload, max_chunk_bytes=1 << 20, languages=LANGUAGES)


def refused(*lines: str, payload: bytes = b"\0" * 8, subject: str = "audio.demo") -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        parse(*lines, payload=payload, subject=subject)
    return caught.value


def test_a_chunk_without_headers_has_the_defaults() -> None:
    chunk = wire.parse("audio.a-B_9", b"", b"\1\0", max_chunk_bytes=2, languages=LANGUAGES)
    assert chunk == wire.Chunk("a-B_9", "s16le", 48_000, 1, None, None, None, False, b"\1\0")
    assert chunk.n_frames == 1


def test_every_header_is_read_whatever_its_case() -> None:
    chunk = parse(
        "encoding: F32LE",
        "SAMPLE-RATE:16000",
        "Channels: 2",
        "Seq: 7",
        "Timestamp: 2026-11-22T10:00:00.5+02:00",
        "Language: DE",
        "End: 1",
        "traceparent: 00-ab",
    )
    assert (chunk.encoding, chunk.sample_rate, chunk.n_channels, chunk.seq) == ("f32le", 16_000, 2, 7)
    assert chunk.timestamp == datetime(2026, 11, 22, 8, 0, 0, 500_000, tzinfo=UTC)
    assert (chunk.language, chunk.end, chunk.n_frames) == ("de", True, 1)


@pytest.mark.parametrize(
    ("line", "code", "says"),
    [
        ("Encoding: mp3", "bad_encoding", "s16le, s24le"),
        ("Sample-Rate: 44100", "unsupported_rate", "16000, 48000"),
        ("Sample-Rate: 0", "unsupported_rate", "16000, 48000"),
        ("Sample-Rate: -48000", "bad_sample_rate", "integer"),
        ("Sample-Rate: 9" + "9" * 40, "bad_sample_rate", "integer"),
        ("Sample-Rate: 4e4", "bad_sample_rate", "integer"),
        ("Sample-Rate: ٤٨٠٠٠", "bad_sample_rate", "integer"),
        ("Channels: 0", "bad_channels", "1 to 8"),
        ("Channels: 9", "bad_channels", "1 to 8"),
        ("Seq: 1.5", "bad_seq", "integer"),
        ("Seq: -1", "bad_seq", "integer"),
        ("Seq:", "bad_seq", "integer"),
        ("Timestamp: yesterday", "bad_timestamp", "RFC 3339"),
        ("Timestamp: 2026-11-22T10:00:00", "bad_timestamp", "time zone"),
        ("Timestamp: 2026-02-30T10:00:00Z", "bad_timestamp", "RFC 3339"),
        ("Timestamp: 2026-11-22T10:00:00+24:00", "bad_timestamp", "RFC 3339"),
        ("Timestamp: 0000-01-01T00:00:00Z", "bad_timestamp", "RFC 3339"),
        ("Timestamp: 9999-12-31T23:59:59Z", "bad_timestamp", "1970 to 2199"),
        ("Language: klingon", "bad_language", "auto"),
        ("End: true", "bad_end", "0 or 1"),
        ("Language: " + "e" * 65, "bad_header", "65 bytes"),
    ],
)
def test_a_wrong_header_is_refused_with_its_code_and_what_is_allowed(line: str, code: str, says: str) -> None:
    problem = refused(line)
    assert problem.code == code
    assert says in str(problem)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T10:00:00Z", datetime(2026, 11, 22, 10, tzinfo=UTC)),
        ("2026-11-22t10:00:00.123456789z", datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)),
        ("2026-11-22 10:00:00-01:30", datetime(2026, 11, 22, 11, 30, tzinfo=UTC)),
        ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ],
)
def test_timestamps_are_read_as_rfc_3339_has_them(value: str, expected: datetime) -> None:
    assert parse(f"Timestamp: {value}").timestamp == expected


def test_a_repeated_header_is_refused() -> None:
    assert refused("Seq: 1", "seq: 1").code == "bad_header"


def test_a_header_bomb_is_refused_unread() -> None:
    problem = refused(*(f"X-{i}: {i}" for i in range(5000)))
    assert problem.code == "bad_header"
    assert str(wire.MAX_HEADER_BYTES) in str(problem)


@pytest.mark.parametrize("stream", ["", "a b", "a>", "ü", "�", "a" * 65, "a/b", "a\x00"])
def test_a_stream_id_that_is_no_plain_name_is_refused(stream: str) -> None:
    assert refused(subject=f"audio.{stream}").code == "bad_stream"


@pytest.mark.parametrize(("encoding", "size"), wire.ENCODINGS.items())
def test_only_whole_frames_are_taken(encoding: str, size: int) -> None:
    frame = 3 * size
    lines = (f"Encoding: {encoding}", "Channels: 3")
    assert parse(*lines, payload=bytes(2 * frame)).n_frames == 2
    for n_bytes in range(frame + 1, 2 * frame):
        assert refused(*lines, payload=bytes(n_bytes)).code == "partial_frame"


def test_a_chunk_over_the_limits_is_refused() -> None:
    assert refused(payload=bytes((1 << 20) + 2)).code == "chunk_too_large"
    eight_seconds = bytes(8 * 48_000)
    assert parse("Encoding: mulaw", payload=eight_seconds).n_frames == 8 * 48_000
    assert refused("Encoding: mulaw", payload=eight_seconds + b"\0").code == "chunk_too_large"


HEADER_LINES = st.one_of(
    st.binary(max_size=80),
    st.builds(
        lambda name, value: name + b": " + value,
        st.sampled_from([name.encode() for name in wire._HEADERS.values()]),
        st.one_of(
            st.binary(max_size=70), st.from_regex(r"[0-9TZ:.+-]{0,40}", fullmatch=True).map(str.encode)
        ),
    ),
)


@given(
    subject=st.text(max_size=80),
    headers=st.one_of(
        st.binary(max_size=300),
        st.lists(HEADER_LINES, max_size=8).map(lambda lines: b"\r\n".join([b"NATS/1.0", *lines])),
    ),
    payload=st.binary(max_size=64),
)
@example(subject="audio.demo", headers=b"NATS/1.0 \xff\xff\xff\r\n\r\n", payload=b"")
@example(
    subject="audio.demo", headers=b"NATS/1.0\r\nTimestamp: 2199-12-31T23:59:60-23:59\r\n\r\n", payload=b""
)
@example(
    subject="audio.demo", headers=b"NATS/1.0\r\nTimestamp: 1970-01-01T00:00:00+23:59\r\n\r\n", payload=b""
)
def test_nothing_but_a_protocol_error_comes_out_of_any_bytes(
    subject: str, headers: bytes, payload: bytes
) -> None:
    for name in (subject, "audio.demo"):
        try:
            chunk = wire.parse(name, headers, payload, max_chunk_bytes=48, languages=LANGUAGES)
        except ProtocolError as problem:
            assert problem.code
            assert len(str(problem)) < 500
            assert str(problem).isprintable()
        else:
            assert chunk.n_frames * wire.ENCODINGS[chunk.encoding] * chunk.n_channels == len(payload)
            wire.rfc3339(chunk.timestamp)


def test_times_of_segments_count_from_the_start_of_the_session() -> None:
    words = (Word(10, 20, " hi", 0.5),)
    transcript = Transcript(" hi", "en", math.nan, 1000, (Segment(0, 900, " hi", -0.5, math.nan, words),))
    final = Final("demo", "s", 3, 5000, 6000, 16_000, True, transcript, 0, 1.23456, 2.0)
    subject, payload = wire.final_event(final, time=None, end_to_end_ms=4.0, model="base")
    event = json.loads(payload)
    assert subject == "transcript.demo.final"
    assert (event["segments"][0]["start_ms"], event["segments"][0]["end_ms"]) == (5000, 5900)
    assert event["segments"][0]["words"][0]["start_ms"] == 5010
    assert (event["language_probability"], event["segments"][0]["no_speech_prob"]) == (None, None)
    assert event["latency"] == {"queue_ms": 1.235, "processing_ms": 2.0, "end_to_end_ms": 4.0}


def test_a_gap_before_any_window_has_no_number() -> None:
    event = json.loads(wire.gap_event(Gap("demo", "s", -1, 0, 1500, 24_000, "overrun"), time=None)[1])
    assert (event["seq"], event["duration_ms"], event["n_samples"]) == (None, 1500, 24_000)


def test_the_end_says_whether_the_balance_is_exact() -> None:
    for received, exact in ((30, True), (31, False)):
        balance = Balance(received, 10, 5, 0, {"queue_full": 15})
        event = json.loads(wire.end_event(End("demo", "s", "end", 2, balance), time=None)[1])
        assert event["balance"]["exact"] is exact


def test_times_go_out_in_utc_with_milliseconds() -> None:
    assert wire.rfc3339(datetime(2026, 11, 22, 10, 0, 0, 1999, tzinfo=UTC)) == "2026-11-22T10:00:00.001Z"
