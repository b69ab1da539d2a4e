cimport cython
from libc.stdint cimport uint8_t

from transcriber._ring cimport tr_flag


cdef extern from "tr_status.h" nogil:
    enum tr_status:
        TR_OK
        TR_ENONFINITE


cdef extern from "tr_pcm.h" nogil:
    enum tr_encoding:
        TR_S16LE
        TR_S24LE
        TR_S32LE
        TR_F32LE
        TR_MULAW
        TR_ALAW
    enum:
        TR_PCM_MAX_CHANNELS
    struct tr_pcm:
        pass
    tr_pcm *tr_pcm_new(tr_encoding encoding, unsigned n_channels)
    void tr_pcm_free(tr_pcm *pcm)
    size_t tr_pcm_max_frames(const tr_pcm *pcm, size_t n_bytes)
    tr_status tr_pcm_decode(tr_pcm *pcm, const uint8_t *data, size_t n_bytes, float *out, size_t *n_frames)
    size_t tr_pcm_carry_bytes(const tr_pcm *pcm)


cdef extern from "tr_resample.h" nogil:
    struct tr_resampler:
        pass
    tr_resampler *tr_resampler_new(unsigned sample_rate)
    void tr_resampler_free(tr_resampler *resampler)
    size_t tr_resampler_max_out(const tr_resampler *resampler, size_t n_in)
    size_t tr_resampler_process(tr_resampler *resampler, const float *src, size_t n_in, float *out)
    size_t tr_resampler_flush(tr_resampler *resampler, float *out)
    unsigned tr_resampler_delay_frames(const tr_resampler *resampler)


@cython.final
cdef class PcmDecoder:
    cdef tr_pcm *_pcm                   # owned
    cdef tr_flag _busy                  # held by the thread in decode()
    cdef readonly str encoding
    cdef readonly unsigned n_channels


@cython.final
cdef class Resampler:
    cdef tr_resampler *_resampler       # owned
    cdef tr_flag _busy                  # held by the thread in process()
    cdef bint _ended                    # guarded by _busy
    cdef readonly unsigned sample_rate


cdef int encoding_code(str encoding) except -1
