/* tr_engine.h - the engine boundary: what a worker may know of the thing that turns audio into text.
 * A job plus these options is all that an inference needs, so that it could run in another process or
 * on another machine. tr_whisper.h implements it; tests implement it with a fake.
 * Units : times in integer ms from the first sample passed in; probabilities 0..1; logprob natural log.
 * Memory: a transcript is one owned value, freed by tr_transcript_free; strings inside are offsets into `text`,
 *         UTF-8 as the model gave it, which may split a character between two tokens. */
#ifndef TR_ENGINE_H
#define TR_ENGINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tr_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { TR_ENGINE_RATE = 16000 }; /* the one sample rate an engine takes, Hz */

struct tr_options {
    char language[8];   /* Whisper language code, or "auto" */
    const char *prompt; /* borrowed for the call; NULL or "" for none */
    int beam_size;      /* 1 greedy, 2..8 beam search */
    int max_tokens;     /* per segment; 0 is the model's own limit */
    int n_threads;      /* 0 takes the session's default */
    float temperature;  /* 0..1 */
    bool translate;
    bool retry;           /* decode once more, hotter, what looks like a failure */
    bool timestamps;      /* let the model predict segment times */
    bool word_timestamps; /* fill the tokens' times */
};

struct tr_token {
    int64_t start_ms, end_ms;
    size_t text_offset, text_size;
    float probability;
};

struct tr_segment {
    int64_t start_ms, end_ms;
    size_t text_offset, text_size;
    size_t first_token, n_tokens; /* text tokens only */
    float avg_logprob, no_speech_prob;
};

struct tr_transcript {
    char language[8];
    float language_probability; /* NaN when the language was given */
    struct tr_segment *segments;
    size_t n_segments;
    struct tr_token *tokens; /* empty unless word_timestamps */
    size_t n_tokens;
    char *text; /* bytes of all segments and tokens */
    size_t text_size;
};

/* An engine as a worker sees it. run() is called from one thread at a time; cancel() from any. */
struct tr_engine {
    void *session;
    /* Blocks for the whole inference. *out is set on TR_OK only. pcm is 16 kHz mono. */
    enum tr_status (*run)(void *session, const float *pcm, size_t n_samples, const struct tr_options *options,
                          struct tr_transcript **out);
    /* Ask the run in progress to stop soon with TR_ECANCELLED; without one it does nothing. */
    void (*cancel)(void *session);
    /* What went wrong in the last run on this thread, in words; "" when unknown. */
    const char *(*last_error)(void);
};

/* Free a transcript and all it holds. NULL is allowed. */
void tr_transcript_free(struct tr_transcript *transcript);

#ifdef __cplusplus
}
#endif
#endif
