"""PCM bytes to mono float32 against NumPy, the G.711 formulas and FFmpeg; any chunking, the same bits."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from transcriber._resample import ENCODINGS, PcmDecoder, Resampler
from transcriber.errors import AudioFormatError

SAMPLE_BYTES = {"s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "mulaw": 1, "alaw": 1}
CHANNELS = range(1, 9)


def g711_mulaw(code: int) -> int:
    """ITU-T G.711 table 2: 33 is added before the segments, and taken off again; 14 to 16 bits."""
    code = 255 - code
    segment, step = code % 128 // 16, code % 16
    magnitude: int = (2 * step + 33) * 2**segment - 33
    return 4 * (-magnitude if code >= 128 else magnitude)


def g711_alaw(code: int) -> int:
    """ITU-T G.711 table 1: two segments with the same step, then each doubles it; 13 to 16 bits."""
    code ^= 0b0101_0101
    segment, step = code % 128 // 16, code % 16
    magnitude: int = 2 * step + 1 if segment == 0 else (2 * step + 33) * 2 ** (segment - 1)
    return 8 * (magnitude if code >= 128 else -magnitude)


def oracle(encoding: str, n_channels: int, data: bytes) -> NDArray[np.float32]:
    """Decode the whole frames in `data` in float64."""
    n_frames = len(data) // (SAMPLE_BYTES[encoding] * n_channels)
    data = data[: n_frames * n_channels * SAMPLE_BYTES[encoding]]
    if encoding == "s24le":
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3).astype(np.int64)
        unsigned = parts @ np.array([1, 256, 65536])
        samples = (unsigned - (unsigned >= 2**23) * 2**24) / 2**23
    elif encoding in ("mulaw", "alaw"):
        law = g711_mulaw if encoding == "mulaw" else g711_alaw
        samples = np.array([law(code) for code in data], dtype=np.float64) / 2**15
    else:
        dtype, full_scale = {"s16le": ("<i2", 2**15), "s32le": ("<i4", 2**31), "f32le": ("<f4", 1)}[encoding]
        samples = np.frombuffer(data, dtype).astype(np.float64) / full_scale
    total = np.zeros(n_frames)
    for channel in samples.reshape(n_frames, n_channels).T:
        total += channel
    return (total / n_channels).astype(np.float32)


def random_bytes(encoding: str, n_bytes: int, seed: int = 20240) -> bytes:
    rng = np.random.default_rng(seed)
    if encoding == "f32le":
        return rng.uniform(-1.5, 1.5, n_bytes // 4 + 1).astype("<f4").tobytes()[:n_bytes]
    return rng.bytes(n_bytes)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("n_channels", CHANNELS)
def test_every_encoding_and_channel_count_matches_the_float64_mean(encoding: str, n_channels: int) -> None:
    data = random_bytes(encoding, 4099 * n_channels)
    frames = PcmDecoder(encoding, n_channels).decode(data)
    assert frames.dtype == np.float32
    assert frames.tobytes() == oracle(encoding, n_channels, data).tobytes()


@pytest.mark.parametrize(
    ("encoding", "data", "value"),
    [
        ("s16le", b"\x00\x80", -1.0),
        ("s16le", b"\xff\x7f", 32767 / 32768),
        ("s24le", b"\x00\x00\x80", -1.0),
        ("s24le", b"\xff\xff\x7f", 8388607 / 8388608),
        ("s24le", b"\xff\xff\xff", -1 / 8388608),
        ("s32le", b"\x00\x00\x00\x80", -1.0),
        ("s32le", b"\x01\x00\x00\x00", 1 / 2147483648),
        ("f32le", b"\x00\x00\x00\xc0", -2.0),
        ("f32le", b"\x01\x00\x00\x00", 2.0**-149),
        ("mulaw", b"\x00", -32124 / 32768),
        ("mulaw", b"\x80", 32124 / 32768),
        ("mulaw", b"\xff", 0.0),
        ("alaw", b"\x2a", -32256 / 32768),
        ("alaw", b"\xaa", 32256 / 32768),
        ("alaw", b"\xd5", 8 / 32768),
    ],
)
def test_the_ends_of_each_scale(encoding: str, data: bytes, value: float) -> None:
    assert PcmDecoder(encoding, 1).decode(data).tolist() == [value]


@pytest.mark.parametrize("encoding", ["mulaw", "alaw"])
def test_all_256_codes_match_ffmpeg(encoding: str) -> None:
    codes = bytes(range(256))
    with av.open(io.BytesIO(codes), "r", format=encoding, options={"sample_rate": "8000"}) as container:
        blocks = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
    linear = np.concatenate(blocks)
    assert linear.dtype == np.int16
    assert (PcmDecoder(encoding, 1).decode(codes) * 32768).tolist() == linear.tolist()


def test_eight_channels_of_the_largest_float_do_not_overflow() -> None:
    largest = np.full(8, np.nextafter(np.float32(2**99), np.float32(0)), dtype="<f4")
    assert PcmDecoder("f32le", 8).decode(largest.tobytes()).tolist() == [largest[0]]
    filtered = Resampler(48000).process(np.resize(largest * [1, -1, 1, 1, -1, -1, -1, 1], 960).astype("f4"))
    assert np.isfinite(filtered).all()
    beyond = np.full(8, 2**99, dtype="<f4")
    with pytest.raises(AudioFormatError, match="absurdly large"):
        PcmDecoder("f32le", 8).decode(beyond.tobytes())


@given(
    encoding=st.sampled_from(ENCODINGS),
    n_channels=st.sampled_from(CHANNELS),
    sizes=st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 7, 31, 32, 33, 500]), max_size=30),
)
def test_any_chunking_gives_the_same_bits(encoding: str, n_channels: int, sizes: list[int]) -> None:
    data = random_bytes(encoding, sum(sizes))
    decoder = PcmDecoder(encoding, n_channels)
    pieces, at = [], 0
    for size in sizes:
        pieces.append(decoder.decode(data[at : at + size]))
        at += size
        assert decoder.carry_bytes == at % (SAMPLE_BYTES[encoding] * n_channels)
    streamed = b"".join(piece.tobytes() for piece in pieces)
    assert streamed == PcmDecoder(encoding, n_channels).decode(data).tobytes()


@given(
    n_channels=st.sampled_from(CHANNELS),
    n_before=st.integers(0, 40),
    n_in_chunk=st.integers(1, 40),
    data=st.data(),
)
def test_a_chunk_that_completes_a_non_finite_sample_is_refused_whole(
    n_channels: int, n_before: int, n_in_chunk: int, data: st.DataObject
) -> None:
    """Wherever the chunk begins and ends, and wherever in it the bad sample's last byte lies."""
    clean = random_bytes("f32le", n_before + n_in_chunk + 200)
    ends = [end for end in range(n_before + 1, n_before + n_in_chunk + 1) if end % 4 == 0]
    if not ends:
        return
    end = data.draw(st.sampled_from(ends))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 2.0**99, -(2.0**127)]))
    damaged = bytearray(clean)
    damaged[end - 4 : end] = np.array([bad], dtype="<f4").tobytes()
    before, chunk = bytes(damaged[:n_before]), bytes(damaged[n_before : n_before + n_in_chunk])

    decoder = PcmDecoder("f32le", n_channels)
    frames = [decoder.decode(before)]
    carry = decoder.carry_bytes
    with pytest.raises(AudioFormatError, match=f"a chunk of {n_in_chunk} bytes holds NaN, infinity"):
        decoder.decode(chunk)
    assert decoder.carry_bytes == carry

    # As if the refused chunk had never been: what follows continues the bytes before it.
    after = np.full(50 * n_channels, 0.25, dtype="<f4").tobytes()[n_before % 4 :]
    rest = before[len(before) - len(before) % 4 :] + after
    if not (np.abs(np.frombuffer(rest[: len(rest) // 4 * 4], "<f4")) < 2**99).all():
        return  # the bad sample's first bytes lie in the accepted part and would make another bad one
    frames.append(decoder.decode(after))
    streamed = b"".join(part.tobytes() for part in frames)
    assert streamed == oracle("f32le", n_channels, before + after).tobytes()


def test_bytes_like_objects_of_any_kind_are_taken() -> None:
    data = random_bytes("s16le", 64)
    expected = oracle("s16le", 1, data).tobytes()
    for chunk in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.int16)):
        assert PcmDecoder("s16le", 1).decode(chunk).tobytes() == expected
    with pytest.raises(TypeError):
        PcmDecoder("s16le", 1).decode("text")  # type: ignore[arg-type]


def test_misaligned_bytes_are_read_right() -> None:
    for encoding in ENCODINGS:
        data = random_bytes(encoding, 4001)
        for offset in range(4):
            shifted = memoryview(bytes(offset) + data)[offset:]
            assert PcmDecoder(encoding, 1).decode(shifted).tobytes() == oracle(encoding, 1, data).tobytes()


@pytest.mark.parametrize("encoding", ["s16", "S16LE", "", "opus"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(AudioFormatError, match=r"^encoding: need one of s16le, .*alaw, got "):
        PcmDecoder(encoding, 1)


@pytest.mark.parametrize("n_channels", [-1, 0, 9])
def test_a_channel_count_out_of_range_is_refused(n_channels: int) -> None:
    with pytest.raises(AudioFormatError, match=r"^n_channels: need 1\.\.8, got "):
        PcmDecoder("s16le", n_channels)
