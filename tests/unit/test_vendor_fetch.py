"""vendor/whisper.cpp/fetch.py: the tree whole or untouched, a failure in one line."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

VENDOR = Path(__file__).resolve().parents[2] / "vendor" / "whisper.cpp"


def archive(path: Path, subdirectory: str = "whisper.cpp") -> str:
    """Write a source distribution with a little tree in it; return its SHA-256."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("CMakeLists.txt", b"project(whisper)"), ("src/whisper.cpp", b"int x;" * 5000)):
            info = tarfile.TarInfo(f"some-package-1.0/{subdirectory}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Vendor:
    """A copy of the script with a pin of its own, a good archive, and an older tree in place."""

    def __init__(self, directory: Path) -> None:
        self.script = directory / "fetch.py"
        shutil.copy(VENDOR / "fetch.py", self.script)
        self.archive = directory / "some-package-1.0.tar.gz"
        self.pin(archive(self.archive))
        self.tree = directory / "tree"
        self.tree.mkdir()
        (self.tree / "CMakeLists.txt").write_text("project(older)")
        (self.tree / ".made-from").write_text("0" * 64)

    def pin(self, sha256: str) -> None:
        pin = {"package": "some-package", "version": "1.0", "archive_sha256": sha256}
        pin |= {"subdirectory": "whisper.cpp", "whisper_cpp": "0.0.1"}
        (self.script.parent / "pin.json").write_text(json.dumps(pin))

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TRANSCRIBER_"))}
        return subprocess.run(
            [sys.executable, str(self.script), *arguments],
            env={**inherited, "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "0", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def assert_refused(self, done: subprocess.CompletedProcess[str], *words: str) -> None:
        """Exit code 1, one line on stderr that has these words, and the older tree untouched."""
        assert done.returncode == 1
        assert done.stdout == ""
        assert done.stderr.startswith("fetch.py: whisper.cpp 0.0.1: ")
        assert len(done.stderr.splitlines()) == 1, done.stderr
        for word in words:
            assert word in done.stderr
        assert (self.tree / "CMakeLists.txt").read_text() == "project(older)"
        assert (self.tree / ".made-from").read_text() == "0" * 64
        assert {p.name for p in self.script.parent.iterdir() if p.name.startswith(".")} == set()


@pytest.fixture
def vendor(tmp_path: Path) -> Vendor:
    return Vendor(tmp_path)


def test_a_good_archive_replaces_an_older_tree(vendor: Vendor) -> None:
    done = vendor.run("--archive", str(vendor.archive))
    assert done.returncode == 0, done.stderr
    assert (vendor.tree / "CMakeLists.txt").read_text() == "project(whisper)"
    assert sorted(p.name for p in vendor.tree.iterdir()) == [".made-from", "CMakeLists.txt", "src"]
    assert str(vendor.tree) in done.stdout


def test_a_tree_of_the_pin_is_left_alone_without_archive_or_network(vendor: Vendor) -> None:
    assert vendor.run("--archive", str(vendor.archive)).returncode == 0
    (vendor.tree / "touched").write_text("by a build")
    vendor.archive.unlink()
    done = vendor.run(PIP_NO_INDEX="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (vendor.tree / "touched").exists()


def test_the_archive_can_be_named_by_environment_and_the_tree_by_flag(vendor: Vendor, tmp_path: Path) -> None:
    elsewhere = tmp_path / "deep" / "down" / "tree"
    done = vendor.run("--tree", str(elsewhere), TRANSCRIBER_WHISPER_ARCHIVE=str(vendor.archive))
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "src" / "whisper.cpp").is_file()


def test_a_wrong_hash_is_refused(vendor: Vendor) -> None:
    other = archive(vendor.script.parent / "other.tar.gz", "elsewhere")
    done = vendor.run("--archive", str(vendor.script.parent / "other.tar.gz"))
    vendor.assert_refused(done, "other.tar.gz", other, "pinned is")


def test_a_truncated_archive_is_refused(vendor: Vendor) -> None:
    os.truncate(vendor.archive, vendor.archive.stat().st_size // 2)
    vendor.assert_refused(vendor.run("--archive", str(vendor.archive)), "the download is damaged")


def test_a_pinned_archive_that_is_itself_cut_short_is_refused(vendor: Vendor) -> None:
    os.truncate(vendor.archive, vendor.archive.stat().st_size // 2)
    vendor.pin(hashlib.sha256(vendor.archive.read_bytes()).hexdigest())
    vendor.assert_refused(vendor.run("--archive", str(vendor.archive)))


def test_a_missing_archive_is_refused(vendor: Vendor) -> None:
    vendor.archive.unlink()
    vendor.assert_refused(
        vendor.run("--archive", str(vendor.archive)), str(vendor.archive), "no such archive"
    )


def test_an_archive_without_the_tree_is_refused(vendor: Vendor) -> None:
    vendor.pin(archive(vendor.archive, "elsewhere"))
    vendor.assert_refused(vendor.run("--archive", str(vendor.archive)), "whisper.cpp")


def test_an_archive_that_writes_outside_is_refused(vendor: Vendor, tmp_path: Path) -> None:
    with tarfile.open(vendor.archive, "w:gz") as tar:
        info = tarfile.TarInfo("../../escaped")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    vendor.pin(hashlib.sha256(vendor.archive.read_bytes()).hexdigest())
    vendor.assert_refused(vendor.run("--archive", str(vendor.archive)))
    assert not (tmp_path.parent / "escaped").exists()


def test_no_network_is_refused(vendor: Vendor) -> None:
    with socket.socket() as reserved:  # bound, not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        index = f"http://127.0.0.1:{reserved.getsockname()[1]}/simple"
        done = vendor.run(PIP_INDEX_URL=index, PIP_RETRIES="1")
    vendor.assert_refused(
        done,
        "cannot download some-package==1.0 from the package registry: no connection",
        "TRANSCRIBER_WHISPER_ARCHIVE",
    )


def test_the_committed_pin_is_complete() -> None:
    pin = json.loads((VENDOR / "pin.json").read_text())
    assert set(pin) == {"package", "version", "archive_sha256", "subdirectory", "whisper_cpp"}
    assert len(pin["archive_sha256"]) == 64


PATCH = """Why it is needed.

--- a/CMakeLists.txt
+++ b/CMakeLists.txt
@@ -1 +1,2 @@
-project(whisper)
+project(whisper C)
+# ours
"""


def test_patches_are_applied_and_a_new_patch_makes_the_tree_anew(vendor: Vendor) -> None:
    assert vendor.run("--archive", str(vendor.archive)).returncode == 0
    (vendor.script.parent / "patches").mkdir()
    (vendor.script.parent / "patches" / "0001-ours.patch").write_text(PATCH)
    done = vendor.run("--archive", str(vendor.archive))
    assert done.returncode == 0, done.stderr
    assert (vendor.tree / "CMakeLists.txt").read_text() == "project(whisper C)\n# ours\n"


def test_a_patch_that_does_not_fit_is_refused(vendor: Vendor) -> None:
    (vendor.script.parent / "patches").mkdir()
    (vendor.script.parent / "patches" / "0001-ours.patch").write_text(
        PATCH.replace("-project(w", "-project(W")
    )
    done = vendor.run("--archive", str(vendor.archive))
    vendor.assert_refused(done, "0001-ours.patch", "does not fit CMakeLists.txt")
