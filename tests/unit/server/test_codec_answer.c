/* Log-probabilities in both shapes, and their place in the text: held with it, shown with it, cut with it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/codec_answer.h"
#include "server/logprob_track.h"

static struct l4_tokenizer *tokenizer;

static int open_tokenizer(void **state) {
    (void)state;
    return l4_tokenizer_open(&tokenizer, "tests/models/demo/tokenizer.json", NULL);
}

static int close_tokenizer(void **state) {
    (void)state;
    l4_tokenizer_close(tokenizer);
    return 0;
}

static struct l4_tokens encode(const char *text) {
    struct l4_tokens tokens = {0};
    assert_int_equal(l4_encode(tokenizer, text, strlen(text), 0, &tokens, NULL), 0);
    return tokens;
}

static int32_t id_of(const char *text) {
    int32_t id = l4_tokenizer_find(tokenizer, text);
    assert_true(id >= 0);
    return id;
}

/* The id of a token that is one byte which is no character. */
static int32_t half_character(void) {
    struct l4_tokens tokens = encode("\xe2\x98\x83"); /* a snowman, which no token of the vocabulary is */
    size_t len;
    l4_tokenizer_bytes(tokenizer, tokens.ids[0], &len);
    assert_true(tokens.len >= 2 && len < 3);
    int32_t id = tokens.ids[0];
    l4_tokens_free(&tokens);
    return id;
}

static void assert_list(enum logprobs_shape shape, const struct logprob_list *list, const char *want) {
    struct l4_buf out = {0};
    logprob_list_put(&out, shape, list);
    assert_string_equal(out.data, want);
    l4_buf_free(&out);
}

static void test_both_shapes(void **state) {
    (void)state;
    struct l4_logprob top[] = {{id_of("<|eot|>"), -0.25f}, {id_of("<|eom|>"), -1.5f}};
    struct logprob_entry entry = {.token = {top[1].id, -1.5f}, .top = top, .n_top = 2, .text_offset = 7};
    struct logprob_list list = {0};
    assert_true(logprob_list_is_empty(&list));
    logprob_list_add(&list, LOGPROBS_CHAT, tokenizer, &entry);
    assert_list(LOGPROBS_CHAT, &list,
                "{\"content\":[{\"token\":\"<|eom|>\",\"logprob\":-1.5,\"bytes\":[60,124,101,111,109,124,62],"
                "\"top_logprobs\":[{\"token\":\"<|eot|>\",\"logprob\":-0.25,\"bytes\":[60,124,101,111,116,124,62]},"
                "{\"token\":\"<|eom|>\",\"logprob\":-1.5,\"bytes\":[60,124,101,111,109,124,62]}]}],\"refusal\":null}");
    logprob_list_clear(&list);
    logprob_list_add(&list, LOGPROBS_LEGACY, tokenizer, &entry);
    entry.n_top = 1; /* the token is in the map even where it is not among the best */
    logprob_list_add(&list, LOGPROBS_LEGACY, tokenizer, &entry);
    entry.token.logprob = NAN;
    logprob_list_add(&list, LOGPROBS_LEGACY, tokenizer, &entry);
    assert_list(LOGPROBS_LEGACY, &list,
                "{\"tokens\":[\"<|eom|>\",\"<|eom|>\",\"<|eom|>\"],\"token_logprobs\":[-1.5,-1.5,null],"
                "\"top_logprobs\":[{\"<|eot|>\":-0.25,\"<|eom|>\":-1.5},{\"<|eot|>\":-0.25,\"<|eom|>\":-1.5},null],"
                "\"text_offset\":[7,7,7]}");
    assert_false(logprob_list_is_empty(&list) || logprob_list_failed(&list));
    logprob_list_free(&list);
}

static void test_half_a_character_is_written_as_bytes(void **state) {
    (void)state;
    struct logprob_entry entry = {.token = {half_character(), -1}};
    struct logprob_list list = {0};
    logprob_list_add(&list, LOGPROBS_LEGACY, tokenizer, &entry);
    assert_memory_equal(list.parts[0].data, "\"bytes:\\\\xe2", strlen("\"bytes:\\\\xe2"));
    logprob_list_free(&list);
}

