/* tr_stream.h - the ingesting side of one live stream: bytes -> mono f32 -> 16 kHz -> ring.
 * Threads : feed() and end() from ONE producer thread (the event loop); read(), gap(), skip_gap(), finished() from ONE consumer
 *           thread (analysis). The rest says so where it differs.
 * Timing  : feed() is wait-free and allocates nothing; its work is proportional to the chunk.
 * Loss    : what finds no room in the ring is lost on purpose, counted, and leaves a gap record at its place on the
 *           time line. After an overrun nothing is taken until half the ring is free, so that a source that stays too
 *           fast makes few long gaps and not thousands of short ones.
 * Units   : samples are mono at 16 kHz; a position counts them from the stream's start, lost ones included. */
#ifndef TR_STREAM_H
#define TR_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tr_pcm.h"
#include "tr_status.h"

struct tr_stream;

/* 2^17 samples = 8.2 s, 512 KiB: longer than any chunk worth sending in one message, and many times the pause that the
 * analysis thread can suffer on a busy machine. */
enum { TR_STREAM_RING = 131072 };

/* NULL when sample_rate, encoding or n_channels is not supported, or memory is short. */
struct tr_stream *tr_stream_new(unsigned sample_rate, enum tr_encoding encoding, unsigned n_channels);
void tr_stream_free(struct tr_stream *stream);

/* Take one chunk. TR_ECLOSED after end(); TR_ENONFINITE for NaN or infinity in f32; TR_EINVAL when it holds more than the
 * ring could ever take. A chunk is refused whole or taken whole (an overrun is taken: it is counted as received and lost).
 * A partial frame at its end is kept for the next one. *ready: enough has gathered to wake the consumer. */
enum tr_status tr_stream_feed(struct tr_stream *stream, const uint8_t *bytes, size_t n_bytes, bool *ready);

/* The last audio has come: flush the resampler's tail. Idempotent. */
void tr_stream_end(struct tr_stream *stream);

/* Read up to n_samples of consecutive audio; stops short of a gap. */
size_t tr_stream_read(struct tr_stream *stream, float *samples, size_t n_samples);

/* Samples lost exactly here, before what read() gives next; 0 when the audio goes on without a gap. */
uint64_t tr_stream_gap(struct tr_stream *stream);

/* Step over the gap that tr_stream_gap() has just told of. */
void tr_stream_skip_gap(struct tr_stream *stream);

/* True when the stream has ended and all of it, gaps included, has been read. */
bool tr_stream_finished(struct tr_stream *stream);

/* Any thread: samples received (lost ones included), lost to overrun, waiting in the ring. */
uint64_t tr_stream_received(const struct tr_stream *stream);
uint64_t tr_stream_lost(const struct tr_stream *stream);
size_t tr_stream_buffered(const struct tr_stream *stream);

#endif
