#include "tests/lib/sched_rig.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/kernels/kernels.h"

bool rig_prefix_cache;

void rig_open(struct rig *b, const struct setup *setup) {
    memset(b, 0, sizeof *b);
    fake_model_config(&b->config, VOCAB, CONTEXT, setup->chunk ? setup->chunk : CHUNK);
    b->model = (struct fake_model){.config = &b->config, .step_s = 0.001, .decode_s = 0.001, .token_s = 0.001};
    b->end_id = END_ID;
    int32_t max_chunk = setup->max_chunk ? setup->max_chunk : 32;
    int64_t n_pages = setup->n_pages ? setup->n_pages : 4096;
    struct l4_err err;
    assert_int_equal(kv_pool_open(&b->kv, &b->config, DT_F32, n_pages, &err), 0);
    if (rig_prefix_cache)
        assert_int_equal(kv_pool_cache_prefixes(b->kv, &err), 0);
    struct sched_config config = {
        .model = {fake_model_forward, &b->model},
        .model_config = &b->config,
        .kv = b->kv,
        .kernels = kernels_by_name("ref"),
        .end_ids = &b->end_id,
        .n_end_ids = 1,
        .max_running = setup->max_running ? setup->max_running : 8,
        .max_step_s = setup->max_step_s > 0 ? setup->max_step_s : 1,
        .max_chunk_tokens = max_chunk,
        .now = fake_model_now,
        .now_ctx = &b->model,
        .hooks = setup->hooks,
    };
    assert_int_equal(sched_open(&b->sched, &config, &err), 0);
}

void rig_close(struct rig *b) {
    sched_close(b->sched);
    assert_int_equal(kv_pool_free_pages(b->kv), kv_pool_total_pages(b->kv));
    kv_pool_close(b->kv);
}

int rig_request(const struct l4_request *from, struct request **request, struct l4_err *err) {
    const struct request_limits limits = {.vocab_size = VOCAB, .max_context_tokens = CONTEXT};
    return request_open(request, from, &limits, err);
}

struct answer *add(struct rig *b, struct l4_request from) {
    struct answer *answer = &b->answers[b->n_answers];
    struct request *request;
    struct l4_err err = {0};
    from.user = answer;
    int rc = rig_request(&from, &request, &err);
    if (rc != 0)
        fail_msg("request_open: %s", err.message);
    request->id = (uint64_t)++b->n_answers;
    request->cancelled = &answer->cancelled;
    request->submitted_s = b->model.clock_s;
    sched_add(b->sched, request);
    return answer;
}

struct l4_request prompt_of(int32_t *prompt, int n, int salt, int64_t max_tokens) {
    for (int i = 0; i < n; i++)
        prompt[i] = (i * 7 + salt * 13 + i * i * salt) % VOCAB;
    struct l4_request request = {.prompt = prompt, .n_prompt = (size_t)n, .max_tokens = max_tokens, .ignore_eos = true};
    l4_sampling_init(&request.sampling);
    request.sampling.temperature = 0;
    return request;
}

struct answer *add_plain(struct rig *b, int n_prompt, int salt, int64_t max_tokens) {
    int32_t prompt[CONTEXT];
    return add(b, prompt_of(prompt, n_prompt, salt, max_tokens));
}

static void take_event(struct rig *b, const struct l4_event *event) {
    struct answer *answer = event->user;
    assert_int_equal(answer->n_ends, 0); /* nothing comes after the last event */
    switch (event->type) {
    case L4_EVENT_PROMPT:
        assert_int_equal(answer->n_ids, 0);
        answer->logprobs[answer->n_prompt_events] = event->token.logprob;
        answer->prompt_ids[answer->n_prompt_events++] = event->token.id;
        break;
    case L4_EVENT_TOKEN:
        if (answer->n_ids == 0)
            answer->first_at = b->n_steps;
        answer->ids[answer->n_ids++] = event->token.id;
        break;
    case L4_EVENT_EMBEDDING:
        assert_int_equal(event->n_embedding, FAKE_MODEL_HIDDEN);
        memcpy(answer->embedding, event->embedding, sizeof answer->embedding);
        answer->n_embeddings++;
        break;
    case L4_EVENT_DONE:
    case L4_EVENT_ERROR:
        answer->failed = event->type == L4_EVENT_ERROR;
        answer->finish = event->finish;
        answer->stop_token = event->stop_token;
        answer->ended_at = b->n_steps;
        answer->last = *event;
        answer->last.text = NULL;
        answer->n_ends++;
        break;
    }
}

void step(struct rig *b) {
    b->n_steps++;
    sched_step(b->sched);
    for (struct l4_event *event = sched_take_events(b->sched), *next; event; event = next) {
        next = event->next;
        take_event(b, event);
        l4_event_free(event);
    }
}

void run(struct rig *b) {
    for (int i = 0; sched_busy(b->sched); i++) {
        assert_true(i < 4000); /* it comes to an end */
        step(b);
    }
    for (int i = 0; i < b->n_answers; i++)
        assert_int_equal(b->answers[i].n_ends, 1);
}

void check_greedy(const struct rig *b, const struct answer *answer, int n_prompt, int salt, int n_answer) {
    int32_t tokens[CONTEXT];
    float logits[VOCAB];
    prompt_of(tokens, n_prompt, salt, n_answer);
    assert_int_equal(answer->n_ids, n_answer);
    for (int i = 0; i < n_answer; i++) {
        fake_model_logits(&b->config, tokens, n_prompt + i, logits);
        int32_t best = 0;
        for (int32_t v = 1; v < VOCAB; v++)
            if (logits[v] > logits[best])
                best = v;
        assert_int_equal(answer->ids[i], best);
        tokens[n_prompt + i] = best;
    }
}

struct l4_engine_stats stats_of(const struct rig *b) {
    struct l4_engine_stats stats;
    sched_stats(b->sched, &stats);
    return stats;
}

unsigned chaos_next(struct chaos *chaos) {
    chaos->seed = chaos->seed * 1664525U + 1013904223U;
    return chaos->seed >> 8;
}
int32_t chaos_chunk(void *user, int32_t planned) {
    return 1 + (int32_t)(chaos_next(user) % (unsigned)planned);
}
int chaos_preempt(void *user, int n_running) {
    return chaos_next(user) % 5 == 0 ? (int)(chaos_next(user) % (unsigned)(n_running + 1)) : 0;
}
