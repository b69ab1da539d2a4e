#include "tr_whisper.h"

#include <whisper.h>

#include <algorithm>
#include <atomic>
#include <climits>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <vector>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace {

// whisper.cpp returns no text under 100 ms and once over-read very short input: give it at least a second.
constexpr size_t kMinSamples = TR_ENGINE_RATE;
// Added to the temperature for the one retry: 0.6 makes the second step of its ladder the last one below 1.
constexpr float kRetryStep = 0.6f;

thread_local std::string last_error;

void on_log(ggml_log_level level, const char *text, void *) {
    if (level != GGML_LOG_LEVEL_ERROR) return;
    last_error = text;
    while (!last_error.empty() && (last_error.back() == '\n' || last_error.back() == ' ')) last_error.pop_back();
}

// The log callback is process-global and is called from every thread: set it once.
void quiet_logs() {
    static const bool once = [] {
        whisper_log_set(on_log, nullptr);
        return true;
    }();
    (void)once;
    last_error.clear();
}

// Large buffers go back to the system by themselves; the rest of a freed state stays in glibc's heap unless asked.
void return_memory() {
#if defined(__GLIBC__)
    malloc_trim(0);
#endif
}

template <typename T>
T *allocate(size_t n) {
    T *p = static_cast<T *>(std::calloc(n > 0 ? n : 1, sizeof(T)));
    if (p == nullptr) throw std::bad_alloc();
    return p;
}

// Run body; no C++ exception crosses.
template <typename F>
enum tr_status guarded(F &&body) noexcept {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return TR_ENOMEM;
    } catch (const std::exception &e) {
        last_error = e.what();
        return TR_EEXCEPTION;
    } catch (...) {
        last_error = "unknown C++ exception";
        return TR_EEXCEPTION;
    }
}

bool finite(const float *pcm, size_t n_samples) {
    return std::all_of(pcm, pcm + n_samples, [](float x) { return std::isfinite(x); });
}

int64_t clamp_ms(int64_t centiseconds, int64_t end_ms) {
    return std::clamp<int64_t>(centiseconds * 10, 0, end_ms);
}

}  // namespace

struct tr_model {
    whisper_context *ctx;
};

struct tr_session {
    tr_model *model;       // borrowed: the caller keeps it alive
    whisper_state *state;  // owned; null when the last run lost it
    int n_threads;
    int error_code = 0;
    std::atomic<bool> cancelled{false};
    std::atomic<int> progress{0};
    std::vector<float> padded;  // scratch for input under kMinSamples
};

struct tr_vad {
    whisper_vad_context *ctx;
};

enum tr_status tr_model_load(const char *path, struct tr_model **out) {
    return guarded([&] {
        quiet_logs();
        whisper_context_params params = whisper_context_default_params();
        params.use_gpu = false;
        params.flash_attn = true;
        whisper_context *ctx = whisper_init_from_file_with_params_no_state(path, params);
        if (ctx == nullptr) return TR_ELOAD;
        *out = new (std::nothrow) tr_model{ctx};
        if (*out == nullptr) {
            whisper_free(ctx);
            return TR_ENOMEM;
        }
        return TR_OK;
    });
}

void tr_model_free(struct tr_model *model) {
    if (model == nullptr) return;
    whisper_free(model->ctx);
    delete model;
    return_memory();
}

bool tr_model_is_multilingual(const struct tr_model *model) { return whisper_is_multilingual(model->ctx) != 0; }

enum tr_status tr_session_new(struct tr_model *model, int n_threads, struct tr_session **out) {
    return guarded([&] {
        quiet_logs();
        whisper_state *state = whisper_init_state(model->ctx);
        if (state == nullptr) return TR_ENOMEM;
        tr_session *session = new (std::nothrow) tr_session;
        if (session == nullptr) {
            whisper_free_state(state);
            return TR_ENOMEM;
        }
        session->model = model;
        session->state = state;
        session->n_threads = n_threads;
        *out = session;
        return TR_OK;
    });
}

void tr_session_free(struct tr_session *session) {
    if (session == nullptr) return;
    whisper_free_state(session->state);
    delete session;
    return_memory();
}

