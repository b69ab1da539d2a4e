/* Every kernel on one thread, for AddressSanitizer and UBSan: all buffers are exactly as long as the contracts say, and
 * on the heap, so that one byte too far is an error. Values are checked from Python; here only chunking and memory. */
#include <math.h>
#include <string.h>

#include "check.h"
#include "tr_flag.h"
#include "tr_pcm.h"
#include "tr_resample.h"
#include "tr_ring.h"

static void *exactly(size_t n_bytes) {
    void *memory = malloc(n_bytes);
    CHECK(memory != NULL || n_bytes == 0);
    return memory;
}

static void test_flag(void) {
    struct tr_flag flag = {0};
    CHECK(tr_flag_try_acquire(&flag));
    CHECK(!tr_flag_try_acquire(&flag));
    tr_flag_release(&flag);
    CHECK(tr_flag_try_acquire(&flag));
}

static void test_ring_refuses_bad_capacities(void) {
    const size_t bad[] = {0, 1, 3, 6, 1000, SIZE_MAX, SIZE_MAX / 2 + 1};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(tr_ring_new(bad[i]) == NULL);
    tr_ring_free(NULL);
}

/* The ring against two counters, starting just below 2^64, in random sizes. */
static void test_ring_across_the_wrap(size_t capacity) {
    struct tr_ring *ring = tr_ring_new_at(capacity, UINT64_MAX - 3 * capacity);
    CHECK(ring != NULL && tr_ring_capacity(ring) == capacity);
    uint64_t seed = capacity;
    uint32_t n_in = 0, n_out = 0;
    CHECK(tr_ring_write(ring, NULL, 0) == 0 && tr_ring_read(ring, NULL, 0) == 0);
    for (int round = 0; round < 2000; round++) {
        const size_t want_in = check_random(&seed) % (capacity + 2);
        float *src = exactly(want_in * sizeof *src);
        for (size_t i = 0; i < want_in; i++)
            src[i] = (float)(n_in + i);
        const size_t room = capacity - (n_in - n_out);
        CHECK(tr_ring_write_available(ring) == room);
        const size_t wrote = tr_ring_write(ring, src, want_in);
        CHECK(wrote == (want_in < room ? want_in : room));
        n_in += (uint32_t)wrote;
        free(src);

        const size_t want_out = check_random(&seed) % (capacity + 2);
        float *dst = exactly(want_out * sizeof *dst);
        const size_t ready = n_in - n_out;
        CHECK(tr_ring_read_available(ring) == ready);
        const size_t got = tr_ring_read(ring, dst, want_out);
        CHECK(got == (want_out < ready ? want_out : ready));
        for (size_t i = 0; i < got; i++)
            CHECK(dst[i] == (float)(n_out + i));
        n_out += (uint32_t)got;
        free(dst);
        CHECK(tr_ring_written(ring) - tr_ring_consumed(ring) == n_in - n_out);
    }
    CHECK(tr_ring_written(ring) == UINT64_MAX - 3 * capacity + n_in);
    CHECK(tr_ring_written(ring) < UINT64_MAX / 2); /* it has wrapped */
    tr_ring_free(ring);
}

