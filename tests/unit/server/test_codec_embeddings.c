/* The encodings of a vector. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_embeddings.h"
#include "tests/lib/failmalloc.h"

static void check(const float *values, size_t n, bool base64, const char *want) {
    struct l4_buf out = {0};
    embeddings_put_one(&out, 3, values, n, base64);
    assert_false(out.failed);
    assert_string_equal(out.data, want);
    l4_buf_free(&out);
}

/* Each of the three ways in which base64 ends. */
static void numbers_and_base64(void **state) {
    (void)state;
    static const float values[] = {1, -0.5F, 0.1F, 2, 0};
    check(values, 0, true, "{\"object\":\"embedding\",\"index\":3,\"embedding\":\"\"}");
    check(values, 1, true, "{\"object\":\"embedding\",\"index\":3,\"embedding\":\"AACAPw==\"}");
    check(values, 2, true, "{\"object\":\"embedding\",\"index\":3,\"embedding\":\"AACAPwAAAL8=\"}");
    check(values, 3, true, "{\"object\":\"embedding\",\"index\":3,\"embedding\":\"AACAPwAAAL/NzMw9\"}");
    check(values, 5, true, "{\"object\":\"embedding\",\"index\":3,\"embedding\":\"AACAPwAAAL/NzMw9AAAAQAAAAAA=\"}");
    check(values, 3, false, "{\"object\":\"embedding\",\"index\":3,\"embedding\":[1,-0.5,0.100000001]}");
}

static void any_allocation_may_fail(void **state) {
    (void)state;
    static const char body[] = "{\"input\":[[1,2],[3]],\"encoding_format\":\"base64\"}";
    static const struct codec_limits limits = {.model_name = "demo", .vocab_size = 2048};
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct embeddings_request request;
        struct codec_err err = {0};
        int rc = embeddings_decode(body, sizeof body - 1, &limits, 16, &request, &err);
        failmalloc_disarm();
        assert_true(rc == 0 || (rc == L4_E_NOMEM && err.status == 503));
        if (rc == 0)
            assert_true(request.base64 && request.n_inputs == 2 && request.inputs[1].ids[0] == 3);
        n_failed += rc != 0;
        embeddings_request_free(&request);
    }
    assert_true(n_failed >= 3); /* the list and each of its inputs, wherever cJSON's own are seen */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_and_base64),
        cmocka_unit_test(any_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
