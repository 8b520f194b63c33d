/* build/golden - compares the engine with reference outputs.  One subcommand a file: golden_<name>.c and a row in the
 * table of golden.c.  A subcommand prints one line a kind of check and returns 0 when everything matched, 1 otherwise.
 */
#ifndef TESTS_GOLDEN_GOLDEN_H
#define TESTS_GOLDEN_GOLDEN_H

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>

/* A subcommand is int golden_<name>(int argc, char **argv), declared here; argv[0] is the subcommand's name.  Return
 * GOLDEN_USAGE to have the usage line printed (exit status 2). */
enum { GOLDEN_OK = 0, GOLDEN_MISMATCH = 1, GOLDEN_USAGE = 2 };

int golden_model(int argc, char **argv);
int golden_experts(int argc, char **argv);
int golden_variants(int argc, char **argv);
int golden_text(int argc, char **argv);
int golden_generate(int argc, char **argv);
int golden_sampler(int argc, char **argv);
int golden_pretokenize(int argc, char **argv);
int golden_gguf_types(int argc, char **argv);

/* golden_read_file - the whole file, malloc'ed, with a NUL after its last byte; exits with a message when it cannot be
 * read. */
char *golden_read_file(const char *path, size_t *len_bytes);

/* golden_read_json - parse a JSON file; exits with a message when it cannot be read.  Free with cJSON_Delete. */
cJSON *golden_read_json(const char *path);

/* golden_report - print "kind: matched of total match"; true when all do and there was something to compare. */
bool golden_report(const char *kind, size_t matched, size_t total);

/* golden_fail - print a message to stderr and exit with status 1: for data that is not of the form expected. */
_Noreturn void golden_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
