/* The answer of POST /v1/responses: its items as they come, the Response object, and the events of a stream.
 * Pure functions.  Thread: any, an answer belongs to one at a time.
 *
 * Items of the output stand in the order in which the model wrote them: text before, between and after calls is a
 * message each, a call is a function_call.  An answer without text and calls has one message, which is empty.
 *
 * A stream announces a call when its name is there.  When it breaks off after that, it cannot be taken back: its item
 * ends as "incomplete", without function_call_arguments.done, and what was to be it follows as a message.  The Response
 * that ends the stream has only the message, as the whole answer to the same request does: clients' libraries parse the
 * arguments of every call that they find there, and fail on a half.  An item's place in `output` is its output_index
 * less the number of calls that broke before it.
 *
 * Log-probabilities stand with the text whose tokens they are, and calls have none.  A token that holds the end of a
 * text and the beginning of a call counts as the call's; markup after a call goes with the text that follows, if any
 * does.
 *
 * Streams end with response.completed, .incomplete or .failed, and without [DONE]: OpenAI's ends so, and the SDKs take
 * the end of the body for the end. */
#ifndef SERVER_RESPONSES_ANSWER_H
#define SERVER_RESPONSES_ANSWER_H

#include "server/codec_answer.h"

struct responses_answer;
/* responses_answer_open - takes the storage of *echo, members of the Response as text, and leaves it empty.
 *   is_stream: pieces are written as events; else they are only collected
 *   NULL when out of memory.  Close may be given NULL. */
struct responses_answer *responses_answer_open(struct l4_buf *take_echo, bool is_stream);
void responses_answer_close(struct responses_answer *answer);

/* The pieces of an answer.  out->failed is set when memory for what is collected ran out. */
void responses_put_begin(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head);
void responses_put_text(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                        const struct answer_choice *choice);
void responses_put_call(struct l4_buf *out, struct responses_answer *answer, const struct answer_choice *choice);
void responses_put_call_end(struct l4_buf *out, struct responses_answer *answer, const struct answer_choice *choice);
void responses_put_finish(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                          const struct answer_choice *choice);

/* The event that ends a stream, and the whole answer: after finish. */
void responses_put_end(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                       const struct answer_usage *usage);
void responses_put_whole(struct l4_buf *out, const struct responses_answer *answer, const struct answer_head *head,
                         const struct answer_usage *usage);

/* The end of a stream that breaks off: `error`, then response.failed.  The error's members stand in the event itself,
 * as the SDKs' types have them, and in its "error", where the SDKs look for what to throw. error: members of an error
 * object as text: "error":{...}, without braces around them */
struct responses_failure {
    bool is_ours;     /* not the request's fault */
    const char *code; /* NULL = null */
    const char *message, *error_member;
};
void responses_put_failure(struct l4_buf *out, struct responses_answer *answer, const struct answer_head *head,
                           const struct answer_usage *usage, const struct responses_failure *failure);

#endif
