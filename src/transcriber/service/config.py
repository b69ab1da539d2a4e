"""Settings of the daemon: command-line flags over environment variables over defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import click

from transcriber.service.broker import Access

__all__ = ["DaemonConfig", "daemon_options", "nats_options"]

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"


@dataclass(frozen=True, slots=True)
class DaemonConfig:
    """Everything that the daemon can be told. The options below say what each setting means."""

    nats_url: str = DEFAULT_NATS_URL
    nats_creds: Path | None = None
    nats_nkey: Path | None = None
    nats_ca: Path | None = None
    embedded_nats: bool = False
    embedded_nats_port: int = 0
    whisper_model_path: str = "base"
    whisper_threads: int = 0
    workers: int = 1
    language: str = "auto"
    target_sample_rate: int = 16_000
    buffer_duration_secs: float = 5.0
    transcription_queue_capacity: int = 4
    idle_timeout_secs: float = 5.0
    grace_ms: int = 200
    max_streams: int = 256
    max_chunk_bytes: int = 1024 * 1024
    log_level: str = "info"

    @property
    def access(self) -> Access:
        """Where NATS is and who we are."""
        return Access(self.nats_url, self.nats_creds, self.nats_nkey, self.nats_ca)


class _Option(click.Option):
    """An option that is listed under a heading, with its environment variable in help and errors."""

    def __init__(self, *args: Any, heading: str = "Other", **kwargs: Any) -> None:
        kwargs.update(show_envvar=True, show_default=True)
        super().__init__(*args, **kwargs)
        self.heading = heading


class HeadedCommand(click.Command):
    """A command whose help lists the options by heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section of options per heading, in the order of first use."""
        headings: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                headings.setdefault(getattr(parameter, "heading", "Other"), []).append(record)
        for heading, records in headings.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _FiniteRange(click.FloatRange):
    """A range of floats that does not take NaN for a member."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return number


def _only_16k(ctx: click.Context, param: click.Parameter, value: int) -> int:
    if value != 16_000:
        raise click.BadParameter(
            f"{value} is not 16000. Whisper's mel filters are made for 16 kHz; audio of other rates is "
            "resampled to it on arrival.",
            ctx,
            param,
        )
    return value


def _language(ctx: click.Context, param: click.Parameter, value: str) -> str:
    from transcriber._engine import LANGUAGES  # loads the engine, which --help does not need

    if value != "auto" and value not in LANGUAGES:
        raise click.BadParameter(f"{value!r} is not auto or one of {', '.join(LANGUAGES)}.", ctx, param)
    return value


