"""One call from a file or an array to its transcript."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from transcriber._engine import Model, Session, Vad
from transcriber.audio import SAMPLE_RATE, Progress, as_pcm, decode_file
from transcriber.models import resolve
from transcriber.result import Options, Segment, Transcript

__all__ = ["transcribe"]

MAX_CHUNK_MS = 30_000
"""What the model sees at once: speech spans are packed up to this."""

MAX_SILENCE_MS = 2_000
"""The model never sees a longer pause between two spans of speech."""

_POLL_S = 0.1


def transcribe(
    source: str | os.PathLike[str] | NDArray[np.float32],
    *,
    model: str | os.PathLike[str] | Model = "base",
    options: Options = Options(),  # noqa: B008  (frozen)
    vad: bool = False,
    progress: Progress | None = None,
    session: Session | None = None,
) -> Transcript:
    """Transcribe a file or an array.

    Parameters
    ----------
    source : path or ndarray, shape (n_frames,), float32
        Any audio or video file, ``"-"`` for one on standard input, or mono samples at 16 kHz.
    model : str, path or Model
        A name from the catalogue, which is fetched when it is not in the cache, a ggml file, or a loaded
        model: give that to load the weights once for many calls.
    options : Options
        How to decode. With ``language="auto"`` the language is detected once, on the first 30 s or, with
        `vad`, on the first speech.
    vad : bool
        Leave out what the voice detector does not take for speech. Times stay those of the source.
    progress : callable, optional
        Called as ``progress(what, done, total)`` from the calling thread: ``"decode"``, ``"vad"`` and
        ``"transcribe"`` in milliseconds of audio, and whatever fetching a model reports.
    session : Session, optional
        Run in this session and not in one of its own; `model` is then not looked at.

    Returns
    -------
    Transcript
        With `vad` and no speech, an empty one, whose language is empty too if it was to be detected.

    Raises
    ------
    AudioFormatError
        The source cannot be read, or the array is not mono float32 at 16 kHz.
    ModelLoadError, ModelUnavailableError
        There is no such model, or its file is damaged.
    InferenceError
        The engine failed.

    Notes
    -----
    Blocks until the end; the GIL is free while the model runs. On Ctrl-C the run is cancelled, which takes up
    to one encoder pass, and KeyboardInterrupt goes on.
    """
    pcm = as_pcm(source) if isinstance(source, np.ndarray) else decode_file(source, progress)
    with ExitStack() as stack:
        if session is None:
            if not isinstance(model, Model):
                model = stack.enter_context(Model(resolve(model, progress=progress)))
            session = stack.enter_context(model.session(threads=options.threads))
        if vad and progress is not None:
            progress("vad", 0, _to_ms(pcm.size))  # seconds per hour of audio
        spans = list(_speech(pcm)) if vad else [(0, pcm.size)]
        parts: list[tuple[int, Transcript]] = []
        for start, stop in spans:
            part = _run(session, pcm[start:stop], start, pcm.size, options, progress)
            parts.append((_to_ms(start), part))
            # Detection costs an encoder pass, and could give every part another language.
            options = replace(options, language=part.language)
    return _join(parts, options, _to_ms(pcm.size))


def _to_ms(n_samples: int) -> int:
    return n_samples * 1000 // SAMPLE_RATE


def _speech(pcm: NDArray[np.float32]) -> Iterator[tuple[int, int]]:
    """Yield the parts of `pcm` to be transcribed: first sample and the one behind the last."""
    for start_ms, end_ms in pack(Vad().speech_spans(pcm)):
        yield start_ms * SAMPLE_RATE // 1000, min(end_ms * SAMPLE_RATE // 1000, pcm.size)


def pack(spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Join consecutive spans, in ms, over short pauses while they fit into one window of the model.

    A span longer than a window stays whole: the model cuts it itself, where a segment ends.
    """
    packed: tuple[int, int] | None = None
    for start_ms, end_ms in spans:
        if packed is None:
            packed = (start_ms, end_ms)
        elif start_ms - packed[1] <= MAX_SILENCE_MS and end_ms - packed[0] <= MAX_CHUNK_MS:
            packed = (packed[0], end_ms)
        else:
            yield packed
            packed = (start_ms, end_ms)
    if packed is not None:
        yield packed


def _run(
    session: Session,
    pcm: NDArray[np.float32],
    before: int,
    total: int,
    options: Options,
    progress: Progress | None,
) -> Transcript:
    """Run `pcm`, which has `before` samples of all `total` in front of it.

    The run is on another thread, so that this one can report progress and hear Ctrl-C.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="transcribe") as executor:
        future = executor.submit(session.run, pcm, options)
        try:
            while not wait([future], timeout=_POLL_S).done:
                if progress is not None:
                    done = before + pcm.size * session.progress // 100
                    progress("transcribe", _to_ms(done), _to_ms(total))
        except BaseException:
            # More than once: a cancel that comes before the run has begun is lost.
            while not wait([future], timeout=_POLL_S).done:
                session.cancel()
            raise
    transcript = future.result()
    if progress is not None:
        progress("transcribe", _to_ms(before + pcm.size), _to_ms(total))
    return transcript


def _join(parts: Sequence[tuple[int, Transcript]], options: Options, duration_ms: int) -> Transcript:
    """Put transcripts, each with the time in ms at which it begins, on one time line."""
    if not parts:
        language = "" if options.language == "auto" else options.language
        return Transcript("", language, float("nan"), duration_ms, ())
    segments = tuple(_moved(segment, by_ms) for by_ms, part in parts for segment in part.segments)
    text = " ".join(part.text for _, part in parts if part.text)
    first = parts[0][1]
    return Transcript(text, first.language, first.language_probability, duration_ms, segments)


def _moved(segment: Segment, by_ms: int) -> Segment:
    words = tuple(
        replace(word, start_ms=word.start_ms + by_ms, end_ms=word.end_ms + by_ms) for word in segment.words
    )
    return replace(segment, start_ms=segment.start_ms + by_ms, end_ms=segment.end_ms + by_ms, words=words)
