"""Requests that must be refused: a 400 that names the field, and a daemon that goes on as if nothing had been."""

import copy
import json
import pathlib

import pytest

from api import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, refused, user, whole

BASE = {COMPLETIONS: {"prompt": "Hi"}, CHAT: {"messages": user("Hi")}, RESPONSES: {"input": "Hi"}}
LIMIT = {COMPLETIONS: "max_tokens", CHAT: "max_tokens", RESPONSES: "max_output_tokens"}
N_GENERATED = {COMPLETIONS: "completion_tokens", CHAT: "completion_tokens", RESPONSES: "output_tokens"}
BOTH = pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
EVERY = pytest.mark.parametrize("path", [COMPLETIONS, CHAT, RESPONSES])

HUGE = [1e308, -1e308, 2 ** 63, -2 ** 63 - 1, 10 ** 40]
NUMBERS = {  # what is out of range apart from HUGE
    "temperature": [-0.01, 2.01], "top_p": [-0.01, 1.01], "min_p": [-0.01, 1.01], "top_k": [-1, 0.5],
    "presence_penalty": [-2.01, 2.01], "frequency_penalty": [-2.01, 2.01], "repetition_penalty": [-1, 0],
    "n": [-1, 0, 1.5, 129, 10 ** 9], "max_tokens": [-1, 0.5], "seed": [0.5],
}
WRONG = {  # values of a wrong type
    "number": ["1", "NaN", True, [], {}], "string": [1, True, [], {}], "bool": [1, 0, "true", [], {}],
}
FIELDS = {
    "number": list(NUMBERS), "string": ["model", "user", "cache_salt"], "bool": ["stream", "ignore_eos", "cache_prompt"],
}
OWN = {
    COMPLETIONS: {
        "number": ["logprobs", "best_of"], "string": [], "bool": ["echo"],
        "values": {"logprobs": [-1, 21, 0.5], "best_of": [-1, 0, 129, 1.5], "suffix": ["x", 1],
                   "prompt": [1, {}, [], [[]], True, [1, "a"], ["a", 1], [-1], [2048], [1.5], [2 ** 63], [[0], "a"]]},
    },
    CHAT: {
        "number": ["max_completion_tokens", "top_logprobs"], "string": [],
        "bool": ["logprobs", "parallel_tool_calls", "continue_final_message", "add_generation_prompt"],
        "values": {"max_tokens": [0], "max_completion_tokens": [-1, 0, 1.5], "top_logprobs": [-1, 21, 1],
                   "messages": [1, "Hi", {}, [], True], "tools": [1, {}, "x"],
                   "tool_choice": ["required", "any", 1, {"type": "function", "function": {"name": "f"}}]},
    },
    RESPONSES: {  # where max_tokens and response_format are refused whatever they are
        "number": ["max_output_tokens", "max_completion_tokens", "max_tool_calls", "top_logprobs"],
        "string": ["instructions", "truncation", "service_tier", "safety_identifier", "prompt_cache_key"],
        "bool": ["parallel_tool_calls", "store", "background"],
        "values": {"max_tokens": [0, 5], "max_output_tokens": [-1, 0, 1.5], "max_tool_calls": [-1, 0, 1.5], "n": [2],
                   "top_logprobs": [-1, 21, 1.5], "input": [1, {}, [], True, [1], [{}], ["Hi"], user([]), user(1)],
                   "include": [1, "x", {}, [1]], "metadata": [1, "x", [], {"a": 1}, {"a": {}}], "tools": [1, {}, "x", [1], [{}]],
                   "text": [1, "x", [], {"format": 1}, {"format": {}}, {"verbosity": 1}], "reasoning": [1, "x", []],
                   "previous_response_id": ["resp_1", 1], "conversation": ["conv_1", {}], "prompt": [{"id": "a"}],
                   "tool_choice": ["required", "any", 1, [], {"type": "function", "name": "f"}]},
    },
}
SHARED_VALUES = {
    "stop": [1, {}, "", [""], [1], ["a"] * 17, "x" * (1 << 20), ["x" * (1 << 20)]],
    "stop_token_ids": [1, "a", [-1], [2048], [0.5], ["1"], [0] * 65],
    "logit_bias": [1, [], {"a": 1}, {"-1": 1}, {"2048": 1}, {"1.5": 1}, {"01": 1}, {str(2 ** 64): 1}, {"1": 100.5},
                   {"1": -1e308}, {"1": "1"}, {"1": None}],
    "stream_options": [1, True, []],
    "response_format": [1, "json", []],
    "grammar": [1, [], {}, "", "root", "x ::= y", "root ::= " + "(" * 60000, "root ::= [a" + "x" * (1 << 20)],
}


