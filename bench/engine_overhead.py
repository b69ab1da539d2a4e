"""CPU time of our engine against whisper.cpp's own program, on the same file, threads and options.

    python bench/engine_overhead.py --pairs 5

Builds whisper-cli out of vendor/whisper.cpp/tree with the flags of our CMakeLists.txt, into
build/whisper-cli. The two programs of a pair run at the same time on the same 16 kHz WAV file, each on its
own cores, which they swap from pair to pair: whatever else the machine does, it does to both. CPU time is
user + system of the whole process as the kernel counts it: weights, file, interpreter start and all threads
are in it. Two ratios, ours / theirs, come out as medians over the pairs:

whole process
    What a user pays for this file.
without start
    The same less what `transcriber transcribe --help` costs, which is Python and its imports, once per run
    however many files. What is left is what the engine adds to whisper.cpp.

Both must give the same text, or nothing was compared. Linux only.
"""

from __future__ import annotations

import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import wave
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from transcriber import models
from transcriber.audio import SAMPLE_RATE, decode_file

ROOT = Path(__file__).resolve().parents[1]
TREE = ROOT / "vendor" / "whisper.cpp" / "tree"
BUILD = ROOT / "build" / "whisper-cli"
FLAGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "BUILD_SHARED_LIBS": "OFF",
    "GGML_LLAMAFILE": "ON",
    "GGML_OPENMP": "OFF",
    "GGML_CCACHE": "OFF",
    "GGML_NATIVE": "ON",
    "WHISPER_BUILD_EXAMPLES": "ON",
    "WHISPER_BUILD_SERVER": "OFF",
    "WHISPER_BUILD_TESTS": "OFF",
}


def build_whisper_cli() -> Path:
    """Return the path of whisper-cli, built from the tree as it is now."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # cmake and ninja of this venv
    cmake = shutil.which("cmake", path=path)
    if cmake is None:
        raise click.ClickException("cmake is not installed: pip install cmake ninja")
    generator = ["-G", "Ninja"] if shutil.which("ninja", path=path) else []
    flags = [f"-D{name}={value}" for name, value in FLAGS.items()]
    for command in (
        [cmake, "-S", str(TREE), "-B", str(BUILD), "-Wno-dev", *generator, *flags],
        [cmake, "--build", str(BUILD), "--target", "whisper-cli", "-j2"],
    ):
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "PATH": path})
    return BUILD / "bin" / "whisper-cli"


def write_wav(target: Path, pcm: NDArray[np.float32]) -> None:
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())


class Run:
    """A command in a process of its own, on the given cores."""

    def __init__(self, command: list[str], cores: set[int]) -> None:
        self._command = command
        self._out = tempfile.TemporaryFile()  # noqa: SIM115  (closed in finish)
        self._process = subprocess.Popen(command, stdout=self._out, stderr=subprocess.DEVNULL)
        os.sched_setaffinity(self._process.pid, cores)

    def finish(self) -> tuple[float, str]:
        """Wait for its end; return user + system seconds and what it printed, in single spaces."""
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        if self._process.returncode != 0:
            raise click.ClickException(f"exit code {self._process.returncode}: {' '.join(self._command)}")
        with self._out as out:
            out.seek(0)
            return usage.ru_utime + usage.ru_stime, " ".join(out.read().decode().split())


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", default=5, show_default=True)
@click.option(
    "--threads", default=1, show_default=True, help="Of each program: twice as many cores are needed."
)
@click.option("--seconds", default=60, show_default=True, help="The audio is repeated until it is this long.")
@click.option("--model", default="base", show_default=True)
@click.option("--audio", type=click.Path(exists=True, path_type=Path), default=TREE / "samples" / "jfk.mp3")
def main(pairs: int, threads: int, seconds: int, model: str, audio: Path) -> None:
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2 * threads:
        raise click.UsageError(f"{threads} threads a side need {2 * threads} cores, there are {len(cores)}")
    halves = [set(cores[:threads]), set(cores[threads : 2 * threads])]
    weights = str(models.resolve(model))
    # Greedy with one candidate and no retry. Flash attention is on in both.
    theirs = [
        str(build_whisper_cli()), "-m", weights, "-t", str(threads), "-l", "en",
        "-bs", "1", "-bo", "1", "-nf", "-np",
    ]  # fmt: skip
    ours = [sys.executable, "-c", "from transcriber.cli import main; main()", "transcribe"]
    options = ["--model", weights, "--threads", str(threads), "--language", "en"]
    whole: list[float] = []
    without_start: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        wav = Path(directory) / "speech.wav"
        pcm = decode_file(audio)
        write_wav(wav, np.resize(pcm, max(pcm.size, seconds * SAMPLE_RATE)))
        for pair in range(pairs):
            start_s, _ = Run([*ours, "--help"], halves[pair % 2]).finish()
            our_run = Run([*ours, *options, str(wav)], halves[pair % 2])
            their_run = Run([*theirs, str(wav)], halves[(pair + 1) % 2])
            our_s, heard = our_run.finish()
            their_s, expected = their_run.finish()
            if heard != without_times(expected):
                raise click.ClickException(f"the texts differ\nours:   {heard}\ntheirs: {expected}")
            whole.append(our_s / their_s)
            without_start.append((our_s - start_s) / their_s)
            click.echo(
                f"pair {pair + 1}: ours {our_s:.2f} s ({start_s:.2f} s start), theirs {their_s:.2f} s CPU; "
                f"whole process {whole[-1]:.3f}, without start {without_start[-1]:.3f}"
            )
    click.echo(
        f"median of {pairs} pairs, {seconds} s of audio, {threads} threads, {model}: "
        f"whole process {statistics.median(whole):.3f}, without start {statistics.median(without_start):.3f}"
    )


def without_times(text: str) -> str:
    """Return whisper-cli's text without its "[00:00:00.000 --> 00:00:07.960]"."""
    return " ".join(re.sub(r"\[[\d:.]+ --> [\d:.]+\]", " ", text).split())


if __name__ == "__main__":
    main()
