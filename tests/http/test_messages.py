"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's API against the demo model, field by field."""

import concurrent.futures
import json
import re

import pytest

from api import CHAT, GOLDEN, MESSAGES, user, whole
from conftest import PATIENCE_S

COUNT = "/v1/messages/count_tokens"
PARIS = user("What is the capital of France?")
STORY = user("Tell me a story about a lamb named Ben.")
ID = re.compile(r"toolu_[0-9a-f]{24}")


def tool(name, **properties):
    return {"name": name, "description": "Does %s." % name,
            "input_schema": {"type": "object", "properties": properties, "required": list(properties)}}


def as_chat(tools):
    """The same tools as /v1/chat/completions takes them."""
    return [{"type": "function", "function": {"name": t["name"], "description": t["description"],
                                              "parameters": t["input_schema"]}} for t in tools]


CITY = {"type": "string"}
TOOLS = [tool("get_weather", city=CITY), tool("get_time", city=CITY), tool("add", a={"type": "integer"}, b={"type": "integer"})]


def message(daemon, **body):
    """The answer to a request that must succeed; asserts the shape of every field."""
    body = dict({"max_tokens": 64}, **body)
    response = daemon.post(MESSAGES, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["request-id"] == response.headers["x-request-id"]
    answer = response.json()
    check_message(answer)
    return answer


def check_message(answer):
    assert list(answer) == ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"]
    assert re.fullmatch(r"msg_[0-9a-f]{32}", answer["id"])
    assert (answer["type"], answer["role"]) == ("message", "assistant")
    for block in answer["content"]:
        if block["type"] == "text":
            assert list(block) == ["type", "text"] and block["text"]
        else:
            assert list(block) == ["type", "id", "name", "input"] and block["type"] == "tool_use"
            assert ID.fullmatch(block["id"]) and isinstance(block["input"], dict)
    ids = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
    assert len(set(ids)) == len(ids)
    check_usage(answer["usage"])


def check_usage(usage):
    assert list(usage) == ["input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"]
    assert all(isinstance(n, int) and n >= 0 for n in usage.values())
    assert usage["cache_creation_input_tokens"] == 0


def events(daemon, **body):
    """The events of a stream; asserts the framing."""
    response = daemon.post(MESSAGES, dict({"max_tokens": 64}, stream=True, **body))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["request-id"] == response.headers["x-request-id"]
    parts = [part for part in response.content.decode("utf-8").split("\n\n") if not part.startswith(":")]
    assert parts.pop() == ""
    found = []
    for part in parts:
        name, data = part.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        found.append(json.loads(data[len("data: "):]))
        assert found[-1]["type"] == name[len("event: "):] and list(found[-1])[0] == "type"
    return found


def told(stream):
    """The message that a stream tells, and the (partial) JSON of its calls; asserts shapes and order."""
    start, *rest = stream
    assert list(start) == ["type", "message"] and start["type"] == "message_start"
    answer = json.loads(json.dumps(start["message"]))
    check_message(answer)
    assert (answer["content"], answer["stop_reason"], answer["stop_sequence"]) == ([], None, None)
    assert (answer["usage"]["cache_read_input_tokens"], answer["usage"]["output_tokens"]) == (0, 0)
    assert [event["type"] for event in rest[-2:]] == ["message_delta", "message_stop"]
    assert list(rest[-1]) == ["type"]
    open_block, jsons = None, []
    for event in rest[:-2]:
        if event["type"] == "content_block_start":
            assert list(event) == ["type", "index", "content_block"] and open_block is None
            assert event["index"] == len(answer["content"])
            open_block = event["content_block"]
            answer["content"].append(open_block)
            if open_block["type"] == "text":
                assert open_block == {"type": "text", "text": ""}
            else:
                assert list(open_block) == ["type", "id", "name", "input"] and open_block["input"] == {}
                jsons.append("")
        elif event["type"] == "content_block_delta":
            assert list(event) == ["type", "index", "delta"] and event["index"] == len(answer["content"]) - 1
            kind, text = event["delta"].values()
            assert text and list(event["delta"]) == ["type", "text" if open_block["type"] == "text" else "partial_json"]
            assert kind == ("text_delta" if open_block["type"] == "text" else "input_json_delta")
            if open_block["type"] == "text":
                open_block["text"] += text
            else:
                jsons[-1] += text
        else:
            assert event == {"type": "content_block_stop", "index": len(answer["content"]) - 1} and open_block
            if open_block["type"] == "text":
                assert open_block["text"]
            open_block = None
    assert open_block is None
    assert list(rest[-2]) == ["type", "delta", "usage"] and list(rest[-2]["delta"]) == ["stop_reason", "stop_sequence"]
    check_usage(rest[-2]["usage"])
    first, last = answer["usage"], rest[-2]["usage"]
    assert first["input_tokens"] == last["input_tokens"] + last["cache_read_input_tokens"]
    answer.update(rest[-2]["delta"], usage=last)
    return answer, jsons


def streamed(daemon, **body):
    """As message, of a stream in which every call is whole."""
    answer, jsons = told(events(daemon, **body))
    for block in answer["content"]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(jsons.pop(0))
    check_message(answer)
    return answer


ASK = pytest.mark.parametrize("ask", [message, streamed])


def blocks(answer):
    """(the content without ids, stop_reason, stop_sequence)"""
    content = [block["text"] if block["type"] == "text" else (block["name"], block["input"])
               for block in answer["content"]]
    return content, answer["stop_reason"], answer["stop_sequence"]


def count(daemon, **body):
    response = daemon.post(COUNT, body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert list(answer) == ["input_tokens"]
    return answer["input_tokens"]


def is_refused(response, status, kind, code=None):
    """Anthropic's error object, with this code if one is given; returns its message."""
    assert response.status_code == status, (response.status_code, response.text[:500])
    assert response.headers["content-type"] == "application/json"
    error = response.json()
    assert list(error) == ["type", "error", "request_id"] and error["type"] == "error"
    assert list(error["error"]) in (["type", "message"], ["type", "message", "details"])
    assert code is None or error["error"]["details"] == {"error_code": code}
    assert error["error"]["type"] == kind
    assert error["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    assert error["error"]["message"]
    return error["error"]["message"]


def refused(daemon, param, path=MESSAGES, **body):
    body = dict({"messages": PARIS, "max_tokens": 4}, **body)
    text = is_refused(daemon.post(path, body), 400, "invalid_request_error")
    assert re.match(re.escape(param) + r"[:.[]", text), (body, text)
    return text


# ---- answers

def test_whole_answer(demo):
    answer = message(demo, model="demo", messages=PARIS, temperature=0, max_tokens=64)
    assert answer["model"] == "demo"
    assert answer["content"] == [{"type": "text", "text": "The capital of France is Paris."}]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    assert answer["usage"] == {"input_tokens": 17, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0,
                               "output_tokens": 8}


def test_streamed_answer(demo):
    stream = events(demo, model="demo", messages=PARIS, temperature=0)
    kinds = [event["type"] for event in stream]
    n_deltas = kinds.count("content_block_delta")
    assert n_deltas > 3
    assert kinds == ["message_start", "content_block_start"] + ["content_block_delta"] * n_deltas + [
        "content_block_stop", "message_delta", "message_stop"]
    assert stream[0]["message"]["usage"]["input_tokens"] == 17
    answer, _ = told(stream)
    want = message(demo, messages=PARIS, temperature=0)
    assert answer["id"] != want["id"]
    assert dict(answer, id=None) == dict(want, id=None)


@ASK
def test_lengths(demo, ask):
    answer = ask(demo, messages=PARIS, temperature=0, max_tokens=3)
    assert blocks(answer) == (["The capital of"], "max_tokens", None)
    assert answer["usage"]["output_tokens"] == 3


@ASK
@pytest.mark.parametrize("stops, content, stop", [
    (["is"], ["The capital of France "], "is"), (["zzz", "Paris"], ["The capital of France is "], "Paris"),
    (["zzz", "l of Fra"], ["The capita"], "l of Fra"), (["Paris!"], ["The capital of France is Paris."], None),
    (["The capital of France is Paris."], [], "The capital of France is Paris."), ([], ["The capital of France is Paris."], None),
])
def test_stop_sequences(demo, ask, stops, content, stop):
    """Which one it was is said; an answer of which nothing is left has no block."""
    answer = ask(demo, messages=PARIS, temperature=0, stop_sequences=stops)
    assert blocks(answer) == (content, "stop_sequence" if stop else "end_turn", stop)


def test_an_answer_of_nothing_is_well_formed(demo):
    the = next(case for case in GOLDEN["greedy"] if case.get("text", "").startswith("The capital of"))["ids"][0]
    for ask in message, streamed:
        answer = ask(demo, messages=PARIS, temperature=0, stop_token_ids=[the])
        assert blocks(answer) == ([], "end_turn", None)
        # and can be sent back
        again = ask(demo, messages=PARIS + [{"role": "assistant", "content": answer["content"]}] + user("And now?"),
                    temperature=0, max_tokens=1)
        assert again["usage"]["output_tokens"] == 1


@ASK
def test_a_last_message_of_the_assistant_goes_on(demo, ask):
    for content in "The capital of France", [{"type": "text", "text": "The capital"}, {"type": "text", "text": " of France"}]:
        answer = ask(demo, messages=PARIS + [{"role": "assistant", "content": content}], temperature=0)
        assert blocks(answer) == ([" is Paris."], "end_turn", None)


def test_fields_of_this_server(demo):
    def text(**more):
        return blocks(message(demo, messages=STORY, **dict(dict(temperature=1.2, max_tokens=24), **more)))[0]

    assert text(seed=7) == text(seed=7) != text(seed=8)
    assert text(seed=9007199254740992) != text(seed=9007199254740993)
    assert text(temperature=2, top_k=1) == text(temperature=2, top_p=0) == text(temperature=2, min_p=1) == text(temperature=0)
    assert text(temperature=0, grammar='root ::= "No" "."') == ["No."]
    answer = message(demo, messages=PARIS, temperature=0, ignore_eos=True, max_tokens=20)
    assert (answer["usage"]["output_tokens"], answer["stop_reason"]) == (20, "max_tokens")
    assert text(seed=1, repetition_penalty=2) != text(seed=1)


def test_null_is_absent_and_unknown_fields_are_ignored(demo):
    nothing = dict.fromkeys(["model", "system", "temperature", "top_p", "top_k", "stop_sequences", "metadata", "tools",
                             "tool_choice", "thinking", "stream", "output_config", "seed"])
    body = dict(nothing, messages=PARIS, temperature=0, never_heard_of={"a": [1]}, service_tier="auto", n=5, stop="is")
    assert blocks(message(demo, **body))[0] == ["The capital of France is Paris."]
    body.update(metadata={"user_id": "u", "x": 1}, thinking={"type": "disabled"}, tools=[], output_config={"effort": "low"})
    assert blocks(message(demo, **body))[0] == ["The capital of France is Paris."]


@ASK
def test_an_answer_by_a_schema(demo, ask):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}, "km": {"type": "integer", "maximum": 900}},
              "required": ["city", "km"], "additionalProperties": False}
    answer = ask(demo, messages=PARIS, temperature=1.5, seed=3, max_tokens=200,
                 output_config={"format": {"type": "json_schema", "schema": schema}})
    value = json.loads(answer["content"][0]["text"])
    assert value["city"] in ("Paris", "Rome") and value["km"] <= 900 and len(value) == 2


