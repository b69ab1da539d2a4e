"""Options of the benchmarks: which weights, how many threads."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("transcriber")
    group.addoption("--model", default="base", help="A catalogue name or a ggml file.")
    group.addoption("--threads", type=int, default=0, help="Threads of the engine; 0 takes its default.")


@pytest.fixture(scope="session")
def jfk_path() -> Path:
    return ROOT / "vendor/whisper.cpp/tree/samples/jfk.mp3"


@pytest.fixture(scope="session")
def speech_dir() -> Path:
    path = ROOT.parent / "shared" / "speech"
    if not (path / "manifest.jsonl").is_file():
        pytest.skip("no recordings: ../shared/speech/manifest.jsonl is absent")
    return path
