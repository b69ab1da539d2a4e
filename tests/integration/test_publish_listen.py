"""`transcriber publish` and `transcriber listen` as programs, against a real server and daemon."""

from __future__ import annotations

import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest

from transcriber.cli.listen import caption
from transcriber.service.wire import ENCODINGS

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, NatsServer, StartDaemon

CLI = "from transcriber.cli import main; main()"


def run(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", CLI, *args], input=stdin, capture_output=True, check=False)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    """A second and a half of a tone, 44.1 kHz stereo."""
    tone = np.sin(np.arange(66_150) / 10) * 8000
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((2, 2, 44_100, 0, "NONE", ""))
        file.writeframes(np.repeat(tone, 2).astype("<i2").tobytes())
    return path


async def test_a_published_file_is_heard_by_a_listener(
    nats_server: NatsServer, start_daemon: StartDaemon, wav: Path
) -> None:
    daemon = start_daemon(nats_url=nats_server.url)
    url = ("--nats-url", nats_server.url)
    listeners = [
        subprocess.Popen(  # noqa: ASYNC220 - a test has nobody else to serve
            [sys.executable, "-c", CLI, "listen", *flags, *url, "--until-end", "--timeout", "60"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for flags in (("tone",), ("--json",))
    ]
    for listener in listeners:
        assert listener.stderr is not None
        assert listener.stderr.readline().startswith("listening on nats://")
    sent = run(
        "publish", str(wav), "--stream", "tone", "--realtime", "--channels", "2", "--chunk-ms", "50", *url
    )
    assert sent.returncode == 0, sent.stderr
    # 1.5 s at 48 kHz; the resampler of the decoder may give or take a few frames.
    words = sent.stdout.decode().split()
    assert words[:4] == ["tone:", "sent", "30", "chunks,"]
    n_bytes = int(words[6])
    assert abs(n_bytes - 72_000 * 4) < 100 * 4
    (text, _), (lines, _) = (listener.communicate(timeout=60) for listener in listeners)
    assert [listener.returncode for listener in listeners] == [0, 0]
    assert text == "00:00.0 word\n[end: end]\n"
    assert [json.loads(line)["type"] for line in lines.splitlines()] == ["final", "end"]
    daemon.stop()
    assert daemon.samples("received") == -(-n_bytes // 4 // 3)


async def test_every_format_that_can_be_published_is_taken(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, wav: Path
) -> None:
    daemon = start_daemon(nats_url=nats_server.url)
    formats = {"s16le": 1, "s24le": 2, "s32le": 3, "f32le": 6, "mulaw": 7, "alaw": 8}
    assert set(formats) == set(ENCODINGS)
    for encoding, n_channels in formats.items():
        sent = run(
            *(
                "publish",
                str(wav),
                "--stream",
                encoding,
                "--nats-url",
                nats_server.url,
                "--encoding",
                encoding,
            ),
            *("--sample-rate", "16000", "--channels", str(n_channels), "--language", "en"),
        )
        assert sent.returncode == 0, sent.stderr
    await bus.until(lambda: len(bus.of("end")) == len(formats))
    assert bus.of("error") == []
    for end in bus.of("end"):
        assert abs(end["balance"]["received"] - 24_000) < 100
    daemon.stop()


async def test_raw_pcm_on_stdin_is_sent_in_whole_frames(nats_server: NatsServer, bus: Bus) -> None:
    received: list[Any] = []

    async def keep(msg: Any) -> None:
        received.append(msg)

    await bus.client.subscribe("audio.pipe", cb=keep)
    await bus.client.flush()
    pcm = bytes(range(256)) * 100 + b"\1"  # half a frame too much
    sent = run(
        *("publish", "-", "--stream", "pipe", "--nats-url", nats_server.url, "--sample-rate", "16000"),
        stdin=pcm,
    )
    assert sent.returncode == 0, sent.stderr
    assert b"pipe: sent 8 chunks, 0.800 s, 25600 bytes and the end of the stream" in sent.stdout
    assert b"the last 1 bytes are no whole frame" in sent.stderr
    await bus.client.flush()
    assert b"".join(msg.data for msg in received) == pcm[:-1]
    assert [msg.headers.get("Seq") for msg in received] == [*map(str, range(8)), None]
    assert received[-1].headers == {"End": "1"}
    assert received[0].headers["Sample-Rate"] == "16000"


def test_errors_are_one_line(tmp_path: Path, nats_server: NatsServer, wav: Path) -> None:
    (tmp_path / "text.mp3").write_text("not audio at all")
    url = ("--nats-url", nats_server.url)
    for args, code, says in (
        (("publish", str(tmp_path / "absent.mp3"), "--stream", "s", *url), 1, "absent.mp3"),
        (("publish", str(tmp_path / "text.mp3"), "--stream", "s", *url), 1, "text.mp3"),
        (("publish", str(wav), "--stream", "a b", *url), 2, "stream id"),
        (("publish", str(wav), "--stream", "s", "--nats-url", "nats://127.0.0.1:1"), 1, "NATS_URL"),
        (("listen", "a.b.>", *url), 2, "stream id"),
        (("listen", "--until-end", "--timeout", "0.2", *url), 1, "0.2 s"),
    ):
        done = run(*args)
        *progress, line = done.stderr.decode().splitlines()
        assert done.returncode == code, done
        assert says in line
        assert all(shown.startswith("listening on") for shown in progress)


def test_captions_are_plain_lines() -> None:
    final = {"type": "final", "stream": "a", "start_ms": 3_661_950, "text": " \x1b[2Jhi\n"}
    gap = {"type": "gap", "stream": "a", "start_ms": 5000, "duration_ms": 5000, "reason": "queue_full"}
    error = {"type": "error", "stream": "a", "code": "bad_seq", "message": "no"}
    assert click.unstyle(caption(final, name=True)) == "1:01:01.9 a [2Jhi"
    assert "\x1b[2J" not in caption(final, name=True)
    assert click.unstyle(caption(gap, name=False)) == "00:05.0 [5.0 s lost: queue_full]"
    assert click.unstyle(caption(error, name=True)) == "a [bad_seq: no]"
    assert caption({**final, "text": " "}, name=True) == ""
