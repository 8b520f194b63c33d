"""Settings: what is accepted, what is refused and with which words."""

import os
import signal
import socket

from conftest import ROOT


def write(tmp_path, text):
    path = tmp_path / "test.conf"
    path.write_text(text)
    return path


def test_shipped_file_is_the_table(run):
    status, out, err = run("check-config", "--print-default")
    assert status == 0 and err == ""
    with open(os.path.join(ROOT, "config", "llama4d.conf")) as f:
        assert f.read() == out


def test_shipped_files_are_valid(run):
    for name in "llama4d.conf", "llama4d-minimal.conf":
        status, out, err = run("check-config", "--config", os.path.join(ROOT, "config", name))
        assert (status, err) == (0, "")


def test_every_setting_is_a_flag_in_the_help(run):
    _, table, _ = run("check-config", "--print-default")
    names = [line[1:].split(" =")[0] for line in table.splitlines() if line.startswith("#") and line[1:2] not in (" ", "")]
    assert len(names) > 25
    status, out, _ = run("--help")
    assert status == 0
    for name in names:
        assert "  --%s VALUE" % name.replace("_", "-") in out


def test_flags_over_file_over_defaults(run, tmp_path):
    path = write(tmp_path, "# comment\n; comment\n\n[llama4d]\nmax_queue = 7\nmax_running=3 ; behind a blank\nkv_cache = 3G\n")
    status, out, _ = run("check-config", "--config", path, "--max-queue", 9, "--top-p=0.5")
    assert status == 0
    lines = out.splitlines()
    assert "max_queue = 9" in lines and "max_running = 3" in lines and "kv_cache = 3G" in lines and "top_p = 0.5" in lines
    assert "#port = 8080" in lines


def test_printed_settings_can_be_read_again(run, tmp_path):
    status, out, _ = run("check-config", "--min-p", "0.1", "--temperature", "0.30000000000000004", "--model", "a b")
    path = write(tmp_path, out)
    again = run("check-config", "--config", path)
    assert status == 0 and again == (0, out, "")


def test_all_errors_of_a_file_are_reported(run, tmp_path):
    path = write(tmp_path, "port = 99999\nprot = 1\nmax_queue = many\nexperts_implementation = fastest\ntop_p = 1.5\n"
                           "max_queue = 2\nno value here\n[other]\nport = 1\n")
    status, out, err = run("serve", "--config", path)
    assert status == 2 and out == ""
    lines = err.splitlines()
    assert len(lines) == 8, err
    expected = [
        (1, 'port = "99999": allowed is a whole number from 0 to 65535'),
        (2, 'unknown setting "prot"'),
        (3, 'max_queue = "many": allowed is a whole number'),
        (4, 'experts_implementation = "fastest": allowed is one of auto, batched_mm, grouped_mm, eager'),
        (5, 'top_p = "1.5": allowed is unset or a number from 0 to 1'),
        (6, "max_queue was set before, in line 3"),
        (7, 'unknown setting "no value here"'),
        (9, "section [other] is not known"),
    ]
    for line, (number, words) in zip(lines, expected):
        assert line.startswith("%s:%d: " % (path, number)) and words in line


def test_sizes(run):
    for text, printed in ("1024", "1K"), ("1k", "1K"), ("3M", "3M"), ("1G", "1G"), ("1500", "1500"):
        status, out, _ = run("check-config", "--max-body-bytes", text)
        assert status == 0 and "max_body_bytes = %s" % printed in out
    for text in "1T", "K", "1KK", "-1", "", "9999999999G", "1.5M", "0x10", " 4096":
        status, _, err = run("check-config", "--max-body-bytes=" + text)
        assert status == 2 and "--max-body-bytes" in err and "a number of bytes from 1K to 4G" in err


def test_auto_and_switches(run, tmp_path):
    for text, printed in ("auto", "#threads = auto"), ("0", "#threads = auto"), ("3", "threads = 3"):
        status, out, _ = run("check-config", "--threads", text)
        assert status == 0 and printed in out.splitlines()
    path = write(tmp_path, "threads = auto\npin_threads = on\nnuma = interleave\n")
    status, out, _ = run("check-config", "--config", path)
    assert status == 0 and {"#threads = auto", "pin_threads = on", "numa = interleave"} <= set(out.splitlines())


