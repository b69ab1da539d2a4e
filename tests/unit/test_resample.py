"""The 48 -> 16 kHz filter: its table, its numbers, its time line, and the same bits under any chunking."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcriber._resample import Resampler
from transcriber.errors import AudioFormatError, StreamClosedError

CSRC = Path(__file__).parents[2] / "csrc"
HEADER = CSRC / "tr_resample_taps.h"
N_TAPS, HALF = 141, 70
# Chunking errors would show near the factor of 3, the filter's length and half of it, a tile of 32 outputs,
# and the 1604 and then 1536 frames that fill the kernel's block.
EDGES = [0, 1, 2, 3, 4, 69, 70, 71, 95, 96, 97, 140, 141, 142, 960, 1535, 1536, 1537, 1603, 1604, 1605, 5000]


def taps() -> NDArray[np.float64]:
    literals = re.findall(r"(-?0x[0-9a-f.]+p[-+]\d+)f", HEADER.read_text())
    return np.array([float.fromhex(literal) for literal in literals])


def noise(n_frames: int, seed: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, n_frames).astype(np.float32)


def resample(pcm: NDArray[np.float32], sample_rate: int = 48000) -> NDArray[np.float32]:
    return Resampler(sample_rate).process(pcm, last=True)


def reference(pcm: NDArray[np.float32]) -> NDArray[np.float64]:
    if len(pcm) == 0:
        return np.zeros(0)
    filtered = np.convolve(pcm.astype(np.float64), taps())
    return filtered[HALF : HALF + len(pcm) : 3]


# --- the table ---


def test_the_committed_taps_keep_the_promised_band_limits() -> None:
    table = taps()
    assert len(table) == N_TAPS
    assert np.array_equal(table, table[::-1]), "not symmetric: the phase would not be linear"
    n_fft = 1 << 18
    level_db = 20 * np.log10(np.maximum(np.abs(np.fft.rfft(table, n_fft)), 1e-12))
    hz = np.arange(level_db.size) * 48000 / n_fft
    assert np.abs(level_db[hz <= 7200]).max() <= 0.01
    assert level_db[hz >= 8800].max() <= -100.0


def test_gen_taps_writes_the_committed_header_byte_for_byte(tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="no SciPy here: gen_taps.py was NOT checked against the table")
    out = tmp_path / "taps.h"
    subprocess.run([sys.executable, str(CSRC / "gen_taps.py"), str(out)], check=True)
    assert out.read_bytes() == HEADER.read_bytes()


# --- the numbers ---


@pytest.mark.parametrize("n_frames", [0, 1, 2, 3, 70, 141, 1000, 48_000])
def test_output_is_the_float64_convolution_within_two_millionths(n_frames: int) -> None:
    pcm = noise(n_frames)
    np.testing.assert_allclose(resample(pcm), reference(pcm), rtol=0, atol=2e-6)


def tone(hz: float, n_frames: int = 48_000) -> NDArray[np.float32]:
    return np.sin(2 * np.pi * hz * np.arange(n_frames) / 48_000).astype(np.float32)


def steady(pcm: NDArray[np.float32]) -> NDArray[np.float64]:
    return resample(pcm)[1000:-1000].astype(np.float64)


@pytest.mark.parametrize("hz", [50, 440, 1000, 3000, 5000, 6500, 7000, 7200])
def test_a_tone_in_the_pass_band_keeps_its_level(hz: int) -> None:
    out = steady(tone(hz))
    phase = 2 * np.pi * hz * np.arange(len(out)) / 16_000
    basis = np.stack([np.sin(phase), np.cos(phase)], axis=1)
    fit, residual, *_ = np.linalg.lstsq(basis, out, rcond=None)
    assert abs(20 * np.log10(np.hypot(*fit))) <= 0.01
    assert 10 * np.log10(float(residual[0]) / (len(out) / 2)) <= -120, "distortion and noise"


@pytest.mark.parametrize("hz", [8800, 8875, 9000, 10_000, 12_345, 15_900, 16_100, 20_000, 23_900])
def test_a_tone_above_the_stop_edge_leaves_100_db_less(hz: int) -> None:
    rms = np.sqrt(np.mean(steady(tone(hz)) ** 2))
    assert 20 * np.log10(rms * np.sqrt(2)) <= -100


# --- the time line ---


@pytest.mark.parametrize("rate", [48000, 16000])
@pytest.mark.parametrize("n_frames", [*EDGES, 48_000])
def test_exactly_as_many_frames_come_out_as_the_rates_say(rate: int, n_frames: int) -> None:
    assert len(resample(noise(n_frames), rate)) == -(-n_frames * 16000 // rate)


@pytest.mark.parametrize("n", [0, 3, 69, 300, 1500, 2997])
def test_an_impulse_comes_out_at_its_own_instant(n: int) -> None:
    pcm = np.zeros(3000, dtype=np.float32)
    pcm[n] = 1.0
    out = resample(pcm)
    assert out.argmax() == n // 3
    m = n // 3
    near = min(m, 999 - m, 23)
    assert np.array_equal(out[m - near : m + near + 1], out[m - near : m + near + 1][::-1])


def test_a_stream_never_owes_more_than_delay_frames() -> None:
    resampler = Resampler()
    n_out, most_owed = 0, 0
    for n_in in range(1, 1000):
        n_out += len(resampler.process(noise(1)))
        most_owed = max(most_owed, -(-n_in // 3) - n_out)
    assert most_owed == resampler.delay_frames == 24
    assert Resampler(16000).delay_frames == 0


# --- the chunking ---


@given(
    sizes=st.lists(st.one_of(st.sampled_from(EDGES), st.integers(0, 2000)), max_size=12),
    rate=st.sampled_from([48000, 16000]),
)
@example(sizes=[1] * 500, rate=48000)
@example(sizes=[1604, 1536, 1536, 1], rate=48000)
def test_any_chunking_gives_the_same_bits(sizes: list[int], rate: int) -> None:
    pcm = noise(sum(sizes))
    resampler = Resampler(rate)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(resampler.process(pcm[at : at + size]))
        at += size
    pieces.append(resampler.process(pcm[at:], last=True))
    streamed = b"".join(piece.tobytes() for piece in pieces)
    assert streamed == resample(pcm, rate).tobytes()


def test_16_khz_is_passed_through() -> None:
    pcm = noise(1000)
    assert resample(pcm, 16000).tobytes() == pcm.tobytes()


# --- refusals ---


def test_a_chunk_after_the_last_one_is_refused() -> None:
    resampler = Resampler()
    resampler.process(noise(10), last=True)
    with pytest.raises(StreamClosedError):
        resampler.process(noise(10))


@pytest.mark.parametrize("rate", [0, 8000, 44100, 96000])
def test_a_rate_that_is_not_supported_is_refused(rate: int) -> None:
    with pytest.raises(AudioFormatError, match=rf"^sample_rate: need 48000 or 16000, got {rate}$"):
        Resampler(rate)


@pytest.mark.parametrize(
    "pcm",
    [np.zeros(4), np.zeros((2, 2), dtype=np.float32), np.zeros(8, dtype=np.float32)[::2]],
    ids=["float64", "2-d", "strided"],
)
def test_other_buffers_are_refused_not_cast(pcm: NDArray[np.float32]) -> None:
    with pytest.raises(AudioFormatError, match=r"^pcm: need a "):
        Resampler().process(pcm)
