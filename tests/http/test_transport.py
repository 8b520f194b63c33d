"""What arrives on the socket: framing, limits, deadlines, clients that go away or do not read."""

import json
import resource
import socket
import threading
import time

import pytest
from conftest import PATIENCE_S, is_error, wait_until

PATH = "/v1/completions"
LONG = {"model": "fake", "prompt": "a", "max_tokens": 30000, "ignore_eos": True}
SHORT = {"model": "fake", "prompt": "a", "max_tokens": 4, "ignore_eos": True}
STREAM = dict(LONG, stream=True)


@pytest.fixture
def daemon(start):
    return start(log_level="debug")


def raw(method, path, headers, body=b"", version="HTTP/1.1"):
    return ("%s %s %s\r\n" % (method, path, version)).encode() + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body


HOST = b"Host: localhost"
JSON = b"Content-Type: application/json"


# ---- framing

@pytest.mark.parametrize("headers, words", [
    ([HOST, b"Content-Length: 5", b"Transfer-Encoding: chunked"], "both Content-Length and Transfer-Encoding"),
    ([HOST, b"Content-Length: 5", b"Content-Length: 5"], "more than one Content-Length"),
    ([HOST, b"Content-Length: 5", b"Content-Length: 6"], "more than one Content-Length"),
    ([], "Host header is missing"),
    ([HOST, HOST], "more than one Host"),
    ([HOST, b"Content-Length : 40"], "name holds a character"),
    ([HOST, b"X(y): 1"], "name holds a character"),
    ([HOST, b"Transfer-Encoding: gzip"], "may only be chunked"),
    ([HOST, b"Transfer-Encoding: gzip, chunked"], "may only be chunked"),
    ([HOST, b"Transfer-Encoding: identity"], "may only be chunked"),
    ([HOST, b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"], "more than one Transfer-Encoding"),
    ([HOST, b"X-Y: a\x01b"], "control character"),
])
def test_bad_framing(daemon, headers, words):
    smuggled = raw("GET", "/nowhere", [HOST])
    with daemon.connect() as c:
        c.send(raw("POST", PATH, headers + [JSON], smuggled))
        assert words in is_error(c.read_response(), 400)
        assert c.at_end()  # nothing that follows is read as a request
    assert "/nowhere" not in daemon.log()


@pytest.mark.parametrize("value", [b"abc", b"+5", b"-5", b"18446744073709551616", b"5, 5", b"0x5", b""])
def test_malformed_content_length(daemon, value):
    """libmicrohttpd answers most of these itself; whoever does, it is refused and the end of the connection."""
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, b"Content-Length: " + value, JSON], raw("GET", "/nowhere", [HOST])))
        assert c.read_all().startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 413 "))
    assert "/nowhere" not in daemon.log()
    assert daemon.get("/health").status_code == 200


