"""Live transcription on Whisper through whisper.cpp, with a promised latency and counted losses.

>>> import transcriber
>>> transcriber.transcribe("talk.mp3").text
"""

from __future__ import annotations

from importlib.metadata import version

from transcriber._engine import LANGUAGES, Model, Session, Vad
from transcriber._resample import PcmDecoder, Resampler
from transcriber._ring import RingBuffer
from transcriber.capacity import queue_capacity
from transcriber.errors import (
    AudioFormatError,
    ConfigError,
    EngineBusyError,
    EngineClosedError,
    InferenceError,
    JobCancelledError,
    ModelLoadError,
    ModelUnavailableError,
    ProtocolError,
    QueueFullError,
    StreamClosedError,
    TranscriberError,
)
from transcriber.files import transcribe
from transcriber.result import Options, Segment, Transcript, Word
from transcriber.stream import Balance, Counters, End, Event, Failure, Final, Gap, Stream, Transcriber

__version__ = version("transcriber")

__all__ = [
    "LANGUAGES",
    "AudioFormatError",
    "Balance",
    "ConfigError",
    "Counters",
    "End",
    "EngineBusyError",
    "EngineClosedError",
    "Event",
    "Failure",
    "Final",
    "Gap",
    "InferenceError",
    "JobCancelledError",
    "Model",
    "ModelLoadError",
    "ModelUnavailableError",
    "Options",
    "PcmDecoder",
    "ProtocolError",
    "QueueFullError",
    "Resampler",
    "RingBuffer",
    "Segment",
    "Session",
    "Stream",
    "StreamClosedError",
    "Transcriber",
    "TranscriberError",
    "Transcript",
    "Vad",
    "Word",
    "queue_capacity",
    "transcribe",
]