def nats_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say where NATS is: `nats_url`, `nats_creds`, `nats_nkey` and `nats_ca`."""
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    for option in reversed(
        (
            click.option(
                "--nats-url",
                envvar="NATS_URL",
                default=DEFAULT_NATS_URL,
                metavar="URL",
                heading="NATS",
                cls=_Option,
                help="Server, or several with commas between them.",
            ),
            click.option(
                "--nats-creds",
                envvar="TRANSCRIBER_NATS_CREDS",
                type=file,
                heading="NATS",
                cls=_Option,
                help="Credentials file (JWT and seed).",
            ),
            click.option(
                "--nats-nkey",
                envvar="TRANSCRIBER_NATS_NKEY",
                type=file,
                heading="NATS",
                cls=_Option,
                help="File with an nkey seed.",
            ),
            click.option(
                "--nats-ca",
                envvar="TRANSCRIBER_NATS_CA",
                type=file,
                heading="NATS",
                cls=_Option,
                help="PEM file of the authority that signed the server's certificate.",
            ),
        )
    ):
        function = option(function)
    return function


_DAEMON_OPTIONS = (
    click.option(
        "--embedded-nats/--no-embedded-nats",
        envvar="TRANSCRIBER_EMBEDDED_NATS",
        default=False,
        heading="NATS",
        cls=_Option,
        help="Start a nats-server of our own on the loopback interface and stop it on exit; NATS_URL is not "
        "used.",
    ),
    click.option(
        "--embedded-nats-port",
        envvar="TRANSCRIBER_EMBEDDED_NATS_PORT",
        type=click.IntRange(0, 65535),
        default=0,
        heading="NATS",
        cls=_Option,
        help="Its port; 0 takes a free one.",
    ),
    click.option(
        "--whisper-model-path",
        envvar="WHISPER_MODEL_PATH",
        default="base",
        metavar="PATH|NAME",
        heading="Model",
        cls=_Option,
        help="A ggml file, or a name of `transcriber models list`, which is fetched when absent.",
    ),
    click.option(
        "--whisper-threads",
        envvar="WHISPER_THREADS",
        type=click.IntRange(0, 64),
        default=0,
        heading="Model",
        cls=_Option,
        help="Threads of one inference. 0 shares the usable cores among the workers, at most 4 each; more "
        "threads than cores make every inference many times slower.",
    ),
    click.option(
        "--workers",
        envvar="TRANSCRIBER_WORKERS",
        type=click.IntRange(1, 64),
        default=1,
        heading="Model",
        cls=_Option,
        help="Inferences at the same time. They share the weights; each has a state of its own (about 170 MB "
        "for base).",
    ),
    click.option(
        "--language",
        envvar="TRANSCRIBER_LANGUAGE",
        default="auto",
        callback=_language,
        heading="Model",
        cls=_Option,
        help="Language of streams that do not name one in their Language header. auto detects it, "
        "for one more encoder pass per window until it is sure.",
    ),
    click.option(
        "--target-sample-rate",
        envvar="TARGET_SAMPLE_RATE",
        type=int,
        default=16_000,
        callback=_only_16k,
        heading="Audio",
        cls=_Option,
        help="Rate that the model sees, in Hz. 16000 is the only one that Whisper can use.",
    ),
    click.option(
        "--buffer-duration-secs",
        envvar="BUFFER_DURATION_SECS",
        type=_FiniteRange(1, 30),
        default=5.0,
        heading="Audio",
        cls=_Option,
        help="Seconds of audio per inference. Short ones give captions sooner; but each inference encodes a "
        "30 s window whatever it holds, so 30 is the most and long ones cost least.",
    ),
    click.option(
        "--transcription-queue-capacity",
        envvar="TRANSCRIPTION_QUEUE_CAPACITY",
        type=click.IntRange(1, 64),
        default=4,
        heading="Audio",
        cls=_Option,
        help="Windows that may wait per stream before audio is dropped: floor(L / (D x RTF)), with L the "
        "latency that you promise in seconds, D the seconds per inference, RTF the measured compute "
        "seconds per audio second. 4 is L = 20 s, D = 5 s and RTF = 1: a machine just fast enough. More "
        "hides overload and delays captions.",
    ),
    click.option(
        "--idle-timeout-secs",
        envvar="TRANSCRIBER_IDLE_TIMEOUT_SECS",
        type=_FiniteRange(0.1, 3600),
        default=5.0,
        heading="Audio",
        cls=_Option,
        help="A stream without audio for so long is over and its rest is transcribed. One buffer's length, "
        "so that a publisher that died costs no caption more delay than it had.",
    ),
    click.option(
        "--max-streams",
        envvar="TRANSCRIBER_MAX_STREAMS",
        type=click.IntRange(1, 65_536),
        default=256,
        heading="Limits",
        cls=_Option,
        help="Streams at the same time; further ones are refused. Bounds the memory for audio.",
    ),
    click.option(
        "--max-chunk-bytes",
        envvar="TRANSCRIBER_MAX_CHUNK_BYTES",
        type=click.IntRange(1, 64 * 1024 * 1024),
        default=1024 * 1024,
        heading="Limits",
        cls=_Option,
        help="Longest payload taken; 8 s of audio in any case. The default is nats-server's own limit.",
    ),
    click.option(
        "--grace-ms",
        envvar="TRANSCRIBER_GRACE_MS",
        type=click.IntRange(50, 600_000),
        default=200,
        heading="Limits",
        cls=_Option,
        help="Time from SIGTERM to exit. 200 ms abandons a running inference and announces its audio as a "
        "gap; give some seconds to let it finish.",
    ),
    click.option(
        "--log-level",
        envvar="TRANSCRIBER_LOG_LEVEL",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        heading="Other",
        cls=_Option,
        help="Least important message on stderr.",
    ),
)


def daemon_options(function: Callable[[DaemonConfig], Any]) -> Callable[..., Any]:
    """Add every option of the daemon; the function gets one `DaemonConfig`."""

    def with_config(**values: Any) -> Any:
        return function(DaemonConfig(**{field.name: values[field.name] for field in fields(DaemonConfig)}))

    with_config.__name__ = function.__name__
    with_config.__doc__ = function.__doc__
    decorated: Callable[..., Any] = with_config
    for option in reversed(_DAEMON_OPTIONS):
        decorated = option(decorated)
    return nats_options(decorated)
