/* tr_segment.h - where to cut a stream into windows. Strategy: fixed duration, with a short window before a gap and at the end.
 * Threads: the analysis thread only.
 * Memory : a window's samples are handed over to the caller, who frees them. */
#ifndef TR_SEGMENT_H
#define TR_SEGMENT_H

#include "tr_stream.h"

struct tr_segmenter {
    size_t window_samples; /* samples of a full window */
    float *samples;        /* owned: the window being filled; NULL when empty */
    size_t n_samples;
    uint64_t position; /* samples of the stream passed so far, gaps included */
};

enum tr_cut_kind { TR_CUT_NONE, TR_CUT_WINDOW, TR_CUT_GAP, TR_CUT_NOMEM };

struct tr_cut {
    enum tr_cut_kind kind;
    uint64_t start;     /* position of the first sample */
    uint64_t n_samples; /* samples in the window, or lost in the gap */
    float *samples;     /* WINDOW: now the caller's */
    bool flush;         /* WINDOW: shorter than a full one, cut by a gap or by the end */
};

/* The next cut of the stream, TR_CUT_NONE when more audio is needed. TR_CUT_NOMEM leaves the audio in the ring. */
struct tr_cut tr_segmenter_next(struct tr_segmenter *segmenter, struct tr_stream *stream);

#endif
