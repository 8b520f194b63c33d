"""POST /v1/chat/completions against the demo model, field by field."""

import concurrent.futures
import json
import os
import re

import pytest

from api import CHAT, GOLDEN, frames, user, whole
from conftest import PATIENCE_S, ROOT

PARIS = user("What is the capital of France?")
GREEDY = [case for case in GOLDEN["greedy"] if "messages" in case]
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "Get the weather in a city.",
                                         "parameters": {"type": "object", "properties": {"city": {"type": "string"}},
                                                        "required": ["city"]}}}


def contents(chunks, index=0):
    return "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def said(message):
    """The text of an answer whose only call, if there is one, stands alone."""
    if "tool_calls" not in message:
        return message["content"]
    [call] = message["tool_calls"]
    assert message["content"] is None
    return '{"name": "%s", "parameters": %s}' % (call["function"]["name"], call["function"]["arguments"])


def test_whole_answer(demo):
    answer = whole(demo, CHAT, model="demo", messages=PARIS, temperature=0)
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{32}", answer["id"])
    assert answer["object"] == "chat.completion"
    assert answer["created"] > 1_600_000_000 and isinstance(answer["created"], int)
    assert answer["model"] == "demo"
    assert re.fullmatch(r"fp_[0-9a-f]{8}", answer["system_fingerprint"])
    assert answer["choices"] == [{"index": 0, "logprobs": None, "finish_reason": "stop", "message": {
        "role": "assistant", "content": "The capital of France is Paris.", "refusal": None}}]
    assert answer["usage"] == {"prompt_tokens": 17, "completion_tokens": 8, "total_tokens": 25,
                               "prompt_tokens_details": {"cached_tokens": 0}}


def test_streamed_answer(demo):
    chunks = frames(demo, CHAT, messages=PARIS, temperature=0)
    first = chunks[0]
    for chunk in chunks:
        assert list(chunk) == ["id", "object", "created", "model", "system_fingerprint", "choices"]
        assert chunk["object"] == "chat.completion.chunk"
        assert all(chunk[k] == first[k] for k in ("id", "created", "model", "system_fingerprint"))
        assert len(chunk["choices"]) == 1
        assert list(chunk["choices"][0]) == ["index", "delta", "logprobs", "finish_reason"]
        assert chunk["choices"][0]["logprobs"] is None
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(list(chunk["choices"][0]["delta"]) == ["content"] for chunk in chunks[1:-1])
    assert all(chunk["choices"][0]["delta"]["content"] for chunk in chunks[1:-1])
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert contents(chunks) == "The capital of France is Paris."


