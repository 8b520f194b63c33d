"""GET /metrics, read the way Prometheus reads it."""

import re
import shutil
import subprocess
import threading

import pytest
from conftest import wait_until
from prometheus_client.parser import text_string_to_metric_families

PATH = "/v1/completions"
DEMO = "tests/models/demo"
SHORT = {"prompt": "a", "max_tokens": 5}
HISTOGRAMS = ["queue_wait_seconds", "time_to_first_token_seconds", "inter_token_seconds", "loop_lag_seconds"]
COUNTERS = ["prompt_tokens", "generated_tokens", "cached_prompt_tokens", "steps", "preemptions", "http_requests",
            "experts_layers", "expert_tokens", "prefix_cache_lookups", "prefix_cache_hits", "prefix_cache_evicted_pages"]
GAUGES = ["build_info", "model_info", "threads", "sequences_running", "sequences_waiting", "kv_pages", "kv_pages_used",
          "kv_pages_cached"]


class Metrics:
    """One reading: families by name without the prefix, samples by name and labels."""

    def __init__(self, daemon, **request):
        response = daemon.get("/metrics", **request)
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        self.text = response.content.decode("utf-8")
        self.families, self.samples = {}, {}
        for family in text_string_to_metric_families(self.text):
            assert family.name.startswith("llama4d_") and family.documentation
            assert family.name not in self.families, "a family in two pieces: " + family.name
            self.families[family.name[len("llama4d_"):]] = family
            for sample in family.samples:
                key = (sample.name[len("llama4d_"):], tuple(sorted(sample.labels.items())))
                assert key not in self.samples, "twice: %s %s" % key
                self.samples[key] = sample.value

    def get(self, name, **labels):
        return self.samples.get((name, tuple(sorted(labels.items()))), 0)

    def sum(self, name, **labels):
        return sum(v for (n, have), v in self.samples.items() if n == name and set(labels.items()) <= set(have))

    def requests(self, path, status, method="POST"):
        return self.get("http_requests_total", method=method, route=path, status=str(status))


def check_histograms(metrics):
    """Every histogram counts up to its +Inf, which is its count."""
    n = 0
    for family in metrics.families.values():
        if family.type != "histogram":
            continue
        series = {}
        for s in family.samples:
            labels = {k: v for k, v in s.labels.items() if k != "le"}
            one = series.setdefault(tuple(sorted(labels.items())), {"le": []})
            if s.name.endswith("_bucket"):
                one["le"].append((float(s.labels["le"]), s.value))
            else:
                one[s.name[len(family.name):]] = s.value
        for one in series.values():
            n += 1
            bounds, counts = zip(*one["le"])
            assert list(bounds) == sorted(set(bounds)) and bounds[-1] == float("inf")
            assert list(counts) == sorted(counts) and counts[-1] == one["_count"]
            assert one["_sum"] >= 0 and (one["_sum"] == 0) >= (one["_count"] == 0)
    return n


