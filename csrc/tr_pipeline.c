#include "tr_pipeline.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tr_queue.h"
#include "tr_segment.h"
#include "tr_stream.h"

/* A detected language is kept for the stream from this probability on: below it, detection would be a coin toss that lasts. */
static const float PIN_LANGUAGE_FROM = 0.5f;

struct job {
    struct tr_live *stream;
    int64_t seq;
    uint64_t start;
    size_t n_samples;
    float *samples; /* owned */
    bool flush;
    bool abandoned; /* accounted for while it ran; guarded by pipeline->lock */
    int64_t created_ns;
};

struct tr_live {
    struct tr_pipeline *pipeline;
    size_t lane;
    struct tr_stream *source;      /* producer: the feeding thread; consumer: the analysis thread */
    struct tr_segmenter segmenter; /* analysis thread */

    /* Guarded by pipeline->lock. */
    struct tr_options options; /* options.prompt is owned */
    int64_t n_windows;
    size_t n_outstanding;   /* jobs waiting or running */
    struct job *running;    /* NULL when none */
    bool drained;           /* the analysis has read all of it */
    struct tr_balance done; /* transcribed, flushed, dropped (overrun too, once its gap was reached) */
    uint64_t n_open;        /* samples in the open window, as the analysis last left it */
    uint64_t n_queued;      /* samples in outstanding jobs */
};

struct tr_pipeline {
    size_t max_streams, n_workers, window_samples;
    int fds[2]; /* pipe: [0] is readable while events wait */

    pthread_mutex_t lock;
    pthread_cond_t work; /* a job is ready, or closing; with lock */
    bool stopping;       /* no new jobs are made or taken */
    struct tr_queue *queue;
    struct tr_live **lanes; /* [max_streams], NULL where free */
    _Atomic size_t n_lanes_used; /* no stream has ever been beyond: what the analysis looks through */
    size_t n_active;        /* streams whose END has not been made */
    struct tr_event *first_event, **last_event;
    struct tr_counters counters;
    size_t n_workers_left; /* worker threads that have not returned */
    pthread_cond_t left;   /* one of them returned; with lock */

    /* Wakes the analysis thread. `awake` spares the lock while it is busy anyway. */
    pthread_mutex_t wake_lock;
    pthread_cond_t wake;
    _Atomic bool awake;
    _Atomic bool stop_analysis;
    bool analysis_joined; /* owner's thread only */
    pthread_t analysis;

    struct worker {
        struct tr_pipeline *pipeline;
        struct tr_engine engine;
        pthread_t thread;
    } *workers;
};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* --- events: all under the lock ------------------------------------------------------------------------------------------ */

void tr_event_free(struct tr_event *event) {
    if (event == NULL) return;
    tr_transcript_free(event->transcript);
    free(event);
}

/* Every event that a job or a stream can end in is allocated with the job or the loss at hand; if memory is so short that not
 * even this can be had, there is no honest way on. */
static struct tr_event *new_event(struct tr_live *stream, enum tr_event_kind kind) {
    struct tr_event *event = calloc(1, sizeof *event);
    if (event == NULL) {
        fputs("transcriber: out of memory while accounting for audio\n", stderr);
        abort();
    }
    event->stream = stream;
    event->kind = kind;
    return event;
}

static void push_event(struct tr_pipeline *p, struct tr_event *event) {
    const bool was_empty = p->first_event == NULL;
    *p->last_event = event;
    p->last_event = &event->next;
    if (!was_empty) return;
    ssize_t n;
    do n = write(p->fds[1], "", 1);
    while (n < 0 && errno == EINTR); /* EAGAIN cannot be: one byte at most is in the pipe */
}

static void drop(struct tr_live *stream, enum tr_drop reason, int64_t seq, uint64_t start, uint64_t n_samples, const char *detail) {
    struct tr_event *event = new_event(stream, TR_EVENT_GAP);
    event->seq = seq;
    event->start = start;
    event->n_samples = n_samples;
    event->reason = reason;
    snprintf(event->detail, sizeof event->detail, "%s", detail);
    stream->done.dropped[reason] += n_samples;
    push_event(stream->pipeline, event);
}

