"""Who may connect, and what is said to those who may not."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import nats.errors
import nkeys  # type: ignore[import-untyped]  # it has no stubs
import pytest

from transcriber.errors import ConfigError
from transcriber.service import broker
from transcriber.service.config import DaemonConfig
from transcriber.service.daemon import Daemon

if TYPE_CHECKING:
    from tests.integration.conftest import NatsServer


@pytest.fixture
def key(tmp_path: Path) -> tuple[Path, str]:
    """A file with a seed, and the public key that belongs to it."""
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    path = tmp_path / "daemon.nk"
    path.write_bytes(seed + b"\n")
    return path, nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_an_nkey_lets_in_and_nothing_else_does(nats_server: NatsServer, key: tuple[Path, str]) -> None:
    seed, public = key
    nats_server.kill()
    nats_server.start(authorization={"users": [{"nkey": public}]})
    connection = await broker.connect(broker.Access(nats_server.url, nkey_seed=seed), "test")
    await connection.flush()
    await connection.close()
    with pytest.raises(broker.BrokerError, match="Authorization Violation"):
        await broker.connect(broker.Access(nats_server.url), "test")


@pytest.mark.parametrize(
    ("setting", "content", "says"),
    [
        ("nkey_seed", b"nonsense", "TRANSCRIBER_NATS_NKEY is .*not an nkey seed"),
        ("creds", b"nonsense", "TRANSCRIBER_NATS_CREDS is .*not a NATS credentials file"),
        ("ca", b"nonsense", "TRANSCRIBER_NATS_CA is .*not a readable PEM file"),
        ("ca", None, "TRANSCRIBER_NATS_CA is .*No such file"),
    ],
)
async def test_a_file_that_is_not_what_it_should_be_is_refused_by_its_setting(
    tmp_path: Path, setting: str, content: bytes | None, says: str
) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        await broker.connect(broker.Access("nats://127.0.0.1:9", **{setting: path}), "test")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
        ("nats://me:pass@a:1,tls://token@b:2", "nats://a:1,tls://b:2"),
        ("me:p@ss@host:4222", "nats://host:4222"),
    ],
)
def test_shown_urls_have_no_secrets(url: str, shown: str) -> None:
    assert broker.shown_url(url) == shown


async def test_a_client_side_overflow_is_counted_and_not_logged_one_by_one(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    daemon = Daemon(DaemonConfig())
    connection = await broker.connect(broker.Access(nats_server.url), "test")
    subscription = await connection.subscribe("audio.*")
    overflow = nats.errors.SlowConsumerError("audio.a", "", 1, subscription)
    for _ in range(5000):
        daemon._on_async_error(overflow)
    assert daemon.chunks.dropped == {"slow_consumer": 5000}
    assert caplog.records == []
    await connection.close()
