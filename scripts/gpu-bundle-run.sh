#!/usr/bin/env bash
# Tests and measures the cuda backend on this machine's GPUs, what tells most first: all tests in one process,
# benchmarks, then the tests that use most of the chip under compute-sanitizer, and Nsight Compute. Part of the
# bundle that scripts/gpu-bundle.sh makes; needs no Rust and no network.
#
#   ./run.sh [CLASSIFIER.onnx]
#
# Unpacks bin.tar.gz, writes results.json and log.txt into $OUT, or beside itself, anew after every stage, and exits
# with 1 if anything failed. Each stage ends when its seconds are over:
#   TESTS_SECONDS=180      all tests in one process; as long again for those that did not pass there, each alone
#   BENCHMARK_SECONDS=30   each benchmark
#   TOOL_SECONDS=60        each of compute-sanitizer's tools
#   NCU_SECONDS=60         Nsight Compute
#   TEST_SECONDS=60        a test alone; under a tool, one that takes longer counts as not run
#   JOBS=4                 tests at a time under a tool
set -euo pipefail
export LC_ALL=C
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
classifier=${1:+$(realpath "$1")}
out=$(realpath "${OUT:-$here}")
tests_seconds=${TESTS_SECONDS:-180} benchmark_seconds=${BENCHMARK_SECONDS:-30}
tool_seconds=${TOOL_SECONDS:-60} ncu_seconds=${NCU_SECONDS:-60}
test_seconds=${TEST_SECONDS:-60} jobs=${JOBS:-4}
# Tests find their data relative to here.
cd "$here"
# What is left of another bundle must not be tested in place of this one.
if [ -e bin.tar.gz ]; then
    rm -rf bin
    tar -xzf bin.tar.gz
fi

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
finished=false
for part in sanitizers benchmarks profiles; do
    : >"$work/$part"
done

# A string as JSON has it.
quote() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# Joins lines with commas.
commas() { paste -s -d , -; }

row() { printf '%-12s %s\n' "$1" "$2"; }

# A program on PATH or where the CUDA toolkit has it.
tool() {
    command -v "$1" || { [ -x "/usr/local/cuda/bin/$1" ] && echo "/usr/local/cuda/bin/$1"; } || true
}

# The options that choose a binary's tests that use GPUs.
chosen() {
    case $1 in
    unit) echo backend::cuda:: --skip backend::cuda::kernels::report:: ;;
    suite) echo golden_dip::cuda ;;
    esac
}

# Those tests, as lines of a binary and a test's name.
tests() {
    local binary options
    for binary in unit suite; do
        read -ra options <<<"$(chosen "$binary")"
        "bin/$binary" "${options[@]}" --list --format terse | sed -n "s/^\(.*\): test\$/$binary \1/p"
    done
}

# Runs a test on its own, so that one that breaks the GPU's context breaks no other, and leaves its name, result
# and seconds in a file: ok, FAILED, slow where the time is over, or unused where a tool saw no use of a GPU.
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

# Runs the tests of a list each on its own, so many at a time, until the time is over, under a command or none.
run_alone() { # name, list, jobs, seconds for all, command before each...
    local folder=$work/$1 list=$2 at_once=$3 end=$((SECONDS + $4)) binary name left number=1000
    shift 4
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
    done <"$list"
    wait
    local result
    for result in "$folder"/????; do
        [ -e "$result" ] || continue
        if ! grep -q -e ' ok ' -e ' unused ' "$result"; then
            printf '\n== %s: %s\n' "${folder##*/}" "$(cat "$result")"
            [ ! -e "$result.log" ] || cat "$result.log"
        fi
    done >>"$log"
}

# Runs all tests of each binary in one process, and each that did not pass there on its own.
run_together() {
    local end=$((SECONDS + tests_seconds)) binary name options
    : >"$work/left"
    : >"$work/together"
    for binary in unit suite; do
        read -ra options <<<"$(chosen "$binary")"
        timeout --kill-after=10 "$((end > SECONDS ? end - SECONDS : 1))" \
            "bin/$binary" "${options[@]}" --test-threads=1 >"$work/$binary.log" 2>&1 </dev/null || true
        sed -n 's/^test \(.*\) \.\.\. ok$/\1/p' "$work/$binary.log" >"$work/$binary.ok"
        while read -r name; do
            if grep -qxF -e "$name" "$work/$binary.ok"; then
                echo "$name ok" >>"$work/together"
            else
                echo "$binary $name" >>"$work/left"
            fi
        done < <(sed -n "s/^$binary //p" "$work/list")
        [ ! -s "$work/left" ] || { printf '\n== %s, all in one process\n' "$binary"; cat "$work/$binary.log"; } >>"$log"
    done
    run_alone alone "$work/left" 1 "$tests_seconds"
    cat "$work/together" "$work"/alone/???? 2>/dev/null >"$work/tests" || true
}

# Lines of a test's name and result, in a file, with a result.
count() { grep -c " $2\( \|\$\)" "$1" || true; }

# Those lines as JSON.
as_json() {
    local name result seconds
    while read -r name result seconds; do
        printf '{"test":%s,"result":"%s","seconds":%s}\n' "$(quote "$name")" "$result" "${seconds:-null}"
    done <"$1" | commas
}