def test_every_family_is_there(start):
    daemon = start(model=DEMO, real=True)
    assert daemon.post(PATH, SHORT).status_code == 200
    metrics = Metrics(daemon)
    wanted = {name: "histogram" for name in HISTOGRAMS + ["http_request_duration_seconds"]}
    wanted.update({name: "counter" for name in COUNTERS})
    wanted.update({name: "gauge" for name in GAUGES})
    assert {name: family.type for name, family in metrics.families.items()} == wanted
    assert check_histograms(metrics) >= len(HISTOGRAMS) + 8
    promtool = shutil.which("promtool")
    if promtool is not None:  # it complains about names, helps and types on its standard error
        done = subprocess.run([promtool, "check", "metrics"], input=metrics.text.encode(), capture_output=True)
        assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_tokens_and_times(start):
    """Three answers of the real engine: what went in and came out is counted once, and timed as often."""
    daemon = start(model=DEMO, real=True)
    before = Metrics(daemon)
    for name in ("prompt_tokens_total", "generated_tokens_total", "queue_wait_seconds_count"):
        assert before.get(name) == 0
    n_prompt = n_generated = 0
    for prompt in "Once upon a time", "The cat", "x":
        usage = daemon.post(PATH, {"prompt": prompt, "max_tokens": 7, "ignore_eos": True, "n": 2}).json()["usage"]
        n_prompt += 2 * usage["prompt_tokens"]
        n_generated += usage["completion_tokens"]
    after = Metrics(daemon)
    assert n_generated == 42
    assert after.get("prompt_tokens_total") == n_prompt and after.get("generated_tokens_total") == n_generated
    assert after.get("queue_wait_seconds_count") == 6
    assert after.get("time_to_first_token_seconds_count") == 6
    assert after.get("inter_token_seconds_count") == 36
    total = after.get("http_request_duration_seconds_sum", method="POST", route=PATH)
    assert after.get("http_request_duration_seconds_count", method="POST", route=PATH) == 3
    assert 0 < after.get("time_to_first_token_seconds_sum") < 2 * total
    assert after.get("loop_lag_seconds_count") > before.get("loop_lag_seconds_count")
    assert after.get("sequences_running") == after.get("sequences_waiting") == after.get("kv_pages_used") == 0
    assert after.get("kv_pages") > 0 and after.get("steps_total") >= 21
    assert after.get("http_requests_total", method="GET", route="/metrics", status="200") == 1


def test_prefix_cache(start):
    """The same long prompt twice: the second one hits, and its cached tokens are those of its usage."""
    daemon = start(model=DEMO, real=True)
    body = {"prompt": "Once upon a time there was a cat. " * 20, "max_tokens": 1}
    cached = [daemon.post(PATH, body).json()["usage"]["prompt_tokens_details"]["cached_tokens"] for _ in range(2)]
    metrics = Metrics(daemon)
    assert cached[0] == 0 < cached[1] == metrics.get("cached_prompt_tokens_total")
    assert metrics.get("prefix_cache_lookups_total") == 2 and metrics.get("prefix_cache_hits_total") == 1
    assert metrics.get("kv_pages_cached") > 0 == metrics.get("prefix_cache_evicted_pages_total")


@pytest.mark.parametrize("backend", ["auto", "eager", "batched_mm", "grouped_mm"])
def test_experts(start, backend):
    """Each token goes to one expert a layer; the layer of a step that only wants its last row's logits takes fewer."""
    daemon = start(model=DEMO, real=True, experts_implementation=backend)
    assert daemon.post(PATH, {"prompt": "Once upon a time", "max_tokens": 4, "ignore_eos": True}).status_code == 200
    metrics = Metrics(daemon)
    assert metrics.sum("model_info", experts_implementation=backend, model="demo", quantization="bf16") == 1
    layers = {dict(labels)["layer"] for name, labels in metrics.samples if name == "expert_tokens_total"}
    n_computed = metrics.get("prompt_tokens_total") + 3  # the last token is not computed on
    assert len(layers) > 1
    tokens = {layer: metrics.sum("expert_tokens_total", layer=layer) for layer in layers}
    last = str(max(map(int, layers)))
    assert {n for layer, n in tokens.items() if layer != last} == {n_computed}
    assert tokens[last] in (4, n_computed)
    assert metrics.sum("experts_layers_total") == 4 * len(layers)
    by_name = {dict(labels)["backend"]: v for (name, labels), v in metrics.samples.items() if name == "experts_layers_total"}
    assert set(by_name) == {"batched_mm", "grouped_mm", "eager"}
    if backend == "auto":
        assert by_name["batched_mm"] >= 3 * len(layers) and by_name["eager"] == 0
    else:
        assert by_name[backend] == 4 * len(layers)


