"""POST /v1/completions against the demo model, field by field."""

import re

import pytest

from api import COMPLETIONS, GOLDEN, frames, whole

GREEDY = [case for case in GOLDEN["greedy"] if "prompt" in case]
PROMPT = GREEDY[0]["prompt"]


def texts(chunks, index=0):
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def test_whole_answer(demo):
    answer = whole(demo, COMPLETIONS, model="demo", prompt=PROMPT, temperature=0)
    assert list(answer) == ["id", "object", "created", "model", "system_fingerprint", "choices", "usage"]
    assert re.fullmatch(r"cmpl-[0-9a-f]{32}", answer["id"])
    assert answer["object"] == "text_completion"
    assert answer["model"] == "demo"
    choice = answer["choices"][0]
    assert list(choice) == ["index", "text", "logprobs", "finish_reason"]
    assert choice["index"] == 0 and choice["logprobs"] is None and choice["finish_reason"] == "length"
    assert choice["text"] and GREEDY[0]["text"].startswith(choice["text"])
    assert answer["usage"] == {"prompt_tokens": 15, "completion_tokens": 16, "total_tokens": 31,
                               "prompt_tokens_details": {"cached_tokens": 0}}


def test_streamed_answer(demo):
    chunks = frames(demo, COMPLETIONS, prompt=PROMPT, temperature=0, stream_options={"include_usage": True})
    assert all(chunk["object"] == "text_completion" and chunk["id"] == chunks[0]["id"] for chunk in chunks)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["completion_tokens"] == 16
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks[:-1]]
    assert reasons == [None] * (len(reasons) - 1) + ["length"]
    assert chunks[-2]["choices"][0]["text"] == ""
    assert texts(chunks) == whole(demo, COMPLETIONS, prompt=PROMPT, temperature=0)["choices"][0]["text"]


@pytest.mark.parametrize("case", GREEDY, ids=lambda case: case["prompt"][:20])
def test_greedy_answers_and_logprobs_are_the_references(exact, case):
    body = dict(prompt=case["prompt"], temperature=0, max_tokens=96, logprobs=0)
    answer = whole(exact, COMPLETIONS, **body)
    choice = answer["choices"][0]
    assert answer["usage"]["prompt_tokens"] == len(case["prompt_ids"])
    assert answer["usage"]["completion_tokens"] == len(case["ids"])
    assert choice["text"] == case["text"]
    got = choice["logprobs"]["token_logprobs"]
    assert len(case["ids"]) - len(got) == (choice["finish_reason"] == "stop")
    assert got == pytest.approx(case["logprobs"][:len(got)], abs=1e-3)
    short = dict(body, max_tokens=24)
    assert case["text"].startswith(texts(frames(exact, COMPLETIONS, **short)))
    # The same prompt as ids.
    ids = dict(short, prompt=case["prompt_ids"])
    assert whole(exact, COMPLETIONS, **ids)["choices"] == whole(exact, COMPLETIONS, **short)["choices"]


def test_four_forms_of_prompt(demo):
    def answer(prompt, n=1):
        body = dict(prompt=prompt, n=n, temperature=0, max_tokens=8)
        result = whole(demo, COMPLETIONS, **body)
        assert [choice["index"] for choice in result["choices"]] == list(range(len(result["choices"])))
        streamed = frames(demo, COMPLETIONS, **body)
        together = [choice["text"] for choice in result["choices"]]
        assert [texts(streamed, i) for i in range(len(together))] == together
        return together, result["usage"]["prompt_tokens"]

    a, b = GREEDY[0], GREEDY[1]
    (text_a,), n_a = answer(a["prompt"])
    (text_b,), n_b = answer(b["prompt"])
    assert answer([a["prompt"], b["prompt"]]) == ([text_a, text_b], n_a + n_b)
    assert answer(a["prompt_ids"]) == ([text_a], n_a)
    assert answer([a["prompt_ids"], b["prompt_ids"]]) == ([text_a, text_b], n_a + n_b)
    assert answer([a["prompt"], b["prompt"]], n=2) == ([text_a, text_a, text_b, text_b], n_a + n_b)
    assert answer("")[1] == 1  # the token that begins every text


