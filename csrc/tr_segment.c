#include "tr_segment.h"

#include <stdlib.h>

static struct tr_cut cut_window(struct tr_segmenter *s, bool flush) {
    const struct tr_cut cut = {.kind = TR_CUT_WINDOW,
                               .start = s->position - s->n_samples,
                               .n_samples = s->n_samples,
                               .samples = s->samples,
                               .flush = flush};
    s->samples = NULL;
    s->n_samples = 0;
    return cut;
}

struct tr_cut tr_segmenter_next(struct tr_segmenter *s, struct tr_stream *stream) {
    if (s->samples == NULL && tr_stream_buffered(stream) > 0) {
        s->samples = malloc(s->window_samples * sizeof(float));
        if (s->samples == NULL) return (struct tr_cut){.kind = TR_CUT_NOMEM};
    }
    if (s->samples != NULL) {
        const size_t n = tr_stream_read(stream, s->samples + s->n_samples, s->window_samples - s->n_samples);
        s->n_samples += n;
        s->position += n;
        if (s->n_samples == s->window_samples) return cut_window(s, false);
    }
    const uint64_t n_lost = tr_stream_gap(stream);
    /* Audio from both sides of a loss is never joined: what has gathered before it is a window of its own. */
    if (s->n_samples > 0 && (n_lost > 0 || tr_stream_finished(stream))) return cut_window(s, true);
    if (n_lost == 0) return (struct tr_cut){.kind = TR_CUT_NONE};
    tr_stream_skip_gap(stream);
    const struct tr_cut gap = {.kind = TR_CUT_GAP, .start = s->position, .n_samples = n_lost};
    s->position += n_lost;
    return gap;
}
