"""A nats-server per test, the daemon as a process, and a listener that holds every message to the schema."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import nats
import numpy as np
import pytest
import yaml
from nats.aio.client import Client
from nats.aio.msg import Msg
from numpy.typing import NDArray

from transcriber.audio import decode_file
from transcriber.models import ggml
from transcriber.service.embedded import find_server

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60.0  # how long a test waits for what has to come; no test measures it


@pytest.fixture(scope="session")
def asyncapi() -> dict[str, Any]:
    """The document that is published for users of the service."""
    document: dict[str, Any] = yaml.safe_load((ROOT / "docs/asyncapi.yaml").read_text())
    return document


@pytest.fixture(scope="session")
def validate(asyncapi: dict[str, Any]) -> Callable[[str, Any], None]:
    """Hold a value to a schema of the document, by the schema's name."""
    schemas = asyncapi["components"]
    checker = jsonschema.Draft7Validator.FORMAT_CHECKER

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": schemas}
        jsonschema.Draft7Validator(schema, format_checker=checker).validate(value)

    return check


@pytest.fixture(scope="session")
def quick_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole Whisper model of one narrow layer that says " word" and stops, whatever it hears.

    It goes through all that the real one goes through in a fiftieth of the time, for the tests that are about
    streams, queues and messages and not about the text.
    """
    shape = ggml.HyperParameters(51865, 1500, 64, 1, 1, 448, 64, 1, 1, 80, 1)
    word, end_of_text = 1000, 50257
    parts = [
        shape.pack(),
        struct.pack("<2i", shape.n_mels, ggml.N_BINS),
        bytes(4 * shape.n_mels * ggml.N_BINS),
    ]
    known = {0: b" ", 1: b" -", 2: b" '", word: b" word"}  # whisper.cpp looks the first three up
    tokens = [known.get(token, b"t%d" % token) for token in range(end_of_text)]
    parts += [struct.pack("<i", len(tokens)), *(struct.pack("<i", len(token)) + token for token in tokens)]
    for name, (dimensions, kind) in ggml.expected_tensors(shape).items():
        values = np.zeros(dimensions, dtype="<f2" if kind.name == "f16" else "<f4")
        if (
            name == "decoder.ln.bias"
        ):  # the only thing that reaches the output, which is a column of the embedding
            values[0] = 1
        elif name == "decoder.token_embedding.weight":
            values[end_of_text, 0] = 40
            values[word, 0] = 30  # comes first: whisper.cpp does not let a text begin with its end
        parts += [ggml.tensor_header(name, dimensions, kind), values.tobytes()]
    path = tmp_path_factory.mktemp("model") / "quick.bin"
    path.write_bytes(b"".join(parts))
    return path


class NatsServer:
    """A nats-server of one test, which can be killed and started again on the same port."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._process: subprocess.Popen[bytes] | None = None
        self.port = -1
        self.url = ""

    def start(self, **settings: Any) -> None:
        config = self._home / "nats.conf"
        config.write_text(
            "\n".join(
                f"{key}: {json.dumps(value)}"
                for key, value in {
                    "host": "127.0.0.1",
                    "port": self.port,
                    "ports_file_dir": str(self._home),
                    "log_file": str(self._home / "nats.log"),
                    **settings,
                }.items()
            )
        )
        self._process = subprocess.Popen([str(find_server()), "--config", str(config)])
        ports = self._home / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                self.url = json.loads(ports.read_text())["nats"][0]
                self.port = int(self.url.rpartition(":")[2])
                return
            assert self._process.poll() is None, (self._home / "nats.log").read_text()
            time.sleep(0.01)
        raise AssertionError("nats-server did not start")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running server."""
    server = NatsServer(tmp_path)
    # Bigger than the daemon takes, so that its own limit is what refuses.
    server.start(max_payload=16 * 1024 * 1024, max_pending=64 * 1024 * 1024)
    yield server
    server.kill()


class DaemonProcess:
    """A `transcriber-daemon` process."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        self.process = process
        self._errors = errors
        self.ready_line = ""
        self.output: list[str] = []

    @property
    def log(self) -> str:
        return self._errors.read_text()

    async def logs(self, words: str) -> None:
        """Wait until the daemon has logged this."""
        async with asyncio.timeout(PATIENCE_S):
            while words not in self.log:  # noqa: ASYNC110 - a file has no event
                await asyncio.sleep(0.01)

    def wait_ready(self) -> None:
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        assert "ready on nats://" in self.ready_line, (self.ready_line, self.log)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """Signal, wait, read the rest of the output; return the exit code and how long it took."""
        start = time.monotonic()
        self.process.send_signal(number)
        rest, _ = self.process.communicate(timeout=PATIENCE_S)
        self.output = rest.splitlines()
        return self.process.returncode, time.monotonic() - start

    def printed(self, name: str) -> str:
        """A line of the balance, without its name."""
        (line,) = [line for line in self.output if line.startswith(f"{name}:")]
        return line.partition(":")[2].strip()

    def samples(self, name: str) -> int:
        return int(self.printed(name).split()[0])


