/* The live core over a fake engine: every sample accounted for, in order, announced; under overload, failure and abandon. */
#include "tr_pipeline.h"

#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "tr_queue.h"
#include "tr_segment.h"
#include "tr_stream.h"

enum { N_STREAMS = 5, WINDOW = 1600, MAX_PIECES = 4096 };

/* --- a fake engine: as slow as it is told, fails when it is told, can be held in mid-run ---------------------------------- */

struct fake {
    _Atomic bool cancelled, hold;
    _Atomic int n_runs;
    int fail_every; /* 0: never */
    long nanoseconds;
};

static enum tr_status fake_run(void *session, const float *pcm, size_t n_samples, const struct tr_options *options,
                               struct tr_transcript **out) {
    struct fake *fake = session;
    (void)options;
    atomic_store(&fake->cancelled, false);
    float sum = 0; /* touch every sample: a window that is freed or written meanwhile is caught by the sanitizers */
    for (size_t i = 0; i < n_samples; i++) sum += pcm[i];
    CHECK(sum == sum);
    const int run = atomic_fetch_add(&fake->n_runs, 1) + 1;
    const struct timespec work = {0, fake->nanoseconds};
    do nanosleep(&work, NULL);
    while (atomic_load(&fake->hold) && !atomic_load(&fake->cancelled));
    if (atomic_load(&fake->cancelled)) return TR_ECANCELLED;
    if (fake->fail_every > 0 && run % fake->fail_every == 0) return TR_EENGINE;
    *out = calloc(1, sizeof **out);
    CHECK(*out != NULL);
    strcpy((*out)->language, "en");
    return TR_OK;
}

static void fake_cancel(void *session) { atomic_store(&((struct fake *)session)->cancelled, true); }
static const char *fake_error(void) { return "told to"; }

static struct tr_pipeline *new_pipeline(struct fake *fakes, size_t n_workers) {
    struct tr_engine engines[4];
    for (size_t i = 0; i < n_workers; i++)
        engines[i] = (struct tr_engine){.session = &fakes[i], .run = fake_run, .cancel = fake_cancel, .last_error = fake_error};
    const struct tr_pipeline_config config = {
        .max_streams = N_STREAMS, .queue_capacity = 2, .window_samples = WINDOW, .n_workers = n_workers, .engines = engines};
    struct tr_pipeline *p = NULL;
    CHECK(tr_pipeline_new(&config, &p) == TR_OK);
    return p;
}

/* --- what a listener sees of one stream ------------------------------------------------------------------------------------ */

struct seen {
    struct tr_live *live;
    uint64_t fed;
    int64_t last_final;
    bool ended;
    struct piece {
        uint64_t start, n;
    } pieces[MAX_PIECES];
    size_t n_pieces;
    uint64_t lost[TR_N_DROPS];
    struct tr_balance balance;
};

