#!/usr/bin/env bash
# Runs tests and counts them.  Usage: run.sh STAGE ...   BUILD names the build directory.
#   unit     every program of tests/unit          kernels  every variant against the reference
#   arm64    the kernel tests cross-built, under qemu
#   golden   the reference outputs, under every backend and kernel variant
#   http     black-box tests of a running daemon
# The last line is "N passed, N failed"; the exit status is 0 if none failed and some passed.
set -u
cd "$(dirname "$0")/.." || exit 2
BUILD=${BUILD:-build}
export LLAMA4D_BUILD=$BUILD ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1} \
    TSAN_OPTIONS=${TSAN_OPTIONS:-allocator_may_return_null=1} UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
log=$BUILD/test.log
passed=0 failed=0

check() { # NAME COMMAND...: one check; its output is shown only if it fails
    local name=$1
    shift
    if "$@" >"$log" 2>&1; then
        passed=$((passed + 1))
    else
        echo "FAILED  $name (exit status $?)" && tail -n 60 "$log"
        failed=$((failed + 1))
    fi
}

refuse() { # NAME COMMAND...: one check, of a check: the command must exit with 1, the status of a mismatch
    local name=$1
    shift
    check "$name is noticed" sh -c '"$@"; [ $? = 1 ]' sh "$@"
}

count() { # NAME COMMAND...: a runner that counts its own tests; a crash is one failure
    local name=$1 start=$SECONDS status
    shift
    "$@" >"$log" 2>&1
    status=$?
    add_up "$name, $((SECONDS - start)) s" $status "$log"
}

