#!/usr/bin/env bash
# Tests and measures the cuda backend on this machine's GPUs: every test, the same under
# compute-sanitizer's four tools, then the benchmark. Part of the bundle that scripts/gpu-bundle.sh
# makes; needs no Rust and no network.
#
#   ./run.sh [CLASSIFIER.onnx]
#
# Unpacks bin.tar.gz, writes results.json and log.txt into $OUT, or beside itself, and exits with 1 if
# anything failed.
# Where the time is short:
#   TOOL_SECONDS=90   seconds for each of compute-sanitizer's tools; tests that are left then do not run
#   TEST_SECONDS=120  seconds for each test; under a tool, a test that takes longer counts as not run
#   JOBS=4            tests at a time under a tool
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
classifier=${1:+$(realpath "$1")}
out=$(realpath "${OUT:-$here}")
tool_seconds=${TOOL_SECONDS:-90} test_seconds=${TEST_SECONDS:-120} jobs=${JOBS:-4}
# Tests find their data relative to here.
cd "$here"
[ -d bin ] || tar -xzf bin.tar.gz

if ! gpus=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null) ||
    [ -z "$gpus" ]; then
    echo "no GPU: nvidia-smi is missing or shows none" >&2
    exit 1
fi
# Tests that find no GPU fail.
export BACKSTITCH_TEST_GPU=require
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$out/log.txt
: >"$log"
failed=false

# A string as JSON has it.
quote() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# Joins lines with commas.
commas() { paste -s -d , -; }

# The tests that use GPUs, as lines of a binary and a test's name.
tests() {
    local binary
    for binary in unit golden_dip; do
        "bin/$binary" --list --format terse | sed -n "s/^\(.*\): test\$/$binary \1/p"
    done | grep -e '^unit backend::cuda::' -e '^golden_dip .*cuda' | grep -v ' backend::cuda::kernels::report::'
}

# Runs a test, on its own, so that one that breaks the GPU's context breaks no other, and leaves its name,
# result and seconds in a file: ok, FAILED, slow where the time is over, or unused where a tool saw no use
# of a GPU.
run_test() { # file, seconds, binary, name, command before it...
    local file=$1 seconds=$2 binary=$3 name=$4 start=$EPOCHREALTIME status=0 result
    shift 4
    timeout --kill-after=10 "$seconds" "$@" "bin/$binary" --exact "$name" --test-threads=1 \
        >"$file.log" 2>&1 || status=$?
    # A name that matches no test is no success.
    if [ "$status" = 0 ] && grep -q '^test result: ok. 1 passed' "$file.log"; then
        result=ok
    elif grep -q '^test result: ok. 1 passed' "$file.log" &&
        grep -q 'terminated before first instrumented API call' "$file.log"; then
        result=unused
    elif [ "$status" = 124 ] || [ "$status" = 137 ]; then
        result=slow
    else
        result=FAILED
    fi
    local micros=$((${EPOCHREALTIME/./} - ${start/./}))
    printf '%s %s %d.%03d\n' "$name" "$result" $((micros / 1000000)) $((micros / 1000 % 1000)) >"$file"
}

# Runs all tests, so many at a time, until the time is over, under a command or none.
run_tests() { # name, jobs, seconds for all, command before each...
    local folder=$work/$1 at_once=$2 end=$((SECONDS + $3)) binary name left number=1000
    shift 3
    mkdir "$folder"
    while read -r binary name; do
        number=$((number + 1))
        left=$((end - SECONDS))
        if [ "$left" -le 0 ]; then
            echo "$name not-run 0.000" >"$folder/$number"
            continue
        fi
        while [ "$(jobs -rp | wc -l)" -ge "$at_once" ]; do
            wait -n || true
        done
        run_test "$folder/$number" "$((left < test_seconds ? left : test_seconds))" "$binary" "$name" "$@" \
            </dev/null &
    done <"$work/list"
    wait
    local result
    for result in "$folder"/????; do
        if ! grep -q -e ' ok ' -e ' unused ' "$result"; then
            printf '\n== %s: %s\n' "${folder##*/}" "$(cat "$result")"
            [ ! -e "$result.log" ] || cat "$result.log"
        fi
    done >>"$log"
}

# Tests of a run with a result.
count() { # run, result
    cat "$work/$1"/???? | grep -c " $2 " || true
}

