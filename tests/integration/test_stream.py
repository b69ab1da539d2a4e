"""The live library API on real weights: order, balance, losses, ends. No NATS."""

from __future__ import annotations

import itertools
import math
import select
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import transcriber
from transcriber import Balance, End, Event, Final, Gap, Model, Options, Stream, Transcriber
from transcriber.audio import decode_file

ENGLISH = Options(language="en", timestamps=False)


@pytest.fixture(scope="module")
def model(base_model_path: Path) -> Iterator[Model]:
    with Model(base_model_path) as model:
        yield model


@pytest.fixture(scope="module")
def speech(jfk_path: Path) -> NDArray[np.float32]:
    return decode_file(jfk_path)


def s16(pcm: NDArray[np.float32]) -> bytes:
    return (pcm * 32767).astype("<i2").tobytes()


def wait(t: Transcriber) -> list[Event]:
    """Poll, woken by the descriptor, until every stream has ended."""
    events: list[Event] = []
    while not t.idle():
        readable, _, _ = select.select([t.fileno()], [], [], 120)
        assert readable, "no event in two minutes"
        found = t.poll()
        assert found, "the descriptor was readable and poll had nothing"
        events += found
    return events


def check_time_line(events: list[Event], stream: Stream) -> None:
    """Finals and gaps of a stream cover its audio exactly once; finals come in order; the end comes last."""
    mine = [event for event in events if event.stream == stream.id]
    assert isinstance(mine[-1], End)
    finals = [event for event in mine if isinstance(event, Final)]
    assert [f.seq for f in finals] == sorted(f.seq for f in finals)
    pieces = sorted((e.start_ms, e.end_ms, e.n_samples) for e in mine if isinstance(e, Final | Gap))
    for (_, end, _), (start, _, _) in itertools.pairwise(pieces):
        assert start == end
    balance = mine[-1].balance
    assert balance.exact
    assert balance.buffered == 0
    assert sum(n for _, _, n in pieces) == balance.received
    assert balance.transcribed + balance.flushed == sum(f.n_samples for f in finals)


