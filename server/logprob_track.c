#include "server/logprob_track.h"

#include <stdlib.h>
#include <string.h>

struct held_token {
    struct l4_logprob token;
    struct l4_logprob top[L4_MAX_TOP_LOGPROBS];
    int n_top;
    int64_t text_offset;
    size_t begin_bytes, end_bytes; /* in the answer's text */
};

void logprob_track_init(struct logprob_track *track, enum logprobs_shape shape, const struct l4_tokenizer *tokenizer,
                        int64_t n_chars) {
    *track = (struct logprob_track){.shape = shape, .n_chars = n_chars};
    l4_detok_init(&track->detok, tokenizer, true);
}

void logprob_track_free(struct logprob_track *track) {
    l4_buf_free(&track->piece);
    free(track->held);
}

/* Count the text that a token adds, made as the engine makes it. */
static void push(struct logprob_track *track, int32_t id) {
    struct l4_buf *piece = &track->piece;
    l4_buf_clear(piece);
    l4_detok_push(&track->detok, id, piece);
    track->failed |= piece->failed;
    track->made_bytes += piece->len;
    for (size_t i = 0; i < piece->len; i++)
        track->n_chars += ((unsigned char)piece->data[i] & 0xc0) != 0x80;
}

void logprob_track_prompt(struct logprob_track *track, const struct l4_event *event, bool has_text,
                          struct logprob_list *list) {
    struct logprob_entry entry = {event->token, event->top, event->n_top, track->n_chars};
    logprob_list_add(list, track->shape, track->detok.tokenizer, &entry);
    if (has_text)
        push(track, event->token.id);
}

void logprob_track_begin_answer(struct logprob_track *track, int64_t n_chars) {
    l4_detok_init(&track->detok, track->detok.tokenizer, false);
    track->n_chars = n_chars;
    track->made_bytes = 0;
}

void logprob_track_token(struct logprob_track *track, const struct l4_event *event) {
    if (track->n_held == track->held_cap) {
        size_t cap = track->held_cap ? 2 * track->held_cap : 8;
        struct held_token *held = realloc(track->held, cap * sizeof *held);
        if (!held) {
            track->failed = true;
            return;
        }
        track->held = held;
        track->held_cap = cap;
    }
    struct held_token *at = &track->held[track->n_held++];
    at->token = event->token;
    at->n_top = event->n_top < L4_MAX_TOP_LOGPROBS ? event->n_top : L4_MAX_TOP_LOGPROBS;
    if (at->n_top > 0)
        memcpy(at->top, event->top, (size_t)at->n_top * sizeof *at->top);
    at->text_offset = track->n_chars;
    at->begin_bytes = track->made_bytes;
    push(track, event->token.id);
    at->end_bytes = track->made_bytes;
}

static void move_first(struct logprob_track *track, size_t n, struct logprob_list *list) {
    for (size_t i = 0; i < n; i++) {
        const struct held_token *at = &track->held[i];
        struct logprob_entry entry = {at->token, at->top, at->n_top, at->text_offset};
        logprob_list_add(list, track->shape, track->detok.tokenizer, &entry);
    }
    track->n_held -= n;
    if (n && track->n_held)
        memmove(track->held, track->held + n, track->n_held * sizeof *track->held);
}

void logprob_track_release(struct logprob_track *track, size_t n_bytes, struct logprob_list *list) {
    size_t n = 0;
    track->shown_bytes += n_bytes;
    while (n < track->n_held && track->held[n].end_bytes <= track->shown_bytes)
        n++;
    move_first(track, n, list);
}

void logprob_track_finish(struct logprob_track *track, bool was_cut, struct logprob_list *list) {
    size_t n = 0;
    while (n < track->n_held && !(was_cut && track->held[n].begin_bytes >= track->shown_bytes))
        n++;
    move_first(track, n, list);
}
