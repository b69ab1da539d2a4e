"""`transcriber transcribe` and the one-call API on real weights and real speech."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from transcriber.audio import SAMPLE_RATE, decode_file
from transcriber.files import transcribe
from transcriber.result import Options

pty = pytest.importorskip("pty", reason="pseudo-terminals are POSIX")

WORDS = ["ask not what your country can do for you", "ask what you can do for your country"]
COMMAND = [sys.executable, "-c", "from transcriber.cli import main; main()", "transcribe", "--threads", "1"]


def cli(*arguments: str | Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, check=False)


def plain(text: str) -> str:
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def write_wav(path: Path, pcm: NDArray[np.float32]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((pcm * 32767).clip(-32768, 32767).astype("<i2").tobytes())


def test_jsonl_has_the_sentence_and_every_field_and_a_pipe_nothing_else(
    base_model_path: Path, jfk_path: Path, tmp_path: Path
) -> None:
    absent, broken = tmp_path / "absent.wav", tmp_path / "broken.mp3"
    broken.write_bytes(b"\0" * 10_000)
    done = cli(
        "--model", base_model_path, "--format", "jsonl", "--word-timestamps", absent, broken, jfk_path
    )  # fmt: skip
    assert done.returncode == 1, done.stderr.decode()  # two of the three could not be read
    complaints = done.stderr.decode().splitlines()
    assert [line.split(": ")[:2] for line in complaints] == [
        ["transcriber", str(absent)],
        ["transcriber", str(broken)],
    ]
    (line,) = done.stdout.decode().splitlines()
    document = json.loads(line)
    assert list(document) == ["path", "duration_ms", "language", "language_probability", "text", "segments"]
    assert document["path"] == str(jfk_path)
    assert document["duration_ms"] == 11_000
    assert document["language"] == "en"
    assert document["language_probability"] > 0.9
    assert all(words in plain(document["text"]) for words in WORDS)
    assert plain(" ".join(segment["text"] for segment in document["segments"])) == plain(document["text"])
    clock = 0
    for segment in document["segments"]:
        assert clock <= segment["start_ms"] < segment["end_ms"] <= document["duration_ms"]
        clock = segment["end_ms"]
        assert -1 < segment["avg_logprob"] <= 0
        assert "".join(word["text"] for word in segment["words"]).strip() == segment["text"]
        assert all(0 < word["probability"] <= 1 for word in segment["words"])


def test_vad_keeps_the_times_of_the_file_and_costs_nothing_on_silence(
    base_model_path: Path, jfk_path: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal(20 * SAMPLE_RATE) * 1e-4).astype(np.float32)
    path = tmp_path / "late.wav"
    write_wav(path, np.concatenate([noise, decode_file(jfk_path), noise]))
    result = transcribe(path, model=base_model_path, options=Options(language="en", threads=1), vad=True)
    assert all(words in plain(result.text) for words in WORDS)
    assert result.duration_ms == 51_000
    assert all(19_000 <= segment.start_ms < segment.end_ms <= 32_000 for segment in result.segments)
    silent = transcribe(noise, model=base_model_path, vad=True)
    assert (silent.text, silent.segments, silent.duration_ms) == ("", (), 20_000)


def test_unknown_language_is_a_usage_error(base_model_path: Path, jfk_path: Path) -> None:
    done = cli("--model", base_model_path, "--language", "klingon", jfk_path)
    assert done.returncode == 2
    assert b"klingon" in done.stderr
    assert done.stderr.count(b"\n") == 1


def test_wrong_model_is_one_line(tmp_path: Path, jfk_path: Path) -> None:
    model = tmp_path / "model.bin"
    model.write_bytes(b"not a model" * 100)
    done = cli("--model", model, jfk_path)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert str(model).encode() in done.stderr


@pytest.fixture
def _ctrl_c_counts() -> Iterator[None]:
    """Tests in the background of a shell inherit that Ctrl-C is ignored, and would pass that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_counts")
def test_terminal_sees_progress_and_interrupt_ends_it_quietly(
    base_model_path: Path, jfk_path: Path, tmp_path: Path
) -> None:
    path = tmp_path / "long.wav"
    write_wav(path, np.tile(decode_file(jfk_path), 20))
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, "--model", str(base_model_path), "--language", "en", str(path)],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        seen = bytearray()
        interrupted = False
        while chunk := _read(ours):
            seen += chunk
            if b"transcribe" in seen and not interrupted:  # the bar names the stage
                process.send_signal(signal.SIGINT)
                interrupted = True
        assert process.stdout is not None
        assert process.stdout.read() == b""
    os.close(ours)
    assert process.returncode == 130
    assert b"long.wav" in seen
    assert b"Traceback" not in seen


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # how Linux says that the other side is closed
        return b""


@pytest.mark.speech
def test_recordings_are_read_at_every_rate(speech_dir: Path) -> None:
    """Decoding alone, over each combination of rate and channels that the set holds."""
    manifest = [json.loads(line) for line in (speech_dir / "manifest.jsonl").read_text().splitlines()]
    one_of_each = {(clip["sample_rate"], clip["channels"]): clip for clip in manifest}
    for clip in one_of_each.values():
        pcm = decode_file(speech_dir / clip["file"])
        assert pcm.size / SAMPLE_RATE == pytest.approx(clip["duration_s"], abs=0.01), clip["file"]
