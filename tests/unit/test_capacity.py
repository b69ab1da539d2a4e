"""The queue's size is a product decision."""

from __future__ import annotations

import pytest

from transcriber import ConfigError, queue_capacity


@pytest.mark.parametrize(
    ("max_latency_s", "window_s", "rtf", "capacity"),
    [(10, 5, 0.8, 2), (20, 5, 0.8, 5), (60, 10, 1.0, 6), (3, 5, 0.8, 0), (12, 5, 0.8, 3), (11.9, 5, 0.8, 2)],
)
def test_capacity_keeps_the_promise(max_latency_s: float, window_s: float, rtf: float, capacity: int) -> None:
    assert queue_capacity(max_latency_s, window_s, rtf) == capacity


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_capacity_refuses_what_is_no_positive_number(bad: float) -> None:
    for arguments in ((bad, 5, 0.8), (10, bad, 0.8), (10, 5, bad)):
        with pytest.raises(ConfigError, match="want a positive number"):
            queue_capacity(*arguments)
