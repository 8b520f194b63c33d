"""Tool calls in chat answers: out of the demo model, and out of texts that the fake engine is given to say."""

import json
import re

import pytest

from api import CHAT, GOLDEN, frames, refused, user, whole


def tool(name, **properties):
    return {"type": "function", "function": {"name": name, "description": "Does %s." % name, "parameters": {
        "type": "object", "properties": properties, "required": list(properties)}}}


CITY = {"type": "string"}
TOOLS = [tool("get_weather", city=CITY), tool("get_time", city=CITY), tool("add", a={"type": "integer"}, b={"type": "integer"})]
ASKED = [case for case in GOLDEN["greedy"] if case.get("tools") and case["messages"][-1]["role"] == "user"]
TOLD = [case for case in GOLDEN["greedy"] if case.get("tools") and case["messages"][-1]["role"] == "tool"]
ID = re.compile(r"call_[0-9a-f]{24}")


def streamed(chunks, index=0):
    """A choice's content, calls and finish_reason out of its chunks; asserts their shapes and order."""
    content, calls, finish = "", [], None
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] != index:
                continue
            assert finish is None
            assert list(choice) == ["index", "delta", "logprobs", "finish_reason"]
            delta, finish = choice["delta"], choice["finish_reason"]
            content += delta.get("content", "")
            for piece in delta.get("tool_calls", []):
                assert list(delta) == ["tool_calls"] and len(delta["tool_calls"]) == 1
                if piece["index"] == len(calls):
                    assert list(piece) == ["index", "id", "type", "function"]
                    assert piece["type"] == "function" and piece["function"]["arguments"] == ""
                    calls.append({"id": piece["id"], "type": "function", "function": dict(piece["function"])})
                else:
                    assert list(piece) == ["index", "function"] and list(piece["function"]) == ["arguments"]
                    assert piece["index"] == len(calls) - 1 and piece["function"]["arguments"]
                    calls[-1]["function"]["arguments"] += piece["function"]["arguments"]
    return content, calls, finish


def ask(daemon, stream, **body):
    """(content, [(name, arguments as text)], finish_reason) of the only choice."""
    if stream:
        content, calls, finish = streamed(frames(daemon, CHAT, **body))
    else:
        choice = whole(daemon, CHAT, **body)["choices"][0]
        content, calls, finish = choice["message"]["content"], choice["message"].get("tool_calls", []), choice["finish_reason"]
        assert content is not None or calls
        assert "tool_calls" not in choice["message"] or calls
        content = content or ""
    assert all(ID.fullmatch(call["id"]) for call in calls)
    assert len({call["id"] for call in calls}) == len(calls)
    return content, [(call["function"]["name"], call["function"]["arguments"]) for call in calls], finish


# ---- the demo model

@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", ASKED, ids=lambda case: case["messages"][-1]["content"])
def test_the_model_calls(demo, case, stream):
    call = json.loads(case["text"])
    content, calls, finish = ask(demo, stream, messages=case["messages"], tools=case["tools"], temperature=0)
    assert (content, finish) == ("", "tool_calls")
    assert calls == [(call["name"], json.dumps(call["parameters"]))]


def test_field_by_field(demo):
    answer = whole(demo, CHAT, messages=user("How is the weather in Havana today?"), tools=TOOLS, temperature=0)
    choice = answer["choices"][0]
    assert list(choice) == ["index", "message", "logprobs", "finish_reason"]
    message = choice["message"]
    assert list(message) == ["role", "content", "refusal", "tool_calls"]
    assert (message["role"], message["content"], message["refusal"]) == ("assistant", None, None)
    [call] = message["tool_calls"]
    assert list(call) == ["id", "type", "function"] and list(call["function"]) == ["name", "arguments"]
    assert call["function"] == {"name": "get_weather", "arguments": '{"city": "Havana"}'}
    assert choice["finish_reason"] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_round_trip(demo, stream):
    """The model asks for the weather, is told, and answers."""
    messages = user("How is the weather in Havana today?")
    if stream:
        chunks = frames(demo, CHAT, messages=messages, tools=TOOLS[:1], temperature=0)
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        _, calls, finish = streamed(chunks)
        message = {"role": "assistant", "content": None, "tool_calls": calls}
    else:
        choice = whole(demo, CHAT, messages=messages, tools=TOOLS[:1], temperature=0)["choices"][0]
        message, finish = choice["message"], choice["finish_reason"]
    [call] = message["tool_calls"]
    assert finish == "tool_calls"
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Havana"})
    told = messages + [message, {"role": "tool", "tool_call_id": call["id"],
                                 "content": '{"sky": "snowy", "temperature": 2}'}]
    content, calls, finish = ask(demo, stream, messages=told, tools=TOOLS[:1], temperature=0)
    assert (content, calls, finish) == ("It is snowy in Havana, and the temperature is 2 degrees.", [], "stop")


