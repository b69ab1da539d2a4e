"""How many cores this process may really use."""

from __future__ import annotations

import math
import os
from pathlib import Path

__all__ = ["usable_cores"]


def usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores that this process may use: its CPU affinity, cut by the cgroup's quota, at least 1.

    Threads beyond this number slow Whisper down badly: ggml's barriers spin.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for quota in (_cgroup_v2_cores(cgroup_root), _cgroup_v1_cores(cgroup_root)):
        if quota is not None:
            cores = min(cores, max(1, math.floor(quota)))
    return cores


def _cgroup_v2_cores(root: Path) -> float | None:
    """The tightest cpu.max on the way from this process's cgroup up to the root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    quotas = []
    for group in (root / own, *(root / own).parents):
        if not group.is_relative_to(root):
            break
        try:
            quota, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _cgroup_v1_cores(root: Path) -> float | None:
    try:
        quota = int((root / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((root / "cpu" / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return None
    return quota / period if quota > 0 else None
