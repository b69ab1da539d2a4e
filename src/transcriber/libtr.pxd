# cython: language_level=3
"""Declarations of libtr and of the whisper shim. No logic."""

from libc.stdint cimport int64_t, uint8_t, uint64_t
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


cdef extern from "tr_ring.h" nogil:
    struct tr_ring:
        pass
    tr_ring *tr_ring_new(size_t capacity)
    void tr_ring_free(tr_ring *ring)
    size_t tr_ring_write(tr_ring *ring, const float *src, size_t n_frames)
    size_t tr_ring_read(tr_ring *ring, float *dst, size_t n_frames)
    size_t tr_ring_read_available(const tr_ring *ring)
    size_t tr_ring_capacity(const tr_ring *ring)


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


cdef extern from "tr_pipeline.h" nogil:
    struct tr_pipeline:
        pass
    struct tr_live:
        pass

    enum tr_drop:
        TR_DROP_QUEUE_FULL
        TR_DROP_OVERRUN
        TR_DROP_INFERENCE_ERROR
        TR_DROP_ABANDONED
        TR_N_DROPS

    struct tr_balance:
        uint64_t received
        uint64_t transcribed
        uint64_t flushed
        uint64_t buffered
        uint64_t dropped[4]

    struct tr_counters:
        uint64_t jobs_enqueued
        uint64_t jobs_dropped
        uint64_t jobs_completed
        uint64_t jobs_failed
        size_t queue_depth
        size_t workers_busy
        size_t streams_active

    enum tr_event_kind:
        TR_EVENT_FINAL
        TR_EVENT_GAP
        TR_EVENT_END

    struct tr_event:
        tr_event *next
        tr_live *stream
        tr_event_kind kind
        bool flush
        int64_t seq
        uint64_t start
        uint64_t n_samples
        tr_drop reason
        char detail[160]
        int64_t created_ns
        int64_t started_ns
        int64_t finished_ns
        tr_transcript *transcript
        tr_balance balance

    struct tr_pipeline_config:
        size_t max_streams
        size_t queue_capacity
        size_t window_samples
        size_t n_workers
        const tr_engine *engines

    tr_status tr_pipeline_new(const tr_pipeline_config *config, tr_pipeline **out)
    void tr_pipeline_free(tr_pipeline *pipeline)
    int tr_pipeline_fd(const tr_pipeline *pipeline)
    tr_event *tr_pipeline_poll(tr_pipeline *pipeline)
    void tr_event_free(tr_event *event)
    tr_status tr_live_open(tr_pipeline *pipeline, unsigned sample_rate, tr_encoding encoding, unsigned n_channels,
                           const tr_options *options, tr_live **out)
    tr_status tr_live_feed(tr_live *stream, const uint8_t *bytes, size_t n_bytes)
    void tr_live_end(tr_live *stream)
    void tr_live_close(tr_live *stream)
    tr_balance tr_live_balance(const tr_live *stream)
    tr_counters tr_pipeline_counters(tr_pipeline *pipeline)
    void tr_pipeline_abandon(tr_pipeline *pipeline)
