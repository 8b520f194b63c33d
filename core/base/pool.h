/* The engine's worker threads: the one owner of parallelism.
 *
 * A dispatch costs well under a microsecond while it comes soon after the last one: workers spin briefly for the next,
 * then sleep.  An idle pool uses no CPU. */
#ifndef CORE_BASE_POOL_H
#define CORE_BASE_POOL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/error.h"

struct pool;

/* pool_open - n_threads >= 1 including the caller of pool_for; n_threads - 1 threads are started.
 *   scratch_bytes: private 64-byte aligned storage of each thread.
 *   Errors: L4_E_NOMEM, L4_E_INTERNAL (no more threads). */
int pool_open(struct pool **out, int n_threads, size_t scratch_bytes, struct l4_err *err) L4_MUST_CHECK;
void pool_close(struct pool *pool);

/* pool_pin - thread i runs on hardware thread cpus[i] alone from now on; thread 0 is `caller`, who will call pool_for.
 *   cpus [n_threads].  Returns 0 or an errno value; the threads before the one that failed are pinned then. */
int pool_pin(struct pool *pool, pthread_t caller, const int *cpus) L4_MUST_CHECK;

int pool_n_threads(const struct pool *pool);
/* The scratch of thread 0..n_threads-1; for use inside the work function of that thread. */
void *pool_scratch(const struct pool *pool, int thread);
size_t pool_scratch_bytes(const struct pool *pool);

/* pool_for - work(ctx, item, thread) once for every item in 0..n_items-1, on any thread; returns when all are done: a
 * barrier.  The caller is thread 0.  One caller at a time; not from inside a work function.  Items are taken one by
 * one, in the order of their numbers, from a shared counter: make them some microseconds long. */
void pool_for(struct pool *pool, int n_items, void (*work)(void *ctx, int item, int thread), void *ctx);
/* How often pool_for was called with anything to do. */
uint64_t pool_n_dispatches(const struct pool *pool);

/* ---- inside a work function: instead of a barrier ----
 * An item may wait for what items with lower numbers do: those are done or on a thread already. */

/* pool_wait - returns when the counter has come down to 0; what was written before it was counted down can be read. */
void pool_wait(const atomic_int *left);
/* pool_once - sees to it that work(ctx, i) has run for each i in begin..end-1: does what no thread has begun yet, and
 * waits for the rest.  work must not wait itself.
 *   states [end], of all threads, 0 before the dispatch */
void pool_once(atomic_uchar *states, int64_t begin, int64_t end, void (*work)(void *ctx, int64_t i), void *ctx);

#endif
