/* The scheduler over a fake model and a fake clock, and what each request was told. */
#ifndef TESTS_LIB_SCHED_RIG_H
#define TESTS_LIB_SCHED_RIG_H

#include "core/sched/sched.h"
#include "tests/lib/fake_model.h"

enum { VOCAB = 50, CONTEXT = 1024, CHUNK = 64, MAX_REQUESTS = 80, END_ID = 7 };

/* Whether rig_open makes a prefix cache. */
extern bool rig_prefix_cache;

/* What a request was told. */
struct answer {
    atomic_bool cancelled;
    int32_t ids[CONTEXT];
    float logprobs[CONTEXT];
    int n_ids;
    int32_t prompt_ids[CONTEXT];
    int n_prompt_events;
    float embedding[FAKE_MODEL_HIDDEN];
    int n_embeddings;
    int n_ends;
    bool failed;
    enum l4_finish finish;
    int32_t stop_token;
    int ended_at, first_at; /* steps */
    struct l4_event last;
};

struct rig {
    struct model_config config;
    struct fake_model model;
    struct kv_pool *kv;
    struct sched *sched;
    int32_t end_id;
    int n_steps;
    struct answer answers[MAX_REQUESTS];
    int n_answers;
};

struct setup {
    int max_running;
    int64_t n_pages; /* 0 = plenty */
    int64_t chunk;   /* of the chunked layer; 0 = CHUNK */
    int32_t max_chunk;
    double max_step_s;
    struct sched_hooks hooks;
};

void rig_open(struct rig *b, const struct setup *setup);
/* All pages must be free by then. */
void rig_close(struct rig *b);

int rig_request(const struct l4_request *from, struct request **request, struct l4_err *err);
/* A prompt of n tokens that is like no other. */
struct l4_request prompt_of(int32_t *prompt, int n, int salt, int64_t max_tokens);
/* Both submit; the answer fills as steps are made. */
struct answer *add(struct rig *b, struct l4_request from);
struct answer *add_plain(struct rig *b, int n_prompt, int salt, int64_t max_tokens);

void step(struct rig *b);
void run(struct rig *b); /* to the end of all requests */
/* What greedy decoding of prompt_of(n_prompt, salt) must give. */
void check_greedy(const struct rig *b, const struct answer *answer, int n_prompt, int salt, int n_answer);
struct l4_engine_stats stats_of(const struct rig *b);

/* Random decisions for sched_hooks; user is a struct chaos. */
struct chaos {
    unsigned seed;
};

unsigned chaos_next(struct chaos *chaos);
int32_t chaos_chunk(void *user, int32_t planned);
int chaos_preempt(void *user, int n_running);

#endif
