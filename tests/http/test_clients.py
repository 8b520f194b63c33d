"""The official clients against a running daemon: the cases of tests/clients/*.test.mjs, run by node's own test runner.

A file runs once, on a daemon of its own.  Each of its cases is a test here, and so is its end: all cases have run, and
the daemon has said what it should and stopped well."""

import functools
import glob
import os
import re
import subprocess

import pytest
from conftest import ROOT, SANITIZED, Daemon

CLIENTS = os.path.join(ROOT, "tests/clients")
TIMEOUT_S = 240
# A garbage collection makes the fetch of Debian 12's Node.js deaf to aborts: there is room enough to do without.
NODE = ["node", "--max-semi-space-size=128", "--test-reporter=tap"]
ENDLESS = "fake:delay_ms=5,tokens=100000"
DEMO = {"model": "tests/models/demo"}
SETTINGS = {  # by the last word of the file's name
    "limits": {"model": ENDLESS, "max_running": 1, "max_queue": 1, "log_level": "debug"},
    "shutdown": {"model": ENDLESS, "drain_timeout_s": 600},
}
LOGGED = {
    "limits": [r"cancelled id=\d+ state=queued", r"cancelled id=\d+ state=decode"],
    "shutdown": [r"draining, 1 requests running", r"cutting"],
}
FILES = sorted(os.path.basename(path)[:-len(".test.mjs")] for path in glob.glob(os.path.join(CLIENTS, "*.test.mjs")))


def cases(file):
    """The names of a file's tests; what is marked slow is not expected under a sanitizer."""
    with open(os.path.join(CLIENTS, file + ".test.mjs"), encoding="utf-8") as f:
        text = f.read()
    found = re.findall(r'^(test|slow)\("(.+?)", async', text, re.M)
    n_written = len(re.findall(r"\b(?:test|slow)\(", text))
    assert len(found) == n_written, "a test of %s is not written like the others" % file
    return [name for kind, name in found if kind == "test" or not SANITIZED]


class Run:
    """A file's tests, to their end, and the daemon's end."""

    def __init__(self, file):
        installed = os.path.join(CLIENTS, "node_modules/.package-lock.json")  # npm writes it last
        assert os.path.exists(installed), "the clients are missing: `make deps` installs them"
        self.kind = file.rsplit("_", 1)[-1]
        settings = SETTINGS.get(self.kind, DEMO)
        self.daemon = Daemon({**settings, "port": 0}, real=settings is DEMO)
        environment = {"PATH": os.environ["PATH"], "LLAMA4D_URL": self.daemon.url,
                       "LLAMA4D_PID": str(self.daemon.process.pid), "LLAMA4D_SANITIZED": "1" if SANITIZED else ""}
        try:
            done = subprocess.run([*NODE, file + ".test.mjs"], cwd=CLIENTS, env=environment,
                                  stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT_S)
        except BaseException:
            self.daemon.kill()
            raise
        self.status, tap = done.returncode, done.stdout.decode("utf-8", "replace")
        self.output = tap + done.stderr.decode("utf-8", "replace")
        self.said = {}  # by test: nothing if it passed, else what the runner says of the failure
        for ok, name, details in re.findall(r"^(ok|not ok) \d+ - (.*)\n((?: .*\n)*)", tap, re.M):
            self.said[name] = "" if ok == "ok" else details or ok
        self.bad_end = None
        try:
            self.daemon.stop()
        except AssertionError as error:
            self.bad_end = error


@functools.lru_cache(maxsize=None)
def run_once(file):
    try:
        return Run(file), None
    except Exception as error:
        return None, error


def run(file):
    """The only run of a file; every test of it fails where there was none."""
    done, error = run_once(file)
    if error is not None:
        raise error
    return done


@pytest.mark.parametrize("file, name", [(file, name) for file in FILES for name in cases(file)])
def test_case(file, name):
    said = run(file).said
    assert name in said, "did not run:\n" + run(file).output
    if said[name]:
        pytest.fail(said[name], pytrace=False)


@pytest.mark.parametrize("file", FILES)
def test_end(file):
    done = run(file)
    assert sorted(done.said) == sorted(cases(file)), done.output
    assert (done.status == 0) != any(done.said.values()), done.output
    if done.bad_end is not None:
        raise done.bad_end
    for pattern in LOGGED.get(done.kind, []):
        done.daemon.wait_log(pattern)
