"""The signal kernels of csrc/tr_pcm and csrc/tr_resample for Python: PCM bytes to mono float32, and that to 16 kHz."""

import numpy as np

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint8_t

from transcriber cimport libtr
from transcriber._buffer cimport NOGIL_FRAMES, acquire_frames

from transcriber.errors import AudioFormatError, EngineBusyError, StreamClosedError

__all__ = ["ENCODINGS", "PcmDecoder", "Resampler"]

# Wire name to enum; the public tuple keeps this order.
cdef dict _ENCODINGS = {
    "s16le": libtr.TR_S16LE,
    "s24le": libtr.TR_S24LE,
    "s32le": libtr.TR_S32LE,
    "f32le": libtr.TR_F32LE,
    "mulaw": libtr.TR_MULAW,
    "alaw": libtr.TR_ALAW,
}
ENCODINGS = tuple(_ENCODINGS)


cdef int encoding_code(str encoding) except -1:
    """Return the enum tr_encoding of a wire name."""
    if encoding not in _ENCODINGS:
        raise AudioFormatError(f"encoding: need one of {', '.join(ENCODINGS)}, got {encoding!r}")
    return _ENCODINGS[encoding]


@cython.final
cdef class PcmDecoder:
    """Turn a stream of PCM bytes, cut anywhere, into mono float32.

    Parameters
    ----------
    encoding : str
        One of `ENCODINGS`; G.711 for mulaw and alaw.
    n_channels : int
        1 to 8, interleaved; they are averaged.

    Raises
    ------
    AudioFormatError
        An unknown encoding or channel count.

    Notes
    -----
    One thread at a time. Full scale is 1.0. The frames are the same bits however the bytes are cut into chunks.
    """

    def __cinit__(self, str encoding not None, int n_channels):
        cdef int code = encoding_code(encoding)
        if not 1 <= n_channels <= libtr.TR_PCM_MAX_CHANNELS:
            raise AudioFormatError(f"n_channels: need 1..{libtr.TR_PCM_MAX_CHANNELS}, got {n_channels}")
        self.encoding = encoding
        self.n_channels = <unsigned>n_channels
        self._pcm = libtr.tr_pcm_new(<libtr.tr_encoding>code, self.n_channels)
        if self._pcm is NULL:
            raise MemoryError("no memory for a PCM decoder")

    def __dealloc__(self):
        libtr.tr_pcm_free(self._pcm)

    def decode(self, data, /):
        """Decode one chunk.

        Parameters
        ----------
        data : bytes-like
            Any length. The bytes of an incomplete last frame wait for the next call.

        Returns
        -------
        ndarray, shape (n_frames,), float32
            The frames that became complete, mono.

        Raises
        ------
        AudioFormatError
            A float32 sample that ends in this chunk is NaN, infinite or 2**99 and more: it is refused whole, and the decoder
            is as if it had not been given.
        EngineBusyError
            Another thread is in `decode`.

        Notes
        -----
        Releases the GIL for 4096 bytes or more.
        """
        cdef Py_buffer view
        cdef float[::1] out
        cdef size_t n_bytes, n_frames
        cdef libtr.tr_status rc
        cdef float *samples
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if not libtr.tr_flag_try_acquire(&self._busy):
                raise EngineBusyError("the decoder is in use by another thread")
            try:
                n_bytes = <size_t>view.len
                n_frames = libtr.tr_pcm_max_frames(self._pcm, n_bytes)
                array = np.empty(n_frames, dtype=np.float32)
                out = array
                samples = &out[0]
                if n_bytes < NOGIL_FRAMES:
                    rc = libtr.tr_pcm_decode(self._pcm, <const uint8_t *>view.buf, n_bytes, samples, &n_frames)
                else:
                    with nogil:
                        rc = libtr.tr_pcm_decode(self._pcm, <const uint8_t *>view.buf, n_bytes, samples, &n_frames)
            finally:
                libtr.tr_flag_release(&self._busy)
        finally:
            PyBuffer_Release(&view)
        if rc == libtr.TR_ENONFINITE:
            raise AudioFormatError(f"f32le: a chunk of {n_bytes} bytes holds NaN, infinity or absurdly large samples; it was refused whole")
        return array

    @property
    def carry_bytes(self):
        """Bytes of the incomplete frame that waits for the next chunk."""
        return libtr.tr_pcm_carry_bytes(self._pcm)


@cython.final
cdef class Resampler:
    """Resample a stream of mono float32 to 16 kHz.

    Parameters
    ----------
    sample_rate : int
        Rate of the input in Hz: 48000 (141-tap linear-phase FIR) or 16000 (copied).

    Raises
    ------
    AudioFormatError
        Another rate.

    Notes
    -----
    One thread at a time. Flat within 0.01 dB up to 7.2 kHz and 100 dB down from 8.8 kHz. The time line is aligned:
    output frame m belongs to the instant of input frame 3 m, and after the last chunk exactly
    ``ceil(n_in * 16000 / sample_rate)`` frames have come out. The same bits under any chunking.
    """

    def __cinit__(self, unsigned sample_rate=48000):
        self._resampler = libtr.tr_resampler_new(sample_rate)
        if self._resampler is NULL:
            raise AudioFormatError(f"sample_rate: need 48000 or 16000, got {sample_rate}")
        self.sample_rate = sample_rate

    def __dealloc__(self):
        libtr.tr_resampler_free(self._resampler)

    def process(self, pcm, *, bint last=False):
        """Resample one chunk.

        Parameters
        ----------
        pcm : buffer, shape (n_frames,), float32
            Mono, C-contiguous, finite; nominal range [-1, 1]. May be empty.
        last : bool
            Give the frames still held in the filter as well; a later call raises.

        Returns
        -------
        ndarray, shape (n_out,), float32
            The frames at 16 kHz that became complete.

        Raises
        ------
        AudioFormatError
            Wrong type of element or layout.
        StreamClosedError
            The last chunk was given before.
        EngineBusyError
            Another thread is in `process`.

        Notes
        -----
        Releases the GIL for 4096 frames or more. `delay_frames` output frames are held back until more input or
        ``last`` comes.
        """
        cdef Py_buffer view
        cdef float[::1] out
        cdef size_t n_in, n_out
        cdef float *frames
        acquire_frames(pcm, &view, False, "pcm")
        try:
            if not libtr.tr_flag_try_acquire(&self._busy):
                raise EngineBusyError("the resampler is in use by another thread")
            try:
                if self._ended:
                    raise StreamClosedError("the resampler was given its last chunk; make a new one")
                n_in = <size_t>view.len // sizeof(float)
                n_out = libtr.tr_resampler_max_out(self._resampler, n_in)
                if last:
                    n_out += libtr.tr_resampler_delay_frames(self._resampler)
                array = np.empty(n_out, dtype=np.float32)
                out = array
                frames = &out[0]
                if n_in < NOGIL_FRAMES:
                    n_out = libtr.tr_resampler_process(self._resampler, <const float *>view.buf, n_in, frames)
                else:
                    with nogil:
                        n_out = libtr.tr_resampler_process(self._resampler, <const float *>view.buf, n_in, frames)
                if last:
                    n_out += libtr.tr_resampler_flush(self._resampler, frames + n_out)
                    self._ended = True
            finally:
                libtr.tr_flag_release(&self._busy)
        finally:
            PyBuffer_Release(&view)
        return array[:n_out]

    @property
    def delay_frames(self):
        """Output frames at 16 kHz that the filter holds back at most: 24 (1.5 ms) from 48 kHz, 0 from 16 kHz."""
        return libtr.tr_resampler_delay_frames(self._resampler)
