/* A stream that is ended just while the analysis looks at it keeps its last, short window. The linker puts a pause at the very place
 * (--wrap=tr_segmenter_next): after the segmenter has said that it needs more audio. */
#include "tr_pipeline.h"

#include <poll.h>
#include <string.h>
#include <time.h>

#include "check.h"
#include "tr_segment.h"

enum { N_STREAMS = 1000, N_SAMPLES = 1600 };

struct tr_cut __real_tr_segmenter_next(struct tr_segmenter *segmenter, struct tr_stream *stream);
struct tr_cut __wrap_tr_segmenter_next(struct tr_segmenter *segmenter, struct tr_stream *stream);

struct tr_cut __wrap_tr_segmenter_next(struct tr_segmenter *segmenter, struct tr_stream *stream) {
    const struct tr_cut cut = __real_tr_segmenter_next(segmenter, stream);
    if (cut.kind == TR_CUT_NONE) nanosleep(&(struct timespec){0, 20000}, NULL);
    return cut;
}

static enum tr_status run(void *session, const float *pcm, size_t n_samples, const struct tr_options *options,
                          struct tr_transcript **out) {
    (void)session, (void)pcm, (void)n_samples, (void)options;
    *out = calloc(1, sizeof **out);
    CHECK(*out != NULL);
    return TR_OK;
}

static void cancel(void *session) { (void)session; }
static const char *last_error(void) { return ""; }

int main(void) {
    static const uint8_t bytes[2 * N_SAMPLES];
    const struct tr_engine engine = {.run = run, .cancel = cancel, .last_error = last_error};
    const struct tr_pipeline_config config = {
        .max_streams = 1, .queue_capacity = 1, .window_samples = 80000, .n_workers = 1, .engines = &engine};
    const struct tr_options options = {.language = "en"};
    struct tr_pipeline *p = NULL;
    CHECK(tr_pipeline_new(&config, &p) == TR_OK);
    for (int i = 0; i < N_STREAMS; i++) {
        struct tr_live *live = NULL;
        CHECK(tr_live_open(p, 16000, TR_S16LE, 1, &options, &live) == TR_OK);
        CHECK(tr_live_feed(live, bytes, sizeof bytes) == TR_OK); /* enough to wake the analysis */
        nanosleep(&(struct timespec){0, 1000 * (i % 100)}, NULL); /* the end at any moment of its pass */
        tr_live_end(live);
        for (bool ended = false; !ended;) {
            struct pollfd fd = {.fd = tr_pipeline_fd(p), .events = POLLIN};
            CHECK(poll(&fd, 1, 10000) == 1);
            for (struct tr_event *event = tr_pipeline_poll(p), *next; event != NULL; event = next) {
                next = event->next;
                if (event->kind == TR_EVENT_END) {
                    ended = true;
                    CHECK(event->balance.received == N_SAMPLES && event->balance.flushed == N_SAMPLES);
                    CHECK(event->balance.buffered == 0 && event->seq == 1);
                }
                tr_event_free(event);
            }
        }
        tr_live_close(live);
    }
    tr_pipeline_free(p);
    return 0;
}