def test_a_call_is_announced_before_its_arguments(demo):
    chunks = frames(demo, CHAT, messages=user("Tell me the time in Moscow."), tools=TOOLS, temperature=0)
    pieces = [chunk["choices"][0]["delta"]["tool_calls"][0] for chunk in chunks
              if "tool_calls" in chunk["choices"][0]["delta"]]
    assert pieces[0]["function"] == {"name": "get_time", "arguments": ""}
    assert len(pieces) > 2  # the arguments come in pieces
    assert "".join(piece["function"]["arguments"] for piece in pieces) == '{"city": "Moscow"}'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("case", TOLD, ids=lambda case: case["messages"][0]["content"])
def test_tools_without_a_call(demo, case, stream):
    assert ask(demo, stream, messages=case["messages"], tools=case["tools"], temperature=0) == (case["text"], [], "stop")


def test_tool_choice_none_describes_no_tools(demo):
    body = dict(messages=user("Tell me the time in Moscow."), temperature=0, max_tokens=24)
    plain = whole(demo, CHAT, **body)
    none = whole(demo, CHAT, **body, tools=TOOLS, tool_choice="none")
    assert none["choices"] == plain["choices"] and none["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_cut_short(demo):
    """A call that max_tokens cuts is none: its text is content, so nothing of it is lost."""
    case = next(case for case in ASKED if "Moscow" in case["messages"][0]["content"])
    body = dict(messages=case["messages"], tools=case["tools"], temperature=0, max_tokens=len(case["ids"]) - 4)
    choice = whole(demo, CHAT, **body)["choices"][0]
    assert choice["finish_reason"] == "length" and "tool_calls" not in choice["message"]
    text = choice["message"]["content"]
    assert '"get_time"' in text and case["text"].startswith(text) and text != case["text"]
    content, calls, finish = streamed(frames(demo, CHAT, **body))
    assert (content, finish) == (text, "length")
    assert [call["function"]["name"] for call in calls] == ["get_time"]
    with pytest.raises(ValueError):
        json.loads(calls[0]["function"]["arguments"])


def test_a_stop_string_inside_a_call(demo):
    body = dict(messages=user("Tell me the time in Moscow."), tools=TOOLS, temperature=0, stop='"parameters"')
    assert ask(demo, False, **body) == ('{"name": "get_time", ', [], "stop")


def test_several_choices(demo):
    body = dict(messages=user("Add 45 and 95."), tools=TOOLS, temperature=0, n=3)
    want = ("add", '{"a": 45, "b": 95}')
    choices = whole(demo, CHAT, **body)["choices"]
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in choices]
    assert len(set(ids)) == 3
    for choice in choices:
        [call] = choice["message"]["tool_calls"]
        assert (call["function"]["name"], call["function"]["arguments"]) == want
    chunks = frames(demo, CHAT, **body)
    for i in range(3):
        content, [call], finish = streamed(chunks, i)
        assert (content, call["function"], finish) == ("", dict(zip(("name", "arguments"), want)), "tool_calls")


def test_logprobs_of_calls(demo):
    case = ASKED[0]
    body = dict(messages=case["messages"], tools=case["tools"], temperature=0, logprobs=True)
    tokens = whole(demo, CHAT, **body)["choices"][0]["logprobs"]["content"]
    assert [token["logprob"] for token in tokens] == pytest.approx(case["logprobs"][:len(tokens)], abs=1e-3)
    assert len(tokens) == len(case["ids"]) - 1
    chunks = frames(demo, CHAT, **body)
    assert [t for c in chunks for choice in c["choices"] if choice["logprobs"] for t in choice["logprobs"]["content"]] == tokens


# ---- calls that are forced

def choice_of(name):
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("temperature", [0, 1.5])
@pytest.mark.parametrize("choice", ["required", choice_of("get_weather"), choice_of("add")], ids=str)
def test_a_forced_call_obeys_the_schema(demo, choice, temperature, stream):
    """Of the asked tool, with arguments of its types, whatever the question and the temperature."""
    types = {"get_weather": {"city": str}, "get_time": {"city": str}, "add": {"a": int, "b": int}}
    for seed, text in enumerate(["Tell me a story about a lamb named Ben.", "What is the capital of France?"]):
        content, [(name, arguments)], finish = ask(
            demo, stream, messages=user(text), tools=TOOLS, tool_choice=choice, temperature=temperature, seed=seed,
            parallel_tool_calls=False)
        assert (content, finish) == ("", "tool_calls")
        assert name in types and (choice == "required" or name == choice["function"]["name"])
        assert {key: type(value) for key, value in json.loads(arguments).items()} == types[name]


def test_several_forced_calls(demo):
    content, calls, finish = ask(demo, False, messages=user("Add 45 and 95."), tools=TOOLS, tool_choice="required",
                                 temperature=0)
    assert (content, finish) == ("", "tool_calls")
    assert calls[0] == ("add", '{"a": 45, "b": 95}')


# ---- what models say, said by the fake engine

