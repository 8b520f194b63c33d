"""A daemon on a free port for each test that wants one.

`start(...)` gives a Daemon that runs on the fake engine (tests/lib/fake_engine.c says what its model names mean) or, with
real=True, on the real one.  Keyword arguments are settings: start(model="fake:delay_ms=5", max_queue=2).  Every daemon is
stopped at the end by its process id, must exit with 0 unless the test has seen to its end, and must not have a
sanitizer's report in its log."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.join(ROOT, os.environ.get("LLAMA4D_BUILD", "build"))
SANITIZED = os.path.basename(BUILD) in ("asan", "tsan")  # where everything takes ten to a hundred times as long
PATIENCE_S = 60  # for what must happen; how fast it happens is not tested


def wait_until(condition, what, seconds=PATIENCE_S):
    """Poll until condition() is true and return its value."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError("waited %d s for %s" % (seconds, what))


class Daemon:
    def __init__(self, settings, real=False, config=None, wait_ready=True):
        program = os.path.join(BUILD, "llama4d" if real else "llama4d-fake")
        self.args = [program, "serve"]
        if config is not None:
            self.args += ["--config", str(config)]
        for name, value in settings.items():
            self.args += ["--" + name.replace("_", "-"), str(value)]
        self.ca = settings.get("tls_certificate")  # self-signed: what clients trust
        self.lines = []
        self.exit_seen = False
        self.process = subprocess.Popen(self.args, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        try:
            self.url = self.wait_log(r"listening on (https?://\S+)").group(1)
            self.host, port = self.url.split("://")[1].rsplit(":", 1)
            self.port = int(port)
            if wait_ready:
                self.wait_log(r" ready model=")
        except BaseException:
            self.kill()
            raise

    def _read(self):
        for line in self.process.stderr:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\n"))

    # ---- log and process

    def log(self):
        return "\n".join(self.lines)

    def wait_log(self, pattern, count=1):
        """The match of the count-th log line that matches."""
        def find():
            found = [m for m in (re.search(pattern, line) for line in list(self.lines)) if m]
            if len(found) < count and self.process.poll() is not None and not self.reader.is_alive():
                raise AssertionError("the daemon ended with %s before %r:\n%s" %
                                     (self.process.returncode, pattern, self.log()))
            return found[count - 1] if len(found) >= count else None
        return wait_until(find, "log line %r in:\n%s" % (pattern, self.log()))

    def signal(self, number):
        os.kill(self.process.pid, number)

    def wait_exit(self):
        self.exit_seen = True
        status = self.process.wait(PATIENCE_S)
        self.reader.join(PATIENCE_S)
        return status

    def kill(self):
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.reader.join(PATIENCE_S)

    def stop(self):
        """The end of every test: a clean exit, and nothing that a sanitizer had to say."""
        if not self.exit_seen:
            if self.process.poll() is None:
                self.signal(signal.SIGTERM)
            try:
                status = self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("the daemon did not stop:\n" + self.log())
            self.reader.join(PATIENCE_S)
            assert status == 0, "exit status %s:\n%s" % (status, self.log())
        assert not re.search(r"Sanitizer|runtime error:", self.log()), self.log()

    # ---- requests

    def get(self, path, **kwargs):
        return requests.get(self.url + path, timeout=PATIENCE_S, verify=self.ca or True, **kwargs)

    def post(self, path, body, **kwargs):
        return requests.post(self.url + path, json=body, timeout=PATIENCE_S, verify=self.ca or True, **kwargs)

    def connect_tcp(self):
        return socket.create_connection((self.host, self.port), PATIENCE_S)

    def connect(self):
        s = self.connect_tcp()
        if self.ca:
            s = ssl.create_default_context(cafile=self.ca).wrap_socket(s, server_hostname=self.host)
        return Client(s)


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)