def cases(path):
    own = OWN[path]
    for kind, names in FIELDS.items():
        for name in names + own[kind]:
            for value in WRONG[kind] + (HUGE + NUMBERS.get(name, []) if kind == "number" else []):
                # Seeds are 64 bits wide; a top-level max_tokens of 0 scores a prompt.
                if not (name == "seed" and value == 2 ** 63):
                    yield name, value
    for values in (SHARED_VALUES, own["values"]):
        for name in values:
            for value in values[name]:
                yield name, value


@EVERY
def test_every_field_out_of_range_or_of_a_wrong_type(fake, path):
    n = 0
    for name, value in cases(path):
        body = dict(BASE[path], **{name: value})
        if name == "stream_options":
            body["stream"] = True
        error = refused_at(fake, path, body, name)
        assert error["type"] == "invalid_request_error" and error["code"] is None
        n += 1
    assert n > 200
    assert whole(fake, path, **BASE[path])["usage"][N_GENERATED[path]] > 0


def refused_at(daemon, path, body, name):
    """param is the field or leads to a place inside it."""
    response = daemon.post(path, body)
    assert response.status_code == 400, (name, str(body[name])[:100], response.status_code, response.text[:300])
    error = response.json()["error"]
    param = error["param"]
    assert param == name or (param or "").startswith((name + "[", name + ".")), (body[name], error)
    assert len(response.content) < 1000
    return error


@EVERY
def test_null_is_absent_and_unknown_fields_are_ignored(fake, path):
    nothing = {name: None for kind in FIELDS.values() for name in kind}
    nothing.update({name: None for name in list(SHARED_VALUES) + list(OWN[path]["values"]) if name not in BASE[path]})
    body = dict(nothing, **BASE[path], never_heard_of={"a": [1, None]}, metadata={"k": "v"})
    body[LIMIT[path]] = 2
    assert whole(fake, path, **body)["usage"][N_GENERATED[path]] == 2