def test_requests_by_route_and_status(start):
    daemon = start(model="fake:delay_ms=5", max_running=1, max_queue=0, log_level="debug")
    assert daemon.post(PATH, SHORT).status_code == 200
    assert daemon.post(PATH, {"prompt": 1}).status_code == 400
    assert daemon.get("/v1/models/no").status_code == 404
    assert daemon.get("/nothing/of/this/name").status_code == 404
    assert daemon.get(PATH).status_code == 405
    assert daemon.get("/health").status_code == 200
    with daemon.connect() as c:
        c.request("POST", PATH, dict(SHORT, max_tokens=30000, ignore_eos=True))
        daemon.wait_log("- submitted", count=2)
        assert daemon.post(PATH, SHORT).status_code == 429
        wait_until(lambda: Metrics(daemon).get("sequences_running") == 1, "a running sequence")
        c.close()
    metrics = wait_until(lambda: (m := Metrics(daemon)).requests(PATH, 499) and m, "a client that went away")
    for path, status, method in ((PATH, 200, "POST"), (PATH, 400, "POST"), (PATH, 429, "POST"), (PATH, 499, "POST"),
                                 ("/v1/models/*", 404, "GET"), ("/health", 200, "GET"), ("other", 404, "other"),
                                 ("other", 405, "other")):
        assert metrics.requests(path, status, method) == 1, (path, status)
    assert "nothing" not in metrics.text
    check_histograms(metrics)


def test_waiting_sequences(start):
    daemon = start(model="fake:delay_ms=20", max_running=1, log_level="debug")
    answers = [threading.Thread(target=daemon.post, args=(PATH, dict(SHORT, max_tokens=60))) for _ in range(3)]
    for t in answers:
        t.start()
    daemon.wait_log("- submitted", count=3)
    metrics = wait_until(lambda: (m := Metrics(daemon)).get("sequences_waiting") == 2 and m, "a queue")
    assert metrics.get("sequences_running") == 1
    for t in answers:
        t.join()


def test_streams_are_measured(start):
    daemon = start(model="fake:tokens=5,delay_ms=5")
    response = daemon.post(PATH, dict(SHORT, max_tokens=50, stream=True))
    assert response.text.count("data: {") >= 5
    metrics = wait_until(lambda: (m := Metrics(daemon)).requests(PATH, 200) and m, "the end of the stream")
    assert metrics.get("time_to_first_token_seconds_count") == 1
    assert metrics.get("inter_token_seconds_count") == 5  # five tokens and the one that ends them
    spans = metrics.get("time_to_first_token_seconds_sum") + metrics.get("inter_token_seconds_sum")
    assert 0 < spans <= metrics.get("http_request_duration_seconds_sum", method="POST", route=PATH)


def test_while_loading(start):
    daemon = start(model="fake:load_ms=1500", wait_ready=False)
    metrics = Metrics(daemon)
    assert metrics.get("build_info", version="0.1.0", compiler=re.search(r'compiler="([^"]*)"', metrics.text).group(1)) == 1
    assert "model_info" not in metrics.families and "kv_pages" not in metrics.families
    daemon.wait_log(" ready model=")
    assert "model_info" in Metrics(daemon).families


@pytest.mark.parametrize("name,label", [
    ('a"b\\nc\\', 'a"b\\nc\\'), ("two\nlines", "two\nlines"), ("\u00e9\u4e16", "\u00e9\u4e16"), (b"bad\xff\xc3", "bad??"), ("{x=1}", "{x=1}"),
])
def test_model_names_are_quoted(start, name, label):
    daemon = start(model_name=name if isinstance(name, str) else name.decode("utf-8", "surrogateescape"))
    assert Metrics(daemon).sum("model_info", model=label) == 1


def test_probes_leave_no_log_line(start):
    daemon = start()
    daemon.get("/metrics")
    daemon.get("/v1/models")
    daemon.wait_log("request method=GET path=\"/v1/models\"")
    assert "/metrics" not in daemon.log()
