"""The ring against a model: `collections.deque` with a length limit."""

from __future__ import annotations

from array import array
from collections import deque

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from transcriber._ring import RingBuffer
from transcriber.errors import AudioFormatError


class RingMachine(RuleBasedStateMachine):
    @initialize(log2=st.integers(1, 6))
    def make(self, log2: int) -> None:
        self.ring = RingBuffer(2**log2)
        self.model: deque[float] = deque()
        self.next_value = 0
        self.overrun = 0

    @rule(n_frames=st.integers(0, 80))
    def put(self, n_frames: int) -> None:
        frames = np.arange(self.next_value, self.next_value + n_frames, dtype=np.float32)
        accepted = min(n_frames, self.ring.capacity - len(self.model))
        assert self.ring.put(frames) == accepted
        self.model.extend(frames[:accepted].tolist())
        self.next_value += n_frames
        self.overrun += n_frames - accepted

    @rule(n_frames=st.integers(0, 80))
    def get(self, n_frames: int) -> None:
        n_read = min(n_frames, len(self.model))
        frames = self.ring.get(n_frames)
        assert frames.dtype == np.float32
        assert frames.tolist() == [self.model.popleft() for _ in range(n_read)]

    @rule(n_frames=st.integers(0, 80))
    def get_into(self, n_frames: int) -> None:
        n_read = min(n_frames, len(self.model))
        out = np.full(n_frames, -1.0, dtype=np.float32)
        assert self.ring.get_into(out) == n_read
        assert out.tolist() == [self.model.popleft() for _ in range(n_read)] + [-1.0] * (n_frames - n_read)

    @invariant()
    def agrees_with_the_model(self) -> None:
        if hasattr(self, "ring"):
            assert len(self.ring) == len(self.model)
            assert self.ring.overrun_frames == self.overrun


TestRing = RingMachine.TestCase


def test_put_returns_short_count_and_counts_the_overrun_when_full() -> None:
    ring = RingBuffer(8)
    assert ring.put(np.arange(6, dtype=np.float32)) == 6
    assert ring.put(np.arange(6, 12, dtype=np.float32)) == 2
    assert (len(ring), ring.overrun_frames) == (8, 4)
    assert ring.get(100).tolist() == list(range(8))
    assert ring.get(100).tolist() == []


def test_frames_keep_their_order_across_the_wrap() -> None:
    ring = RingBuffer(16)
    taken: list[float] = []
    for first in range(0, 700, 7):
        assert ring.put(np.arange(first, first + 7, dtype=np.float32)) == 7
        taken += ring.get(7).tolist()
    assert taken == list(range(700))


@pytest.mark.parametrize("capacity", [0, 1, 3, 100, 2**62])
def test_capacity_that_is_not_a_power_of_two_or_not_to_be_had_is_refused(capacity: int) -> None:
    with pytest.raises((ValueError, MemoryError)):
        RingBuffer(capacity)


def test_any_float32_buffer_is_taken() -> None:
    ring = RingBuffer(8)
    frozen = np.array([1.0, 2.0], dtype=np.float32)
    frozen.flags.writeable = False
    assert ring.put(frozen) == 2
    assert ring.put(array("f", [3.0])) == 1
    out = array("f", [0.0] * 4)
    assert ring.get_into(out) == 3
    assert out.tolist() == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros(4),
        np.zeros(4, dtype=np.int32),
        np.zeros((2, 2), dtype=np.float32),
        np.zeros(8, dtype=np.float32)[::2],
        b"\0\0\0\0",
    ],
    ids=["float64", "int32", "2-d", "strided", "bytes"],
)
def test_other_buffers_are_refused_not_cast(frames: np.ndarray | bytes) -> None:
    ring = RingBuffer(8)
    with pytest.raises(AudioFormatError, match=r"^frames: need a "):
        ring.put(frames)
    with pytest.raises(AudioFormatError, match=r"^out: need a "):
        ring.get_into(frames)
    assert len(ring) == 0


def test_a_read_only_target_is_refused_and_nothing_is_taken() -> None:
    ring = RingBuffer(8)
    ring.put(np.ones(2, dtype=np.float32))
    out = np.zeros(2, dtype=np.float32)
    out.flags.writeable = False
    with pytest.raises(AudioFormatError, match=r"^out: need a C-contiguous writable buffer"):
        ring.get_into(out)
    assert len(ring) == 2