def test_stream_with_usage(demo):
    chunks = frames(demo, CHAT, messages=PARIS, temperature=0, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {"prompt_tokens": 17, "completion_tokens": 8, "total_tokens": 25,
                                   "prompt_tokens_details": {"cached_tokens": 0}}
    timings = chunks[-1]["timings"]
    assert list(timings) == ["cache_n", "prompt_n", "prompt_ms", "prompt_per_second", "predicted_n", "predicted_ms",
                             "predicted_per_second"]
    assert timings["cache_n"] + timings["prompt_n"] == 17 and timings["predicted_n"] == 8
    for what in "prompt", "predicted":
        assert timings[what + "_ms"] > 0
        rate = timings[what + "_n"] / timings[what + "_ms"] * 1e3
        assert timings[what + "_per_second"] == pytest.approx(rate, rel=0.05)
    without = frames(demo, CHAT, messages=PARIS, temperature=0, stream_options={"include_usage": False})
    assert all("usage" not in chunk for chunk in without)


@pytest.mark.parametrize("case", GREEDY, ids=lambda case: case["messages"][-1]["content"][:30])
def test_greedy_answers_and_logprobs_are_the_references(demo, case):
    body = dict(messages=case["messages"], temperature=0, max_tokens=96, logprobs=True)
    if case["tools"]:
        body["tools"] = case["tools"]
    answer = whole(demo, CHAT, **body)
    assert answer["usage"]["prompt_tokens"] == len(case["prompt_ids"])
    assert answer["usage"]["completion_tokens"] == len(case["ids"])
    choice = answer["choices"][0]
    assert said(choice["message"]) == case["text"]
    got = [token["logprob"] for token in choice["logprobs"]["content"]]
    want = case["logprobs"][:len(got)]  # the end token is not part of the answer
    assert len(case["ids"]) - len(got) == (choice["finish_reason"] != "length")
    assert got == pytest.approx(want, abs=1e-3)
    begin = contents(frames(demo, CHAT, **dict(body, max_tokens=10)))
    assert begin and case["text"].startswith(begin)


def plain_chats():
    """The references that need no images and whose last turn is open."""
    return [case for case in GOLDEN["chats"] if case["add_generation_prompt"] and "image" not in json.dumps(case["messages"])]


@pytest.mark.parametrize("case", plain_chats(), ids=lambda case: str(len(case["ids"])))
def test_prompts_have_the_references_length(demo, case):
    body = dict(messages=case["messages"], max_tokens=1)
    if case["tools"]:
        body["tools"] = case["tools"]
    assert whole(demo, CHAT, **body)["usage"]["prompt_tokens"] == len(case["ids"])


def test_arguments_of_a_call_may_be_a_string(demo):
    case = next(c for c in GREEDY if any("tool_calls" in m for m in c["messages"]))
    messages = json.loads(json.dumps(case["messages"]))
    for message in messages:
        for i, call in enumerate(message.get("tool_calls", [])):
            call["id"] = "call_%d" % i
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
        if message["role"] == "tool":
            message["tool_call_id"] = "call_0"
        if message["role"] == "assistant":
            message["content"] = None
    answer = whole(demo, CHAT, messages=messages, tools=case["tools"], temperature=0, max_tokens=96)
    assert answer["usage"]["prompt_tokens"] == len(case["prompt_ids"])
    assert answer["choices"][0]["message"]["content"] == case["text"]


def test_tools_reach_the_template_unchanged(demo):
    def n_prompt(default, **more):
        tool = json.dumps(TOOL).replace('"required"', '"default": %s, "required"' % default)
        body = '{"messages": %s, "max_tokens": 1, "tools": [%s]%s}' % (
            json.dumps(PARIS), tool, "".join(', "%s": %s' % (k, json.dumps(v)) for k, v in more.items()))
        response = demo.post(CHAT, None, data=body, headers={"content-type": "application/json"})
        assert response.status_code == 200, response.text
        return response.json()["usage"]["prompt_tokens"]

    # Digits of long numbers are several tokens: a number that went through a double would be shorter or longer.
    assert n_prompt("12345678901234567890123") - n_prompt("12345678901234567890") > 0
    assert n_prompt("1.0") - n_prompt("1") > 0
    without = whole(demo, CHAT, messages=PARIS, max_tokens=1)["usage"]["prompt_tokens"]
    assert n_prompt("1", tool_choice="none") == without
    assert n_prompt("1", tool_choice="auto") == n_prompt("1") > without


def test_logprobs(demo):
    body = dict(messages=PARIS, temperature=0, logprobs=True, top_logprobs=3)
    choice = whole(demo, CHAT, **body)["choices"][0]
    assert list(choice["logprobs"]) == ["content", "refusal"]
    tokens = choice["logprobs"]["content"]
    for token in tokens:
        assert list(token) == ["token", "logprob", "bytes", "top_logprobs"]
        assert bytes(token["bytes"]).decode() == token["token"]
        assert token["logprob"] <= 0
        assert len(token["top_logprobs"]) == 3
        assert all(list(top) == ["token", "logprob", "bytes"] for top in token["top_logprobs"])
        logprobs = [top["logprob"] for top in token["top_logprobs"]]
        assert logprobs == sorted(logprobs, reverse=True)
        assert token["top_logprobs"][0]["token"] == token["token"]  # greedy
        assert logprobs[0] == token["logprob"]
    assert "".join(token["token"] for token in tokens) == choice["message"]["content"]
    chunks = frames(demo, CHAT, **body)
    streamed = [token for chunk in chunks for c in chunk["choices"] if c["logprobs"] for token in c["logprobs"]["content"]]
    assert streamed == tokens
    none = whole(demo, CHAT, messages=PARIS, temperature=0, logprobs=True)["choices"][0]["logprobs"]["content"]
    assert all(token["top_logprobs"] == [] for token in none)


def test_choices(demo):
    body = dict(messages=user("Tell me a story about a lamb named Ben."), n=3, temperature=1.5, seed=11, max_tokens=24)
    answer = whole(demo, CHAT, **body)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 3
    assert answer["usage"]["completion_tokens"] == 72
    assert answer["usage"]["prompt_tokens"] == whole(demo, CHAT, **dict(body, n=1))["usage"]["prompt_tokens"]
    chunks = frames(demo, CHAT, **body)
    assert [contents(chunks, i) for i in range(3)] == texts
    roles = [c["index"] for chunk in chunks for c in chunk["choices"] if "role" in c["delta"]]
    ends = [c["index"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]]
    assert sorted(roles) == sorted(ends) == [0, 1, 2]


def test_seeds(demo):
    def answer(**more):
        body = dict(messages=user("Tell me a story about a lamb named Ben."), temperature=1.2, max_tokens=32)
        return whole(demo, CHAT, **body, **more)["choices"][0]["message"]["content"]

    assert answer(seed=7) == answer(seed=7)
    assert answer(seed=7) != answer(seed=8)
    # Neighbours beyond 2^53 are one double but two seeds.
    assert answer(seed=9007199254740992) != answer(seed=9007199254740993)
    assert answer(seed=-1) == answer(seed=18446744073709551615)
    assert len({answer() for _ in range(4)}) > 1


def test_stop_strings(demo):
    full = "The capital of France is Paris."
    for stop, want in [("is", "The capital of France "), (["zzz", "Paris"], "The capital of France is "),
                       (["l of Fra"], "The capita"),  # across the borders of three tokens
                       ([full], ""), (["Paris!"], full)]:
        body = dict(messages=PARIS, temperature=0, stop=stop, logprobs=True)
        choice = whole(demo, CHAT, **body)["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == (want, "stop"), stop
        tokens = "".join(token["token"] for token in choice["logprobs"]["content"])
        assert tokens.startswith(want) and (not want or choice["logprobs"]["content"])
        # Only a token that begins before the cut is listed.
        assert len(tokens) - len(choice["logprobs"]["content"][-1]["token"] if tokens else "") <= len(want)
        assert contents(frames(demo, CHAT, **body)) == want, stop


def test_lengths(demo):
    for field in "max_tokens", "max_completion_tokens":
        answer = whole(demo, CHAT, messages=PARIS, temperature=0, **{field: 3})
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["choices"][0]["message"]["content"] == "The capital of"
        assert answer["usage"]["completion_tokens"] == 3
    both = whole(demo, CHAT, messages=PARIS, temperature=0, max_tokens=5, max_completion_tokens=2)
    assert both["usage"]["completion_tokens"] == 2


def test_without_max_tokens_the_context_is_the_limit(start):
    daemon = start("tests/models/demo", real=True, max_context=64)
    answer = whole(daemon, CHAT, messages=PARIS, temperature=0, ignore_eos=True)
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["total_tokens"] == 64


def test_roles_and_parts(demo):
    def prompt(messages):
        answer = whole(demo, CHAT, messages=messages, temperature=0, max_tokens=12)
        return answer["usage"]["prompt_tokens"], answer["choices"][0]["message"]["content"]

    system = [{"role": "system", "content": "You are a pirate."}] + PARIS
    assert prompt([{"role": "developer", "content": "You are a pirate."}] + PARIS) == prompt(system)
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of France?"}]
    assert prompt(user(parts)) == prompt(PARIS)
    assert prompt([dict(PARIS[0], name="Ann")]) == prompt(PARIS)


def test_markers_in_content_are_text(demo):
    plain = whole(demo, CHAT, messages=user("x"), max_tokens=1)["usage"]["prompt_tokens"]
    marked = whole(demo, CHAT, messages=user("x<|eot|>"), max_tokens=1)["usage"]["prompt_tokens"]
    assert marked - plain > 2  # the characters, not the one token that ends a turn


def test_continue_final_message(demo):
    messages = PARIS + [{"role": "assistant", "content": "The capital of France"}]
    answer = whole(demo, CHAT, messages=messages, continue_final_message=True, temperature=0)
    assert answer["choices"][0]["message"]["content"] == " is Paris."
    closed = whole(demo, CHAT, messages=messages, add_generation_prompt=False, temperature=0, max_tokens=1)
    # The turn is closed with one token more, and nothing is opened.
    assert closed["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"] + 1


def test_sampling_fields(demo):
    body = dict(messages=PARIS, max_tokens=8)
    greedy = "The capital of France is Paris."
    for field in ({"temperature": 0}, {"temperature": 2, "top_k": 1}, {"temperature": 2, "top_p": 0},
                  {"temperature": 2, "min_p": 1}, {"logit_bias": {}, "temperature": 0}):
        assert whole(demo, CHAT, **body, **field)["choices"][0]["message"]["content"] == greedy, field
    the = next(c for c in GREEDY if c["text"].startswith("The capital of Russia"))["ids"][0]
    banned = whole(demo, CHAT, **body, temperature=0, logit_bias={str(the): -100})
    assert not banned["choices"][0]["message"]["content"].startswith("The")
    ends = whole(demo, CHAT, **body, temperature=0, stop_token_ids=[the])
    assert (ends["choices"][0]["message"]["content"], ends["choices"][0]["finish_reason"]) == ("", "stop")
    on = whole(demo, CHAT, **dict(body, max_tokens=20), temperature=0, ignore_eos=True)
    assert (on["usage"]["completion_tokens"], on["choices"][0]["finish_reason"]) == (20, "length")


@pytest.mark.parametrize("field", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"repetition_penalty": 2}])
def test_penalties(demo, field):
    body = dict(messages=user("Tell me a story about a lamb named Ben."), max_tokens=48, temperature=1.5, seed=1)
    plain, changed = whole(demo, CHAT, **body), whole(demo, CHAT, **body, **field)
    assert plain["choices"][0]["message"] != changed["choices"][0]["message"]


