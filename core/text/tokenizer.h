/* The tokenizer's insides and how a loader fills them: new, add_token..., add_added..., add_merge..., finish.
 * Loaders: tokenizer_json.c, tokenizer_gguf.c. */
#ifndef CORE_TEXT_TOKENIZER_H
#define CORE_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/text/added.h"
#include "core/text/pretokenize.h"
#include "core/text/vocab.h"
#include "llama4/text.h"

/* The regular expression of tokenizer.json of the Llama 4 models; GGUF calls it "llama4" and holds no other. */
extern const char TOKENIZER_LLAMA4_PATTERN[];

struct l4_tokenizer {
    struct vocab vocab;
    struct added added;
    struct pretokenizer *pretokenizer;
    int32_t byte_ids[256]; /* the token of each single byte */
    int32_t bos;           /* -1 = none */
    bool ignore_merges;    /* a word that is a token is taken whole, whatever the merges say */
    bool is_llama4;        /* words are split by TOKENIZER_LLAMA4_PATTERN */
};

int tokenizer_new(struct l4_tokenizer **out, struct l4_err *err) L4_MUST_CHECK;

/* tokenizer_add_token - a token of the vocabulary, spelled in the byte-level alphabet.  Errors: as vocab_add. */
int tokenizer_add_token(struct l4_tokenizer *tokenizer, int64_t id, const char *text, size_t len_bytes,
                        struct l4_err *err) L4_MUST_CHECK;

/* tokenizer_add_added - an added token, spelled as it stands in the text; its id is new, or that of the vocabulary's
 * token of the same text.  After every tokenizer_add_token, before every tokenizer_add_merge.
 *   Errors: as vocab_add and added_insert; L4_E_FORMAT where the id or the text belongs to another token. */
int tokenizer_add_added(struct l4_tokenizer *tokenizer, int64_t id, const char *text, size_t len_bytes, bool special,
                        struct l4_err *err) L4_MUST_CHECK;

/* tokenizer_add_merge - the next merge in order of rank, both parts spelled in the byte-level alphabet.
 *   Errors: as vocab_add_merge. */
int tokenizer_add_merge(struct l4_tokenizer *tokenizer, const char *left, size_t left_bytes, const char *right,
                        size_t right_bytes, struct l4_err *err) L4_MUST_CHECK;

/* tokenizer_finish - the regular expression that splits text into words; nothing is added after this.
 *   Errors: as pretokenizer_open; L4_E_UNSUPPORTED (a byte has no token of its own). */
int tokenizer_finish(struct l4_tokenizer *tokenizer, const char *pattern, size_t len_bytes,
                     struct l4_err *err) L4_MUST_CHECK;

/* The loaders, for l4_tokenizer_open: fill a new tokenizer from a file.  Errors: as l4_tokenizer_open. */
int tokenizer_read_json(struct l4_tokenizer *tokenizer, const char *path, struct l4_err *err) L4_MUST_CHECK;
int tokenizer_read_gguf(struct l4_tokenizer *tokenizer, const char *path, struct l4_err *err) L4_MUST_CHECK;

/* tokenizer.ggml.token_type */
enum {
    TOKENIZER_GGUF_NORMAL = 1,
    TOKENIZER_GGUF_UNKNOWN,
    TOKENIZER_GGUF_CONTROL,
    TOKENIZER_GGUF_USER_DEFINED,
    TOKENIZER_GGUF_UNUSED,
    TOKENIZER_GGUF_BYTE,
};

struct gguf;
/* tokenizer_read_metadata - tokenizer_read_gguf from a file that is open; path is for messages. */
int tokenizer_read_metadata(struct l4_tokenizer *tokenizer, const struct gguf *gguf, const char *path,
                            struct l4_err *err) L4_MUST_CHECK;

struct gguf_writer;
struct model_config;
/* tokenizer_write_gguf - the keys that tokenizer_read_metadata reads, and those that tell other engines where an answer
 * ends: from the tokenizer of a Hugging Face directory, its tokenizer_config.json and its chat template
 * (chat_template.jinja, or the one in tokenizer_config.json), where there are such.  Ids up to the model's vocabulary
 * that have no token are filled up with unused ones.
 *   Errors: L4_E_UNSUPPORTED (GGUF has no word for it), L4_E_INVALID (more ids than the model has), those of reading
 *   the files. */
int tokenizer_write_gguf(const struct l4_tokenizer *tokenizer, const struct model_config *config, const char *dir,
                         struct gguf_writer *writer, struct l4_err *err) L4_MUST_CHECK;

#endif
