"""Decoding: containers, codecs, rates, channels, damage. Every file is made here, with a known tone in it."""

from __future__ import annotations

import io
import os
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from transcriber.audio import SAMPLE_RATE, as_pcm, decode_file
from transcriber.errors import AudioFormatError

SECONDS = 1.5
TONE_HZ = 1000.0
LEVEL = 0.5
LAYOUTS = {1: "mono", 2: "stereo", 3: "2.1", 4: "quad", 6: "5.1"}


def tone(
    rate: int, n_channels: int = 1, seconds: float = SECONDS, hz: float = TONE_HZ
) -> NDArray[np.float32]:
    """Return a sine of peak LEVEL, the same on every channel: shape (n_channels, n_frames)."""
    wave = LEVEL * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)
    return np.tile(wave.astype(np.float32), (n_channels, 1))


def write_media(
    path: Path, codec: str, rate: int, samples: NDArray[np.float32], *, video: bool = False
) -> None:
    """Encode `samples` (n_channels, n_frames) into `path`, whose suffix names the container."""
    with av.open(str(path), "w") as container:
        if video:
            picture = container.add_stream("mpeg4", rate=10)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        stream = container.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = LAYOUTS[samples.shape[0]]
        context = stream.codec_context
        converter = av.AudioResampler(
            format=context.format, layout=context.layout, rate=rate, frame_size=context.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples), format="fltp", layout=LAYOUTS[samples.shape[0]]
        )
        frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
        if video:
            for i in range(round(10 * samples.shape[1] / rate)):
                image = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = i, Fraction(1, 10)
                container.mux(picture.encode(image))
            container.mux(picture.encode(None))
        for piece in (*converter.resample(frame), *converter.resample(None)):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def peak_hz(pcm: NDArray[np.float32]) -> float:
    """Return the frequency of the strongest spectral line."""
    spectrum = np.abs(np.fft.rfft(pcm * np.hanning(pcm.size)))
    return float(np.argmax(spectrum) * SAMPLE_RATE / pcm.size)


