/* The bridge between loop and engine, with the fake engine behind it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <uv.h>

#include "server/bridge.h"

struct fixture {
    uv_loop_t loop;
    struct bridge *bridge;
    struct l4_engine *engine;
};

struct client {
    struct bridge *bridge;
    uint64_t id, sibling; /* sibling: cancelled with the first event */
    int n_tokens, n_done, n_errors;
    struct l4_err error;
};

static void on_event(void *user, const struct l4_event *event) {
    struct client *client = user;
    assert_int_equal(event->id, client->id);
    assert_int_equal(client->n_done + client->n_errors, 0); /* the last event is the last */
    client->n_tokens += event->type == L4_EVENT_TOKEN;
    client->n_done += event->type == L4_EVENT_DONE;
    client->n_errors += event->type == L4_EVENT_ERROR;
    if (event->type == L4_EVENT_ERROR)
        client->error = event->error;
    if (client->sibling != 0)
        bridge_cancel(client->bridge, client->sibling);
    client->sibling = 0;
}

static void open_fixture(struct fixture *f, const char *model) {
    struct l4_engine_options options;
    l4_engine_options_init(&options);
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(bridge_open(&f->bridge, &f->loop, NULL), 0);
    options.model = model;
    options.wakeup = bridge_wakeup;
    options.user = f->bridge;
    assert_int_equal(l4_engine_open(&f->engine, &options, NULL), 0);
    bridge_set_engine(f->bridge, f->engine);
}

static void close_fixture(struct fixture *f) {
    while (bridge_busy(f->bridge) > 0)
        uv_run(&f->loop, UV_RUN_ONCE);
    bridge_set_engine(f->bridge, NULL);
    l4_engine_close(f->engine);
    bridge_close(f->bridge);
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
}

static void submit(struct fixture *f, struct client *client, int64_t max_tokens) {
    int32_t prompt[] = {1, 2, 3};
    struct l4_request request = {.prompt = prompt, .n_prompt = 3, .max_tokens = max_tokens, .ignore_eos = true};
    l4_sampling_init(&request.sampling);
    *client = (struct client){.bridge = f->bridge};
    assert_int_equal(bridge_submit(f->bridge, &request, on_event, client, &client->id, NULL), 0);
}

static void test_events_reach_their_request(void **state) {
    (void)state;
    struct fixture f;
    struct client clients[20];
    open_fixture(&f, "fake:");
    for (int i = 0; i < 20; i++)
        submit(&f, &clients[i], 1 + i);
    assert_int_equal(bridge_busy(f.bridge), 20);
    close_fixture(&f);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(clients[i].n_tokens, 1 + i);
        assert_int_equal(clients[i].n_done, 1);
    }
}

static void test_cancelled_is_forgotten(void **state) {
    (void)state;
    struct fixture f;
    struct client first, second;
    open_fixture(&f, "fake:delay_ms=1");
    submit(&f, &first, 3);
    submit(&f, &second, 30000);
    first.sibling = second.id; /* from inside an event, with events of the other waiting in the same batch */
    int before = second.n_tokens;
    close_fixture(&f);
    assert_int_equal(first.n_done, 1);
    assert_int_equal(second.n_tokens, before);
    assert_int_equal(second.n_done + second.n_errors, 0);
}

static void test_cut(void **state) {
    (void)state;
    struct fixture f;
    struct client clients[3];
    open_fixture(&f, "fake:prefill_ms=1000000");
    for (int i = 0; i < 3; i++)
        submit(&f, &clients[i], 5);
    clients[0].sibling = clients[1].id;
    struct l4_err err;
    l4_err_set(&err, L4_E_SHUTDOWN, "over");
    bridge_cut(f.bridge, &err);
    assert_int_equal(bridge_busy(f.bridge), 0);
    assert_int_equal(clients[0].n_errors, 1);
    assert_int_equal(clients[0].error.code, L4_E_SHUTDOWN);
    assert_int_equal(clients[1].n_errors + clients[1].n_done, 0);
    assert_int_equal(clients[2].n_errors, 1);
    close_fixture(&f);
}

static void test_no_engine(void **state) {
    (void)state;
    struct fixture f;
    open_fixture(&f, "fake:");
    bridge_set_engine(f.bridge, NULL);
    int32_t prompt[] = {1};
    struct l4_request request = {.prompt = prompt, .n_prompt = 1, .max_tokens = 1};
    uint64_t id;
    struct l4_err err;
    assert_int_equal(bridge_submit(f.bridge, &request, on_event, NULL, &id, &err), L4_E_SHUTDOWN);
    assert_int_equal(bridge_busy(f.bridge), 0);
    bridge_cancel(f.bridge, 12345); /* unknown ids are nothing */
    close_fixture(&f);
}

static uv_thread_t worker;
static int n_worked, n_finished;

static void work(void *user) {
    worker = uv_thread_self();
    *(int *)user = 1;
}

static void done(void *user) {
    uv_thread_t self = uv_thread_self();
    assert_false(uv_thread_equal(&self, &worker));
    n_worked += *(int *)user;
    n_finished++;
}

static void test_work(void **state) {
    (void)state;
    struct fixture f;
    int flag = 0;
    open_fixture(&f, "fake:");
    assert_int_equal(bridge_work(f.bridge, work, done, &flag), 0);
    assert_int_equal(bridge_busy(f.bridge), 1);
    close_fixture(&f);
    assert_int_equal(n_worked, 1);
    assert_int_equal(n_finished, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events_reach_their_request),
        cmocka_unit_test(test_cancelled_is_forgotten),
        cmocka_unit_test(test_cut),
        cmocka_unit_test(test_no_engine),
        cmocka_unit_test(test_work),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
