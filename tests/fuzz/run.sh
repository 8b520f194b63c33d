#!/usr/bin/env bash
# Runs fuzz targets for FUZZ_SECONDS each, from the seeds in tests/fuzz/seeds/NAME where there are any.
set -u
cd "$(dirname "$0")/../.." || exit 2
passed=0 failed=0
for target in "$@"; do
    name=${target##*/fuzz_}
    corpus=$BUILD/corpus/$name found=$BUILD/found/$name-
    mkdir -p "$corpus" "$BUILD/found"
    seeds=tests/fuzz/seeds/$name
    [ -d "$seeds" ] || seeds=
    # shellcheck disable=SC2086
    if "$target" -max_total_time="${FUZZ_SECONDS:-10}" -timeout=10 -rss_limit_mb=3072 -max_len=65536 \
        -artifact_prefix="$found" -print_final_stats=1 "$corpus" $seeds >"$BUILD/fuzz.log" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $name: $(sed -nE 's/^stat::number_of_executed_units: *//p' "$BUILD/fuzz.log") runs"
    else
        failed=$((failed + 1))
        echo "FAILED  $name" && tail -n 40 "$BUILD/fuzz.log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