static void drop_job(const struct job *job, enum tr_drop reason, const char *detail) {
    drop(job->stream, reason, job->seq, job->start, job->n_samples, detail);
    struct tr_counters *counters = &job->stream->pipeline->counters;
    (*(reason == TR_DROP_INFERENCE_ERROR ? &counters->jobs_failed : &counters->jobs_dropped))++;
}

static struct tr_balance balance(const struct tr_live *stream) {
    struct tr_balance b = stream->done;
    b.received = tr_stream_received(stream->source);
    /* Lost in the ring, its gap not reached yet: dropped all the same. */
    b.dropped[TR_DROP_OVERRUN] = tr_stream_lost(stream->source);
    b.buffered = tr_stream_buffered(stream->source) + stream->n_open + stream->n_queued;
    return b;
}

static void end_when_done(struct tr_live *stream) {
    struct tr_pipeline *p = stream->pipeline;
    if (!stream->drained || stream->n_outstanding > 0) return;
    struct tr_event *event = new_event(stream, TR_EVENT_END);
    event->seq = stream->n_windows;
    event->balance = balance(stream);
    p->n_active--;
    push_event(p, event);
}

struct tr_event *tr_pipeline_poll(struct tr_pipeline *p) {
    pthread_mutex_lock(&p->lock);
    struct tr_event *events = p->first_event;
    if (events != NULL) {
        p->first_event = NULL;
        p->last_event = &p->first_event;
        char byte;
        ssize_t n;
        do n = read(p->fds[0], &byte, 1);
        while (n < 0 && errno == EINTR);
    }
    pthread_mutex_unlock(&p->lock);
    return events;
}

/* --- analysis ------------------------------------------------------------------------------------------------------------ */

static void free_job(struct job *job) {
    free(job->samples);
    free(job);
}

static void wake_analysis(struct tr_pipeline *p) {
    if (atomic_exchange(&p->awake, true)) return;
    pthread_mutex_lock(&p->wake_lock);
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->wake_lock);
}

/* Put a window into the queue, or drop it: never wait. */
static void submit(struct tr_live *stream, const struct tr_cut *cut) {
    struct tr_pipeline *p = stream->pipeline;
    struct job *job = malloc(sizeof *job);
    pthread_mutex_lock(&p->lock);
    stream->n_open = 0;
    const struct job made = {.stream = stream,
                             .seq = stream->n_windows++,
                             .start = cut->start,
                             .n_samples = cut->n_samples,
                             .samples = cut->samples,
                             .flush = cut->flush,
                             .created_ns = now_ns()};
    if (job != NULL) *job = made;
    if (job != NULL && tr_queue_try_put(p->queue, stream->lane, job) == TR_OK) {
        stream->n_outstanding++;
        stream->n_queued += job->n_samples;
        p->counters.jobs_enqueued++;
        pthread_cond_signal(&p->work);
        pthread_mutex_unlock(&p->lock);
        return;
    }
    drop_job(&made, TR_DROP_QUEUE_FULL, "");
    pthread_mutex_unlock(&p->lock);
    free(made.samples);
    free(job);
}

static void analyse(struct tr_live *stream) {
    struct tr_pipeline *p = stream->pipeline;
    for (;;) {
        const struct tr_cut cut = tr_segmenter_next(&stream->segmenter, stream->source);
        if (cut.kind == TR_CUT_WINDOW) {
            submit(stream, &cut);
            continue;
        }
        /* The end may come between the cut and here: an open window is then for the pass that the end has asked for. */
        const bool finished = cut.kind == TR_CUT_NONE && stream->segmenter.n_samples == 0 && tr_stream_finished(stream->source);
        pthread_mutex_lock(&p->lock);
        stream->n_open = stream->segmenter.n_samples;
        if (cut.kind == TR_CUT_GAP) drop(stream, TR_DROP_OVERRUN, -1, cut.start, cut.n_samples, "");
        if (finished) {
            stream->drained = true;
            end_when_done(stream);
        }
        pthread_mutex_unlock(&p->lock);
        if (cut.kind == TR_CUT_NOMEM) { /* again soon: an ended stream has no feed that would wake us */
            nanosleep(&(struct timespec){0, 10000000}, NULL);
            atomic_store(&p->awake, true);
        }
        if (cut.kind != TR_CUT_GAP) return;
    }
}

