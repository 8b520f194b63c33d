"""What the prefix cache saves, as the usage tells it, and that answers are the same with and without it."""

import pytest

from api import CHAT, COMPLETIONS, frames, refused, user, whole

PAGE = 64
SYSTEM = [{"role": "system", "content": "You are a helpful assistant who knows the weather, capitals and numbers. " * 12}]
QUESTIONS = ["What is the capital of France?", "Name a colour.", "Count to five.", "And what is the capital of Italy?"]


def cached(answer):
    return answer["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.fixture
def cache(start):
    return start(model="tests/models/demo", real=True, port=0)


@pytest.fixture
def without(start):
    return start(model="tests/models/demo", real=True, port=0, prefix_cache="off")


def test_growing_chat(cache, without):
    messages, known = [], 0
    for turn in range(6):
        messages += user(QUESTIONS[turn % 4] + " Please answer at length." * turn)
        answer = whole(cache, CHAT, messages=messages, temperature=0, max_tokens=60)
        usage = answer["usage"]
        assert cached(answer) == known // PAGE * PAGE
        plain = whole(without, CHAT, messages=messages, temperature=0, max_tokens=60)
        assert cached(plain) == 0
        assert plain["choices"] == answer["choices"]
        assert {k: plain["usage"][k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")} == \
               {k: usage[k] for k in ("prompt_tokens", "completion_tokens", "total_tokens")}
        known = usage["total_tokens"] - 1  # the last token has not been through the model
        messages.append(answer["choices"][0]["message"])
    assert known > 4 * PAGE


def test_repeated_system_prompt(cache, without):
    seen = 0
    for question in QUESTIONS:
        body = dict(messages=SYSTEM + user(question), temperature=1, seed=5, max_tokens=20, logprobs=True)
        chunks = frames(cache, CHAT, stream_options={"include_usage": True}, **body)
        usage = chunks[-1]["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == seen
        text = "".join(c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"])
        plain = whole(without, CHAT, **body)
        assert text == plain["choices"][0]["message"]["content"]
        logprobs = [entry for chunk in chunks for c in chunk["choices"] if c["logprobs"]
                    for entry in c["logprobs"]["content"]]
        assert logprobs == plain["choices"][0]["logprobs"]["content"]
        seen = usage["prompt_tokens"] // PAGE * PAGE  # the questions differ after the last full page of the system prompt
    assert seen > 2 * PAGE


def test_completions(cache):
    prompt = list(range(300, 300 + 3 * PAGE))
    assert cached(whole(cache, COMPLETIONS, prompt=prompt, max_tokens=2)) == 0
    assert cached(whole(cache, COMPLETIONS, prompt=prompt, max_tokens=2)) == 2 * PAGE  # one token at least is computed
    assert cached(whole(cache, COMPLETIONS, prompt=prompt + [1], max_tokens=2)) == 3 * PAGE
    two = whole(cache, COMPLETIONS, prompt=[prompt + [1], prompt[:PAGE + 1]], n=2, max_tokens=2)
    assert cached(two) == 4 * PAGE
    assert two["usage"]["prompt_tokens"] == 4 * PAGE + 2


def test_scoring_computes_everything(cache):
    body = dict(prompt=list(range(300, 300 + 3 * PAGE)), max_tokens=0, echo=True, logprobs=2)
    first, second = whole(cache, COMPLETIONS, **body), whole(cache, COMPLETIONS, **body)
    assert cached(first) == cached(second) == 0
    assert first["choices"] == second["choices"]


def test_salts_share_nothing(cache):
    body = dict(prompt=list(range(300, 300 + 2 * PAGE + 1)), max_tokens=2)
    for salt in (None, "alice", "bob", "ali", "a" * 64):
        assert cached(whole(cache, COMPLETIONS, cache_salt=salt, **body)) == 0
    for salt in ("", "alice", "a" * 64):
        assert cached(whole(cache, COMPLETIONS, cache_salt=salt, **body)) == 2 * PAGE
    refused(cache, COMPLETIONS, dict(body, cache_salt="a" * 65), "cache_salt")


def test_cache_prompt_false_leaves_it_out(cache):
    body = dict(prompt=list(range(300, 300 + 2 * PAGE + 1)), max_tokens=2)
    assert cached(whole(cache, COMPLETIONS, cache_prompt=False, **body)) == 0
    assert cached(whole(cache, COMPLETIONS, **body)) == 0  # nothing was left
    assert cached(whole(cache, COMPLETIONS, cache_prompt=False, **body)) == 0
    assert cached(whole(cache, COMPLETIONS, cache_prompt=True, **body)) == 2 * PAGE
