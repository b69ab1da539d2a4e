"""Audio in: any media file, or an array, to the mono float32 at 16 kHz that the engine takes."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from transcriber.errors import AudioFormatError

if TYPE_CHECKING:
    import av
    import av.audio
    import av.container

__all__ = ["SAMPLE_RATE", "Progress", "as_pcm", "decode_file"]

SAMPLE_RATE = 16000
"""Hz, the only rate that Whisper takes."""

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)``; `total` is 0 while it is not known."""

_log = logging.getLogger(__name__)


def as_pcm(array: NDArray[Any]) -> NDArray[np.float32]:
    """Check that `array` is what the engine takes, and return it C-contiguous.

    Parameters
    ----------
    array : ndarray, shape (n_frames,), float32
        Mono at 16 kHz, nominal range [-1, 1]. Strided input is copied, contiguous input is returned as it is.

    Raises
    ------
    AudioFormatError
        Not an array, another dtype or number of dimensions, or a sample that is not finite. Nothing is
        converted silently: int16 cast to float32 without scaling would be deafening noise.
    """
    if not isinstance(array, np.ndarray):
        raise AudioFormatError(
            f"pcm: got {type(array).__name__}, want a NumPy array of float32, mono, 16 kHz"
        )
    if array.dtype != np.float32:
        raise AudioFormatError(
            f"pcm: got dtype {array.dtype}, want float32 in [-1, 1]; {_conversion(array.dtype)}"
        )
    if array.ndim != 1:
        raise AudioFormatError(
            f"pcm: got shape {array.shape}, want one dimension (mono); mix channels with array.mean(axis=...)"
        )
    pcm = np.ascontiguousarray(array)
    if not (finite := np.isfinite(pcm)).all():
        where = int(np.argmin(finite))
        raise AudioFormatError(
            f"pcm: sample {where} is {pcm[where]}, want finite numbers; clean it with numpy.nan_to_num"
        )
    return pcm


def _conversion(dtype: np.dtype[Any]) -> str:
    """Return the words that say how to get from `dtype` to float32."""
    if dtype.kind == "i":
        return f"convert with array.astype(numpy.float32) / {2 ** (8 * dtype.itemsize - 1)}"
    if dtype.kind == "f":
        return "convert with array.astype(numpy.float32)"
    return "convert it to numpy.float32"


def decode_file(path: str | os.PathLike[str], progress: Progress | None = None) -> NDArray[np.float32]:
    """Decode the audio of any file that FFmpeg reads to mono float32 at 16 kHz.

    Parameters
    ----------
    path : path
        An audio or video file in any container and codec, at any rate and number of channels, or ``"-"``
        for one on standard input. Of several audio tracks, the one that FFmpeg takes for the main one.
    progress : callable, optional
        Called as ``progress("decode", done_ms, total_ms)``.

    Returns
    -------
    ndarray, shape (n_frames,), float32
        The mean of the channels.

    Raises
    ------
    AudioFormatError
        The file cannot be opened, is not media, has no audio track, or nothing of it can be decoded.

    Notes
    -----
    Damaged packets are skipped and a warning is logged; what can be decoded is returned. Memory is 64 kB per
    second of audio. Playlists cannot make it open anything but the file itself.
    """
    standard_input = os.fspath(path) == "-"
    name = "standard input" if standard_input else os.fspath(path)
    try:
        # Standard input is not ours to close.
        with contextlib.nullcontext(sys.stdin.buffer) if standard_input else Path(path).open("rb") as file:
            if file.seekable():
                return _decode(file, name, progress)
            with tempfile.TemporaryFile() as spool:  # some containers keep their index at the end
                shutil.copyfileobj(file, spool)
                spool.seek(0)
                return _decode(spool, name, progress)
    except OSError as error:
        raise AudioFormatError(
            f"{name}: {error.strerror or error}; check the path and its permissions"
        ) from error


