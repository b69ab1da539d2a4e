"""Memory of the daemon over minutes of real-time audio.

    python bench/soak.py --seconds 600

Starts `transcriber-daemon --embedded-nats` with its defaults, plays a recording into it in real time, again
and again, and samples the daemon's resident memory. Prints it per minute, the most, its growth after the
first minute, and the daemon's own balance.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from pathlib import Path

import click
import numpy as np

from transcriber.audio import decode_file

ROOT = Path(__file__).resolve().parents[1]


def rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert match is not None
    return int(match[1]) * 1024 / 1e6


def write_wav(path: Path, source: Path, seconds: float) -> None:
    pcm = decode_file(source)
    pcm = np.tile(pcm, int(np.ceil(seconds * 16000 / pcm.size)))[: int(seconds * 16000)]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((pcm * 32767).astype("<i2").tobytes())


@click.command()
@click.option("--seconds", default=600.0, show_default=True, help="Audio to play.")
@click.option(
    "--source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=ROOT / "vendor/whisper.cpp/tree/samples/jfk.mp3",
    help="Recording to repeat.",
)
def main(seconds: float, source: Path) -> None:
    """Measure the daemon's memory over real-time audio."""
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as directory:
        audio = Path(directory) / "audio.wav"
        write_wav(audio, source, seconds)
        daemon = subprocess.Popen(
            [
                programs / "transcriber-daemon",
                "--embedded-nats",
                "--grace-ms",
                "30000",
                "--log-level",
                "error",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert daemon.stdout is not None
        ready = daemon.stdout.readline()
        print(ready, end="")
        match = re.search(r"ready on (\S+)", ready)
        assert match is not None, "the daemon did not start"
        publish = subprocess.Popen(
            [programs / "transcriber", "publish", audio, "--stream", "soak", "--realtime"],
            env={**os.environ, "NATS_URL": match[1]},
            stdout=subprocess.DEVNULL,
        )
        started, samples = time.monotonic(), []
        while publish.poll() is None:
            time.sleep(1)
            samples.append(rss_mb(daemon.pid))
            if len(samples) % 60 == 0:
                print(f"{time.monotonic() - started:5.0f} s  {samples[-1]:6.1f} MB", flush=True)
        daemon.send_signal(signal.SIGTERM)
        print(daemon.communicate()[0], end="")
    after = samples[60:] or samples
    tenth = max(1, len(after) // 10)
    growth = statistics.median(after[-tenth:]) - statistics.median(after[:tenth])
    print(
        json.dumps({"seconds": seconds, "max_rss_mb": round(max(samples), 1), "growth_mb": round(growth, 1)})
    )


if __name__ == "__main__":
    main()
