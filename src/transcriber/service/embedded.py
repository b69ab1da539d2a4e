"""A nats-server of our own on the loopback interface, for one machine, demonstrations and tests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from transcriber.errors import TranscriberError

__all__ = ["EmbeddedServer", "EmbeddedServerError", "find_server"]

START_TIMEOUT_S = 10.0  # it takes 0.1 s; a loaded machine may take longer

# Runs in the child, then becomes the server. The kernel kills it when its parent dies, by kill -9 too: a
# server that nobody owns would hold its port for ever. The parent may have died before the request was made,
# hence the comparison.
_BECOME_SERVER = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class EmbeddedServerError(TranscriberError, RuntimeError):
    """The embedded nats-server is not installed or does not start."""


def find_server() -> Path:
    """Return the nats-server program: beside this Python first, since the `embedded` extra puts it there."""
    beside = Path(sys.executable).parent
    for folder in (str(beside), None):
        found = shutil.which("nats-server", path=folder)
        if found is not None:
            return Path(found)
    raise EmbeddedServerError(
        f"nats-server is neither in {beside} nor on the PATH; install one, or install this package with its "
        'extra: pip install ".[embedded]" in the checkout'
    )


class EmbeddedServer:
    """A nats-server process that lives no longer than this one.

    Parameters
    ----------
    port : int
        0 lets the server choose a free one.

    Notes
    -----
    Start it from the main thread: on Linux the server dies with the thread that started it. Its JetStream
    storage is a private directory that `stop` removes. It has a process group of its own, so that Ctrl-C in a
    terminal reaches us and not it, and the last transcripts still go out.
    """

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._home: Path | None = None
        self.url = ""

    async def start(self) -> None:
        """Start the server and wait until it listens; `EmbeddedServerError` with its own reason."""
        program = find_server()
        self._home = Path(tempfile.mkdtemp(prefix="transcriber-nats-"))  # mode 0700
        self._process = subprocess.Popen(  # noqa: ASYNC220 - a fork takes a millisecond, and nobody is served yet
            [
                *(sys.executable, "-I", "-S", "-c", _BECOME_SERVER, str(os.getpid()), str(program)),
                *("--addr", "127.0.0.1", "--port", str(self._port or -1)),
                *("--jetstream", "--store_dir", str(self._home / "jetstream")),
                *("--ports_file_dir", str(self._home), "--log", str(self._home / "log")),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        ports = self._home / f"nats-server_{self._process.pid}.ports"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            # The server writes the file when it listens, but not atomically.
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                self.url = json.loads(ports.read_text())["nats"][0]
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                reason = self._last_words()
                self.stop()
                raise EmbeddedServerError(f"the embedded nats-server does not start: {reason}")
            await asyncio.sleep(0.005)

    def stop(self, timeout_s: float = 1.0) -> None:
        """Stop the server, politely for `timeout_s` and then by force, and remove its storage."""
        if self._process is not None:
            self._process.terminate()  # it sends what it still holds for its clients
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def _last_words(self) -> str:
        assert self._home is not None
        with contextlib.suppress(OSError):
            lines = (self._home / "log").read_text(errors="replace").splitlines()
            for line in reversed(lines):
                if "[FTL]" in line:
                    return line.partition("[FTL]")[2].strip()
        return f"no word from it within {START_TIMEOUT_S:g} s"

    async def __aenter__(self) -> EmbeddedServer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
