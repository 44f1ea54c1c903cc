#!/usr/bin/env bash
# Tests the Python package with what it is used with: PyTorch, attack libraries, exporters, Ray. They are gigabytes
# (PyPI's PyTorch for x86 brings CUDA libraries along), so scripts/test.sh does without. Installs them into
# .venv/clients, with the wheel that WHEEL names or else one that is built here. More arguments go to pytest. Safe
# to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${CLIENTS_VENV:-.venv/clients}
python=$venv/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    "${PYTHON:-python3}" -m venv --clear "$venv"
fi
install=("$python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" numpy torch torchvision timm transformers onnx onnxscript scipy requests tqdm mlflow-skinny wandb tensorboard \
    'maturin>=1.9,<2' 'mypy>=1.18' 'pytest>=8' typing_extensions \
    'foolbox==3.3.4' 'adversarial-robustness-toolbox==1.20.*' 'ray[data]'
# torchattacks asks for a version of requests that is years old, and runs with others.
"${install[@]}" --no-deps 'torchattacks==3.5.1' 'pyautoattack==0.2.0'

if [ -z "${WHEEL:-}" ]; then
    wheels=$(mktemp -d)
    trap 'rm -rf "$wheels"' EXIT
    "$python" -m maturin build --quiet --locked --profile dev --no-default-features \
        --config 'profile.dev.package.backstitch.opt-level=1' \
        --manifest-path bindings/python/Cargo.toml --interpreter "$python" --out "$wheels"
    WHEEL=$(echo "$wheels"/*.whl)
fi
"${install[@]}" --no-deps --force-reinstall "$WHEEL"

cd bindings/python
python=$(cd ../.. && realpath --no-symlinks "$python")
"$python" -m mypy --config-file pyproject.toml -p backstitch
# The libraries warn of each other.
"$python" -m pytest --quiet -rA -W default tests/clients "$@"
