"""What tests share: the real weights and the real speech."""

from __future__ import annotations

from pathlib import Path

import hypothesis
import pytest

# No deadline: how fast the machine is says nothing about the code. A failure prints how to repeat it.
hypothesis.settings.register_profile("transcriber", deadline=None, print_blob=True)
hypothesis.settings.load_profile("transcriber")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def base_model_path() -> Path:
    """The weights of base, out of the cache, fetched when they are not there."""
    from transcriber.models import resolve

    return resolve("base")


@pytest.fixture(scope="session")
def jfk_path() -> Path:
    """Eleven seconds of real speech that come with the source of whisper.cpp."""
    path = ROOT / "vendor/whisper.cpp/tree/samples/jfk.mp3"
    assert path.is_file(), f"{path} is absent: run python vendor/whisper.cpp/fetch.py"
    return path


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    """The recordings beside the project; tests that need them skip where they are not."""
    path = ROOT.parent / "shared" / "speech"
    if not (path / "manifest.jsonl").is_file():
        pytest.skip("no recordings: ../shared/speech/manifest.jsonl is absent")
    return path
