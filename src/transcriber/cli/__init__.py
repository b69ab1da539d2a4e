"""The command line. Subcommands are imported when they are used; `transcriber --help` imports none."""

from __future__ import annotations

import importlib
import sys
import traceback
from typing import NamedTuple

import click

from transcriber.errors import ConfigError, TranscriberError

__all__ = ["cli", "main"]


class _Lazy(NamedTuple):
    target: str  # module:attribute
    help: str


_COMMANDS = {
    "transcribe": _Lazy(
        "transcriber.cli.transcribe:transcribe_command", "Turn audio and video files into text."
    ),
    "models": _Lazy("transcriber.cli.models:models_group", "List, fetch, quantise and remove models."),
    "publish": _Lazy(
        "transcriber.cli.publish:publish_command", "Play a file into NATS as a live source would."
    ),
    "listen": _Lazy("transcriber.cli.listen:listen_command", "Show live captions from NATS."),
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        lazy = _COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        module, _, attribute = lazy.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="transcriber", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_obj
def cli(state: dict[str, bool], debug: bool) -> None:
    """Live audio into text, on Whisper.

    \b
    transcriber transcribe talk.mp3              text of a file
    transcriber transcribe --format srt *.mp4 --output-dir subtitles
    transcriber models list                      what there is, and what is here
    transcriber COMMAND --help                   more, with examples

    The service is another program: transcriber-daemon --help.
    """
    state["debug"] = debug


def main() -> None:
    """Run the command line and exit: 0 done, 1 the work failed, 2 usage or configuration, 130 Ctrl-C."""
    state = {"debug": False}
    try:
        code = cli.main(prog_name="transcriber", standalone_mode=False, obj=state)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = 2
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "transcriber"
        code = _fail(f"{error.format_message().rstrip('.')} (see '{command} --help')", 2)
    except click.ClickException as error:
        code = _fail(error.format_message(), error.exit_code)
    except click.Abort:  # click makes this of KeyboardInterrupt
        click.echo("interrupted", err=True)
        code = 130
    except TranscriberError as error:
        if state["debug"]:
            traceback.print_exc()
        code = _fail(str(error), 2 if isinstance(error, ConfigError) else 1)
    except Exception as error:  # noqa: BLE001  (the last resort: a bug, or a library's error nobody mapped)
        if state["debug"]:
            traceback.print_exc()
        hint = "" if state["debug"] else "; 'transcriber --debug …' shows where"
        code = _fail(f"unexpected {type(error).__name__}: {error}{hint}", 1)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> int:
    click.echo(f"transcriber: {' '.join(message.split())}", err=True)
    return code