def test_a_prompt_in_a_batch_gives_what_it_gives_alone(demo):
    body = dict(n=2, temperature=1.3, seed=5, max_tokens=24)
    prompts = [case["prompt"] for case in GREEDY[:3]]
    batch = whole(demo, COMPLETIONS, prompt=prompts, **body)["choices"]
    alone = [choice for prompt in prompts for choice in whole(demo, COMPLETIONS, prompt=prompt, **body)["choices"]]
    assert [choice["text"] for choice in batch] == [choice["text"] for choice in alone]
    assert batch[0]["text"] != batch[1]["text"]


def test_best_of(demo):
    body = dict(prompt=GREEDY[3]["prompt"], temperature=1.5, seed=3, max_tokens=16, logprobs=0)
    every = whole(demo, COMPLETIONS, **body, n=4)["choices"]

    def mean(choice):
        logprobs = choice["logprobs"]["token_logprobs"]
        return sum(logprobs) / len(logprobs)

    assert all(choice["finish_reason"] == "length" for choice in every)
    ranked = sorted(every, key=mean, reverse=True)
    answer = whole(demo, COMPLETIONS, **body, best_of=4, n=2)
    assert [choice["text"] for choice in answer["choices"]] == [choice["text"] for choice in ranked[:2]]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    assert answer["usage"]["completion_tokens"] == 64
    silent = whole(demo, COMPLETIONS, **{k: v for k, v in body.items() if k != "logprobs"}, best_of=4)
    assert silent["choices"][0]["text"] == ranked[0]["text"] and silent["choices"][0]["logprobs"] is None


def test_echo(demo):
    plain = whole(demo, COMPLETIONS, prompt=PROMPT, temperature=0)["choices"][0]["text"]
    body = dict(prompt=PROMPT, temperature=0, echo=True)
    assert whole(demo, COMPLETIONS, **body)["choices"][0]["text"] == PROMPT + plain
    assert texts(frames(demo, COMPLETIONS, **body)) == PROMPT + plain
    ids = dict(body, prompt=GREEDY[0]["prompt_ids"])
    assert whole(demo, COMPLETIONS, **ids)["choices"][0]["text"] == PROMPT + plain
    nothing = whole(demo, COMPLETIONS, **dict(body, max_tokens=0))
    assert (nothing["choices"][0]["text"], nothing["choices"][0]["finish_reason"]) == (PROMPT, "length")
    assert nothing["usage"]["completion_tokens"] == 0


@pytest.mark.parametrize("text", [PROMPT, "na\u00efve caf\u00e9 \u2014 \u4f60\u597d \U0001f600 end", "<|begin_of_text|>Hello<|eot|>", "a"])
@pytest.mark.parametrize("echo", [True, False])
def test_legacy_logprobs(demo, text, echo):
    body = dict(prompt=text, temperature=0, max_tokens=6, logprobs=2, echo=echo, ignore_eos=True)
    answer = whole(demo, COMPLETIONS, **body)
    choice, logprobs = answer["choices"][0], answer["choices"][0]["logprobs"]
    assert list(logprobs) == ["tokens", "token_logprobs", "top_logprobs", "text_offset"]
    n = answer["usage"]["total_tokens"] if echo else 6
    assert all(len(values) == n for values in logprobs.values())
    if echo:
        assert logprobs["token_logprobs"][0] is None and logprobs["top_logprobs"][0] is None
        assert logprobs["text_offset"][0] == 0
    for token, logprob, top in list(zip(*list(logprobs.values())[:3]))[1 if echo else 0:]:
        assert 2 <= len(top) <= 3
        assert top[token] == logprob <= 0
    # Each token stands in the text where its offset says: prompt plus answer, counted in characters.
    shown = choice["text"] if echo else text + choice["text"]
    implicit = echo and not text.startswith("<|begin_of_text|>")
    for token, begin in list(zip(logprobs["tokens"], logprobs["text_offset"]))[1 if implicit else 0:]:
        if not token.startswith("bytes:") and not (token.startswith("<|") and not echo):
            assert shown[begin:begin + len(token)] == token or token.startswith("<|")
    assert logprobs["text_offset"] == sorted(logprobs["text_offset"])
    if not echo:
        assert logprobs["text_offset"][0] == len(text)
    chunks = [c for chunk in frames(demo, COMPLETIONS, **body) for c in chunk["choices"] if c["logprobs"]]
    for key, values in logprobs.items():
        assert [value for c in chunks for value in c["logprobs"][key]] == values