def test_bad_flags(run):
    cases = [
        (["--prot", "1"], "unknown flag --prot"),
        (["--prot=1"], "unknown flag --prot;"),
        (["--max_queue", "1"], "unknown flag --max_queue"),
        (["--port"], "--port needs a value"),
        (["--port", "--model", "x"], "--port needs a value"),
        (["--port", "1", "--port=2"], "--port was given twice"),
        (["--port", "http"], '--port "http": allowed is a whole number from 0 to 65535'),
        (["--temperature", "nan"], "--temperature"),
        (["--temperature", "1e999"], "--temperature"),
        (["--experts-implementation", "x"], "one of auto, batched_mm, grouped_mm, eager"),
        (["--gemm", "x"], "one of own, openblas"),
        (["--kv-cache-type", "x"], "one of f32, f16, bf16, q8_0"),
        (["--threads", "many"], '--threads "many": allowed is auto or a whole number from 1 to 1024'),
        (["--threads", "-1"], "auto or a whole number from 1 to 1024"),
        (["--threads", "1025"], "auto or a whole number from 1 to 1024"),
        (["--threads", "AUTO"], "auto or a whole number from 1 to 1024"),
        (["--pin-threads", "yes"], '--pin-threads "yes": allowed is on or off'),
        (["--numa", "bind"], '--numa "bind": allowed is one of off, interleave'),
        (["stray"], 'unexpected argument "stray"'),
        (["--config"], "--config needs the path"),
        (["--config", "a", "--config=b"], "--config was given twice"),
        (["--config", "/nonexistent/file"], "/nonexistent/file: No such file or directory"),
        (["--config", "/"], "/: Is a directory"),
    ]
    for args, words in cases:
        status, out, err = run("serve", "--model", "fake:", *args)
        assert status == 2 and words in err and out == "", (args, err)


def test_no_model(run):
    status, _, err = run("serve")
    assert status == 2 and "--model PATH" in err


def test_long_and_strange_lines(run, tmp_path):
    path = tmp_path / "test.conf"
    path.write_bytes(b"model_name = " + b"a" * 9000 + b"\nport = 70000\n\xef\xbb\xbfport\0 = 1\nhost = \xff\n")
    status, _, err = run("check-config", "--config", path)
    lines = err.splitlines()
    assert status == 2
    assert lines[0].startswith("%s:1: the line is longer than" % path)
    assert lines[1].startswith('%s:2: port = "70000"' % path)
    assert lines[2].startswith("%s:3: " % path)


def test_commands(run):
    assert run("--version")[:2] == (0, "llama4d 0.1.0\n")
    for args in [], ["nonsense"], ["--help", "me"], ["--version", "x"]:
        status, out, err = run(*args)
        assert (status, out) == (2, "") and "serve|check-config|bench|key|quantize|--help|--version" in err


def test_port_in_use(run):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        status, _, err = run("serve", "--model", "fake:", "--port", s.getsockname()[1])
        assert status == 1 and "Address already in use" in err and str(s.getsockname()[1]) in err


def test_no_such_host(run):
    status, _, err = run("serve", "--model", "fake:", "--port", 0, "--host", "no such host")
    assert status == 1 and 'host "no such host"' in err


def test_listens_on_ipv6(start):
    if not socket.has_ipv6:
        return
    daemon = start(host="::1")
    assert daemon.url.startswith("http://[::1]:")
    assert daemon.get("/health").status_code == 200


def test_reload(start, tmp_path):
    path = write(tmp_path, "log_level = info\nmax_queue = 5\n")
    daemon = start(config=path)
    write(tmp_path, "log_level = debug\nmax_queue = 6\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("SIGHUP: settings read again")
    assert "setting log_level changed" in daemon.log()
    assert "setting max_queue changed in the file; a restart is needed" in daemon.log()
    daemon.get("/health")
    daemon.wait_log(r"debug .*path=\"/health\"")
    write(tmp_path, "log_level = loud\n")
    daemon.signal(signal.SIGHUP)
    daemon.wait_log("SIGHUP: the settings stay as they are")
    assert 'log_level = "loud": allowed is one of error, warn, info, debug' in daemon.log()
    assert daemon.get("/ready").status_code == 200


def test_model_name(start):
    assert start().get("/v1/models").json()["data"][0]["id"] == "fake"
    daemon = start(model_name="org/name", experts_implementation="grouped_mm", max_context=4096)
    model = daemon.get("/v1/models").json()["data"][0]
    assert model["id"] == "org/name" and model["experts_implementation"] == "grouped_mm" and model["context_length"] == 4096
    assert daemon.get("/v1/models/org/name").json() == model
    missing = daemon.get("/v1/models/other")
    assert missing.status_code == 404 and missing.json()["error"]["code"] == "model_not_found"
