/* What two threads share, for ThreadSanitizer: the ring across the wrap of its positions at 2^64, and the flag. */
#include <pthread.h>
#include <sched.h>

#include "check.h"
#include "tr_flag.h"
#include "tr_ring.h"

enum { N_FRAMES = 100000, MOST = 100, N_TURNS = 20000 };

static float value_at(uint32_t i) { /* no two neighbours, laps or halves of the run are alike */
    return (float)(i * 2654435761u >> 8);
}

static void *produce(void *argument) {
    struct tr_ring *ring = argument;
    uint64_t seed = 11;
    float block[MOST];
    for (uint32_t n = 0; n < N_FRAMES;) {
        uint32_t size = check_random(&seed) % MOST;
        size = size < N_FRAMES - n ? size : N_FRAMES - n;
        for (uint32_t i = 0; i < size; i++)
            block[i] = value_at(n + i);
        const size_t wrote = tr_ring_write(ring, block, size);
        CHECK(wrote <= size);
        n += (uint32_t)wrote;
        if (wrote < size)
            sched_yield(); /* full: let the consumer have the core, in case there is only one */
    }
    return NULL;
}

static void *consume(void *argument) {
    struct tr_ring *ring = argument;
    uint64_t seed = 12;
    float block[MOST];
    for (uint32_t n = 0; n < N_FRAMES;) {
        const size_t ready = tr_ring_read_available(ring);
        const size_t size = check_random(&seed) % MOST;
        const size_t got = tr_ring_read(ring, block, size);
        CHECK(got >= (ready < size ? ready : size)); /* what is ready stays so for the consumer */
        for (size_t i = 0; i < got; i++)
            CHECK(block[i] == value_at(n + (uint32_t)i));
        n += (uint32_t)got;
        if (got < size)
            sched_yield();
    }
    return NULL;
}

static void test_ring(size_t capacity) {
    struct tr_ring *ring = tr_ring_new_at(capacity, UINT64_MAX - N_FRAMES / 2);
    CHECK(ring != NULL);
    pthread_t producer, consumer;
    CHECK(pthread_create(&producer, NULL, produce, ring) == 0);
    CHECK(pthread_create(&consumer, NULL, consume, ring) == 0);
    uint64_t seen = tr_ring_consumed(ring);
    while (seen != UINT64_MAX - N_FRAMES / 2 + N_FRAMES) { /* a third thread measures meanwhile */
        const uint64_t now = tr_ring_consumed(ring);
        CHECK(now - seen <= N_FRAMES); /* it only goes forward */
        CHECK(tr_ring_written(ring) - now <= N_FRAMES);
        CHECK(tr_ring_read_available(ring) <= capacity && tr_ring_write_available(ring) <= capacity);
        seen = now;
        sched_yield();
    }
    CHECK(pthread_join(producer, NULL) == 0 && pthread_join(consumer, NULL) == 0);
    CHECK(tr_ring_read_available(ring) == 0);
    tr_ring_free(ring);
}

static struct {
    struct tr_flag flag;
    long n_turns; /* guarded by the flag: a plain long, so that the sanitizer sees a broken one */
} shared;

static void *take_turns(void *argument) {
    (void)argument;
    for (int i = 0; i < N_TURNS; i++) {
        while (!tr_flag_try_acquire(&shared.flag))
            sched_yield();
        shared.n_turns++;
        tr_flag_release(&shared.flag);
    }
    return NULL;
}

static void test_flag(void) {
    pthread_t one, two;
    CHECK(pthread_create(&one, NULL, take_turns, NULL) == 0);
    CHECK(pthread_create(&two, NULL, take_turns, NULL) == 0);
    CHECK(pthread_join(one, NULL) == 0 && pthread_join(two, NULL) == 0);
    CHECK(shared.n_turns == 2L * N_TURNS);
}

int main(void) {
    for (size_t capacity = 2; capacity <= 64; capacity *= 2)
        test_ring(capacity);
    test_flag();
    puts("threads: ok");
    return 0;
}