/* The tokens as events of an answer. */
static void push_tokens(struct logprob_track *track, const struct l4_tokens *tokens) {
    for (size_t i = 0; i < tokens->len; i++) {
        struct l4_event event = {.type = L4_EVENT_TOKEN, .token = {tokens->ids[i], -1}};
        logprob_track_token(track, &event);
    }
}

static int count(const struct logprob_list *list) {
    int n = list->parts[0].len > 0;
    const char *at = list->parts[3].data;
    while (at && (at = strchr(at, ',')))
        n++, at++;
    return n;
}

static void test_tokens_wait_for_their_text(void **state) {
    (void)state;
    struct l4_tokens tokens = encode("The capital of"); /* The| capital| of */
    struct logprob_track track;
    struct logprob_list list = {0};
    assert_int_equal(tokens.len, 3);
    logprob_track_init(&track, LOGPROBS_LEGACY, tokenizer, 0);
    logprob_track_begin_answer(&track, 10);
    push_tokens(&track, &tokens);
    logprob_track_release(&track, 2, &list);
    assert_int_equal(count(&list), 0);
    logprob_track_release(&track, 1, &list);
    assert_int_equal(count(&list), 1);
    logprob_track_release(&track, 11, &list);
    assert_int_equal(count(&list), 3);
    assert_string_equal(list.parts[3].data, "10,13,21");
    logprob_track_finish(&track, false, &list);
    assert_int_equal(count(&list), 3);
    logprob_list_free(&list);
    logprob_track_free(&track);
    l4_tokens_free(&tokens);
}

static void test_a_cut_drops_the_tokens_behind_it(void **state) {
    (void)state;
    struct l4_tokens tokens = encode("The capital of");
    static const struct {
        size_t shown;
        bool was_cut;
        int n;
    } cases[] = {{0, true, 0}, {1, true, 1}, {3, true, 1}, {4, true, 2}, {11, true, 2}, {12, true, 3}, {0, false, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct logprob_track track;
        struct logprob_list list = {0};
        logprob_track_init(&track, LOGPROBS_LEGACY, tokenizer, 0);
        logprob_track_begin_answer(&track, 0);
        push_tokens(&track, &tokens);
        logprob_track_release(&track, cases[i].shown, &list);
        logprob_track_finish(&track, cases[i].was_cut, &list);
        assert_int_equal(count(&list), cases[i].n);
        logprob_list_free(&list);
        logprob_track_free(&track);
    }
    l4_tokens_free(&tokens);
}

static void test_offsets_of_a_prompt_count_characters(void **state) {
    (void)state;
    struct l4_tokens tokens = encode("\xc3\xa9\xe2\x98\x83!"); /* e acute, a snowman, a mark: six bytes */
    struct logprob_track track;
    struct logprob_list list = {0};
    logprob_track_init(&track, LOGPROBS_LEGACY, tokenizer, 0);
    struct l4_event bos = {.token = {l4_tokenizer_bos(tokenizer), NAN}};
    logprob_track_prompt(&track, &bos, false, &list);
    for (size_t i = 0; i < tokens.len; i++) {
        struct l4_event event = {.token = {tokens.ids[i], -1}};
        logprob_track_prompt(&track, &event, true, &list);
    }
    assert_int_equal(count(&list), (int)tokens.len + 1);
    const char *last = strrchr(list.parts[3].data, ',');
    assert_string_equal(last, ",2");
    assert_memory_equal(list.parts[3].data, "0,0", 3);
    logprob_list_free(&list);
    logprob_track_free(&track);
    l4_tokens_free(&tokens);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_shapes),
        cmocka_unit_test(test_half_a_character_is_written_as_bytes),
        cmocka_unit_test(test_tokens_wait_for_their_text),
        cmocka_unit_test(test_a_cut_drops_the_tokens_behind_it),
        cmocka_unit_test(test_offsets_of_a_prompt_count_characters),
    };
    return cmocka_run_group_tests(tests, open_tokenizer, close_tokenizer);
}
