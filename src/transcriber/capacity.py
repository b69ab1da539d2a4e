"""How long a queue may be, from what the product promises."""

from __future__ import annotations

import math

from transcriber.errors import ConfigError

__all__ = ["queue_capacity"]


def queue_capacity(max_latency_s: float, window_s: float, rtf: float) -> int:
    """Return the most windows that may wait for one worker without breaking the promised latency.

    A window costs `window_s` * `rtf` seconds of work, so the last of n waiting ones is done after n times
    that: capacity = floor(max_latency_s / (window_s * rtf)). A longer queue loses no less and tells later.

    Parameters
    ----------
    max_latency_s : float
        The promise: seconds from the end of a window to its text. Positive.
    window_s : float
        Seconds of audio per window. Positive.
    rtf : float
        Measured real-time factor: compute seconds per second of audio. Positive.

    Returns
    -------
    int
        0 when not even one window can be done in time: use a smaller model, shorter windows or more cores.

    Raises
    ------
    ConfigError
        A parameter is not positive and finite.
    """
    for name, value in (("max_latency_s", max_latency_s), ("window_s", window_s), ("rtf", rtf)):
        if not (0 < value < math.inf):
            raise ConfigError(f"{name}: got {value}, want a positive number")
    # The quotient of decimal figures, such as 10 / (5 * 0.8), may fall a rounding error short of whole.
    return math.floor(max_latency_s / (window_s * rtf) * (1 + 1e-12))