@pytest.mark.parametrize("junk", [b"\r\n\r\n\r\n", b"\0\0\0\0\r\n\r\n", b"GET\r\n\r\n", b"GET /\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20,
                                  b"GET /health HTTP/9.9\r\nHost: a\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                                  b"GET /%00health HTTP/1.1\r\nHost: a\r\n\r\n"])
def test_junk(start, junk):
    daemon = start(header_timeout_s=1)
    with daemon.connect() as c:
        c.send(junk)
        c.sock.shutdown(socket.SHUT_WR)
        c.read_all()
    assert daemon.get("/health").status_code == 200


def test_nul_in_the_path(daemon):
    with daemon.connect() as c:
        c.request("GET", "/health%00/x")
        assert "NUL" in is_error(c.read_response(), 400)


def test_http_1_0(daemon):
    with daemon.connect() as c:
        c.send(b"GET /health HTTP/1.0\r\n\r\n")
        assert c.read_response().status == 200
        assert c.at_end()
    with daemon.connect() as c:
        c.request("POST", PATH, dict(SHORT, stream=True), version="HTTP/1.0")
        response = c.read_response()
        assert response.status == 200 and "transfer-encoding" not in response.headers
        assert response.body.endswith(b"data: [DONE]\n\n")


# ---- ways to send a good request

def test_pipelining(daemon):
    with daemon.connect() as c:
        c.request("POST", PATH, SHORT).request("GET", "/health").request("POST", PATH, dict(SHORT, stream=True)).request("GET", "/nope")
        assert c.read_response().status == 200
        assert c.read_response().json() == {"status": "ok"}
        assert c.read_response().body.endswith(b"data: [DONE]\n\n")
        is_error(c.read_response(), 404)


def test_byte_by_byte(daemon):
    body = json.dumps(SHORT).encode()
    request = raw("POST", PATH, [HOST, JSON, b"Content-Length: %d" % len(body)], body)
    with daemon.connect() as c:
        for i in range(len(request)):
            c.send(request[i:i + 1])
        assert c.read_response().status == 200


@pytest.mark.parametrize("size", [1, 7, 100000])
def test_chunked_body(daemon, size):
    body = json.dumps(SHORT).encode()
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(body[i:i + size]), body[i:i + size]) for i in range(0, len(body), size))
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Transfer-Encoding: chunked"], chunks + b"0\r\nTrailer: x\r\n\r\n"))
        assert c.read_response().status == 200
        c.request("GET", "/health")
        assert c.read_response().status == 200


def test_bad_chunk(daemon):
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Transfer-Encoding: chunked"], b"zz\r\nabc\r\n"))
        assert c.read_all().startswith(b"HTTP/1.1 400 ")
    assert daemon.get("/health").status_code == 200


def test_expect_continue(daemon):
    body = json.dumps(SHORT).encode()
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Expect: 100-continue", b"Content-Length: %d" % len(body)]))
        assert c.read_response().status == 100
        c.send(body)
        assert c.read_response().status == 200


def test_expect_continue_of_a_large_body(start):
    daemon = start(max_body_bytes="4K")
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Expect: 100-continue", b"Content-Length: 5000"]))
        assert "5000" in is_error(c.read_response(), 413)  # no 100 before it
        assert c.at_end()


def test_keep_alive(daemon):
    with daemon.connect() as c:
        for _ in range(50):
            c.request("GET", "/health")
            assert c.read_response().status == 200


def test_head(daemon):
    with daemon.connect() as c:
        c.request("HEAD", "/v1/models")
        response = c.read_response("HEAD")
        assert response.status == 200 and int(response.headers["content-length"]) > 100
        c.request("GET", "/health")
        assert c.read_response().status == 200


# ---- what every answer has

def test_request_id(daemon):
    for sent in "abc", "A.b_c-9", "x" * 128:
        assert daemon.get("/health", headers={"x-request-id": sent}).headers["x-request-id"] == sent
    ids = set()
    for sent in "", "a b", "x" * 129, 'a"b', "\u00e4".encode("latin-1"), "a\tb":
        got = daemon.get("/health", headers={"x-request-id": sent}).headers["x-request-id"]
        assert got.startswith("req-") and len(got) == 20
        ids.add(got)
    assert len(ids) == 6
    response = daemon.post(PATH, dict(SHORT, stream=True), headers={"x-request-id": "s-1"})
    assert response.headers["x-request-id"] == "s-1" and response.headers["content-type"].startswith("text/event-stream")
    daemon.wait_log(r" s-1 request method=POST path=\"/v1/completions\" status=200 .*prompt_tokens=\d+ completion_tokens=4")


def test_routes(daemon):
    is_error_of = lambda r, status: is_error(_as_response(r), status)
    assert "/nope" in is_error_of(daemon.get("/nope"), 404)
    assert is_error_of(daemon.get("/v1/models/"), 404)
    response = daemon.get(PATH)
    assert is_error_of(response, 405) and response.headers["allow"] == "POST"
    response = daemon.post("/health", {})
    assert is_error_of(response, 405) and response.headers["allow"] == "GET, HEAD"
    url = daemon.url + PATH
    import requests
    for content_type in None, "text/plain", "application/jsonl", "application/x-www-form-urlencoded":
        headers = {"Content-Type": content_type} if content_type else {}
        assert "Content-Type: application/json" in is_error_of(requests.post(url, data=b"{}", headers=headers), 415)
    assert is_error_of(requests.post(url, data=b"{}", headers={"Content-Type": "application/json", "Content-Encoding": "gzip"}), 415)
    for content_type in "application/json", "Application/JSON; charset=utf-8":
        assert requests.post(url, data=json.dumps(SHORT), headers={"Content-Type": content_type}).status_code == 200


