"""POST /tokenize, /detokenize and /apply-template, against the reference outputs of the demo model."""

import threading

import pytest

from api import CHAT, GOLDEN, refused, user, whole

TOKENIZE, DETOKENIZE, TEMPLATE = "/tokenize", "/detokenize", "/apply-template"
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather in a city.",
                                         "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                                                        "required": ["city"]}}}


def ids(daemon, **body):
    return whole(daemon, TOKENIZE, **body)["tokens"]


def test_whole_answer(fake):
    answer = whole(fake, TOKENIZE, content="Once upon a time")
    assert list(answer.items()) == [("count", 4), ("max_model_len", 32768), ("tokens", [624, 570, 258, 415])]


@pytest.mark.parametrize("field", ["content", "prompt", "text"])
def test_reference_tokens(fake, field):
    for case in GOLDEN["texts"]:
        if "\0" in case["text"]:
            continue
        plain = {field: case["text"]}
        assert ids(fake, **plain) == case["ids"]
        assert ids(fake, **plain, add_special=True) == case["ids_with_bos"]
        assert ids(fake, **plain, add_special_tokens=True) == case["ids_with_bos"]
        assert ids(fake, **plain, add_special=False, add_special_tokens=True) == case["ids"]


def test_special_tokens(fake):
    eot, bos = ids(fake, content="<|eot|>"), ids(fake, content="", add_special=True)
    assert len(eot) == len(bos) == 1
    assert len(ids(fake, content="<|eot|>", parse_special=False)) > 1
    assert ids(fake, content="<|begin_of_text|>", add_special=True) == bos  # no two of them
    assert ids(fake, content="") == []
    assert ids(fake, content="a<|eot|>b") == ids(fake, content="a") + eot + ids(fake, content="b")


def test_pieces(fake):
    text = "Hi \u4f60\U0001f600<|eot|>"
    tokens = ids(fake, content=text, with_pieces=True)
    assert [t["id"] for t in tokens] == ids(fake, content=text, with_pieces=False)
    assert all(list(t) == ["id", "piece"] for t in tokens)
    assert tokens[0]["piece"] == "Hi" and tokens[-1]["piece"] == "<|eot|>"
    assert any(isinstance(t["piece"], list) for t in tokens)  # a part of a character
    assert b"".join(bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode()
                    for t in tokens) == text.encode()


def test_detokenize(fake):
    for case in GOLDEN["texts"]:
        answer = whole(fake, DETOKENIZE, tokens=case["ids"])
        assert list(answer) == ["content", "prompt"]
        assert answer["content"] == answer["prompt"] == case["decoded"]
    assert whole(fake, DETOKENIZE, tokens=[])["content"] == ""
    text = "<|begin_of_text|>a<|eot|>\u00e9"
    tokens = ids(fake, content=text)
    assert whole(fake, DETOKENIZE, model="fake", tokens=tokens)["content"] == text
    part = [t["id"] for t in ids(fake, content="\U0001f600", with_pieces=True)][:1]
    assert whole(fake, DETOKENIZE, tokens=part)["content"] == "\ufffd"  # half a character


def test_reference_templates(fake):
    n = 0
    for case in GOLDEN["chats"]:
        body = {k: case[k] for k in ("messages", "tools", "add_generation_prompt") if case[k] is not None}
        response = fake.post(TEMPLATE, body)
        if response.status_code == 400 and "image" in response.text:
            continue
        assert response.json() == {"prompt": case["text"]}, response.text
        assert ids(fake, **body) == case["ids"]
        n += 1
    assert n > 10


@pytest.mark.parametrize("body", [
    {"messages": user("What is the capital of France?")},
    {"messages": user("Say <|eot|> twice.")},
    {"messages": user("Weather in Rome?"), "tools": [TOOL]},
    {"messages": user("Weather in Rome?"), "tools": [TOOL], "tool_choice": "none"},
    {"messages": user("Tell me a story.") + [{"role": "assistant", "content": "Once upon"}],
     "continue_final_message": True},
    {"messages": user("Hi") + [{"role": "assistant", "content": "Hello!"}], "add_generation_prompt": False},
    {"messages": [{"role": "developer", "content": " Be brief. "}] + user([{"type": "text", "text": "a"}] * 2)},
], ids=range(7))
def test_the_prompt_of_a_chat_completion(demo, body):
    usage = whole(demo, CHAT, max_tokens=1, **body)["usage"]
    answer = whole(demo, TOKENIZE, **body)
    assert answer["count"] == len(answer["tokens"]) == usage["prompt_tokens"]
    assert answer["max_model_len"] == 8192
    prompt = whole(demo, TEMPLATE, **body)["prompt"]
    if "<|eot|> twice" not in prompt:  # as text it cannot be told from a marker
        assert ids(demo, content=prompt) == answer["tokens"]
    assert whole(demo, DETOKENIZE, tokens=answer["tokens"])["content"] == prompt


