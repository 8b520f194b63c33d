"""Who may ask, and how much: API keys, their limits, and which web pages may read the answers."""

import hashlib
import os
import re
import signal
import threading
import time

import pytest

from api import CHAT, COMPLETIONS, user
from conftest import is_error, wait_until
from test_metrics import Metrics

SHORT = {"prompt": "a", "max_tokens": 4, "ignore_eos": True}
STREAM = {"prompt": "a", "max_tokens": 30000, "ignore_eos": True, "stream": True}
ALICE, BOB = "sk-alice", "sk-bob"
JSON = "Content-Type: application/json"


def bearer(key):
    return {"Authorization": "Bearer " + key}


def digest(key):
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class Keys:
    """A file of keys, written anew for each reload."""

    def __init__(self, path):
        self.path = path

    def write(self, *lines, mode=0o600):
        self.path.write_text("".join(line + "\n" for line in lines))
        os.chmod(self.path, mode)
        return str(self.path)

    def reload(self, daemon, *lines):
        self.write(*lines)
        count = daemon.log().count("SIGHUP: settings read again") + 1
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("SIGHUP: settings read again", count=count)
        daemon.wait_log(r"keys\.conf(: \d+ API keys|:\d+: )", count=count + 1)


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys.conf")


ALICE_LINE, BOB_LINE = "alice " + digest(ALICE), "bob " + digest(BOB)


@pytest.fixture
def guarded(start, keys):
    """A daemon that alice and bob may ask."""
    return start(api_keys_file=keys.write("# who may ask", "", ALICE_LINE, BOB_LINE), log_level="debug")


# ---- keys

def test_key_command(run, start, keys):
    made = [run("key", "alice"), run("key", "alice")]
    for status, out, err in made:
        assert status == 0 and "kept nowhere" in err and "sk-" not in err
        key, line = out.splitlines()
        assert re.fullmatch(r"sk-[A-Za-z0-9_-]{43}", key)
        assert line == "alice " + digest(key)
    assert made[0][1] != made[1][1]
    key, line = made[0][1].splitlines()
    daemon = start(api_keys_file=keys.write(line))
    assert daemon.get("/v1/models", headers=bearer(key)).status_code == 200
    for args in [], ["a", "b"], [""], ["a b"], ["a=b"], ["x" * 65], ["--help"[:1] + "\n"]:
        status, out, err = run("key", *args)
        assert (status, out) == (2, "") and "usage: llama4d key NAME" in err and "1 to 64 letters" in err, args


def test_without_a_key(guarded):
    cases = [("GET", "/v1/models", None), ("GET", "/v1/models/fake", None), ("GET", "/metrics", None),
             ("GET", "/nowhere", None), ("OPTIONS", "/v1/models", None), ("HEAD", "/v1/models", None),
             ("POST", COMPLETIONS, SHORT), ("POST", CHAT, {"messages": user("a")}), ("POST", "/health", SHORT)]
    for method, path, body in cases:
        with guarded.connect() as c:
            c.request(method, path, body)
            response = c.read_response(method)
            assert response.headers["www-authenticate"] == "Bearer"
            if method == "HEAD":
                assert response.status == 401
            else:
                message = is_error(response, 401, "invalid_api_key")
                assert "Authorization: Bearer KEY" in message and "x-api-key" in message
                assert response.json()["error"]["type"] == "invalid_api_key"
            c.request("GET", "/health")  # and the connection goes on
            assert c.read_response().status == 200
    assert guarded.get("/health").status_code == guarded.get("/ready").status_code == 200


@pytest.mark.parametrize("header", [
    "Authorization: Bearer sk-mallory", "Authorization: Bearer", "Authorization: Bearer ", "Authorization: Basic sk-alice",
    "Authorization: sk-alice", "Authorization: Bearersk-alice", "Authorization: Bearer sk-alice x",
    "Authorization: Bearer " + digest(ALICE), "Authorization: Bearer " + digest(ALICE)[7:], "x-api-key: ", "x-api-key: sk-",
    "x-api-key: SK-ALICE", "x-api-key: Bearer sk-alice", "x-api-key: " + "a" * 20000, "Authorization: Bearer sk-alic\xe9",
])
def test_wrong_keys(guarded, header):
    with guarded.connect() as c:
        c.send(("GET /v1/models HTTP/1.1\r\nHost: a\r\n%s\r\n\r\n" % header).encode("latin-1"))
        is_error(c.read_response(), 401, "invalid_api_key")


