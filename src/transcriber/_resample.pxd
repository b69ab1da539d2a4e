cimport cython

from transcriber cimport libtr


@cython.final
cdef class PcmDecoder:
    cdef libtr.tr_pcm *_pcm  # owned
    cdef libtr.tr_flag _busy  # held by the thread in decode()
    cdef readonly str encoding
    cdef readonly unsigned n_channels


@cython.final
cdef class Resampler:
    cdef libtr.tr_resampler *_resampler  # owned
    cdef libtr.tr_flag _busy  # held by the thread in process()
    cdef bint _ended  # guarded by _busy
    cdef readonly unsigned sample_rate


cdef int encoding_code(str encoding) except -1
