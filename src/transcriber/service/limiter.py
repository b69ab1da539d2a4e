"""At most one message a second per key, with a count of those that were held back."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["Limiter"]


class Limiter:
    """Decide who may speak, so that a flood of errors becomes a line with a count.

    Parameters
    ----------
    period_s : float
        A key is let through once in this time.
    max_keys : int
        Keys remembered at most, and so messages let through in one period at most: keys may come from
        strangers.
    now : callable
        The clock, in seconds.
    """

    def __init__(
        self, period_s: float = 1.0, max_keys: int = 1024, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._period_s = period_s
        self._max_keys = max_keys
        self._now = now
        self._seen: dict[str, list[float]] = {}  # key: [when it was last let through, held back since]

    def admit(self, key: str) -> int | None:
        """Return how many were held back since the last one let through, or None to hold this one back."""
        now = self._now()
        entry = self._seen.get(key)
        if entry is None:
            if len(self._seen) >= self._max_keys:
                self._seen = {k: e for k, e in self._seen.items() if now - e[0] < self._period_s}
                if len(self._seen) >= self._max_keys:
                    return None
            self._seen[key] = [now, 0]
            return 0
        if now - entry[0] < self._period_s:
            entry[1] += 1
            return None
        held_back, self._seen[key] = int(entry[1]), [now, 0]
        return held_back
