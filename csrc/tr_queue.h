/* tr_queue.h - bounded job queue with one lane per stream, and the fair choice of who is next.
 * Order   : FIFO within a lane; a lane has at most one job running, so its results come in order. Between lanes round robin:
 *           a lane that has had its turn goes behind every lane that waits.
 * Threads : none of its own and no lock: the owner's lock guards every call.
 * Memory  : all of it taken at new(); jobs are borrowed pointers. */
#ifndef TR_QUEUE_H
#define TR_QUEUE_H

#include <stdbool.h>
#include <stddef.h>

#include "tr_status.h"

struct tr_queue;

/* capacity: jobs that may wait in one lane, the running one not counted. NULL when memory is short or a size is 0. */
struct tr_queue *tr_queue_new(size_t n_lanes, size_t capacity);
void tr_queue_free(struct tr_queue *queue);

/* Append to a lane. TR_EFULL when `capacity` jobs wait there: the queue never grows and the caller never waits. */
enum tr_status tr_queue_try_put(struct tr_queue *queue, size_t lane, void *job);

/* Take the next job; its lane runs nothing else until done(). NULL when no lane may run. */
void *tr_queue_take(struct tr_queue *queue);

/* The job that take() gave for this lane has ended. True when a job has become ready to take by that. */
bool tr_queue_done(struct tr_queue *queue, size_t lane);

/* Remove the oldest waiting job of a lane; NULL when none waits. The running one is not touched. */
void *tr_queue_drop(struct tr_queue *queue, size_t lane);

/* Jobs that wait, over all lanes. */
size_t tr_queue_depth(const struct tr_queue *queue);

#endif
