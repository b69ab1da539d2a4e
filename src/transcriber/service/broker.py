"""The connection to NATS: options that keep an audio service alive, and errors of one line."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import re
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol import parser

from transcriber.errors import ConfigError, TranscriberError

__all__ = ["Access", "BrokerError", "Connection", "connect", "shown_url"]

CONNECT_TIMEOUT_S = 3
PING_INTERVAL_S = 5
MAX_OUTSTANDING_PINGS = 2
# A peer that takes no bytes for as long as two unanswered pings is as dead as one that does not answer them.
USER_TIMEOUT_MS = PING_INTERVAL_S * MAX_OUTSTANDING_PINGS * 1000


# The server takes blanks, tabs, CR and LF for separators, nats-py any white space that Python knows. So a
# message to a subject with a vertical tab in it reads as a broken protocol and costs the connection, and with
# some care as a message to another subject. The groups are nats-py's; the tests publish to such subjects.
_TOKEN = rb"([^ \t\r\n]+)"
parser.MSG_RE = re.compile(rb"\AMSG " + _TOKEN + rb" (\d+) (" + _TOKEN + rb" )?(\d+)\r\n")
parser.HMSG_RE = re.compile(rb"\AHMSG " + _TOKEN + rb" (\d+) (" + _TOKEN + rb" )?(\d+) (\d+)\r\n")


class BrokerError(TranscriberError, ConnectionError):
    """NATS cannot be reached or does not let us in."""


@dataclass(frozen=True, slots=True)
class Access:
    """Where NATS is and who we are.

    Parameters
    ----------
    url : str
        One URL or several with commas between them.
    creds : Path or None
        A .creds file (JWT and seed).
    nkey_seed : Path or None
        A file with an nkey seed.
    ca : Path or None
        A PEM file of the authority that signed the server's certificate.
    """

    url: str
    creds: Path | None = None
    nkey_seed: Path | None = None
    ca: Path | None = None


class Connection(Client):
    """nats-py's client, made to survive whatever a publisher can put into a message.

    nats-py decodes subjects and header status lines strictly, inside its read loop, and any exception there
    ends the loop: one message to a subject that is not UTF-8 would make the daemon deaf. It also keeps only
    the last of repeated headers. So headers stay the raw block here, ``Msg.headers`` is bytes, and
    ``wire.parse`` reads them.
    """

    async def _process_headers(self, headers: bytes | None) -> Any:
        return headers or b""

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> Msg:
        return Msg(
            _client=self,
            subject=subject.decode("utf-8", "replace"),
            reply=reply.decode("utf-8", "replace"),
            data=data,
            headers=headers,
            _sid=sid,
        )

    def give_up_on_dead_peer(self) -> None:
        """Let the kernel report a peer that takes no more bytes.

        Without this a stalled server with unsent bytes hangs the client in closing the socket, for as long as
        TCP retries: many minutes.
        """
        option = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux
        writer = getattr(self._transport, "_io_writer", None)
        sock = writer.get_extra_info("socket") if writer is not None else None
        if option is not None and sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, option, USER_TIMEOUT_MS)


async def connect(
    access: Access,
    name: str,
    *,
    on_error: Callable[[Exception], None] | None = None,
    on_change: Callable[[str], None] | None = None,
) -> Connection:
    """Connect, once and within seconds; afterwards the connection comes back by itself for ever.

    Parameters
    ----------
    access : Access
        Server and identity.
    name : str
        What the server's monitoring calls this client.
    on_error : callable or None
        Called in the read loop for each asynchronous error, so it has to be quick: after an overflow that is
        once per dropped message.
    on_change : callable or None
        Called with "disconnected", "reconnected", "closed" or "lame duck".

    Raises
    ------
    BrokerError
        No server answered, or it refused us.
    ConfigError
        A credentials file cannot be used.
    """
    connection = Connection()
    attempt: list[Exception] = []
    connected = False

    async def error(problem: Exception) -> None:
        if not connected:
            attempt.append(problem)
        elif on_error is not None:
            on_error(problem)

    def change(what: str) -> Callable[[], Awaitable[None]]:
        async def callback() -> None:
            if what == "reconnected":
                connection.give_up_on_dead_peer()
            if connected and on_change is not None:
                on_change(what)

        return callback

    options: dict[str, Any] = {}
    if access.creds is not None:
        _check_creds(access.creds)
        options["user_credentials"] = str(access.creds)
    if access.nkey_seed is not None:
        _check_seed(access.nkey_seed, "TRANSCRIBER_NATS_NKEY")
        options["nkeys_seed"] = str(access.nkey_seed)
    if access.ca is not None:
        try:
            options["tls"] = ssl.create_default_context(cafile=str(access.ca))
        except OSError as problem:  # ssl.SSLError too
            raise ConfigError(
                f"TRANSCRIBER_NATS_CA is {access.ca}: not a readable PEM file ({problem})"
            ) from None
    shown = shown_url(access.url)
    connecting = connection.connect(
        access.url.split(","),
        name=name,
        error_cb=error,
        disconnected_cb=change("disconnected"),
        reconnected_cb=change("reconnected"),
        closed_cb=change("closed"),
        lame_duck_mode_cb=change("lame duck"),
        connect_timeout=CONNECT_TIMEOUT_S,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.5,  # type: ignore[arg-type]  # it goes to asyncio.sleep
        ping_interval=PING_INTERVAL_S,
        max_outstanding_pings=MAX_OUTSTANDING_PINGS,
        drain_timeout=10,
        pending_size=16 * 1024 * 1024,
        **options,
    )
    try:
        # Endless reconnecting would be endless connecting as well: a wrong URL has to end the start.
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await connecting
    except (TimeoutError, OSError, nats.errors.Error) as problem:
        with contextlib.suppress(Exception):  # half-open; there is nothing left to lose
            await connection.close()
        reason = attempt[-1] if attempt else problem
        raise BrokerError(
            f"cannot connect to NATS at {shown}: {str(reason) or type(reason).__name__}; is the server "
            "running, and is NATS_URL right?"
        ) from None
    connected = True
    connection.give_up_on_dead_peer()
    return connection


def shown_url(url: str) -> str:
    """Return the URL without user names, passwords and tokens, for logs and messages."""
    shown = []
    for one in url.split(","):
        parts = urlsplit(one if "://" in one else f"nats://{one}")
        shown.append(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
    return ",".join(shown)


def _check_creds(path: Path) -> None:
    """Refuse what is no .creds file: nats-py would look for the lines below for ever, on the event loop."""
    _nkeys("TRANSCRIBER_NATS_CREDS")
    text = _read(path, "TRANSCRIBER_NATS_CREDS")
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        raise ConfigError(f"TRANSCRIBER_NATS_CREDS is {path}: not a NATS credentials file")


def _check_seed(path: Path, variable: str) -> None:
    nkeys = _nkeys(variable)
    try:
        nkeys.from_seed(bytearray(_read(path, variable).strip())).wipe()
    except nkeys.NkeysError:
        raise ConfigError(f"{variable} is {path}: not an nkey seed") from None


def _nkeys(variable: str) -> Any:
    try:
        return importlib.import_module("nkeys")  # an extra of nats-py
    except ImportError:
        raise ConfigError(f"{variable} needs the nkeys package: pip install nkeys") from None


def _read(path: Path, variable: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise ConfigError(f"{variable} is {path}: {problem.strerror}") from None
