"""The live core of csrc/tr_pipeline for Python: raw streams and raw events. `transcriber.stream` is its public face."""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t, uintptr_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport getpid

from transcriber cimport libtr
from transcriber._engine cimport Session, fill_options, status_error, transcript_from_c
from transcriber._resample cimport encoding_code

from transcriber.errors import (
    AudioFormatError,
    EngineBusyError,
    EngineClosedError,
    QueueFullError,
    StreamClosedError,
)

__all__ = ["DROP_REASONS", "LiveStream", "Pipeline"]

DROP_REASONS = ("queue_full", "overrun", "inference_error", "abandoned")  # in the order of enum tr_drop

cdef tuple _balance(const libtr.tr_balance *b):
    cdef int i
    dropped = {}
    for i in range(<int>libtr.TR_N_DROPS):
        if b.dropped[i]:
            dropped[DROP_REASONS[i]] = b.dropped[i]
    return (b.received, b.transcribed, b.flushed, b.buffered, dropped)


@cython.final
@cython.no_gc_clear  # streams refer back to it: the collector must not take the sessions from under the workers
cdef class Pipeline:
    """Streams, bounded queue and native worker threads over the given sessions, which are its own until `close`."""

    def __cinit__(self, list sessions not None, *, size_t max_streams, size_t queue_capacity, size_t window_samples):
        cdef libtr.tr_pipeline_config config
        cdef libtr.tr_engine *engines
        cdef libtr.tr_status rc
        cdef Session session
        self._streams = {}
        self._sessions = ()
        self._events = []
        self._pid = getpid()
        engines = <libtr.tr_engine *>malloc(max(1, len(sessions)) * sizeof(libtr.tr_engine))
        if engines is NULL:
            raise MemoryError("no memory for the workers")
        try:
            for i, item in enumerate(sessions):
                session = <Session?>item
                if not libtr.tr_flag_try_acquire(&session._busy):
                    raise EngineBusyError("a session given to a worker is in use by another thread")
                self._sessions += (session,)
                if session._ptr is NULL:
                    raise EngineClosedError("a session given to a worker is closed")
                self._multilingual = session.model.multilingual
                engines[i] = session.engine()
            config.max_streams = max_streams
            config.queue_capacity = queue_capacity
            config.window_samples = window_samples
            config.n_workers = len(sessions)
            config.engines = engines
            with nogil:
                rc = libtr.tr_pipeline_new(&config, &self._ptr)
            if rc == libtr.TR_EOS:
                raise OSError("pipeline: the system gave no thread or no pipe; look at its process and file limits")
            if rc != libtr.TR_OK:
                raise status_error(rc, "pipeline")
        except BaseException:
            self._release_sessions()
            raise
        finally:
            free(engines)

    def __dealloc__(self):
        # Only when close() was forgotten: blocks until the workers are out, as the sessions must not go first.
        if self._pid == getpid():
            with nogil:
                libtr.tr_pipeline_free(self._ptr)
            self._free_polled()

    cdef void _free_polled(self) noexcept:
        cdef libtr.tr_event *following
        while self._polled is not NULL:
            following = self._polled.next
            libtr.tr_event_free(self._polled)
            self._polled = following

    cdef void _release_sessions(self):
        cdef Session session
        for item in self._sessions:
            session = <Session>item
            libtr.tr_flag_release(&session._busy)
        self._sessions = ()

    cdef int _check_open(self) except -1:
        if self._ptr is NULL:
            raise EngineClosedError("transcriber is closed")
        return 0

    def fileno(self):
        """Return the descriptor that is readable while `poll` has something."""
        self._check_open()
        return libtr.tr_pipeline_fd(self._ptr)

    def open(self, str id not None, *, str encoding not None, unsigned sample_rate, unsigned n_channels, options not None):
        """Open a live stream."""
        cdef libtr.tr_options c_options
        cdef libtr.tr_live *live = NULL
        cdef libtr.tr_status rc
        cdef LiveStream stream
        cdef bytes prompt = options.prompt.encode("utf-8")
        cdef int code = encoding_code(encoding)
        self._check_open()
        fill_options(options, prompt, self._multilingual, &c_options)
        rc = libtr.tr_live_open(self._ptr, sample_rate, <libtr.tr_encoding>code, n_channels, &c_options, &live)
        if rc == libtr.TR_EFULL:
            n = len(self._streams)
            raise QueueFullError(f"stream {id}: {n} streams are open, which is the limit; raise max_streams", depth=n, capacity=n)
        if rc == libtr.TR_ECLOSED:
            raise EngineClosedError(f"stream {id}: the transcriber is shutting down")
        if rc == libtr.TR_EINVAL:
            raise AudioFormatError(
                f"stream {id}: sample_rate {sample_rate} with {n_channels} channels is not supported; "
                "want 48000 or 16000 Hz, 1 to 8 channels"
            )
        if rc != libtr.TR_OK:
            raise status_error(rc, f"stream {id}")
        stream = LiveStream.__new__(LiveStream)
        stream._ptr = live
        stream.pipeline = self
        stream.id = id
        self._streams[<uintptr_t>live] = stream
        return stream

    def poll(self):
        """Return the waiting events, oldest first, as tuples (kind, stream, ...); never blocks."""
        cdef libtr.tr_event *event
        cdef LiveStream stream
        self._check_open()
        # What is taken and what is made of it stay in the object until all is done: should an exception come between
        # (Ctrl-C, no memory), the next call goes on from there.
        if self._polled is NULL:
            self._polled = libtr.tr_pipeline_poll(self._ptr)
        out = self._events
        while self._polled is not NULL:
            event = self._polled
            stream = self._streams[<uintptr_t>event.stream]
            if event.kind == libtr.TR_EVENT_FINAL:
                out.append(("final", stream, event.seq, event.start, event.n_samples, event.flush,
                            event.created_ns, event.started_ns, event.finished_ns,
                            transcript_from_c(event.transcript, event.n_samples)))
            elif event.kind == libtr.TR_EVENT_GAP:
                out.append(("gap", stream, event.seq, event.start, event.n_samples, DROP_REASONS[<int>event.reason],
                            event.detail.decode("utf-8", "replace")))
            else:
                out.append(("end", stream, event.seq, _balance(&event.balance)))
                del self._streams[<uintptr_t>event.stream]
                libtr.tr_live_close(stream._ptr)
                stream._ptr = NULL
            self._polled = event.next
            libtr.tr_event_free(event)
        self._events = []
        return out

    def counters(self):
        """Return (jobs_enqueued, jobs_dropped, jobs_completed, jobs_failed, queue_depth, workers_busy, streams_active)."""
        cdef libtr.tr_counters c
        self._check_open()
        c = libtr.tr_pipeline_counters(self._ptr)
        return (c.jobs_enqueued, c.jobs_dropped, c.jobs_completed, c.jobs_failed, c.queue_depth, c.workers_busy,
                c.streams_active)

    def abandon(self):
        """Count everything unfinished as abandoned and make its gap and end events; workers are left behind."""
        self._check_open()
        with nogil:
            libtr.tr_pipeline_abandon(self._ptr)

    def close(self):
        """Cancel, join every thread (up to one encoder pass), free. Idempotent."""
        cdef libtr.tr_pipeline *ptr = self._ptr
        if ptr is NULL:
            return                                 # done, or another thread is at it: the sessions are its to release
        self._ptr = NULL
        for stream in self._streams.values():
            (<LiveStream>stream)._ptr = NULL
        self._streams.clear()
        if self._pid != getpid():
            return                                 # a forked child has none of the threads: nothing can be joined
        with nogil:
            libtr.tr_pipeline_free(ptr)
        self._free_polled()
        self._release_sessions()