@pytest.mark.parametrize("headers", [
    ["Authorization: Bearer sk-alice"], ["authorization: bearer sk-alice"], ["Authorization: BEARER   sk-alice"],
    ["x-api-key: sk-alice"], ["X-API-KEY:sk-alice"], ["Authorization: Basic eA==", "x-api-key: sk-alice"],
    ["Authorization: Bearer sk-alice", "x-api-key: nonsense"],
])
def test_right_keys(guarded, headers):
    with guarded.connect() as c:
        c.request("GET", "/v1/models", headers=headers)
        assert c.read_response().status == 200
        c.request("POST", COMPLETIONS, SHORT, headers=headers)
        assert c.read_response().json()["usage"]["completion_tokens"] == 4


def test_anthropic_clients_are_told_in_their_words(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE + " max_concurrent=1"), model="fake:delay_ms=5")
    body = {"max_tokens": 4, "messages": user("a")}
    for path in "/v1/messages", "/v1/messages/count_tokens":
        response = daemon.post(path, body)
        assert response.status_code == 401 and response.json()["error"]["type"] == "authentication_error"
        assert daemon.post(path, body, headers={"x-api-key": ALICE}).status_code == 200
    with daemon.connect() as c:
        c.request("POST", "/v1/messages", dict(body, max_tokens=30000, stream=True), headers=["x-api-key: " + ALICE])
        c.read_until(b"data: ")
        response = daemon.post("/v1/messages", body, headers={"x-api-key": ALICE})
        assert response.status_code == 429 and response.json()["error"]["type"] == "rate_limit_error"
        assert response.headers["retry-after"] == "1"
    daemon.wait_log(r'path="/v1/messages" status=200 .*key=alice prompt_tokens=\d+ completion_tokens=\d+')


def test_everybody_may_ask_without_the_setting(fake):
    for headers in {}, bearer("any text"), {"x-api-key": "any"}:
        assert fake.post(COMPLETIONS, SHORT, headers=headers).status_code == 200
    assert "llama4d_key_" not in fake.get("/metrics").text


def test_who_asked_is_told_and_keys_are_not(guarded):
    usage = [guarded.post(COMPLETIONS, dict(SHORT, max_tokens=n), headers=bearer(ALICE)).json()["usage"] for n in (3, 5)]
    guarded.post(COMPLETIONS, {"prompt": 7}, headers={"x-api-key": ALICE})
    guarded.get("/v1/models", headers=bearer(BOB))
    guarded.get("/v1/models", headers=bearer("sk-mallory"))
    guarded.wait_log(r"path=\"/v1/completions\" status=200 duration_ms=\S+ key=alice prompt_tokens=\d+ completion_tokens=5$")
    guarded.wait_log(r"path=\"/v1/completions\" status=400 duration_ms=\S+ key=alice$")
    guarded.wait_log(r"path=\"/v1/models\" status=200 duration_ms=\S+ key=bob$")
    guarded.wait_log(r"path=\"/v1/models\" status=401 duration_ms=\S+$")
    metrics = Metrics(guarded, headers=bearer(BOB))
    assert metrics.get("key_requests_total", key="alice") == 3
    assert metrics.get("key_requests_total", key="bob") == 2  # this one included
    assert metrics.get("key_prompt_tokens_total", key="alice") == sum(u["prompt_tokens"] for u in usage)
    assert metrics.get("key_completion_tokens_total", key="alice") == 8
    assert metrics.get("key_completion_tokens_total", key="bob") == 0
    assert metrics.get("key_requests_running", key="alice") == 0
    assert metrics.requests("/v1/models", 401, "GET") == 1
    assert {f for f in metrics.families if f.startswith("key_")} == {
        "key_requests", "key_requests_refused", "key_prompt_tokens", "key_completion_tokens", "key_requests_running"}
    for text in metrics.text, guarded.log():
        assert "sk-" not in text and digest(ALICE)[7:] not in text


