"""`llama4d bench`: what it refuses, and that its figures are those that the checkpoint's shapes give.  How fast anything
is, is not tested."""

import json
import os
import struct
import subprocess

import pytest

from conftest import BUILD, ROOT

DEMO = os.path.join(ROOT, "tests", "models", "demo")
QUANTISED = os.path.join(ROOT, "tests", "models", "demo-Q4_0.gguf")
BACKENDS = ["auto", "batched_mm", "grouped_mm", "eager"]


def bench(*args, real=True):
    program = os.path.join(BUILD, "llama4d" if real else "llama4d-fake")
    done = subprocess.run([program, "bench", *map(str, args)], cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True,
                          text=True, timeout=600)
    assert "Sanitizer" not in done.stderr and "runtime error:" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def measured(*args):
    status, out, err = bench(*args, "--format", "json")
    assert status == 0 and "error" not in err, err
    return json.loads(out)


def config():
    with open(os.path.join(DEMO, "config.json")) as f:
        return json.load(f)


class Shapes:
    """The demo's work, counted from its configuration, from bytes(name) of its tensors, GGUF's names, and from the bytes
    of an element of the KV cache."""

    def __init__(self, tensor_bytes=None, kv_bytes=2):
        c = config()
        self.hidden, self.vocab, self.layers = c["hidden_size"], c["vocab_size"], c["num_hidden_layers"]
        self.n_moe, self.n_experts = len(c["moe_layers"]), c["num_local_experts"]
        q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
        h, ff, mlp = self.hidden, c["intermediate_size"], c["intermediate_size_mlp"]
        assert c["num_experts_per_tok"] == 1
        dense, experts = {"output": self.vocab * h}, {}
        for i in range(self.layers):
            dense.update({f"blk.{i}.attn_{name}": n * h for name, n in [("q", q), ("k", kv), ("v", kv), ("output", q)]})
            is_moe = i in c["moe_layers"]
            for name in "gate", "up", "down":
                dense[f"blk.{i}.ffn_{name}" + is_moe * "_shexp"] = h * (ff if is_moe else mlp)
                if is_moe:
                    experts[f"blk.{i}.ffn_{name}_exps"] = h * ff
            if is_moe:
                dense[f"blk.{i}.ffn_gate_inp"] = self.n_experts * h
        size = tensor_bytes or (lambda name: 2 * {"token_embd": self.vocab * h, **dense, **{
            name: self.n_experts * n for name, n in experts.items()}}[name])
        self.per_token = sum(dense.values()) - self.vocab * h + sum(experts.values())
        self.dense_bytes = sum(map(size, dense))
        self.experts_bytes = sum(size(name) / self.n_experts for name in experts)  # of one in every layer
        self.embedding_bytes = size("token_embd") / self.vocab
        self.kv_bytes = 2 * kv * kv_bytes

    def ops(self, n_tokens, n_logits):
        return 2 * (self.per_token * n_tokens + self.hidden * self.vocab * n_logits)

    def bytes(self, n_steps, n_tokens, distinct, kv_positions):
        """distinct: experts hit in a layer and step, the mean; kv_positions: seen by all steps and sequences."""
        return (n_steps * (self.dense_bytes + distinct * self.experts_bytes) + n_tokens * self.embedding_bytes +
                kv_positions * self.layers * self.kv_bytes)