def _as_response(r):
    from conftest import Response
    return Response(r.status_code, {k.lower(): v for k, v in r.headers.items()}, r.content)


def test_log_cannot_be_forged(daemon):
    with daemon.connect() as c:
        c.request("GET", "/a%0a2026-01-01T00:00:00.000Z%20info%20%1b[2Jforged")
        is_error(c.read_response(), 404)
    daemon.wait_log(r'path="/a\\x0a2026-01-01T00:00:00.000Z info \\x1b\[2Jforged"')
    assert "\x1b" not in daemon.log()


@pytest.mark.parametrize("settings", [dict(model="fake:"), dict(model="tests/models/demo", real=True)], ids=["fake", "demo"])
def test_no_prompt_in_the_log(start, settings):
    """Whatever becomes of the request, and at the level that writes most."""
    daemon = start(log_level="debug", **settings)
    secret = "xyzzy"  # what only the request holds
    message = {"role": "user", "content": secret}
    tool = {"type": "function", "function": {"name": secret, "description": secret}}
    requests = [
        (PATH, {"prompt": secret}, 200), (PATH, {"prompt": secret, "stream": True, "echo": True, "logprobs": 2}, 200),
        (PATH, {"prompt": [secret], "max_tokens": secret}, 400), (PATH, {"prompt": secret, "stop": [secret]}, 200),
        (PATH, {"prompt": secret * 100000}, 400),
        ("/v1/chat/completions", {"messages": [message], "tools": [tool], "max_tokens": 4, "user": secret}, 200),
        ("/v1/chat/completions", {"messages": [message, {"role": secret, "content": secret}]}, 400),
        ("/v1/chat/completions", {"messages": [message], "model": secret}, 404),
    ]
    for path, body, status in requests:
        assert daemon.post(path, body).status_code == status, body
    assert daemon.post(PATH, None, data='{"prompt": "%s' % secret, headers={"content-type": "application/json"}).status_code == 400
    daemon.wait_log("request method=POST", count=len(requests) + 1)
    assert secret not in daemon.log()


# ---- limits

def test_long_address(daemon):
    with daemon.connect() as c:
        c.request("GET", "/" + "a" * 9000)
        assert "8192" in is_error(c.read_response(), 414)


def test_header_of_64_kb(daemon):
    with daemon.connect() as c:
        c.request("GET", "/health", headers=["X-Large: " + "a" * 65536])
        assert "32768" in is_error(c.read_response(), 431)
        assert c.at_end()


def test_thousands_of_headers(daemon):
    with daemon.connect() as c:
        c.request("GET", "/health", headers=["X-%d: a" % i for i in range(2000)])
        assert "at most 100" in is_error(c.read_response(), 431)
    with daemon.connect() as c:  # more than libmicrohttpd has memory for: its own answer, or just the end
        try:
            c.request("GET", "/health", headers=["X-%d: a" % i for i in range(50000)])
            c.read_all()
        except (ConnectionResetError, BrokenPipeError):
            pass
    assert daemon.get("/health").status_code == 200


def test_body_above_the_cap(start):
    daemon = start(max_body_bytes="4K")
    limit = 4096
    exact = json.dumps(SHORT).encode()
    exact += b" " * (limit - len(exact))
    with daemon.connect() as c:
        c.request("POST", PATH, exact)
        assert c.read_response().status == 200
        c.request("POST", PATH, exact + b" ")  # little too much: swallowed, and the connection lives
        assert "4097" in is_error(c.read_response(), 413)
        c.request("GET", "/health")
        assert c.read_response().status == 200
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Content-Length: 1000000000000"]))
        assert "1000000000000" in is_error(c.read_response(), 413)
        assert c.at_end()
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Transfer-Encoding: chunked"], b"1400\r\n" + b" " * 5120 + b"\r\n0\r\n\r\n"))
        is_error(c.read_response(), 413)
        c.request("GET", "/health")
        assert c.read_response().status == 200


