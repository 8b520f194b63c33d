"""POST /v1/responses: answers and events field by field, on the demo model and on what the fake engine is given to say."""

import json
import re

import pytest

from api import CHAT, GOLDEN, RESPONSES, refused, user, whole
from conftest import PATIENCE_S

PARIS = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
CITY = {"type": "string"}
ID = {"message": re.compile(r"msg_[0-9a-f]{36}"), "function_call": re.compile(r"fc_[0-9a-f]{24}")}
CALL_ID = re.compile(r"call_[0-9a-f]{24}")
FIELDS = ["id", "object", "created_at", "status", "error", "incomplete_details", "model", "output", "usage", "background",
          "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "previous_response_id",
          "prompt_cache_key", "reasoning", "safety_identifier", "service_tier", "store", "temperature", "text", "tool_choice",
          "tools", "user", "top_logprobs", "top_p", "truncation"]
ASKED = [case for case in GOLDEN["greedy"] if case.get("tools") and case["messages"][-1]["role"] == "user"]
TOLD = [case for case in GOLDEN["greedy"] if case.get("tools") and case["messages"][-1]["role"] == "tool"]


def tool(name, **properties):
    return {"type": "function", "name": name, "description": "Does %s." % name, "strict": None, "parameters": {
        "type": "object", "properties": properties, "required": list(properties)}}


TOOLS = [tool("get_weather", city=CITY), tool("get_time", city=CITY), tool("add", a={"type": "integer"}, b={"type": "integer"})]


def chat_tools(tools):
    """The same tools as chat has them."""
    return [{"type": "function", "function": {k: v for k, v in t.items() if k != "type" and v is not None}} for t in tools]


def flat_tools(tools):
    return [dict(t["function"], type="function") for t in tools]


def check_items(items, final=True):
    """Shapes of output items; returns what they say: texts and (name, arguments) in order."""
    said = []
    for item in items:
        assert ID[item["type"]].fullmatch(item["id"]), item
        if item["type"] == "message":
            assert list(item) == ["id", "type", "status", "role", "content"]
            assert item["role"] == "assistant"
            [part] = item["content"]
            assert list(part) == ["type", "text", "annotations", "logprobs"]
            assert part["type"] == "output_text" and part["annotations"] == []
            said.append(part["text"])
        else:
            assert list(item) == ["id", "type", "status", "call_id", "name", "arguments"]
            assert CALL_ID.fullmatch(item["call_id"])
            if final:
                assert item["status"] == "completed"
                assert isinstance(json.loads(item["arguments"]), dict)
            said.append((item["name"], item["arguments"]))
    assert len({item["id"] for item in items}) == len(items)
    return said


def check_response(response, status):
    assert list(response) == FIELDS
    assert re.fullmatch(r"resp_[0-9a-f]{32}", response["id"])
    assert (response["object"], response["status"]) == ("response", status)
    assert isinstance(response["created_at"], int) and response["created_at"] > 1_600_000_000
    assert response["incomplete_details"] == ({"reason": "max_output_tokens"} if status == "incomplete" else None)
    assert (response["error"] is None) == (status != "failed")
    assert (response["usage"] is None) == (status == "in_progress")
    if response["usage"]:
        assert list(response["usage"]) == ["input_tokens", "input_tokens_details", "output_tokens", "output_tokens_details",
                                           "total_tokens"]
    return response


def events_of(text):
    """The events of a stream; asserts framing, names and numbers."""
    parts = [part for part in text.split("\n\n") if not part.startswith(":")]
    assert parts.pop() == ""
    events = []
    for i, part in enumerate(parts):
        name, data = part.split("\n")
        assert name.startswith("event: ") and data.startswith("data: ")
        event = json.loads(data[len("data: "):])
        assert list(event)[:2] == ["type", "sequence_number"]
        assert (event["type"], event["sequence_number"]) == (name[len("event: "):], i)
        events.append(event)
    return events


