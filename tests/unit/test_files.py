"""One call from file to transcript: packing, time line, language, progress, cancel; on a fake engine."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcriber import files
from transcriber.audio import SAMPLE_RATE
from transcriber.errors import AudioFormatError, JobCancelledError
from transcriber.files import MAX_CHUNK_MS, MAX_SILENCE_MS, pack, transcribe
from transcriber.result import Options, Segment, Transcript, Word

NAN = float("nan")


class FakeSession:
    """Hears one word in the whole of what it is given."""

    def __init__(self, run: Callable[[], None] = lambda: None) -> None:
        self.calls: list[tuple[int, Options]] = []
        self.progress = 0
        self.cancelled = threading.Event()
        self._run = run

    def run(self, pcm: NDArray[np.float32], options: Options) -> Transcript:
        self.calls.append((pcm.size, options))
        self._run()
        ms = pcm.size * 1000 // SAMPLE_RATE
        detected = options.language == "auto"
        word = Word(100, ms, " word", 0.5)
        segment = Segment(0, ms, "word", -0.1, 0.0, (word,) if options.word_timestamps else ())
        return Transcript(
            "word", "de" if detected else options.language, 0.75 if detected else NAN, ms, (segment,)
        )

    def cancel(self) -> None:
        self.cancelled.set()


def silence(seconds: float) -> NDArray[np.float32]:
    return np.zeros(round(seconds * SAMPLE_RATE), np.float32)


def run(source: Any, session: FakeSession, **arguments: Any) -> Transcript:
    return transcribe(source, session=session, **arguments)  # type: ignore[arg-type]


def with_spans(monkeypatch: pytest.MonkeyPatch, *spans: tuple[int, int]) -> None:
    class FakeVad:
        def speech_spans(self, pcm: NDArray[np.float32]) -> list[tuple[int, int]]:
            return list(spans)

    monkeypatch.setattr(files, "Vad", FakeVad)


@pytest.mark.parametrize(
    ("spans", "packed"),
    [
        ([], []),
        ([(500, 900)], [(500, 900)]),
        ([(0, 1000), (1500, 2000), (2100, 3000)], [(0, 3000)]),
        ([(0, 1000), (1000 + MAX_SILENCE_MS, 5000)], [(0, 5000)]),
        ([(0, 1000), (1001 + MAX_SILENCE_MS, 5000)], [(0, 1000), (1001 + MAX_SILENCE_MS, 5000)]),
        ([(0, 20_000), (20_100, MAX_CHUNK_MS)], [(0, MAX_CHUNK_MS)]),
        ([(0, 20_000), (20_100, MAX_CHUNK_MS + 1)], [(0, 20_000), (20_100, MAX_CHUNK_MS + 1)]),
        ([(0, 100_000), (100_100, 101_000)], [(0, 100_000), (100_100, 101_000)]),
    ],
)
def test_spans_are_packed_into_windows(spans: list[tuple[int, int]], packed: list[tuple[int, int]]) -> None:
    assert list(pack(spans)) == packed


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 40_000)), max_size=30))
def test_packing_keeps_all_speech_in_order(steps: list[tuple[int, int]]) -> None:
    edges = list(itertools.accumulate(itertools.chain.from_iterable(steps)))
    spans = list(zip(edges[::2], edges[1::2], strict=True))
    packed = list(pack(spans))
    assert all(any(a <= start and end <= b for a, b in packed) for start, end in spans)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(packed))
    assert all(end - start <= MAX_CHUNK_MS or (start, end) in spans for start, end in packed)


def test_without_vad_all_samples_go_in_one_run() -> None:
    session = FakeSession()
    result = run(silence(2.5), session)
    assert [n for n, _ in session.calls] == [40_000]
    assert (result.duration_ms, result.language, result.language_probability) == (2500, "de", 0.75)


def test_times_of_chunks_are_those_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spans(monkeypatch, (1000, 2000), (2500, 3000), (60_000, 61_000))
    session = FakeSession()
    result = run(silence(70), session, vad=True, options=Options(word_timestamps=True))
    assert [n for n, _ in session.calls] == [2000 * 16, 1000 * 16]
    assert [(s.start_ms, s.end_ms) for s in result.segments] == [(1000, 3000), (60_000, 61_000)]
    assert [(w.start_ms, w.end_ms) for s in result.segments for w in s.words] == [
        (1100, 3000),
        (60_100, 61_000),
    ]
    assert result.text == "word word"
    assert result.duration_ms == 70_000


def test_language_is_detected_once_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spans(monkeypatch, (0, 1000), (10_000, 11_000), (20_000, 21_000))
    session = FakeSession()
    result = run(silence(30), session, vad=True)
    assert [options.language for _, options in session.calls] == ["auto", "de", "de"]
    assert result.language_probability == 0.75


@pytest.mark.parametrize(("language", "said"), [("auto", ""), ("fr", "fr")])
def test_no_speech_is_an_empty_transcript(monkeypatch: pytest.MonkeyPatch, language: str, said: str) -> None:
    with_spans(monkeypatch)
    session = FakeSession()
    result = run(silence(3), session, vad=True, options=Options(language=language))
    assert session.calls == []
    assert (result.text, result.language, result.duration_ms, result.segments) == ("", said, 3000, ())


def test_progress_is_reported_on_the_calling_thread_up_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with_spans(monkeypatch, (0, 1000), (10_000, 12_000))
    seen = threading.Event()

    def wait_to_be_seen() -> None:
        session.progress = 50
        assert seen.wait(30)

    session = FakeSession(wait_to_be_seen)
    calls: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        assert threading.current_thread() is threading.main_thread()
        calls.append((what, done, total))
        if done == 500:
            seen.set()

    run(silence(20), session, vad=True, progress=progress)
    assert ("transcribe", 500, 20_000) in calls
    assert calls[-1] == ("transcribe", 12_000, 20_000)
    assert [done for _, done, _ in calls] == sorted(done for _, done, _ in calls)


def test_interrupt_cancels_the_run_and_goes_on() -> None:
    def run_until_cancelled() -> None:
        assert session.cancelled.wait(30)
        raise JobCancelledError("inference: cancelled")

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    session = FakeSession(run_until_cancelled)
    with pytest.raises(KeyboardInterrupt):
        run(silence(1), session, progress=interrupt)
    assert session.cancelled.is_set()


def test_error_of_the_run_comes_through() -> None:
    def fail() -> None:
        raise JobCancelledError("inference: cancelled")

    with pytest.raises(JobCancelledError):
        run(silence(1), FakeSession(fail))


def test_array_is_checked_before_the_engine_sees_it() -> None:
    session = FakeSession()
    with pytest.raises(AudioFormatError, match="int16"):
        run(np.zeros(16_000, np.int16), session)
    assert session.calls == []
