"""From start to end: loading, draining, signals, broken checkpoints."""

import json
import os
import pty
import shutil
import signal
import subprocess
import threading
import time

import pytest
from conftest import BUILD, PATIENCE_S, ROOT, is_error, wait_until

PATH = "/v1/completions"
LONG = {"model": "fake", "prompt": "a", "max_tokens": 30000, "ignore_eos": True}
SHORT = {"model": "fake", "prompt": "a", "max_tokens": 4, "ignore_eos": True}


def is_refused(daemon, path, code, **body):
    with daemon.connect() as c:
        c.request("POST" if body else "GET", path, body or None)
        response = c.read_response()
        assert is_error(response, 503, code) and int(response.headers["retry-after"]) > 0
        return response


def test_while_loading(start):
    daemon = start(model="fake:load_ms=600000", wait_ready=False)
    assert daemon.get("/health").status_code == 200
    is_refused(daemon, "/ready", "model_loading")
    is_refused(daemon, "/v1/models", "model_loading")
    is_refused(daemon, PATH, "model_loading", **SHORT)
    assert daemon.get("/nope").status_code == 404
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0
    assert "stopped while loading" in daemon.log()


def test_ready_after_loading(start):
    daemon = start(model="fake:load_ms=100")
    assert daemon.get("/ready").json() == {"status": "ready"}
    daemon.wait_log(r' ready model="fake"')


def test_broken_checkpoint(start):
    daemon = start(model="fake:load_ms=50,fail=1", wait_ready=False)
    assert daemon.wait_exit() == 1
    assert "error - cannot load the model: fake:load_ms=50,fail=1: the fake checkpoint is broken" in daemon.log()


def test_no_checkpoint(start):
    daemon = start(model="tests/models/none", real=True, wait_ready=False)
    assert daemon.wait_exit() == 1
    assert "cannot load the model: " in daemon.log() and "tests/models/none" in daemon.log()


def test_no_tokenizer(start, tmp_path):
    """Reference checkpoints have none, which is fine for the engine; a server without one could answer nobody."""
    for name in os.listdir(os.path.join(ROOT, "tests/models/demo")):
        if name != "tokenizer.json":
            os.symlink(os.path.join(ROOT, "tests/models/demo", name), tmp_path / name)
    daemon = start(model=str(tmp_path), real=True, wait_ready=False)
    assert daemon.wait_exit() == 1
    assert "cannot load the model: %s has no tokenizer.json" % tmp_path in daemon.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(start, number):
    """What runs or waits is finished, what is new is refused, probes are answered, then exit 0."""
    daemon = start(model="fake:delay_ms=10", max_running=2, log_level="debug")
    kept = daemon.connect().request("GET", "/health")
    assert kept.read_response().status == 200
    streams = [daemon.connect().request("POST", PATH, dict(SHORT, max_tokens=150, stream=True)) for _ in range(2)]
    whole = daemon.connect().request("POST", PATH, dict(SHORT, max_tokens=50))  # waits for a place
    daemon.wait_log("- submitted", count=3)
    daemon.signal(number)
    daemon.wait_log("draining, 3 requests running")
    is_refused(daemon, "/ready", "shutting_down")
    is_refused(daemon, "/v1/models", "shutting_down")
    response = is_refused(daemon, PATH, "shutting_down", **SHORT)
    assert response.headers["connection"].lower() == "close"
    assert daemon.get("/health").status_code == 200
    kept.request("POST", PATH, SHORT)  # an idle connection that was kept is refused, too, and closed
    is_error(kept.read_response(), 503)
    assert kept.at_end()
    for c in streams:
        c.read_until(b"data: [DONE]\n\n")
    assert whole.read_response().json()["usage"]["completion_tokens"] == 50
    assert daemon.wait_exit() == 0
    assert daemon.lines[-1].endswith(" stopped")


def test_drain_when_nothing_runs(start):
    daemon = start()
    with daemon.connect() as idle, daemon.connect() as partial:
        idle.request("GET", "/health").read_response()
        partial.send("POST /v1/completions HTTP/1.1\r\nHost: a\r\n")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


def half_a_request(daemon, c):
    """Sends headers and half of a body; returns the other half."""
    body = json.dumps(SHORT)
    c.send("POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
           "Expect: 100-continue\r\n\r\n" % (PATH, len(body)))
    assert c.read_response().status == 100  # by now the daemon knows of the request
    c.send(body[:9])
    return body[9:]


def test_body_still_arriving_when_draining(start):
    """A request that is on its way is told why it is not served."""
    daemon = start()
    with daemon.connect() as c:
        rest = half_a_request(daemon, c)
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("draining, 1 requests running")
        c.send(rest)
        is_error(c.read_response(), 503, "shutting_down")
        assert c.at_end()
    assert daemon.wait_exit() == 0


def test_body_that_stays_away_does_not_hold_up_the_end(start):
    daemon = start(body_timeout_s=86400, drain_timeout_s=86400)
    with daemon.connect() as before, daemon.connect() as while_draining:
        half_a_request(daemon, before)
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("draining, 1 requests running")
        half_a_request(daemon, while_draining)
        is_error(before.read_response(), 503, "shutting_down")
        is_error(while_draining.read_response(), 503, "shutting_down")
        assert daemon.wait_exit() == 0
    assert "cutting" not in daemon.log()


