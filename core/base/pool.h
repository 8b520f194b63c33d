/* The engine's worker threads: the one owner of parallelism.
 *
 * A dispatch costs well under a microsecond while it comes soon after the last one: workers spin briefly for the next,
 * then sleep.  An idle pool uses no CPU. */
#ifndef CORE_BASE_POOL_H
#define CORE_BASE_POOL_H

#include <pthread.h>
#include <stddef.h>

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

/* pool_for - work(ctx, item, thread) once for every item in 0..n_items-1, in any order, on any thread; returns when all
 * are done.  The caller is thread 0.  One caller at a time; not from inside a work function.  Items are taken one by
 * one from a shared counter: make them some microseconds long. */
void pool_for(struct pool *pool, int n_items, void (*work)(void *ctx, int item, int thread), void *ctx);

#endif