WEATHER = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
CALLED = ("get_weather", '{"city": "Paris"}')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text, content, calls", [
    (WEATHER, "", [CALLED]),
    ("[get_weather(city='Paris')]", "", [CALLED]),
    ("<|python_start|>[get_weather(city='Paris')]<|python_end|>", "", [CALLED]),
    ("<|python_start|>" + WEATHER + "<|python_end|>", "", [CALLED]),
    ("Let me see.\n" + WEATHER, "Let me see.", [CALLED]),
    (WEATHER + "; " + WEATHER, "", [CALLED, CALLED]),
    ("[get_weather(city='Paris'), add(a=-1, b=-2)]", "", [CALLED, ("add", '{"a": -1, "b": -2}')]),
    ("[add(a=[1, [-2.5, True]], b={'k': [None, \"é\\u00e9\"]})]", "",
     [("add", '{"a": [1, [-2.5, true]], "b": {"k": [null, "éé"]}}')]),
    ("See [1] and {2}: [no_tool(a=1)]", "See [1] and {2}: [no_tool(a=1)]", []),
])
def test_forms(say, stream, text, content, calls):
    got = ask(say(text), stream, messages=user("Hi"), tools=TOOLS)
    assert got == (content, calls, "tool_calls" if calls else "stop")


def test_without_tools_the_text_is_content(say):
    daemon = say(WEATHER)
    for more in {}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}:
        assert ask(daemon, False, messages=user("Hi"), **more) == (WEATHER, [], "stop")
        assert ask(daemon, True, messages=user("Hi"), **more) == (WEATHER, [], "stop")


@pytest.mark.parametrize("stream", [False, True])
def test_parallel_tool_calls(say, stream):
    daemon = say(WEATHER + "; " + WEATHER)
    body = dict(messages=user("Hi"), tools=TOOLS)
    assert ask(daemon, stream, **body, parallel_tool_calls=False) == ("", [CALLED], "tool_calls")
    assert ask(daemon, stream, **body, parallel_tool_calls=True) == ("", [CALLED, CALLED], "tool_calls")


def test_a_call_that_breaks_is_content(say):
    text = 'So: {"name": "add", "parameters": {"a": 1, "b": oops}} ' + WEATHER
    daemon = say(text)
    body = dict(messages=user("Hi"), tools=TOOLS)
    content = 'So: {"name": "add", "parameters": {"a": 1, "b": oops}}'
    assert ask(daemon, False, **body) == (content, [CALLED], "tool_calls")
    shown, calls, finish = ask(daemon, True, **body)
    assert (shown, finish) == (content, "tool_calls")
    assert calls[0][0] == "add" and calls[1] == CALLED
    with pytest.raises(ValueError):
        json.loads(calls[0][1])


def test_usage_of_a_stream_with_calls(say):
    chunks = frames(say(WEATHER), CHAT, messages=user("Hi"), tools=TOOLS, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] > 5


# ---- refusals

@pytest.mark.parametrize("fields, param", [
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tool_choice": "required", "tools": []}, "tool_choice"),
    ({"tool_choice": choice_of("get_time")}, "tool_choice"),
    ({"tool_choice": choice_of("get_tim"), "tools": TOOLS}, "tool_choice.function.name"),
    ({"tool_choice": choice_of(5), "tools": TOOLS}, "tool_choice.function.name"),
    ({"tool_choice": choice_of(None), "tools": TOOLS}, "tool_choice.function.name"),
    ({"tool_choice": {"type": "function"}, "tools": TOOLS}, "tool_choice.function"),
    ({"tool_choice": {"type": "function", "function": "get_time"}, "tools": TOOLS}, "tool_choice.function"),
    ({"tool_choice": {"type": "custom", "function": {"name": "get_time"}}, "tools": TOOLS}, "tool_choice.type"),
    ({"tool_choice": {"type": 5}, "tools": TOOLS}, "tool_choice.type"),
    ({"tool_choice": {}, "tools": TOOLS}, "tool_choice.type"),
    ({"tool_choice": [], "tools": TOOLS}, "tool_choice"),
    ({"tool_choice": "Auto", "tools": TOOLS}, "tool_choice"),
    ({"tool_choice": "required", "tools": TOOLS, "grammar": 'root ::= "x"'}, "tool_choice"),
    ({"tool_choice": "required", "tools": TOOLS, "response_format": {"type": "json_object"}}, "tool_choice"),
    ({"tool_choice": "required", "tools": TOOLS + [tool("odd", x={"not": {}})]}, "tools[3]"),
    ({"parallel_tool_calls": "no", "tools": TOOLS}, "parallel_tool_calls"),
    ({"tools": TOOLS + TOOLS[:1]}, "tools[3].function.name"),
    ({"tools": [tool("a b")]}, "tools[0].function.name"),
    ({"tools": [tool("")]}, "tools[0].function.name"),
    ({"tools": [tool("x" * 129)]}, "tools[0].function.name"),
    ({"tools": [tool("t%d" % i) for i in range(1025)]}, "tools"),
    ({"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]}, "tools[0].function.strict"),
])
def test_refusals(fake, fields, param):
    refused(fake, CHAT, dict(messages=user("Hi"), **fields), param)
