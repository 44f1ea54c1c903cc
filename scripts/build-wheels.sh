#!/usr/bin/env bash
# Builds what goes to PyPI into dist/, and tests it: a wheel for x86-64 or ARM Linux with glibc 2.17 (manylinux2014)
# or newer and Python 3.10 or newer, with the GPUs' kernels inside, and a source distribution. The wheel needs no
# CUDA: the driver is looked for when a GPU is asked for.
#
#   scripts/build-wheels.sh [--without-kernels] [PYTHON ...]
#
# Tests the wheel with every PYTHON, or else with those of python3.10 to python3.13 that are in PATH or in pyenv, each
# in a fresh virtual environment with numpy alone; then builds the source distribution with Rust alone. Takes some
# minutes, for everything is compiled twice. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\n== %s\n' "$*"; }

if [ "${1:-}" = --without-kernels ]; then
    shift
    export BACKSTITCH_CUDA=off
    compiler=
else
    NVCC=${NVCC:-$(scripts/install-nvcc.sh)}
    export NVCC BACKSTITCH_CUDA=require
    compiler=$("$NVCC" --version | sed -n 's/.*, V//p')
fi
interpreters=("$@")
if [ ${#interpreters[@]} = 0 ]; then
    for minor in 10 11 12 13; do
        found=$(command -v "python3.$minor" || true)
        # pyenv's shims are there for versions that are not chosen, too.
        if ! "${found:-false}" --version >/dev/null 2>&1; then
            found=$(printf '%s\n' "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python | tail -1)
        fi
        if "$found" --version >/dev/null 2>&1; then
            interpreters+=("$found")
        else
            echo "Python 3.$minor is not here, and not tested"
        fi
    done
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
venv=.venv/wheels
if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear "$venv"
fi
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check 'maturin>=1.9,<2' ziglang

say "The wheel and the source distribution"
mkdir -p dist
rm -f dist/backstitch-*
# Zig brings the old glibc that the wheel is linked with.
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/maturin" build --release --locked --zig --compatibility manylinux2014 \
    --manifest-path bindings/python/Cargo.toml --out dist
"$venv/bin/maturin" sdist --manifest-path bindings/python/Cargo.toml --out dist
wheel=$(echo dist/*.whl)
"$venv/bin/python" - "$wheel" "$compiler" <<'EOF'
import sys, zipfile
wheel = zipfile.ZipFile(sys.argv[1])
program = b"".join(wheel.read(name) for name in wheel.namelist() if name.endswith(".so"))
if sys.argv[2].encode() not in program:
    sys.exit(f"{sys.argv[1]} does not say that nvcc {sys.argv[2]} made its kernels")
EOF

test_wheel() { # PYTHON WHEEL
    "$1" -m venv --clear "$scratch/venv"
    local python=$scratch/venv/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check "$2" numpy
    "$scratch/venv/bin/backstitch" --version
    "$python" -c 'import time; start = time.perf_counter(); import backstitch; print(
        f"imported with numpy in {time.perf_counter() - start:.2f} s")'
    "$python" -m pip install --quiet --disable-pip-version-check 'pytest>=8'
    (cd bindings/python && "$python" -m pytest --quiet -p no:cacheprovider)
}

for interpreter in "${interpreters[@]}"; do
    say "$wheel with $("$interpreter" --version)"
    test_wheel "$interpreter" "$wheel"
done

say "The source distribution, with Rust alone"
env BACKSTITCH_CUDA=off CARGO_TARGET_DIR=target/sdist "$venv/bin/python" -m pip wheel --quiet --disable-pip-version-check \
    --no-deps --wheel-dir "$scratch" dist/*.tar.gz
test_wheel "${interpreters[-1]}" "$(echo "$scratch"/*.whl)"

say "Built and tested"
ls -l dist
