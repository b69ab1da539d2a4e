"""The `transcriber-daemon` program."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable

import click

from transcriber.errors import ConfigError, TranscriberError
from transcriber.service.config import DaemonConfig, HeadedCommand, daemon_options

__all__ = ["main"]


@click.command(
    "transcriber-daemon",
    cls=HeadedCommand,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@daemon_options
def command(config: DaemonConfig) -> int:
    """Turn live audio into text: chunks in on NATS, transcripts out.

    Audio comes on subject audio.STREAM, text goes out on transcript.STREAM.final, .gap, .end and .error.

    Try it on one machine:

    \b
      transcriber-daemon --embedded-nats --embedded-nats-port 4222
      transcriber listen
      transcriber publish speech.mp3 --stream demo --realtime

    SIGTERM or Ctrl-C stops it within the grace period and prints where each sample went; again, at once.
    Metrics go to OTEL_EXPORTER_OTLP_ENDPOINT when that is set; the other standard OTEL_* variables apply.
    """
    logging.basicConfig(
        level=config.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    logging.getLogger("nats").setLevel(
        logging.CRITICAL
    )  # its errors reach us as callbacks, and we count them
    new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    with contextlib.suppress(ImportError):  # uvloop is not made for every platform
        from uvloop import new_event_loop as new_loop
    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(_serve(config))


async def _serve(config: DaemonConfig) -> int:
    from transcriber.service.daemon import Daemon

    daemon = Daemon(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, daemon, number)
    try:
        code = await daemon.run()
    except TranscriberError as problem:
        print(f"transcriber-daemon: {problem}", file=sys.stderr)
        code = 2 if isinstance(problem, ConfigError) else 1
    # A worker in mid-inference or a download cannot be joined in time; the kernel ends both and takes their
    # memory.
    _exit(code)
    return code


def _on_signal(daemon: object, number: signal.Signals) -> None:
    from transcriber.service.daemon import Daemon

    assert isinstance(daemon, Daemon)
    if daemon.stopping:
        _exit(128 + number)
    daemon.stop(number.name)


def _exit(code: int) -> None:
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """Run the daemon; the entry point of the installed program."""
    try:
        sys.exit(command.main(prog_name="transcriber-daemon", standalone_mode=False))
    except click.ClickException as problem:
        print(f"transcriber-daemon: {problem.format_message()}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except click.Abort:
        sys.exit(130)


if __name__ == "__main__":
    main()
