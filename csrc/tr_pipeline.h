/* tr_pipeline.h - live streams -> windows -> bounded queue -> workers -> events.
 *
 * Threads : one analysis thread cuts every stream into windows; n workers run the engine, one job at a time each. Both are
 *           native and never take the GIL. All calls here are for the owner's thread (the event loop), but feed and end, which
 *           are for the one thread that feeds that stream.
 * Blocking: nothing here waits for an inference but tr_pipeline_free(). The one lock guards pointer moves only.
 * Results : events wait in a list; the file descriptor of tr_pipeline_fd() is readable while there are any.
 * Order   : within a stream, finals leave in the order of the audio. A gap is announced at once, so it may come before the
 *           final of an earlier window. `seq` counts windows; one that is missing among the finals has a gap event.
 *           END is the last event of its stream.
 * Balance : every received sample is in exactly one of transcribed, flushed, dropped (by reason), buffered. */
#ifndef TR_PIPELINE_H
#define TR_PIPELINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tr_engine.h"
#include "tr_pcm.h"
#include "tr_status.h"

struct tr_pipeline;
struct tr_live; /* one live stream */

enum tr_drop { TR_DROP_QUEUE_FULL, TR_DROP_OVERRUN, TR_DROP_INFERENCE_ERROR, TR_DROP_ABANDONED, TR_N_DROPS };

/* In samples at 16 kHz. */
struct tr_balance {
    uint64_t received;
    uint64_t transcribed; /* in full windows */
    uint64_t flushed;     /* transcribed in short windows: the rest at an end or before a gap */
    uint64_t buffered;    /* in the ring, the open window, the queue or a worker */
    uint64_t dropped[TR_N_DROPS];
};

struct tr_counters {
    uint64_t jobs_enqueued;
    uint64_t jobs_dropped; /* windows that no worker finished: queue full, abandoned */
    uint64_t jobs_completed;
    uint64_t jobs_failed; /* windows that the engine failed on */
    size_t queue_depth, workers_busy, streams_active; /* active: not ended, or with work left */
};

enum tr_event_kind { TR_EVENT_FINAL, TR_EVENT_GAP, TR_EVENT_END };

struct tr_event {
    struct tr_event *next;
    struct tr_live *stream;
    enum tr_event_kind kind;
    bool flush;              /* FINAL: a short window */
    int64_t seq;             /* FINAL, GAP: number of the window, -1 when lost before one was cut; END: how many there were */
    uint64_t start;          /* position of the first sample on the stream's time line */
    uint64_t n_samples;
    enum tr_drop reason;     /* GAP */
    char detail[160];        /* GAP by inference error: what the engine said, "" when nothing */
    int64_t created_ns;      /* FINAL: monotonic, the window was complete */
    int64_t started_ns;      /* FINAL: a worker took it */
    int64_t finished_ns;     /* FINAL: the engine returned */
    struct tr_transcript *transcript; /* FINAL: owned by the event */
    struct tr_balance balance;        /* END: the stream's */
};

struct tr_pipeline_config {
    size_t max_streams;
    size_t queue_capacity; /* jobs per stream, the running one not counted */
    size_t window_samples;
    size_t n_workers;
    const struct tr_engine *engines; /* one per worker; the sessions are the pipeline's until free() */
};

/* TR_EINVAL, TR_ENOMEM, TR_EOS (no thread, no pipe). */
enum tr_status tr_pipeline_new(const struct tr_pipeline_config *config, struct tr_pipeline **out);

/* Cancel what runs, join every thread (up to one encoder pass), free everything, streams included. */
void tr_pipeline_free(struct tr_pipeline *pipeline);

int tr_pipeline_fd(const struct tr_pipeline *pipeline);

/* All waiting events, oldest first, now the caller's: free each with tr_event_free(). NULL when there are none. */
struct tr_event *tr_pipeline_poll(struct tr_pipeline *pipeline);
void tr_event_free(struct tr_event *event);

/* Open a stream. `options` are copied. TR_EFULL at max_streams, TR_EINVAL for an unsupported format, TR_ECLOSED after abandon. */
enum tr_status tr_live_open(struct tr_pipeline *pipeline, unsigned sample_rate, enum tr_encoding encoding, unsigned n_channels,
                            const struct tr_options *options, struct tr_live **out);
/* As tr_stream_feed. */
enum tr_status tr_live_feed(struct tr_live *stream, const uint8_t *bytes, size_t n_bytes);
/* No more audio: what has gathered becomes a last, short window; END follows when all its jobs are done. Idempotent. */
void tr_live_end(struct tr_live *stream);
/* Free a stream and its place. Only after its END event. */
void tr_live_close(struct tr_live *stream);

struct tr_balance tr_live_balance(const struct tr_live *stream);
struct tr_counters tr_pipeline_counters(struct tr_pipeline *pipeline);

/* Give up at once: stop the analysis, count all that is unfinished as abandoned, announce it in GAP and END events. Workers in
 * mid-inference are left behind: their result is discarded when it comes. Takes milliseconds. No
 * stream may be in feed() meanwhile. */
void tr_pipeline_abandon(struct tr_pipeline *pipeline);

#endif
