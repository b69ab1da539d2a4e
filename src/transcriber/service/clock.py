"""Wall-clock time of positions in a session of audio."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timedelta

__all__ = ["SessionClock"]

# A capture clock and the sample counter drift by some 100 ppm, 6 ms a minute, and timestamps jitter by the
# publisher's scheduling. Beyond this they disagree because audio is missing.
_TIMESTAMP_TOLERANCE = timedelta(milliseconds=50)
# Arrival times carry the network's jitter as well; without timestamps only a real pause counts.
_ARRIVAL_TOLERANCE = timedelta(seconds=1)


class SessionClock:
    """Map milliseconds of audio since the start of a session to the wall clock.

    The sample counter alone is wrong after a pause or a lost chunk, so the clock keeps a list of places at
    which it was set anew: by the `Timestamp` of a chunk, or by the arrival of one where there are no
    timestamps. It is bounded: a publisher whose timestamps jump about in each chunk only makes its own times
    coarse.
    """

    def __init__(self) -> None:
        self._anchors: deque[tuple[float, datetime]] = deque(maxlen=64)
        self._stamped = False

    def add_chunk(
        self, start_ms: float, duration_ms: float, timestamp: datetime | None, arrival: datetime
    ) -> None:
        """Note a chunk that starts at `start_ms`; without a timestamp it was captured as it arrived."""
        if timestamp is None:
            if self._stamped:
                return
            # A live chunk arrives when its last frame has been captured.
            timestamp, tolerance = arrival - timedelta(milliseconds=duration_ms), _ARRIVAL_TOLERANCE
        else:
            self._stamped, tolerance = True, _TIMESTAMP_TOLERANCE
        if not self._anchors:
            self._anchors.append((start_ms, timestamp))
            return
        lag = timestamp - self._since(self._anchors[-1], start_ms)
        # Earlier than expected without a timestamp: a file that is sent faster than it plays. That is no new
        # time.
        if lag > tolerance or (self._stamped and lag < -tolerance):
            self._anchors.append((start_ms, timestamp))

    def time_at(self, position_ms: float) -> datetime | None:
        """Return when this place of the session was captured; None before any audio came."""
        if not self._anchors:
            return None
        for anchor in reversed(self._anchors):
            if anchor[0] <= position_ms:
                return self._since(anchor, position_ms)
        return self._since(self._anchors[0], position_ms)

    @staticmethod
    def _since(anchor: tuple[float, datetime], position_ms: float) -> datetime:
        return anchor[1] + timedelta(milliseconds=position_ms - anchor[0])
