"""Live transcription: streams of audio chunks in, events out, all heavy work on native threads.

A `Transcriber` owns worker threads over one set of weights. Each `Stream` is fed chunk by chunk; feeding
takes microseconds and never blocks. Events wait behind a file descriptor until `poll` takes them, so that an
event loop can watch it:

    with transcriber.Model(path) as model, transcriber.Transcriber(model) as t:
        stream = t.stream("microphone", sample_rate=48000)
        loop.add_reader(t.fileno(), lambda: [print(event) for event in t.poll()])
        ...
        stream.feed(chunk)

When the bounded queue of a stream is full, the newest window is dropped on purpose and announced as a `Gap`.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self, TypeAlias

from transcriber._engine import Model
from transcriber._pipeline import LiveStream, Pipeline
from transcriber.cpu import usable_cores
from transcriber.errors import ConfigError, EngineClosedError, StreamClosedError
from transcriber.result import Options, Transcript

__all__ = ["Balance", "Counters", "End", "Event", "Failure", "Final", "Gap", "Stream", "Transcriber"]

SAMPLES_PER_MS = 16
MAX_WINDOW_S = 30.0  # what one Whisper window sees


@dataclass(frozen=True, slots=True)
class Balance:
    """Where every received sample is. All counts are samples at 16 kHz.

    `transcribed` were in full windows, `flushed` in short ones (the rest at an end or before a gap),
    `buffered` are still under way, `dropped` are lost by reason: queue_full, overrun, inference_error,
    abandoned.
    """

    received: int = 0
    transcribed: int = 0
    flushed: int = 0
    buffered: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether every sample is accounted for. Counts are independent of each other, so this can fail."""
        return self.received == self.transcribed + self.flushed + self.buffered + sum(self.dropped.values())

    def __add__(self, other: Balance) -> Balance:
        return Balance(
            self.received + other.received,
            self.transcribed + other.transcribed,
            self.flushed + other.flushed,
            self.buffered + other.buffered,
            dict(Counter(self.dropped) + Counter(other.dropped)),
        )


@dataclass(frozen=True, slots=True)
class Final:
    """The text of one window. Within a stream finals come in the order of the audio.

    `seq` numbers the windows of the stream from 0; a missing one has a `Gap`. `flush` marks a short window.
    `created_ns` is the monotonic time at which the window was complete.
    """

    stream: str
    session: str
    seq: int
    start_ms: int
    end_ms: int
    n_samples: int
    flush: bool
    transcript: Transcript
    created_ns: int
    queue_ms: float
    processing_ms: float


@dataclass(frozen=True, slots=True)
class Gap:
    """Audio that was lost on purpose, announced at once.

    `seq` is -1 when it was lost before a window was cut. `reason` is queue_full, overrun (the
    source outran the ring), inference_error or abandoned (at shutdown).
    """

    stream: str
    session: str
    seq: int
    start_ms: int
    end_ms: int
    n_samples: int
    reason: str