void tr_session_cancel(struct tr_session *session) { session->cancelled.store(true, std::memory_order_relaxed); }

int tr_session_progress(const struct tr_session *session) { return session->progress.load(std::memory_order_relaxed); }

int tr_session_error_code(const struct tr_session *session) { return session->error_code; }

namespace {

bool cancelled(void *session) {
    return static_cast<tr_session *>(session)->cancelled.load(std::memory_order_relaxed);
}

// Detect the language from the first 30 s. whisper_full would do the same and keep the probability to itself.
int detect_language(tr_session *session, const float *pcm, int n_samples, int n_threads, float *probability) {
    whisper_context *ctx = session->model->ctx;
    const int head = std::min(n_samples, 30 * static_cast<int>(TR_ENGINE_RATE));
    if (whisper_pcm_to_mel_with_state(ctx, session->state, pcm, head, n_threads) != 0) return -2;
    std::vector<float> probs(static_cast<size_t>(whisper_lang_max_id()) + 1, 0.0f);
    const int id = whisper_lang_auto_detect_with_state(ctx, session->state, 0, n_threads, probs.data());
    if (id < 0) return -3;
    *probability = probs[static_cast<size_t>(id)];
    return id;
}

whisper_full_params full_params(tr_session *session, const tr_options *options, int n_threads) {
    const bool beam = options->beam_size > 1;
    whisper_full_params params = whisper_full_default_params(beam ? WHISPER_SAMPLING_BEAM_SEARCH : WHISPER_SAMPLING_GREEDY);
    params.n_threads = n_threads;
    params.translate = options->translate;
    params.no_timestamps = !options->timestamps;
    params.token_timestamps = options->word_timestamps;
    params.max_tokens = options->max_tokens;
    params.initial_prompt = options->prompt != nullptr && options->prompt[0] != '\0' ? options->prompt : nullptr;
    params.temperature = options->temperature;
    params.temperature_inc = options->retry ? kRetryStep : 0.0f;
    params.greedy.best_of = 1;  // the default of 5 grows the self-KV cache sevenfold at the first retry
    params.beam_search.beam_size = options->beam_size;
    params.print_progress = false;
    params.print_timestamps = false;
    params.no_context = true;
    params.abort_callback = cancelled;
    params.abort_callback_user_data = session;
    params.encoder_begin_callback = [](whisper_context *, whisper_state *, void *data) { return !cancelled(data); };
    params.encoder_begin_callback_user_data = session;
    params.progress_callback = [](whisper_context *, whisper_state *, int percent, void *data) {
        static_cast<tr_session *>(data)->progress.store(std::min(percent, 100), std::memory_order_relaxed);
    };
    params.progress_callback_user_data = session;
    return params;
}

// Copy the results out of the state, so that nothing of them is lent. Times are clamped to the audio: the state's
// own end is that of the padded 30 s window.
tr_transcript *collect(tr_session *session, const tr_options *options, int64_t end_ms) {
    whisper_context *ctx = session->model->ctx;
    whisper_state *state = session->state;
    const whisper_token eot = whisper_token_eot(ctx);
    std::vector<tr_segment> segments;
    std::vector<tr_token> tokens;
    std::string text;
    auto add_text = [&text](const char *piece, size_t *offset, size_t *size) {
        *offset = text.size();
        *size = std::strlen(piece);
        text.append(piece, *size);
    };
    const int n_segments = whisper_full_n_segments_from_state(state);
    for (int i = 0; i < n_segments; i++) {
        tr_segment segment{};
        segment.start_ms = clamp_ms(whisper_full_get_segment_t0_from_state(state, i), end_ms);
        segment.end_ms = clamp_ms(whisper_full_get_segment_t1_from_state(state, i), end_ms);
        segment.end_ms = std::max(segment.end_ms, segment.start_ms);
        segment.no_speech_prob = whisper_full_get_segment_no_speech_prob_from_state(state, i);
        segment.first_token = tokens.size();
        add_text(whisper_full_get_segment_text_from_state(state, i), &segment.text_offset, &segment.text_size);
        double logprob = 0;
        int n_text = 0;
        const int n_tokens = whisper_full_n_tokens_from_state(state, i);
        for (int j = 0; j < n_tokens; j++) {
            const whisper_token_data data = whisper_full_get_token_data_from_state(state, i, j);
            if (data.id >= eot) continue;  // text tokens only: no times, no task marks
            logprob += data.plog;
            n_text++;
            if (!options->word_timestamps) continue;
            tr_token token{};
            token.start_ms = clamp_ms(data.t0, end_ms);
            token.end_ms = clamp_ms(data.t1, end_ms);
            token.probability = data.p;
            add_text(whisper_token_to_str(ctx, data.id), &token.text_offset, &token.text_size);
            tokens.push_back(token);
        }
        segment.avg_logprob = n_text > 0 ? static_cast<float>(logprob / n_text) : 0.0f;
        segment.n_tokens = tokens.size() - segment.first_token;
        segments.push_back(segment);
    }
    struct Owner {
        tr_transcript *p;
        ~Owner() { tr_transcript_free(p); }
    } owner{allocate<tr_transcript>(1)};
    tr_transcript *t = owner.p;
    t->segments = allocate<tr_segment>(segments.size());
    t->tokens = allocate<tr_token>(tokens.size());
    t->text = allocate<char>(text.size());
    std::copy(segments.begin(), segments.end(), t->segments);
    std::copy(tokens.begin(), tokens.end(), t->tokens);
    std::copy(text.begin(), text.end(), t->text);
    t->n_segments = segments.size();
    t->n_tokens = tokens.size();
    t->text_size = text.size();
    owner.p = nullptr;
    return t;
}

// Ends a run that whisper.cpp failed or was told to stop. -7 has freed the state already.
enum tr_status failed(tr_session *session, int code) {
    session->error_code = code;
    if (code == -7) session->state = nullptr;
    return cancelled(session) ? TR_ECANCELLED : TR_EENGINE;
}

enum tr_status run(tr_session *session, const float *pcm, size_t n_samples, const tr_options *options, tr_transcript **out) {
    quiet_logs();  // first of all: what this run says of itself must not be an earlier one's
    if (n_samples == 0 || n_samples > INT_MAX) return TR_EINVAL;
    if (!finite(pcm, n_samples)) return TR_ENONFINITE;
    session->cancelled.store(false, std::memory_order_relaxed);
    session->progress.store(0, std::memory_order_relaxed);
    session->error_code = 0;
    whisper_context *ctx = session->model->ctx;
    if (session->state == nullptr) session->state = whisper_init_state(ctx);
    if (session->state == nullptr) return TR_ENOMEM;

