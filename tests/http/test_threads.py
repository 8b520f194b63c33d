"""The engine's threads as the system sees them: how many, where they may run, and that they sleep when there is nothing
to do."""

import os
import re
import time

PATH = "/v1/completions"
DEMO = "tests/models/demo"


def affinities(daemon):
    """The processors that each thread may use, the main thread's first."""
    pid = daemon.process.pid
    tasks = sorted(map(int, os.listdir("/proc/%d/task" % pid)), key=lambda task: task != pid)
    return [os.sched_getaffinity(task) for task in tasks]


def answer(daemon):
    response = daemon.post(PATH, {"prompt": "Once upon a time", "max_tokens": 5, "temperature": 0})
    assert response.status_code == 200 and response.json()["usage"]["completion_tokens"] == 5


def test_log_says_what_there_is(start):
    daemon = start(model=DEMO, real=True)
    line = daemon.wait_log(r" (\d+) threads?; (\d+) physical cores \((\d+) hardware threads\) allowed, CPU quota "
                           r"(none|[0-9.]+ processors), (\d+) NUMA nodes?$")
    threads, cores, allowed = map(int, line.group(1, 2, 3))
    assert 1 <= threads <= cores <= allowed == len(os.sched_getaffinity(0))
    assert daemon.get("/v1/models").json()["data"][0]["threads"] == threads
    assert len(re.findall("NUMA|numa", daemon.log())) == 1


def test_auto_follows_the_mask(start):
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(mine)})
    try:
        daemon = start(model=DEMO, real=True, threads="auto", pin_threads="on")
    finally:
        os.sched_setaffinity(0, mine)
    assert daemon.get("/v1/models").json()["data"][0]["threads"] == 1
    answer(daemon)
    assert all(mask == {max(mine)} for mask in affinities(daemon))


def test_pinned(start):
    mine = os.sched_getaffinity(0)
    n = min(len(mine), 2)
    daemon = start(model=DEMO, real=True, threads=n, pin_threads="on", numa="interleave")
    answer(daemon)
    masks = affinities(daemon)
    assert masks[0] == mine  # the loop may run anywhere
    pinned = [mask for mask in masks if len(mask) == 1 and (len(mine) > 1)]
    assert len(mine) == 1 or (len(pinned) == n and len(set().union(*pinned)) == n), masks
    assert all(mask <= mine for mask in masks)


def test_more_threads_than_places(start):
    n = len(os.sched_getaffinity(0))
    daemon = start(model=DEMO, real=True, threads=n + 1, pin_threads="on", wait_ready=False)
    assert daemon.wait_exit() == 1
    assert ("threads is %d, but pin_threads has only %d hardware threads to put them on" % (n + 1, n)) in daemon.log()


def ticks(daemon):
    """User and system time of all threads, in clock ticks."""
    with open("/proc/%d/stat" % daemon.process.pid) as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_idle_daemon_uses_no_cpu(start):
    """Whether anything spins or polls: a thread that does takes 200 ticks in these two seconds."""
    daemon = start(model=DEMO, real=True, threads=2)
    answer(daemon)
    time.sleep(0.5)
    before = ticks(daemon)
    time.sleep(2)
    assert ticks(daemon) - before <= 10
