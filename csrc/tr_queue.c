#include "tr_queue.h"

#include <stdint.h>
#include <stdlib.h>

struct lane {
    size_t first, n_jobs; /* ring of waiting jobs */
    bool running;
    bool ready; /* listed in queue->ready */
};

struct tr_queue {
    size_t n_lanes, capacity;
    struct lane *lanes;
    void **jobs; /* n_lanes rings of `capacity` */
    /* Lanes that have a job and run none, in the order of their turn. Each at most once, so n_lanes places are enough. */
    size_t *ready;
    size_t first_ready, n_ready;
    size_t depth;
};

struct tr_queue *tr_queue_new(size_t n_lanes, size_t capacity) {
    if (n_lanes == 0 || capacity == 0 || capacity > SIZE_MAX / sizeof(void *) / n_lanes) return NULL;
    struct tr_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) return NULL;
    queue->n_lanes = n_lanes;
    queue->capacity = capacity;
    queue->lanes = calloc(n_lanes, sizeof *queue->lanes);
    queue->jobs = calloc(n_lanes * capacity, sizeof *queue->jobs);
    queue->ready = calloc(n_lanes, sizeof *queue->ready);
    if (queue->lanes == NULL || queue->jobs == NULL || queue->ready == NULL) {
        tr_queue_free(queue);
        return NULL;
    }
    return queue;
}

void tr_queue_free(struct tr_queue *queue) {
    if (queue == NULL) return;
    free(queue->lanes);
    free(queue->jobs);
    free(queue->ready);
    free(queue);
}

/* List the lane when it may run and is not listed. True when it was listed by this. */
static bool make_ready(struct tr_queue *queue, size_t lane) {
    struct lane *l = &queue->lanes[lane];
    if (l->running || l->ready || l->n_jobs == 0) return false;
    l->ready = true;
    queue->ready[(queue->first_ready + queue->n_ready++) % queue->n_lanes] = lane;
    return true;
}

static void *pop(struct tr_queue *queue, size_t lane) {
    struct lane *l = &queue->lanes[lane];
    void *job = queue->jobs[lane * queue->capacity + l->first];
    l->first = (l->first + 1) % queue->capacity;
    l->n_jobs--;
    queue->depth--;
    return job;
}

enum tr_status tr_queue_try_put(struct tr_queue *queue, size_t lane, void *job) {
    struct lane *l = &queue->lanes[lane];
    if (l->n_jobs == queue->capacity) return TR_EFULL;
    queue->jobs[lane * queue->capacity + (l->first + l->n_jobs) % queue->capacity] = job;
    l->n_jobs++;
    queue->depth++;
    (void)make_ready(queue, lane);
    return TR_OK;
}

void *tr_queue_take(struct tr_queue *queue) {
    while (queue->n_ready > 0) {
        const size_t lane = queue->ready[queue->first_ready];
        queue->first_ready = (queue->first_ready + 1) % queue->n_lanes;
        queue->n_ready--;
        queue->lanes[lane].ready = false;
        if (queue->lanes[lane].n_jobs == 0) continue; /* its jobs were dropped meanwhile */
        queue->lanes[lane].running = true;
        return pop(queue, lane);
    }
    return NULL;
}

bool tr_queue_done(struct tr_queue *queue, size_t lane) {
    queue->lanes[lane].running = false;
    return make_ready(queue, lane);
}

void *tr_queue_drop(struct tr_queue *queue, size_t lane) {
    return queue->lanes[lane].n_jobs > 0 ? pop(queue, lane) : NULL;
}

size_t tr_queue_depth(const struct tr_queue *queue) { return queue->depth; }