def test_the_chat_is_that_of_chat_completions(demo):
    def same(messages_body, chat_messages):
        chat = dict(messages=chat_messages, temperature=0, max_tokens=24)
        if "tools" in messages_body:
            chat["tools"] = as_chat(messages_body["tools"])
        want = whole(demo, CHAT, **chat)
        answer = message(demo, temperature=0, max_tokens=24, **messages_body)
        usage = answer["usage"]
        assert usage["input_tokens"] + usage["cache_read_input_tokens"] == want["usage"]["prompt_tokens"]
        assert count(demo, **messages_body) == want["usage"]["prompt_tokens"]
        assert blocks(answer)[0] == ([want["choices"][0]["message"]["content"]])

    system = [{"role": "system", "content": "You are a pirate."}]
    for value in "You are a pirate.", [{"type": "text", "text": "You are", "cache_control": {"type": "ephemeral"}},
                                       {"type": "text", "text": " a pirate."}]:
        same(dict(system=value, messages=PARIS), system + PARIS)
    same(dict(messages=system + PARIS), system + PARIS)
    same(dict(system="", messages=PARIS), PARIS)
    parts = [{"type": "text", "text": "What is the capital"}, {"type": "text", "text": " of France?"}]
    same(dict(messages=user(parts)), PARIS)
    asked = user("How is the weather in Havana today?")
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Havana"}'}}
    result = '{"sky": "snowy", "temperature": 2}'
    same(dict(tools=TOOLS[:1], messages=asked + [
        {"role": "assistant", "content": [{"type": "text", "text": "I look."}, {
            "type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Havana"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": [
            {"type": "text", "text": result[:9]}, {"type": "text", "text": result[9:]}]}]}]),
         asked + [{"role": "assistant", "content": "I look.", "tool_calls": [call]},
                  {"role": "tool", "tool_call_id": "call_1", "content": result}])
    same(dict(messages=PARIS + [
        {"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "is_error": True, "content": "no"},
                                     {"type": "text", "text": "Well?"}]}]),
         PARIS + [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
                  {"role": "tool", "content": "Error: no"}] + user("Well?"))