def assert_is_tone(
    pcm: NDArray[np.float32], *, edge_s: float, seconds: float = SECONDS, level: float = LEVEL
) -> None:
    """Length within `edge_s`, frequency kept, level right in the steady middle."""
    assert pcm.dtype == np.float32
    assert pcm.ndim == 1
    assert abs(pcm.size / SAMPLE_RATE - seconds) <= edge_s
    middle = pcm[pcm.size // 4 : 3 * pcm.size // 4]
    assert peak_hz(middle) == pytest.approx(TONE_HZ, abs=3)
    assert np.sqrt(2 * np.mean(middle.astype(np.float64) ** 2)) == pytest.approx(level, rel=0.03)


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000, 96000])
def test_every_rate_becomes_16_khz_to_the_frame(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    write_media(path, "pcm_s16le", rate, tone(rate))
    assert_is_tone(decode_file(path), edge_s=2 / SAMPLE_RATE)


@pytest.mark.parametrize("n_channels", sorted(LAYOUTS))
@pytest.mark.parametrize("rate", [16000, 48000])
def test_channels_are_mixed_to_their_mean(tmp_path: Path, n_channels: int, rate: int) -> None:
    samples = tone(rate, n_channels)
    samples[1:] = 0  # the tone on the first channel only
    path = tmp_path / "tone.wav"
    write_media(path, "pcm_f32le", rate, samples)
    assert_is_tone(decode_file(path), edge_s=2 / SAMPLE_RATE, level=LEVEL / n_channels)


def test_unknown_codec_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_media(path, "pcm_s16le", 16000, tone(16000))
    data = bytearray(path.read_bytes())
    where = data.index(b"fmt ") + 8
    data[where : where + 2] = b"\x34\x12"
    path.write_bytes(data)
    with pytest.raises(AudioFormatError, match="codec is not known"):
        decode_file(path)


def test_channels_without_a_layout_are_mixed_too(tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    write_media(path, "pcm_s16le", 48000, tone(48000, 2))
    data = bytearray(path.read_bytes())
    # Three channels and no channel mask: one and a half seconds of stereo are one second of three.
    fmt = data.index(b"fmt ")
    assert int.from_bytes(data[fmt + 10 : fmt + 12], "little") == 2
    data[fmt + 10 : fmt + 12] = (3).to_bytes(2, "little")
    data[fmt + 16 : fmt + 20] = (48000 * 6).to_bytes(4, "little")
    data[fmt + 20 : fmt + 22] = (6).to_bytes(2, "little")
    path.write_bytes(data)
    assert decode_file(path).size == pytest.approx(SAMPLE_RATE, abs=2)


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "n_channels", "edge_s", "level"),
    [
        ("wav", "pcm_s16le", 44100, 2, 0.001, LEVEL),
        ("wav", "pcm_f32le", 48000, 2, 0.001, LEVEL),
        ("wav", "pcm_s24le", 48000, 1, 0.001, LEVEL),
        ("wav", "pcm_mulaw", 8000, 1, 0.001, LEVEL),
        ("flac", "flac", 48000, 2, 0.001, LEVEL),
        ("mp3", "libmp3lame", 44100, 2, 0.06, 0.95 * LEVEL),
        ("ogg", "flac", 44100, 2, 0.001, LEVEL),
        ("ogg", "libopus", 48000, 2, 0.06, LEVEL),
        ("webm", "libopus", 48000, 2, 0.06, LEVEL),
        ("m4a", "aac", 44100, 2, 0.06, LEVEL),
        ("mp4", "aac", 48000, 6, 0.06, 5 / 6 * LEVEL),
    ],
)
def test_every_container_and_codec_gives_the_tone(
    tmp_path: Path, suffix: str, codec: str, rate: int, n_channels: int, edge_s: float, level: float
) -> None:
    # LAME scales by 0.95, and AAC keeps no 1 kHz in the low-frequency channel of 5.1.
    path = tmp_path / f"tone.{suffix}"
    write_media(path, codec, rate, tone(rate, n_channels))
    assert_is_tone(decode_file(path), edge_s=edge_s, level=level)


def test_sound_of_a_video_is_found(tmp_path: Path) -> None:
    path = tmp_path / "clip.mp4"
    write_media(path, "aac", 48000, tone(48000, 2), video=True)
    assert_is_tone(decode_file(path), edge_s=0.06)


def test_format_may_change_in_mid_stream(tmp_path: Path) -> None:
    # A chained Ogg: a second file behind the first, at another number of channels.
    parts = []
    for n_channels in (1, 2):
        path = tmp_path / f"{n_channels}.ogg"
        write_media(path, "flac", 48000, tone(48000, n_channels))
        parts.append(path.read_bytes())
    path = tmp_path / "chained.ogg"
    path.write_bytes(b"".join(parts))
    assert_is_tone(decode_file(path), edge_s=0.01, seconds=2 * SECONDS)


def test_truncated_file_gives_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "tone.mp3"
    write_media(path, "libmp3lame", 44100, tone(44100))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert 0.3 * SECONDS < decode_file(path).size / SAMPLE_RATE < 0.7 * SECONDS


def test_damage_in_the_middle_loses_only_the_middle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tone.m4a"
    write_media(path, "aac", 44100, tone(44100, seconds=6))
    data = bytearray(path.read_bytes())
    middle = data.index(b"mdat") + 8 + 2000
    data[middle : middle + 3000] = b"\xff" * 3000
    path.write_bytes(data)
    assert 4 < decode_file(path).size / SAMPLE_RATE < 6.1
    assert "damaged" in caplog.text


def test_progress_runs_to_the_duration(tmp_path: Path) -> None:
    path = tmp_path / "tone.flac"
    write_media(path, "flac", 48000, tone(48000))
    calls: list[tuple[str, int, int]] = []
    decode_file(path, lambda what, done, total: calls.append((what, done, total)))
    assert {(what, total) for what, _, total in calls} == {("decode", 1500)}
    done = [done for _, done, _ in calls]
    assert done == sorted(done)
    assert done[-1] == 1500


