/* Any bytes as GBNF, and as a JSON schema: refused with a message, or a grammar whose masks can be followed to their
 * end, each token that they allow being accepted. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/grammar/mask.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char bytes[256];

static const char *token_text(const void *ctx, int32_t id, size_t *len_bytes) {
    (void)ctx;
    *len_bytes = id < 256 ? 1 : (size_t)(id - 254);
    return id < 256 ? &bytes[id] : &bytes['a'];
}

#define require(what) ((what) ? (void)0 : (fprintf(stderr, "not so: %s\n", #what), abort()))

/* The walk takes the lowest and the highest token in turns. */
static void follow(struct l4_grammar *grammar, const struct trie_vocab *vocab) {
    struct grammar_masks *masks;
    struct grammar_matcher *m;
    struct grammar_mask mask;
    struct l4_err err;
    require(grammar_masks_open(&masks, vocab) == 0 && grammar_matcher_open(&m, masks, grammar) == 0);
    for (int step = 0; step < 12; step++) {
        int32_t id = -1;
        size_t len_bytes;
        int rc = grammar_matcher_mask(m, &mask, &err);
        if (rc) {
            require(rc == L4_E_INVALID);
            break;
        }
        require(mask.may_end || mask.n_allowed > 0);
        for (int32_t i = 0; i < vocab->vocab_size && (id < 0 || step % 2); i++)
            if (mask.bits[i / 64] >> i % 64 & 1)
                id = i;
        if (id < 0)
            break;
        const char *text = token_text(NULL, id, &len_bytes);
        require(grammar_matcher_accept(m, text, len_bytes, &err) == 0);
    }
    grammar_matcher_close(m);
    grammar_masks_close(masks);
}

static void compile(const char *text, size_t len_bytes, const struct trie_vocab *vocab) {
    struct l4_grammar *grammar;
    struct l4_err err = {0};
    int rc = l4_grammar_open(&grammar, text, len_bytes, &err);
    require(rc == 0 || (rc == L4_E_INVALID && err.message[0]));
    if (rc == 0)
        follow(grammar, vocab);
    l4_grammar_close(grammar);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct l4_buf gbnf = {0};
    struct l4_err err = {0};
    struct trie_vocab *vocab;
    for (int i = 0; i < 256; i++)
        bytes[i] = (char)i;
    require(trie_open(&vocab, 264, token_text, NULL) == 0);
    compile((const char *)data, size, vocab);
    int rc = l4_grammar_from_schema((const char *)data, size, &gbnf, &err);
    require(rc == 0 || (rc == L4_E_INVALID && err.message[0]));
    if (rc == 0)
        compile(gbnf.data, gbnf.len, vocab);
    l4_buf_free(&gbnf);
    trie_close(vocab);
    return 0;
}