def test_tokens_of_an_aborted_stream_are_counted(guarded):
    with guarded.connect() as c:
        c.request("POST", COMPLETIONS, STREAM, headers=["x-api-key: " + ALICE])
        for _ in range(3):
            c.read_until(b"data: ")
    line = guarded.wait_log(r"key=alice prompt_tokens=(\d+) completion_tokens=(\d+) cut=client_gone")
    assert int(line.group(1)) > 0 and int(line.group(2)) >= 3
    metrics = Metrics(guarded, headers=bearer(BOB))
    assert metrics.get("key_prompt_tokens_total", key="alice") == int(line.group(1))
    assert metrics.get("key_completion_tokens_total", key="alice") == int(line.group(2))


def test_metrics_without_a_key(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE), metrics_need_key="off")
    assert Metrics(daemon).get("key_requests_total", key="alice") == 0
    assert daemon.get("/v1/models").status_code == 401


# ---- before the body

def test_refused_before_the_body(guarded):
    head = "POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n" % (COMPLETIONS, JSON)
    with guarded.connect() as c:  # no body comes: it is not waited for as long as for a body that is wanted
        c.send(head + "Content-Length: 1000000\r\n\r\n")
        response = c.read_response()
        is_error(response, 401, "invalid_api_key")
        assert response.headers["www-authenticate"] == "Bearer" and response.headers["connection"] == "close"
        assert c.at_end()
    guarded.wait_log(r"status=401 .*cut=body_refused")
    with guarded.connect() as c:  # who asks before it sends is told at once, and not to go on
        c.send(head + "Content-Length: 1000000\r\nExpect: 100-continue\r\n\r\n")
        is_error(c.read_response(), 401, "invalid_api_key")
    with guarded.connect() as c:  # a body that comes is read to its end, and the connection lives
        c.send(head + "Content-Length: 1000000\r\n\r\n" + " " * 1000000)
        is_error(c.read_response(), 401, "invalid_api_key")
        c.request("POST", COMPLETIONS, SHORT, headers=["x-api-key: " + ALICE])
        assert c.read_response().status == 200
    with guarded.connect() as c:
        c.send(head + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
        is_error(c.read_response(), 401, "invalid_api_key")


def test_body_without_a_key_that_never_ends(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE), max_body_bytes="4K")
    with daemon.connect() as c:
        c.send("POST %s HTTP/1.1\r\nHost: a\r\n%s\r\nTransfer-Encoding: chunked\r\n\r\n" % (COMPLETIONS, JSON))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(100000):
                c.send(b"400\r\n" + b" " * 1024 + b"\r\n")
    daemon.wait_log(r"status=401 .*cut=body_refused")


def test_bodies_without_a_key_take_no_room(start, keys):
    """Sixteen bodies are what is held at a time: those of strangers are not among them."""
    daemon = start(api_keys_file=keys.write(ALICE_LINE), max_body_bytes="64K")
    held = [daemon.connect() for _ in range(40)]
    for c in held:
        c.send(("POST %s HTTP/1.1\r\nHost: a\r\n%s\r\nContent-Length: 65536\r\n\r\n" % (COMPLETIONS, JSON)).encode() +
               b" " * 65535)
        assert daemon.post(COMPLETIONS, dict(SHORT, user="x" * 60000), headers=bearer(ALICE)).status_code == 200
    for c in held:
        c.close()


# ---- limits