static void *run_analysis(void *arg) {
    struct tr_pipeline *p = arg;
    while (!atomic_load(&p->stop_analysis)) {
        for (size_t i = 0; i < atomic_load(&p->n_lanes_used); i++) {
            pthread_mutex_lock(&p->lock);
            struct tr_live *stream = p->lanes[i];
            const bool open = stream != NULL && !stream->drained; /* a drained one may be closed at any moment */
            pthread_mutex_unlock(&p->lock);
            if (open) analyse(stream);
        }
        pthread_mutex_lock(&p->wake_lock);
        while (!atomic_load(&p->awake)) pthread_cond_wait(&p->wake, &p->wake_lock);
        (void)atomic_exchange(&p->awake, false); /* acquires every wake that was answered "already awake" */
        pthread_mutex_unlock(&p->wake_lock);
    }
    return NULL;
}

/* --- workers ------------------------------------------------------------------------------------------------------------- */

/* Account for a job that the engine has returned from. Under the lock. */
static void finish(struct job *job, enum tr_status rc, struct tr_transcript *transcript, const char *detail, int64_t started_ns) {
    struct tr_live *stream = job->stream;
    struct tr_pipeline *p = stream->pipeline;
    stream->running = NULL;
    stream->n_outstanding--;
    stream->n_queued -= job->n_samples;
    if (rc != TR_OK) {
        drop_job(job, rc == TR_ECANCELLED ? TR_DROP_ABANDONED : TR_DROP_INFERENCE_ERROR, detail);
    } else {
        if (strcmp(stream->options.language, "auto") == 0 && transcript->language_probability >= PIN_LANGUAGE_FROM &&
            transcript->n_segments > 0) {
            memcpy(stream->options.language, transcript->language, sizeof stream->options.language);
        }
        *(job->flush ? &stream->done.flushed : &stream->done.transcribed) += job->n_samples;
        p->counters.jobs_completed++;
        struct tr_event *event = new_event(stream, TR_EVENT_FINAL);
        event->seq = job->seq;
        event->start = job->start;
        event->n_samples = job->n_samples;
        event->flush = job->flush;
        event->created_ns = job->created_ns;
        event->started_ns = started_ns;
        event->finished_ns = now_ns();
        event->transcript = transcript;
        push_event(p, event);
    }
    end_when_done(stream);
}

static void *run_worker(void *arg) {
    struct worker *worker = arg;
    struct tr_pipeline *p = worker->pipeline;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        struct job *job = NULL;
        while (!p->stopping && (job = tr_queue_take(p->queue)) == NULL) pthread_cond_wait(&p->work, &p->lock);
        if (job == NULL) break;
        const size_t lane = job->stream->lane;
        job->stream->running = job;
        p->counters.workers_busy++;
        const struct tr_options options = job->stream->options; /* the prompt lives as long as the stream */
        pthread_mutex_unlock(&p->lock);

        const int64_t started_ns = now_ns();
        struct tr_transcript *transcript = NULL;
        const enum tr_status rc = worker->engine.run(worker->engine.session, job->samples, job->n_samples, &options, &transcript);
        const char *detail = rc != TR_OK ? worker->engine.last_error() : "";

        pthread_mutex_lock(&p->lock);
        p->counters.workers_busy--;
        if (job->abandoned) {
            tr_transcript_free(transcript);
        } else {
            finish(job, rc, transcript, detail, started_ns);
        }
        free_job(job);
        if (tr_queue_done(p->queue, lane)) pthread_cond_signal(&p->work);
    }
    p->n_workers_left--;
    pthread_cond_signal(&p->left);
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

/* --- life cycle ---------------------------------------------------------------------------------------------------------- */

static void free_live(struct tr_live *stream) {
    tr_stream_free(stream->source);
    free(stream->segmenter.samples);
    free((void *)(uintptr_t)stream->options.prompt);
    free(stream);
}

static void free_parts(struct tr_pipeline *p) {
    for (size_t i = 0; p->queue != NULL && p->lanes != NULL && i < p->max_streams; i++) {
        struct job *job;
        while ((job = tr_queue_drop(p->queue, i)) != NULL) free_job(job);
        if (p->lanes[i] != NULL) free_live(p->lanes[i]);
    }
    for (struct tr_event *event = p->first_event; event != NULL;) {
        struct tr_event *next = event->next;
        tr_event_free(event);
        event = next;
    }
    tr_queue_free(p->queue);
    free(p->lanes);
    free(p->workers);
    for (int i = 0; i < 2; i++) {
        if (p->fds[i] >= 0) close(p->fds[i]);
    }
    pthread_mutex_destroy(&p->lock);
    pthread_mutex_destroy(&p->wake_lock);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->wake);
    free(p);
}