def test_chunks_of_any_size_give_ordered_text_and_an_exact_balance(
    model: Model, speech: NDArray[np.float32]
) -> None:
    at_48k = s16(np.repeat(speech, 3))[: 48000 * 2 * 11 - 4]  # not a whole number of output samples
    with Transcriber(model, options=ENGLISH) as t:
        stream = t.stream("jfk", sample_rate=48000)
        for i in range(0, len(at_48k), 9601):
            stream.feed(at_48k[i : i + 9601])
        stream.end()
        events = wait(t)
        check_time_line(events, stream)
        text = " ".join(e.transcript.text for e in events if isinstance(e, Final))
        assert "fellow Americans" in text
        assert "your country" in text
        assert [e.flush for e in events if isinstance(e, Final)] == [False, False, True]
        assert t.balance().received == math.ceil(len(at_48k) // 2 / 3)
        assert stream.balance() == t.balance()
        with pytest.raises(transcriber.StreamClosedError, match="jfk has ended"):
            stream.feed(b"\0\0")


def test_a_full_queue_drops_announces_and_accounts(model: Model, speech: NDArray[np.float32]) -> None:
    with Transcriber(model, window_s=1.0, queue_capacity=1, options=ENGLISH) as t:
        stream = t.stream("flood", sample_rate=16000)
        stream.feed(s16(speech[: 16000 * 7 + 500]))  # all at once: one runs, one waits, the rest has no room
        stream.end()
        events = wait(t)
    check_time_line(events, stream)
    gaps = [e for e in events if isinstance(e, Gap)]
    assert gaps
    assert {gap.reason for gap in gaps} == {"queue_full"}
    for gap in gaps:
        assert gap.end_ms - gap.start_ms == gap.n_samples // 16
    balance = stream.balance()
    assert balance.dropped == {"queue_full": sum(gap.n_samples for gap in gaps)}
    seqs = sorted(e.seq for e in events if isinstance(e, Final | Gap))
    assert seqs == list(range(8))  # no hole in seq that no gap explains


def test_abandon_is_immediate_and_accounts_for_everything(model: Model, speech: NDArray[np.float32]) -> None:
    with Transcriber(model, window_s=2.0, options=ENGLISH) as t:
        streams = [t.stream(str(i), encoding="f32le", sample_rate=16000) for i in range(3)]
        for stream in streams:
            stream.feed(speech[: 16000 * 5].tobytes())
        while t.counters().workers_busy == 0:  # in mid-inference
            select.select([t.fileno()], [], [], 0.01)
        t.abandon()
        events = t.poll()
        assert t.idle()
        for stream in streams:
            check_time_line(events, stream)
        assert t.balance().dropped == {"abandoned": 3 * 5 * 16000}
        assert {e.reason for e in events if isinstance(e, End)} == {"shutdown"}
        with pytest.raises(transcriber.EngineClosedError, match="shutting down"):
            t.stream("late")


def test_a_quiet_stream_is_ended_and_its_rest_flushed(model: Model, speech: NDArray[np.float32]) -> None:
    with Transcriber(model, options=ENGLISH) as t:
        stream = t.stream("quiet", sample_rate=16000)
        other = t.stream("other", sample_rate=16000)
        stream.feed(s16(speech[:24000]))
        t.end_idle(60)
        assert not stream.ended
        stream.fed_at -= 61
        t.end_idle(60)
        assert stream.ended
        assert not other.ended
        t.drain()
        events = wait(t)
    check_time_line(events, stream)
    assert {e.stream: e.reason for e in events if isinstance(e, End)} == {
        "quiet": "idle",
        "other": "shutdown",
    }
    assert stream.balance().flushed == 24000


def test_the_language_is_detected_once_and_kept(model: Model, speech: NDArray[np.float32]) -> None:
    with Transcriber(model, window_s=5.0, options=Options(timestamps=False)) as t:
        stream = t.stream("auto", sample_rate=16000)
        stream.feed(s16(speech[: 16000 * 8]))
        stream.end()
        finals = [e.transcript for e in wait(t) if isinstance(e, Final)]
    assert [f.language for f in finals] == ["en", "en"]
    assert finals[0].language_probability > 0.5
    assert math.isnan(finals[1].language_probability)  # given, not detected again


def test_bad_streams_and_chunks_are_refused_and_the_others_go_on(model: Model) -> None:
    with Transcriber(model, max_streams=2, options=ENGLISH) as t:
        good = t.stream("good", encoding="f32le", sample_rate=16000)
        for arguments in ({"sample_rate": 12345}, {"n_channels": 0}, {"n_channels": 9}, {"encoding": "mp3"}):
            with pytest.raises(transcriber.AudioFormatError, match=r"want|need"):
                t.stream("bad", **arguments)
        with pytest.raises(transcriber.ConfigError, match="language"):
            t.stream("bad", language="klingon")
        t.stream("second")
        with pytest.raises(transcriber.QueueFullError, match="2 streams are open"):
            t.stream("third")
        good.feed(np.zeros(1000, np.float32).tobytes())
        with pytest.raises(transcriber.AudioFormatError, match="refused whole"):
            good.feed(np.array([0, math.nan], np.float32).tobytes())
        with pytest.raises(transcriber.AudioFormatError, match="send shorter"):
            good.feed(bytes(10_000_000))
        good.feed(b"\0")  # a byte of a sample that never comes
        assert good.balance() == Balance(received=1000, buffered=1000)


@pytest.mark.parametrize(
    "arguments",
    [
        {"workers": 0},
        {"window_s": 0.5},
        {"window_s": 31},
        {"queue_capacity": 0},
        {"threads": -1},
        {"max_streams": 0},
    ],
)
def test_settings_out_of_range_are_refused(model: Model, arguments: dict[str, float]) -> None:
    (name,) = arguments
    with pytest.raises(transcriber.ConfigError, match=name):
        Transcriber(model, **arguments)  # type: ignore[arg-type]
