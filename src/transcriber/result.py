"""What goes into an inference and what comes out: plain frozen values, no behaviour.

All times are integer milliseconds from the start of the audio that was passed in.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Options", "Segment", "Transcript", "Word"]


@dataclass(frozen=True, slots=True)
class Options:
    """How to transcribe. The defaults are greedy decoding at temperature 0 with no retry.

    Parameters
    ----------
    language : str
        A Whisper language code ("en"), or "auto" to detect it, which costs one more encoder pass.
    translate : bool
        Translate to English instead of transcribing.
    prompt : str
        Text given to the decoder as if it had been said before: names, spelling, style.
    beam_size : int
        1 is greedy; 2 to 8 is beam search.
    temperature : float
        Sampling temperature, 0 to 1.
    retry : bool
        Decode a window once more at `temperature` + 0.6 when it looks like a loop or is improbable.
    max_tokens : int
        Most text tokens per segment; 0 is the model's own limit.
    word_timestamps : bool
        Fill `Segment.words`.
    timestamps : bool
        Let the model predict segment times. Off, each 30 s window is one segment.
    threads : int
        Threads of one inference; 0 takes the session's default.
    """

    language: str = "auto"
    translate: bool = False
    prompt: str = ""
    beam_size: int = 1
    temperature: float = 0.0
    retry: bool = False
    max_tokens: int = 0
    word_timestamps: bool = False
    timestamps: bool = True
    threads: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """One word. `probability` is the geometric mean of its tokens' probabilities, 0 to 1."""

    start_ms: int
    end_ms: int
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """One span of text as the model cut it. `avg_logprob` is the mean natural logprob of its tokens."""

    start_ms: int
    end_ms: int
    text: str
    avg_logprob: float
    no_speech_prob: float
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """The text of one piece of audio.

    `language_probability` is NaN when the language was given and not detected.
    """

    text: str
    language: str
    language_probability: float
    duration_ms: int
    segments: tuple[Segment, ...]
