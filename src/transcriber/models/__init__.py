"""Whisper models by name: what there is, getting it, where it is.

>>> from transcriber import models
>>> models.pull("base").path          # doctest: +SKIP
PosixPath('…/.cache/transcriber/models/ggml-base.bin')

Each model is one file in the cache directory, verified by its SHA-256 when it gets there.
``TRANSCRIBER_CACHE_DIR`` moves the cache. All functions may be called from several threads and processes at
once: whoever comes second waits and finds the work done.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from transcriber.errors import ModelLoadError, ModelUnavailableError
from transcriber.models import cache, convert, fetch
from transcriber.models.catalogue import CATALOGUE, Entry, find, suggestion
from transcriber.models.ggml import ModelInfo, check

__all__ = [
    "Entry",
    "Listed",
    "ModelInfo",
    "Pulled",
    "check",
    "from_ctranslate2",
    "list_models",
    "path",
    "pull",
    "quantize",
    "remove",
    "resolve",
]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Listed:
    """A model of the catalogue; `path` is its file if it is in the cache, else None."""

    entry: Entry
    path: Path | None


@dataclass(frozen=True, slots=True)
class Pulled:
    """A model that is in the cache now, and where it came from ("the cache" if it was there already)."""

    path: Path
    source: str


def list_models() -> list[Listed]:
    """Return all models of the catalogue, and which of them are in the cache."""
    return [
        Listed(entry, cache.path(entry) if cache.present(entry) else None) for entry in CATALOGUE.values()
    ]


def pull(name: str, progress: Progress | None = None, source: str | None = None) -> Pulled:
    """Bring a model of the catalogue into the cache, if it is not there.

    Parameters
    ----------
    name : str
        Name in the catalogue: "base", "small.en", "base-q8_0".
    progress : callable, optional
        Called as ``progress(what, done, total)``; total is 0 when it is not known. On any thread.
    source : {"hub", "registry"}, optional
        Use only this one. By default all are tried in this order.

    Returns
    -------
    Pulled
        Path of the file and the source that gave it.

    Raises
    ------
    ModelUnavailableError
        The name is not in the catalogue, or no source has the model; the message names each and why.
    ModelLoadError
        The file that came is not the model (hash), or the cache cannot be written.

    Notes
    -----
    Blocks for as long as downloading takes. Interrupted or killed, it leaves no model and can simply be run
    again.
    """
    entry = find(name)
    if cache.present(entry):
        return Pulled(cache.path(entry), "the cache")
    if entry.made_from:
        origin = pull(entry.made_from, progress, source)
    with cache.locked(entry, progress):
        if cache.present(entry):  # another process has just done it
            return Pulled(cache.path(entry), "the cache")
        try:
            with cache.staging(entry) as staging:
                if entry.made_from:
                    file = staging / entry.file
                    with file.open("wb") as out:
                        convert.quantize(origin.path, entry.kind, out, progress)
                    used = f"{entry.made_from} (from {origin.source})"
                else:
                    file, used = _fetch(entry, staging, progress, source)
                return Pulled(cache.install(file, entry, progress), used)
        except OSError as error:
            if isinstance(error, ModelLoadError):
                raise
            raise ModelLoadError(
                f"{name}: cannot be written to {cache.directory()}: {error.strerror}"
            ) from None


def _fetch(entry: Entry, staging: Path, progress: Progress | None, source: str | None) -> tuple[Path, str]:
    """Try the sources in order."""
    faults = []
    for key, (title, get) in fetch.SOURCES.items():
        if source in (None, key):
            try:
                return get(entry, staging, progress), title
            except fetch.SourceError as error:
                faults.append(f"{title}: {error}")
    raise ModelUnavailableError(f"{entry.name}: cannot be pulled: {'; '.join(faults)}")


def path(name: str) -> Path | None:
    """Return the file of a model if it is in the cache, else None; never downloads.

    Raises
    ------
    ModelUnavailableError
        The name is not in the catalogue.
    """
    entry = find(name)
    return cache.path(entry) if cache.present(entry) else None


def remove(name: str) -> bool:
    """Delete a model from the cache, and what a killed pull of it has left; return whether it was there.

    Raises
    ------
    ModelUnavailableError
        The name is not in the catalogue.
    """
    return cache.remove(find(name))


def resolve(name_or_path: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Return the file of a model: a path to an existing file as it is, a name of the catalogue by pulling it
    if need be.

    Raises
    ------
    ModelUnavailableError
        It is neither; or it cannot be pulled.
    ModelLoadError
        It is a directory or the like; or what was pulled is not the model.
    """
    given, name = Path(name_or_path), os.fspath(name_or_path)
    if given.is_file():
        return given
    if name in CATALOGUE:
        return pull(name, progress).path
    if given.exists():
        raise ModelLoadError(
            f"{name}: is not a model file; give that of a ggml file, or a name from `transcriber models list`"
        )
    raise ModelUnavailableError(f"{name}: neither a file nor a model; {suggestion(name)}")


def quantize(
    source: str | os.PathLike[str],
    kind: str,
    target: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a smaller or faster variant of an f16 model.

    Parameters
    ----------
    source : str or path-like
        An f16 model: path, or name in the catalogue (pulled if it is not in the cache).
    kind : {"q8_0", "q5_1", "bf16"}
        q8_0 halves the file and costs no accuracy worth mentioning; q5_1 is the smallest; bf16 is as large as
        f16 and faster on CPUs with bf16 instructions.
    target : str or path-like, optional
        The file to write. By default a variant of the catalogue goes to the cache, and ``ggml-x.bin`` becomes
        ``ggml-x-KIND.bin`` beside it.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ModelLoadError
        `source` is not an f16 model, or `target` cannot be written.
    ValueError
        `kind` is unknown.
    """
    if kind not in convert.KINDS:
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(convert.KINDS)}")
    variant = f"{os.fspath(source)}-{kind}"
    if target is None and not Path(source).is_file() and variant in CATALOGUE:
        return pull(variant, progress).path
    origin = resolve(source, progress=progress)
    goal = Path(target) if target is not None else origin.with_name(f"{origin.stem}-{kind}{origin.suffix}")
    return _write(goal, lambda out: convert.quantize(origin, kind, out, progress))


def from_ctranslate2(
    directory: str | os.PathLike[str],
    target: str | os.PathLike[str],
    progress: Progress | None = None,
) -> Path:
    """Write a faster-whisper model as a ggml f16 file.

    Parameters
    ----------
    directory : str or path-like
        Holds ``model.bin`` and ``tokenizer.json``. Multilingual models up to large-v2, in float16 or float32.
    target : str or path-like
        The file to write.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Path
        The file that was written.

    Raises
    ------
    ModelLoadError
        It is not such a model, or `target` cannot be written.
    """
    model, tokenizer = Path(directory) / "model.bin", Path(directory) / "tokenizer.json"
    return _write(Path(target), lambda out: convert.convert_ctranslate2(model, tokenizer, out, progress))


def _write(goal: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Make the file `goal` with `write`, whole or not at all."""
    try:
        with tempfile.TemporaryDirectory(dir=goal.absolute().parent, prefix=f".{goal.name}.") as staging:
            file = Path(staging) / goal.name
            with file.open("wb") as out:
                write(out)
            cache.move_durably(file, goal.absolute())
    except OSError as error:
        if isinstance(error, ModelLoadError):
            raise
        raise ModelLoadError(f"{goal}: cannot be written: {error.strerror}") from None
    return goal
