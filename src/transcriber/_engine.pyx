"""Whisper behind the GIL boundary: weights (`Model`), inference (`Session`), voice activity detection (`Vad`)."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.limits cimport INT_MAX
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport strncpy

from transcriber cimport libtr

import os
from importlib.resources import as_file, files

from transcriber.cpu import usable_cores
from transcriber.errors import (
    AudioFormatError,
    ConfigError,
    EngineBusyError,
    EngineClosedError,
    InferenceError,
    JobCancelledError,
    ModelLoadError,
)
from transcriber.models.ggml import check
from transcriber.result import Options, Segment, Transcript
from transcriber.words import group_words

__all__ = ["DEFAULT_MAX_THREADS", "LANGUAGES", "Model", "Session", "Vad", "quantize", "system_info"]

# Past four threads an inference of base gains little: its decoder is bound by memory, not by arithmetic.
DEFAULT_MAX_THREADS = 4

cdef enum:
    VAD_FAILED = -100                              # our own: whisper.cpp has no code for it

_STAGES = {VAD_FAILED: "vad", -2: "mel", -3: "lang", -6: "encode", -7: "alloc", -8: "decode", -9: "decode"}


def _languages():
    codes = []
    while libtr.tr_language_code(<int>len(codes)) is not NULL:
        codes.append(libtr.tr_language_code(<int>len(codes)).decode("ascii"))
    return tuple(codes)


LANGUAGES = _languages()


def system_info():
    """Return one line on what the CPU back-end of whisper.cpp was compiled for."""
    return libtr.tr_system_info().decode("utf-8", "replace")


cdef object status_error(libtr.tr_status rc, str what, int code=0):
    """Return the exception for a status that is not TR_OK; `code` is the engine's own, where it has one."""
    if rc == libtr.TR_ENOMEM:
        return MemoryError(f"{what}: out of memory")
    if rc == libtr.TR_ECANCELLED:
        return JobCancelledError(f"{what}: cancelled")
    if rc == libtr.TR_ENONFINITE:
        return AudioFormatError(f"{what}: the samples hold NaN or infinity")
    if rc == libtr.TR_EINVAL:
        return ValueError(f"{what}: argument out of range")
    detail = libtr.tr_last_log_error().decode("utf-8", "replace") or "no detail"
    if rc == libtr.TR_ELOAD:
        return ModelLoadError(f"{what}: whisper.cpp cannot load it: {detail}")
    return InferenceError(f"{what}: {detail} (code {code})", code=code, stage=_STAGES.get(code, "decode"))


cdef int fill_options(object options, bytes prompt, bint multilingual, libtr.tr_options *out) except -1:
    """Check `options` and map them to C. `prompt` must outlive `out`."""
    language = options.language
    if language != "auto" and language not in LANGUAGES:
        raise ConfigError(f"language: got {language!r}, want 'auto' or a Whisper code such as 'en', 'de', 'zh'")
    if not multilingual and (language not in ("auto", "en") or options.translate):
        raise ConfigError(f"language: this model knows English only, got {language!r}, translate={options.translate}")
    if not 1 <= options.beam_size <= 8:
        raise ConfigError(f"beam_size: got {options.beam_size}, want 1 (greedy) to 8")
    if not 0.0 <= options.temperature <= 1.0:
        raise ConfigError(f"temperature: got {options.temperature}, want 0 to 1")
    if not 0 <= options.max_tokens <= 224:
        raise ConfigError(f"max_tokens: got {options.max_tokens}, want 0 (no cap) to 224")
    if not 0 <= options.threads <= 256:
        raise ConfigError(f"threads: got {options.threads}, want 0 (default) to 256")
    if b"\0" in prompt:
        raise ConfigError("prompt: must not hold a NUL character")
    strncpy(out.language, PyBytes_AS_STRING(language.encode("ascii")), sizeof(out.language) - 1)
    out.language[sizeof(out.language) - 1] = 0
    out.prompt = PyBytes_AS_STRING(prompt)
    out.beam_size = options.beam_size
    out.max_tokens = options.max_tokens
    out.n_threads = options.threads
    out.temperature = options.temperature
    out.translate = options.translate
    out.retry = options.retry
    out.timestamps = options.timestamps
    out.word_timestamps = options.word_timestamps
    return 0