def test_fifo_is_read_to_its_end(tmp_path: Path) -> None:
    media, fifo = tmp_path / "tone.mp4", tmp_path / "fifo"
    write_media(media, "aac", 48000, tone(48000, 1))  # its index stands at the end: it must be spooled
    os.mkfifo(fifo)
    writer = threading.Thread(target=lambda: fifo.write_bytes(media.read_bytes()))
    writer.start()
    pcm = decode_file(fifo)
    writer.join()
    assert_is_tone(pcm, edge_s=0.06)


def test_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "tone.wav"
    write_media(path, "pcm_s16le", 16000, tone(16000))
    with path.open("rb") as file:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(file))
        assert_is_tone(decode_file("-"), edge_s=0.001)
        assert not file.closed  # standard input is not ours to close


def test_playlist_cannot_open_another_file(tmp_path: Path) -> None:
    write_media(tmp_path / "secret.ts", "aac", 48000, tone(48000))
    path = tmp_path / "list.m3u8"
    path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.5,\nsecret.ts\n#EXT-X-ENDLIST\n")
    with pytest.raises(AudioFormatError, match=r"list\.m3u8"):
        decode_file(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 4096, "not a media file"),
        (b"this is not sound\n" * 100, "not a media file|no audio track"),
        (
            b"RIFF\x24\x00\x00\x00WAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\0\0\0\0",
            "no audio",
        ),
    ],
)
def test_what_is_not_audio_is_refused_in_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "thing.wav"
    path.write_bytes(content)
    with pytest.raises(AudioFormatError, match=rf"^\S*thing\.wav: .*({reason})") as caught:
        decode_file(path)
    assert "\n" not in str(caught.value)


def test_video_without_sound_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "silent.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(
            stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24"))
        )
        container.mux(stream.encode(None))
    with pytest.raises(AudioFormatError, match="no audio track"):
        decode_file(path)


def test_absent_file_and_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(AudioFormatError, match=r"absent\.wav: No such file"):
        decode_file(tmp_path / "absent.wav")
    with pytest.raises(AudioFormatError, match="directory"):
        decode_file(tmp_path)


def test_file_with_nan_is_refused_by_name(tmp_path: Path) -> None:
    samples = tone(16000)
    samples[0, 100] = np.nan
    path = tmp_path / "nan.wav"
    write_media(path, "pcm_f32le", 16000, samples)
    with pytest.raises(AudioFormatError, match=r"nan\.wav: .*nan"):
        decode_file(path)


def test_as_pcm_returns_contiguous_input_itself() -> None:
    pcm = tone(16000)[0].copy()
    assert as_pcm(pcm) is pcm


def test_as_pcm_copies_strided_input() -> None:
    pcm = np.arange(20, dtype=np.float32)[::2]
    out = as_pcm(pcm)
    assert out.flags.c_contiguous
    assert np.array_equal(out, pcm)


def test_as_pcm_takes_large_finite_numbers() -> None:
    assert as_pcm(np.full(8, np.finfo(np.float32).max)).size == 8  # their sum overflows, they do not


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(10), r"float64.*astype\(numpy\.float32\)"),
        (np.zeros(10, np.int16), r"int16.*astype\(numpy\.float32\) / 32768"),
        (np.zeros(10, bool), "bool"),
        (np.zeros((10, 2), np.float32), r"\(10, 2\)"),
        (np.array([0, 1, np.nan], np.float32), "sample 2 is nan"),
        (np.array([0, -np.inf, np.nan], np.float32), "sample 1 is -inf"),
        ([0.0, 1.0], "list"),
    ],
)
def test_as_pcm_refuses_and_says_what_to_do(array: NDArray[np.float32], reason: str) -> None:
    with pytest.raises(AudioFormatError, match=reason):
        as_pcm(array)