@dataclass(frozen=True, slots=True)
class Failure:
    """The engine failed on a window; the `Gap` for it follows."""

    stream: str
    session: str
    seq: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The last event of a stream. `reason` is what `Stream.end` was given."""

    stream: str
    session: str
    reason: str
    n_windows: int
    balance: Balance


Event: TypeAlias = Final | Gap | Failure | End


@dataclass(frozen=True, slots=True)
class Counters:
    """A snapshot. `jobs_dropped` are windows that no worker finished (queue full, abandoned)."""

    jobs_enqueued: int
    jobs_dropped: int
    jobs_completed: int
    jobs_failed: int
    queue_depth: int
    workers_busy: int
    streams_active: int
    queue_capacity: int
    buffered_samples: int


class Stream:
    """One live stream. Made by `Transcriber.stream`; fed from one thread.

    Attributes
    ----------
    id : str
        The name given by the caller.
    session : str
        Random, new for each opening, so that two lives of one id can be told apart.
    """

    def __init__(self, raw: LiveStream, *, sample_rate: int, encoding: str, n_channels: int) -> None:
        self._raw = raw
        self._end_reason: str | None = None
        self._final_balance: Balance | None = None
        self.id = raw.id
        self.session = secrets.token_hex(6)
        self.sample_rate = sample_rate
        self.encoding = encoding
        self.n_channels = n_channels
        self.fed_at = time.monotonic()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take one chunk of PCM bytes. Microseconds; never blocks.

        A partial frame at the end is kept for the next chunk. A chunk is taken whole or refused whole; what
        finds no room in the ring is counted and announced as a `Gap` with reason overrun.

        Raises
        ------
        AudioFormatError
            f32 samples that are NaN, infinite or 2**99 and more, or more than 8 s of audio in one chunk.
            The stream goes on.
        StreamClosedError
            After `end`.
        """
        if self._end_reason is not None:
            raise StreamClosedError(f"stream {self.id} has ended; open a new one")
        self._raw.feed(data)
        self.fed_at = time.monotonic()

    def end(self, reason: str = "end") -> None:
        """No more audio: what has gathered becomes a last short window, and `End` follows its text.
        Idempotent.
        """
        if self._end_reason is None:
            self._end_reason = reason
            self._raw.end()

    @property
    def ended(self) -> bool:
        """Whether `end` was called."""
        return self._end_reason is not None

    def balance(self) -> Balance:
        """Return the stream's balance: exact once it is quiet, a snapshot while audio is under way."""
        if self._final_balance is not None:
            return self._final_balance
        return Balance(*self._raw.balance())


