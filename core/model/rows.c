#include "core/model/rows.h"

/* Below this a dispatch costs more than a second thread saves. */
enum { MIN_PARALLEL_COST = 16384, PIECES_PER_THREAD = 4 };

struct pieces {
    void (*work)(void *ctx, int64_t begin, int64_t end);
    void *ctx;
    int64_t n_rows;
    int n_pieces;
};

static void run_piece(void *ctx, int item, int thread) {
    const struct pieces *p = ctx;
    (void)thread;
    p->work(p->ctx, p->n_rows * item / p->n_pieces, p->n_rows * (item + 1) / p->n_pieces);
}

void rows_for(const struct exec *exec, int64_t n_rows, int64_t row_cost,
              void (*work)(void *ctx, int64_t begin, int64_t end), void *ctx) {
    int n_threads = pool_n_threads(exec->pool);
    if (n_threads == 1 || n_rows < 2 || n_rows * row_cost < MIN_PARALLEL_COST) {
        work(ctx, 0, n_rows);
        return;
    }
    int n_pieces = PIECES_PER_THREAD * n_threads;
    struct pieces pieces = {work, ctx, n_rows, n_rows < n_pieces ? (int)n_rows : n_pieces};
    pool_for(exec->pool, pieces.n_pieces, run_piece, &pieces);
}
