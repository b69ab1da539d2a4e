"""Run the C test programs under AddressSanitizer with UBSan, and under ThreadSanitizer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TESTS_C = Path(__file__).parents[1] / "c"


def require(sanitizer: str, tmp_path: Path) -> None:
    """Skip, saying so, where an empty program cannot be built with the sanitizer or does not start."""
    for tool in ("make", "cc"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool} here: the C kernels were NOT checked with -fsanitize={sanitizer}")
    program = tmp_path / "empty"
    source = "int main(void) { return 0; }"
    build = ["cc", f"-fsanitize={sanitizer}", "-x", "c", "-", "-o", str(program)]
    built = subprocess.run(build, input=source, text=True, capture_output=True)
    if built.returncode != 0 or subprocess.run([program], capture_output=True).returncode != 0:
        pytest.skip(f"this compiler cannot do -fsanitize={sanitizer}: the C kernels were NOT checked with it")


@pytest.mark.parametrize(("target", "sanitizer"), [("asan", "address,undefined"), ("tsan", "thread")])
def test_c_programs_are_clean_under(target: str, sanitizer: str, tmp_path: Path) -> None:
    require(sanitizer, tmp_path)
    run = subprocess.run(["make", "-C", TESTS_C, target], text=True, capture_output=True)
    assert run.returncode == 0, run.stdout + run.stderr