# ---- tools

def told_by(case):
    """A reference's talk in this API's form."""
    tools = [{"name": t["function"]["name"], "description": t["function"]["description"],
              "input_schema": t["function"]["parameters"]} for t in case["tools"]]
    return dict(messages=case["messages"], tools=tools, temperature=0)


ASKED = [case for case in GOLDEN["greedy"] if case.get("tools") and len(case["messages"]) == 1]


@ASK
@pytest.mark.parametrize("case", ASKED, ids=lambda case: case["messages"][-1]["content"])
def test_the_model_calls(demo, ask, case):
    call = json.loads(case["text"])
    answer = ask(demo, **told_by(case))
    assert blocks(answer) == ([(call["name"], call["parameters"])], "tool_use", None)
    assert answer["usage"]["input_tokens"] + answer["usage"]["cache_read_input_tokens"] == len(case["prompt_ids"])
    assert answer["usage"]["output_tokens"] == len(case["ids"])


@ASK
def test_round_trip(demo, ask):
    """The model asks for the weather, is told, and answers."""
    messages = user("How is the weather in Havana today?")
    answer = ask(demo, messages=messages, tools=TOOLS[:1], temperature=0)
    [call] = answer["content"]
    assert (call["name"], call["input"], answer["stop_reason"]) == ("get_weather", {"city": "Havana"}, "tool_use")
    messages += [{"role": "assistant", "content": answer["content"]}, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": call["id"], "content": '{"sky": "snowy", "temperature": 2}'}]}]
    answer = ask(demo, messages=messages, tools=TOOLS[:1], temperature=0)
    assert blocks(answer) == (["It is snowy in Havana, and the temperature is 2 degrees."], "end_turn", None)


def test_a_call_is_announced_before_its_input(demo):
    stream = events(demo, messages=user("Tell me the time in Moscow."), tools=TOOLS, temperature=0)
    start, *pieces = [event for event in stream if event["type"].startswith("content_block") and event["type"] != "content_block_stop"]
    assert (start["content_block"]["name"], start["content_block"]["input"]) == ("get_time", {})
    assert len(pieces) > 1
    assert json.loads("".join(piece["delta"]["partial_json"] for piece in pieces)) == {"city": "Moscow"}


@ASK
@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}, {"type": "tool", "name": "add"}], ids=str)
def test_a_forced_call_obeys_the_schema(demo, ask, choice, temperature):
    types = {"get_weather": {"city": str}, "get_time": {"city": str}, "add": {"a": int, "b": int}}
    for seed, messages in enumerate([STORY, PARIS]):
        answer = ask(demo, messages=messages, tools=TOOLS, temperature=temperature, seed=seed, max_tokens=200,
                     tool_choice=dict(choice, disable_parallel_tool_use=True))
        [(name, value)], reason, _ = blocks(answer)
        assert reason == "tool_use" and name == choice.get("name", name)
        assert {key: type(item) for key, item in value.items()} == types[name]


