/* `llama4d bench`: what a checkpoint reaches on this machine, beside what the machine could do. */
#ifndef SERVER_CMD_BENCH_H
#define SERVER_CMD_BENCH_H

#include <stdio.h>

/* bench_print_help - the arguments. */
void bench_print_help(FILE *out);

/* cmd_bench - argv[0] is the first argument after "bench".  The report goes to stdout, the rest to stderr.
 *   Returns the exit status: 0, 1 = could not run, 2 = wrong arguments. */
int cmd_bench(int argc, char **argv);

#endif