def _decode(file: BinaryIO, name: str, progress: Progress | None) -> NDArray[np.float32]:
    # Not at the top: the daemon imports this module and never decodes a file.
    import av

    if not file.read(1):
        raise AudioFormatError(f"{name}: the file is empty; give an audio or video file")
    file.seek(0)
    try:
        # With no protocol allowed, a playlist or reference inside the file leads nowhere.
        container = av.open(file, "r", metadata_errors="replace", options={"protocol_whitelist": "none"})
    except av.FFmpegError as error:
        raise AudioFormatError(
            f"{name}: not a media file that can be read ({error.strerror}); give an audio or video file in a "
            "common container (wav, flac, mp3, ogg, m4a, mp4, mkv, webm)"
        ) from error
    with container:
        stream = container.streams.best("audio")
        if not isinstance(stream, av.AudioStream):
            raise AudioFormatError(f"{name}: no audio track; give a file that has one")
        if stream.codec_context is None:
            raise AudioFormatError(f"{name}: its audio codec is not known; convert it to a common one")
        total_ms = max(0, container.duration or 0) // 1000
        samples = bytearray()  # grows in place, where a list of arrays would need the memory twice at the end
        try:
            for block in _resampled(_frames(container, stream, name)):
                samples += block.mean(axis=0).tobytes()
                if progress is not None:
                    done_ms = len(samples) * 1000 // (4 * SAMPLE_RATE)
                    progress("decode", min(done_ms, total_ms), total_ms)
        except av.FFmpegError as error:
            raise AudioFormatError(
                f"{name}: its audio cannot be brought to 16 kHz ({error.strerror}); convert it to wav or flac"
            ) from error
    if not samples:
        raise AudioFormatError(
            f"{name}: no audio could be decoded; the file is damaged or its track is empty"
        )
    pcm = np.frombuffer(samples, dtype=np.float32)
    try:
        return as_pcm(pcm)
    except AudioFormatError as error:
        raise AudioFormatError(f"{name}: {error}") from error


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream, name: str
) -> Iterator[av.audio.AudioFrame]:
    """Yield every audio frame that can be decoded; log how many packets could not."""
    import av

    n_damaged = 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            _log.warning(
                "%s: reading stopped before the end (%s); the audio up to there is used", name, error.strerror
            )
            packet = None
        try:
            # None, like the empty packet that demux() ends with, asks the decoder for what it still holds.
            yield from stream.codec_context.decode(packet)
        except av.EOFError:  # asked twice
            pass
        except av.FFmpegError:
            n_damaged += 1
        if packet is None:
            break
    if n_damaged:
        _log.warning("%s: %d damaged packets were skipped", name, n_damaged)


def _resampled(frames: Iterator[av.audio.AudioFrame]) -> Iterator[NDArray[np.float32]]:
    """Yield blocks of shape (n_channels, n_frames) at 16 kHz.

    The channels are kept apart, since the resampler's own mix of stereo to mono is 3 dB above the mean.
    The format may change in mid-stream (chained Ogg, broadcast streams): each run of one format gets its own
    resampler, flushed at its end, so that no sample of either side is lost.
    """
    import av

    resampler: av.AudioResampler | None = None
    before = None
    for frame in frames:
        form = (frame.format.name, frame.layout.name, frame.layout.nb_channels, frame.sample_rate)
        if resampler is None or form != before:
            if resampler is not None:
                yield from _planes(resampler, None)
            resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
            before = form
        frame.pts = None  # a hole or a jump in the time stamps must not make the resampler complain
        yield from _planes(resampler, frame)
    if resampler is not None:
        yield from _planes(resampler, None)


def _planes(resampler: av.AudioResampler, frame: av.audio.AudioFrame | None) -> Iterator[NDArray[np.float32]]:
    for out in resampler.resample(frame):
        yield out.to_ndarray().astype(np.float32, copy=False)  # "fltp" is float32: this only says so
