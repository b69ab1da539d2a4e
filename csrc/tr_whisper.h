/* tr_whisper.h - whisper.cpp behind a C boundary that does not throw. What can still abort the process is ggml's own assertion
 * that a thread of an inference could be started: set the system's thread limit with room.
 * tr_whisper.cpp is the only file that includes whisper.h. Every entry catches C++ exceptions.
 * Threads: a tr_model is read-only after load and may serve many sessions at once. A tr_session or tr_vad is used by one
 *          thread at a time; only tr_session_cancel and tr_session_progress may be called beside a run.
 *          The caller proves it (tr_flag); nothing here locks.
 * Memory : a model outlives its sessions; the caller holds it. */
#ifndef TR_WHISPER_H
#define TR_WHISPER_H

#include "tr_engine.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tr_model;
struct tr_session;
struct tr_vad;

/* Load weights. The file must have passed models.ggml.check: whisper.cpp may abort on a damaged one. TR_ELOAD, TR_EEXCEPTION. */
enum tr_status tr_model_load(const char *path, struct tr_model **out);
void tr_model_free(struct tr_model *model);
bool tr_model_is_multilingual(const struct tr_model *model);

/* A session owns one whisper_state: about 170 MB of buffers for base, reserved here, never per job. */
enum tr_status tr_session_new(struct tr_model *model, int n_threads, struct tr_session **out);
void tr_session_free(struct tr_session *session);

/* Transcribe pcm (16 kHz mono, 1 to INT_MAX samples; under 1 s it is padded with silence, which whisper.cpp needs).
 * TR_ENONFINITE, TR_ECANCELLED, TR_EENGINE (see tr_session_error_code), TR_EEXCEPTION, TR_ENOMEM. After a failure the session can be
 * run again: a state that whisper.cpp freed or left in doubt is made anew. */
enum tr_status tr_session_run(struct tr_session *session, const float *pcm, size_t n_samples,
                              const struct tr_options *options, struct tr_transcript **out);
void tr_session_cancel(struct tr_session *session);
int tr_session_progress(const struct tr_session *session); /* 0..100 of the run in progress */
int tr_session_error_code(const struct tr_session *session); /* whisper.cpp's own code of the last failure */
struct tr_engine tr_session_engine(struct tr_session *session);

/* Voice activity detection with Silero weights from a ggml file. */
enum tr_status tr_vad_new(const char *path, struct tr_vad **out);
void tr_vad_free(struct tr_vad *vad);
/* Speech spans of pcm as pairs start_ms, end_ms in *spans (freed by the caller with free), increasing. */
enum tr_status tr_vad_spans(struct tr_vad *vad, const float *pcm, size_t n_samples, int64_t **spans, size_t *n_spans);

/* Quantise n_rows rows of n_columns floats to a ggml block type ("q8_0", "q5_1"). Returns the bytes written,
 * 0 when the type is unknown or n_columns is no multiple of its block. out may be NULL to ask for the size. */
size_t tr_quantize(const char *kind, const float *rows, size_t n_rows, size_t n_columns, void *out);

/* Language codes of multilingual models, by index; NULL past the last one. */
const char *tr_language_code(int index);

/* The last thing that whisper.cpp or ggml logged as an error on this thread; "" when nothing. Valid until the next one. */
const char *tr_last_log_error(void);

/* What the CPU back-end was compiled for, one line. */
const char *tr_system_info(void);

#ifdef __cplusplus
}
#endif
#endif