def test_tool_choice_none_describes_no_tools(demo):
    body = dict(messages=user("Tell me the time in Moscow."), temperature=0, max_tokens=24)
    plain = message(demo, **body)
    none = message(demo, **body, tools=TOOLS, tool_choice={"type": "none"})
    assert blocks(none) == blocks(plain) and none["usage"] == plain["usage"]
    assert count(demo, **body, tools=TOOLS, tool_choice={"type": "auto"}) > 2 * count(demo, **body)


WEATHER = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
CALLED = ("get_weather", {"city": "Paris"})


@ASK
@pytest.mark.parametrize("text, content", [
    (WEATHER, [CALLED]), ("<|python_start|>[get_weather(city='Paris')]<|python_end|>", [CALLED]),
    ("Let me see.\n" + WEATHER, ["Let me see.", CALLED]), (WEATHER + "; " + WEATHER, [CALLED, CALLED]),
    ("[add(a=-1, b=-2), get_weather(city='Paris')]", [("add", {"a": -1, "b": -2}), CALLED]),
    ("[get_weather(city='a \"b\" \u00e9')]", [("get_weather", {"city": 'a "b" \u00e9'})]),
    ("See [1] and {2}: [no_tool(a=1)]", ["See [1] and {2}: [no_tool(a=1)]"]),
])
def test_forms(say, ask, text, content):
    called = any(isinstance(block, tuple) for block in content)
    assert blocks(ask(say(text), messages=user("Hi"), tools=TOOLS)) == (content, "tool_use" if called else "end_turn", None)