@pytest.mark.parametrize("case", GOLDEN["nll"][::4], ids=lambda case: str(case["tokens"]))
def test_scoring_a_prompt(demo, case):
    answer = whole(demo, COMPLETIONS, prompt=case["text"], max_tokens=0, echo=True, logprobs=1)
    choice = answer["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (case["text"], "length")
    logprobs = choice["logprobs"]["token_logprobs"]
    assert len(logprobs) == answer["usage"]["prompt_tokens"] == case["tokens"]
    assert answer["usage"]["completion_tokens"] == 0
    assert -sum(logprobs[1:]) == pytest.approx(case["nll"], rel=1e-4, abs=1e-3)


def test_scoring_as_evaluation_harnesses_do(demo):
    """A continuation is scored by the tokens after its context; greedy means that each is the best of the map."""
    case = GREEDY[0]
    answer = whole(demo, COMPLETIONS, prompt=[case["prompt_ids"] + case["ids"][:8]], max_tokens=1, temperature=0,
                   echo=True, logprobs=1, seed=1234)
    logprobs = answer["choices"][0]["logprobs"]
    context = len(case["prompt_ids"])
    assert logprobs["token_logprobs"][context:-1] == pytest.approx(case["logprobs"][:8], abs=1e-3)
    for token, top in zip(logprobs["tokens"][context:-1], logprobs["top_logprobs"][context:-1]):
        assert max(top, key=top.get) == token


def test_stop_and_special_tokens(demo):
    full = whole(demo, COMPLETIONS, prompt=PROMPT, temperature=0)["choices"][0]["text"]
    middle = full[7:12]
    body = dict(prompt=PROMPT, temperature=0, stop=middle)
    choice = whole(demo, COMPLETIONS, **body)["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (full[:full.index(middle)], "stop")
    assert texts(frames(demo, COMPLETIONS, **body)) == choice["text"]
    # The text of a marker is the marker here, and one that begins the text is not doubled.
    n = [whole(demo, COMPLETIONS, prompt=p, max_tokens=0)["usage"]["prompt_tokens"]
         for p in ("Hello", "<|begin_of_text|>Hello", "Hello<|eot|>")]
    assert n[0] == n[1] and n[2] == n[0] + 1


def test_characters_of_several_tokens(start, tmp_path):
    """Their bytes arrive together; the tokens are told apart in the log-probabilities."""
    text = "\u65e5\u672c\u8a9e\u306e\u30c6 \U0001f680\u00e9."
    (tmp_path / "answer").write_text(text, encoding="utf-8")
    n = len(next(case["ids"] for case in GOLDEN["texts"] if case["text"].startswith(text[:4])))
    daemon = start("fake:answer=%s,tokens=%d" % (tmp_path / "answer", n + 30))
    body = dict(prompt="x", max_tokens=200, logprobs=0)
    choice = whole(daemon, COMPLETIONS, **body)["choices"][0]
    assert choice["text"].startswith(text)
    pieces = [c["text"] for chunk in frames(daemon, COMPLETIONS, **body) for c in chunk["choices"]]
    assert "".join(pieces) == choice["text"] and not any("\ufffd" in piece for piece in pieces)
    logprobs = choice["logprobs"]
    assert any(re.fullmatch(r"bytes:(\\x[0-9a-f]{2})+", token) for token in logprobs["tokens"])
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"]):
        assert token.startswith("bytes:") or ("x" + choice["text"])[offset:].startswith(token)


def test_bytes_that_make_no_character(demo):
    """Shown as U+FFFD, in streams as in whole answers."""
    lead = next(case["ids"][1] for case in GOLDEN["texts"] if case["text"].startswith("\u65e5"))
    body = dict(prompt="x", max_tokens=4, temperature=0, logit_bias={str(lead): 100}, logprobs=0)
    choice = whole(demo, COMPLETIONS, **body)["choices"][0]
    assert choice["logprobs"]["tokens"] == ["bytes:\\xe3"] * 4
    assert choice["text"] == "\ufffd" * 4
    assert texts(frames(demo, COMPLETIONS, **body)) == choice["text"]
