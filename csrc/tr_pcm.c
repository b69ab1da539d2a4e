/* Goal: the bits of the float64 mean rounded to float32, for every encoding and channel count, under any chunking.
 * Bytes are put together by shifts, so that neither alignment nor the host's byte order matters. */
#include "tr_pcm.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FRAME_BYTES = TR_PCM_MAX_CHANNELS * 4 };

struct tr_pcm {
    enum tr_encoding encoding;
    unsigned n_channels;
    size_t frame_bytes;
    size_t n_carry; /* < frame_bytes */
    uint8_t carry[MAX_FRAME_BYTES];
};

size_t tr_pcm_sample_bytes(enum tr_encoding encoding) {
    switch (encoding) {
    case TR_MULAW:
    case TR_ALAW:
        return 1;
    case TR_S16LE:
        return 2;
    case TR_S24LE:
        return 3;
    case TR_S32LE:
    case TR_F32LE:
        return 4;
    }
    return 0;
}

struct tr_pcm *tr_pcm_new(enum tr_encoding encoding, unsigned n_channels) {
    size_t sample_bytes = tr_pcm_sample_bytes(encoding);
    if (sample_bytes == 0 || n_channels < 1 || n_channels > TR_PCM_MAX_CHANNELS)
        return NULL;
    struct tr_pcm *pcm = calloc(1, sizeof *pcm);
    if (pcm == NULL)
        return NULL;
    pcm->encoding = encoding;
    pcm->n_channels = n_channels;
    pcm->frame_bytes = sample_bytes * n_channels;
    return pcm;
}

void tr_pcm_free(struct tr_pcm *pcm) {
    free(pcm);
}

size_t tr_pcm_max_frames(const struct tr_pcm *pcm, size_t n_bytes) {
    /* Not (carry + n_bytes) / frame_bytes, which can overflow. */
    return n_bytes / pcm->frame_bytes + (n_bytes % pcm->frame_bytes + pcm->n_carry) / pcm->frame_bytes;
}

size_t tr_pcm_carry_bytes(const struct tr_pcm *pcm) {
    return pcm->n_carry;
}

/* --- one sample of each encoding; the integers as the 16 or 32-bit value of the divisor in decode_frames() ---------- */