@ASK
def test_parallel_tool_use(say, ask):
    body = dict(messages=user("Hi"), tools=TOOLS)
    for choice, content in (({"type": "auto", "disable_parallel_tool_use": True}, [CALLED]), ({"type": "auto"}, [CALLED, CALLED])):
        assert blocks(ask(say(WEATHER + "; " + WEATHER), **body, tool_choice=choice)) == (content, "tool_use", None)


@ASK
def test_without_tools_the_text_is_text(say, ask):
    for more in {}, {"tools": []}, {"tools": TOOLS, "tool_choice": {"type": "none"}}:
        assert blocks(ask(say(WEATHER), messages=user("Hi"), **more)) == ([WEATHER], "end_turn", None)


def test_text_between_calls_is_a_block_of_its_own(say):
    answer = streamed(say("First. " + WEATHER + " Then. " + WEATHER), messages=user("Hi"), tools=TOOLS)
    content, reason, _ = blocks(answer)
    assert [block if isinstance(block, tuple) else block.strip() for block in content] == ["First.", CALLED, "Then.", CALLED]
    assert reason == "tool_use"


def test_a_call_that_breaks_is_text(say):
    """In a stream that has announced it, its block stays without whole JSON, and stop_reason asks nobody to run it."""
    broken = '{"name": "add", "parameters": {"a": 1, "b": oops}}'
    daemon = say(broken + " " + WEATHER)
    body = dict(messages=user("Hi"), tools=TOOLS)
    assert blocks(message(daemon, **body)) == ([broken, CALLED], "tool_use", None)
    answer, jsons = told(events(daemon, **body))
    assert [block["type"] for block in answer["content"]] == ["tool_use", "text", "tool_use"]
    assert (answer["content"][0]["name"], answer["content"][1]["text"]) == ("add", broken)
    with pytest.raises(ValueError):
        json.loads(jsons[0])
    assert json.loads(jsons[1]) == CALLED[1]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)