cdef object transcript_from_c(const libtr.tr_transcript *t, size_t n_samples):
    """Return the Python value of a C transcript of `n_samples` samples."""
    cdef bytes text = PyBytes_FromStringAndSize(t.text, <Py_ssize_t>t.text_size)
    cdef const libtr.tr_segment *s
    cdef const libtr.tr_token *k
    cdef size_t i, j
    segments = []
    for i in range(t.n_segments):
        s = &t.segments[i]
        tokens = []
        for j in range(s.first_token, s.first_token + s.n_tokens):
            k = &t.tokens[j]
            tokens.append((text[k.text_offset:k.text_offset + k.text_size], k.start_ms, k.end_ms, k.probability))
        # A segment's tokens are joined as bytes by whisper.cpp; only here do they become characters.
        segments.append(Segment(
            start_ms=s.start_ms,
            end_ms=s.end_ms,
            text=text[s.text_offset:s.text_offset + s.text_size].decode("utf-8", "replace").strip(),
            avg_logprob=s.avg_logprob,
            no_speech_prob=s.no_speech_prob,
            words=group_words(tokens),
        ))
    return Transcript(
        text=" ".join(segment.text for segment in segments if segment.text),
        language=t.language.decode("ascii"),
        language_probability=t.language_probability,
        duration_ms=<int64_t>n_samples * 1000 // 16000,
        segments=tuple(segments),
    )


@cython.final
cdef class Model:
    """Whisper weights: loaded once, read-only, shared by any number of sessions on any threads.

    Parameters
    ----------
    path : str or os.PathLike
        A ggml Whisper file. `transcriber.models.resolve` turns a catalogue name into one.

    Raises
    ------
    ModelLoadError
        The file is missing, damaged or not a Whisper model. It is checked before whisper.cpp reads it.

    Notes
    -----
    Loading releases the GIL. A context manager; `close` is idempotent and refused while sessions are open.
    """

    def __cinit__(self, path):
        cdef libtr.tr_status rc
        cdef bytes encoded = os.fsencode(path)
        cdef const char *c_path = PyBytes_AS_STRING(encoded)
        self.path = os.fsdecode(path)
        check(path)
        with nogil:
            rc = libtr.tr_model_load(c_path, &self._ptr)
        if rc != libtr.TR_OK:
            raise status_error(rc, f"{self.path}")
        self.multilingual = libtr.tr_model_is_multilingual(self._ptr)

    def __dealloc__(self):
        libtr.tr_model_free(self._ptr)

    def session(self, *, int threads=0):
        """Return a new `Session` whose inferences use `threads` threads (0: usable cores, at most 4)."""
        return Session(self, threads=threads)

    def close(self):
        """Free the weights. Raises EngineBusyError while a session is open."""
        cdef libtr.tr_model *ptr = self._ptr
        if self._n_sessions:
            raise EngineBusyError(f"model {self.path}: {self._n_sessions} sessions are still open; close them first")
        self._ptr = NULL
        with nogil:
            libtr.tr_model_free(ptr)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        return f"Model({self.path!r})"


