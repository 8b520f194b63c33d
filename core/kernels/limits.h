/* What this machine can do at most, measured: the yardstick for kernels. */
#ifndef CORE_KERNELS_LIMITS_H
#define CORE_KERNELS_LIMITS_H

#include "core/base/pool.h"
#include "llama4/bench.h"

struct limits_meter;

/* limits_open - allocates and touches the buffer that is read: 8 times the last cache within 256 MiB and 4 GiB, never
 * more than a sixteenth of the memory that is available.  pool is borrowed until close.      Errors: L4_E_NOMEM. */
int limits_open(struct limits_meter **out, struct pool *pool, struct l4_err *err) L4_MUST_CHECK;
void limits_close(struct limits_meter *meter); /* NULL is allowed */

/* limits_measure - on all threads of the pool, one limit after the other. */
void limits_measure(struct limits_meter *meter, struct l4_bench_limits *limits);

/* The arithmetic limits: the loops for one kind that this processor can run, best first; NULL past the last. */
enum peak_kind { PEAK_INT8, PEAK_BF16, PEAK_F32, N_PEAK_KINDS };
struct peak_loop {
    enum peak_kind kind;
    const char *name;  /* the instruction */
    int ops_per_round; /* multiplications and additions */
    double product;    /* of every multiplication */
    /* registers only; independent sums, enough to hide the latency.  Returns the sum of all products. */
    double (*run)(int64_t n_rounds);
};
const struct peak_loop *peak_loop_at(enum peak_kind kind, int i);

#endif
