/* tr_resample.h - streaming resampler to 16 kHz, mono float32.
 * Threads : one at a time per resampler.
 * Timing  : linear in the frames; no allocation or system calls after new().
 * Rates   : 48000 (polyphase 3:1 FIR) and 16000 (copy).
 * Quality : 48 kHz: 141-tap linear-phase equiripple, within 0.01 dB up to 7.2 kHz, 100 dB down from 8.8 kHz, so that what
 *           folds lands above 7.2 kHz only.
 * Time    : aligned: output m belongs to the instant of input 3m. After n_in frames and flush(), exactly
 *           ceil(n_in * 16000 / sample_rate) frames have come out.
 * Exact   : the same input gives the same bits under any chunking.
 * Memory  : in and out must not overlap. */
#ifndef TR_RESAMPLE_H
#define TR_RESAMPLE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tr_resampler;

/* NULL: a rate that is not supported, or no memory. */
struct tr_resampler *tr_resampler_new(unsigned sample_rate);

/* NULL is allowed. */
void tr_resampler_free(struct tr_resampler *resampler);

/* Most frames that process() of n_in frames gives, whatever came before: the room that its `out` must have. */
size_t tr_resampler_max_out(const struct tr_resampler *resampler, size_t n_in);

/* Resample n_in frames. Returns frames written to `out`. */
size_t tr_resampler_process(struct tr_resampler *resampler, const float *in, size_t n_in, float *out);

/* End the stream: write the frames still owed, at most tr_resampler_delay_frames(), and start afresh. */
size_t tr_resampler_flush(struct tr_resampler *resampler, float *out);

/* Output frames that the filter holds back at most while a stream runs: 24 (1.5 ms) at 48 kHz, 0 at 16 kHz. */
unsigned tr_resampler_delay_frames(const struct tr_resampler *resampler);

#ifdef __cplusplus
}
#endif

#endif