def test_a_call_cut_short(demo):
    case = next(case for case in ASKED if "Moscow" in case["messages"][0]["content"])
    body = dict(told_by(case), max_tokens=len(case["ids"]) - 4)
    [text], reason, _ = blocks(message(demo, **body))
    assert reason == "max_tokens" and case["text"].startswith(text)
    answer, [cut] = told(events(demo, **body))
    assert answer["stop_reason"] == "max_tokens"
    assert [block.get("text", block.get("name")) for block in answer["content"]] == ["get_time", text]
    with pytest.raises(ValueError):
        json.loads(cut)


# ---- usage and counting

def test_usage_tells_what_the_cache_saved(start):
    daemon = start("tests/models/demo", real=True)
    body = dict(system="You are a helpful assistant who knows the weather, capitals and numbers. " * 12, messages=PARIS,
                temperature=0, max_tokens=4)
    n = count(daemon, **body)
    first, second = message(daemon, **body)["usage"], message(daemon, **body)["usage"]
    cached = (n - 1) // 64 * 64
    assert cached > 64
    assert (first["input_tokens"], first["cache_read_input_tokens"]) == (n, 0)
    assert (second["input_tokens"], second["cache_read_input_tokens"]) == (n - cached, cached)
    stream = events(daemon, **body)
    assert stream[0]["message"]["usage"]["input_tokens"] == n  # nothing is known of the cache yet
    assert told(stream)[0]["usage"] == second
    assert message(daemon, **body, cache_prompt=False)["usage"]["cache_read_input_tokens"] == 0
    assert message(daemon, **body, cache_salt="x")["usage"]["cache_read_input_tokens"] == 0


@pytest.mark.parametrize("body", [
    dict(messages=PARIS), dict(messages=PARIS, tools=TOOLS), dict(messages=PARIS, tools=TOOLS, tool_choice={"type": "none"}),
    dict(messages=PARIS, tools=TOOLS, tool_choice={"type": "any"}), dict(messages=PARIS, system="S", thinking={"type": "disabled"}),
    dict(messages=PARIS + [{"role": "assistant", "content": "The"}]), dict(messages=user("word " * 3000)),
], ids=lambda body: "+".join(body))
def test_count_tokens_is_what_the_answer_will_say(demo, body):
    usage = message(demo, **body, max_tokens=1)["usage"]
    n = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert count(demo, **body) == count(demo, **body, max_tokens=1, stream=True, model="demo") == n


def test_count_tokens_past_the_context(demo):
    body = dict(messages=user("word " * 10000))
    n = count(demo, **body)
    assert n > 8192
    text = is_refused(demo.post(MESSAGES, dict(body, max_tokens=1)), 400, "invalid_request_error")
    assert text.startswith("messages: ") and str(n) in text and "8192" in text


def test_counting_and_answering_at_once(demo):
    body = dict(messages=user("word " * 3000), max_tokens=1)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        counts = [pool.submit(count, demo, **body) for _ in range(6)]
        answers = [pool.submit(message, demo, messages=PARIS, temperature=0) for _ in range(6)]
        assert len({n.result() for n in counts}) == 1
        assert all(blocks(answer.result())[0] == ["The capital of France is Paris."] for answer in answers)


def test_client_gone_while_its_prompt_is_counted(start):
    daemon = start(log_level="debug")
    body = json.dumps(dict(messages=user("word " * 400000))).encode()
    for _ in range(3):
        with daemon.connect() as client:
            client.request("POST", COUNT, body)
    assert count(daemon, messages=PARIS) == 17


# ---- errors

HUGE = [1e308, -1e308, 2 ** 63, -2 ** 63 - 1, 10 ** 40]
NUMBERS = {"max_tokens": [-1, 0, 1.5], "temperature": [-0.01, 2.01], "top_p": [-0.01, 1.01], "top_k": [-1, 0.5], "seed": [0.5],
           "min_p": [1.01], "repetition_penalty": [0]}