class Client:
    """A raw connection: what is written is exactly what the test says."""

    def __init__(self, sock):
        self.sock = sock
        self.buffer = b""

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())
        return self

    def request(self, method, path, body=None, headers=(), version="HTTP/1.1"):
        head = ["%s %s %s" % (method, path, version), "Host: localhost"]
        if body is not None:
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            head += ["Content-Type: application/json", "Content-Length: %d" % len(body)]
        head += headers
        return self.send("\r\n".join(head).encode() + b"\r\n\r\n" + (body or b""))

    def _more(self):
        try:
            data = self.sock.recv(65536)
        except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
            data = b""
        self.buffer += data
        return data != b""

    def read_until(self, mark):
        while mark not in self.buffer:
            if not self._more():
                raise EOFError("the connection ended after %r" % self.buffer)
        at = self.buffer.index(mark) + len(mark)
        data, self.buffer = self.buffer[:at], self.buffer[at:]
        return data

    def read_all(self):
        """All until the other side closes."""
        while self._more():
            pass
        data, self.buffer = self.buffer, b""
        return data

    def read_head(self):
        head = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {}
        for line in head[1:]:
            if line:
                name, value = line.split(":", 1)
                headers[name.lower()] = value.strip()
        return int(head[0].split()[1]), headers

    def read_response(self, method="GET"):
        status, headers = self.read_head()
        body = b""
        if method == "HEAD" or status < 200 or status == 204:
            pass
        elif headers.get("transfer-encoding") == "chunked":
            while True:
                size = int(self.read_until(b"\r\n"), 16)
                while len(self.buffer) < size + 2:
                    if not self._more():
                        raise EOFError("the connection ended in a chunk")
                body += self.buffer[:size]
                self.buffer = self.buffer[size + 2:]
                if size == 0:
                    break
        elif "content-length" in headers:
            size = int(headers["content-length"])
            while len(self.buffer) < size:
                if not self._more():
                    raise EOFError("the connection ended in the body")
            body, self.buffer = self.buffer[:size], self.buffer[size:]
        else:
            body = self.read_all()
        return Response(status, headers, body)

    def at_end(self):
        """True when the other side has closed and nothing is left to read."""
        return not self.buffer and not self._more()

    def reset(self):
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def is_error(response, status, code=False):
    """An error object as clients expect it; returns its message."""
    assert response.status == status, (response.status, response.body)
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"] and error["type"]
    if code is not False:
        assert error["code"] == code
    return error["message"]


@pytest.fixture
def start():
    daemons = []

    def start_one(model="fake:", real=False, config=None, wait_ready=True, **settings):
        settings.setdefault("port", 0)
        if model is not None:
            settings["model"] = model
        daemon = Daemon(settings, real=real, config=config, wait_ready=wait_ready)
        daemons.append(daemon)
        return daemon

    yield start_one
    for daemon in daemons:
        daemon.stop()


@pytest.fixture
def run():
    """The program with these arguments, to its end: (exit status, stdout, stderr)."""
    def run_once(*args, real=False):
        program = os.path.join(BUILD, "llama4d" if real else "llama4d-fake")
        done = subprocess.run([program, *map(str, args)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=PATIENCE_S)
        return done.returncode, done.stdout.decode(), done.stderr.decode()
    return run_once


def shared(model, real, **settings):
    daemon = Daemon({"model": model, **settings, "port": 0}, real=real)
    yield daemon
    daemon.stop()


@pytest.fixture(scope="module")
def demo():
    """The demo model on the real engine, shared by a file's tests: they must not change it."""
    yield from shared("tests/models/demo", True)


@pytest.fixture(scope="module")
def exact():
    """The demo model with the arithmetic of the references: keys and values in float32."""
    yield from shared("tests/models/demo", True, kv_cache_type="f32")


@pytest.fixture(scope="module")
def fake():
    """The fake engine, likewise."""
    yield from shared("fake:", False)


@pytest.fixture(scope="module")
def say(tmp_path_factory):
    """say(text): a fake engine that answers with this text, shared by a file's tests."""
    daemons = {}

    def daemon_that_says(text):
        if text not in daemons:
            path = tmp_path_factory.mktemp("say") / "answer"
            path.write_text(text)
            daemons[text] = Daemon({"model": "fake:answer=%s" % path, "port": 0}, real=False)
        return daemons[text]
    yield daemon_that_says
    for daemon in daemons.values():
        daemon.stop()