def test_concurrent_requests(start, keys):
    daemon = start(model="fake:delay_ms=5", api_keys_file=keys.write(ALICE_LINE + " max_concurrent=2", BOB_LINE))
    held = [daemon.connect() for _ in range(2)]
    for c in held:
        c.request("POST", COMPLETIONS, STREAM, headers=["x-api-key: " + ALICE])
        c.read_until(b"data: ")
    with daemon.connect() as c:
        c.request("POST", CHAT, {"messages": user("a")}, headers=["x-api-key: " + ALICE])
        response = c.read_response()
        message = is_error(response, 429, "rate_limit_exceeded")
        assert "2 requests running; at most 2" in message and response.headers["retry-after"] == "1"
        assert response.json()["error"]["type"] == "rate_limit_exceeded"
        for name, value in ("x-api-key", ALICE), ("x-api-key", BOB):
            c.request("GET", "/v1/models", headers=["%s: %s" % (name, value)])
            assert c.read_response().status == 200
    assert daemon.post(COMPLETIONS, SHORT, headers=bearer(BOB)).status_code == 200
    metrics = Metrics(daemon, headers=bearer(BOB))
    assert metrics.get("key_requests_running", key="alice") == 2
    assert metrics.get("key_requests_refused_total", key="alice") == 1
    for c in held:
        c.read_until(b"data: ")  # the refusal took nothing from those that run
    held.pop().close()
    wait_until(lambda: daemon.post(COMPLETIONS, SHORT, headers=bearer(ALICE)).status_code == 200, "room again")
    held.pop().close()


def test_many_at_once_with_a_limit(start, keys):
    """Never more than the limit run, and all that were admitted are given back."""
    daemon = start(model="fake:delay_ms=1", api_keys_file=keys.write(ALICE_LINE + " max_concurrent=3"), max_running=8)
    statuses = []

    def one():
        statuses.append(daemon.post(COMPLETIONS, dict(SHORT, max_tokens=20), headers=bearer(ALICE)).status_code)

    threads = [threading.Thread(target=one) for _ in range(30)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert set(statuses) <= {200, 429} and statuses.count(200) >= 3
    wait_until(lambda: Metrics(daemon, headers=bearer(ALICE)).get("key_requests_running", key="alice") == 0, "their end")


def test_tokens_per_minute(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE + " tokens_per_minute=60", BOB_LINE + " tokens_per_minute=60"))
    began = time.monotonic()
    body = {"prompt": [300] * 1500, "max_tokens": 4, "ignore_eos": True}
    assert daemon.post(COMPLETIONS, body, headers=bearer(ALICE)).json()["usage"]["total_tokens"] == 1504
    response = daemon.post(COMPLETIONS, SHORT, headers=bearer(ALICE))
    elapsed = time.monotonic() - began
    assert response.status_code == 429 and response.json()["error"]["code"] == "rate_limit_exceeded"
    assert "60 tokens a minute" in response.json()["error"]["message"]
    # 60 were there, 1504 were used, one comes back each second and one must be there
    assert 1504 - 60 + 1 - elapsed <= int(response.headers["retry-after"]) <= 1504 - 60 + 1
    assert daemon.get("/v1/models", headers=bearer(ALICE)).status_code == 200
    assert daemon.post(COMPLETIONS, SHORT, headers=bearer(BOB)).status_code == 200
    assert Metrics(daemon, headers=bearer(BOB)).get("key_requests_refused_total", key="alice") == 1


def test_retry_after_is_true(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE + " tokens_per_minute=600"))
    body = {"prompt": [300] * 640, "max_tokens": 1}
    assert daemon.post(COMPLETIONS, body, headers=bearer(ALICE)).status_code == 200
    response = daemon.post(COMPLETIONS, SHORT, headers=bearer(ALICE))
    assert response.status_code == 429
    time.sleep(int(response.headers["retry-after"]))
    assert daemon.post(COMPLETIONS, SHORT, headers=bearer(ALICE)).status_code == 200


def test_streams_are_charged_as_they_run(start, keys):
    """A key with a long answer under way cannot begin another once its tokens are used up."""
    daemon = start(model="fake:delay_ms=1", api_keys_file=keys.write(ALICE_LINE + " tokens_per_minute=60"))
    with daemon.connect() as c:
        c.request("POST", COMPLETIONS, STREAM, headers=["x-api-key: " + ALICE])
        wait_until(lambda: daemon.post(COMPLETIONS, SHORT, headers=bearer(ALICE)).status_code == 429, "a refusal")
        c.read_until(b"data: ")  # what was admitted goes on