static inline uint32_t word32(const uint8_t *b) {
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static inline double read_s16(const uint8_t *b) {
    return (double)(int16_t)(uint16_t)(b[0] | b[1] << 8);
}

static inline double read_s24(const uint8_t *b) { /* times 256: the sign bit lands where int32_t has its own */
    return (double)(int32_t)((uint32_t)b[0] << 8 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 24);
}

static inline double read_s32(const uint8_t *b) {
    return (double)(int32_t)word32(b);
}

static inline double read_f32(const uint8_t *b) {
    uint32_t word = word32(b);
    float sample;
    memcpy(&sample, &word, sizeof sample);
    return (double)sample;
}

static inline double read_mulaw(const uint8_t *b) { /* ITU-T G.711: 14 bits, sent inverted; times 4 */
    int code = ~*b & 0xff;
    int magnitude = (((code & 0x0f) << 1 | 0x21) << ((code & 0x70) >> 4)) - 0x21;
    return (double)(4 * (code & 0x80 ? -magnitude : magnitude));
}

static inline double read_alaw(const uint8_t *b) { /* ITU-T G.711: 13 bits, even bits sent inverted; times 8 */
    int code = *b ^ 0x55;
    int step = (code & 0x70) >> 4;
    int magnitude = (code & 0x0f) << 1 | 1;
    if (step > 0)
        magnitude = (magnitude | 0x20) << (step - 1);
    return (double)(8 * (code & 0x80 ? magnitude : -magnitude));
}

/* --- whole frames ------------------------------------------------------------------------------------------------------ */

typedef double read_sample(const uint8_t *);

/* Inlined into each call below with a constant reader, width and, for mono, channel count. The sum of eight 32-bit
 * integers is exact in double, and eight of the largest floats do not overflow it. */
static inline void decode_as(read_sample *read, size_t width, double full_scale, size_t n_channels,
                             const uint8_t *restrict bytes, float *restrict out, size_t n_frames) {
    const double divisor = full_scale * (double)n_channels;
    for (size_t i = 0; i < n_frames; i++) {
        double sum = read(bytes + i * n_channels * width);
        for (size_t c = 1; c < n_channels; c++)
            sum += read(bytes + (i * n_channels + c) * width);
        out[i] = (float)(sum / divisor);
    }
}

static inline void decode_mono_or_more(read_sample *read, size_t width, double full_scale, size_t n_channels,
                                       const uint8_t *bytes, float *out, size_t n_frames) {
    if (n_channels == 1)
        decode_as(read, width, full_scale, 1, bytes, out, n_frames);
    else
        decode_as(read, width, full_scale, n_channels, bytes, out, n_frames);
}

static void decode_frames(const struct tr_pcm *pcm, const uint8_t *bytes, float *out, size_t n_frames) {
    switch (pcm->encoding) {
    case TR_S16LE:
        decode_mono_or_more(read_s16, 2, 32768.0, pcm->n_channels, bytes, out, n_frames);
        break;
    case TR_S24LE:
        decode_mono_or_more(read_s24, 3, 2147483648.0, pcm->n_channels, bytes, out, n_frames);
        break;
    case TR_S32LE:
        decode_mono_or_more(read_s32, 4, 2147483648.0, pcm->n_channels, bytes, out, n_frames);
        break;
    case TR_F32LE:
        decode_mono_or_more(read_f32, 4, 1.0, pcm->n_channels, bytes, out, n_frames);
        break;
    case TR_MULAW:
        decode_mono_or_more(read_mulaw, 1, 32768.0, pcm->n_channels, bytes, out, n_frames);
        break;
    case TR_ALAW:
        decode_mono_or_more(read_alaw, 1, 32768.0, pcm->n_channels, bytes, out, n_frames);
        break;
    }
}

/* --- chunks ------------------------------------------------------------------------------------------------------------ */

/* Neither NaN nor infinite, and below 2^99: sums over channels and filter taps cannot become infinite either. */
static bool word_is_finite(uint32_t word) {
    return (word & 0x7fffffffu) < 0x71000000u;
}

/* Every float32 sample whose last byte is in this chunk. */
static bool chunk_is_finite(const struct tr_pcm *pcm, const uint8_t *bytes, size_t n_bytes) {
    const size_t n_held = pcm->n_carry % 4; /* bytes of a sample that began in an earlier chunk */
    size_t at = 0;
    if (n_held > 0) {
        at = 4 - n_held;
        if (n_bytes < at)
            return true;
        uint8_t sample[4];
        memcpy(sample, pcm->carry + pcm->n_carry - n_held, n_held);
        memcpy(sample + n_held, bytes, at);
        if (!word_is_finite(word32(sample)))
            return false;
    }
    bool any_bad = false; /* gathered without a branch, so that the loop vectorises */
    const size_t n_words = (n_bytes - at) / 4;
    for (size_t i = 0; i < n_words; i++)
        any_bad |= !word_is_finite(word32(bytes + at + 4 * i));
    return !any_bad;
}

enum tr_status tr_pcm_check(const struct tr_pcm *pcm, const uint8_t *bytes, size_t n_bytes) {
    return pcm->encoding == TR_F32LE && n_bytes > 0 && !chunk_is_finite(pcm, bytes, n_bytes) ? TR_ENONFINITE : TR_OK;
}

enum tr_status tr_pcm_decode(struct tr_pcm *pcm, const uint8_t *bytes, size_t n_bytes, float *out, size_t *n_frames) {
    *n_frames = 0;
    if (n_bytes == 0)
        return TR_OK; /* bytes may be NULL */
    const enum tr_status checked = tr_pcm_check(pcm, bytes, n_bytes);
    if (checked != TR_OK)
        return checked;

    size_t n_done = 0;
    if (pcm->n_carry > 0) { /* complete the frame that earlier chunks began */
        const size_t missing = pcm->frame_bytes - pcm->n_carry;
        const size_t n = n_bytes < missing ? n_bytes : missing;
        memcpy(pcm->carry + pcm->n_carry, bytes, n);
        pcm->n_carry += n;
        if (n < missing)
            return TR_OK;
        decode_frames(pcm, pcm->carry, out, 1);
        n_done = 1;
        bytes += n;
        n_bytes -= n;
    }
    const size_t n_whole = n_bytes / pcm->frame_bytes;
    decode_frames(pcm, bytes, out + n_done, n_whole);
    pcm->n_carry = n_bytes % pcm->frame_bytes;
    memcpy(pcm->carry, bytes + n_whole * pcm->frame_bytes, pcm->n_carry);
    *n_frames = n_done + n_whole;
    return TR_OK;
}