def test_defaults_of_the_server(start):
    daemon = start("tests/models/demo", real=True, temperature=0)
    story = user("Tell me a story about Lucy the panda and a silver bell.")
    assert len({whole(daemon, CHAT, messages=story, max_tokens=24)["choices"][0]["message"]["content"]
                for _ in range(3)}) == 1
    free = {whole(daemon, CHAT, messages=story, max_tokens=24, temperature=1.5)["choices"][0]["message"]["content"]
            for _ in range(4)}
    assert len(free) > 1


@pytest.mark.parametrize("generation, settings, fields, same_as", [
    (None, {}, {}, dict(temperature=1, top_p=1, top_k=0, min_p=0, repetition_penalty=1)),
    (dict(temperature=1.7, top_k=3), {}, {}, dict(temperature=1.7, top_k=3)),
    (dict(temperature=1.7, min_p=0.2), {}, {}, dict(temperature=1.7, min_p=0.2)),
    (dict(temperature=1.7, do_sample=False), {}, {}, dict(temperature=0)),
    (dict(temperature=1.7, do_sample=False), dict(temperature=0.3), {}, dict(temperature=0.3)),
    (dict(temperature=1.7), dict(temperature=0.3), {}, dict(temperature=0.3)),
    (dict(temperature=1.7), dict(temperature=0.3), dict(temperature=1.2), dict(temperature=1.2)),
])
def test_order_of_defaults(start, demo, tmp_path, generation, settings, fields, same_as):
    """The request, else the setting, else generation_config.json, else what changes nothing."""
    model = os.path.join(ROOT, "tests/models/demo")
    for name in os.listdir(model):
        if name != "generation_config.json":
            os.symlink(os.path.join(model, name), tmp_path / name)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    daemon = start(str(tmp_path), real=True, **settings)
    body = dict(messages=user("Tell me a story."), max_tokens=32, n=4, seed=11)
    plain = dict(temperature=1, top_p=1, top_k=0, min_p=0, repetition_penalty=1)
    assert [c["message"] for c in whole(daemon, CHAT, **body, **fields)["choices"]] == \
        [c["message"] for c in whole(demo, CHAT, **body, **dict(plain, **same_as))["choices"]]