static int by_start(const void *a, const void *b) {
    const struct piece *x = a, *y = b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Finals and gaps together cover the time line exactly once, and the balance says the same as the events. */
static void check_accounts(struct seen *s) {
    CHECK(s->ended);
    qsort(s->pieces, s->n_pieces, sizeof s->pieces[0], by_start);
    uint64_t at = 0;
    for (size_t i = 0; i < s->n_pieces; i++) {
        CHECK(s->pieces[i].start == at);
        at += s->pieces[i].n;
    }
    CHECK(at == s->fed);
    const struct tr_balance *b = &s->balance;
    uint64_t dropped = 0;
    for (int i = 0; i < TR_N_DROPS; i++) {
        CHECK(b->dropped[i] == s->lost[i]);
        dropped += b->dropped[i];
    }
    CHECK(b->received == s->fed);
    CHECK(b->buffered == 0);
    CHECK(b->received == b->transcribed + b->flushed + dropped);
}

static void take_events(struct tr_pipeline *p, struct seen *seen, int wait_ms) {
    struct pollfd fd = {.fd = tr_pipeline_fd(p), .events = POLLIN};
    CHECK(poll(&fd, 1, wait_ms) >= 0);
    struct tr_event *event = tr_pipeline_poll(p);
    CHECK((event != NULL) == ((fd.revents & POLLIN) != 0) || wait_ms == 0);
    while (event != NULL) {
        struct seen *s = seen;
        while (s->live != event->stream) s++;
        CHECK(!s->ended); /* END is the last event */
        if (event->kind == TR_EVENT_END) {
            s->ended = true;
            s->balance = event->balance;
            tr_live_close(s->live);
            s->live = NULL;
        } else {
            CHECK(s->n_pieces < MAX_PIECES);
            s->pieces[s->n_pieces++] = (struct piece){event->start, event->n_samples};
            if (event->kind == TR_EVENT_GAP) {
                s->lost[event->reason] += event->n_samples;
                CHECK((event->reason == TR_DROP_INFERENCE_ERROR) == (strcmp(event->detail, "told to") == 0));
            } else {
                CHECK(event->seq > s->last_final);
                s->last_final = event->seq;
                CHECK(event->created_ns <= event->started_ns && event->started_ns <= event->finished_ns);
            }
        }
        struct tr_event *next = event->next;
        tr_event_free(event);
        event = next;
    }
}

static bool all_ended(const struct seen *seen) {
    for (int i = 0; i < N_STREAMS; i++)
        if (!seen[i].ended) return false;
    return true;
}

static void open_all(struct tr_pipeline *p, struct seen *seen) {
    const struct tr_options options = {.language = "auto", .prompt = "a prompt"};
    memset(seen, 0, N_STREAMS * sizeof *seen);
    for (int i = 0; i < N_STREAMS; i++) {
        seen[i].last_final = -1;
        CHECK(tr_live_open(p, 16000, TR_S16LE, 1, &options, &seen[i].live) == TR_OK);
    }
    struct tr_live *none = NULL;
    CHECK(tr_live_open(p, 16000, TR_S16LE, 1, &options, &none) == TR_EFULL);
    CHECK(tr_live_open(p, 12345, TR_S16LE, 1, &options, &none) == TR_EINVAL);
}

static void feed(struct seen *s, uint64_t *random, size_t most) {
    static uint8_t bytes[2 * TR_STREAM_RING];
    const size_t n = check_random(random) % most;
    CHECK(tr_live_feed(s->live, bytes, 2 * n) == TR_OK);
    s->fed += n;
}

/* Streams fed far faster than the engine works, some runs failing: drops by every reason, all accounted for. */
static void test_overload(size_t n_workers, size_t largest_chunk) {
    static struct seen seen[N_STREAMS];
    struct fake fakes[4] = {0};
    for (size_t i = 0; i < n_workers; i++) {
        fakes[i].fail_every = 3;
        fakes[i].nanoseconds = 200000;
    }
    struct tr_pipeline *p = new_pipeline(fakes, n_workers);
    uint64_t random = 1 + n_workers + largest_chunk;
    for (int life = 0; life < 2; life++) { /* places are used again */
        open_all(p, seen);
        for (size_t i = 0; i < n_workers; i++) atomic_store(&fakes[i].hold, true);
        for (int step = 0; step < 300; step++) {
            if (step == 150)
                for (size_t i = 0; i < n_workers; i++) atomic_store(&fakes[i].hold, false);
            feed(&seen[check_random(&random) % N_STREAMS], &random, largest_chunk);
            take_events(p, seen, 0);
        }
        for (int i = 0; i < N_STREAMS; i++) {
            tr_live_end(seen[i].live);
            tr_live_end(seen[i].live);
            uint8_t byte = 0;
            CHECK(tr_live_feed(seen[i].live, &byte, 1) == TR_ECLOSED);
        }
        while (!all_ended(seen)) take_events(p, seen, 10000);
        uint64_t lost[TR_N_DROPS] = {0};
        for (int i = 0; i < N_STREAMS; i++) {
            check_accounts(&seen[i]);
            for (int reason = 0; reason < TR_N_DROPS; reason++) lost[reason] += seen[i].lost[reason];
        }
        CHECK(lost[TR_DROP_QUEUE_FULL] > 0 && lost[TR_DROP_ABANDONED] == 0);
        const struct tr_counters c = tr_pipeline_counters(p);
        CHECK(c.jobs_failed > 0);
        CHECK(c.streams_active == 0 && c.queue_depth == 0 && c.workers_busy == 0);
        CHECK(c.jobs_enqueued == c.jobs_completed + c.jobs_failed);
    }
    tr_pipeline_free(p);
}

/* Abandon with a worker in mid-inference, jobs waiting, windows half full: at once, and nothing unaccounted. */
static void test_abandon(void) {
    static struct seen seen[N_STREAMS];
    struct fake fake = {.nanoseconds = 100000};
    atomic_store(&fake.hold, true);
    struct tr_pipeline *p = new_pipeline(&fake, 1);
    uint64_t random = 42;
    open_all(p, seen);
    for (int step = 0; step < 60; step++) feed(&seen[step % N_STREAMS], &random, 3 * WINDOW);
    while (atomic_load(&fake.n_runs) == 0) nanosleep(&(struct timespec){0, 100000}, NULL);
    tr_pipeline_abandon(p);
    while (!all_ended(seen)) take_events(p, seen, 0);
    for (int i = 0; i < N_STREAMS; i++) {
        check_accounts(&seen[i]);
        CHECK(seen[i].balance.transcribed + seen[i].balance.flushed == 0);
    }
    const struct tr_options options = {.language = "en"};
    struct tr_live *none = NULL;
    CHECK(tr_live_open(p, 16000, TR_S16LE, 1, &options, &none) == TR_ECLOSED);
    atomic_store(&fake.hold, false); /* the worker left behind comes back with a text that nobody wants any more */
    while (tr_pipeline_counters(p).workers_busy > 0) nanosleep(&(struct timespec){0, 100000}, NULL);
    CHECK(tr_pipeline_poll(p) == NULL);
    CHECK(atomic_load(&fake.n_runs) == 1);
    tr_pipeline_free(p);
}

/* While audio is under way the balance still adds up, as soon as nothing moves: a window running, windows waiting, one half full. */
static void test_balance_at_rest(void) {
    static struct seen seen[N_STREAMS];
    static const uint8_t bytes[3 * WINDOW];
    struct fake fake = {.nanoseconds = 100000};
    atomic_store(&fake.hold, true);
    struct tr_pipeline *p = new_pipeline(&fake, 1);
    open_all(p, seen);
    const size_t chunks[] = {3 * WINDOW, 2 * WINDOW}; /* bytes: two windows and a half */
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        CHECK(tr_live_feed(seen[0].live, bytes, chunks[i]) == TR_OK);
        seen[0].fed += chunks[i] / 2;
    }
    const time_t deadline = time(NULL) + 30;
    for (;;) {
        const struct tr_balance b = tr_live_balance(seen[0].live);
        CHECK(b.received == seen[0].fed);
        if (b.buffered == seen[0].fed && atomic_load(&fake.n_runs) > 0 && tr_pipeline_counters(p).jobs_enqueued == 2) break;
        CHECK(time(NULL) < deadline);
        nanosleep(&(struct timespec){0, 100000}, NULL);
    }
    tr_pipeline_free(p);
}