/* One decoder gets all bytes at once, the other in random pieces: the same frames. */
static void test_pcm_chunking(enum tr_encoding encoding, unsigned n_channels) {
    uint64_t seed = 100 * (uint64_t)encoding + n_channels;
    const size_t n_bytes = 3001;
    uint8_t *bytes = exactly(n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        bytes[i] = (uint8_t)(check_random(&seed) & 0x6e); /* as float32: never NaN, infinite or beyond 2^99 */

    struct tr_pcm *whole = tr_pcm_new(encoding, n_channels), *pieces = tr_pcm_new(encoding, n_channels);
    CHECK(whole != NULL && pieces != NULL);
    size_t n_frames = tr_pcm_max_frames(whole, n_bytes), n;
    float *expected = exactly(n_frames * sizeof *expected), *got = exactly(n_frames * sizeof *got);
    CHECK(tr_pcm_decode(whole, bytes, n_bytes, expected, &n) == TR_OK && n == n_frames);
    CHECK(tr_pcm_decode(pieces, NULL, 0, NULL, &n) == TR_OK && n == 0);
    size_t done = 0;
    for (size_t at = 0; at < n_bytes;) {
        size_t size = check_random(&seed) % 70;
        size = size < n_bytes - at ? size : n_bytes - at;
        uint8_t *chunk = exactly(size);
        memcpy(chunk, bytes + at, size);
        const size_t room = tr_pcm_max_frames(pieces, size);
        float *out = exactly(room * sizeof *out);
        CHECK(tr_pcm_decode(pieces, chunk, size, out, &n) == TR_OK && n == room);
        memcpy(got + done, out, n * sizeof *out);
        done += n;
        at += size;
        free(chunk);
        free(out);
    }
    CHECK(done == n_frames && memcmp(got, expected, n_frames * sizeof *got) == 0);
    CHECK(tr_pcm_carry_bytes(pieces) == n_bytes % (tr_pcm_sample_bytes(encoding) * n_channels));
    CHECK(tr_pcm_max_frames(pieces, SIZE_MAX) >= SIZE_MAX / 32); /* no overflow */
    tr_pcm_free(whole);
    tr_pcm_free(pieces);
    free(bytes);
    free(expected);
    free(got);
}

static void test_pcm_extreme_bytes(enum tr_encoding encoding) {
    const uint8_t values[] = {0x00, 0x7f, 0x80, 0xff};
    for (size_t v = 0; v < sizeof values; v++) {
        uint8_t bytes[32];
        float out[32];
        size_t n = 99;
        memset(bytes, values[v], sizeof bytes);
        struct tr_pcm *pcm = tr_pcm_new(encoding, 8);
        CHECK(pcm != NULL);
        if (encoding == TR_F32LE && (values[v] == 0xff || values[v] == 0x7f)) { /* NaN; 3e38 */
            CHECK(tr_pcm_decode(pcm, bytes, sizeof bytes, out, &n) == TR_ENONFINITE && n == 0);
        } else {
            CHECK(tr_pcm_decode(pcm, bytes, sizeof bytes, out, &n) == TR_OK && n > 0);
            for (size_t i = 0; i < n; i++)
                CHECK(isfinite(out[i]));
        }
        CHECK(tr_pcm_carry_bytes(pcm) < 32);
        tr_pcm_free(pcm);
    }
}

static void test_pcm_refuses_bad_arguments(void) {
    CHECK(tr_pcm_new(TR_S16LE, 0) == NULL);
    CHECK(tr_pcm_new(TR_S16LE, TR_PCM_MAX_CHANNELS + 1) == NULL);
    CHECK(tr_pcm_new((enum tr_encoding)7, 1) == NULL);
    tr_pcm_free(NULL);
}

static void test_resample_chunking(unsigned sample_rate, size_t n_in, size_t largest_chunk) {
    uint64_t seed = n_in + largest_chunk;
    float *in = exactly(n_in * sizeof *in);
    for (size_t i = 0; i < n_in; i++)
        in[i] = (float)check_random(&seed) / 4294967296.0f - 0.5f;
    const size_t n_out = (n_in * 16000 + sample_rate - 1) / sample_rate;
    float *expected = exactly((n_out + 1) * sizeof *expected), *got = exactly((n_out + 1) * sizeof *got);

    struct tr_resampler *resampler = tr_resampler_new(sample_rate);
    CHECK(resampler != NULL);
    size_t n = tr_resampler_process(resampler, in, n_in, expected);
    n += tr_resampler_flush(resampler, expected + n);
    CHECK(n == n_out);

    size_t done = 0; /* the same resampler: flush() has started it afresh */
    CHECK(tr_resampler_process(resampler, NULL, 0, NULL) == 0);
    for (size_t at = 0; at < n_in;) {
        size_t size = check_random(&seed) % (largest_chunk + 1);
        size = size < n_in - at ? size : n_in - at;
        float *chunk = exactly(size * sizeof *chunk);
        memcpy(chunk, in + at, size * sizeof *chunk);
        const size_t room = tr_resampler_max_out(resampler, size);
        float *out = exactly(room * sizeof *out);
        n = tr_resampler_process(resampler, chunk, size, out);
        CHECK(n <= room && done + n <= n_out);
        memcpy(got + done, out, n * sizeof *out);
        done += n;
        at += size;
        free(chunk);
        free(out);
    }
    float *tail = exactly(tr_resampler_delay_frames(resampler) * sizeof *tail);
    n = tr_resampler_flush(resampler, tail);
    CHECK(n <= tr_resampler_delay_frames(resampler) && done + n == n_out);
    memcpy(got + done, tail, n * sizeof *tail);
    CHECK(memcmp(got, expected, n_out * sizeof *got) == 0);
    CHECK(tr_resampler_flush(resampler, NULL) == 0); /* nothing is owed to an empty stream */
    tr_resampler_free(resampler);
    free(in);
    free(expected);
    free(got);
    free(tail);
}

int main(void) {
    test_flag();
    test_ring_refuses_bad_capacities();
    for (size_t capacity = 2; capacity <= 64; capacity *= 2)
        test_ring_across_the_wrap(capacity);

    test_pcm_refuses_bad_arguments();
    for (int encoding = TR_S16LE; encoding <= TR_ALAW; encoding++) {
        test_pcm_extreme_bytes((enum tr_encoding)encoding);
        for (unsigned n_channels = 1; n_channels <= TR_PCM_MAX_CHANNELS; n_channels++)
            test_pcm_chunking((enum tr_encoding)encoding, n_channels);
    }

    CHECK(tr_resampler_new(0) == NULL && tr_resampler_new(44100) == NULL);
    tr_resampler_free(NULL);
    const size_t lengths[] = {0, 1, 2, 3, 70, 141, 1604, 20000};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        test_resample_chunking(48000, lengths[i], 5);
        test_resample_chunking(48000, lengths[i], 5000);
        test_resample_chunking(16000, lengths[i], 500);
    }
    puts("kernels: ok");
    return 0;
}