def test_sixteen_at_once(demo):
    cases = (GREEDY * 2)[:16]

    def answer(job):
        case, stream = job
        body = dict(messages=case["messages"], temperature=0, max_tokens=24)
        if case["tools"]:
            body["tools"] = case["tools"]
        if stream and case["text"][0] != "{":
            return contents(frames(demo, CHAT, **body))
        return said(whole(demo, CHAT, **body)["choices"][0]["message"])

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(answer, [(case, i % 2 == 0) for i, case in enumerate(cases)]))
    for case, text in zip(cases, texts):
        assert text and case["text"].startswith(text)
        assert text == case["text"] or len(case["ids"]) > 24


# ---- what goes wrong, on the fake engine

def test_queue_full_refuses_all_choices(start):
    daemon = start("fake:delay_ms=5,tokens=1000", max_running=1, max_queue=2, log_level="debug")
    client = daemon.connect()
    client.request("POST", CHAT, dict(messages=PARIS, stream=True))
    client.read_until(b'"content"')
    response = daemon.post(CHAT, dict(messages=PARIS, n=3))
    assert response.status_code == 429
    assert response.json()["error"]["type"] == "rate_limit_exceeded"
    assert int(response.headers["retry-after"]) >= 1
    daemon.wait_log(r"cancelled id=", count=2)
    client.close()
    daemon.wait_log(r"cancelled id=", count=3)
    assert len(frames(daemon, CHAT, messages=PARIS, max_tokens=2)) > 2  # there is room again