/* Against a model, one thread: every window holds exactly the samples of its place on the time line, gaps are where the loss
 * was, nothing is missing. Each sample's value is its position, so a window proves its own place. */
static void test_segmenter_places_losses(void) {
    static float ramp[TR_STREAM_RING / 2];
    uint64_t random = 99, n_gaps = 0;
    for (int round = 0; round < 20; round++) {
        struct tr_stream *stream = tr_stream_new(16000, TR_F32LE, 1);
        struct tr_segmenter segmenter = {.window_samples = 1 + check_random(&random) % 50000};
        CHECK(stream != NULL);
        uint64_t fed = 0, seen = 0, lost = 0;
        bool ready;
        for (int step = 0; step < 60 || !tr_stream_finished(stream); step++) {
            if (step < 60 && check_random(&random) % 4 > 0) {
                const size_t n = check_random(&random) % (TR_STREAM_RING / 2);
                for (size_t i = 0; i < n; i++) ramp[i] = (float)(fed + i); /* exact below 2^24 */
                CHECK(tr_stream_feed(stream, (const uint8_t *)ramp, n * sizeof(float), &ready) == TR_OK);
                fed += n;
            }
            if (step == 60) tr_stream_end(stream);
            for (uint32_t cuts = check_random(&random) % 6; cuts > 0; cuts--) {
                const struct tr_cut cut = tr_segmenter_next(&segmenter, stream);
                if (cut.kind == TR_CUT_NONE) break;
                CHECK(cut.start == seen && cut.n_samples > 0);
                seen += cut.n_samples;
                if (cut.kind == TR_CUT_GAP) {
                    lost += cut.n_samples;
                    n_gaps++;
                    continue;
                }
                CHECK(cut.flush == (cut.n_samples < segmenter.window_samples));
                for (size_t i = 0; i < cut.n_samples; i++) CHECK(cut.samples[i] == (float)(cut.start + i));
                free(cut.samples);
            }
        }
        while (true) { /* the last short window */
            const struct tr_cut cut = tr_segmenter_next(&segmenter, stream);
            if (cut.kind == TR_CUT_NONE) break;
            CHECK(cut.kind == TR_CUT_WINDOW && cut.start == seen);
            for (size_t i = 0; i < cut.n_samples; i++) CHECK(cut.samples[i] == (float)(cut.start + i));
            seen += cut.n_samples;
            free(cut.samples);
        }
        CHECK(seen == fed && fed == tr_stream_received(stream) && lost == tr_stream_lost(stream));
        tr_stream_free(stream);
    }
    CHECK(n_gaps > 20);
}

