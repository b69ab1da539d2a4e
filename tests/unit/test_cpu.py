"""Usable cores: affinity, cut by the cgroup's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transcriber.cpu import usable_cores


def test_affinity_is_the_upper_bound(tmp_path: Path) -> None:
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("cpu_max", "cores"), [("max 100000", None), ("100000 100000", 1), ("50000 100000", 1)]
)
def test_cgroup_v2_quota_cuts(tmp_path: Path, cpu_max: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(cpu_max)
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_cgroup_v1_quota_cuts(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == 1
