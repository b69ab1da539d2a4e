#include "tr_stream.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "tr_resample.h"
#include "tr_ring.h"

/* Bytes decoded at a time: bounds the scratch buffers, so that feeding allocates nothing. */
enum { BLOCK_BYTES = 8192 };

/* 100 ms: the consumer is woken this often per stream, not once per message; it adds at most that to a window's delay. */
enum { WAKE_SAMPLES = 1600 };

/* Two gaps lie at least half a ring less one block apart, and the ring spans them all: no more than three can wait. */
enum { MAX_GAPS = 4 };

struct gap {
    uint64_t at; /* ring position that the loss precedes */
    uint64_t n_lost;
};

struct tr_stream {
    struct tr_pcm *pcm;
    struct tr_resampler *resampler;
    struct tr_ring *ring;
    float *mono;      /* owned scratch of the producer: one block decoded */
    float *resampled; /* owned scratch of the producer: the same at 16 kHz */

    /* Producer only. */
    bool closed;
    uint64_t losing; /* samples lost since the overrun began; 0 when there is none */

    /* Records of past overruns, single producer, single consumer: n_gaps_made is stored with release after the record,
     * n_gaps_taken with release after it has been read. */
    struct gap gaps[MAX_GAPS];
    _Atomic size_t n_gaps_made;
    _Atomic size_t n_gaps_taken;

    uint64_t lost_at_end; /* an overrun that the end cut short; published by `ended` */
    _Atomic bool ended;   /* release by the producer, acquire by the consumer */

    /* Statistics for any thread: relaxed. */
    _Atomic uint64_t received;
    _Atomic uint64_t lost;
};

struct tr_stream *tr_stream_new(unsigned sample_rate, enum tr_encoding encoding, unsigned n_channels) {
    struct tr_stream *stream = calloc(1, sizeof *stream);
    if (stream == NULL) return NULL;
    stream->pcm = tr_pcm_new(encoding, n_channels);
    stream->resampler = tr_resampler_new(sample_rate);
    stream->ring = tr_ring_new(TR_STREAM_RING);
    if (stream->pcm == NULL || stream->resampler == NULL || stream->ring == NULL) goto fail;
    const size_t n_mono = tr_pcm_max_frames(stream->pcm, BLOCK_BYTES) + 1; /* +1: a carried partial frame */
    stream->mono = malloc(n_mono * sizeof(float));
    size_t n_resampled = tr_resampler_max_out(stream->resampler, n_mono);
    if (n_resampled < tr_resampler_delay_frames(stream->resampler) + 1u) {
        n_resampled = tr_resampler_delay_frames(stream->resampler) + 1u; /* the flushed tail */
    }
    stream->resampled = malloc(n_resampled * sizeof(float));
    if (stream->mono == NULL || stream->resampled == NULL) goto fail;
    return stream;
fail:
    tr_stream_free(stream);
    return NULL;
}

void tr_stream_free(struct tr_stream *stream) {
    if (stream == NULL) return;
    tr_pcm_free(stream->pcm);
    tr_resampler_free(stream->resampler);
    tr_ring_free(stream->ring);
    free(stream->mono);
    free(stream->resampled);
    free(stream);
}

/* Put the record of the overrun that has just ended in front of what is written next. False when there is no slot. */
static bool record_gap(struct tr_stream *stream) {
    const size_t made = atomic_load_explicit(&stream->n_gaps_made, memory_order_relaxed); /* own index */
    const size_t taken = atomic_load_explicit(&stream->n_gaps_taken, memory_order_acquire); /* pairs with tr_stream_skip_gap */
    if (made - taken == MAX_GAPS) return false;
    stream->gaps[made % MAX_GAPS] = (struct gap){.at = tr_ring_written(stream->ring), .n_lost = stream->losing};
    atomic_store_explicit(&stream->n_gaps_made, made + 1, memory_order_release); /* pairs with pending_gap */
    stream->losing = 0;
    return true;
}

static void store(struct tr_stream *stream, const float *samples, size_t n_samples) {
    atomic_fetch_add_explicit(&stream->received, n_samples, memory_order_relaxed);
    const size_t room = tr_ring_write_available(stream->ring);
    const bool go_on = stream->losing == 0 || (room >= TR_STREAM_RING / 2 && record_gap(stream));
    if (go_on && n_samples <= room) {
        (void)tr_ring_write(stream->ring, samples, n_samples); /* fits: room only grows on this side */
        return;
    }
    stream->losing += n_samples;
    atomic_fetch_add_explicit(&stream->lost, n_samples, memory_order_relaxed);
}