# Writes what is known by now.
write_results() {
    local verdict=ok devices
    [ "$finished" = true ] || verdict=unfinished
    [ "$failed" = false ] || verdict=FAILED
    devices=$(while IFS= read -r gpu; do
        printf '{"name":%s,"driver":%s}\n' "$(quote "${gpu%, *}")" "$(quote "${gpu##*, }")"
    done <<<"$gpus" | commas)
    printf '{"result":"%s","date":"%s","commit":%s,"devices":[%s],"tests":[%s],"benchmarks":[%s],"sanitizers":[%s],"profiles":[%s]}\n' \
        "$verdict" "$date" "$(quote "$commit")" "$devices" "$(as_json "$work/tests")" \
        "$(commas <"$work/benchmarks")" "$(commas <"$work/sanitizers")" "$(commas <"$work/profiles")" \
        >"$out/results.json.new"
    mv "$out/results.json.new" "$out/results.json"
}

tests >"$work/list" || true
total=$(wc -l <"$work/list")
if [ "$total" = 0 ]; then
    echo "no tests found: do the programs in $here/bin start here?" >&2
    exit 1
fi
: >"$work/tests"
commit=$(cat COMMIT)
date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
while IFS= read -r gpu; do
    row device "${gpu%, *}, driver ${gpu##*, }"
done <<<"$gpus"
row commit "$commit"
write_results

run_together
passed=$(count "$work/tests" ok)
[ "$passed" = "$total" ] || failed=true
row tests "$passed of $total passed"
grep -v ' ok\( \|$\)' "$work/tests" | sed 's/^/             /' || true
[ ! -s "$work/left" ] || row "" "$(wc -l <"$work/left") ran alone, since they did not pass together"
write_results

# Runs the benchmark with more options, and adds its object and the kernels' profile to what is written.
benchmark() {
    if timeout --kill-after=10 "$benchmark_seconds" bin/backstitch bench --device cuda --json --seconds 1 \
        --profile "$work/profile.json" "$@" >"$work/benchmark" 2>"$work/benchmark.log" &&
        [[ $(<"$work/benchmark") == \{*\} ]]; then
        cat "$work/benchmark" >>"$work/benchmarks"
        row benchmark "$*"
        # The innermost objects: a preset's figures each, and the classifier's.
        grep -o '{[^{}]*}' "$work/benchmark" | tr -d '{}"' | sed 's/^/             /'
        # What --profile says of the kernels.
        { printf '\n== benchmark %s\n' "$*"; cat "$work/benchmark.log"; } >>"$log"
    else
        failed=true
        row benchmark "FAILED: $* $(tail -n 1 "$work/benchmark.log")"
        { printf '\n== benchmark %s\n' "$*"; cat "$work/benchmark.log"; } >>"$log"
    fi
    write_results
}
benchmark --preset tiles --instances 8192
benchmark --preset cifar --instances 2048
for precision in float32 bf16; do
    benchmark --preset skip --precision "$precision"
    benchmark --preset wide --precision "$precision"
done
[ -z "$classifier" ] || benchmark --preset tiles --instances 8192 --classifier "$classifier"

# The tests under compute-sanitizer: those of the kernels that divide their work most, first for memory and races.
grep -e resident -e tensor -e conv -e matmul "$work/list" >"$work/hardest" || true
sanitizer=$(tool compute-sanitizer)
for name in memcheck racecheck synccheck initcheck; do
    if [ -z "$sanitizer" ]; then
        row "$name" "NOT RUN: no compute-sanitizer in PATH or /usr/local/cuda/bin"
        printf '{"tool":"%s","result":"missing"}\n' "$name" >>"$work/sanitizers"
        continue
    fi
    options=(--tool "$name" --error-exitcode 86)
    # Tests of errors provoke some from the driver.
    [ "$name" != memcheck ] || options+=(--report-api-errors no)
    run_alone "$name" "$work/hardest" "$jobs" "$tool_seconds" "$sanitizer" "${options[@]}"
    cat "$work/$name"/???? >"$work/under" 2>/dev/null || true
    passed=$(count "$work/under" ok)
    bad=$(count "$work/under" FAILED)
    using=$(($(wc -l <"$work/hardest") - $(count "$work/under" unused)))
    result=ok
    [ "$passed" = "$using" ] || result=partial
    # A tool under which nothing finished on a GPU has shown nothing.
    if [ "$bad" != 0 ] || [ "$passed" = 0 ]; then
        result=FAILED
        failed=true
    fi
    row "$name" "$passed of $using passed, $bad failed, $((using - passed - bad)) not finished in time"
    grep ' FAILED ' "$work/under" | sed 's/^/             /' || true
    printf '{"tool":"%s","result":"%s","tests":[%s]}\n' "$name" "$result" "$(as_json "$work/under")" \
        >>"$work/sanitizers"
    write_results
done

# What Nsight Compute says of the kernels that take most of the time: how near each is to the chip's limits.
ncu=$(tool ncu)
if [ -z "$ncu" ]; then
    row ncu "NOT RUN: no ncu in PATH or /usr/local/cuda/bin"
else
    for options in "tiles 8192" "skip 64"; do
        read -r preset instances <<<"$options"
        if timeout --kill-after=10 "$ncu_seconds" "$ncu" --section SpeedOfLight --launch-count 40 --csv \
            bin/backstitch bench --device cuda --preset "$preset" --instances "$instances" --seconds 0 \
            >"$out/ncu-$preset.csv" 2>&1; then
            row ncu "ncu-$preset.csv"
            printf '{"preset":"%s","file":"ncu-%s.csv"}\n' "$preset" "$preset" >>"$work/profiles"
        else
            # Counters are closed to users on many machines: nothing of ours has failed.
            row ncu "nothing for $preset: $(tail -n 1 "$out/ncu-$preset.csv")"
        fi
    done
fi

finished=true
write_results
verdict=ok
[ "$failed" = false ] || verdict=FAILED
row results "$out/results.json: $verdict"
[ "$failed" = false ]
