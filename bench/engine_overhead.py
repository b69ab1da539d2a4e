"""CPU time of our engine against whisper.cpp's own program, on the same file, threads and options.

    python bench/engine_overhead.py --pairs 5

Builds whisper-cli out of vendor/whisper.cpp/tree with the flags of our CMakeLists.txt, into
build/whisper-cli. Each pair runs both programs, in the other order than the pair before, on 30 s of speech,
and on 120 s or more, as 16 kHz WAV. CPU time is user + system of the whole child process as the kernel
counts it: loading the weights, reading the file, starting the interpreter and all threads are in it. Two
ratios, ours / theirs, come out as medians over the pairs:

whole process
    CPU(long file): what a user pays.
without start
    CPU(long file) - CPU(short file), on each side: start and load cancel out. What is left is inference, and
    what the engine adds to it.

Both must give the same text, or nothing was compared.
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
SHORT_S, LONG_S = 30, 120
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
    """Return the path of whisper-cli, built when it is absent."""
    program = BUILD / "bin" / "whisper-cli"
    if not program.exists():
        path = (
            f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # cmake and ninja of this venv
        )
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
    return program


def write_wav(target: Path, pcm: NDArray[np.float32]) -> None:
    with wave.open(str(target), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())


def cpu_seconds(command: list[str]) -> tuple[float, str]:
    """Run `command`; return user + system seconds of the process and its text, in single spaces."""
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise click.ClickException(f"exit code {process.returncode}: {' '.join(command)}")
        out.seek(0)
        return usage.ru_utime + usage.ru_stime, " ".join(out.read().decode().split())


@click.command(help=__doc__, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--pairs", default=3, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--model", default="base", show_default=True)
@click.option("--audio", type=click.Path(exists=True, path_type=Path), default=TREE / "samples" / "jfk.mp3")
def main(pairs: int, threads: int, model: str, audio: Path) -> None:
    weights = str(models.resolve(model))
    # Greedy with one candidate and no retry. Flash attention is on in both.
    theirs = [
        str(build_whisper_cli()), "-m", weights, "-t", str(threads), "-l", "en",
        "-bs", "1", "-bo", "1", "-nf", "-np",
    ]  # fmt: skip
    ours = [
        sys.executable, "-c", "from transcriber.cli import main; main()",
        "transcribe", "--model", weights, "--threads", str(threads), "--language", "en",
    ]  # fmt: skip
    whole: list[float] = []
    without_start: list[float] = []
    with tempfile.TemporaryDirectory() as directory:
        short, long = Path(directory) / "short.wav", Path(directory) / "long.wav"
        pcm = decode_file(audio)
        pcm = np.resize(pcm, max(pcm.size, LONG_S * SAMPLE_RATE))  # said again until it is long enough
        write_wav(short, pcm[: SHORT_S * SAMPLE_RATE])
        write_wav(long, pcm)
        for pair in range(pairs):
            cpu: dict[tuple[str, Path], float] = {}
            text: dict[tuple[str, Path], str] = {}
            for file in (short, long):
                sides = [("ours", ours), ("theirs", theirs)]
                for side, command in sides if pair % 2 == 0 else reversed(sides):
                    cpu[side, file], text[side, file] = cpu_seconds([*command, str(file)])
            heard, expected = text["ours", long], without_times(text["theirs", long])
            if heard != expected:
                raise click.ClickException(f"the texts differ\nours:   {heard}\ntheirs: {expected}")
            whole.append(cpu["ours", long] / cpu["theirs", long])
            without_start.append(
                (cpu["ours", long] - cpu["ours", short]) / (cpu["theirs", long] - cpu["theirs", short])
            )
            click.echo(
                f"pair {pair + 1}: ours {cpu['ours', short]:.2f} s and {cpu['ours', long]:.2f} s, theirs "
                f"{cpu['theirs', short]:.2f} s and {cpu['theirs', long]:.2f} s; "
                f"whole process {whole[-1]:.3f}, without start {without_start[-1]:.3f}"
            )
    click.echo(
        f"median of {pairs} pairs, {pcm.size / SAMPLE_RATE:.0f} s of audio, {threads} threads, {model}: "
        f"whole process {statistics.median(whole):.3f}, without start {statistics.median(without_start):.3f}"
    )


def without_times(text: str) -> str:
    """Return whisper-cli's text without its "[00:00:00.000 --> 00:00:07.960]"."""
    return " ".join(re.sub(r"\[[\d:.]+ --> [\d:.]+\]", " ", text).split())


if __name__ == "__main__":
    main()
