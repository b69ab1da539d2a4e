"""`transcriber publish`: play a file or raw PCM into NATS as a live source would."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.error
import click
from av.audio.codeccontext import AudioCodecContext
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from transcriber.errors import AudioFormatError, ProtocolError, TranscriberError
from transcriber.service import broker, wire
from transcriber.service.config import nats_options

__all__ = ["publish_command"]

_LAYOUTS = (
    "mono",
    "stereo",
    "2.1",
    "4.0",
    "5.0",
    "5.1",
    "6.1",
    "7.1",
)  # FFmpeg's names, by number of channels
READ_AHEAD = 16  # chunks decoded before they are due


@dataclass(frozen=True, slots=True)
class _Format:
    encoding: str
    sample_rate: int
    n_channels: int
    chunk_ms: int

    @property
    def frame_bytes(self) -> int:
        return wire.ENCODINGS[self.encoding] * self.n_channels

    @property
    def chunk_bytes(self) -> int:
        return self.sample_rate * self.chunk_ms // 1000 * self.frame_bytes


@click.command("publish", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--stream", required=True, metavar="ID", help="Stream to publish as: subject audio.ID.")
@click.option(
    "--realtime",
    is_flag=True,
    help="As fast as it plays. Without it, as fast as it goes: the service drops what its queue cannot take.",
)
@click.option(
    "--sample-rate",
    type=click.Choice([str(rate) for rate in wire.SAMPLE_RATES]),
    default="48000",
    show_default=True,
    help="In Hz. A file is resampled to it; raw PCM has to have it.",
)
@click.option(
    "--channels", "n_channels", type=click.IntRange(1, wire.MAX_CHANNELS), default=1, show_default=True
)
@click.option("--encoding", type=click.Choice(list(wire.ENCODINGS)), default="s16le", show_default=True)
@click.option(
    "--chunk-ms",
    type=click.IntRange(10, 1000),
    default=100,
    show_default=True,
    help="Audio per message. 100 ms costs the service half of what 20 ms does.",
)
@click.option("--language", metavar="CODE", help="Language header: a Whisper code or auto.")
@click.option(
    "--no-end", is_flag=True, help="Do not end the stream; it ends when it has been idle for a while."
)
@nats_options
def publish_command(
    file: Path,
    stream: str,
    realtime: bool,
    sample_rate: str,
    n_channels: int,
    encoding: str,
    chunk_ms: int,
    language: str | None,
    no_end: bool,
    nats_url: str,
    nats_creds: Path | None,
    nats_nkey: Path | None,
    nats_ca: Path | None,
) -> None:
    """Play FILE into NATS as a live source would: any audio or video file, or raw PCM on stdin (-).

    \b
      transcriber publish talk.mp3 --stream demo --realtime
      arecord -f S16_LE -r 48000 -c 1 -t raw | transcriber publish - --stream microphone
    """
    try:
        wire.stream_of(f"audio.{stream}")
    except ProtocolError as problem:
        raise click.BadParameter(str(problem), param_hint="--stream") from None
    form = _Format(encoding, int(sample_rate), n_channels, chunk_ms)
    if str(file) == "-":
        pieces, total_s = _read(sys.stdin.buffer, form), None
    else:
        pieces, total_s = _decode(file, form)
    access = broker.Access(nats_url, nats_creds, nats_nkey, nats_ca)
    headers = {
        "Encoding": encoding,
        "Sample-Rate": sample_rate,
        "Channels": str(n_channels),
        **({"Language": language} if language else {}),
    }
    player = _Player(access, stream, form, headers, realtime=realtime, end=not no_end)
    try:
        asyncio.run(player.play(_chunks(pieces, form), total_s))
    except KeyboardInterrupt:
        click.echo(f"interrupted; {player.summary()}", err=True)
        raise click.exceptions.Exit(130) from None
    click.echo(player.summary())


class _Player:
    """Sends chunks when they are due, and counts them."""

    def __init__(
        self,
        access: broker.Access,
        stream: str,
        form: _Format,
        headers: dict[str, str],
        *,
        realtime: bool,
        end: bool,
    ) -> None:
        self._access = access
        self._stream = stream
        self._form = form
        self._headers = headers
        self._realtime = realtime
        self._end = end
        self._n_chunks = 0
        self._n_bytes = 0

    @property
    def _seconds(self) -> float:
        return self._n_bytes / self._form.frame_bytes / self._form.sample_rate

    def summary(self) -> str:
        end = " and the end of the stream" if self._end else ""
        return (
            f"{self._stream}: sent {self._n_chunks} chunks, {self._seconds:.3f} s, {self._n_bytes} bytes{end}"
        )

    async def play(self, chunks: Iterator[bytes], total_s: float | None) -> None:
        connection = await broker.connect(self._access, "transcriber-publish")
        subject = f"audio.{self._stream}"
        try:
            with _progress(self._stream, total_s) as show:
                start, start_time = time.monotonic(), datetime.now(UTC)
                async for chunk in _from_thread(chunks):
                    # The deadline counts from the start, so that nothing adds up: a live source has a chunk
                    # when its last frame has been captured.
                    captured = start_time + timedelta(seconds=self._seconds)
                    self._n_bytes += len(chunk)
                    if self._realtime:
                        await asyncio.sleep(start + self._seconds - time.monotonic())
                    headers = {
                        **self._headers,
                        "Seq": str(self._n_chunks),
                        "Timestamp": str(wire.rfc3339(captured)),
                    }
                    await connection.publish(subject, chunk, headers=headers)
                    self._n_chunks += 1
                    show(self._seconds)
        finally:  # Ctrl-C too: the listeners get their last words
            if self._end:
                await connection.publish(subject, b"", headers={"End": "1"})
            with contextlib.suppress(TimeoutError):
                await connection.flush(timeout=5)
            await connection.close()


def _decode(path: Path, form: _Format) -> tuple[Iterator[bytes], float | None]:
    """Open a media file; return its audio as PCM in pieces of any size, and its length if the file says."""
    try:
        container = av.open(str(path), metadata_errors="ignore")
    except (av.error.FFmpegError, OSError) as problem:
        raise AudioFormatError(f"{path}: {problem.strerror or problem}") from None
    if not container.streams.audio:
        raise AudioFormatError(f"{path}: there is no audio in it")
    codec = f"pcm_{form.encoding}"
    encoder = cast(AudioCodecContext, av.CodecContext.create(codec, "w"))
    encoder.sample_rate = form.sample_rate
    encoder.layout = _LAYOUTS[form.n_channels - 1]
    formats = av.Codec(codec, "w").audio_formats
    assert formats
    encoder.format = formats[0]
    encoder.time_base = Fraction(1, form.sample_rate)
    resampler = av.AudioResampler(format=encoder.format, layout=encoder.layout, rate=form.sample_rate)

    def pieces() -> Iterator[bytes]:
        with container:
            try:
                for frame in container.decode(audio=0):
                    for resampled in resampler.resample(frame):
                        for packet in encoder.encode(resampled):
                            yield bytes(packet)
                for resampled in resampler.resample(None):
                    for packet in encoder.encode(resampled):
                        yield bytes(packet)
            except av.error.FFmpegError as problem:
                raise AudioFormatError(f"{path}: {problem.strerror}") from None

    return pieces(), container.duration / av.time_base if container.duration else None


def _read(stdin: BinaryIO, form: _Format) -> Iterator[bytes]:
    """Read raw PCM as it comes; part of a frame at its end is not sent."""
    while piece := cast(Any, stdin).read1(form.chunk_bytes):
        yield piece


def _chunks(pieces: Iterator[bytes], form: _Format) -> Iterator[bytes]:
    """Cut into chunks of whole frames; the last one may be shorter."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= form.chunk_bytes:
            yield bytes(waiting[: form.chunk_bytes])
            del waiting[: form.chunk_bytes]
    rest = len(waiting) % form.frame_bytes
    if rest:
        click.echo(f"the last {rest} bytes are no whole frame; not sent", err=True)
    if len(waiting) > rest:
        yield bytes(waiting[: len(waiting) - rest])


async def _from_thread(chunks: Iterator[bytes]) -> Any:
    """Decode or read in a thread: reading stdin may take for ever, and Ctrl-C has to work meanwhile."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[bytes | TranscriberError | None] = asyncio.Queue(READ_AHEAD)

    def put(item: bytes | TranscriberError | None) -> None:
        asyncio.run_coroutine_threadsafe(queue.put(item), loop).result()

    def work() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody waits any more
            try:
                for chunk in chunks:
                    put(chunk)
                put(None)
            except TranscriberError as problem:
                put(problem)

    threading.Thread(target=work, daemon=True).start()
    while (item := await queue.get()) is not None:
        if isinstance(item, TranscriberError):
            raise item
        yield item


@contextlib.contextmanager
def _progress(stream: str, total_s: float | None) -> Iterator[Any]:
    """Give a function that shows how many seconds have been sent: a bar on a terminal, nothing elsewhere."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.1f} s"))
    with Progress(
        *columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(stream, total=total_s)
        yield lambda seconds: bar.update(task, completed=seconds)
