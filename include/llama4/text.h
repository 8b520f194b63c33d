/* Text in, text out: tokenizer, streaming detokenizer, chat template.
 *
 * A tokenizer is immutable once open and may be used from any thread.  Every other object here belongs to one thread
 * at a time.  Text is UTF-8; where input is not, each function says what happens. */
#ifndef LLAMA4_TEXT_H
#define LLAMA4_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "llama4/buf.h"
#include "llama4/error.h"

struct l4_tokenizer;

/* All zero is an empty list. */
struct l4_tokens {
    int32_t *ids;
    size_t len;
    size_t cap;
};
void l4_tokens_free(struct l4_tokens *tokens);
int l4_tokens_push(struct l4_tokens *tokens, int32_t id) L4_MUST_CHECK; /* 0 or L4_E_NOMEM */

/* l4_tokenizer_open - read a Hugging Face tokenizer.json, or the tokenizer in the metadata of a GGUF file.
 *   Errors: L4_E_IO, L4_E_FORMAT (names the file and the field), L4_E_UNSUPPORTED (a component other than byte-level
 * BPE), L4_E_NOMEM.  Free with l4_tokenizer_close (NULL is allowed). */
int l4_tokenizer_open(struct l4_tokenizer **out, const char *path, struct l4_err *err) L4_MUST_CHECK;
void l4_tokenizer_close(struct l4_tokenizer *tokenizer);

/* Number of ids: largest id + 1; ids in the gaps have no bytes. */
int32_t l4_tokenizer_vocab_size(const struct l4_tokenizer *tokenizer);
/* The id of a token given by its exact text ("<|eot|>"), added tokens first; -1 if there is none. */
int32_t l4_tokenizer_find(const struct l4_tokenizer *tokenizer, const char *text);
/* The id that starts every prompt, -1 if the file names none. */
int32_t l4_tokenizer_bos(const struct l4_tokenizer *tokenizer);
/* The bytes that a token stands for (for a special token its text); borrowed, not terminated; NULL for an id outside.
 */
const char *l4_tokenizer_bytes(const struct l4_tokenizer *tokenizer, int32_t id, size_t *len_bytes);
/* True for ids that never appear in visible text. */
bool l4_tokenizer_is_special(const struct l4_tokenizer *tokenizer, int32_t id);

enum {
    L4_ENCODE_BOS = 1,     /* begin with begin_of_text, unless the result begins with it anyway */
    L4_ENCODE_SPECIAL = 2, /* the text of a special token becomes that token; without it, it is ordinary text */
};

/* l4_encode - append the ids of text [len_bytes] to *tokens.
 *   Invalid UTF-8 bytes are taken as U+FFFD, as Python's errors="replace" does.  NUL is an ordinary character.
 *   Time is n log n in the longest word; the stack does not grow with the input.
 *   Errors: L4_E_NOMEM, L4_E_INTERNAL (the regex engine gave up); *tokens keeps what it held before.
 *   Source: tokenizer.json semantics of Hugging Face tokenizers (Split isolated, ByteLevel, BPE, ignore_merges). */
int l4_encode(const struct l4_tokenizer *tokenizer, const char *text, size_t len_bytes, unsigned flags,
              struct l4_tokens *tokens, struct l4_err *err) L4_MUST_CHECK;

/* A streaming detokenizer: bytes of tokens in, whole UTF-8 characters out.  Caller's storage, no allocation. */
struct l4_detok {
    const struct l4_tokenizer *tokenizer;
    bool show_special; /* special tokens are written out instead of dropped */
    unsigned char held[4];
    unsigned n_held;
};
void l4_detok_init(struct l4_detok *detok, const struct l4_tokenizer *tokenizer, bool show_special);
/* l4_detok_push - append the text that id completes; bytes that may still become a character are held back, bytes that
 * cannot are written as U+FFFD.  Out-of-vocabulary ids add nothing. */
void l4_detok_push(struct l4_detok *detok, int32_t id, struct l4_buf *out);
/* l4_detok_finish - what is still held is written as U+FFFD. */
void l4_detok_finish(struct l4_detok *detok, struct l4_buf *out);

/* ---- chat template ------------------------------------------------------------------------------------------------
 */

/* Text fields are borrowed, NUL-terminated UTF-8 with an explicit length (a NUL inside is an ordinary character). */
struct l4_text {
    const char *data;
    size_t len_bytes;
};

struct l4_tool_call {
    struct l4_text name;
    struct l4_text arguments_json; /* any JSON value as text; written again as Python's json.dumps writes it */
};

/* role: "system", "user", "assistant", "tool" or "ipython"; others pass through as they are. */
struct l4_message {
    const char *role;
    struct l4_text content;      /* text parts already joined */
    const size_t *image_offsets; /* where in content an image stands, ascending; bytes of content before it */
    size_t n_images;
    const struct l4_tool_call *tool_calls;
    size_t n_tool_calls;
};

struct l4_chat {
    const struct l4_message *messages;
    size_t n_messages;
    const struct l4_text *tools_json; /* one JSON object each, in the order given */
    size_t n_tools;
    bool add_generation_prompt;
    bool continue_final_message; /* leave the last assistant turn open: no <|eot|>, no new header whatever the above */
};

/* l4_chat_encode - the prompt of a chat as token ids and, where text is not NULL, as text; both are appended to.
 *   Template markers become special tokens; the same characters inside message content stay ordinary text.  Invalid
 *   UTF-8 is taken as in l4_encode.  With tools the first turn after the system message carries them as a user turn.
 *   Errors: L4_E_INVALID (message names the message or tool: not JSON, tools without a turn to sit in, an image in a
 *   tool result, a last message to continue that is not the assistant's), L4_E_NOMEM, L4_E_UNSUPPORTED (the vocabulary
 *   lacks a marker); *tokens and *text keep what they held before.
 *   Source: the Llama 4 chat template. */
int l4_chat_encode(const struct l4_tokenizer *tokenizer, const struct l4_chat *chat, struct l4_tokens *tokens,
                   struct l4_buf *text, struct l4_err *err) L4_MUST_CHECK;

/* l4_json_python - rewrite a JSON text as Python's json.dumps(json.loads(text), ensure_ascii=False, indent=indent)
 * would, appended to *out.  indent 0 = one line with ", " and ": ".  Whole numbers keep their digits, of equal keys
 * the last value counts.
 *   Errors: L4_E_INVALID (byte offset and reason; nesting deeper than 512, NaN, Infinity and numbers that overflow,
 *   half surrogate pairs, whole numbers of more than 4300 digits), L4_E_NOMEM. */
int l4_json_python(const char *json, size_t len_bytes, int indent, struct l4_buf *out,
                   struct l4_err *err) L4_MUST_CHECK;

#endif
