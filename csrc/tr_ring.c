/* Goal: no sample lost, doubled or read half-written, for any sizes and across the wrap at 2^64; one atomic load of
 * the other side's index only when the cached copy says that there is no room (or no data). */
#include "tr_ring.h"

#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64 }; /* bytes of a cache line: each side writes to its own */

struct tr_ring {
    alignas(LINE) _Atomic uint64_t written; /* the producer's line: only it stores here */
    uint64_t seen_consumed;                 /* its last sight of `consumed`: never ahead of it */
    alignas(LINE) _Atomic uint64_t consumed; /* the consumer's line */
    uint64_t seen_written;
    alignas(LINE) size_t capacity; /* constant: shared by both */
    alignas(LINE) float frames[];
};

struct tr_ring *tr_ring_new_at(size_t capacity, uint64_t start) {
    if (capacity < 2 || (capacity & (capacity - 1)) != 0
        || capacity > (SIZE_MAX - sizeof(struct tr_ring)) / sizeof(float) / 2)
        return NULL;
    size_t n_bytes = sizeof(struct tr_ring) + capacity * sizeof(float);
    void *memory = NULL; /* posix_memalign: older macOS has no aligned_alloc */
    if (posix_memalign(&memory, LINE, n_bytes) != 0)
        return NULL;
    struct tr_ring *ring = memory;
    atomic_init(&ring->written, start);
    atomic_init(&ring->consumed, start);
    ring->seen_consumed = start;
    ring->seen_written = start;
    ring->capacity = capacity;
    return ring;
}

struct tr_ring *tr_ring_new(size_t capacity) {
    return tr_ring_new_at(capacity, 0);
}

void tr_ring_free(struct tr_ring *ring) {
    free(ring);
}

size_t tr_ring_write(struct tr_ring *ring, const float *src, size_t n_frames) {
    /* relaxed: the producer alone stores `written`. */
    uint64_t written = atomic_load_explicit(&ring->written, memory_order_relaxed);
    size_t room = ring->capacity - (size_t)(written - ring->seen_consumed);
    if (room < n_frames) {
        /* acquire: pairs with the release in read(); the consumer is done copying out of what we overwrite below. */
        ring->seen_consumed = atomic_load_explicit(&ring->consumed, memory_order_acquire);
        room = ring->capacity - (size_t)(written - ring->seen_consumed);
    }
    size_t n = n_frames < room ? n_frames : room;
    if (n == 0)
        return 0; /* src may be NULL, which memcpy may not be given */
    size_t at = (size_t)written & (ring->capacity - 1);
    size_t first = n < ring->capacity - at ? n : ring->capacity - at;
    memcpy(ring->frames + at, src, first * sizeof(float));
    memcpy(ring->frames, src + first, (n - first) * sizeof(float));
    /* release: pairs with the acquire in read(); whoever sees the new position sees the frames copied above. */
    atomic_store_explicit(&ring->written, written + n, memory_order_release);
    return n;
}

size_t tr_ring_read(struct tr_ring *ring, float *dst, size_t n_frames) {
    /* relaxed: the consumer alone stores `consumed`. */
    uint64_t consumed = atomic_load_explicit(&ring->consumed, memory_order_relaxed);
    size_t ready = (size_t)(ring->seen_written - consumed);
    if (ready < n_frames) {
        /* acquire: pairs with the release in write(); the frames up to this position are in place. */
        ring->seen_written = atomic_load_explicit(&ring->written, memory_order_acquire);
        ready = (size_t)(ring->seen_written - consumed);
    }
    size_t n = n_frames < ready ? n_frames : ready;
    if (n == 0)
        return 0; /* dst may be NULL, which memcpy may not be given */
    size_t at = (size_t)consumed & (ring->capacity - 1);
    size_t first = n < ring->capacity - at ? n : ring->capacity - at;
    memcpy(dst, ring->frames + at, first * sizeof(float));
    memcpy(dst + first, ring->frames, (n - first) * sizeof(float));
    /* release: pairs with the acquire in write(); our copying out comes before the producer's overwriting. */
    atomic_store_explicit(&ring->consumed, consumed + n, memory_order_release);
    return n;
}

uint64_t tr_ring_written(const struct tr_ring *ring) {
    /* acquire: pairs with the release in write(). */
    return atomic_load_explicit(&ring->written, memory_order_acquire);
}

uint64_t tr_ring_consumed(const struct tr_ring *ring) {
    /* acquire: pairs with the release in read(). */
    return atomic_load_explicit(&ring->consumed, memory_order_acquire);
}

size_t tr_ring_read_available(const struct tr_ring *ring) {
    /* `consumed` first: it cannot pass the `written` that is read after it, so the difference is not negative. On a
     * third thread both may have moved on in between, hence the clamp. */
    uint64_t consumed = tr_ring_consumed(ring);
    uint64_t fill = tr_ring_written(ring) - consumed;
    return fill < ring->capacity ? (size_t)fill : ring->capacity;
}

size_t tr_ring_write_available(const struct tr_ring *ring) {
    return ring->capacity - tr_ring_read_available(ring);
}

size_t tr_ring_capacity(const struct tr_ring *ring) {
    return ring->capacity;
}
