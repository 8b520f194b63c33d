/* Follows the tokens of one choice so that each token's log-probability is shown when its text is, with its place in
 * the text, and never where a stop string cut the text off.  Thread: one at a time. */
#ifndef SERVER_LOGPROB_TRACK_H
#define SERVER_LOGPROB_TRACK_H

#include "server/codec_answer.h"

struct held_token;

struct logprob_track {
    enum logprobs_shape shape;
    struct l4_detok detok;
    struct l4_buf piece;
    int64_t n_chars;                /* from the start of prompt plus answer to the next token */
    size_t made_bytes, shown_bytes; /* of the answer's text: what its tokens make, what the engine has released */
    struct held_token *held;        /* tokens whose text is not all released, oldest first */
    size_t n_held, held_cap;
    bool failed; /* out of memory */
};

/* logprob_track_init - n_chars: characters that stand before the first token. */
void logprob_track_init(struct logprob_track *track, enum logprobs_shape shape, const struct l4_tokenizer *tokenizer,
                        int64_t n_chars);
void logprob_track_free(struct logprob_track *track);

/* A prompt token; has_text false: it stands for no characters of the prompt (an implicit begin_of_text). */
void logprob_track_prompt(struct logprob_track *track, const struct l4_event *event, bool has_text,
                          struct logprob_list *list);
/* The prompt is over and had n_chars characters. */
void logprob_track_begin_answer(struct logprob_track *track, int64_t n_chars);
/* A token of the answer, which is held. */
void logprob_track_token(struct logprob_track *track, const struct l4_event *event);
/* n_bytes more of the text may be shown: move the tokens that are whole within it to *list. */
void logprob_track_release(struct logprob_track *track, size_t n_bytes, struct logprob_list *list);
/* The end: move the rest, save those that begin where a stop string cut the text. */
void logprob_track_finish(struct logprob_track *track, bool was_cut, struct logprob_list *list);

#endif
