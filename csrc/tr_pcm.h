/* tr_pcm.h - PCM bytes, cut anywhere, to mono float32.
 * Threads : one at a time per decoder.
 * Timing  : linear in the bytes; no allocation or system calls after new().
 * Units   : frames; a frame is one sample per channel. Full scale is +-1.0.
 * Values  : integers / 2^(bits-1); mu-law and A-law by G.711 to 16-bit linear, / 2^15; float32 as is. Channels are
 *           averaged in double, in channel order, and rounded to float32 once: the same bits under any chunking.
 * Memory  : the decoder keeps a partial frame of at most 31 bytes between calls. */
#ifndef TR_PCM_H
#define TR_PCM_H

#include <stddef.h>
#include <stdint.h>

#include "tr_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum tr_encoding { TR_S16LE, TR_S24LE, TR_S32LE, TR_F32LE, TR_MULAW, TR_ALAW };

enum { TR_PCM_MAX_CHANNELS = 8 };

struct tr_pcm;

/* Bytes of one sample of one channel; 0 for an unknown encoding. */
size_t tr_pcm_sample_bytes(enum tr_encoding encoding);

/* n_channels is 1..TR_PCM_MAX_CHANNELS. NULL: an argument out of range, or no memory. */
struct tr_pcm *tr_pcm_new(enum tr_encoding encoding, unsigned n_channels);

/* NULL is allowed. */
void tr_pcm_free(struct tr_pcm *pcm);

/* Frames that decode() gives for the next n_bytes, the carry included: the room that `out` must have. */
size_t tr_pcm_max_frames(const struct tr_pcm *pcm, size_t n_bytes);

/* What decode() would say of these bytes, all of them given as one chunk; nothing is changed. For a caller that decodes a
 * chunk in pieces and yet takes it whole or not at all. */
enum tr_status tr_pcm_check(const struct tr_pcm *pcm, const uint8_t *bytes, size_t n_bytes);

/* Decode one chunk; `bytes` needs no alignment and may be NULL when n_bytes is 0. Sets *n_frames.
 * TR_ENONFINITE: a float32 sample that ends in this chunk is NaN, infinite or beyond 2^99 (which would overflow later). The whole chunk is refused: *n_frames
 * is 0, `out` and the carry are untouched. */
enum tr_status tr_pcm_decode(struct tr_pcm *pcm, const uint8_t *bytes, size_t n_bytes, float *out, size_t *n_frames);

/* Bytes of the partial frame held for the next call. */
size_t tr_pcm_carry_bytes(const struct tr_pcm *pcm);

#ifdef __cplusplus
}
#endif

#endif