class Transcriber:
    """Live transcription of many streams over one model.

    Parameters
    ----------
    model : Model
        Shared weights; kept alive until `close`.
    workers : int
        Inferences at a time. Each has its own state (about 170 MB reserved for base) and runs one window at a
        time.
    threads : int
        Threads per inference; 0 shares the usable cores between the workers, at most 4 each.
    window_s : float
        Seconds of audio per window, 1 to 30.
    queue_capacity : int
        Windows that may wait per stream: floor(promised latency / (window_s * RTF)); see
        `transcriber.queue_capacity`.
    max_streams : int
        Streams at a time.
    options : Options
        Defaults for every stream. Segment times are off: one window then costs one encoder pass, always.

    Raises
    ------
    ConfigError
        A parameter is out of range.

    Notes
    -----
    `feed` and `end` of a stream belong to one thread, everything else to the owner's; in practice both are
    the event loop. A context manager; leaving it closes.
    """

    def __init__(
        self,
        model: Model,
        *,
        workers: int = 1,
        threads: int = 0,
        window_s: float = 5.0,
        queue_capacity: int = 4,
        max_streams: int = 256,
        options: Options = Options(timestamps=False),  # noqa: B008 - frozen
    ) -> None:
        _check("workers", workers, 1, 64)
        _check("threads", threads, 0, 256)
        _check("window_s", window_s, 1.0, MAX_WINDOW_S)
        _check("queue_capacity", queue_capacity, 1, 64)
        _check("max_streams", max_streams, 1, 65536)
        self.threads = threads or min(4, max(1, usable_cores() // workers))
        self.workers = workers
        self.window_s = window_s
        self.queue_capacity = queue_capacity
        self.max_streams = max_streams
        self.options = options
        self.model = model
        self._streams: dict[LiveStream, Stream] = {}
        self._past = Balance()
        self._draining = False
        self._sessions = [model.session(threads=self.threads) for _ in range(workers)]
        self._pipeline = Pipeline(
            list(self._sessions),
            max_streams=max_streams,
            queue_capacity=queue_capacity,
            window_samples=round(window_s * 1000) * SAMPLES_PER_MS,
        )

    def stream(
        self,
        id: str,
        *,
        encoding: str = "s16le",
        sample_rate: int = 48000,
        n_channels: int = 1,
        language: str | None = None,
    ) -> Stream:
        """Open a live stream.

        Parameters
        ----------
        id : str
            Any name; it comes back in the events.
        encoding : {"s16le", "s24le", "s32le", "f32le", "mulaw", "alaw"}
        sample_rate : {48000, 16000}
        n_channels : int
            1 to 8, interleaved; they are averaged.
        language : str, optional
            Instead of the transcriber's. With "auto" the language is detected, and kept from the first sure
            detection on.

        Raises
        ------
        AudioFormatError
            The format is not supported.
        ConfigError
            The language is unknown.
        QueueFullError
            `max_streams` are open.
        EngineClosedError
            After `drain`, `abandon` or `close`.
        """
        if self._draining:
            raise EngineClosedError(f"stream {id}: the transcriber is shutting down")
        options = self.options if language is None else replace(self.options, language=language)
        raw = self._pipeline.open(
            id, encoding=encoding, sample_rate=sample_rate, n_channels=n_channels, options=options
        )
        stream = Stream(raw, sample_rate=sample_rate, encoding=encoding, n_channels=n_channels)
        self._streams[raw] = stream
        return stream

    def fileno(self) -> int:
        """Return the descriptor that is readable while `poll` has something."""
        return self._pipeline.fileno()

    def poll(self) -> list[Event]:
        """Return what has happened since the last call, oldest first. Never blocks."""
        events: list[Event] = []
        for raw in self._pipeline.poll():
            stream = self._streams[raw[1]]
            if raw[0] == "final":
                _, _, seq, start, n, flush, created_ns, started_ns, finished_ns, transcript = raw
                events.append(
                    Final(
                        stream.id,
                        stream.session,
                        seq,
                        start // SAMPLES_PER_MS,
                        (start + n) // SAMPLES_PER_MS,
                        n,
                        flush,
                        transcript,
                        created_ns,
                        queue_ms=(started_ns - created_ns) / 1e6,
                        processing_ms=(finished_ns - started_ns) / 1e6,
                    )
                )
            elif raw[0] == "gap":
                _, _, seq, start, n, reason, detail = raw
                if reason == "inference_error":
                    events.append(
                        Failure(stream.id, stream.session, seq, reason, detail or "the engine gave no reason")
                    )
                end_ms = (start + n) // SAMPLES_PER_MS
                events.append(Gap(stream.id, stream.session, seq, start // SAMPLES_PER_MS, end_ms, n, reason))
            else:
                _, _, n_windows, balance = raw
                stream._final_balance = Balance(*balance)
                self._past += stream._final_balance
                del self._streams[raw[1]]
                stream._end_reason = stream._end_reason or "shutdown"
                events.append(
                    End(stream.id, stream.session, stream._end_reason, n_windows, stream._final_balance)
                )
        return events

    def counters(self) -> Counters:
        """Return a snapshot of what is going on."""
        buffered = sum(stream.balance().buffered for stream in self._streams.values())
        return Counters(
            *self._pipeline.counters(), queue_capacity=self.queue_capacity, buffered_samples=buffered
        )

    def balance(self) -> Balance:
        """Return the balance over all streams, past ones included."""
        return sum((stream.balance() for stream in self._streams.values()), self._past)

    def end_idle(self, timeout_s: float) -> None:
        """End, with reason idle, every stream that has had no audio for `timeout_s`. Call it from the feeding
        thread.
        """
        before = time.monotonic() - timeout_s
        for stream in self._streams.values():
            if stream.fed_at < before:
                stream.end("idle")

    def drain(self) -> None:
        """End every stream with reason shutdown; what has gathered goes into the queue. No new streams.
        Returns at once.
        """
        self._draining = True
        for stream in self._streams.values():
            stream.end("shutdown")

    def idle(self) -> bool:
        """Whether no stream has anything left to do or to say."""
        return not self._streams

    def abandon(self) -> None:
        """Give up what is unfinished: it is counted dropped as abandoned, and `poll` gives its gap and end
        events.

        Takes milliseconds. A worker in mid-inference is left behind. `close` waits for it, and so does the
        interpreter's own exit; `os._exit` does not.
        """
        self.drain()
        self._pipeline.abandon()

    def close(self) -> None:
        """Cancel what runs, join every thread (up to one encoder pass), free. Idempotent. Events not polled
        are lost.
        """
        self._draining = True
        self._pipeline.close()
        self._streams.clear()
        for session in self._sessions:
            session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name}: got {value}, want {low:g} to {high:g}")