StartDaemon = Callable[..., DaemonProcess]


@pytest.fixture
def start_daemon(quick_model_path: Path, tmp_path: Path) -> Iterator[StartDaemon]:
    """Start daemons with the given flags and environment; those that a test leaves behind are killed.

    They have the quick model and one thread, unless the environment says otherwise.
    """
    daemons: list[DaemonProcess] = []

    def start(*flags: str, nats_url: str | None = None, ready: bool = True, **env: str) -> DaemonProcess:
        errors = tmp_path / f"daemon-{len(daemons)}.err"
        with errors.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "transcriber.service", *flags],
                env={
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    "WHISPER_MODEL_PATH": str(quick_model_path),
                    "WHISPER_THREADS": "1",
                    "TRANSCRIBER_LANGUAGE": "en",
                    **({"NATS_URL": nats_url} if nats_url else {}),
                    **env,
                },
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        daemon = DaemonProcess(process, errors)
        daemons.append(daemon)
        if ready:
            daemon.wait_ready()
        return daemon

    yield start
    for daemon in daemons:
        if daemon.process.poll() is None:
            daemon.process.kill()
        daemon.process.wait()
        assert daemon.process.stdout is not None
        daemon.process.stdout.close()
        assert "Traceback" not in daemon.log, daemon.log


@dataclass
class Bus:
    """A client that publishes audio and keeps every event, checked against the schema."""

    client: Client
    events: list[dict[str, Any]] = field(default_factory=list)
    news: asyncio.Condition = field(default_factory=asyncio.Condition)

    def of(self, kind: str, stream: str | None = None) -> list[dict[str, Any]]:
        return [e for e in self.events if e["type"] == kind and stream in (None, e["stream"])]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until the events that have come satisfy the condition."""
        async with asyncio.timeout(PATIENCE_S), self.news:
            await self.news.wait_for(condition)

    async def send(self, stream: str, payload: bytes, **headers: object) -> None:
        named = {name.replace("_", "-"): str(value) for name, value in headers.items()}
        await self.client.publish(f"audio.{stream}", payload, headers=named or None)

    async def send_all(self, stream: str, pcm: bytes) -> None:
        """Send 48 kHz mono s16le in chunks of 100 ms, without an end."""
        for start in range(0, len(pcm), 9600):
            await self.send(stream, pcm[start : start + 9600])


@pytest.fixture
async def bus(nats_server: NatsServer, validate: Callable[[str, Any], None]) -> AsyncIterator[Bus]:
    """A client that has subscribed to all that the daemon publishes."""
    client = await nats.connect(nats_server.url, max_reconnect_attempts=-1, reconnect_time_wait=0)
    bus = Bus(client)
    invalid: list[Exception] = []

    async def keep(msg: Msg) -> None:
        event = json.loads(msg.data)
        try:
            validate(event["type"].capitalize(), event)
            assert msg.subject == f"transcript.{event['stream']}.{event['type']}"
        except (jsonschema.ValidationError, AssertionError) as problem:
            invalid.append(problem)
        async with bus.news:
            bus.events.append(event)
            bus.news.notify_all()

    await client.subscribe("transcript.>", cb=keep)
    await client.flush()
    yield bus
    await client.close()
    assert not invalid, invalid[0]


@pytest.fixture(scope="session")
def speech(jfk_path: Path) -> NDArray[np.float32]:
    """Real speech, 16 kHz mono."""
    return decode_file(jfk_path)


@pytest.fixture(scope="session")
def speech_48k(speech: NDArray[np.float32]) -> bytes:
    """The same as 48 kHz s16le: each sample three times is crude, and quite good enough to be understood."""
    return np.repeat(speech * 32767, 3).astype("<i2").tobytes()