def gguf_tensor_bytes(path):
    """bytes(name) of the tensors of a GGUF file, by where the next one begins."""
    with open(path, "rb") as f:
        data = f.read()
    at = 24
    n_tensors, n_metadata = struct.unpack_from("<QQ", data, 8)

    def number(form):
        nonlocal at
        value, = struct.unpack_from("<" + form, data, at)
        at += struct.calcsize("<" + form)
        return value

    def text():
        nonlocal at
        n = number("Q")
        at += n
        return data[at - n:at].decode("utf-8", "replace")

    def value(kind):
        if kind == 9:
            kind = number("I")
            return [value(kind) for _ in range(number("Q"))]
        return text() if kind == 8 else number("BbHhIif?"[kind] if kind < 8 else {10: "Q", 11: "q", 12: "d"}[kind])

    for _ in range(n_metadata):
        text()
        value(number("I"))
    starts = {}
    for _ in range(n_tensors):
        name = text()
        [number("Q") for _ in range(number("I"))]
        number("I")
        starts[number("Q")] = name.removesuffix(".weight")
    offsets = sorted(starts) + [len(data) - (at + 31) // 32 * 32]
    return {starts[a]: b - a for a, b in zip(offsets, offsets[1:])}.get


def check_row(report, row, shapes):
    limits, b = report["limits"], row["batch"]
    assert set(row) == {"test", "n_prompt", "n_gen", "batch", "experts", "tokens_per_s", "share_of_limit", "seconds", "ops",
                        "bytes", "distinct_experts"}
    peak = {"f32": "f32_flops_per_s", "bf16": "bf16_flops_per_s", "int8 per block": "int8_ops_per_s"}
    limit_s = row["ops"] / limits[peak[report["run"]["activations"]]]
    if row["test"] == "prefill":
        assert (row["n_prompt"], row["n_gen"], b) == (40, 0, 1)
        tokens = 40
        assert row["ops"] == shapes.ops(40, 1)
        expected = shapes.bytes(1, 40, row["distinct_experts"], 40)
    else:
        assert (row["n_prompt"], row["n_gen"]) == (0, 5)
        tokens = 5 * b
        assert row["ops"] == shapes.ops(tokens, tokens)
        expected = shapes.bytes(5, tokens, row["distinct_experts"], b * (1 + 2 + 3 + 4 + 5))
        limit_s = max(limit_s, row["bytes"] / limits["read_bytes_per_s"])
    assert row["bytes"] == pytest.approx(expected, rel=1e-9)
    assert row["tokens_per_s"] > 0 and row["seconds"] > 0
    assert row["tokens_per_s"] * row["seconds"] == pytest.approx(tokens, rel=1e-9)
    assert row["share_of_limit"] > 0 and row["share_of_limit"] == pytest.approx(limit_s / row["seconds"], rel=1e-9)
    assert 1 <= row["distinct_experts"] <= min(shapes.n_experts, b if row["test"] == "decode" else 40)
    if row["test"] == "decode" and b == 1:
        assert row["distinct_experts"] == 1


def test_every_backend_does_the_work_that_the_shapes_say():
    report = measured("-m", DEMO, "-p", 40, "-n", 5, "-b", "1,4", "-t", 2, "-r", 2, "--experts", "all")
    assert set(report["limits"]) == {"read_bytes_per_s", "int8_ops_per_s", "bf16_flops_per_s", "f32_flops_per_s"}
    assert all(value > 0 for value in report["limits"].values())
    run = report["run"]
    assert (run["model"], run["threads"], run["repeats"], run["quantization"]) == ("demo", 2, 2, "bf16")
    assert [(r["experts"], r["test"], r["batch"]) for r in report["results"]] == [
        (name, test, batch) for name in BACKENDS for test, batch in [("prefill", 1), ("decode", 1), ("decode", 4)]]
    for row, (low, high) in zip(report["results"], report["tokens_per_s_range"], strict=True):
        check_row(report, row, Shapes())
        assert low <= row["tokens_per_s"] * 1.0001 and row["tokens_per_s"] <= high * 1.0001
    same = lambda key: {tuple(r[key] for r in report["results"] if r["experts"] == name) for name in BACKENDS}
    assert len(same("bytes")) == len(same("ops")) == 1  # the same tokens for each of them
    table = report["experts_by_tokens"]
    assert [row["tokens"] for row in table] == [2 ** i for i in range(12)]
    for row in table:
        assert list(row["seconds"]) == BACKENDS and all(s > 0 for s in row["seconds"].values())


def test_independent_sequences_hit_different_experts():
    rows = measured("-m", DEMO, "-p", 0, "-n", 5, "-b", 16, "-r", 1)["results"]
    assert len(rows) == 1 and 2 < rows[0]["distinct_experts"] < 8


def test_quantised_weights_are_counted_in_their_own_bytes():
    report = measured("-m", QUANTISED, "-p", 40, "-n", 5, "-b", "2", "-r", 1, "--experts", "grouped_mm")
    assert [(r["experts"], r["test"]) for r in report["results"]] == [("grouped_mm", "prefill"), ("grouped_mm", "decode")]
    assert "experts_by_tokens" not in report and report["run"]["activations"] == "int8 per block"
    for row in report["results"]:
        check_row(report, row, Shapes(gguf_tensor_bytes(QUANTISED)))


@pytest.mark.parametrize("flags, activations", [((), "f32"), (("--activations", "bf16"), "bf16"),
                                                (("--activations", "bf16", "--gemm", "openblas"), "f32")])
def test_the_arithmetic_is_named_and_sets_the_limit(flags, activations):
    report = measured("-m", DEMO, "-p", 40, "-n", 5, "-r", 1, *flags)
    assert report["run"]["activations"] == activations
    for row in report["results"]:
        check_row(report, row, Shapes())


@pytest.mark.parametrize("kv_type, kv_bytes", [("f32", 4), ("bf16", 2), ("q8_0", 34 / 32)])
def test_the_cache_is_counted_in_its_own_bytes(kv_type, kv_bytes):
    for row in (report := measured("-m", DEMO, "-p", 40, "-n", 5, "-r", 1, "--kv-cache-type", kv_type))["results"]:
        check_row(report, row, Shapes(kv_bytes=kv_bytes))


def test_long_prompts_go_in_chunks():
    """As in the server: the weights are read once for each."""
    row = measured("-m", DEMO, "-p", 40, "-n", 0, "-r", 1, "--max-chunk-tokens", 16)["results"][0]
    shapes = Shapes()
    assert row["ops"] == shapes.ops(40, 1)
    assert row["bytes"] == pytest.approx(shapes.bytes(3, 40, row["distinct_experts"], 16 + 32 + 40), rel=1e-9)


def test_text():
    status, out, err = bench("-m", DEMO, "-p", 16, "-n", 2, "-t", 1, "-r", 1, "--experts=all", "--gemm", "openblas")
    assert (status, err) == (0, "")
    assert "demo: bf16, 11.0M parameters" in out and "1 threads" in out and "gemm openblas, activations f32" in out
    for words in "limit: memory read", "limit: int8 dot products", "prefill 16", "decode 2", "of limit", "eager":
        assert words in out
    assert out.splitlines()[-1].split()[0] == "2048"


def test_what_is_wrong_is_said():
    cases = [
        ([], "no model"),
        (["-m"], "--model needs a value"),
        (["-m", DEMO, "-p"], "-p needs a value"),
        (["-m", DEMO, "-p", "many"], '-p "many": allowed is a whole number from 0 to 1048576'),
        (["-m", DEMO, "-p", "-1"], '-p "-1": allowed'),
        (["-m", DEMO, "-n", "99999999999999999999"], '-n "99999999999999999999": allowed'),
        (["-m", DEMO, "-p", "0", "-n", "0"], "nothing to measure"),
        (["-m", DEMO, "-r", "0"], '-r "0": allowed is a whole number from 1'),
        (["-m", DEMO, "-b", "1,,4"], '-b "1,,4": allowed are up to 16 whole numbers from 1 to 1024, such as 1,4,16'),
        (["-m", DEMO, "-b", "1,4,"], '-b "1,4,"'),
        (["-m", DEMO, "-b", "0"], '-b "0"'),
        (["-m", DEMO, "-b", ",".join(["1"] * 17)], "up to 16"),
        (["-m", DEMO, "-t", "x"], '--threads "x": allowed is '),
        (["-m", DEMO, "--experts", "best"], '--experts "best": allowed is one of all, auto, batched_mm, grouped_mm, eager'),
        (["-m", DEMO, "--format", "xml"], '--format "xml": allowed is one of text, json'),
        (["-m", DEMO, "--prot", "1"], "unknown flag --prot"),
        (["-m", DEMO, "stray"], 'unexpected argument "stray"'),
    ]
    for args, words in cases:
        status, out, err = bench(*args)
        assert status == 2 and out == "" and words in err, (args, err)


def test_what_cannot_run_is_said():
    for args, words in [(["-m", "/nonexistent"], "/nonexistent"),
                        (["-m", DEMO, "-p", 10000, "-n", 0], "the model knows only 8192 positions"),
                        (["-m", "fake:"], "computes nothing")]:
        status, out, err = bench(*args, real="fake:" not in args)
        assert status == 1 and out == "" and err.startswith("llama4d bench: ") and words in err, err


def test_help():
    done = subprocess.run([os.path.join(BUILD, "llama4d"), "--help"], capture_output=True, text=True, check=True)
    assert "llama4d bench -m PATH" in done.stdout
