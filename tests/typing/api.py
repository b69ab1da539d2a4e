"""Code as users write it; `mypy --strict` checks it, nothing runs it."""

from __future__ import annotations

from typing import assert_type

import numpy as np

import transcriber


def files() -> None:
    result = transcriber.transcribe("talk.mp3", options=transcriber.Options(language="en"), vad=True)
    assert_type(result, transcriber.Transcript)
    for segment in result.segments:
        assert_type(segment.words, tuple[transcriber.Word, ...])


def live() -> None:
    with transcriber.Model("ggml-base.bin") as model, transcriber.Transcriber(model, window_s=2.5) as t:
        stream = t.stream("one", encoding="mulaw", sample_rate=16000, n_channels=2, language="de")
        stream.feed(memoryview(b""))
        for event in t.poll():
            match event:
                case transcriber.Final():
                    assert_type(event.transcript.text, str)
                case transcriber.Gap():
                    assert_type(event.n_samples, int)
                case transcriber.Failure():
                    assert_type(event.message, str)
                case transcriber.End():
                    assert_type(event.balance.dropped, dict[str, int])


def kernels() -> None:
    ring = transcriber.RingBuffer(1024)
    pcm = transcriber.Resampler(48000).process(transcriber.PcmDecoder("s24le", 2).decode(b""))
    assert_type(ring.put(pcm), int)
    assert pcm.dtype == np.float32
