"""POST /v1/embeddings: on the demo model what a vector is, on the fake engine (which counts ids by their remainder) whose
it is."""

import base64
import math
import struct
import threading

import pytest

from api import COMPLETIONS, EMBEDDINGS, refused, whole
from conftest import is_error, wait_until


def embed(daemon, **body):
    answer = whole(daemon, EMBEDDINGS, **body)
    assert [item["index"] for item in answer["data"]] == list(range(len(answer["data"])))
    return [item["embedding"] for item in answer["data"]]


def floats(text):
    data = base64.b64decode(text, validate=True)
    return list(struct.unpack("<%df" % (len(data) // 4), data))


def of_ids(tokens):
    """What the fake engine gives."""
    counts = [sum(t % 16 == i for t in tokens) for i in range(16)]
    return [c / math.sqrt(sum(c * c for c in counts)) for c in counts]


def close(a, b):
    return len(a) == len(b) and all(abs(x - y) < 1e-6 for x, y in zip(a, b))


def test_whole_answer(demo):
    answer = whole(demo, EMBEDDINGS, model="demo", input="The cat sat on the mat.")
    assert list(answer) == ["object", "data", "model", "usage"]
    assert answer["object"] == "list" and answer["model"] == "demo"
    n = len(whole(demo, "/tokenize", content="The cat sat on the mat.", add_special=True)["tokens"])
    assert answer["usage"] == {"prompt_tokens": n, "total_tokens": n}
    [item] = answer["data"]
    assert list(item) == ["object", "index", "embedding"]
    assert item["object"] == "embedding" and item["index"] == 0
    assert len(item["embedding"]) == 256 and all(isinstance(x, float) for x in item["embedding"])
    assert abs(sum(x * x for x in item["embedding"]) - 1) < 1e-5


def test_four_forms_of_input(demo):
    texts = ["The cat sat on the mat.", "What is the capital of France?"]
    ids = [whole(demo, "/tokenize", content=text, add_special=True)["tokens"] for text in texts]
    each = [embed(demo, input=text)[0] for text in texts]
    assert each[0] != each[1]
    assert embed(demo, input=ids[0]) == [each[0]]
    assert embed(demo, input=texts) == embed(demo, input=ids) == each  # bit for bit, in a batch and alone
    answer = whole(demo, EMBEDDINGS, input=texts)
    assert answer["usage"]["prompt_tokens"] == len(ids[0]) + len(ids[1])


def test_base64_is_the_same_numbers(demo):
    [numbers] = embed(demo, input="The cat", encoding_format="float")
    [text] = embed(demo, input="The cat", encoding_format="base64")
    assert floats(text) == [struct.unpack("<f", struct.pack("<f", x))[0] for x in numbers]


def test_nearer_in_meaning(demo):
    """Not much is asked of a model that was not trained for it."""
    a, b, c = embed(demo, input=["What is the capital of France?", "What is the capital of Italy?",
                                 '{"name": "add", "parameters": {"a": 1, "b": 2}}'])
    assert sum(x * y for x, y in zip(a, b)) > sum(x * y for x, y in zip(a, c))


def test_long_inputs_beside_a_stream(demo):
    """Chunks of many steps, together with an answer and others of its kind: the same bits as alone."""
    texts = ["Once upon a time, there was a little fox. " * n for n in (1, 60, 150)]
    alone = [embed(demo, input=text)[0] for text in texts]
    answers = []
    thread = threading.Thread(target=lambda: answers.append(
        whole(demo, COMPLETIONS, prompt="Once", temperature=0, max_tokens=60, ignore_eos=True)))
    thread.start()
    assert embed(demo, input=texts[::-1]) == alone[::-1]
    thread.join()
    assert answers[0]["usage"]["completion_tokens"] == 60
    quiet = whole(demo, COMPLETIONS, prompt="Once", temperature=0, max_tokens=60, ignore_eos=True)
    assert quiet["choices"] == answers[0]["choices"]


def test_the_prefix_cache_is_left_alone(demo):
    """What a completion has left there is not used, and an embedding leaves nothing."""
    text = "A long story that nobody else tells. " * 30
    first = embed(demo, input=text)
    whole(demo, COMPLETIONS, prompt=text, max_tokens=1)
    again = whole(demo, COMPLETIONS, prompt=text, max_tokens=1)["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert again > 0
    assert embed(demo, input=text) == first
    other = "Another one, which only embeddings have seen. " * 30
    embed(demo, input=other)
    usage = whole(demo, COMPLETIONS, prompt=other, max_tokens=1)["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0


def metric(daemon, name):
    [line] = [line for line in daemon.get("/metrics").text.split("\n") if line.startswith("llama4d_%s{" % name) or
              line.startswith("llama4d_%s " % name)]
    return float(line.split()[-1])


@pytest.mark.parametrize("name", ["demo", "fake"])
def test_metrics_count_the_tokens(request, name):
    daemon = request.getfixturevalue(name)
    before = metric(daemon, "prompt_tokens_total"), metric(daemon, "generated_tokens_total")
    waits = metric(daemon, "queue_wait_seconds_count")
    answer = whole(daemon, EMBEDDINGS, input=["a b c", "d"])
    assert metric(daemon, "prompt_tokens_total") == before[0] + answer["usage"]["prompt_tokens"]
    assert metric(daemon, "generated_tokens_total") == before[1]
    assert metric(daemon, "queue_wait_seconds_count") == waits + 2
    daemon.wait_log(r'path="/v1/embeddings" status=200 .* prompt_tokens=%d completion_tokens=0' % answer["usage"]["prompt_tokens"])


def test_each_vector_is_its_inputs(fake):
    inputs = [[i, i * 7 % 2048, 3] for i in range(100)]
    for got, tokens in zip(embed(fake, input=inputs), inputs):
        assert close(got, of_ids(tokens))
    text = "some words"
    tokens = whole(fake, "/tokenize", content=text, add_special=True)["tokens"]
    assert close(embed(fake, input=text)[0], of_ids(tokens))


def test_more_inputs_than_may_run_or_wait(start):
    """They take their turns, and others find a place between them."""
    daemon = start("fake:delay_ms=1", max_running=2, max_queue=3)
    inputs = [[i] for i in range(2048)]
    got = []
    thread = threading.Thread(target=lambda: got.extend(embed(daemon, input=inputs)))
    thread.start()
    wait_until(lambda: metric(daemon, "sequences_running") > 0 or got, "the first of them")
    assert daemon.post(COMPLETIONS, {"prompt": "a", "max_tokens": 3}).status_code == 200
    thread.join()
    assert len(got) == 2048 and all(v[i % 16] == 1 for i, v in enumerate(got))
    refused(daemon, EMBEDDINGS, {"input": inputs + [[1]]}, "input")


def test_queue_full(start):
    daemon = start("fake:prefill_ms=60000", max_running=1, max_queue=1)
    with daemon.connect() as first, daemon.connect() as second:
        for client in (first, second):
            client.request("POST", EMBEDDINGS, {"input": [[1], [2]]})
        wait_until(lambda: daemon.get("/metrics").text.count("llama4d_sequences_waiting 1") == 1, "two in the engine")
        response = daemon.post(EMBEDDINGS, {"input": "a"})
        assert response.status_code == 429 and response.headers["retry-after"]
        assert response.json()["error"]["type"] == "rate_limit_exceeded"


def test_a_client_that_goes_is_cancelled(start):
    daemon = start("fake:prefill_ms=60000", max_running=2, log_level="debug")
    client = daemon.connect()
    client.request("POST", EMBEDDINGS, {"input": [[1], [2], [3]]})
    daemon.wait_log("submitted", count=2)
    client.reset()
    daemon.wait_log(r"cancelled id=\d+ state=prefill", count=2)
    assert "submitted" not in "".join(daemon.lines[-1:])
    # and while a worker reads the body or writes the answer
    quick = start("fake:")
    for body in ({"input": ["word " * 20000]}, {"input": [[i] for i in range(2000)]}):
        client = quick.connect()
        client.request("POST", EMBEDDINGS, body)
        client.reset()
    assert embed(quick, input=[[1]])


def test_shutting_down(start):
    daemon = start("fake:prefill_ms=60000", drain_timeout_s=1)
    with daemon.connect() as client:
        client.request("POST", EMBEDDINGS, {"input": [[1], [2]]})
        wait_until(lambda: metric(daemon, "sequences_running") == 2, "both in the engine")
        daemon.signal(15)
        is_error(client.read_response("POST"), 503)
    assert daemon.wait_exit() == 0


@pytest.mark.parametrize("body, param", [
    ({}, "input"), ({"input": None}, "input"), ({"input": 1}, "input"), ({"input": {}}, "input"), ({"input": True}, "input"),
    ({"input": ""}, "input"), ({"input": []}, "input"), ({"input": [""]}, "input"), ({"input": ["a", ""]}, "input[1]"),
    ({"input": [[]]}, "input[0]"), ({"input": [[1], []]}, "input[1]"), ({"input": ["a", [1]]}, "input"),
    ({"input": ["a", 1]}, "input[1]"), ({"input": [1, "a"]}, "input[1]"), ({"input": [1, -1]}, "input[1]"),
    ({"input": [2048]}, "input[0]"), ({"input": [[1], [1, 0.5]]}, "input[1][1]"), ({"input": [None]}, "input[0]"),
    ({"input": [["a"]]}, "input[0][0]"), ({"input": ["a"] * 2049}, "input"),
    ({"input": "a", "encoding_format": "int8"}, "encoding_format"), ({"input": "a", "encoding_format": 1}, "encoding_format"),
    ({"input": "a", "dimensions": 8}, "dimensions"), ({"input": "a", "dimensions": 0}, "dimensions"),
    ({"input": "a", "dimensions": "16"}, "dimensions"), ({"input": "a", "dimensions": 1.5}, "dimensions"),
    ({"input": "a", "user": 1}, "user"), ({"input": "a", "model": []}, "model"),
])
def test_bad_requests(fake, body, param):
    error = refused(fake, EMBEDDINGS, body, param)
    assert error["type"] == "invalid_request_error" and error["code"] is None
    if param == "dimensions" and body[param] == 8:
        assert "must be 16" in error["message"]


def test_what_is_allowed_or_ignored(fake):
    plain = embed(fake, input="a")
    assert embed(fake, input="a", dimensions=16, user="me", model="fake", encoding_format="float", input_type="query",
                 truncate=None) == plain


def test_other_models_and_other_bodies(fake):
    assert refused(fake, EMBEDDINGS, {"input": "a", "model": "gpt-9"}, "model", status=404)["code"] == "model_not_found"
    refused(fake, EMBEDDINGS, b"{", None, raw=True)


def test_longer_than_the_context(demo):
    text, tokens = "word " * 10000, [5] * 8193
    for body, param in (({"input": text}, "input"), ({"input": tokens}, "input"), ({"input": ["a", text]}, "input[1]"),
                        ({"input": [[1], tokens]}, "input[1]"), ({"input": "a" * 1000000}, "input")):
        error = refused(demo, EMBEDDINGS, body, param)
        assert error["code"] == "context_length_exceeded" and "8192" in error["message"]