# ---- the prefix cache

def test_keys_share_no_prefix(start, keys):
    """How soon an answer comes must not tell one client what another has asked."""
    daemon = start(model="tests/models/demo", real=True, api_keys_file=keys.write(ALICE_LINE, BOB_LINE))

    def cached(key, **more):
        body = dict(prompt=list(range(300, 300 + 129)), max_tokens=2, temperature=0, **more)
        answer = daemon.post(COMPLETIONS, body, headers=bearer(key)).json()
        return answer["usage"]["prompt_tokens_details"]["cached_tokens"], answer["choices"][0]["text"]

    text = cached(ALICE)[1]
    assert cached(ALICE) == (128, text)
    assert cached(BOB) == (0, text)
    assert cached(BOB) == (128, text)
    for key in ALICE, BOB:  # and salts of their own within that
        assert cached(key, cache_salt="a") == (0, text)
        assert cached(key, cache_salt="a" * 64) == (0, text)
        assert cached(key, cache_salt="a") == (128, text)


# ---- the file

def test_reload(start, keys):
    daemon = start(model="fake:delay_ms=5", api_keys_file=keys.write(ALICE_LINE))
    assert daemon.get("/v1/models", headers=bearer(BOB)).status_code == 401
    with daemon.connect() as c:
        c.request("POST", COMPLETIONS, dict(STREAM, max_tokens=200), headers=["x-api-key: " + ALICE])
        c.read_until(b"data: ")
        keys.reload(daemon, BOB_LINE)
        assert daemon.get("/v1/models", headers=bearer(ALICE)).status_code == 401
        assert daemon.get("/v1/models", headers=bearer(BOB)).status_code == 200
        c.read_until(b"data: [DONE]\n\n")  # what was admitted goes on
    daemon.wait_log(r"status=200 .*key=alice .*completion_tokens=200")
    keys.reload(daemon, BOB_LINE, "alice " + digest(BOB))
    assert "keys.conf:2: alice has the same key as bob in line 1" in daemon.log()
    daemon.wait_log("SIGHUP: the API keys stay as they are")
    assert daemon.get("/v1/models", headers=bearer(BOB)).status_code == 200
    keys.reload(daemon, BOB_LINE + " max_concurrent=1", ALICE_LINE)
    assert daemon.get("/v1/models", headers=bearer(ALICE)).status_code == 200
    metrics = Metrics(daemon, headers=bearer(BOB))
    assert metrics.get("key_requests_total", key="bob") == 3
    assert metrics.get("key_requests_total", key="alice") == 1  # was gone in between
    keys.reload(daemon, "# nobody")
    daemon.wait_log("0 API keys: every request that needs one will be refused")
    assert daemon.get("/v1/models", headers=bearer(BOB)).status_code == 401


@pytest.mark.parametrize("lines,words", [
    (["alice"], r":1: behind the name stands sha256: with 64 hexadecimal digits"),
    (["# keys", "alice sk-secret"], r":2: behind the name stands sha256:"),
    ([ALICE_LINE, ALICE_LINE.replace("alice", "Alice")], r":2: Alice has the same key as alice in line 1"),
    ([ALICE_LINE, "alice " + digest(BOB)], r":2: the name alice was given before, in line 1"),
    ([ALICE_LINE + " max_concurrent=0"], r":1: max_concurrent: allowed is a whole number from 1 to 1000000"),
    ([ALICE_LINE + " burst=0"], r":1: behind the hash, max_concurrent=N and tokens_per_minute=N are allowed"),
    (["alice\0 " + digest(ALICE)], r":1: the line holds a NUL"),
    (["a" * 5000], r":1: the line has more than 1024 bytes"),
    (["\u00e9 " + digest(ALICE)], r":1: a line begins with a name: 1 to 64 letters"),
])
def test_bad_files_at_the_start(run, keys, lines, words):
    path = keys.write(*lines)
    status, out, err = run("serve", "--model", "fake:", "--port", 0, "--api-keys-file", path)
    assert status == 1 and out == ""
    assert re.search(re.escape(path) + words, err), err
    assert "the API keys of %s cannot be used" % path in err and "listening" not in err
    assert "secret" not in err


