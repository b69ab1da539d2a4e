#!/usr/bin/env python3
"""Bring the pinned whisper.cpp source tree to vendor/whisper.cpp/tree.

The tree comes out of a package's source distribution, fetched by name through pip and checked against the
SHA-256 in pin.json before a byte of it is unpacked. Unpacking goes to a temporary directory that is renamed
at the end, so a killed run leaves nothing half-made. Running it again when the tree is in place does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE / "tree"
STAMP = ".archive-sha256"


class FetchError(Exception):
    """The tree could not be brought; the message says why and what to do."""


def download(package: str, version: str, to: Path) -> Path:
    """Download the source distribution `package`==`version` with pip; return its path."""
    # Only this package as source: `--no-binary :all:` would also build its build tools from source.
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
        "--no-binary", package, f"{package}=={version}", "-d", str(to),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip said nothing"]
        raise FetchError(
            f"cannot download {package}=={version} from the package registry: {errors[0].removeprefix('ERROR: ')}; "
            "check the network and pip's configuration, or set TRANSCRIBER_WHISPER_ARCHIVE to the archive"
        )
    archives = list(to.glob("*.tar.gz"))
    if len(archives) != 1:
        raise FetchError(f"pip downloaded {[p.name for p in archives]} for {package}=={version}, not one .tar.gz")
    return archives[0]


def unpack(archive: Path, sha256: str, subdirectory: str, tree: Path) -> None:
    """Check `archive` and put its `subdirectory` in place as `tree`, whole or not at all."""
    if not archive.is_file():
        raise FetchError(f"{archive}: no such archive")
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise FetchError(
            f"{archive.name}: SHA-256 is {found}, pinned is {sha256}; the download is damaged or not the pinned "
            "release: try again, and do not build from it"
        )
    tree.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tree.parent, prefix=".unpack-") as temporary:
        with tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
        (root,) = Path(temporary).iterdir()
        source = root / subdirectory
        (source / STAMP).write_text(sha256 + "\n")
        shutil.rmtree(tree, ignore_errors=True)
        os.replace(source, tree)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, default=os.environ.get("TRANSCRIBER_WHISPER_ARCHIVE") or None,
                        help="unpack this archive instead of downloading it")  # fmt: skip
    parser.add_argument("--tree", type=Path, default=TREE, help="where to unpack (default: %(default)s)")
    options = parser.parse_args()
    pin = json.loads((HERE / "pin.json").read_text())
    stamp = options.tree / STAMP
    if stamp.is_file() and stamp.read_text().strip() == pin["archive_sha256"]:
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            archive = options.archive or download(pin["package"], pin["version"], Path(temporary))
            unpack(archive, pin["archive_sha256"], pin["subdirectory"], options.tree)
    except (FetchError, OSError, tarfile.TarError) as error:
        print(f"fetch.py: whisper.cpp {pin['whisper_cpp']}: {error}", file=sys.stderr)
        return 1
    print(f"fetch.py: whisper.cpp {pin['whisper_cpp']} unpacked to {options.tree}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
