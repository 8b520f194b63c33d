"""llama4d quantize: its arguments, its words, and that nothing is left behind; then the file is served."""

import os
import resource
import signal
import subprocess

import pytest

from conftest import BUILD, PATIENCE_S, ROOT, SANITIZED, wait_until

DEMO = "tests/models/demo"
USAGE = "usage: llama4d quantize [--force] [--threads N] SRC OUT.gguf TYPE\n  TYPE is one of q8_0, q4_0, q4_k, bf16, f16, f32\n"


@pytest.mark.parametrize("args, words", [
    ((), USAGE),
    ((DEMO, "out.gguf"), USAGE),
    ((DEMO, "out.gguf", "q8_0", "more"), USAGE),
    ((DEMO, "out.gguf", "q8_1"), 'llama4d: unknown type "q8_1"\n' + USAGE),
    (("--fast", DEMO, "out.gguf", "q8_0"), 'llama4d: unknown option "--fast"\n' + USAGE),
    (("--threads", "two", DEMO, "out.gguf", "q8_0"), '--threads "two": allowed is a whole number from 0 to 1024\n'),
    (("--threads", "1025", DEMO, "out.gguf", "q8_0"), '--threads "1025": allowed is a whole number from 0 to 1024\n'),
])
def test_wrong_arguments(run, args, words):
    status, out, err = run("quantize", *args)
    assert (status, out) == (2, "") and words in err


@pytest.mark.parametrize("source, target, words", [
    ("tests/models/none", "out.gguf", "tests/models/none"),
    (DEMO, "none/out.gguf", "none/out.gguf: its directory does not exist"),
    (DEMO, "out.bin", "out.bin: the name of the file to write must end in .gguf"),
    ("tests/fixtures/scout", "out.gguf", "attention_chunk_size is 16: a GGUF file cannot say so"),
])
def test_what_cannot_be_written(run, tmp_path, source, target, words):
    status, out, err = run("quantize", source, tmp_path / target, "q8_0")
    assert (status, out) == (1, "")
    assert err.startswith("llama4d: quantize: ") and words in err and err.count("\n") == 1
    assert os.listdir(tmp_path) == []


def test_force(run, tmp_path):
    path = tmp_path / "out.gguf"
    path.write_text("precious")
    status, _, err = run("quantize", DEMO, path, "q8_0")
    assert status == 1 and "out.gguf: is there already and is not overwritten" in err
    assert path.read_text() == "precious"
    status, out, err = run("quantize", "--force", "--threads", "2", DEMO, path, "q8_0")
    assert (status, err) == (0, "")
    assert out == "%s: q8_0, 91 tensors, 21.0 MiB of weights in a file of 11.3 MiB\n" % path
    status, out, err = run("quantize", path, tmp_path / "again.gguf", "q4_0")
    assert status == 0 and "tensors were quantised before, to another type" in out
    status, _, err = run("quantize", "--force", path, path, "q4_0")
    assert status == 1 and "out.gguf: is the source itself" in err


def test_no_room(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run([os.path.join(BUILD, "llama4d"), "quantize", DEMO, str(tmp_path / "out.gguf"), "q8_0"], cwd=ROOT,
                          capture_output=True, preexec_fn=limit, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert b"out.gguf: cannot reserve 11815872 bytes: File too large" in done.stderr
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path, number):
    # a source of many tensors in the slowest type, held up by the signal as soon as the file is begun
    process = subprocess.Popen([os.path.join(BUILD, "llama4d"), "quantize", "--threads", "1", DEMO,
                                str(tmp_path / "out.gguf"), "q4_k"], cwd=ROOT, stderr=subprocess.PIPE)
    wait_until(lambda: os.listdir(tmp_path), "a file that is begun")
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    if process.returncode == 0:  # it was done before the signal came
        assert os.listdir(tmp_path) == ["out.gguf"]
    else:
        assert process.returncode == 1 and b"llama4d: quantize: stopped" in err
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"] if SANITIZED else ["q8_0", "q4_0", "q4_k"])
def test_it_is_served(run, tmp_path, start, kind):
    path = tmp_path / ("demo-%s.gguf" % kind)
    status, _, err = run("quantize", DEMO, path, kind)
    assert (status, err) == (0, "")
    daemon = start(real=True, model=path)
    answer = daemon.post("/v1/chat/completions", {
        "messages": [{"role": "user", "content": "What is the capital of France?"}], "temperature": 0}).json()
    assert answer["choices"][0]["message"]["content"] == "The capital of France is Paris."
    assert answer["model"] == "demo-%s" % kind
