"""NATS on one side, `transcriber.stream.Transcriber` on the other, and the life cycle of both.

Everything here runs on one event loop and takes microseconds at a time. Inference, resampling and queueing
happen on native threads; the loop hears of results through a file descriptor.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from transcriber import models
from transcriber._engine import LANGUAGES, Model
from transcriber.cpu import usable_cores
from transcriber.errors import AudioFormatError, ProtocolError, QueueFullError
from transcriber.result import Options
from transcriber.service import broker, telemetry, wire
from transcriber.service.clock import SessionClock
from transcriber.service.config import DaemonConfig
from transcriber.service.embedded import EmbeddedServer
from transcriber.service.limiter import Limiter
from transcriber.stream import Balance, Counters, End, Failure, Final, Gap, Stream, Transcriber

__all__ = ["Daemon"]

log = logging.getLogger("transcriber.daemon")

# What may wait for the loop in the NATS client, as seconds of 48 kHz mono s16le from every allowed stream.
# Audio that is later than this has missed its captions anyway, and the bound is memory.
INTAKE_SECONDS = 2.0
INTAKE_BYTES_PER_S = 96_000
INTAKE_MSGS_PER_S = 100  # chunks of 10 ms, the shortest that make sense
MIN_INTAKE_MSGS = (
    8192  # twice as many empty messages as the client reads at once, lest a flood of them push out audio
)

EVENT_BACKLOG = (
    1024  # events waiting to be published; beyond it they stay in the pipeline, which drops with a gap
)
MESSAGES_PER_TURN = 16  # handled before other tasks get the loop: even 1 MiB chunks are a few ms each
HOUSEKEEPING_S = 0.1


@dataclass(slots=True)
class _Live:
    """One session: the stream that takes the audio, and what the daemon knows of it."""

    stream: Stream
    language: str | None
    clock: SessionClock = field(default_factory=SessionClock)
    n_frames: int = 0
    seq: int | None = None

    def position_ms(self) -> float:
        return self.n_frames * 1000 / self.stream.sample_rate


class Daemon:
    """The service. `run` returns when `stop` has been called and everything is accounted for.

    Parameters
    ----------
    config : DaemonConfig
        Settings.

    Notes
    -----
    All methods belong to the event loop's thread.
    """

    def __init__(self, config: DaemonConfig) -> None:
        self.config = config
        self.url = ""
        self.chunks = telemetry.ChunkCounts()
        self.transcriber: Transcriber | None = None
        self.ready = asyncio.Event()
        self._live: dict[str, _Live] = {}  # by stream id: where the next chunk goes
        self._sessions: dict[str, _Live] = {}  # by session: until its End event is published
        self._events: deque[Final | Gap | Failure | End] = deque()
        self._reading = True  # the loop watches the pipeline's file descriptor
        self._arrived = asyncio.Event()  # events are waiting
        self._published = asyncio.Event()  # none are
        self._events_lost = 0
        self._async_errors = 0
        self._last_async_error: Exception | None = None
        self._refusals = Limiter()
        self._losses = Limiter()
        self._stopping = asyncio.Event()
        self._intake_over = False
        self._stop_reason = ""
        self._deadline = 0.0
        self._turn = 0
        self._nc: broker.Connection | None = None
        self._subscription: Subscription | None = None
        self._embedded: EmbeddedServer | None = None
        self._model: Model | None = None
        self._telemetry: telemetry.Telemetry | None = None
        self._counters: Counters
        self._tasks: list[asyncio.Task[None]] = []

    # Life cycle

    @property
    def stopping(self) -> bool:
        """Whether `stop` has been called."""
        return self._stopping.is_set()

    def stop(self, reason: str) -> None:
        """Begin the shutdown; the grace period counts from here."""
        if not self._stopping.is_set():
            self._stop_reason = reason
            self._deadline = time.monotonic() + self.config.grace_ms / 1000
            self._stopping.set()

    async def run(self) -> int:
        """Start, serve, shut down. Returns the exit code; start errors are raised as `TranscriberError`."""
        starting = asyncio.create_task(self._start())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():
                starting.cancel()  # a download or a connection attempt; nothing has been promised yet
                return 0
            starting.result()
            await asyncio.wait({stopping, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in self._tasks:
                # They run for ever, so this is a bug. A traceback is better than a daemon that is silently
                # mute.
                if task.done():
                    task.result()
            return await self._shut_down()
        finally:
            stopping.cancel()
            for task in self._tasks:
                task.cancel()
            if self._embedded is not None:
                self._embedded.stop(max(0.02, self._deadline - time.monotonic()))

    async def _start(self) -> None:
        config = self.config
        access = config.access
        if config.embedded_nats:
            self._embedded = EmbeddedServer(config.embedded_nats_port)
            await self._embedded.start()
            access = broker.Access(self._embedded.url)
        path = await asyncio.to_thread(
            models.resolve, config.whisper_model_path, progress=self._on_model_progress
        )
        self._model = await asyncio.to_thread(Model, path)
        self.transcriber = Transcriber(
            self._model,
            workers=config.workers,
            threads=config.whisper_threads,
            window_s=config.buffer_duration_secs,
            queue_capacity=config.transcription_queue_capacity,
            max_streams=config.max_streams,
            # Times within a window would make some windows two inferences; a window is short enough as it is.
            options=Options(language=config.language, timestamps=False),
        )
        threads, cores = self.transcriber.threads, usable_cores()
        if threads * config.workers > cores:
            log.warning(
                "%d workers x %d threads on %d cores: many times slower", config.workers, threads, cores
            )
        self._counters = self.transcriber.counters()
        self._telemetry = telemetry.start(lambda: self._counters, self.chunks)
        self._nc = await broker.connect(
            access,
            f"transcriber-daemon-{os.getpid()}",
            on_error=self._on_async_error,
            on_change=self._on_connection_change,
        )
        self.url = broker.shown_url(access.url)
        asyncio.get_running_loop().add_reader(self.transcriber.fileno(), self._on_results)
        self._tasks = [
            asyncio.create_task(self._publish_events()),
            asyncio.create_task(self._keep_house()),
        ]
        self._subscription = await self._nc.subscribe(
            wire.AUDIO_SUBJECT,
            cb=self._on_message,
            pending_msgs_limit=max(
                int(config.max_streams * INTAKE_SECONDS * INTAKE_MSGS_PER_S), MIN_INTAKE_MSGS
            ),
            pending_bytes_limit=max(
                int(config.max_streams * INTAKE_SECONDS * INTAKE_BYTES_PER_S), 4 * config.max_chunk_bytes
            ),
        )
        await self._nc.flush(timeout=broker.CONNECT_TIMEOUT_S)  # the server has the subscription
        plural = "" if config.workers == 1 else "s"
        print(
            f"transcriber-daemon: ready on {self.url} model {self._model_name()}, "
            f"{config.workers} worker{plural} x {threads} threads, window {config.buffer_duration_secs:g} s, "
            f"queue {config.transcription_queue_capacity}",
            flush=True,
        )
        self.ready.set()

    def _on_model_progress(self, what: str, done: int, total: int) -> None:
        # In the thread that fetches.
        if self._losses.admit(what) is not None:
            log.info("%s: %.0f %%", what, 100 * done / total if total else 0)

    def _model_name(self) -> str:
        given = self.config.whisper_model_path
        return Path(given).name if os.sep in given else given

    async def _shut_down(self) -> int:
        assert self.transcriber is not None
        assert self._nc is not None
        assert self._subscription is not None
        log.info("%s: shutting down within %d ms", self._stop_reason, self.config.grace_ms)
        # Of the grace period the last part belongs to publishing what there is, up to 100 ms.
        reserve = min(0.1, self.config.grace_ms / 2000)
        # Handles what has already arrived.
        await self._within(self._subscription.drain(), reserve / 2)  # type: ignore[no-untyped-call]
        self._intake_over = True
        self.transcriber.drain()
        while not self.transcriber.idle() and self._left() > reserve:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.005)
        if not self.transcriber.idle():
            self.transcriber.abandon()
        self._on_results()
        await self._within(self._published.wait(), self._left() - reserve / 3)
        if not (self._nc.is_connected and await self._within(self._nc.flush(1), self._left() - reserve / 4)):
            log.error("NATS has not confirmed the last events")
        if self._telemetry is not None:
            self._counters = self.transcriber.counters()
            left = self._left() - reserve / 5
            await self._within(asyncio.to_thread(self._telemetry.shutdown, left), left)
        await self._within(self._nc.close(), self._left() - reserve / 6)
        asyncio.get_running_loop().remove_reader(self.transcriber.fileno())
        return self._print_balance(self.transcriber.balance())

    def _left(self) -> float:
        return self._deadline - time.monotonic()

    @staticmethod
    async def _within(work: Awaitable[object], timeout_s: float) -> bool:
        """Wait for this until then; what is late or fails is let go. Return whether it was done."""
        with contextlib.suppress(TimeoutError, OSError, nats.errors.Error):
            async with asyncio.timeout(max(0.0, timeout_s)):
                await work
                return True
        return False

    def _print_balance(self, balance: Balance) -> int:
        assert self.transcriber is not None
        counters = self.transcriber.counters()
        dropped = sum(balance.dropped.values())

        def amount(samples: int) -> str:
            return f"{samples} samples ({samples / 16_000:.3f} s)"

        reasons = "".join(f"; {reason} {samples}" for reason, samples in sorted(balance.dropped.items()))
        refused = "".join(f"; {reason} {count}" for reason, count in sorted(self.chunks.dropped.items()))
        lines = [
            f"transcriber-daemon: stopped ({self._stop_reason})",
            f"jobs_enqueued: {counters.jobs_enqueued}",
            f"jobs_dropped: {counters.jobs_dropped}",
            f"queue_depth: {counters.queue_depth}",
            f"chunks: {self.chunks.received} received, {sum(self.chunks.dropped.values())} refused{refused}",
            f"received:    {amount(balance.received)}",
            f"transcribed: {amount(balance.transcribed)}",
            f"flushed:     {amount(balance.flushed)}",
            f"dropped:     {amount(dropped)}{reasons}",
            f"buffered:    {amount(balance.buffered)}",
            f"balance: {'exact' if balance.exact else 'NOT EXACT'}",
        ]
        if self._events_lost or self._events:
            lines.append(f"events not published: {self._events_lost + len(self._events)}")
        print("\n".join(lines), flush=True)
        return 0 if balance.exact else 1

    # Audio in

    async def _on_message(self, msg: Msg) -> None:
        self.chunks.received += 1
        if self._intake_over:
            self.chunks.drop("shutdown")
            return
        try:
            chunk = wire.parse(
                msg.subject,
                msg.headers,  # type: ignore[arg-type]  # bytes: see broker.Connection
                msg.data,
                max_chunk_bytes=self.config.max_chunk_bytes,
                languages=LANGUAGES,
            )
            remark = self._take(chunk)
        except ProtocolError as problem:
            self.chunks.drop(problem.code)
            await self._answer(msg.subject, problem)
        else:
            if remark is not None:  # the chunk was used all the same
                await self._answer(msg.subject, remark)
        # The client runs this for all that has arrived without giving way: a burst would hold the loop.
        self._turn += 1
        if self._turn % MESSAGES_PER_TURN == 0:
            await asyncio.sleep(0)

    def _take(self, chunk: wire.Chunk) -> ProtocolError | None:
        """Feed the chunk to its stream. Returns what its publisher should know though it was used."""
        live = self._live.get(chunk.stream)
        if not chunk.payload:
            if chunk.end and live is not None:
                self._end(chunk.stream, live)
            return None
        if live is None or live.stream.ended:  # ended: idle for too long, and its End event is on the way
            live = self._open(chunk)
        elif (chunk.encoding, chunk.sample_rate, chunk.n_channels) != (
            live.stream.encoding,
            live.stream.sample_rate,
            live.stream.n_channels,
        ) or chunk.language not in (None, live.language):
            raise ProtocolError(
                "format_changed",
                f"the stream is {live.stream.encoding} {live.stream.sample_rate} Hz "
                f"{live.stream.n_channels} ch language {live.language or 'not given'}; this chunk is "
                f"{chunk.encoding} {chunk.sample_rate} Hz {chunk.n_channels} ch language "
                f"{chunk.language or 'not given'}; end the stream first",
            )
        start_ms = live.position_ms()
        try:
            live.stream.feed(chunk.payload)
        except AudioFormatError as problem:
            raise ProtocolError("non_finite", str(problem)) from None
        live.n_frames += chunk.n_frames
        live.clock.add_chunk(start_ms, live.position_ms() - start_ms, chunk.timestamp, datetime.now(UTC))
        if chunk.end:
            self._end(chunk.stream, live)
        return self._check_seq(chunk, live)

    def _open(self, chunk: wire.Chunk) -> _Live:
        assert self.transcriber is not None
        try:
            stream = self.transcriber.stream(
                chunk.stream,
                encoding=chunk.encoding,
                sample_rate=chunk.sample_rate,
                n_channels=chunk.n_channels,
                language=chunk.language,
            )
        except QueueFullError as problem:
            raise ProtocolError("too_many_streams", str(problem)) from None
        live = _Live(stream, chunk.language)
        self._live[chunk.stream] = self._sessions[stream.session] = live
        log.info(
            "stream %s: session %s, %s %d Hz %d ch",
            chunk.stream,
            stream.session,
            chunk.encoding,
            chunk.sample_rate,
            chunk.n_channels,
        )
        return live

    def _end(self, stream_id: str, live: _Live) -> None:
        live.stream.end()
        del self._live[stream_id]

    @staticmethod
    def _check_seq(chunk: wire.Chunk, live: _Live) -> ProtocolError | None:
        before, live.seq = live.seq, chunk.seq
        if before is not None and chunk.seq is not None and chunk.seq != before + 1:
            return ProtocolError(
                "seq_jump",
                f"chunk {chunk.seq} came after chunk {before}: what was between has been lost before it got "
                "here, or the publisher started anew; this chunk is used",
            )
        return None

    async def _answer(self, subject: str, problem: ProtocolError) -> None:
        if problem.code == "bad_stream":  # no subject to answer on
            held_back = self._refusals.admit("")
            if held_back is not None:
                log.warning("a chunk was refused: %s%s", problem, _and_more(held_back))
            return
        stream = wire.stream_of(subject)
        held_back = self._refusals.admit(f"{stream} {problem.code}")
        if held_back is None:
            return
        log.warning("stream %s: %s: %s%s", stream, problem.code, problem, _and_more(held_back))
        live = self._live.get(stream)
        await self._publish(
            *wire.error_event(
                stream,
                code=problem.code,
                message=str(problem),
                time=datetime.now(UTC),
                session=live.stream.session if live is not None else None,
                n_suppressed=held_back,
            )
        )

    # Text out

    def _on_results(self) -> None:
        assert self.transcriber is not None
        self._events.extend(self.transcriber.poll())
        if self._events:
            self._published.clear()
            self._arrived.set()
            if len(self._events) >= EVENT_BACKLOG:
                self._reading = not asyncio.get_running_loop().remove_reader(self.transcriber.fileno())

    async def _publish_events(self) -> None:
        """Publish in the order of arrival, for ever."""
        assert self.transcriber is not None
        while True:
            while self._events:
                # The event leaves the queue once it is out, so that what is left at the end is what was not
                # published.
                await self._publish(*self._encode(self._events[0]))
                self._events.popleft()
                await asyncio.sleep(0)  # publishing only fills a buffer; it may never give way by itself
            self._published.set()
            if not self._reading:
                asyncio.get_running_loop().add_reader(self.transcriber.fileno(), self._on_results)
                self._reading = True
            self._arrived.clear()
            await self._arrived.wait()

    def _encode(self, event: Final | Gap | Failure | End) -> tuple[str, bytes]:
        live = self._sessions[event.session]
        if isinstance(event, Final):
            end_to_end_ms = (time.monotonic_ns() - event.created_ns) / 1e6
            if self._telemetry is not None:
                self._telemetry.final(event, end_to_end_ms)
            return wire.final_event(
                event,
                time=live.clock.time_at(event.start_ms),
                end_to_end_ms=end_to_end_ms,
                model=self._model_name(),
            )
        if isinstance(event, Gap):
            held_back = self._losses.admit(event.stream)
            if held_back is not None:
                log.warning(
                    "stream %s: %.3f s of audio dropped: %s%s",
                    event.stream,
                    event.n_samples / 16_000,
                    event.reason,
                    _and_more(held_back),
                )
            return wire.gap_event(event, time=live.clock.time_at(event.start_ms))
        if isinstance(event, Failure):
            log.error("stream %s: window %d: %s: %s", event.stream, event.seq, event.code, event.message)
            return wire.error_event(
                event.stream,
                session=event.session,
                seq=event.seq,
                code=event.code,
                message=event.message,
                time=datetime.now(UTC),
            )
        del self._sessions[event.session]
        if self._live.get(event.stream) is live:
            del self._live[event.stream]
        log.info("stream %s: session %s over (%s)", event.stream, event.session, event.reason)
        return wire.end_event(event, time=live.clock.time_at(live.position_ms()))

    async def _publish(self, subject: str, payload: bytes) -> None:
        assert self._nc is not None
        try:
            await self._nc.publish(subject, payload)
        except nats.errors.Error as problem:  # too long without a server, or larger than it takes
            self._events_lost += 1
            held_back = self._losses.admit(subject)
            if held_back is not None:
                log.error("%s not published: %s%s", subject, problem, _and_more(held_back))

    # Beside the audio

    def _on_async_error(self, problem: Exception) -> None:
        # In the client's read loop, once per message when it overflows: count here, tell in the housekeeping.
        if isinstance(problem, nats.errors.SlowConsumerError):
            self.chunks.drop("slow_consumer")
        self._async_errors += 1
        self._last_async_error = problem

    def _on_connection_change(self, what: str) -> None:
        if not self.stopping:
            log.log(
                logging.INFO if what == "reconnected" else logging.WARNING, "NATS at %s: %s", self.url, what
            )

    async def _keep_house(self) -> None:
        assert self.transcriber is not None
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            self.transcriber.end_idle(self.config.idle_timeout_secs)
            if self._telemetry is not None:
                self._counters = (
                    self.transcriber.counters()
                )  # the exporter's thread must not read live streams
            if self._async_errors and self._refusals.admit("NATS") is not None:
                log.warning("NATS: %d errors, the last one: %s", self._async_errors, self._last_async_error)
                self._async_errors = 0


def _and_more(held_back: int) -> str:
    return f" (and {held_back} more since the last line)" if held_back else ""
