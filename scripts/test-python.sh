#!/usr/bin/env bash
# Builds the Python package's wheel, installs it into .venv/python and runs its tests: mypy, stubtest, pytest.
# Safe to run again. PYTHON names another interpreter than python3; more arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv/python
python=$venv/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
fi
"$python" -m pip install --quiet --disable-pip-version-check \
    'maturin>=1.9,<2' 'mypy>=1.18' 'numpy>=1.23' 'pytest>=8' tqdm typing_extensions

# Without GPUs and hardly optimized: to compile takes longer than these tests run.
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
"$python" -m maturin build --quiet --locked --profile dev --no-default-features \
    --config 'profile.dev.package.backstitch.opt-level=1' \
    --manifest-path bindings/python/Cargo.toml --interpreter "$python" --out "$wheels"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$wheels"/*.whl

cd bindings/python
python=../../$python
"$python" -m mypy --config-file pyproject.toml -m backstitch -m backstitch.__main__ -m backstitch.hooks
"$python" -m mypy.stubtest --mypy-config-file pyproject.toml backstitch._backstitch
"$python" -m pytest --quiet "$@"