    const int64_t end_ms = static_cast<int64_t>(n_samples) * 1000 / TR_ENGINE_RATE;
    if (n_samples < kMinSamples) {
        session->padded.assign(kMinSamples, 0.0f);
        std::copy(pcm, pcm + n_samples, session->padded.begin());
        pcm = session->padded.data();
        n_samples = kMinSamples;
    }
    const int n = static_cast<int>(n_samples);
    const int n_threads = options->n_threads > 0 ? options->n_threads : session->n_threads;
    whisper_full_params params = full_params(session, options, n_threads);

    const char *language = options->language;
    float probability = NAN;
    if (!whisper_is_multilingual(ctx)) {
        language = "en";
    } else if (std::strcmp(language, "auto") == 0) {
        const int id = detect_language(session, pcm, n, n_threads, &probability);
        if (id < 0) return failed(session, id);
        if (cancelled(session)) return failed(session, 0);  // detection itself cannot be interrupted
        language = whisper_lang_str(id);
    }
    params.language = language;

    const int rc = whisper_full_with_state(ctx, session->state, params, pcm, n);
    // encoder_begin_callback stops with rc 0 and a part of the text: only our own flag tells.
    if (rc != 0 || cancelled(session)) return failed(session, rc);
    session->progress.store(100, std::memory_order_relaxed);
    tr_transcript *transcript = collect(session, options, end_ms);
    std::snprintf(transcript->language, sizeof transcript->language, "%s", language);
    transcript->language_probability = probability;
    *out = transcript;
    return TR_OK;
}

}  // namespace