/* Freed with everything in flight: no leak, no deadlock. */
static void test_free_in_flight(void) {
    static struct seen seen[N_STREAMS];
    struct fake fake = {.nanoseconds = 100000};
    atomic_store(&fake.hold, true);
    struct tr_pipeline *p = new_pipeline(&fake, 1);
    uint64_t random = 7;
    open_all(p, seen);
    for (int step = 0; step < 40; step++) feed(&seen[step % N_STREAMS], &random, 2 * WINDOW);
    tr_pipeline_free(p);
}

/* FIFO in a lane, one running per lane, round robin between lanes, bounded. */
static void test_queue(void) {
    int jobs[8];
    struct tr_queue *q = tr_queue_new(3, 2);
    CHECK(q != NULL && tr_queue_take(q) == NULL);
    CHECK(tr_queue_try_put(q, 0, &jobs[0]) == TR_OK);
    CHECK(tr_queue_try_put(q, 0, &jobs[1]) == TR_OK);
    CHECK(tr_queue_try_put(q, 0, &jobs[2]) == TR_EFULL);
    CHECK(tr_queue_try_put(q, 2, &jobs[3]) == TR_OK);
    CHECK(tr_queue_depth(q) == 3);
    CHECK(tr_queue_take(q) == &jobs[0]);
    CHECK(tr_queue_take(q) == &jobs[3]);  /* lane 0 is running: its second job waits */
    CHECK(tr_queue_take(q) == NULL);
    CHECK(tr_queue_try_put(q, 0, &jobs[4]) == TR_OK); /* the running one is not counted */
    CHECK(tr_queue_try_put(q, 2, &jobs[5]) == TR_OK);
    CHECK(tr_queue_done(q, 2));
    CHECK(tr_queue_done(q, 0));
    CHECK(tr_queue_take(q) == &jobs[5]); /* lane 2 was ready first */
    CHECK(tr_queue_take(q) == &jobs[1]);
    CHECK(tr_queue_drop(q, 0) == &jobs[4] && tr_queue_drop(q, 0) == NULL);
    CHECK(!tr_queue_done(q, 0) && !tr_queue_done(q, 2));
    CHECK(tr_queue_take(q) == NULL && tr_queue_depth(q) == 0);
    tr_queue_free(q);
}

int main(void) {
    test_queue();
    test_segmenter_places_losses();
    test_balance_at_rest();
    test_overload(1, 2 * WINDOW);
    test_overload(3, WINDOW);
    test_overload(2, TR_STREAM_RING); /* chunks that overrun the ring */
    test_abandon();
    test_free_in_flight();
    return 0;
}