def test_no_file_at_the_start(run, tmp_path):
    for path, why in (tmp_path / "none", "No such file or directory"), (tmp_path, "is no regular file"):
        status, _, err = run("serve", "--model", "fake:", "--port", 0, "--api-keys-file", path)
        assert status == 1 and "%s: %s" % (path, why) in err


def test_file_that_everybody_can_read(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE, mode=0o644))
    daemon.wait_log(r" warn .*keys\.conf can be read or changed by every user of this machine")
    daemon = start(api_keys_file=keys.write(ALICE_LINE, mode=0o640))
    assert "can be read" not in daemon.log()


# ---- web pages of other origins

PAGE = "https://chat.example"
CORS = "access-control-"


def cors_of(response):
    headers = {k.lower(): v for k, v in response.headers.items()}
    return {k: v for k, v in headers.items() if k.startswith(CORS) or k == "vary"}


PLAIN = {CORS + "allow-origin": PAGE, CORS + "expose-headers": "x-request-id, request-id, retry-after", "vary": "Origin"}


def test_no_page_by_default(fake):
    with fake.connect() as c:
        c.request("GET", "/v1/models", headers=["Origin: " + PAGE])
        assert cors_of(c.read_response()) == {}
        c.request("OPTIONS", COMPLETIONS, headers=["Origin: " + PAGE, "Access-Control-Request-Method: POST"])
        response = c.read_response()
        is_error(response, 405)
        assert cors_of(response) == {}


def test_pages(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE, BOB_LINE + " tokens_per_minute=1"),
                   cors_origins="https://other.example:8443, " + PAGE, max_body_bytes="4K")
    key = "x-api-key: " + ALICE
    origin = "Origin: " + PAGE
    with daemon.connect() as c:
        c.request("GET", "/v1/models", headers=[key, origin])
        assert cors_of(c.read_response()) == PLAIN
        c.request("POST", COMPLETIONS, dict(SHORT, stream=True), headers=[key, origin])
        response = c.read_response()
        assert response.body.endswith(b"data: [DONE]\n\n") and cors_of(response) == PLAIN
        errors = [("GET", "/v1/models", None, [], 401), ("GET", "/nowhere", None, [key], 404),
                  ("GET", COMPLETIONS, None, [key], 405), ("POST", COMPLETIONS, {"prompt": 7}, [key], 400),
                  ("POST", COMPLETIONS, b" " * 5000, [key], 413)]
        for method, path, body, headers, status in errors:
            c.request(method, path, body, headers=headers + [origin])
            response = c.read_response()
            is_error(response, status)
            assert cors_of(response) == PLAIN
        for other in PAGE + "/", PAGE + ":443", "https://evil.example", "null", "https://chat.example.evil.example", "*":
            c.request("GET", "/v1/models", headers=[key, "Origin: " + other])
            response = c.read_response()
            assert response.status == 200 and cors_of(response) == {"vary": "Origin"}
        c.request("GET", "/v1/models", headers=[key])
        assert cors_of(c.read_response()) == {"vary": "Origin"}
        assert daemon.post(COMPLETIONS, SHORT, headers=bearer(BOB)).status_code == 200
        c.request("POST", COMPLETIONS, SHORT, headers=["x-api-key: " + BOB, origin])
        response = c.read_response()
        assert is_error(response, 429) and cors_of(response) == PLAIN and int(response.headers["retry-after"]) > 60
    with daemon.connect() as c:  # refused for its framing, and closed
        c.request("GET", "/v1/models", headers=[origin, "Host: again"])
        response = c.read_response()
        is_error(response, 400)
        assert cors_of(response) == PLAIN
    with daemon.connect() as c:  # an answer past libmicrohttpd
        c.send("POST %s HTTP/1.1\r\nHost: a\r\n%s\r\n%s\r\nContent-Length: 9\r\n\r\n" % (COMPLETIONS, JSON, origin))
        response = c.read_response()
        is_error(response, 401)
        assert cors_of(response) == PLAIN