enum tr_status tr_session_run(struct tr_session *session, const float *pcm, size_t n_samples,
                              const struct tr_options *options, struct tr_transcript **out) {
    const enum tr_status rc = guarded([&] { return run(session, pcm, n_samples, options, out); });
    if (rc == TR_EEXCEPTION || rc == TR_ENOMEM) {  // thrown from the middle of whisper.cpp: do not trust what is left
        session->error_code = -1;
        whisper_free_state(session->state);
        session->state = nullptr;
    }
    return rc;
}

struct tr_engine tr_session_engine(struct tr_session *session) {
    tr_engine engine;
    engine.session = session;
    engine.run = [](void *s, const float *pcm, size_t n, const tr_options *options, tr_transcript **out) {
        return tr_session_run(static_cast<tr_session *>(s), pcm, n, options, out);
    };
    engine.cancel = [](void *s) { tr_session_cancel(static_cast<tr_session *>(s)); };
    engine.last_error = tr_last_log_error;
    return engine;
}

enum tr_status tr_vad_new(const char *path, struct tr_vad **out) {
    return guarded([&] {
        quiet_logs();
        whisper_vad_context_params params = whisper_vad_default_context_params();
        params.n_threads = 1;  // 0.25 % of a core per real-time stream: threads cost more than they bring
        whisper_vad_context *ctx = whisper_vad_init_from_file_with_params(path, params);
        if (ctx == nullptr) return TR_ELOAD;
        *out = new tr_vad{ctx};
        return TR_OK;
    });
}

void tr_vad_free(struct tr_vad *vad) {
    if (vad == nullptr) return;
    whisper_vad_free(vad->ctx);
    delete vad;
    return_memory();
}

enum tr_status tr_vad_spans(struct tr_vad *vad, const float *pcm, size_t n_samples, int64_t **spans, size_t *n_spans) {
    return guarded([&] {
        if (n_samples == 0 || n_samples > INT_MAX) return TR_EINVAL;
        if (!finite(pcm, n_samples)) return TR_ENONFINITE;
        quiet_logs();
        whisper_vad_segments *found = whisper_vad_segments_from_samples(vad->ctx, whisper_vad_default_params(), pcm, static_cast<int>(n_samples));
        if (found == nullptr) return TR_EENGINE;
        const int n = whisper_vad_segments_n_segments(found);
        std::vector<int64_t> list;
        const int64_t end_ms = static_cast<int64_t>(n_samples) * 1000 / TR_ENGINE_RATE;
        for (int i = 0; i < n; i++) {
            const int64_t start = std::clamp<int64_t>(std::lround(whisper_vad_segments_get_segment_t0(found, i) * 10), 0, end_ms);
            const int64_t end = std::clamp<int64_t>(std::lround(whisper_vad_segments_get_segment_t1(found, i) * 10), 0, end_ms);
            if (!list.empty() && start <= list.back()) {
                list.back() = std::max(list.back(), end);  // padding made neighbours touch
            } else if (end > start) {
                list.push_back(start);
                list.push_back(end);
            }
        }
        whisper_vad_free_segments(found);
        *spans = allocate<int64_t>(list.size());
        std::copy(list.begin(), list.end(), *spans);
        *n_spans = list.size() / 2;
        return TR_OK;
    });
}

size_t tr_quantize(const char *kind, const float *rows, size_t n_rows, size_t n_columns, void *out) {
    const ggml_type types[] = {GGML_TYPE_Q8_0, GGML_TYPE_Q5_1};
    for (const ggml_type type : types) {
        if (std::strcmp(ggml_type_name(type), kind) != 0) continue;
        if (n_columns == 0 || n_columns % static_cast<size_t>(ggml_blck_size(type)) != 0) return 0;
        const size_t size = ggml_row_size(type, static_cast<int64_t>(n_columns)) * n_rows;
        if (out == nullptr) return size;
        return ggml_quantize_chunk(type, rows, out, 0, static_cast<int64_t>(n_rows), static_cast<int64_t>(n_columns), nullptr);
    }
    return 0;
}

const char *tr_language_code(int index) { return index >= 0 && index <= whisper_lang_max_id() ? whisper_lang_str(index) : nullptr; }

const char *tr_last_log_error(void) { return last_error.c_str(); }

const char *tr_system_info(void) { return whisper_print_system_info(); }
