#!/usr/bin/env bash
# What kernels, engine and server reach on this machine.  BUILD names the build directory, MODEL the checkpoint that is
# served.  TYPE, SHAPE and LAYERS say what make_model writes for `llama4d bench`, BENCH_FLAGS how that is run.
set -eu
cd "$(dirname "$0")/../.."
BUILD=${BUILD:-build} MODEL=${MODEL:-tests/models/demo}

echo "== kernels: own beside OpenBLAS"
"$BUILD/tests/kernels/test_kernels" --bench

echo "== llama4d bench on a generated file"
generated=$BUILD/bench/model.gguf
trap 'rm -f "$generated"' EXIT
"$BUILD/bench/make_model" "$generated" --type "${TYPE:-q4_0}" --shape "${SHAPE:-scout}" --layers "${LAYERS:-1}"
# shellcheck disable=SC2086
"$BUILD/llama4d" bench -m "$generated" -p 512 -n 32 -b 1,4,16 -t "$(nproc)" --experts all ${BENCH_FLAGS:--r 3} \
    --format json >"$BUILD/bench/bench.json"
rm -f "$generated"
/usr/bin/python3 tests/bench/report.py "$BUILD/bench/bench.json" "$BUILD/bench/report.md" "$BUILD/bench/report.svg"
cat "$BUILD/bench/report.md"
echo "(also in $BUILD/bench/report.md, with the plot in report.svg)"

echo "== attention: a decoded token, by context"
"$BUILD/bench/bench_attention" "$(nproc)"

echo "== token masks of grammars, 200,000 tokens: p50 is to be 50 us at most, p99 1 ms"
"$BUILD/bench/bench_grammar"

echo "== engine, and the server over HTTP: in turns, so that a slow moment hits both"
log=$(mktemp)
"$BUILD/llama4d" serve --model "$MODEL" --port 0 --threads "$(nproc)" --log-level info 2>"$log" &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null; rm -f "$log"' EXIT
for _ in $(seq 100); do
    grep -q ' ready ' "$log" && break
    sleep 0.1
done
url=$(sed -nE 's/.*listening on (http[^ ]+).*/\1/p' "$log")
ratios=
for _ in 1 2 3; do
    engine=$("$BUILD/bench/bench_engine" "$MODEL" "$(nproc)")
    echo "$engine"
    for streams in 1 16; do
        http=$("$BUILD/bench/load" --streams "$streams" --runs 9 --max-tokens 256 --prompt-words 12 "$url")
        echo "$http"
        ratios+="$(printf '%s\n%s\n' "$engine" "$http" | awk -v n="$streams" '
            $0 ~ "^decode, " n " stream" { match($0, /[0-9]+ tokens/); engine = substr($0, RSTART) + 0 }
            $0 ~ "^http, " n " stream" { match($0, /[0-9]+ tokens/); http = substr($0, RSTART) + 0 }
            END { print n, http / engine }')"$'\n'
    done
done
for streams in 1 16; do
    sort -g -k 2 <<<"$ratios" | awk -v n="$streams" '$1 == n { r[++k] = $2 }
        END { printf "over HTTP, %d stream(s): %.1f%% of the engine (median of %d, %.1f%% to %.1f%%)\n",
            n, 100 * r[int((k + 1) / 2)], k, 100 * r[1], 100 * r[k] }'
done
