#!/usr/bin/env bash
# What kernels, engine and server reach on this machine.  BUILD names the build directory, MODEL the checkpoint.
set -eu
cd "$(dirname "$0")/../.."
BUILD=${BUILD:-build} MODEL=${MODEL:-tests/models/demo}

echo "== kernels: own beside OpenBLAS"
"$BUILD/tests/kernels/test_kernels" --bench

echo "== engine"
"$BUILD/bench/bench_engine" "$MODEL"

echo "== server, over HTTP"
log=$(mktemp)
"$BUILD/llama4d" serve --model "$MODEL" --port 0 --threads "$(nproc)" --log-level info 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -f "$log"' EXIT
for _ in $(seq 100); do
    grep -q ' ready ' "$log" && break
    sleep 0.1
done
url=$(sed -nE 's/.*listening on (http[^ ]+).*/\1/p' "$log")
for streams in 1 16; do
    for _ in 1 2 3; do
        "$BUILD/bench/load" --streams "$streams" --requests $((streams * 4)) --max-tokens 256 "$url"
    done
done
