"""`transcriber transcribe`: files to text."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Lock

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from transcriber import audio
from transcriber._engine import Model
from transcriber.errors import AudioFormatError, ConfigError, InferenceError, TranscriberError
from transcriber.files import transcribe
from transcriber.formats import FORMATS, render
from transcriber.models import resolve
from transcriber.result import Options

__all__ = ["transcribe_command"]

ONE_DOCUMENT = ("srt", "vtt", "tsv")
"""Formats of which two cannot stand one behind the other."""


@click.command("transcribe")
@click.argument("files", nargs=-1, required=True, metavar="FILE…", type=click.Path(path_type=str))
@click.option(
    "--model",
    default="base",
    show_default=True,
    metavar="NAME|FILE",
    help="A name of 'transcriber models list', fetched when it is not here, or a ggml file.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(list(FORMATS)),
    default="txt",
    show_default=True,
    help="What to write. Times of words are in json and jsonl only.",
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Write one file per input here, and not to standard output.",
)
@click.option(
    "--vad",
    is_flag=True,
    help="Leave out what is not speech: faster, and no text made up from silence or music.",
)
@click.option(
    "--language",
    default="auto",
    show_default=True,
    metavar="CODE",
    help="The language spoken: en, de, ja, …; auto detects it, once per file.",
)
@click.option("--translate", is_flag=True, help="Translate into English.")
@click.option(
    "--word-timestamps", is_flag=True, help="Time and probability of every word, in json and jsonl."
)
@click.option(
    "--threads", type=click.IntRange(0), default=0, help="Threads of the engine; 0 (default): up to 4."
)
@click.option(
    "--beam-size",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="1 is greedy; more is slower, and at times better.",
)
@click.option(
    "--prompt", default="", metavar="TEXT", help="What may have been said before: names, spelling, style."
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="0 takes the likeliest text, the same one every time.",
)
def transcribe_command(
    files: tuple[str, ...],
    model: str,
    form: str,
    output_dir: Path | None,
    vad: bool,
    language: str,
    translate: bool,
    word_timestamps: bool,
    threads: int,
    beam_size: int,
    prompt: str,
    temperature: float,
) -> None:
    """Turn audio and video FILEs into text. "-" reads one from standard input.

    Any container and codec that FFmpeg reads will do, at any sample rate, with any number of channels.
    The text goes to standard output; a progress bar shows on a terminal only. A file that cannot be read
    is reported, the others are done, and the exit code is 1.

    \b
    Examples:
      transcriber transcribe talk.mp3
      transcriber transcribe --format srt --output-dir subtitles *.mp4
      transcriber transcribe --format jsonl --word-timestamps --vad calls/*.wav > calls.jsonl
      transcriber transcribe --language de --translate interview.m4a
      ffmpeg -i rtsp://camera -t 60 -f wav - | transcriber transcribe -
    """
    if word_timestamps and form not in ("json", "jsonl"):
        raise click.UsageError(f"--word-timestamps has no place in {form}; add --format json or jsonl")
    if form in ONE_DOCUMENT and len(files) > 1 and output_dir is None:
        raise click.UsageError(
            f"several files in one {form} document are no valid {form}; add --output-dir DIR"
        )
    options = Options(
        language=language,
        translate=translate,
        prompt=prompt,
        beam_size=beam_size,
        temperature=temperature,
        word_timestamps=word_timestamps,
        threads=threads,
    )
    targets: Sequence[Path | None] = [None] * len(files)
    if output_dir is not None:
        _make_directory(output_dir)
        targets = target_paths(files, output_dir, form)
    array = form == "json" and len(files) > 1 and output_dir is None
    n_printed = n_failed = 0
    with _bar("") as progress:
        path = resolve(model, progress=progress)
    with Model(path) as loaded, loaded.session(threads=threads) as session:
        for n, (file, target) in enumerate(zip(files, targets, strict=True), 1):
            name = "standard input" if file == "-" else click.format_filename(file)
            title = f"{n}/{len(files)} {Path(name).name}" if len(files) > 1 else Path(name).name
            started = time.monotonic()
            try:
                with _bar(title) as progress:
                    result = transcribe(file, options=options, vad=vad, progress=progress, session=session)
            except (AudioFormatError, InferenceError) as error:
                n_failed += 1
                click.echo(f"transcriber: {error}", err=True)
                continue
            took_s = time.monotonic() - started
            text = render(result, form, path=click.format_filename(file))
            if target is not None:
                _write(target, text)
            else:
                heading = f"==> {name} <==\n" if form == "txt" and len(files) > 1 else ""
                if array:  # printed as it grows: an interrupt must not cost what is done
                    heading = ",\n" if n_printed else "[\n"
                _print(heading + text)
                n_printed += 1
            if sys.stderr.isatty():
                click.echo(_summary(name, result.duration_ms / 1000, took_s, target), err=True)
    if array:
        _print("]\n" if n_printed else "[]\n")
    if n_failed:
        click.get_current_context().exit(1)


def target_paths(files: Sequence[str], directory: Path, form: str) -> list[Path]:
    """Return where the text of each file goes: ``talk.srt``, or ``talk.mp3.srt`` where two are ``talk``."""
    names = ["stdin" if file == "-" else Path(file).name for file in files]
    stems = Counter(Path(name).stem for name in names)
    taken: set[str] = set()
    targets = []
    for name in names:
        base = name if stems[Path(name).stem] > 1 else Path(name).stem
        target, n = f"{base}.{form}", 2
        while target in taken:
            target, n = f"{base}-{n}.{form}", n + 1
        taken.add(target)
        targets.append(directory / target)
    return targets


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output-dir {directory}: cannot be made ({error.strerror})") from error


def _write(target: Path, text: str) -> None:
    """Write `target` whole or not at all."""
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            part.write_bytes(_encode(text))
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise TranscriberError(f"{target}: cannot be written ({error.strerror})") from error


def _print(text: str) -> None:
    stdout = sys.stdout.buffer  # UTF-8 on every terminal and pipe, whatever the locale
    stdout.write(_encode(text))
    stdout.flush()


def _encode(text: str) -> bytes:
    return text.encode("utf-8", "replace")  # a file name may hold bytes that are not UTF-8


def _summary(name: str, audio_s: float, took_s: float, target: Path | None) -> str:
    rtf = f", RTF {took_s / audio_s:.2f}" if audio_s else ""
    where = f" → {click.format_filename(target)}" if target is not None else ""
    return f"{name}: {audio_s:.1f} s of audio in {took_s:.1f} s{rtf}{where}"


@contextmanager
def _bar(title: str) -> Iterator[audio.Progress | None]:
    """Show a progress bar on standard error while the context lasts, if that is a terminal.

    It pulses until something is done, which for a file of one window is all the time. Time left and RTF are
    those of the last progress: reckoned from now, they would climb until a window ends.
    """
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True, get_time=time.monotonic) as bar:
        task = bar.add_task(title, total=None, pace="")
        stage = ""
        first = last = 0  # what was done when the stage began (a download that goes on, silence), and by now
        started = 0.0
        lock = Lock()  # downloads report from threads of their own

        def update(what: str, done: int, total: int) -> None:
            nonlocal task, stage, first, last, started
            with lock:
                if what != stage or done < last:  # a new stage, or the old one from the start: another source
                    stage, first, last, started = what, done, done, time.monotonic()
                    bar.remove_task(task)  # a reset task would keep its total
                    task = bar.add_task(f"{title} {what}".strip(), total=None, pace="")
                if done > last:
                    last = done
                    pace = _pace(what, (time.monotonic() - started) / (done - first), total - done)
                    bar.update(task, completed=done, total=total or None, pace=pace)

        yield update


def _pace(what: str, s_per_unit: float, left: int) -> str:
    """Return the time left, where the total is known, and the real-time factor."""
    pace = f"left: {timedelta(seconds=round(s_per_unit * left))}" if left >= 0 else ""
    return f"{pace} RTF {s_per_unit * 1000:.2f}" if what == "transcribe" else pace
