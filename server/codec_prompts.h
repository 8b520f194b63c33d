/* What OpenAI's endpoints take in place of a chat: a string, an array of strings, an array of token ids, or an array of
 * such arrays.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_PROMPTS_H
#define SERVER_CODEC_PROMPTS_H

#include "server/codec_json.h"

/* Text, or ids where text.data is NULL. */
struct codec_prompt {
    struct l4_text text; /* borrowed from the body's tree */
    int32_t *ids;        /* owned */
    size_t n_ids;
};

/* prompts_decode - the member `name` of root.  *prompts are the caller's, to be freed with prompts_free whatever comes
 * back; set them to none before.
 *   Errors: L4_E_INVALID (missing, of another form, empty, or ids outside 0..vocab_size - 1), L4_E_NOMEM. */
int prompts_decode(const cJSON *root, const char *name, int32_t vocab_size, struct codec_prompt **prompts,
                   size_t *n_prompts, struct codec_err *err) L4_MUST_CHECK;
void prompts_free(struct codec_prompt *prompts, size_t n_prompts);

/* prompts_decode_ids - the token ids in an array, which may be none; *ids is the caller's whatever comes back.
 *   Errors: L4_E_INVALID (param is the place within the array: "[3]"), L4_E_NOMEM. */
int prompts_decode_ids(const cJSON *array, int32_t vocab_size, int32_t **ids, size_t *n_ids,
                       struct codec_err *err) L4_MUST_CHECK;

#endif