@cython.final
@cython.no_gc  # it refers to a model only, never back: no cycle, and the model must be there when it is freed
cdef class Session:
    """One inference state over a model's weights. Made by `Model.session`.

    Notes
    -----
    One thread at a time: a second one gets EngineBusyError. `cancel` and `progress` may be used from any thread.
    The buffers (about 170 MB reserved for base) are made here once, never per run.
    """

    def __cinit__(self, Model model not None, *, int threads=0):
        cdef libtr.tr_status rc
        cdef libtr.tr_model *c_model = model._ptr
        cdef int n
        if model._ptr is NULL:
            raise EngineClosedError(f"model {model.path} is closed")
        if not 0 <= threads <= 256:
            raise ConfigError(f"threads: got {threads}, want 0 (default) to 256")
        n = threads or min(DEFAULT_MAX_THREADS, usable_cores())
        self.threads = n
        self.model = model
        model._n_sessions += 1
        with nogil:
            rc = libtr.tr_session_new(c_model, n, &self._ptr)
        if rc != libtr.TR_OK:
            model._n_sessions -= 1
            raise status_error(rc, "session")

    def __dealloc__(self):
        if self._ptr is not NULL:
            libtr.tr_session_free(self._ptr)
            self.model._n_sessions -= 1

    def run(self, const float[::1] pcm not None, options=Options()):
        """Transcribe `pcm`, blocking, without the GIL.

        Parameters
        ----------
        pcm : float32 buffer, shape (n_samples,), C-contiguous
            Mono, 16 kHz, nominal range [-1, 1]. Anything shorter than a second is padded with silence.
        options : Options

        Returns
        -------
        Transcript

        Raises
        ------
        AudioFormatError
            No samples, more than 2**31 - 1, or NaN or infinity among them.
        ConfigError
            An option is out of range, or the model knows English only.
        JobCancelledError
            `cancel` was called meanwhile.
        InferenceError
            whisper.cpp failed; the session can be used again.
        EngineBusyError, EngineClosedError
            Another thread is in `run`; the session was closed.
        """
        cdef libtr.tr_status rc
        cdef libtr.tr_options c_options
        cdef libtr.tr_transcript *transcript = NULL
        cdef bytes prompt = options.prompt.encode("utf-8")
        cdef const float *samples
        cdef size_t n_samples = <size_t>pcm.shape[0]
        if not 1 <= pcm.shape[0] <= INT_MAX:
            raise AudioFormatError(f"pcm: want 1 to {INT_MAX} samples at 16 kHz, got {pcm.shape[0]}")
        fill_options(options, prompt, self.model.multilingual, &c_options)
        samples = &pcm[0]                          # the memoryview argument pins the buffer
        if not libtr.tr_flag_try_acquire(&self._busy):     # before reading _ptr: close() takes it too
            raise EngineBusyError("session is in use by another thread; give each thread its own")
        try:
            if self._ptr is NULL:
                raise EngineClosedError("session is closed")
            with nogil:
                rc = libtr.tr_session_run(self._ptr, samples, n_samples, &c_options, &transcript)
            if rc != libtr.TR_OK:
                raise status_error(rc, "inference", libtr.tr_session_error_code(self._ptr))
        finally:
            libtr.tr_flag_release(&self._busy)
        try:
            return transcript_from_c(transcript, n_samples)
        finally:
            libtr.tr_transcript_free(transcript)

    cdef libtr.tr_engine engine(self):
        return libtr.tr_session_engine(self._ptr)

    def cancel(self):
        """Ask the run in progress to stop; it raises JobCancelledError after the encoder pass or decoder step
        that it is in. Does nothing when no run is in progress. Any thread."""
        if self._ptr is not NULL:
            libtr.tr_session_cancel(self._ptr)

    @property
    def progress(self):
        """Percent of the audio done by the run in progress, 0 to 100. Any thread."""
        return libtr.tr_session_progress(self._ptr) if self._ptr is not NULL else 100

    def close(self):
        """Free the state. Idempotent; EngineBusyError while another thread is in `run`."""
        cdef libtr.tr_session *ptr
        if not libtr.tr_flag_try_acquire(&self._busy):
            raise EngineBusyError("session is in use; cancel the run and wait for it before closing")
        try:
            if self._ptr is not NULL:
                ptr = self._ptr
                self._ptr = NULL                   # `cancel` and `progress` read and use it in one step under the GIL
                with nogil:
                    libtr.tr_session_free(ptr)
                self.model._n_sessions -= 1
        finally:
            libtr.tr_flag_release(&self._busy)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()


