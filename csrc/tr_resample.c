/* Goal: the quality in the header, a constant delay of 70 input frames, and bits that do not depend on the chunking.
 *
 * With h the taps, x the input and x[n] = 0 outside it, y[m] = sum over k of h[k] * x[3m + k - 70]. The stream therefore
 * begins with 70 zeros and ends with 70 more, and y[m] is the dot product of h with the 141 frames from 3m on. As
 * 141 = 3 * 47, h and the stream split into three phases of which each output takes 47 consecutive frames: outputs of
 * one tile lie side by side in every phase, so the inner loop is a plain vector multiply-add with no shuffles and no
 * sum across lanes.
 *
 * Each output is summed in the order of k by the same code whether it lies in a full tile or in the last one (which is
 * computed whole and stored in part): hence the same bits under any chunking. */
#include "tr_resample.h"

#include <stdlib.h>
#include <string.h>

#include "tr_resample_taps.h"

enum {
    OUT_RATE = 16000,
    FACTOR = 3,
    HALF = N_TAPS / 2,                 /* frames on either side of the centre tap */
    PHASE_TAPS = N_TAPS / FACTOR,      /* 47 */
    TILE = 32,                         /* outputs computed together: eight SSE2 registers of sums */
    BLOCK = 16 * TILE,                 /* most outputs per pass: three phases stay well inside L1 */
    PHASE_FRAMES = PHASE_TAPS + BLOCK, /* what the last whole tile of a full pass, and the move after it, read */
};

_Static_assert(N_TAPS % 2 == 1 && N_TAPS % FACTOR == 0, "the alignment above needs an odd multiple of 3");

struct tr_resampler {
    unsigned sample_rate;
    size_t n_held; /* frames of the stream held in the phases, from the next output's first on; < N_TAPS between calls */
    float phases[FACTOR][PHASE_FRAMES]; /* frame t of those is phases[t % FACTOR][t / FACTOR] */
};

/* A fresh stream: HALF zeros. (The rest is zeroed so that no lane ever computes on garbage.) */
static void start(struct tr_resampler *resampler) {
    memset(resampler->phases, 0, sizeof resampler->phases);
    resampler->n_held = HALF;
}

struct tr_resampler *tr_resampler_new(unsigned sample_rate) {
    if (sample_rate != FACTOR * OUT_RATE && sample_rate != OUT_RATE)
        return NULL;
    struct tr_resampler *resampler = malloc(sizeof *resampler);
    if (resampler == NULL)
        return NULL;
    resampler->sample_rate = sample_rate;
    start(resampler);
    return resampler;
}

void tr_resampler_free(struct tr_resampler *resampler) {
    free(resampler);
}

size_t tr_resampler_max_out(const struct tr_resampler *resampler, size_t n_in) {
    if (resampler->sample_rate == OUT_RATE)
        return n_in;
    return n_in / FACTOR + (n_in % FACTOR != 0);
}

unsigned tr_resampler_delay_frames(const struct tr_resampler *resampler) {
    return resampler->sample_rate == OUT_RATE ? 0 : (HALF + FACTOR - 1) / FACTOR;
}

/* TILE outputs, the first of which starts at `at` in each phase. Not inlined: two copies need not round alike, as the
 * compiler may fuse multiply and add in one and not in the other. */
__attribute__((noinline)) static void filter_tile(float phases[FACTOR][PHASE_FRAMES], size_t at,
                                                  float *restrict out) {
    float sums[TILE] = {0};
    for (size_t q = 0; q < PHASE_TAPS; q++)
        for (size_t p = 0; p < FACTOR; p++) {
            const float tap = TAPS[FACTOR * q + p];
            const float *restrict frames = &phases[p][at + q];
            for (size_t j = 0; j < TILE; j++)
                sums[j] += tap * frames[j];
        }
    memcpy(out, sums, sizeof sums);
}

/* Append n_in frames, at most what the phases hold. NULL stands for zeros. */
static void append(struct tr_resampler *resampler, const float *in, size_t n_in) {
    for (size_t first = 0; first < FACTOR && first < n_in; first++) { /* each phase takes every third frame */
        const size_t t = resampler->n_held + first;
        float *restrict phase = &resampler->phases[t % FACTOR][t / FACTOR];
        const size_t n = (n_in - first + FACTOR - 1) / FACTOR;
        for (size_t i = 0; i < n; i++)
            phase[i] = in ? in[first + FACTOR * i] : 0.0f;
    }
    resampler->n_held += n_in;
}

/* Give every output whose N_TAPS frames are held, and let go of what the next one does not need. */
static size_t drain(struct tr_resampler *resampler, float *out) {
    if (resampler->n_held < N_TAPS)
        return 0;
    const size_t n_out = (resampler->n_held - N_TAPS) / FACTOR + 1;
    size_t done = 0;
    for (; n_out - done >= TILE; done += TILE)
        filter_tile(resampler->phases, done, out + done);
    if (done < n_out) {
        float rest[TILE];
        filter_tile(resampler->phases, done, rest);
        memcpy(out + done, rest, (n_out - done) * sizeof *out);
    }
    resampler->n_held -= FACTOR * n_out;
    for (size_t p = 0; p < FACTOR; p++)
        memmove(resampler->phases[p], resampler->phases[p] + n_out, PHASE_TAPS * sizeof(float));
    return n_out;
}

size_t tr_resampler_process(struct tr_resampler *resampler, const float *in, size_t n_in, float *out) {
    if (n_in == 0)
        return 0; /* in may be NULL */
    if (resampler->sample_rate == OUT_RATE) {
        memcpy(out, in, n_in * sizeof *out);
        return n_in;
    }
    size_t n_out = 0;
    while (n_in > 0) {
        const size_t room = N_TAPS + FACTOR * (BLOCK - 1) - resampler->n_held; /* then BLOCK outputs are due */
        const size_t n = n_in < room ? n_in : room;
        append(resampler, in, n);
        n_out += drain(resampler, out + n_out);
        in += n;
        n_in -= n;
    }
    return n_out;
}

size_t tr_resampler_flush(struct tr_resampler *resampler, float *out) {
    if (resampler->sample_rate == OUT_RATE)
        return 0;
    append(resampler, NULL, HALF);
    const size_t n_out = drain(resampler, out);
    start(resampler);
    return n_out;
}