# A run's tests as JSON.
results() {
    local name result seconds
    cat "$work/$1"/???? | while read -r name result seconds; do
        printf '{"test":%s,"result":"%s","seconds":%s}\n' "$(quote "$name")" "$result" "$seconds"
    done | commas
}

row() { printf '%-12s %s\n' "$1" "$2"; }

tests >"$work/list" || true
total=$(wc -l <"$work/list")
if [ "$total" = 0 ]; then
    echo "no tests found: do the programs in $here/bin start here?" >&2
    exit 1
fi
commit=$(cat COMMIT)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
while IFS= read -r gpu; do
    row device "${gpu%, *}, driver ${gpu##*, }"
done <<<"$gpus"
row commit "$commit"

run_tests tests 1 86400
passed=$(count tests ok)
[ "$passed" = "$total" ] || failed=true
row tests "$passed of $total passed"
grep -hv " ok " "$work"/tests/???? | sed 's/^/             /' || true

sanitizer=$(command -v compute-sanitizer || true)
if [ -z "$sanitizer" ] && [ -x /usr/local/cuda/bin/compute-sanitizer ]; then
    sanitizer=/usr/local/cuda/bin/compute-sanitizer
fi
: >"$work/sanitizers"
for tool in memcheck racecheck initcheck synccheck; do
    if [ -z "$sanitizer" ]; then
        row "$tool" "NOT RUN: no compute-sanitizer in PATH or /usr/local/cuda/bin"
        printf '{"tool":"%s","result":"missing"}\n' "$tool" >>"$work/sanitizers"
        continue
    fi
    options=(--tool "$tool" --error-exitcode 86)
    # Tests of errors provoke some from the driver.
    [ "$tool" != memcheck ] || options+=(--report-api-errors no)
    run_tests "$tool" "$jobs" "$tool_seconds" "$sanitizer" "${options[@]}"
    passed=$(count "$tool" ok)
    bad=$(count "$tool" FAILED)
    using=$((total - $(count "$tool" unused)))
    result=ok
    [ "$passed" = "$using" ] || result=partial
    # A tool under which nothing finished on a GPU has shown nothing.
    if [ "$bad" != 0 ] || [ "$passed" = 0 ]; then
        result=FAILED
        failed=true
    fi
    row "$tool" "$passed of $using passed, $bad failed, $((using - passed - bad)) not finished in time"
    cat "$work/$tool"/???? | grep ' FAILED ' | sed 's/^/             /' || true
    printf '{"tool":"%s","result":"%s","tests":[%s]}\n' "$tool" "$result" "$(results "$tool")" \
        >>"$work/sanitizers"
done

# Runs the benchmark with more options, and adds its object to a file.
benchmark() {
    if bin/backstitch bench --device cuda --json "$@" >"$work/benchmark" 2>"$work/benchmark.log" &&
        [[ $(<"$work/benchmark") == \{*\} ]]; then
        cat "$work/benchmark" >>"$work/benchmarks"
        row benchmark "$*"
        # The innermost objects: a preset's figures each, and the classifier's.
        grep -o '{[^{}]*}' "$work/benchmark" | tr -d '{}"' | sed 's/^/             /'
    else
        failed=true
        row benchmark "FAILED: $(tail -n 1 "$work/benchmark.log")"
        { printf '\n== benchmark\n'; cat "$work/benchmark.log"; } >>"$log"
    fi
}
: >"$work/benchmarks"
benchmark ${classifier:+--classifier "$classifier"}
# One picture's networks do not fill a GPU.
benchmark --preset tiles --instances 8192
benchmark --preset cifar --instances 2048

verdict=ok
[ "$failed" = false ] || verdict=FAILED
devices=$(while IFS= read -r gpu; do
    printf '{"name":%s,"driver":%s}\n' "$(quote "${gpu%, *}")" "$(quote "${gpu##*, }")"
done <<<"$gpus" | commas)
printf '{"result":"%s","date":"%s","commit":%s,"devices":[%s],"tests":[%s],"sanitizers":[%s],"benchmarks":[%s]}\n' \
    "$verdict" "$date" "$(quote "$commit")" "$devices" "$(results tests)" "$(commas <"$work/sanitizers")" \
    "$(commas <"$work/benchmarks")" >"$out/results.json"
row results "$out/results.json: $verdict"
[ "$failed" = false ]
