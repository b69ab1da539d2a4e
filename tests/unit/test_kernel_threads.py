"""Long kernel calls give the GIL away, and a second thread in the same object is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from threading import Event, Thread

import numpy as np
import pytest

from transcriber._resample import PcmDecoder, Resampler
from transcriber._ring import RingBuffer
from transcriber.errors import EngineBusyError

N_FRAMES = 2**22  # some milliseconds of work
FRAMES = np.zeros(N_FRAMES, dtype=np.float32)


def ring_put() -> tuple[Callable[[], object], Callable[[], object]]:
    ring = RingBuffer(N_FRAMES)
    return lambda: ring.put(FRAMES), lambda: ring.put(FRAMES[:1])


def ring_get() -> tuple[Callable[[], object], Callable[[], object]]:
    ring = RingBuffer(N_FRAMES)
    ring.put(FRAMES)
    out = np.empty(N_FRAMES, dtype=np.float32)
    return lambda: ring.get_into(out), lambda: ring.get(1)


def decode() -> tuple[Callable[[], object], Callable[[], object]]:
    decoder = PcmDecoder("alaw", 1)
    return lambda: decoder.decode(FRAMES), lambda: decoder.decode(b"")


def resample() -> tuple[Callable[[], object], Callable[[], object]]:
    resampler = Resampler()
    return lambda: resampler.process(FRAMES), lambda: resampler.process(FRAMES[:1])


@pytest.fixture
def gil_on_request_only() -> Iterator[None]:
    """Nobody is made to hand the GIL over: another thread runs only when it is given away on purpose."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("gil_on_request_only")
@pytest.mark.parametrize("kernel", [ring_put, ring_get, decode, resample])
def test_another_thread_runs_meanwhile_and_is_refused_the_same_object(
    kernel: Callable[[], tuple[Callable[[], object], Callable[[], object]]],
) -> None:
    # The second thread may be woken too late to meet the first one, so it gets several chances; were the GIL
    # held, none of them could ever succeed.
    for _ in range(50):
        long_call, short_call = kernel()
        started = Event()

        def work(started: Event = started, long_call: Callable[[], object] = long_call) -> None:
            started.set()
            long_call()

        thread = Thread(target=work)
        thread.start()
        try:
            started.wait()
            short_call()
        except EngineBusyError:
            thread.join()
            short_call()  # the flag has been released
            return
        finally:
            thread.join()
    pytest.fail("the other thread never ran during the call: the GIL was held")
