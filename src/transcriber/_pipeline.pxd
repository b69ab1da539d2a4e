cimport cython

from transcriber cimport libtr


@cython.final
@cython.no_gc_clear
cdef class Pipeline:
    cdef libtr.tr_pipeline *_ptr       # owned; NULL after close()
    cdef dict _streams                 # address of the tr_live -> LiveStream, until its end event was polled
    # Keeps the workers' sessions alive, each held busy until close(). A tuple: the collector empties lists.
    cdef tuple _sessions
    cdef bint _multilingual
    cdef libtr.tr_event *_polled       # owned: taken from the pipeline, not yet given to the caller
    cdef list _events                  # made of those, not yet given to the caller
    cdef long _pid                     # of the process that has the threads
    cdef void _free_polled(self) noexcept
    cdef void _release_sessions(self)
    cdef int _check_open(self) except -1


@cython.final
cdef class LiveStream:
    cdef libtr.tr_live *_ptr           # borrowed from the pipeline; NULL after the end event or the pipeline's close()
    cdef readonly Pipeline pipeline    # keeps the C stream alive
    cdef readonly str id
    cdef int _check_open(self) except -1