def test_all_bodies_together_are_bounded(start):
    """Sixteen times the largest body is what all requests may hold in memory; the next one is asked to come again."""
    daemon = start(max_body_bytes="64K")
    held = [daemon.connect() for _ in range(16)]
    for c in held:
        c.send(raw("POST", PATH, [HOST, JSON, b"Content-Length: 65536"], b" " * 65535))

    def is_full():
        with daemon.connect() as c:
            c.request("POST", PATH, b" " * 20000)
            response = c.read_response()
            return response.status == 503 and "memory" in is_error(response, 503)
    wait_until(is_full, "a refusal")
    for c in held:
        c.close()
    wait_until(lambda: not is_full(), "room again")


def test_bodies_of_running_requests_are_given_back(start):
    """More running requests than bodies that are held at a time."""
    daemon = start(model="fake:delay_ms=5", max_body_bytes="1K", log_level="debug")
    clients = [daemon.connect() for _ in range(24)]
    for c in clients:
        c.request("POST", PATH, dict(STREAM, user="x" * 800))
        assert c.read_head()[0] == 200
        c.read_until(b"data: ")
    for c in clients:
        c.close()


def test_body_that_never_ends(start):
    daemon = start(max_body_bytes="4K")
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Transfer-Encoding: chunked"]))
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            for _ in range(100000):
                c.send(b"400\r\n" + b" " * 1024 + b"\r\n")
    daemon.wait_log(r"status=413 .*cut=body_too_large")
    assert daemon.get("/health").status_code == 200


def test_body_that_never_ends_gets_an_answer(start):
    daemon = start(max_body_bytes="4K")
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Transfer-Encoding: chunked"], b"2800\r\n" + b" " * 10240))
        is_error(c.read_response(), 413)
        assert c.at_end()


def test_body_that_does_not_come(start):
    daemon = start(body_timeout_s=1)
    with daemon.connect() as c:
        c.send(raw("POST", PATH, [HOST, JSON, b"Content-Length: 100"], b"{"))
        is_error(c.read_response(), 408)
        assert c.at_end()
    daemon.wait_log(r"status=408 .*cut=body_timeout")


def test_headers_that_do_not_come(start):
    daemon = start(header_timeout_s=1)
    with daemon.connect() as silent, daemon.connect() as slow, daemon.connect() as drip:
        slow.send(b"GET /health HTTP/1.1\r\nX: ")

        def keep_dripping():
            try:
                for _ in range(PATIENCE_S * 10):
                    drip.send(b"a")
                    time.sleep(0.1)
            except OSError:
                pass

        thread = threading.Thread(target=keep_dripping)
        drip.send(b"GET /health HTTP/1.1\r\nX: ")
        thread.start()
        response = slow.read_response()
        is_error(response, 408)
        assert response.json()["error"]["type"] == "timeout_error"
        daemon.wait_log(r" %s request status=408 cut=header_timeout" % response.headers["x-request-id"])
        assert slow.at_end()
        assert silent.read_all() == b""  # who said nothing is told nothing
        drip.read_all()
        thread.join()


def test_second_request_that_does_not_come(start):
    daemon = start(header_timeout_s=1, idle_timeout_s=1)
    with daemon.connect() as idle, daemon.connect() as slow:
        for c in idle, slow:
            c.request("GET", "/health")
            assert c.read_response().status == 200
        slow.send(b"GET /health HTTP/1.1\r\n")
        assert idle.read_all() == b""
        slow.read_all()


