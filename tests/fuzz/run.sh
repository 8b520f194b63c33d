#!/usr/bin/env bash
# Runs fuzz targets for FUZZ_SECONDS each, from the seeds in tests/fuzz/seeds/NAME where there are any; as many at a time
# as there are processors.
set -u
cd "$(dirname "$0")/../.." || exit 2
seconds=${FUZZ_SECONDS:-10}

fuzz() { # TARGET: leaves its log and its status
    local name=${1##*/fuzz_}
    local corpus=$BUILD/corpus/$name seeds=tests/fuzz/seeds/$name
    mkdir -p "$corpus"
    [ -d "$seeds" ] || seeds=
    # shellcheck disable=SC2086
    "$1" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=3072 -max_len=65536 \
        -artifact_prefix="$BUILD/found/$name-" -print_final_stats=1 "$corpus" $seeds >"$BUILD/found/$name.log" 2>&1
    echo $? >"$BUILD/found/$name.status"
}

passed=0 failed=0
mkdir -p "$BUILD/found"
rm -f "$BUILD"/found/*.status
for target in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do
        wait -n
    done
    fuzz "$target" &
done
wait
for target in "$@"; do
    name=${target##*/fuzz_} log=$BUILD/found/${target##*/fuzz_}.log
    if [ "$(cat "$BUILD/found/$name.status")" = 0 ]; then
        passed=$((passed + 1))
        echo "ok      $name: $(sed -nE 's/^stat::number_of_executed_units: *//p' "$log") runs"
    else
        failed=$((failed + 1))
        echo "FAILED  $name" && tail -n 40 "$log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
