/* Splitting text into words by the tokenizer's regular expression (the Split pre-tokenizer, behaviour "isolated"):
 * every match is a piece, and what lies between two matches is one too. */
#ifndef CORE_TEXT_PRETOKENIZE_H
#define CORE_TEXT_PRETOKENIZE_H

#include <stddef.h>

#include "llama4/error.h"

/* Immutable once open; any thread. */
struct pretokenizer;

/* pretokenizer_open - compile a regular expression in Oniguruma's syntax, as tokenizer.json has it.
 *   Errors: L4_E_FORMAT (does not compile; the message says where), L4_E_UNSUPPORTED (can match the empty string),
 *   L4_E_NOMEM.  Free with pretokenizer_close (NULL is allowed). */
int pretokenizer_open(struct pretokenizer **out, const char *pattern, size_t len_bytes,
                      struct l4_err *err) L4_MUST_CHECK;
void pretokenizer_close(struct pretokenizer *pretokenizer);

/* What one thread needs to split texts.  All zero is not open. */
struct pretoken_scan {
    const struct pretokenizer *pretokenizer;
    struct pcre2_real_match_data_8 *match;
    struct pcre2_real_match_context_8 *context;
    struct pcre2_real_jit_stack_8 *jit_stack; /* made when the 32 KiB of the thread's stack do not do */
    const char *text;
    size_t len_bytes;
    size_t piece_end;              /* up to here pieces were handed out */
    size_t match_start, match_end; /* a match found but not handed out yet; empty when there is none */
};

int pretoken_scan_init(struct pretoken_scan *scan, const struct pretokenizer *pretokenizer,
                       struct l4_err *err) L4_MUST_CHECK;
void pretoken_scan_fini(struct pretoken_scan *scan);

/* pretoken_scan_begin - start on a text of valid UTF-8, borrowed until the last piece was taken. */
void pretoken_scan_begin(struct pretoken_scan *scan, const char *text, size_t len_bytes);

/* pretoken_scan_next - the next piece, never empty: 1 and its place, or 0 at the end.
 *   Errors: L4_E_NOMEM, L4_E_INTERNAL (the regular expression takes more steps than is sane for the text's length). */
int pretoken_scan_next(struct pretoken_scan *scan, size_t *start, size_t *end, struct l4_err *err) L4_MUST_CHECK;

#endif
