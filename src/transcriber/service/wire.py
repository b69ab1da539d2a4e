"""What goes over NATS: bytes and headers in, dataclasses out, and back. No sockets, no asyncio, no engine.

``docs/asyncapi.yaml`` describes the same thing for the other side; the tests hold the two together.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from transcriber.errors import ProtocolError

if TYPE_CHECKING:
    from transcriber import stream as events
    from transcriber.result import Segment

__all__ = [
    "AUDIO_SUBJECT",
    "ENCODINGS",
    "MAX_HEADER_BYTES",
    "SAMPLE_RATES",
    "VERSION",
    "Chunk",
    "end_event",
    "error_event",
    "final_event",
    "gap_event",
    "parse",
    "rfc3339",
    "stream_of",
    "transcript_subject",
]

VERSION: Final = 1
"""Version of the JSON schema of what is published. It grows when a field changes its meaning or goes away."""

AUDIO_SUBJECT: Final = "audio.*"

ENCODINGS: Final = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "mulaw": 1, "alaw": 1}
"""Bytes of one sample, by the name that the `Encoding` header gives."""

SAMPLE_RATES: Final = (16_000, 48_000)

MAX_CHANNELS: Final = 8
MAX_CHUNK_S: Final = 8  # the pipeline takes no more at once; a live source sends a tenth of a second
MAX_HEADER_BYTES: Final = (
    16_384  # twice what W3C baggage may take; a bigger block is not worth its parsing time
)
MAX_VALUE_CHARS: Final = (
    64  # the longest value that means anything is an RFC 3339 time of about 35 characters
)

_STREAM = re.compile(r"[A-Za-z0-9_-]{1,64}")
_UNSIGNED = re.compile(r"[0-9]{1,18}")  # 18 digits always fit into 63 bits
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})[Tt ](\d{2}:\d{2}):(\d{2})(?:\.(\d{1,9}))?(?:[Zz]|([+-])(\d{2}):(\d{2}))", re.ASCII
)
_HEADERS = {
    name.lower(): name
    for name in ("Encoding", "Sample-Rate", "Channels", "Seq", "Timestamp", "Language", "End")
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """One message of audio, checked: what it says about itself is allowed, and it holds whole frames.

    Parameters
    ----------
    stream : str
        The last token of the subject.
    encoding, sample_rate, n_channels
        Format of `payload`; interleaved when there is more than one channel.
    seq : int or None
        The publisher's own count of its chunks.
    timestamp : datetime or None
        When the first frame was captured, in UTC.
    language : str or None
        Whisper language code or "auto"; None when the chunk does not say.
    end : bool
        The stream is over after this chunk.
    payload : bytes
        PCM, possibly none at all.
    """

    stream: str
    encoding: str
    sample_rate: int
    n_channels: int
    seq: int | None
    timestamp: datetime | None
    language: str | None
    end: bool
    payload: bytes

    @property
    def n_frames(self) -> int:
        """Frames in the payload."""
        return len(self.payload) // (ENCODINGS[self.encoding] * self.n_channels)


def parse(
    subject: str, headers: bytes, payload: bytes, *, max_chunk_bytes: int, languages: Container[str]
) -> Chunk:
    """Check one message and take it apart.

    Parameters
    ----------
    subject : str
        The subject as it came, `audio.<stream>`.
    headers : bytes
        The raw NATS header block, empty when there is none. Header names are matched without regard to case;
        unknown ones are ignored.
    payload : bytes
        PCM in the format that the headers give.
    max_chunk_bytes : int
        A longer payload is refused.
    languages : container of str
        Language codes that the engine knows.

    Raises
    ------
    ProtocolError
        And nothing else, whatever the three byte strings hold. `code` is one of the stable codes of the
        document.
    """
    stream = stream_of(subject)
    given = _parse_headers(headers)
    encoding = given.get("encoding", "s16le").lower()
    if encoding not in ENCODINGS:
        raise ProtocolError("bad_encoding", f"Encoding is {encoding!r}; allowed: {', '.join(ENCODINGS)}")
    sample_rate = _unsigned(given, "sample-rate", "bad_sample_rate", 48_000)
    if sample_rate not in SAMPLE_RATES:
        raise ProtocolError(
            "unsupported_rate",
            f"Sample-Rate is {sample_rate}; allowed: {', '.join(map(str, SAMPLE_RATES))} (Hz)",
        )
    n_channels = _unsigned(given, "channels", "bad_channels", 1)
    if not 1 <= n_channels <= MAX_CHANNELS:
        raise ProtocolError("bad_channels", f"Channels is {n_channels}; allowed: 1 to {MAX_CHANNELS}")
    seq = _unsigned(given, "seq", "bad_seq", -1)
    language = given.get("language")
    if language is not None:
        language = language.lower()
        if language != "auto" and language not in languages:
            raise ProtocolError(
                "bad_language",
                f"Language is {language!r}; allowed: auto or a Whisper code such as en, de, zh",
            )
    end = given.get("end", "0")
    if end not in ("0", "1"):
        raise ProtocolError("bad_end", f"End is {end!r}; allowed: 0 or 1")
    if len(payload) > max_chunk_bytes:
        raise ProtocolError(
            "chunk_too_large", f"the payload has {len(payload)} bytes; at most {max_chunk_bytes} are allowed"
        )
    frame_bytes = ENCODINGS[encoding] * n_channels
    if len(payload) % frame_bytes:
        # Chunks may be lost on the way: half a frame carried over would shift all that follows.
        raise ProtocolError(
            "partial_frame",
            f"the payload has {len(payload)} bytes; {encoding} with {n_channels} channels needs a multiple "
            f"of {frame_bytes}",
        )
    if len(payload) > MAX_CHUNK_S * sample_rate * frame_bytes:
        raise ProtocolError(
            "chunk_too_large",
            f"the payload is {len(payload) // frame_bytes / sample_rate:.1f} s long; at most {MAX_CHUNK_S} s "
            "are allowed",
        )
    return Chunk(
        stream=stream,
        encoding=encoding,
        sample_rate=sample_rate,
        n_channels=n_channels,
        seq=None if seq < 0 else seq,
        timestamp=_timestamp(given.get("timestamp")),
        language=language,
        end=end == "1",
        payload=payload,
    )


def stream_of(subject: str) -> str:
    """Take the stream id out of a subject; `ProtocolError` with code `bad_stream` when it is not one."""
    stream = subject.rpartition(".")[2]
    if not _STREAM.fullmatch(stream):
        raise ProtocolError(
            "bad_stream",
            f"the stream id is {stream[:MAX_VALUE_CHARS]!r}; allowed: 1 to 64 of A-Z a-z 0-9 _ -",
        )
    return stream


def transcript_subject(stream: str, kind: str) -> str:
    """Return the subject on which events of this kind of this stream are published."""
    return f"transcript.{stream}.{kind}"


def rfc3339(time: datetime | None) -> str | None:
    """Write a UTC time with milliseconds, as all times on the wire are."""
    if time is None:
        return None
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parse_headers(block: bytes) -> dict[str, str]:
    if len(block) > MAX_HEADER_BYTES:
        raise ProtocolError(
            "bad_header", f"the headers have {len(block)} bytes; at most {MAX_HEADER_BYTES} are allowed"
        )
    given: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:  # the first line is the version
        name, _, raw = line.partition(b":")
        key = name.strip().lower().decode("latin-1")
        if key not in _HEADERS:
            continue
        if key in given:
            raise ProtocolError("bad_header", f"{_HEADERS[key]} is given more than once")
        value = raw.strip()
        if len(value) > MAX_VALUE_CHARS:
            raise ProtocolError(
                "bad_header", f"{_HEADERS[key]} has {len(value)} bytes; at most {MAX_VALUE_CHARS} are allowed"
            )
        given[key] = value.decode("utf-8", "replace")
    return given


def _unsigned(given: dict[str, str], key: str, code: str, default: int) -> int:
    value = given.get(key)
    if value is None:
        return default
    if not _UNSIGNED.fullmatch(value):
        raise ProtocolError(code, f"{_HEADERS[key]} is {value!r}; it has to be a non-negative integer")
    return int(value)


def _timestamp(value: str | None) -> datetime | None:
    if value is None:
        return None
    wrong = ProtocolError(
        "bad_timestamp", f"Timestamp is {value!r}; it has to be RFC 3339 with a time zone, 1970 to 2199"
    )
    match = _RFC3339.fullmatch(value)
    if not match:
        raise wrong
    date, hour_minute, second, fraction, sign, offset_h, offset_m = match.groups()
    leap = second == "60"  # RFC 3339 allows it, datetime does not
    try:
        time = datetime.fromisoformat(f"{date}T{hour_minute}:{'59' if leap else second}+00:00")
    except ValueError:
        raise wrong from None
    if not 1970 <= time.year < 2200 or (sign and (int(offset_h) > 23 or int(offset_m) > 59)):
        raise wrong
    time += timedelta(seconds=leap, microseconds=int((fraction or "0").ljust(6, "0")[:6]))
    if sign:
        offset = timedelta(hours=int(offset_h), minutes=int(offset_m))
        time += -offset if sign == "+" else offset
    return time


def final_event(
    final: events.Final, *, time: datetime | None, end_to_end_ms: float, model: str
) -> tuple[str, bytes]:
    """Make the message of one transcribed window. Segment times count from the start of the session."""
    transcript = final.transcript
    return _encode(
        "final",
        final.stream,
        final.session,
        seq=final.seq,
        time=rfc3339(time),
        start_ms=final.start_ms,
        end_ms=final.end_ms,
        duration_ms=final.end_ms - final.start_ms,
        n_samples=final.n_samples,
        flush=final.flush,
        text=transcript.text,
        language=transcript.language,
        language_probability=_finite(transcript.language_probability),
        segments=[_segment(segment, final.start_ms) for segment in transcript.segments],
        model=model,
        latency={
            "queue_ms": round(final.queue_ms, 3),
            "processing_ms": round(final.processing_ms, 3),
            "end_to_end_ms": round(end_to_end_ms, 3),
        },
    )


def gap_event(gap: events.Gap, *, time: datetime | None) -> tuple[str, bytes]:
    """Make the message that says which audio has been lost and why."""
    return _encode(
        "gap",
        gap.stream,
        gap.session,
        seq=gap.seq if gap.seq >= 0 else None,
        time=rfc3339(time),
        start_ms=gap.start_ms,
        end_ms=gap.end_ms,
        duration_ms=gap.end_ms - gap.start_ms,
        n_samples=gap.n_samples,
        reason=gap.reason,
    )


def end_event(end: events.End, *, time: datetime | None) -> tuple[str, bytes]:
    """Make the last message of a session: why it ended, and where each of its samples went."""
    balance = end.balance
    return _encode(
        "end",
        end.stream,
        end.session,
        time=rfc3339(time),
        reason=end.reason,
        n_windows=end.n_windows,
        balance={
            "received": balance.received,
            "transcribed": balance.transcribed,
            "flushed": balance.flushed,
            "dropped": dict(balance.dropped),
            "buffered": balance.buffered,
            "exact": balance.exact,
        },
    )


def error_event(
    stream: str,
    *,
    code: str,
    message: str,
    time: datetime,
    session: str | None = None,
    seq: int | None = None,
    n_suppressed: int = 0,
) -> tuple[str, bytes]:
    """Make the message that says what was wrong with a chunk, or that the engine failed on a window.

    `n_suppressed` counts the errors of this stream that were not published since the last one that was.
    """
    return _encode(
        "error",
        stream,
        session,
        seq=seq,
        time=rfc3339(time),
        code=code,
        message=message,
        n_suppressed=n_suppressed,
    )


def _encode(kind: str, stream: str, session: str | None, **fields: Any) -> tuple[str, bytes]:
    event = {"version": VERSION, "type": kind, "stream": stream, "session": session, **fields}
    text = json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return transcript_subject(stream, kind), text.encode()


def _segment(segment: Segment, offset_ms: int) -> dict[str, Any]:
    return {
        "start_ms": offset_ms + segment.start_ms,
        "end_ms": offset_ms + segment.end_ms,
        "text": segment.text,
        "avg_logprob": _finite(segment.avg_logprob),
        "no_speech_prob": _finite(segment.no_speech_prob),
        "words": [
            {
                "start_ms": offset_ms + word.start_ms,
                "end_ms": offset_ms + word.end_ms,
                "text": word.text,
                "probability": _finite(word.probability),
            }
            for word in segment.words
        ],
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return round(value, 6) if math.isfinite(value) else None
