"""The engine on real weights and real speech: text, times, threads, and every way it may be misused."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import transcriber
from transcriber import Model, Options, Session, Vad
from transcriber._engine import system_info
from transcriber.audio import decode_file

ENGLISH = Options(language="en")


@pytest.fixture(scope="module")
def model(base_model_path: Path) -> Iterator[Model]:
    with Model(base_model_path) as model:
        yield model


@pytest.fixture
def session(model: Model) -> Iterator[Session]:
    with model.session() as session:
        yield session


@pytest.fixture(scope="module")
def speech(jfk_path: Path) -> NDArray[np.float32]:
    return decode_file(jfk_path)


def test_run_gives_text_times_and_language(session: Session, speech: NDArray[np.float32]) -> None:
    result = session.run(speech, Options(word_timestamps=True))
    assert "ask what you can do for your country" in result.text
    assert (result.language, result.duration_ms) == ("en", 11000)
    assert 0.5 < result.language_probability <= 1
    words = [word for segment in result.segments for word in segment.words]
    assert "".join(word.text for word in words).split() == result.text.split()
    for earlier, later in itertools.pairwise(words):
        assert 0 <= earlier.start_ms <= earlier.end_ms <= later.end_ms <= 11000
        assert 0 < earlier.probability <= 1
    for segment in result.segments:
        assert 0 <= segment.start_ms < segment.end_ms <= 11000
        assert -1 < segment.avg_logprob < 0
        assert 0 <= segment.no_speech_prob < 0.5
    assert session.progress == 100


def test_a_result_does_not_depend_on_what_ran_before(session: Session, speech: NDArray[np.float32]) -> None:
    short, long = speech[:32000], speech
    first = session.run(short, ENGLISH)
    session.run(long, Options(language="en", prompt="Something else entirely."))
    again = session.run(short, ENGLISH)
    assert (again.text, again.segments) == (first.text, first.segments)
    assert math.isnan(again.language_probability)  # it was given, not detected


def test_the_gil_is_free_during_inference(session: Session, speech: NDArray[np.float32]) -> None:
    done = threading.Event()

    def run() -> None:
        session.run(speech[:16000], ENGLISH)
        done.set()

    thread = threading.Thread(target=run)
    started = last = time.perf_counter()
    longest_pause = 0.0
    thread.start()
    while not done.is_set():
        now = time.perf_counter()
        longest_pause = max(longest_pause, now - last)
        last = now
    thread.join()
    # Were the GIL held, this loop would have stood still for the whole of the inference.
    assert longest_pause < (time.perf_counter() - started) / 2


def test_sessions_share_weights_and_run_at_the_same_time(model: Model, speech: NDArray[np.float32]) -> None:
    pieces = [speech[:48000], speech[48000:]]
    with model.session(threads=1) as a, model.session(threads=1) as b:
        alone = [a.run(piece, ENGLISH).text for piece in pieces]
        together: dict[int, str] = {}

        def run(i: int, session: Session) -> None:
            together[i] = session.run(pieces[i], ENGLISH).text

        threads = [threading.Thread(target=run, args=(i, s)) for i, s in enumerate((a, b))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [together[0], together[1]] == alone


def test_cancel_ends_a_run_and_the_session_goes_on(session: Session, speech: NDArray[np.float32]) -> None:
    session.cancel()  # nothing runs: no effect on what comes
    outcome: list[BaseException | str] = []

    def run() -> None:
        try:
            outcome.append(session.run(np.tile(speech, 6), ENGLISH).text)
        except transcriber.JobCancelledError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive() and session.progress == 0:  # the first of many windows is done
        thread.join(0.01)
    with pytest.raises(transcriber.EngineBusyError, match="another thread"):
        session.run(speech, ENGLISH)
    with pytest.raises(transcriber.EngineBusyError, match="before closing"):
        session.close()
    assert 0 < session.progress < 100
    session.cancel()
    thread.join()
    assert isinstance(outcome[0], transcriber.JobCancelledError)
    assert session.run(speech[:16000], ENGLISH).text


@pytest.mark.parametrize("n_samples", [1, 100, 1599, 1600, 15999])
def test_very_short_audio_is_padded(session: Session, speech: NDArray[np.float32], n_samples: int) -> None:
    result = session.run(speech[16000 : 16000 + n_samples], ENGLISH)
    assert result.duration_ms == n_samples * 1000 // 16000
    assert all(segment.end_ms <= result.duration_ms for segment in result.segments)


@pytest.mark.parametrize(
    ("pcm", "words"),
    [
        (np.zeros(0, np.float32), "want 1 to"),
        (np.array([0, np.nan] * 8000, np.float32), "NaN or infinity"),
        (np.array([0, np.inf] * 8000, np.float32), "NaN or infinity"),
    ],
)
def test_bad_samples_are_refused(session: Session, pcm: NDArray[np.float32], words: str) -> None:
    with pytest.raises(transcriber.AudioFormatError, match=words):
        session.run(pcm, ENGLISH)
    with pytest.raises(transcriber.AudioFormatError, match=words):
        Vad().speech_spans(pcm)


@pytest.mark.parametrize(
    "options",
    [
        Options(language="xx"),
        Options(beam_size=0),
        Options(beam_size=9),
        Options(temperature=1.1),
        Options(temperature=math.nan),
        Options(max_tokens=-1),
        Options(threads=-1),
        Options(prompt="a\0b"),
    ],
)
def test_options_out_of_range_are_refused(session: Session, options: Options) -> None:
    with pytest.raises(transcriber.ConfigError, match=r"got|must not"):
        session.run(np.zeros(16000, np.float32), options)


def test_beam_search_translation_and_prompt_run(session: Session, speech: NDArray[np.float32]) -> None:
    options = Options(
        language="en", beam_size=3, retry=True, prompt="Kennedy.", max_tokens=20, timestamps=False
    )
    assert "fellow Americans" in session.run(speech, options).text
    assert session.run(speech, Options(language="en", translate=True, temperature=0.2)).text


def test_closing_is_idempotent_and_ordered(base_model_path: Path) -> None:
    model = Model(base_model_path)
    session = model.session()
    with pytest.raises(transcriber.EngineBusyError, match="1 sessions are still open"):
        model.close()
    session.close()
    session.close()
    session.cancel()
    with pytest.raises(transcriber.EngineClosedError, match="session is closed"):
        session.run(np.zeros(16000, np.float32), ENGLISH)
    model.close()
    model.close()
    with pytest.raises(transcriber.EngineClosedError, match="is closed"):
        model.session()


def test_a_file_that_is_no_model_is_refused_and_the_process_lives(tmp_path: Path) -> None:
    for name, content in (
        ("empty", b""),
        ("noise", bytes(range(256)) * 100),
        ("text", b"lorem ipsum" * 1000),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(transcriber.ModelLoadError, match=name):
            Model(path)
    with pytest.raises(transcriber.ModelLoadError):
        Model(tmp_path / "absent")


def test_whisper_is_built_as_meant() -> None:
    assert "LLAMAFILE = 1" in system_info()  # tinyBLAS: nearly twice the speed
    assert "OPENMP" not in system_info()


def test_vad_finds_the_speech(speech: NDArray[np.float32]) -> None:
    silence = np.zeros(48000, np.float32)
    spans = Vad().speech_spans(np.concatenate([silence, speech, silence]))
    assert spans == sorted(spans)
    assert spans[0][0] >= 2900
    assert spans[-1][1] <= 14100
    assert sum(end - start for start, end in spans) > 5000
    assert Vad().speech_spans(silence) == []