def stream(daemon, **body):
    response = daemon.post(RESPONSES, dict(body, stream=True))
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return events_of(response.content.decode("utf-8"))


MESSAGE_EVENT = ["type", "sequence_number", "output_index", "item_id", "content_index"]
CALL_EVENT = ["type", "sequence_number", "output_index", "item_id"]


def read_message(events, index, item):
    """The events of a message after the one that began it, up to the one that ends it, which has the item."""
    assert item["content"] == []
    assert list(events[0]) == MESSAGE_EVENT + ["part"] and events[0]["type"] == "response.content_part.added"
    assert events[0]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    done, part_done = events[-2:]
    for event in events:
        assert (event["output_index"], event["item_id"], event["content_index"]) == (index, item["id"], 0)
    for event in events[1:-2]:
        assert list(event) == MESSAGE_EVENT + ["delta", "logprobs"] and event["type"] == "response.output_text.delta"
    assert list(done) == MESSAGE_EVENT + ["text", "logprobs"] and done["type"] == "response.output_text.done"
    assert done["text"] == "".join(event["delta"] for event in events[1:-2])
    assert done["logprobs"] == [entry for event in events[1:-2] for entry in event["logprobs"]]
    assert list(part_done) == MESSAGE_EVENT + ["part"] and part_done["type"] == "response.content_part.done"
    assert part_done["part"] == {"type": "output_text", "text": done["text"], "annotations": [], "logprobs": done["logprobs"]}
    return dict(item, content=[part_done["part"]])


def read_call(events, index, item):
    assert item["arguments"] == ""
    deltas = [event for event in events if event["type"] == "response.function_call_arguments.delta"]
    for event in events:
        assert (event["output_index"], event["item_id"]) == (index, item["id"])
    for event in deltas:
        assert list(event) == CALL_EVENT + ["delta"] and event["delta"]
    arguments = "".join(event["delta"] for event in deltas)
    if len(events) > len(deltas):  # a call that breaks has no such event
        assert list(events[-1]) == CALL_EVENT + ["name", "arguments"]
        assert events[-1]["type"] == "response.function_call_arguments.done"
        assert (events[-1]["name"], events[-1]["arguments"]) == (item["name"], arguments)
        assert len(events) == len(deltas) + 1
    return dict(item, arguments=arguments)


