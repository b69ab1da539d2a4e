cimport cython
from libc.stdint cimport uint64_t


cdef extern from "tr_flag.h" nogil:
    struct tr_flag:
        pass
    bint tr_flag_try_acquire(tr_flag *flag)
    void tr_flag_release(tr_flag *flag)


cdef extern from "tr_ring.h" nogil:
    struct tr_ring:
        pass
    tr_ring *tr_ring_new(size_t capacity)
    void tr_ring_free(tr_ring *ring)
    size_t tr_ring_write(tr_ring *ring, const float *src, size_t n_frames)
    size_t tr_ring_read(tr_ring *ring, float *dst, size_t n_frames)
    size_t tr_ring_read_available(const tr_ring *ring)
    size_t tr_ring_capacity(const tr_ring *ring)


@cython.final
cdef class RingBuffer:
    cdef tr_ring *_ring         # owned
    cdef tr_flag _producing     # held by the thread in put(): two producers would corrupt the ring
    cdef tr_flag _consuming     # held by the thread in get() or get_into()
    cdef uint64_t _overrun_frames  # written by the producer only
