"""Real-time factor of file transcription: compute seconds / audio seconds, below 1 is faster than real time.

    pytest bench/bench_rtf.py --benchmark-json rtf.json [--model base] [--threads 2]

The audio is decoded beforehand: what is timed is `Session.run` alone, with the language given.
"""

from __future__ import annotations

import json
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from transcriber import Model, Options, Session, models
from transcriber.audio import SAMPLE_RATE, decode_file

ENGLISH = Options(language="en")
N_RECORDINGS = 8


@pytest.fixture(scope="module")
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    path = models.resolve(request.config.getoption("--model"))
    with Model(path) as model, model.session(threads=request.config.getoption("--threads")) as session:
        yield session


def cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_rss_mb() -> float:
    """Return the most memory that this process ever had resident."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def note(benchmark: BenchmarkFixture, session: Session, audio_s: float, rtfs: list[float]) -> None:
    p50, p95 = np.percentile(rtfs, [50, 95])
    benchmark.extra_info.update(
        model=Path(session.model.path).name,
        threads=session.threads,
        cpu=cpu_model(),
        audio_s=round(audio_s, 2),
        n_runs=len(rtfs),
        rtf_p50=round(float(p50), 4),
        rtf_p95=round(float(p95), 4),
        rtf_max=round(max(rtfs), 4),
        peak_rss_mb=peak_rss_mb(),
    )


def test_rtf_of_one_clip(benchmark: BenchmarkFixture, session: Session, jfk_path: Path) -> None:
    """The same 11 s again and again: how steady the machine is."""
    pcm = decode_file(jfk_path)
    transcript = benchmark.pedantic(  # type: ignore[no-untyped-call]
        session.run, args=(pcm, ENGLISH), rounds=5, warmup_rounds=1
    )
    assert "country" in transcript.text
    audio_s = pcm.size / SAMPLE_RATE
    assert benchmark.stats is not None
    note(benchmark, session, audio_s, [seconds / audio_s for seconds in benchmark.stats.stats.data])


def test_rtf_of_recordings(benchmark: BenchmarkFixture, session: Session, speech_dir: Path) -> None:
    """English clips of all lengths, each once: RTF is high for short ones, since a window is always 30 s."""
    manifest = [json.loads(line) for line in (speech_dir / "manifest.jsonl").read_text().splitlines()]
    english = [clip for clip in manifest if clip["kind"] == "speech" and clip["language"] == "en"]
    english.sort(key=lambda clip: float(clip["duration_s"]))
    spread = [english[i] for i in np.linspace(0, len(english) - 1, N_RECORDINGS).astype(int)]
    pcms: list[NDArray[np.float32]] = [decode_file(speech_dir / clip["file"]) for clip in spread]
    rtfs: list[float] = []

    def run_all() -> None:
        for pcm in pcms:
            started = time.perf_counter()
            session.run(pcm, ENGLISH)
            rtfs.append((time.perf_counter() - started) * SAMPLE_RATE / pcm.size)

    benchmark.pedantic(run_all, rounds=1)  # type: ignore[no-untyped-call]
    note(benchmark, session, sum(pcm.size for pcm in pcms) / SAMPLE_RATE, rtfs)
