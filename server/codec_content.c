#include "server/codec_content.h"

#include <string.h>

static int refuse_type(struct codec_err *err, const char *type, const char *wanted) {
    static const char *const known[][2] = {
        {"image_url", "images"}, {"input_image", "images"}, {"file", "files"}, {"input_file", "files"}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(type, known[i][0]) == 0)
            return codec_fail(err, "type", "%s are not served: content parts must be of type '%s'", known[i][1],
                              wanted);
    return codec_fail(err, "type", "content parts must be of type '%s', not '%.40s'", wanted, type);
}

static int decode_part(const cJSON *part, const struct content_part_type *types, struct l4_text *text,
                       struct codec_err *err) {
    const char *wanted = types->type;
    struct l4_text type = {0};
    int rc;
    if (!cJSON_IsObject(part))
        return codec_fail(err, "", "a content part must be an object, not %s", codec_kind(part));
    if ((rc = codec_get_text(part, "type", &type, err)))
        return rc;
    if (!type.data)
        return codec_fail(err, "type", "the 'type' of a content part is missing");
    while (types->type && strcmp(type.data, types->type) != 0)
        types++;
    if (!types->type)
        return refuse_type(err, type.data, wanted);
    if ((rc = codec_get_text(part, types->field, text, err)))
        return rc;
    return text->data ? 0 : codec_fail(err, types->field, "the '%s' of a content part is missing", types->field);
}

static int join_parts(const cJSON *content, const char *name, const struct content_part_type *types,
                      struct l4_buf *joined, struct codec_err *err) {
    const cJSON *part;
    int n = 0;
    cJSON_ArrayForEach(part, content) {
        struct l4_text text = {0};
        if (decode_part(part, types, &text, err))
            return codec_within(err, "%s[%d]", name, n);
        l4_buf_append(joined, text.data, text.len_bytes);
        n++;
    }
    if (n == 0)
        return codec_fail(err, name, "'%s' must not be an empty array", name);
    return joined->failed ? codec_no_memory(err) : 0;
}

int content_decode(const cJSON *message, const char *name, const struct content_part_type *types, struct l4_buf *joined,
                   struct l4_text *text, struct codec_err *err) {
    const cJSON *content = codec_get(message, name);
    if (cJSON_IsArray(content)) {
        int rc = join_parts(content, name, types, joined, err);
        if (rc == 0)
            *text = (struct l4_text){joined->data, joined->len};
        return rc;
    }
    if (cJSON_IsString(content))
        *text = codec_text(content);
    else if (content)
        return codec_fail(err, name, "'%s' must be a string or an array of parts, not %s", name, codec_kind(content));
    return 0;
}