def cut_short(daemon, cut):
    stream = daemon.connect().request("POST", PATH, dict(LONG, stream=True))
    whole = daemon.connect().request("POST", PATH, LONG)
    stream.read_until(b"data: ")
    daemon.wait_log("- submitted", count=2)
    daemon.signal(signal.SIGTERM)
    daemon.wait_log("draining, 2 requests running")
    cut()
    text = stream.read_all().decode()
    events = [line for line in text.split("\n") if line.startswith("data: ")]
    error = json.loads(events[-1][len("data: "):])["error"]
    assert error["code"] == "shutting_down" and error["type"] == "service_unavailable"
    assert "[DONE]" not in text
    is_error(whole.read_response(), 503, "shutting_down")
    assert daemon.wait_exit() == 0
    assert "cutting 2 running requests short" in daemon.log()


def test_second_signal_cuts_short(start):
    daemon = start(model="fake:delay_ms=10", log_level="debug")
    cut_short(daemon, lambda: daemon.signal(signal.SIGINT))
    assert "SIGINT: cutting" in daemon.log()


def test_drain_timeout_cuts_short(start):
    daemon = start(model="fake:delay_ms=10", drain_timeout_s=1, log_level="debug")
    cut_short(daemon, lambda: None)
    assert "drain time-out: cutting" in daemon.log()


def test_cut_does_not_wait_for_a_client_that_does_not_read(start):
    daemon = start(stream_buffer_bytes="1G", max_context=100000000)
    with daemon.connect() as c:
        c.request("POST", PATH, dict(LONG, max_tokens=50000000, stream=True))
        c.read_until(b"data: ")
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("draining, 1 requests running")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait_exit() == 0


def test_client_gone_while_draining(start):
    daemon = start(model="fake:delay_ms=10", log_level="debug")
    with daemon.connect() as c:
        c.request("POST", PATH, dict(LONG, stream=True))
        c.read_until(b"data: ")
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("draining, 1 requests running")
    assert daemon.wait_exit() == 0
    assert "cancelled" in daemon.log() and "cutting" not in daemon.log()


def test_signals_beside_many_requests(start):
    """A drain in the middle of a load: each client gets a whole answer or a clear refusal."""
    daemon = start(model="fake:delay_ms=1", max_running=8)
    results = []

    def one():
        for _ in range(20):
            try:
                response = daemon.post(PATH, dict(SHORT, max_tokens=10))
            except Exception:  # the listening socket is gone
                results.append(None)
                return
            results.append(response.status_code)
            if response.status_code == 200:
                assert response.json()["usage"]["completion_tokens"] == 10

    threads = [threading.Thread(target=one) for _ in range(16)]
    for t in threads:
        t.start()
    wait_until(lambda: results.count(200) > 20, "some answers")
    daemon.signal(signal.SIGTERM)
    for t in threads:
        t.join()
    assert daemon.wait_exit() == 0
    assert set(results) <= {200, 503, None} and results.count(200) > 20
    assert "cutting" not in daemon.log()


def test_sigpipe_is_nothing(start):
    daemon = start()
    daemon.signal(signal.SIGPIPE)
    assert daemon.get("/health").status_code == 200


def on_terminal(*args):
    """The daemon's standard error is a terminal: its output until it ends."""
    master, slave = pty.openpty()
    process = subprocess.Popen([os.path.join(BUILD, "llama4d-fake"), "serve", *args], cwd=ROOT, stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    text = b""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        try:
            data = os.read(master, 4096)
        except OSError:
            break
        text += data
        if b" ready model=" in data:
            os.kill(process.pid, signal.SIGTERM)
    os.close(master)
    assert process.wait(PATIENCE_S) == 0
    return text.decode()


def test_progress_on_a_terminal():
    text = on_terminal("--model", "fake:load_ms=300", "--port", "0")
    assert "\r[###...........................]  10% loading" in text.replace("\033[K", "") and "50%" in text
    assert "[##############################] 100% loading\r\n" in text
    assert text.index("listening on http://") < text.index("100%") < text.index(" ready model=")


def test_no_progress_in_a_file(start):
    daemon = start(model="fake:load_ms=200")
    assert "%" not in daemon.log()


def test_real_model_answers_and_stops(start):
    daemon = start(model="tests/models/demo", real=True)
    response = daemon.post(PATH, {"prompt": "Once", "max_tokens": 5, "temperature": 0})
    assert response.status_code == 200 and response.json()["usage"]["completion_tokens"] == 5


def test_real_model_client_gone(start):
    """The engine's own cancel, seen from outside: a long answer ends when its client does."""
    daemon = start(model="tests/models/demo", real=True, log_level="debug")
    c = daemon.connect()
    c.request("POST", PATH, {"prompt": "Once", "max_tokens": 8000, "ignore_eos": True, "stream": True})
    c.read_until(b"data: ")
    c.close()
    daemon.wait_log(r"request method=POST .*cut=client_gone")
    daemon.signal(signal.SIGTERM)
    assert daemon.wait_exit() == 0


def test_checkpoint_truncated_while_in_use(start, tmp_path):
    """The weights are gone: the daemon says which file it was and ends; it never answers nonsense."""
    model = tmp_path / "demo"
    shutil.copytree(os.path.join(ROOT, "tests/models/demo"), model)
    daemon = start(model=str(model), real=True)
    shards = sorted(model.glob("*.safetensors"))
    for shard in shards:
        os.truncate(shard, 4096)
    with daemon.connect() as c:
        c.request("POST", PATH, {"prompt": "Once upon a time", "max_tokens": 50})
        assert c.read_all() == b""
    assert daemon.wait_exit() == 1
    assert any("%s: truncated" % shard in daemon.log() for shard in shards), daemon.log()
