"""`transcriber listen`: live captions in the terminal."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click
from nats.aio.msg import Msg

from transcriber.errors import ProtocolError
from transcriber.service import broker, wire
from transcriber.service.config import nats_options

__all__ = ["caption", "listen_command"]


@click.command("listen", context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("stream", required=False)
@click.option(
    "--json", "as_json", is_flag=True, help="One event as JSON per line, as docs/asyncapi.yaml says."
)
@click.option("--until-end", is_flag=True, help="Exit when the stream (or the first one) has ended.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Stop after so long. With --until-end that is a failure, exit code 1.",
)
@nats_options
def listen_command(
    stream: str | None,
    as_json: bool,
    until_end: bool,
    timeout_s: float | None,
    nats_url: str,
    nats_creds: Path | None,
    nats_nkey: Path | None,
    nats_ca: Path | None,
) -> None:
    """Show what is said on STREAM, or on all streams, as it comes.

    Audio that was lost shows as a gap: [5.0 s lost: queue_full]. Ctrl-C ends it.
    """
    if stream is not None:
        try:
            wire.stream_of(f"audio.{stream}")
        except ProtocolError as problem:
            raise click.BadParameter(str(problem), param_hint="STREAM") from None
    access = broker.Access(nats_url, nats_creds, nats_nkey, nats_ca)
    try:
        asyncio.run(_listen(access, stream, as_json, until_end, timeout_s))
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130 if until_end else 0) from None
    except TimeoutError:
        if until_end:
            raise click.ClickException(f"no stream has ended within {timeout_s:g} s") from None


async def _listen(
    access: broker.Access, stream: str | None, as_json: bool, until_end: bool, timeout_s: float | None
) -> None:
    over = asyncio.Event()

    async def show(msg: Msg) -> None:
        try:
            event = json.loads(msg.data)
            line = msg.data.decode().replace("\n", " ") if as_json else caption(event, name=stream is None)
        except (ValueError, KeyError, TypeError, AttributeError):
            return  # not the daemon's: anybody may publish here where the server lets them
        if line:
            click.echo(line, color=None if sys.stdout.isatty() else False)
            sys.stdout.flush()
        if event["type"] == "end":
            over.set()

    connection = await broker.connect(access, "transcriber-listen")
    subject = wire.transcript_subject(stream or "*", "*")
    await connection.subscribe(subject, cb=show)
    await connection.flush(timeout=broker.CONNECT_TIMEOUT_S)
    click.echo(f"listening on {broker.shown_url(access.url)} to {subject}", err=True)
    try:
        async with asyncio.timeout(timeout_s):
            if until_end:
                await over.wait()
            else:
                await asyncio.Event().wait()  # for ever
    finally:
        await connection.close()


def caption(event: dict[str, Any], *, name: bool) -> str:
    """Return the line that shows an event, "" for one that needs none.

    Parameters
    ----------
    event : dict
        One of the published events.
    name : bool
        Name the stream.
    """
    kind = event["type"]
    start = click.style(_clock(event["start_ms"]), dim=True) + " " if "start_ms" in event else ""
    who = click.style(_plain(event["stream"]), fg="cyan") + " " if name else ""
    if kind == "final":
        text = _plain(event["text"]).strip()
        return f"{start}{who}{text}" if text else ""
    if kind == "gap":
        lost = f"[{event['duration_ms'] / 1000:.1f} s lost: {_plain(event['reason'])}]"
        return start + who + click.style(lost, fg="red")
    if kind == "error":
        return who + click.style(f"[{_plain(event['code'])}: {_plain(event['message'])}]", fg="red")
    if kind == "end":
        return who + click.style(f"[end: {_plain(event['reason'])}]", dim=True)
    return ""


def _clock(ms: int) -> str:
    seconds, ms = divmod(ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    hour = f"{hours}:" if hours else ""
    return f"{hour}{minutes:02d}:{seconds:02d}.{ms // 100}"


def _plain(text: str) -> str:
    """Take out what a terminal would act on: the text comes from the network."""
    return "".join(char if char.isprintable() else " " for char in text)
