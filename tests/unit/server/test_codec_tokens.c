/* /tokenize and /detokenize: what is read, what is written, and what happens when memory runs out. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_tokens.h"
#include "tests/lib/failmalloc.h"

static const struct codec_limits limits = {.model_name = "demo", .vocab_size = 2048};

static void what_a_request_says(void **state) {
    (void)state;
    static const char plain[] = "{\"text\":\"Hi\"}";
    static const char full[] = "{\"content\":\"\",\"add_special\":true,\"add_special_tokens\":false,"
                               "\"parse_special\":false,\"with_pieces\":true,\"model\":\"demo\"}";
    static const char chat[] = "{\"messages\":[],\"with_pieces\":true}";
    struct tokenize_request request;
    struct codec_err err;
    assert_int_equal(tokenize_decode(plain, sizeof plain - 1, &limits, &request, &err), 0);
    assert_string_equal(request.text.data, "Hi");
    assert_true(request.parse_special && !request.add_special && !request.with_pieces && !request.is_chat);
    tokenize_request_free(&request);
    assert_int_equal(tokenize_decode(full, sizeof full - 1, &limits, &request, &err), 0);
    assert_int_equal(request.text.len_bytes, 0);
    assert_true(!request.parse_special && request.add_special && request.with_pieces);
    tokenize_request_free(&request);
    assert_int_equal(tokenize_decode(chat, sizeof chat - 1, &limits, &request, &err), 0);
    assert_true(request.is_chat && request.with_pieces && !request.text.data);
    tokenize_request_free(&request);
}

static void answers(void **state) {
    (void)state;
    struct l4_tokenizer *tokenizer;
    struct l4_tokens tokens = {0};
    struct l4_buf out = {0};
    struct l4_err err;
    assert_int_equal(l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", &err), 0);
    tokenize_put(&out, tokenizer, &tokens, true, 64);
    assert_string_equal(out.data, "{\"count\":0,\"max_model_len\":64,\"tokens\":[]}");
    l4_buf_clear(&out);
    assert_int_equal(l4_encode(tokenizer, "\"\xe4\xbd\xa0", 4, 0, &tokens, &err), 0); /* of the demo's, bytes */
    assert_int_equal(tokens.len, 4);
    tokenize_put(&out, tokenizer, &tokens, false, 64);
    char want[256];
    snprintf(want, sizeof want, "{\"count\":4,\"max_model_len\":64,\"tokens\":[%d,%d,%d,%d]}", tokens.ids[0],
             tokens.ids[1], tokens.ids[2], tokens.ids[3]);
    assert_string_equal(out.data, want);
    l4_buf_clear(&out);
    tokenize_put(&out, tokenizer, &tokens, true, 64);
    snprintf(want, sizeof want,
             "{\"count\":4,\"max_model_len\":64,\"tokens\":[{\"id\":%d,\"piece\":\"\\\"\"},{\"id\":%d,\"piece\":[228]},"
             "{\"id\":%d,\"piece\":[189]},{\"id\":%d,\"piece\":[160]}]}",
             tokens.ids[0], tokens.ids[1], tokens.ids[2], tokens.ids[3]);
    assert_string_equal(out.data, want);
    l4_buf_clear(&out);
    detokenize_put(&out, tokenizer, tokens.ids, 3); /* the character is not whole */
    assert_string_equal(out.data, "{\"content\":\"\\\"\xef\xbf\xbd\",\"prompt\":\"\\\"\xef\xbf\xbd\"}");
    l4_buf_free(&out);
    l4_tokens_free(&tokens);
    l4_tokenizer_close(tokenizer);
}

static void any_allocation_may_fail(void **state) {
    (void)state;
    static const char body[] = "{\"content\":\"Hi\",\"tokens\":[1,2047]}";
    int n_failed = 0;
    FAILMALLOC_EACH(n) {
        struct tokenize_request request;
        struct codec_err err = {0};
        int rc = tokenize_decode(body, sizeof body - 1, &limits, &request, &err);
        failmalloc_disarm();
        assert_true(rc == 0 || (rc == L4_E_NOMEM && err.status == 503));
        tokenize_request_free(&request);
    }
    FAILMALLOC_EACH(n) {
        struct codec_err err = {0};
        int32_t *ids;
        size_t n_ids = 0;
        int rc = detokenize_decode(body, sizeof body - 1, &limits, &ids, &n_ids, &err);
        failmalloc_disarm();
        assert_true(rc == 0 || (rc == L4_E_NOMEM && err.status == 503));
        if (rc == 0)
            assert_true(n_ids == 2 && ids[0] == 1 && ids[1] == 2047);
        n_failed += rc != 0;
        free(ids);
    }
    assert_true(n_failed >= 1); /* the ids, wherever cJSON's own are seen */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_request_says),
        cmocka_unit_test(answers),
        cmocka_unit_test(any_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
