"""The lock-free ring of csrc/tr_ring for Python: float32 frames from one producer thread to one consumer thread."""

import numpy as np

cimport cython
from cpython.buffer cimport PyBuffer_Release

from transcriber cimport libtr
from transcriber._buffer cimport NOGIL_FRAMES, acquire_frames

from transcriber.errors import EngineBusyError

__all__ = ["RingBuffer"]


@cython.final
cdef class RingBuffer:
    """A bounded buffer of float32 frames from one producer thread to one consumer thread, without locks.

    Parameters
    ----------
    capacity : int
        Frames that fit; a power of two, 2 or more. The memory is taken here and never grows.

    Raises
    ------
    ValueError
        `capacity` is not a power of two of at least 2.

    Notes
    -----
    One thread may call `put` while another calls `get` or `get_into`; neither waits for the other. A second thread
    in the same role is refused with `EngineBusyError`. `len()` is the number of frames ready to read.
    """

    def __cinit__(self, size_t capacity):
        if capacity < 2 or capacity & (capacity - 1):
            raise ValueError(f"capacity: need a power of two of at least 2, got {capacity}")
        self._ring = libtr.tr_ring_new(capacity)
        if self._ring is NULL:
            raise MemoryError(f"no memory for a ring of {capacity} frames")

    def __dealloc__(self):
        libtr.tr_ring_free(self._ring)

    def put(self, frames, /):
        """Copy frames in; those that do not fit are left out and counted.

        Parameters
        ----------
        frames : buffer, shape (n_frames,), float32
            C-contiguous; a NumPy array, an `array.array("f")`, a memoryview.

        Returns
        -------
        int
            Frames accepted, from the first one on; fewer than given is an overrun.

        Raises
        ------
        AudioFormatError
            Wrong type of element or layout.
        EngineBusyError
            Another thread is in `put`.

        Notes
        -----
        Producer only. Never blocks; releases the GIL for 4096 frames or more.
        """
        cdef Py_buffer view
        cdef size_t n_frames, n_written
        acquire_frames(frames, &view, False, "frames")
        try:
            if not libtr.tr_flag_try_acquire(&self._producing):
                raise EngineBusyError("another thread is in put(): a ring has one producer")
            n_frames = <size_t>view.len // sizeof(float)
            if n_frames < NOGIL_FRAMES:
                n_written = libtr.tr_ring_write(self._ring, <const float *>view.buf, n_frames)
            else:
                with nogil:
                    n_written = libtr.tr_ring_write(self._ring, <const float *>view.buf, n_frames)
            self._overrun_frames += n_frames - n_written
            libtr.tr_flag_release(&self._producing)
        finally:
            PyBuffer_Release(&view)
        return n_written

    def get(self, size_t n_frames, /):
        """Take out up to `n_frames` frames as a new array, shape (n,), float32; fewer when the ring holds fewer.

        Raises
        ------
        EngineBusyError
            Another thread is in `get` or `get_into`.

        Notes
        -----
        Consumer only. Never blocks; releases the GIL for 4096 frames or more.
        """
        # Only this thread takes frames out, so what is ready now is still there for get_into().
        frames = np.empty(min(n_frames, libtr.tr_ring_read_available(self._ring)), dtype=np.float32)
        return frames[: self.get_into(frames)]

    def get_into(self, out, /):
        """Move frames into `out`, a writable C-contiguous float32 buffer; return how many, fewer when the ring is empty.

        Raises
        ------
        AudioFormatError
            Wrong type of element or layout, or read-only.
        EngineBusyError
            Another thread is in `get` or `get_into`.

        Notes
        -----
        Consumer only. Never blocks; releases the GIL for 4096 frames or more.
        """
        cdef Py_buffer view
        cdef size_t n_frames, n_read
        acquire_frames(out, &view, True, "out")
        try:
            if not libtr.tr_flag_try_acquire(&self._consuming):
                raise EngineBusyError("another thread is in get(): a ring has one consumer")
            n_frames = <size_t>view.len // sizeof(float)
            if n_frames < NOGIL_FRAMES:
                n_read = libtr.tr_ring_read(self._ring, <float *>view.buf, n_frames)
            else:
                with nogil:
                    n_read = libtr.tr_ring_read(self._ring, <float *>view.buf, n_frames)
            libtr.tr_flag_release(&self._consuming)
        finally:
            PyBuffer_Release(&view)
        return n_read

    def __len__(self):
        return libtr.tr_ring_read_available(self._ring)

    @property
    def capacity(self):
        """Frames that fit in all."""
        return libtr.tr_ring_capacity(self._ring)

    @property
    def overrun_frames(self):
        """Frames that `put` was given and could not take since the ring was made."""
        return self._overrun_frames