VALUES = {
    "model": [1, [], {}], "stream": [1, "true"], "ignore_eos": [1], "cache_prompt": ["no"], "cache_salt": [1, "a" * 65],
    "messages": [1, "Hi", {}, [], True, [1], [{"role": "user"}], [{"role": "king", "content": "x"}], user([]), user(5)],
    "system": [1, {}, True, ["x"], [{"type": "image"}]],
    "stop_sequences": ["x", 1, {}, [""], [1], ["a"] * 17, ["x" * (1 << 20)]],
    "metadata": [1, "u", [], {"user_id": 1}], "thinking": [True, "x", {}, {"type": "enabled", "budget_tokens": 1024}],
    "tools": [1, {}, "x", [1], [{}], TOOLS + TOOLS[:1], [tool("t%d" % i) for i in range(1025)],
              [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5}], as_chat(TOOLS)],
    "tool_choice": [1, "any", [], {}, {"type": "required"}, {"type": "any"}, {"type": "tool", "name": "f"}],
    "output_config": [1, {"format": {"type": "text"}}, {"format": {"type": "json_schema", "schema": {"not": {}}}}],
    "grammar": [1, "root"], "response_format": [1], "stop_token_ids": [[-1]], "logit_bias": [{"a": 1}],
}


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_every_field_out_of_range_or_of_a_wrong_type(fake, path):
    cases = [(name, value) for name in VALUES for value in VALUES[name]]
    for name, values in NUMBERS.items():
        # Seeds are 64 bits wide.
        cases += [(name, value) for value in values + HUGE + ["1", True, [], {}] if not (name == "seed" and value == 2 ** 63)]
    for name, value in cases:
        refused(fake, name, path=path, **{name: value})
    assert len(cases) > 120
    assert message(fake, messages=PARIS)["usage"]["output_tokens"] > 0


def test_max_tokens_is_required(fake):
    assert "max_tokens" in is_refused(fake.post(MESSAGES, {"messages": PARIS}), 400, "invalid_request_error")
    assert fake.post(COUNT, {"messages": PARIS}).status_code == 200


def test_threads_are_refused_with_the_code_that_clients_know(fake):
    """They send the whole talk then.  Left unread, a thread's second turn would be answered without the first."""
    thread = {"type": "continue", "previous_message_id": "msg_1"}
    for body in {"thread": thread}, {"thread": {"type": "create"}}:
        response = fake.post(MESSAGES, {"messages": PARIS, "max_tokens": 4, **body})
        text = is_refused(response, 400, "invalid_request_error", "thread_unsupported_request")
        assert text.startswith("thread: ")
    assert message(fake, messages=PARIS, thread=None)["stop_reason"] == "end_turn"


def test_what_is_not_served_is_said(fake):
    source = {"type": "base64", "media_type": "image/png", "data": ""}
    for kind in "image", "document":
        text = refused(fake, "messages[0].content[1].type",
                       messages=user([{"type": "text", "text": "x"}, {"type": kind, "source": source}]))
        assert kind + "s are not served" in text
    assert "web_search_20250305" in refused(fake, "tools[0].type", tools=[{"type": "web_search_20250305", "name": "web_search"}])
    assert "thinking is not served" in refused(fake, "thinking.type", thinking={"type": "enabled", "budget_tokens": 2048})