def test_connection_limit(start):
    daemon = start(max_connections=4)
    held = [daemon.connect() for _ in range(4)]
    for c in held:
        c.request("GET", "/v1/models")
        assert c.read_response().status == 200
    with daemon.connect() as c:
        c.request("GET", "/v1/models")
        response = c.read_response()
        assert "4 connections" in is_error(response, 503)
        assert response.headers["retry-after"] and c.at_end()
    assert daemon.get("/health").status_code == 200
    for c in held:
        c.request("GET", "/v1/models")
        assert c.read_response().status == 200
        c.close()

    def serves():
        with daemon.connect() as again:
            again.request("GET", "/v1/models")
            return again.read_response().status == 200
    wait_until(serves, "a freed place")


def test_slow_loris(start):
    """Two thousand clients that never finish a request, beside one that does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n = min(2000, hard - 200)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, n + 200), hard))
    daemon = start(max_connections=4096, header_timeout_s=600)
    before = memory_kib(daemon)
    clients = [daemon.connect() for _ in range(n)]
    for c in clients:
        c.send(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX: ")
    for _ in range(5):
        for c in clients[::10]:
            c.send(b"a")
        assert daemon.get("/health").status_code == 200
        assert daemon.post(PATH, SHORT).status_code == 200
    grown = memory_kib(daemon) - before
    print("%d connections, %d KiB" % (n, grown))
    assert grown < n * 64
    for c in clients:
        c.close()
    assert daemon.get("/health").status_code == 200


def memory_kib(daemon):
    with open("/proc/%d/statm" % daemon.process.pid) as f:
        return int(f.read().split()[1]) * resource.getpagesize() // 1024


# ---- clients that go away

def end_with_fin(c):
    c.close()


def end_with_rst(c):
    c.reset()


def end_by_half_close(c):
    c.sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("end", [end_with_fin, end_with_rst, end_by_half_close])
@pytest.mark.parametrize("body", [LONG, STREAM], ids=["whole", "stream"])
def test_client_gone_in_decode(start, end, body):
    daemon = start(model="fake:delay_ms=2", log_level="debug")
    c = daemon.connect()
    c.request("POST", PATH, body, headers=["x-request-id: gone-1"])
    if "stream" in body:
        c.read_until(b"data: ")
    else:
        daemon.wait_log("- submitted")
    end(c)
    daemon.wait_log(r"cancelled .*state=(decode|prefill)")
    daemon.wait_log(r" gone-1 request .*cut=client_gone")
    assert daemon.post(PATH, SHORT).status_code == 200
    c.close()


@pytest.mark.parametrize("end", [end_with_fin, end_with_rst, end_by_half_close])
def test_client_gone_in_prefill(start, end):
    daemon = start(model="fake:prefill_ms=600000", log_level="debug")
    c = daemon.connect()
    c.request("POST", PATH, LONG)
    daemon.wait_log("- submitted")
    end(c)
    daemon.wait_log(r"cancelled .*state=(queued|prefill)")
    c.close()


@pytest.mark.parametrize("end", [end_with_fin, end_with_rst, end_by_half_close])
def test_client_gone_while_queued(start, end):
    """The one that waits is cancelled, the one that runs is not."""
    daemon = start(model="fake:delay_ms=2", log_level="debug", max_running=1)
    with daemon.connect() as running:
        running.request("POST", PATH, STREAM)
        running.read_until(b"data: ")
        waiting = daemon.connect()
        waiting.request("POST", PATH, LONG)
        daemon.wait_log("- submitted", count=2)
        end(waiting)
        daemon.wait_log(r"cancelled .*state=queued generated=0")
        for _ in range(5):
            running.read_until(b"data: ")
        waiting.close()
    daemon.wait_log(r"cancelled .*state=decode")
    assert len([line for line in daemon.lines if "cancelled" in line]) == 2


def test_client_gone_with_a_pipelined_request(start):
    """Bytes behind the request hide the end of the connection from a peek, not from us."""
    daemon = start(model="fake:delay_ms=2", log_level="debug")
    c = daemon.connect()
    c.request("POST", PATH, STREAM).request("GET", "/health")
    c.read_until(b"data: ")
    c.close()
    daemon.wait_log(r"cancelled .*state=decode")


def test_client_gone_in_the_body(daemon):
    c = daemon.connect()
    c.send(raw("POST", PATH, [HOST, JSON, b"Content-Length: 100"], b"{"))
    time.sleep(0.1)
    c.close()
    daemon.wait_log(r"request method=POST .*cut=incomplete_body")


@pytest.mark.parametrize("end", [end_with_fin, end_by_half_close])
def test_client_gone_right_after_a_piece_of_the_body(start, end):
    """The end that arrives together with bytes is noticed, too, long before the body's deadline."""
    daemon = start()
    part = raw("POST", PATH, [HOST, JSON, b"Content-Length: 200000"], b" " * 100000)
    clients = [daemon.connect() for _ in range(20)]
    for c in clients:
        c.send(part)
        end(c)
    daemon.wait_log(r"cut=incomplete_body", count=len(clients))
    for c in clients:
        c.close()