def read_stream(events):
    """(items as they were streamed, the Response at the end): asserts the order of events and that each adds up."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    for event in events[:2]:
        assert check_response(event["response"], "in_progress")["output"] == []
    assert events[0]["response"] == events[1]["response"]
    items, at = [], 2
    while at < len(events) - 1:
        added = events[at]
        assert list(added) == ["type", "sequence_number", "output_index", "item"]
        assert (added["type"], added["output_index"]) == ("response.output_item.added", len(items))
        end = next(i for i in range(at, len(events)) if events[i]["type"] == "response.output_item.done")
        assert added["item"]["status"] == "in_progress"
        read = read_message if added["item"]["type"] == "message" else read_call
        item = read(events[at + 1:end], len(items), added["item"])
        done = events[end]
        assert list(done) == ["type", "sequence_number", "output_index", "item"] and done["output_index"] == len(items)
        assert done["item"] == dict(item, status=done["item"]["status"])
        assert done["item"]["status"] in ("completed", "incomplete")
        items.append(done["item"])
        at = end + 1
    last = events[-1]
    assert last["type"] == "response." + last["response"]["status"]
    response = check_response(last["response"], last["response"]["status"])
    assert dict(response, status=None, incomplete_details=None, output=None, usage=None) == \
        dict(events[0]["response"], status=None, incomplete_details=None, output=None, usage=None)
    assert response["output"] == [item for item in items if (item["type"], item["status"]) != ("function_call", "incomplete")]
    return items, response


def lasting(response):
    """What two answers to the same request have in common."""
    def without_ids(value):
        if isinstance(value, dict):
            return {k: without_ids(v) for k, v in value.items() if k not in ("id", "call_id", "created_at")}
        return [without_ids(v) for v in value] if isinstance(value, list) else value
    response = without_ids(response)
    response["usage"].pop("input_tokens_details")
    return response


def answers(daemon, **body):
    """The Response to a request, whole; asserts that a stream comes to the same."""
    response = whole(daemon, RESPONSES, **body)
    check_response(response, response["status"])
    assert lasting(read_stream(stream(daemon, **body))[1]) == lasting(response)
    return response


def said(response):
    return check_items(response["output"])


# ---- the demo model

def test_field_by_field(demo):
    response = check_response(whole(demo, RESPONSES, model="demo", input=PARIS, temperature=0), "completed")
    [item] = response["output"]
    assert said(response) == [ANSWER]
    assert item["status"] == "completed" and item["content"][0]["logprobs"] == []
    assert response["usage"] == {"input_tokens": 17, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                                 "output_tokens": 8, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 25}
    assert {k: v for k, v in response.items() if k not in ("id", "created_at", "output", "usage", "top_p")} == {
        "object": "response", "status": "completed", "error": None, "incomplete_details": None, "model": "demo",
        "background": False, "instructions": None, "max_output_tokens": None, "max_tool_calls": None, "metadata": {},
        "parallel_tool_calls": True, "previous_response_id": None, "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None}, "safety_identifier": None, "service_tier": "default", "store": False,
        "temperature": 0, "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
        "user": None, "top_logprobs": 0, "truncation": "disabled"}
    assert 0 < response["top_p"] <= 1  # the model's own


def test_what_is_echoed(demo):
    fields = {"instructions": "Say \"no\".\n", "max_output_tokens": 2, "max_tool_calls": 3, "metadata": {"a": "é\n", "b": ""},
              "parallel_tool_calls": False, "prompt_cache_key": "k", "safety_identifier": "s", "temperature": 0.3,
              "top_p": 0.75, "text": {"format": {"type": "json_object"}, "verbosity": "low"}, "tool_choice": "none",
              "tools": TOOLS, "user": "u", "top_logprobs": 2, "truncation": "disabled", "background": False}
    ignored = {"store": True, "service_tier": "flex", "reasoning": {"effort": "high"}, "include": ["reasoning.encrypted_content"],
               "never_heard_of": [1]}
    response = answers(demo, input=PARIS, seed=1, **fields, **ignored)
    assert {k: response[k] for k in fields} == fields
    assert (response["store"], response["service_tier"]) == (False, "default")
    assert response["reasoning"] == {"effort": None, "summary": None}
    defaults = answers(demo, input=PARIS, max_output_tokens=1, tools=[{"type": "function", "name": "f"}], temperature=0)
    assert defaults["tools"] == [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}]


def test_the_prompt_is_the_one_of_chat(demo):
    """The same tokens: counted, and found in the prefix cache by their salt."""
    def prompts(salt, messages, tools=None, **body):
        chat = dict(messages=messages, max_tokens=1, temperature=0, cache_salt=salt)
        mine = dict(body, max_output_tokens=1, temperature=0, prompt_cache_key=salt)
        if tools:
            chat["tools"], mine["tools"] = chat_tools(tools), tools
        first, second = whole(demo, CHAT, **chat)["usage"], whole(demo, RESPONSES, **mine)["usage"]
        assert second["input_tokens"] == first["prompt_tokens"]
        assert second["input_tokens_details"]["cached_tokens"] == (first["prompt_tokens"] - 1) // 64 * 64
        assert first["prompt_tokens_details"]["cached_tokens"] == 0

    long = "Tell me a story about a lamb named Ben. " * 12
    prompts("text", user(long), input=long)
    prompts("system", [{"role": "system", "content": long}] + user("Hi"), instructions=long, input="Hi")
    prompts("parts", user(long + long), input=user([{"type": "input_text", "text": long}] * 2))
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'}}
    prompts("tools", user("Hi") + [{"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]},
                                   {"role": "tool", "tool_call_id": "c", "content": long}] + user("So?"),
            tools=TOOLS,
            input=user("Hi") + [{"role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
                                {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": '{"city": "Rome"}'},
                                {"type": "reasoning", "id": "rs_1", "summary": []},
                                {"type": "function_call", "call_id": "d", "name": "get_weather", "arguments": '{"city": "Rome"}'},
                                {"type": "function_call_output", "call_id": "c", "output": long}] + user("So?"))


def test_streamed_text(demo):
    events = stream(demo, input=PARIS, temperature=0)
    items, response = read_stream(events)
    assert check_items(items) == [ANSWER] and response["status"] == "completed"
    assert response["usage"]["output_tokens"] == 8 and response["usage"]["total_tokens"] == 25
    assert len([event for event in events if event["type"] == "response.output_text.delta"]) > 2
    assert lasting(response) == lasting(whole(demo, RESPONSES, input=PARIS, temperature=0))


def test_a_limit(demo):
    response = answers(demo, input=PARIS, temperature=0, max_output_tokens=3)
    assert (response["status"], said(response)) == ("incomplete", ["The capital of"])
    assert response["output"][0]["status"] == "incomplete"
    assert response["usage"]["output_tokens"] == 3


def test_extensions(demo):
    stopped = answers(demo, input=PARIS, temperature=0, stop="Paris", ignore_eos=True)
    assert (stopped["status"], said(stopped)) == ("completed", ["The capital of France is "])
    nothing = answers(demo, input=PARIS, temperature=0, stop=["The"])
    assert (nothing["status"], said(nothing)) == ("completed", [""])
    assert said(answers(demo, input=PARIS, temperature=2, top_k=1)) == [ANSWER]
    assert said(answers(demo, input=PARIS, temperature=1.5, seed=3, max_output_tokens=8)) == \
        said(whole(demo, RESPONSES, input=PARIS, temperature=1.5, seed=3, max_output_tokens=8))
    assert re.fullmatch("[ab]{4}", said(answers(demo, input=PARIS, seed=1, grammar="root ::= [ab]{4}"))[0])


def test_logprobs(demo):
    chat = whole(demo, CHAT, messages=user(PARIS), temperature=0, logprobs=True, top_logprobs=2)
    want = chat["choices"][0]["logprobs"]["content"]
    include = ["message.output_text.logprobs"]
    response = answers(demo, input=PARIS, temperature=0, include=include, top_logprobs=2)
    assert response["output"][0]["content"][0]["logprobs"] == want
    assert answers(demo, input=PARIS, temperature=0, top_logprobs=2)["output"][0]["content"][0]["logprobs"] == want
    plain = answers(demo, input=PARIS, temperature=0, include=include)["output"][0]["content"][0]["logprobs"]
    assert plain == [dict(token, top_logprobs=[]) for token in want]


def test_formats(demo):
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"],
              "additionalProperties": False}
    form = {"type": "json_schema", "name": "place", "strict": True, "schema": schema}
    response = answers(demo, input=PARIS, temperature=1.5, seed=1, text={"format": form})
    assert json.loads(said(response)[0])["city"] in ("Paris", "Rome")
    assert response["text"]["format"] == form
    response = answers(demo, input=PARIS, temperature=0, max_output_tokens=40, text={"format": {"type": "json_object"}})
    assert said(response)[0].startswith("{")


@pytest.mark.parametrize("case", ASKED, ids=lambda case: case["messages"][-1]["content"])
def test_the_model_calls(demo, case):
    call = json.loads(case["text"])
    response = answers(demo, input=case["messages"], tools=flat_tools(case["tools"]), temperature=0)
    assert said(response) == [(call["name"], json.dumps(call["parameters"]))]
    assert response["usage"]["input_tokens"] == len(case["prompt_ids"])


def test_round_trip(demo):
    """The model asks for the weather, is told, and answers; its output goes back as it is."""
    case = TOLD[0]
    asked = case["messages"][:1]
    first = answers(demo, input=asked, tools=flat_tools(case["tools"]), temperature=0)
    [call] = first["output"]
    told = {"type": "function_call_output", "call_id": call["call_id"], "output": case["messages"][-1]["content"]}
    second = answers(demo, input=asked + first["output"] + [told], tools=flat_tools(case["tools"]), temperature=0)
    assert said(second) == [case["text"]]
    assert second["usage"]["input_tokens"] == len(case["prompt_ids"])


def test_forced_calls(demo):
    for choice in "required", {"type": "function", "name": "get_time"}:
        response = answers(demo, input=PARIS, tools=TOOLS, tool_choice=choice, temperature=0, parallel_tool_calls=False)
        [(name, arguments)] = said(response)
        assert name == "get_time" or choice == "required"
        assert response["tool_choice"] == choice
    none = answers(demo, input=PARIS, tools=TOOLS, tool_choice="none", temperature=0)
    assert said(none) == [ANSWER] and none["tools"] == TOOLS


# ---- what the fake engine says

WEATHER = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
CALLED = ("get_weather", '{"city": "Paris"}')


@pytest.mark.parametrize("text, output", [
    (WEATHER, [CALLED]),
    ("Let me see.\n" + WEATHER, ["Let me see.", CALLED]),
    (WEATHER + "; " + WEATHER, [CALLED, CALLED]),
    ("One: " + WEATHER + " two: [add(a=-1, b=2)] three.", ["One:", CALLED, " two:", ("add", '{"a": -1, "b": 2}'), " three."]),
    ("See [1] and {2}: [no_tool(a=1)]", ["See [1] and {2}: [no_tool(a=1)]"]),
    ("é \"quoted\" \\ \u2028 end", ["é \"quoted\" \\ \u2028 end"]),
])
def test_items_in_the_order_of_the_text(say, text, output):
    response = answers(say(text), input="Hi", tools=TOOLS)
    assert (said(response), response["status"]) == (output, "completed")


def test_one_call_at_most(say):
    assert said(answers(say(WEATHER + "; " + WEATHER), input="Hi", tools=TOOLS, parallel_tool_calls=False)) == [CALLED]


def test_a_call_that_breaks_is_text(say):
    broken = '{"name": "add", "parameters": {"a": 1, "b": oops}}'
    daemon = say("So: " + broken + " " + WEATHER)
    response = answers(daemon, input="Hi", tools=TOOLS)
    assert said(response) == ["So:", " " + broken, CALLED]
    items, last = read_stream(stream(daemon, input="Hi", tools=TOOLS))
    assert check_items(items, final=False)[0::2] == ["So:", " " + broken]
    assert [item["status"] for item in items] == ["completed", "incomplete", "completed", "completed"]
    assert items[1]["name"] == "add" and items[1]["arguments"].startswith('{"a": 1')
    with pytest.raises(ValueError):
        json.loads(items[1]["arguments"])
    assert last["status"] == "completed"


def test_a_call_that_is_cut_is_text(say):
    daemon = say(WEATHER)
    body = dict(input="Hi", tools=TOOLS, max_output_tokens=10)
    response = answers(daemon, **body)
    [text] = said(response)
    assert response["status"] == response["output"][0]["status"] == "incomplete"
    assert text and WEATHER.startswith(text)
    items, _ = read_stream(stream(daemon, **body))
    assert [(item["type"], item["status"]) for item in items] == [("function_call", "incomplete"), ("message", "incomplete")]


def test_logprobs_are_those_of_the_text(say):
    """Of calls none are listed; of a call that breaks all are, since it is text."""
    broken = '{"name": "add", "parameters": {"a": oops}}'
    daemon = say("Well: " + broken + " so: " + WEATHER + " after")
    response = answers(daemon, input="Hi", tools=TOOLS, include=["message.output_text.logprobs"])
    assert said(response) == ["Well:", " " + broken + " so:", CALLED, " after"]
    for item in response["output"]:
        if item["type"] == "message":
            [part] = item["content"]
            assert "".join(entry["token"] for entry in part["logprobs"]) == part["text"]


def test_error_after_the_first_byte(start):
    daemon = start("fake:delay_ms=5,tokens=100000", drain_timeout_s=0)
    client = daemon.connect()
    client.sock.settimeout(PATIENCE_S)
    client.request("POST", RESPONSES, dict(input="Hi", stream=True))
    client.read_head()
    text = b"".join(read_chunks(client, b"output_text.delta"))
    daemon.signal(15)
    text += b"".join(read_chunks(client, None))
    events = events_of(text.decode())
    error, failed = events[-2:]
    assert list(error) == ["type", "sequence_number", "code", "message", "param", "error"]
    assert error["type"] == "error" and error["code"] == "shutting_down" and error["param"] is None and error["message"]
    assert error["error"] == {"message": error["message"], "type": "service_unavailable", "param": None, "code": "shutting_down"}
    assert list(failed) == ["type", "sequence_number", "response"] and failed["type"] == "response.failed"
    response = check_response(failed["response"], "failed")
    assert response["error"] == {"code": "server_error", "message": error["message"]}
    [item] = response["output"]
    assert item["status"] == "incomplete"
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert check_items([item]) == ["".join(deltas)]
    assert daemon.wait_exit() == 0


def read_chunks(client, mark):
    """Data of a chunked body, up to the chunk that has the mark, or to the end."""
    while True:
        size = int(client.read_until(b"\r\n"), 16)
        data = b""
        while len(data) < size + 2:
            data += client.read_until(b"\n")
        yield data[:size]
        if size == 0 or (mark and mark in data):
            return


def test_client_gone_cancels(start):
    daemon = start("fake:delay_ms=5,tokens=100000", log_level="debug")
    for count, body in enumerate((dict(input="Hi", stream=True), dict(input="Hi"))):
        client = daemon.connect()
        client.request("POST", RESPONSES, body)
        if body.get("stream"):
            client.read_until(b"output_text.delta")
        else:
            daemon.wait_log(r" submitted$", count=count + 1)
        client.close()
        daemon.wait_log(r"cancelled id=", count=count + 1)


# ---- refusals: what decides is tested field by field in tests/unit/server/test_codec_responses.c

@pytest.mark.parametrize("fields, param", [
    ({"input": None}, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].type"),
    ({"input": user([{"type": "input_image", "image_url": "data:,"}])}, "input[0].content[0].type"),
    ({"input": [{"role": "developer", "content": "x"}], "tools": TOOLS}, "input"),
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"background": True}, "background"),
    ({"n": 2}, "n"),
    ({"response_format": {"type": "json_object"}}, "response_format"),
    ({"truncation": "auto"}, "truncation"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"tools": chat_tools(TOOLS)}, "tools[0].name"),
    ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
    ({"tools": TOOLS + [tool("odd", x={"not": {}})], "tool_choice": "required"}, "tools[3]"),
    ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}}}, "text.format.schema"),
    ({"prompt_cache_key": "x" * 65}, "prompt_cache_key"),
])
def test_refusals(fake, fields, param):
    for more in {}, {"stream": True}:
        error = refused(fake, RESPONSES, dict({"input": "Hi"}, **fields, **more), param)
        assert error["type"] == "invalid_request_error" and error["code"] is None


def test_past_the_context(demo):
    for body in ({"input": "word " * 10000}, {"input": "Hi", "max_output_tokens": 100000},
                 {"input": "Hi", "instructions": "word " * 10000}, {"input": "word " * 1000000}):
        assert refused(demo, RESPONSES, body, "input")["code"] == "context_length_exceeded"