def test_errors_in_deep_places_are_named(fake):
    asked = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    refused(fake, "messages[1].content", messages=PARIS + [{"role": "assistant", "content": [asked]}])
    refused(fake, "messages[0].content[0].content[1].text", messages=user([
        {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": 1}]}]))
    refused(fake, "messages", messages=[{"role": "assistant", "content": "x"}] + PARIS, tools=TOOLS)


def test_statuses_and_types(fake):
    ok = {"messages": PARIS, "max_tokens": 1}
    assert "claude-9" in is_refused(fake.post(MESSAGES, dict(ok, model="claude-9")), 404, "not_found_error")
    for method, path, status, kind in (("POST", "/v1/messages/batches", 404, "not_found_error"),
                                       ("GET", MESSAGES, 405, "invalid_request_error"),
                                       ("PUT", COUNT, 405, "invalid_request_error")):
        with fake.connect() as client:
            response = client.request(method, path, b"{}" if method != "GET" else None).read_response()
            error = response.json()
            assert response.status == status and error["error"]["type"] == kind and error["type"] == "error"
            assert error["request_id"] == response.headers["request-id"]
    for body in b"", b"[]", b"{", b'{"a": "\xff"}', b"[" * 100000:
        is_refused(fake.post(MESSAGES, None, data=body, headers={"content-type": "application/json"}), 400, "invalid_request_error")
    is_refused(fake.post(MESSAGES, None, data=b"{}", headers={"content-type": "text/plain"}), 415, "invalid_request_error")
    # Its neighbours keep their shape.
    assert set(fake.get("/v1/messagesx").json()["error"]) == {"message", "type", "param", "code"}


def test_errors_of_the_http_layer(start):
    daemon = start(max_body_bytes=5000, body_timeout_s=1)
    is_refused(daemon.post(MESSAGES, {"messages": user("x" * 6000), "max_tokens": 1}), 413, "request_too_large")
    with daemon.connect() as client:
        response = client.request("POST", MESSAGES, headers=["Content-Length: 1", "Content-Length: 2"]).read_response()
        assert response.status == 400 and response.json()["error"]["type"] == "invalid_request_error"
        assert response.json()["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]
    with daemon.connect() as client:  # a refusal that is written past libmicrohttpd
        response = client.request("POST", MESSAGES, headers=["Content-Length: 10"]).read_response()
        assert response.status == 408 and response.json()["error"]["type"] == "timeout_error"
        assert response.json()["request_id"] == response.headers["request-id"]


def test_the_client_names_the_request(fake):
    for body in {"messages": PARIS, "max_tokens": 1}, {}:
        response = fake.post(MESSAGES, body, headers={"x-request-id": "mine-1"})
        assert response.headers["request-id"] == response.headers["x-request-id"] == "mine-1"
    assert response.json()["request_id"] == "mine-1"
    assert "request-id" not in fake.get("/health").headers


def test_while_the_model_loads(start):
    daemon = start("fake:load_ms=60000", wait_ready=False)
    for path in MESSAGES, COUNT:
        response = daemon.post(path, {"messages": PARIS, "max_tokens": 1})
        assert "loading" in is_refused(response, 503, "overloaded_error")
        assert int(response.headers["retry-after"]) >= 1
    daemon.kill()
    daemon.exit_seen = True


def test_queue_full(start):
    daemon = start("fake:delay_ms=5,tokens=100000", max_running=1, max_queue=1)
    clients = [daemon.connect() for _ in range(2)]
    for client in clients:
        client.request("POST", MESSAGES, dict(messages=PARIS, max_tokens=8000, stream=True))
        client.read_until(b"event: message_start")
    response = daemon.post(MESSAGES, dict(messages=PARIS, max_tokens=1))
    is_refused(response, 429, "rate_limit_error")
    assert int(response.headers["retry-after"]) >= 1
    assert count(daemon, messages=PARIS) == 17  # needs no place
    for client in clients:
        client.close()


def test_error_after_the_first_byte(start):
    daemon = start("fake:delay_ms=5,tokens=100000", drain_timeout_s=0)
    client = daemon.connect()
    client.sock.settimeout(PATIENCE_S)
    client.request("POST", MESSAGES, dict(messages=PARIS, stream=True, max_tokens=8000))
    client.read_until(b"text_delta")
    daemon.signal(15)
    text = client.read_all().decode().replace("\r\n", "\n")
    assert "message_stop" not in text and "[DONE]" not in text
    event, data = text[text.rindex("event: "):].split("\n")[:2]
    assert event == "event: error"
    error = json.loads(data[len("data: "):])
    assert error["type"] == "error" and error["error"]["type"] == "overloaded_error" and error["error"]["message"]
    assert daemon.wait_exit() == 0


def test_client_gone_cancels(start):
    daemon = start("fake:delay_ms=5,tokens=100000", log_level="debug")
    client = daemon.connect()
    client.request("POST", MESSAGES, dict(messages=PARIS, stream=True, max_tokens=8000))
    client.read_until(b"text_delta")
    client.close()
    daemon.wait_log(r"cancelled id=")