static void stop_analysis(struct tr_pipeline *p) {
    if (p->analysis_joined) return;
    atomic_store(&p->stop_analysis, true);
    wake_analysis(p);
    pthread_join(p->analysis, NULL);
    p->analysis_joined = true;
}

static void stop_workers(struct tr_pipeline *p) {
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    while (p->n_workers_left > 0) {
        /* A run that was about to begin when the flag was set clears it: so ask again until the worker is out. */
        for (size_t i = 0; i < p->n_workers; i++) p->workers[i].engine.cancel(p->workers[i].engine.session);
        struct timespec soon;
        clock_gettime(CLOCK_REALTIME, &soon);
        soon.tv_nsec += 10000000;
        if (soon.tv_nsec >= 1000000000) {
            soon.tv_nsec -= 1000000000;
            soon.tv_sec++;
        }
        pthread_cond_timedwait(&p->left, &p->lock, &soon);
    }
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < p->n_workers; i++) pthread_join(p->workers[i].thread, NULL);
}

enum tr_status tr_pipeline_new(const struct tr_pipeline_config *config, struct tr_pipeline **out) {
    if (config->max_streams == 0 || config->queue_capacity == 0 || config->window_samples == 0 || config->n_workers == 0)
        return TR_EINVAL;
    struct tr_pipeline *p = calloc(1, sizeof *p);
    if (p == NULL) return TR_ENOMEM;
    p->max_streams = config->max_streams;
    p->window_samples = config->window_samples;
    p->last_event = &p->first_event;
    p->fds[0] = p->fds[1] = -1;
    p->analysis_joined = true;
    atomic_init(&p->awake, true);
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->wake_lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->left, NULL);
    pthread_cond_init(&p->wake, NULL);
    enum tr_status rc = TR_ENOMEM;
    p->queue = tr_queue_new(config->max_streams, config->queue_capacity);
    p->lanes = calloc(config->max_streams, sizeof *p->lanes);
    p->workers = calloc(config->n_workers, sizeof *p->workers);
    if (p->queue == NULL || p->lanes == NULL || p->workers == NULL) goto fail;
    rc = TR_EOS;
    if (pipe(p->fds) != 0) goto fail;
    for (int i = 0; i < 2; i++) {
        if (fcntl(p->fds[i], F_SETFL, O_NONBLOCK) != 0 || fcntl(p->fds[i], F_SETFD, FD_CLOEXEC) != 0) goto fail;
    }
    if (pthread_create(&p->analysis, NULL, run_analysis, p) != 0) goto fail;
    p->analysis_joined = false;
    for (; p->n_workers < config->n_workers; p->n_workers++) {
        struct worker *worker = &p->workers[p->n_workers];
        worker->pipeline = p;
        worker->engine = config->engines[p->n_workers];
        pthread_mutex_lock(&p->lock);
        p->n_workers_left++;
        pthread_mutex_unlock(&p->lock);
        if (pthread_create(&worker->thread, NULL, run_worker, worker) != 0) {
            pthread_mutex_lock(&p->lock);
            p->n_workers_left--;
            pthread_mutex_unlock(&p->lock);
            goto fail;
        }
    }
    *out = p;
    return TR_OK;
fail:
    stop_analysis(p);
    stop_workers(p);
    free_parts(p);
    return rc;
}

void tr_pipeline_free(struct tr_pipeline *p) {
    if (p == NULL) return;
    stop_analysis(p);
    stop_workers(p);
    free_parts(p);
}

int tr_pipeline_fd(const struct tr_pipeline *p) { return p->fds[0]; }