def test_half_close_behind_a_whole_request(daemon):
    """The end of a client that has said all is no reason to drop an answer that needs no model."""
    for _ in range(20):
        with daemon.connect() as c:
            c.send(raw("POST", "/nowhere", [HOST, JSON, b"Content-Length: 100000"], b" " * 100000))
            c.sock.shutdown(socket.SHUT_WR)
            is_error(c.read_response(), 404)


def test_reader_that_does_not_read(start):
    """What a client leaves unread is bounded: it is cut off, others go on, memory stays."""
    daemon = start(log_level="debug", stream_buffer_bytes="64K", max_context=10000000)
    before = memory_kib(daemon)
    with daemon.connect() as c:
        c.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        c.request("POST", PATH, dict(STREAM, max_tokens=5000000), headers=["x-request-id: slow"])
        daemon.wait_log(r" slow request .*cut=reader_too_slow")
        daemon.wait_log(r"cancelled .*state=decode")
        assert daemon.post(PATH, SHORT).status_code == 200
    print("grown by %d KiB" % (memory_kib(daemon) - before))


def test_client_that_takes_nothing_of_a_whole_answer(start):
    """The idle time-out is also the one of a client that does not read its answer."""
    daemon = start(log_level="debug", idle_timeout_s=1)
    with daemon.connect() as c:
        c.request("GET", "/health")
        assert c.read_response().status == 200
        assert c.at_end()


# ---- streams

def test_keep_alive_comments(start):
    daemon = start(model="fake:prefill_ms=2500", sse_keepalive_s=1)
    response = daemon.post(PATH, dict(SHORT, stream=True))
    assert response.content.startswith(b":\n\n")
    assert response.content.endswith(b"data: [DONE]\n\n")


def test_no_comments_in_a_busy_stream(start):
    daemon = start(model="fake:delay_ms=50", sse_keepalive_s=1)
    response = daemon.post(PATH, dict(SHORT, max_tokens=50, stream=True))
    assert b":\n\n" not in response.content.replace(b"\n\n\n", b"\n\n").replace(b"data:", b"")


def test_queue_full(start):
    daemon = start(model="fake:delay_ms=5", max_running=1, max_queue=1, log_level="debug")
    with daemon.connect() as running, daemon.connect() as waiting:
        running.request("POST", PATH, STREAM)
        running.read_until(b"data: ")
        waiting.request("POST", PATH, STREAM)
        wait_until(lambda: _refused(daemon), "status 429")
        running.read_until(b"data: ")


def _refused(daemon):
    with daemon.connect() as c:
        c.request("POST", PATH, STREAM)
        status, headers = c.read_head()
        if status == 429:
            assert headers["retry-after"]
        return status == 429


def test_many_clients_at_once(start):
    """Ten times the queue: each gets its answer or a clear refusal, and then the server is free again."""
    daemon = start(model="fake:delay_ms=1", max_running=4, max_queue=16)
    results = []

    def one():
        results.append(daemon.post(PATH, dict(SHORT, max_tokens=20)).status_code)

    threads = [threading.Thread(target=one) for _ in range(160)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(results) == 160 and set(results) <= {200, 429} and results.count(200) >= 20
    assert daemon.post(PATH, SHORT).status_code == 200
