"""TLS: the same bytes as without, the same deadlines, certificates that change under way."""

import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from api import COMPLETIONS
from conftest import PATIENCE_S, SANITIZED, Client, is_error

SHORT = {"prompt": "a", "max_tokens": 4, "ignore_eos": True}
STREAM = {"prompt": "a", "max_tokens": 30000, "ignore_eos": True, "stream": True}
HEAD = "POST %s HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n" % COMPLETIONS


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True, timeout=PATIENCE_S)


def make_certificate(directory, name, algorithm=("ec", "ec_paramgen_curve:P-256")):
    """Self-signed, for 127.0.0.1, and its key: the settings that name them."""
    certificate, key = directory / (name + ".pem"), directory / (name + ".key")
    openssl("req", "-x509", "-newkey", algorithm[0], "-pkeyopt", algorithm[1], "-nodes", "-days", 2, "-subj", "/CN=" + name,
            "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate)
    key.chmod(0o600)
    return {"tls_certificate": str(certificate), "tls_key": str(key)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_certificate(tmp_path_factory.mktemp("tls"), "one")


@pytest.fixture
def tls(start, pair):
    return start(log_level="debug", **pair)


def context(ca, version=None):
    c = ssl.create_default_context(cafile=ca)
    if version is not None:
        c.minimum_version = c.maximum_version = version
    return c


def connect(daemon, version=None, ca=None):
    return Client(context(ca or daemon.ca, version).wrap_socket(daemon.connect_tcp(), server_hostname=daemon.host))


def subject(client):
    return dict(pair[0] for pair in client.sock.getpeercert()["subject"])["commonName"]


def ends(sock):
    """What comes until the other side closes, without TLS."""
    data = b""
    try:
        while True:
            piece = sock.recv(65536)
            if not piece:
                return data
            data += piece
    except ConnectionResetError:
        return data


# ---- what goes through

@pytest.mark.parametrize("version,algorithm", [
    (ssl.TLSVersion.TLSv1_3, ("ec", "ec_paramgen_curve:P-256")), (ssl.TLSVersion.TLSv1_2, ("ec", "ec_paramgen_curve:P-256")),
    (ssl.TLSVersion.TLSv1_3, ("rsa", "rsa_keygen_bits:2048")), (ssl.TLSVersion.TLSv1_2, ("rsa", "rsa_keygen_bits:2048")),
], ids=["1.3 ecdsa", "1.2 ecdsa", "1.3 rsa", "1.2 rsa"])
def test_requests(start, tmp_path, version, algorithm):
    daemon = start(**make_certificate(tmp_path, "one", algorithm))
    assert daemon.url.startswith("https://127.0.0.1:")
    with connect(daemon, version) as c:
        assert c.sock.version() == {"TLSv1_3": "TLSv1.3", "TLSv1_2": "TLSv1.2"}[version.name]
        for _ in range(3):  # on one connection
            c.request("GET", "/v1/models")
            assert c.read_response().json()["data"][0]["id"] == "fake"
            c.request("POST", COMPLETIONS, SHORT)
            assert c.read_response().json()["usage"]["completion_tokens"] == 4
            c.request("POST", COMPLETIONS, dict(SHORT, stream=True))
            assert c.read_response().body.endswith(b"data: [DONE]\n\n")
        c.request("GET", "/nowhere")
        is_error(c.read_response(), 404)
    assert daemon.get("/health").status_code == 200


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused(tls):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.check_hostname, c.verify_mode = False, ssl.CERT_NONE
    c.set_ciphers("ALL:@SECLEVEL=0")
    c.minimum_version = ssl.TLSVersion.TLSv1
    c.maximum_version = ssl.TLSVersion.TLSv1_1
    with tls.connect_tcp() as s, pytest.raises((ssl.SSLError, ConnectionResetError)):
        c.wrap_socket(s)
    assert tls.get("/health").status_code == 200


def steady(body):
    """A stream without what differs from request to request."""
    return re.sub(rb'"id": ?"[^"]*"|"created": ?\d+', b"", body)


def test_streams_are_those_of_plain_http(start, pair):
    plain, secure = start(real=True, model="tests/models/demo"), start(real=True, model="tests/models/demo", **pair)
    body = {"prompt": "Once upon a time", "max_tokens": 30, "seed": 7, "temperature": 1, "stream": True, "logprobs": 2}
    want = steady(plain.post(COMPLETIONS, body).content)
    assert want.count(b"data: ") == 32
    n = 10 if SANITIZED else 100

    def ask(i):
        daemon = plain if i % 10 == 0 else secure
        response = daemon.post(COMPLETIONS, body, headers={"x-request-id": "r-%d" % i})
        assert response.status_code == 200 and response.headers["x-request-id"] == "r-%d" % i
        return steady(response.content)

    with ThreadPoolExecutor(n) as pool:
        assert set(pool.map(ask, range(n))) == {want}


def test_many_streams_at_once(start, pair):
    """All of them open before any ends."""
    n = 10 if SANITIZED else 100
    daemon = start(model="fake:delay_ms=1", max_running=n, **pair)
    clients = [connect(daemon) for _ in range(n)]
    for c in clients:
        c.request("POST", COMPLETIONS, dict(STREAM, max_tokens=50))
    heads = [c.read_head() for c in clients]
    assert {status for status, _ in heads} == {200}
    bodies = {steady(c.read_until(b"data: [DONE]\n\n")) for c in clients}
    texts = {re.sub(rb"\r\n[0-9a-f]+\r\n", b"", body) for body in bodies}  # chunks are cut anywhere
    assert all(b.count(b'"text"') == b.count(b'"finish_reason"') >= 50 for b in texts)
    for c in clients:
        c.close()


def test_large_bodies(tls):
    """Larger than a record of TLS, than the library's buffers and than what a socket holds."""
    for size in 16000, 16384, 16385, 70000, 1000000, 5000000:
        with connect(tls) as c:
            body = json.dumps(dict(SHORT, user="x" * size)).encode()
            for _ in range(2):
                c.request("POST", COMPLETIONS, body)
                assert c.read_response().status == 200, size


def test_pipelined_requests_in_one_record(tls):
    """What GnuTLS has decrypted and nobody has read yet makes no socket readable."""
    with connect(tls) as c:
        body = json.dumps(SHORT)
        one = "%sContent-Length: %d\r\n\r\n%s" % (HEAD, len(body), body)
        c.send(one * 20)
        for _ in range(20):
            assert c.read_response().status == 200


def test_requests_in_many_records(tls):
    with connect(tls) as c:
        body = json.dumps(SHORT)
        for byte in "%sContent-Length: %d\r\n\r\n%s" % (HEAD, len(body), body):
            c.send(byte)
        assert c.read_response().status == 200


def test_half_close_behind_a_whole_request(tls):
    """The end of the connection does not overtake a body that has been decrypted but not read."""
    for _ in range(20):
        with connect(tls) as c:
            c.send(HEAD.replace(COMPLETIONS, "/nowhere") + "Content-Length: 100000\r\n\r\n" + " " * 100000)
            socket.socket.shutdown(c.sock, socket.SHUT_WR)  # the connection's, not only the session's
            is_error(c.read_response(), 404)


def test_end_is_told(tls):
    """A closed connection ends with close_notify: nobody can cut an answer short unnoticed."""
    with connect(tls) as c:
        c.request("GET", "/health", headers=["Connection: close"])
        assert c.read_response().status == 200
        assert c.sock.recv(1) == b""  # SSLEOFError where the end is not told


# ---- who is gone, who is slow

def end_with_fin(c):
    c.sock.close()


def end_with_rst(c):
    c.reset()


def end_with_notice(c):
    try:
        c.sock.settimeout(0.1)
        c.sock.unwrap()
    except (OSError, ssl.SSLError):
        pass
    c.sock.close()


@pytest.mark.parametrize("end", [end_with_fin, end_with_rst, end_with_notice])
def test_aborted_streams(start, pair, end):
    daemon = start(model="fake:delay_ms=2", log_level="debug", **pair)
    clients = [connect(daemon) for _ in range(5)]
    for c in clients:
        c.request("POST", COMPLETIONS, STREAM)
        c.read_until(b"data: ")
    with connect(daemon) as other:
        other.request("POST", COMPLETIONS, dict(STREAM, max_tokens=100))
        for c in clients:
            end(c)
        other.read_until(b"data: [DONE]\n\n")
    daemon.wait_log(r"cancelled .*state=decode", count=5)
    daemon.wait_log(r"cut=client_gone", count=5)


def test_client_gone_in_the_body(tls):
    c = connect(tls)
    c.send(HEAD + "Content-Length: 100\r\n\r\n{")
    c.close()
    tls.wait_log(r"cut=incomplete_body")


def test_reader_that_does_not_read(start, pair):
    daemon = start(log_level="debug", stream_buffer_bytes="64K", max_context=10000000, **pair)
    s = daemon.connect_tcp()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with Client(context(daemon.ca).wrap_socket(s, server_hostname=daemon.host)) as c:
        c.request("POST", COMPLETIONS, dict(STREAM, max_tokens=5000000), headers=["x-request-id: slow"])
        daemon.wait_log(r" slow request .*cut=reader_too_slow")
        daemon.wait_log(r"cancelled .*state=decode")
        assert daemon.post(COMPLETIONS, SHORT).status_code == 200


@pytest.mark.parametrize("data", [
    b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x40\x00" + b"\0" * 100, b"\x16\x03\x01\xff\xff", b"\xff" * 300,
    b"POST /v1/completions HTTP/1.1\r\nContent-Length: 100000\r\n\r\n" + b" " * 100000,
], ids=["http", "hello", "record", "bytes", "body"])
def test_what_is_not_tls(start, pair, data):
    daemon = start(header_timeout_s=1, **pair)
    for _ in range(5):
        with daemon.connect_tcp() as s:
            try:
                s.sendall(data)
            except (ConnectionResetError, BrokenPipeError):
                pass
            assert b"HTTP" not in ends(s)
    assert daemon.get("/health").status_code == 200
    assert "request method" not in "".join(line for line in daemon.lines if "/health" not in line)


def test_handshakes_that_do_not_end(start, pair):
    daemon = start(header_timeout_s=1, **pair)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = context(daemon.ca).wrap_bio(incoming, outgoing, server_hostname=daemon.host)
    with pytest.raises(ssl.SSLWantReadError):
        session.do_handshake()
    hello = outgoing.read()
    with daemon.connect_tcp() as silent, daemon.connect_tcp() as begun, daemon.connect_tcp() as answered:
        begun.sendall(hello[:len(hello) // 2])
        answered.sendall(hello)
        assert ends(silent) == b""
        ends(begun)
        assert ends(answered)[0] == 0x16  # the server's part of the handshake, and then the end
    daemon.wait_log(r"connection cut=handshake_timeout", count=3)
    assert daemon.get("/health").status_code == 200


def cpu_seconds(daemon):
    with open("/proc/%d/stat" % daemon.process.pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_waiting_for_clients_takes_no_time(start, pair):
    """Handshakes and requests of which a part has come: nobody looks at them until more does."""
    daemon = start(**pair)
    with connect(daemon) as partial, daemon.connect_tcp() as s:
        partial.send("GET /health HTTP/1.1\r\nX: ")
        s.sendall(b"\x16\x03\x01\x40\x00" + b"\0" * 100)
        assert daemon.get("/health").status_code == 200
        before = cpu_seconds(daemon)
        time.sleep(2)
        assert cpu_seconds(daemon) - before < 1


def test_handshakes_in_pieces(start, pair):
    """Every byte on its own, in both directions of the handshake, for both versions."""
    daemon = start(**pair)
    for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context(daemon.ca, version).wrap_bio(incoming, outgoing, server_hostname=daemon.host)
        with daemon.connect_tcp() as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def step(function, *args):
                while True:
                    try:
                        return function(*args)
                    except ssl.SSLWantReadError:
                        deliver()
                        incoming.write(s.recv(65536))

            def deliver():
                for byte in outgoing.read():
                    s.sendall(bytes([byte]))

            step(session.do_handshake)
            session.write(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            deliver()
            assert step(session.read, 65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_requests_that_do_not_come(start, pair):
    """Behind the handshake everything is as without TLS: told is who began to ask."""
    daemon = start(header_timeout_s=1, body_timeout_s=1, **pair)
    with connect(daemon) as silent, connect(daemon) as slow, connect(daemon) as late:
        slow.send("GET /health HTTP/1.1\r\nX: ")
        late.send(HEAD + "Content-Length: 100\r\n\r\n{")
        is_error(slow.read_response(), 408)
        assert slow.at_end()
        is_error(late.read_response(), 408)
        assert late.at_end()
        assert silent.read_all() == b""
    daemon.wait_log(r"request status=408 cut=header_timeout")
    daemon.wait_log(r"status=408 .*cut=body_timeout")
    assert len([line for line in daemon.lines if "cut=header_timeout" in line]) == 1


def test_many_slow_handshakes(start, pair):
    """Beside hundreds of clients that never finish a handshake others are served."""
    daemon = start(max_connections=1024, header_timeout_s=600, **pair)
    n = 100 if SANITIZED else 500
    clients = [daemon.connect_tcp() for _ in range(n)]
    for s in clients:
        s.sendall(b"\x16\x03\x01\x02")
    for _ in range(3):
        assert daemon.post(COMPLETIONS, SHORT).status_code == 200
    for s in clients:
        s.close()
    assert daemon.get("/health").status_code == 200


def test_too_large(start, pair):
    daemon = start(max_body_bytes="4K", **pair)
    with connect(daemon) as c:
        c.send(HEAD + "Transfer-Encoding: chunked\r\n\r\n2800\r\n" + " " * 10240)
        is_error(c.read_response(), 413)
        assert c.at_end()


# ---- the files

def test_reload(start, tmp_path):
    first, second = make_certificate(tmp_path, "first"), make_certificate(tmp_path, "second")
    used = {name: str(tmp_path / ("used." + name)) for name in first}

    def use(pair):
        for name, path in used.items():
            (tmp_path / ("used." + name)).write_bytes(open(pair[name], "rb").read())

    use(first)
    (tmp_path / "used.tls_key").chmod(0o600)
    daemon = start(model="fake:delay_ms=5", **used)
    with connect(daemon, ca=first["tls_certificate"]) as running, connect(daemon, ca=first["tls_certificate"]) as kept:
        assert subject(running) == subject(kept) == "first"
        running.request("POST", COMPLETIONS, dict(STREAM, max_tokens=300))
        running.read_until(b"data: ")
        waiting = daemon.connect_tcp()  # accepted before the next one, and shakes hands after the reload
        connect(daemon, ca=first["tls_certificate"]).close()
        use(second)
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("used.tls_certificate: new connections get this certificate")
        with connect(daemon, ca=second["tls_certificate"]) as c:
            assert subject(c) == "second"
        waiting = Client(context(first["tls_certificate"]).wrap_socket(waiting, server_hostname=daemon.host))
        assert subject(waiting) == "first"
        use({"tls_certificate": first["tls_certificate"], "tls_key": second["tls_key"]})
        daemon.signal(signal.SIGHUP)
        daemon.wait_log("SIGHUP: the certificate stays as it is")
        assert "used.tls_key: is not the key of the first certificate in %s" % used["tls_certificate"] in daemon.log()
        with connect(daemon, ca=second["tls_certificate"]) as c:
            assert subject(c) == "second"
        kept.request("GET", "/health")
        assert kept.read_response().status == 200
        running.read_until(b"data: [DONE]\n\n")
        waiting.request("GET", "/health")
        assert waiting.read_response().status == 200
        waiting.close()


def test_bad_files(run, tmp_path):
    good, other = make_certificate(tmp_path, "good"), make_certificate(tmp_path, "other")
    empty, noise, locked = tmp_path / "empty", tmp_path / "noise", tmp_path / "locked"
    empty.write_text("")
    noise.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    openssl("pkcs8", "-topk8", "-in", good["tls_key"], "-out", locked, "-passout", "pass:secret")
    certificate, key = good["tls_certificate"], good["tls_key"]
    cases = [
        (tmp_path / "none", key, "%s: No such file or directory" % (tmp_path / "none")),
        (certificate, tmp_path / "none", "%s: No such file or directory" % (tmp_path / "none")),
        (tmp_path, key, "%s: is no regular file" % tmp_path),
        (empty, key, "%s: no certificates in PEM form" % empty),
        (noise, key, "%s: no certificates in PEM form" % noise),
        (key, key, "%s: no certificates in PEM form" % key),
        (certificate, empty, "%s: no private key in PEM form without a password" % empty),
        (certificate, certificate, "%s: no private key in PEM form without a password" % certificate),
        (certificate, locked, "%s: no private key in PEM form without a password" % locked),
        (certificate, other["tls_key"], "%s: is not the key of the first certificate in %s" % (other["tls_key"], certificate)),
    ]
    for one, two, words in cases:
        status, _, err = run("serve", "--model", "fake:", "--port", 0, "--tls-certificate", one, "--tls-key", two)
        assert status == 1 and words in err and "listening" not in err, err
    for name, missing in ("tls-certificate", "tls_key"), ("tls-key", "tls_certificate"):
        status, _, err = run("serve", "--model", "fake:", "--port", 0, "--" + name, certificate)
        assert status == 2 and "both needed for TLS: %s is not set" % missing in err


def test_warnings(start, tmp_path):
    pair = make_certificate(tmp_path, "open")
    (tmp_path / "open.key").chmod(0o644)
    daemon = start(**pair)
    assert "open.key can be read or changed by every user" in daemon.log()
    openssl("x509", "-in", pair["tls_certificate"], "-signkey", pair["tls_key"], "-days", -1, "-out", tmp_path / "old.pem")
    assert "old.pem: the certificate has expired" in start(tls_certificate=str(tmp_path / "old.pem"), tls_key=pair["tls_key"]).log()


def test_chain(start, tmp_path):
    """A certificate that another one signed, which clients do not know: the file holds both."""
    root = make_certificate(tmp_path, "root")
    openssl("req", "-new", "-newkey", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-subj", "/CN=middle",
            "-keyout", tmp_path / "middle.key", "-out", tmp_path / "middle.csr")
    (tmp_path / "ca").write_text("basicConstraints=critical,CA:TRUE\n")
    openssl("x509", "-req", "-in", tmp_path / "middle.csr", "-CA", root["tls_certificate"], "-CAkey", root["tls_key"],
            "-CAcreateserial", "-days", 2, "-extfile", tmp_path / "ca", "-out", tmp_path / "middle.pem")
    openssl("req", "-new", "-newkey", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-nodes", "-subj", "/CN=leaf",
            "-keyout", tmp_path / "leaf.key", "-out", tmp_path / "leaf.csr")
    (tmp_path / "san").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", tmp_path / "leaf.csr", "-CA", tmp_path / "middle.pem", "-CAkey", tmp_path / "middle.key",
            "-CAcreateserial", "-days", 2, "-extfile", tmp_path / "san", "-out", tmp_path / "leaf.pem")
    (tmp_path / "chain.pem").write_bytes((tmp_path / "leaf.pem").read_bytes() + (tmp_path / "middle.pem").read_bytes())
    (tmp_path / "leaf.key").chmod(0o600)
    daemon = start(tls_certificate=str(tmp_path / "chain.pem"), tls_key=str(tmp_path / "leaf.key"))
    with connect(daemon, ca=root["tls_certificate"]) as c:
        assert subject(c) == "leaf"
        c.request("GET", "/health")
        assert c.read_response().status == 200


# ---- with the rest

def test_refusals_before_the_body(start, pair, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice sha256:%s\n" % hashlib.sha256(b"sk-alice").hexdigest())
    keys.chmod(0o600)
    daemon = start(api_keys_file=str(keys), **pair)
    with connect(daemon) as c:
        c.send(HEAD + "Content-Length: 1000000\r\n\r\n")
        is_error(c.read_response(), 401, "invalid_api_key")
        assert c.at_end()
    with connect(daemon) as c:
        c.send(HEAD + "Content-Length: 1000000\r\n\r\n" + " " * 1000000)
        is_error(c.read_response(), 401, "invalid_api_key")
        c.request("POST", COMPLETIONS, SHORT, headers=["x-api-key: sk-alice"])
        assert c.read_response().status == 200


def test_drain(start, pair):
    daemon = start(model="fake:delay_ms=10", log_level="debug", **pair)
    with connect(daemon) as running, connect(daemon) as idle:
        running.request("POST", COMPLETIONS, dict(STREAM, max_tokens=50))
        running.read_until(b"data: ")
        daemon.signal(signal.SIGTERM)
        daemon.wait_log("draining, 1 requests running")
        idle.request("POST", COMPLETIONS, SHORT)
        is_error(idle.read_response(), 503)
        running.read_until(b"data: [DONE]\n\n")
    assert daemon.wait_exit() == 0