enum tr_status tr_live_open(struct tr_pipeline *p, unsigned sample_rate, enum tr_encoding encoding, unsigned n_channels,
                            const struct tr_options *options, struct tr_live **out) {
    struct tr_live *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return TR_ENOMEM;
    stream->pipeline = p;
    stream->options = *options;
    stream->options.prompt = options->prompt != NULL ? strdup(options->prompt) : NULL;
    stream->segmenter.window_samples = p->window_samples;
    stream->source = tr_stream_new(sample_rate, encoding, n_channels);
    enum tr_status rc = stream->source == NULL ? TR_EINVAL : TR_EFULL;
    if (options->prompt != NULL && stream->options.prompt == NULL) rc = TR_ENOMEM;
    pthread_mutex_lock(&p->lock);
    if (p->stopping) rc = TR_ECLOSED;
    for (size_t i = 0; rc == TR_EFULL && i < p->max_streams; i++) {
        if (p->lanes[i] != NULL) continue;
        stream->lane = i;
        p->lanes[i] = stream;
        if (i >= p->n_lanes_used) p->n_lanes_used = i + 1;
        p->n_active++;
        rc = TR_OK;
    }
    pthread_mutex_unlock(&p->lock);
    if (rc == TR_OK) {
        *out = stream;
    } else {
        free_live(stream);
    }
    return rc;
}

enum tr_status tr_live_feed(struct tr_live *stream, const uint8_t *bytes, size_t n_bytes) {
    /* A window that this chunk completes is cut at once, even if the source pauses here. */
    const uint64_t window = stream->pipeline->window_samples;
    const uint64_t n_before = tr_stream_received(stream->source) / window;
    bool ready;
    const enum tr_status rc = tr_stream_feed(stream->source, bytes, n_bytes, &ready);
    if (ready || tr_stream_received(stream->source) / window != n_before) wake_analysis(stream->pipeline);
    return rc;
}

void tr_live_end(struct tr_live *stream) {
    tr_stream_end(stream->source);
    wake_analysis(stream->pipeline);
}

void tr_live_close(struct tr_live *stream) {
    struct tr_pipeline *p = stream->pipeline;
    pthread_mutex_lock(&p->lock);
    /* After abandon a worker may still be reading the stream's options: then tr_pipeline_free() frees it. */
    const bool stays = p->stopping;
    if (!stays) p->lanes[stream->lane] = NULL;
    pthread_mutex_unlock(&p->lock);
    if (!stays) free_live(stream);
}

struct tr_balance tr_live_balance(const struct tr_live *stream) {
    pthread_mutex_lock(&stream->pipeline->lock);
    const struct tr_balance b = balance(stream);
    pthread_mutex_unlock(&stream->pipeline->lock);
    return b;
}

struct tr_counters tr_pipeline_counters(struct tr_pipeline *p) {
    pthread_mutex_lock(&p->lock);
    struct tr_counters counters = p->counters;
    counters.queue_depth = tr_queue_depth(p->queue);
    counters.streams_active = p->n_active;
    pthread_mutex_unlock(&p->lock);
    return counters;
}

void tr_pipeline_abandon(struct tr_pipeline *p) {
    stop_analysis(p); /* so that this thread may read the streams in its place */
    pthread_mutex_lock(&p->lock);
    p->stopping = true;
    pthread_cond_broadcast(&p->work);
    for (size_t i = 0; i < p->max_streams; i++) {
        struct tr_live *stream = p->lanes[i];
        if (stream == NULL || (stream->drained && stream->n_outstanding == 0)) continue;
        if (stream->running != NULL) {
            stream->running->abandoned = true; /* the worker will find it accounted for */
            drop_job(stream->running, TR_DROP_ABANDONED, "");
            stream->running = NULL;
        }
        struct job *job;
        while ((job = tr_queue_drop(p->queue, i)) != NULL) {
            drop_job(job, TR_DROP_ABANDONED, "");
            free_job(job);
        }
        stream->n_outstanding = 0;
        stream->n_queued = 0;
        tr_stream_end(stream->source);
        for (;;) {
            const struct tr_cut cut = tr_segmenter_next(&stream->segmenter, stream->source);
            if (cut.kind == TR_CUT_WINDOW) {
                drop(stream, TR_DROP_ABANDONED, stream->n_windows++, cut.start, cut.n_samples, "");
                p->counters.jobs_dropped++;
                free(cut.samples);
            } else if (cut.kind == TR_CUT_GAP) {
                drop(stream, TR_DROP_OVERRUN, -1, cut.start, cut.n_samples, "");
            } else {
                break; /* NOMEM: what is left stays in the balance as buffered */
            }
        }
        stream->n_open = stream->segmenter.n_samples;
        stream->drained = true;
        end_when_done(stream);
    }
    pthread_mutex_unlock(&p->lock);
}
