cimport cython

from transcriber cimport libtr


cdef object status_error(libtr.tr_status rc, str what, int code=*)
cdef int fill_options(object options, bytes prompt, bint multilingual, libtr.tr_options *out) except -1
cdef object transcript_from_c(const libtr.tr_transcript *t, size_t n_samples)


@cython.final
cdef class Model:
    cdef libtr.tr_model *_ptr          # owned; NULL after close()
    cdef int _n_sessions               # open sessions; guarded by the GIL
    cdef readonly str path
    cdef readonly bint multilingual


@cython.final
@cython.no_gc
cdef class Session:
    cdef libtr.tr_session *_ptr        # owned; NULL after close()
    cdef libtr.tr_flag _busy           # held by whoever is in run() or close(), or by a pipeline for its lifetime
    cdef readonly Model model          # keeps the weights alive while the state uses them
    cdef readonly int threads
    cdef libtr.tr_engine engine(self)  # for a worker: only this module is linked with whisper.cpp


@cython.final
cdef class Vad:
    cdef libtr.tr_vad *_ptr            # owned
    cdef libtr.tr_flag _busy
