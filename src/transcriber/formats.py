"""A transcript as text: txt, json, jsonl, srt, vtt, tsv.

The shape of ``json`` (indented) and of ``jsonl`` (one line) is stable; fields may be added, none is renamed
or dropped. Times are integer milliseconds from the start of the file; what is not known is null::

    {"path": "talk.mp3",              null when the audio did not come from a file
     "duration_ms": 11000,
     "language": "en",                null when no speech was found to detect it on
     "language_probability": 0.98,    null when the language was given
     "text": "And so, my fellow Americans…",
     "segments": [
       {"start_ms": 0, "end_ms": 7960, "text": "And so, my fellow Americans…",
        "avg_logprob": -0.21,         mean natural log-probability of the tokens
        "no_speech_prob": 0.03,
        "words": [                    only when word times were asked for; texts keep their leading spaces
          {"start_ms": 320, "end_ms": 510, "text": " And", "probability": 0.93}]}]}
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from transcriber.result import Segment, Transcript

__all__ = ["FORMATS", "as_dict", "render"]


def render(transcript: Transcript, form: str, *, path: str | None = None) -> str:
    """Return `transcript` in one of `FORMATS`, ending with a newline unless it is empty.

    Parameters
    ----------
    transcript : Transcript
        What to write.
    form : str
        ``txt`` (a line per segment), ``json``, ``jsonl``, ``srt``, ``vtt`` or ``tsv`` (a header line, then
        start in ms, end in ms and text).
    path : str, optional
        The file that the audio came from, for ``json`` and ``jsonl``.
    """
    return FORMATS[form](transcript, path)


def as_dict(transcript: Transcript, path: str | None = None) -> dict[str, Any]:
    """Return `transcript` as the plain values of the ``json`` format, described at the top of this module."""
    return {
        "path": path,
        "duration_ms": transcript.duration_ms,
        "language": transcript.language or None,
        "language_probability": _number(transcript.language_probability),
        "text": transcript.text.strip(),
        "segments": [_segment_dict(segment) for segment in transcript.segments],
    }


def _segment_dict(segment: Segment) -> dict[str, Any]:
    values: dict[str, Any] = {
        "start_ms": segment.start_ms,
        "end_ms": segment.end_ms,
        "text": segment.text.strip(),
        "avg_logprob": _number(segment.avg_logprob),
        "no_speech_prob": _number(segment.no_speech_prob),
    }
    if segment.words:
        values["words"] = [
            {
                "start_ms": word.start_ms,
                "end_ms": word.end_ms,
                "text": word.text,
                "probability": _number(word.probability),
            }
            for word in segment.words
        ]
    return values


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity; four decimals are more than a probability is worth."""
    return round(value, 4) if math.isfinite(value) else None


def _txt(transcript: Transcript, _path: str | None) -> str:
    return "".join(
        f"{' '.join(segment.text.split())}\n" for segment in transcript.segments if segment.text.strip()
    )


def _json(transcript: Transcript, path: str | None) -> str:
    return json.dumps(as_dict(transcript, path), ensure_ascii=False, allow_nan=False, indent=2) + "\n"


def _jsonl(transcript: Transcript, path: str | None) -> str:
    return json.dumps(as_dict(transcript, path), ensure_ascii=False, allow_nan=False) + "\n"


def _srt(transcript: Transcript, _path: str | None) -> str:
    # SubRip has no escapes: an arrow in the text would be read as a line of times.
    return "".join(
        f"{n}\n{_clock(start_ms, ',')} --> {_clock(end_ms, ',')}\n{text.replace('-->', '→')}\n\n"
        for n, (start_ms, end_ms, text) in enumerate(_cues(transcript), 1)
    )


def _vtt(transcript: Transcript, _path: str | None) -> str:
    return "WEBVTT\n" + "".join(
        f"\n{_clock(start_ms, '.')} --> {_clock(end_ms, '.')}\n{_vtt_escape(text)}\n"
        for start_ms, end_ms, text in _cues(transcript)
    )


def _tsv(transcript: Transcript, _path: str | None) -> str:
    return "start_ms\tend_ms\ttext\n" + "".join(
        f"{segment.start_ms}\t{segment.end_ms}\t{' '.join(segment.text.split())}\n"
        for segment in transcript.segments
    )


def _cues(transcript: Transcript) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and text of every subtitle: no empty text, no blank lines in it, no zero length."""
    for segment in transcript.segments:
        lines = [line.strip() for line in segment.text.splitlines()]
        text = "\n".join(line for line in lines if line)
        if text:
            yield segment.start_ms, max(segment.end_ms, segment.start_ms + 1), text


def _clock(ms: int, point: str) -> str:
    """Return HH:MM:SS and milliseconds behind `point`; the hours take more digits when they must."""
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{ms:03}"


def _vtt_escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


FORMATS: dict[str, Callable[[Transcript, str | None], str]] = {
    "txt": _txt,
    "json": _json,
    "jsonl": _jsonl,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
}
"""Every format by name, in the order in which they are listed to users."""