def test_longer_than_the_context(demo):
    """Who counts wants to know by how much."""
    assert whole(demo, TOKENIZE, messages=user("word " * 10000))["count"] > 10000
    assert len(whole(demo, TEMPLATE, messages=user("word " * 10000))["prompt"]) > 50000


def test_long_texts_leave_the_loop_to_others(fake):
    """One that takes long, and a question that is answered before it."""
    order = []

    def long():
        answer = whole(fake, TOKENIZE, content="word and \u4f60 1234 " * 100000)
        order.append("long")
        assert answer["count"] == len(answer["tokens"]) > 400000

    thread = threading.Thread(target=long)
    thread.start()
    while not order and thread.is_alive():
        assert fake.get("/health").status_code == 200
        order.append("short")
    thread.join()
    assert order == ["short", "long"]


def test_a_client_that_goes_while_a_worker_reads(fake):
    for path, body in ((TOKENIZE, {"content": "some words " * 50000}), (DETOKENIZE, {"tokens": [5] * 100000}),
                       (TEMPLATE, {"messages": user("some words " * 50000)})):
        client = fake.connect()
        client.request("POST", path, body)
        client.reset()
    assert ids(fake, content="Once") == [624]


@pytest.mark.parametrize("body, param", [
    ({}, "content"), ({"content": None}, "content"), ({"content": 1}, "content"), ({"prompt": ["a"]}, "prompt"),
    ({"text": {}}, "text"), ({"content": "a", "prompt": "b"}, "prompt"), ({"content": "a", "text": ""}, "text"),
    ({"messages": user("a"), "content": "b"}, "content"), ({"messages": []}, "messages"), ({"messages": "a"}, "messages"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": user("a"), "tools": [1]}, "tools[0]"),
    ({"content": "a", "add_special": 1}, "add_special"), ({"content": "a", "parse_special": "no"}, "parse_special"),
    ({"content": "a", "add_special_tokens": []}, "add_special_tokens"),
    ({"content": "a", "with_pieces": 0}, "with_pieces"), ({"messages": user("a"), "with_pieces": 0}, "with_pieces"),
    ({"content": "a", "model": 1}, "model"),
])
def test_bad_tokenize(fake, body, param):
    assert refused(fake, TOKENIZE, body, param)["type"] == "invalid_request_error"


@pytest.mark.parametrize("tokens, param", [
    (None, "tokens"), ("a", "tokens"), ({}, "tokens"), (1, "tokens"), (["a"], "tokens[0]"), ([1, -1], "tokens[1]"),
    ([1, 2, 2048], "tokens[2]"), ([0.5], "tokens[0]"), ([2 ** 63], "tokens[0]"), ([[1]], "tokens[0]"), ([None], "tokens[0]"),
])
def test_bad_detokenize(fake, tokens, param):
    error = refused(fake, DETOKENIZE, {"tokens": tokens}, param)
    if "[" in param:
        assert "0 to 2047" in error["message"]


@pytest.mark.parametrize("body, param", [
    ({}, "messages"), ({"messages": []}, "messages"), ({"messages": user("a"), "tools": [{}]}, "tools[0].type"),
    ({"messages": user("a"), "continue_final_message": True}, "continue_final_message"),
    ({"messages": user("a"), "temperature": 3}, "temperature"),
])
def test_bad_templates(fake, body, param):
    refused(fake, TEMPLATE, body, param)


@pytest.mark.parametrize("path", [TOKENIZE, DETOKENIZE, TEMPLATE])
def test_bodies_and_models_that_are_none(fake, path):
    refused(fake, path, b"{", None, raw=True)
    refused(fake, path, b"[]", None, raw=True)
    body = {TOKENIZE: {"content": "a"}, DETOKENIZE: {"tokens": []}, TEMPLATE: {"messages": user("a")}}[path]
    error = refused(fake, path, dict(body, model="gpt-9"), "model",
                    status=404)
    assert error["code"] == "model_not_found"
