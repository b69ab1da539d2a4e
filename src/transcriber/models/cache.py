"""The directory of downloaded models: where files are, one writer at a time, whole files or none.

A model appears under its name only by ``os.replace`` of a complete, verified file, so whoever finds it may
use it. Until then everything about it is in a staging directory of its own, used under its lock.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs

from transcriber.errors import ModelLoadError
from transcriber.models import ggml
from transcriber.models.catalogue import Entry

__all__ = ["directory", "install", "locked", "path", "present", "remove", "sha256", "staging"]

Progress = Callable[[str, int, int], None]

_BLOCK = 1 << 20


def directory() -> Path:
    """Return the directory of the models: below ``TRANSCRIBER_CACHE_DIR`` if set, else below the platform's
    cache directory."""
    root = os.environ.get("TRANSCRIBER_CACHE_DIR") or platformdirs.user_cache_dir("transcriber")
    return Path(root).expanduser().absolute() / "models"


def path(entry: Entry) -> Path:
    """Return where the file of `entry` is, or would be."""
    return directory() / entry.file


def present(entry: Entry) -> bool:
    """Whether the file of `entry` is there.

    It was verified when it was installed; only its size is looked at again.
    """
    try:
        return path(entry).stat().st_size == entry.size_bytes
    except OSError:
        return False


@contextmanager
def locked(entry: Entry, progress: Progress | None = None) -> Iterator[None]:
    """Hold the lock of `entry` against all other processes and threads; wait for it if need be."""
    try:
        directory().mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(directory() / f".{entry.file}.lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if progress:
                progress("wait for another process", 0, 0)
            lock.acquire()
    except OSError as error:
        raise ModelLoadError(
            f"{directory()}: cannot be used as model cache: {error.strerror}; "
            "set TRANSCRIBER_CACHE_DIR to a writable directory"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def staging(entry: Entry) -> Iterator[Path]:
    """Give an empty directory to make the file of `entry` in; its lock must be held.

    It is removed in the end, and what a killed process has left in it is removed now.
    """
    place = _staging_path(entry)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def install(file: Path, entry: Entry, progress: Progress | None = None) -> Path:
    """Verify `file`, which is in the staging directory of `entry`, and move it to its place.

    Raises
    ------
    ModelLoadError
        Its SHA-256 is not that of the model.
    """
    found = sha256(file, progress)
    if found != entry.sha256:
        raise ModelLoadError(
            f"{entry.name}: refused, its SHA-256 is {found}, not {entry.sha256}; pull it again, "
            "and if that does not help do not use this source"
        )
    ggml.check(file)
    target = path(entry)
    move_durably(file, target)
    return target


def move_durably(file: Path, target: Path) -> None:
    """Replace `target` by `file` (of the same directory tree), so that not even a power failure leaves half
    of it."""
    with file.open("rb") as written:
        os.fsync(written.fileno())
    file.replace(target)
    fd = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove(entry: Entry) -> bool:
    """Delete the file of `entry` and all that was left of its downloads; return whether the file was
    there."""
    with locked(entry):
        shutil.rmtree(_staging_path(entry), ignore_errors=True)
        try:
            path(entry).unlink()
        except FileNotFoundError:
            return False
        return True


def _staging_path(entry: Entry) -> Path:
    return directory() / f".{entry.file}.part"


def sha256(file: Path, progress: Progress | None = None) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    size, done = file.stat().st_size, 0
    with file.open("rb") as data:
        while block := data.read(_BLOCK):
            digest.update(block)
            done += len(block)
            if progress:
                progress("verify", done, size)
    return digest.hexdigest()
