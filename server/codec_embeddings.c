#include "server/codec_embeddings.h"

#include <endian.h>
#include <string.h>

static int decode_format(const cJSON *root, struct embeddings_request *request, struct codec_err *err) {
    struct l4_text format = {"float", 5};
    int rc = codec_get_text(root, "encoding_format", &format, err);
    if (rc)
        return rc;
    request->base64 = strcmp(format.data, "base64") == 0;
    if (request->base64 || strcmp(format.data, "float") == 0)
        return 0;
    return codec_fail(err, "encoding_format", "'encoding_format' must be 'float' or 'base64', not '%.40s'",
                      format.data);
}

static int check_dimensions(const cJSON *root, int32_t hidden_size, struct codec_err *err) {
    int64_t n = hidden_size;
    int rc = codec_get_int(root, "dimensions", 1, INT32_MAX, &n, err);
    if (rc || n == hidden_size)
        return rc;
    return codec_fail(err, "dimensions", "'dimensions' must be %d, which this model's embeddings have, not %lld",
                      (int)hidden_size, (long long)n);
}

static int check_inputs(const struct embeddings_request *request, struct codec_err *err) {
    if (request->n_inputs > EMBEDDINGS_MAX_INPUTS)
        return codec_fail(err, "input", "'input' holds %zu inputs, %d are allowed", request->n_inputs,
                          EMBEDDINGS_MAX_INPUTS);
    for (size_t i = 0; i < request->n_inputs; i++)
        if (request->inputs[i].text.data && request->inputs[i].text.len_bytes == 0) {
            codec_fail(err, "", "an input must not be an empty string");
            return request->n_inputs > 1 ? codec_within(err, "input[%zu]", i) : codec_within(err, "input");
        }
    return 0;
}

int embeddings_decode(const char *text, size_t len_bytes, const struct codec_limits *limits, int32_t hidden_size,
                      struct embeddings_request *request, struct codec_err *err) {
    struct l4_text user;
    int rc;
    *request = (struct embeddings_request){0};
    if ((rc = codec_body_parse(&request->body, text, len_bytes, err)))
        return rc;
    const cJSON *root = request->body.root;
    if ((rc = params_check_model(root, limits, err)) || (rc = decode_format(root, request, err)) ||
        (rc = check_dimensions(root, hidden_size, err)) || (rc = codec_get_text(root, "user", &user, err)) ||
        (rc = prompts_decode(root, "input", limits->vocab_size, &request->inputs, &request->n_inputs, err)))
        return rc;
    return check_inputs(request, err);
}

void embeddings_request_free(struct embeddings_request *request) {
    prompts_free(request->inputs, request->n_inputs);
    codec_body_free(&request->body);
    *request = (struct embeddings_request){0};
}

/* Three bytes become four characters; of the last three, n count. */
static void put_base64_group(char out[4], const unsigned char in[3], size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out[0] = digits[in[0] >> 2];
    out[1] = digits[(in[0] & 3) << 4 | in[1] >> 4];
    out[2] = n > 1 ? digits[(in[1] & 15) << 2 | in[2] >> 6] : '=';
    out[3] = n > 2 ? digits[in[2] & 63] : '=';
}

static void put_base64(struct l4_buf *out, const float *values, size_t n_values) {
    l4_buf_append(out, "\"", 1);
    for (size_t done = 0; done < n_values; done += 3) { /* 12 bytes are 16 characters */
        const size_t n_bytes = (n_values - done < 3 ? n_values - done : 3) * sizeof(uint32_t);
        unsigned char bytes[12] = {0};
        char text[16];
        for (size_t i = 0; i < n_bytes; i += sizeof(uint32_t)) {
            uint32_t word;
            memcpy(&word, &values[done + i / sizeof word], sizeof word);
            word = htole32(word);
            memcpy(bytes + i, &word, sizeof word);
        }
        size_t n_chars = 0;
        for (size_t i = 0; i < n_bytes; i += 3, n_chars += 4)
            put_base64_group(text + n_chars, bytes + i, n_bytes - i);
        l4_buf_append(out, text, n_chars);
    }
    l4_buf_append(out, "\"", 1);
}

static void put_floats(struct l4_buf *out, const float *values, size_t n_values) {
    for (size_t i = 0; i < n_values; i++) {
        l4_buf_append(out, i ? "," : "[", 1);
        codec_put_float(out, (double)values[i]);
    }
    l4_buf_append(out, "]", 1);
}

void embeddings_put_one(struct l4_buf *out, size_t index, const float *values, size_t n_values, bool base64) {
    l4_buf_printf(out, "{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", index);
    if (base64)
        put_base64(out, values, n_values);
    else
        put_floats(out, values, n_values);
    l4_buf_append(out, "}", 1);
}
