"""Signals, starts that cannot work, and the server going away."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from transcriber.service.config import DaemonConfig

if TYPE_CHECKING:
    from tests.integration.conftest import Bus, DaemonProcess, NatsServer, StartDaemon

SECOND = 96_000


async def begin_inference(bus: Bus, pcm: bytes) -> None:
    """Send five seconds, and return when the daemon has taken them: a worker has them, for a second."""
    await bus.send_all("busy", pcm[: 5 * SECOND])
    await bus.send("probe", b"\0")  # half a frame; refused after everything before has been taken
    await bus.until(lambda: bus.of("error", "probe"))


async def test_sigterm_in_mid_inference_exits_within_the_grace_period_with_an_exact_balance(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, base_model_path: Path, speech_48k: bytes
) -> None:
    # The machine may be slow to schedule us: what has to fail in all of three attempts is a daemon that
    # waits.
    took = []
    for _ in range(3):
        bus.events.clear()
        # Real weights, which take a second at the very least, and the default grace period of 200 ms.
        daemon = start_daemon(nats_url=nats_server.url, WHISPER_MODEL_PATH=str(base_model_path))
        await begin_inference(bus, speech_48k)
        code, seconds = daemon.stop()
        assert code == 0
        assert daemon.output[0] == "transcriber-daemon: stopped (SIGTERM)"
        assert daemon.printed("balance") == "exact"
        assert daemon.printed("dropped") == "80000 samples (5.000 s); abandoned 80000"
        await bus.until(lambda: bus.of("end"))
        (gap,) = bus.of("gap")
        assert (gap["reason"], gap["duration_ms"]) == ("abandoned", 5000)
        assert bus.of("end")[0]["balance"]["dropped"] == {"abandoned": 80_000}
        took.append(seconds)
        if seconds <= 0.2:
            return
    pytest.fail(f"exits took {took} s")


async def test_a_long_grace_period_finishes_the_work(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, speech_48k: bytes
) -> None:
    daemon = start_daemon(nats_url=nats_server.url, TRANSCRIBER_GRACE_MS="60000")
    await bus.send_all("late", speech_48k[: 2 * SECOND])
    await bus.send("probe", b"\0")
    await bus.until(lambda: bus.of("error"))
    code, seconds = daemon.stop(signal.SIGINT)
    assert code == 0
    assert seconds < 50  # it does not sit out its grace period
    await bus.until(lambda: bus.of("end"))
    assert [event["type"] for event in bus.events] == ["error", "final", "end"]
    assert bus.of("final")[0]["flush"]
    assert bus.of("end")[0]["reason"] == "shutdown"
    assert daemon.printed("balance") == "exact"
    assert daemon.samples("flushed") == 2 * 16_000


async def test_a_second_signal_exits_at_once(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, base_model_path: Path, speech_48k: bytes
) -> None:
    daemon = start_daemon(
        nats_url=nats_server.url, WHISPER_MODEL_PATH=str(base_model_path), TRANSCRIBER_GRACE_MS="600000"
    )
    for i in range(8):  # half a minute of work or more
        await bus.send_all(f"much-{i}", speech_48k)
    await begin_inference(bus, speech_48k)
    daemon.process.send_signal(signal.SIGTERM)
    await daemon.logs("shutting down")
    code, seconds = daemon.stop()
    assert code == 128 + signal.SIGTERM
    assert seconds < 5


async def test_the_daemon_returns_by_itself_when_the_server_does(
    nats_server: NatsServer, bus: Bus, start_daemon: StartDaemon, speech_48k: bytes
) -> None:
    daemon = start_daemon(nats_url=nats_server.url)
    await bus.send_all("patient", speech_48k[:SECOND])
    await bus.send("probe", b"\0")
    await bus.until(lambda: bus.of("error", "probe"))
    nats_server.kill()
    await daemon.logs("disconnected")
    nats_server.start()
    n_probes = 0
    while not bus.of("error", f"probe-{n_probes}"):  # until it hears us again
        n_probes += 1
        await bus.send(f"probe-{n_probes}", b"\0")
        with contextlib.suppress(TimeoutError):
            async with bus.news:
                await asyncio.wait_for(bus.news.wait(), 0.5)
    await bus.send_all("patient", speech_48k[SECOND : 2 * SECOND])
    await bus.send("patient", b"", End=1)
    await bus.until(lambda: bus.of("end", "patient"))
    assert sum(event["n_samples"] for event in bus.of("final")) == 2 * 16_000
    assert "reconnected" in daemon.log
    assert daemon.process.poll() is None


def failed_start(daemon: DaemonProcess) -> tuple[int, str]:
    daemon.process.wait(60)
    return daemon.process.returncode, daemon.log


def test_no_server_is_one_line_and_exit_1(start_daemon: StartDaemon) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        daemon = start_daemon(nats_url=f"nats://me:secret@127.0.0.1:{port}", ready=False)
        code, log = failed_start(daemon)
    assert code == 1
    (line,) = log.splitlines()
    assert line.startswith(f"transcriber-daemon: cannot connect to NATS at nats://127.0.0.1:{port}: ")
    assert "secret" not in line


def test_a_bad_model_is_one_line_and_exit_1(
    nats_server: NatsServer, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    model = tmp_path / "not-a-model.bin"
    model.write_bytes(b"lmgg" + bytes(1000))
    daemon = start_daemon(nats_url=nats_server.url, WHISPER_MODEL_PATH=str(model), ready=False)
    code, log = failed_start(daemon)
    assert code == 1
    (line,) = log.splitlines()
    assert str(model) in line


def test_a_port_in_use_is_one_line_and_exit_1(nats_server: NatsServer, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--embedded-nats", "--embedded-nats-port", str(nats_server.port), ready=False)
    code, log = failed_start(daemon)
    assert code == 1
    (line,) = log.splitlines()
    assert "the embedded nats-server does not start" in line
    assert "address already in use" in line


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("TARGET_SAMPLE_RATE", "44100", "16000"),
        ("BUFFER_DURATION_SECS", "31", "1<=x<=30"),
        ("BUFFER_DURATION_SECS", "nan", "1<=x<=30"),
        ("TRANSCRIPTION_QUEUE_CAPACITY", "0", "1<=x<=64"),
        ("WHISPER_THREADS", "many", "integer"),
        ("TRANSCRIBER_LANGUAGE", "klingon", "auto"),
        ("TRANSCRIBER_LOG_LEVEL", "loud", "debug"),
        ("TRANSCRIBER_NATS_CREDS", "/nowhere.creds", "does not exist"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon", "grpc, http/protobuf"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_its_name_value_and_what_is_allowed(
    start_daemon: StartDaemon, variable: str, value: str, allowed: str
) -> None:
    endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    daemon = start_daemon(
        ready=False, **(endpoint if variable.startswith("OTEL") else {}), **{variable: value}
    )
    code, log = failed_start(daemon)
    assert code == 2
    (line,) = log.splitlines()
    assert line.startswith("transcriber-daemon: ")
    assert variable in line
    assert value in line
    assert allowed in line


def test_a_flag_overrides_its_variable(nats_server: NatsServer, start_daemon: StartDaemon) -> None:
    daemon = start_daemon("--buffer-duration-secs", "2.5", nats_url=nats_server.url, BUFFER_DURATION_SECS="7")
    assert "window 2.5 s" in daemon.ready_line


def test_help_names_every_variable() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "transcriber.service", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert shown.count("env var: ") == len(DaemonConfig.__dataclass_fields__)