@pytest.mark.parametrize("messages, param", [
    ([1], "messages[0]"), ([{}], "messages[0].role"), ([{"role": "user"}], "messages[0].content"),
    ([{"role": "king", "content": "x"}], "messages[0].role"),
    (user("x") + [{"role": "user", "content": 5}], "messages[1].content"),
    (user([]), "messages[0].content"), (user([1]), "messages[0].content[0]"),
    (user([{"type": "text"}]), "messages[0].content[0].text"),
    (user([{"type": "text", "text": "x"}, {"type": "image_url", "image_url": {"url": "http://127.0.0.1:1/x"}}]),
     "messages[0].content[1].type"),
    (user([{"type": "input_audio", "input_audio": {}}]), "messages[0].content[0].type"),
    ([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}],
     "messages[0].tool_calls[0].function.arguments"),
    (user("x") + [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{not json"}}]}],
     "messages[1].tool_calls[0]"),
])
def test_bad_messages(fake, messages, param):
    refused(fake, CHAT, {"messages": messages}, param)


def test_images_are_refused_in_so_many_words(fake):
    error = refused(fake, CHAT, {"messages": user([{"type": "image_url", "image_url": {"url": "data:,"}}])},
                    "messages[0].content[0].type")
    assert "images are not served" in error["message"]


@pytest.mark.parametrize("tools, param", [
    ([1], "tools[0]"), ([{}], "tools[0].type"), ([{"type": "function"}], "tools[0].function"),
    ([{"type": "function", "function": {}}], "tools[0].function.name"),
    ([{"type": "function", "function": {"name": "f", "parameters": "x"}}], "tools[0].function.parameters"),
])
def test_bad_tools(fake, tools, param):
    refused(fake, CHAT, {"messages": user("Hi"), "tools": tools}, param)


def test_tools_that_the_template_refuses(fake):
    """Not what makes a tool, but the JSON in it: a number past what a double holds."""
    error = refused(fake, CHAT, b'{"messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function", '
                    b'"function": {"name": "f", "parameters": {"maximum": 1e999}}}]}', "tools[0]", raw=True)
    assert "1.8e308" in error["message"]


@EVERY
@pytest.mark.parametrize("body", [
    b"", b" ", b"null", b"[]", b"5", b'"x"', b"{", b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": 1} {}',
    b'{"a": "\xff"}', b'{"a": "\xc3"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b'{"a": "x\x00y"}',
    b'{"a": "x\\u0000y"}', b'{"a": "\n"}', b"\x00", b"{" * 100000, b"[" * 100000,
    b'{"a": ' + b"[" * 100000 + b"]" * 100000 + b"}", b'{"a": ' + b'{"a": ' * 100000 + b"1" + b"}" * 100001,
    b'{"a": [' + b"0," * (1 << 20) + b"0]}",
], ids=lambda body: repr(body[:16]))
def test_bodies_that_are_no_request(fake, path, body):
    error = refused(fake, path, body, None, raw=True)
    assert error["type"] == "invalid_request_error"


@EVERY
def test_nul_in_the_prompt_is_named(fake, path):
    body = json.dumps(BASE[path]).replace("Hi", "H\\u0000i").encode()
    assert "\\u0000" in refused(fake, path, body, None, raw=True)["message"]


@EVERY
def test_of_equal_keys_the_last_counts(fake, path):
    head = json.dumps(BASE[path])[:-1].encode()
    limit = LIMIT[path].encode()
    answer = fake.post(path, None, data=head + b', "%s": "no", "%s": 3}' % (limit, limit),
                       headers={"content-type": "application/json"})
    assert answer.json()["usage"][N_GENERATED[path]] == 3
    refused(fake, path, head + b', "%s": 3, "%s": "no"}' % (limit, limit), LIMIT[path], raw=True)


@EVERY
def test_unknown_model(fake, path):
    error = refused(fake, path, dict(BASE[path], model="gpt-9"), "model", status=404)
    assert error["type"] == "not_found_error" and error["code"] == "model_not_found"
    assert "gpt-9" in error["message"] and "fake" in error["message"]


@BOTH
def test_past_the_context(demo, path):
    for more in ({"max_tokens": 100000}, {"max_tokens": 2 ** 31 - 1}):
        error = refused(demo, path, dict(BASE[path], **more), "messages" if path == CHAT else "prompt")
        assert error["code"] == "context_length_exceeded"
        assert "8192" in error["message"] and str(more["max_tokens"]) in error["message"]
    long = {COMPLETIONS: {"prompt": "word " * 10000}, CHAT: {"messages": user("word " * 10000)}}
    assert refused(demo, path, long[path], "messages" if path == CHAT else "prompt")["code"] == "context_length_exceeded"


@pytest.mark.parametrize("text", ["a" * 100000, "1" * 100000, "!" * 100000, "\n" * 100000, "\u4f60" * 100000,
                                  " " * 10_000_000, "\u0301" * 100000, "<|eot|>" * 20000], ids=lambda text: repr(text[:2]))
@BOTH
def test_long_runs(demo, path, text):
    """Far more than the context: refused once it is tokenized, while others are answered."""
    body = {COMPLETIONS: {"prompt": text}, CHAT: {"messages": user(text)}}[path]
    response = demo.post(path, dict(body, max_tokens=1))
    assert response.status_code in (200, 400), response.text[:300]
    if response.status_code == 400:
        assert response.json()["error"]["code"] == "context_length_exceeded"
    assert demo.get("/health").status_code == 200


SEEDS = pathlib.Path(__file__).parent.parent / "fuzz/seeds/request"
SEED_OF = {  # every endpoint that takes a body
    COMPLETIONS: "completions", CHAT: "chat", "/apply-template": "chat", RESPONSES: "responses", MESSAGES: "messages",
    MESSAGES + "/count_tokens": "messages", EMBEDDINGS: "embeddings", "/tokenize": "tokenize", "/detokenize": "tokenize",
}


def places(value, place=()):
    """The place of every value inside, outermost first."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield place + (key,)
        yield from places(value[key], place + (key,))


@pytest.mark.parametrize("path", SEED_OF)
def test_every_kind_of_value_in_every_place(fake, path):
    """Answered or refused, whatever a client put where."""
    body = dict(json.loads((SEEDS / (SEED_OF[path] + ".json")).read_text()), model="fake")
    assert fake.post(path, body).status_code == 200
    for place in places(body):
        for value in (None, True, -1, "x", [], {}, [None], ["x"], [[0]], [{}], {"type": "text"}, {"x": [{}]}):
            sent = copy.deepcopy(body)
            inner = sent
            for key in place[:-1]:
                inner = inner[key]
            inner[place[-1]] = value
            response = fake.post(path, sent)
            assert response.status_code in (200, 400, 404), (place, value, response.status_code)
            if response.status_code != 200:
                assert len(response.json()["error"]["message"]) > 10, (place, value)


def test_too_many_choices(fake):
    """More than may run and wait together would be 429 for ever."""
    for body, param in (({"prompt": ["a"] * 3, "n": 128}, "n"), ({"prompt": ["a"] * 3, "best_of": 128}, "best_of"),
                        ({"prompt": ["a"] * 321}, "prompt")):
        assert "the 320 that this server takes" in refused(fake, COMPLETIONS, body, param)["message"]
    assert len(whole(fake, COMPLETIONS, prompt=["a"] * 320, max_tokens=1)["choices"]) == 320


def test_fields_that_exclude_each_other(fake):
    refused(fake, COMPLETIONS, {"prompt": "a", "n": 3, "best_of": 2}, "best_of")
    refused(fake, COMPLETIONS, {"prompt": "a", "best_of": 2, "stream": True}, "best_of")
    refused(fake, COMPLETIONS, {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options")
    refused(fake, COMPLETIONS, {"prompt": "a", "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage")
    refused(fake, CHAT, {"messages": user("a"), "continue_final_message": True}, "continue_final_message")
    refused(fake, CHAT, {"messages": user("a"), "grammar": "root ::= .", "response_format": {"type": "json_object"}},
            "grammar")