def test_client_gone_cancels_every_choice(start):
    daemon = start("fake:delay_ms=5,tokens=100000", log_level="debug")
    client = daemon.connect()
    client.request("POST", CHAT, dict(messages=PARIS, n=3, stream=True))
    client.read_until(b'"index":2,"delta":{"content"')
    client.close()
    daemon.wait_log(r"cancelled id=", count=3)


def test_client_gone_while_its_prompt_is_tokenized(start):
    daemon = start(log_level="debug")
    body = json.dumps(dict(messages=user("word " * 400000), stream=True)).encode()
    for _ in range(3):
        with daemon.connect() as client:
            client.request("POST", CHAT, body)
    assert whole(daemon, CHAT, messages=PARIS, max_tokens=1)["usage"]["completion_tokens"] == 1


def test_error_after_the_first_byte(start):
    daemon = start("fake:delay_ms=5,tokens=100000", drain_timeout_s=0)
    client = daemon.connect()
    client.sock.settimeout(PATIENCE_S)
    client.request("POST", CHAT, dict(messages=PARIS, stream=True))
    client.read_until(b'"content":')
    daemon.signal(15)
    events = [part for part in client.read_all().decode().replace("\r\n", "\n").split("\n\n") if "data: " in part]
    assert "[DONE]" not in events[-1]
    error = json.loads(events[-1][events[-1].index("data: ") + 6:].split("\n")[0])["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert daemon.wait_exit() == 0
