"""The hand-written stubs say what the built modules have."""

from __future__ import annotations

import subprocess
import sys

MODULES = ["transcriber._engine", "transcriber._pipeline", "transcriber._resample", "transcriber._ring"]


def test_stubs_agree_with_the_built_modules() -> None:
    command = [sys.executable, "-m", "mypy.stubtest", "--concise", *MODULES]
    run = subprocess.run(command, text=True, capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr
