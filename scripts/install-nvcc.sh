#!/usr/bin/env bash
# Installs nvcc from PyPI into .venv/nvcc, and prints its path: for a machine without the CUDA toolkit.
#
#   NVCC=$(scripts/install-nvcc.sh) cargo build --release
#
# Needs Python 3, and a C++ compiler for nvcc to work with. Safe to run again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/nvcc/bin/python
if ! "$python" -m pip --version >/dev/null 2>&1; then
    python3 -m venv --clear .venv/nvcc >&2 || {
        echo "python3 -m venv failed: on Debian and Ubuntu, install the package python3-venv" >&2
        exit 1
    }
fi
"$python" -m pip install --quiet --disable-pip-version-check \
    nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 \
    nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 >&2
packages=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
nvcc=$packages/nvidia/cu13/bin/nvcc
"$nvcc" --version >&2
echo "$nvcc"