def test_preflight(start, keys):
    daemon = start(api_keys_file=keys.write(ALICE_LINE), cors_origins=PAGE)
    ask = ["Origin: " + PAGE, "Access-Control-Request-Method: POST"]
    with daemon.connect() as c:
        for path, methods in (COMPLETIONS, "POST"), (CHAT, "POST"), ("/v1/models", "GET, HEAD"), ("/v1/models/a", "GET, HEAD"):
            c.request("OPTIONS", path, headers=ask + [
                "Access-Control-Request-Headers: authorization,x-stainless-os, X-Stainless-Lang,x-stainless-a b,cookie"])
            response = c.read_response()
            assert response.status == 204 and response.body == b"" and response.headers["x-request-id"]
            assert "content-type" not in response.headers
            headers = cors_of(response)
            allowed = headers.pop(CORS + "allow-headers").split(", ")
            assert headers == dict(PLAIN, **{CORS + "allow-methods": methods, CORS + "max-age": "600"})
            assert {"authorization", "content-type", "x-api-key", "anthropic-version", "x-stainless-os",
                    "X-Stainless-Lang"} <= set(allowed)
            assert "cookie" not in allowed and len(allowed) == len(set(allowed))
        c.request("OPTIONS", "/nowhere", headers=ask)
        response = c.read_response()
        is_error(response, 404)
        assert cors_of(response) == PLAIN
        # not from that page, not a preflight, not with OPTIONS: like any other request
        for method, headers in (("OPTIONS", ["Origin: https://evil.example", ask[1]]), ("OPTIONS", ask[:1]),
                                ("OPTIONS", ask[1:]), ("POST", ask)):
            c.request(method, COMPLETIONS, headers=headers)
            is_error(c.read_response(), 401, "invalid_api_key")
        c.request("OPTIONS", COMPLETIONS, headers=ask + ["Access-Control-Request-Headers: " + ",".join(
            "x-stainless-%d" % i for i in range(500))])
        assert len(c.read_response().headers[CORS + "allow-headers"]) < 1024


def test_any_page(start):
    daemon = start(cors_origins="*")
    for origin in PAGE, "null", "http://localhost:3000":
        response = daemon.get("/v1/models", headers={"Origin": origin})
        assert cors_of(response) == dict(PLAIN, **{CORS + "allow-origin": "*"})
    assert cors_of(daemon.get("/v1/models")) == {"vary": "Origin"}


def test_pages_are_reloadable(start, tmp_path):
    path = tmp_path / "test.conf"
    path.write_text("model = fake:\n")
    daemon = start(model=None, config=path)
    assert cors_of(daemon.get("/health", headers={"Origin": PAGE})) == {}
    path.write_text("model = fake:\ncors_origins = %s\n" % PAGE)
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("setting cors_origins changed")
    assert cors_of(daemon.get("/health", headers={"Origin": PAGE})) == PLAIN
    path.write_text("model = fake:\ncors_origins = chat.example\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("SIGHUP: the settings stay as they are")
    assert cors_of(daemon.get("/health", headers={"Origin": PAGE})) == PLAIN


@pytest.mark.parametrize("origins", [
    "chat.example", "https://chat.example/", "https://chat.example/a", "https://", "://a", "HTTPS://a", "https://A.example",
    "* https://a", "* *", "https://a\u00e9", "null",
])
def test_bad_origins(run, origins):
    status, _, err = run("serve", "--model", "fake:", "--port", 0, "--cors-origins", origins)
    assert status == 2 and "cors_origins: " in err and ("allowed is * or a list" in err or "nothing may be beside" in err)