@cython.final
cdef class Vad:
    """Silero voice activity detection with the weights that come with the package. One thread at a time."""

    def __cinit__(self):
        cdef libtr.tr_status rc
        cdef bytes encoded
        cdef const char *c_path
        with as_file(files("transcriber") / "data" / "ggml-silero-v6.2.0.bin") as path:
            encoded = os.fsencode(path)
            c_path = PyBytes_AS_STRING(encoded)
            with nogil:
                rc = libtr.tr_vad_new(c_path, &self._ptr)
        if rc != libtr.TR_OK:
            raise status_error(rc, f"{os.fsdecode(encoded)}")

    def __dealloc__(self):
        libtr.tr_vad_free(self._ptr)

    def speech_spans(self, const float[::1] pcm not None):
        """Find speech.

        Parameters
        ----------
        pcm : float32 buffer, shape (n_samples,), C-contiguous
            Mono, 16 kHz.

        Returns
        -------
        list of (start_ms, end_ms)
            Increasing and disjoint, padded by 30 ms; pauses under 100 ms do not split a span.

        Raises
        ------
        AudioFormatError
            No samples, more than 2**31 - 1, or NaN or infinity among them.
        EngineBusyError
            Another thread is in this call.
        """
        cdef libtr.tr_status rc
        cdef int64_t *spans = NULL
        cdef size_t n_spans = 0
        cdef size_t i
        cdef const float *samples
        cdef size_t n_samples = <size_t>pcm.shape[0]
        if not 1 <= pcm.shape[0] <= INT_MAX:
            raise AudioFormatError(f"pcm: want 1 to {INT_MAX} samples at 16 kHz, got {pcm.shape[0]}")
        samples = &pcm[0]
        if not libtr.tr_flag_try_acquire(&self._busy):
            raise EngineBusyError("voice activity detector is in use by another thread; give each thread its own")
        try:
            with nogil:
                rc = libtr.tr_vad_spans(self._ptr, samples, n_samples, &spans, &n_spans)
        finally:
            libtr.tr_flag_release(&self._busy)
        if rc != libtr.TR_OK:
            raise status_error(rc, "voice activity detection", VAD_FAILED)
        try:
            return [(spans[2 * i], spans[2 * i + 1]) for i in range(n_spans)]
        finally:
            free(spans)


def quantize(str kind not None, const float[:, ::1] rows not None):
    """Quantise a matrix row by row to a ggml block type.

    Parameters
    ----------
    kind : {"q8_0", "q5_1"}
    rows : float32 buffer, shape (n_rows, n_columns), C-contiguous
        n_columns a multiple of 32.

    Returns
    -------
    bytes
        The blocks, row after row, as a ggml file holds them.
    """
    cdef bytes c_kind = kind.encode("ascii")
    cdef const char *kind_ptr = PyBytes_AS_STRING(c_kind)
    cdef size_t n_rows = <size_t>rows.shape[0]
    cdef size_t n_columns = <size_t>rows.shape[1]
    cdef const float *source
    cdef size_t size = libtr.tr_quantize(kind_ptr, NULL, n_rows, n_columns, NULL)
    cdef size_t written
    cdef bytes out
    cdef char *target
    if size == 0:
        raise ValueError(f"quantize: want q8_0 or q5_1 and columns in multiples of 32, got {kind!r}, {rows.shape[0]} x {rows.shape[1]}")
    out = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>size)
    target = PyBytes_AS_STRING(out)
    source = &rows[0, 0]
    with nogil:
        written = libtr.tr_quantize(kind_ptr, source, n_rows, n_columns, target)
    if written != size:
        raise RuntimeError(f"quantize: ggml wrote {written} bytes, {size} were expected")
    return out
