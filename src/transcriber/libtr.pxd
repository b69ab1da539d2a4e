# cython: language_level=3
"""Declarations of libtr and of the whisper shim. No logic."""

from libc.stdint cimport int64_t, uint64_t
from libcpp cimport bool


cdef extern from "tr_status.h" nogil:
    enum tr_status:
        TR_OK
        TR_ENOMEM
        TR_EINVAL
        TR_ENONFINITE
        TR_EFULL
        TR_ECLOSED
        TR_ECANCELLED
        TR_ELOAD
        TR_EENGINE
        TR_EEXCEPTION
        TR_EOS


cdef extern from "tr_flag.h" nogil:
    struct tr_flag:
        pass
    bool tr_flag_try_acquire(tr_flag *flag)
    void tr_flag_release(tr_flag *flag)


cdef extern from "tr_engine.h" nogil:
    struct tr_options:
        char language[8]
        const char *prompt
        int beam_size
        int max_tokens
        int n_threads
        float temperature
        bool translate
        bool retry
        bool timestamps
        bool word_timestamps

    struct tr_token:
        int64_t start_ms
        int64_t end_ms
        size_t text_offset
        size_t text_size
        float probability

    struct tr_segment:
        int64_t start_ms
        int64_t end_ms
        size_t text_offset
        size_t text_size
        size_t first_token
        size_t n_tokens
        float avg_logprob
        float no_speech_prob

    struct tr_transcript:
        char language[8]
        float language_probability
        tr_segment *segments
        size_t n_segments
        tr_token *tokens
        size_t n_tokens
        char *text
        size_t text_size

    struct tr_engine:
        void *session

    void tr_transcript_free(tr_transcript *transcript)


cdef extern from "tr_whisper.h" nogil:
    struct tr_model:
        pass
    struct tr_session:
        pass
    struct tr_vad:
        pass
    tr_status tr_model_load(const char *path, tr_model **out)
    void tr_model_free(tr_model *model)
    bool tr_model_is_multilingual(const tr_model *model)
    tr_status tr_session_new(tr_model *model, int n_threads, tr_session **out)
    void tr_session_free(tr_session *session)
    tr_status tr_session_run(tr_session *session, const float *pcm, size_t n_samples, const tr_options *options,
                             tr_transcript **out)
    void tr_session_cancel(tr_session *session)
    int tr_session_progress(const tr_session *session)
    int tr_session_error_code(const tr_session *session)
    tr_engine tr_session_engine(tr_session *session)
    tr_status tr_vad_new(const char *path, tr_vad **out)
    void tr_vad_free(tr_vad *vad)
    tr_status tr_vad_spans(tr_vad *vad, const float *pcm, size_t n_samples, int64_t **spans, size_t *n_spans)
    size_t tr_quantize(const char *kind, const float *rows, size_t n_rows, size_t n_columns, void *out)
    const char *tr_language_code(int index)
    const char *tr_last_log_error()
    const char *tr_system_info()