enum tr_status tr_stream_feed(struct tr_stream *stream, const uint8_t *bytes, size_t n_bytes, bool *ready) {
    *ready = false;
    if (stream->closed) return TR_ECLOSED;
    if (tr_resampler_max_out(stream->resampler, tr_pcm_max_frames(stream->pcm, n_bytes)) > TR_STREAM_RING) return TR_EINVAL;
    const enum tr_status checked = tr_pcm_check(stream->pcm, bytes, n_bytes);
    if (checked != TR_OK) return checked;
    while (n_bytes > 0) {
        const size_t n = n_bytes < BLOCK_BYTES ? n_bytes : BLOCK_BYTES;
        size_t n_mono = 0;
        const enum tr_status rc = tr_pcm_decode(stream->pcm, bytes, n, stream->mono, &n_mono);
        if (rc != TR_OK) return rc;
        store(stream, stream->resampled, tr_resampler_process(stream->resampler, stream->mono, n_mono, stream->resampled));
        bytes += n;
        n_bytes -= n;
    }
    *ready = tr_ring_read_available(stream->ring) >= WAKE_SAMPLES;
    return TR_OK;
}

void tr_stream_end(struct tr_stream *stream) {
    if (stream->closed) return;
    stream->closed = true;
    const size_t n_tail = tr_resampler_flush(stream->resampler, stream->resampled);
    if (n_tail > 0) store(stream, stream->resampled, n_tail);
    stream->lost_at_end = stream->losing;
    atomic_store_explicit(&stream->ended, true, memory_order_release); /* pairs with has_ended */
}

/* The next gap record, or NULL. Consumer only. */
static const struct gap *pending_gap(struct tr_stream *stream) {
    const size_t taken = atomic_load_explicit(&stream->n_gaps_taken, memory_order_relaxed); /* own index */
    const size_t made = atomic_load_explicit(&stream->n_gaps_made, memory_order_acquire); /* pairs with record_gap */
    return made == taken ? NULL : &stream->gaps[taken % MAX_GAPS];
}

size_t tr_stream_read(struct tr_stream *stream, float *samples, size_t n_samples) {
    /* What is in the ring first, then the gap record: a record is made before the audio that follows it is written. */
    const size_t available = tr_ring_read_available(stream->ring);
    if (n_samples > available) n_samples = available;
    const struct gap *gap = pending_gap(stream);
    if (gap != NULL) {
        const uint64_t before = gap->at - tr_ring_consumed(stream->ring);
        if (n_samples > before) n_samples = (size_t)before;
    }
    return tr_ring_read(stream->ring, samples, n_samples);
}

static bool has_ended(struct tr_stream *stream) {
    return atomic_load_explicit(&stream->ended, memory_order_acquire); /* pairs with tr_stream_end */
}

uint64_t tr_stream_gap(struct tr_stream *stream) {
    const struct gap *gap = pending_gap(stream);
    if (gap != NULL) return gap->at == tr_ring_consumed(stream->ring) ? gap->n_lost : 0;
    if (!has_ended(stream) || tr_ring_read_available(stream->ring) > 0 || pending_gap(stream) != NULL) return 0;
    return stream->lost_at_end; /* after `ended` it belongs to the consumer */
}

void tr_stream_skip_gap(struct tr_stream *stream) {
    if (pending_gap(stream) == NULL) {
        stream->lost_at_end = 0;
        return;
    }
    const size_t taken = atomic_load_explicit(&stream->n_gaps_taken, memory_order_relaxed); /* own index */
    atomic_store_explicit(&stream->n_gaps_taken, taken + 1, memory_order_release); /* pairs with record_gap */
}

bool tr_stream_finished(struct tr_stream *stream) {
    return has_ended(stream) && tr_ring_read_available(stream->ring) == 0 && pending_gap(stream) == NULL &&
           stream->lost_at_end == 0;
}

uint64_t tr_stream_received(const struct tr_stream *stream) {
    return atomic_load_explicit(&stream->received, memory_order_relaxed);
}

uint64_t tr_stream_lost(const struct tr_stream *stream) { return atomic_load_explicit(&stream->lost, memory_order_relaxed); }

size_t tr_stream_buffered(const struct tr_stream *stream) { return tr_ring_read_available(stream->ring); }