@cython.final
cdef class LiveStream:
    """One raw stream of a `Pipeline`."""

    cdef int _check_open(self) except -1:
        if self._ptr is NULL:
            raise StreamClosedError(f"stream {self.id} has ended; open a new one")
        return 0

    def feed(self, data not None):
        """Take one chunk of bytes; wait-free."""
        cdef Py_buffer view
        cdef libtr.tr_status rc
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._check_open()
            # With the GIL, which orders it against end, poll and close on other threads; 100 ms of audio take 20 us.
            rc = libtr.tr_live_feed(self._ptr, <const uint8_t *>view.buf, <size_t>view.len)
        finally:
            PyBuffer_Release(&view)
        if rc == libtr.TR_ECLOSED:
            raise StreamClosedError(f"stream {self.id} has ended; open a new one")
        if rc == libtr.TR_ENONFINITE:
            raise AudioFormatError(f"stream {self.id}: the chunk holds NaN, infinity or absurdly large samples; it was refused whole")
        if rc == libtr.TR_EINVAL:
            raise AudioFormatError(f"stream {self.id}: the chunk holds more than 8.1 s of audio; send shorter ones")
        if rc != libtr.TR_OK:
            raise status_error(rc, f"stream {self.id}")

    def end(self):
        """No more audio; idempotent."""
        if self._ptr is not NULL:
            libtr.tr_live_end(self._ptr)

    def balance(self):
        """Return (received, transcribed, flushed, buffered, dropped by reason), in samples at 16 kHz."""
        cdef libtr.tr_balance b
        self._check_open()
        b = libtr.tr_live_balance(self._ptr)
        return _balance(&b)
