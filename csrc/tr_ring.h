/* tr_ring.h - single-producer single-consumer ring of float32 frames.
 * Threads : write() from ONE producer, read() from ONE consumer; roles never swap. The queries may be called from
 *           anywhere; they are exact for the side that cannot be overtaken (see each).
 * Timing  : wait-free; no locks, allocation or system calls after new().
 * Units   : frames, mono (1 frame = 1 float). capacity is a power of two, 2 or more, and all of it is usable.
 * Memory  : the ring owns its storage; src and dst must not overlap it.
 * Order   : the producer releases `written`, the consumer acquires it; `consumed` is the mirror image. */
#ifndef TR_RING_H
#define TR_RING_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct tr_ring;

/* NULL: capacity is not a power of two of at least 2, or no memory. */
struct tr_ring *tr_ring_new(size_t capacity);

/* For tests: as new(), with both positions at `start`, so that a run can begin just below 2^64. */
struct tr_ring *tr_ring_new_at(size_t capacity, uint64_t start);

/* NULL is allowed. Neither side may be using the ring. */
void tr_ring_free(struct tr_ring *ring);

/* Producer. Copy in up to n_frames. Returns frames written; fewer is an overrun, which the caller counts. */
size_t tr_ring_write(struct tr_ring *ring, const float *src, size_t n_frames);

/* Consumer. Copy out up to n_frames. Returns frames read; fewer means that the ring is now empty. */
size_t tr_ring_read(struct tr_ring *ring, float *dst, size_t n_frames);

/* Frames ready to read. For the consumer: at least so many can be read. */
size_t tr_ring_read_available(const struct tr_ring *ring);

/* Free frames. For the producer: at least so many can be written. */
size_t tr_ring_write_available(const struct tr_ring *ring);

size_t tr_ring_capacity(const struct tr_ring *ring);

/* Free-running absolute positions, in frames since `start`'s zero: they wrap at 2^64, so compare by difference.
 * A third thread that wants the fill reads consumed() first, then written(), and expects that it may have grown. */
uint64_t tr_ring_written(const struct tr_ring *ring);
uint64_t tr_ring_consumed(const struct tr_ring *ring);

#ifdef __cplusplus
}
#endif

#endif
