"""The exceptions of this package. Each derives from `TranscriberError` and from the builtin it resembles."""

from __future__ import annotations

__all__ = [
    "AudioFormatError",
    "ConfigError",
    "EngineBusyError",
    "EngineClosedError",
    "InferenceError",
    "JobCancelledError",
    "ModelLoadError",
    "ModelUnavailableError",
    "ProtocolError",
    "QueueFullError",
    "StreamClosedError",
    "TranscriberError",
]


class TranscriberError(Exception):
    """Base of every error that this package raises on purpose."""


class AudioFormatError(TranscriberError, ValueError):
    """Audio has the wrong dtype, rate, channels, length or content; the message says got and wanted."""


class ConfigError(TranscriberError, ValueError):
    """A setting has a value that is not allowed; the message names setting, value and what is allowed."""


class ModelLoadError(TranscriberError, OSError):
    """A model file is missing, damaged or not a Whisper model; the message gives path and reason."""


class ModelUnavailableError(TranscriberError, LookupError):
    """A model is not in the catalogue, or no source of it can be reached."""


class InferenceError(TranscriberError, RuntimeError):
    """The engine failed. `code` is its return code, `stage` one of vad, mel, lang, encode, decode, alloc."""

    def __init__(self, message: str, *, code: int, stage: str) -> None:
        super().__init__(message)
        self.code = code
        self.stage = stage


class JobCancelledError(TranscriberError):
    """The job was cancelled with `Session.cancel`."""


class QueueFullError(TranscriberError):
    """A bounded queue has no room; `depth` of `capacity` are taken."""

    def __init__(self, message: str, *, depth: int, capacity: int) -> None:
        super().__init__(message)
        self.depth = depth
        self.capacity = capacity


class EngineClosedError(TranscriberError, RuntimeError):
    """The model or session has been closed."""


class EngineBusyError(TranscriberError, RuntimeError):
    """The session is in use by another thread."""


class StreamClosedError(TranscriberError, RuntimeError):
    """The stream has ended; open a new one."""


class ProtocolError(TranscriberError, ValueError):
    """A message has a bad header or payload. `code` is the stable string that goes out on the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