add_up() { # NAME STATUS LOG
    local name=$1 status=$2 log=$3 ok bad
    # cmocka: "[  PASSED  ] 3 test(s)."   pytest: "3 passed, 1 failed, 2 errors in 4s"   ours: "3 passed, 0 failed"
    ok=$(sed -nE 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p; s/^(=+ |.*, )?([0-9]+) passed.*/\2/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
    bad=$(sed -nE 's/^\[  FAILED  \] [a-z_]+: ([0-9]+) test.*/\1/p; s/^\[  FAILED  \] ([0-9]+) test.*/\1/p; s/^(=+ |.*, )?([0-9]+) failed.*/\2/p' "$log" |
        awk '{ n += $1 } END { print n + 0 }')
    if [ "$status" != 0 ] || [ "$ok" = 0 ]; then
        [ "$bad" != 0 ] || bad=1
        echo "FAILED  $name (exit status $status)" && grep -vE '^\[ (RUN|      OK)' "$log" | tail -n 80
    fi
    echo "$ok passed, $bad failed: $name"
    passed=$((passed + ok)) failed=$((failed + bad))
}

stage_unit() {
    for program in "$BUILD"/tests/unit/*/test_*; do
        count "${program#"$BUILD"/}" "$program"
    done
}

stage_kernels() {
    local program
    for program in test_kernels test_packed test_kv test_limits; do
        count "$program, native" "$BUILD/tests/kernels/$program"
    done
}

stage_arm64() {
    local program
    for program in test_kernels test_packed test_kv test_limits; do
        count "$program, arm64 under qemu" qemu-aarch64 "$BUILD/arm64/$program" --quick
    done
}

# Files that `llama4d quantize` writes of the demo model: how near to the original's perplexity, 1.272925, they are, and
# how near integer products are to float32 ones on the same weights.
golden_quantize() {
    local quantize="$BUILD/llama4d quantize --force" type file dequantised
    # shellcheck disable=SC2086
    for type in q8_0:0.002 q4_0:0.01 q4_k:0.05; do
        file=$BUILD/demo-${type%:*}.gguf dequantised=$BUILD/demo-${type%:*}-F32.gguf
        check "quantize, ${type%:*}" $quantize "$models/demo" "$file" "${type%:*}"
        check "quantize, ${type%:*} back to f32" $quantize "$file" "$dequantised" f32
        check "golden text, ${type%:*}" "$golden" text "$file" "$fixtures/demo.golden.json"
        for cpu in $("$golden" variants | grep -v ref); do # the reference takes half a minute for each
            L4_CPU=$cpu check "golden generate, $cpu, ${type%:*}, beside the original" "$golden" generate \
                --perplexity 1.272925 --tolerance "${type#*:}" "$file" "$fixtures/demo.golden.json"
            L4_CPU=$cpu check "golden generate, $cpu, ${type%:*}, beside float32" "$golden" generate \
                --like "$dequantised" --tolerance 0.001 "$file" "$fixtures/demo.golden.json"
        done
    done
    # another engine's files, to all digits that are known of exact arithmetic on them
    # shellcheck disable=SC2086
    for file in demo-Q4_0:1.27340 demo-Q4_K_M:1.27356; do
        dequantised=$BUILD/${file%:*}-F32.gguf
        check "quantize, ${file%:*} to f32" $quantize "$models/${file%:*}.gguf" "$dequantised" f32
        check "golden generate, ${file%:*} to f32" "$golden" generate --perplexity "${file#*:}" "$dequantised" "$fixtures/demo.golden.json"
    done
}

stage_golden() {
    local golden=$BUILD/golden models=tests/models fixtures=tests/fixtures dirs
    dirs=$(for d in scout maverick interp top2 multimodal; do echo "$fixtures/$d"; done)
    check "the reference among the variants" sh -c '"$1" variants | grep -qx ref' sh "$golden"
    for cpu in $("$golden" variants); do
        export L4_CPU=$cpu
        # shellcheck disable=SC2086
        check "golden model, $cpu, every backend" "$golden" model --experts all $dirs
        # shellcheck disable=SC2086
        check "golden model, $cpu, openblas" "$golden" model --gemm openblas $dirs
        check "golden experts, $cpu" "$golden" experts --experts all "$fixtures/experts.safetensors"
        check "golden generate, $cpu, every backend" "$golden" generate --experts all "$models/demo" "$fixtures/demo.golden.json"
        check "golden generate, $cpu, openblas" "$golden" generate --gemm openblas "$models/demo" "$fixtures/demo.golden.json"
        check "golden generate, $cpu, bf16 activations" "$golden" generate --activations bf16 --logprobs 0.02 "$models/demo" "$fixtures/demo.golden.json"
        # largest error a token of any document that was seen: 7e-6, 1.0e-4, 1.5e-4; perplexity equal to 4 digits
        check "golden generate, $cpu, KV cache f16" "$golden" generate --kv-cache-type f16 --nll-tolerance 2e-5 "$models/demo" "$fixtures/demo.golden.json"
        check "golden generate, $cpu, KV cache bf16" "$golden" generate --kv-cache-type bf16 --nll-tolerance 2e-4 "$models/demo" "$fixtures/demo.golden.json"
        check "golden generate, $cpu, KV cache q8_0" "$golden" generate --kv-cache-type q8_0 --nll-tolerance 3e-4 "$models/demo" "$fixtures/demo.golden.json"
        check "golden sampler, $cpu" "$golden" sampler "$fixtures/samplers"
        # integer products: within 0.1% of exact arithmetic on the dequantised weights
        check "golden generate, $cpu, Q4_0" "$golden" generate --perplexity 1.27340 --tolerance 1e-3 "$models/demo-Q4_0.gguf" "$fixtures/demo.golden.json"
        check "golden generate, $cpu, Q4_K_M" "$golden" generate --perplexity 1.27356 --tolerance 1e-3 "$models/demo-Q4_K_M.gguf" "$fixtures/demo.golden.json"
    done
    unset L4_CPU
    golden_quantize
    check "golden text" "$golden" text "$models/demo" "$fixtures/demo.golden.json"
    check "golden pretokenize" "$golden" pretokenize "$fixtures/pretokenize.json"
    check "golden gguf-types" "$golden" gguf-types "$fixtures/gguf_types"
    check "golden text, GGUF" "$golden" text "$models/demo-Q4_K_M.gguf" "$fixtures/demo.golden.json"
    check "golden generate, Q4_0, every backend" "$golden" generate --experts all --perplexity 1.27340 --tolerance 1e-3 "$models/demo-Q4_0.gguf" "$fixtures/demo.golden.json"
    check "golden generate, Q4_K_M, openblas" "$golden" generate --gemm openblas --perplexity 1.27356 --tolerance 1e-3 "$models/demo-Q4_K_M.gguf" "$fixtures/demo.golden.json"
    # the original's own bits under GGUF names: the answers are the original's
    check "a checkpoint as GGUF" /usr/bin/python3 tests/golden/hf_to_gguf.py "$models/demo" "$BUILD/demo-BF16.gguf"
    check "golden text, BF16 as GGUF" "$golden" text "$BUILD/demo-BF16.gguf" "$fixtures/demo.golden.json"
    check "golden generate, BF16 as GGUF, every backend" "$golden" generate --experts all "$BUILD/demo-BF16.gguf" "$fixtures/demo.golden.json"
    check "golden generate, BF16 as GGUF, bf16 activations, every backend" "$golden" generate --experts all --activations bf16 --logprobs 0.02 "$BUILD/demo-BF16.gguf" "$fixtures/demo.golden.json"

    local bad=$BUILD/spoiled spoil="/usr/bin/python3 tests/golden/spoil.py"
    for tensor in hidden_states.2 router_logits.1 top_k_index.0 top_k_weights.0 logits greedy_ids; do
        rm -rf "$bad" && cp -r "$fixtures/top2" "$bad"
        $spoil "$fixtures/top2/golden.safetensors" "$bad/golden.safetensors" "$tensor"
        refuse "a wrong $tensor" "$golden" model "$bad"
    done
    $spoil "$fixtures/experts.safetensors" "$bad/experts.safetensors" case3.output
    refuse "a wrong output of experts" "$golden" experts "$bad/experts.safetensors"
    cp "$fixtures/samplers.json" "$bad/" && $spoil "$fixtures/samplers.safetensors" "$bad/samplers.safetensors" case0.probs
    refuse "a wrong probability" "$golden" sampler "$bad/samplers"
    $spoil "$fixtures/pretokenize.json" "$bad/pretokenize.json" cases 0 pieces 0
    refuse "a wrong piece" "$golden" pretokenize "$bad/pretokenize.json"
    cp "$fixtures/gguf_types.gguf" "$bad/" && $spoil "$fixtures/gguf_types.safetensors" "$bad/gguf_types.safetensors" iq1_m
    refuse "a wrong value of a block type" "$golden" gguf-types "$bad/gguf_types"
    refuse "bf16 activations where f32 are expected" "$golden" generate --activations bf16 "$models/demo" "$fixtures/demo.golden.json"
    refuse "a KV cache that is too coarse" "$golden" generate --kv-cache-type q8_0 --nll-tolerance 2e-5 "$models/demo" "$fixtures/demo.golden.json"
    refuse "a wrong perplexity" "$golden" generate --perplexity 1.27342 "$BUILD/demo-Q4_0-F32.gguf" "$fixtures/demo.golden.json"
    refuse "another model's perplexity" "$golden" generate --like "$models/demo" --tolerance 1e-5 "$BUILD/demo-q4_k.gguf" "$fixtures/demo.golden.json"
    echo '{}' >"$bad/empty.json" # nothing to compare is no match
    refuse "a file without texts" "$golden" text "$models/demo" "$bad/empty.json"
    refuse "a file without answers" "$golden" generate "$models/demo" "$bad/empty.json"
    refuse "a file without pieces" "$golden" pretokenize "$bad/empty.json"
    for path in "texts 2 ids 0" "texts 2 decoded" "chats 0 text"; do
        # shellcheck disable=SC2086
        $spoil "$fixtures/demo.golden.json" "$bad/demo.json" $path
        refuse "a wrong $path" "$golden" text "$models/demo" "$bad/demo.json"
    done
    for path in "nll 3 nll" "greedy 0 ids 5" "greedy 0 text" "greedy 0 logprobs 4"; do
        # shellcheck disable=SC2086
        $spoil "$fixtures/demo.golden.json" "$bad/demo.json" $path
        refuse "a wrong $path" "$golden" generate "$models/demo" "$bad/demo.json"
    done
}

# Mostly waiting: goes on beside the other stages, two files at a time.
start_http() {
    # or else each of a thousand daemons loads OpenBLAS with threads that spin for a while
    OPENBLAS_NUM_THREADS=1 /usr/bin/python3 -m pytest -q -p no:cacheprovider -n 2 --dist loadfile tests/http >"$BUILD/http.log" 2>&1 &
    http=$!
}

stage_http() {
    wait "$http"
    add_up "http" $? "$BUILD/http.log"
}

[[ " $* " != *" http "* ]] || start_http
for stage in "$@"; do
    echo "== $stage"
    "stage_$stage"
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
