/* POST /v1/embeddings: request JSON to a struct, vectors to answer JSON.  Pure functions.  Thread: any. */
#ifndef SERVER_CODEC_EMBEDDINGS_H
#define SERVER_CODEC_EMBEDDINGS_H

#include "server/codec_params.h"
#include "server/codec_prompts.h"

enum { EMBEDDINGS_MAX_INPUTS = 2048 };

struct embeddings_request {
    struct codec_body body;
    struct codec_prompt *inputs;
    size_t n_inputs;
    bool base64; /* of little-endian floats, in place of numbers */
};

/* embeddings_decode - text [len_bytes] is borrowed and must outlive *request; hidden_size is the one number that
 * `dimensions` may be.  Free with embeddings_request_free whatever comes back.
 *   Errors: L4_E_INVALID (a model that is not served is a 404), L4_E_NOMEM; *err filled. */
int embeddings_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, int32_t hidden_size,
                      struct embeddings_request *request, struct codec_err *err) L4_MUST_CHECK;
void embeddings_request_free(struct embeddings_request *request);

/* A vector's object in the answer's data. */
void embeddings_put_one(struct l4_buf *out, size_t index, const float *values, size_t n_values, bool base64);

#endif
