cimport cython
from libc.stdint cimport uint64_t

from transcriber cimport libtr


@cython.final
cdef class RingBuffer:
    cdef libtr.tr_ring *_ring  # owned
    cdef libtr.tr_flag _producing  # held by the thread in put(): two producers would corrupt the ring
    cdef libtr.tr_flag _consuming  # held by the thread in get() or get_into()
    cdef uint64_t _overrun_frames  # written by the producer only
